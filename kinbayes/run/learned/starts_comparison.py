"""What local searches reach from generated points and from other designs, at equal budgets."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from kinbayes.amortized.evaluation.baselines import GAUSSIAN, best_quarter, normal_points
from kinbayes.amortized.proposal import LearnedProposal
from kinbayes.optimizers import OPTIMIZERS
from kinbayes.optimizers.initial import DESIGNS
from kinbayes.problem.problem import Problem
from kinbayes.run.loop.search import search
from kinbayes.run.starts.generated import generated_points
from kinbayes.run.starts.spread import distinct, inside

GENERATED, ARCHIVED = "generated", "archive_best"
DESIGNS_COMPARED = ("latin_hypercube", "random", "multi_jittered")
REDRAWN = 20  # times as many normal points as are needed, to have enough between the bounds
REPLICATES = 2000  # of the bootstrap
COUNTED = (1, 2, 5, 10, 20, 50)  # starts after which optima are counted
NEAR = 10.0  # of loss above the best: ends that are counted as optima


class StartsComparison(NamedTuple):
    """Hold what searches reached.

    Attributes
    ----------
    losses
        One row a start, a column a kind of start; +inf where the start could not be simulated and nothing was found.
    num_outside
        Generated points that lay outside the bounds before there were enough; none of them is a start.
    differences
        One row a kind that is not generated: the `median` over pairs of its final loss minus the generated start's
        (positive where generated starts end lower), and its bootstrap interval of 95 %, `lower` to `upper`.
    optima
        Number of distinct optima less than 10 above the best of all, after some numbers of starts of each kind.
    evaluations
        Simulations of the whole problem that each kind took.
    """

    losses: pd.DataFrame
    num_outside: int
    differences: pd.DataFrame
    optima: pd.DataFrame
    evaluations: dict[str, int]


def compare_starts(
    problem: Problem,
    proposal: LearnedProposal,
    u: Float[np.ndarray, "n dim"],
    loss: Float[np.ndarray, " n"],
    *,
    starts: int = 100,
    evaluations_per_start: int = 50,
    optimizer: str = "multistart",
    seed: int = 0,
) -> StartsComparison:
    """Run the same local search from several kinds of starts.

    Parameters
    ----------
    problem
        The problem. The designs need finite bounds; where one is open, parameters are drawn from their priors.
    proposal
        What generates, at its own condition.
    u, loss
        The training points, scaled, and their losses: the best of them are one kind of start, and draws of a normal
        distribution fitted to the best quarter another.
    starts
        Number of starts of each kind. The first of one kind is paired with the first of the others, and so on.
    evaluations_per_start
        Simulations of the whole problem for each start, on average.
    optimizer
        A local search in `OPTIMIZERS`.
    seed
        Seeds everything that is random.
    """
    rng = np.random.default_rng(seed)
    kept, num_outside = generated_points(problem, proposal, starts, seed)
    points = {
        GENERATED: kept,
        **{name: _designed(problem, name, starts, rng) for name in DESIGNS_COMPARED},
        ARCHIVED: _spread_best(best_quarter(u, loss), starts, rng),
        GAUSSIAN: _normal_between(problem, best_quarter(u, loss), starts, rng),
    }
    found = {}
    for name, begun in points.items():
        found[name] = search(
            problem,
            OPTIMIZERS[optimizer],
            initial=inside(problem, begun)[:, None],
            max_evaluations=starts * evaluations_per_start,
            seed=seed,
        )
    losses = pd.DataFrame({name: run.loss for name, run in found.items()})
    numbers = sorted({*(k for k in COUNTED if k < starts), starts})
    return StartsComparison(
        losses,
        num_outside,
        _differences(losses, rng),
        pd.DataFrame(
            {name: _optima(problem, run.position, run.loss, losses, numbers) for name, run in found.items()},
            index=pd.Index(numbers, name="starts"),
        ),
        {name: run.evaluations for name, run in found.items()},
    )


def _designed(problem: Problem, design: str, n: int, rng: np.random.Generator) -> Float[np.ndarray, "n dim"]:
    points = problem.draw_starts(rng, n)
    lower, upper = np.asarray(problem.lower), np.asarray(problem.upper)
    columns = np.flatnonzero(np.isfinite(upper - lower))
    if len(columns):
        points[:, columns] = DESIGNS[design](int(rng.integers(2**32)), n, lower[columns], upper[columns])
    return points


def _normal_between(
    problem: Problem, best: Float[np.ndarray, "quarter dim"], n: int, rng: np.random.Generator
) -> Float[np.ndarray, "n dim"]:
    """Return normal points between the bounds; the last ones lie outside where there are not enough."""
    points = normal_points(best, REDRAWN * n, rng)
    is_outside = ((points < np.asarray(problem.lower)) | (points > np.asarray(problem.upper))).any(axis=1)
    return points[np.argsort(is_outside, kind="stable")[:n]]


def _spread_best(best: Float[np.ndarray, "quarter dim"], n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the best points; with others of the best quarter once there are no more."""
    return (
        best[:n]
        if len(best) >= n
        else best[np.append(np.arange(len(best)), rng.integers(len(best), size=n - len(best)))]
    )


def _differences(losses: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Return medians of paired differences; failures lie above every number, and two of them are equal."""
    rows = {}
    for name in losses.columns.drop(GENERATED):
        with np.errstate(invalid="ignore"):
            difference = (losses[name] - losses[GENERATED]).to_numpy()
        difference = np.where(np.isnan(difference), 0.0, difference)
        drawn = rng.choice(difference, size=(REPLICATES, len(difference)))
        # Of infinities there is no mean between two: the lower of the two in the middle.
        medians = np.quantile(drawn, 0.5, axis=1, method="lower")
        lower, upper = np.quantile(medians, [0.025, 0.975], method="nearest")
        rows[name] = {
            "median": float(np.quantile(difference, 0.5, method="lower")),
            "lower": float(lower),
            "upper": float(upper),
        }
    return pd.DataFrame(rows).T


def _optima(
    problem: Problem,
    ends: Float[np.ndarray, "starts dim"],
    loss: Float[np.ndarray, " starts"],
    losses: pd.DataFrame,
    numbers: list[int],
) -> list[int]:
    """Return how many distinct optima so many first starts have found."""
    best = float(losses.min(axis=None))
    counts = []
    for k in numbers:
        is_good = loss[:k] <= best + NEAR
        order = np.argsort(loss[:k][is_good], kind="stable")
        counts.append(len(distinct(problem, ends[:k][is_good][order], -loss[:k][is_good][order])) if len(order) else 0)
    return counts
