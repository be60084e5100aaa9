"""Where searches begin: designs between the bounds, the nominal point, or the ends of an earlier search."""

from collections import Counter

import numpy as np
from jaxtyping import Bool, Float

from kinbayes.amortized.proposal import LearnedProposal
from kinbayes.optimizers.initial import DESIGNS
from kinbayes.problem.problem import Problem
from kinbayes.results.store import InferenceData
from kinbayes.run.starts.chain_starts import MOST_TRIES, StartError, estimates, reason, values
from kinbayes.run.starts.generated import generated_points, said_of
from kinbayes.run.starts.spread import reasons

Points = Float[np.ndarray, "starts points dim"]


def search_starts(
    problem: Problem,
    initial: str | InferenceData | np.ndarray,
    starts: int,
    num_points: int,
    seed: int,
    proposal: LearnedProposal | None = None,
) -> tuple[Points, dict[str, object]]:
    """Return the points at which every start of an optimizer begins, and what the result is to say of them.

    A start that is a single point is replaced, by draws of the prior, until it has a density. Of the points of a
    population one at least has.

    Parameters
    ----------
    problem
        The problem.
    initial
        A name in `DESIGNS`: parameters between finite bounds are spread over them, the others drawn from their priors.
        `prior`: all are drawn from the priors. `nominal`: the nominal point, and a Latin hypercube for what else there
        is to be. `generative`: points of the proposal's network. A result of `optimize`: its ends, the best first, in
        the place of the nominal point. Or scaled vectors (starts, dim), one in every start.
    starts
        Number of starts.
    num_points
        Number of points of a start.
    seed
        Seed of the random numbers.
    proposal
        What generates.

    Raises
    ------
    StartError
        If a start has no point with a density, or generated points lie outside the bounds.
    ValueError
        If `initial` is not understood.
    """
    rng = np.random.default_rng(seed)
    is_generated = isinstance(initial, str) and initial == "generative"
    known, said = (np.zeros((0, problem.dim)), "") if is_generated else _known(problem, initial, starts)
    design = initial if isinstance(initial, str) and initial != "nominal" else "latin_hypercube"
    if is_generated:
        generated, num_outside = generated_points(problem, proposal, starts * num_points, seed)
        points, said = generated.reshape(starts, num_points, problem.dim), said_of(proposal, num_outside)
    elif num_points == 1:
        points = _designed(problem, design, rng, starts)[:, None]
    else:
        points = np.stack([_designed(problem, design, rng, num_points) for _ in range(starts)])
    points[: len(known), 0] = known
    flat = points.reshape(-1, problem.dim)
    is_good = _has_density(problem, flat).reshape(starts, num_points)
    failures: Counter[str] = Counter()
    if num_points == 1:
        failures = _replaced(problem, points[:, 0], is_good[:, 0], rng)
    elif not is_good.any(axis=1).all():
        raise StartError(_all_failed(problem, points[np.flatnonzero(~is_good.any(axis=1))[0]]))
    return points, {
        "initial": said,
        "starts_redrawn": sum(failures.values()),
        "starts_failed_by_reason": dict(failures),
    }


def _known(
    problem: Problem, initial: str | InferenceData | np.ndarray, starts: int
) -> tuple[Float[np.ndarray, "known dim"], str]:
    """Return the points that are given, at most one a start, and in words where all come from."""
    none = np.zeros((0, problem.dim))
    if isinstance(initial, InferenceData):
        found = values(problem, estimates(initial))
        return _between(problem, found[:starts]), "the ends of an earlier search, the best first, and a Latin hypercube"
    if not isinstance(initial, str):
        given = np.asarray(initial, dtype=float)
        if given.shape != (starts, problem.dim):
            raise ValueError(f"initial has shape {given.shape}; {starts} starts need {(starts, problem.dim)}")
        return _between(problem, given), "given"
    if initial == "nominal":
        u = np.asarray(problem.nominal)[None]
        if np.isnan(u).any():
            missing = [n for n, value in zip(problem.parameter_names, u[0], strict=True) if np.isnan(value)]
            raise ValueError(f"parameters {missing} have no nominal value; begin elsewhere, or give them one")
        return _between(problem, u), "the nominal point, and a Latin hypercube"
    if initial == "prior":
        return none, "draws of the prior"
    if initial in DESIGNS:
        return none, f"{initial} between the bounds; draws of the prior where they are open"
    raise ValueError(
        f"unknown initial {initial!r}; choose from {sorted([*DESIGNS, 'prior', 'nominal', 'generative'])}, a result of "
        "optimize, or an array"
    )


def _between(problem: Problem, points: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n dim"]:
    """Return given points, once they are known to lie between the bounds, but for rounding."""
    lower, upper = np.asarray(problem.lower), np.asarray(problem.upper)
    inside = np.clip(points, lower, upper)
    outside = np.argwhere(np.abs(inside - points) > 1e-9 * np.maximum(np.abs(inside), 1.0))
    if len(outside):
        k, p = outside[0]
        raise ValueError(
            f"start {k} has {problem.parameter_names[p]!r} at {points[k, p]:.6g} (scaled), outside its bounds "
            f"[{lower[p]:.6g}, {upper[p]:.6g}]; move it between them, or widen them"
        )
    return inside


def _designed(problem: Problem, design: str, rng: np.random.Generator, n: int) -> Float[np.ndarray, "n dim"]:
    points = problem.draw_starts(rng, n)
    lower, upper = np.asarray(problem.lower), np.asarray(problem.upper)
    columns = np.flatnonzero(np.isfinite(upper - lower))
    if design != "prior" and len(columns):
        points[:, columns] = DESIGNS[design](int(rng.integers(2**32)), n, lower[columns], upper[columns])
    return points


def _has_density(problem: Problem, points: Float[np.ndarray, "n dim"]) -> Bool[np.ndarray, " n"]:
    found = problem.evaluate(points)
    return np.isfinite(found.log_likelihood + found.log_prior)


def _replaced(
    problem: Problem,
    points: Float[np.ndarray, "starts dim"],
    is_good: Bool[np.ndarray, " starts"],
    rng: np.random.Generator,
) -> Counter[str]:
    """Replace points without a density in their place; return how often that was, and why."""
    failures: Counter[str] = Counter()
    bad, tried = np.flatnonzero(~is_good), 0
    while bad.size and tried < MOST_TRIES * len(points):
        failures.update(reasons(problem.evaluate(points[bad]).status))
        first = points[bad].copy()
        points[bad] = problem.draw_starts(rng, len(bad))
        tried += len(bad)
        bad = bad[~_has_density(problem, points[bad])]
    if bad.size:
        raise StartError(_all_failed(problem, first))
    return failures


def _all_failed(problem: Problem, points: Float[np.ndarray, "n dim"]) -> str:
    found = problem.evaluate(points)
    counted = dict(Counter(reasons(found.status)))
    example = ", ".join(f"{name}={value:.4g}" for name, value in problem.to_natural(points[0]).items())
    return (
        f"none of {len(points)} points could be simulated ({counted}); the first, {example}: "
        f"{reason(problem, points[0])}. Check the model at its nominal point, or narrow the bounds"
    )
