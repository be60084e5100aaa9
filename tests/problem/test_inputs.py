"""Inputs that tables give over time: against closed forms and SciPy, with all that goes along with them."""

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline, PchipInterpolator

import kinbayes as kb
from kinbayes.model.expressions import const, symbol
from kinbayes.model.formula import parse
from kinbayes.model.model import Model, ModelError
from kinbayes.problem.observables import DataError, Period
from kinbayes.problem.structure import functions

KNOTS = np.array([0.5, 1.0, 2.5, 3.0, 5.0])
VALUES = np.array([1.0, 3.0, 0.5, 0.7, 2.0])
TIMES = np.array([0.0, 0.3, 0.5, 0.9, 1.7, 2.5, 2.6, 4.0, 5.0, 9.0])
K = 0.8
U = np.array([np.log(K)])


def knots(times=KNOTS, values=VALUES, experiment=None):
    table = pd.DataFrame({"time": times, "value": values})
    return table if experiment is None else table.assign(simulationConditionId=experiment)


def model(rates=None):
    rates = {"A": "u - k * A"} if rates is None else rates
    starts = {name: const(0.3) for name in rates}
    return Model("driven", {n: parse(r) for n, r in rates.items()}, starts | {"k": const(1.0), "u": const(0.4)})


def problem(table=None, interpolation="linear", *, experiments=("e",), driven=None, formula="A", times=TIMES, **rest):
    experiments = [kb.Experiment(e) if isinstance(e, str) else e for e in experiments]
    data = pd.concat(
        [pd.DataFrame({"observableId": "y", "time": times, "simulationConditionId": e.name}) for e in experiments]
    )
    return kb.Problem(
        model() if driven is None else driven,
        [kb.Parameter("k", lower=1e-3, upper=10.0, scale="ln")],
        [kb.Observable("y", formula, kb.noise.normal(0.1))],
        data.assign(measurement=0.7).reset_index(drop=True),
        experiments=experiments,
        inputs=[kb.Input("u", knots() if table is None else table, interpolation)],
        **{"rtol": 1e-10, "atol": 1e-12, **rest},
    )


def pieces(interpolation, times=KNOTS, values=VALUES):
    """Return (start, end, value, slope) of a step or linear curve, constant before and after it."""
    slopes = np.diff(values) / np.diff(times) if interpolation == "linear" else np.zeros(len(times) - 1)
    inner = zip(times[:-1], times[1:], values[:-1], slopes, strict=True)
    return [(-np.inf, times[0], values[0], 0.0), *inner, (times[-1], np.inf, values[-1], 0.0)]


def closed_form(parts, at, a=0.3, k=K):
    """Return the solution of A' = u - k A from 0, piece by piece."""
    found, now = [], 0.0
    for t in at:
        for start, end, value, slope in parts:
            if end <= now or start >= t:
                continue
            first, last = max(start, now), min(end, t)
            v = value + slope * (first - start) if slope else value
            s = last - first
            a = (a - v / k + slope / k**2) * np.exp(-k * s) + v / k + slope * s / k - slope / k**2
        now = t
        found.append(a)
    return np.array(found)


@pytest.mark.parametrize("interpolation", ["step", "linear"])
def test_curves_of_straight_pieces_are_solved_exactly(interpolation):
    found = problem(interpolation=interpolation)
    exact = closed_form(pieces(interpolation), TIMES)
    np.testing.assert_allclose(found.simulated(U), exact, rtol=1e-8)
    h = 1e-6
    slopes = [closed_form(pieces(interpolation), TIMES, k=K * np.exp(s * h)) for s in (1, -1)]
    slope = (slopes[0] - slopes[1]) / (2 * h)
    np.testing.assert_allclose(found.row_derivatives(U[None]).simulated[0, :, 0], slope, rtol=1e-6, atol=1e-8)


