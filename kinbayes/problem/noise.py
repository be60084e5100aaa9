"""Measurement noise: densities of a measurement given its prediction, as expressions, and draws by NumPy.

A density may be stated on a transformation of the measurement; its Jacobian is kept, so that log likelihoods are
densities of the measurements as they stand in the data and compare across transformations.

A censored measurement is a limit that the true value lies below or above. Its density is the mass of that side, the
same on every transformation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from kinbayes.model.expressions import ONE, ZERO, Expr, apply, where

Transformation = Literal["lin", "log", "log10"]
TRANSFORMATIONS = ("lin", "log", "log10")
CENSORING = {"": 0.0, "below": -1.0, "above": 1.0}  # where the true value lies, and the number that stands for it
Column = Float[np.ndarray, "..."]


class Family(NamedTuple):
    """A family of densities around a prediction, with the names of its settings."""

    settings: tuple[str, ...]
    log_density: Callable[..., Expr]  # (measurement, prediction, *settings), both transformed
    draw: Callable[..., Column]  # (rng, prediction, *settings), transformed
    # (prediction, *settings), transformed -> what a deviation is measured by, and the Fisher information of prediction
    # and settings by place, where it is not 0; None where it has no closed form
    scale: Callable[..., Expr]
    information: Callable[..., dict[tuple[int, int], Expr | None]]
    # (side, deviation over the scale) -> the log of the mass below (side -1) or above (1); None where it has no form
    log_mass: Callable[[Expr, Expr], Expr] | None = None


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


def _student_t_information(m: Expr, scale: Expr, nu: Expr) -> dict[tuple[int, int], Expr | None]:
    square = (nu + 3) * scale * scale
    return {
        (0, 0): (nu + 1) / square,
        (1, 1): 2 * nu / square,
        (1, 2): -2 / (scale * (nu + 1) * (nu + 3)),
        (2, 2): None,
    }


def _normal_log_mass(side: Expr, z: Expr) -> Expr:
    return apply("log_normal_cdf", -side * z)


def _laplace_log_mass(side: Expr, z: Expr) -> Expr:
    into = -side * z  # how far the limit lies inside the side that is meant
    half = 0.5 * apply("exp", -apply("abs", into))
    # log(1 - h) = -2 artanh(h / (2 - h)), which keeps the digits of a small h
    return where(apply("le", into, ZERO), into - math.log(2), -2 * apply("atanh", half / (2 - half)))


FAMILIES: dict[str, Family] = {
    "normal": Family(
        ("sd",),
        _normal,
        lambda rng, m, sd: rng.normal(m, sd),
        lambda m, sd: sd,
        lambda m, sd: {(0, 0): 1 / (sd * sd), (1, 1): 2 / (sd * sd)},
        _normal_log_mass,
    ),
    "laplace": Family(
        ("scale",),
        _laplace,
        lambda rng, m, scale: rng.laplace(m, scale),
        lambda m, scale: scale,
        lambda m, scale: {(0, 0): 1 / (scale * scale), (1, 1): 1 / (scale * scale)},
        _laplace_log_mass,
    ),
    "student_t": Family(
        ("scale", "degrees_of_freedom"),
        _student_t,
        lambda rng, m, scale, nu: m + scale * rng.standard_t(nu, size=np.shape(m)),
        lambda m, scale, nu: scale,
        _student_t_information,
    ),
    "negative_binomial": Family(
        ("dispersion",),
        _negative_binomial,
        lambda rng, m, r: rng.poisson(rng.gamma(r, np.maximum(m, 0) / r)).astype(float),
        lambda m, r: apply("sqrt", m + m * m / r),
        lambda m, r: {(0, 0): r / (m * (m + r)), (1, 1): None},
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

    @property
    def is_censorable(self) -> bool:
        """Whether measurements may be censored."""
        return FAMILIES[self.family].log_mass is not None

    def log_mass(self, side: Expr, limit: Expr, prediction: Expr, *settings: Expr) -> Expr:
        """Return the log of the probability that a measurement lies below (side -1) or above (side 1) a limit."""
        return FAMILIES[self.family].log_mass(side, self.residual(limit, prediction, *settings))

    def censored_residual(self, side: Expr, limit: Expr, prediction: Expr, *settings: Expr) -> Expr:
        """Return the root of -2 `log_mass`, with the sign of the side: half its square is the loss."""
        log_mass = self.log_mass(side, limit, prediction, *settings)
        is_felt = apply("lt", log_mass, ZERO)
        return side * where(is_felt, apply("sqrt", where(is_felt, -2 * log_mass, ONE)), ZERO)

    def residual(self, measurement: Expr, prediction: Expr, *settings: Expr) -> Expr:
        """Return how far a measurement is from its prediction, on the transformation, beside the noise's scale."""
        measurement, prediction = self._transformed(measurement), self._transformed(prediction)
        return (measurement - prediction) / FAMILIES[self.family].scale(prediction, *settings)

    def information(self, prediction: Expr, *settings: Expr) -> dict[tuple[int, int], Expr | None]:
        """Return the Fisher information of a measurement about its prediction (0) and the settings (1, …), by place.

        What is left out is 0 or follows from symmetry; None stands for what has no closed form.
        """
        entries = FAMILIES[self.family].information(self._transformed(prediction), *settings)
        if self.transformation == "lin":
            return entries
        slope = 1 / (prediction * (math.log(10) if self.transformation == "log10" else 1.0))
        return {place: None if entry is None else entry * slope ** place.count(0) for place, entry in entries.items()}

    def _transformed(self, value: Expr) -> Expr:
        return value if self.transformation == "lin" else apply(self.transformation, value)

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
