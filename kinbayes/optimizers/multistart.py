"""Local searches by damped Gauss-Newton steps within walls: a Levenberg-Marquardt method.

Many starts of it, side by side, are the multistart search of the field. The model of the loss is its gradient and an
approximation of its Hessian, such as Fisher's information, and is trusted within a box about the best point, whose
sides are parts of the parameters' ranges, and the less the larger the damping is. Damping is relative to the diagonal
of the Hessian, so that parameters of very different influence each move as far as they should.

References
----------
Marquardt (1963), An algorithm for least-squares estimation of nonlinear parameters, Journal of the Society for
Industrial and Applied Mathematics 11, doi:10.1137/0111030.
Madsen, Nielsen and Tingleff (2004), Methods for non-linear least squares problems, second edition, Technical University
of Denmark: how the damping follows the model's success.
Vogklis and Lagaris (2025), An active-set algorithm for convex quadratic programming subject to box constraints,
Mathematics 13, doi:10.3390/math13091467: how a step finds the sides of its box.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from kinbayes.optimizers.base import Bounds, Evaluation, Optimizer, where
from kinbayes.optimizers.linear import solve_positive

SUFFICIENT = 1e-4  # of the decrease that the model promises, to accept a step
LEAST_DAMPING, MOST_DAMPING = 1e-12, 1e20
MOST_GROWTH = 64.0  # of the damping from one failure to the next: far from any optimum the loss spans many decades
FLOOR = 1e-8  # of the largest diagonal entry of the Hessian, below which a parameter counts as without influence
_MOST_PASSES = 12  # in which a step finds the sides of its box; rarely more than three


class State(NamedTuple):
    """Hold a search.

    Gradient and Hessian are in units of the parameters' ranges. `promised` is the decrease that the model expects of
    the candidate, `growth` the factor by which the damping grows if that fails. `reference_loss` was the best loss
    `age` trials ago.
    """

    best_position: Float[Array, " dim"]
    best_loss: Float[Array, ""]
    converged: Bool[Array, ""]
    finished: Bool[Array, ""]
    gradient: Float[Array, " dim"]
    hessian: Float[Array, "dim dim"]
    candidate: Float[Array, " dim"]
    promised: Float[Array, ""]
    damping: Float[Array, ""]
    growth: Float[Array, ""]
    reference_loss: Float[Array, ""]
    age: Int[Array, ""]


def multistart(
    bounds: Bounds,
    *,
    loss_tolerance: float = 1e-6,
    progress: float = 0.01,
    patience: int = 100,
    max_step: float = 0.2,
    initial_damping: float = 0.01,
) -> Optimizer:
    """Build a local search for a loss that is a negative log density.

    Parameters
    ----------
    bounds
        Walls of the search.
    loss_tolerance
        A search has converged when no step between the walls can lower its model of the loss by more than this part of
        max(abs(loss), 1).
    progress, patience
        A search that has lowered the loss by less than `progress` in `patience` trials is finished, and has not
        converged.
    max_step
        Sides of the box of a step, from its middle, as parts of the parameters' ranges; none where one is open.
    initial_damping
        Damping of the first step, relative to the diagonal of the Hessian.

    Returns
    -------
    The optimizer. Its evaluations must have gradients and information.
    """
    lower, upper = bounds
    is_fixed, dim = upper == lower, len(lower)
    scale = jnp.where(jnp.isfinite(upper - lower) & ~is_fixed, upper - lower, 1.0)
    longest = jnp.where(jnp.isfinite(upper - lower), max_step, jnp.inf)

    def init(key: Key[Array, ""], U: Float[Array, "one dim"]) -> State:
        position = jnp.clip(U[0], lower, upper)
        return State(
            best_position=position,
            best_loss=jnp.array(jnp.inf),
            converged=jnp.array(False),
            finished=jnp.array(False),
            gradient=jnp.zeros(dim),
            hessian=jnp.eye(dim),
            candidate=position,
            promised=jnp.array(jnp.inf),
            damping=jnp.array(initial_damping),
            growth=jnp.array(2.0),
            reference_loss=jnp.array(jnp.inf),
            age=jnp.array(0),
        )

    def ask(state: State) -> Float[Array, "one dim"]:
        return state.candidate[None]

    def tell(key: Key[Array, ""], state: State, evaluation: Evaluation) -> State:
        if evaluation.gradient is None or evaluation.information is None:
            raise ValueError(
                "multistart needs gradients and information: give it an objective whose Evaluation has both"
            )
        if len(evaluation.loss) == 0:
            return state
        (loss,), (gradient,), (hessian,) = evaluation.loss, evaluation.gradient, evaluation.information
        judged = planned(advanced(state, loss, gradient * scale, hessian * scale[:, None] * scale))
        return where(state.finished, state, judged)

    def advanced(state: State, loss, gradient, hessian) -> State:
        """Judge the candidate."""
        is_first = ~jnp.isfinite(state.best_loss)
        is_finite = jnp.isfinite(loss) & jnp.isfinite(gradient).all() & jnp.isfinite(hessian).all()
        ratio = jnp.where(is_finite & ~is_first, (state.best_loss - loss) / state.promised, -1.0)
        moved = state._replace(
            best_position=state.candidate,
            best_loss=loss,
            gradient=gradient,
            hessian=hessian,
            # As Madsen et al.; a decrease larger than promised is as good as the promised one.
            damping=jnp.maximum(
                state.damping * jnp.maximum(1 / 3, 1.0 - (2.0 * jnp.minimum(ratio, 1.0) - 1.0) ** 3), LEAST_DAMPING
            ),
            growth=jnp.array(2.0),
        )
        first = moved._replace(damping=state.damping)
        failed = state._replace(
            damping=state.damping * state.growth, growth=jnp.minimum(2.0 * state.growth, MOST_GROWTH)
        )
        return where(is_finite & is_first, first, where(is_finite & (ratio > SUFFICIENT), moved, failed))

    def planned(state: State) -> State:
        """Choose the next candidate, or end the search."""
        z, low, high = state.best_position / scale, lower / scale, upper / scale
        gradient, hessian = state.gradient, state.hessian
        is_low, is_high = (z <= low) & ((gradient > 0.0) | is_fixed), (z >= high) & (gradient < 0.0) & ~is_fixed
        is_held = is_low | is_high
        influence = jnp.diag(hessian)
        influence = jnp.maximum(influence, FLOOR * influence.max())
        damped = hessian + jnp.diag(state.damping * influence)
        inner = jnp.where(is_fixed, 0.0, jnp.maximum(low - z, -longest))
        outer = jnp.where(is_fixed, 0.0, jnp.minimum(high - z, longest))
        step = _within(gradient, damped, inner, outer, is_low, is_high)
        promised = -(gradient @ step + 0.5 * step @ hessian @ step)
        size = jnp.maximum(jnp.abs(state.best_loss), 1.0)
        at_most = _largest_decrease(jnp.where(is_held, 0.0, gradient), hessian, is_held, influence)
        converged, fails = at_most < loss_tolerance * size, ~jnp.isfinite(state.best_loss)
        is_lower = state.reference_loss - state.best_loss > progress
        age = jnp.where(is_lower, 0, state.age + 1)
        is_stuck = (age >= patience) | (state.damping > MOST_DAMPING) | ~(promised > 0.0)
        return state._replace(
            converged=converged & ~fails,
            finished=converged | is_stuck | fails,
            candidate=jnp.clip(state.best_position + step * scale, lower, upper),
            promised=promised,
            reference_loss=jnp.where(is_lower, state.best_loss, state.reference_loss),
            age=age,
        )

    def members(state: State) -> tuple[Float[Array, "one dim"], Float[Array, " one"]]:
        return state.best_position[None], state.best_loss[None]

    return Optimizer(1, init, ask, tell, members, wants="information")


def _within(
    gradient: Float[Array, " dim"],
    hessian: Float[Array, "dim dim"],
    low: Float[Array, " dim"],
    high: Float[Array, " dim"],
    is_low: Bool[Array, " dim"],
    is_high: Bool[Array, " dim"],
) -> Float[Array, " dim"]:
    """Return the step to the minimum of a parabola in a box, given which sides it may lie on.

    The parameters that lie between their sides are solved for. Those that leave the box are put on its side, those that
    the slope draws away from a side are let go, until nothing changes (Vogklis and Lagaris).
    """

    def body(carry):
        _, is_low, is_high, _, i = carry
        is_held = is_low | is_high
        held = jnp.where(is_low, low, jnp.where(is_high, high, 0.0))
        step = jnp.where(is_held, held, _solved(hessian, -(gradient + hessian @ held), is_held))
        slope = gradient + hessian @ step
        new_low = jnp.where(is_held, is_low & (slope >= 0.0), step < low)
        new_high = jnp.where(is_held, is_high & (slope <= 0.0), step > high)
        has_changed = jnp.any((new_low != is_low) | (new_high != is_high))
        return step, new_low, new_high, has_changed, i + 1

    begun = (jnp.zeros_like(gradient), is_low, is_high, jnp.array(True), 0)
    step, *_, has_changed, _ = jax.lax.while_loop(lambda carry: carry[3] & (carry[4] < _MOST_PASSES), body, begun)
    # It may go round in circles; a diagonal larger than the Hessian gives a step that surely leads down.
    larger = jnp.abs(hessian).sum(axis=1)
    cautious = -gradient / jnp.where(larger > 0.0, larger, 1.0)
    return jnp.clip(jnp.where(has_changed, cautious, step), low, high)


def _largest_decrease(
    gradient: Float[Array, " dim"],
    hessian: Float[Array, "dim dim"],
    is_held: Bool[Array, " dim"],
    influence: Float[Array, " dim"],
) -> Float[Array, ""]:
    """Bound the decrease of the model along steps between the walls.

    It is at most that of a Newton step, and at most the sum of the slopes, since no range is longer than 1.
    """
    newton = 0.5 * gradient @ _solved(hessian + 1e-10 * jnp.diag(influence), gradient, is_held)
    return jnp.minimum(jnp.where(newton >= 0.0, newton, jnp.inf), jnp.abs(gradient).sum())


def _solved(
    matrix: Float[Array, "dim dim"], right: Float[Array, " dim"], is_held: Bool[Array, " dim"]
) -> Float[Array, " dim"]:
    """Solve for what is not held; along the diagonal alone where rounding has made the matrix indefinite."""
    is_free = ~is_held
    own = jnp.where(is_free[:, None] & is_free, matrix, jnp.eye(len(right)))
    right = jnp.where(is_held, 0.0, right)
    found = solve_positive(own, right)
    diagonal = jnp.diag(own)
    return jnp.where(jnp.isfinite(found).all(), found, right / jnp.where(diagonal > 0.0, diagonal, 1.0))
