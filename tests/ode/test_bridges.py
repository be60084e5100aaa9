"""The native log likelihood and its gradient must be the same numbers through every bridge."""

import functools
import gc
import threading
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numba
import numpy as np
import pandas as pd
import pytest
from jaxtyping import Array, TypeCheckError

from kinbayes.model.expressions import const, symbol
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.ode import bridges, native, xla_handler
from kinbayes.ode.numbers import Numbers, Sizes
from kinbayes.problem import noise
from kinbayes.problem.observables import Experiment, Observable
from kinbayes.problem.parameters import Parameter
from kinbayes.problem.problem import Problem

TIMES = np.array([0.0, 0.5, 1.0, 2.0])
SIGMA = 0.1
LANES = 3  # replicates, each with its own measurements
SHIFTS = np.array([0.01, -0.2, 0.05])
MEASUREMENTS = 1.5 * np.exp(-0.3 * TIMES) + SHIFTS[:, None]
U = np.array([[np.log10(0.3), 1.5], [0.0, 2.0], [-1.0, 1.0], [0.5, 0.7], [-0.2, 3.0]])


def numbers_of(
    measurements: np.ndarray = MEASUREMENTS, *, last_times: tuple[float, ...] = (2.0,) * LANES, max_steps: int = 1000
) -> Numbers:
    """Return the numbers of A' = -k A with u = (log10 k, A at time 0), and of the gradient."""
    replicates = [f"replicate {k}" for k in range(LANES)]
    lines = zip(replicates, measurements, np.outer(last_times, TIMES / TIMES[-1]), strict=True)
    rows = [("y", name, *row) for name, line, times in lines for row in zip(times, line, strict=True)]
    model = Model("decay", {"A": parse("-k * A")}, {"A": symbol("start"), "k": const(0.3), "start": const(1.5)})
    problem = Problem(
        model,
        [Parameter("k", scale="log10", lower=1e-3, upper=1e3), Parameter("start", lower=-10.0, upper=10.0)],
        [Observable("y", "A", noise.normal(str(SIGMA)))],
        pd.DataFrame(rows, columns=["observableId", "simulationConditionId", "time", "measurement"]),
        experiments=[Experiment(name) for name in replicates],
        rtol=1e-8,
        atol=1e-8,
        max_steps=max_steps,
    )
    return problem.gradient_numbers


def without_gradient(numbers: Numbers) -> Numbers:
    ints = numbers.ints.copy()
    ints[ints[0] + Sizes._fields.index("has_gradient")] = 0
    return numbers._replace(ints=ints)


NUMBERS = numbers_of()
PLAIN = without_gradient(NUMBERS)
SOME_FAIL = numbers_of(last_times=(0.05, 1.0, 0.05), max_steps=8)
ARRAYS = Numbers(*map(jnp.asarray, NUMBERS))
# The steps are chosen for the gradient too where there is one, and so the values are not the same to the last bit.
EXPECTED = native.log_likelihoods(NUMBERS, U)
VALUES, GRADIENTS = native.log_likelihoods_and_gradients(NUMBERS, U)


def run_threads(functions: list[Callable]) -> None:
    """Run functions at once."""
    threads = [threading.Thread(target=f) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)


