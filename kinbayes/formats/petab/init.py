"""A first PEtab problem from a model and a table of measurements, to be edited."""

import difflib
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pandas as pd

from kinbayes.formats.files import shown
from kinbayes.formats.petab.reader import read_petab
from kinbayes.formats.petab.table import PEtabError, Row, read_rows
from kinbayes.formats.sbml.reader import read_sbml
from kinbayes.model.model import Model

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_LONG = ("observableId", "time", "measurement")
_CONDITION = "simulationConditionId"
_ONLY_CONDITION = "experiment"  # of a table that names none

_YAML = """\
# A first version, to be edited. `kinbayes check problem.yaml` says what is wrong with it.
#
# parameters.tsv    What is estimated: estimate is 1, or 0 for a constant at nominalValue. The bounds of the
#                   model's parameters span a factor of {span:g} to either side: narrow them to what is
#                   plausible. Without a prior a parameter is uniform on its scale between its bounds. To
#                   state one, add the columns objectivePriorType (say logNormal) and
#                   objectivePriorParameters (its two numbers, say 0;1).
# observables.tsv   What was measured: a formula in the model's names, and its noise. For noise that grows
#                   with the signal set observableTransformation to log: then noiseFormula is the standard
#                   deviation of the logarithm.
# conditions.tsv    How experiments differ: add a column named after a parameter or species of the model, with
#                   a number or the name of a parameter in every row.
# measurements.tsv  The data.
{notes}
format_version: 1
parameter_file: parameters.tsv
problems:
  - sbml_files:
      - model.xml
    condition_files:
      - conditions.tsv
    observable_files:
      - observables.tsv
    measurement_files:
      - measurements.tsv
"""
_SPAN = 1000.0  # three orders of magnitude to either side: what a rate constant of unknown size needs


def init_petab(model_path: str | Path, data_path: str | Path, folder: str | Path) -> Path:
    """Write a first PEtab problem (version 1) for a model and a table, to be edited.

    Parameters
    ----------
    model_path
        The SBML file; it is copied.
    data_path
        The measurements, comma-separated (`.csv`) or tab-separated (`.tsv`, `.txt`). Either long, with the
        columns `observableId`, `time`, `measurement`, and if needed `simulationConditionId`; or wide: `time`,
        then one column for every measured quantity, empty where it was not measured. Quantities have the
        model's names.
    folder
        Where the problem is written. It must not exist yet.

    Returns
    -------
    Path
        The YAML file. Estimated, on the scale log10, are every parameter that has a positive value in the
        model, or none (then around 1), and the standard deviation of the noise of every observable.
        Parameters that are zero or negative, species and compartments keep the values of the model.

    Raises
    ------
    FileExistsError
        If the folder exists.
    FileNotFoundError
        If the model or the table does not.
    PEtabError
        If the table cannot be read; the message names its column or line.
    SBMLError
        If the model cannot be read.
    """
    model_path, data_path, folder = Path(model_path), Path(data_path), Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; choose another folder or remove it")
    model = read_sbml(model_path)
    data = _measurements(data_path, model)
    constants = _constants(model_path, model)
    observables = list(dict.fromkeys(data["observableId"]))
    tables = {
        "parameters": [*map(_rate, constants), *(_noise(data, name) for name in observables)],
        "conditions": [{"conditionId": name} for name in dict.fromkeys(data[_CONDITION])],
        "observables": [_observable(name) for name in observables],
    }
    # All of it or nothing: the folder gets its name when its problem could be read.
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    unfinished.mkdir()
    try:
        shutil.copyfile(model_path, unfinished / "model.xml")
        for name, rows in tables.items():
            _write(unfinished / f"{name}.tsv", pd.DataFrame(rows))
        _write(unfinished / "measurements.tsv", data)
        text = _YAML.format(span=_SPAN, notes=_notes(constants))
        (unfinished / "problem.yaml").write_text(text, encoding="utf-8")
        read_petab(unfinished / "problem.yaml")
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    return folder / "problem.yaml"


def _write(path: Path, table: pd.DataFrame) -> None:
    table.to_csv(path, sep="\t", index=False, lineterminator="\n")


# ---- parameters


class _Constant(NamedTuple):
    name: str
    value: float


def _constants(path: Path, model: Model) -> list[_Constant]:
    """Return the parameters that the file declares and gives a number, which no rule changes."""
    root = ElementTree.parse(path).getroot()
    declared = {p.get("id") for p in root.iterfind("{*}model/{*}listOfParameters/{*}parameter")}
    plain = [n for n in model.parameters if n in declared and model.initial[n].op == "const"]
    return [_Constant(name, float(model.initial[name].value)) for name in plain]


