"""Whether points have the loss that was asked for."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import linregress, spearmanr

from kinbayes.amortized.proposal import LearnedProposal
from kinbayes.amortized.scaling import to_condition
from kinbayes.problem.problem import Problem

CONDITIONS = tuple(np.linspace(0.0, 1.0, 11))
OUTSIDE = (-0.25, -0.125, 1.125, 1.25)  # extrapolation: in the table, not in the numbers


class Fidelity(NamedTuple):
    """Hold what came of asking.

    Attributes
    ----------
    table
        One row a point: `condition`, `is_extrapolated`, `loss` (+inf where it failed), `achieved` (the condition that
        the loss stands for; missing where it failed).
    spearman
        Rank correlation of what was asked and what was achieved, in [0, 1], failures left out.
    slope, intercept
        Of the straight line through achieved over asked conditions: 1 and 0 where every wish is granted.
    num_failed
        Points that could not be simulated, and are in none of these numbers.
    """

    table: pd.DataFrame
    spearman: float
    slope: float
    intercept: float
    num_failed: int


def fidelity(
    problem: Problem,
    proposal: LearnedProposal,
    *,
    conditions: tuple[float, ...] = CONDITIONS,
    replicates: int = 100,
    seed: int = 0,
) -> Fidelity:
    """Generate points at several conditions, and compare their losses with what was asked for.

    Parameters
    ----------
    problem
        The problem.
    proposal
        What generates.
    conditions
        Conditions in [0, 1]; some beyond are asked for as well.
    replicates
        Number of points a condition.
    seed
        Seed of the random numbers.
    """
    parts = []
    for k, condition in enumerate(sorted([*conditions, *OUTSIDE])):
        loss = losses(problem, proposal.generate(seed + k, replicates, condition).U)
        achieved = to_condition(proposal.condition_scaling, np.where(np.isfinite(loss), loss, np.nan))
        parts.append(pd.DataFrame({"condition": condition, "loss": loss, "achieved": achieved}))
    table = pd.concat(parts, ignore_index=True)
    table.insert(1, "is_extrapolated", (table.condition < 0) | (table.condition > 1))
    asked = table[~table.is_extrapolated]
    kept = asked.dropna()
    if len(kept) < 3 or kept.achieved.nunique() < 2:
        return Fidelity(table, np.nan, np.nan, np.nan, len(asked) - len(kept))
    line = linregress(kept.condition, kept.achieved)
    rank = float(spearmanr(kept.condition, kept.achieved).statistic)
    return Fidelity(table, rank, float(line.slope), float(line.intercept), len(asked) - len(kept))


def losses(problem: Problem, points: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, " n"]:
    """Return negative log densities; +inf outside the bounds and where a simulation failed."""
    is_inside = np.asarray(((problem.lower <= points) & (points <= problem.upper)).all(axis=1))
    loss = np.full(len(points), np.inf)
    if is_inside.any():
        found = problem.evaluate(points[is_inside])
        density = found.log_likelihood + found.log_prior
        loss[is_inside] = np.where(np.isfinite(density), -density, np.inf)
    return loss
