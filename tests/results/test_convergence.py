import numpy as np
import scipy.stats

from kinbayes.results.convergence import diagnose

RNG = np.random.default_rng(11)
INDEPENDENT = RNG.normal(size=(4, 500, 3))


def _rhat(x: np.ndarray) -> float:
    """Gelman and Rubin's R-hat of the chains' halves."""
    halves = x.reshape(2 * x.shape[0], -1)
    n = halves.shape[1]
    within = halves.var(axis=1, ddof=1).mean()
    return np.sqrt((n - 1) / n + halves.mean(axis=1).var(ddof=1) / within)


def _rank_rhat(x: np.ndarray) -> float:
    """Vehtari et al. (2021): the larger of the R-hats of the ranks' normal scores, draws folded or not."""

    def scores(values):
        ranks = scipy.stats.rankdata(values).reshape(values.shape)
        return scipy.stats.norm.ppf((ranks - 0.375) / (values.size + 0.25))

    return max(_rhat(scores(x)), _rhat(scores(np.abs(x - np.median(x)))))


def test_r_hat_is_the_rank_normalised_one():
    draws = INDEPENDENT.copy()
    draws[0, :, 1] += 0.4
    r_hat = diagnose(draws).r_hat
    np.testing.assert_allclose(r_hat, [_rank_rhat(draws[:, :, k]) for k in range(3)], rtol=1e-6)
    assert r_hat[1] > 1.01 > np.delete(r_hat, 1).max()


def test_independent_draws_count_in_full():
    _, bulk, tail = diagnose(INDEPENDENT)
    assert ((bulk > 1500) & (bulk < 2500)).all()
    assert ((tail > 1300) & (tail < 2500)).all()


def test_a_single_chain_is_compared_with_itself():
    steady = INDEPENDENT[:1, :, :1]
    drifting = steady + np.linspace(0.0, 5.0, 500)[None, :, None]
    assert diagnose(steady).r_hat[0] < 1.02
    assert diagnose(drifting).r_hat[0] > 1.3


def test_nothing_is_told_of_few_draws_or_of_chains_that_never_move():
    assert np.isnan(diagnose(INDEPENDENT[:, :7])).all()
    assert np.isnan(diagnose(np.ones((4, 100, 1)))).all()
