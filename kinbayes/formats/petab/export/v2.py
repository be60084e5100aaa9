"""A problem as tables of PEtab version 2."""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from kinbayes.formats.petab.export.changes import later_changes, start_changes
from kinbayes.formats.petab.export.names import Names, all_placeholders
from kinbayes.formats.petab.export.parts import Parts
from kinbayes.formats.petab.export.tables import Line, Tables, lines, measured, number_cell, without_empty
from kinbayes.formats.petab.formula import InexpressibleError, expression_text, petab_formula, renamed
from kinbayes.formats.petab.table import number
from kinbayes.formats.sbml.writer import free_id
from kinbayes.model.expressions import Expr, const, substitute, symbol
from kinbayes.model.formula import parse
from kinbayes.problem import priors
from kinbayes.problem.layout import Lane, lane_of
from kinbayes.problem.observables import Experiment, Measurement, Observable
from kinbayes.problem.parameters import LOG_FACTORS, Parameter, natural

_PRIORS = {
    priors.Uniform: "uniform",
    priors.LogUniform: "log-uniform",
    priors.Normal: "normal",
    priors.LogNormal: "log-normal",
    priors.Laplace: "laplace",
    priors.LogLaplace: "log-laplace",
    priors.Cauchy: "cauchy",
    priors.Gamma: "gamma",
    priors.ChiSquare: "chisquare",
    priors.Exponential: "exponential",
    priors.Rayleigh: "rayleigh",
}
_OF_LOGARITHM = {priors.Normal: "log-normal", priors.Laplace: "log-laplace"}
_NOISES = {
    ("normal", False): "normal",
    ("normal", True): "log-normal",
    ("laplace", False): "laplace",
    ("laplace", True): "log-laplace",
}


def tables_v2(problem: Parts, names: Names) -> tuple[Tables, list[str]]:
    """Return the tables of a problem, and what of it version 2 cannot express.

    Parameters
    ----------
    problem
        Its parts.
    names
        What its parts are called.
    """
    reasons: list[str] = []
    lanes = _lanes(problem, names)
    conditions = _Conditions({}, set(names.taken))
    experiments: list[Line] = []
    for lane, id_ in lanes.items():
        try:
            experiments += [
                {"experimentId": id_, "time": number_cell(time), "conditionId": conditions.id_of(word, changes)}
                for time, word, changes in _periods(problem, names, lane)
            ]
        except InexpressibleError as error:
            reasons.append(str(error))
    parameters = lines(functools.partial(_parameter, names), problem.parameters, reasons)
    observables = lines(functools.partial(_observable, names), problem.observables, reasons)
    measurements = lines(functools.partial(_measurement, names, lanes), problem.measurements, reasons)
    return {
        "parameters": without_empty(
            parameters,
            ("parameterName", "nominalValue", "priorDistribution", "priorParameters"),
        ),
        "conditions": [
            {"conditionId": id_, "targetId": target, "targetValue": value}
            for changes, id_ in conditions.ids.items()
            for target, value in changes
        ],
        "experiments": experiments,
        "observables": without_empty(observables, ("observableName", "observablePlaceholders", "noisePlaceholders")),
        "measurements": without_empty(measurements, ("observableParameters", "noiseParameters", "censoring")),
    }, list(dict.fromkeys(reasons))


# ---- parameters


def _parameter(names: Names, parameter: Parameter) -> Line:
    id_ = names.parameters[parameter.name]
    prior, settings = _prior(parameter) if parameter.estimate else ("", ())
    lower, upper = parameter.bounds if parameter.estimate else (parameter.lower, parameter.upper)
    return {
        "parameterId": id_,
        "parameterName": parameter.name if parameter.name != id_ else "",
        "lowerBound": number_cell(lower),
        "upperBound": number_cell(upper),
        "nominalValue": number_cell(parameter.nominal),
        "estimate": "true" if parameter.estimate else "false",
        "priorDistribution": prior,
        "priorParameters": ";".join(map(number_cell, settings)),
    }


