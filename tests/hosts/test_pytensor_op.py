"""PyTensor, PyMC and nutpie must get the kernel's own numbers, from one call of the kernel each."""

import ctypes
import os
import pickle
import subprocess
import sys

import arviz as az
import jax
import numpy as np
import nutpie
import pandas as pd
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pymc.sampling.jax import get_jaxified_logp
from pytensor.compile.mode import Mode, get_mode
from pytensor.gradient import NullTypeGradError, hessian

from kinbayes.hosts.pytensor_op import (
    LogLikelihood,
    PointwiseLogLikelihood,
    ValueAndGradient,
    WeightedGradient,
    draw_measurements,
    log_likelihood,
    pointwise_log_likelihood,
)
from kinbayes.model.expressions import const, symbol
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.ode import handles, native
from kinbayes.problem import noise, structure
from kinbayes.problem.observables import Experiment, Observable
from kinbayes.problem.parameters import Parameter
from kinbayes.problem.problem import Problem

pytestmark = pytest.mark.filterwarnings("ignore:PyTensor could not link to a BLAS")

TIMES = np.array([0.0, 0.5, 1.0, 2.0])
SIGMA = 0.1
MEASUREMENTS = 1.5 * np.exp(-0.3 * TIMES) + np.array([0.01, -0.2, 0.05])[:, None]  # of replicates
U = np.array([[np.log10(0.3), 1.5], [0.0, 2.0], [-1.0, 1.0], [0.5, 0.7], [-0.2, 3.0]])


def problem_of(
    measurements: np.ndarray = MEASUREMENTS, *, last_times: tuple[float, ...] = (2.0,) * 3, max_steps: int = 1000
) -> Problem:
    """Return A' = -k A with u = (log10 k, A at time 0)."""
    replicates = [f"replicate {k}" for k in range(len(measurements))]
    lines = zip(replicates, measurements, np.outer(last_times, TIMES / TIMES[-1]), strict=True)
    rows = [("y", name, *row) for name, line, times in lines for row in zip(times, line, strict=True)]
    model = Model("decay", {"A": parse("-k * A")}, {"A": symbol("start"), "k": const(0.3), "start": const(1.5)})
    return Problem(
        model,
        [Parameter("k", scale="log10", lower=1e-3, upper=1e3), Parameter("start", lower=-10.0, upper=10.0)],
        [Observable("y", "A", noise.normal(str(SIGMA)))],
        pd.DataFrame(rows, columns=["observableId", "simulationConditionId", "time", "measurement"]),
        experiments=[Experiment(name) for name in replicates],
        rtol=1e-8,
        atol=1e-8,
        max_steps=max_steps,
    )


PROBLEM = problem_of()
NUMBERS = PROBLEM.gradient_numbers
SOME_FAIL = problem_of(last_times=(0.05, 1.0, 0.05), max_steps=8)
# The steps are chosen for the gradient too where there is one, and so the values are not the same to the last bit.
EXPECTED = native.log_likelihoods(NUMBERS, U)
VALUES, GRADIENTS = native.log_likelihoods_and_gradients(NUMBERS, U)

MODES = {"default": None, "numba": "NUMBA", "jax": "JAX", "plain": Mode("py", "fast_run")}


def function(problem: Problem, mode: str | Mode | None = None) -> pytensor.compile.Function:
    """Return the value and its gradient as a function of a vector."""
    u = pt.dvector("u")
    value = log_likelihood(problem, u)
    return pytensor.function([u], [value, pytensor.grad(value, u)], mode=mode)


def pointwise(problem: Problem, mode: str | Mode | None = None) -> pytensor.compile.Function:
    """Return densities of the measurements, their sum, its gradient, and that of a weighted sum."""
    u, weights = pt.dvector("u"), pt.dvector("weights")
    values = pointwise_log_likelihood(problem, u)
    outputs = [values, values.sum(), pytensor.grad(values.sum(), u), pytensor.grad((weights * values).sum(), u)]
    return pytensor.function([u, weights], outputs, mode=mode)


def operations(f: pytensor.compile.Function) -> list[type]:
    found = (type(node.op) for node in f.maker.fgraph.toposort())
    ours = (LogLikelihood, ValueAndGradient, PointwiseLogLikelihood, WeightedGradient)
    return [op for op in found if op in ours]


