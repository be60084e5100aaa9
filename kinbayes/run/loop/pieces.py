"""The compiled programs behind the driver: starting an algorithm, and a piece of its run.

They are compiled once for each algorithm, its settings, and the structure of the problem: data, bounds and
lengths are arguments.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from kinbayes.optimizers.base import Bounds, Evaluation, OptimizerFactory, OptimizerState
from kinbayes.samplers.base import SamplerFactory, SamplerState, StepInfo, Target, proposed_by, silent

Settings = tuple[tuple[str, object], ...]


class Evaluated(NamedTuple):
    """What some iterations of an optimizer evaluated.

    Attributes
    ----------
    position
        Candidates of every iteration and start; NaN of a start that had finished.
    loss
        Their losses.
    gradient
        Gradients of the loss, where the optimizer wants them.
    """

    position: Float[Array | np.ndarray, "capacity starts n dim"]
    loss: Float[Array | np.ndarray, "capacity starts n"]
    gradient: Float[Array | np.ndarray, "capacity starts n dim"] | None


class Rounds(NamedTuple):
    """What some iterations of an optimizer did.

    Attributes
    ----------
    losses
        Lowest loss of all starts after each iteration, of which the first `done` are filled.
    counts
        Number of evaluations that had been done by then, of those that `evaluations` counts.
    done, evaluations
        Numbers of iterations and of evaluations.
    evaluated
        What was evaluated, of which the first `done` are filled; None if it was not to be kept.
    """

    losses: Float[Array, " capacity"]
    counts: Int[Array, " capacity"]
    done: Int[Array, ""]
    evaluations: Int[Array, ""]
    evaluated: Evaluated | None = None


@partial(jax.jit, static_argnames=("factory", "settings", "num_warmup"))
def start_sampler(
    target: Target,
    key: Key[Array, ""],
    U: Float[Array, "chains dim"],
    *,
    factory: SamplerFactory,
    settings: Settings,
    num_warmup: int,
) -> SamplerState:
    """Make a sampler's first state."""
    return factory(target, num_warmup=num_warmup, **dict(settings)).init(key, U)


@partial(jax.jit, static_argnames=("factory", "settings", "num_warmup", "capacity", "keeps_evaluated"))
def sample(
    target: Target,
    key: Key[Array, ""],
    state: SamplerState,
    start: Int[Array, ""],
    length: Int[Array, ""],
    thin: Int[Array, ""],
    *,
    factory: SamplerFactory,
    settings: Settings,
    num_warmup: int,
    capacity: int,
    keeps_evaluated: bool = False,
) -> tuple[SamplerState, dict[str, PyTree]]:
    """Take iterations of several steps, each step followed by tuning while warmup lasts.

    Parameters
    ----------
    target
        The posterior.
    key
        The run's random key; each step folds its index into it.
    state
        The sampler's state.
    start
        Index of the first iteration, warmup included.
    length
        Number of iterations, at most `capacity`.
    thin
        Number of steps of an iteration, of which the last gives its draw.
    factory, settings, num_warmup
        The sampler, its settings, and the number of steps that tune it.
    capacity
        Number of rows to make room for.
    keeps_evaluated
        Whether `proposed` is among what is returned: the proposals of the last step of every iteration, None of a
        sampler that does not tell them. If not, nothing of them is computed.

    Returns
    -------
    The new state, and the draws by name, (capacity, chains, ...) each, of which the first `length` rows are
    filled. Evaluations are counted over all steps of an iteration.
    """
    sampler = factory(target, num_warmup=num_warmup, **dict(settings))
    sampler = sampler if keeps_evaluated else silent(sampler)

    def step(i, carry):
        state, draw = carry
        state, info = sampler.step(jax.random.fold_in(key, i), state)
        # One compiled program for both phases takes half the time to compile.
        state = jax.lax.cond(i < num_warmup, sampler.tune, lambda state, info: state, state, info)
        return state, _draw(state, info._replace(n_steps=info.n_steps + draw["info"]["n_steps"]))

    def body(i, carry):
        state, draws = carry
        first = (start + i) * thin
        state, draw = jax.lax.fori_loop(first, first + thin, step, (state, nothing))
        return state, jax.tree.map(lambda rows, row: rows.at[i].set(row), draws, draw)

    shapes = jax.eval_shape(lambda state: _draw(*sampler.step(key, state)), state)
    nothing = jax.tree.map(lambda row: jnp.zeros(row.shape, row.dtype), shapes)
    empty = jax.tree.map(lambda row: jnp.zeros((capacity, *row.shape), row.dtype), shapes)
    return jax.lax.fori_loop(0, length, body, (state, empty))


def _draw(state: SamplerState, info: StepInfo) -> dict[str, PyTree]:
    return {
        "position": state.position,
        "log_prior": state.log_prior,
        "log_likelihood": state.log_likelihood,
        "info": {name: values for name, values in info._asdict().items() if name != "proposed"},
        "proposed": proposed_by(info),
    }


@partial(jax.jit, static_argnames=("factory", "settings"))
def start_optimizer(
    bounds: Bounds,
    key: Key[Array, ""],
    U: Float[Array, "starts points dim"],
    *,
    factory: OptimizerFactory,
    settings: Settings,
) -> OptimizerState:
    """Make the first states of independent starts, stacked; bounds are (starts, dim)."""

    def start(own: Bounds, key: Key[Array, ""], points: Float[Array, "points dim"]) -> OptimizerState:
        return factory(own, **dict(settings)).init(key, points)

    state = jax.vmap(start)(bounds, each_start(key, len(U)), U)
    # Weak types would become strong in the first piece, and the second be compiled again.
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), state)


