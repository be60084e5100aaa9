"""The joint log prior of the scaled parameter vector, compiled from the priors' expressions."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kinbayes.model.codegen import to_jax
from kinbayes.model.expressions import Expr, apply, symbol
from kinbayes.problem import truncation
from kinbayes.problem.parameters import LOG_FACTORS, Parameter


class PriorData(NamedTuple):
    """The numbers of the joint prior, a pytree: changing them compiles nothing."""

    lower: Float[Array, " dim"]
    upper: Float[Array, " dim"]
    log_mass: Float[Array, " dim"]
    settings: tuple[Float[Array, "members settings"], ...]  # one array a group of equal form


class Form(NamedTuple):
    """What the structure of a prior knows: not its numbers."""

    family: type
    num_settings: int
    on: str
    scale: str


def forms(parameters: Sequence[Parameter]) -> tuple[Form | None, ...]:
    """Return the form of every parameter's prior; None for an improper one."""
    priors_ = [p.effective_prior for p in parameters]
    return tuple(
        None if q is None else Form(type(q), len(q.settings), q.on, p.scale)
        for p, q in zip(parameters, priors_, strict=True)
    )


def _groups(found: Sequence[Form | None]) -> dict[Form, list[int]]:
    groups: dict[Form, list[int]] = {}
    for k, form in enumerate(found):
        if form is not None:
            groups.setdefault(form, []).append(k)
    return groups


def prior_data(parameters: Sequence[Parameter]) -> PriorData:
    """Return the numbers of the joint prior: bounds, normalisers and settings."""
    bounds = np.array([p.scaled_bounds for p in parameters]).reshape(-1, 2)
    settings = tuple(
        np.array([parameters[k].effective_prior.settings for k in members], dtype=float)
        for members in _groups(forms(parameters)).values()
    )
    log_mass = np.array([_log_mass(p) for p in parameters], dtype=float)
    return jax.device_put(PriorData(bounds[:, 0], bounds[:, 1], log_mass, settings))


def prior_function(found: Sequence[Form | None]) -> Callable:
    """Return the joint log density with respect to du, as a JAX function (u (dim,), PriorData) -> scalar.

    It is −inf outside the bounds and renormalised inside. A prior on natural values brings its log |dθ/du|; an improper
    one counts 0.
    """
    terms = [(np.array(members), _term(form)) for form, members in _groups(found).items()]

    def evaluate(u: Float[Array, " dim"], data: PriorData) -> Float[Array, ""]:
        is_inside = jnp.all((u >= data.lower) & (u <= data.upper))
        # Outside, the density is taken at the wall, so that no derivative becomes NaN.
        u = jnp.clip(u, data.lower, data.upper)
        total = jnp.zeros(())
        for (members, term), settings in zip(terms, data.settings, strict=True):
            (values,) = term(u[members], *settings.T)
            total += jnp.sum(jnp.broadcast_to(values, members.shape) - data.log_mass[members])
        return jnp.where(is_inside & ~jnp.isnan(total), total, -jnp.inf)

    return evaluate


def density(form: Form, u: Expr, settings: Sequence[Expr]) -> Expr:
    """Return one prior's log density with respect to du, its truncation aside."""
    family, _, on, scale = form
    if on == "scaled" or scale == "lin":
        return family.log_density(u, *settings)
    factor = LOG_FACTORS[scale]
    log_theta = u * factor
    return family.log_density(apply("exp", log_theta), *settings) + log_theta + np.log(factor).item()


def _term(form: Form) -> Callable:
    """Return the JAX function of one prior's log density in u, its truncation aside."""
    u = symbol("u")
    settings = [symbol(f"setting {k}") for k in range(form.num_settings)]
    return to_jax([density(form, u, settings)], ["u", *(s.value for s in settings)])


def _log_mass(parameter: Parameter) -> float:
    prior = parameter.effective_prior
    return 0.0 if prior is None else truncation.log_mass(prior, *parameter.prior_bounds)
