"""Whether what was asked for comes out, with networks that obey and that do not."""

import numpy as np
import pytest

from kinbayes.amortized.evaluation.fidelity import fidelity, losses
from tests.amortized.evaluation.problems import problem, proposal

PROBLEM = problem()


def test_a_network_that_obeys_has_slope_one():
    found = fidelity(PROBLEM, proposal(PROBLEM), replicates=8)
    assert found.spearman == pytest.approx(1.0, abs=0.01)
    assert found.slope == pytest.approx(1.0, abs=0.02)
    assert found.intercept == pytest.approx(0.0, abs=0.01)
    assert found.num_failed == 11 * 2  # of each eight, two have no simulation
    asked = found.table[~found.table.is_extrapolated]
    assert len(asked) == 11 * 8
    assert set(found.table.condition[found.table.is_extrapolated]) == {-0.25, -0.125, 1.125, 1.25}


def test_a_network_that_ignores_what_is_asked_for_has_slope_zero():
    found = fidelity(PROBLEM, proposal(PROBLEM, obeys=False), replicates=8)
    assert np.isnan(found.slope) or found.slope == pytest.approx(0.0, abs=1e-9)


def test_nothing_that_can_be_simulated_gives_no_numbers():
    found = fidelity(PROBLEM, proposal(PROBLEM, obeys=False, share=2.0), replicates=4)
    assert np.isnan(found.slope)
    assert found.num_failed == 11 * 4
    assert np.isinf(found.table.loss).all()


def test_losses_are_the_problems():
    points = np.array([[1.0, 1.0], [1.0, -0.5], [9.0, 1.0]])
    found = losses(PROBLEM, points)
    assert found[0] == pytest.approx(-float(PROBLEM.log_density(points[0])))
    assert np.isinf(found[1:]).all()
