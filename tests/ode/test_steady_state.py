"""Steady states by Newton's method: against closed forms, other solvers, and models that have none."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.optimize import brentq, fsolve

from kinbayes.formats.petab.reader import read_petab
from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.model.model import Event, Model
from kinbayes.ode.status import Status
from kinbayes.problem import noise
from kinbayes.problem.observables import Experiment, Observable
from kinbayes.problem.parameters import Parameter
from kinbayes.problem.problem import Problem
from tests.ode.systems import model, run
from tests.problem.test_native_gradient import by_differences
from tests.problem.test_native_likelihood import BENCHMARK

TOLERANCES = [(1e-4, 1e-7), (1e-6, 1e-9), (1e-9, 1e-12)]


def rest(of, rtol=1e-6, atol=1e-9, *, max_steps=100_000):
    """Return the states of a model at rest; it must come there."""
    found = run(of, [np.inf], rtol, atol, max_steps=max_steps)
    assert found.status == Status.OK
    return found.states[0]


def problem(rates, start, estimated, observed, times=(np.inf,), *, rtol=1e-6, atol=1e-9, events=(), before=None):
    """Return a problem with one row for every observed formula at every time."""
    initial = {name: parse(value) if isinstance(value, str) else const(value) for name, value in start.items()}
    of = Model("model", {n: parse(r) for n, r in rates.items()}, initial, events=events)
    rows = [(f"y{k}", time, 0.0) for k in range(len(observed)) for time in times]
    data = pd.DataFrame(rows, columns=["observableId", "time", "measurement"]).assign(simulationConditionId="after")
    if before is not None:
        data = data.assign(preequilibrationConditionId="before")
    return Problem(
        of,
        [Parameter(name) for name in estimated],
        [Observable(f"y{k}", formula, noise.normal("1")) for k, formula in enumerate(observed)],
        data,
        experiments=[Experiment("before", before or {}), Experiment("after")],
        rtol=rtol,
        atol=atol,
    )


def assert_is(of, u, exact, tolerance=1e-8):
    """Assert that predictions and their derivatives are those of `exact`, a function of u in JAX."""
    u = jnp.asarray(u, dtype=float)
    rows, slopes = of.rows(np.asarray(u)[None]), of.row_derivatives(np.asarray(u)[None])
    assert np.all(rows.status == Status.OK)
    expected, expected_slopes = np.asarray(exact(u)), np.asarray(jax.jacfwd(exact)(u))
    np.testing.assert_allclose(rows.simulated[0], expected, rtol=tolerance, atol=tolerance)
    size = tolerance * max(np.max(np.abs(expected_slopes)), 1.0)
    np.testing.assert_allclose(slopes.simulated[0], expected_slopes, rtol=tolerance, atol=size)


# ---- closed forms

CHAIN = {"A": "-a * A + b * B", "B": "a * A - (b + c) * B + d * C", "C": "c * B - d * C"}


def chain(u):
    whole, a, b, c, d = u
    first = whole / (1 + a / b + a / b * c / d)
    return jnp.stack([first, first * a / b, first * a / b * c / d])


@pytest.mark.parametrize(("rtol", "atol"), TOLERANCES)
def test_a_chain_that_keeps_its_whole(rtol, atol):
    """The whole is the sum of three starts, of which one is estimated; at any tolerance the rest is that of Newton."""
    start = {"A": "whole - 2", "B": 1.5, "C": 0.5, "whole": 1.0, "a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}
    of = problem(CHAIN, start, ["whole", "a", "b", "c", "d"], "ABC", rtol=rtol, atol=atol)
    for u in ([5.0, 0.7, 1.3, 0.2, 0.9], [40.0, 2e2, 0.1, 5e-3, 2e-2], [2.5, 1e-2, 1e-2, 1e2, 1e2]):
        assert_is(of, u, chain, 1e-8)


def test_without_the_rest_the_chain_would_be_elsewhere():
    start = {"A": "whole - 2", "B": 1.5, "C": 0.5, "whole": 1.0, "a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}
    of = problem(CHAIN, start, ["whole", "a", "b", "c", "d"], "ABC", [3.0])
    u = np.array([5.0, 0.7, 1.3, 0.2, 0.9])
    assert np.max(np.abs(of.simulated(u) - chain(u))) > 1e-3


def test_two_wholes_and_a_product():
    """A + B <=> C: x = C solves k (a - x)(b - x) = x with the wholes a and b."""
    start = {"A": "a", "B": "b", "C": 0.0, "a": 2.0, "b": 1.0, "k": 1.0}
    of = problem({"A": "C - k * A * B", "B": "C - k * A * B", "C": "k * A * B - C"}, start, "abk", ["A", "B", "C"])

    def exact(u):
        a, b, k = u
        half = (a + b + 1 / k) / 2
        x = half - jnp.sqrt(half**2 - a * b)
        return jnp.stack([a - x, b - x, x])

    for u in ([2.0, 1.0, 3.0], [2.0, 2.0, 1e3], [5.0, 0.1, 1e-3]):
        assert_is(of, u, exact)


def test_a_rest_without_a_loss_of_its_own():
    """Integral control: z has no rate of its own, and A rests at its set point r/q whatever else is."""
    start = {"A": 3.0, "z": 0.0, "r": 1.0, "q": 1.0, "k": 1.0}
    of = problem({"A": "z - k * A", "z": "r - q * A"}, start, "rqk", ["A", "z"])
    assert_is(of, [1.2, 0.8, 1.7], lambda u: jnp.stack([u[0] / u[1], u[2] * u[0] / u[1]]))


def test_fluxes_that_cancel():
    """C has two large fluxes that do not depend on it: what A and B leave there is kept."""
    start = {"A": 1.0, "B": 0.5, "C": 0.0, "a": 1e3, "b": 1.0}
    of = problem({"A": "-b * A", "B": "-2 * b * B", "C": "a * A - a * 4 * B"}, start, "ab", ["C"])
    assert_is(of, [1e3, 0.7], lambda u: jnp.stack([u[0] / u[1] * (1.0 - 4 * 0.5 / 2)]), 1e-6)
    assert_is(of, [1e3, 3.0], lambda u: jnp.stack([0.0 * u[0]]), 1e-6)


@pytest.mark.parametrize("ratio", [1e3, 1e6, 1e9])
@pytest.mark.parametrize(("rtol", "atol"), [(1e-3, 1e-6), (1e-4, 1e-7), (1e-8, 1e-12)])
def test_a_slow_drain_behind_a_fast_exchange_is_awaited(ratio, rtol, atol):
    """A and B exchange `ratio` times as fast as B becomes C, where at last all is."""
    of = model("drain", {"A": "B - A", "B": "A - B - s * B", "C": "s * B"}, A=1.0, B=0.0, C=0.0, s=1 / ratio)
    np.testing.assert_allclose(rest(of, rtol, atol), [0.0, 0.0, 1.0], atol=1e-9)


EXCHANGED = {"A": "whole", "B": 0.0, "C": 0.0, "whole": 1.0, "a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}


@pytest.mark.parametrize("ratio", [1.0, 1e3, 1e6, 1e9])
@pytest.mark.parametrize(("rtol", "atol"), [(1e-3, 1e-6), (1e-4, 1e-7), (1e-6, 1e-9), (1e-8, 1e-12)])
def test_a_fast_exchange_does_not_lose_the_whole(ratio, rtol, atol):
    """A <-> B fast, B <-> C slowly, and A + B + C is kept. What is lost to rounding in each step grew with its length:
    at a ratio of 1e6 no rest was found, at 1e9 one at which there was nothing left.
    """
    of = problem(CHAIN, EXCHANGED, ["whole", "a", "b", "c", "d"], "ABC", rtol=rtol, atol=atol)
    u = np.array([3.0, 0.7 * ratio, 1.3 * ratio, 0.2, 0.9])
    rows = of.rows(u[None])
    assert np.all(rows.status == Status.OK)
    rounding = 200 * 2e-16 * ratio  # in the time that it takes
    np.testing.assert_allclose(rows.simulated[0], chain(u), rtol=1e-9 + rounding)


@pytest.mark.parametrize("ratio", [1.0, 1e3, 1e6])
def test_derivatives_behind_a_fast_exchange(ratio):
    of = problem(CHAIN, EXCHANGED, ["whole", "a", "b", "c", "d"], "ABC", rtol=1e-4, atol=1e-7)
    assert_is(of, [3.0, 0.7 * ratio, 1.3 * ratio, 0.2, 0.9], chain, 1e-8 + 2e-13 * ratio)


# ---- several rests, and lines of them

SWITCH = "s + v * x^4 / (1 + x^4) - x"


def switch(x):
    return 0.1 + 2 * x**4 / (1 + x**4) - x


LOW, MIDDLE, HIGH = (brentq(switch, *ends, xtol=1e-15) for ends in ((0.0, 0.5), (0.5, 1.2), (1.2, 3.0)))


@pytest.mark.parametrize(("rtol", "atol"), TOLERANCES)
@pytest.mark.parametrize("distance", [0.5, 1e-2, 1e-6])
def test_a_switch_falls_to_the_side_of_its_start(distance, rtol, atol):
    """Newton's method alone would find what repels as well."""
    low, high = (model("switch", {"x": SWITCH}, x=MIDDLE + d, s=0.1, v=2.0) for d in (-distance, distance))
    if distance > 10 * rtol:
        np.testing.assert_allclose(rest(low, rtol, atol), LOW, rtol=1e-8)
        np.testing.assert_allclose(rest(high, rtol, atol), HIGH, rtol=1e-8)


