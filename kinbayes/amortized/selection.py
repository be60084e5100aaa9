"""Which points of an archive a network learns from."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from kinbayes.amortized.archive import Rows

FEWEST = 100  # of which a tenth is for validation


class TrainingPoints(NamedTuple):
    """Hold points to learn from, scaled, with finite losses, and how many there were to choose from."""

    u: Float[np.ndarray, "n dim"]
    loss: Float[np.ndarray, " n"]
    num_feasible: int
    num_failed: int


def training_points(rows: Rows, most: int, seed: int = 0) -> TrainingPoints:
    """Choose from the points that could be simulated, each of them once.

    Where there are too many, half of those that are kept are the best, and half are drawn from the rest: searches spend
    most of what they evaluate far from where the posterior is, and the best alone would not show what to avoid.

    Parameters
    ----------
    rows
        Rows of an archive.
    most
        Number of points that are kept at most.
    seed
        Seed of the draw.

    Raises
    ------
    ValueError
        If there are too few points.
    """
    is_feasible = np.isfinite(rows.loss)
    _, first = np.unique(rows.u[is_feasible], axis=0, return_index=True)
    u, loss = rows.u[is_feasible][first], rows.loss[is_feasible][first]
    if len(u) < FEWEST or np.ptp(loss) == 0:
        raise ValueError(
            f"the archive has {len(u)} different points that could be simulated, of {len(rows.u)}; a network needs "
            f"{FEWEST} at least, of different losses: archive more runs of optimize or sample"
        )
    order = np.argsort(loss, kind="stable")
    if len(order) > most:
        best, rest = order[: most // 2], order[most // 2 :]
        drawn = np.random.default_rng(seed).choice(rest, size=most - len(best), replace=False)
        order = np.concatenate([best, np.sort(drawn)])
    return TrainingPoints(u[order], loss[order], len(u), int(np.sum(~is_feasible)))
