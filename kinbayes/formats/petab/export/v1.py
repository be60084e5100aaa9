"""A problem as tables of PEtab version 1."""

import functools
import math
import sys
from collections.abc import Mapping

import numpy as np

from kinbayes.formats.petab.export.changes import start_changes
from kinbayes.formats.petab.export.names import Names
from kinbayes.formats.petab.export.parts import Parts
from kinbayes.formats.petab.export.tables import Line, Tables, lines, measured, number_cell, without_empty
from kinbayes.formats.petab.formula import InexpressibleError, petab_formula, renamed
from kinbayes.model.expressions import Expr
from kinbayes.problem.observables import Experiment, Measurement, Observable
from kinbayes.problem.parameters import Parameter, natural, scaled
from kinbayes.problem.priors import Laplace, LogLaplace, LogNormal, LogUniform, Normal, Uniform

_SCALES = {"lin": "lin", "ln": "log", "log10": "log10"}
_PRIORS = {Uniform: "uniform", Normal: "normal", Laplace: "laplace", LogNormal: "logNormal", LogLaplace: "logLaplace"}
_ON_SCALE = {
    Uniform: "parameterScaleUniform",
    Normal: "parameterScaleNormal",
    Laplace: "parameterScaleLaplace",
}
_NOISES = ("normal", "laplace")


def tables_v1(problem: Parts, names: Names) -> tuple[Tables, list[str]]:
    """Return the tables of a problem, and what of it version 1 cannot express.

    Parameters
    ----------
    problem
        Its parts.
    names
        What its parts are called.
    """
    reasons: list[str] = []
    before: dict[str, set[str]] = {}
    for m in problem.measurements:
        if m.preequilibration:
            before.setdefault(m.experiment, set()).add(m.preequilibration)
    changes = {e.name: start_changes(problem, e) for e in problem.experiments}
    targets = dict.fromkeys([*(name for own in changes.values() for name in own), *names.defaults])
    condition = functools.partial(_condition, problem, names, before, changes, tuple(targets))
    parameters = lines(functools.partial(_parameter, names), problem.parameters, reasons)
    observables = lines(functools.partial(_observable, names), problem.observables, reasons)
    measurements = lines(functools.partial(_measurement, names), problem.measurements, reasons)
    return {
        "parameters": without_empty(
            parameters, ("parameterName", "objectivePriorType", "objectivePriorParameters", "nominalValue")
        ),
        "conditions": lines(condition, problem.experiments, reasons),
        "observables": without_empty(observables, ("observableName",)),
        "measurements": without_empty(
            measurements,
            ("preequilibrationConditionId", "observableParameters", "noiseParameters", "censoring"),
        ),
    }, list(dict.fromkeys(reasons))


# ---- parameters


def _parameter(names: Names, parameter: Parameter) -> Line:
    id_ = names.parameters[parameter.name]
    prior, settings = _prior(parameter) if parameter.estimate else ("", ())
    lower, upper = _bounds(parameter) if parameter.estimate else (parameter.lower, parameter.upper)
    return {
        "parameterId": id_,
        "parameterName": parameter.name if parameter.name != id_ else "",
        "parameterScale": _SCALES[parameter.scale],
        "lowerBound": number_cell(lower),
        "upperBound": number_cell(upper),
        "nominalValue": number_cell(parameter.nominal),
        "estimate": "1" if parameter.estimate else "0",
        "objectivePriorType": prior,
        "objectivePriorParameters": ";".join(map(number_cell, settings)),
    }


def _bounds(parameter: Parameter) -> tuple[float, float]:
    lower, upper = parameter.bounds
    if parameter.scale == "lin" or lower > 0:
        return lower, upper
    if parameter.prior is None:
        raise InexpressibleError(
            f"parameter {parameter.name!r} moves on the scale {parameter.scale!r} without a lower bound or a prior"
        )
    # An estimated parameter needs a number here, and on a logarithm one above 0. No prior has mass below this one.
    return sys.float_info.min, upper