def test_derivatives_of_either_side():
    for start, end in ((0.2, LOW), (1.5, HIGH)):
        of = problem({"x": SWITCH}, {"x": start, "s": 0.1, "v": 2.0}, "sv", ["x"])
        found = of.row_derivatives(np.array([[0.1, 2.0]])).simulated[0, 0]
        slope = 8 * end**3 / (1 + end**4) ** 2 - 1  # of the rate by x
        np.testing.assert_allclose(found, [-1 / slope, -(end**4 / (1 + end**4)) / slope], rtol=1e-8)


@pytest.mark.parametrize("start", [1e-3, 1e-6, 1e-9])
def test_what_is_small_may_yet_grow(start):
    for rtol, atol in TOLERANCES:
        growth = model("logistic", {"x": "x * (1 - x)", "z": "1 - z"}, x=start, z=1.0)
        np.testing.assert_allclose(rest(growth, rtol, atol), 1.0, rtol=1e-9)


def test_a_rest_among_others_depends_on_the_start():
    """A + B -> C: what is fewer is used up; all states with A B = 0 are at rest."""
    rates = {"A": "-k * A * B", "B": "-k * A * B", "C": "k * A * B"}
    start = {"A": "a", "B": 1.0, "C": 0.0, "a": 2.0, "k": 1.0}
    of = problem(rates, start, "ak", "ABC")
    assert_is(of, [2.5, 1.7], lambda u: jnp.stack([u[0] - 1, 0 * u[0], 1 + 0 * u[0]]))
    assert_is(of, [0.3, 1.7], lambda u: jnp.stack([0 * u[0], 1 - u[0], u[0]]))
    # With as much of both nothing decays exponentially; no error is larger than the tolerance.
    np.testing.assert_allclose(of.simulated(np.array([1.0, 1.0])), [0.0, 0.0, 1.0], atol=1e-8)


