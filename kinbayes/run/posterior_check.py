"""Whether the solver's errors matter to a posterior, and whether simulations fail where its mass lies."""

from collections import Counter

import numpy as np
from jaxtyping import Float

from kinbayes.ode.status import Status
from kinbayes.problem.problem import Problem
from kinbayes.results.importance import importance
from kinbayes.run.starts.spread import reasons

MOST_DRAWS = 100  # simulated again; at tighter tolerances each takes a few times as long as in the run
MOST_MOVED = 400  # points beside draws
_TIGHTER = 1e-3  # of both tolerances; never below what float64 resolves
_FINEST = 1e-12
_MOVE = 0.3  # of the difference of two draws: covariances grow by 2 * 0.3², so points stay where the mass is


def solver_check(problem: Problem, draws: Float[np.ndarray, "n dim"]) -> dict[str, int | float | None]:
    """Compare the log likelihood of draws with that at tolerances a thousand times tighter.

    The tighter posterior has the weights exp(tight - loose) at draws of the looser. Where they are all but equal the
    solver's errors change nothing; how unequal they are is told by the effective share of the draws, and whether the
    share itself can be trusted by the shape k of the weights' tail (Pareto smoothed importance sampling). Of weights
    that are all but equal k says nothing: errors may have a heavy tail and yet be far too small to matter.

    Parameters
    ----------
    problem
        The problem that was sampled, at the tolerances of the run.
    draws
        Its draws, scaled; up to a hundred are taken, evenly spread.

    Returns
    -------
    `draws`, the number taken; `rtol` and `atol`, the tighter tolerances; `failed`, how many draws could not be
    simulated at one of the tolerances, and are left out; `k_hat`, `effective_share` and `largest_change` (of a log
    likelihood) of the others, None where there are none, and `k_hat` where they are too few for a tail.
    """
    taken = draws[np.linspace(0, len(draws) - 1, min(len(draws), MOST_DRAWS)).round().astype(int)]
    rtol, atol = (min(value, max(_TIGHTER * value, _FINEST)) for value in (problem.rtol, problem.atol))
    loose = problem.evaluate(taken).log_likelihood
    tight = problem.with_tolerances(rtol, atol).evaluate(taken).log_likelihood
    is_good = np.isfinite(loose) & np.isfinite(tight)
    said = {"draws": len(taken), "rtol": rtol, "atol": atol, "failed": int(np.sum(~is_good))}
    if not is_good.any():
        return said | {"k_hat": None, "effective_share": None, "largest_change": None}
    change = tight[is_good] - loose[is_good]
    weights = importance(change)
    return said | {
        "k_hat": float(weights.k_hat) if np.isfinite(weights.k_hat) else None,
        "effective_share": float(weights.effective_share),
        "largest_change": float(np.max(np.abs(change))),
    }


def failed_near_bulk(
    problem: Problem, draws: Float[np.ndarray, "n dim"], rng: np.random.Generator
) -> dict[str, int | dict[str, int]]:
    """Count simulations that fail beside the draws.

    A draw is never a point where the simulation fails, so a posterior that failures cut off looks whole. Points beside
    draws show it: each is a draw, moved by a small multiple of the difference of two others.

    Parameters
    ----------
    problem
        The problem that was sampled.
    draws
        Its draws, scaled, (n, dim); at least two.
    rng
        Random numbers.

    Returns
    -------
    `tried`, the number of points, those of 400 that lie between the walls; `failed`, how many could not be simulated;
    `by_reason`, how many for which reason.
    """
    at, one, other = rng.integers(len(draws), size=(3, MOST_MOVED))
    other = np.where(other == one, (other + 1) % len(draws), other)
    points = draws[at] + _MOVE * (draws[one] - draws[other])
    points = points[np.all((problem.lower < points) & (points < problem.upper), axis=1)]
    status = problem.evaluate(points).status if len(points) else np.zeros(0, dtype=int)
    by_reason = Counter(reasons(status[status != Status.OK]))
    return {"tried": len(points), "failed": sum(by_reason.values()), "by_reason": dict(by_reason)}
