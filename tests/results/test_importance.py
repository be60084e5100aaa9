import numpy as np
import pytest

from kinbayes.results.importance import importance

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_the_shape_of_pareto_weights(shape):
    found = importance(shape * RNG.exponential(size=20_000) + 700.0)
    # The tail has 3 sqrt(n) = 425 weights; the standard error of a shape fitted to as many is (1 + k) / sqrt(425).
    assert abs(found.k_hat - shape) < 5 * (1 + shape) / np.sqrt(425)


def test_light_tails_are_hardly_smoothed():
    log_weights = 0.3 * RNG.normal(size=5000)
    weights = np.exp(log_weights)
    found = importance(log_weights)
    assert found.k_hat < 0.3
    assert found.effective_share == pytest.approx(weights.sum() ** 2 / (5000 * np.sum(weights**2)), rel=1e-3)
    assert found.effective_share == pytest.approx(np.exp(-(0.3**2)), rel=0.02)  # of lognormal weights
    np.testing.assert_allclose(np.exp(found.log_weights).sum(), 1.0, rtol=1e-12)


def test_equal_weights_have_no_tail():
    for spread in (0.0, 1e-12):
        found = importance(-4000.0 + spread * RNG.normal(size=300))
        assert (found.k_hat, found.effective_share) == (0.0, pytest.approx(1.0, rel=1e-12))


def test_weights_of_zero_stay_zero_and_count_as_draws():
    log_weights = np.where(np.arange(1000) < 250, -np.inf, 0.0)
    found = importance(log_weights)
    assert found.effective_share == pytest.approx(0.75, rel=1e-12)
    mixed = importance(np.where(np.arange(1000) < 250, -np.inf, 0.1 * RNG.normal(size=1000)))
    assert np.isneginf(mixed.log_weights).tolist() == [True] * 250 + [False] * 750
    assert mixed.k_hat < 0.5


def test_a_tail_of_four_draws_tells_nothing():
    assert importance(RNG.normal(size=10)).k_hat == np.inf


def test_what_is_no_weight_is_refused():
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match="1 of 3 log weights are NaN or"):
            importance(np.array([0.0, wrong, 1.0]))
    with pytest.raises(ValueError, match="0 are finite"):
        importance(np.full(3, -np.inf))
