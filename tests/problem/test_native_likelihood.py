"""The likelihood on the native engine: how its numbers are packed, and what comes before time 0."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kinbayes.formats.petab.reader import read_petab
from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.ode.status import Status
from kinbayes.problem import noise
from kinbayes.problem.observables import Experiment, Observable
from kinbayes.problem.parameters import Parameter
from kinbayes.problem.problem import Problem

DATA = Path(__file__).parents[2].parent / "shared" / "data"
BENCHMARK = DATA / "petab" / "benchmark"

# ---- packing

ROWS = [  # observable, experiment, time, measurement, noise
    ("b", "late", 3.0, 0.3, "sd"),
    ("a", "early", 1.0, 1.1, "0.5"),
    ("a", "late", 2.0, 0.9, "0.1"),
    ("a", "early", 0.0, 2.0, "sd"),
    ("b", "early", 1.0, 0.4, "0.2"),
    ("a", "late", 3.0, 0.8, "0.3"),
    ("a", "early", 1.0, 1.3, "sd"),
    ("a", "late", 0.5, 0.7, "0.4"),
]
RATES = {"early": 0.7, "late": 0.2}


def decay(rows=ROWS, engine="native", **settings):
    names = ["observableId", "simulationConditionId", "time", "measurement", "noiseParameters"]
    return Problem(
        Model(
            "decay",
            {"A": parse("-k * A"), "B": parse("k * A")},
            {"A": const(2.0), "B": const(0.0), "k": const(1.0)},
        ),
        [Parameter("k_late", lower=1e-3, upper=10.0, scale="ln"), Parameter("sd", lower=0.0, upper=2.0)],
        [
            Observable("a", "A", noise.normal("noiseParameter1_a")),
            Observable("b", "B", noise.normal("noiseParameter1_b")),
        ],
        pd.DataFrame(rows, columns=names),
        experiments=[Experiment("early", {"k": RATES["early"]}), Experiment("late", {"k": "k_late"})],
        rtol=1e-10,
        atol=1e-12,
        engine=engine,
        **settings,
    )


U = np.array([math.log(RATES["late"]), 0.25])


def closed_form(rows):
    a = np.array([2 * math.exp(-RATES[e] * t) for _, e, t, *_ in rows])
    predicted = np.array([x if row[0] == "a" else 2 - x for x, row in zip(a, rows, strict=True)])
    sd = np.array([0.25 if row[4] == "sd" else float(row[4]) for row in rows])
    measured = np.array([row[3] for row in rows])
    return predicted, sd, -0.5 * ((measured - predicted) / sd) ** 2 - np.log(sd) - 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("order", [range(8), range(7, -1, -1), [3, 6, 0, 5, 1, 7, 2, 4], [4], [0, 7]])
def test_every_row_meets_its_own_numbers(order):
    rows = [ROWS[k] for k in order]
    problem = decay(rows)
    predicted, sd, density = closed_form(rows)
    found = problem.rows(U[None])
    np.testing.assert_allclose(found.simulated[0], predicted, rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(found.noise[0, :, 0], sd)
    np.testing.assert_allclose(found.log_density[0], density, rtol=1e-7)
    assert float(problem.log_likelihood(U)) == pytest.approx(density.sum(), rel=1e-8)
    np.testing.assert_allclose(problem.pointwise_log_likelihood(U), density, rtol=1e-7)


def test_states_stand_at_the_times_of_their_lane():
    states = decay().states(np.stack([U, U + 0.1]))
    assert states.shape == (2, 2, 3, 2)
    lanes = [[0.0, 1.0, 1.0], [0.5, 2.0, 3.0]]  # padded by the last
    for k, rate in enumerate((RATES["late"], RATES["late"] * math.exp(0.1))):
        for lane, constant in zip(lanes, (RATES["early"], rate), strict=True):
            a = 2 * np.exp(-constant * np.array(lane))
            found = min(states[k], key=lambda s, a=a: np.max(np.abs(s[:, 0] - a)))
            np.testing.assert_allclose(found, np.stack([a, 2 - a], axis=-1), rtol=1e-8, atol=1e-10)


def test_both_engines_see_the_same_numbers():
    native, jax = decay(), decay(engine="jax")
    vectors = U + np.random.RandomState(0).uniform(-0.2, 0.2, (5, 2))
    ours, theirs = native.rows(vectors), jax.rows(vectors)
    np.testing.assert_allclose(ours.simulated, theirs.simulated, rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(ours.noise, theirs.noise)
    np.testing.assert_allclose(native.states(vectors), jax.states(vectors), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(native.evaluate(vectors).log_likelihood, jax.evaluate(vectors).log_likelihood, rtol=1e-7)


def test_a_failed_lane_leaves_no_density():
    problem = decay(max_steps=12)
    found = problem.evaluate(U[None])
    np.testing.assert_array_equal(found.status, Status.MAX_STEPS)
    assert float(problem.log_likelihood(U)) == -math.inf
    np.testing.assert_array_equal(problem.pointwise_log_likelihood(U), -math.inf)


# ---- before time 0


def equilibrated(rates, start, before, after=None, times=(0.0, 1.0, 2.0), *, rtol=1e-8, atol=1e-12, **settings):
    """Return a problem that is pre-equilibrated under some values, then simulated under others."""
    model = Model("model", {n: parse(r) for n, r in rates.items()}, {n: const(v) for n, v in start.items()})
    data = pd.DataFrame({"observableId": "y", "time": times, "measurement": 0.0})
    data = data.assign(simulationConditionId="after", preequilibrationConditionId="before")
    return Problem(
        model,
        [Parameter("k", lower=-100.0, upper=1e7)],
        [Observable("y", next(iter(rates)), noise.normal("1"))],
        data,
        experiments=[Experiment("before", before), Experiment("after", after or {})],
        rtol=rtol,
        atol=atol,
        **settings,
    )


def states_of(problem, k):
    u = np.array([k])
    assert Status(int(problem.evaluate(u[None]).status[0])) == Status.OK
    return problem.states(u[None])[0, 0]


def status_of(problem, k):
    found = problem.evaluate(np.array([[k]]))
    assert np.isfinite(found.log_likelihood[0]) == (found.status[0] == Status.OK)
    return Status(int(found.status[0]))


TURNOVER = ({"A": "s - k * A", "B": "A - B"}, {"A": 7.0, "B": 3.0, "s": 1.0, "k": 0.3})
T = np.array([0.0, 1.0, 2.0])


def relaxed(k, b):
    """Return A and B from A = 2/k and B = b on, under half the supply."""
    decayed, own = np.exp(-k * T), np.exp(-T)
    a = (1 + decayed) / k
    return np.stack([a, 1 / k * (1 - own) + (decayed - own) / (k * (1 - k)) + b * own], axis=-1)


@pytest.mark.parametrize("k", [0.3, 1e-6, 20.0])
def test_a_steady_state_relaxes(k):
    found = states_of(equilibrated(*TURNOVER, {"s": 2.0}, {"s": 1.0}), k)
    np.testing.assert_allclose(found, relaxed(k, 2 / k), rtol=1e-7)


def test_a_fast_steady_state_relaxes():
    found = states_of(equilibrated(*TURNOVER, {"s": 2.0}, {"s": 1.0}), 1e6)
    np.testing.assert_allclose(found[0], [2e-6, 2e-6], rtol=1e-7)
    np.testing.assert_allclose(found[1:, 0], 1e-6, rtol=1e-7)


def test_a_state_may_be_set_anew():
    found = states_of(equilibrated(*TURNOVER, {"s": 2.0}, {"s": 1.0, "B": 5.0}), 0.3)
    np.testing.assert_allclose(found, relaxed(0.3, 5.0), rtol=1e-7)


def test_a_state_at_nan_goes_on():
    found = states_of(equilibrated(*TURNOVER, {"s": 2.0}, {"s": 1.0, "B": math.nan}), 0.3)
    np.testing.assert_allclose(found, relaxed(0.3, 2 / 0.3), rtol=1e-7)


def test_parameters_that_follow_from_states_do_so_at_the_start():
    model = Model(
        "whole",
        {"A": parse("s - k * A"), "B": parse("whole - B")},
        {"A": const(5.0), "B": const(0.0), "s": const(1.0), "k": const(1.0), "whole": parse("2 * A")},
    )
    data = pd.DataFrame({"observableId": "y", "time": [0.0], "measurement": [0.0]})
    data = data.assign(simulationConditionId="after", preequilibrationConditionId="before")
    problem = Problem(
        model,
        [Parameter("k", lower=0.0, upper=10.0)],
        [Observable("y", "B", noise.normal("1"))],
        data,
        experiments=[Experiment("before", {"A": 4.0}), Experiment("after", {})],
        rtol=1e-8,
        atol=1e-12,
    )
    np.testing.assert_allclose(states_of(problem, 0.5), [[2.0, 8.0]], rtol=1e-7)


@pytest.mark.parametrize(("rtol", "atol"), [(1e-6, 1e-9), (1e-8, 1e-12), (1e-10, 1e-14)])
def test_a_slow_approach_is_awaited(rtol, atol):
    """A steady state is not what hardly moves: A' = 1e-9 (k - A) is at rest at k alone."""
    for start in (0.0, 0.5, 0.9):
        for rate in (1e-9, 1e-6):
            rates = {"A": f"{rate} * (k - A)"}
            problem = equilibrated(rates, {"A": start, "k": 1.0}, {}, times=[0.0], rtol=rtol, atol=atol)
            np.testing.assert_allclose(states_of(problem, 1.0), 1.0, rtol=10 * rtol)


