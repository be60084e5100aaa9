"""Samplers of one chain whose target changes from draw to draw, because other steppers move what it depends on."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from kinbayes.samplers.base import MetropolisState, SamplerFactory, Target, silent
from kinbayes.samplers.parallel_tempering import Info as LadderInfo
from kinbayes.samplers.parallel_tempering import State as Ladder
from kinbayes.samplers.parallel_tempering import parallel_tempering

Settings = tuple[tuple[str, object], ...]


class Kernel(NamedTuple):
    """Hold a sampler, and how it is told of a change.

    Attributes
    ----------
    init, step, tune
        As of a `Sampler`.
    moved
        (state, position (1, dim), is_tuning) -> state: where the chain is now, and all densities anew.
    """

    init: Callable
    step: Callable
    tune: Callable
    moved: Callable


def metropolis_kernel(
    factory: SamplerFactory, settings: Settings, num_warmup: int, target: Target, reference: Target
) -> Kernel:
    """Build the kernel of a sampler whose state is a `MetropolisState`; it needs no reference."""
    sampler = silent(factory(target, num_warmup=num_warmup, **dict(settings)))

    def moved(state: MetropolisState, position: Float[Array, "1 dim"], is_tuning: Bool[Array, ""]) -> MetropolisState:
        return MetropolisState(position, target.log_prior(position), target.log_likelihood(position), state.tuning)

    return Kernel(*sampler, moved)


# ---- tempering


class Info(NamedTuple):
    """Report one step: what the ladder tells, as it does, and the probability of the exchange with it."""

    acceptance_rate: Float[Array, " chains"]
    n_steps: Int[Array, " chains"]
    beta: Float[Array, "chains rungs"]
    rung_log_likelihood: Float[Array, "chains rungs"]
    swap_rate: Float[Array, "chains pairs"]
    round_trips: Int[Array, " chains"]
    proposed: None
    exchange_rate: Float[Array, " chains"]


def ladder_kernel(
    rungs: int, inner: SamplerFactory, settings: Settings, num_warmup: int, target: Target, reference: Target
) -> Kernel:
    """Build the kernel of parallel tempering of all that a density depends on: the ladder's top is the chain."""
    sampler = silent(
        parallel_tempering(target, num_warmup=num_warmup, rungs=rungs, inner=inner, inner_settings=settings)
    )

    def step(key: Key[Array, ""], ladder: Ladder) -> tuple[Ladder, Info]:
        ladder, info = sampler.step(key, ladder)
        return ladder, Info(*info, exchange_rate=jnp.ones(1))

    def tune(ladder: Ladder, info: Info) -> Ladder:
        return sampler.tune(ladder, _of_ladder(info))

    def moved(ladder: Ladder, position: Float[Array, "1 dim"], is_tuning: Bool[Array, ""]) -> Ladder:
        return _evaluated(target, ladder, position)

    return Kernel(sampler.init, step, tune, moved)


class State(NamedTuple):
    """Hold a walker, which is the chain, and a ladder beside it."""

    position: Float[Array, "chains dim"]
    log_prior: Float[Array, " chains"]
    log_likelihood: Float[Array, " chains"]
    tuning: PyTree
    ladder: Ladder
    info: NamedTuple  # of the walker's last step, which its tuning wants


