import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kinbayes.optimizers.base import Bounds, Evaluation
from kinbayes.optimizers.initial import latin_hypercube
from kinbayes.optimizers.scatter_search import scatter_search

BOX = Bounds(np.full(2, -4.0), np.full(2, 4.0))
OPEN = Bounds(np.full(2, -np.inf), np.full(2, np.inf))
DESIGN = latin_hypercube(1, 90, *BOX)


def sphere(U):
    return jnp.sum((U - 0.3) ** 2, axis=1)


def two_wells(U):
    """Two minima, of loss 0 and 0.1, at (3, 0) and (-3, 0)."""
    right, left = (U[:, 0] - 3.0) ** 2, (U[:, 0] + 3.0) ** 2 + 0.1
    return jnp.minimum(right, left) + U[:, 1] ** 2


@functools.cache
def compiled_tell(settings):
    """A compiled `tell` of losses, which all tests of the same settings share."""
    return jax.jit(
        lambda bounds, key, state, loss: scatter_search(bounds, **dict(settings)).tell(key, state, Evaluation(loss))
    )


def searched(loss_fn, bounds, num_rounds, *, seed=0, design=DESIGN, **settings):
    """The optimizer and its states after each of some rounds, until it has finished."""
    bounds = Bounds(*map(jnp.asarray, bounds))
    optimizer, tell = scatter_search(bounds, **settings), compiled_tell(tuple(settings.items()))
    key = jax.random.key(seed)
    states = [optimizer.init(key, jnp.asarray(design))]
    while len(states) <= num_rounds and not states[-1].finished:
        loss = loss_fn(states[-1].candidates)
        states.append(tell(bounds, jax.random.fold_in(key, len(states)), states[-1], loss))
    return optimizer, states


@pytest.mark.parametrize(("dim", "size"), [(1, 10), (9, 10), (10, 12), (25, 18), (200, 18)])
def test_the_reference_set_grows_with_the_dimension(dim, size):
    bounds = Bounds(jnp.zeros(dim), jnp.ones(dim))
    assert scatter_search(bounds).num_points == size * (size - 1)


def test_a_set_too_small_is_refused():
    with pytest.raises(ValueError, match="reference_size is 3"):
        scatter_search(BOX, reference_size=3)


def test_the_first_set_is_half_the_best_of_the_design_and_half_others():
    _, (_, state) = searched(sphere, BOX, 1)
    ranks = np.argsort(np.argsort(sphere(DESIGN)))
    index = np.array([np.flatnonzero((member == DESIGN).all(axis=1)).item() for member in np.asarray(state.position)])
    assert sorted(ranks[index])[:5] == [0, 1, 2, 3, 4]
    assert len(set(index)) == 10
    assert max(ranks[index]) > 20
    np.testing.assert_allclose(state.loss, np.sort(sphere(DESIGN)[index]), rtol=1e-12)


@pytest.mark.parametrize("half_distance", [False, True])
def test_children_are_drawn_from_boxes_that_lean_to_better_partners(half_distance):
    runs = [searched(sphere, OPEN, 1, seed=seed, half_distance=half_distance)[1] for seed in range(40)]
    shares = []
    for _, state in runs:
        x, children = np.asarray(state.position), np.asarray(state.candidates)
        for p in range(10):
            for h, child in zip([h for h in range(10) if h != p], children.reshape(10, 9, 2)[p], strict=True):
                d = (x[h] - x[p]) * (0.5 if half_distance else 1.0)
                alpha, beta = np.sign(h - p), (abs(h - p) - 1) / 8
                low, high = x[p] - d * (1 + alpha * beta), x[p] + d * (1 - alpha * beta)
                shares.append((child - low) / (high - low))
    assert np.min(shares) > -1e-12
    assert np.max(shares) < 1.0 + 1e-12
    quantiles = np.quantile(shares, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles, [0.1, 0.5, 0.9], atol=5 * 0.5 / np.sqrt(np.size(shares)))


def test_a_child_that_replaced_its_parent_goes_beyond():
    _, states = searched(sphere, OPEN, 8)
    moved, far = 0, 0
    for state in states[2:]:
        children = np.asarray(state.candidates).reshape(10, 9, 2)
        for x, move, reach, child in zip(state.position, state.move, state.reach, children[:, -1], strict=True):
            if np.any(move):
                share = (child - x) / (reach * move)
                assert np.all((share >= 0.0) & (share <= 1.0))
                moved, far = moved + 1, far + (reach > 1.0)
    assert moved > 30
    assert far > 0


