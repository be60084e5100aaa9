"""What a likelihood computes, as expressions: the start of every lane, and the log density of a measurement."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from kinbayes.model.expressions import ZERO, Expr, apply, substitute, symbol, where
from kinbayes.model.formula import FormulaError, parse
from kinbayes.model.model import Model, ModelError
from kinbayes.problem.families import MEAN, MEASUREMENT
from kinbayes.problem.layout import Slots
from kinbayes.problem.observables import Measurement, Observable
from kinbayes.problem.periods import clock

CENSORING = "its censoring"  # a symbol; no file can use this name
MOST_SETTINGS = 2  # of any noise family
_MOST_PLACEHOLDERS = 999  # of an observable


class Rows(NamedTuple):
    """What parameter vectors predict, measurement by measurement in the order of the data."""

    simulated: Float[Array | np.ndarray, "*batch measurements"]
    noise: Float[Array | np.ndarray, "*batch measurements settings"]
    log_density: Float[Array | np.ndarray, "*batch measurements"]
    status: Int[Array | np.ndarray, "*batch lanes"]


class RowDerivatives(NamedTuple):
    """Derivatives of the parts of `Rows` with respect to the scaled vector; zeros where a simulation fails."""

    simulated: Float[Array | np.ndarray, "*batch measurements dim"]
    noise: Float[Array | np.ndarray, "*batch measurements settings dim"]
    log_density: Float[Array | np.ndarray, "*batch measurements dim"]


class Declaration(NamedTuple):
    """What the structure of a likelihood knows of a parameter: not its value, bounds or prior."""

    name: str
    scale: str
    is_estimated: bool


class Row(NamedTuple):
    """The formulas of one observable, in the names of the model, `extra`, the placeholders and `row_constants`."""

    log_density: Expr
    prediction: Expr
    settings: tuple[Expr, ...]  # of the noise


class Likelihood(NamedTuple):
    """A likelihood as expressions.

    Attributes
    ----------
    model
        The model.
    scales
        The scale of every estimated parameter.
    slots
        Where numbers go.
    extra
        The inputs that only formulas of observables use.
    start
        The start of every state and the value of every parameter of the model, in the symbols of `start_inputs`.
    rows
        The formulas of every observable.
    row_constants
        The symbols of the numbers that every measurement brings: its time, `MEASUREMENT`, and where measurements may be
        censored `CENSORING`, -1, 0 or 1 as in `RowData`.
    """

    model: Model
    scales: tuple[str, ...]
    slots: Slots
    extra: tuple[str, ...]
    start: Mapping[str, Expr]
    rows: tuple[Row, ...]
    row_constants: tuple[str, ...]

    @property
    def start_inputs(self) -> tuple[str, ...]:
        """The symbols of the inputs, in their order, then those that tell whether the sometimes given are given."""
        sometimes = {name: self.model.given_names(name) for name in self.slots.sometimes}
        inputs = [sometimes[n][1] if n in sometimes else n for n in self.slots.inputs]
        return (*inputs, *(is_given for is_given, _ in sometimes.values()))


def likelihood(
    model: Model,
    declarations: Sequence[Declaration],
    observables: Sequence[Observable],
    given: Sequence[frozenset[str]],
    *,
    is_censored: bool,
) -> Likelihood:
    """Return the expressions of a likelihood.

    Parameters
    ----------
    model, observables
        As given to `Problem`.
    declarations
        The parameters, in order.
    given
        One set an experiment: the names that it sets.
    is_censored
        Whether measurements may be censored.

    Raises
    ------
    ModelError
        If a parameter or a formula names what is nowhere defined.
    """
    formulas = [_formulas(model, o) for o in observables]
    own = {o.name: tuple(placeholders(o.name, f)) for o, f in zip(observables, formulas, strict=True)}
    declared = {d.name for d in declarations}
    _check_names(model, declared, formulas, own)
    plain = [name for name in model.parameters if model.initial[name].op == "const"]
    set_by_one = [n for n in model.initial if n in declared or any(n in names for names in given)]
    extra = tuple(sorted({s for f in formulas for e in f for s in e.symbols} & declared - set(model.initial)))
    slots = Slots(
        model,
        tuple(d.name for d in declarations if d.is_estimated),
        (*dict.fromkeys([*plain, *set_by_one]), *extra),
        # A definition that only some experiments replace is kept beside the value that replaces it.
        tuple(n for n in set_by_one if n not in declared and n not in plain and not all(n in names for names in given)),
        own,
    )
    always = [n for n in slots.inputs if n not in slots.sometimes and n not in extra]
    rows = []
    for observable, (prediction, *settings) in zip(observables, formulas, strict=True):
        noise = observable.noise
        density = noise.log_density(symbol(MEASUREMENT), prediction, *settings)
        if is_censored and noise.is_censorable:
            log_mass = noise.log_mass(symbol(CENSORING), symbol(MEASUREMENT), prediction, *settings)
            density = where(apply("eq", symbol(CENSORING), ZERO), density, log_mass)
        rows.append(Row(density, prediction, tuple(settings)))
    return Likelihood(
        model,
        tuple(d.scale for d in declarations if d.is_estimated),
        slots,
        extra,
        model.initial_values(always, slots.sometimes),
        tuple(rows),
        ("time", MEASUREMENT, CENSORING) if is_censored else ("time", MEASUREMENT),
    )


def refuse_steady_states(measurements: Sequence[Measurement]) -> None:
    """Refuse measurements of a steady state, or after one: the functions here know none.

    Raises
    ------
    ModelError
        If there is one.
    """
    for m in measurements:
        if m.preequilibration:
            raise ModelError(
                f"the JAX engine cannot pre-equilibrate the model under experiment {m.preequilibration!r}, as the data "
                f"of {m.experiment!r} ask for; use engine='native'"
            )
        if math.isinf(m.time):
            raise ModelError(
                f"the JAX engine cannot find the steady state at which {m.observable!r} was measured under experiment "
                f"{m.experiment!r}; use engine='native'"
            )


def _check_names(model: Model, declared: set[str], formulas: list, own: Mapping[str, Sequence[str]]) -> None:
    computed = sorted(declared & set(model.expressions))
    if computed:
        raise ModelError(f"parameters {computed} are computed by the model's own rules; remove them or the rules")
    for (observable, filled), formula in zip(own.items(), formulas, strict=True):
        known = declared | set(model.initial) | set(filled) | {"time", MEASUREMENT}
        unknown = sorted({s for e in formula for s in e.symbols} - known)
        if unknown:
            raise ModelError(
                f"observable {observable!r} uses {unknown}, defined neither in the model nor as a parameter"
            )


def _formulas(model: Model, observable: Observable) -> list[Expr]:
    """Return the observable's prediction and its noise settings, in states, parameters and placeholders."""
    try:
        prediction, *settings = map(formula_of, (observable.formula, *observable.noise.formulas))
    except FormulaError as error:
        raise FormulaError(f"observable {observable.name!r}: {error}") from error
    own: Mapping[str, Expr] = {} if observable.name in model.initial else {observable.name: prediction}
    formulas = substitute([prediction, *substitute(settings, own)], {"time": clock(model)})
    return substitute(formulas, model.expressions)