@partial(jax.jit, static_argnames=("factory", "settings", "capacity", "keeps_evaluated"))
def search(
    objective: Callable,
    bounds: Bounds,
    key: Key[Array, ""],
    state: OptimizerState,
    start: Int[Array, ""],
    length: Int[Array, ""],
    allowed: Int[Array, ""],
    target_loss: Float[Array, ""],
    *,
    factory: OptimizerFactory,
    settings: Settings,
    capacity: int,
    keeps_evaluated: bool = False,
) -> tuple[OptimizerState, Rounds]:
    """Ask, evaluate and tell, until every start has finished or one is good enough.

    Parameters
    ----------
    objective
        Candidates (n, dim) -> `Evaluation`.
    bounds
        Walls of every start, (starts, dim).
    key
        The run's random key; each start folds its place into it, and each iteration its index.
    state
        The states of all starts, stacked.
    start
        Index of the first iteration.
    length, allowed
        Largest numbers of iterations, at most `capacity`, and of evaluations.
    target_loss
        Loss that is good enough.
    factory, settings
        The optimizer and its settings.
    capacity
        Number of rows to make room for.
    keeps_evaluated
        Whether what was evaluated is returned.

    Returns
    -------
    The new states, and what the iterations did.
    """
    num_starts = len(bounds.lower)
    keys = each_start(key, num_starts)

    def ask(own: Bounds, state: OptimizerState) -> Float[Array, "n dim"]:
        return factory(own, **dict(settings)).ask(state)

    def tell(own: Bounds, key: Key[Array, ""], i, state: OptimizerState, evaluation: Evaluation) -> OptimizerState:
        return factory(own, **dict(settings)).tell(jax.random.fold_in(key, i), state, evaluation)

    num_candidates = jax.eval_shape(jax.vmap(ask), bounds, state).shape[1]

    def asked(state: OptimizerState) -> Int[Array, ""]:
        return num_candidates * jnp.sum(~state.finished)

    def goes_on(carry):
        state, rounds = carry
        is_affordable = rounds.evaluations + asked(state) <= allowed
        is_good = state.best_loss.min() <= target_loss
        return (rounds.done < length) & is_affordable & ~state.finished.all() & ~is_good

    def body(carry):
        state, (losses, counts, done, spent, kept) = carry
        # What a finished start asks for is not looked at: the engine gives up on NaN at once.
        candidates = jnp.where(state.finished[:, None, None], jnp.nan, jax.vmap(ask)(bounds, state))
        evaluation = objective(candidates.reshape(num_starts * num_candidates, -1))
        apart = jax.tree.map(lambda leaf: leaf.reshape(num_starts, num_candidates, *leaf.shape[1:]), evaluation)
        spent = spent + asked(state)
        state = jax.vmap(tell, in_axes=(0, 0, None, 0, 0))(bounds, keys, start + done, state, apart)
        if kept is not None:
            evaluated = Evaluated(candidates, apart.loss, apart.gradient)
            kept = jax.tree.map(lambda rows, row: rows.at[done].set(row), kept, evaluated)
        rows = losses.at[done].set(state.best_loss.min()), counts.at[done].set(spent)
        return state, Rounds(*rows, done + 1, spent, kept)

    def room() -> Evaluated:
        shape = (num_starts, num_candidates, bounds.lower.shape[1])
        found = jax.eval_shape(objective, jax.ShapeDtypeStruct((shape[0] * shape[1], shape[2]), float))
        gradient = None if found.gradient is None else jnp.zeros((capacity, *shape))
        return Evaluated(jnp.zeros((capacity, *shape)), jnp.zeros((capacity, *shape[:2])), gradient)

    kept = room() if keeps_evaluated else None
    nothing = Rounds(jnp.zeros(capacity), jnp.zeros(capacity, int), jnp.array(0), jnp.array(0), kept)
    return jax.lax.while_loop(goes_on, body, (state, nothing))


def best_members(
    bounds: Bounds, state: OptimizerState, *, factory: OptimizerFactory, settings: Settings, is_traceable: bool
) -> tuple[Float[Array | np.ndarray, "starts k dim"], Float[Array | np.ndarray, "starts k"]]:
    """Return of every start the points that a local search may begin at, and their losses."""
    if is_traceable:
        return _best_members(bounds, state, factory=factory, settings=settings)
    optimizer = factory(Bounds(bounds.lower[0], bounds.upper[0]), **dict(settings))
    found = [optimizer.members(jax.tree.map(lambda leaf, k=k: leaf[k], state)) for k in range(len(bounds.lower))]
    return tuple(np.stack(part) for part in zip(*found, strict=True))


@partial(jax.jit, static_argnames=("factory", "settings"))
def _best_members(bounds: Bounds, state: OptimizerState, *, factory: OptimizerFactory, settings: Settings) -> tuple:
    return jax.vmap(lambda own, state: factory(own, **dict(settings)).members(state))(bounds, state)


def each_start(key: Key[Array, ""], num_starts: int) -> Key[Array, " starts"]:
    """Return the key of every start, which does not depend on how many there are."""
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(num_starts))
