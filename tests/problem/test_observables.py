"""The table of measurements: what it may hold, and where its errors point."""

import math

import pandas as pd
import pytest

from kinbayes.problem import noise
from kinbayes.problem.observables import DataError, Experiment, Measurement, Observable, measurements

OBSERVABLES = [Observable("y", "A", noise.normal("sd")), Observable("z", "B", noise.normal("sd"))]
EXPERIMENTS = [Experiment("low"), Experiment("high")]


def table(**columns):
    start = {
        "observableId": ["y", "z", "y"],
        "simulationConditionId": ["low", "high", "high"],
        "time": [0.0, 1.0, 2.5],
        "measurement": [1.0, 2.0, 3.0],
    }
    return pd.DataFrame({**start, **columns})


def test_rows_become_measurements_in_their_order():
    found = measurements(
        table(observableParameters=["scale; 2", None, math.nan], noiseParameters=["sd", "", "0.5"]),
        OBSERVABLES,
        EXPERIMENTS,
    )
    assert found == [
        Measurement("y", "low", 0.0, 1.0, ("scale", "2"), ("sd",)),
        Measurement("z", "high", 1.0, 2.0, (), ()),
        Measurement("y", "high", 2.5, 3.0, (), ("0.5",)),
    ]


@pytest.mark.parametrize("nothing", [None, math.nan, pd.NA, "", " "])
def test_a_preequilibration_is_named_or_not(nothing):
    found = measurements(table(preequilibrationConditionId=["high", nothing, "low"]), OBSERVABLES, EXPERIMENTS)
    assert [m.preequilibration for m in found] == ["high", "", "low"]
    assert [m.experiment for m in found] == ["low", "high", "high"]


def test_what_is_given_is_all_but_nan():
    values = {"A": math.nan, "B": 0.0, "k": "nan_is_a_name", "n": 2}
    assert Experiment("x", values).given == {"B", "k", "n"}


def test_one_experiment_needs_no_column():
    data = table().drop(columns="simulationConditionId")
    assert {m.experiment for m in measurements(data, OBSERVABLES, [Experiment("only")])} == {"only"}
    with pytest.raises(DataError, match="'simulationConditionId' is missing"):
        measurements(data, OBSERVABLES, EXPERIMENTS)


@pytest.mark.parametrize("column", ["observableId", "time", "measurement"])
def test_a_missing_column_is_named(column):
    with pytest.raises(DataError, match=f"the column '{column}' is missing"):
        measurements(table().drop(columns=column), OBSERVABLES, EXPERIMENTS)


def test_a_table_without_rows_is_refused():
    with pytest.raises(DataError, match="no measurements"):
        measurements(table().iloc[:0], OBSERVABLES, EXPERIMENTS)


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("observableId", ["y", "x", "y"], "unknown 'x'; known are"),
        ("simulationConditionId", ["low", "none", "low"], "unknown 'none'; known are"),
        ("preequilibrationConditionId", ["low", "none", ""], "unknown 'none'; known are"),
        ("time", [0.0, -1.0, 2.0], "lies before the start"),
        ("time", [0.0, "early", 2.0], "'early' is no finite number"),
        ("measurement", [1.0, math.nan, 2.0], "nan is no finite number"),
        ("measurement", [1.0, math.inf, 2.0], "inf is no finite number"),
        ("measurement", ["1", "1,5", "2"], "'1,5' is no finite number"),
    ],
)
def test_a_wrong_cell_is_named_with_its_place(column, cells, message):
    data = table(**{column: cells})
    with pytest.raises(DataError, match=message) as caught:
        measurements(data, OBSERVABLES, EXPERIMENTS)
    assert f"data row 1, column '{column}'" in str(caught.value)
    data.index = pd.Index(["a.tsv, line 2", "b.tsv, line 7", "b.tsv, line 8"], name="place")
    with pytest.raises(DataError, match=f"b.tsv, line 7, column '{column}'"):
        measurements(data, OBSERVABLES, EXPERIMENTS)
