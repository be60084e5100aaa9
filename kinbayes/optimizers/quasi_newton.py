"""Local searches by a bounded quasi-Newton method."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from kinbayes.optimizers.base import Bounds, Evaluation, Optimizer, where
from kinbayes.optimizers.linear import solve_positive

SUFFICIENT_DECREASE = 1e-4  # Nocedal and Wright, section 3.1
DAMPING = 0.2  # Powell's, Nocedal and Wright, procedure 18.2


class State(NamedTuple):
    """Hold a search.

    `hessian` approximates the loss's in coordinates in which every bounded parameter's range has length 1; `move` is
    the quasi-Newton step from the best position and `fraction` the part of it that is tried next: 1 for a new step.
    `is_fresh` says that the hessian has no curvature in it yet.
    """

    best_position: Float[Array, " dim"]
    best_loss: Float[Array, ""]
    converged: Bool[Array, ""]
    finished: Bool[Array, ""]
    gradient: Float[Array, " dim"]
    hessian: Float[Array, "dim dim"]
    move: Float[Array, " dim"]
    fraction: Float[Array, ""]
    is_fresh: Bool[Array, ""]


def quasi_newton(
    bounds: Bounds,
    *,
    gradient_tolerance: float = 1e-5,
    loss_tolerance: float = 2.2e-9,
    step_tolerance: float = 1e-10,
    initial_step: float = 0.1,
    max_step: float = 0.2,
) -> Optimizer:
    """Build a bounded quasi-Newton search.

    It keeps a dense BFGS approximation of the Hessian and tries points on the projection of its quasi-Newton step onto
    the bounds, shorter ones until the loss falls enough. A point where the objective fails is one that did not fall.
    Every `tell` is one trial.

    Parameters
    ----------
    bounds
        Walls of the search.
    gradient_tolerance
        A search has converged when no entry of the projected gradient is larger; SciPy's for L-BFGS-B.
    loss_tolerance
        A search has converged when a step lowers the loss, or a Newton step that fails promised to, by less
        than this part of max(abs(loss), 1); SciPy's.
    step_tolerance
        A search gives up when even a steepest-descent step shorter than this part of the range does not lower
        the loss.
    initial_step
        Largest entry of the first step, as a part of the parameter's range (or in units of u where it is
        open).
    max_step
        Largest entry of any step, as a part of the parameter's range, so that a poor early model of the loss
        does not throw a search onto a wall; where the range is open there is no such limit.

    Returns
    -------
    The optimizer. Its evaluations must have gradients.

    References
    ----------
    Bertsekas (1982), Projected Newton methods for optimization problems with simple constraints, SIAM Journal
    on Control and Optimization 20, doi:10.1137/0320018.
    Nocedal and Wright (2006), Numerical Optimization, second edition, chapters 3, 6 and 18.
    """
    lower, upper = bounds
    is_bounded, is_fixed = jnp.isfinite(upper - lower), upper == lower
    scale = jnp.where(is_bounded & ~is_fixed, upper - lower, 1.0)

    def init(key: Key[Array, ""], U: Float[Array, "one dim"]) -> State:
        dim = len(lower)
        return State(
            best_position=jnp.clip(U[0], lower, upper),
            best_loss=jnp.array(jnp.inf),
            converged=jnp.array(False),
            finished=jnp.array(False),
            gradient=jnp.zeros(dim),
            hessian=jnp.eye(dim),
            move=jnp.zeros(dim),
            fraction=jnp.array(1.0),
            is_fresh=jnp.array(True),
        )

    def ask(state: State) -> Float[Array, "one dim"]:
        return jnp.clip(state.best_position + state.fraction * state.move, lower, upper)[None]

    def tell(key: Key[Array, ""], state: State, evaluation: Evaluation) -> State:
        if evaluation.gradient is None:
            raise ValueError("quasi_newton needs gradients: give it an objective whose Evaluation has one")
        if len(evaluation.loss) == 0:
            return state
        (loss,), (gradient,) = evaluation.loss, jnp.where(is_fixed, 0.0, evaluation.gradient)
        return where(state.finished, state, advance(state, ask(state)[0], loss, gradient))

    def members(state: State) -> tuple[Float[Array, "one dim"], Float[Array, " one"]]:
        return state.best_position[None], state.best_loss[None]

    def advance(state: State, candidate, loss, gradient) -> State:
        """Judge one trial of one search and plan the next."""
        slope = state.gradient @ (candidate - state.best_position)
        is_first = ~jnp.isfinite(state.best_loss)
        is_lower = (slope < 0.0) & (loss <= state.best_loss + SUFFICIENT_DECREASE * slope)
        is_finite = jnp.isfinite(loss) & jnp.isfinite(gradient).all()
        accepted = is_finite & (is_first | is_lower)
        moved, held = moved_to(state, candidate, loss, gradient, is_first), held_back(state, loss, slope, is_first)
        new_state = where(accepted, moved, held)
        return new_state._replace(move=jnp.where(new_state.fraction == 1.0, planned(new_state), state.move))

    def moved_to(state: State, candidate, loss, gradient, is_first) -> State:
        """Make an accepted trial the best point."""
        s = (candidate - state.best_position) / scale
        y = (gradient - state.gradient) * scale
        decrease = state.best_loss - loss
        size = jnp.maximum(jnp.maximum(jnp.abs(state.best_loss), jnp.abs(loss)), 1.0)
        # The length of a steepest-descent step is a guess: how little it brings says nothing of the optimum.
        is_flat = ~state.is_fresh & (decrease <= loss_tolerance * size)
        projected_gradient = jnp.clip(candidate - gradient, lower, upper) - candidate
        converged = is_flat | (jnp.abs(projected_gradient).max() <= gradient_tolerance)
        return State(
            best_position=candidate,
            best_loss=loss,
            converged=converged,
            finished=converged,
            gradient=gradient,
            hessian=jnp.where(is_first, state.hessian, _updated(state.hessian, s, y, state.is_fresh)),
            move=state.move,
            fraction=jnp.ones_like(loss),
            is_fresh=is_first,
        )

    def held_back(state: State, loss, slope, is_first) -> State:
        """Shorten the step after a trial that failed; once it is too short start afresh, and then give up."""
        # The minimum of the parabola through the loss, its slope and the trial's loss (chapter 3).
        vertex = -0.5 * slope / (loss - state.best_loss - slope)
        fraction = state.fraction * jnp.where(jnp.isfinite(vertex), jnp.clip(vertex, 0.1, 0.5), 0.25)
        is_short = fraction * jnp.abs(state.move / scale).max() < step_tolerance
        # Near the optimum the loss's rounding errors, not its shape, decide whether a Newton step lowers it.
        promised = -0.5 * slope
        size = jnp.maximum(jnp.abs(state.best_loss), 1.0)
        is_newton = (state.fraction == 1.0) & ~state.is_fresh & (slope < 0.0)
        is_flat = is_newton & (promised <= loss_tolerance * size)
        return state._replace(
            converged=is_flat,
            finished=is_first | is_flat | (is_short & state.is_fresh),
            fraction=jnp.where(is_short, 1.0, fraction),
            is_fresh=state.is_fresh | is_short,
        )

    def planned(state: State) -> Float[Array, " dim"]:
        """Solve for the step of a two-metric projection method (Bertsekas 1982, section 2)."""
        position, gradient = state.best_position, state.gradient
        slope = gradient * scale
        steepest = -slope * initial_step / jnp.maximum(jnp.abs(slope).max(), jnp.finfo(slope.dtype).tiny)
        # Parameters at a wall, or about to reach one, move by themselves: mixed with the others they would
        # turn the projected step uphill.
        reach = jnp.abs(jnp.clip(position + steepest * scale, lower, upper) - position).max()
        near = jnp.minimum(1e-3, reach) * scale
        is_held = ((position - lower <= near) & (gradient > 0.0)) | ((upper - position <= near) & (gradient < 0.0))
        is_mixed = ~(is_held[:, None] | is_held[None, :]) | jnp.eye(len(position), dtype=bool)
        newton = solve_positive(jnp.where(is_mixed, state.hessian, 0.0), -slope)
        step = jnp.where(state.is_fresh | ~jnp.isfinite(newton).all(), steepest, newton)
        longest = jnp.where(is_bounded & ~is_held, jnp.abs(step), 0.0).max()
        return step * jnp.minimum(1.0, max_step / jnp.maximum(longest, max_step)) * scale

    return Optimizer(1, init, ask, tell, members, wants="gradient")


def _updated(
    hessian: Float[Array, "dim dim"],
    s: Float[Array, " dim"],
    y: Float[Array, " dim"],
    is_fresh: Bool[Array, ""],
) -> Float[Array, "dim dim"]:
    """Update a Hessian by Powell's damped BFGS formula, which keeps it positive definite.

    Parameters
    ----------
    hessian
        The approximation so far; not looked at if `is_fresh`.
    s, y
        Step, and change of the gradient over it.
    is_fresh
        Whether to start from a multiple of the identity, of the size that the step suggests (eq. 6.20).
    """
    curvature = jnp.where(s @ y > 0.0, (y @ y) / (s @ y), jnp.sqrt(y @ y / (s @ s)))
    hessian = jnp.where(is_fresh, curvature * jnp.eye(len(s)), hessian)
    hs = hessian @ s
    shs = s @ hs
    theta = jnp.where(s @ y >= DAMPING * shs, 1.0, (1.0 - DAMPING) * shs / (shs - s @ y))
    r = theta * y + (1.0 - theta) * hs
    updated = hessian - jnp.outer(hs, hs) / shs + jnp.outer(r, r) / (s @ r)
    return jnp.where(jnp.isfinite(updated).all(), updated, hessian)
