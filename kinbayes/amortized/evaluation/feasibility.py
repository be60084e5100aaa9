"""The share of points that can be simulated, of generated ones and of others."""

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import binomtest

from kinbayes.amortized.evaluation.baselines import baselines, best_quarter
from kinbayes.amortized.proposal import LearnedProposal
from kinbayes.ode.status import Status
from kinbayes.problem.problem import Problem

CONDITIONS = tuple(np.linspace(-0.25, 1.25, 13))  # beyond 0 and 1 is extrapolation
OUTSIDE = "OUTSIDE_BOUNDS"


def feasibility(
    problem: Problem,
    proposal: LearnedProposal,
    u: Float[np.ndarray, "n dim"],
    loss: Float[np.ndarray, " n"],
    *,
    conditions: tuple[float, ...] = CONDITIONS,
    num: int = 400,
    seed: int = 0,
) -> pd.DataFrame:
    """Count the points that lie between the bounds and can be simulated.

    Parameters
    ----------
    problem
        The problem.
    proposal
        What generates.
    u, loss
        The training points, scaled, and their losses, +inf where they failed: of these the training set's own share,
        that of its best quarter, and two of the baselines.
    conditions
        Conditions that are asked for.
    num
        Number of points of each row.
    seed
        Seed of the random numbers.

    Returns
    -------
    One row a source, and of source `generated` one a condition (missing for the others): `num`, `feasible`, `share`
    with Wilson's interval of 95 % (`lower`, `upper`), `is_extrapolated`, and a column a reason with the number of
    points that failed by it.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for k, condition in enumerate(conditions):
        points = proposal.generate(seed + k, num, condition).U
        rows.append(_row(problem, "generated", condition, points))
    best = best_quarter(u, loss)
    rows += [_row(problem, b.name, np.nan, b.points) for b in baselines(problem, best, num, rng)]
    rows.append(_row(problem, "prior", np.nan, problem.draw_starts(rng, num)))
    for name, of in (("training", u), ("best_quarter_of_training", best)):
        rows.append(_row(problem, name, np.nan, of[rng.choice(len(of), size=min(num, len(of)), replace=False)]))
    return pd.DataFrame(rows)


def _row(problem: Problem, source: str, condition: float, points: Float[np.ndarray, "n dim"]) -> dict[str, object]:
    counted = reasons(problem, points)
    good = len(points) - sum(counted.values())
    interval = binomtest(good, len(points)).proportion_ci(method="wilson")
    return {
        "source": source,
        "condition": condition,
        "is_extrapolated": bool(condition < 0 or condition > 1),
        "num": len(points),
        "feasible": good,
        "share": good / len(points),
        "lower": interval.low,
        "upper": interval.high,
        **counted,
    }


def reasons(problem: Problem, points: Float[np.ndarray, "n dim"]) -> dict[str, int]:
    """Return how many points failed by which reason, all reasons in the same order."""
    is_inside = ((problem.lower <= points) & (points <= problem.upper)).all(axis=1)
    found = problem.evaluate(points[is_inside]) if is_inside.any() else None
    counted = {OUTSIDE: int(np.sum(~np.asarray(is_inside)))}
    for status in Status:
        if status != Status.OK:
            counted[status.name] = 0 if found is None else int(np.sum(found.status == status))
    return counted
