"""Priors of kinbayes as random variables of PyMC, by the names of its families."""

import math
from collections.abc import Callable
from typing import NamedTuple

import pymc as pm
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from kinbayes.problem.parameters import LOG_FACTORS, Parameter, ParameterError
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


class Stated(NamedTuple):
    """A prior as PyMC can state it.

    Attributes
    ----------
    scale
        Of the random variable: lin, ln or log10.
    family
        PyMC's distribution.
    settings
        Its settings, by PyMC's names.
    lower, upper
        The bounds on that scale.
    is_cut
        Whether the bounds cut off a part of the distribution.
    """

    scale: str
    family: type[pm.Distribution]
    settings: dict[str, float]
    lower: float
    upper: float
    is_cut: bool


# Families that are the same in PyMC, and what PyMC calls their settings.
_FAMILIES: dict[type, Callable] = {
    Normal: lambda q: (pm.Normal, {"mu": q.mean, "sigma": q.sd}),
    LogNormal: lambda q: (pm.LogNormal, {"mu": q.mu, "sigma": q.sigma}),
    Laplace: lambda q: (pm.Laplace, {"mu": q.location, "b": q.scale}),
    Cauchy: lambda q: (pm.Cauchy, {"alpha": q.location, "beta": q.scale}),
    Gamma: lambda q: (pm.Gamma, {"alpha": q.shape, "beta": 1 / q.scale}),
    ChiSquare: lambda q: (pm.ChiSquared, {"nu": q.degrees_of_freedom}),
    Exponential: lambda q: (pm.Exponential, {"scale": q.scale}),
    Rayleigh: lambda q: (pm.Weibull, {"alpha": 2.0, "beta": math.sqrt(2) * q.scale}),
}


def stated(parameter: Parameter) -> Stated:
    """Return a parameter's prior as PyMC can state it: on the scale on which it was stated, by the same family.

    PyMC has no log-uniform and no log-Laplace distribution: there the logarithm is the random variable.

    Raises
    ------
    ParameterError
        If the prior is improper.
    """
    prior = parameter.effective_prior
    if prior is None:
        raise ParameterError(
            f"the prior of {parameter.name!r} is improper (no prior, and open bounds), so PyMC cannot state it; give "
            "it a prior or finite bounds"
        )
    lower, upper = parameter.prior_bounds
    if isinstance(prior, Uniform):
        scale = parameter.scale if prior.on == "scaled" else "lin"
        return Stated(scale, pm.Uniform, {"lower": lower, "upper": upper}, lower, upper, False)
    if isinstance(prior, LogUniform):
        scale = "ln" if parameter.scale == "lin" else parameter.scale
        lower, upper = _logarithm(lower, scale), _logarithm(upper, scale)
        return Stated(scale, pm.Uniform, {"lower": lower, "upper": upper}, lower, upper, False)
    is_cut = prior.support[0] < lower or upper < prior.support[1]
    if isinstance(prior, LogLaplace):
        settings = {"mu": prior.location, "b": prior.scale}
        return Stated("ln", pm.Laplace, settings, _logarithm(lower, "ln"), _logarithm(upper, "ln"), is_cut)
    family, settings = _family(parameter.name, prior)
    scale = parameter.scale if prior.on == "scaled" else "lin"
    return Stated(scale, family, settings, lower, upper, is_cut)


def _family(name: str, prior: Prior) -> tuple[type[pm.Distribution], dict[str, float]]:
    if type(prior) not in _FAMILIES:
        known = sorted(family.__name__ for family in (*_FAMILIES, Uniform, LogUniform, LogLaplace))
        raise TypeError(
            f"the prior of {name!r} is of the family {type(prior).__name__}, which PyMC is not told of; known are "
            f"{known}. State it in PyMC, and give its variable to `likelihood`"
        )
    return _FAMILIES[type(prior)](prior)


def _logarithm(value: float, scale: str) -> float:
    if value <= 0 or value == math.inf:
        return -math.inf if value <= 0 else math.inf
    return math.log(value) / LOG_FACTORS[scale]


def names(parameter: Parameter) -> tuple[str, ...]:
    """Return the names of a parameter's variables: its own, and that of its logarithm where this is the random one."""
    scale = stated(parameter).scale
    return (parameter.name,) if scale == "lin" else (parameter.name, f"{scale}_{parameter.name}")


def random_variable(parameter: Parameter) -> TensorVariable:
    """Add a parameter with its prior to the model whose context this is, and return its natural value."""
    own = stated(parameter)
    *_, name = names(parameter)
    # PyTensor would take a short number such as 2.0 for one of single precision, and its logarithm too.
    settings = {key: pt.constant(value, dtype="float64") for key, value in own.settings.items()}
    lower, upper = (pt.constant(x, dtype="float64") if math.isfinite(x) else None for x in (own.lower, own.upper))
    if own.is_cut and own.family is pm.Normal:
        variable = pm.TruncatedNormal(name, **settings, lower=lower, upper=upper)
    elif own.is_cut:
        variable = pm.Truncated(name, own.family.dist(**settings), lower=lower, upper=upper)
    else:
        variable = own.family(name, **settings)
    if own.scale == "lin":
        return variable
    return pm.Deterministic(parameter.name, pt.exp(LOG_FACTORS[own.scale] * variable))
