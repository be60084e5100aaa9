"""Measurement densities and draws against SciPy."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kinbayes.model.codegen import to_jax
from kinbayes.model.expressions import symbol
from kinbayes.problem import noise
from kinbayes.problem.noise import Noise

LN10 = math.log(10)
PREDICTION = np.array([0.3, 2.0, 7.5])

# Noise, its settings' values, and SciPy's distribution of a measurement around a prediction.
CASES = {
    "normal": (noise.normal("s"), (0.4,), lambda m: stats.norm(m, 0.4)),
    "normal_log": (noise.normal("s", "log"), (0.4,), lambda m: stats.lognorm(0.4, scale=m)),
    "normal_log10": (noise.normal("s", "log10"), (0.4,), lambda m: stats.lognorm(0.4 * LN10, scale=m)),
    "log_normal": (noise.log_normal("s"), (0.4,), lambda m: stats.lognorm(0.4, scale=m)),
    "laplace": (noise.laplace("s"), (0.4,), lambda m: stats.laplace(m, 0.4)),
    "laplace_log": (noise.laplace("s", "log"), (0.4,), lambda m: stats.loglaplace(1 / 0.4, scale=m)),
    "laplace_log10": (
        noise.laplace("s", "log10"),
        (0.2,),
        lambda m: stats.loglaplace(1 / (0.2 * LN10), scale=m),
    ),
    "student_t": (noise.student_t("s", "nu"), (0.4, 3.5), lambda m: stats.t(3.5, m, 0.4)),
    "negative_binomial": (
        noise.negative_binomial("r"),
        (2.5,),
        lambda m: stats.nbinom(2.5, 2.5 / (2.5 + m)),
    ),
}
CONTINUOUS = [name for name in CASES if name != "negative_binomial"]


def log_density(model, measurement, prediction, settings):
    names = ["y", "m", *(f"setting {k}" for k in range(len(settings)))]
    function = to_jax([model.log_density(*map(symbol, names))], names)
    return np.asarray(function(*map(jnp.asarray, (measurement, prediction, *settings)))[0])


@pytest.mark.parametrize("name", CONTINUOUS)
def test_density_agrees_with_scipy(name):
    model, settings, distribution = CASES[name]
    frozen = distribution(PREDICTION)
    measurement = frozen.ppf(np.array([[0.02], [0.3], [0.5], [0.77], [0.99]]))
    found = log_density(model, measurement, PREDICTION, settings)
    np.testing.assert_allclose(found, frozen.logpdf(measurement), rtol=1e-11, atol=1e-11)


def test_count_density_agrees_with_scipy():
    model, settings, distribution = CASES["negative_binomial"]
    counts = np.arange(120.0)[:, None]
    found = log_density(model, counts, PREDICTION, settings)
    np.testing.assert_allclose(found, distribution(PREDICTION).logpmf(counts), rtol=1e-11)
    np.testing.assert_allclose(np.exp(found).sum(axis=0), 1, rtol=1e-9)


@pytest.mark.parametrize(("transformation", "factor"), [("log", 1.0), ("log10", LN10)])
def test_density_on_a_logarithm_is_one_of_the_measurement(transformation, factor):
    # Left out, the Jacobian would change every comparison with noise on another transformation.
    y, m, s = 3.0, 2.0, 0.4
    found = log_density(noise.normal("s", transformation), y, m, (s,))
    on_logarithm = stats.norm.logpdf(np.log(y) / factor, np.log(m) / factor, s)
    assert found == pytest.approx(on_logarithm - np.log(y * factor), rel=1e-12)
    assert abs(found - on_logarithm) > 0.5


@pytest.mark.parametrize("name", CONTINUOUS)
def test_draws_follow_the_density(name):
    model, settings, distribution = CASES[name]
    prediction = np.tile(PREDICTION, (2000, 1))
    drawn = model.draw(np.random.default_rng(5), prediction, *map(np.asarray, settings))
    uniform = distribution(PREDICTION).cdf(drawn).ravel()
    assert stats.kstest(uniform, "uniform").pvalue > 1e-4
    assert stats.kstest(uniform**1.15, "uniform").pvalue < 1e-4  # what a test of this size can tell apart


def test_counts_drawn_have_the_stated_mean_and_variance():
    model, (r,), distribution = CASES["negative_binomial"]
    num_draws, mean = 20_000, 7.5
    drawn = model.draw(np.random.default_rng(6), np.full(num_draws, mean), np.asarray(r))
    assert np.all((drawn >= 0) & (drawn == np.round(drawn)))
    variance = mean + mean**2 / r
    assert abs(drawn.mean() - mean) < 5 * np.sqrt(variance / num_draws)
    fourth = distribution(mean).stats("k") + 3
    assert abs(drawn.var() - variance) < 5 * variance * np.sqrt((fourth - 1) / num_draws)
    assert abs(drawn.var() - mean) > 5 * variance * np.sqrt((fourth - 1) / num_draws)  # it is no Poisson


def test_a_prediction_without_a_logarithm_gives_no_draw():
    drawn = noise.log_normal("s").draw(np.random.default_rng(0), np.array([-1.0, 1.0]), np.asarray(0.1))
    assert np.isnan(drawn[0])
    assert np.isfinite(drawn[1])


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match="unknown noise 'cauchy'; choose from"):
        Noise("cauchy", ("1",))
    with pytest.raises((ValueError, TypeError), match="transformation"):  # the annotation's check comes first
        noise.normal("s", "ln")


def test_numbers_become_formulas():
    assert noise.normal(0.5) == noise.normal("0.5")
    assert noise.student_t(1.0, 4.0).formulas == ("1.0", "4.0")


# ---- limits

CENSORABLE = [name for name, (model, *_) in CASES.items() if model.is_censorable]
SIDES = [pytest.param(-1.0, "cdf", id="below"), pytest.param(1.0, "sf", id="above")]


def log_mass(model, side, limit, prediction, settings):
    names = ["side", "y", "m", *(f"setting {k}" for k in range(len(settings)))]
    function = to_jax([model.log_mass(*map(symbol, names))], names)
    return np.asarray(function(*map(jnp.asarray, (side, limit, prediction, *settings)))[0])


@pytest.mark.parametrize(("side", "tail"), SIDES)
@pytest.mark.parametrize("name", CENSORABLE)
def test_mass_beyond_a_limit_agrees_with_scipy(name, side, tail):
    model, settings, distribution = CASES[name]
    frozen = distribution(PREDICTION)
    limit = frozen.ppf(np.array([[1e-9], [0.02], [0.3], [0.5], [0.77], [0.99]]))
    expected = getattr(frozen, tail)(limit)
    np.testing.assert_allclose(np.exp(log_mass(model, side, limit, PREDICTION, settings)), expected, rtol=1e-8)
    density = np.exp(log_density(model, limit, PREDICTION, settings))
    steps = [log_mass(model, side, limit * (1 + s * 1e-6), PREDICTION, settings) for s in (1, -1)]
    slope = (np.exp(steps[0]) - np.exp(steps[1])) / (2e-6 * limit)
    # The Jacobian of a transformation is in the density alone, of which this is the integral. At the median, where a
    # Laplace density has its kink, differences are not that exact.
    np.testing.assert_allclose(slope[[1, 2, 4, 5]], -side * density[[1, 2, 4, 5]], rtol=1e-6)


@pytest.mark.parametrize("far", [30.0, 300.0, 1e4])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_mass_keeps_its_digits_far_out(side, far):
    deviation = side * far  # of the limit: it lies on the other side
    normal, laplace = noise.normal("s"), noise.laplace("s")
    np.testing.assert_allclose(log_mass(normal, side, deviation, 0.0, (1.0,)), stats.norm.logcdf(-far), rtol=1e-13)
    np.testing.assert_allclose(log_mass(laplace, side, deviation, 0.0, (1.0,)), -far - np.log(2), rtol=1e-15)
    # What is all but certain
    np.testing.assert_allclose(log_mass(laplace, side, -deviation, 0.0, (1.0,)), -np.exp(-far) / 2, rtol=1e-13)
    if far == 30.0:
        found = log_mass(normal, side, -deviation, 0.0, (1.0,))
        np.testing.assert_allclose(found, -stats.norm.sf(far), rtol=1e-12)


def test_what_censoring_needs():
    assert {name for name in CASES if name not in CENSORABLE} == {"student_t", "negative_binomial"}


@pytest.mark.parametrize("name", ["normal", "log_normal", "laplace", "student_t", "negative_binomial"])
def test_a_setting_that_is_not_positive_gives_no_draw_there_and_draws_elsewhere(name):
    model = CASES[name][0]
    settings = [np.array([2.0, -0.1, 2.0, np.nan])] * len(CASES[name][1])
    drawn = model.draw(np.random.default_rng(0), np.array([1.0, 1.0, 1.0, 1.0]), *settings)
    assert list(np.isfinite(drawn)) == [True, False, True, False]