@pytest.fixture(params=["xla", "callback"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of a call: XLA's, and that through Python as if XLA's interface were unknown."""
    if request.param == "callback":
        monkeypatch.setattr(xla_handler, "target", lambda: None)
    return request.param


def anew(f: Callable) -> Callable:
    """Return a new function each time, so that JAX does not remember a program of the other way."""
    return lambda numbers, u: f(numbers, u)


@pytest.fixture
def log_likelihood(way) -> Callable:
    return anew(bridges.log_likelihood)


def test_the_kernel_gives_the_closed_form():
    predicted = U[:, 1, None] * np.exp(-(10.0 ** U[:, 0, None]) * TIMES)
    closed = -0.5 * (((predicted[:, None] - MEASUREMENTS) / SIGMA) ** 2).sum(axis=(1, 2))
    closed -= MEASUREMENTS.size * np.log(SIGMA * np.sqrt(2.0 * np.pi))
    np.testing.assert_allclose(EXPECTED, closed, rtol=1e-5)
    np.testing.assert_allclose(VALUES, closed, rtol=1e-5)
    np.testing.assert_array_equal(native.log_likelihoods(PLAIN, U), EXPECTED)


def test_the_kernel_gives_the_gradient_of_the_closed_form():
    k, start = 10.0 ** U[:, 0, None], U[:, 1, None]
    slopes = np.stack([-np.log(10.0) * k * TIMES * start * np.exp(-k * TIMES), np.exp(-k * TIMES)])
    residuals = (MEASUREMENTS - (start * np.exp(-k * TIMES))[:, None]) / SIGMA**2
    np.testing.assert_allclose(GRADIENTS, np.einsum("nlt,jnt->nj", residuals, slopes), rtol=1e-5)


CALLS = {"xla": 'custom_call_target="kinbayes_log_likelihood', "callback": "python_cpu_callback"}


def num_calls(way: str, f: Callable, u: np.ndarray = U[0]) -> int:
    """Return how often a compiled program calls the kernel."""
    text = jax.jit(f).lower(ARRAYS, u).compile().as_text()
    (other,) = {*CALLS} - {way}
    assert CALLS[other] not in text
    assert "conditional" not in text
    return text.count(CALLS[way])


def test_xla_calls_the_handler_itself(log_likelihood, way):
    assert num_calls(way, log_likelihood) == 1
    assert num_calls(way, anew(bridges.value_and_gradient)) == 1


def test_other_platforms_get_the_callback(monkeypatch):
    jax.clear_caches()  # a program that is known already would not see the stand-in
    stand_in = lambda f, results, U, *numbers: (jnp.sin(U.sum(axis=1)), U[:, :0])  # noqa: E731
    monkeypatch.setattr(jax, "pure_callback", stand_in)
    traced = jax.jit(lambda numbers, u: bridges.log_likelihood(numbers, u)).trace(ARRAYS, jnp.asarray(U[0]))
    on_gpu, on_cpu = (traced.lower(lowering_platforms=(name,)).as_text() for name in ("cuda", "cpu"))
    assert "sine" in on_gpu
    assert "kinbayes" not in on_gpu
    assert "sine" not in on_cpu
    assert "kinbayes" in on_cpu


def test_one_vector(log_likelihood):
    assert log_likelihood(ARRAYS, U[0]) == EXPECTED[0]
    assert log_likelihood(NUMBERS, U[0]) == EXPECTED[0]
    assert jax.jit(log_likelihood)(ARRAYS, U[0]) == EXPECTED[0]


def test_vmap_over_vectors(log_likelihood):
    batched = jax.jit(jax.vmap(log_likelihood, (None, 0)))
    np.testing.assert_array_equal(batched(ARRAYS, U), EXPECTED)
    np.testing.assert_array_equal(batched(ARRAYS, U[:1]), EXPECTED[:1])
    assert batched(ARRAYS, U[:0]).shape == (0,)
    of_columns = jax.jit(jax.vmap(log_likelihood, (None, 1)))
    np.testing.assert_array_equal(of_columns(ARRAYS, U.T), EXPECTED)


def test_nested_vmap(log_likelihood):
    cube = np.stack([U, U[::-1], U + 0.1, U - 0.1])
    twice = jax.jit(jax.vmap(jax.vmap(log_likelihood, (None, 0)), (None, 0)))
    expected = native.log_likelihoods(NUMBERS, cube.reshape(-1, 2)).reshape(4, 5)
    np.testing.assert_array_equal(twice(ARRAYS, cube), expected)
    across = jax.jit(jax.vmap(jax.vmap(log_likelihood, (None, 0)), (None, 1), 1))
    np.testing.assert_array_equal(across(ARRAYS, cube), expected)


def test_vmap_over_data(log_likelihood):
    sets = [numbers_of(MEASUREMENTS + shift) for shift in (0.0, 0.3, -0.1)]
    stacked = Numbers(ARRAYS.code, ARRAYS.ints, np.stack([n.floats for n in sets]))
    axes = Numbers(None, None, 0)
    expected = np.array([native.log_likelihoods(n, U) for n in sets])
    assert len(np.unique(expected)) == expected.size
    np.testing.assert_array_equal(jax.jit(jax.vmap(log_likelihood, (axes, None)))(stacked, U[1]), expected[:, 1])
    np.testing.assert_array_equal(
        jax.jit(jax.vmap(log_likelihood, (axes, 0)))(stacked, U[:3]), expected[range(3), range(3)]
    )
    outer = jax.vmap(jax.vmap(log_likelihood, (None, 0)), (axes, None))
    np.testing.assert_array_equal(jax.jit(outer)(stacked, U), expected)
    inner = jax.vmap(jax.vmap(log_likelihood, (axes, None)), (None, 0))
    np.testing.assert_array_equal(jax.jit(inner)(stacked, U), expected.T)


@pytest.fixture
def log_likelihoods(way) -> Callable:
    return anew(bridges.log_likelihoods)


@pytest.mark.parametrize("num", [0, 1, 5, 40])
def test_a_batch_over_all_threads(log_likelihoods, num):
    many = np.concatenate([U + 0.01 * k for k in range(8)])[:num]
    found = jax.jit(log_likelihoods)(ARRAYS, many)
    np.testing.assert_array_equal(found, native.log_likelihoods(NUMBERS, many))
    np.testing.assert_array_equal(log_likelihoods(ARRAYS, many), found)


def test_batches_of_batches_over_all_threads(log_likelihoods):
    cube = np.stack([U, U[::-1], U + 0.1, U - 0.1])
    expected = native.log_likelihoods(NUMBERS, cube.reshape(-1, 2)).reshape(4, 5)
    np.testing.assert_array_equal(jax.jit(jax.vmap(log_likelihoods, (None, 0)))(ARRAYS, cube), expected)
    other = numbers_of(MEASUREMENTS + 0.3)
    both = Numbers(ARRAYS.code, ARRAYS.ints, np.stack([NUMBERS.floats, other.floats]))
    expected = np.array([native.log_likelihoods(n, U) for n in (NUMBERS, other)])
    over_data = jax.vmap(log_likelihoods, (Numbers(None, None, 0), None))
    np.testing.assert_array_equal(jax.jit(over_data)(both, U), expected)


def test_a_failed_lane_makes_the_likelihood_zero(log_likelihood, log_likelihoods):
    expected = native.log_likelihoods(SOME_FAIL, U)
    assert set(np.isfinite(expected)) == {True, False}
    np.testing.assert_array_equal(jax.jit(jax.vmap(log_likelihood, (None, 0)))(SOME_FAIL, U), expected)
    many = np.tile(U, (8, 1))
    np.testing.assert_array_equal(jax.jit(log_likelihoods)(SOME_FAIL, many), np.tile(expected, 8))


# ---- gradients in JAX


@pytest.fixture
def value_and_gradient(way) -> Callable:
    return anew(bridges.value_and_gradient)


@pytest.fixture
def values_and_gradients(way) -> Callable:
    return anew(bridges.values_and_gradients)


def assert_both_equal(found, values, gradients):
    for a, b in zip(found, (values, gradients), strict=True):
        np.testing.assert_array_equal(a, b)


def test_value_and_gradient_of_one_vector(value_and_gradient):
    assert_both_equal(value_and_gradient(ARRAYS, U[0]), VALUES[0], GRADIENTS[0])
    assert_both_equal(jax.jit(value_and_gradient)(ARRAYS, U[1]), VALUES[1], GRADIENTS[1])


def test_values_and_gradients_under_vmap(value_and_gradient):
    batched = jax.vmap(value_and_gradient, (None, 0))
    assert_both_equal(jax.jit(batched)(ARRAYS, U), VALUES, GRADIENTS)
    cube = np.stack([U, U[::-1], U + 0.1, U - 0.1])
    values, gradients = native.log_likelihoods_and_gradients(NUMBERS, cube.reshape(-1, 2))
    expected = values.reshape(4, 5), gradients.reshape(4, 5, 2)
    assert_both_equal(jax.jit(jax.vmap(batched, (None, 0)))(ARRAYS, cube), *expected)
    across = jax.vmap(batched, (None, 1), 1)
    assert_both_equal(jax.jit(across)(ARRAYS, cube), *expected)


def test_values_and_gradients_under_vmap_over_data(value_and_gradient, values_and_gradients):
    sets = [numbers_of(MEASUREMENTS + shift) for shift in (0.0, 0.3, -0.1)]
    stacked, axes = ARRAYS._replace(floats=np.stack([n.floats for n in sets])), Numbers(None, None, 0)
    values, gradients = map(np.array, zip(*(native.log_likelihoods_and_gradients(n, U) for n in sets), strict=True))
    assert len(np.unique(gradients)) == gradients.size
    of_one = jax.jit(jax.vmap(value_and_gradient, (axes, None)))
    assert_both_equal(of_one(stacked, U[1]), values[:, 1], gradients[:, 1])
    assert_both_equal(jax.jit(jax.vmap(values_and_gradients, (axes, None)))(stacked, U), values, gradients)


@pytest.mark.parametrize("num", [0, 1, 5, 40])
def test_values_and_gradients_over_all_threads(values_and_gradients, num):
    many = np.concatenate([U + 0.01 * k for k in range(8)])[:num]
    found = jax.jit(values_and_gradients)(ARRAYS, many)
    assert_both_equal(found, *native.log_likelihoods_and_gradients(NUMBERS, many))
    assert_both_equal(values_and_gradients(ARRAYS, many), *found)


def test_a_failed_lane_leaves_no_gradient(value_and_gradient, values_and_gradients):
    values, gradients = native.log_likelihoods_and_gradients(SOME_FAIL, U)
    fails = np.isneginf(values)
    assert set(fails) == {True, False}
    others = native.simulated(SOME_FAIL, U[fails], with_gradients=True).gradients[:, 0]
    assert np.all(others != 0.0)  # the lanes beside the one that fails
    np.testing.assert_array_equal(gradients == 0.0, np.stack([fails, fails], axis=1))
    assert_both_equal(jax.jit(jax.vmap(value_and_gradient, (None, 0)))(SOME_FAIL, U), values, gradients)
    many = jax.jit(values_and_gradients)(SOME_FAIL, np.tile(U, (8, 1)))
    assert_both_equal(many, np.tile(values, 8), np.tile(gradients, (8, 1)))


def test_reverse_mode(log_likelihood, log_likelihoods):
    both = jax.value_and_grad(log_likelihood, 1)
    assert_both_equal(both(ARRAYS, U[0]), VALUES[0], GRADIENTS[0])
    assert_both_equal(jax.jit(both)(ARRAYS, U[1]), VALUES[1], GRADIENTS[1])
    assert_both_equal(jax.jit(jax.vmap(both, (None, 0)))(ARRAYS, U), VALUES, GRADIENTS)
    of_batch = jax.jit(jax.grad(lambda numbers, U: 2.0 * log_likelihoods(numbers, U).sum(), 1))
    np.testing.assert_array_equal(of_batch(ARRAYS, U), 2.0 * GRADIENTS)


def test_forward_mode(log_likelihood, log_likelihoods):
    np.testing.assert_array_equal(jax.jit(jax.jacfwd(log_likelihood, 1))(ARRAYS, U[0]), GRADIENTS[0])
    along = np.random.default_rng(1).normal(size=U.shape)
    expected = np.sum(GRADIENTS * along, axis=1)
    for f in (log_likelihoods, jax.vmap(log_likelihood, (None, 0))):
        values, slopes = jax.jit(lambda numbers, U, along, f=f: jax.jvp(functools.partial(f, numbers), (U,), (along,)))(
            ARRAYS, U, along
        )
        np.testing.assert_array_equal(values, VALUES)
        np.testing.assert_allclose(slopes, expected, rtol=1e-13)


def test_derivatives_where_a_lane_fails(log_likelihood):
    values, gradients = native.log_likelihoods_and_gradients(SOME_FAIL, U)
    assert np.isneginf(values).any()
    assert_both_equal(jax.vmap(jax.value_and_grad(log_likelihood, 1), (None, 0))(SOME_FAIL, U), values, gradients)


def test_derivatives_inside_control_flow(log_likelihood):
    def one(numbers, u):
        return log_likelihood(numbers, u)

    def loop(numbers, u):  # that carries the numbers along
        return jax.lax.fori_loop(0, 1, lambda _, carry: (carry[0], carry[1], one(*carry[:2])), (numbers, u, 0.0))[2]

    def branch(numbers, u):
        return jax.lax.cond(u[0] < 9.0, one, lambda numbers, u: 0.0, numbers, u)

    def mapped(numbers, u):
        return jax.lax.map(functools.partial(one, numbers), u[None])[0]

    for f in (jax.checkpoint(one), loop, branch, mapped):
        found = jax.jit(jax.value_and_grad(f, 1))(Numbers(*map(jnp.asarray, NUMBERS)), U[0])
        assert_both_equal(found, VALUES[0], GRADIENTS[0])


def test_one_call_serves_value_and_derivative(log_likelihood, value_and_gradient, way):
    assert num_calls(way, jax.value_and_grad(log_likelihood, 1)) == 1
    assert num_calls(way, jax.vmap(jax.value_and_grad(log_likelihood, 1), (None, 0)), U) == 1
    assert num_calls(way, jax.jacfwd(log_likelihood, 1)) == 1
    apart = num_calls(way, lambda numbers, u: (log_likelihood(numbers, u), value_and_gradient(numbers, u)))
    assert apart == 2


def test_derivatives_that_do_not_exist_are_refused(log_likelihood, value_and_gradient):
    def of_data(floats: Array) -> Array:
        return log_likelihood(ARRAYS._replace(floats=floats), U[0])

    with pytest.raises(TypeError, match="not the numbers"):
        jax.jit(jax.grad(of_data))(ARRAYS.floats)
    with pytest.raises(ValueError, match=r"cannot be differentiated|do not support"):
        jax.jit(jax.hessian(log_likelihood, 1))(ARRAYS, U[0])
    for f in (value_and_gradient, jax.grad(log_likelihood, 1)):
        with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match="no derivatives"):
            jax.block_until_ready(jax.jit(f)(PLAIN, U[0]))
    assert log_likelihood(PLAIN, U[0]) == EXPECTED[0]


def test_gradients_in_a_loop_of_two_threads():
    def climb(numbers, u):
        return jax.lax.fori_loop(0, 200, lambda _, u: u + 1e-5 * bridges.value_and_gradient(numbers, u)[1], u)

    starts = [U[0] + 0.1, U[3]]
    alone = [np.asarray(jax.jit(climb)(ARRAYS, u)) for u in starts]
    found: dict[int, np.ndarray] = {}
    program = jax.jit(climb)

    def work(which: int) -> None:
        found[which] = np.asarray(program(ARRAYS, starts[which]))

    run_threads([functools.partial(work, which) for which in (0, 1)])
    for which in (0, 1):
        np.testing.assert_array_equal(found[which], alone[which])
        before, after = native.log_likelihoods(NUMBERS, np.stack([starts[which], found[which]]))
        assert after > before


def test_nothing_is_traced_anew_when_numbers_change(log_likelihood):
    traces = []

    def counted(numbers, u):
        traces.append(u.shape)
        return log_likelihood(numbers, u)

    f = jax.jit(counted)
    other = numbers_of(MEASUREMENTS + 1.0)
    assert f(ARRAYS, U[0]) == EXPECTED[0]
    assert f(other, U[1]) == native.log_likelihoods(other, U)[1] != EXPECTED[1]
    assert len(traces) == 1


def summed(f, num):
    """Return a program that calls `f` on ever new vectors and sums what it returns."""

    def step(k, total, numbers, u):
        return total + jnp.sum(f(numbers, u + 1e-4 * k))

    return jax.jit(lambda numbers, u: jax.lax.fori_loop(0, num, functools.partial(step, numbers=numbers, u=u), 0.0))


def test_in_a_loop(log_likelihood):
    expected = native.log_likelihoods(NUMBERS, U[0] + 1e-4 * np.arange(2000)[:, None]).sum()
    assert summed(log_likelihood, 2000)(ARRAYS, U[0]) == pytest.approx(expected, rel=1e-12)


def test_batches_in_a_loop():
    many = np.tile(U, (4, 1))
    vectors = (many + 1e-4 * np.arange(2000)[:, None, None]).reshape(-1, 2)
    expected = native.log_likelihoods(NUMBERS, vectors).sum()
    assert summed(bridges.log_likelihoods, 2000)(ARRAYS, many) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("f", [bridges.log_likelihood, bridges.log_likelihoods])
def test_from_two_threads_at_once(f):
    start = U[0] if f is bridges.log_likelihood else np.tile(U, (4, 1))
    program = summed(f, 300)
    starts = [start, start + 0.05]
    alone = [float(program(ARRAYS, u)) for u in starts]
    found: dict[int, list[float]] = {0: [], 1: []}

    def work(which: int) -> None:
        for _ in range(3):
            found[which].append(float(program(ARRAYS, starts[which])))

    run_threads([functools.partial(work, which) for which in found])
    assert found == {which: [alone[which]] * 3 for which in found}


@pytest.mark.parametrize(
    ("numbers", "u", "words"),
    [
        (ARRAYS, jnp.asarray(U[0], dtype=jnp.float32), "u is float32"),
        (ARRAYS, jnp.asarray(U), "u is float64"),
        (ARRAYS._replace(code=ARRAYS.code.astype(jnp.int32)), U[0], "code is int32"),
        (ARRAYS._replace(code=ARRAYS.code[:2]), U[0], r"code is int64\[2\]"),
        (ARRAYS._replace(ints=ARRAYS.ints.astype(float)), U[0], "ints is float64"),
        (ARRAYS._replace(ints=ARRAYS.ints[:3]), U[0], r"ints is int64\[3\]"),
        (ARRAYS._replace(floats=ARRAYS.floats[None]), U[0], "floats is float64"),
    ],
)
def test_wrong_arrays_are_refused(log_likelihood, numbers, u, words):
    with pytest.raises((ValueError, TypeCheckError), match=words):
        jax.jit(log_likelihood)(numbers, u)


def test_a_vector_of_wrong_length_is_refused(log_likelihood):
    with pytest.raises(jax.errors.JaxRuntimeError, match="entries"):
        jax.jit(log_likelihood)(ARRAYS, np.zeros(3)).block_until_ready()
    with pytest.raises(jax.errors.JaxRuntimeError, match="entries"):
        jax.jit(bridges.log_likelihoods)(ARRAYS, np.zeros((40, 3))).block_until_ready()
    assert log_likelihood(ARRAYS, U[0]) == EXPECTED[0]


def test_a_function_of_one_numpy_vector():
    numbers = numbers_of()
    f = bridges.host_log_likelihood(numbers)
    del numbers
    gc.collect()
    assert [f(u) for u in U] == list(EXPECTED)
    assert f(np.asfortranarray(np.tile(U[1], (2, 1)))[0]) == EXPECTED[1]
    assert isinstance(f(U[0]), float)
    with pytest.raises(ValueError, match="has shape"):
        f(U[0, :1])


def test_value_and_gradient_of_one_numpy_vector():
    numbers = numbers_of()
    f = bridges.host_value_and_gradient(numbers)
    del numbers
    gc.collect()
    found = [f(u) for u in U]  # each result has memory of its own
    assert_both_equal(zip(*found, strict=True), VALUES, GRADIENTS)
    value, gradient = found[0]
    assert isinstance(value, float)
    assert gradient.shape == (2,)
    assert gradient.flags.writeable
    assert_both_equal(f(np.asfortranarray(np.tile(U[1], (2, 1)))[0]), VALUES[1], GRADIENTS[1])
    with pytest.raises(ValueError, match="has shape"):
        f(U[0, :1])
    with pytest.raises(ValueError, match="no derivatives"):
        bridges.host_value_and_gradient(PLAIN)


def test_a_failed_lane_leaves_numpy_no_gradient():
    values, gradients = native.log_likelihoods_and_gradients(SOME_FAIL, U)
    f = bridges.host_value_and_gradient(SOME_FAIL)
    assert_both_equal(zip(*map(f, U), strict=True), values, gradients)
    assert np.isneginf(values).any()


def test_numpy_vectors_in_several_threads():
    f, found = bridges.host_value_and_gradient(NUMBERS), {}

    def work(which: int) -> None:
        found[which] = [f(u) for _ in range(500) for u in np.roll(U, which, axis=0)]

    run_threads([functools.partial(work, which) for which in range(3)])
    for which, pairs in found.items():
        values, gradients = (np.roll(x, which, axis=0) for x in (VALUES, GRADIENTS))
        assert_both_equal(zip(*pairs, strict=True), np.tile(values, 500), np.tile(gradients, (500, 1)))
    assert len(found) == 3


def test_a_function_of_numbers_on_a_device():
    assert bridges.host_log_likelihood(ARRAYS)(U[0]) == EXPECTED[0]
    assert_both_equal(bridges.host_value_and_gradient(ARRAYS)(U[0]), VALUES[0], GRADIENTS[0])


def test_numbers_of_another_process_are_refused():
    for f in (bridges.host_log_likelihood, bridges.host_value_and_gradient):
        with pytest.raises(ValueError, match="another process"):
            f(NUMBERS._replace(code=NUMBERS.code + 16))


@numba.njit(nogil=True)
def walk(start, step, num, code, ints, floats):
    """Add up log likelihoods along a line, as a compiled sampler would."""
    u, total = start.copy(), 0.0
    for _ in range(num):
        total += bridges.native_log_likelihood(u, code, ints, floats)
        u += step
    return total


def test_compiled_code_calls_the_kernel():
    assert bridges.native_log_likelihood(U[1], *NUMBERS) == EXPECTED[1]
    line = U[0] + np.cumsum([np.zeros(2), *np.tile([1e-3, 2e-3], (199, 1))], axis=0)
    expected = native.log_likelihoods(NUMBERS, line)
    assert walk(U[0], np.array([1e-3, 2e-3]), 200, *NUMBERS) == pytest.approx(expected.sum(), rel=1e-12)
    read_only = U[0].copy()
    read_only.setflags(write=False)
    assert bridges.native_log_likelihood(read_only, *NUMBERS) == EXPECTED[0]


def test_compiled_code_in_two_threads():
    step = np.array([1e-6, 1e-6])
    alone = walk(U[0], step, 20_000, *NUMBERS)
    found = []
    run_threads([lambda: found.append(walk(U[0], step, 20_000, *NUMBERS))] * 2)
    assert found == [alone, alone]


def test_compiled_code_refuses_wrong_vectors():
    with pytest.raises(ValueError, match="entries"):
        bridges.native_log_likelihood(np.zeros(3), *NUMBERS)
    with pytest.raises(numba.TypingError, match="contiguous vector of float64"):
        bridges.native_log_likelihood(U[:, 0], *NUMBERS)
    with pytest.raises(numba.TypingError, match="contiguous vector of float64"):
        bridges.native_log_likelihood(U[0].astype(np.float32), *NUMBERS)


@numba.njit(nogil=True)
def climb(start, rate, num, code, ints, floats):
    """Follow the gradient, as a compiled optimizer would."""
    u = start.copy()
    for _ in range(num):
        u += rate * bridges.native_value_and_gradient(u, code, ints, floats)[1]
    return u


def test_compiled_code_has_the_gradient():
    for k in range(len(U)):
        assert_both_equal(bridges.native_value_and_gradient(U[k], *NUMBERS), VALUES[k], GRADIENTS[k])
    values, gradients = native.log_likelihoods_and_gradients(SOME_FAIL, U)
    found = [bridges.native_value_and_gradient(u, *SOME_FAIL) for u in U]
    assert_both_equal(zip(*found, strict=True), values, gradients)
    expected = U[0]
    for _ in range(50):
        expected = expected + 1e-5 * native.log_likelihoods_and_gradients(NUMBERS, expected[None])[1][0]
    np.testing.assert_allclose(climb(U[0], 1e-5, 50, *NUMBERS), expected, rtol=1e-14)  # numba may fuse products


def test_compiled_code_has_the_gradient_in_two_threads():
    alone = climb(U[0], 1e-5, 10_000, *NUMBERS)
    found = []
    run_threads([lambda: found.append(climb(U[0], 1e-5, 10_000, *NUMBERS))] * 2)
    np.testing.assert_array_equal(found, [alone, alone])
    assert np.any(alone != U[0])


def test_compiled_code_refuses_what_has_no_gradient():
    with pytest.raises(ValueError, match="entries"):
        bridges.native_value_and_gradient(np.zeros(3), *NUMBERS)
    with pytest.raises(ValueError, match="no derivatives"):
        bridges.native_value_and_gradient(U[0], *PLAIN)
    with pytest.raises(numba.TypingError, match="contiguous vector of float64"):
        bridges.native_value_and_gradient(U[:, 0], *NUMBERS)