def test_a_state_that_only_events_change_stays():
    of = problem({"x": "k - x", "held": "0 * k"}, {"x": 0.0, "held": "2 * k", "k": 1.0}, "k", ["x", "held"])
    assert_is(of, [1.3], lambda u: jnp.stack([u[0], 2 * u[0]]))


# ---- none

NEVER = {
    "slow growth": ({"x": "1e-9"}, [(1e-4, 1e-7), (1e-8, 1e-12)]),
    "growth of what is large": ({"x": "1e6 + y", "y": "-y"}, TOLERANCES),
    "growth beside what rests": ({"x": "1e-4", "y": "1 - y"}, TOLERANCES),
    "oscillation": ({"x": "y", "y": "-x"}, TOLERANCES),
    "limit cycle": ({"x": "y", "y": "3 * (1 - x^2) * y - x"}, TOLERANCES),
    "periodic force": ({"x": "sin(time) - x"}, TOLERANCES),
    "force that is small at first": ({"x": "1e-3 * sin(time)^3 + 1 - x"}, TOLERANCES),
    "periodic rate": ({"x": "piecewise(3, time - 2 * floor(time / 2) < 1, 0) - x"}, TOLERANCES),
    "time itself": ({"x": "1e-3 * time - x"}, TOLERANCES),
    "past a saddle and a node": ({"x": "1e-2 + x^2 - y", "y": "-y"}, TOLERANCES),
}


