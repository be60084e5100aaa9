"""The integrator against closed forms and SciPy: its order, its errors on stiff systems, and what it refuses."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import brentq

from kinbayes.model.expressions import apply, const, symbol, where
from kinbayes.model.formula import parse
from kinbayes.ode import equations, simulate
from kinbayes.ode.status import Status
from tests.ode.systems import (
    HIRES,
    OREGONATOR,
    ROBERTSON,
    model,
    relative_error,
    run,
    scaled_van_der_pol,
    scipys,
    van_der_pol,
)

TIME, X = symbol("time"), symbol("x")


@pytest.fixture
def uncached(monkeypatch):
    """Let patches of the compiler take effect, and let none survive."""
    simulate._compiled.cache_clear()
    yield monkeypatch
    simulate._compiled.cache_clear()


# ---- order

TIMES = np.linspace(0, 8, 41)
TOLERANCES = 10.0 ** -np.arange(4, 10.5, 0.5)
BRUSSELATOR = model("Brusselator", {"x": "1 + x * x * y - 4 * x", "y": "3 * x - x * x * y"}, x=1.5, y=3.0)
FORCED = model("forced", {"x": "sin(time) - x"}, x=1.0)
ORDERS = {
    "logistic": (model("logistic", {"x": "x * (1 - x)"}, x=0.1), lambda t: 1 / (1 + 9 * np.exp(-t))),
    "Brusselator": (BRUSSELATOR, None),
    "forced": (FORCED, lambda t: 1.5 * np.exp(-t) + (np.sin(t) - np.cos(t)) / 2),
    "nonlinear, forced": (model("sine", {"x": "cos(time) + sin(time)^2 - x^2"}, x=0.0), np.sin),
}


def slope(steps, errors):
    return np.polyfit(np.log(steps), np.log(errors), 1)[0]


def slopes(of, exact, tolerances=TOLERANCES):
    """Return how the error at the end, and the largest of all times, falls with the number of steps."""
    runs = [run(of, TIMES, tol, tol) for tol in tolerances]
    errors = [np.abs(r.states - exact) for r in runs]
    steps = [r.steps for r in runs]
    return slope(steps, [e[-1].max() for e in errors]), slope(steps, [e.max() for e in errors])


@pytest.mark.parametrize("name", ORDERS)
def test_errors_fall_with_the_fifth_power_of_the_steps(name):
    of, solution = ORDERS[name]
    exact = scipys(of, TIMES, 1e-13, method="DOP853")[0] if solution is None else solution(TIMES)[:, None]
    at_end, between = slopes(of, exact)
    print(f"{name}: slopes {at_end:.2f} at the end, {between:.2f} of all times")
    assert at_end < -4.7
    assert between < -4.3  # dense output has order 4


def test_the_slope_tells_a_lower_order():
    exact = ORDERS["logistic"][1](TIMES)[:, None]
    found = [scipys(ORDERS["logistic"][0], TIMES, tol, tol, method="RK23") for tol in TOLERANCES[:7]]
    at_end = slope([num for _, num in found], [abs(y - exact)[-1].max() for y, _ in found])
    print(f"RK23: slope {at_end:.2f}")
    assert at_end > -4


def test_the_slope_tells_a_jacobian_that_does_not_know_time(uncached):
    def blind(roots, names):
        pattern = jacobian(roots, names)
        keep = [k for k, column in enumerate(pattern.columns) if names[column] != "time"]
        return type(pattern)(*(tuple(part[k] for k in keep) for part in pattern))

    jacobian = equations.jacobian
    uncached.setattr(equations, "jacobian", blind)
    at_end, between = slopes(FORCED, ORDERS["forced"][1](TIMES)[:, None], TOLERANCES[:7])
    print(f"time hidden: slopes {at_end:.2f} at the end, {between:.2f} of all times")
    assert at_end > -4
    assert between > -4


# ---- stiff systems

# System -> time -> states, by SciPy's Radau (`scipys`) at the tolerances of `test_the_reference_is_scipys`.
REFERENCE = {
    "Robertson": {
        0.4: [0.9851721138609915, 3.386395378974916e-05, 0.0147940221852209],
        40.0: [0.7158270687194376, 9.185534764558898e-06, 0.2841637457458001],
        4000.0: [0.18320225777674576, 8.942371252777851e-07, 0.8167968479861307],
        400000.0: [0.0049382745209985085, 1.984994087961918e-08, 0.9950617056290624],
        40000000.0: [5.203071844120397e-05, 2.0813357318924607e-10, 0.999947969073431],
        4000000000.0: [5.208276611428907e-07, 2.0833117166017436e-12, 0.9999994791702638],
        100000000000.0: [2.0833401496259985e-08, 8.333360770033535e-14, 0.999999979166523],
    },
    "HIRES": {
        1.0: [
            0.2554926929715638,
            0.05690878908653468,
            0.019458074977093523,
            0.45851946967109264,
            0.020147739125070608,
            0.18228795775952925,
            0.005499081272420151,
            0.0002009187275798653,
        ],
        10.0: [
            0.008324735469236464,
            0.0016526725080012704,
            0.0014103426593078331,
            0.01743322429745189,
            0.18572046406524495,
            0.749416622155359,
            0.0056512533418251135,
            4.8746658174893713e-05,
        ],
        100.0: [
            0.004520859364124239,
            0.0008839056323374222,
            0.0007971942865685352,
            0.007811326061370312,
            0.13238525409505358,
            0.5301676923204302,
            0.00563133975784182,
            6.866024215818651e-05,
        ],
        321.8122: [
            0.0007371312573325557,
            0.00014424857263161626,
            5.888729740967375e-05,
            0.0011756513432831272,
            0.0023863561988310346,
            0.006238968252742008,
            0.0028499983951854723,
            0.0028500016048145322,
        ],
        421.8122: [
            0.0006703055035818639,
            0.00013099684698634692,
            4.6862231597732636e-05,
            0.0010446680205517054,
            0.0005948838309514908,
            0.0013996288339427861,
            0.0010144927577184883,
            0.004685507242281516,
        ],
    },
    "Oregonator": {
        30.0: [1.0006614671804965, 1512.778937348297, 10358.543127671923],
        60.0: [1.0008746251996254, 1144.336972384502, 83.72149966624245],
        120.0: [1.0041180226126454, 243.8326079910335, 1.0088222240485643],
        180.0: [1.0197634725372835, 51.5976132294701, 1.0169857789563668],
        300.0: [1.7797247519373125, 2.2818523855424218, 1.613754023671712],
        360.0: [1.0008148703185227, 1228.1785215499012, 132.05549428466054],
    },
    "Van der Pol, 1e3": {
        0.4: [1.6932094268309656, -0.9069343138540333],
        0.8: [1.0839233646426036, -6.195233865019902],
        1.0: [-1.8636462548082333, 0.753543086543374],
        1.6: [-1.1208132536132918, 4.373791062839292],
        2.0: [1.7061677321705409, -0.8928097010247448],
    },
    "Van der Pol, 1e6": {
        0.4: [1.6932090051063071, -0.9069353206769974],
        0.8: [1.0838929465495126, -6.1999121671032915],
        1.0: [-1.8633839229373312, 0.7537352119816906],
        1.6: [-1.1192686475972138, 4.428147010528241],
        2.0: [1.7055462175352787, -0.8934763625466343],
    },
}


def unscaled(mu, reference):
    """Return states of the scaled system as those of the system in its own time."""
    return {mu * t: [x, v / mu] for t, (x, v) in reference.items()}


# Model, absolute tolerance, largest error and most steps at rtol 1e-8, reference.
STIFF = {
    "Robertson": (ROBERTSON, 1e-14, 1e-8, 900, REFERENCE["Robertson"]),
    "HIRES": (HIRES, 1e-12, 1e-8, 1300, REFERENCE["HIRES"]),
    "Oregonator": (OREGONATOR, 1e-10, 1e-8, 3700, REFERENCE["Oregonator"]),
    "Van der Pol, 1e3": (van_der_pol(1e3), 1e-12, 2e-7, 2500, unscaled(1e3, REFERENCE["Van der Pol, 1e3"])),
    "scaled Van der Pol, 1e3": (scaled_van_der_pol(1e3), 1e-10, 2e-7, 2700, REFERENCE["Van der Pol, 1e3"]),
    "Van der Pol, 1e6": (van_der_pol(1e6), 1e-16, 2e-7, 4500, unscaled(1e6, REFERENCE["Van der Pol, 1e6"])),
    "scaled Van der Pol, 1e6": (scaled_van_der_pol(1e6), 1e-10, 2e-7, 4500, REFERENCE["Van der Pol, 1e6"]),
}


@pytest.mark.parametrize("name", STIFF)
def test_stiff_systems(name):
    of, atol, largest, most_steps, reference = STIFF[name]
    expected = np.array(list(reference.values()))
    for rtol, limit in ((1e-8, largest), (1e-12, 1e-4 * largest)):
        found = run(of, list(reference), rtol, atol * (rtol / 1e-8))
        error = relative_error(found.states, expected)
        print(f"{name} at {rtol}: error {error:.1e}, {found.steps} steps, {found.rejected} rejected")
        assert found.status == Status.OK
        assert found.time == max(reference)
        assert error < limit
        if rtol == 1e-8:
            assert found.steps < most_steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "of", "rtol", "atol"),
    [
        ("Robertson", ROBERTSON, 1e-12, 1e-17),
        ("HIRES", HIRES, 1e-12, 1e-15),
        ("Oregonator", OREGONATOR, 1e-12, 1e-13),
        ("Van der Pol, 1e3", scaled_van_der_pol(1e3), 1e-12, 1e-13),
        ("Van der Pol, 1e6", scaled_van_der_pol(1e6), 1e-11, 1e-11),  # below, its steps vanish
    ],
)
def test_the_reference_is_scipys(name, of, rtol, atol):
    found, _ = scipys(of, list(REFERENCE[name]), rtol, atol)
    assert relative_error(found, np.array(list(REFERENCE[name].values()))) < 1e-11


def test_conservation():
    found = run(ROBERTSON, [1.0, 1e4, 1e8], 1e-6, 1e-10)
    np.testing.assert_allclose(found.states.sum(axis=1), 1.0, atol=1e-12)


# ---- NaN and infinity

GUARDED = where(apply("gt", X, 0), -X, apply("log", X))
UNUSED = where(apply("gt", symbol("k"), 0), -X, X * apply("log", symbol("k") - 1))
TOO_SMALL, NOT_FINITE, OK = Status.STEP_TOO_SMALL, Status.NOT_FINITE, Status.OK
# Formulas, start, how it ends, the time of the singularity or 3.
SINGULAR = {
    "logarithm of a state below 0": ({"x": "-1", "y": "log(x)"}, {"x": 1.0, "y": 0.0}, TOO_SMALL, 1.0),
    "division by a state at 0": ({"x": "-1", "y": "1 / x"}, {"x": 1.0, "y": 0.0}, TOO_SMALL, 1.0),
    "exponential growth of an exponent": ({"x": "exp(x)"}, {"x": 1.0}, TOO_SMALL, math.exp(-1)),
    "overflow": ({"x": "exp(1000 * y)", "y": "1"}, {"x": 1.0, "y": 0.0}, TOO_SMALL, math.log(1e300) / 1000),
    "pole in time": ({"x": "1 / (time - 1)"}, {"x": 1.0}, TOO_SMALL, 1.0),
    "double pole in time": ({"x": "1 / (time - 1)^2"}, {"x": 1.0}, TOO_SMALL, 1.0),
    "pole of the other sign": ({"x": "1 / (1 - time)"}, {"x": 1.0}, TOO_SMALL, 1.0),
    "root of a state below 0": ({"x": "-1", "y": "sqrt(x)"}, {"x": 1.0, "y": 0.0}, TOO_SMALL, 1.0),
    "root of the state itself": ({"x": "-sqrt(x) - 0.1"}, {"x": 1.0}, TOO_SMALL, 2 - 0.2 * math.log(11)),
    "blow-up of second order": ({"x": "x^2"}, {"x": 1.0}, TOO_SMALL, 1.0),
    "blow-up of third order": ({"x": "x^3"}, {"x": 1.0}, TOO_SMALL, 1 / 2),
    "blow-up of order 16": ({"x": "x^16"}, {"x": 1.0}, TOO_SMALL, 1 / 15),
    "root that drives itself below 0": ({"x": "x^0.5 - 1"}, {"x": 0.0}, TOO_SMALL, 0.0),
    "power of a state below 0": ({"x": "-2", "y": "x^1.5"}, {"x": 1.0, "y": 0.0}, TOO_SMALL, 0.5),
    "larger than any number": ({"x": "x"}, {"x": 1e299}, TOO_SMALL, math.log(10)),
    "infinity less infinity": ({"x": "(exp(1000 * x) + 1) - exp(1000 * x)"}, {"x": 1.0}, NOT_FINITE, 0.0),
    "NaN less NaN": ({"x": "(log(-x) + 1) - log(-x)"}, {"x": 1.0}, NOT_FINITE, 0.0),
    "division by a constant 0": ({"x": "-x / k"}, {"x": 1.0, "k": 0.0}, NOT_FINITE, 0.0),
    "constant whose inverse overflows": ({"x": "-x / k * 1e-310"}, {"x": 1.0, "k": 1e-310}, NOT_FINITE, 0.0),
    "infinite slope at rest": ({"x": "sqrt(x * x)"}, {"x": 0.0}, OK, 3.0),
    "overflow inside a quotient": ({"x": "1 / exp(exp(-1000 * x)) - 1"}, {"x": 1.0}, OK, 3.0),
    "NaN in a branch not taken": ({"x": GUARDED}, {"x": 1.0}, OK, 3.0),
    "NaN in a branch never taken": ({"x": UNUSED}, {"x": 1.0, "k": 0.5}, OK, 3.0),
}


@pytest.mark.parametrize("name", SINGULAR)
def test_no_step_ends_in_nan_or_infinity(name):
    derivatives, start, status, until = SINGULAR[name]
    times = np.linspace(0, 3, 61)
    for rtol, atol in ((1e-3, 1e-3), (1e-6, 1e-9), (1e-8, 1e-10)):
        found = run(model(name, derivatives, **start), times, rtol, atol)
        assert found.status == status
        assert found.time == pytest.approx(until, rel=max(10 * rtol, 1e-4), abs=1e-9)
        is_reached = times <= found.time
        assert np.all(np.isfinite(found.states[is_reached]) & (np.abs(found.states[is_reached]) <= 1e300))
        assert np.all(np.isnan(found.states[~is_reached]))


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-6, 1e-10])
@pytest.mark.parametrize("end", [1.1, 3.0, 1e3])
def test_no_step_leads_over_a_blow_up(tolerance, end):
    assert run(model("blow-up", {"x": "x^2"}, x=1.0), [end], tolerance, tolerance).status == Status.STEP_TOO_SMALL


def test_before_a_blow_up_all_is_well():
    times = 1 - 10.0 ** -np.arange(1, 6)
    found = run(model("blow-up", {"x": "x^2"}, x=1.0), times, 1e-10, 1e-10)
    assert found.status == Status.OK
    np.testing.assert_allclose(found.states[:, 0] * (1 - times), 1.0, rtol=1e-4)
    np.testing.assert_allclose(found.states[0, 0], 10.0, rtol=1e-8)


def test_an_infinite_slope_at_the_start_is_no_end():
    times = np.array([0.0, 1e-6, 0.01, 0.5, 2.0])
    exact = [brentq(lambda s, t=t: t + 2 * (s + math.log1p(-s)), 0, 1 - 1e-12) ** 2 for t in times]
    of = model("root", {"x": "1 - sqrt(x)"}, x=0.0)
    errors = [np.max(np.abs(run(of, times, tol, tol).states[:, 0] - exact)) for tol in (1e-4, 1e-6, 1e-8, 1e-10)]
    print(f"1 - sqrt(x): errors {errors}")
    assert np.all(np.array(errors) < [1e-3, 1e-5, 1e-7, 1e-9])


# ---- steps and tolerances


def test_too_few_steps_end_where_they_lead():
    whole = run(OREGONATOR, [0.0, 30.0])
    assert whole.status == Status.OK
    reached = []
    for most in (0, 1, 10, whole.steps - 1, whole.steps):
        found = run(OREGONATOR, [0.0, 30.0], max_steps=most)
        assert (found.status == Status.OK) == (most == whole.steps)
        assert found.status in (Status.OK, Status.MAX_STEPS)
        assert found.steps == most
        assert np.isnan(found.states[1]).all() == (most < whole.steps)
        reached.append(found.time)
    assert reached[0] == 0.0
    assert reached[-1] == 30.0
    assert reached == sorted(reached)


def test_units_below_1_change_nothing():
    def pair(size):
        return model("pair", {"x": "-k * x", "y": "k * x - 2 * y"}, x=size, y=0.0, k=1.5)

    times = [0.0, 0.3, 2.0]
    one = run(pair(1.0), times, 1e-7, 1e-7)
    for size in (2.0**-4, 2.0**-40):
        small = run(pair(size), times, 1e-7, 1e-7)
        np.testing.assert_array_equal(small.states, size * one.states)
        assert small.steps == one.steps
    large = run(pair(2.0**40), times, 1e-7, 1e-7)
    assert np.any(large.states != 2.0**40 * one.states)  # of large states the relative tolerance alone is left


# ---- edges


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_time_scales(scale):
    of = model("decay", {"x": "-k * x", "y": "k * x - 2 * k * y"}, x=1.0, y=0.0, k=1 / scale)
    times = np.array([0, 0.5, 1, 3])
    found = run(of, times * scale)
    exact = np.stack([np.exp(-times), np.exp(-times) - np.exp(-2 * times)], axis=-1)
    np.testing.assert_allclose(found.states, exact, atol=5e-9)
    assert found.steps < 100


@pytest.mark.parametrize("size", [1e-20, 1e-10, 1e10, 1e20, 1e200])
def test_sizes_of_states(size):
    of = model("decay", {"x": "-x", "y": "x - 2 * y"}, x=size, y=0.0)
    times = np.array([0, 0.5, 1, 3])
    found = run(of, times, 1e-8, 1e-12 * size)
    exact = np.stack([np.exp(-times), np.exp(-times) - np.exp(-2 * times)], axis=-1)
    np.testing.assert_allclose(found.states / size, exact, atol=5e-9)
    assert found.steps < 100


def test_no_states():
    found = run(model("none", {}, k=1.0), [0.0, 1.0, 1.0])
    assert found.states.shape == (3, 0)
    assert found[1:] == (Status.OK, 1.0, 0, 0)


def test_one_state_and_no_parameters():
    times = [0.0, 1.0, 1.0, 1.0, 2.0]
    np.testing.assert_allclose(run(model("line", {"x": const(1.0)}, x=1.0), times).states[:, 0], np.add(times, 1))
    np.testing.assert_allclose(run(model("parabola", {"x": "time"}, x=0.0), times).states[:, 0], np.square(times) / 2)
    np.testing.assert_array_equal(run(model("rest", {"x": const(0.0)}, x=5.0), times).states[:, 0], 5.0)
    np.testing.assert_array_equal(run(model("nothing", {"x": "k * x"}, x=0.0, k=0.0), times).states[:, 0], 0.0)


def test_data_at_the_start_alone():
    found = run(model("decay", {"x": "-x"}, x=3.0), [0.0, 0.0])
    np.testing.assert_array_equal(found.states, 3.0)
    assert found[1:] == (Status.OK, 0.0, 0, 0)


@pytest.mark.parametrize("end", [1e-300, 1e300])
def test_the_shortest_and_the_longest_time(end):
    found = run(model("decay", {"x": "-x"}, x=1.0), [end])
    assert found.status == Status.OK
    assert found.time == end
    assert found.states[0, 0] == pytest.approx(math.exp(-end), abs=1e-12)


def test_all_from_nothing():
    """Of x1' = 1, x2' = x1, … every state is t^k / k!."""
    names = [f"x{k}" for k in range(1, 9)]
    derivatives = {"x1": const(1.0), **{name: symbol(before) for before, name in itertools.pairwise(names)}}
    times = np.array([0.1, 0.5, 1.0, 3.0, 10.0])
    found = run(model("chain", derivatives, **dict.fromkeys(names, 0.0)), times, 1e-8, 1e-8)
    exact = np.stack([times**k / math.factorial(k) for k in range(1, 9)], axis=-1)
    print(f"chain from 0: errors {np.max(np.abs(found.states / exact - 1), axis=0)}, {found.steps} steps")
    assert found.status == Status.OK
    np.testing.assert_allclose(found.states, exact, rtol=1e-6, atol=1e-10)


# ---- switches in time


def switched(t, t0, before, after):
    """Return x of x' = rate - x from x(0) = 0, whose rate changes at t0."""
    there = before * (1 - np.exp(-np.minimum(t, max(t0, 0.0))))
    return there + (after - there) * -np.expm1(-np.maximum(t - max(t0, 0.0), 0.0))


