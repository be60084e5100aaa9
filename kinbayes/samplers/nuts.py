"""The No-U-Turn sampler, from NumPyro's building blocks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from kinbayes.samplers.base import Sampler, Target

CURVATURE_STEP = 1e-4  # between the gradients whose difference is the curvature
MAX_CURVATURE = 1e8


class Tuning(NamedTuple):
    """Hold step sizes and mass matrices, NumPyro's adaptation state with a leading chains axis."""

    adaptation: PyTree
    iteration: Int[Array, ""]


class Point(NamedTuple):
    """Hold all that one evaluation of the target tells about a point x of unconstrained space.

    `log_volume` is log|det du/dx|; the gradients are with respect to x, that of the prior with the volume's. Nothing
    depends on the target's temperature, so that a point may change it.
    """

    position: Float[Array, " dim"]
    log_prior: Float[Array, ""]
    log_likelihood: Float[Array, ""]
    log_volume: Float[Array, ""]
    prior_gradient: Float[Array, " dim"]
    likelihood_gradient: Float[Array, " dim"]


class State(NamedTuple):
    """Hold the chains' positions in u and in x, what is known of them as in `Point`, and tuning."""

    position: Float[Array, "chains dim"]
    log_prior: Float[Array, " chains"]
    log_likelihood: Float[Array, " chains"]
    log_volume: Float[Array, " chains"]
    prior_gradient: Float[Array, "chains dim"]
    likelihood_gradient: Float[Array, "chains dim"]
    unconstrained: Float[Array, "chains dim"]
    tuning: Tuning


class Info(NamedTuple):
    """Report one transition of every chain."""

    acceptance_rate: Float[Array, " chains"]
    diverging: Bool[Array, " chains"]
    energy: Float[Array, " chains"]
    tree_depth: Int[Array, " chains"]
    n_steps: Int[Array, " chains"]
    step_size: Float[Array, " chains"]


def nuts(
    target: Target,
    *,
    num_warmup: int,
    step_size: float = 1.0,
    target_acceptance: float = 0.8,
    max_tree_depth: int = 10,
    dense_mass: bool = True,
) -> Sampler:
    """Build a No-U-Turn sampler that moves in unconstrained space.

    Every chain tunes its own step size by dual averaging and its own mass matrix in Stan's windows. All
    chains double their trees together, so that each leapfrog step evaluates the target once, for all chains
    as one batch.

    Parameters
    ----------
    target
        The posterior; its `value_and_grad` is the only source of gradients.
    num_warmup
        Number of warmup iterations, which the windows of the adaptation divide up.
    step_size
        Leapfrog step at the start of warmup, in units of x.
    target_acceptance
        Mean acceptance rate that dual averaging aims at; higher is slower and diverges less.
    max_tree_depth
        Largest number of doublings: a trajectory has at most ``2**max_tree_depth - 1`` steps.
    dense_mass
        Whether to learn a full mass matrix instead of a diagonal one.

    Returns
    -------
    The sampler.

    References
    ----------
    Hoffman and Gelman (2014), The No-U-Turn sampler, Journal of Machine Learning Research 15.
    Betancourt (2017), A conceptual introduction to Hamiltonian Monte Carlo, arXiv:1701.02434.
    """
    # This function runs while the driver's loop is traced: without the guard, arrays that NumPyro makes at
    # import would belong to that trace and leak out of it.
    with jax.ensure_compile_time_eval():
        from numpyro.infer import hmc_util

    start_adaptation, update_adaptation = hmc_util.warmup_adapter(
        num_warmup, dense_mass=dense_mass, target_accept_prob=target_acceptance
    )

    def leapfrog(step_size, inverse_mass_matrix, integrator) -> hmc_util.IntegratorState:
        # NumPyro's trees carry the gradient without looking into it. A whole Point in its place brings the
        # new draw's densities along, which would otherwise take one more evaluation of the target per draw.
        x, momentum, _, point = integrator
        momentum = momentum - 0.5 * step_size * _gradient(target, point)
        x = x + step_size * _product(inverse_mass_matrix, momentum)
        point = _evaluate(target, x)
        momentum = momentum - 0.5 * step_size * _gradient(target, point)
        return hmc_util.IntegratorState(x, momentum, _potential(target, point), point)

    def transition(key, x, point, adaptation):
        momentum_key, tree_key = jax.random.split(key)
        momentum = _product(adaptation.mass_matrix_sqrt, jax.random.normal(momentum_key, x.shape))
        tree = hmc_util.build_tree(
            leapfrog,
            hmc_util.euclidean_kinetic_energy,
            hmc_util.IntegratorState(x, momentum, _potential(target, point), point),
            adaptation.inverse_mass_matrix,
            adaptation.step_size,
            tree_key,
            max_tree_depth=max_tree_depth,
        )
        info = Info(
            acceptance_rate=tree.sum_accept_probs / tree.num_proposals,
            diverging=tree.diverging,
            energy=tree.z_proposal_energy,
            tree_depth=tree.depth,
            n_steps=tree.num_proposals,
            step_size=adaptation.step_size,
        )
        return tree.z_proposal, tree.z_proposal_grad, info

    def init(key: Key[Array, ""], U: Float[Array, "chains dim"]) -> State:
        def adaptation(x, gradients):
            metric = _absolute_inverse(_curvature(gradients))
            metric = metric if dense_mass else jnp.diagonal(metric)
            fresh = start_adaptation((x,), key, jnp.asarray(step_size, float), inverse_mass_matrix=metric)
            # Only a search for a step size would use this key.
            return fresh._replace(rng_key=None)

        X = jax.vmap(target.unconstrain)(U)
        # The start and its neighbours in one batch: one evaluation to trace and to compile.
        around = X[:, None] + _neighbours(X.shape[1])
        points = jax.vmap(jax.vmap(_evaluate, in_axes=(None, 0)), in_axes=(None, 0))(target, around)
        point = jax.tree.map(lambda leaf: leaf[:, 0], points)
        tuning = Tuning(jax.vmap(adaptation)(X, _gradient(target, points)), jnp.array(0))
        return State(**point._asdict(), unconstrained=X, tuning=tuning)

    def step(key: Key[Array, ""], state: State) -> tuple[State, Info]:
        keys = jax.random.split(key, state.position.shape[0])
        point = Point(*(getattr(state, field) for field in Point._fields))
        X, point, info = jax.vmap(transition)(keys, state.unconstrained, point, state.tuning.adaptation)
        return State(**point._asdict(), unconstrained=X, tuning=state.tuning), info

    def tune(state: State, info: Info) -> State:
        adaptation, iteration = state.tuning
        adaptation = jax.vmap(update_adaptation, in_axes=(None, 0, 0, 0))(
            iteration, info.acceptance_rate, (state.unconstrained,), adaptation
        )
        return state._replace(tuning=Tuning(adaptation, iteration + 1))

    return Sampler(init, step, tune)