def test_the_jax_engine_solves_the_same():
    ours, theirs = problem(), problem(engine="jax")
    np.testing.assert_allclose(theirs.simulated(U), closed_form(pieces("linear"), TIMES), rtol=1e-7)
    value, slope = theirs.value_and_grad(U)
    assert value == pytest.approx(float(ours.value_and_grad(U)[0]), rel=1e-7)
    assert slope[0] == pytest.approx(float(ours.value_and_grad(U)[1][0]), rel=1e-6)


NONLINEAR = {"A": "u * B - k * A ^ 2", "B": "-0.4 * u * B + 0.1 * A"}


@pytest.mark.parametrize(("interpolation", "spline"), [("cubic", CubicSpline), ("monotone", PchipInterpolator)])
def test_splines_are_those_of_scipy(interpolation, spline):
    found = problem(interpolation=interpolation, driven=model(NONLINEAR))
    curve = spline(KNOTS, VALUES)

    def simulated(k):
        def rates(t, y):
            u = curve(np.clip(t, KNOTS[0], KNOTS[-1]))
            return [u * y[1] - k * y[0] ** 2, -0.4 * u * y[1] + 0.1 * y[0]]

        y, now, at = np.array([0.3, 0.3]), 0.0, {0.0: 0.3}
        for t in np.union1d(KNOTS, TIMES[1:]):
            y = solve_ivp(rates, (now, t), y, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
            now, at[t] = t, y[0]
        return np.array([at[t] for t in TIMES])

    np.testing.assert_allclose(found.simulated(U), simulated(K), rtol=2e-8)
    h = 1e-4
    slope = (simulated(K * np.exp(h)) - simulated(K * np.exp(-h))) / (2 * h)
    np.testing.assert_allclose(found.row_derivatives(U[None]).simulated[0, :, 0], slope, rtol=1e-6, atol=1e-7)


def test_a_monotone_curve_stays_between_its_knots():
    at = np.linspace(0.0, 6.0, 200)
    jump = knots([1.0, 2.0, 2.1, 3.0], [0.0, 0.0, 1.0, 1.0])
    found = {i: np.asarray(problem(jump, i, formula="u", times=at).simulated(U)) for i in ("monotone", "cubic")}
    assert found["monotone"].min() >= 0
    assert found["monotone"].max() <= 1
    assert found["cubic"].min() < -0.05


@pytest.mark.parametrize("interpolation", ["step", "linear", "cubic", "monotone"])
def test_an_observable_may_be_the_input(interpolation):
    expected = {
        "step": VALUES[np.clip(np.searchsorted(KNOTS, TIMES, side="right") - 1, 0, None)],
        "linear": np.interp(TIMES, KNOTS, VALUES),
        "cubic": CubicSpline(KNOTS, VALUES)(np.clip(TIMES, 0.5, 5.0)),
        "monotone": PchipInterpolator(KNOTS, VALUES)(np.clip(TIMES, 0.5, 5.0)),
    }
    found = problem(interpolation=interpolation, formula="2 * u").simulated(U)
    np.testing.assert_allclose(found, 2 * expected[interpolation], rtol=1e-13)


# ---- experiments


def test_experiments_have_their_own_curves_or_none():
    table = pd.concat([knots(experiment="low"), knots([0.0, 4.0], [2.0, 0.0], "high")], ignore_index=True)
    experiments = ["low", "high", "plain", kb.Experiment("set", {"u": 1.5})]
    found = np.asarray(problem(table, experiments=experiments).simulated(U)).reshape(4, -1)
    np.testing.assert_allclose(found[0], closed_form(pieces("linear"), TIMES), rtol=1e-8)
    high = pieces("linear", np.array([0.0, 4.0]), np.array([2.0, 0.0]))
    np.testing.assert_allclose(found[1], closed_form(high, TIMES), rtol=1e-8)
    for row, value in ((2, 0.4), (3, 1.5)):  # the model's own value, and the experiment's
        np.testing.assert_allclose(found[row], closed_form([(-np.inf, np.inf, value, 0.0)], TIMES), rtol=1e-8)


def test_times_count_as_those_of_the_experiment():
    started = problem(experiments=[kb.Experiment("late", start=0.9)], times=TIMES[3:])
    shifted = [(start - 0.9, end - 0.9, value, slope) for start, end, value, slope in pieces("linear")]
    np.testing.assert_allclose(started.simulated(U), closed_form(shifted, TIMES[3:] - 0.9), rtol=1e-8)


def test_a_period_may_change_something_else():
    changed = problem(experiments=[kb.Experiment("e", {"k": K}, periods=(Period(2.0, {"k": 0.0}),))])
    at = TIMES[TIMES <= 2.0]
    found = np.asarray(changed.simulated(U))
    np.testing.assert_allclose(found[: len(at)], closed_form(pieces("linear"), at), rtol=1e-8)
    (a,) = closed_form(pieces("linear"), [2.0])
    area = (0.5 + 2.5 / 1.5 * 0.5 + 0.5) / 2 * 0.5 + 0.6 * 0.5 + 2.7 / 2 * 2 + 2.0 * 4  # of u from 2 to 9
    assert found[-1] == pytest.approx(a + area, rel=1e-8)


def test_before_the_start_an_input_has_its_first_value():
    data = pd.DataFrame({"observableId": "y", "time": TIMES, "measurement": 0.7, "simulationConditionId": "after"})
    data["preequilibrationConditionId"] = "before"
    tables = {"same": knots(), "own": pd.concat([knots(experiment="after"), knots([-9.0, 2.0], [4.0, 5.0], "before")])}
    for name, first in (("same", VALUES[0]), ("own", 4.0)):
        found = kb.Problem(
            model(),
            [kb.Parameter("k", lower=1e-3, upper=10.0, scale="ln")],
            [kb.Observable("y", "A", kb.noise.normal(0.1))],
            data,
            experiments=[kb.Experiment("before"), kb.Experiment("after")],
            inputs=[kb.Input("u", tables[name])],
            rtol=1e-10,
            atol=1e-12,
        )
        exact = closed_form(pieces("linear"), TIMES, a=first / K)
        np.testing.assert_allclose(found.simulated(U), exact, rtol=1e-7)
        h = 1e-6
        ks = [K * np.exp(s * h) for s in (1, -1)]
        ends = [closed_form(pieces("linear"), TIMES, a=first / k, k=k) for k in ks]
        slope = (ends[0] - ends[1]) / (2 * h)
        np.testing.assert_allclose(found.row_derivatives(U[None]).simulated[0, :, 0], slope, rtol=1e-5, atol=1e-7)


def test_predictions_follow_the_input():
    found = problem()
    mode = kb.optimize(found, starts=2, seed=0, progress=False)
    k = float(mode.map_estimate["k"][0])
    at = np.linspace(0.0, 7.0, 15)
    predicted = kb.predict(mode, found, times=at)
    exact = closed_form(pieces("linear"), at, k=k)
    np.testing.assert_allclose(predicted["states"]["A"].values.ravel(), exact, rtol=1e-7)
    own = kb.predict(mode, found, times=at, experiment=kb.Experiment("new", {"A": 2.0}))
    exact = closed_form(pieces("linear"), at, a=2.0, k=k)
    np.testing.assert_allclose(own["observables"]["y"].values.ravel(), exact, rtol=1e-7)


def test_a_model_may_have_two_inputs_and_starts_that_follow_one():
    two = Model(
        "two",
        {"A": parse("u * v - k * A")},
        {"A": symbol("u") * 2, "k": const(1.0), "u": const(0.0), "v": const(0.0)},
    )
    found = kb.Problem(
        two,
        [kb.Parameter("k", lower=1e-3, upper=10.0, scale="ln")],
        [kb.Observable("y", "A", kb.noise.normal(0.1))],
        pd.DataFrame({"observableId": "y", "time": TIMES, "measurement": 0.7}),
        inputs=[kb.Input("u", knots(values=VALUES / 4)), kb.Input("v", knots([-1.0, 20.0], [4.0, 4.0]), "step")],
        rtol=1e-10,
        atol=1e-12,
    )
    np.testing.assert_allclose(found.simulated(U), closed_form(pieces("linear"), TIMES, a=VALUES[0] / 2), rtol=1e-8)


# ---- numbers and structure


def test_other_numbers_compile_nothing_and_count():
    found = problem()
    found.value_and_grad(U)
    misses = functions.cache_info().misses
    other = problem(knots(KNOTS + 0.1, VALUES[::-1]))
    assert functions.cache_info().misses == misses
    expected = closed_form(pieces("linear", KNOTS + 0.1, VALUES[::-1]), TIMES)
    np.testing.assert_allclose(other.simulated(U), expected, rtol=1e-8)
    assert found.hash == problem().hash
    assert len({p.hash for p in (found, other, problem(interpolation="step"))}) == 3
    assert found.with_data(pd.DataFrame({"observableId": "y", "time": [1.0], "measurement": [2.0]})).inputs


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: kb.Input("u", knots()[["time"]]), DataError, r"input 'u': the column 'value' is missing; it has"),
        (lambda: kb.Input("u", knots(), "cubic spline"), (ValueError, TypeError), "interpolation"),
        (lambda: kb.Input("u", knots()[:1]), DataError, r"has 1 knot\(s\), but linear interpolation needs 2"),
        (lambda: kb.Input("u", knots()[:0]), DataError, r"has 0 knot\(s\)"),
        (
            lambda: kb.Input("u", knots(experiment="e")[:3], "cubic"),
            DataError,
            r"has 3 knot\(s\) for experiment 'e', but cubic interpolation needs 4",
        ),
        (
            lambda: kb.Input("u", knots([0, 1, 1, 2, 3])),
            DataError,
            "input 'u': table row 2, column 'time': 1 does not come after 1",
        ),
        (
            lambda: kb.Input("u", knots(values=[1, 2, np.nan, 4, 5])),
            DataError,
            "input 'u': table row 2, column 'value': nan is no finite number",
        ),
        (lambda: kb.Input("u", knots([0, 1, 2, 3, "x"])), DataError, "row 4, column 'time': 'x' is no finite number"),
        (lambda: problem(knots(experiment="f")), DataError, r"names the experiments \['f'\] .*; known are \['e'\]"),
        (
            lambda: problem(experiments=[kb.Experiment("e", {"u": 1.0})]),
            ModelError,
            "experiment 'e' sets 'u', which its input sets too",
        ),
        (
            lambda: problem(experiments=[kb.Experiment("e", periods=(Period(1.0, {"u": 1.0}),))]),
            ModelError,
            "experiment 'e', period 1 sets 'u', an input; put the change into its table",
        ),
    ],
)
def test_tables_that_cannot_be_used_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["w"], ModelError, r"input 'w' is no parameter of the model; choose from \['p', 'u'\]"),
        (["A"], ModelError, "input 'A' is a state; an input replaces a parameter"),
        (["r"], ModelError, "input 'r' is computed by a rule of the model"),
        (["p"], ModelError, "'p' is both an input and a parameter of the problem"),
        (["u", "u"], ValueError, r"input names \['u'\] are used twice"),
    ],
)
def test_names_that_cannot_be_inputs_are_refused(names, error, message):
    ruled = Model(
        "ruled",
        {"A": parse("u - p * r")},
        {"A": const(1.0), "p": const(1.0), "u": const(0.0)},
        {"r": parse("2 * A")},
    )
    with pytest.raises(error, match=message):
        kb.Problem(
            ruled,
            [kb.Parameter("p", lower=0.1, upper=10.0)],
            [kb.Observable("y", "A", kb.noise.normal(0.1))],
            pd.DataFrame({"observableId": ["y"], "time": [1.0], "measurement": [2.0]}),
            inputs=[kb.Input(name, knots()) for name in names],
        )