def _prior(parameter: Parameter) -> tuple[str, tuple[float, ...]]:
    """Return the prior on natural values."""
    prior, is_log = parameter.effective_prior, parameter.scale != "lin"
    if prior is None and is_log:
        raise InexpressibleError(f"parameter {parameter.name!r} has a prior that is uniform on an unbounded logarithm")
    if prior is None or (parameter.is_assumed and not is_log):
        return "", ()  # uniform between the bounds
    if prior.on == "natural" or not is_log:
        return _family(parameter, prior), prior.settings
    if isinstance(prior, priors.Uniform):
        low, high = (float(natural(np.array([end], dtype=float), (parameter.scale,))[0]) for end in prior.settings)
        # Rounding must not cut off what the bounds allow.
        return "log-uniform", (min(low, parameter.bounds[0]), max(high, parameter.bounds[1]))
    if type(prior) not in _OF_LOGARITHM:
        raise InexpressibleError(
            f"parameter {parameter.name!r} has a prior that is {type(prior).__name__} on the scale {parameter.scale!r}"
        )
    factor = LOG_FACTORS[parameter.scale]
    return _OF_LOGARITHM[type(prior)], tuple(factor * value for value in prior.settings)


def _family(parameter: Parameter, prior: priors.Prior) -> str:
    if isinstance(prior, priors.ChiSquare) and not float(prior.degrees_of_freedom).is_integer():
        text = f"has a chi-square prior with {prior.degrees_of_freedom} degrees of freedom, which is no whole number"
        raise InexpressibleError(f"parameter {parameter.name!r} {text}")
    if type(prior) not in _PRIORS:
        raise InexpressibleError(f"parameter {parameter.name!r} has a prior that is {type(prior).__name__}")
    return _PRIORS[type(prior)]


# ---- experiments


def _lanes(problem: Parts, names: Names) -> dict[Lane, str]:
    """Return the ids of experiments, which begin with their pre-equilibrations here.

    Those without measurements that leave the model as it is have nothing to say.
    """
    lanes = dict.fromkeys(map(lane_of, problem.measurements))
    seen = {name for lane in lanes for name in lane}
    others = [Lane(e.name, "") for e in problem.experiments if e.name not in seen and e != Experiment(e.name)]
    rank = {name: k for k, name in enumerate(["", *names.experiments])}
    ids: dict[Lane, str] = {}
    used, first = set(names.taken), set()
    for lane in sorted((*lanes, *others), key=lambda lane: tuple(rank[name] for name in lane)):
        ids[lane] = names.experiments[lane.experiment]
        if lane.experiment in first:
            ids[lane] = free_id(f"{ids[lane]}_after_{names.experiments[lane.preequilibration]}", used)
        first.add(lane.experiment)
        used.add(ids[lane])
    return ids


class _Conditions(NamedTuple):
    """The conditions so far: their changes, and their ids."""

    ids: dict[tuple[tuple[str, str], ...], str]
    used: set[str]

    def id_of(self, word: str, changes: Mapping[str, str]) -> str:
        """Return the id of a condition, which is made where there is none; without changes there is none."""
        key = tuple(changes.items())
        if key and key not in self.ids:
            self.ids[key] = free_id(word, self.used)
            self.used.add(self.ids[key])
        return self.ids.get(key, "")


