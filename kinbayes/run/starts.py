"""Where chains and searches start: points at which the posterior has a density, and what the result says of them."""

from collections import Counter

import numpy as np
from jaxtyping import Float

from kinbayes.ode.status import Status
from kinbayes.problem.parameters import scaled
from kinbayes.problem.problem import Problem
from kinbayes.results.store import InferenceData

MOST_TRIES = 1000  # draws a start, before it is given up
NEAR_MODE = 0.1  # of the way from the mode back to a prior draw


class StartError(RuntimeError):
    """No start at which the posterior has a density."""


def chain_starts(
    problem: Problem, initial: str | InferenceData | np.ndarray, chains: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "chains dim"], dict[str, object]]:
    """Return one start a chain, all with a finite density, and what the result is to say of them.

    Raises
    ------
    StartError
        If a given start has no density, or none was found.
    ValueError
        If `initial` is not understood.
    """
    if isinstance(initial, str) and initial == "prior":
        return drawn_starts(problem, chains, rng)
    if isinstance(initial, InferenceData):
        return drawn_starts(problem, chains, rng, mode=best_estimate(problem, initial))
    if isinstance(initial, str) and initial == "nominal":
        given, said = np.tile(np.asarray(problem.nominal), (chains, 1)), "the nominal point, every chain"
    elif isinstance(initial, str):
        raise ValueError(f"unknown initial {initial!r}; choose 'prior', 'nominal', a result of optimize, or an array")
    else:
        given, said = np.asarray(initial, dtype=float), "given"
    if given.shape != (chains, problem.dim):
        raise ValueError(f"initial has shape {given.shape}; {chains} chains need {(chains, problem.dim)}")
    given = _inside(problem, given)
    found = problem.evaluate(given)
    for k in np.flatnonzero(~np.isfinite(found.log_likelihood + found.log_prior)):
        why = _reason(problem, given[k], Status(int(found.status[k])))
        raise StartError(f"the start of chain {k} has no density: {why}")
    return given, {"initial": said}


def _reason(problem: Problem, u: np.ndarray, status: Status) -> str:
    if status == Status.OK:
        return "it lies outside the prior's support"
    failures = problem.failures(u) if problem.engine == "native" else ()
    return str(failures[0]) if failures else status.advice


def best_estimate(problem: Problem, idata: InferenceData) -> Float[np.ndarray, " dim"]:
    """Return the scaled vector of the best start of an optimizer's result.

    Raises
    ------
    ValueError
        If the result has no estimates, or of other parameters.
    """
    if "map_estimate" not in idata.groups():
        raise ValueError("this result has no group map_estimate; give the result of kinbayes.optimize")
    estimates = idata.map_estimate
    missing = sorted(set(problem.parameter_names) - set(estimates.data_vars))
    if missing:
        raise ValueError(f"the result has no estimates of {missing}; it is of another problem")
    best = estimates.isel(start=int(np.argmax(estimates["log_density"].values)))
    return scaled(np.array([float(best[n]) for n in problem.parameter_names]), problem.scale)


def drawn_starts(
    problem: Problem, size: int, rng: np.random.Generator, *, mode: Float[np.ndarray, " dim"] | None = None
) -> tuple[Float[np.ndarray, "size dim"], dict[str, object]]:
    """Return draws of the prior with a finite density, and what the result is to say of them.

    A draw without a density is replaced by another one. With a `mode`, draws are pulled nine tenths of the way to it.

    Raises
    ------
    StartError
        If too few were found.
    """
    said = "draws of the prior"
    if mode is not None:
        said += " pulled nine tenths of the way to the best mode; R-hat is blind to modes that no start has seen"
    kept: list[np.ndarray] = []
    failures: Counter[str] = Counter()
    tried = 0
    while len(kept) < size and tried < MOST_TRIES * size:
        points = problem.draw_starts(rng, size)
        points = _inside(problem, points if mode is None else mode + NEAR_MODE * (points - mode))
        found = problem.evaluate(points)
        is_good = np.isfinite(found.log_likelihood + found.log_prior)
        kept.extend(points[is_good])
        failures.update(Status(int(s)).name.lower() if s else "zero_density" for s in found.status[~is_good])
        tried += size
    if len(kept) < size:
        raise StartError(
            f"only {len(kept)} of {tried} draws of the prior could be simulated ({dict(failures)}); check the model "
            "at its nominal point, or narrow the priors"
        )
    return np.stack(kept[:size]), {
        "initial": said,
        "starts_redrawn": sum(failures.values()),
        "starts_failed_by_reason": dict(failures),
    }


def _inside(problem: Problem, points: np.ndarray) -> np.ndarray:
    """Move points that lie on a wall off it, where unconstrained space has no end."""
    lower, upper = np.asarray(problem.lower), np.asarray(problem.upper)
    width = np.where(np.isfinite(upper - lower), upper - lower, 1.0)
    return np.clip(points, lower + 1e-6 * width, upper - 1e-6 * width)
