"""The compiled programs behind the driver: starting an algorithm, and a piece of its run.

They are compiled once for each algorithm, its settings, and the structure of the problem: data, bounds and
lengths are arguments.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from kinbayes.optimizers.base import Bounds, OptimizerFactory, OptimizerState
from kinbayes.samplers.base import SamplerFactory, SamplerState, StepInfo, Target

Settings = tuple[tuple[str, object], ...]


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


@partial(jax.jit, static_argnames=("factory", "settings", "num_warmup", "capacity"))
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

    Returns
    -------
    The new state, and the draws by name, (capacity, chains, ...) each, of which the first `length` rows are
    filled. Evaluations are counted over all steps of an iteration.
    """
    sampler = factory(target, num_warmup=num_warmup, **dict(settings))

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
        "info": info._asdict(),
    }


@partial(jax.jit, static_argnames=("factory", "settings"))
def start_optimizer(
    bounds: Bounds,
    key: Key[Array, ""],
    U: Float[Array, "n dim"],
    *,
    factory: OptimizerFactory,
    settings: Settings,
) -> OptimizerState:
    """Make an optimizer's first state."""
    return factory(bounds, **dict(settings)).init(key, U)


@partial(jax.jit, static_argnames=("factory", "settings", "capacity"))
def search(
    objective: Callable,
    bounds: Bounds,
    key: Key[Array, ""],
    state: OptimizerState,
    start: Int[Array, ""],
    length: Int[Array, ""],
    allowed: Int[Array, ""],
    *,
    factory: OptimizerFactory,
    settings: Settings,
    capacity: int,
) -> tuple[OptimizerState, Float[Array, " capacity"], Int[Array, ""], Int[Array, ""]]:
    """Ask, evaluate and tell, until every start has finished.

    Parameters
    ----------
    objective
        Candidates (n, dim) -> `Evaluation`.
    bounds
        Walls of the search.
    key
        The run's random key; each iteration folds its index into it.
    state
        The optimizer's state.
    start
        Index of the first iteration.
    length, allowed
        Largest numbers of iterations, at most `capacity`, and of evaluations.
    factory, settings
        The optimizer and its settings.
    capacity
        Number of losses to make room for.

    Returns
    -------
    The new state, the lowest loss after each iteration (capacity,), and the numbers of iterations and
    evaluations done.
    """
    optimizer = factory(bounds, **dict(settings))
    num_candidates = jax.eval_shape(optimizer.ask, key, state).shape[0]

    def goes_on(carry):
        i, state, _ = carry
        return (i < length) & ((i + 1) * num_candidates <= allowed) & ~state.finished.all()

    def body(carry):
        i, state, losses = carry
        candidates = optimizer.ask(jax.random.fold_in(key, start + i), state)
        state = optimizer.tell(state, candidates, objective(candidates))
        return i + 1, state, losses.at[i].set(state.best_loss.min())

    done, state, losses = jax.lax.while_loop(goes_on, body, (jnp.array(0), state, jnp.zeros(capacity)))
    return state, losses, done, done * num_candidates
