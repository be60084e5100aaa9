"""Priors against SciPy: densities with respect to du, their integrals, and draws."""

import itertools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from kinbayes.problem import parameters as maps
from kinbayes.problem.log_prior import forms, prior_data, prior_function
from kinbayes.problem.parameters import Parameter
from kinbayes.problem.priors import (
    Cauchy,
    ChiSquare,
    Exponential,
    Gamma,
    Laplace,
    LogLaplace,
    LogNormal,
    LogUniform,
    Normal,
    Rayleigh,
    Uniform,
)

LOG_FACTOR = {"ln": 1.0, "log10": math.log(10)}

PRIORS = {
    "uniform": Uniform(0.2, 3.0),
    "log_uniform": LogUniform(0.01, 100.0),
    "normal": Normal(1.0, 0.7),
    "log_normal": LogNormal(0.3, 0.8),
    "laplace": Laplace(1.0, 0.4),
    "log_laplace": LogLaplace(0.3, 0.4),
    "cauchy": Cauchy(1.0, 0.4),
    "chi_square": ChiSquare(3.0),
    "exponential": Exponential(1.5),
    "gamma": Gamma(2.5, 0.6),
    "gamma_with_a_pole": Gamma(0.8, 1.5),
    "rayleigh": Rayleigh(0.9),
    "uniform_scaled": Uniform(-1.5, 2.0, on="scaled"),
    "normal_scaled": Normal(0.3, 0.6, on="scaled"),
    "laplace_scaled": Laplace(0.3, 0.5, on="scaled"),
}
BOUNDS = {"open": (None, None), "truncated": (0.4, 2.5)}
CASES = [
    pytest.param(prior, scale, bounds, id=f"{name}-{scale}-{which}")
    for (name, prior), scale, (which, bounds) in itertools.product(
        PRIORS.items(), ("lin", "ln", "log10"), BOUNDS.items()
    )
]


def parameter_of(prior, scale, bounds):
    return Parameter("theta", prior, scale=scale, lower=bounds[0], upper=bounds[1])


def log_densities(parameter, u):
    function, data = prior_function(forms([parameter])), prior_data([parameter])
    return np.asarray(jax.jit(jax.vmap(function, in_axes=(0, None)))(jnp.asarray(u)[:, None], data))


def truncated_cdf(prior, low, high, values):
    frozen = prior.distribution()
    return (frozen.cdf(values) - frozen.cdf(low)) / (frozen.cdf(high) - frozen.cdf(low))


def quantiles(parameter, probabilities):
    """Scaled values below which these shares of the truncated prior lie."""
    prior = parameter.effective_prior
    frozen, (low, high) = prior.distribution(), parameter.prior_bounds
    values = frozen.ppf(frozen.cdf(low) + probabilities * (frozen.cdf(high) - frozen.cdf(low)))
    return values if prior.on == "scaled" else maps.scaled(values[:, None], (parameter.scale,))[:, 0]


def integral(log_density_fn, edges):
    """Gauss-Legendre on panels between quantiles, where no panel holds much of the mass."""
    nodes, weights = np.polynomial.legendre.leggauss(12)
    half = np.diff(edges)[:, None] / 2
    u = edges[:-1, None] + half * (1 + nodes)
    return float(np.sum(half * weights * np.exp(log_density_fn(u.ravel()).reshape(u.shape))))


def panels(parameter):
    prior = parameter.effective_prior
    tail = np.logspace(-10, -1, 40)
    probabilities = np.concatenate([tail, np.linspace(0.1, 0.9, 80)[1:-1], 1 - tail[::-1]])
    edges = quantiles(parameter, probabilities)
    median = prior.distribution().median()  # the kink of a Laplace density
    if prior.on == "natural":
        median = maps.scaled(np.array([median]), (parameter.scale,))[0]
    return np.unique(np.append(edges, np.clip(median, edges[0], edges[-1])))


@pytest.mark.parametrize(("prior", "scale", "bounds"), CASES)
def test_density_integrates_to_one_over_u(prior, scale, bounds):
    parameter = parameter_of(prior, scale, bounds)
    total = integral(lambda u: log_densities(parameter, u), panels(parameter))
    assert total == pytest.approx(1, abs=2e-7)


@pytest.mark.parametrize("scale", ["ln", "log10"])
def test_density_without_its_jacobian_does_not_integrate_to_one(scale):
    parameter = parameter_of(PRIORS["normal"], scale, (1.5, 6.0))
    factor = LOG_FACTOR[scale]

    def without(u):
        return log_densities(parameter, u) - factor * u - math.log(factor)

    assert abs(integral(without, panels(parameter)) - 1) > 0.1


