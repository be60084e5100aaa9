"""Where chains and searches start: points at which the posterior has a density, and what the result says of them."""

from collections import Counter

import numpy as np
import xarray as xr
from jaxtyping import Float

from kinbayes.ode.status import Status
from kinbayes.optimizers import OPTIMIZERS
from kinbayes.problem.parameters import scaled
from kinbayes.problem.problem import Problem
from kinbayes.results.store import InferenceData
from kinbayes.run.loop.search import search
from kinbayes.run.starts.spread import Spread, depth, inside, reasons, spread

MOST_TRIES = 1000  # draws a start, before it is given up
SEARCHES = 20  # of "multistart"; as many as `optimize` starts
PER_SEARCH = 10  # draws of the prior, of which a search begins at the best: values cost less than searches that fail
MOST_EVALUATIONS = 20_000  # of all searches together, as in `optimize`
_ROUNDING = 1e-9  # of a parameter's range, by which a point may lie outside it


class StartError(RuntimeError):
    """No start at which the posterior has a density."""


def chain_starts(
    problem: Problem, initial: str | InferenceData | np.ndarray, chains: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "chains dim"], dict[str, object]]:
    """Return one start a chain, all with a finite density, and what the result is to say of them.

    Parameters
    ----------
    problem
        The problem.
    initial
        `prior`: draws of the prior. `nominal`: the nominal point. `multistart`: around all optima that matter of those
        that searches find, from the nominal point and from the best of ten draws of the prior each. A result of
        `optimize`: around all of its optima that matter. A result of `sample`: the last draw of every chain or, if
        they are another number, draws of all of them. Or scaled vectors (chains, dim).
    chains
        Number of chains.
    rng
        Random numbers.

    Raises
    ------
    StartError
        If a given start has no density, or none was found.
    ValueError
        If `initial` is not understood.
    """
    if isinstance(initial, InferenceData):
        if "posterior" in initial.groups():
            return _given(problem, *_continued(problem, initial, chains, rng), chains)
        ends = values(problem, estimates(initial))
        return _spread(problem, ends, f"the {len(ends)} searches of a result", Counter(), chains, rng)
    if not isinstance(initial, str):
        return _given(problem, np.asarray(initial, dtype=float), "given", chains)
    if initial == "prior":
        return drawn_starts(problem, chains, rng)
    if initial == "nominal":
        points = np.tile(np.asarray(problem.nominal), (chains, 1))
        return _given(problem, points, "the nominal point, every chain", chains)
    if initial == "multistart":
        return _spread(problem, *_searched(problem, rng), chains, rng)
    raise ValueError(
        f"unknown initial {initial!r}; choose 'prior', 'nominal', 'multistart', a result of optimize or of sample, or "
        "an array"
    )


def _given(
    problem: Problem, given: np.ndarray, said: str, chains: int
) -> tuple[Float[np.ndarray, "chains dim"], dict[str, object]]:
    """Return given starts, once they all have a density."""
    if given.shape != (chains, problem.dim):
        raise ValueError(f"initial has shape {given.shape}; {chains} chains need {(chains, problem.dim)}")
    lower, upper = np.asarray(problem.lower), np.asarray(problem.upper)
    slack = _ROUNDING * np.where(np.isfinite(upper - lower), upper - lower, 1.0)
    outside = np.argwhere((given < lower - slack) | (given > upper + slack))
    if len(outside):
        k, p = outside[0]
        raise StartError(
            f"the start of chain {k} has {problem.parameter_names[p]!r} at {given[k, p]:.6g} (scaled), outside its "
            f"bounds [{lower[p]:.6g}, {upper[p]:.6g}]; move it between them, or widen them"
        )
    given = inside(problem, given)
    found = problem.evaluate(given)
    for k in np.flatnonzero(~np.isfinite(found.log_likelihood + found.log_prior)):
        why = reason(problem, given[k])
        raise StartError(f"the start of chain {k} has no density: {why}")
    return given, {"initial": said}


def reason(problem: Problem, u: Float[np.ndarray, " dim"]) -> str:
    """Return in words why a vector has no density."""
    status = Status(int(problem.evaluate(u[None]).status[0]))
    if status == Status.OK:
        return "it lies outside the prior's support"
    failures = problem.failures(u) if problem.engine == "native" else ()
    return str(failures[0]) if failures else status.advice


def _continued(
    problem: Problem, idata: InferenceData, chains: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "chains dim"], str]:
    """Return draws of an earlier run: the last of every chain, or from all parts of all chains."""
    draws = values(problem, idata.posterior.transpose("chain", "draw", ...))
    if len(draws) == chains:
        return draws[:, -1], "the last draw of every chain of an earlier run"
    pooled = draws.reshape(-1, problem.dim)
    if len(pooled) < chains:
        raise ValueError(f"the earlier run has {len(pooled)} draws, fewer than {chains} chains; start fewer chains")
    parts = np.array_split(np.arange(len(pooled)), chains)
    return pooled[[rng.choice(part) for part in parts]], f"draws of an earlier run, spread over its {len(draws)} chains"


def best_estimate(problem: Problem, idata: InferenceData) -> Float[np.ndarray, " dim"]:
    """Return the scaled vector of the best start of an optimizer's result.

    Raises
    ------
    ValueError
        If the result has no estimates, or of other parameters.
    """
    found = estimates(idata)
    return values(problem, found)[int(np.argmax(found["log_density"].values))]


