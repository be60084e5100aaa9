"""Lanes that depend on nothing but their own numbers, and the three linear solvers behind one integrator."""

import itertools
import random

import jax
import numpy as np
import pandas as pd
import pytest

from kinbayes.model.expressions import apply, const, symbol
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.ode import native, simulate
from kinbayes.ode.status import Status
from kinbayes.problem import noise
from kinbayes.problem.observables import Experiment, Observable
from kinbayes.problem.parameters import Parameter
from kinbayes.problem.problem import Problem
from tests.ode.systems import model, run, scipys

# ---- lanes

TIMES = [0.0, 0.4, 1.0, 2.5]


@pytest.fixture(scope="module")
def problem():
    """A -> B under three doses, where A has a root that fails below 0, and a switch."""
    rates = {
        "A": parse("dose - k * sqrt(A) - r * A + piecewise(0.2, time < 1, 0)"),
        "B": parse("r * A - B^2 * k"),
    }
    of = Model("lanes", rates, {"A": const(1.0), "B": const(0.0), "k": const(0.3), "r": const(0.1), "dose": const(0)})
    doses = {"none": 0.0, "some": 0.5, "much": 4.0}
    data = [
        {"observableId": name, "simulationConditionId": dose, "time": t, "measurement": 0.7}
        for name, dose, t in itertools.product(("a", "b"), doses, TIMES)
    ]
    return Problem(
        of,
        [Parameter("k", lower=1e-3, upper=1e3, scale="log10"), Parameter("r", lower=-10.0, upper=10.0)],
        [Observable("a", "A", noise.normal("0.1")), Observable("b", "B + A", noise.normal("0.2"))],
        pd.DataFrame(data),
        experiments=[Experiment(name, {"dose": dose}) for name, dose in doses.items()],
    )


@pytest.fixture(scope="module")
def numbers(problem):
    return native.Numbers(*map(np.asarray, problem._data.native))


@pytest.fixture(scope="module")
def vectors():
    stream = np.random.RandomState(3)
    U = np.stack([stream.uniform(-3, 3, 40), stream.uniform(-3, 3, 40)], axis=-1)
    U[7] = U[0]  # twice the same
    U[11] = np.nan
    return U


NUM = len(native.Lanes._fields)  # what is told of every lane; rows, states, … follow


def everything(numbers, U, **settings):
    found = native.simulated(numbers, U, with_rows=True, with_states=True, **settings)
    return [*found.lanes, found.rows, found.states]


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def expected(numbers, vectors):
    return everything(numbers, vectors, num_threads=1)


def test_some_lanes_fail_beside_others(expected):
    status = expected[1]
    assert np.sum(status == Status.OK) > 40
    assert np.sum(status == Status.STEP_TOO_SMALL) > 20
    assert np.sum(np.any(status != Status.OK, axis=1) & np.any(status == Status.OK, axis=1)) > 5
    np.testing.assert_array_equal(status[11], Status.NOT_FINITE)


@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_threads_change_nothing(numbers, vectors, expected, num_threads):
    for _ in range(5):
        assert_same(everything(numbers, vectors, num_threads=num_threads), expected)


def test_the_company_changes_nothing(numbers, vectors, expected):
    for k, u in enumerate(vectors):
        assert_same(everything(numbers, u[None]), [part[k : k + 1] for part in expected])
    order = np.random.RandomState(4).permutation(len(vectors))
    for num_threads in (1, 2):
        assert_same(everything(numbers, vectors[order], num_threads=num_threads), [part[order] for part in expected])
    assert_same([part[7] for part in expected], [part[0] for part in expected])


