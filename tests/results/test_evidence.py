"""Stepping stones on normal models whose evidence is known, with draws that follow each other."""

import numpy as np
import pytest
from scipy import stats

from kinbayes.results.evidence import log_evidence
from tests.results.runs import run

DIM, NOISE, MEASURED = 3, 0.3, 1.5  # parameters of standard normal priors, each measured once
BETA = np.linspace(0.0, 1.0, 10) ** (1 / 0.3)  # the spacing of Xie et al. (2011)
EXACT = DIM * stats.norm(0.0, np.hypot(1.0, NOISE)).logpdf(MEASURED)


def rungs(rng, *, chains=4, draws=600, memory=0.0, shared=0.0):
    """Draw the log likelihoods of the rungs: autoregressive draws of each rung's posterior, which share innovations."""
    shape = (chains, draws, len(BETA), DIM)
    innovations = np.sqrt(1 - shared) * rng.normal(size=shape) + np.sqrt(shared) * rng.normal(size=(*shape[:2], 1, DIM))
    innovations[:, 1:] *= np.sqrt(1 - memory**2)
    for t in range(1, draws):
        innovations[:, t] += memory * innovations[:, t - 1]
    variance = 1 / (1 + BETA / NOISE**2)
    mean = variance * BETA * MEASURED / NOISE**2
    position = mean[:, None] + np.sqrt(variance)[:, None] * innovations
    return stats.norm(position, NOISE).logpdf(MEASURED).sum(axis=-1)


def stored(log_likelihood, beta=BETA):
    shape = log_likelihood.shape
    statistics = {"beta": np.broadcast_to(beta, shape), "rung_log_likelihood": log_likelihood}
    return run({"k": np.zeros(shape[:2])}, statistics=statistics)


@pytest.mark.parametrize(("memory", "shared"), [(0.0, 0.0), (0.9, 0.0), (0.8, 0.5)])
def test_the_exact_evidence_lies_within_the_error_as_often_as_it_should(memory, shared):
    rng = np.random.default_rng(1)
    found = [log_evidence(stored(rungs(rng, memory=memory, shared=shared))) for _ in range(100)]
    scores = np.array([(one.value - EXACT) / one.error for one in found])
    # The standard error of a standard deviation of 100 normal numbers is 0.07, and that of their mean 0.1.
    assert 0.65 < scores.std() < 1.35
    assert abs(scores.mean()) < 0.5
    assert 0.55 < np.mean(np.abs(scores) < 1) < 0.9  # 68 %, or more where chains scatter wider by chance
    if memory:  # negative control: an error that takes draws for independent
        assert (scores * [one.error for one in found] / naive(rng, memory, shared)).std() > 1.5


def naive(rng, memory, shared):
    log_weights = np.diff(BETA) * rungs(rng, memory=memory, shared=shared)[..., :-1]
    weights = np.exp(log_weights)
    return (weights / weights.mean(axis=(0, 1))).sum(axis=-1).std() / np.sqrt(weights[..., 0].size)


def test_biased_draws_are_told_from_exact_ones():
    rng = np.random.default_rng(2)
    log_likelihood = rungs(rng)
    exact = log_evidence(stored(log_likelihood))
    assert abs(exact.value - EXACT) < 5 * exact.error
    log_likelihood[:, :, 3] += 0.5 / np.diff(BETA)[3]  # one weight of nine
    biased = log_evidence(stored(log_likelihood))
    assert biased.value - exact.value == pytest.approx(0.5, rel=1e-9)
    assert abs(biased.value - EXACT) > 5 * biased.error


def test_chains_that_disagree_raise_the_error():
    log_likelihood = rungs(np.random.default_rng(3))
    agreeing = log_evidence(stored(log_likelihood))
    apart = log_likelihood + np.array([-2.0, 0.0, 0.0, 2.0])[:, None, None] * np.linspace(0, 1, len(BETA))
    log_weights = np.diff(BETA) * apart[..., :-1]
    own = np.log(np.exp(log_weights).mean(axis=1)).sum(axis=-1)
    found = log_evidence(stored(apart))
    assert found.error >= (1 - 1e-9) * own.std(ddof=1) / 2 > 5 * agreeing.error


def test_the_share_of_the_prior_that_fails_lowers_the_evidence():
    rng = np.random.default_rng(4)
    log_likelihood = rungs(rng, draws=2000)
    log_likelihood[:, :, 0] = np.where(rng.uniform(size=(4, 2000)) < 0.75, -np.inf, log_likelihood[:, :, 0])
    found = log_evidence(stored(log_likelihood))
    assert abs(found.value - (EXACT + np.log(0.25))) < 5 * found.error


def test_equal_likelihoods_need_no_error():
    found = log_evidence(stored(np.full((2, 10, 4), -1234.5), beta=np.array([0.0, 0.2, 0.6, 1.0])))
    assert found.value == pytest.approx(-1234.5, rel=1e-12)
    assert found.error < 1e-9


def test_runs_that_tell_no_evidence_are_refused():
    log_likelihood = rungs(np.random.default_rng(5), draws=20)
    with pytest.raises(ValueError, match=r'sampler="parallel_tempering"'):
        log_evidence(run({"k": np.zeros((2, 20))}))
    with pytest.raises(ValueError, match="8 or more"):
        log_evidence(stored(log_likelihood[:, :7]))
    moving = np.broadcast_to(BETA, log_likelihood.shape).copy()
    moving[:, 10:, 1] *= 1.1
    with pytest.raises(ValueError, match="not the same in all"):
        log_evidence(stored(log_likelihood, beta=moving))
    with pytest.raises(ValueError, match="rise from 0"):
        log_evidence(stored(log_likelihood, beta=0.5 * BETA))
    wrong = log_likelihood.copy()
    wrong[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 800"):
        log_evidence(stored(wrong))
    wrong[:, :, 2] = wrong[0, 0, 0] = -np.inf
    with pytest.raises(ValueError, match=r"no draw of the rung with beta 0\.00665"):
        log_evidence(stored(wrong))
