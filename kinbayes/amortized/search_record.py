"""The runs of a search as a fact of the training, which is kept with a proposal, and back as a table."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from kinbayes.amortized.building import Plain
from kinbayes.amortized.hyperparameters import LOSSES

RUNS = "search_runs"
# More than anyone waits for; so many rows fit into the header of a proposal's file, of which a mebibyte is read.
MOST_RUNS = 1000


def record(runs: pd.DataFrame) -> tuple[tuple[Plain, ...], ...]:
    """Return the runs of a search as rows of words and finite numbers, the first their names; None where one failed."""
    cells = runs.astype(object).where(runs.notna(), None)
    return tuple(map(str, runs.columns)), *map(tuple, cells.to_numpy().tolist())


def recorded(training: Mapping[str, Plain]) -> pd.DataFrame | None:
    """Return the runs of the search among the facts of a training, as `search` told them; None if there was none.

    Raises
    ------
    ValueError
        If what is there is no such table, as the file of a stranger may have it.
    """
    if RUNS not in training:
        return None
    rows = training[RUNS]
    if not (
        isinstance(rows, tuple) and all(isinstance(row, tuple) for row in rows) and 2 <= len(rows) <= MOST_RUNS + 1
    ):
        raise ValueError(f"{RUNS!r} is no table of 1 to {MOST_RUNS} runs")
    names = rows[0]
    is_named = all(isinstance(name, str) for name in names) and names[-2:] == tuple(LOSSES)
    if not is_named or any(len(row) != len(set(names)) for row in rows):
        raise ValueError(f"{RUNS!r} is no table of different columns, of which the last are {LOSSES}")
    is_plain = all(cell is None or isinstance(cell, bool | int | float | str) for row in rows for cell in row)
    if not is_plain or any(isinstance(cell, bool | str) for row in rows[1:] for cell in row[-2:]):
        raise ValueError(f"{RUNS!r} has cells that are no words and numbers, or losses that are no numbers")
    table = pd.DataFrame(rows[1:], columns=list(names)).astype(dict.fromkeys(LOSSES, float))
    if not np.isfinite(table[LOSSES[1]]).any():
        raise ValueError(f"no run of {RUNS!r} has a loss")
    return table


def chosen(runs: pd.DataFrame) -> int:
    """Return the row of the run that a search chooses: the first of those with the least validation loss."""
    return int(np.nanargmin(runs[LOSSES[1]].to_numpy(float)))
