"""The tails of the normal distribution against SciPy and a continued fraction, on all that evaluates expressions."""

import ctypes

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erfcx, log_ndtr

from kinbayes.model import normal_tail
from kinbayes.model.codegen import to_jax
from kinbayes.model.expressions import apply, derivatives, evaluate, symbol
from kinbayes.model.llvm import WIDTH, Function, machine_code

Z = symbol("z")
LOG_CDF = apply("log_normal_cdf", Z)
ROOTS = [LOG_CDF, *derivatives([LOG_CDF], "z")]
POINTS = np.concatenate([-np.logspace(5, 0, 200), np.linspace(-1.1, 37, 200)])


def by_jax(z):
    return np.asarray(to_jax(ROOTS, ["z"])(jnp.asarray(z)))


def by_numpy(z):
    return np.array(evaluate(ROOTS, {"z": z}))


def by_machine_code(z, vectors=frozenset()):
    width = WIDTH if vectors else 1
    code = machine_code([Function("f", [["z"]], [ROOTS], vectors)])
    run, out = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2)(code.addresses["f"]), np.empty((len(z), 2))
    for at in range(0, len(z), width):
        part, found = np.ascontiguousarray(z[at : at + width]), np.empty((2, width))
        run(part.ctypes.data, found.ctypes.data)
        out[at : at + width] = found.T
    return out.T


EVALUATE = {
    "jax": by_jax,
    "numpy": by_numpy,
    "machine code": by_machine_code,
    "vectors": lambda z: by_machine_code(z, frozenset([0])),
}


def inverse_mills_ratio(z):
    """The density over the distribution function below -3, by the continued fraction of Laplace."""
    tail = -z
    for k in range(500, 0, -1):
        tail = -z + k / tail
    return tail


@pytest.mark.parametrize("values", EVALUATE.values(), ids=EVALUATE)
def test_value_and_slope_are_right_in_either_tail(values):
    found, slope = values(POINTS)
    np.testing.assert_allclose(found, log_ndtr(POINTS), rtol=1e-12)
    far = POINTS < -3
    np.testing.assert_allclose(slope[far], inverse_mills_ratio(POINTS[far]), rtol=1e-13)
    near = POINTS[~far]
    density = np.exp(-0.5 * near * near) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(slope[~far], density / np.exp(log_ndtr(near)), rtol=1e-12)


@pytest.mark.parametrize("values", EVALUATE.values(), ids=EVALUATE)
def test_what_is_certain_or_impossible_has_a_value(values):
    found, slope = values(np.array([-1e200, -np.inf, 60.0, np.inf, 0.0, -40.0, 1.0, 2.0]))
    np.testing.assert_array_equal(found[:4], [-np.inf, -np.inf, 0.0, 0.0])
    np.testing.assert_array_equal(slope[2:4], 0.0)
    assert found[4] == pytest.approx(-np.log(2), rel=1e-15)
    assert np.isnan(values(np.full(WIDTH, np.nan))).all()


@pytest.mark.parametrize("differentiate", [jax.jacfwd, jax.jacrev])
def test_automatic_derivatives_are_the_exact_ones(differentiate):
    automatic = jax.vmap(differentiate(normal_tail.log_normal_cdf))(jnp.asarray(POINTS))
    np.testing.assert_allclose(automatic, by_numpy(POINTS)[1], rtol=1e-12)


def test_the_scaled_complementary_error_function_is_scipys():
    x = np.concatenate([np.linspace(-26, 60, 2000), np.logspace(1, 300, 100)])
    np.testing.assert_allclose(normal_tail.erfcx(jnp.asarray(x)), erfcx(x), rtol=1e-14)
    h = 1e-5
    differences = (erfcx(x[:800] + h) - erfcx(x[:800] - h)) / (2 * h)
    np.testing.assert_allclose(jax.vmap(jax.grad(normal_tail.erfcx))(jnp.asarray(x[:800])), differences, rtol=1e-6)
    assert normal_tail.erfcx(-30.0) == np.inf
