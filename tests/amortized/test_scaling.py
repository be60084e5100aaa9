"""The maps between what simulations say and what networks see."""

import jax
import numpy as np
import pytest
from scipy import stats

from kinbayes.amortized import scaling

LOWER, UPPER = np.array([-2.0, -np.inf, 4.0, -np.inf]), np.array([1.0, np.inf, np.inf, np.inf])
SCALES = ("ln", "log10", "log10", "lin")
POINTS = np.random.default_rng(0).normal([0, 0, 5, 10], [0.3, 3.0, 0.2, 2.0], (200, 4))
LOSSES = np.random.default_rng(1).gamma(2.0, 20.0, 3000) - 30.0


@pytest.fixture(scope="module")
def box():
    return scaling.fit_box(LOWER, UPPER, SCALES, POINTS)


def test_the_box_is_the_bounds_else_the_known_range_else_that_of_the_points(box):
    low, high = POINTS.min(axis=0), POINTS.max(axis=0)
    margin = 0.1 * (high - low)
    np.testing.assert_allclose(box.lower, [-2.0, -6.0, 4.0, low[3] - margin[3]])
    np.testing.assert_allclose(box.upper, [1.0, 3.0, high[2] + margin[2], high[3] + margin[3]])


def test_there_and_back_and_the_volume(box):
    np.testing.assert_allclose(scaling.from_box(box, scaling.to_box(box, POINTS)), POINTS, rtol=1e-12)
    slopes = jax.jacobian(lambda u: scaling.to_box(box, u))(np.array(POINTS[0]))
    np.testing.assert_allclose(scaling.log_volume(box), np.linalg.slogdet(slopes)[1], rtol=1e-12)


def test_points_outside_are_counted_by_parameter_and_not_clipped(box):
    is_inside = np.asarray(scaling.is_inside(box, POINTS))
    beyond = (POINTS[:, 1] < -6) | (POINTS[:, 1] > 3)
    assert beyond.any()
    np.testing.assert_array_equal(is_inside, ~beyond & (POINTS[:, 2] >= 4.0))
    assert scaling.num_outside(box, POINTS, "abcd") == {"b": beyond.sum()}
    assert np.asarray(scaling.to_box(box, POINTS))[beyond, 1].max() > 1


def test_walls_stay_walls_in_spite_of_rounding():
    rng = np.random.default_rng(2)
    box = scaling.BoxScaling(-rng.gamma(1.0, size=1000), 0.1 * rng.gamma(1.0, size=1000))
    plain = box.lower + (box.upper - box.lower) * 1.0
    assert (plain > box.upper).any()  # what the guard is for
    walls = scaling.from_box(box, np.array([np.zeros(1000), np.ones(1000)]))
    np.testing.assert_allclose(walls, [box.lower, box.upper], rtol=1e-10)
    back = np.asarray(scaling.to_box(box, walls))
    assert scaling.is_inside(box, walls).all()
    assert back.min() == 0.0
    assert back.max() == 1.0


def test_a_flat_box_is_refused():
    with pytest.raises(ValueError, match="parameter 1 is flat"):
        scaling.fit_box(np.full(2, -np.inf), np.full(2, np.inf), ("lin", "lin"), np.array([[0.0, 3.0], [1.0, 3.0]]))


@pytest.mark.parametrize("kind", scaling.CONDITION_KINDS)
def test_conditions_of_losses_and_back(kind):
    fitted = scaling.fit_condition(np.append(LOSSES, [np.inf, np.nan]), kind)
    assert fitted.name == kind
    c = scaling.to_condition(fitted, LOSSES)
    assert c.min() == 0.0
    assert c.max() == pytest.approx(1.0)
    np.testing.assert_array_equal(np.argsort(LOSSES), np.argsort(c))
    asked = np.linspace(-0.25, 1.25, 301)
    losses = scaling.to_loss(fitted, asked)
    assert (np.diff(losses) > 0).all()
    assert losses[0] < LOSSES.min()
    assert losses[-1] > LOSSES.max()
    np.testing.assert_allclose(scaling.to_condition(fitted, losses), asked, atol=1e-12)
    failed = scaling.to_condition(fitted, np.array([np.inf, np.nan]))
    assert failed[0] == np.inf
    assert np.isnan(failed[1])


def test_conditions_are_what_they_are_called():
    least, greatest = LOSSES.min(), LOSSES.max()
    np.testing.assert_allclose(
        scaling.to_condition(scaling.fit_condition(LOSSES, "minmax"), LOSSES), (LOSSES - least) / (greatest - least)
    )
    np.testing.assert_allclose(
        scaling.to_condition(scaling.fit_condition(LOSSES), LOSSES),
        np.log(1 + LOSSES - least) / np.log(1 + greatest - least),
    )
    ranks = scaling.fit_condition(LOSSES, "rank")
    assert len(ranks.excess) == 1025
    np.testing.assert_allclose(scaling.to_condition(ranks, LOSSES), (stats.rankdata(LOSSES) - 1) / 2999, atol=1 / 1024)


def test_losses_that_many_points_share_have_one_rank():
    ranks = scaling.fit_condition(np.repeat([1.0, 2.0, 5.0], [10, 60, 30]), "rank")
    np.testing.assert_array_equal(ranks.excess, [0.0, 1.0, 4.0])
    np.testing.assert_allclose(scaling.to_condition(ranks, np.array([1.0, 2.0, 5.0])), [0.0, 0.4, 1.0], atol=0.01)


@pytest.mark.parametrize("dim", [2, 40])
def test_the_posterior_is_asked_for_by_its_own_losses(dim):
    fitted = scaling.fit_condition(LOSSES)
    asked = scaling.to_loss(fitted, np.array(scaling.posterior_condition(fitted, dim))) - LOSSES.min()
    of_a_normal = stats.chi2(dim)  # twice the loss
    assert asked == pytest.approx((of_a_normal.mean() + of_a_normal.std()) / 2)


def test_nothing_to_condition_on_is_refused():
    with pytest.raises(ValueError, match="3 losses 2 are finite"):
        scaling.fit_condition(np.array([1.0, 1.0, np.inf]))
    with pytest.raises(ValueError, match="choose from"):
        scaling.fit_condition(LOSSES, "log")