@pytest.mark.parametrize("name", NEVER)
def test_where_there_is_no_rest(name):
    rates, tolerances = NEVER[name]
    of = model(name, rates, **dict.fromkeys(rates, 1.0))
    for rtol, atol in tolerances:
        found = run(of, [0.0, np.inf], rtol, atol, max_steps=3_000)
        expected = Status.STEP_TOO_SMALL if "saddle" in name else Status.NO_STEADY_STATE
        assert found.status == expected, (rtol, found)


def test_a_force_that_fades_is_awaited():
    fading = {"exp(-time)": 1e-9, "1 / (1 + time^2)": 1e-6, "1e-3 * time * exp(-time / 1e4)": 1e-6}
    for force, tolerance in fading.items():
        of = model("fading", {"x": f"{force} - x + y", "y": "2 - y"}, x=0.0, y=2.0)
        np.testing.assert_allclose(rest(of), 2.0, rtol=tolerance)
    integral = model("integral", {"x": "exp(-time / 10)"}, x=1.0)  # without any loss
    np.testing.assert_allclose(rest(integral), 11.0, rtol=1e-5)


def test_what_is_switched_later_is_awaited():
    of = model("switched", {"x": "piecewise(1, time > 100, 0) - x"}, x=0.0)
    np.testing.assert_allclose(rest(of), 1.0, rtol=1e-9)


# ---- what is measured

DECAY = {"A": "s - k * A"}
VALUES = {"A": 3.0, "s": 1.0, "k": 1.0}


def test_measurements_at_finite_times_and_at_rest():
    times = [0.0, 0.5, 0.5, 2.0, np.inf]
    of = problem(DECAY, VALUES, "sk", ["A", "2 * A"], times, rtol=1e-10, atol=1e-12)
    t = np.array(times[:-1])

    def exact(u):
        s, k = u
        a = jnp.concatenate([s / k + (3 - s / k) * jnp.exp(-k * t), jnp.array([s / k])])
        return jnp.concatenate([a, 2 * a])

    assert_is(of, [1.4, 0.6], exact)
    assert of.num_lanes == 1


def test_rows_at_rest_do_not_depend_on_rows_before():
    alone, beside = (problem(DECAY, VALUES, "sk", ["A"], times) for times in ([np.inf], [0.0, 1.0, 30.0, np.inf]))
    u = np.array([1.4, 0.6])
    np.testing.assert_allclose(alone.simulated(u)[0], beside.simulated(u)[-1], rtol=1e-10)


def test_time_is_infinite_in_observables_at_rest():
    observed = ["A * exp(-time)", "A + 1 / (1 + time)", "piecewise(A, time > 1e6, 0)"]
    of = problem(DECAY, VALUES, "sk", observed)
    assert_is(of, [1.4, 0.6], lambda u: jnp.stack([0 * u[0], u[0] / u[1], u[0] / u[1]]))
    lost = problem(DECAY, VALUES, "sk", ["A * time"])
    assert lost.evaluate(np.array([[1.4, 0.6]])).log_likelihood[0] == -np.inf


def test_models_without_states_are_at_rest():
    of = problem({}, {"A": 2.0, "k": 1.0}, "k", ["A * k", "k * exp(-time)"], [0.0, 1.0, np.inf])
    e = np.exp(-1.0)
    assert_is(of, [1.7], lambda u: jnp.stack([2 * u[0], 2 * u[0], 2 * u[0], u[0], u[0] * e, 0 * u[0]]))


