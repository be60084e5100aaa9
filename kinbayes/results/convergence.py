"""Whether draws have converged: rank-normalised R-hat and effective sample sizes, by ArviZ."""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

with warnings.catch_warnings():
    # ArviZ announces its next major version once a day, to whoever imports it.
    warnings.simplefilter("ignore", FutureWarning)
    import arviz

MIN_DRAWS = 8  # ArviZ wants four in each half of a chain, and a single chain is judged by its halves


class Diagnostics(NamedTuple):
    """Hold R-hat, bulk and tail effective sample size, one entry a parameter.

    They are NaN where they cannot be told: of too few draws, of draws that are not finite, or of chains that never
    moved. R-hat is infinite for chains that stick at different values.
    """

    r_hat: Float[np.ndarray, " dim"]
    ess_bulk: Float[np.ndarray, " dim"]
    ess_tail: Float[np.ndarray, " dim"]


def diagnose(draws: Float[np.ndarray, "chains draws dim"]) -> Diagnostics:
    """Compute the convergence diagnostics of draws.

    Parameters
    ----------
    draws
        Draws, (chains, draws, dim), on the scale on which they are to be judged. A single chain is compared with
        itself: R-hat is that of its halves.

    Returns
    -------
    The diagnostics of every entry.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter, Bürkner (2021), Bayesian Analysis 16(2), doi:10.1214/20-BA1221.
    """
    return Diagnostics(*np.array([_of_one(draws[..., k]) for k in range(draws.shape[-1])]).reshape(-1, 3).T)


def _of_one(draws: Float[np.ndarray, "chains draws"]) -> tuple[float, float, float]:
    num_chains, num_draws = draws.shape
    if num_draws < MIN_DRAWS or not np.all(np.isfinite(draws)) or np.ptp(draws) == 0:
        return np.nan, np.nan, np.nan
    compared = draws if num_chains > 1 else draws[0, num_draws % 2 :].reshape(2, -1)
    with np.errstate(invalid="ignore", divide="ignore"):  # a chain that never moved
        bulk, tail = (float(arviz.ess(draws, method=method)) for method in ("bulk", "tail"))
        return float(arviz.rhat(compared, method="rank")), bulk, tail
