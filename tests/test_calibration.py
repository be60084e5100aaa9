"""Simulation-based calibration of the samplers, and of the calibration."""

import numpy as np
import pytest

from tests import calibration

ALPHA = 0.001  # chance that a calibrated sampler fails one run of the calibration, over all its quantities and tests
SAMPLER = "adaptive_metropolis"  # the cheapest
REPLICATES = 60


def told(ranks: calibration.Ranks, verdict: calibration.Verdict) -> str:
    """The p-values and coverages of every quantity, for a message."""
    rows = zip(ranks.names, verdict.p_uniform, verdict.coverage, strict=True)
    lines = [f"{name}: p {p:.3g}, coverage {np.round(coverage, 3)}" for name, p, coverage in rows]
    return "\n".join([*lines, f"all: p {verdict.p:.3g}, unconverged {ranks.unconverged}"])


# ---- the tests of ranks


def test_uniform_ranks_fail_as_often_as_stated():
    rng = np.random.default_rng(0)
    runs = 400
    p = np.array([calibration.judge(rng.integers(calibration.KEPT + 1, size=(60, 3))).p for _ in range(runs)])
    assert (p < 0.05).mean() < 0.05 + 5 * np.sqrt(0.05 * 0.95 / runs)
    assert (p < 0.05).any()


@pytest.mark.parametrize(
    ("sd", "shift", "is_found"),
    [(1.0, 0.0, False), (1.4, 0.0, True), (1 / 1.4, 0.0, True), (1.0, 0.5, True), (1.0, -0.5, True)],
)
def test_draws_of_the_wrong_width_or_place_are_found(sd, shift, is_found):
    # Of a normal posterior in units of its standard deviation.
    rng = np.random.default_rng(1)
    truths = rng.normal(size=(200, 1))
    draws = rng.normal(shift, sd, size=(200, calibration.KEPT, 1))
    ranks = [calibration.rank(truth, drawn, rng) for truth, drawn in zip(truths, draws, strict=True)]
    assert (calibration.judge(np.array(ranks)).p < ALPHA) == is_found


def test_intervals_have_exactly_their_levels():
    every = np.arange(calibration.KEPT + 1)[:, None]
    np.testing.assert_array_equal(calibration.judge(every).coverage, [calibration.LEVELS])
    assert calibration.judge(every).p == 1


def test_ties_are_broken_at_random():
    rng = np.random.default_rng(2)
    draws = np.array([[0.0, 1.0]] * 2 + [[1.0, 1.0]] * 2 + [[3.0, 1.0]])
    ranks = np.array([calibration.rank(np.array([1.0, 2.0]), draws, rng) for _ in range(200)])
    assert set(ranks[:, 0]) == {2, 3, 4}
    assert set(ranks[:, 1]) == {5}


# ---- samplers


@pytest.fixture(scope="module")
def conversion():
    return calibration.conversion()


def calibrated(problem, change=lambda target: target):
    sample = calibration.sampling(SAMPLER, calibration.SIZES[SAMPLER]["conversion_reaction"], change)
    return calibration.calibrate(problem, sample, replicates=REPLICATES, seed=1)


def test_a_sampler_is_calibrated(conversion):
    ranks = calibrated(conversion)
    verdict = calibration.judge(ranks.values)
    assert ranks.unconverged == 0
    assert verdict.p > ALPHA, told(ranks, verdict)


@pytest.mark.parametrize("mistake", ["wrong Jacobian", "wrong sign"])
def test_a_wrong_density_is_found(conversion, mistake):
    ranks = calibrated(conversion, calibration.MISTAKES[mistake])
    assert ranks.unconverged == 0
    assert calibration.judge(ranks.values).p < ALPHA
    assert calibration.judge(ranks.values[:, :-1]).p < ALPHA  # by the parameters alone


def test_a_sampler_of_the_prior_is_found_by_the_log_likelihood_alone(conversion):
    ranks = calibrated(conversion, calibration.MISTAKES["prior"])
    assert ranks.unconverged == 0
    assert ranks.names[-1] == "log_likelihood"
    assert calibration.judge(ranks.values[:, :-1]).p > ALPHA
    assert calibration.judge(ranks.values[:, -1:]).p < ALPHA


def test_every_sampler_has_a_size_for_every_problem():
    from kinbayes.samplers import SAMPLERS

    assert calibration.SIZES.keys() == (SAMPLERS.keys() - {"nuts"}) | {"nuts_nutpie", "nuts_numpyro"}
    assert all(sizes.keys() == calibration.PROBLEMS.keys() for sizes in calibration.SIZES.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", calibration.SIZES)
@pytest.mark.parametrize("model", calibration.PROBLEMS)
def test_every_sampler_is_calibrated(model, name):
    sample = calibration.sampling(name, calibration.SIZES[name][model])
    ranks = calibration.calibrate(calibration.PROBLEMS[model](), sample, replicates=200, seed=2)
    verdict = calibration.judge(ranks.values)
    print(f"{name}, {model}\n{told(ranks, verdict)}")
    assert len(ranks.values) >= 160
    assert verdict.p > ALPHA, told(ranks, verdict)
