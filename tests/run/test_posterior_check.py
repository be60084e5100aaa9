"""The solver's errors in a posterior, and simulations that fail beside its draws."""

import json

import numpy as np
import pandas as pd
import pytest

import kinbayes as kb
from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.results.attributes import encode
from kinbayes.run import posterior_check
from kinbayes.run.posterior_check import failed_near_bulk, solver_check

# A limit cycle whose flanks are steep: errors of the solver shift its phase.
OSCILLATOR = Model(
    "oscillator",
    {"x": parse("y"), "y": parse("mu * (1 - x^2) * y - x")},
    {"x": const(2.0), "y": const(0.0), "mu": const(5.0)},
)


def oscillator(rtol, atol):
    rng = np.random.default_rng(0)
    parameters = [kb.Parameter("mu", kb.LogUniform(1.0, 50.0))]
    times = np.linspace(1.0, 30.0, 30)
    values = kb.simulate(OSCILLATOR, times, rtol=1e-10, atol=1e-12)["x"].values + 0.05 * rng.normal(size=30)
    data = pd.DataFrame({"observableId": "x_measured", "time": times, "measurement": values})
    observables = [kb.Observable("x_measured", "x", kb.noise.normal(0.05))]
    return kb.Problem(OSCILLATOR, parameters, observables, data, rtol=rtol, atol=atol)


def exploding():
    """A' = k A² from 1 is infinite at 1/k: after the last measurement where k < 1."""
    model = Model("exploding", {"A": parse("k * A^2")}, {"A": const(1.0), "k": const(0.5)})
    data = pd.DataFrame({"observableId": "y", "time": [0.5, 1.0], "measurement": [1.9, 9.0]})
    return kb.Problem(
        model, [kb.Parameter("k", lower=0.0, upper=2.0)], [kb.Observable("y", "A", kb.noise.normal(10.0))], data
    )


@pytest.fixture(scope="module")
def draws():
    return np.log10(5.0) + 0.002 * np.random.default_rng(1).normal(size=(400, 1))


def test_loose_tolerances_show(draws):
    found = solver_check(oscillator(1e-1, 1e-1), draws)
    assert found["draws"] == 100
    assert found["rtol"] == pytest.approx(1e-4)
    assert found["atol"] == pytest.approx(1e-4)
    assert found["failed"] == 0
    assert found["largest_change"] > 1.0
    assert found["effective_share"] < 0.5


def test_tight_tolerances_change_nothing(draws):
    found = solver_check(oscillator(1e-9, 1e-11), draws)
    assert found["rtol"] == pytest.approx(1e-12)
    assert found["atol"] == pytest.approx(1e-12)
    assert found["failed"] == 0
    assert found["largest_change"] < 1e-3
    assert found["effective_share"] > 0.999
    assert found["k_hat"] < 0.7


def test_the_change_is_that_of_the_log_likelihood(draws):
    loose = oscillator(1e-3, 1e-3)
    few = draws[:7]
    found = solver_check(loose, few)
    tight = loose.with_tolerances(found["rtol"], found["atol"])
    changes = [abs(float(tight.log_likelihood(u)) - float(loose.log_likelihood(u))) for u in few]
    assert found["draws"] == 7
    assert found["largest_change"] == pytest.approx(max(changes), rel=1e-9)


def test_tolerances_are_never_loosened():
    found = solver_check(exploding().with_tolerances(1e-13, 1e-14), np.array([[0.3], [0.4], [0.5], [0.6], [0.7]]))
    assert (found["rtol"], found["atol"]) == (1e-13, 1e-14)
    assert found["largest_change"] == 0.0
    assert found["k_hat"] == 0.0
    assert found["effective_share"] == pytest.approx(1.0)


def test_draws_that_cannot_be_simulated_are_counted():
    explodes = exploding()
    found = solver_check(explodes, np.array([[0.5], [0.6], [1.5], [0.7], [0.8], [0.4]]))
    assert found["draws"] == 6
    assert found["failed"] == 1
    assert found["effective_share"] > 0.99
    hopeless = solver_check(explodes, np.array([[1.5], [1.6]]))
    assert hopeless["failed"] == 2
    assert hopeless["effective_share"] is None


def test_failures_beside_draws_are_seen_and_named():
    draws = np.random.default_rng(2).uniform(0.7, 0.97, size=(500, 1))  # all can be simulated
    problem = exploding()
    assert np.all(problem.evaluate(draws).status == 0)
    found = failed_near_bulk(problem, draws, np.random.default_rng(3))
    assert found["tried"] == 400
    assert 0 < found["failed"] < 100
    assert sum(found["by_reason"].values()) == found["failed"]
    assert set(found["by_reason"]) <= {"step_too_small", "not_finite", "max_steps", "solver_failed"}


def test_a_linear_problem_never_fails():
    problem = kb.read_petab(kb.example("conversion_reaction"))
    draws = np.random.default_rng(4).normal([9.98, 0.91], [0.31, 0.28], size=(500, 2))
    found = failed_near_bulk(problem, draws, np.random.default_rng(5))
    assert found == {"tried": 400, "failed": 0, "by_reason": {}}


def test_points_beyond_a_wall_are_not_tried():
    draws = np.random.default_rng(6).uniform(0.0, 0.1, size=(500, 1))
    problem = exploding()
    found = failed_near_bulk(problem, draws, np.random.default_rng(7))
    assert 300 < found["tried"] < 400
    assert found["failed"] == 0


def test_moved_points_stay_in_the_bulk(monkeypatch):
    # Independent normal draws, moved by 0.3 of a difference: a variance of 1 + 2 * 0.3² = 1.18.
    problem = kb.read_petab(kb.example("conversion_reaction"))
    seen, evaluate = [], problem.evaluate
    monkeypatch.setattr(problem, "evaluate", lambda U: seen.append(U) or evaluate(U))
    monkeypatch.setattr(posterior_check, "MOST_MOVED", 20_000)
    failed_near_bulk(problem, np.random.default_rng(8).normal(size=(20_000, 2)), np.random.default_rng(9))
    error = 1.18 * np.sqrt(2 / 20_000) * np.sqrt(3)  # draws are taken up to several times
    np.testing.assert_allclose(np.var(seen[0], axis=0), 1.18, atol=5 * error)
    assert np.all(np.abs(np.var(seen[0], axis=0) - 1.0) > 5 * error)


def test_attributes_can_hold_both(draws):
    found = solver_check(oscillator(1e-6, 1e-9), draws)
    beside = failed_near_bulk(oscillator(1e-6, 1e-9), draws, np.random.default_rng(0))
    stored = encode({"solver_check": found, "failed_near_bulk": beside})
    assert json.loads(stored["solver_check"]) == found
    assert json.loads(stored["failed_near_bulk"]) == beside
