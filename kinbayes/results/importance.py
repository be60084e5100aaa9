"""Pareto-smoothed importance sampling: weights for draws of a distribution close to the one wanted, by ArviZ."""

from typing import NamedTuple

import arviz as az
import numpy as np
from jaxtyping import Float

SAME = 1e-6  # log weights that differ by less are equal: no estimate would tell them apart


class Importance(NamedTuple):
    """Hold smoothed importance weights and how far they may be trusted.

    Attributes
    ----------
    k_hat
        Estimated shape of the Pareto distribution of the largest weights; above 0.7 no number of draws is enough.
        0 if the weights are equal, where there is no tail to fit; infinite if the tail is four draws or fewer, which
        tell nothing.
    effective_share
        The number of equally weighted draws that are worth as much, divided by the number of draws: 1/(n Σ w²).
    log_weights
        Logarithms of the smoothed weights, (n,); the weights sum to 1.
    """

    k_hat: float
    effective_share: float
    log_weights: Float[np.ndarray, " n"]


def importance(log_weights: Float[np.ndarray, " n"]) -> Importance:
    """Smooth the largest importance weights and judge them.

    Parameters
    ----------
    log_weights
        Logarithms of the weights, (n,), up to a constant; -inf for a weight of zero, which stays zero.

    Returns
    -------
    The smoothed weights, and what tells whether they may be used.

    Raises
    ------
    ValueError
        If a log weight is NaN or +inf, or none is finite.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao, Gabry (2024), Pareto smoothed importance sampling, Journal of Machine Learning
    Research 25(72), arXiv:1507.02646.
    """
    is_finite = np.isfinite(log_weights)
    num_wrong = int(np.sum(np.isnan(log_weights) | np.isposinf(log_weights)))
    if num_wrong or not is_finite.any():
        raise ValueError(
            f"{num_wrong} of {log_weights.size} log weights are NaN or +inf, and {int(is_finite.sum())} are finite; "
            "give finite ones, or -inf for a weight of zero"
        )
    kept = log_weights[is_finite]
    if np.ptp(kept) < SAME:
        k_hat, smoothed = 0.0, np.full(kept.size, -np.log(kept.size))
    else:
        with np.errstate(over="ignore"):  # where one weight has nearly all, the fit of the tail overflows
            found, shape = az.psislw(kept)
        k_hat, smoothed = float(shape), np.asarray(found)
    whole = np.full(log_weights.size, -np.inf)
    whole[is_finite] = smoothed
    return Importance(k_hat, float(1 / (log_weights.size * np.sum(np.exp(2 * whole)))), whole)
