"""What PEtab's measurements and formulas have in common: known names, and values that measurements fill in."""

import math
import re
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from kinbayes.formats.petab.table import PEtabError, Row, number
from kinbayes.model.expressions import Expr
from kinbayes.model.formula import CONSTANTS, FormulaError, parse
from kinbayes.model.model import Model, ModelError
from kinbayes.problem.likelihood import placeholders
from kinbayes.problem.observables import DataError, Experiment, Observable
from kinbayes.problem.parameters import Parameter, ParameterError
from kinbayes.problem.problem import Problem

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MANY = re.compile(r"(observable|noise)Parameter0*[1-9][0-9]{3}")  # all from 1 on have to be given
# Column of the measurements -> what the names that it fills in begin with.
PLACEHOLDERS = {"observableParameters": "observableParameter", "noiseParameters": "noiseParameter"}


def own_name(row: Row, column: str) -> str:
    """Return an id that formulas may use."""
    name = row.identifier(column)
    if name == "time" or name in CONSTANTS:
        raise row.error(column, f"{name!r} means something else in formulas; rename it")
    return name


def formula_in(row: Row, column: str, text: str) -> Expr:
    """Return the formula of a cell, or of the text that stands for it."""
    try:
        return parse(text)
    except FormulaError as error:
        raise row.error(column, str(error)) from error


def fillings(row: Row, observable: Observable, known: set[str]) -> dict[str, int]:
    """Return how many values each column of the measurements must give for an observable."""
    texts = {"observableFormula": observable.formula, "noiseFormula": observable.noise.formulas[0]}
    formulas = {column: formula_in(row, column, text) for column, text in texts.items()}
    for column, formula in formulas.items():
        hidden = sorted({*_WORD.findall(texts[column])} & CONSTANTS & known)
        if hidden:
            text = f"{hidden} are numbers in formulas, but names in the model as well; rename them there"
            raise row.error(column, text)
        if any(map(_MANY.match, formula.symbols)):
            raise row.error(column, "a measurement cannot fill in more than 999 values; number them from 1")
    own = placeholders(observable.name, list(formulas.values()))
    for column, formula in formulas.items():
        itself = {observable.name} if column == "noiseFormula" else set()
        unknown = sorted(formula.symbols - known - itself - {*own})
        if unknown:
            raise row.error(column, f"{unknown} are defined neither in the model nor in the parameter table")
    return {column: sum(p.startswith(kind) for p in own) for column, kind in PLACEHOLDERS.items()}


def constants(model: Model) -> dict[str, float]:
    """Return the parameters that the model itself gives a number."""
    return {n: float(model.initial[n].value) for n in model.parameters if model.initial[n].op == "const"}


def check_measurement(row: Row, expected: Mapping[str, Mapping[str, int]], values: Mapping[str, float | None]) -> None:
    """Refuse a measurement that is no number, or fills in what is not asked for; `expected` is that of `fillings`."""
    for column in ("time", "measurement"):
        if math.isnan(number(row[column])):
            raise row.error(column, f"{row[column]!r} is no finite number; correct the cell or remove the row")
    for column, count in expected.get(row["observableId"], {}).items():
        parts = row.parts(column)
        if len(parts) != count:
            text = f"{row['observableId']!r} takes {count} value(s) here, not {len(parts)}"
            raise row.error(column, text)
        for part in parts:
            if part not in values and math.isnan(number(part)):
                raise row.error(column, f"{part!r} is neither a number nor a parameter")


def problem_with(
    path: object,
    model: Model,
    parameters: Sequence[Parameter],
    observables: Sequence[Observable],
    experiments: Sequence[Experiment],
    measured: Sequence[Row],
    values: Mapping[str, float | None],
    make: Callable[..., Problem],
) -> Problem:
    """Return the problem of what the tables hold; `values` are those of parameters that tables or the model give.

    Raises
    ------
    PEtabError
        If the parts contradict each other.
    """
    used = {value for e in experiments for part in (e, *e.periods) for value in part.values.values()}
    used |= {part for row in measured for column in PLACEHOLDERS for part in row.parts(column)}
    # A table may name a parameter that only the model gives a value.
    from_model = sorted((used & values.keys()) - {p.name for p in parameters})
    data = pd.DataFrame([row.cells for row in measured])
    data.index = pd.Index([row.place for row in measured], name="place")
    constant = [Parameter(name, nominal=values[name], estimate=False) for name in from_model]
    try:
        return make(model, [*parameters, *constant], observables, data, experiments=experiments)
    except DataError as error:
        raise PEtabError(str(error)) from error
    except (ModelError, ParameterError) as error:
        raise PEtabError(f"{path}: {error}") from error
