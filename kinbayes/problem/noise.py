"""Measurement noise: densities of a measurement given its prediction, as expressions, and draws by NumPy.

A density may be stated on a transformation of the measurement; its Jacobian is kept, so that log likelihoods are
densities of the measurements as they stand in the data and compare across transformations.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from kinbayes.model.expressions import Expr, apply

Transformation = Literal["lin", "log", "log10"]
TRANSFORMATIONS = ("lin", "log", "log10")
Column = Float[np.ndarray, "..."]


class Family(NamedTuple):
    """A family of densities around a prediction, with the names of its settings."""

    settings: tuple[str, ...]
    log_density: Callable[..., Expr]  # (measurement, prediction, *settings), both transformed
    draw: Callable[..., Column]  # (rng, prediction, *settings), transformed


def _normal(y: Expr, prediction: Expr, sd: Expr) -> Expr:
    z = (y - prediction) / sd
    return -0.5 * z * z - apply("log", sd) - 0.5 * math.log(2 * math.pi)


def _laplace(y: Expr, prediction: Expr, scale: Expr) -> Expr:
    return -apply("abs", y - prediction) / scale - apply("log", 2 * scale)


def _student_t(y: Expr, prediction: Expr, scale: Expr, degrees_of_freedom: Expr) -> Expr:
    nu, z = degrees_of_freedom, (y - prediction) / scale
    constant = apply("log_gamma", (nu + 1) / 2) - apply("log_gamma", nu / 2) - 0.5 * apply("log", nu * math.pi)
    return constant - apply("log", scale) - (nu + 1) / 2 * apply("log", 1 + z * z / nu)


def _negative_binomial(y: Expr, prediction: Expr, dispersion: Expr) -> Expr:
    r, mean = dispersion, prediction
    choose = apply("log_gamma", y + r) - apply("log_gamma", y + 1) - apply("log_gamma", r)
    return choose + r * apply("log", r / (r + mean)) + y * apply("log", mean / (r + mean))


FAMILIES: dict[str, Family] = {
    "normal": Family(("sd",), _normal, lambda rng, m, sd: rng.normal(m, sd)),
    "laplace": Family(("scale",), _laplace, lambda rng, m, scale: rng.laplace(m, scale)),
    "student_t": Family(
        ("scale", "degrees_of_freedom"),
        _student_t,
        lambda rng, m, scale, nu: m + scale * rng.standard_t(nu, size=np.shape(m)),
    ),
    "negative_binomial": Family(
        ("dispersion",),
        _negative_binomial,
        lambda rng, m, r: rng.poisson(rng.gamma(r, np.maximum(m, 0) / r)).astype(float),
    ),
}


@dataclass(frozen=True)
class Noise:
    """How a measurement scatters around its prediction.

    Build it with `normal`, `log_normal`, `laplace`, `student_t` or `negative_binomial`.

    Parameters
    ----------
    family
        A row of `FAMILIES`.
    formulas
        The family's settings: formulas, parameter names or numbers.
    transformation
        What measurement and prediction go through before they are compared.
    """

    family: str
    formulas: tuple[str, ...]
    transformation: Transformation = "lin"

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"unknown noise {self.family!r}; choose from {sorted(FAMILIES)}")
        if self.transformation not in TRANSFORMATIONS:
            raise ValueError(f"unknown transformation {self.transformation!r}; choose from {list(TRANSFORMATIONS)}")

    def log_density(self, measurement: Expr, prediction: Expr, *settings: Expr) -> Expr:
        """Return the log density of the measurement itself, with all its constants."""
        family = FAMILIES[self.family]
        if self.transformation == "lin":
            return family.log_density(measurement, prediction, *settings)
        log = self.transformation
        jacobian = apply("log", measurement) + (math.log(math.log(10)) if log == "log10" else 0.0)
        return family.log_density(apply(log, measurement), apply(log, prediction), *settings) - jacobian

    def draw(self, rng: np.random.Generator, prediction: Column, *settings: Column) -> Column:
        """Return draws of measurements around a prediction; NaN where the prediction has no such measurement."""
        draw = FAMILIES[self.family].draw
        if self.transformation == "lin":
            return draw(rng, prediction, *settings)
        factor = math.log(10) if self.transformation == "log10" else 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.exp(factor * draw(rng, np.log(prediction) / factor, *settings))


def normal(sd: str | float, transformation: Transformation = "lin") -> Noise:
    """Return normal noise with standard deviation `sd` on the transformation."""
    return Noise("normal", (str(sd),), transformation)


def log_normal(sd: str | float) -> Noise:
    """Return log-normal noise: `sd` is the standard deviation of the natural logarithm."""
    return Noise("normal", (str(sd),), "log")


def laplace(scale: str | float, transformation: Transformation = "lin") -> Noise:
    """Return Laplace noise with this scale on the transformation."""
    return Noise("laplace", (str(scale),), transformation)


def student_t(scale: str | float, degrees_of_freedom: str | float) -> Noise:
    """Return Student's t noise."""
    return Noise("student_t", (str(scale), str(degrees_of_freedom)))


def negative_binomial(dispersion: str | float) -> Noise:
    """Return negative binomial counts around the predicted mean m, with variance m + m²/dispersion."""
    return Noise("negative_binomial", (str(dispersion),))
