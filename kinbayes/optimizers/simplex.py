"""The simplex method of Nelder and Mead, which moves its k worst vertices at once."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from kinbayes.optimizers.base import Bounds, Evaluation, Optimizer, Told, told, untold, where, with_best

PART_OF_RANGE = 0.1
TINY = 1e-3
NO_MOVE = -1


class State(NamedTuple):
    """Hold the simplex.

    Attributes
    ----------
    best_position, best_loss, converged, finished
        Those of every optimizer.
    vertices, losses
        The simplex, dim + 1 points; best first with their losses, which are +inf while it is new or has just shrunk.
    candidates, told
        The vertices of a new or shrunken simplex, or the moves of the k worst: reflections, expansions, outside and
        inside contractions. Repetitions of the first fill them up.
    is_moving
        Whether the candidates are moves.
    num_restarts
        Number of new simplices since the first.
    last_minimum
        The lowest loss when the last simplex had contracted.
    """

    best_position: Float[Array, " dim"]
    best_loss: Float[Array, ""]
    converged: Bool[Array, ""]
    finished: Bool[Array, ""]
    vertices: Float[Array, "vertices dim"]
    losses: Float[Array, " vertices"]
    candidates: Float[Array, "candidates dim"]
    told: Told
    is_moving: Bool[Array, ""]
    num_restarts: Int[Array, ""]
    last_minimum: Float[Array, ""]


def simplex(
    bounds: Bounds,
    *,
    num_parallel: int | None = None,
    initial_step: float = 1.0,
    reflection: float = 1.0,
    expansion: float = 1.0,
    contraction: float = 0.5,
    shrink: float = 0.5,
    position_tolerance: float = 1e-6,
    loss_tolerance: float = 1e-8,
) -> Optimizer:
    """Build a simplex search from one point.

    Every round moves the k worst vertices as Nelder and Mead do, through the middle of the others; all moves that one
    of them may come to take are evaluated at once. If none finds a better place, the simplex shrinks in a round of its
    own. Moves beyond a wall end on it. A simplex may flatten, on a wall or elsewhere, and stall where there is no
    optimum: once it has contracted, a new one is built at the best point, and the search has converged when that does
    not lead lower. A start without a point that can be evaluated is finished and has not converged.

    Parameters
    ----------
    bounds
        Walls of the search.
    num_parallel
        Number k of vertices that move at once. By default the fewest whose moves are as many as the vertices, so that
        no round is idle: with more, vertices move through the middle of fewer others, and it takes more evaluations.
    initial_step
        Length of a new simplex along each parameter, but at most a tenth of its range. 1 is a decade of a parameter on
        the log10 scale, and a tenth of a prior that spans ten decades.
    reflection
        Distance of a reflected vertex from the middle, as a multiple of the vertex's.
    expansion
        How much further an expanded vertex is, as a multiple of the reflected one's distance.
    contraction
        How much of the way from a vertex, reflected or not, to the middle it contracts.
    shrink
        Length that is left of every edge from the best vertex.
    position_tolerance, loss_tolerance
        A simplex has contracted when no vertex is further from the best than this part of the initial step, and no loss
        by more than this part of max(abs(loss), 1); or when it is a thousand times smaller than that, whatever its
        losses. A new simplex that gains less than `loss_tolerance` has not led lower.

    Returns
    -------
    The optimizer. Its member is the best point.

    References
    ----------
    Nelder and Mead (1965), A simplex method for function minimization, The Computer Journal 7,
    doi:10.1093/comjnl/7.4.308.
    Lee and Wiswall (2007), A parallel implementation of the simplex function minimization routine, Computational
    Economics 30, doi:10.1007/s10614-007-9094-2.
    """
    lower, upper = bounds
    dim = len(lower)
    k = math.ceil((dim + 1) / 4) if num_parallel is None else num_parallel
    if not 1 <= k <= dim:
        raise ValueError(f"num_parallel is {k}; choose from 1 to {dim}, the number of parameters")
    num_candidates = max(4 * k, dim + 1)
    # Distances from the middle to the reflected, the expanded and the contracted vertices.
    parts = jnp.array([reflection, reflection * (1.0 + expansion), reflection * (1.0 - contraction), contraction - 1.0])
    range_ = jnp.where(jnp.isfinite(upper - lower), upper - lower, jnp.inf)
    step = jnp.minimum(initial_step, PART_OF_RANGE * range_)

    def init(key: Key[Array, ""], U: Float[Array, "1 dim"]) -> State:
        vertices = built(U[0], jnp.array(0))
        return State(
            best_position=U[0],
            best_loss=jnp.array(jnp.inf),
            converged=jnp.array(False),
            finished=jnp.array(False),
            vertices=vertices,
            losses=jnp.full(dim + 1, jnp.inf),
            candidates=filled(vertices),
            told=untold(num_candidates),
            is_moving=jnp.array(False),
            num_restarts=jnp.array(0),
            last_minimum=jnp.array(jnp.inf),
        )

    def tell(key: Key[Array, ""], state: State, evaluation: Evaluation) -> State:
        gathered = told(state.told, evaluation)
        heard = with_best(state, state.candidates, gathered)._replace(told=gathered)
        new_state = where(gathered.is_told.all(), advanced(heard), heard)
        return where(state.finished, state, new_state)

    def advanced(state: State) -> State:
        """Judge a round and plan the next."""
        moved_vertices, moved_losses, has_moved = moved(state)
        vertices = jnp.where(state.is_moving, moved_vertices, state.vertices)
        losses = jnp.where(state.is_moving, moved_losses, state.told.loss[: dim + 1])
        order = jnp.argsort(losses)
        vertices, losses = vertices[order], losses[order]

        size = (jnp.abs(vertices - vertices[0]) / jnp.where(step > 0.0, step, 1.0)).max()
        # Differences of infinite losses are no numbers, which fail every comparison.
        negligible = loss_tolerance * jnp.maximum(jnp.abs(state.best_loss), 1.0)
        is_flat = losses[-1] - losses[0] <= negligible
        has_contracted = (size <= position_tolerance) & is_flat | (size <= TINY * position_tolerance)
        converged = has_contracted & (state.last_minimum - state.best_loss <= negligible)
        has_stuck = state.is_moving & ~has_moved
        num_restarts = state.num_restarts + has_contracted
        vertices = jnp.where(has_stuck, vertices[0] + shrink * (vertices - vertices[0]), vertices)
        vertices = jnp.where(has_contracted, built(state.best_position, num_restarts), vertices)
        is_moving = ~(has_contracted | has_stuck)
        return state._replace(
            converged=converged,
            finished=converged | (has_contracted & jnp.isinf(state.best_loss)),
            vertices=vertices,
            losses=jnp.where(is_moving, losses, jnp.inf),
            candidates=jnp.where(is_moving, moves(vertices), filled(vertices)),
            told=untold(num_candidates),
            is_moving=is_moving,
            num_restarts=num_restarts,
            last_minimum=jnp.where(has_contracted, state.best_loss, state.last_minimum),
        )

    def built(x: Float[Array, " dim"], number: Int[Array, ""]) -> Float[Array, "vertices dim"]:
        """Place a new simplex with a corner at a point: every other one the opposite way, and none beyond a wall."""
        edge = jnp.where(number % 2 == 0, step, -step)
        edge = jnp.where((x + edge > upper) | (x + edge < lower), -edge, edge)
        return jnp.clip(jnp.concatenate([x[None], x + jnp.diag(edge)]), lower, upper)

    def moves(vertices: Float[Array, "vertices dim"]) -> Float[Array, "candidates dim"]:
        """Propose four moves of each of the worst vertices."""
        middle = vertices[:-k].mean(axis=0)
        ends = middle + parts[:, None, None] * (middle - vertices[-k:])
        return filled(jnp.clip(ends, lower, upper).reshape(-1, dim))

    def moved(state: State) -> tuple[Float[Array, "vertices dim"], Float[Array, " vertices"], Bool[Array, ""]]:
        """Move the worst vertices by the rules; say whether any has found a better place."""
        worst, worst_losses = state.vertices[-k:], state.losses[-k:]
        losses = state.told.loss[: 4 * k].reshape(4, k)
        reflected, expanded, outside, inside = losses
        best_move = jnp.where(expanded < reflected, 1, 0)
        outward_move = jnp.where(outside <= reflected, 2, 0)
        inward_move = jnp.where(inside < worst_losses, 3, NO_MOVE)
        move = jnp.where(reflected < worst_losses, outward_move, inward_move)
        move = jnp.where(reflected < state.losses[-k - 1 : -1], 0, move)
        move = jnp.where(reflected < state.losses[0], best_move, move)
        places = state.candidates[: 4 * k].reshape(4, k, dim)[move, jnp.arange(k)]
        place_losses = jnp.where(move == NO_MOVE, worst_losses, losses[move, jnp.arange(k)])
        places = jnp.where((move == NO_MOVE)[:, None], worst, places)
        return (
            jnp.concatenate([state.vertices[:-k], places]),
            jnp.concatenate([state.losses[:-k], place_losses]),
            (move != NO_MOVE).any(),
        )

    def filled(points: Float[Array, "points dim"]) -> Float[Array, "candidates dim"]:
        """Repeat the first of the points until there are enough."""
        return jnp.concatenate([points, jnp.broadcast_to(points[0], (num_candidates - len(points), dim))])

    def members(state: State) -> tuple[Float[Array, "1 dim"], Float[Array, "1"]]:
        return state.best_position[None], state.best_loss[None]

    return Optimizer(1, init, lambda state: state.candidates, tell, members)