def formula_of(text: str) -> Expr:
    """Return the expression of an observable's formula, or the symbol of what every row brings itself.

    Raises
    ------
    FormulaError
        If the text is not a formula.
    """
    return symbol(text) if text in (MEASUREMENT, MEAN) else parse(text)


def placeholders(observable: str, formulas: Sequence[Expr]) -> list[str]:
    """Return the names in an observable's formulas that each measurement fills in, in order; `MEAN` comes last.

    Raises
    ------
    ModelError
        If their numbers go beyond 999.
    """
    found = {s for f in formulas for s in f.symbols}
    names = []
    for kind in ("observableParameter", "noiseParameter"):
        own = (
            s[len(kind) : -len(observable) - 1] for s in found if s.startswith(kind) and s.endswith(f"_{observable}")
        )
        numbers = [number for number in own if number.isdecimal()]
        if max(map(len, numbers), default=0) > len(str(_MOST_PLACEHOLDERS)):
            raise ModelError(
                f"observable {observable!r}: a measurement cannot fill in more than {_MOST_PLACEHOLDERS} values; "
                f"number those of {kind!r} from 1"
            )
        names += [f"{kind}{k}_{observable}" for k in range(1, max(map(int, numbers), default=0) + 1)]
    return [*names, MEAN] if MEAN in found else names