def _prior(parameter: Parameter) -> tuple[str, tuple[float, ...]]:
    prior, is_log = parameter.prior, parameter.scale != "lin"
    if prior is None:
        return "", ()
    kind = type(prior)
    if kind is LogUniform and is_log:
        return _ON_SCALE[Uniform], _scaled_range(prior.low, prior.high, parameter.scale)
    found = (_ON_SCALE if prior.on == "scaled" and is_log else _PRIORS).get(kind)
    if found is None:
        on = f"on the scale {parameter.scale!r}" if is_log else "on a linear scale"
        raise InexpressibleError(f"parameter {parameter.name!r} has a prior that is {kind.__name__}, {on}")
    return found, prior.settings


def _scaled_range(low: float, high: float, scale: str) -> tuple[float, float]:
    """Return the range on a scale, in which natural values from `low` to `high` lie despite rounding."""
    first, last = scaled(np.array([[low], [high]], dtype=float), (scale,))[:, 0]
    while natural(np.array([first]), (scale,))[0] > low:
        first = np.nextafter(first, -math.inf)
    while natural(np.array([last]), (scale,))[0] < high:
        last = np.nextafter(last, math.inf)
    return float(first), float(last)


# ---- conditions


def _condition(
    problem: Parts,
    names: Names,
    before: Mapping[str, set[str]],
    changes: Mapping[str, Mapping[str, Expr]],
    targets: tuple[str, ...],
    experiment: Experiment,
) -> Line:
    if experiment.start != 0:
        raise InexpressibleError(f"experiment {experiment.name!r} begins at time {experiment.start}, not at 0")
    if experiment.periods:
        raise InexpressibleError(f"experiment {experiment.name!r} has periods")
    own, cells = changes[experiment.name], {}
    for name in targets:
        if name in own:
            cell = _value_cell(names, experiment, name, own[name])
        elif name in problem.model.derivatives:
            cell = ""  # the start that the model gives it, or after a pre-equilibration its steady state
        elif name in names.parameters:
            cell = names.parameters[name]
        else:
            # What other experiments set needs a value here. The model has it as a number, or as a formula.
            start = problem.model.initial[name]
            cell = number_cell(start.value) if start.op == "const" else ""
            if not cell and any(name in changes[other] for other in before.get(experiment.name, ())):
                raise InexpressibleError(
                    f"experiment {experiment.name!r} leaves {name!r} to a formula of the model, after a "
                    "pre-equilibration that sets it"
                )
        cells[names.in_model[name]] = cell
    return {"conditionId": names.experiments[experiment.name], **cells}


def _value_cell(names: Names, experiment: Experiment, name: str, value: Expr) -> str:
    if value.op == "const":
        return number_cell(value.value)
    if value.op == "symbol" and value.value in names.parameters:
        return names.parameters[value.value]
    text = f"experiment {experiment.name!r} sets {name!r} to {value}, neither a number nor a parameter"
    raise InexpressibleError(text)


# ---- observables and measurements


def _observable(names: Names, observable: Observable) -> Line:
    noise = observable.noise
    if noise.family not in _NOISES:
        raise InexpressibleError(f"observable {observable.name!r} has {noise.family} noise")
    id_ = names.observables[observable.name]
    formula = petab_formula(names.formula(observable, observable.formula))
    deviation = petab_formula(names.formula(observable, noise.formulas[0]))
    if observable.name not in names.model.initial:
        deviation = renamed(deviation, {id_: f"({formula})"})  # version 1 does not know observables there
    return {
        "observableId": id_,
        "observableName": " ".join(observable.label.split()),
        "observableFormula": formula,
        "observableTransformation": noise.transformation,
        "noiseFormula": deviation,
        "noiseDistribution": noise.family,
    }


def _measurement(names: Names, measurement: Measurement) -> Line:
    before = measurement.preequilibration
    return {
        "observableId": names.observables[measurement.observable],
        "preequilibrationConditionId": names.experiments[before] if before else "",
        "simulationConditionId": names.experiments[measurement.experiment],
        **measured(names, measurement),
    }
