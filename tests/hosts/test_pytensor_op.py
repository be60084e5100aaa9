"""PyTensor, PyMC and nutpie must get the kernel's own numbers, from one call of the kernel each."""

import ctypes
import os
import subprocess
import sys

import arviz as az
import jax
import numpy as np
import nutpie
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pymc.sampling.jax import get_jaxified_logp
from pytensor.compile.mode import Mode, get_mode
from pytensor.gradient import NullTypeGradError, hessian

from kinbayes.hosts import pytensor_op
from kinbayes.hosts.pytensor_op import LogLikelihood, ValueAndGradient, log_likelihood
from kinbayes.ode import native
from kinbayes.ode.numbers import Numbers
from tests.ode.test_bridges import (
    EXPECTED,
    GRADIENTS,
    MEASUREMENTS,
    NUMBERS,
    PLAIN,
    SOME_FAIL,
    VALUES,
    U,
    numbers_of,
)

MODES = {"default": None, "numba": "NUMBA", "jax": "JAX", "plain": Mode("py", "fast_run")}


def function(numbers: Numbers, mode: str | Mode | None = None) -> tuple[pytensor.compile.Function, Numbers]:
    """Return the value and its gradient as a function of a vector, and the shared variables."""
    u, variables = pt.dvector("u"), pytensor_op.shared(numbers, "decay")
    value = log_likelihood(u, *variables)
    return pytensor.function([u], [value, pytensor.grad(value, u)], mode=mode), variables


def operations(f: pytensor.compile.Function) -> list[type]:
    found = (type(node.op) for node in f.maker.fgraph.toposort())
    return [op for op in found if op in (LogLikelihood, ValueAndGradient)]


def assert_both_equal(found, values, gradients):
    for a, b in zip(found, (values, gradients), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_every_mode_gives_the_kernels_numbers(mode):
    f, variables = function(NUMBERS, mode)
    for k in range(len(U)):
        assert_both_equal(f(U[k]), VALUES[k], GRADIENTS[k])
    assert f(U[0])[0].shape == ()
    u = pt.dvector("u")
    alone = pytensor.function([u], log_likelihood(u, *variables), mode=mode)
    assert [alone(v) for v in U] == list(EXPECTED)
    strided = np.stack([U[0], U[0] + 1.0], axis=1)[:, 0]
    assert not strided.flags.contiguous
    assert alone(strided) == EXPECTED[0]


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_the_gradient_follows_the_chain_rule(mode):
    u, variables = pt.dvector("u"), pytensor_op.shared(NUMBERS, "decay")
    value = pt.tanh(log_likelihood(0.5 * u[::-1] + 0.1, *variables) / 1000.0)
    f, slope = (pytensor.function([u], x, mode=mode) for x in (value, pytensor.grad(value, u)))
    at = np.array([2.0, -1.5])
    steps = 1e-4 * np.eye(2)
    differences = [(f(at + step) - f(at - step)) / 2e-4 for step in steps]
    assert np.abs(differences).min() > 1e-3
    np.testing.assert_allclose(slope(at), differences, rtol=1e-5)


def test_a_failed_lane_leaves_no_gradient():
    values, gradients = native.log_likelihoods_and_gradients(SOME_FAIL, U)
    assert np.isneginf(values).any()
    for mode in ("NUMBA", MODES["plain"]):
        f, _ = function(SOME_FAIL, mode)
        assert_both_equal(zip(*map(f, U), strict=True), values, gradients)


def test_one_operation_serves_value_and_gradient():
    assert operations(function(NUMBERS, "NUMBA")[0]) == [ValueAndGradient]
    without = get_mode("NUMBA").excluding("value_beside_gradient")
    assert {*operations(function(NUMBERS, without)[0])} == {LogLikelihood, ValueAndGradient}
    u = pt.dvector("u")
    value = log_likelihood(u, *pytensor_op.shared(NUMBERS, "decay"))
    other = log_likelihood(u, *pytensor_op.shared(PLAIN, "other"))
    assert operations(pytensor.function([u], value)) == [LogLikelihood]
    both = pytensor.function([u], [value, other, pytensor.grad(value, u)])
    assert {*operations(both)} == {LogLikelihood, ValueAndGradient}
    assert_both_equal(both(U[0])[::2], VALUES[0], GRADIENTS[0])
    assert operations(pytensor.function([u], pytensor.grad(value, u).shape)) == []


@pytest.mark.parametrize("mode", ["NUMBA", "JAX"])
def test_numbers_are_no_part_of_what_is_compiled(mode):
    f, variables = function(NUMBERS, mode)
    other = numbers_of(MEASUREMENTS + 0.3)
    assert_both_equal(f(U[0]), VALUES[0], GRADIENTS[0])
    variables.floats.set_value(other.floats)
    values, gradients = native.log_likelihoods_and_gradients(other, U[:1])
    assert values[0] != VALUES[0]
    assert_both_equal(f(U[0]), values[0], gradients[0])


def test_what_cannot_be_is_refused():
    u = pt.dvector("u")
    variables = pytensor_op.shared(NUMBERS, "decay")
    value = log_likelihood(u, *variables)
    with pytest.raises(NullTypeGradError):
        pytensor.grad(value, variables.floats)
    with pytest.raises(NotImplementedError):
        hessian(value, u)
    with pytest.raises(TypeError):
        log_likelihood(pt.fvector("u"), *variables)
    with pytest.raises(TypeError):
        log_likelihood(u, variables.floats, *variables[1:])
    for mode in ("NUMBA", MODES["plain"]):
        with pytest.raises(ValueError, match="entries"):
            function(NUMBERS, mode)[0](np.zeros(3))
        with pytest.raises(ValueError, match="no derivatives"):
            function(PLAIN, mode)[0](U[0])


def test_a_vector_of_known_length():
    u = pt.tensor("u", shape=(1,), dtype="float64")
    value = log_likelihood(u, *pytensor_op.shared(NUMBERS, "decay"))
    assert pytensor.grad(value, u).type.shape == (1,)


# ---- PyMC and nutpie

CENTRE, WIDTH = np.array([-0.3, 1.2]), np.array([0.5, 0.8])  # of the prior


def model_of(numbers: Numbers) -> pm.Model:
    with pm.Model() as model:
        u = pm.Normal("u", CENTRE, WIDTH, shape=2)
        pm.Potential("likelihood", log_likelihood(u, *pytensor_op.shared(numbers, "decay")))
    return model


def log_prior(u: np.ndarray) -> np.ndarray:
    return np.sum(-0.5 * ((u - CENTRE) / WIDTH) ** 2 - np.log(WIDTH * np.sqrt(2.0 * np.pi)), axis=-1)


def test_pymc_has_value_and_gradient():
    model = model_of(NUMBERS)
    assert model.compile_logp()({"u": U[0]}) == pytest.approx(EXPECTED[0] + log_prior(U[0]), rel=1e-12)
    gradient = GRADIENTS[0] - (U[0] - CENTRE) / WIDTH**2
    np.testing.assert_allclose(model.compile_dlogp()({"u": U[0]}), gradient, rtol=1e-12)
    by_jax = jax.jit(jax.value_and_grad(lambda u: get_jaxified_logp(model)([u])))
    value, slope = by_jax(U[0])
    assert value == pytest.approx(VALUES[0] + log_prior(U[0]), rel=1e-12)
    np.testing.assert_allclose(slope, gradient, rtol=1e-12)


@pytest.fixture(scope="module")
def compiled() -> object:
    return nutpie.compile_pymc_model(model_of(NUMBERS), backend="numba")


def test_nutpie_calls_the_kernel_once_for_value_and_gradient(compiled):
    pointer, calls = ctypes.c_void_p, []
    kind = ctypes.CFUNCTYPE(None, *[pointer] * 4, ctypes.c_int64, *[pointer] * 7)
    kernel = kind(int(NUMBERS.code[0]))

    @kind
    def counted(*arguments: int | None) -> None:
        calls.append(arguments[10] is not None)
        kernel(*arguments)

    code = NUMBERS.code.copy()
    code[0] = ctypes.cast(counted, pointer).value
    counting = compiled.with_data(decay_code=code)
    density = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, *[pointer] * 4)(compiled.compiled_logp_func.address)
    gradient, value = np.zeros(2), np.zeros(1)
    for k in range(len(U)):
        data = [array.ctypes.data for array in (U[k], gradient, value, counting.user_data)]
        assert density(2, *data) == 0
        assert value[0] == pytest.approx(VALUES[k] + log_prior(U[k]), rel=1e-12)
        np.testing.assert_allclose(gradient, GRADIENTS[k] - (U[k] - CENTRE) / WIDTH**2, rtol=1e-12)
        assert calls == [True] * (k + 1)


