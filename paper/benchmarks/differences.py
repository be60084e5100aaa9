"""Gradients from values alone: central differences over a ladder of steps, extrapolated to a step of zero."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_RATIO = 2.5  # of a step and the next
_RUNGS = 10
_LADDERS = (1e-1, 1e-5)  # first steps; the second ladder is for what the first leaves unsettled
_SETTLED = 1e-7  # of the largest component


class Difference(NamedTuple):
    """A gradient (dim,), and what its extrapolation may be off by; NaN and infinity where no step worked."""

    gradient: Float[np.ndarray, " dim"]
    uncertainty: Float[np.ndarray, " dim"]


def gradient(values: Callable[[np.ndarray], np.ndarray], u: Float[np.ndarray, " dim"]) -> Difference:
    """Return the gradient of a function of batches (n, dim) -> (n,) at a vector.

    For every component the extrapolation counts that agrees best with the two that it was made of: large steps err
    because a function bends, small ones because of its noise, and either shows.

    References
    ----------
    Ridders (1982), Accurate computation of F'(x) and F'(x)F''(x), Advances in Engineering Software 4.
    """
    best = Difference(np.full(len(u), np.nan), np.full(len(u), np.inf))
    for first in _LADDERS:
        largest = np.nanmax(np.abs(best.gradient), initial=0.0)
        open_ = np.flatnonzero(~(best.uncertainty <= _SETTLED * largest))
        if len(open_):
            found = _ladder(values, u, open_, first)
            is_better = found.uncertainty < best.uncertainty[open_]
            for old, new in zip(best, found, strict=True):
                old[open_[is_better]] = new[is_better]
    return best


def _ladder(
    values: Callable[[np.ndarray], np.ndarray], u: np.ndarray, components: np.ndarray, first: float
) -> Difference:
    """Return some components of a gradient from one ladder."""
    num = len(components)
    steps = first * _RATIO ** -np.arange(_RUNGS)
    axes = steps[:, None, None] * np.eye(len(u))[components]
    both = values((u + np.stack([axes, -axes])).reshape(-1, len(u))).reshape(2, _RUNGS, num)
    both = np.where(np.isfinite(both), both, np.nan)
    column = (both[0] - both[1]) / (2 * steps[:, None])
    best = Difference(np.full(num, np.nan), np.full(num, np.inf))
    for order in range(1, _RUNGS):
        factor = _RATIO ** (2 * order)
        higher = (factor * column[1:] - column[:-1]) / (factor - 1)
        changes = np.maximum(np.abs(higher - column[1:]), np.abs(higher - column[:-1]))
        changes = np.where(np.isnan(changes), np.inf, changes)
        for row, change in zip(higher, changes, strict=True):
            is_better = change < best.uncertainty
            best.gradient[is_better], best.uncertainty[is_better] = row[is_better], change[is_better]
        column = higher
    return best