def conditional_ladder_kernel(
    rungs: int, inner: SamplerFactory, settings: Settings, num_warmup: int, target: Target, reference: Target
) -> Kernel:
    """Build the kernel of parallel tempering of a density that depends on what other steppers move.

    A ladder whose rungs followed the other variables o would not be exact: o is moved in view of the chain alone, and
    the rungs keep positions that belong to what o was before. So the ladder stands at a fixed reference of o, which
    follows o only while tuning. Beside it a walker x, the chain, moves by the inner sampler, at the present o. After
    each step it may exchange places with a rung's position y, with the probability that leaves p(x | o) q(y)
    invariant, where q is the density of that rung: min(1, p(y | o) q(x) / (p(x | o) q(y))). The rung is the top one
    half of the time, else any other: where o has gone far from the reference, warmer rungs still reach there.
    """
    sampler = silent(inner(target, num_warmup=num_warmup, **dict(settings)))
    ladder_sampler = silent(
        parallel_tempering(reference, num_warmup=num_warmup, rungs=rungs, inner=inner, inner_settings=settings)
    )

    def walker_of(state: State) -> MetropolisState:
        return MetropolisState(*state[:4])

    def init(key: Key[Array, ""], U: Float[Array, "1 dim"]) -> State:
        walker_key, ladder_key = jax.random.split(key)
        walker = sampler.init(walker_key, U)
        info = jax.tree.map(jnp.zeros_like, jax.eval_shape(sampler.step, key, walker)[1])
        return State(*walker, ladder_sampler.init(ladder_key, U), info)

    def step(key: Key[Array, ""], state: State) -> tuple[State, Info]:
        walker_key, ladder_key, exchange_key = jax.random.split(key, 3)
        walker, info = sampler.step(walker_key, walker_of(state))
        ladder, ladder_info = ladder_sampler.step(ladder_key, state.ladder)
        walker, ladder, probability = exchanged(exchange_key, target, reference, walker, ladder)
        report = ladder_info._asdict() | {
            "acceptance_rate": info.acceptance_rate,
            "n_steps": info.n_steps + ladder_info.n_steps + 2,
            "exchange_rate": probability,
        }
        return State(*walker, ladder, info), Info(**report)

    def tune(state: State, info: Info) -> State:
        walker = sampler.tune(walker_of(state), state.info)
        return state._replace(tuning=walker.tuning, ladder=ladder_sampler.tune(state.ladder, _of_ladder(info)))

    def moved(state: State, position: Float[Array, "1 dim"], is_tuning: Bool[Array, ""]) -> State:
        ladder = jax.lax.cond(
            is_tuning,
            lambda ladder: _evaluated(reference, ladder, ladder.position),
            lambda ladder: ladder,
            state.ladder,
        )
        return state._replace(
            position=position,
            log_prior=target.log_prior(position),
            log_likelihood=target.log_likelihood(position),
            ladder=ladder,
        )

    return Kernel(init, step, tune, moved)


def exchanged(
    key: Key[Array, ""], target: Target, reference: Target, walker: MetropolisState, ladder: Ladder
) -> tuple[MetropolisState, Ladder, Float[Array, " 1"]]:
    """Exchange the walker and one of the ladder's positions, or not.

    Parameters
    ----------
    key
        Random key.
    target, reference
        The densities of the walker and of the ladder.
    walker, ladder
        One chain of each.

    Returns
    -------
    Walker, ladder, and the probability with which they would exchange.
    """
    top_key, rung_key, accept_key = jax.random.split(key, 3)
    top = len(ladder.tuning.beta) - 1
    rung = jnp.where(jax.random.bernoulli(top_key), top, jax.random.randint(rung_key, (), 0, top))
    there = MetropolisState(*(leaf[rung] for leaf in ladder.rungs[:3]), None)
    at_rung = reference._replace(beta=ladder.tuning.beta[rung])

    def evaluated(density: Target, state: MetropolisState) -> MetropolisState:
        at = state.position
        return MetropolisState(at, density.log_prior(at), density.log_likelihood(at), None)

    def log_density(density: Target, state: MetropolisState) -> Float[Array, " 1"]:
        return density.log_density(state.log_prior, state.log_likelihood)

    arriving, leaving = evaluated(target, there), evaluated(at_rung, walker)
    proposed = log_density(target, arriving) + log_density(at_rung, leaving)
    gain = proposed - log_density(target, walker) - log_density(at_rung, there)
    probability = jnp.where(proposed > -jnp.inf, jnp.exp(jnp.minimum(gain, 0.0)), 0.0)
    is_accepted = jax.random.uniform(accept_key, probability.shape) < probability

    def chosen(new: Array, old: Array) -> Array:
        return jnp.where(is_accepted.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    new_walker = walker._replace(**{name: chosen(getattr(arriving, name), getattr(walker, name)) for name in _PLACE})
    rungs = ladder.rungs._replace(
        **{
            name: getattr(ladder.rungs, name).at[rung].set(chosen(getattr(leaving, name), getattr(there, name)))
            for name in _PLACE
        }
    )
    return new_walker, _with_rungs(ladder, rungs), probability


def _of_ladder(info: Info) -> LadderInfo:
    return LadderInfo(*info[: len(LadderInfo._fields)])


_PLACE = ("position", "log_prior", "log_likelihood")


def _evaluated(target: Target, ladder: Ladder, top: Float[Array, "1 dim"]) -> Ladder:
    """Return a ladder with all densities anew, and another position on its top."""
    position = ladder.rungs.position.at[-1].set(top)
    flat = position.reshape(-1, position.shape[-1])
    log_prior, log_likelihood = (f(flat).reshape(position.shape[:2]) for f in (target.log_prior, target.log_likelihood))
    return _with_rungs(ladder, MetropolisState(position, log_prior, log_likelihood, ladder.rungs.tuning))


def _with_rungs(ladder: Ladder, rungs: MetropolisState) -> Ladder:
    return ladder._replace(rungs=rungs, **{name: getattr(rungs, name)[-1] for name in _PLACE})
