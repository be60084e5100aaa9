"""PEtab version 1: from the tables of a YAML file to a problem.

References
----------
Schmiester et al. (2021), PEtab: Interoperable specification of parameter estimation problems in systems
biology. PLOS Computational Biology 17(1). doi:10.1371/journal.pcbi.1008646
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from kinbayes.formats.files import shown
from kinbayes.formats.petab.files import file_paths, mapping, required, table_rows, unique
from kinbayes.formats.petab.measured import check_measurement, constants, fillings, own_name, problem_with
from kinbayes.formats.petab.table import PEtabError, Row, UnsupportedPEtabError, number
from kinbayes.formats.sbml.reader import read_sbml
from kinbayes.model.model import Model
from kinbayes.problem.noise import TRANSFORMATIONS, Noise
from kinbayes.problem.observables import Experiment, Observable
from kinbayes.problem.parameters import Parameter, ParameterError
from kinbayes.problem.priors import Laplace, LogLaplace, LogNormal, Normal, Prior, Uniform
from kinbayes.problem.problem import Problem

_SCALES = {"lin": "lin", "log": "ln", "log10": "log10"}
_PRIORS: dict[str, Callable[[float, float], Prior]] = {
    "uniform": Uniform,
    "normal": Normal,
    "laplace": Laplace,
    "logNormal": LogNormal,
    "logLaplace": LogLaplace,
    "parameterScaleUniform": lambda low, high: Uniform(low, high, on="scaled"),
    "parameterScaleNormal": lambda mean, sd: Normal(mean, sd, on="scaled"),
    "parameterScaleLaplace": lambda location, scale: Laplace(location, scale, on="scaled"),
}
_NOISES = ("normal", "laplace")


def problem_of(path: Path, content: dict, make: Callable[..., Problem]) -> Problem:
    """Return the problem of a YAML file's content; `make` is `Problem` with its settings.

    Raises
    ------
    FileNotFoundError, PEtabError, SBMLError
        As `read_petab` says.
    """
    files = _files(path, content)
    model = read_sbml(files.model)
    parameters = unique("parameterId", map(_parameter, table_rows(files.parameters, _PARAMETER_COLUMNS)))
    observables = unique("observableId", map(_observable, table_rows(files.observables, _OBSERVABLE_COLUMNS)))
    for name in observables.keys() & parameters.keys():
        raise observables[name][0].error("observableId", f"{name!r} is a parameter, in {parameters[name][0].place}")
    values = {**constants(model), **{name: p.nominal for name, (_, p) in parameters.items()}}
    known = {"time", *values, *model.initial, *model.expressions}
    expected = {name: fillings(row, o, known) for name, (row, o) in observables.items()}
    conditions = table_rows(files.conditions, ("conditionId",))
    experiments = unique("conditionId", ((row, _experiment(row, model, values)) for row in conditions))
    measured = table_rows(files.measurements, _MEASUREMENT_COLUMNS)
    if not measured:
        raise PEtabError(f"{files.measurements[0]}: there are no measurements")
    for row in measured:
        check_measurement(row, expected, values)
        _check_preequilibration(row, experiments, model)
    return problem_with(
        path,
        model,
        [p for _, p in parameters.values()],
        [o for _, o in observables.values()],
        [e for _, e in experiments.values()],
        measured,
        values,
        make,
    )


# ---- files


class _Files(NamedTuple):
    model: Path
    parameters: list[Path]
    conditions: list[Path]
    observables: list[Path]
    measurements: list[Path]


def _files(path: Path, content: dict) -> _Files:
    if content.get("extensions"):
        raise UnsupportedPEtabError(f"{path}: extensions are not supported: {shown(content['extensions'])}")
    problems = required(path, content, "problems")
    if not isinstance(problems, list) or not problems:
        raise PEtabError(f"{path}: 'problems' is {shown(problems)}; it must be a list with one entry")
    if len(problems) > 1:
        raise UnsupportedPEtabError(f"{path}: it holds {len(problems)} problems; only one is supported")
    problem = mapping(path, problems[0], "the problem")
    models = file_paths(path, problem, "sbml_files")
    if len(models) > 1:
        raise UnsupportedPEtabError(f"{path}: it has {len(models)} SBML files; only one is supported")
    return _Files(
        models[0],
        file_paths(path, content, "parameter_file"),
        *(file_paths(path, problem, f"{kind}_files") for kind in ("condition", "observable", "measurement")),
    )


# ---- parameters

_PARAMETER_COLUMNS = ("parameterId", "parameterScale", "lowerBound", "upperBound", "estimate")


def _parameter(row: Row) -> tuple[Row, Parameter]:
    name = own_name(row, "parameterId")
    scale = _SCALES[row.choice("parameterScale", _SCALES)]
    nominal = row.number("nominalValue") if row["nominalValue"] else None
    if row["estimate"] not in ("0", "1"):
        raise row.error("estimate", f"{row['estimate']!r} is neither 0 nor 1")
    if row["estimate"] == "0":
        if nominal is None:
            raise row.error("nominalValue", f"{name!r} is not estimated, so it needs a value")
        return row, Parameter(name, scale=scale, nominal=nominal, estimate=False)
    prior = _prior(row)
    for column in ("lowerBound", "upperBound"):
        if prior is None and not row[column]:
            raise row.error(column, f"{name!r} is estimated and has no prior, so it needs this bound")
    lower, upper = (row.number(c) if row[c] else None for c in ("lowerBound", "upperBound"))
    try:
        return row, Parameter(name, prior, scale=scale, lower=lower, upper=upper, nominal=nominal)
    except ParameterError as error:
        raise PEtabError(f"{row.place}: {error}") from error


def _prior(row: Row) -> Prior | None:
    settings = row.parts("objectivePriorParameters")
    if not row["objectivePriorType"] and not settings:
        return None
    family = row.choice("objectivePriorType", _PRIORS, "parameterScaleUniform")
    if not settings and family == "parameterScaleUniform":
        return None  # between the bounds, which is what no prior means
    values = [number(text) for text in settings]
    if len(values) != 2 or any(map(math.isnan, values)):
        text = f"{family!r} takes two numbers, separated by ;, not {row['objectivePriorParameters']!r}"
        raise row.error("objectivePriorParameters", text)
    try:
        return _PRIORS[family](*values)
    except ValueError as error:
        raise row.error("objectivePriorParameters", str(error)) from error


# ---- observables

_OBSERVABLE_COLUMNS = ("observableId", "observableFormula", "noiseFormula")


def _observable(row: Row) -> tuple[Row, Observable]:
    family = row.choice("noiseDistribution", _NOISES, "normal")
    transformation = row.choice("observableTransformation", TRANSFORMATIONS, "lin")
    noise = Noise(family, (row["noiseFormula"],), transformation)
    return row, Observable(own_name(row, "observableId"), row["observableFormula"], noise)


# ---- conditions and measurements

_MEASUREMENT_COLUMNS = ("observableId", "simulationConditionId", "time", "measurement")


def _experiment(row: Row, model: Model, values: Mapping[str, float | None]) -> Experiment:
    given: dict[str, float | str] = {}
    for column, cell in row.cells.items():
        if column in ("conditionId", "conditionName"):
            continue
        if column not in model.initial:
            raise row.error(column, f"{column!r} is no species, compartment or parameter that can be set")
        # An empty cell, which is also how NaN is read, leaves the model as it is: its own start, or after a
        # pre-equilibration its steady state.
        if cell:
            given[column] = cell if cell in values else row.number(column)
    return Experiment(row.identifier("conditionId"), given)


def _check_preequilibration(row: Row, experiments: Mapping[str, tuple[Row, Experiment]], model: Model) -> None:
    """Refuse a condition that leaves open what its pre-equilibration sets; only a state has a steady state to keep."""
    before, after = (experiments.get(row[c]) for c in ("preequilibrationConditionId", "simulationConditionId"))
    if before is None or after is None:
        return  # no pre-equilibration, or a name that the table of measurements will be refused for
    for name in before[1].values:
        if name not in model.derivatives and name not in after[1].values:
            text = f"it is empty, but {before[1].name!r}, its pre-equilibration, sets {name!r}; give a value for both"
            raise after[0].error(name, text)
