"""Priors: closed-form log densities as expressions; draws and distribution functions by SciPy."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from kinbayes.model.expressions import ONE, ZERO, Expr, apply, const, where

On = Literal["natural", "scaled"]
_LARGEST_LOGARITHM = 700.0


@runtime_checkable
class Prior(Protocol):
    """A prior of one parameter, stated on the parameter's natural values or on its scale."""

    on: On

    @property
    def settings(self) -> tuple[float, ...]:
        """The distribution's own parameters, in the order that `log_density` takes them."""

    @property
    def support(self) -> tuple[float, float]:
        """Where the density is not zero."""

    @staticmethod
    def log_density(x: Expr, *settings: Expr) -> Expr:
        """Return the log density at `x` inside the support."""

    def distribution(self):
        """Return SciPy's frozen distribution."""


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} is {value}; it must be a finite positive number")


def _logarithm(name: str, value: float) -> None:
    if not abs(value) <= _LARGEST_LOGARITHM:
        raise ValueError(f"{name} is {value}; its exponential must be a number that is neither 0 nor infinite")


def _ordered(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"a uniform prior from {low} to {high}: both must be finite and the first the smaller one")


def _log_power(x: Expr, exponent: Expr) -> Expr:
    """Return log(x**exponent) for x > 0. At x = 0 it is 0 if the exponent is, else -inf: poles count as outside."""
    is_positive = apply("gt", x, ZERO)
    # The logarithm sees a harmless argument where it is not taken, so that no derivative becomes NaN.
    logarithm = apply("log", where(is_positive, x, ONE))
    return where(is_positive, exponent * logarithm, where(apply("eq", exponent, ZERO), ZERO, -math.inf))


@dataclass(frozen=True)
class Uniform:
    """Uniform between `low` and `high`."""

    low: float
    high: float
    on: On = "natural"

    def __post_init__(self) -> None:
        _ordered(self.low, self.high)

    @property
    def settings(self) -> tuple[float, ...]:
        return (self.low, self.high)

    @property
    def support(self) -> tuple[float, float]:
        return (self.low, self.high)

    @staticmethod
    def log_density(x: Expr, low: Expr, high: Expr) -> Expr:
        return -apply("log", high - low)

    def distribution(self):
        from scipy import stats

        return stats.uniform(self.low, self.high - self.low)


@dataclass(frozen=True)
class LogUniform:
    """Uniform in the logarithm, between the natural values `low` and `high`."""

    low: float
    high: float
    on: Literal["natural"] = "natural"

    def __post_init__(self) -> None:
        _positive("the lower end of a log-uniform prior", self.low)
        _ordered(self.low, self.high)

    @property
    def settings(self) -> tuple[float, ...]:
        return (self.low, self.high)

    @property
    def support(self) -> tuple[float, float]:
        return (self.low, self.high)

    @staticmethod
    def log_density(x: Expr, low: Expr, high: Expr) -> Expr:
        return -apply("log", x) - apply("log", apply("log", high / low))

    def distribution(self):
        from scipy import stats

        return stats.loguniform(self.low, self.high)


@dataclass(frozen=True)
class Normal:
    """Normal with a mean and a standard deviation."""

    mean: float
    sd: float
    on: On = "natural"

    def __post_init__(self) -> None:
        _positive("the standard deviation of a normal prior", self.sd)

    @property
    def settings(self) -> tuple[float, ...]:
        return (self.mean, self.sd)

    @property
    def support(self) -> tuple[float, float]:
        return (-math.inf, math.inf)

    @staticmethod
    def log_density(x: Expr, mean: Expr, sd: Expr) -> Expr:
        z = (x - mean) / sd
        return -0.5 * z * z - apply("log", sd) - 0.5 * math.log(2 * math.pi)

    def distribution(self):
        from scipy import stats

        return stats.norm(self.mean, self.sd)


@dataclass(frozen=True)
class LogNormal:
    """Log-normal: the natural logarithm has mean `mu` and standard deviation `sigma`."""

    mu: float
    sigma: float
    on: Literal["natural"] = "natural"

    def __post_init__(self) -> None:
        _positive("sigma of a log-normal prior", self.sigma)
        _logarithm("mu of a log-normal prior", self.mu)

    @property
    def settings(self) -> tuple[float, ...]:
        return (self.mu, self.sigma)

    @property
    def support(self) -> tuple[float, float]:
        return (0.0, math.inf)

    @staticmethod
    def log_density(x: Expr, mu: Expr, sigma: Expr) -> Expr:
        return Normal.log_density(apply("log", x), mu, sigma) - apply("log", x)

    def distribution(self):
        from scipy import stats

        return stats.lognorm(self.sigma, scale=math.exp(self.mu))


@dataclass(frozen=True)
class Laplace:
    """Laplace (double exponential) with a location and a scale."""

    location: float
    scale: float
    on: On = "natural"

    def __post_init__(self) -> None:
        _positive("the scale of a Laplace prior", self.scale)

    @property
    def settings(self) -> tuple[float, ...]:
        return (self.location, self.scale)

    @property
    def support(self) -> tuple[float, float]:
        return (-math.inf, math.inf)

    @staticmethod
    def log_density(x: Expr, location: Expr, scale: Expr) -> Expr:
        return -apply("abs", x - location) / scale - apply("log", 2 * scale)

    def distribution(self):
        from scipy import stats

        return stats.laplace(self.location, self.scale)


