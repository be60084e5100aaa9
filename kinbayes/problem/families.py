"""What a row of data adds to the log likelihood: densities around a prediction, as expressions, and draws by NumPy.

Some are no densities: minus the terms of classical objective functions and penalties. They fit, and nothing can be
sampled or drawn from them.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from kinbayes.model.expressions import ONE, ZERO, Expr, apply, const, where

Column = Float[np.ndarray, "..."]
# Names of what every row brings itself, where a setting is to be that; no formula can use them.
MEASUREMENT, MEAN = "the measurement", "the mean of the measurements"


class Family(NamedTuple):
    """A family of densities around a prediction, with the names of its settings."""

    settings: tuple[str, ...]
    log_density: Callable[..., Expr]  # (measurement, prediction, *settings), both transformed
    draw: Callable[..., Column] | None  # (rng, prediction, *settings), transformed; None: it is no likelihood
    # (prediction, *settings), transformed -> what a deviation is measured by, and the Fisher information of prediction
    # and settings by place, where it is not 0; None where it has no closed form
    scale: Callable[..., Expr]
    information: Callable[..., dict[tuple[int, int], Expr | None]]
    # (side, deviation over the scale) -> the log of the mass below (side -1) or above (1); None where it has no form
    log_mass: Callable[[Expr, Expr], Expr] | None = None
    # (measurement, prediction, *settings), transformed, where it is not their difference over the scale
    residual: Callable[..., Expr] | None = None
    # (deviation over the scale, prediction, *settings), transformed -> entries like those of `information`, positive
    # semidefinite, of a model of minus the log density that holds far from the optimum too; None: `information` does
    curvature: Callable[..., dict[tuple[int, int], Expr | None]] | None = None

    @property
    def is_likelihood(self) -> bool:
        """Whether it is a density, which may be sampled."""
        return self.draw is not None


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


def _square(y: Expr, prediction: Expr, scale: Expr) -> Expr:
    z = (y - prediction) / scale
    return -z * z


def _squares(scale: str) -> Family:
    """Return a sum of squares over a scale."""
    return Family(
        (scale,),
        _square,
        None,
        lambda m, scale: scale,
        lambda m, scale: {(0, 0): 2 / (scale * scale)},  # Gauss and Newton's matrix
        residual=lambda y, m, scale: math.sqrt(2) * (y - m) / scale,
    )


def _log_probability(holds: Expr, gap: Expr, confidence: Expr, tolerance: Expr) -> Expr:
    """Return ln of (1-c)/2 + c Φ(-gap/s), or of its complement for a statement that does not hold (0)."""
    side = 2 * holds - 1
    by_chance = apply("log", (1 - confidence) / 2)
    by_gap = apply("log", confidence) + apply("log_normal_cdf", -side * gap / tolerance)
    most = apply("max", by_chance, by_gap)
    return most + apply("log", apply("exp", by_chance - most) + apply("exp", by_gap - most))


def _draw_statement(rng: np.random.Generator, gap: Column, confidence: Column, tolerance: Column) -> Column:
    from scipy.special import ndtr

    probability = (1 - confidence) / 2 + confidence * ndtr(-gap / tolerance)
    return (rng.random(np.shape(gap)) < probability).astype(float)


def _statement_information(gap: Expr, confidence: Expr, tolerance: Expr) -> dict[tuple[int, int], Expr | None]:
    # (dp/dz)²/(p(1 - p)), in logarithms: far from 0 its parts overflow and vanish.
    z = gap / tolerance
    spread = sum(_log_probability(const(holds), gap, confidence, tolerance) for holds in (0.0, 1.0))
    by_z = apply("exp", 2 * apply("log", confidence) - z * z - math.log(2 * math.pi) - spread)
    by_gap = by_z / (tolerance * tolerance)
    return {(0, 0): by_gap, (0, 2): -by_gap * z, (2, 2): by_gap * z * z, (1, 1): None}


def is_satisfied(gap: Expr, is_strict: Expr) -> Expr:
    """Return whether an inequality holds: its gap is negative, or 0 where equality is allowed."""
    return apply("or", apply("lt", gap, ZERO), apply("and", apply("eq", gap, ZERO), apply("eq", is_strict, ZERO)))


def _penalty(holds: Expr, gap: Expr, penalty: Expr, is_strict: Expr) -> Expr:
    return where(is_satisfied(gap, is_strict), ZERO, -penalty)


def _root_of_twice_the_loss(log_density: Callable[..., Expr]) -> Callable[..., Expr]:
    def residual(*values: Expr) -> Expr:
        loss = -log_density(*values)
        is_felt = apply("gt", loss, ZERO)
        return where(is_felt, apply("sqrt", where(is_felt, 2 * loss, ONE)), ZERO)

    return residual


FAMILIES: dict[str, Family] = {
    "normal": Family(
        ("sd",),
        _normal,
        lambda rng, m, sd: rng.normal(m, sd),
        lambda m, sd: sd,
        lambda m, sd: {(0, 0): 1 / (sd * sd), (1, 1): 2 / (sd * sd)},
        _normal_log_mass,
        # Gauss and Newton's of half the squared deviation, and 1 for the logarithm of the sd: where deviations are
        # large, the expected information says nothing of how much a larger sd would gain.
        curvature=lambda z, m, sd: {
            (0, 0): 1 / (sd * sd),
            (0, 1): z / (sd * sd),
            (1, 1): (1 + z * z) / (sd * sd),
        },
    ),
    "laplace": Family(
        ("scale",),
        _laplace,
        lambda rng, m, scale: rng.laplace(m, scale),
        lambda m, scale: scale,
        lambda m, scale: {(0, 0): 1 / (scale * scale), (1, 1): 1 / (scale * scale)},
        _laplace_log_mass,
        curvature=lambda z, m, scale: {
            (0, 0): 1 / (scale * scale),
            (1, 1): apply("abs", z) / (scale * scale),
        },
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
    # Classical objective functions.
    "sos": _squares("scale"),
    "norm_sos": _squares("measurement"),
    "ave_norm_sos": _squares("mean"),
    "sod": Family(
        (),
        lambda y, m: -apply("abs", y - m),
        None,
        lambda m: ONE,
        lambda m: {(0, 0): None},
    ),
    # Statements: what is measured is whether left < right holds (1) or not (0), the prediction their gap left - right.
    "probit": Family(
        ("confidence", "tolerance"),
        _log_probability,
        _draw_statement,
        lambda gap, confidence, tolerance: tolerance,
        _statement_information,
        residual=_root_of_twice_the_loss(_log_probability),
    ),
    "static_penalty": Family(
        ("penalty", "is_strict"),
        _penalty,
        None,
        lambda gap, penalty, is_strict: ONE,
        lambda gap, penalty, is_strict: {},  # piecewise linear in its penalty
        residual=_root_of_twice_the_loss(_penalty),
    ),
}