def test_a_plateau_on_the_way_is_left():
    rates = {"A": "1e-8 * (k - A)", "B": "A^4 * B * (1 - B) - 1e-12 * B"}
    problem = equilibrated(rates, {"A": 0.0, "B": 1e-5, "k": 1.0}, {}, times=[0.0])
    np.testing.assert_allclose(states_of(problem, 1.0), 1.0, rtol=1e-7)


@pytest.mark.parametrize("fast", [1e6, 1e8])
def test_a_stiff_plateau_comes_to_rest(fast):
    rates = {"A": f"{fast} * (B - A) + s - k * A", "B": f"{fast} * (A - B)", "C": f"{fast} * (1.1 - C * A)"}
    for rtol, atol in ((1e-6, 1e-9), (1e-8, 1e-12), (1e-10, 1e-14)):
        start = {"A": 0.0, "B": 0.0, "C": 0.0, "s": 1.0, "k": 1.0}
        found = states_of(equilibrated(rates, start, {}, times=[0.0], rtol=rtol, atol=atol), 0.37)
        np.testing.assert_allclose(found, [[1 / 0.37, 1 / 0.37, 1.1 * 0.37]], rtol=max(10 * rtol, 1e-8))


def test_conserved_amounts_are_kept():
    rates = {"A": "-k * A * B + 0.3 * C", "B": "-k * A * B + 0.3 * C", "C": "k * A * B - 0.3 * C"}
    found = states_of(equilibrated(rates, {"A": 2.0, "B": 1.0, "C": 0.0, "k": 1.0}, {}), 1.0)
    np.testing.assert_allclose(found, [[1.2, 0.2, 0.8]] * 3, rtol=1e-7)


