"""Random-walk Metropolis with tuned step sizes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from kinbayes.samplers.base import MetropolisInfo, MetropolisState, Sampler, Target, metropolis, optimal_acceptance


class Tuning(NamedTuple):
    """Hold the proposal's widths and what warmup learns them from.

    The standard deviation of the proposal is ``exp(log_step_size) * scale``; the scales have geometric mean
    1.
    """

    log_step_size: Float[Array, " chains"]
    scale: Float[Array, " dim"]
    mean: Float[Array, "chains dim"]
    variance: Float[Array, "chains dim"]
    iteration: Int[Array, ""]


def random_walk(
    target: Target, *, num_warmup: int, step_size: float = 0.2, target_acceptance: float | None = None
) -> Sampler:
    """Build a Metropolis sampler that proposes independent Gaussian moves and reflects them at the walls.

    Warmup tunes a step size for every chain by stochastic approximation and one scale for every parameter
    from the variances within the chains, averaged over the chains. The proposal stays diagonal, so that
    reflection keeps it symmetric: a correlated one would not be.

    Parameters
    ----------
    target
        The posterior.
    num_warmup
        Not used: the gains of the tuning fall off without a plan.
    step_size
        Geometric mean over the parameters of the proposal's standard deviation at the start of warmup, in
        units of u.
    target_acceptance
        Acceptance rate that warmup aims at; by default `optimal_acceptance`.

    Returns
    -------
    The sampler.

    References
    ----------
    Andrieu and Thoms (2008), A tutorial on adaptive MCMC, doi:10.1007/s11222-008-9110-y.
    """
    dim = target.lower.shape[0]
    goal = optimal_acceptance(dim) if target_acceptance is None else target_acceptance

    def init(key: Key[Array, ""], U: Float[Array, "chains dim"]) -> MetropolisState:
        width = target.upper - target.lower
        scale = _normalised(jnp.where(jnp.isfinite(width), width, 1.0))
        tuning = Tuning(
            log_step_size=jnp.full(U.shape[0], jnp.log(step_size)),
            scale=scale,
            mean=U,
            variance=jnp.broadcast_to(scale**2, U.shape),
            iteration=jnp.array(0),
        )
        return MetropolisState(U, target.log_prior(U), target.log_likelihood(U), tuning)

    def step(key: Key[Array, ""], state: MetropolisState) -> tuple[MetropolisState, MetropolisInfo]:
        move_key, accept_key = jax.random.split(key)
        step_size = jnp.exp(state.tuning.log_step_size)
        noise = jax.random.normal(move_key, state.position.shape)
        proposal = state.position + step_size[:, None] * state.tuning.scale * noise
        proposal = reflect(proposal, target.lower, target.upper)
        moved, probability, proposed = metropolis(accept_key, target, state, proposal)
        return moved, MetropolisInfo(probability, step_size, jnp.ones_like(probability, dtype=int), proposed)

    def tune(state: MetropolisState, info: MetropolisInfo) -> MetropolisState:
        tuning = state.tuning
        iteration = tuning.iteration + 1
        # This weighs a position in proportion to its iteration, so that the way from the start to the bulk
        # fades.
        weight = 2.0 / (iteration + 2.0)
        deviation = state.position - tuning.mean
        variance = (1.0 - weight) * (tuning.variance + weight * deviation**2)
        # The power lies between 1/2 and 1, as convergence asks; the factor 3 lets a step that is a thousand
        # times too long become right within some 30 iterations.
        gain = 3.0 * iteration**-0.6
        new_tuning = Tuning(
            log_step_size=tuning.log_step_size + gain * (info.acceptance_rate - goal),
            scale=_normalised(jnp.sqrt(variance.mean(axis=0))),
            mean=tuning.mean + weight * deviation,
            variance=variance,
            iteration=iteration,
        )
        return state._replace(tuning=new_tuning)

    return Sampler(init, step, tune)


def reflect(
    position: Float[Array, "chains dim"], lower: Float[Array, " dim"], upper: Float[Array, " dim"]
) -> Float[Array, "chains dim"]:
    """Fold positions back into the walls, as often as it takes.

    Parameters
    ----------
    position
        Positions, inside or outside, (chains, dim).
    lower, upper
        Walls, (dim,); -inf and +inf where there is none.

    Returns
    -------
    The folded positions, (chains, dim), inside [lower, upper].
    """
    bounded = jnp.isfinite(lower) & jnp.isfinite(upper)
    # Stand-ins keep infinities out of the branches that `where` does not take.
    low = jnp.where(jnp.isfinite(lower), lower, 0.0)
    high = jnp.where(jnp.isfinite(upper), upper, 0.0)
    width = jnp.where(bounded, high - low, 1.0)
    phase = jnp.mod(position - low, 2.0 * width)
    between = low + jnp.minimum(phase, 2.0 * width - phase)
    above = jnp.where(jnp.isfinite(lower), low + jnp.abs(position - low), position)
    below = jnp.where(jnp.isfinite(upper), high - jnp.abs(high - position), above)
    return jnp.clip(jnp.where(bounded, between, below), lower, upper)


def _normalised(scale: Float[Array, " dim"]) -> Float[Array, " dim"]:
    logs = jnp.log(jnp.maximum(scale, jnp.finfo(scale.dtype).tiny))
    return jnp.exp(logs - logs.mean())