def test_a_parent_without_better_children_is_replaced_by_the_best_of_a_latin_hypercube():
    """On a plain nobody ever has a better child."""
    _, states = searched(lambda U: jnp.zeros(len(U)), BOX, 5, local_min_limit=2)
    assert not states[2].is_renewed.any()
    assert states[3].is_renewed.all()
    rows = np.asarray(states[3].candidates).reshape(10, 9, 2)
    strata = np.sort(np.floor((rows + 4.0) / 8.0 * 9).astype(int), axis=1)
    np.testing.assert_array_equal(strata, np.broadcast_to(np.arange(9)[:, None], (10, 9, 2)))
    assert np.isfinite(states[4].loss).all()
    for member in np.asarray(states[4].position):
        assert (rows == member).all(axis=2).any()
    # Those that were given up are kept.
    archived = np.asarray(states[3].archive_position)[np.isfinite(states[3].archive_loss)]
    for member in archived:
        assert (np.asarray(states[2].position) == member).all(axis=1).any()


def test_points_from_anywhere_have_the_designs_spread_where_it_is_open():
    bounds = Bounds(np.array([-np.inf, 0.0]), np.full(2, np.inf))
    design = np.random.default_rng(0).normal((7.0, 0.0), (0.1, 2.0), size=(90, 2))
    design[:, 1] = abs(design[:, 1])
    _, states = searched(lambda U: jnp.full(len(U), jnp.nan), bounds, 30, design=design)
    drawn = np.concatenate([state.candidates for state in states[1:]])
    assert drawn[:, 1].min() >= 0.0
    # The design's own mean and standard deviation; 2,700 draws, stratified by nines.
    np.testing.assert_allclose(drawn[:, 0].mean(), design[:, 0].mean(), atol=5 * 0.1 / np.sqrt(2700))
    np.testing.assert_allclose(drawn[:, 0].std(), design[:, 0].std(), rtol=5 / np.sqrt(2 * 2700))
    assert drawn[:, 1].max() > 4.0


def test_a_search_has_converged_when_two_sets_drew_together_at_the_same_loss():
    _, states = searched(sphere, BOX, 500)
    collapses = [i for i, state in enumerate(states) if state.lowest_collapse != states[i - 1].lowest_collapse]
    assert states[-1].converged
    assert len(collapses) >= 1
    assert collapses[0] < len(states) - 10
    # The set was made anew.
    after = states[collapses[0] + 1]
    assert np.ptp(np.asarray(after.position), axis=0).min() > 1.0
    np.testing.assert_allclose(states[-1].best_position, 0.3, atol=1e-5)


@pytest.mark.parametrize(("num_rounds", "at_least"), [(1, 5), (150, 1)])
def test_members_are_distinct_points_best_first(num_rounds, at_least):
    optimizer, states = searched(two_wells, BOX, num_rounds)
    position, loss = map(np.asarray, optimizer.members(states[-1]))
    assert position.shape == (20, 2)
    position, loss = position[np.isfinite(loss)], loss[np.isfinite(loss)]
    assert len(loss) >= at_least
    assert np.all(np.diff(loss) >= 0.0)
    np.testing.assert_allclose(two_wells(position), loss, atol=1e-12)
    assert loss[0] == states[-1].best_loss
    distances = np.abs(position[:, None] - position).max(axis=2) + 8.0 * np.eye(len(position))
    assert distances.min() > 0.01 * 8.0


@pytest.mark.parametrize("seed", range(4))
def test_an_optimum_in_a_corner_is_reached_exactly(seed):
    _, states = searched(lambda U: U[:, 0] - U[:, 1], BOX, 60, seed=seed)
    np.testing.assert_array_equal(states[-1].best_position, [-4.0, 4.0])


def test_a_search_survives_a_design_of_which_one_point_can_be_evaluated():
    def rare(U):
        return jnp.where(jnp.max(jnp.abs(U - jnp.asarray(DESIGN[17])), axis=1) < 0.2, sphere(U), jnp.nan)

    _, states = searched(rare, BOX, 100)
    assert np.isfinite(states[1].best_loss)
    assert np.isfinite(states[1].loss).sum() == 1
    assert np.isfinite(states[-1].loss).sum() > 1
    assert states[-1].best_loss < states[1].best_loss


def test_a_search_of_nothing_but_failures_goes_on():
    _, states = searched(lambda U: jnp.full(len(U), jnp.nan), BOX, 30)
    assert np.isinf(states[-1].best_loss)
    assert not states[-1].finished
    assert abs(states[-1].candidates).max() <= 4.0