def test_nutpie_samples_the_posterior(compiled):
    idata = nutpie.sample(compiled, draws=1000, tune=400, chains=2, cores=2, seed=1, progress_bar=False)
    lines = [np.linspace(c - 4.5 * w, c + 4.5 * w, 200) for c, w in zip(CENTRE, WIDTH, strict=True)]
    grid = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 2)
    density = native.totals(native.simulated(NUMBERS, grid).lanes) + log_prior(grid)
    weights = np.exp(density - density.max())
    weights /= weights.sum()
    mean = weights @ grid
    spread = np.sqrt(weights @ (grid - mean) ** 2)
    errors = spread / np.sqrt(az.ess(idata)["u"].values)
    found = idata.posterior["u"].values.reshape(-1, 2)
    assert np.all(np.abs(found.mean(axis=0) - mean) < 5.0 * errors)
    assert np.all(np.abs(CENTRE - mean) > 5.0 * errors)  # the prior's mean would not pass
    np.testing.assert_allclose(found.std(axis=0), spread, rtol=0.2)
    assert float(az.rhat(idata)["u"].max()) < 1.02


AGAIN = """
import numpy as np
from tests.hosts.test_pytensor_op import VALUES, GRADIENTS, NUMBERS, U, function
found = function(NUMBERS, "NUMBA")[0](U[0])
assert found[0] == VALUES[0] and np.array_equal(found[1], GRADIENTS[0])
"""


@pytest.mark.slow
def test_the_compilers_cache_serves_other_processes(tmp_path):
    environment = {**os.environ, "PYTENSOR_FLAGS": f"base_compiledir={tmp_path}", "PYTHONPATH": os.getcwd()}
    files = []
    for _ in range(2):  # addresses differ from process to process
        subprocess.run([sys.executable, "-c", AGAIN], env=environment, check=True)
        files.append({path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb[ci]")})
    assert files[0]
    assert files[0] == files[1]