@dataclass(frozen=True)
class LogLaplace:
    """Log-Laplace: the natural logarithm is Laplace with this location and scale."""

    location: float
    scale: float
    on: Literal["natural"] = "natural"

    def __post_init__(self) -> None:
        _positive("the scale of a log-Laplace prior", self.scale)
        _logarithm("the location of a log-Laplace prior", self.location)

    @property
    def settings(self) -> tuple[float, ...]:
        return (self.location, self.scale)

    @property
    def support(self) -> tuple[float, float]:
        return (0.0, math.inf)

    @staticmethod
    def log_density(x: Expr, location: Expr, scale: Expr) -> Expr:
        return Laplace.log_density(apply("log", x), location, scale) - apply("log", x)

    def distribution(self):
        from scipy import stats

        return stats.loglaplace(1 / self.scale, scale=math.exp(self.location))


@dataclass(frozen=True)
class Cauchy:
    """Cauchy with a location and a scale (half the distance between the quartiles)."""

    location: float
    scale: float
    on: On = "natural"

    def __post_init__(self) -> None:
        _positive("the scale of a Cauchy prior", self.scale)

    @property
    def settings(self) -> tuple[float, ...]:
        return (self.location, self.scale)

    @property
    def support(self) -> tuple[float, float]:
        return (-math.inf, math.inf)

    @staticmethod
    def log_density(x: Expr, location: Expr, scale: Expr) -> Expr:
        z = (x - location) / scale
        return -apply("log", 1 + z * z) - apply("log", math.pi * scale)

    def distribution(self):
        from scipy import stats

        return stats.cauchy(self.location, self.scale)


@dataclass(frozen=True)
class Gamma:
    """Gamma with a shape and a scale: mean shape · scale. Below a shape of 1 the pole at 0 counts as outside."""

    shape: float
    scale: float
    on: Literal["natural"] = "natural"

    def __post_init__(self) -> None:
        _positive("the shape of a gamma prior", self.shape)
        _positive("the scale of a gamma prior", self.scale)

    @property
    def settings(self) -> tuple[float, ...]:
        return (self.shape, self.scale)

    @property
    def support(self) -> tuple[float, float]:
        return (0.0, math.inf)

    @staticmethod
    def log_density(x: Expr, shape: Expr, scale: Expr) -> Expr:
        z = x / scale
        return _log_power(z, shape - 1) - z - apply("log_gamma", shape) - apply("log", scale)

    def distribution(self):
        from scipy import stats

        return stats.gamma(self.shape, scale=self.scale)


@dataclass(frozen=True)
class ChiSquare:
    """Chi-square with its degrees of freedom. Below 2 of them the pole at 0 counts as outside."""

    degrees_of_freedom: float
    on: Literal["natural"] = "natural"

    def __post_init__(self) -> None:
        _positive("the degrees of freedom of a chi-square prior", self.degrees_of_freedom)

    @property
    def settings(self) -> tuple[float, ...]:
        return (self.degrees_of_freedom,)

    @property
    def support(self) -> tuple[float, float]:
        return (0.0, math.inf)

    @staticmethod
    def log_density(x: Expr, degrees_of_freedom: Expr) -> Expr:
        return Gamma.log_density(x, degrees_of_freedom / 2, const(2))

    def distribution(self):
        from scipy import stats

        return stats.chi2(self.degrees_of_freedom)


@dataclass(frozen=True)
class Exponential:
    """Exponential with a scale, which is its mean (the inverse of the rate)."""

    scale: float
    on: Literal["natural"] = "natural"

    def __post_init__(self) -> None:
        _positive("the scale of an exponential prior", self.scale)

    @property
    def settings(self) -> tuple[float, ...]:
        return (self.scale,)

    @property
    def support(self) -> tuple[float, float]:
        return (0.0, math.inf)

    @staticmethod
    def log_density(x: Expr, scale: Expr) -> Expr:
        return -x / scale - apply("log", scale)

    def distribution(self):
        from scipy import stats

        return stats.expon(scale=self.scale)


@dataclass(frozen=True)
class Rayleigh:
    """Rayleigh with a scale, where its mode is."""

    scale: float
    on: Literal["natural"] = "natural"

    def __post_init__(self) -> None:
        _positive("the scale of a Rayleigh prior", self.scale)

    @property
    def settings(self) -> tuple[float, ...]:
        return (self.scale,)

    @property
    def support(self) -> tuple[float, float]:
        return (0.0, math.inf)

    @staticmethod
    def log_density(x: Expr, scale: Expr) -> Expr:
        z = x / scale
        return _log_power(z, ONE) - 0.5 * z * z - apply("log", scale)

    def distribution(self):
        from scipy import stats

        return stats.rayleigh(scale=self.scale)
