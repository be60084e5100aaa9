"""The likelihood against closed forms: experiments, placeholders, and what formulas may name."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kinbayes.model.expressions import const
from kinbayes.model.formula import FormulaError, parse
from kinbayes.model.model import Model, ModelError
from kinbayes.problem import noise
from kinbayes.problem.observables import DataError, Experiment, Observable
from kinbayes.problem.parameters import Parameter
from kinbayes.problem.problem import Problem

# A decays to B. The start of A follows from A_0, and `whole` from both starts.
MODEL = Model(
    "decay",
    derivatives={"A": parse("-k * A"), "B": parse("k * A")},
    initial={
        "A": parse("2 * A_0"),
        "B": const(0.1),
        "k": const(0.3),
        "A_0": const(1.5),
        "whole": parse("A + B"),
    },
    expressions={"total": parse("A + B")},
)
PARAMETERS = [
    Parameter("k", scale="log10", lower=1e-3, upper=10.0),
    Parameter("A_alternative", scale="ln", lower=1e-3, upper=100.0),
    Parameter("k_fast", nominal=2.0, estimate=False),
    Parameter("offset", lower=-5.0, upper=5.0),
    Parameter("sd_total", scale="log10", lower=1e-3, upper=10.0),
    Parameter("gain_2", lower=0.0, upper=10.0),
    Parameter("unused", lower=0.0, upper=1.0),
]
THETA = {"k": 0.4, "A_alternative": 2.2, "offset": 0.3, "sd_total": 0.2, "gain_2": 1.7, "unused": 0.5}
OBSERVABLES = [
    Observable("y", "offset + observableParameter1_y * A", noise.normal("noiseParameter1_y")),
    Observable("fraction", "B / whole", noise.normal("0.05 + 0.1 * fraction")),
    Observable("sum_of_both", "total + 0 * time", noise.laplace("sd_total", "log")),
    Observable("count", "10 * A", noise.student_t("sd_total * observableParameter2_count + A", "4 + k")),
    Observable("never_measured", "B", noise.normal("sd_total")),
]
EXPERIMENTS = [
    Experiment("as_it_is"),
    Experiment("from_number", {"A": 4.0}),
    Experiment("from_parameter", {"A": "A_alternative", "B": 0.7}),
    Experiment("fast", {"k": "k_fast"}),
    Experiment("definition_follows", {"A_0": 2.5}),
    Experiment("not_measured", {"A_0": "offset"}),
]
ROWS = [
    ("y", "as_it_is", 1.0, 3.0, "1.5", "0.1"),
    ("sum_of_both", "as_it_is", 0.0, 2.9, "", ""),
    ("y", "as_it_is", 1.0, 3.1, "gain_2", "sd_total"),
    ("fraction", "from_number", 2.0, 0.4, "", ""),
    ("y", "from_number", 0.5, 3.0, "k_fast", "0.3"),
    ("y", "from_parameter", 0.0, 2.0, "gain_2", "0.2"),
    ("fraction", "from_parameter", 3.0, 0.8, "", ""),
    ("y", "fast", 0.7, 1.0, "1", "0.4"),
    ("fraction", "definition_follows", 0.0, 0.1, "", ""),
    ("count", "fast", 0.3, 12.0, "9;0.5", ""),
    ("sum_of_both", "definition_follows", 4.0, 6.0, "", ""),
]
COLUMNS = [
    "observableId",
    "simulationConditionId",
    "time",
    "measurement",
    "observableParameters",
    "noiseParameters",
]
DATA = pd.DataFrame(ROWS, columns=COLUMNS)


def problem_with(**changes):
    arguments = {
        "model": MODEL,
        "parameters": PARAMETERS,
        "observables": OBSERVABLES,
        "data": DATA,
        "experiments": EXPERIMENTS,
        "rtol": 1e-10,
        "atol": 1e-12,
    }
    return Problem(**{**arguments, **changes})


@pytest.fixture(scope="module")
def problem():
    return problem_with()


def expected_rows(theta):
    """Prediction and log density of every row, from the solution A(t) = A(0) exp(−k t)."""
    names = {**theta, "k_fast": 2.0}
    starts = {
        "as_it_is": (3.0, 0.1, theta["k"]),
        "from_number": (4.0, 0.1, theta["k"]),
        "from_parameter": (theta["A_alternative"], 0.7, theta["k"]),
        "fast": (3.0, 0.1, 2.0),
        "definition_follows": (5.0, 0.1, theta["k"]),
    }

    def value(cell):
        return names[cell] if cell in names else float(cell)

    predictions, densities = [], []
    for observable, experiment, time, y, own, own_noise in ROWS:
        a_0, b_0, k = starts[experiment]
        a = a_0 * math.exp(-k * time)
        b = b_0 + a_0 - a
        if observable == "y":
            m = theta["offset"] + value(own) * a
            density = stats.norm.logpdf(y, m, value(own_noise))
        elif observable == "fraction":
            m = b / (a_0 + b_0)
            density = stats.norm.logpdf(y, m, 0.05 + 0.1 * m)
        elif observable == "count":
            m = 10 * a
            density = stats.t.logpdf(y, 4 + k, m, theta["sd_total"] * value(own.split(";")[1]) + a)
        else:
            m = a + b
            density = stats.loglaplace.logpdf(y, 1 / theta["sd_total"], scale=m)
        predictions.append(m)
        densities.append(density)
    return np.array(predictions), np.array(densities)


def test_every_row_agrees_with_the_closed_form(problem):
    for theta in (THETA, {**THETA, "k": 0.05, "A_alternative": 7.0, "offset": -1.0, "gain_2": 0.0}):
        u = problem.to_scaled(theta)
        predictions, densities = expected_rows(theta)
        np.testing.assert_allclose(problem.simulated(u), predictions, rtol=1e-7)
        np.testing.assert_allclose(problem.pointwise_log_likelihood(u), densities, rtol=1e-6, atol=1e-8)
        assert float(problem.log_likelihood(u)) == pytest.approx(densities.sum(), abs=1e-6)


def test_the_order_of_the_rows_is_the_users(problem):
    order = np.random.default_rng(4).permutation(len(DATA))
    u = problem.to_scaled(THETA)
    shuffled = problem.with_data(DATA.iloc[order])
    expected = np.asarray(problem.pointwise_log_likelihood(u))[order]
    np.testing.assert_allclose(shuffled.pointwise_log_likelihood(u), expected, rtol=1e-9)


def test_an_experiment_that_is_not_measured_is_not_simulated(problem):
    assert problem.num_lanes == len(EXPERIMENTS) - 1


def test_a_model_without_states_has_a_likelihood():
    line = Model("line", derivatives={}, initial={"slope": const(1.0)})
    times = np.array([0.0, 1.0, 2.0])
    y = np.array([0.1, 2.2, 3.9])
    found = Problem(
        line,
        [Parameter("slope", lower=-5.0, upper=5.0), Parameter("level", lower=-5.0, upper=5.0)],
        [Observable("y", "level + slope * time", noise.normal("0.5"))],
        pd.DataFrame({"observableId": "y", "time": times, "measurement": y}),
    )
    expected = stats.norm.logpdf(y, 0.2 + 1.9 * times, 0.5).sum()
    assert float(found.log_likelihood(np.array([1.9, 0.2]))) == pytest.approx(expected, rel=1e-12)


# ---- what is refused


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"parameters": [*PARAMETERS, Parameter("total", lower=0.0, upper=1.0)]},
            ModelError,
            r"\['total'\] are computed by the model's own rules",
        ),
        (
            {"experiments": [*EXPERIMENTS, Experiment("x", {"C": 1.0})]},
            ModelError,
            "experiment 'x' sets 'C', which is no state or parameter",
        ),
        (
            {"experiments": [*EXPERIMENTS, Experiment("x", {"total": 1.0})]},
            ModelError,
            "experiment 'x' sets 'total'",
        ),
        (
            {"experiments": [*EXPERIMENTS, Experiment("x", {"A": "nowhere"})]},
            ModelError,
            "'x', 'A': 'nowhere' is defined neither in the model nor as a parameter",
        ),
        (
            {"experiments": [*EXPERIMENTS, Experiment("x", {"A": math.nan})]},
            ModelError,
            "'x' sets 'A' to nan",
        ),
        (
            {"observables": [*OBSERVABLES, Observable("bad", "A + D", noise.normal("E"))]},
            ModelError,
            r"observable 'bad' uses \['D', 'E'\]",
        ),
        (
            {"observables": [*OBSERVABLES, Observable("bad", "A +", noise.normal("1"))]},
            FormulaError,
            "observable 'bad': cannot read the formula",
        ),
        (
            {"experiments": [*EXPERIMENTS, Experiment("fast")]},
            ValueError,
            r"experiment names \['fast'\] are used twice",
        ),
        (
            {"parameters": [*PARAMETERS, PARAMETERS[0]]},
            ValueError,
            r"parameter names \['k'\] are used twice",
        ),
        (
            {"observables": [*OBSERVABLES, OBSERVABLES[0]]},
            ValueError,
            r"observable names \['y'\] are used twice",
        ),
        ({"engine": "euler"}, ValueError, "unknown engine 'euler'; choose from"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        problem_with(**changes)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("y", "fast", 1.0, 1.0, "", "0.1"), r"'observableParameters'.*'y' takes 1 value\(s\).*has 0"),
        (("y", "fast", 1.0, 1.0, "1;2", "0.1"), r"'observableParameters'.*'y' takes 1 value\(s\).*has 2"),
        (("fraction", "fast", 1.0, 1.0, "", "0.1"), r"'noiseParameters'.*takes 0 value\(s\).*has 1"),
        (("y", "fast", 1.0, 1.0, "nowhere", "0.1"), "'nowhere' is neither a number nor a parameter"),
    ],
)
def test_rows_that_do_not_fill_their_placeholders_are_refused(row, message):
    with pytest.raises(DataError, match=f"data row 0.*{message}"):
        problem_with(data=pd.DataFrame([row], columns=COLUMNS))
