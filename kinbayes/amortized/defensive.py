"""The defensive component of a learned proposal: a density that is nowhere small where the prior is not.

A share of every proposal comes from it, so that importance weights stay bounded where the network has learned nothing
(Hesterberg 1995, doi:10.1080/00401706.1995.10484303). Parameters are independent of each other in it. Where the prior
is uniform on a parameter's scale it is the prior; else a Student t distribution with four degrees of freedom, cut off
at the bounds, which has the median and the quartiles' distance of the prior. With four degrees of freedom distribution
function and quantiles have closed forms: with x = t/√(4 + t²), the upper tail is (1 - x)²(2 + x)/4.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from kinbayes.problem.parameters import Parameter, draw_starts
from kinbayes.problem.priors import LogUniform, Uniform
from kinbayes.problem.problem import Problem

UPPER_QUARTILE = 4 * math.sin(math.pi / 18) / math.sqrt(1 - 4 * math.sin(math.pi / 18) ** 2)  # 0.7407
NUM_DRAWS = 4096  # of the prior, for its quartiles
_LARGEST = 1 - 2.0**-53  # the largest number below 1


class Defensive(NamedTuple):
    """Hold the component: bounds, and for parameters that are not uniform the location and scale of their t."""

    is_uniform: Bool[Array | np.ndarray, " dim"]
    lower: Float[Array | np.ndarray, " dim"]
    upper: Float[Array | np.ndarray, " dim"]
    location: Float[Array | np.ndarray, " dim"]
    scale: Float[Array | np.ndarray, " dim"]


def defensive(problem: Problem) -> Defensive:
    """Return the defensive component of a problem; with an improper prior, about where its searches start."""
    draws = draw_starts(problem.estimated, np.random.default_rng(0), NUM_DRAWS)
    low, median, high = np.quantile(draws, [0.25, 0.5, 0.75], axis=0)
    scale = (high - low) / (2 * UPPER_QUARTILE)
    return Defensive(
        np.array([_is_uniform(parameter) for parameter in problem.estimated]),
        np.array(problem.lower),
        np.array(problem.upper),
        median,
        np.where(scale > 0, scale, 1.0),
    )


def _is_uniform(parameter: Parameter) -> bool:
    """Return whether the prior is uniform on the parameter's scale, between finite bounds."""
    prior = parameter.effective_prior
    if not all(map(math.isfinite, parameter.scaled_bounds)):
        return False
    if isinstance(prior, LogUniform):
        return parameter.scale != "lin"
    return isinstance(prior, Uniform) and (prior.on == "scaled" or parameter.scale == "lin")


def draw(component: Defensive, key: Key[Array, ""], num: int) -> Float[Array, "num dim"]:
    """Return draws."""
    share = jax.random.uniform(key, (num, len(component.lower)))
    sign, low, mass = _cut(component)
    t = sign * _quantile(jnp.clip(low + share * mass, 1e-300, _LARGEST))
    # Each branch sees a harmless argument where it is not taken.
    width = jnp.where(component.is_uniform, component.upper - component.lower, 1.0)
    lower = jnp.where(component.is_uniform, component.lower, 0.0)
    U = jnp.where(component.is_uniform, lower + width * share, component.location + component.scale * t)
    return jnp.clip(U, component.lower, component.upper)  # rounding might pass the bounds


def log_density(component: Defensive, U: Float[Array, "n dim"]) -> Float[Array, " n"]:
    """Return the log density with respect to du, -inf outside the bounds."""
    width = jnp.where(component.is_uniform, component.upper - component.lower, 1.0)
    t = (U - component.location) / component.scale
    students = math.log(3 / 8) - 2.5 * jnp.log1p(t * t / 4) - jnp.log(component.scale) - jnp.log(_cut(component)[2])
    each = jnp.where(component.is_uniform, -jnp.log(width), students)
    is_inside = (component.lower <= U) & (component.upper >= U)
    return jnp.sum(jnp.where(is_inside, each, -jnp.inf), axis=1)


def _cut(component: Defensive) -> tuple[Float[Array, " dim"], Float[Array, " dim"], Float[Array, " dim"]]:
    """Return a sign by which t is mirrored, the mass below the bounds, and that between them.

    Bounds that lie in the upper tail are mirrored to the lower one, where the distribution function loses no digits.
    """
    low = (component.lower - component.location) / component.scale
    high = (component.upper - component.location) / component.scale
    sign = jnp.where(low > 0, -1.0, 1.0)
    first, last = jnp.where(low > 0, -high, low), jnp.where(low > 0, -low, high)
    below = _distribution(first)
    return sign, below, _distribution(last) - below


def _upper_tail(t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the mass above t ≥ 0, accurate however small."""
    # Dividing by t, which may be infinite, before anything is squared.
    root = jnp.sqrt(1 + (2 / jnp.maximum(t, 1e-300)) ** 2)
    far = (2 / jnp.maximum(t, 1.0)) ** 2 / (root * (root + 1))  # 1 - x
    x = t / jnp.sqrt(4 + jnp.minimum(t, 1.0) ** 2)
    rest = jnp.where(t > 1, far, 1 - x)
    return rest**2 * (3 - rest) / 4


def _distribution(t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    tail = _upper_tail(jnp.abs(t))
    return jnp.where(t < 0, tail, 1 - tail)


def _quantile(p: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return t below which the mass p lies: x = 2 sin φ turns p into (1 + sin 3φ)/2."""
    tail = jnp.minimum(p, 1 - p)
    # The angle from where x = 1, so that far tails lose no digits.
    angle = 2 / 3 * jnp.arcsin(jnp.sqrt(tail))
    rest = 2 * jnp.sin(angle / 2) ** 2 + math.sqrt(3) * jnp.sin(angle)  # 1 - x
    t = 2 * (1 - rest) / jnp.sqrt(rest * (2 - rest))
    return jnp.where(p < 0.5, -t, t)
