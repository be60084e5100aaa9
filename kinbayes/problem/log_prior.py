"""The joint log prior of the scaled parameter vector, compiled from the priors' expressions."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kinbayes.model.codegen import to_jax
from kinbayes.model.expressions import apply, symbol
from kinbayes.problem import priors
from kinbayes.problem.parameters import LOG_FACTORS, Parameter


class PriorData(NamedTuple):
    """The numbers of the joint prior, a pytree: changing them compiles nothing."""

    lower: Float[Array, " dim"]
    upper: Float[Array, " dim"]
    log_mass: Float[Array, " dim"]
    settings: tuple[Float[Array, "members settings"], ...]  # one array a group of equal form


def log_prior(parameters: Sequence[Parameter]) -> tuple[Callable, PriorData]:
    """Return the joint log density with respect to du, and its numbers.

    Parameters
    ----------
    parameters
        The estimated parameters, in the order of u.

    Returns
    -------
    function
        JAX function (u (dim,), PriorData) -> scalar: −inf outside the bounds, renormalised inside. A prior on
        natural values brings its log |dθ/du|; an improper one counts 0.
    data
        Bounds, normalisers and settings.
    """
    groups: dict[tuple, list[int]] = {}
    for k, parameter in enumerate(parameters):
        prior = parameter.effective_prior
        if prior is not None:
            groups.setdefault((type(prior), len(prior.settings), prior.on, parameter.scale), []).append(k)
    terms = [(np.array(members), _term(*form)) for form, members in groups.items()]
    bounds = np.array([p.scaled_bounds for p in parameters]).reshape(-1, 2)
    data = PriorData(
        jnp.asarray(bounds[:, 0]),
        jnp.asarray(bounds[:, 1]),
        jnp.asarray([_log_mass(p) for p in parameters]),
        tuple(jnp.asarray([parameters[k].effective_prior.settings for k in m]) for m in groups.values()),
    )

    def evaluate(u: Float[Array, " dim"], data: PriorData) -> Float[Array, ""]:
        is_inside = jnp.all((u >= data.lower) & (u <= data.upper))
        # Outside, the density is taken at the wall, so that no derivative becomes NaN.
        u = jnp.clip(u, data.lower, data.upper)
        total = jnp.zeros(())
        for (members, term), settings in zip(terms, data.settings, strict=True):
            (values,) = term(u[members], *settings.T)
            total += jnp.sum(jnp.broadcast_to(values, members.shape) - data.log_mass[members])
        return jnp.where(is_inside & ~jnp.isnan(total), total, -jnp.inf)

    return evaluate, data


def _term(family: type, num_settings: int, on: str, scale: str) -> Callable:
    """Return the JAX function of one prior's log density in u, its truncation aside."""
    u = symbol("u")
    settings = [symbol(f"setting {k}") for k in range(num_settings)]
    names = ["u", *(s.value for s in settings)]
    if on == "scaled" or scale == "lin":
        density = family.log_density(u, *settings)
    else:
        factor = LOG_FACTORS[scale]
        log_theta = u * factor
        density = family.log_density(apply("exp", log_theta), *settings) + log_theta + np.log(factor).item()
    return to_jax([density], names)


def _log_mass(parameter: Parameter) -> float:
    prior = parameter.effective_prior
    return 0.0 if prior is None else priors.log_mass(prior, *parameter.prior_bounds)
