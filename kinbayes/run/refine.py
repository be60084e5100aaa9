"""Local searches from the best points that a search has found, in heats."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from kinbayes.optimizers import OPTIMIZERS
from kinbayes.problem.problem import Problem
from kinbayes.run.loop.runs import OptimizerProgress, OptimizerRun
from kinbayes.run.loop.search import search

REFINERS = ("multistart", "quasi_newton", "simplex")  # local searches, which begin at a point
SHARE = 1 / 2  # of the budget that a refinement has at least
NEAR = 0.01  # of the ranges (root mean square), within which two points are one
FINEST = 1e-10  # of tolerances


class Heat(NamedTuple):
    """Local searches side by side.

    Attributes
    ----------
    num_points
        How many there are.
    evaluations
        Most evaluations of each, on average.
    tighter
        Factor on the problem's tolerances.
    patience
        Trials that `multistart` waits for progress.
    """

    num_points: int
    evaluations: int
    tighter: float
    patience: int


# Most searches end soon at a poor optimum, or can be told to be behind. Those that lead may have to follow a narrow
# valley for a thousand steps, whose descent the solver's errors must not hide.
HEATS = (Heat(40, 200, 1.0, 100), Heat(5, 4000, 1e-3, 300))
MOST_ROUNDS = 3  # of both heats, each from members that are yet to be refined


def refined(
    problem: Problem,
    run: OptimizerRun,
    refiner: str,
    loss: str,
    max_evaluations: int,
    *,
    seed: int,
    target_loss: float,
    on_chunk: Callable[[OptimizerProgress], str | None],
    keeps_evaluated: bool = False,
) -> tuple[OptimizerRun, ...]:
    """Search locally from the best members of all starts, and then more exactly from the best ends of these searches.

    While there is something left to spend, the next members follow.

    Parameters
    ----------
    problem
        The problem.
    run
        The search that is refined.
    refiner
        One of `REFINERS`.
    loss
        One of `search.LOSSES`.
    max_evaluations
        Most evaluations of all local searches together, of which a first heat may take half of what is left.
    seed, target_loss, on_chunk, keeps_evaluated
        As in `run_optimizer`.

    Returns
    -------
    The heats, in their order.
    """
    heats: list[OptimizerRun] = []
    members = apart(problem, run)
    first, final = HEATS
    for k in range(MOST_ROUNDS):
        begun = members[k * first.num_points : (k + 1) * first.num_points]
        for heat in HEATS:
            left = max_evaluations - sum(h.evaluations for h in heats)
            points = _filled(
                problem, (begun if heat is first else apart(problem, heats[-1]))[: heat.num_points], heat, seed
            )
            if not len(points) or len(points) > left:
                return tuple(heats)
            tolerances = (min(each, max(heat.tighter * each, FINEST)) for each in (problem.rtol, problem.atol))
            heats.append(
                search(
                    problem.with_tolerances(*tolerances),
                    OPTIMIZERS[refiner],
                    (("patience", heat.patience),) if refiner == "multistart" else (),
                    loss=loss,
                    initial=points[:, None],
                    max_evaluations=min(
                        left if heat is final else max(left // 2, len(points)), heat.evaluations * len(points)
                    ),
                    seed=seed,
                    target_loss=target_loss,
                    on_chunk=on_chunk,
                    keeps_evaluated=keeps_evaluated,
                )
            )
            if heats[-1].stopped not in ("finished", "max_evaluations"):
                return tuple(heats)
    return tuple(heats)


def _filled(
    problem: Problem, points: Float[np.ndarray, "known dim"], heat: Heat, seed: int
) -> Float[np.ndarray, "points dim"]:
    """Return where a heat begins: always as many points, so that nothing is compiled anew; none if there are none.

    Draws of the prior stand in for what is missing.
    """
    if not len(points):
        return points
    drawn = problem.draw_starts(np.random.default_rng(seed), heat.num_points - len(points))
    return np.concatenate([points, drawn])


def apart(problem: Problem, run: OptimizerRun) -> Float[np.ndarray, "points dim"]:
    """Return the best members of every start, then their second best, …, each some way from all before it.

    The best starts come first.
    """
    starts = np.argsort(run.loss, kind="stable")
    order = np.argsort(run.member_losses[starts], axis=1, kind="stable")
    losses = np.take_along_axis(run.member_losses[starts], order, axis=1).T.ravel()
    positions = np.take_along_axis(run.members[starts], order[..., None], axis=1).swapaxes(0, 1)
    lower, upper = np.asarray(problem.lower), np.asarray(problem.upper)
    scale = np.where(np.isfinite(upper - lower), upper - lower, 1.0)
    kept: list[np.ndarray] = []
    for position in positions.reshape(-1, problem.dim)[np.isfinite(losses)]:
        if all(np.sqrt(np.mean(((position - other) / scale) ** 2)) > NEAR for other in kept):
            kept.append(position)
    return np.array(kept).reshape(-1, problem.dim)