def test_a_failed_lane_leaves_nothing_behind(numbers, vectors, expected):
    """Its NaN stages once entered what was observed of the next lane at time 0."""
    status = expected[1]
    failed, good = vectors[np.any(status > 0, axis=1)], np.flatnonzero(np.all(status == 0, axis=1))
    assert np.isnan(failed).any()
    for k in good[:5]:
        mixed = np.insert(failed, range(0, len(failed) + 1), vectors[k], axis=0)
        found = everything(numbers, mixed, num_threads=1)
        for at in range(0, len(mixed), 2):
            assert_same([part[at] for part in found], [part[k] for part in expected])


def test_serial_totals_are_those_of_the_lanes(numbers, vectors, expected):
    totals = native.totals(native.Lanes(*expected[:NUM]))
    assert np.sum(np.isfinite(totals)) > 5
    assert np.sum(np.isneginf(totals)) > 5
    np.testing.assert_array_equal(native.log_likelihoods(numbers, vectors), totals)
    np.testing.assert_array_equal([native.log_likelihoods(numbers, u[None])[0] for u in vectors], totals)
    is_good = np.isfinite(totals)
    np.testing.assert_allclose(totals[is_good], expected[NUM][is_good, :, 0].sum(axis=1), rtol=1e-12)


def test_jax_and_numpy_get_the_same_numbers(problem, numbers, vectors, expected):
    totals = native.totals(native.Lanes(*expected[:NUM]))
    np.testing.assert_array_equal([problem.log_likelihood(u) for u in vectors], totals)
    np.testing.assert_array_equal(jax.vmap(problem.log_likelihood)(vectors), totals)
    np.testing.assert_array_equal(problem.batched.log_likelihood(vectors), totals)
    rows = problem.rows(vectors)
    np.testing.assert_array_equal(rows.log_density, expected[NUM][..., 0])
    np.testing.assert_array_equal(rows.simulated, expected[NUM][..., 1])
    np.testing.assert_array_equal(rows.status, expected[1])
    np.testing.assert_array_equal(problem.states(vectors), expected[NUM + 1].reshape(len(vectors), 3, len(TIMES), 2))
    good = int(np.argmax(np.isfinite(totals)))
    np.testing.assert_array_equal(problem.simulated(vectors[good]), expected[NUM][good, :, 1])
    np.testing.assert_array_equal(problem.pointwise_log_likelihood(vectors[good]), expected[NUM][good, :, 0])


def test_totals_of_lanes():
    shape = (4, 2)
    ok, failed = int(Status.OK), int(Status.MAX_STEPS)
    lanes = native.Lanes(
        np.array([[-1.0, -2.0], [-1.0, -2.0], [np.nan, -2.0], [np.inf, 0.0]]),
        np.array([[ok, ok], [ok, failed], [ok, ok], [ok, ok]]),
        *np.zeros((NUM - 2, *shape)).astype(object),
    )
    np.testing.assert_array_equal(native.totals(lanes), [-3.0, -np.inf, -np.inf, -np.inf])


# ---- what becomes code


def test_an_input_that_no_lane_gives_is_refused():
    of = model("decay", {"x": "-k * x"}, x=1.0, k=2.0)
    with pytest.raises(ValueError, match=r"function 'start' uses \['k'\]"):
        native.compiled(of, of.initial_values(["x", "k"]), ["x"], [])


def test_time_is_a_state_only_where_the_rates_know_it():
    def code(rate):
        of = model("rate", {"x": rate}, x=1.0)
        return native.compiled(of, of.initial_values(["x"]), ["x"], [])

    plain, forced, switched = map(code, ("-x", "sin(time) - x", "piecewise(1, time < 2, 0) - x"))
    assert (plain.has_time, plain.num_states, plain.num_switches) == (False, 1, 0)
    assert (forced.has_time, forced.num_states, forced.num_switches) == (True, 2, 0)
    assert (switched.has_time, switched.num_states, switched.num_switches) == (False, 1, 1)


# ---- linear solvers


