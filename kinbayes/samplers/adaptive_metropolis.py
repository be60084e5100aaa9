"""Metropolis whose proposal learns the covariance of the posterior."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from kinbayes.samplers.base import MetropolisInfo, MetropolisState, Sampler, Target, metropolis, optimal_acceptance

RIDGE = 1e-8  # of every variance, added to it, so that the covariance has a Cholesky factor


class Tuning(NamedTuple):
    """Hold the proposal and what it is learned from.

    The proposal's covariance is ``exp(log_scale)`` times `covariance`, whose Cholesky factor is `root`.
    """

    log_scale: Float[Array, " chains"]
    mean: Float[Array, "chains dim"]
    covariance: Float[Array, "chains dim dim"]
    root: Float[Array, "chains dim dim"]
    iteration: Int[Array, ""]


def adaptive_metropolis(
    target: Target,
    *,
    num_warmup: int,
    step_size: float = 0.2,
    target_acceptance: float | None = None,
    pool: bool = True,
    adapt: str = "warmup",
) -> Sampler:
    """Build a Metropolis sampler that proposes Gaussian moves with the covariance of its own past.

    Algorithm 4 of Andrieu and Thoms (2008): stochastic approximation of mean, covariance and of a scale that brings the
    acceptance rate to its goal. Proposals beyond a wall are rejected; to fold them back or to draw them anew would
    change the target, since the proposal is correlated.

    Parameters
    ----------
    target
        The posterior.
    num_warmup
        Not used: the gains of the tuning fall off without a plan.
    step_size
        Geometric mean over the parameters of the proposal's standard deviation at the start, in units of u.
    target_acceptance
        Acceptance rate that the scale aims at; by default `optimal_acceptance`.
    pool
        Whether all chains learn one mean and one covariance, from all of them, instead of one each.
    adapt
        `warmup`: tuning ends with the warmup. `continuous`: it goes on with vanishing gain. Then a step depends on the
        past of the run: the draws are no Markov chain, and are right in the limit (ergodicity conditions in Andrieu
        and Thoms). `step` then carries the tuning, and `tune` does nothing.

    Returns
    -------
    The sampler.

    Raises
    ------
    ValueError
        If `adapt` is unknown.

    References
    ----------
    Andrieu and Thoms (2008), A tutorial on adaptive MCMC, doi:10.1007/s11222-008-9110-y.
    """
    if adapt not in ("warmup", "continuous"):
        raise ValueError(f"unknown adapt {adapt!r}; choose 'warmup' or 'continuous'")
    dim = target.lower.shape[0]
    goal = optimal_acceptance(dim) if target_acceptance is None else target_acceptance
    # The start's guess of the covariance counts as so many iterations: fewer would leave it singular.
    memory = 10 * dim

    def init(key: Key[Array, ""], U: Float[Array, "chains dim"]) -> MetropolisState:
        width = target.upper - target.lower
        logs = jnp.log(jnp.where(jnp.isfinite(width), width, 1.0))
        root = jnp.diag(jnp.exp(logs - logs.mean()))
        tuning = Tuning(
            log_scale=jnp.full(U.shape[0], 2.0 * jnp.log(step_size)),
            mean=jnp.broadcast_to(U.mean(axis=0), U.shape) if pool else U,
            covariance=jnp.broadcast_to(root**2, (*U.shape, dim)),
            root=jnp.broadcast_to(root, (*U.shape, dim)),
            iteration=jnp.array(0),
        )
        return MetropolisState(U, target.log_prior(U), target.log_likelihood(U), tuning)

    def move(key: Key[Array, ""], state: MetropolisState) -> tuple[MetropolisState, MetropolisInfo]:
        move_key, accept_key = jax.random.split(key)
        noise = jax.random.normal(move_key, state.position.shape)
        step_size = jnp.exp(0.5 * state.tuning.log_scale)
        proposal = state.position + step_size[:, None] * jnp.einsum("cij,cj->ci", state.tuning.root, noise)
        moved, probability, proposed = metropolis(accept_key, target, state, proposal)
        return moved, MetropolisInfo(probability, step_size, jnp.ones_like(probability, dtype=int), proposed)

    def learn(state: MetropolisState, info: MetropolisInfo) -> MetropolisState:
        tuning = state.tuning
        iteration = tuning.iteration + 1
        # This weighs a position in proportion to its iteration, so that the way from the start to the bulk fades.
        weight = 2.0 / (iteration + 2.0 + memory)
        deviation = state.position - tuning.mean
        square = deviation[:, :, None] * deviation[:, None, :]
        if pool:
            deviation, square = (jnp.broadcast_to(x.mean(axis=0), x.shape) for x in (deviation, square))
        covariance = (1.0 - weight) * tuning.covariance + weight * square
        ridge = RIDGE * jnp.eye(dim) * covariance
        # As in random_walk: a step that is a thousand times too long becomes right within some 30 iterations.
        gain = 3.0 * iteration**-0.6
        new_tuning = Tuning(
            log_scale=tuning.log_scale + 2.0 * gain * (info.acceptance_rate - goal),
            mean=tuning.mean + weight * deviation,
            covariance=covariance,
            root=_cholesky(covariance + ridge, tuning.root),
            iteration=iteration,
        )
        return state._replace(tuning=new_tuning)

    def move_and_learn(key: Key[Array, ""], state: MetropolisState) -> tuple[MetropolisState, MetropolisInfo]:
        state, info = move(key, state)
        return learn(state, info), info

    if adapt == "continuous":
        return Sampler(init, move_and_learn, lambda state, info: state)
    return Sampler(init, move, learn)


def _cholesky(matrix: Float[Array, "chains dim dim"], otherwise: Float[Array, "chains dim dim"]) -> Array:
    """Return the Cholesky factors; what they were before where rounding has left a matrix without one."""
    roots = jnp.linalg.cholesky(matrix)
    return jnp.where(jnp.isfinite(roots).all(axis=(1, 2), keepdims=True), roots, otherwise)