@pytest.mark.parametrize(("prior", "scale", "bounds"), CASES)
def test_density_and_draws_agree_with_scipy(prior, scale, bounds):
    parameter = parameter_of(prior, scale, bounds)
    u = maps.draw([parameter], np.random.default_rng(1), 3000)[:, 0]
    assert np.all((u >= parameter.scaled_bounds[0]) & (u <= parameter.scaled_bounds[1]))

    on_prior = u if prior.on == "scaled" else maps.natural(u[:, None], (scale,))[:, 0]
    low, high = parameter.prior_bounds
    uniform = truncated_cdf(prior, low, high, on_prior)
    assert stats.kstest(uniform, "uniform").pvalue > 1e-4
    assert stats.kstest(uniform**1.2, "uniform").pvalue < 1e-4  # what a test of this size can tell apart

    frozen = prior.distribution()
    expected = frozen.logpdf(on_prior) - np.log(frozen.cdf(high) - frozen.cdf(low))
    if prior.on == "natural" and scale != "lin":
        expected = expected + np.log(on_prior) + np.log(LOG_FACTOR[scale])  # log |dθ/du|
    np.testing.assert_allclose(log_densities(parameter, u), expected, rtol=1e-9, atol=1e-9)


ON_NATURAL = {
    "cauchy": Cauchy(-3.0, 5.0),
    "chi_square": ChiSquare(4.0),
    "chi_square_with_a_pole": ChiSquare(1.3),
    "exponential": Exponential(3.0),
    "gamma": Gamma(3.0, 5.0),
    "gamma_of_shape_1": Gamma(1.0, 0.3),
    "gamma_with_a_pole": Gamma(0.2, 40.0),
    "rayleigh": Rayleigh(3.0),
}