def chain(size):
    """A chain of saturated reactions."""
    fluxes = [50 * symbol(f"s{i}") / (1 + 0.1 * symbol(f"s{i}")) for i in range(size)]
    rates = {f"s{i}": (50 * symbol(f"s{i - 1}") if i else const(0.0)) - fluxes[i] for i in range(size)}
    return model("chain", rates, **{f"s{i}": float(i == 0) for i in range(size)})


def network(size, num_reactions, seed):
    """Reversible reactions A + B -> C of three states each."""
    stream = random.Random(seed)
    rates = {f"s{i}": const(0.0) for i in range(size)}
    for _ in range(num_reactions):
        a, b, c = (f"s{k}" for k in stream.sample(range(size), 3))
        forward = symbol(a) * symbol(b) * 10 ** stream.uniform(-1, 1)
        net = forward - symbol(c) * 10 ** stream.uniform(-1, 1)
        rates[a], rates[b], rates[c] = rates[a] - net, rates[b] - net, rates[c] + net
    return model("network", rates, **{name: stream.random() for name in rates})


def full(size):
    """A system in which every state acts on every other."""
    stream = np.random.RandomState(0)
    matrix = stream.randn(size, size) - 30 * np.eye(size)
    states = [symbol(f"s{i}") for i in range(size)]
    rates = {
        f"s{i}": sum((a * s for a, s in zip(matrix[i].tolist(), states, strict=True)), start=const(0.0))
        + apply("tanh", states[(i + 1) % size])
        for i in range(size)
    }
    return model("full", rates, **{f"s{i}": stream.rand() for i in range(size)})


@pytest.fixture
def solver(monkeypatch):
    """Return a function that has every model compiled with one solver, and let none survive."""
    chosen = []

    def choose(kind):
        simulate._compiled.cache_clear()
        monkeypatch.setattr(native, "method", lambda *sizes: chosen.append(kind) or kind)

    yield choose
    simulate._compiled.cache_clear()
    assert chosen


SPANS = {"chain": 0.2, "network": 1.0, "full": 0.05}
SMALL = {"chain": chain(30), "network": network(12, 14, 1), "full": full(12)}


@pytest.mark.parametrize("name", SMALL)
def test_the_linear_solvers_agree(solver, name):
    times, runs = SPANS[name] * np.array([0.0, 0.5, 1.0, 2.0]), {}
    for kind in ("straight", "indexed", "dense"):
        solver(kind)
        runs[kind] = run(SMALL[name], times)
        assert runs[kind].status == Status.OK
    reference, _ = scipys(SMALL[name], times, 1e-10, 1e-12, method="LSODA")
    for kind, found in runs.items():
        error = np.max(np.abs(found.states - reference))
        print(f"{name}, {kind}: error {error:.1e}, {found.steps} steps")
        np.testing.assert_allclose(found.states, reference, atol=1e-7)
        assert np.max(np.abs(reference[-1])) > 1e-3  # or there would be nothing to be wrong
        np.testing.assert_allclose(found.states, runs["straight"].states, rtol=1e-8, atol=1e-11)
        assert found.steps == runs["straight"].steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of", "kind"),
    [(chain(100), "straight"), (network(150, 250, 1), "indexed"), (full(70), "dense")],
    ids=["chain", "network", "full"],
)
def test_large_systems_get_the_solver_that_suits_them(monkeypatch, of, kind):
    chosen, choice = [], native.method
    monkeypatch.setattr(native, "method", lambda *sizes: chosen.append(choice(*sizes)) or chosen[-1])
    simulate._compiled.cache_clear()
    times = SPANS[of.name] * np.array([0.0, 0.5, 1.0, 2.0])
    found = run(of, times)
    assert chosen == [kind]
    assert found.status == Status.OK
    reference, _ = scipys(of, times, 1e-9, 1e-12, method="DOP853")
    error = np.max(np.abs(found.states - reference))
    print(f"{of.name}: error {error:.1e}, {found.steps} steps")
    assert error < 1e-6
    assert np.max(np.abs(reference[-1])) > 1e-3