def estimates(idata: InferenceData) -> xr.Dataset:
    """Return where every start of an optimizer ended, the best first.

    Raises
    ------
    ValueError
        If the result has no estimates.
    """
    if "map_estimate" not in idata.groups():
        raise ValueError("this result has no group map_estimate; give the result of kinbayes.optimize")
    return idata.map_estimate


def values(problem: Problem, group: xr.Dataset) -> Float[np.ndarray, "*batch dim"]:
    """Return the scaled vectors of a result, its parameters matched by name."""
    missing = sorted(set(problem.parameter_names) - set(group.data_vars))
    if missing:
        raise ValueError(f"the result has no estimates of {missing}; it is of another problem")
    return scaled(np.stack([group[n].values for n in problem.parameter_names], axis=-1), problem.scale)


def _searched(
    problem: Problem, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "searches dim"], str, Counter[str]]:
    """Search for optima; return where every search ended, what they began at, and the draws without a density."""
    nominal = _nominal(problem)
    num_drawn = SEARCHES - len(nominal)
    drawn, failures = _draws(problem, PER_SEARCH * num_drawn, rng)
    log_density = _log_density(problem, drawn).reshape(num_drawn, PER_SEARCH)
    best = drawn.reshape(num_drawn, PER_SEARCH, -1)[np.arange(num_drawn), np.argmax(log_density, axis=1)]
    run = search(
        problem,
        OPTIMIZERS["multistart"],
        initial=np.concatenate([nominal, best])[:, None],
        max_evaluations=MOST_EVALUATIONS,
        seed=int(rng.integers(2**32)),
    )
    if run.stopped == "interrupted":
        raise KeyboardInterrupt
    begun = ["the nominal point"] if len(nominal) else []
    begun += [f"the best of {PER_SEARCH} draws of the prior, {num_drawn} times"]
    return run.position, f"{SEARCHES} searches from {' and '.join(begun)}", failures


def _nominal(problem: Problem) -> Float[np.ndarray, "at_most_one dim"]:
    """Return the nominal point, off the walls; nothing where the problem states none, or none with a density."""
    u = np.asarray(problem.nominal)[None]
    if not np.all((problem.lower <= u) & (u <= problem.upper)):
        return u[:0]
    u = inside(problem, u)
    return u[np.isfinite(_log_density(problem, u))]


def _log_density(problem: Problem, points: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, " n"]:
    found = problem.evaluate(points)
    return found.log_likelihood + found.log_prior


def _spread(
    problem: Problem,
    ends: Float[np.ndarray, "ends dim"],
    origin: str,
    failures: Counter[str],
    chains: int,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "chains dim"], dict[str, object]]:
    """Return starts around the optima at which searches ended, and what the result is to say of them."""
    ends = inside(problem, ends)
    log_density = _log_density(problem, ends)
    is_good = np.isfinite(log_density)
    if not is_good.any():
        why = dict(Counter(reasons(problem.evaluate(ends).status)))
        raise StartError(f"none of {origin} ended at a point with a density ({why}); start chains from the prior")
    spreading = spread(problem, ends[is_good], log_density[is_good], chains, rng)
    failures = failures + spreading.failures
    return spreading.points, {
        "initial": _told(spreading, origin),
        "optima": len(spreading.optima),
        "starts_redrawn": sum(failures.values()),
        "starts_failed_by_reason": dict(failures),
        "starts_pulled_back": spreading.num_pulled,
    }


def _told(spreading: Spread, origin: str) -> str:
    optima, best = spreading.optima, max(o.log_mass for o in spreading.optima)
    num_started, below = sum(c > 0 for c in spreading.chains), depth(spreading.points.shape[1])
    each = [
        f"{o.log_density:.2f} ({np.exp(o.log_mass - best):.2g}; {count})"
        for o, count in zip(optima, spreading.chains, strict=True)
    ]
    return (
        f"spread around {num_started} of {spreading.num_distinct} distinct optima, at most {below:.0f} of log density "
        f"below the best, that {origin} found; log density (mass relative to the largest; chains) of the "
        f"{len(optima)} that matter: {', '.join(each)}; R-hat is blind to modes that no start has seen"
    )


def drawn_starts(
    problem: Problem, size: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "size dim"], dict[str, object]]:
    """Return draws of the prior with a finite density, and what the result is to say of them.

    A draw without a density is replaced by another one.

    Raises
    ------
    StartError
        If too few were found.
    """
    points, failures = _draws(problem, size, rng)
    return points, {
        "initial": "draws of the prior",
        "starts_redrawn": sum(failures.values()),
        "starts_failed_by_reason": dict(failures),
    }


def _draws(problem: Problem, size: int, rng: np.random.Generator) -> tuple[Float[np.ndarray, "size dim"], Counter[str]]:
    kept: list[np.ndarray] = []
    failures: Counter[str] = Counter()
    tried = 0
    while len(kept) < size and tried < MOST_TRIES * size:
        points = inside(problem, problem.draw_starts(rng, size))
        found = problem.evaluate(points)
        is_good = np.isfinite(found.log_likelihood + found.log_prior)
        kept.extend(points[is_good])
        failures.update(reasons(found.status[~is_good]))
        tried += size
    if len(kept) < size:
        raise StartError(
            f"only {len(kept)} of {tried} draws of the prior could be simulated ({dict(failures)}); check the model "
            "at its nominal point, or narrow the priors"
        )
    return np.stack(kept[:size]), failures