def _periods(problem: Parts, names: Names, lane: Lane) -> Iterator[tuple[float, str, dict[str, str]]]:
    """Return the start, a word for an id, and the changes of every period."""
    named = {e.name: e for e in problem.experiments}
    experiment, before = named[lane.experiment], named.get(lane.preequilibration)
    changes, periods = _first_changes(problem, names, experiment), list(experiment.periods)
    if before is not None:
        rest = _first_changes(problem, names, before)
        yield -math.inf, f"condition_{names.experiments[before.name]}", rest
        changes |= _resets(problem, names, before, experiment)
        # What was set for the rest holds on, but states moved away from it.
        states = {names.in_model[state] for state in problem.model.states}
        changes = {target: v for target, v in changes.items() if target in states or rest.get(target) != v}
    if periods and periods[0].start == experiment.start:
        if before is None or changes:
            raise InexpressibleError(f"experiment {experiment.name!r} has a period at its start, {experiment.start}")
        changes = later_changes(problem, names, periods.pop(0))
    word = f"condition_{names.experiments[experiment.name]}"
    yield experiment.start, word, changes
    for k, period in enumerate(periods, start=1):
        yield period.start, f"{word}_{k}", later_changes(problem, names, period)


def _first_changes(problem: Parts, names: Names, experiment: Experiment) -> dict[str, str]:
    """Return what an experiment sets, where only numbers and the table of parameters are known."""
    ids = {name: symbol(id_) for name, id_ in names.parameters.items()}
    found = {}
    for name, value in start_changes(problem, experiment).items():
        text = experiment.values.get(name)
        is_kept = isinstance(text, str) and text not in names.parameters and math.isnan(number(text))
        if is_kept and parse(text).symbols <= names.parameters.keys() - experiment.given:
            found[names.in_model[name]] = petab_formula(renamed(text, names.parameters))
        else:
            found[names.in_model[name]] = _text(substitute([value], ids)[0])
    return {**found, **{names.in_model[n]: names.parameters[n] for n in names.defaults if n not in experiment.given}}


def _text(value: Expr) -> str:
    return number_cell(value.value) if value.op == "const" else expression_text(value)


def _resets(problem: Parts, names: Names, before: Experiment, after: Experiment) -> dict[str, str]:
    """Return what parameters of the model become again that neither experiment sets but the first one changed.

    A condition stays until another one replaces it. Here an experiment begins from the model, its states aside.
    """
    model = problem.model
    values = {**{n: symbol(n) for n in names.parameters if n in model.initial}, **start_changes(problem, after)}
    changed = {*start_changes(problem, before), *start_changes(problem, after)}
    depending = model.initial_values(sorted({*values, *changed}))
    definitions = model.initial_values(sorted(values))
    ids = {name: symbol(id_) for name, id_ in names.parameters.items()}
    resets = {}
    for name in model.parameters:
        if name not in values and (name in changed or depending[name].symbols & changed):
            value = substitute([definitions[name]], {**values, "time": const(after.start)})[0]
            resets[names.in_model[name]] = _text(substitute([value], ids)[0])
    return resets


# ---- observables and measurements


def _observable(names: Names, observable: Observable) -> Line:
    noise = observable.noise
    distribution = _NOISES.get((noise.family, noise.transformation != "lin"))
    if distribution is None:
        raise InexpressibleError(f"observable {observable.name!r} has {noise.family} noise")
    id_ = names.observables[observable.name]
    deviation = petab_formula(names.formula(observable, noise.formulas[0]))
    if noise.transformation == "log10":  # there is the natural logarithm only
        deviation = f"({deviation}) * {math.log(10)!r}"
    filled = [f"{p.removesuffix(observable.name)}{id_}" for p in all_placeholders(observable)]
    return {
        "observableId": id_,
        "observableName": " ".join(observable.label.split()),
        "observableFormula": petab_formula(names.formula(observable, observable.formula)),
        "noiseFormula": deviation,
        "noiseDistribution": distribution,
        "observablePlaceholders": ";".join(p for p in filled if p.startswith("observableParameter")),
        "noisePlaceholders": ";".join(p for p in filled if p.startswith("noiseParameter")),
    }


def _measurement(names: Names, lanes: Mapping[Lane, str], measurement: Measurement) -> Line:
    ids = {"observableId": names.observables[measurement.observable], "experimentId": lanes[lane_of(measurement)]}
    return {**ids, **measured(names, measurement)}
