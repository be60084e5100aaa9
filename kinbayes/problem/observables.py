"""What was measured: observables, experiments, and the table of measurements."""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd

from kinbayes.problem.families import MEAN, MEASUREMENT
from kinbayes.problem.noise import CENSORING, Noise


class DataError(ValueError):
    """A table of measurements that cannot be used; the message names its row and column."""


@dataclass(frozen=True)
class Observable:
    """A quantity that is measured.

    Parameters
    ----------
    name
        Its id, as in the data's column `observableId`.
    formula
        What is predicted, in names of the model, parameters, `time`, and the placeholders
        `observableParameter1_<name>`, … that each measurement fills in.
    noise
        How measurements scatter around it; its formulas may use `noiseParameter1_<name>`, … and `<name>` itself.
    label
        What figures call it; its id by default.
    """

    name: str
    formula: str
    noise: Noise
    label: str = ""


@dataclass(frozen=True)
class Period:
    """A part of an experiment, which begins with changes.

    Parameters
    ----------
    start
        The time at which it begins.
    values
        Model parameter or state -> what it is from then on: a number, or a formula in names of the model and
        parameters, computed from what they were just before. All changes are made at once.
    """

    start: float
    values: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A condition under which the model is simulated.

    Parameters
    ----------
    name
        Its id, as in the data's columns `simulationConditionId` and `preequilibrationConditionId`.
    values
        Model parameter or state (its start) -> a number, or a formula in names of parameters and of the model. After
        a pre-equilibration a state goes on from the steady state where it has no value here, or NaN.
    start
        The time at which it begins, after its pre-equilibration if it has one.
    periods
        What changes later, in the order of time.
    """

    name: str
    values: Mapping[str, float | str] = field(default_factory=dict)
    start: float = 0.0
    periods: tuple[Period, ...] = ()

    @functools.cached_property
    def given(self) -> frozenset[str]:
        """The names that it gives a value: all that it holds but those at NaN."""
        return frozenset(n for n, value in self.values.items() if isinstance(value, str) or not math.isnan(value))


class Measurement(NamedTuple):
    """One row of the data.

    `preequilibration` names the experiment under which the model is brought to its steady state before time 0,
    where `experiment` begins; it is empty where there is none. `censoring` is `below` or `above` where all that is
    known is that the true value lies below or above `value`, else empty.
    """

    observable: str
    experiment: str
    time: float
    value: float
    observable_parameters: tuple[str, ...]
    noise_parameters: tuple[str, ...]
    preequilibration: str = ""
    censoring: str = ""


class _Cells(NamedTuple):
    """A table as lists, which are read cell by cell much faster than a data frame."""

    columns: Mapping[str, list]
    places: Sequence[str]

    def place(self, row: int, column: str) -> str:
        """Return where a cell stands."""
        return f"{self.places[row]}, column {column!r}"

    def text(self, row: int, column: str) -> str:
        """Return a cell as text, empty where it holds nothing or the table has no such column."""
        cell = self.columns[column][row] if column in self.columns else None
        is_empty = cell is None or cell is pd.NA or cell is pd.NaT or cell != cell
        return "" if is_empty or not str(cell).strip() else str(cell)

    def number(self, row: int, column: str, most: float = math.nan) -> float:
        """Return a cell as a number, which is finite or `most`."""
        cell = self.columns[column][row]
        try:
            value = float(cell)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value) and value != most:
            shown = repr(cell) if isinstance(cell, str) else cell
            raise DataError(
                f"{self.place(row, column)}: {shown} is no finite number; correct the cell or remove the row"
            )
        return value

    def split(self, row: int, column: str) -> tuple[str, ...]:
        """Return the parts of a cell that semicolons separate."""
        text = self.text(row, column)
        return tuple(part.strip() for part in text.split(";")) if text else ()


def _cells(table: pd.DataFrame) -> _Cells:
    is_placed = table.index.name == "place"
    places = [str(label) if is_placed else f"data row {row}" for row, label in enumerate(table.index)]
    return _Cells({column: table[column].tolist() for column in table.columns}, places)


def measurements(
    table: pd.DataFrame, observables: Sequence[Observable], experiments: Sequence[Experiment]
) -> list[Measurement]:
    """Return the rows of a table with PEtab's column names, checked.

    `simulationConditionId` may be absent where there is one experiment. `preequilibrationConditionId`, absent or
    empty where there is no pre-equilibration, names the experiment under which it happens. `observableParameters`
    and `noiseParameters` hold values for the placeholders, separated by semicolons. `censoring`, absent or empty where
    a number was measured, is `below` or `above` where `measurement` is a limit that the true value lies below or
    above; PEtab does not have this column. An index named `place` says where each row was read, for messages.

    Raises
    ------
    DataError
        If a column is missing, or a cell names what does not exist or is no number.
    """
    required = ["observableId", "time", "measurement"] + ["simulationConditionId"] * (len(experiments) > 1)
    for column in required:
        if column not in table.columns:
            raise DataError(f"data: the column {column!r} is missing; it has {list(table.columns)}")
    if table.empty:
        raise DataError("data: there are no measurements")
    starts = {e.name: e.start for e in experiments}
    names = {
        "observableId": {o.name: None for o in observables},
        "simulationConditionId": starts,
        "preequilibrationConditionId": starts,
    }
    noises = {o.name: o.noise for o in observables}
    cells = _cells(table)
    rows = []
    for row in range(len(table)):
        preequilibration = cells.text(row, "preequilibrationConditionId")
        for column, known in names.items():
            is_filled = column in cells.columns and (column != "preequilibrationConditionId" or preequilibration)
            if is_filled and str(cells.columns[column][row]) not in known:
                unknown = cells.columns[column][row]
                raise DataError(f"{cells.place(row, column)}: unknown {unknown!r}; known are {list(known)}")
        has_experiment = "simulationConditionId" in cells.columns
        experiment = str(cells.columns["simulationConditionId"][row]) if has_experiment else experiments[0].name
        time = cells.number(row, "time", most=math.inf)
        if time < starts[experiment]:
            raise DataError(
                f"{cells.place(row, 'time')}: {time} lies before the start of {experiment!r} at time "
                f"{starts[experiment]:g}"
            )
        rows.append(
            Measurement(
                str(cells.columns["observableId"][row]),
                experiment,
                time,
                cells.number(row, "measurement"),
                cells.split(row, "observableParameters"),
                cells.split(row, "noiseParameters"),
                preequilibration,
                _censoring(cells, row, noises),
            )
        )
    _check_scales(rows, noises, cells)
    return rows


def means(rows: Sequence[Measurement]) -> dict[tuple[str, str], float]:
    """Return the mean of the measurements of every observable in every experiment that has some."""
    values: dict[tuple[str, str], list[float]] = {}
    for m in rows:
        values.setdefault((m.observable, m.experiment), []).append(m.value)
    return {place: statistics.fmean(own) for place, own in values.items()}


def _check_scales(rows: Sequence[Measurement], noises: Mapping[str, Noise], cells: _Cells) -> None:
    """Refuse zeros that terms would be divided by."""
    for row, m in enumerate(rows):
        if MEASUREMENT in noises[m.observable].formulas and m.value == 0:
            raise DataError(
                f"{cells.place(row, 'measurement')}: observable {m.observable!r} has the objective "
                f"{noises[m.observable].family}, which divides by every measurement, and this one is 0; remove the "
                "row, or take ave_norm_sos or sos"
            )
    for (observable, experiment), mean in means(rows).items():
        if MEAN in noises[observable].formulas and mean == 0:
            raise DataError(
                f"the measurements of {observable!r} in experiment {experiment!r} have the mean 0, by which its "
                f"objective {noises[observable].family} divides; take sos"
            )


def _censoring(cells: _Cells, row: int, noises: Mapping[str, Noise]) -> str:
    word = cells.text(row, "censoring").strip()
    place = cells.place(row, "censoring")
    if word not in CENSORING:
        raise DataError(f"{place}: unknown {word!r}; choose from {[w for w in CENSORING if w]}, or leave it empty")
    observable = cells.text(row, "observableId")
    if word and not noises[observable].is_censorable:
        raise DataError(
            f"{place}: observable {observable!r} has {noises[observable].family} noise; a censored measurement needs "
            "normal, log-normal or laplace noise"
        )
    return word


def fillings(
    rows: Sequence[Measurement], observable: str, experiment: str
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Return what measurements of an observable fill in, in an experiment or else in all; None where they differ."""
    own = [m for m in rows if m.observable == observable]
    here = {(m.observable_parameters, m.noise_parameters) for m in own if m.experiment == experiment}
    found = here or {(m.observable_parameters, m.noise_parameters) for m in own}
    return found.pop() if len(found) == 1 else None