def _neighbours(dim: int) -> Float[Array, "points dim"]:
    """Return zero, the steps ahead along every axis, and the steps back."""
    steps = CURVATURE_STEP * jnp.eye(dim)
    return jnp.concatenate([jnp.zeros((1, dim)), steps, -steps])


def _curvature(gradients: Float[Array, "points dim"]) -> Float[Array, "dim dim"]:
    """Return the Hessian of the potential from its gradients at the neighbours."""
    ahead, back = jnp.split(gradients[1:], 2)
    curvature = (ahead - back) / (2 * CURVATURE_STEP)
    return jnp.where(jnp.isfinite(curvature), (curvature + curvature.T) / 2, 0.0)


def _absolute_inverse(curvature: Float[Array, "dim dim"]) -> Float[Array, "dim dim"]:
    """Return the inverse of the absolute curvature, a first guess of the covariance for the mass matrix.

    Without it the first windows of a warmup crawl: unscaled, a posterior with one narrow direction makes every
    trajectory as long as allowed. Absolute eigenvalues keep the matrix positive where the potential is not convex
    (the hard case of Betancourt's SoftAbs metric); those below 1, about the curvature that the walls give, count as 1.

    References
    ----------
    Betancourt (2013), A general metric for Riemannian manifold Hamiltonian Monte Carlo, arXiv:1212.4693.
    """
    values, vectors = jnp.linalg.eigh(curvature)
    return (vectors / jnp.clip(jnp.abs(values), 1.0, MAX_CURVATURE)) @ vectors.T


def _evaluate(target: Target, x: Float[Array, " dim"]) -> Point:
    (u, log_volume), pullback = jax.vjp(target.constrain, x)
    log_prior, log_likelihood, prior_gradient, likelihood_gradient = _value_and_grad(target, u)
    (prior_gradient,) = pullback((prior_gradient, jnp.ones_like(log_volume)))
    (likelihood_gradient,) = pullback((likelihood_gradient, jnp.zeros_like(log_volume)))
    gradients = map(_finite, (prior_gradient, likelihood_gradient))
    return Point(u, log_prior, log_likelihood, log_volume, *gradients)


def _finite(gradient: Float[Array, " dim"]) -> Float[Array, " dim"]:
    # Leapfrog steps are reversible and keep volume with any field in the gradient's place, so a component
    # that is not finite may count as zero; left in, it would make the momentum NaN.
    return jnp.where(jnp.isfinite(gradient), gradient, 0.0)


def _potential(target: Target, point: Point) -> Float[Array, "..."]:
    """Return minus the log density in x, +inf where the target fails."""
    return -target.log_density(point.log_prior + point.log_volume, point.log_likelihood)


def _gradient(target: Target, point: Point) -> Float[Array, "... dim"]:
    """Return the gradient of the potential in x."""
    return -(point.prior_gradient + target.beta * point.likelihood_gradient)


@jax.jit
def _batched_value_and_grad(target: Target, U: Float[Array, "chains dim"]) -> tuple[Array, Array, Array, Array]:
    # NumPyro's nested loops are traced many times over; jit remembers the trace of the target.
    return target.value_and_grad(U)


@jax.custom_batching.custom_vmap
def _value_and_grad(target: Target, u: Float[Array, " dim"]) -> tuple[Array, Array, Array, Array]:
    return jax.tree.map(lambda value: value[0], _batched_value_and_grad(target, u[None]))


@_value_and_grad.def_vmap
def _value_and_grad_of_chains(axis_size, in_batched, target, U):
    return _batched_value_and_grad(target, U), (True, True, True, True)


def _product(matrix: Float[Array, "..."], vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
    return matrix @ vector if matrix.ndim == 2 else matrix * vector
