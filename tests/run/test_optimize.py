"""Modes from optimizers, against closed forms."""

import numpy as np
import pandas as pd
import pytest

import kinbayes as kb
from kinbayes.results.attributes import attributes


@pytest.fixture(scope="module")
def problem():
    return kb.read_petab(kb.example("conversion_reaction"))


@pytest.fixture(scope="module")
def mode(problem):
    return kb.optimize(problem, starts=4, seed=0, progress=False)


def test_mode_of_a_normal_posterior_is_its_mean(mode):
    # The closed form of the example's README.
    assert float(mode.map_estimate["A_0"][0]) == pytest.approx(9.976119, abs=1e-4)
    assert float(mode.map_estimate["B_0"][0]) == pytest.approx(0.912122, abs=1e-4)
    assert bool(mode.map_estimate["converged"].all())


def test_result_says_how_it_was_made(problem, mode):
    found = attributes(mode)
    assert found["algorithm"] == "multistart"
    assert found["problem_hash"] == problem.hash
    assert found["simulations"] > 0
    assert np.all(np.diff(mode.map_estimate["log_density"].values) <= 0), "best first"
    assert np.all(np.diff(mode.optimization_history["log_density"].values) >= 0)


def test_chains_may_start_around_the_mode(problem, mode):
    idata = kb.sample(problem, "random_walk", draws=10, warmup=10, initial=mode, progress=False)
    assert "R-hat is blind" in attributes(idata)["initial"]


def test_an_improper_posterior_can_be_optimized(problem):
    parameters = [kb.Parameter("A_0", nominal=5.0), kb.Parameter("B_0")]
    data = pd.DataFrame({"observableId": ["A_measured", "B_measured"], "time": [0.0, 0.0], "measurement": [7.0, 2.0]})
    flat = kb.Problem(problem.model, parameters, problem.observables, data)
    mode = kb.optimize(flat, starts=3, progress=False)
    assert float(mode.map_estimate["A_0"][0]) == pytest.approx(7.0, abs=1e-4)
    assert float(mode.map_estimate["B_0"][0]) == pytest.approx(2.0, abs=1e-4)


def test_unknown_optimizer_is_refused(problem):
    with pytest.raises(ValueError, match=r"unknown optimizer 'hill'; choose from \['multistart'\]"):
        kb.optimize(problem, "hill")
