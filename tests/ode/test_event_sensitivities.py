"""Tangents over events against closed forms written with JAX, and against differences of the simulation."""

import numpy as np
import pandas as pd
import pytest

from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.model.model import Event, Model
from kinbayes.ode import native
from kinbayes.ode.numbers import Numbers, section
from kinbayes.ode.status import Status
from kinbayes.problem import noise
from kinbayes.problem.observables import Experiment, Observable
from kinbayes.problem.parameters import Parameter
from kinbayes.problem.problem import Problem

TIMES = np.array([0.0, 0.4, 1.0, 1.9, 2.6, 3.3, 4.1, 5.0])


def event(name, trigger, assignments, *, delay="0", priority=None, **settings):
    values = tuple((target, parse(value)) for target, value in assignments.items())
    own = None if priority is None else parse(priority)
    return Event(name, parse(trigger), values, parse(delay), own, **settings)


def problem(rates, start, estimated, events, times=TIMES, *, before=None, after=None, rtol=1e-10):
    initial = {name: const(value) for name, value in start.items()}
    columns = {} if before is None else {"preequilibrationConditionId": "before"}
    experiments = [Experiment("after", after or {})] + ([] if before is None else [Experiment("before", before)])
    rows = [
        {"observableId": f"y_{s}", "simulationConditionId": "after", "time": t, "measurement": 0.3} | columns
        for t in times
        for s in rates
    ]
    return Problem(
        Model("model", {name: parse(rate) for name, rate in rates.items()}, initial, events=tuple(events)),
        [Parameter(name, scale="lin") for name in estimated],
        [Observable(f"y_{s}", s, noise.normal("1")) for s in rates],
        pd.DataFrame(rows),
        experiments=experiments,
        rtol=rtol,
        atol=1e-3 * rtol,
    )


def derivatives(of, u):
    """Return the derivatives of the predictions, by tangents and by differences of order 4."""
    numbers = Numbers(*map(np.asarray, of._smooth_data.native))
    found = native.simulated(numbers, np.array([u], dtype=float), with_rows=True, with_slopes=True, with_gradients=True)
    assert np.all(found.lanes.status == Status.OK)
    plain = of.rows(np.array([u], dtype=float))
    np.testing.assert_allclose(found.rows[0, :, 1], plain.simulated[0], rtol=1e-8, atol=1e-10)
    steps = np.diag(1e-3 * np.maximum(np.abs(u), 0.1))
    exact = of.with_tolerances(1e-13, 1e-16)  # differences divide errors by small steps
    ends = [exact.rows(np.array(u) + k * steps).simulated for k in (1, -1, 2, -2)]
    difference = (8 * (ends[0] - ends[1]) - (ends[2] - ends[3])) / 12 / np.diag(steps)[:, None]
    gradient = found.gradients[0].sum(axis=0)
    np.testing.assert_allclose(gradient, (0.3 - found.rows[0, :, 1]) @ found.slopes[0, :, 1], rtol=1e-9, atol=1e-12)
    return found.slopes[0, :, 1], difference.T


