"""The native log likelihood must be the same number through every bridge."""

import functools
import gc
import threading
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numba
import numpy as np
import pytest
from jaxtyping import Array, TypeCheckError

from kinbayes.model.expressions import ZERO, const, symbol
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.ode import bridges, native, xla_handler
from kinbayes.ode.numbers import Floats, Ints, Numbers, Sizes, pack

TIMES = np.array([0.0, 0.5, 1.0, 2.0])
SIGMA = 0.1
LANES = 3  # replicates, each with its own measurements
SHIFTS = np.array([0.01, -0.2, 0.05])
MEASUREMENTS = 1.5 * np.exp(-0.3 * TIMES) + SHIFTS[:, None]
U = np.array([[np.log10(0.3), 1.5], [0.0, 2.0], [-1.0, 1.0], [0.5, 0.7], [-0.2, 3.0]])


@functools.cache
def decay() -> native.Compiled:
    model = Model("decay", {"A": parse("-k * A")}, {"A": const(1.5), "k": const(0.3)})
    density = parse(f"-0.5 * ((measurement - A) / {SIGMA})^2")
    observer = native.Observer((density, symbol("A"), ZERO, ZERO), ("measurement",))
    return native.compiled(model, model.initial_values(["A", "k"]), ["A", "k"], [observer])


def numbers_of(measurements: np.ndarray = MEASUREMENTS, *, max_steps: int = 1000) -> Numbers:
    """Return the numbers of A' = -k A with u = (log10 k, A at time 0)."""
    code = decay()
    lanes, num = measurements.shape
    rows = lanes * num
    sizes = Sizes(
        parameters=2,
        inputs=2,
        sometimes=0,
        states=code.num_states,
        has_time=int(code.has_time),
        is_solved=int(code.is_solved),
        constants=code.num_constants,
        switches=code.num_switches,
        observables=1,
        entries=len(code.entries[0]),
        factors=code.num_factors,
        lanes=lanes,
        times=rows,
        rows=rows,
        arguments=1,
        columns=4,
        max_steps=max_steps,
    )
    index, none = np.tile([1, 0], (lanes, 1)), np.zeros((lanes, 2))
    ints = Ints(
        sizes=np.array(sizes),
        entry_rows=code.entries[0],
        entry_columns=code.entries[1],
        pattern=code.pattern,
        input_index=index,
        is_equilibrated=np.zeros(lanes),
        equilibration_index=index,
        is_reset=np.zeros((lanes, 1)),
        lane_times=np.arange(lanes + 1) * num,
        time_rows=np.arange(rows + 1),
        row_function=np.zeros(rows),
        row_place=np.arange(rows),
        row_arguments=np.arange(rows + 1),
        argument_index=np.full(rows, -1),
    )
    floats = Floats(
        tolerances=np.array([1e-8, 1e-8]),
        scale_factors=np.array([np.log(10.0), 0.0]),
        input_constant=none,
        is_given=np.zeros(0),
        equilibration_constant=none,
        equilibration_is_given=np.zeros(0),
        times=np.tile(TIMES, lanes),
        argument_constant=measurements,
    )
    return Numbers(code.addresses, *pack(ints, floats))


NUMBERS = numbers_of()
ARRAYS = Numbers(*map(jnp.asarray, NUMBERS))
EXPECTED = native.log_likelihoods(NUMBERS, U)


@pytest.fixture(params=["xla", "callback"])
def log_likelihood(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Both ways of a call: XLA's, and that through Python as if XLA's interface were unknown."""
    if request.param == "callback":
        monkeypatch.setattr(xla_handler, "target", lambda: None)

    def f(numbers: Numbers, u: Array) -> Array:
        return bridges.log_likelihood(numbers, u)

    return f  # a new function each time, so that JAX does not remember a program of the other way


def test_the_kernel_gives_the_closed_form():
    predicted = U[:, 1, None] * np.exp(-(10.0 ** U[:, 0, None]) * TIMES)
    closed = -0.5 * (((predicted[:, None] - MEASUREMENTS) / SIGMA) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(EXPECTED, closed, rtol=1e-5)


def test_xla_calls_the_handler_itself(log_likelihood, request):
    text = jax.jit(log_likelihood).lower(ARRAYS, U[0]).compile().as_text()
    is_xla = "xla" in request.node.callspec.id
    assert ('custom_call_target="kinbayes_log_likelihood' in text) == is_xla
    assert ("python_cpu_callback" in text) != is_xla
    assert "conditional" not in text


def test_other_platforms_get_the_callback(monkeypatch):
    jax.clear_caches()  # a program that is known already would not see the stand-in
    monkeypatch.setattr(jax, "pure_callback", lambda f, result, U, *numbers: jnp.sin(U.sum(axis=1)))
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
def log_likelihoods(log_likelihood) -> Callable:
    """Both ways of a batch."""
    return lambda numbers, U: bridges.log_likelihoods(numbers, U)


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
    numbers = numbers_of(max_steps=8)
    expected = native.log_likelihoods(numbers, U)
    assert set(np.isfinite(expected)) == {True, False}
    np.testing.assert_array_equal(jax.jit(jax.vmap(log_likelihood, (None, 0)))(numbers, U), expected)
    many = np.tile(U, (8, 1))
    np.testing.assert_array_equal(jax.jit(log_likelihoods)(numbers, many), np.tile(expected, 8))


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

    threads = [threading.Thread(target=work, args=(which,)) for which in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
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


def test_a_function_of_numbers_on_a_device():
    assert bridges.host_log_likelihood(ARRAYS)(U[0]) == EXPECTED[0]


def test_numbers_of_another_process_are_refused():
    with pytest.raises(ValueError, match="another process"):
        bridges.host_log_likelihood(NUMBERS._replace(code=NUMBERS.code + 16))


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
    threads = [threading.Thread(target=lambda: found.append(walk(U[0], step, 20_000, *NUMBERS))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone, alone]


def test_compiled_code_refuses_wrong_vectors():
    with pytest.raises(ValueError, match="entries"):
        bridges.native_log_likelihood(np.zeros(3), *NUMBERS)
    with pytest.raises(numba.TypingError, match="contiguous vector of float64"):
        bridges.native_log_likelihood(U[:, 0], *NUMBERS)
    with pytest.raises(numba.TypingError, match="contiguous vector of float64"):
        bridges.native_log_likelihood(U[0].astype(np.float32), *NUMBERS)
