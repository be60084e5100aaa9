"""The defensive component, against SciPy's distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import kinbayes as kb
from kinbayes.amortized import defensive
from kinbayes.amortized.defensive import Defensive
from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.model.model import Model

# Uniform; t in the open, cut above, cut in both tails, and between bounds far out in the upper tail.
COMPONENT = Defensive(
    np.array([True, False, False, False, False]),
    np.array([-1.0, -np.inf, -np.inf, -2.0, 40.0]),
    np.array([2.0, np.inf, 1.0, 1.5, 50.0]),
    np.array([0.0, 0.5, 0.0, 1.0, 0.0]),
    np.array([1.0, 2.0, 1.0, 0.5, 0.3]),
)
NUM = 20_000

log_density = jax.jit(defensive.log_density)


def distribution(k, values):
    """The distribution function and log density of one parameter."""
    low, high = COMPONENT.lower[k], COMPONENT.upper[k]
    if COMPONENT.is_uniform[k]:
        frozen = stats.uniform(low, high - low)
        return frozen.cdf(values), frozen.logpdf(values)
    frozen = stats.t(4, COMPONENT.location[k], COMPONENT.scale[k])
    mass = frozen.sf(low) - frozen.sf(high)
    is_inside = (low <= values) & (values <= high)
    return (frozen.sf(low) - frozen.sf(values)) / mass, np.where(
        is_inside, frozen.logpdf(values) - np.log(mass), -np.inf
    )


@pytest.fixture(scope="module")
def draws():
    return np.asarray(jax.jit(defensive.draw, static_argnums=2)(COMPONENT, jax.random.key(0), NUM))


def test_densities_are_those_of_truncated_distributions(draws):
    U = np.vstack([draws[:50], draws[:5] + 100.0])
    expected = sum(distribution(k, U[:, k])[1] for k in range(5))
    np.testing.assert_allclose(log_density(COMPONENT, jnp.asarray(U)), expected, rtol=1e-10)


@pytest.mark.parametrize("k", range(5))
def test_draws_are_of_the_density(draws, k):
    shares = distribution(k, draws[:, k])[0]
    for level in (0.02, 0.25, 0.5, 0.75, 0.98):
        assert abs((shares < level).mean() - level) < 5 * np.sqrt(level * (1 - level) / NUM)
    # The test sees a scale that is wrong by a tenth.
    if k == 1:
        wide = distribution(k, 0.5 + 1.1 * (draws[:, k] - 0.5))[0]
        assert abs((wide < 0.02).mean() - 0.02) > 5 * np.sqrt(0.02 * 0.98 / NUM)


def test_tails_lose_no_digits():
    p = np.array([1e-300, 1e-100, 1e-20, 1e-5, 0.1, 0.6, 0.999])
    np.testing.assert_allclose(jax.jit(defensive._quantile)(jnp.asarray(p)), stats.t(4).ppf(p), rtol=1e-12)
    t = np.array([-1e70, -1e10, -100.0, -2.0, -1.0, -0.5, 0.0, 3.0, np.inf])
    np.testing.assert_allclose(jax.jit(defensive._distribution)(jnp.asarray(t)), stats.t(4).cdf(t), rtol=1e-12)
    assert stats.t(4).ppf(0.75) == pytest.approx(defensive.UPPER_QUARTILE, rel=1e-12)


def test_the_component_of_a_problem_is_its_prior_or_as_wide():
    names = ("k", "m", "A_0", "sd", "s")
    model = Model(
        "decay", {"A": parse("-(k + m) * A")}, {"A": parse("A_0")} | {n: const(1.0) for n in names if n != "sd"}
    )
    parameters = [
        kb.Parameter("k", kb.LogNormal(-1.0, 1.0), lower=1e-3),
        kb.Parameter("m", kb.LogUniform(0.1, 10.0)),
        kb.Parameter("A_0", kb.Normal(2.0, 1.0)),
        kb.Parameter("sd", kb.Uniform(0.01, 2.0), scale="ln"),  # not uniform on its scale
        kb.Parameter("s"),  # improper
    ]
    data = pd.DataFrame({"observableId": "y", "time": [0.0, 1.0], "measurement": [2.0, 1.1]})
    problem = kb.Problem(model, parameters, [kb.Observable("y", "A", kb.noise.normal("sd"))], data)
    found = defensive.defensive(problem)
    np.testing.assert_array_equal(found.is_uniform, [False, True, False, False, False])
    np.testing.assert_array_equal(found.lower, problem.lower)
    np.testing.assert_array_equal(found.upper, problem.upper)
    quartile = stats.norm.ppf(0.75) / stats.t(4).ppf(0.75)
    # Of a normal: the standard error of a median is 1.25 sd/√n, that of half the quartiles' distance 0.79 sd/√n.
    for k, mean, sd in ((0, -1 / np.log(10), 1 / np.log(10)), (2, 2.0, 1.0), (4, 0.0, 1.0)):
        assert abs(found.location[k] - mean) < 5 * 1.25 * sd / np.sqrt(defensive.NUM_DRAWS)
        assert abs(found.scale[k] - quartile * sd) < 5 * 1.1 * sd / np.sqrt(defensive.NUM_DRAWS)
    U = jnp.asarray(problem.draw_starts(np.random.default_rng(1), 100))
    assert np.isfinite(log_density(found, U)).all()
