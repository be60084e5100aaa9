"""Starts of chains around optima: normal approximations of the posterior there, wider than it, by their mass.

Everything is in scaled parameters u, in units of the prior's width. Near a wall that holds an optimum the density falls
exponentially from it rather than as a normal one, and is taken so.

References
----------
Tierney and Kadane (1986), Accurate approximations for posterior moments and marginal densities, Journal of the
American Statistical Association 81, doi:10.1080/01621459.1986.10478240: the mass of a mode.
Gelman and Rubin (1992), Inference from iterative simulation using multiple sequences, Statistical Science 7,
doi:10.1214/ss/1177011136: starts around optima, more widely spread than the posterior.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from kinbayes.ode.status import Status
from kinbayes.problem.problem import Problem
from kinbayes.run.curvature import curvature, walls

NEGLIGIBLE = math.log(1000)  # an optimum whose mass is smaller than the best one's by this factor gets no chain
VALLEY = 1.0  # of log density: what a chain crosses at its next step or the one after
OVERDISPERSION = 2.0  # of covariances: R-hat asks for starts that are spread wider than the posterior
LOWEST = 10.0  # times dim, of log density below the optimum; a start of a normal posterior lies 1 times dim below it
MOST_OPTIMA = 20  # that are looked at, the highest
_BETWEEN = np.arange(1, 8) / 8  # of the way from one end to another, where valleys are looked for
_WIDTH_DRAWS = 1000  # of the prior, for its width
_MOST_DRAWS = 50  # of a start, until one has a density
_MOST_INSIDE = 100  # of a draw, until one lies between the walls
_MOST_HALVINGS = 40  # after which a start lies on its optimum, to rounding


class Optimum(NamedTuple):
    """An optimum and the approximation of the posterior about it.

    Attributes
    ----------
    position
        Scaled vector, strictly inside the walls.
    log_density
        Log posterior density there.
    log_mass
        Log of the approximation's integral over u.
    factor
        F of the covariance F Fᵀ of the parameters that no wall holds; the rows of the others are zero.
    decay
        For every parameter that a wall holds the distance from it in which the density falls by a factor e, negative
        for upper walls; zero for the others.
    """

    position: Float[np.ndarray, " dim"]
    log_density: float
    log_mass: float
    factor: Float[np.ndarray, "dim free"]
    decay: Float[np.ndarray, " dim"]


class Spread(NamedTuple):
    """Starts around optima.

    Attributes
    ----------
    points
        Scaled vectors, (chains, dim), strictly inside the walls and with a density.
    optima
        The optima that matter, the largest mass first.
    chains
        How many chains start around each of them; none where there are fewer chains than optima.
    num_distinct
        Number of distinct optima that are not too low, by `depth`.
    num_pulled
        Number of starts that were drawn too low and moved nearer to their optimum.
    failures
        Draws without a density that were replaced, by reason.
    """

    points: Float[np.ndarray, "chains dim"]
    optima: tuple[Optimum, ...]
    chains: tuple[int, ...]
    num_distinct: int
    num_pulled: int
    failures: Counter[str]


def spread(
    problem: Problem,
    ends: Float[np.ndarray, "ends dim"],
    log_density: Float[np.ndarray, " ends"],
    chains: int,
    rng: np.random.Generator,
) -> Spread:
    """Spread the starts of chains around all optima that matter.

    Two ends of searches are of one optimum if the log density on the straight line between them stays within `VALLEY`
    of the lower one. Of the optima that are not too low, by `depth`, all are kept whose mass is at least a thousandth
    of the largest, and the highest. Every optimum that is kept has a chain if there are enough; the other chains
    follow the masses.

    Parameters
    ----------
    problem
        The problem.
    ends
        Where searches ended: scaled vectors with a density, strictly inside the walls.
    log_density
        The log posterior density there.
    chains
        Number of starts.
    rng
        Random numbers.

    Returns
    -------
    The starts, and of what.
    """
    candidates = np.flatnonzero(log_density >= log_density.max() - depth(problem.dim))
    candidates = candidates[np.argsort(-log_density[candidates], kind="stable")]
    found = distinct(problem, ends[candidates], log_density[candidates])
    width = prior_width(problem, rng)
    optima = [laplace(problem, ends[k], float(log_density[k]), width) for k in candidates[found[:MOST_OPTIMA]]]
    optima.sort(key=lambda optimum: -optimum.log_mass)
    highest = max(optima, key=lambda optimum: optimum.log_density)
    kept = tuple(o for o in optima if o is highest or o.log_mass >= optima[0].log_mass - NEGLIGIBLE)
    counts = dealt(np.array([o.log_mass for o in kept]), chains)
    own = [o for o, count in zip(kept, counts, strict=True) for _ in range(count)]
    points, failures = _drawn(problem, own, rng)
    points, num_pulled = _pulled(problem, own, points)
    return Spread(points, kept, tuple(counts), len(found), num_pulled, failures)


def depth(dim: int) -> float:
    """Return how far below the highest an optimum may lie and yet matter, if it is ten times as wide everywhere."""
    return NEGLIGIBLE + dim * math.log(10)


def inside(problem: Problem, points: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n dim"]:
    """Move points that lie on a wall off it, where unconstrained space has no end."""
    return np.clip(points, *walls(problem))


def prior_width(problem: Problem, rng: np.random.Generator) -> Float[np.ndarray, " dim"]:
    """Return a quarter of the interval that has 95 % of the prior: of a normal one, its standard deviation."""
    low, high = np.quantile(problem.draw_starts(rng, _WIDTH_DRAWS), [0.025, 0.975], axis=0)
    return (high - low) / 4


def distinct(
    problem: Problem, ends: Float[np.ndarray, "ends dim"], log_density: Float[np.ndarray, " ends"]
) -> list[int]:
    """Return the index of one end an optimum, the highest; ends are sorted, the highest first."""
    found: list[int] = []
    for k, end in enumerate(ends):
        lines = [end + fraction * (ends[j] - end) for j in found for fraction in _BETWEEN]
        if lines:
            on_line = problem.evaluate(np.array(lines))
            lowest = np.min((on_line.log_likelihood + on_line.log_prior).reshape(len(found), -1), axis=1)
            if np.any(lowest >= log_density[k] - VALLEY):
                continue
        found.append(k)
    return found


def laplace(
    problem: Problem, position: Float[np.ndarray, " dim"], log_density: float, width: Float[np.ndarray, " dim"]
) -> Optimum:
    """Approximate the posterior about an optimum.

    The Hessian consists of central differences of exact gradients, one-sided at walls. Its eigenvalues, in units of
    the prior's width, count by their absolute value and as 1 at least: no direction is wider than the prior, and a
    saddle is as wide as it is curved.

    Parameters
    ----------
    problem
        The problem.
    position
        The optimum, a scaled vector strictly inside the walls.
    log_density
        The log posterior density there.
    width
        The width of the prior.

    Returns
    -------
    The approximation.
    """
    low, high = walls(problem)
    gradient, hessian, _ = curvature(problem, position, width)
    is_low, is_high = (position <= low) & (gradient < 0), (position >= high) & (gradient > 0)
    is_held = is_low | is_high
    free = np.flatnonzero(~is_held)
    scaled = -hessian[np.ix_(free, free)] * width[free, None] * width[free]
    eigenvalues, vectors = np.linalg.eigh(scaled)
    sd = 1 / np.sqrt(np.maximum(np.abs(eigenvalues), 1.0))
    factor = np.zeros((len(position), len(free)))
    factor[free] = width[free, None] * vectors * sd
    fall = np.maximum(np.maximum(np.abs(gradient), np.sqrt(np.abs(np.diag(hessian)))), 1 / width)
    log_volume = np.sum(np.log(sd * width[free] * math.sqrt(2 * math.pi))) - np.sum(np.log(fall[is_held]))
    decay = np.where(is_held, np.where(is_low, 1 / fall, -1 / fall), 0.0)
    return Optimum(position, log_density, log_density + float(log_volume), factor, decay)


def dealt(log_mass: Float[np.ndarray, " optima"], chains: int) -> list[int]:
    """Deal chains over optima, of which the first are the largest: one each, and then by mass (D'Hondt's rule)."""
    counts = np.where(np.arange(len(log_mass)) < chains, 1, 0)
    for _ in range(chains - counts.sum()):
        counts[np.argmax(log_mass - np.log(counts))] += 1
    return counts.tolist()


def _drawn(
    problem: Problem, optima: Sequence[Optimum], rng: np.random.Generator
) -> tuple[Float[np.ndarray, "chains dim"], Counter[str]]:
    """Draw one start about every optimum, anew while it has no density; return how often that was, and why."""
    points = np.stack([_draw(problem, o, rng) for o in optima])
    failures: Counter[str] = Counter()
    for _ in range(_MOST_DRAWS):
        found = problem.evaluate(points)
        fails = np.flatnonzero(~np.isfinite(found.log_likelihood + found.log_prior))
        if not fails.size:
            break
        failures.update(reasons(found.status[fails]))
        points[fails] = [_draw(problem, optima[k], rng) for k in fails]
    return points, failures


def _draw(problem: Problem, optimum: Optimum, rng: np.random.Generator) -> Float[np.ndarray, " dim"]:
    """Draw from the approximation, made wider: between the walls, after too many tries at them."""
    low, high = walls(problem)
    for _ in range(_MOST_INSIDE):
        normal = optimum.factor @ rng.normal(size=optimum.factor.shape[1])
        exponential = optimum.decay * rng.exponential(size=len(optimum.decay))
        point = optimum.position + math.sqrt(OVERDISPERSION) * (normal + exponential)
        if np.all((low <= point) & (point <= high)):
            break
    return np.clip(point, low, high)


def _pulled(
    problem: Problem, optima: Sequence[Optimum], points: Float[np.ndarray, "chains dim"]
) -> tuple[Float[np.ndarray, "chains dim"], int]:
    """Halve the way from optima to starts that lie too low, until they do not; return how many there were."""
    centers = np.stack([o.position for o in optima])
    lowest = np.array([o.log_density for o in optima]) - LOWEST * problem.dim
    points, is_pulled = points.copy(), np.zeros(len(points), dtype=bool)
    for _ in range(_MOST_HALVINGS):
        found = problem.evaluate(points)
        is_low = ~(found.log_likelihood + found.log_prior >= lowest)
        if not is_low.any():
            break
        is_pulled |= is_low
        points[is_low] = (points[is_low] + centers[is_low]) / 2
    return points, int(is_pulled.sum())


def reasons(status: Int[np.ndarray, " n"]) -> list[str]:
    """Return in a word why points have no density."""
    return [Status(int(s)).name.lower() if s else "zero_density" for s in status]