T0 = symbol("t0")
SWITCHES = {
    "time < t0": where(apply("lt", TIME, T0), 1, 3),
    "time <= t0": where(apply("le", TIME, T0), 1, 3),
    "t0 > time": where(apply("gt", T0, TIME), 1, 3),
    "2 time > 2 t0": where(apply("gt", 2 * TIME, 2 * T0), 3, 1),
    "-time < -t0": where(apply("lt", -TIME, -T0), 3, 1),
    "time / 3 >= t0 / 3": where(apply("ge", TIME / 3, T0 / 3), 3, 1),
    "not time > t0": where(apply("not", apply("gt", TIME, T0)), 1, 3),
    "time - t0 > 0": where(apply("gt", TIME - T0, 0), 3, 1),
    "nested": where(apply("gt", where(apply("lt", TIME, T0), 1, 0), 0.5), 1, 3),
    "formula": parse("piecewise(1, time < t0, 3)"),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_switches_in_time_are_stops(name):
    times = np.linspace(0, 5, 11)
    for t0 in (1.7, 1e-9, 0.0, 2.5, -1.0, 5.0, 7.0):
        found = run(model(name, {"x": SWITCHES[name] - X}, x=0.0, t0=t0), times, 1e-10)
        np.testing.assert_allclose(found.states[:, 0], switched(times, t0, 1.0, 3.0), atol=1e-9)
        assert found.rejected == 0


@pytest.mark.parametrize("t0", [1.7, 2.5])
def test_a_jump_inside_the_integration_costs_rejected_steps(t0):
    times = np.linspace(0, 5, 11)
    hidden = where(apply("lt", TIME + 1e-30 * X, T0), 1, 3)
    inside = run(model("inside", {"x": hidden - X}, x=0.0, t0=t0), times, 1e-10)
    stops = run(model("stops", {"x": SWITCHES["time < t0"] - X}, x=0.0, t0=t0), times, 1e-10)
    print(f"t0 = {t0}: {stops.steps} steps, inside the integration {inside.steps}, {inside.rejected} rejected")
    assert inside.rejected > 10
    assert inside.steps > 1.4 * stops.steps


def test_many_switches():
    starts = np.arange(1, 10)
    pulses = sum((where(apply("gt", TIME, float(s)), 1, 0) for s in starts), start=const(0.0))
    times = np.linspace(0, 12, 25)
    found = run(model("stairs", {"x": pulses}, x=0.0), times, 1e-10)
    np.testing.assert_allclose(found.states[:, 0], np.maximum(times[:, None] - starts, 0).sum(axis=1), rtol=1e-9)
    assert found.rejected == 0


T = np.linspace(0, 10, 21)
PIECES = {
    "time - 2 * floor(time / 2) < 1": np.floor(T / 2) + np.minimum(T % 2, 1),
    "floor(time) < 2": np.minimum(T, 2),
    "ceil(time) <= 3": np.minimum(T, 3),
    "abs(time - 3) < 1": np.clip(T - 2, 0, 2),
    "min(time, 2) < 1": np.minimum(T, 1),
    "max(time - 1, 0) > 1": np.maximum(T - 2, 0),
    "time^2 < 4": np.minimum(T, 2),
    "exp(time) < 7.38905609893065": np.minimum(T, 2),
    "time * k / k < 2": np.minimum(T, 2),
    "2 < time && time < 3": np.clip(T - 2, 0, 1),
    "xor(time > 2, time > 3)": np.clip(T - 2, 0, 1),
    "time * 0 < k - 0.5": T,
    "k * time > 1": np.maximum(T - 1, 0),
    "time == 2": 0 * T,
}


@pytest.mark.parametrize("name", PIECES)
def test_pieces_in_time(name):
    found = run(model(name, {"x": f"piecewise(1, {name}, 0)"}, x=0.0, k=1.0), T, 1e-8, 1e-8)
    assert found.status == Status.OK
    np.testing.assert_allclose(found.states[:, 0], PIECES[name], atol=1e-6)


# ---- compilation

WITHOUT_CACHE = """
import numba.core.caching as caching

for kind in list(vars(caching).values()):
    if isinstance(kind, type) and issubclass(kind, caching._CacheLocator):
        kind.from_function = classmethod(lambda cls, *a: None)
import kinbayes
from tests.ode.systems import model, run

print(run(model("decay", {"x": "-x"}, x=1.0), [1.0]).states[0, 0])
"""


@pytest.mark.slow
def test_without_a_folder_for_the_cache():
    found = subprocess.run([sys.executable, "-c", WITHOUT_CACHE], capture_output=True, text=True, check=True)
    assert float(found.stdout) == pytest.approx(math.exp(-1), rel=1e-8)
