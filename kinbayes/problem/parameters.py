"""Parameters: names, scales, bounds and priors, and the maps between natural, scaled and unconstrained values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kinbayes.problem import truncation
from kinbayes.problem.priors import LogLaplace, LogNormal, LogUniform, Prior, Uniform

Scale = Literal["lin", "ln", "log10"]
SCALES = ("lin", "ln", "log10")
LOG_FACTORS = {"ln": 1.0, "log10": math.log(10)}  # d ln(theta) / du


class ParameterError(ValueError):
    """A parameter that contradicts itself."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of the posterior, or a constant of it.

    Parameters
    ----------
    name
        A parameter of the model, a state (its start), or a name of its own that formulas use.
    prior
        The prior. None means uniform on the parameter's scale between finite bounds; with an open bound it is
        improper, which can be optimized but not sampled.
    scale
        The scale on which the parameter moves; by default `log10` for priors stated on a logarithm, else `lin`.
    lower, upper
        Bounds in natural values; by default the prior's own support.
    nominal
        A value in natural units: a published one, or the constant.
    estimate
        False makes the parameter a constant at `nominal`.
    unit
        Its unit, for tables and plots.

    Raises
    ------
    ParameterError
        If bounds are reversed or do not fit the scale or the prior, or a constant has no value.
    """

    name: str
    prior: Prior | None = None
    scale: Scale | None = None
    lower: float | None = None
    upper: float | None = None
    nominal: float | None = None
    estimate: bool = True
    unit: str = ""

    def __post_init__(self) -> None:
        if self.scale is None:
            is_positive = isinstance(self.prior, LogUniform | LogNormal | LogLaplace)
            object.__setattr__(self, "scale", "log10" if is_positive else "lin")
        if self.scale not in SCALES:
            raise ParameterError(f"parameter {self.name!r}: unknown scale {self.scale!r}; choose from {list(SCALES)}")
        if not self.estimate:
            if self.nominal is None or math.isnan(self.nominal):
                raise ParameterError(f"parameter {self.name!r} is not estimated, so it needs a nominal value")
            return
        if self.scale != "lin" and self.lower is not None and self.lower <= 0:
            raise ParameterError(
                f"parameter {self.name!r} moves on the scale {self.scale!r}, but its lower bound is {self.lower}; "
                "give a bound > 0, or the scale 'lin'"
            )
        low, high = self.bounds
        if not low < high:
            raise ParameterError(
                f"parameter {self.name!r}: the lower bound {low} is not below the upper bound {high} "
                "(bounds and the prior's support together); exchange or widen them"
            )
        if self.prior is not None and truncation.log_mass(self.prior, *self.prior_bounds) == -math.inf:
            raise ParameterError(f"parameter {self.name!r}: its prior has no mass between the bounds {low} and {high}")

    @property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper bound in natural values, the prior's support included."""
        low = -math.inf if self.lower is None else self.lower
        high = math.inf if self.upper is None else self.upper
        if self.scale != "lin":
            low = max(low, 0.0)
        if self.prior is not None:
            support = self.prior.support
            if self.prior.on == "scaled":
                support = tuple(float(natural(np.array([s], dtype=float), (self.scale,))[0]) for s in support)
            low, high = max(low, support[0]), min(high, support[1])
        return float(low), float(high)

    @property
    def scaled_bounds(self) -> tuple[float, float]:
        """Lower and upper bound on the parameter's scale."""
        low, high = scaled(np.array(self.bounds)[:, None], (self.scale,))[:, 0]
        return float(low), float(high)

    @property
    def is_assumed(self) -> bool:
        """Whether no prior was stated, so that the density is uniform on the scale."""
        return self.prior is None

    @property
    def is_proper(self) -> bool:
        """Whether the prior integrates to one."""
        return self.prior is not None or all(map(math.isfinite, self.scaled_bounds))

    @property
    def effective_prior(self) -> Prior | None:
        """The prior, or the uniform one that finite bounds imply; None where that is improper."""
        if self.prior is not None or not self.is_proper:
            return self.prior
        return Uniform(*self.scaled_bounds, on="scaled")

    @property
    def prior_bounds(self) -> tuple[float, float]:
        """The bounds in the units in which the prior is stated."""
        prior = self.effective_prior
        return self.bounds if prior is not None and prior.on == "natural" else self.scaled_bounds


def natural(u: Float[np.ndarray, "*batch dim"], scales: Sequence[Scale]) -> Float[np.ndarray, "*batch dim"]:
    """Return natural values of scaled ones, the last axis running over parameters."""
    columns = [u[..., k] if s == "lin" else np.exp(LOG_FACTORS[s] * u[..., k]) for k, s in enumerate(scales)]
    return np.stack(columns, axis=-1) if columns else u


