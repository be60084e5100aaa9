import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kinbayes as kb
from kinbayes.problem.log_prior import forms, prior_data, prior_function
from kinbayes.problem.native_posterior import _prior_code, native_posterior, value_and_grad
from kinbayes.problem.parameters import Box, constrain
from tests.fake_kernel import numbers

PARAMETERS = [
    kb.Parameter("a", kb.LogUniform(1e-5, 1e5)),
    kb.Parameter("b", kb.Normal(1.0, 0.5, on="scaled"), scale="log10", lower=1e-2, upper=1e3),
    kb.Parameter("c", kb.LogNormal(0.3, 0.7), scale="lin"),
    kb.Parameter("d", kb.Normal(2.0, 1.5), scale="ln"),
    kb.Parameter("e", kb.Normal(-1.0, 2.0)),
    kb.Parameter("f", kb.Laplace(0.5, 0.8), upper=3.0),
    kb.Parameter("g", kb.LogLaplace(0.1, 0.4), scale="log10"),
    kb.Parameter("h", scale="log10", lower=1e-3, upper=1e4),
    kb.Parameter("i", kb.Uniform(-2.0, 5.0)),
    kb.Parameter("j", kb.Cauchy(0.5, 0.3)),
    kb.Parameter("k", kb.Cauchy(0.2, 1.0, on="scaled"), scale="ln", lower=1.0, upper=1e2),
    kb.Parameter("l", kb.ChiSquare(3.0)),
    kb.Parameter("m", kb.Exponential(2.0), upper=9.0),
    kb.Parameter("n", kb.Gamma(0.7, 2.0)),
    kb.Parameter("o", kb.Gamma(2.5, 0.4), scale="log10"),
    kb.Parameter("p", kb.Rayleigh(1.2), lower=0.1),
]
DIM = len(PARAMETERS)
"""Every family of priors, every scale, and walls on two, one and no sides."""

CENTRE = np.linspace(-0.5, 0.7, DIM)
PRECISION = np.eye(DIM) + 0.4 / DIM


def twin(parameters):
    """The same log density in JAX: the priors' twins, and the fake kernel's likelihood in closed form."""
    data, prior = prior_data(parameters), prior_function(forms(parameters))

    def log_density(x):
        u, log_volume = constrain(Box(data.lower, data.upper), x)
        return prior(u, data) + log_volume - 0.5 * (u - CENTRE) @ PRECISION @ (u - CENTRE)

    return jax.jit(jax.value_and_grad(log_density))


@pytest.fixture(scope="module")
def posterior():
    return native_posterior(PARAMETERS, numbers(CENTRE, PRECISION))


def test_value_and_gradient_agree_with_jax(posterior):
    expected = twin(PARAMETERS)
    points = np.random.default_rng(0).normal(size=(50, DIM)) * 2
    for x in (*points, np.zeros(DIM)):
        value, gradient = value_and_grad(posterior, x)
        exact, exact_gradient = expected(jnp.asarray(x))
        assert value == pytest.approx(float(exact), rel=1e-12, abs=1e-11)
        np.testing.assert_allclose(gradient, exact_gradient, rtol=1e-10, atol=1e-11 * np.max(np.abs(exact_gradient)))


def test_gradient_agrees_with_differences(posterior):
    h = 1e-6
    for x in np.random.default_rng(1).normal(size=(10, DIM)):
        steps = [[value_and_grad(posterior, x + s * h * e)[0] for s in (1, -1)] for e in np.eye(DIM)]
        differences = [(above - below) / (2 * h) for above, below in steps]
        np.testing.assert_allclose(value_and_grad(posterior, x)[1], differences, rtol=1e-6, atol=1e-6)


def test_value_and_gradient_stay_finite_far_out(posterior):
    # Between two walls, where x may be anywhere; beside one wall exp(40) is far outside of any prior.
    between = [k for k, p in enumerate(PARAMETERS) if np.isfinite(p.scaled_bounds).all()]
    expected = twin(PARAMETERS)
    for far in (-40.0, -20.0, 20.0, 40.0):
        x = np.zeros(DIM)
        x[between] = far
        value, gradient = value_and_grad(posterior, x)
        exact, exact_gradient = expected(jnp.asarray(x))
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(np.sign(gradient[between]), -np.sign(far))
        assert value == pytest.approx(float(exact), rel=1e-12)
        np.testing.assert_allclose(gradient, exact_gradient, rtol=1e-10)


def test_other_numbers_compile_nothing(posterior):
    others = [
        kb.Parameter("a", kb.LogUniform(1e-3, 1e2)),
        kb.Parameter("b", kb.Normal(0.5, 0.2, on="scaled"), scale="log10", lower=1e-1, upper=1e2),
        *PARAMETERS[2:],
    ]
    before = _prior_code.cache_info().misses
    other = native_posterior(others, numbers(CENTRE, PRECISION))
    assert _prior_code.cache_info().misses == before
    x = np.full(DIM, 0.3)
    value, gradient = value_and_grad(other, x)
    exact, exact_gradient = twin(others)(jnp.asarray(x))
    assert value == pytest.approx(float(exact), rel=1e-12)
    np.testing.assert_allclose(gradient, exact_gradient, rtol=1e-10)
    assert value != pytest.approx(value_and_grad(posterior, x)[0], rel=1e-3)


def test_a_failing_simulation_has_no_density():
    posterior = native_posterior(PARAMETERS, numbers(CENTRE, PRECISION, fails_above=0.0))
    good, bad = np.full(DIM, -3.0), np.full(DIM, 3.0)
    assert np.isfinite(value_and_grad(posterior, good)[0])
    value, gradient = value_and_grad(posterior, bad)
    assert value == -np.inf
    np.testing.assert_array_equal(gradient, 0.0)


def test_a_point_without_prior_density_is_not_simulated(posterior):
    x = np.zeros(DIM)
    x[2] = -800.0  # exp(x) is 0, where a log-normal prior has no density
    value, gradient = value_and_grad(posterior, x)
    assert value == -np.inf
    np.testing.assert_array_equal(gradient, 0.0)