def test_lanes_at_rest_depend_on_their_own_numbers_alone():
    of = problem(DECAY, VALUES, "sk", ["A"], [1.0, np.inf])
    U = np.random.default_rng(3).uniform(0.2, 3.0, (7, 2))
    together = of.rows(U).simulated
    np.testing.assert_array_equal(together, [of.rows(u[None]).simulated[0] for u in U])


# ---- events on the way


def fed(*, assignment="A + 2", trigger="A <= 1.5", **settings):
    event = Event("feeding", parse(trigger), (("A", parse(assignment)), ("n", parse("n + 1"))), **settings)
    start = {"A": 4.0, "n": 0.0, "s": 1.0, "k": 1.0}
    rates = {"A": "s - k * A", "n": "0 * s"}
    return rates, start, event


def test_an_event_fires_on_the_way_to_rest():
    """A falls to 1, but at 1.5 it is once lifted to 3.5; B gathers what is above 1."""
    event = Event("lift", parse("A <= 1.5 && n < 1"), (("A", parse("A + 2")), ("n", parse("n + 1"))))
    rates = {"A": "s - A", "n": "0 * s", "B": "A - s"}
    of = problem(rates, {"A": 4.0, "n": 0.0, "B": 0.0, "s": 1.0}, "s", "ABn", rtol=1e-9, atol=1e-12, events=(event,))
    assert_is(of, [1.0], lambda u: jnp.stack([u[0], 4 - u[0] + 2, 1 + 0 * u[0]]))
    assert_is(of, [1.6], lambda u: jnp.stack([u[0], 4 - u[0], 0 * u[0]]))  # it never falls so far


def test_an_event_within_a_preequilibration():
    """Before time 0 as above; afterwards nothing fires again, since its condition has been true all the time."""
    rates, start = {"A": "s - A", "B": "A - s"}, {"A": 4.0, "B": 0.0, "s": 1.0}
    event = Event("drop", parse("A <= 1.5"), (("B", parse("B + 10")),))
    of = problem(rates, start, "s", "AB", [0.0, 3.0], rtol=1e-9, atol=1e-12, events=(event,), before={})
    assert_is(of, [1.2], lambda u: jnp.stack([u[0], u[0], 14 - u[0], 14 - u[0]]))
    assert_is(of, [1.7], lambda u: jnp.stack([u[0], u[0], 4 - u[0], 4 - u[0]]))


def test_a_preequilibration_may_leave_a_condition_that_becomes_true_afterwards():
    rates, start = {"A": "s - A", "B": "0 * s"}, {"A": 4.0, "B": 0.0, "s": 1.0}
    event = Event("rise", parse("A >= 2"), (("B", parse("B + 1")),))
    of = problem(rates, start, (), "AB", [0.0, 5.0], events=(event,), before={"s": 1.0})
    risen = Problem(
        of.model,
        [],
        of.observables,
        pd.DataFrame(
            [(o, "before", "after", t, 0.0) for o in ("y0", "y1") for t in (0.0, 5.0)],
            columns=["observableId", "preequilibrationConditionId", "simulationConditionId", "time", "measurement"],
        ),
        experiments=[Experiment("before", {"s": 1.0}), Experiment("after", {"s": 3.0})],
    )
    # A starts above 2, which does not fire; it rests at 1, and above 2 again it does.
    np.testing.assert_allclose(of.rows(np.zeros((1, 0))).simulated[0], [1.0, 1.0, 0.0, 0.0], atol=1e-9)
    found = risen.rows(np.zeros((1, 0))).simulated[0]
    np.testing.assert_allclose(found, [1.0, 3 - 2 * math.exp(-5), 0.0, 1.0], rtol=1e-5)


