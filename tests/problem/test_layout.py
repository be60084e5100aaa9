"""The arrays of a likelihood: lanes and their pre-equilibrations, against tables written by hand."""

import math

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.model.model import Model, ModelError
from kinbayes.problem import noise
from kinbayes.problem.layout import Slots, layout
from kinbayes.problem.likelihood import refuse_steady_states
from kinbayes.problem.observables import Experiment, Measurement, Observable
from kinbayes.problem.parameters import Parameter
from kinbayes.problem.problem import Problem

# A <=> B under a stimulus that a dose brings; the start of A follows from A_0.
MODEL = Model(
    "stimulated",
    derivatives={"A": parse("k * B - dose * A"), "B": parse("dose * A - k * B"), "C": parse("-C")},
    initial={
        "A": parse("2 * A_0"),
        "B": const(0.1),
        "C": const(5.0),
        "k": const(0.3),
        "A_0": const(1.5),
        "dose": const(0.2),
    },
)
REST = Experiment("rest", {"dose": 0.0, "A": "A_rest"})  # only for pre-equilibration
RESET = Experiment("reset", {"dose": "dose_low", "A": math.nan, "B": 0.7})
HELD = Experiment("held", {"dose": 2.0})
PLAIN = Experiment("plain", {"dose": 1.0, "A": 4.0})
IDLE = Experiment("idle", {"B": 9.0})  # for nothing
EXPERIMENTS = [REST, RESET, IDLE, HELD, PLAIN]
SLOTS = Slots(
    MODEL,
    parameter_names=("k", "A_rest"),
    inputs=("k", "A_0", "dose", "A", "B", "C"),
    sometimes=("A", "B"),
    placeholders={"y": ()},
)
CONSTANTS = {"dose_low": 0.5}
THETA = jnp.array([0.4, 2.2])
INITIAL = {"k": 0.4, "A_0": 1.5, "dose": 0.2, "A": 0.0, "B": 0.1, "C": 5.0}  # of the inputs; A has no number of its own


def measurement(experiment, time, preequilibration="", value=1.0):
    return Measurement("y", experiment, time, value, (), (), preequilibration)


ROWS = [
    measurement("held", 3.0, "rest"),
    measurement("plain", 1.0),
    measurement("reset", 2.0, "rest"),
    measurement("held", 0.0, "rest"),
    measurement("held", 3.0),
    measurement("plain", 2.0, "held"),
    measurement("plain", 0.5, "rest"),
]
LANES = [("rest", "reset"), ("", "held"), ("rest", "held"), ("", "plain"), ("rest", "plain"), ("held", "plain")]


def lay_out(rows=ROWS, experiments=EXPERIMENTS):
    return layout(SLOTS, rows, experiments, CONSTANTS, rtol=1e-6, atol=1e-9)


def inputs(**given):
    return [{**INITIAL, **given}[name] for name in SLOTS.inputs]


def test_a_lane_is_an_experiment_after_a_preequilibration():
    data = lay_out()
    np.testing.assert_array_equal(data.equilibration.is_used, [before != "" for before, _ in LANES])
    (rows,) = data.rows
    pairs = [(m.preequilibration, m.experiment) for m in ROWS]
    np.testing.assert_array_equal(rows.lane, [LANES.index(pair) for pair in pairs])
    np.testing.assert_array_equal(data.times[rows.lane, rows.time_index], [m.time for m in ROWS])
    np.testing.assert_array_equal(data.times, [[2, 2], [3, 3], [0, 3], [1, 1], [0.5, 0.5], [2, 2]])


def test_each_phase_has_the_values_of_its_own_experiment():
    data = lay_out()
    reset, held, plain = inputs(dose=0.5, B=0.7), inputs(dose=2.0), inputs(dose=1.0, A=4.0)
    rest = inputs(dose=0.0, A=2.2)
    np.testing.assert_array_equal(data.inputs.values(THETA).T, [reset, held, held, plain, plain, plain])
    before = data.equilibration
    np.testing.assert_array_equal(before.inputs.values(THETA).T, [rest, held, rest, plain, rest, held])
    a = before.inputs.index[SLOTS.inputs.index("A")]
    np.testing.assert_array_equal(a, [1, -1, 1, -1, 1, -1])  # A_rest is estimated


