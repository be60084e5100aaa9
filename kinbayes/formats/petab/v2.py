"""PEtab version 2: from the tables of a YAML file to a problem."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kinbayes.formats.files import shown
from kinbayes.formats.petab.experiments import conditions_of, experiments_of, in_version_1
from kinbayes.formats.petab.files import file_paths, mapping, required, table_rows, unique
from kinbayes.formats.petab.measured import check_measurement, constants, fillings, own_name, problem_with
from kinbayes.formats.petab.table import PEtabError, Row, UnsupportedPEtabError, number
from kinbayes.formats.sbml.reader import read_sbml
from kinbayes.model.expressions import substitute, symbol
from kinbayes.model.model import Model
from kinbayes.problem.noise import Noise
from kinbayes.problem.observables import Observable
from kinbayes.problem.parameters import Parameter, ParameterError
from kinbayes.problem.priors import (
    Cauchy,
    ChiSquare,
    Exponential,
    Gamma,
    Laplace,
    LogLaplace,
    LogNormal,
    LogUniform,
    Normal,
    Prior,
    Rayleigh,
    Uniform,
)
from kinbayes.problem.problem import Problem

# With the number of settings that each takes.
_PRIORS: dict[str, tuple[Callable[..., Prior], int]] = {
    "cauchy": (Cauchy, 2),
    "chisquare": (ChiSquare, 1),
    "exponential": (Exponential, 1),
    "gamma": (Gamma, 2),
    "laplace": (Laplace, 2),
    "log-laplace": (LogLaplace, 2),
    "log-normal": (LogNormal, 2),
    "log-uniform": (LogUniform, 2),
    "normal": (Normal, 2),
    "rayleigh": (Rayleigh, 1),
    "uniform": (Uniform, 2),
}
_NOISES = {
    "normal": ("normal", "lin"),
    "laplace": ("laplace", "lin"),
    "log-normal": ("normal", "log"),
    "log-laplace": ("laplace", "log"),
}


def problem_of(path: Path, content: dict, make: Callable[..., Problem]) -> Problem:
    """Return the problem of a YAML file's content; `make` is `Problem` with its settings.

    Raises
    ------
    FileNotFoundError, PEtabError, SBMLError
        As `read_petab` says.
    """
    files = _files(path, content)
    model = _renamed(read_sbml(files.model), table_rows(files.mappings, ("petabEntityId", "modelEntityId")))
    parameters = unique("parameterId", map(_parameter, table_rows(files.parameters, _PARAMETER_COLUMNS)))
    observables = unique("observableId", map(_observable, table_rows(files.observables, _OBSERVABLE_COLUMNS)))
    observables = _inlined(observables)
    values = {**constants(model), **{name: p.nominal for name, (_, p) in parameters.items()}}
    known = {"time", *values, *model.initial, *model.expressions}
    expected = {name: fillings(row, o, known) for name, (row, o) in observables.items()}
    conditions = conditions_of(table_rows(files.conditions, ("conditionId", "targetId", "targetValue")), parameters)
    measured = table_rows(files.measurements, ("observableId", "time", "measurement"))
    if not measured:
        raise PEtabError(f"{files.measurements[0]}: there are no measurements")
    for row in measured:
        check_measurement(row, expected, values)
    rows = table_rows(files.experiments, ("experimentId", "time", "conditionId"))
    has_plain = not all(row["experimentId"] for row in measured)
    experiments = experiments_of(rows, conditions, model, values, parameters, has_plain=has_plain)
    return problem_with(
        path,
        model,
        [p for _, p in parameters.values()],
        [o for _, o in observables.values()],
        experiments.all,
        [in_version_1(row, experiments) for row in measured],
        values,
        make,
    )


# ---- files


class _Files(NamedTuple):
    model: Path
    parameters: list[Path]
    conditions: list[Path]
    experiments: list[Path]
    observables: list[Path]
    measurements: list[Path]
    mappings: list[Path]


def _files(path: Path, content: dict) -> _Files:
    if content.get("extensions"):
        raise UnsupportedPEtabError(f"{path}: extensions are not supported: {shown(content['extensions'])}")
    models = mapping(path, required(path, content, "model_files"), "'model_files'")
    if len(models) != 1:
        raise UnsupportedPEtabError(f"{path}: it has {len(models)} models; only one is supported")
    model = mapping(path, next(iter(models.values())), "the model")
    if str(model.get("language")).lower() != "sbml":
        raise UnsupportedPEtabError(f"{path}: the model's language is {shown(model.get('language'))}, not sbml")

    def optional(key: str) -> list[Path]:
        return file_paths(path, content, key) if content.get(key) else []

    return _Files(
        file_paths(path, model, "location")[0],
        file_paths(path, content, "parameter_files"),
        optional("condition_files"),
        optional("experiment_files"),
        file_paths(path, content, "observable_files"),
        file_paths(path, content, "measurement_files"),
        optional("mapping_files"),
    )


def _renamed(model: Model, rows: Sequence[Row]) -> Model:
    """Return a model in which what a mapping table gives another name has that."""
    names: dict[str, str] = {}
    known = {*model.initial, *model.expressions}
    for row in rows:
        new, old = row.identifier("petabEntityId"), row["modelEntityId"]
        if old in ("", new):
            continue  # a remark
        if old not in known:
            raise row.error("modelEntityId", f"the model has no {old!r}")
        if new in known or new in names.values() or old in names:
            raise row.error("petabEntityId", f"{new!r} names something else, or {old!r} has another name already")
        names[old] = new
    if not names:
        return model
    replaced = {old: symbol(new) for old, new in names.items()}

    def renamed(formulas: Mapping) -> dict:
        keys = [names.get(name, name) for name in formulas]
        return dict(zip(keys, substitute(list(formulas.values()), replaced), strict=True))

    events = []
    for event in model.events:
        assignments = tuple((names.get(target, target), value) for target, value in event.assignments)
        events.append(event._replace(assignments=assignments).substituted(replaced))
    units = {names.get(name, name): unit for name, unit in model.units.items()}
    parts = (model.derivatives, model.initial, model.expressions)
    return Model(model.name, *map(renamed, parts), units, tuple(events))


# ---- parameters

_PARAMETER_COLUMNS = ("parameterId", "lowerBound", "upperBound", "nominalValue", "estimate")
_YES, _NO = ("true", "True", "TRUE", "1"), ("false", "False", "FALSE", "0")


def _parameter(row: Row) -> tuple[Row, Parameter]:
    name = own_name(row, "parameterId")
    nominal = row.number("nominalValue") if row["nominalValue"] else None
    if row.choice("estimate", (*_YES, *_NO)) in _NO:
        if nominal is None:
            raise row.error("nominalValue", f"{name!r} is not estimated, so it needs a value")
        return row, Parameter(name, nominal=nominal, estimate=False)
    prior = _prior(row)
    bounds = [row.number(column) if row[column] else None for column in ("lowerBound", "upperBound")]
    for column, bound in zip(("lowerBound", "upperBound"), bounds, strict=True):
        if prior is None and bound is None:
            raise row.error(column, f"{name!r} is estimated and has no prior, so it needs this bound")
    lower, upper = bounds
    is_positive = isinstance(prior, LogUniform | LogNormal | LogLaplace)
    if is_positive and lower is not None and lower <= 0:
        lower = None  # as the prior has it; on a logarithmic scale no bound is the same as 0
    try:
        return row, Parameter(name, prior, lower=lower, upper=upper, nominal=nominal)
    except ParameterError as error:
        raise PEtabError(f"{row.place}: {error}") from error


def _prior(row: Row) -> Prior | None:
    settings = row.parts("priorParameters")
    if not row["priorDistribution"]:
        if settings:
            raise row.error("priorDistribution", "it is empty, but priorParameters are given; state a distribution")
        return None
    family, count = _PRIORS[row.choice("priorDistribution", _PRIORS)]
    values = [number(text) for text in settings]
    if len(values) != count or any(map(math.isnan, values)):
        text = f"{row['priorDistribution']!r} takes {count} number(s), separated by ;, not {row['priorParameters']!r}"
        raise row.error("priorParameters", text)
    try:
        return family(*values)
    except ValueError as error:
        raise row.error("priorParameters", str(error)) from error


# ---- observables

_OBSERVABLE_COLUMNS = ("observableId", "observableFormula", "noiseFormula")
_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*")
_PLACEHOLDER = re.compile(r"(observable|noise)Parameter\d+_\w+")
_LONGEST = 100_000  # characters of a formula with the observables that it names written out
_DEEPEST = 100  # observables that name one another in a row


def _observable(row: Row) -> tuple[Row, Observable]:
    name = own_name(row, "observableId")
    family, transformation = _NOISES[row.choice("noiseDistribution", _NOISES, "normal")]
    filled: dict[str, str] = {}
    for column, kind in (("observablePlaceholders", "observableParameter"), ("noisePlaceholders", "noiseParameter")):
        for k, own in enumerate(row.parts(column), start=1):
            if not _NAME.fullmatch(own) or own in filled:
                raise row.error(column, f"{shown(own)} is no id, or stands here twice")
            filled[own] = f"{kind}{k}_{name}"
    prediction, deviation = (
        _NAME.sub(lambda found: filled.get(found[0], found[0]), row[column])
        for column in ("observableFormula", "noiseFormula")
    )
    used = {*_NAME.findall(prediction), *_NAME.findall(deviation)}
    for kind in ("observable", "noise"):
        # One that no formula uses still has its place in the measurements.
        own = [new for new in filled.values() if new.startswith(kind)]
        if own and own[-1] not in used:
            raise row.error(f"{kind}Placeholders", f"the last one is in no formula of {name!r}; use or remove it")
    return row, Observable(name, prediction, Noise(family, (deviation,), transformation), label=row["observableName"])


def _inlined(observables: Mapping[str, tuple[Row, Observable]]) -> dict[str, tuple[Row, Observable]]:
    """Return observables whose formulas name no other one: it is written out."""
    done: dict[str, str] = {}

    def prediction(name: str, path: tuple[str, ...]) -> str:
        row, observable = observables[name]
        if name in path:
            raise row.error("observableFormula", f"the formulas of {sorted(path)} form a circle")
        if len(path) == _DEEPEST:
            raise row.error("observableFormula", f"more than {_DEEPEST} observables name one another in a row")
        if name not in done:
            done[name] = written_out(row, "observableFormula", observable.formula, name, (*path, name))
        return done[name]

    def written_out(row: Row, column: str, text: str, own: str, path: tuple[str, ...]) -> str:
        others = [n for n in dict.fromkeys(_NAME.findall(text)) if n in observables and n != own]
        known = {}
        for other in others:
            known[other] = f"({prediction(other, path)})"
            if any(map(_PLACEHOLDER.fullmatch, _NAME.findall(known[other]))):
                raise row.error(column, f"{other!r} has placeholders, so another formula cannot name it")
        text = _NAME.sub(lambda found: known.get(found[0], found[0]), text)
        if len(text) > _LONGEST:
            raise row.error(column, f"written out it has more than {_LONGEST:,} characters")
        return text

    found = {}
    for name, (row, observable) in observables.items():
        noise = observable.noise
        deviation = written_out(row, "noiseFormula", noise.formulas[0], name, ())
        noise = Noise(noise.family, (deviation,), noise.transformation)
        found[name] = (row, Observable(name, prediction(name, ()), noise, label=observable.label))
    return found