def test_a_delay_that_is_under_way_is_awaited():
    event = Event("late", parse("A <= 2"), (("B", parse("B + 7")),), delay=parse("1000"))
    of = model("late", {"A": "1 - A", "B": "-0.01 * (B - 1)"}, A=4.0, B=1.0)
    of = Model(of.name, of.derivatives, {**of.initial}, events=(event,))
    found = run(of, [0.0, 990.0, 1010.0, np.inf], 1e-8, 1e-10)
    at_event = math.log(3.0) + 1000
    np.testing.assert_allclose(found.states[:, 1], [1, 1, 1 + 7 * math.exp(-0.01 * (1010 - at_event)), 1], rtol=1e-7)


# ---- published and random models


@pytest.mark.skipif(not BENCHMARK.is_dir(), reason="the benchmark collection is not here")
def test_draws_of_a_published_prior_all_come_to_rest():
    fine = read_petab(BENCHMARK / "Zheng_PNAS2012" / "Zheng_PNAS2012.yaml", rtol=1e-12, atol=1e-12)
    points = fine.draw_prior(np.random.default_rng(1), 200)
    found = fine.rows(points)
    assert np.all(found.status == Status.OK)
    assert np.max(np.abs(found.simulated)) > 0.9
    for rtol, atol, error in ((1e-10, 1e-10, 1e-9), (1e-4, 1e-7, 1e-4)):
        other = fine.with_tolerances(rtol, atol).rows(points)
        assert np.all(other.status == Status.OK)
        np.testing.assert_allclose(other.simulated, found.simulated, atol=error)


NUM = 4


def network(seed):
    """Return a network of random reactions as formulas, and its rates as a function for SciPy.

    Whatever is made is lost, so that it comes to rest; conversions may be fast or slow.
    """
    rng = np.random.default_rng(seed)
    supply, loss = rng.uniform(0.1, 2.0, NUM), 10 ** rng.uniform(-2, 1, NUM)
    ends = [rng.choice(NUM, 2, replace=False) for _ in range(5)]
    speed, half = 10 ** rng.uniform(-3, 3, 5), rng.uniform(0.3, 3.0, 5)
    rates = [f"{supply[i]} - {loss[i]} * x{i}" for i in range(NUM)]
    for (a, b), v, w in zip(ends, speed, half, strict=True):
        rates[a] += f" - {v} * x{a} / ({w} + x{a})"
        rates[b] += f" + {v} * x{a} / ({w} + x{a})"

    def slopes(_, x):
        y = supply - loss * x
        for (a, b), v, w in zip(ends, speed, half, strict=True):
            flux = v * x[a] / (w + x[a])
            y[a] -= flux
            y[b] += flux
        return y

    start = rng.uniform(0.0, 5.0, NUM)
    of = model("network", {f"x{i}": rate for i, rate in enumerate(rates)}, **{f"x{i}": start[i] for i in range(NUM)})
    return of, slopes, start


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 10_000))
@example(0)
def test_random_networks_rest_where_scipy_says(seed):
    of, slopes, start = network(seed)
    late = solve_ivp(slopes, (0, 1e5), start, method="LSODA", rtol=1e-8, atol=1e-10).y[:, -1]
    expected = fsolve(lambda x: slopes(0, x), late, xtol=1e-13)
    np.testing.assert_allclose(rest(of, 1e-4, 1e-7), expected, rtol=1e-8)
    np.testing.assert_allclose(rest(of, 1e-8, 1e-12), expected, rtol=1e-8)


def test_gradients_at_rest_are_differences():
    """Of a nonlinear network with a whole that is kept."""
    rates = {
        "E": "-a * E * S + (b + c) * ES",
        "S": "s - a * E * S + b * ES - 0.1 * S",
        "ES": "a * E * S - (b + c) * ES",
        "P": "c * ES - d * P / (1 + P)",
    }
    start = {"E": "e", "S": 0.0, "ES": 0.2, "P": 0.0, "e": 1.0, "s": 0.5, "a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}
    names = ["e", "s", "a", "b", "c", "d"]
    of = problem(rates, start, names, ["E", "S", "ES", "P"], rtol=1e-6, atol=1e-9)
    u = np.array([1.1, 0.5, 2.0, 0.3, 0.8, 1.9])
    _, grad = of.value_and_grad(u)
    np.testing.assert_allclose(grad, by_differences(of, u, 1e-3), rtol=1e-7, atol=1e-8)
