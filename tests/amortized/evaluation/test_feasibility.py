"""Shares of points that can be simulated, against known ones."""

import numpy as np
import pytest
from scipy.stats import norm

from kinbayes.amortized.evaluation.baselines import baselines, best_quarter
from kinbayes.amortized.evaluation.feasibility import feasibility
from tests.amortized.evaluation.problems import problem, proposal

PROBLEM = problem()


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(0)
    u = rng.uniform([-4.0, 0.5], [4.0, 2.5], size=(400, 2))
    return feasibility(PROBLEM, proposal(PROBLEM), u, u[:, 0] ** 2 / 2, num=200).set_index("source")


def test_generated_points_fail_where_they_cannot_be_simulated_or_are_outside(found):
    """A quarter of h is below 0. Conditions below 0 and above 1 put k = 4c within the bounds, -4 to 4, or outside."""
    generated = found.loc["generated"]
    inside = generated[generated.condition <= 1]
    np.testing.assert_allclose(inside.share, 0.75)
    np.testing.assert_array_equal(inside.NOT_FINITE, 50)
    outside = generated[generated.condition > 1]
    assert len(outside) == 2
    assert (outside.OUTSIDE_BOUNDS == 200).all()
    assert (outside.feasible == 0).all()
    np.testing.assert_array_equal(generated.is_extrapolated, (generated.condition < 0) | (generated.condition > 1))


def test_intervals_are_wilsons(found):
    row, z = found.loc["generated"].iloc[0], norm.ppf(0.975)
    n, p = 200, 0.75
    middle, half = (p + z**2 / (2 * n)) / (1 + z**2 / n), np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert (row.lower, row.upper) == pytest.approx((middle - z * half, middle + z * half))


def test_baselines_have_their_own_shares(found):
    # Of 200 points a share of 3/4 has a standard deviation of .03; a Latin hypercube has it to the point.
    for source in ("uniform", "prior"):
        assert found.share[source] == pytest.approx(0.75, abs=5 * 0.031)
    assert found.share["latin_hypercube"] == pytest.approx(0.75, abs=0.01)
    assert found.share["training"] == found.share["best_quarter_of_training"] == 1.0
    assert found.share["jittered_best"] > 0.95


def test_the_best_quarter_is_the_best(found):
    u, loss = np.arange(8.0)[:, None], np.array([3.0, np.inf, 1.0, 2.0, np.inf, 0.0, 4.0, 5.0])
    np.testing.assert_array_equal(best_quarter(u, loss), [[5.0], [2.0]])


def test_a_normal_fit_has_the_best_quarters_moments():
    rng = np.random.default_rng(0)
    best = rng.multivariate_normal([0.5, 1.5], [[0.04, 0.03], [0.03, 0.09]], size=2000)
    points = dict(baselines(PROBLEM, best, 20_000, rng))["gaussian_of_best_quarter"]
    np.testing.assert_allclose(points.mean(axis=0), best.mean(axis=0), atol=5 * 0.3 / np.sqrt(20_000))
    np.testing.assert_allclose(np.cov(points.T), np.cov(best.T), atol=0.005)