def _rate(constant: _Constant) -> dict[str, object]:
    value = 1.0 if math.isnan(constant.value) else constant.value
    if value <= 0:
        return _parameter(constant.name, "lin", math.nan, value, math.nan, 0)
    low, high = (float(f"{value * factor:.12g}") for factor in (1 / _SPAN, _SPAN))
    return _parameter(constant.name, "log10", low, value, high, 1)


def _noise(data: pd.DataFrame, observable: str) -> dict[str, object]:
    values = data.loc[data["observableId"] == observable, "measurement"]
    size = next((s for s in (values.std(), values.abs().mean()) if s > 0), 1.0)
    # From noise far below what a plot shows to noise that explains the data without the model.
    low, nominal, high = (float(f"{size * factor:.2g}") for factor in (1e-3, 0.1, 10.0))
    return _parameter(_sd(observable), "log10", low, nominal, high, 1)


def _parameter(name: str, scale: str, lower: float, nominal: float, upper: float, estimate: int) -> dict[str, object]:
    return {
        "parameterId": name,
        "parameterScale": scale,
        "lowerBound": lower,
        "upperBound": upper,
        "nominalValue": nominal,
        "estimate": estimate,
    }


def _notes(constants: Sequence[_Constant]) -> str:
    kept = [c.name for c in constants if c.value <= 0]
    unknown = [c.name for c in constants if math.isnan(c.value)]
    lines = ["#"]
    if kept:
        lines.append(f"# Not estimated, since their values in the model are not positive: {', '.join(kept)}.")
    if unknown:
        lines.append(f"# Without a value in the model, so their bounds are a guess: {', '.join(unknown)}.")
    return "\n".join(lines)


# ---- observables and measurements


def _observable(name: str) -> dict[str, str]:
    return {
        "observableId": name,
        "observableFormula": name.removeprefix("obs_"),
        "noiseFormula": _sd(name),
        "observableTransformation": "lin",
        "noiseDistribution": "normal",
    }


def _sd(observable: str) -> str:
    return f"sd_{observable.removeprefix('obs_')}"


def _measurements(path: Path, model: Model) -> pd.DataFrame:
    """Return the table in PEtab's long form, its observables named `obs_<name in the model>`."""
    if path.suffix.lower() not in _SEPARATORS:
        raise PEtabError(f"{path}: unknown kind of table {path.suffix!r}; choose from {list(_SEPARATORS)}")
    separator = _SEPARATORS[path.suffix.lower()]
    rows = list(read_rows(path, (), separator))
    if not rows:
        raise PEtabError(f"{path}: there are no measurements")
    columns = list(rows[0].cells)
    if set(_LONG) <= set(columns):
        cells = [_long(row) for row in rows]
    elif columns[0].casefold() == "time":
        cells = [cell for row in rows for cell in _wide(row, columns[0], columns[1:])]
    else:
        raise PEtabError(
            f"{path}, line 1: the columns, separated by {separator!r}, are {columns}; give either "
            f"{list(_LONG)}, or 'time' first and then one column for every measured quantity"
        )
    if not cells:
        raise PEtabError(f"{path}: there are no measurements, only times")
    table = pd.DataFrame(cells, columns=["observableId", _CONDITION, "time", "measurement"])
    names = {name: f"obs_{_in_model(path, name, model)}" for name in dict.fromkeys(table["observableId"])}
    return table.assign(observableId=table["observableId"].map(names))


def _long(row: Row) -> tuple[str, str, float, float]:
    unknown = [c for c in row.cells if c not in (*_LONG, _CONDITION)]
    if unknown:
        raise row.error(unknown[0], "it has no place in a first version; remove it, and add it afterwards")
    condition = row.identifier(_CONDITION) if _CONDITION in row.cells else _ONLY_CONDITION
    return row["observableId"], condition, _time(row, "time"), _finite(row, "measurement")


def _wide(row: Row, time: str, columns: Sequence[str]) -> list[tuple[str, str, float, float]]:
    return [(c, _ONLY_CONDITION, _time(row, time), _finite(row, c)) for c in columns if row[c]]


def _time(row: Row, column: str) -> float:
    value = _finite(row, column)
    if value < 0:
        raise row.error(column, f"{value} lies before the start at time 0; shift all times")
    return value


def _finite(row: Row, column: str) -> float:
    value = row.number(column)
    if math.isinf(value):
        raise row.error(column, f"{value} is not finite; correct the cell or remove the row")
    return value


def _in_model(path: Path, name: str, model: Model) -> str:
    """Return what a measured quantity is called in the model."""
    known = [*model.initial, *model.expressions]
    for candidate in (name, name.removeprefix("obs_")):
        if candidate in known:
            return candidate
    folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    hint = f"did you mean {folded[close[0]]!r}? Case matters" if close else f"it has {shown(sorted(known))}"
    raise PEtabError(f"{path}: the model has no quantity {shown(name)}; {hint}")
