"""Priors as distributions of NumPyro, over values on the parameter's scale."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from kinbayes.problem import truncation
from kinbayes.problem.parameters import LOG_FACTORS, Parameter, ParameterError, Scale
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


def _log_laplace(location: float, scale: float) -> dist.Distribution:
    return dist.TransformedDistribution(dist.Laplace(location, scale), dist.transforms.ExpTransform())


_FAMILIES: dict[type, Callable[..., dist.Distribution]] = {
    Cauchy: dist.Cauchy,
    ChiSquare: dist.Chi2,
    Exponential: lambda scale: dist.Exponential(1 / scale),
    Gamma: lambda shape, scale: dist.Gamma(shape, 1 / scale),
    Laplace: dist.Laplace,
    LogLaplace: _log_laplace,
    LogNormal: dist.LogNormal,
    LogUniform: dist.LogUniform,
    Normal: dist.Normal,
    Rayleigh: lambda scale: dist.Weibull(scale * math.sqrt(2), 2.0),
    Uniform: dist.Uniform,
}
_FLAT: dict[type, type] = {LogUniform: dist.LogUniform, Uniform: dist.Uniform}  # what bounds leave is one of them too


class Bounded(dist.Distribution):
    """A distribution between bounds, renormalised there, over its values or their logarithms.

    Parameters
    ----------
    base
        The distribution without bounds, in the units in which the prior is stated.
    prior
        The prior that it stands for.
    low, high
        The bounds on the scale; infinite where there is none.
    stated
        The bounds in the units in which the prior is stated.
    factor
        The derivative of ln θ by the value on the scale, where θ is what the prior is stated on; 0 where the prior is
        stated on the scale.
    """

    arg_constraints: dict = {}  # noqa: RUF012  (NumPyro's)
    pytree_data_fields = ("base", "log_mass")
    pytree_aux_fields = ("prior", "low", "high", "stated", "factor")
    has_rsample = False

    def __init__(
        self,
        base: dist.Distribution,
        prior: Prior,
        low: float,
        high: float,
        *,
        stated: tuple[float, float],
        factor: float = 0.0,
    ) -> None:
        self.base, self.prior, self.low, self.high = base, prior, low, high
        self.stated, self.factor = stated, factor
        self.log_mass = truncation.log_mass(prior, *stated)
        super().__init__()

    def __repr__(self) -> str:
        return f"Bounded({self.prior}, low={self.low:g}, high={self.high:g})"

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """Where the density is not zero."""
        has_low, has_high = math.isfinite(self.low), math.isfinite(self.high)
        if has_low and has_high:
            return constraints.interval(self.low, self.high)
        if has_low:
            return constraints.greater_than_eq(self.low) if self.low else constraints.nonnegative
        return constraints.less_than_eq(self.high) if has_high else constraints.real

    def log_prob(self, value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Return the log density; -inf beyond the bounds."""
        # Beyond the bounds the density is taken at them, so that no derivative becomes NaN.
        inside = jnp.clip(value, self.low, self.high)
        log_volume = 0.0
        if self.factor:
            log_stated = self.factor * inside
            inside, log_volume = jnp.exp(log_stated), log_stated + math.log(self.factor)
        density = self.base.log_prob(inside) + log_volume - self.log_mass
        return jnp.where((self.low <= value) & (value <= self.high), density, -jnp.inf)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Float[Array, "*shape"]:
        """Return draws, by SciPy's inverse of the distribution function: one call to Python a batch."""

        def host(q: Array) -> np.ndarray:
            return _between(self.prior, *self.stated, np.asarray(q))

        q = jax.random.uniform(key, sample_shape)
        drawn = jax.pure_callback(host, jax.ShapeDtypeStruct(q.shape, q.dtype), q, vmap_method="expand_dims")
        return jnp.clip(jnp.log(drawn) / self.factor if self.factor else drawn, self.low, self.high)


@functools.lru_cache
def _frozen(prior: Prior):
    return prior.distribution()  # SciPy takes longer to make one than to ask it


def _between(prior: Prior, low: float, high: float, q: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return quantiles of the prior between bounds, accurate in either tail."""
    frozen = _frozen(prior)
    if low >= frozen.median():
        return np.asarray(frozen.isf(frozen.sf(low) + q * (frozen.sf(high) - frozen.sf(low))))
    return np.asarray(frozen.ppf(frozen.cdf(low) + q * (frozen.cdf(high) - frozen.cdf(low))))


def site_name(parameter: Parameter) -> str:
    """Return the name of the parameter's sample site: its own on the scale `lin`, else `log10_` or `ln_` before it."""
    return parameter.name if parameter.scale == "lin" else f"{parameter.scale}_{parameter.name}"


def site_distribution(parameter: Parameter) -> dist.Distribution:
    """Return a parameter's prior over values on its scale, renormalised between its bounds.

    It is one of NumPyro's distributions where there is one, else `Bounded`.

    Raises
    ------
    ParameterError
        If the prior is improper.
    """
    if not parameter.is_proper:
        raise ParameterError(
            f"parameter {parameter.name!r} has no proper prior (no prior, and open bounds); "
            "give it a prior or finite bounds to sample it"
        )
    prior = _on_scale(parameter.effective_prior, parameter.scale)
    is_scaled = prior.on == "scaled" or parameter.scale == "lin"
    low, high = parameter.scaled_bounds
    if is_scaled and type(prior) in _FLAT:
        return _FLAT[type(prior)](low, high)
    base = _FAMILIES[type(prior)](*prior.settings)
    if is_scaled:
        return base if (low, high) == prior.support else Bounded(base, prior, low, high, stated=(low, high))
    return Bounded(base, prior, low, high, stated=parameter.bounds, factor=LOG_FACTORS[parameter.scale])


def _on_scale(prior: Prior, scale: Scale) -> Prior:
    """Return the same prior stated on a logarithmic scale, where that is one of the families."""
    if scale == "lin" or prior.on == "scaled":
        return prior
    per_unit = 1 / LOG_FACTORS[scale]
    match prior:
        case LogUniform(low, high):
            return Uniform(per_unit * math.log(low), per_unit * math.log(high), on="scaled")
        case LogNormal(mu, sigma):
            return Normal(per_unit * mu, per_unit * sigma, on="scaled")
        case LogLaplace(location, scale_):
            return Laplace(per_unit * location, per_unit * scale_, on="scaled")
    return prior