def test_rest_at_once():
    np.testing.assert_allclose(states_of(equilibrated({"A": "k - A"}, {"A": 1.0, "k": 1.0}, {}), 1.0), 1.0, rtol=1e-8)
    np.testing.assert_array_equal(states_of(equilibrated({"A": "A * (1 - A)"}, {"A": 0.0, "k": 1.0}, {}), 1.0), 0.0)


def test_time_counts_from_0_again():
    rates = {"A": "piecewise(1, time < 50, 3) - k * A"}
    found = states_of(equilibrated(rates, {"A": 0.0, "k": 1.0}, {}, times=[0.0, 1.0, 60.0]), 1.0)
    after = 3 + (1 + 2 * math.exp(-50) - 3) * math.exp(-10)
    np.testing.assert_allclose(found[:, 0], [3.0, 1 + 2 * math.exp(-1), after], rtol=1e-7)
    rates = {"A": "1 + exp(-time) - k * A"}
    found = states_of(equilibrated(rates, {"A": 0.0, "k": 1.0}, {}), 1.0)
    np.testing.assert_allclose(found[:, 0], 1 + T * np.exp(-T), rtol=1e-7)


NEVER = {
    "growth": ({"A": "s"}, Status.NO_STEADY_STATE),
    "logarithmic growth": ({"A": "exp(-k * A)"}, Status.NO_STEADY_STATE),
    "growth like a root": ({"A": "k / (1 + A)"}, Status.NO_STEADY_STATE),
    "supply without loss": ({"A": "s", "B": "A - B"}, Status.NO_STEADY_STATE),
    "exponential growth": ({"A": "k * A"}, Status.STEP_TOO_SMALL),
    "blow-up": ({"A": "k * A^2"}, Status.STEP_TOO_SMALL),
    "oscillation": ({"A": "B", "B": "-k * A"}, Status.NO_STEADY_STATE),
    "predator and prey": ({"A": "A * (1 - B)", "B": "B * (k * A - 1)"}, Status.NO_STEADY_STATE),
    "a force that never ends": ({"A": "sin(time) - k * A"}, Status.NO_STEADY_STATE),
}


