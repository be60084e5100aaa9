"""Predictions at times and in experiments that were not measured."""

import numpy as np
import pytest

import kinbayes as kb

TOTAL = 0.4  # k1 + k2 of the conversion reaction


@pytest.fixture(scope="module")
def problem():
    return kb.read_petab(kb.example("conversion_reaction"))


@pytest.fixture(scope="module")
def idata(problem):
    return kb.sample(problem, "random_walk", draws=200, warmup=500, seed=1, progress=False)


def solution(a_0, b_0, times):
    decay = np.exp(-TOTAL * times)
    return ((0.1 + 0.3 * decay) * a_0 + 0.1 * (1 - decay) * b_0) / TOTAL


def test_states_and_observables_follow_the_closed_form(problem, idata):
    times = np.array([0.0, 0.5, 3.0, 40.0])
    found = kb.predict(idata, problem, times=times, draws=50)
    chosen = np.unique(np.linspace(0, 799, 50).round().astype(int))
    a_0, b_0 = (idata.posterior[n].values.ravel()[chosen, None] for n in ("A_0", "B_0"))
    exact = solution(a_0, b_0, times)
    np.testing.assert_allclose(found["states"]["A"].values[0], exact, rtol=1e-5)
    np.testing.assert_allclose(found["observables"]["A_measured"].values[0], exact, rtol=1e-5)


def test_predictions_add_the_noise(problem, idata):
    found = kb.predict(idata, problem, times=[1.0], draws=800)
    noise = (found["predictions"]["A_measured"] - found["observables"]["A_measured"]).values.ravel()
    # Independent normal noise of sd 0.5: the variance of n draws has relative error sqrt(2/n).
    assert np.var(noise) == pytest.approx(0.25, rel=5 * np.sqrt(2 / noise.size))


def test_an_experiment_of_ones_own(problem, idata):
    no_way_back = kb.Experiment("irreversible", {"k2": 0.0})
    found = kb.predict(idata, problem, experiment=no_way_back, times=[0.0, 2.0], draws=20)
    a = found["states"]["A"].values[0]
    np.testing.assert_allclose(a[:, 1], a[:, 0] * np.exp(-0.6), rtol=1e-5)


def test_a_mode_predicts_one_trajectory(problem):
    mode = kb.optimize(problem, starts=2, progress=False)
    found = kb.predict(mode, problem)
    assert found["states"]["A"].shape == (1, 1, 101)
    assert float(found["states"]["A"].time[-1]) == 16.0


def test_wrong_requests_are_refused(problem, idata):
    with pytest.raises(ValueError, match=r"unknown experiment 'flask'; choose from \['batch'\]"):
        kb.predict(idata, problem, experiment="flask")
    with pytest.raises(ValueError, match="not before 0"):
        kb.predict(idata, problem, times=[-1.0])
    other = kb.read_petab(kb.example("enzyme_progress"))
    with pytest.raises(ValueError, match="it is of another problem"):
        kb.predict(idata, other)