CASES = {
    "a state-triggered reset": (
        {"x": "a - b*x", "n": "0"},
        {"x": 0.1, "n": 0.0, "a": 1.0, "b": 0.3, "c": 1.4, "r": 0.2},
        [event("reset", "x > c", {"x": "r*x + b", "n": "n + x*a"})],
    ),
    "a parametric dose time": (
        {"x": "-k*x*x", "y": "k*x*x - y"},
        {"x": 1.0, "y": 0.5, "k": 0.7, "t0": 1.37, "d": 2.0},
        [event("dose", "time >= t0", {"x": "x + d*y"})],
    ),
    "a delayed event": (
        {"x": "a - b*x", "y": "x - y"},
        {"x": 0.1, "y": 0.2, "a": 1.0, "b": 0.3, "c": 0.7, "w": 0.9},
        [event("late", "x > c", {"y": "y + a*x*time", "x": "0.5*x"}, delay="w + 0.1*y")],
    ),
    "a delayed event that computes late": (
        {"x": "a - b*x", "y": "x - y"},
        {"x": 0.1, "y": 0.2, "a": 1.0, "b": 0.3, "c": 0.7, "w": 0.9},
        [event("late", "x > c", {"y": "y + a*x*time", "x": "0.5*x"}, delay="w + 0.1*y", keeps_values=False)],
    ),
    "an event that removes itself": (
        {"x": "-k*x", "on": "0"},
        {"x": 1.0, "on": 1.0, "k": 0.8, "c": 0.4, "d": 1.5},
        [event("once", "x < c && on > 0.5", {"x": "x + d", "on": "0"})],
    ),
    "a dose at an estimated time that is met": (
        {"x": "-k*x*x", "y": "k*x*x - y"},
        {"x": 1.0, "y": 0.5, "k": 0.7, "t0": 1.37, "d": 2.0},
        [event("dose", "time == t0", {"x": "x + d*y"}), event("pass", "x == y", {"y": "d*y + x"})],
    ),
    "a cascade": (
        {"x": "a - b*x", "y": "-y*b", "z": "y - z"},
        {"x": 0.1, "y": 0.2, "z": 0.0, "a": 1.0, "b": 0.3, "c": 0.9},
        [
            event("first", "x > c", {"y": "y + 1 + x*a"}),
            event("second", "y > 1", {"z": "z + y*time", "x": "x - b"}),
            event("third", "z > 2", {"y": "b*y"}, delay="a*0.3"),
        ],
    ),
    "a switch and an event at one estimated time": (
        {"x": "piecewise(a, time < t0, -b*x)", "y": "x - y"},
        {"x": 0.1, "y": 0.2, "a": 1.0, "b": 0.3, "t0": 1.5},
        [event("dose", "time >= t0", {"y": "y + x"})],
    ),
    "a saw of time": (
        {"x": "piecewise(a, time - p*floor(time/p) < w, 0) - b*x"},
        {"x": 0.1, "a": 1.0, "b": 0.3, "p": 1.27, "w": 0.43},
        [],
    ),
    "a wave of time": (
        {"x": "piecewise(a, sin(f*time) > c, 0) - b*x"},
        {"x": 0.1, "a": 1.0, "b": 0.3, "f": 4.0, "c": 0.4},
        [],
    ),
    "every now and then": (
        {"x": "-b*x", "next": "0"},
        {"x": 0.1, "next": 0.7, "a": 1.0, "b": 0.3, "p": 0.8},
        [event("dose", "time >= next", {"next": "next + p", "x": "x + a"})],
    ),
    "a condition in a state": (
        {"x": "piecewise(-2*x, x > c, a) + y", "y": "piecewise(a, x > c, -y)"},
        {"x": 2.1, "y": 0.1, "a": -0.3, "c": 1.0},
        [],
    ),
    "a corner in a state": (
        {"x": "piecewise(c - x, x > c, 0) - a*x", "y": "x - y"},
        {"x": 2.1, "y": 0.1, "a": 0.3, "c": 1.0},
        [],
    ),
    "a stair of a state": (
        {"x": "-a", "y": "floor(x) - y*a"},
        {"x": 3.7, "y": 0.1, "a": 0.63},
        [],
    ),
    "a condition in states and an event": (
        {"x": "piecewise(a, x + y < 2, 3*a) - b*x", "y": "piecewise(0, x > y, b)"},
        {"x": 0.1, "y": 0.3, "a": 0.63, "b": 0.4},
        [event("e", "x > 1.1", {"x": "a*x"}, delay="a")],
    ),
    "at the start": (
        {"x": "-b*x"},
        {"x": 0.5, "a": 1.0, "b": 0.3},
        [event("dose", "time >= 0", {"x": "x*x + a"}, is_true_before=False)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_derivatives_over_events(name):
    rates, start, events = CASES[name]
    estimated = [p for p in start if p not in ("on", "n", "next")]
    ours, differences = derivatives(problem(rates, start, estimated, events), [start[p] for p in estimated])
    error = np.max(np.abs(ours - differences)) / np.max(np.abs(ours))
    print(f"{name}: {error:.1e}")
    assert error < 1e-8


def test_without_what_is_differentiated_at_moments_the_derivatives_would_be_wrong():
    """The control: tables that say nothing of triggers, delays and new values."""
    rates, start, events = CASES["a delayed event"]
    of = problem(rates, start, list(start), events)
    ours, _ = derivatives(of, list(start.values()))
    numbers = Numbers(*(np.array(part) for part in of._smooth_data.native))
    section(numbers.ints, "moment_start")[:] = 0
    found = native.simulated(numbers, np.array([list(start.values())]), with_rows=True, with_slopes=True)
    assert np.max(np.abs(found.slopes[0, :, 1] - ours)) > 0.1 * np.max(np.abs(ours))


def test_derivatives_after_an_equilibration_and_a_dose():
    rates = {"x": "a - b*x + s", "y": "x - y"}
    start = {"x": 0.1, "y": 0.2, "a": 1.0, "b": 0.6, "s": 0.0, "t0": 1.1, "d": 0.7}
    events = [event("dose", "time >= t0", {"x": "x + d*y"}), event("high", "y > 2.2", {"y": "y - d"}, delay="b")]
    of = problem(rates, start, ["a", "b", "t0", "d"], events, before={}, after={"s": 0.5})
    ours, differences = derivatives(of, [1.0, 0.6, 1.1, 0.7])
    error = np.max(np.abs(ours - differences)) / np.max(np.abs(ours))
    print(f"equilibrated, then dosed: {error:.1e}")
    assert error < 1e-7


def test_lanes_with_events_depend_on_their_own_numbers_alone():
    """Also where the lane before leaves events that wait, or has failed."""
    rates, start, events = CASES["a cascade"]
    estimated = [p for p in start if p != "z"]
    fails = event("fails", "time >= 2", {"z": "z + 1"}, delay="a - 0.7")  # a negative delay for some
    of = problem(rates, start, estimated, [*events, fails], rtol=1e-6)
    U = np.array([start[p] for p in estimated]) * np.random.default_rng(0).uniform(0.5, 1.6, (40, len(estimated)))
    numbers = Numbers(*map(np.asarray, of._smooth_data.native))

    def run(vectors, num_threads=1):
        return native.simulated(
            numbers, vectors, with_rows=True, with_gradients=True, with_slopes=True, num_threads=num_threads
        )

    together = run(U)
    assert set(np.unique(together.lanes.status)) == {Status.OK, Status.EVENTS_FAILED}
    for other, order in ((run(U, 2), slice(None)), (run(U[::-1]), slice(None, None, -1))):
        np.testing.assert_array_equal(other.rows[order], together.rows)
        np.testing.assert_array_equal(other.gradients[order], together.gradients)
        np.testing.assert_array_equal(other.slopes[order], together.slopes)
    alone = [run(u[None]) for u in U]
    np.testing.assert_array_equal(np.concatenate([one.rows for one in alone]), together.rows)
    np.testing.assert_array_equal(np.concatenate([one.gradients for one in alone]), together.gradients)