def assert_both_equal(found, values, gradients):
    for a, b in zip(found, (values, gradients), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_every_mode_gives_the_kernels_numbers(mode):
    f = function(PROBLEM, mode)
    for k in range(len(U)):
        assert_both_equal(f(U[k]), VALUES[k], GRADIENTS[k])
    assert f(U[0])[0].shape == ()
    u = pt.dvector("u")
    alone = pytensor.function([u], log_likelihood(PROBLEM, u), mode=mode)
    assert [alone(v) for v in U] == list(EXPECTED)
    strided = np.stack([U[0], U[0] + 1.0], axis=1)[:, 0]
    assert not strided.flags.contiguous
    assert alone(strided) == EXPECTED[0]


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_every_mode_gives_the_density_of_every_measurement(mode):
    f, weights = pointwise(PROBLEM, mode), np.linspace(-1.0, 2.0, MEASUREMENTS.size)
    for k, u in enumerate(U):
        values, total, gradient, weighted = f(u, weights)
        np.testing.assert_allclose(values, PROBLEM.pointwise_log_likelihood(u), rtol=1e-12)
        assert_both_equal((total, gradient), VALUES[k], GRADIENTS[k])
        slopes = PROBLEM.row_derivatives(u[None]).log_density[0]
        np.testing.assert_allclose(weighted, weights @ slopes, rtol=1e-12)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_the_gradient_follows_the_chain_rule(mode):
    u = pt.dvector("u")
    value = pt.tanh(log_likelihood(PROBLEM, 0.5 * u[::-1] + 0.1) / 1000.0)
    f, slope = (pytensor.function([u], x, mode=mode) for x in (value, pytensor.grad(value, u)))
    at = np.array([2.0, -1.5])
    steps = 1e-4 * np.eye(2)
    differences = [(f(at + step) - f(at - step)) / 2e-4 for step in steps]
    assert np.abs(differences).min() > 1e-3
    np.testing.assert_allclose(slope(at), differences, rtol=1e-5)


def test_a_failed_lane_leaves_no_gradient():
    values, gradients = native.log_likelihoods_and_gradients(SOME_FAIL.gradient_numbers, U)
    assert np.isneginf(values).any()
    for mode in ("NUMBA", MODES["plain"]):
        f = function(SOME_FAIL, mode)
        assert_both_equal(zip(*map(f, U), strict=True), values, gradients)
        assert_both_equal(f(np.array([np.nan, 1.0])), -np.inf, np.zeros(2))
        one_by_one, total, gradient, weighted = pointwise(SOME_FAIL, mode)(U[np.argmin(values)], np.ones(12))
        assert np.isneginf(one_by_one).all()
        assert np.isneginf(total)
        assert not gradient.any()
        assert not weighted.any()


def test_one_operation_serves_value_and_gradient():
    assert operations(function(PROBLEM, "NUMBA")) == [ValueAndGradient]
    without = get_mode("NUMBA").excluding("value_beside_gradient")
    assert {*operations(function(PROBLEM, without))} == {LogLikelihood, ValueAndGradient}
    u = pt.dvector("u")
    value, other = log_likelihood(PROBLEM, u), log_likelihood(problem_of(MEASUREMENTS + 0.3), u)
    assert operations(pytensor.function([u], value)) == [LogLikelihood]
    both = pytensor.function([u], [value, other, pytensor.grad(value, u)])
    assert {*operations(both)} == {LogLikelihood, ValueAndGradient}
    assert_both_equal(both(U[0])[::2], VALUES[0], GRADIENTS[0])
    assert operations(pytensor.function([u], pytensor.grad(value, u).shape)) == []


def test_the_kernel_sums_over_measurements():
    u = pt.dvector("u")
    total = pointwise_log_likelihood(PROBLEM, u).sum()
    assert operations(pytensor.function([u], total)) == [LogLikelihood]
    assert operations(pytensor.function([u], [total, pytensor.grad(3.0 * total, u)])) == [ValueAndGradient]
    assert operations(pytensor.function([u], pytensor.grad(pt.sum([total, total**2]), u))) == [ValueAndGradient]


def test_problems_in_one_function_are_kept_apart():
    others = [problem_of(MEASUREMENTS + shift) for shift in (0.3, -0.2)]
    u = pt.dvector("u")
    f = pytensor.function([u], [log_likelihood(problem, u) for problem in (PROBLEM, *others)])
    expected = [native.log_likelihoods(problem.gradient_numbers, U[:1])[0] for problem in (PROBLEM, *others)]
    assert len({*expected}) == 3
    assert f(U[0]) == expected


def test_draws_of_measurements_have_their_moments():
    rng, u = pytensor.shared(np.random.default_rng(1)), pt.dvector("u")
    later, draw = draw_measurements(PROBLEM, rng, u)
    for mode in ("NUMBA", MODES["plain"]):
        f = pytensor.function([u], draw, updates={rng: later}, mode=mode)
        draws = np.array([f(U[0]) for _ in range(1000)])
        error = SIGMA / np.sqrt(len(draws))
        expected = np.asarray(PROBLEM.simulated(U[0]))
        assert np.abs(draws.mean(axis=0) - expected).max() < 5 * error
        assert np.abs(draws.mean(axis=0) - expected * 1.1).max() > 5 * error
        np.testing.assert_allclose(draws.std(axis=0), SIGMA, rtol=5 / np.sqrt(2 * len(draws)))
    failing = pytensor.function([u], draw_measurements(SOME_FAIL, rng, u)[1])
    assert np.isnan(failing(U[np.argmin(native.log_likelihoods(SOME_FAIL.gradient_numbers, U))])).all()


def test_what_cannot_be_is_refused():
    u = pt.dvector("u")
    value = log_likelihood(PROBLEM, u)
    handle = value.owner.inputs[1]
    with pytest.raises(NullTypeGradError):
        pytensor.grad(value, handle)
    with pytest.raises(NotImplementedError):
        hessian(value, u)
    with pytest.raises(TypeError):
        log_likelihood(PROBLEM, pt.fvector("u"))
    with pytest.raises(TypeError):
        LogLikelihood(PROBLEM)(u, pt.dvector())
    for mode in ("NUMBA", MODES["plain"]):
        with pytest.raises(ValueError, match="entries"):
            function(PROBLEM, mode)(np.zeros(3))


@pytest.mark.parametrize("mode", ["NUMBA", MODES["plain"]], ids=["numba", "plain"])
def test_a_handle_that_nobody_knows_is_an_error(mode):
    u, handle = pt.dvector("u"), pt.lvector("handle")
    f = pytensor.function([u, handle], LogLikelihood(PROBLEM)(u, handle), mode=mode)
    known = log_likelihood(PROBLEM, u).owner.inputs[1].get_value()
    assert f(U[0], known) == EXPECTED[0]
    for unknown in (known + 1, known * 0, -known):
        with pytest.raises(ValueError, match="knows no problem"):
            f(U[0], unknown)


def test_a_vector_of_known_length():
    u = pt.tensor("u", shape=(2,), dtype="float64")
    assert pytensor.grad(log_likelihood(PROBLEM, u), u).type.shape == (2,)


def test_no_address_is_pickled():
    f = function(PROBLEM, "NUMBA")
    text = pickle.dumps(f)
    addresses = {*NUMBERS.code.tolist()} - {0}
    assert not any(address.to_bytes(8, "little") in text for address in addresses)
    assert any(address.to_bytes(8, "little") in pickle.dumps(NUMBERS) for address in addresses)
    assert_both_equal(pickle.loads(text)(U[0]), VALUES[0], GRADIENTS[0])


# ---- PyMC and nutpie

CENTRE, WIDTH = np.array([-0.3, 1.2]), np.array([0.5, 0.8])  # of the prior


def model_of(problem: Problem) -> pm.Model:
    with pm.Model() as model:
        u = pm.Normal("u", CENTRE, WIDTH, shape=2)
        pm.Potential("likelihood", log_likelihood(problem, u))
    return model


def log_prior(u: np.ndarray) -> np.ndarray:
    return np.sum(-0.5 * ((u - CENTRE) / WIDTH) ** 2 - np.log(WIDTH * np.sqrt(2.0 * np.pi)), axis=-1)


def test_pymc_has_value_and_gradient():
    model = model_of(PROBLEM)
    assert model.compile_logp()({"u": U[0]}) == pytest.approx(EXPECTED[0] + log_prior(U[0]), rel=1e-12)
    gradient = GRADIENTS[0] - (U[0] - CENTRE) / WIDTH**2
    np.testing.assert_allclose(model.compile_dlogp()({"u": U[0]}), gradient, rtol=1e-12)
    by_jax = jax.jit(jax.value_and_grad(lambda u: get_jaxified_logp(model)([u])))
    value, slope = by_jax(U[0])
    assert value == pytest.approx(VALUES[0] + log_prior(U[0]), rel=1e-12)
    np.testing.assert_allclose(slope, gradient, rtol=1e-12)


@pytest.fixture(scope="module")
def compiled() -> object:
    return nutpie.compile_pymc_model(model_of(PROBLEM), backend="numba")


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
    handles.register(7, NUMBERS._replace(code=code), None)
    (name,) = compiled.shared_data
    counting = compiled.with_data(**{name: np.array([7])})
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
from tests.hosts.test_pytensor_op import VALUES, GRADIENTS, PROBLEM, U, function
found = function(PROBLEM, "NUMBA")(U[0])
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


def test_a_problem_that_is_compiled_anew_has_the_handle_of_the_first():
    structure.functions.cache_clear()  # as when others have taken its place
    again = problem_of()
    assert again.hash == PROBLEM.hash
    assert not np.array_equal(again.gradient_numbers.code, NUMBERS.code)
    assert_both_equal(function(again)(U[0]), VALUES[0], GRADIENTS[0])