def jax_natural(u: Float[Array, " dim"], scales: Sequence[Scale]) -> Float[Array, " dim"]:
    """Return the natural values of a scaled vector, in JAX."""
    factors = np.array([LOG_FACTORS.get(s, 0.0) for s in scales])
    is_linear = factors == 0
    return jnp.where(is_linear, u, jnp.exp(u * factors))


def scaled(theta: Float[np.ndarray, "*batch dim"], scales: Sequence[Scale]) -> Float[np.ndarray, "*batch dim"]:
    """Return scaled values of natural ones, the last axis running over parameters."""
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = [
            theta[..., k] if s == "lin" else np.log(theta[..., k]) / LOG_FACTORS[s] for k, s in enumerate(scales)
        ]
    return np.stack(columns, axis=-1) if columns else theta


def draw(parameters: Sequence[Parameter], rng: np.random.Generator, size: int) -> Float[np.ndarray, "size dim"]:
    """Return draws of the prior, in scaled values.

    Raises
    ------
    ParameterError
        If a prior is improper.
    """
    columns = []
    for parameter in parameters:
        prior = parameter.effective_prior
        if prior is None:
            raise ParameterError(f"parameter {parameter.name!r} has no proper prior to draw from; give it one")
        values = truncation.draw(prior, *parameter.prior_bounds, rng, size)
        columns.append(values if prior.on == "scaled" else scaled(values[:, None], (parameter.scale,))[:, 0])
    return np.stack(columns, axis=-1) if columns else np.zeros((size, 0))


def draw_starts(parameters: Sequence[Parameter], rng: np.random.Generator, size: int) -> Float[np.ndarray, "size dim"]:
    """Return scaled points to start a search from: prior draws; for an improper prior, around what is known."""
    columns = [draw([p], rng, size)[:, 0] if p.is_proper else _around(p, rng, size) for p in parameters]
    return np.stack(columns, axis=-1)


def _around(parameter: Parameter, rng: np.random.Generator, size: int) -> np.ndarray:
    """Return normal draws with sd 1 (on a log10 scale: a factor of ten) about the only values that are known."""
    low, high = parameter.scaled_bounds
    known = [v for v in (low, high) if np.isfinite(v)]
    if parameter.nominal is not None:
        known = [float(scaled(np.array([parameter.nominal]), (parameter.scale,))[0])]
    return np.clip(rng.normal(known[0] if known else 0.0, 1.0, size), low, high)


class Box(NamedTuple):
    """The box of scaled values and its map from unconstrained space, as a pytree.

    A finite side is approached by a logistic or exponential curve, an open one by none (the maps of Stan's
    reference manual: logit for two walls, logarithm for one).
    """

    lower: Float[Array, " dim"]
    upper: Float[Array, " dim"]


def _sides(box: Box) -> tuple[Array, Array, Array, Array]:
    has_lower, has_upper = jnp.isfinite(box.lower), jnp.isfinite(box.upper)
    return has_lower, has_upper, jnp.where(has_lower, box.lower, 0.0), jnp.where(has_upper, box.upper, 1.0)


def constrain(box: Box, x: Float[Array, " dim"]) -> tuple[Float[Array, " dim"], Float[Array, ""]]:
    """Return the scaled vector u of an unconstrained x, and log |du/dx|."""
    has_lower, has_upper, lower, upper = _sides(box)
    width = jnp.where(has_lower & has_upper, upper - lower, 1.0)
    # Each branch sees a harmless argument where it is not taken, so that no derivative becomes NaN.
    x_both = jnp.where(has_lower & has_upper, x, 0.0)
    x_one = jnp.where(has_lower ^ has_upper, x, 0.0)
    both = jnp.minimum(lower + width * jax.nn.sigmoid(x_both), upper)  # rounding might leave the box
    one = jnp.where(has_lower, lower + jnp.exp(x_one), upper - jnp.exp(x_one))
    u = jnp.where(has_lower & has_upper, both, jnp.where(has_lower | has_upper, one, x))
    log_slope = jnp.where(
        has_lower & has_upper,
        jnp.log(width) + jax.nn.log_sigmoid(x_both) + jax.nn.log_sigmoid(-x_both),
        jnp.where(has_lower | has_upper, x_one, 0.0),
    )
    return u, jnp.sum(log_slope)


def unconstrain(box: Box, u: Float[Array, " dim"]) -> Float[Array, " dim"]:
    """Return the unconstrained x of a scaled vector inside the box."""
    has_lower, has_upper, lower, upper = _sides(box)
    width = jnp.where(has_lower & has_upper, upper - lower, 1.0)
    both = jax.scipy.special.logit(jnp.where(has_lower & has_upper, (u - lower) / width, 0.5))
    one = jnp.log(jnp.where(has_lower ^ has_upper, jnp.where(has_lower, u - lower, upper - u), 1.0))
    return jnp.where(has_lower & has_upper, both, jnp.where(has_lower | has_upper, one, u))
