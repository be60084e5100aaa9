"""Measurement noise: how measurements scatter around their predictions.

A density may be stated on a transformation of the measurement; its Jacobian is kept, so that log likelihoods are
densities of the measurements as they stand in the data and compare across transformations.

A censored measurement is a limit that the true value lies below or above. Its density is the mass of that side, the
same on every transformation.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kinbayes.model.expressions import ONE, ZERO, Expr, apply, where
from kinbayes.problem.families import FAMILIES, Column

Transformation = Literal["lin", "log", "log10"]
TRANSFORMATIONS = ("lin", "log", "log10")
CENSORING = {"": 0.0, "below": -1.0, "above": 1.0}  # where the true value lies, and the number that stands for it


@dataclass(frozen=True)
class Noise:
    """How a measurement scatters around its prediction.

    Build it with `normal`, `log_normal`, `laplace`, `student_t` or `negative_binomial`; classical objective functions
    are in `kinbayes.problem.objectives`.

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
    def is_likelihood(self) -> bool:
        """Whether it is a density, which may be sampled; else minus the term of an objective function."""
        return FAMILIES[self.family].is_likelihood

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
        """Return how far a measurement is from its prediction, on the transformation, beside the noise's scale.

        Of squares, penalties and statements it is the number half of whose square is the loss.
        """
        family = FAMILIES[self.family]
        measurement, prediction = self._transformed(measurement), self._transformed(prediction)
        if family.residual is not None:
            return family.residual(measurement, prediction, *settings)
        return (measurement - prediction) / family.scale(prediction, *settings)

    def information(self, prediction: Expr, *settings: Expr) -> dict[tuple[int, int], Expr | None]:
        """Return the Fisher information of a measurement about its prediction (0) and the settings (1, …), by place.

        What is left out is 0 or follows from symmetry; None stands for what has no closed form.
        """
        return self._on_data(FAMILIES[self.family].information(self._transformed(prediction), *settings), prediction)

    def curvature(self, measurement: Expr, prediction: Expr, *settings: Expr) -> dict[tuple[int, int], Expr | None]:
        """Return entries like those of `information`, of a model of minus the log density that holds far from optima.

        On average over measurements that the prediction and the settings fit, it is the same.
        """
        family = FAMILIES[self.family]
        if family.curvature is None:
            return self.information(prediction, *settings)
        z = self.residual(measurement, prediction, *settings)
        return self._on_data(family.curvature(z, self._transformed(prediction), *settings), prediction)

    def _on_data(
        self, entries: dict[tuple[int, int], Expr | None], prediction: Expr
    ) -> dict[tuple[int, int], Expr | None]:
        """Return entries about a transformed prediction as those about the prediction."""
        if self.transformation == "lin":
            return entries
        slope = 1 / (prediction * (math.log(10) if self.transformation == "log10" else 1.0))
        return {place: None if entry is None else entry * slope ** place.count(0) for place, entry in entries.items()}

    def _transformed(self, value: Expr) -> Expr:
        return value if self.transformation == "lin" else apply(self.transformation, value)

    def draw(self, rng: np.random.Generator, prediction: Column, *settings: Column) -> Column:
        """Return draws of measurements around a prediction; NaN where there are none.

        That is where the prediction is no number, where its transformation has none, and where a setting is not
        positive, as that of a standard deviation in proportion to a prediction which is negative.

        Raises
        ------
        ValueError
            If it is no likelihood, which says nothing of how measurements scatter.
        """
        draw = FAMILIES[self.family].draw
        if draw is None:
            raise ValueError(f"{self.family!r} is no likelihood: it does not say how measurements scatter")
        factor = math.log(10) if self.transformation == "log10" else 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            center = prediction if self.transformation == "lin" else np.log(prediction) / factor
        is_known = np.isfinite(center) & np.all([np.asarray(setting) > 0 for setting in settings], axis=0)
        drawn = draw(rng, *(np.where(is_known, value, 1.0) for value in (center, *settings)))
        return np.where(is_known, drawn if self.transformation == "lin" else np.exp(factor * drawn), np.nan)


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