@pytest.mark.parametrize("name", NEVER)
def test_what_never_rests_is_told(name):
    rates, status = NEVER[name]
    start = {**{state: 2.0 + k for k, state in enumerate(rates)}, "k": 1.0, "s": 0.7}
    for rtol, atol in ((1e-4, 1e-6), (1e-8, 1e-12)):
        assert status_of(equilibrated(rates, start, {}, rtol=rtol, atol=atol), 1.0) == status


def test_without_states_there_is_nothing_to_await():
    data = pd.DataFrame({"observableId": "y", "time": [0.0, 1.0], "measurement": [0.0, 0.0]})
    problem = Problem(
        Model("none", {}, {"A": const(2.0), "k": const(1.0)}),
        [Parameter("k", lower=-1.0, upper=10.0)],
        [Observable("y", "A * k", noise.normal("1"))],
        data.assign(simulationConditionId="after", preequilibrationConditionId="before"),
        experiments=[Experiment("before", {"A": 3.0}), Experiment("after", {})],
    )
    np.testing.assert_array_equal(problem.simulated(np.array([1.5])), [3.0, 3.0])


# Known log likelihoods at the nominal point.
KNOWN = {
    "Zheng_PNAS2012": 278.3335,
    "Weber_BMC2015": -296.2018,
    "Isensee_JCB2018": -3949.376,
    "Brannmark_JBC2010": -141.8891,
}


@pytest.mark.skipif(not BENCHMARK.is_dir(), reason="the benchmark collection is not here")
@pytest.mark.parametrize("name", KNOWN)
def test_published_problems_with_a_steady_state(name):
    problem = read_petab(BENCHMARK / name / f"{name}.yaml", rtol=1e-8, atol=1e-12)
    found = float(problem.log_likelihood(problem.nominal))
    print(f"{name}: {found:.4f}, {found - KNOWN[name]:.1e} from the known value")
    assert problem.is_equilibrated
    assert found == pytest.approx(KNOWN[name], abs=1e-3)
