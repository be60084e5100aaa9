"""Points that need no network, to compare generated ones with."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from kinbayes.optimizers.initial import latin_hypercube
from kinbayes.problem.problem import Problem

BEST_SHARE = 0.25  # of the training points, by loss
JITTER = 0.05  # standard deviation, of the ranges of the best quarter
GAUSSIAN = "gaussian_of_best_quarter"


class Baseline(NamedTuple):
    """Hold points (n, dim), scaled, some of which may lie outside the bounds."""

    name: str
    points: Float[np.ndarray, "n dim"]


def best_quarter(u: Float[np.ndarray, "n dim"], loss: Float[np.ndarray, " n"]) -> Float[np.ndarray, "quarter dim"]:
    """Return the quarter of the points whose loss is lowest, best first; those without a loss count as worst."""
    order = np.argsort(loss, kind="stable")
    return u[order[: max(int(BEST_SHARE * len(u)), 1)]]


def normal_points(
    best: Float[np.ndarray, "quarter dim"], num: int, rng: np.random.Generator
) -> Float[np.ndarray, "num dim"]:
    """Return draws of a normal distribution with the mean and the covariance of the best quarter."""
    dim = best.shape[1]
    covariance = np.atleast_2d(np.cov(best, rowvar=False)) if len(best) > 1 else np.zeros((dim, dim))
    return rng.multivariate_normal(best.mean(axis=0), covariance, size=num, method="eigh")


def baselines(
    problem: Problem, best: Float[np.ndarray, "quarter dim"], num: int, rng: np.random.Generator
) -> tuple[Baseline, ...]:
    """Return as many points of four kinds.

    Uniform between the bounds, and a Latin hypercube there (where a bound is open: draws of the prior); best points,
    moved by a twentieth of the best quarter's ranges; draws of a normal distribution with the mean and the covariance
    of the best quarter.

    Parameters
    ----------
    problem
        The problem.
    best
        The best quarter of the training points, best first.
    num
        Number of points of each kind.
    rng
        Random numbers.
    """
    uniform, hypercube = problem.draw_starts(rng, num), problem.draw_starts(rng, num)
    lower, upper = np.asarray(problem.lower), np.asarray(problem.upper)
    columns = np.flatnonzero(np.isfinite(upper - lower))
    if len(columns):
        walls = lower[columns], upper[columns]
        uniform[:, columns] = rng.uniform(*walls, size=(num, len(columns)))
        hypercube[:, columns] = latin_hypercube(int(rng.integers(2**32)), num, *walls)
    jittered = best[np.arange(num) % len(best)] + JITTER * np.ptp(best, axis=0) * rng.normal(size=(num, problem.dim))
    return (
        Baseline("uniform", uniform),
        Baseline("latin_hypercube", hypercube),
        Baseline("jittered_best", jittered),
        Baseline(GAUSSIAN, normal_points(best, num, rng)),
    )
