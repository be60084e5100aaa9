"""What a result says of its problem: parameters, measurements, and the attributes every run has."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from kinbayes.problem.parameters import Parameter
from kinbayes.problem.problem import Problem
from kinbayes.results.attributes import environment
from kinbayes.results.store import MeasurementTable, ParameterTable

MEASURE = "densities with respect to the scaled parameters (each on its own scale)"


def parameter_table(problem: Problem) -> ParameterTable:
    """Return names, scales, units and priors of the estimated parameters."""
    estimated = problem.estimated
    return ParameterTable(
        problem.parameter_names,
        problem.scale,
        [p.unit for p in estimated],
        [prior_text(p) for p in estimated],
    )


def prior_text(parameter: Parameter) -> str:
    """Return a parameter's prior in words: family, settings, scale, and the bounds where they cut it."""
    prior = parameter.effective_prior
    if prior is None:
        return "improper: none, between open bounds"
    settings = ", ".join(
        f"{field.name}={getattr(prior, field.name):.6g}" for field in dataclasses.fields(prior) if field.name != "on"
    )
    where = f" on the {parameter.scale} scale" if prior.on == "scaled" else ""
    assumed = ", assumed: none was stated" if parameter.is_assumed else ""
    support = prior.support
    low, high = parameter.prior_bounds
    cut = f", cut to [{low:.6g}, {high:.6g}]" if low > support[0] or high < support[1] else ""
    return f"{type(prior).__name__}({settings}){where}{cut}{assumed}"


def measurement_table(problem: Problem) -> MeasurementTable:
    """Return the measurements, column by column."""
    rows = problem.measurements
    return MeasurementTable(
        [m.observable for m in rows],
        [m.experiment for m in rows],
        np.array([m.time for m in rows]),
        np.array([m.value for m in rows]),
        labels={o.name: o.label for o in problem.observables if o.label},
        time_unit=problem.model.units.get("time", ""),
        censoring=[m.censoring for m in rows] if any(m.censoring for m in rows) else (),
    )


def attributes(
    problem: Problem,
    *,
    algorithm: str,
    settings: Mapping[str, object],
    seed: int,
    wall_time: float | None,
    simulations: int | None,
) -> dict[str, object]:
    """Return the root attributes that every run has; time and simulations are None while it goes on."""
    assumed = [p.name for p in problem.estimated if p.is_assumed]
    return {
        "problem": problem.name,
        "problem_hash": problem.hash,
        "algorithm": algorithm,
        "settings": dict(settings),
        "seed": seed,
        "measure": MEASURE,
        "assumed_priors": assumed,  # uniform on the scale between the bounds, since none was stated
        "rtol": problem.rtol,
        "atol": problem.atol,
        "engine": problem.engine,
        "wall_time": wall_time,
        "simulations": simulations,
        **environment(),
    }