@pytest.mark.parametrize("bounds", [(None, None), (0.3, 20.0), (15.0, 17.0)])
@pytest.mark.parametrize("prior", ON_NATURAL.values(), ids=ON_NATURAL)
def test_density_and_truncation_agree_with_scipy_to_the_last_digits(prior, bounds):
    parameter = Parameter("theta", prior, lower=bounds[0], upper=bounds[1])
    assert parameter.scale == "lin"
    x = np.linspace(bounds[0] or 0.05, bounds[1] or 60.0, 300)
    low, high = parameter.bounds
    frozen = prior.distribution()
    below, above = frozen.cdf(high) - frozen.cdf(low), frozen.sf(low) - frozen.sf(high)
    mass = above if low > frozen.median() else below
    np.testing.assert_allclose(log_densities(parameter, x), frozen.logpdf(x) - np.log(mass), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("prior", ON_NATURAL.values(), ids=ON_NATURAL)
def test_slopes_agree_with_differences(prior):
    function, data = prior_function(forms([Parameter("theta", prior)])), prior_data([Parameter("theta", prior)])
    x, h = np.linspace(0.1, 12.0, 20)[:, None], 1e-5
    values = [np.asarray(jax.vmap(function, in_axes=(0, None))(jnp.asarray(x + s * h), data)) for s in (1, -1)]
    slopes = jax.vmap(jax.grad(function), in_axes=(0, None))(jnp.asarray(x), data)[:, 0]
    np.testing.assert_allclose(slopes, (values[0] - values[1]) / (2 * h), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("prior", "expected"),
    [
        (ChiSquare(4.0), -math.inf),
        (ChiSquare(2.0), -math.log(2)),
        (ChiSquare(1.3), -math.inf),  # a pole, which counts as outside
        (Exponential(3.0), -math.log(3)),
        (Gamma(3.0, 5.0), -math.inf),
        (Gamma(1.0, 5.0), -math.log(5)),
        (Gamma(0.5, 5.0), -math.inf),
        (Rayleigh(3.0), -math.inf),
    ],
    ids=repr,
)
def test_at_zero_there_is_a_density_or_none_but_no_nan(prior, expected):
    parameter = Parameter("theta", prior, upper=10.0)
    function, data = prior_function(forms([parameter])), prior_data([parameter])
    if math.isfinite(expected):
        expected -= math.log(prior.distribution().cdf(10.0))
    for differentiate in (jax.grad, jax.jacfwd):
        value, slope = function(jnp.zeros(1), data), differentiate(function)(jnp.zeros(1), data)
        assert float(value) == pytest.approx(expected, rel=1e-14)
        assert jnp.all(jnp.isfinite(slope))


SUITE = Path(__file__).parents[2].parent / "shared" / "data" / "petab" / "test_suite" / "v2.0.0" / "sbml"
FAMILIES = {
    "uniform": Uniform,
    "normal": Normal,
    "log-normal": LogNormal,
    "cauchy": Cauchy,
    "chisquare": ChiSquare,
    "exponential": Exponential,
    "gamma": Gamma,
    "laplace": Laplace,
    "log-laplace": LogLaplace,
    "log-uniform": LogUniform,
    "rayleigh": Rayleigh,
}


@pytest.mark.skipif(not SUITE.is_dir(), reason="the PEtab test suite lies in the folder shared beside the checkout")
@pytest.mark.parametrize("case", ["0024", "0025"])  # truncated, and not
def test_densities_are_those_of_the_petab_test_suite(case):
    table = pd.read_csv(SUITE / case / "_parameters.tsv", sep="\t")
    expected = yaml.safe_load((SUITE / case / f"_{case}_solution.yaml").read_text())["log_prior"]
    stated = table[table.priorDistribution.notna()]
    assert set(stated.priorDistribution) == set(FAMILIES)
    for row in stated.itertuples():
        prior = FAMILIES[row.priorDistribution](*map(float, str(row.priorParameters).split(";")))
        parameter = Parameter("theta", prior, scale="lin", lower=row.lowerBound, upper=row.upperBound)
        found = log_densities(parameter, np.array([row.nominalValue]))[0]
        # Its numbers have 14 digits after the point.
        assert found == pytest.approx(expected[row.parameterId], abs=1.5e-14)


@pytest.mark.parametrize("side", [1, -1])
def test_truncation_keeps_its_accuracy_in_either_tail(side):
    # Beyond 9 standard deviations 1 − cdf is zero in double precision; the mass from the tail's own function is not.
    lower, upper = sorted((side * 9.0, side * 9.5))
    parameter = Parameter("theta", Normal(0.0, 1.0), lower=lower, upper=upper)
    u = maps.draw([parameter], np.random.default_rng(2), 2000)[:, 0]
    assert stats.kstest(side * u, stats.truncnorm(9.0, 9.5).cdf).pvalue > 1e-4
    expected = stats.norm.logpdf(u) - np.log(stats.norm.sf(9.0) - stats.norm.sf(9.5))
    np.testing.assert_allclose(log_densities(parameter, u), expected, rtol=1e-9)


@pytest.mark.parametrize(("prior", "scale", "bounds"), [c for c in CASES if c.id.endswith("truncated")])
def test_outside_the_bounds_there_is_no_density_and_no_slope(prior, scale, bounds):
    parameter = parameter_of(prior, scale, bounds)
    function, data = prior_function(forms([parameter])), prior_data([parameter])
    low, high = parameter.scaled_bounds
    for u in (low - 0.1, high + 0.1, low - 1e3):
        value, slope = jax.value_and_grad(function)(jnp.array([u]), data)
        assert value == -jnp.inf
        assert jnp.all(jnp.isfinite(slope))


def test_parameters_of_equal_form_keep_their_own_numbers():
    parameters = [
        Parameter("a", Normal(0.0, 1.0)),
        Parameter("b", LogNormal(0.3, 0.8)),
        Parameter("c", Normal(2.0, 3.0)),
        Parameter("d", None, lower=-1.0, upper=3.0),
        Parameter("e"),
    ]
    function, data = prior_function(forms(parameters)), prior_data(parameters)
    u = np.array([0.4, -0.2, 5.0, 0.0, 100.0])
    expected = (
        stats.norm.logpdf(0.4)
        + stats.norm.logpdf(-0.2 * math.log(10), 0.3, 0.8)
        + math.log(math.log(10))
        + stats.norm.logpdf(5.0, 2, 3)
        - math.log(4)
    )
    assert float(function(jnp.asarray(u), data)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normal(0.0, 0.0), "standard deviation of a normal prior is 0.0"),
        (lambda: Normal(0.0, math.inf), "standard deviation"),
        (lambda: LogNormal(0.0, -1.0), "sigma of a log-normal prior is -1.0"),
        (lambda: Laplace(0.0, math.nan), "scale of a Laplace prior is nan"),
        (lambda: LogLaplace(0.0, 0.0), "scale of a log-Laplace prior"),
        (lambda: Cauchy(0.0, 0.0), "scale of a Cauchy prior is 0.0"),
        (lambda: ChiSquare(-1.0), "degrees of freedom of a chi-square prior is -1.0"),
        (lambda: Exponential(0.0), "scale of an exponential prior is 0.0"),
        (lambda: Gamma(0.0, 1.0), "shape of a gamma prior is 0.0"),
        (lambda: Gamma(1.0, math.inf), "scale of a gamma prior is inf"),
        (lambda: Rayleigh(0.0), "scale of a Rayleigh prior is 0.0"),
        (lambda: Uniform(3.0, 2.0), "from 3.0 to 2.0"),
        (lambda: Uniform(0.0, math.inf), "both must be finite"),
        (lambda: LogUniform(0.0, 2.0), "lower end of a log-uniform prior is 0.0"),
        (lambda: LogUniform(2.0, 1.0), "from 2.0 to 1.0"),
    ],
)
def test_settings_that_define_no_density_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [LogNormal, LogLaplace])
@pytest.mark.parametrize("location", [1e308, -1e4, math.nan])
def test_a_logarithm_without_an_exponential_is_refused(make, location):
    with pytest.raises(ValueError, match="its exponential must be a number"):
        make(location, 1.0)
