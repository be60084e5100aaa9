"""Scatter search: a small set of good and diverse points, of which every pair has children."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Bool, Float, Int, Key

from kinbayes.optimizers.base import Bounds, Evaluation, Optimizer, Told, reflected, told, untold, where, with_best

DISTINCT = 0.01  # minima are two if they differ by this part of a range
SMALLEST_SET, LARGEST_SET = 10, 18


class State(NamedTuple):
    """Hold the reference set, best first, and what its pairs have bred.

    Attributes
    ----------
    best_position, best_loss, converged, finished
        Those of every optimizer.
    position, loss
        The n members of the reference set.
    num_stuck
        Number of rounds since a member last had a better child.
    is_renewed
        Whether its children are points from anywhere, the best of which takes its place.
    move, reach
        The step from a member's parent, if the member was born in the last round (0 otherwise), and the part of it that
        is tried once more.
    candidates, told
        The design in the first round; then the children, n-1 of each member one after the other.
    is_design
        Whether this is the first round.
    centre, spread
        Mean and standard deviation of the design.
    archive_position, archive_loss
        Members that were given up: the n best that are distinct, best first.
    lowest_collapse
        The lowest loss at which a set has drawn together.
    """

    best_position: Float[Array, " dim"]
    best_loss: Float[Array, ""]
    converged: Bool[Array, ""]
    finished: Bool[Array, ""]
    position: Float[Array, "n dim"]
    loss: Float[Array, " n"]
    num_stuck: Int[Array, " n"]
    is_renewed: Bool[Array, " n"]
    move: Float[Array, "n dim"]
    reach: Float[Array, " n"]
    candidates: Float[Array, "children dim"]
    told: Told
    is_design: Bool[Array, ""]
    centre: Float[Array, " dim"]
    spread: Float[Array, " dim"]
    archive_position: Float[Array, "n dim"]
    archive_loss: Float[Array, " n"]
    lowest_collapse: Float[Array, ""]


def scatter_search(
    bounds: Bounds,
    *,
    reference_size: int | None = None,
    half_distance: bool = False,
    go_beyond: bool = True,
    wall_probability: float = 0.5,
    local_min_limit: int = 20,
    position_tolerance: float = 1e-6,
    loss_tolerance: float = 1e-6,
) -> Optimizer:
    """Build a scatter search.

    In every round each of the n members of the reference set, ranked by loss, has one child with every other, in a box
    that leans away from a worse partner and towards a better one. The best child replaces its parent if it is better. A
    parent without a better child for long is put into an archive, and the best of n-1 points of a Latin hypercube takes
    its place. When the set has drawn together to a point, that point is archived and the set made anew; the search has
    converged when two sets have drawn together at the lowest loss there is, independently.

    Parameters
    ----------
    bounds
        Walls of the search.
    reference_size
        Number n of members, at least 4. By default the smallest even number with n (n - 1) ≥ 10 dim, but between 10
        and 18: Egea's rule, with limits. The design has n (n - 1) points and every round as many evaluations. The first
        set is the better half of its members from the design's best, the others at random from the rest.
    half_distance
        Whether boxes are half as wide (Egea 2009). The set then draws together more slowly: it finds the lowest of many
        minima more often, and takes up to twice the evaluations where there are few.
    go_beyond
        Whether a child that replaced its parent tries a step further the same way in the next round, instead of one
        with the worst partner; twice as far each time that this child is the best again.
    wall_probability
        Probability, for each parameter of a child, that the part of its box behind a wall falls onto the wall; else it
        is cut off. Egea's code has one half too.
    local_min_limit
        Number of rounds without a better child after which a parent is given up; Egea's code has 20 too. With 5,
        parents on their way down a curved valley are given up.
    position_tolerance, loss_tolerance
        The set has drawn together when its positions differ by no more than this part of every range (of the
        design's standard deviation where it is open), and its losses by this part of max(abs(loss), 1).

    Returns
    -------
    The optimizer. Its members are those of the set and the archive that are distinct.

    References
    ----------
    Egea, Balsa-Canto, García and Banga (2009), Dynamic optimization of nonlinear processes with an enhanced scatter
    search method, Industrial & Engineering Chemistry Research 48, doi:10.1021/ie801717t.
    Egea, Martí and Banga (2010), An evolutionary method for complex-process optimization, Computers & Operations
    Research 37, doi:10.1016/j.cor.2009.05.003.
    Villaverde, Fröhlich, Weindl, Hasenauer and Banga (2019), Benchmarking optimization methods for parameter estimation
    in large kinetic models, Bioinformatics 35, doi:10.1093/bioinformatics/bty736: with local searches from its members.
    """
    lower, upper = bounds
    dim = len(lower)
    n = _reference_size(dim) if reference_size is None else reference_size
    if n < 4:
        raise ValueError(f"reference_size is {n}, but a set has at least 4 members")
    is_box = jnp.isfinite(upper - lower)
    # Rows are the parents' ranks, columns their partners'.
    parent = jnp.arange(n)[:, None]
    partner = jnp.arange(n - 1) + (jnp.arange(n - 1) >= parent)
    lean = (jnp.sign(partner - parent) * (jnp.abs(partner - parent) - 1) / (n - 2))[:, :, None]

    def init(key: Key[Array, ""], U: Float[Array, "children dim"]) -> State:
        return State(
            best_position=U[0],
            best_loss=jnp.array(jnp.inf),
            converged=jnp.array(False),
            finished=jnp.array(False),
            position=U[:n],
            loss=jnp.full(n, jnp.inf),
            num_stuck=jnp.zeros(n, int),
            is_renewed=jnp.zeros(n, bool),
            move=jnp.zeros((n, dim)),
            reach=jnp.ones(n),
            candidates=U,
            told=untold(len(U)),
            is_design=jnp.array(True),
            centre=U.mean(axis=0),
            spread=U.std(axis=0),
            archive_position=U[:n],
            archive_loss=jnp.full(n, jnp.inf),
            lowest_collapse=jnp.array(jnp.inf),
        )

    def tell(key: Key[Array, ""], state: State, evaluation: Evaluation) -> State:
        gathered = told(state.told, evaluation)
        heard = with_best(state, state.candidates, gathered)._replace(told=gathered)
        new_state = where(gathered.is_told.all(), advanced(key, heard), heard)
        return where(state.finished, state, new_state)

    def advanced(key: Key[Array, ""], state: State) -> State:
        """Judge a round and breed the next."""
        choice_key, child_key = jax.random.split(key)
        state = where(state.is_design, chosen(choice_key, state), succeeded(state))
        order = jnp.argsort(state.loss)
        members = (state.position, state.loss, state.num_stuck, state.move, state.reach)
        position, loss, num_stuck, move, reach = (leaf[order] for leaf in members)

        # Differences of infinite losses are no numbers, which fail every comparison.
        nearby = loss_tolerance * jnp.maximum(jnp.abs(state.best_loss), 1.0)
        size = (jnp.ptp(position, axis=0) / width(state)).max()
        has_collapsed = (size <= position_tolerance) & (loss[-1] - loss[0] <= nearby)
        converged = has_collapsed & (jnp.maximum(loss[0], state.lowest_collapse) - state.best_loss <= nearby)
        is_given_up = jnp.where(has_collapsed, jnp.arange(n) == 0, num_stuck >= local_min_limit)
        archive_position, archive_loss = distinct(
            jnp.concatenate([state.archive_position, position]),
            jnp.concatenate([state.archive_loss, jnp.where(is_given_up, loss, jnp.inf)]),
            state,
        )
        state = state._replace(
            converged=converged,
            finished=converged,
            position=position,
            loss=loss,
            num_stuck=jnp.where(has_collapsed, local_min_limit, num_stuck),
            is_renewed=has_collapsed | is_given_up | ~jnp.isfinite(loss),
            move=move,
            reach=reach,
            told=untold(n * (n - 1)),
            is_design=jnp.array(False),
            archive_position=archive_position[:n],
            archive_loss=archive_loss[:n],
            lowest_collapse=jnp.where(
                has_collapsed, jnp.minimum(loss[0], state.lowest_collapse), state.lowest_collapse
            ),
        )
        chances = jax.random.uniform(child_key, (2, n, n - 1, dim))
        candidates = jnp.where(state.is_renewed[:, None, None], fresh(state, *chances), children(state, *chances))
        return state._replace(candidates=candidates.reshape(-1, dim))

    def chosen(key: Key[Array, ""], state: State) -> State:
        """Take the first set from the design: half of it the best points, the rest at random."""
        order, half = jnp.argsort(state.told.loss), n // 2
        others = order[half:]
        lots = jnp.where(jnp.isfinite(state.told.loss[others]), jax.random.uniform(key, others.shape), 2.0)
        index = jnp.concatenate([order[:half], others[jnp.argsort(lots)[: n - half]]])
        return state._replace(position=state.candidates[index], loss=state.told.loss[index])

    def succeeded(state: State) -> State:
        """Let the best children take their parents' places."""
        losses = state.told.loss.reshape(n, n - 1)
        index, loss = losses.argmin(axis=1), losses.min(axis=1)
        child = state.candidates.reshape(n, n - 1, dim)[jnp.arange(n), index]
        is_better = (loss < state.loss) & ~state.is_renewed
        # Where every new point fails, the old one stays, and others are tried.
        replaces = is_better | (state.is_renewed & jnp.isfinite(loss))
        went_beyond = is_better & beyond(state)[jnp.arange(n), index, 0]
        return state._replace(
            position=jnp.where(replaces[:, None], child, state.position),
            loss=jnp.where(replaces, loss, state.loss),
            num_stuck=jnp.where(replaces, 0, state.num_stuck + 1),
            move=jnp.where(is_better[:, None], child - state.position, 0.0),
            reach=jnp.where(went_beyond, 2.0 * state.reach, 1.0),
        )

    def beyond(state: State) -> Bool[Array, "n partners 1"]:
        """Say which children go beyond their parent."""
        is_moving = go_beyond & (state.move != 0.0).any(axis=1)
        return (is_moving[:, None] & (jnp.arange(n - 1) == n - 2))[:, :, None]

    def children(
        state: State, place: Float[Array, "n partners dim"], lot: Float[Array, "n partners dim"]
    ) -> Float[Array, "n partners dim"]:
        """Draw a child of every pair (Egea 2009, section 3.2)."""
        x = state.position[:, None]
        d = (state.position[partner] - x) * (0.5 if half_distance else 1.0)
        is_beyond, further = beyond(state), x + (state.reach[:, None] * state.move)[:, None]
        low = jnp.where(is_beyond, x, x - d * (1.0 + lean))
        high = jnp.where(is_beyond, further, x + d * (1.0 - lean))
        is_cut = lot >= wall_probability
        low, high = (jnp.where(is_cut, jnp.clip(corner, lower, upper), corner) for corner in (low, high))
        return jnp.clip(low + place * (high - low), lower, upper)

    def fresh(
        state: State, place: Float[Array, "n points dim"], lot: Float[Array, "n points dim"]
    ) -> Float[Array, "n points dim"]:
        """Draw a Latin hypercube for every member, normal like the design where a parameter has no range."""
        quantile = (jnp.argsort(lot, axis=1) + place) / (n - 1)
        in_box = lower + quantile * jnp.where(is_box, upper - lower, 0.0)
        # The normal quantile of 0 is infinite.
        normal = state.centre + state.spread * ndtri(jnp.maximum(quantile, 1e-9))
        return reflected(jnp.where(is_box, in_box, normal).reshape(-1, dim), bounds).reshape(place.shape)

    def width(state: State) -> Float[Array, " dim"]:
        size = jnp.where(is_box, upper - lower, state.spread)
        return jnp.where(size > 0.0, size, 1.0)

    def distinct(position: Float[Array, "k dim"], loss: Float[Array, " k"], state: State):
        """Sort points, those last, with an infinite loss, that are next to a better one."""
        order = jnp.argsort(loss)
        position, loss = position[order], loss[order]
        is_close = (jnp.abs(position[:, None] - position) / width(state)).max(axis=2) < DISTINCT
        loss = jnp.where(jnp.tril(is_close, -1).any(axis=1), jnp.inf, loss)
        order = jnp.argsort(loss)
        return position[order], loss[order]

    def members(state: State) -> tuple[Float[Array, "k dim"], Float[Array, " k"]]:
        position = jnp.concatenate([state.position, state.archive_position])
        return distinct(position, jnp.concatenate([state.loss, state.archive_loss]), state)

    return Optimizer(n * (n - 1), init, lambda state: state.candidates, tell, members)


def _reference_size(dim: int) -> int:
    root = math.ceil((1.0 + math.sqrt(1.0 + 40.0 * dim)) / 2.0)
    return min(max(root + root % 2, SMALLEST_SET), LARGEST_SET)
