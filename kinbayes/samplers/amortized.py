"""Whole batches of learned proposals against the current state, in turn with local moves: exact for any network.

The kernel for proposals is iterated sampling importance resampling (i-SIR), which is iterated conditional sequential
Monte Carlo of one step: beside the current state there are N - 1 candidates, drawn without regard to it, and one of the
N becomes the next state with a probability in proportion to its importance weight π/q̂. Where q̂ is an estimate of the
proposal's density, the state is one of an extended space, with the estimate's latent variables. Those of a candidate
made it, or were drawn given it; those of the current state are drawn anew in every step, which is a Gibbs move. The
kernel leaves π invariant whatever the proposal is worth. Where it is worth nothing the state stays, and the local moves
go on as if they were alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from kinbayes.samplers.adaptive_metropolis import adaptive_metropolis
from kinbayes.samplers.base import (
    MetropolisState,
    Proposed,
    Sampler,
    SamplerFactory,
    StepInfo,
    Target,
    proposed_by,
    without_proposed,
)

LOCAL_STEPS_PER_PARAMETER = 1


class State(NamedTuple):
    """Hold the chains; `info` is what the last local step told, which its tuning wants."""

    position: Float[Array, "chains dim"]
    log_prior: Float[Array, " chains"]
    log_likelihood: Float[Array, " chains"]
    info: StepInfo
    tuning: PyTree


class Info(NamedTuple):
    """Report one step of every chain.

    The acceptance rate is the mean one of the local moves, or where there are none the refresh rate. `refresh_rate` is
    the probability with which a candidate took the place of the state. `n_steps` counts candidates and local moves;
    `proposed` has all of them, the candidates first, where other samplers have an axis of rungs.
    """

    acceptance_rate: Float[Array, " chains"]
    refresh_rate: Float[Array, " chains"]
    n_steps: Int[Array, " chains"]
    proposed: Proposed | None


def num_local_steps(local_steps: int | None, dim: int) -> int:
    """Return the number of local moves a step that a setting stands for."""
    return LOCAL_STEPS_PER_PARAMETER * dim if local_steps is None else local_steps


def amortized(
    target: Target,
    *,
    num_warmup: int,
    num_candidates: int = 8,
    local_steps: int | None = None,
    local: SamplerFactory = adaptive_metropolis,
    local_settings: tuple[tuple[str, object], ...] = (),
) -> Sampler:
    """Build a sampler that chooses among the state and learned proposals by weight, then moves locally.

    Warmup tunes the local moves alone: the proposal is as it is.

    Parameters
    ----------
    target
        The posterior, with a `proposal`.
    num_warmup
        Number of steps of the warmup, for the local sampler.
    num_candidates
        Number of points a step chooses from, the state among them. One is refreshed the more often the more there are,
        at the same price a refresh, until they outnumber the inverse of the share of proposals that count. Many short
        steps mix better than few long ones of as many simulations: on a posterior of nine parameters, with a proposal
        of which one draw in seven counts, 8 candidates and 9 moves give 11 effective draws per 1000 simulations, 32 and
        45 give 6.
    local_steps
        Number of local moves a step; by default one for every parameter. 0 leaves them out.
    local
        The sampler of the local moves, one whose state is a position with its densities: not `nuts`, whose gradients
        would be those of the place before a refresh.
    local_settings
        Its settings, as pairs of name and value.

    Returns
    -------
    The sampler.

    Raises
    ------
    ValueError
        If the target has no proposal, a number is too small, or the local sampler's state holds more than it may.

    References
    ----------
    Andrieu, Lee and Vihola (2018), Uniform ergodicity of the iterated conditional SMC and geometric ergodicity of
    particle Gibbs samplers, doi:10.3150/15-BEJ785.
    """
    if target.proposal is None:
        raise ValueError(
            "the sampler 'amortized' chooses among draws of a proposal, and the target has none; give kinbayes.sample "
            "one as proposal=, or choose another sampler"
        )
    if num_candidates < 2:
        raise ValueError(f"num_candidates is {num_candidates}; it must be at least 2: the state and a draw")
    if local_steps is not None and local_steps < 0:
        raise ValueError(f"local_steps is {local_steps}; it must be at least 0")
    steps = num_local_steps(local_steps, target.lower.shape[0])
    mover = local(target, num_warmup=num_warmup, **dict(local_settings))

    def init(key: Key[Array, ""], U: Float[Array, "chains dim"]) -> State:
        started = mover.init(key, U)
        more = sorted(set(started._fields) - set(MetropolisState._fields))
        if more:
            raise ValueError(
                f"the state of the local sampler holds {more} of a position, which would be stale after a refresh; "
                "choose one of Gaussian moves, such as 'adaptive_metropolis'"
            )
        info = jax.tree.map(jnp.zeros_like, without_proposed(jax.eval_shape(mover.step, key, started)[1]))
        return State(*started[:3], info, started.tuning)

    def move(carry: tuple[MetropolisState, StepInfo], key: Key[Array, ""]) -> tuple:
        moved, info = mover.step(key, carry[0])
        told = without_proposed(info)
        return (moved, told), (info.acceptance_rate, info.n_steps, proposed_by(info))

    def step(key: Key[Array, ""], state: State) -> tuple[State, Info]:
        refresh_key, move_key = jax.random.split(key)
        refreshed, rate, candidates = refresh(refresh_key, target, _local(state), num_candidates)
        n_steps = jnp.full(rate.shape, num_candidates - 1)
        if not steps:
            after = State(*refreshed[:3], state.info, state.tuning)
            return after, Info(rate, rate, n_steps, candidates)
        (moved, info), (accepted, counted, proposed) = jax.lax.scan(
            move, (refreshed, state.info), jax.random.split(move_key, steps)
        )
        after = State(*moved[:3], info, moved.tuning)
        return after, Info(accepted.mean(axis=0), rate, n_steps + counted.sum(axis=0), _joined(candidates, proposed))

    def tune(state: State, info: Info) -> State:
        if not steps:
            return state
        return state._replace(tuning=mover.tune(_local(state), state.info).tuning)

    return Sampler(init, step, tune)


def refresh(
    key: Key[Array, ""], target: Target, state: MetropolisState, num_candidates: int
) -> tuple[MetropolisState, Float[Array, " chains"], Proposed]:
    """Choose one of the state and of fresh draws of the proposal by weight, each chain by itself.

    Parameters
    ----------
    key
        Random key.
    target
        The posterior with its proposal; all draws of all chains are evaluated as one batch.
    state
        Where the chains are.
    num_candidates
        Number of points to choose from, the state among them.

    Returns
    -------
    The state with positions and densities of what was chosen, the probabilities with which it was a draw, and the draws
    of every chain. A draw beyond a wall or of density zero is never chosen, also from a position of density zero.
    """
    draw_key, density_key, choice_key = jax.random.split(key, 3)
    chains, num = len(state.position), num_candidates - 1
    U, log_proposal = target.proposal.draw(draw_key, chains * num)
    is_inside = ((target.lower <= U) & (target.upper >= U)).all(axis=1)
    U = jnp.where(is_inside[:, None], U, jnp.repeat(state.position, num, axis=0))
    log_prior, log_likelihood = target.log_prior(U), target.log_likelihood(U)
    log_density = jnp.where(is_inside, target.log_density(log_prior, log_likelihood), -jnp.inf)
    # A draw whose own density is no number has no weight, ...
    candidate = jnp.where(jnp.isfinite(log_proposal), log_density - log_proposal, -jnp.inf).reshape(chains, num)
    # ... and a state that the proposal cannot reach has all of it.
    own = target.log_density(state.log_prior, state.log_likelihood)
    estimate = target.proposal.log_density(density_key, state.position)
    own = jnp.where(own == -jnp.inf, -jnp.inf, jnp.where(jnp.isfinite(estimate), own - estimate, jnp.inf))

    together = jax.nn.logsumexp(candidate, axis=1)
    rate = jnp.where(together == -jnp.inf, 0.0, jax.nn.sigmoid(together - own))
    # One uniform number decides both whether a draw is chosen and which: given the first it is uniform up to the rate.
    uniform = jax.random.uniform(choice_key, rate.shape)
    is_refreshed = uniform < rate
    weight = jnp.exp(candidate - candidate.max(axis=1, keepdims=True))
    up_to = weight.cumsum(axis=1)
    is_reached = (up_to >= (uniform / rate)[:, None] * up_to[:, -1:]) & (weight > 0)
    choice = jnp.arange(chains), is_reached.argmax(axis=1)  # the first that is

    def by_chain(leaf: Array) -> Array:
        return leaf.reshape(chains, num, *leaf.shape[1:])

    def taken(draws: Array, kept: Array) -> Array:
        return jnp.where(_along(is_refreshed, kept), by_chain(draws)[choice], kept)

    after = state._replace(
        position=taken(U, state.position),
        log_prior=taken(log_prior, state.log_prior),
        log_likelihood=taken(log_likelihood, state.log_likelihood),
    )
    evaluated = (U, log_prior, log_likelihood)
    draws = Proposed(*(by_chain(jnp.where(_along(is_inside, leaf), leaf, jnp.nan)) for leaf in evaluated))
    return after, rate, draws


def _along(mask: Bool[Array, " n"], leaf: Array) -> Bool[Array, "n ..."]:
    """Return a mask of rows as it goes with an array's axes."""
    return mask.reshape(-1, *(1,) * (leaf.ndim - 1))


def _joined(candidates: Proposed, moves: Proposed | None) -> Proposed:
    """Return candidates, (chains, candidates, …), and behind them proposals of local moves, (moves, chains, …)."""
    if moves is None:
        return candidates
    behind = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), moves)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), candidates, behind)


def _local(state: State) -> MetropolisState:
    return MetropolisState(*state[:3], state.tuning)
