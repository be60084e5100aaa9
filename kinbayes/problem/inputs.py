"""Quantities that a table gives over time, as part of the model.

Between the knots of a table a quantity is a polynomial of time. Knots and coefficients become parameters of the model
that experiments set, so that other numbers compile nothing, and time's passing of a knot a comparison.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from kinbayes.model.expressions import TIME, ZERO, Expr, apply, const, symbol, where
from kinbayes.model.model import Model, ModelError
from kinbayes.problem.observables import DataError, Experiment

Interpolation = Literal["step", "linear", "monotone", "cubic"]
_DEGREES = {"step": 0, "linear": 1, "monotone": 3, "cubic": 3}
_FEWEST = {"step": 2, "linear": 2, "monotone": 2, "cubic": 4}  # knots


class Curve(NamedTuple):
    """What one experiment sees of an input."""

    times: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Input:
    """A parameter of the model that follows a table over time.

    Before its first knot it has the value there, also during a pre-equilibration, and after its last knot the value
    there. An experiment that the table leaves out keeps the value that it, or the model, gives the parameter.

    Parameters
    ----------
    name
        The parameter.
    table
        Columns `time` (as in the data), `value`, and where experiments differ `simulationConditionId`.
    interpolation
        Between the knots: `step` (the value of the knot before), `linear`, `cubic` (the spline whose third derivative
        is continuous at the second knot and the last but one), or `monotone` (cubic, never beyond its knots; Fritsch
        and Butland).

    Raises
    ------
    DataError
        If a column is missing, a cell is no finite number, times do not increase, or there are too few knots.

    Notes
    -----
    On the native engine a knot ends a step, so that none is missed, and with some hundred knots steps take several
    times as long. The JAX engine finds knots by its error control alone, and compiles for minutes where there are
    hundreds.

    References
    ----------
    Fritsch and Butland (1984), A method for constructing local monotone piecewise cubic interpolants. SIAM Journal on
    Scientific and Statistical Computing 5(2). doi:10.1137/0905021
    """

    name: str
    table: pd.DataFrame
    interpolation: Interpolation = "linear"

    def __post_init__(self) -> None:
        if self.interpolation not in _DEGREES:
            raise ValueError(
                f"input {self.name!r}: unknown interpolation {self.interpolation!r}; choose from {list(_DEGREES)}"
            )
        for column in ("time", "value"):
            if column not in self.table.columns:
                raise DataError(
                    f"input {self.name!r}: the column {column!r} is missing; it has {list(self.table.columns)}"
                )
        for experiment, curve in self.curves.items():
            if len(curve.times) < _FEWEST[self.interpolation]:
                where_ = f" for experiment {experiment!r}" if experiment else ""
                raise DataError(
                    f"input {self.name!r}: the table has {len(curve.times)} knot(s){where_}, but {self.interpolation} "
                    f"interpolation needs {_FEWEST[self.interpolation]}"
                )

    @functools.cached_property
    def curves(self) -> Mapping[str, Curve]:
        """What every experiment sees; the name "" stands for all of them."""
        numbers = {column: self._numbers(column) for column in ("time", "value")}
        has_experiment = "simulationConditionId" in self.table.columns
        names = [str(n) for n in self.table["simulationConditionId"]] if has_experiment else [""] * len(self.table)
        rows: dict[str, list[int]] = {} if has_experiment else {"": []}
        for row, name in enumerate(names):
            own = rows.setdefault(name, [])
            time = numbers["time"][row]
            if own and not time > numbers["time"][own[-1]]:
                raise DataError(
                    f"{self._place(row, 'time')}: {time:g} does not come after {numbers['time'][own[-1]]:g}, the knot "
                    "before; sort the rows by time, each time once"
                )
            own.append(row)
        return {name: Curve(*(tuple(numbers[c][r] for r in own) for c in numbers)) for name, own in rows.items()}

    def _place(self, row: int, column: str) -> str:
        return f"input {self.name!r}: table row {row}, column {column!r}"

    def _numbers(self, column: str) -> list[float]:
        found = []
        for row, cell in enumerate(self.table[column].tolist()):
            try:
                value = float(cell)
            except (TypeError, ValueError):
                value = math.nan
            if not math.isfinite(value):
                raise DataError(f"{self._place(row, column)}: {cell!r} is no finite number; correct or remove the row")
            found.append(value)
        return found


class Driven(NamedTuple):
    """A model that follows its inputs, and the experiments that set their numbers."""

    model: Model
    experiments: tuple[Experiment, ...]


def driven(model: Model, experiments: Sequence[Experiment], inputs: Sequence[Input]) -> Driven:
    """Return a model that follows its inputs.

    Raises
    ------
    ModelError
        If an input is no parameter of the model, or an experiment gives it another value.
    """
    for input_ in inputs:
        _check(model, experiments, input_)
        curves = [input_.curves.get(e.name, input_.curves.get("")) for e in experiments]
        most = max((len(curve.times) for curve in curves if curve is not None), default=0)
        model = _following(model, input_.name, most, _DEGREES[input_.interpolation])
        experiments = [
            replace(e, values=_values(e, input_, curve, most)) for e, curve in zip(experiments, curves, strict=True)
        ]
    return Driven(model, tuple(experiments))


def check_inputs(inputs: Sequence[Input], experiments: Sequence[Experiment], parameters: Sequence[str]) -> None:
    """Refuse tables of experiments that do not exist, and inputs that are parameters of the problem by name.

    Raises
    ------
    DataError, ModelError
        If there is one.
    """
    known = [e.name for e in experiments]
    for input_ in inputs:
        if input_.name in parameters:
            raise ModelError(
                f"{input_.name!r} is both an input and a parameter of the problem; remove one, or scale the input by a "
                "parameter in the model"
            )
        unknown = sorted(set(input_.curves) - {"", *known})
        if unknown:
            raise DataError(
                f"input {input_.name!r}: its table names the experiments {unknown} in column 'simulationConditionId'; "
                f"known are {known}"
            )


def at_rest(experiment: Experiment) -> Experiment:
    """Return an experiment whose inputs stay at the values before their first knots, as in an equilibration."""
    return replace(experiment, values={n: v for n, v in experiment.values.items() if not n.startswith(_KNOT)})


# Names that no file can use. A knot's time is infinite where an experiment does not reach it.
_KNOT = "knot "


def _knot(name: str, k: int) -> str:
    return f"{_KNOT}{k} of {name}"


def _coefficient(name: str, k: int, power: int) -> str:
    return f"coefficient {power} of {name} from knot {k}"


def _before(name: str) -> str:
    return f"{name} before its knots"


def _check(model: Model, experiments: Sequence[Experiment], input_: Input) -> None:
    name = input_.name
    if name not in model.parameters:
        if name in model.derivatives:
            why = "is a state; an input replaces a parameter, which a state's derivative may use"
        elif name in model.expressions:
            why = "is computed by a rule of the model, or is an input already; give its curve to a parameter"
        else:
            why = f"is no parameter of the model; choose from {sorted(model.parameters)}"
        raise ModelError(f"input {name!r} {why}")
    for e in experiments:
        if name in e.given and (e.name in input_.curves or "" in input_.curves):
            raise ModelError(f"experiment {e.name!r} sets {name!r}, which its input sets too; remove one of them")
        period = next((p for p in e.periods if name in p.values), None)
        if period is not None:
            raise ModelError(
                f"experiment {e.name!r}, period {period.start:g} sets {name!r}, an input; put the change into its table"
            )


@functools.lru_cache(maxsize=64)
def _following(model: Model, name: str, knots: int, degree: int) -> Model:
    """Return a model in which a parameter is piecewise a polynomial of time."""
    numbers = {_knot(name, k): const(math.inf) for k in range(knots)}
    numbers |= {_coefficient(name, k, power): ZERO for k in range(knots) for power in range(degree + 1)}
    is_past, pieces = [], [symbol(_before(name))]
    for k in range(knots):
        is_past.append(apply("ge", TIME, symbol(_knot(name, k))))
        since, piece = TIME - symbol(_knot(name, k)), ZERO
        for power in range(degree, -1, -1):
            piece = piece * since + symbol(_coefficient(name, k, power))
        pieces.append(piece)
    initial = {_before(name) if n == name else n: e for n, e in model.initial.items()}
    return replace(model, initial=initial | numbers, expressions={**model.expressions, name: _chosen(is_past, pieces)})


def _chosen(is_past: Sequence[Expr], pieces: Sequence[Expr]) -> Expr:
    """Return the piece after the last knot that is past.

    Machine code computes all pieces. Choosing among them, by halving, was two to three times as fast for 500 knots as
    choosing among the coefficients, or piece after piece.
    """
    if len(pieces) == 1:
        return pieces[0]
    half = len(pieces) // 2
    before, after = _chosen(is_past[: half - 1], pieces[:half]), _chosen(is_past[half:], pieces[half:])
    return where(is_past[half - 1], after, before)


def _values(experiment: Experiment, input_: Input, curve: Curve | None, most: int) -> dict[str, float | str]:
    """Return what an experiment sets once its inputs are numbers."""
    name, degree = input_.name, _DEGREES[input_.interpolation]
    found = {_before(name) if n == name else n: v for n, v in experiment.values.items()}
    if curve is None:
        return found
    found[_before(name)] = curve.values[0]
    coefficients = _coefficients(curve, input_.interpolation)
    for k in range(most):
        is_reached = k < len(curve.times)
        found[_knot(name, k)] = curve.times[k] if is_reached else math.inf
        for power in range(degree + 1):
            found[_coefficient(name, k, power)] = float(coefficients[k, power]) if is_reached else 0.0
    return found


def _coefficients(curve: Curve, interpolation: Interpolation) -> Float[np.ndarray, "knots powers"]:
    """Return the polynomial from every knot on, in powers of the time since; from the last knot on it is constant."""
    times, values = np.array(curve.times), np.array(curve.values)
    found = np.zeros((len(times), _DEGREES[interpolation] + 1))
    found[:, 0] = values
    if interpolation == "linear":
        found[:-1, 1] = np.diff(values) / np.diff(times)
    elif interpolation in ("cubic", "monotone"):
        from scipy.interpolate import CubicSpline, PchipInterpolator  # heavy, and few need them

        spline = (CubicSpline if interpolation == "cubic" else PchipInterpolator)(times, values)
        found[:-1] = spline.c[::-1].T
    return found