def test_what_is_given_is_told_for_both_phases():
    data = lay_out()  # A and B, lane by lane; a NaN gives nothing
    np.testing.assert_array_equal(data.is_given, [[0, 0, 0, 1, 1, 1], [1, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(data.equilibration.is_given, [[1, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]])


def test_states_that_the_experiment_names_are_reset_and_no_others():
    a, b, none = [True, False, False], [False, True, False], [False, False, False]
    np.testing.assert_array_equal(lay_out().equilibration.is_reset, [b, none, none, a, a, a])


def test_lanes_do_not_depend_on_the_order_of_the_rows():
    shuffled = lay_out(ROWS[::-1])
    np.testing.assert_array_equal(shuffled.equilibration.is_reset, lay_out().equilibration.is_reset)
    np.testing.assert_array_equal(shuffled.inputs.constant, lay_out().inputs.constant)


def test_without_preequilibration_lanes_are_the_measured_experiments():
    data = lay_out([measurement("plain", 1.0), measurement("held", 2.0)], [REST, IDLE, HELD, PLAIN])
    assert not np.any(data.equilibration.is_used)
    np.testing.assert_array_equal(data.inputs.values(THETA).T, [inputs(dose=2.0), inputs(dose=1.0, A=4.0)])
    for ours, theirs in zip(data.equilibration.inputs, data.inputs, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(data.equilibration.is_given, data.is_given)


def test_an_experiment_may_be_its_own_preequilibration():
    data = lay_out([measurement("plain", 1.0, "plain")], [IDLE, PLAIN])
    assert data.equilibration.is_used.shape == (1,)
    np.testing.assert_array_equal(data.equilibration.inputs.constant, data.inputs.constant)
    np.testing.assert_array_equal(data.equilibration.is_reset, [[True, False, False]])


@pytest.mark.parametrize(
    ("values", "rows"),
    [
        ({"A": math.nan}, []),  # of an experiment without measurements
        ({"A": math.nan}, [measurement("x", 1.0)]),
        ({"A": math.nan}, [measurement("x", 1.0, "rest"), measurement("x", 1.0)]),
        ({"A": math.nan}, [measurement("x", 1.0, "x")]),
        ({"A": math.nan}, [measurement("x", 1.0, "rest"), measurement("plain", 1.0, "x")]),
        ({"dose": math.nan}, [measurement("x", 1.0, "rest")]),  # no state
    ],
)
def test_only_a_state_after_a_preequilibration_may_be_nan(values, rows):
    (name,) = values
    with pytest.raises(ModelError, match=f"experiment 'x' sets '{name}' to nan, which is only for states"):
        lay_out([*ROWS, *rows], [*EXPERIMENTS, Experiment("x", values)])


def test_the_jax_engine_refuses_a_preequilibration_by_name():
    refuse_steady_states([m for m in ROWS if not m.preequilibration])
    with pytest.raises(ModelError, match=r"cannot pre-equilibrate .*'rest'.*'held'.*use engine='native'"):
        refuse_steady_states(ROWS)


# ---- a problem


@pytest.fixture(scope="module")
def problem():
    table = [(m.observable, m.preequilibration or None, m.experiment, m.time, m.value) for m in ROWS]
    columns = ["observableId", "preequilibrationConditionId", "simulationConditionId", "time", "measurement"]
    return Problem(
        MODEL,
        [
            Parameter("k", lower=0.1, upper=1.0),
            Parameter("A_rest", lower=0.0, upper=9.0),
            Parameter("dose_low", nominal=0.5, estimate=False),
        ],
        [Observable("y", "A", noise.normal("0.1"))],
        pd.DataFrame(table, columns=columns),
        experiments=EXPERIMENTS,
    )


def test_a_problem_counts_its_lanes(problem):
    assert problem.measurements == tuple(ROWS)
    assert problem.num_lanes == len(LANES)


def test_what_is_done_before_the_experiment_defines_the_posterior(problem):
    others = [m._replace(preequilibration="held") if m.experiment == "reset" else m for m in ROWS]
    table = pd.DataFrame(
        [(m.observable, m.preequilibration, m.experiment, m.time, m.value) for m in others],
        columns=["observableId", "preequilibrationConditionId", "simulationConditionId", "time", "measurement"],
    )
    assert problem.with_data(table).hash != problem.hash


@pytest.mark.parametrize(
    ("experiment", "preequilibration", "kept"),
    [
        (RESET, "rest", ["reset", "rest"]),
        (HELD, "rest", ["held", "rest"]),  # the first of two
        (PLAIN, "", ["plain"]),  # the first has none
        (REST, "", ["rest"]),
        (Experiment("reset", {"dose": 3.0}), "rest", ["reset", "rest"]),
        (Experiment("of_ones_own", {"dose": 3.0}), "", ["of_ones_own"]),
    ],
)
def test_a_grid_is_preequilibrated_as_the_data_are(problem, experiment, preequilibration, kept):
    grid = problem.on_grid(experiment, [0.0, 1.0])
    assert [e.name for e in grid.experiments] == kept
    assert {(m.experiment, m.preequilibration) for m in grid.measurements} == {(experiment.name, preequilibration)}
    assert grid.num_lanes == 1
    row = grid._functions.likelihood.slots.inputs.index("dose")
    dose = CONSTANTS.get(experiment.values["dose"], experiment.values["dose"])
    assert float(grid._data.layout.inputs.constant[row, 0]) == dose
    assert float(grid._data.layout.equilibration.inputs.constant[row, 0]) == (0.0 if preequilibration else dose)
