"""Parallel tempering: copies of a sampler between the prior and the posterior, which exchange places."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from kinbayes.samplers.adaptive_metropolis import adaptive_metropolis
from kinbayes.samplers.base import (
    Proposed,
    Sampler,
    SamplerFactory,
    SamplerState,
    StepInfo,
    Target,
    proposed_by,
    without_proposed,
)

ROUNDS = 7  # of the ladder's adaptation, each twice as long as the one before; the last ends in the middle of warmup


class Tuning(NamedTuple):
    """Hold the ladder, the tuning of the sampler on each rung, and what the ladder is learned from.

    `rejected` and `counted` add up rejection probabilities of the swaps of neighbours since the last change of the
    ladder, and their numbers.
    """

    beta: Float[Array, " rungs"]
    inner: PyTree
    rejected: Float[Array, " pairs"]
    counted: Int[Array, " pairs"]
    iteration: Int[Array, ""]


class State(NamedTuple):
    """Hold the posterior's rung, which are the chains, then all rungs.

    `rungs` is the inner sampler's state without its tuning, (rungs, chains, …), and `info` what its last step told,
    which its tuning wants. `is_descending` goes with the walkers: whether the one on a rung was on the posterior's more
    recently than on the prior's. `is_odd` says which pairs of neighbours are next.
    """

    position: Float[Array, "chains dim"]
    log_prior: Float[Array, " chains"]
    log_likelihood: Float[Array, " chains"]
    rungs: SamplerState
    info: StepInfo
    is_descending: Bool[Array, "rungs chains"]
    round_trips: Int[Array, " chains"]
    is_odd: Bool[Array, ""]
    tuning: Tuning


class Info(NamedTuple):
    """Report one step of every ladder.

    The acceptance rate is that of the posterior's rung, which is the last; the first is the prior's. `swap_rate` has
    the probability with which neighbours would exchange places, tried or not. `round_trips` counts, since the start,
    how often a walker came to the prior's rung from the posterior's. `n_steps` counts the evaluations of all
    rungs, and `proposed` has the proposals of all of them, if the inner sampler tells its own.
    """

    acceptance_rate: Float[Array, " chains"]
    n_steps: Int[Array, " chains"]
    beta: Float[Array, "chains rungs"]
    rung_log_likelihood: Float[Array, "chains rungs"]
    swap_rate: Float[Array, "chains pairs"]
    round_trips: Int[Array, " chains"]
    proposed: Proposed | None


def parallel_tempering(
    target: Target,
    *,
    num_warmup: int,
    rungs: int = 10,
    inner: SamplerFactory = adaptive_metropolis,
    inner_settings: tuple[tuple[str, object], ...] = (),
) -> Sampler:
    """Build a sampler of a ladder of targets, prior times likelihood to the power of beta, from beta 0 to 1.

    Every chain is a ladder by itself. On each rung a sampler of its own takes a step, all rungs and chains in one
    batch. Then neighbours exchange places, even and odd pairs in turn: this non-reversible scheme carries walkers from
    the prior to the posterior and back in a time that does not grow with the number of rungs. Warmup moves the rungs
    until all neighbours exchange equally often.

    Parameters
    ----------
    target
        The posterior.
    num_warmup
        Number of steps of the warmup: in its first half the ladder moves, in the second each rung tunes its sampler.
    rungs
        Number of rungs, at least 2; twice the sum of all rejection rates of swaps is a good one (Syed et al. 2022).
    inner
        The sampler of every rung; any but this one.
    inner_settings
        Its settings, as pairs of name and value.

    Returns
    -------
    The sampler.

    Raises
    ------
    ValueError
        If there are fewer than 2 rungs.

    References
    ----------
    Syed, Bouchard-Côté, Deligiannidis and Doucet (2022), Non-reversible parallel tempering: a scalable highly parallel
    MCMC scheme, doi:10.1111/rssb.12464.
    Xie, Lewis, Fan, Kuo and Chen (2011), Improving marginal likelihood estimation for Bayesian phylogenetic model
    selection, doi:10.1093/sysbio/syq085.
    """
    if rungs < 2:
        raise ValueError(f"rungs is {rungs}; tempering needs 2 at least: the prior and the posterior")
    ends = jnp.array([num_warmup // 2 ** (k + 1) for k in range(ROUNDS)])

    def on_rung(beta: Float[Array, ""]) -> Sampler:
        return inner(target._replace(beta=beta), num_warmup=num_warmup, **dict(inner_settings))

    @jax.vmap
    def on_rungs(key: Key[Array, ""], beta: Float[Array, ""], state: SamplerState) -> tuple[SamplerState, StepInfo]:
        return on_rung(beta).step(key, state)

    def state_of(walkers: tuple[SamplerState, Array], info: StepInfo, trips: Array, is_odd: Array, tuning: Tuning):
        rungs_state, is_descending = walkers
        position, log_prior, log_likelihood = (
            getattr(rungs_state, name)[-1] for name in ("position", "log_prior", "log_likelihood")
        )
        return State(position, log_prior, log_likelihood, rungs_state, info, is_descending, trips, is_odd, tuning)

    def init(key: Key[Array, ""], U: Float[Array, "chains dim"]) -> State:
        beta = _gathered(jnp.linspace(0.0, 1.0, rungs))
        keys = jax.random.split(key, rungs)
        started = jax.vmap(lambda key, beta: on_rung(beta).init(key, U))(keys, beta)
        info = jax.tree.map(jnp.zeros_like, without_proposed(jax.eval_shape(on_rungs, keys, beta, started)[1]))
        tuning = Tuning(beta, started.tuning, jnp.zeros(rungs - 1), jnp.zeros(rungs - 1, int), jnp.array(0))
        walkers = started._replace(tuning=None), jnp.zeros((rungs, len(U)), bool)
        return state_of(walkers, info, jnp.zeros(len(U), int), jnp.array(False), tuning)

    def step(key: Key[Array, ""], state: State) -> tuple[State, Info]:
        step_key, swap_key = jax.random.split(key)
        tuning = state.tuning
        keys, before = jax.random.split(step_key, rungs), state.rungs._replace(tuning=tuning.inner)
        stepped, info = on_rungs(keys, tuning.beta, before)
        probability = swap_probability(tuning.beta, stepped.log_likelihood)
        is_next = (jnp.arange(rungs - 1) % 2 == state.is_odd)[:, None]
        is_swapped = is_next & (jax.random.uniform(swap_key, probability.shape) < probability)
        places, walkers = _exchanged(is_swapped), (stepped._replace(tuning=None), state.is_descending)
        swapped, is_descending = jax.tree.map(lambda leaf: _permuted(leaf, places), walkers)
        trips = state.round_trips + is_descending[0]
        is_descending = is_descending.at[0].set(False).at[-1].set(True)
        report = Info(
            acceptance_rate=info.acceptance_rate[-1],
            n_steps=info.n_steps.sum(axis=0),
            beta=jnp.broadcast_to(tuning.beta, (probability.shape[1], rungs)),
            rung_log_likelihood=_or_failed(swapped.log_likelihood).T,
            swap_rate=probability.T,
            round_trips=trips,
            proposed=jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), proposed_by(info)),
        )
        # An inner sampler whose steps carry its adaptation has changed its tuning.
        tuning = tuning._replace(inner=stepped.tuning)
        return state_of((swapped, is_descending), without_proposed(info), trips, ~state.is_odd, tuning), report

    def tune(state: State, info: Info) -> State:
        tuning = state.tuning

        def inner_tuning(beta: Array, state: SamplerState, info: StepInfo) -> PyTree:
            return on_rung(beta).tune(state, info).tuning

        tuned = jax.vmap(inner_tuning)(tuning.beta, state.rungs._replace(tuning=tuning.inner), state.info)
        # A failed simulation refuses every swap, wherever the next rung is: it has no say in where that is to be.
        is_told = jnp.isfinite(info.rung_log_likelihood[:, 1:]) & jnp.isfinite(info.rung_log_likelihood[:, :-1])
        rejected = tuning.rejected + jnp.where(is_told, 1.0 - info.swap_rate, 0.0).sum(axis=0)
        counted = tuning.counted + is_told.sum(axis=0)
        iteration = tuning.iteration + 1
        is_end = (iteration == ends).any()
        beta = jnp.where(is_end, equalised(tuning.beta, (rejected + 0.5) / (counted + 1.0)), tuning.beta)
        rejected, counted = (jnp.where(is_end, 0, total) for total in (rejected, counted))
        return state._replace(tuning=Tuning(beta, tuned, rejected, counted, iteration))

    return Sampler(init, step, tune)


def swap_probability(
    beta: Float[Array, " rungs"], log_likelihood: Float[Array, "rungs chains"]
) -> Float[Array, "pairs chains"]:
    """Return the probability with which neighbours exchange places; 0 where both have failed.

    Parameters
    ----------
    beta
        Inverse temperatures, rising.
    log_likelihood
        Log likelihoods on the rungs; what is no likelihood (NaN or +inf) counts as a failure.
    """
    values = _or_failed(log_likelihood)
    gain = jnp.diff(beta)[:, None] * (values[:-1] - values[1:])
    return jnp.where(jnp.isnan(gain), 0.0, jnp.exp(jnp.minimum(gain, 0.0)))


def _or_failed(log_likelihood: Float[Array, "rungs chains"]) -> Float[Array, "rungs chains"]:
    return jnp.where(log_likelihood < jnp.inf, log_likelihood, -jnp.inf)


def equalised(beta: Float[Array, " rungs"], rejection: Float[Array, " pairs"]) -> Float[Array, " rungs"]:
    """Return the ladder between whose neighbours rejections would be equal.

    Rejections add up along the ladder to a barrier that hardly depends on the rungs (Syed et al. 2022, their schedule
    adaptation). Between the rungs it is taken as a straight line over `_spread` numbers.
    """
    barrier = jnp.concatenate([jnp.zeros(1), jnp.cumsum(rejection)])
    found = _gathered(jnp.interp(jnp.linspace(0.0, barrier[-1], len(beta)), barrier, _spread(beta)))
    return found.at[0].set(0.0).at[-1].set(1.0)


# Near the prior the barrier is steep in beta. A ladder that is even in these numbers has quantiles of Beta(0.3, 1), as
# Xie et al. (2011) place them.


def _spread(beta: Float[Array, " rungs"]) -> Float[Array, " rungs"]:
    return beta**0.3


def _gathered(spread: Float[Array, " rungs"]) -> Float[Array, " rungs"]:
    return spread ** (1 / 0.3)


def _exchanged(is_swapped: Bool[Array, "pairs chains"]) -> Int[Array, "rungs chains"]:
    """Return from which rung each rung gets its new walker."""
    none = jnp.zeros_like(is_swapped[:1])
    from_above, from_below = jnp.concatenate([is_swapped, none]), jnp.concatenate([none, is_swapped])
    return jnp.arange(len(from_above))[:, None] + from_above.astype(int) - from_below.astype(int)


def _permuted(leaf: Array, places: Int[Array, "rungs chains"]) -> Array:
    """Return an array (rungs, chains, …) with every rung's walker from another place."""
    return jnp.take_along_axis(leaf, places.reshape(places.shape + (1,) * (leaf.ndim - 2)), axis=0)
