"""Results of searches at given points, and small problems with closed forms, for tests of what is read off a mode."""

import arviz as az
import pandas as pd
import xarray as xr

import kinbayes as kb
from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.model.model import Model


def made(parameters, observed, measured, sd):
    """A problem of formulas of the parameters, each measured once with normal noise."""
    model = Model("made", {"A": parse("-A")}, {"A": const(1.0), **{p.name: const(1.0) for p in parameters}})
    pairs = enumerate(zip(observed, sd, strict=True))
    observables = [kb.Observable(f"y{k}", formula, kb.noise.normal(own)) for k, (formula, own) in pairs]
    rows = [(f"y{k}", 1.0, value) for k, value in enumerate(measured)]
    return kb.Problem(
        model, parameters, observables, pd.DataFrame(rows, columns=["observableId", "time", "measurement"])
    )


def mode_at(problem, **values):
    """A search's result that has a point as its only one."""
    known = values | {"log_density": float(problem.log_density(problem.to_scaled(values))), "converged": True}
    group = xr.Dataset({name: ("start", [value]) for name, value in known.items()}, {"start": [0]})
    return az.InferenceData(attrs={"problem_hash": problem.hash, "problem": problem.name}, map_estimate=group)
