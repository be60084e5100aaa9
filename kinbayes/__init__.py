"""Posteriors for kinetic ODE models.

Importing kinbayes switches JAX to 64-bit floats. Every public name is loaded on first use, so the import costs
little more than JAX itself.
"""

import gc
import importlib
from typing import TYPE_CHECKING

import jax

if TYPE_CHECKING:
    from kinbayes import hosts
    from kinbayes.amortized.archive import read_archive
    from kinbayes.amortized.proposal_file import load_proposal
    from kinbayes.examples import example
    from kinbayes.formats.antimony import read_antimony
    from kinbayes.formats.petab.export.writer import export_petab
    from kinbayes.formats.petab.reader import read_petab
    from kinbayes.formats.sbml.reader import read_sbml
    from kinbayes.hosts.numpyro import to_numpyro
    from kinbayes.hosts.pymc import to_pymc
    from kinbayes.model.model import Event, Model
    from kinbayes.ode.simulate import simulate
    from kinbayes.problem import noise, objectives
    from kinbayes.problem.constraints import Constraint
    from kinbayes.problem.inputs import Input
    from kinbayes.problem.observables import Experiment, Observable, Period
    from kinbayes.problem.parameters import Parameter
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
        Rayleigh,
        Uniform,
    )
    from kinbayes.problem.problem import Problem
    from kinbayes.results.comparison import compare_models
    from kinbayes.results.evidence import log_evidence
    from kinbayes.results.load import load
    from kinbayes.results.map_comparison import compare
    from kinbayes.results.prediction_score import loo, waic
    from kinbayes.results.sensitivity import prior_sensitivity
    from kinbayes.results.summary import credible_intervals
    from kinbayes.results.verdict import cautions, converged
    from kinbayes.run.bootstrap import bootstrap
    from kinbayes.run.laplace import laplace
    from kinbayes.run.learned.amortize import amortize
    from kinbayes.run.learned.evaluation import evaluate_proposal
    from kinbayes.run.optimize import optimize
    from kinbayes.run.predict import predict
    from kinbayes.run.profile import profile
    from kinbayes.run.sample import sample

__version__ = "0.1.0"

_HOMES = {
    "Cauchy": "problem.priors",
    "ChiSquare": "problem.priors",
    "Constraint": "problem.constraints",
    "Event": "model.model",
    "Experiment": "problem.observables",
    "Exponential": "problem.priors",
    "Gamma": "problem.priors",
    "Input": "problem.inputs",
    "Laplace": "problem.priors",
    "LogLaplace": "problem.priors",
    "LogNormal": "problem.priors",
    "LogUniform": "problem.priors",
    "Model": "model.model",
    "Normal": "problem.priors",
    "Observable": "problem.observables",
    "Parameter": "problem.parameters",
    "Period": "problem.observables",
    "Problem": "problem.problem",
    "Rayleigh": "problem.priors",
    "Uniform": "problem.priors",
    "amortize": "run.learned.amortize",
    "bootstrap": "run.bootstrap",
    "cautions": "results.verdict",
    "compare": "results.map_comparison",
    "compare_models": "results.comparison",
    "converged": "results.verdict",
    "credible_intervals": "results.summary",
    "evaluate_proposal": "run.learned.evaluation",
    "example": "examples",
    "export_petab": "formats.petab.export.writer",
    "hosts": "hosts",
    "laplace": "run.laplace",
    "load": "results.load",
    "load_proposal": "amortized.proposal_file",
    "log_evidence": "results.evidence",
    "loo": "results.prediction_score",
    "noise": "problem.noise",
    "objectives": "problem.objectives",
    "optimize": "run.optimize",
    "predict": "run.predict",
    "prior_sensitivity": "results.sensitivity",
    "profile": "run.profile",
    "read_antimony": "formats.antimony",
    "read_archive": "amortized.archive",
    "read_petab": "formats.petab.reader",
    "read_sbml": "formats.sbml.reader",
    "sample": "run.sample",
    "simulate": "ode.simulate",
    "to_numpyro": "hosts.numpyro",
    "to_pymc": "hosts.pymc",
    "waic": "results.prediction_score",
}

_ROOMS = ("hosts", "noise", "objectives")  # whole modules

__all__ = ["__version__", *sorted(_HOMES)]

jax.config.update("jax_enable_x64", True)


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kinbayes' has no attribute {name!r}; choose from {sorted(_HOMES)}")
    was_enabled = gc.isenabled()
    gc.disable()  # modules hold no garbage, and looking for it among them takes a quarter of the time of an import
    try:
        home = importlib.import_module(f"kinbayes.{_HOMES[name]}")
        value = home if name in _ROOMS else getattr(home, name)
    finally:
        if was_enabled:
            gc.enable()
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
