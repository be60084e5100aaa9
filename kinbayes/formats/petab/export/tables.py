"""Tables that are to be written: lines of cells, and the reasons why there are none for some parts of a problem."""

import csv
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from kinbayes.formats.petab.export.names import Names
from kinbayes.formats.petab.formula import InexpressibleError
from kinbayes.problem.observables import Measurement

Line = dict[str, str]  # column -> cell
Tables = dict[str, list[Line]]


def lines(make: Callable[..., Line], things: Iterable, reasons: list[str]) -> list[Line]:
    """Return a line for every thing; why one has no line is added to the reasons."""
    found = []
    for thing in things:
        try:
            found.append(make(thing))
        except InexpressibleError as error:
            reasons.append(str(error))
    return found


def without_empty(table: Sequence[Line], columns: Collection[str]) -> list[Line]:
    """Return a table without those of the columns that are empty."""
    empty = {column for column in columns if not any(line.get(column) for line in table)}
    return [{column: cell for column, cell in line.items() if column not in empty} for line in table]


def number_cell(value: float | None) -> str:
    """Return the cell of a number, which reads back bit for bit; that of none, or of NaN, is empty."""
    return "" if value is None or value != value else repr(float(value))


def measured(names: Names, measurement: Measurement) -> Line:
    """Return the cells of a measurement that both versions have."""
    if math.isnan(measurement.value):
        raise InexpressibleError(f"a measurement of {measurement.observable!r} is no number")
    return {
        "measurement": number_cell(measurement.value),
        "time": number_cell(measurement.time),
        "observableParameters": ";".join(names.parameters.get(p, p) for p in measurement.observable_parameters),
        "noiseParameters": ";".join(names.parameters.get(p, p) for p in measurement.noise_parameters),
        "censoring": measurement.censoring,
    }


def write_table(path: Path, table: Sequence[Line], columns: Sequence[str]) -> None:
    """Write a table whose lines have the same columns; without lines it has those given here."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, table[0] if table else columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
