"""How far the draws of a run have converged: R-hat and effective sample sizes by ArviZ.

References
----------
Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), doi:10.1214/20-BA1221.
"""

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
    """Hold the worst rank-normalised R-hat and effective sample sizes over all entries, after some draws.

    They are NaN of too few draws; R-hat is also NaN if no chain ever moved.
    """

    num_draws: int
    max_rhat: float
    min_ess_bulk: float
    min_ess_tail: float


def diagnose(position: Float[np.ndarray, "chains draws dim"]) -> Diagnostics:
    """Compute the convergence diagnostics of draws.

    Parameters
    ----------
    position
        Draws of u, (chains, draws, dim). A single chain is compared with itself: R-hat is that of its halves.

    Returns
    -------
    The worst of each diagnostic.
    """
    chains, draws, dim = position.shape
    if draws < MIN_DRAWS:
        return Diagnostics(draws, np.nan, np.nan, np.nan)
    compared = position if chains > 1 else position[0, draws % 2 :].reshape(2, -1, dim)
    with np.errstate(invalid="ignore", divide="ignore"):  # a chain that never moved
        rhat = [arviz.rhat(compared[:, :, k]) for k in range(dim)]
        bulk = [arviz.ess(position[:, :, k], method="bulk") for k in range(dim)]
        tail = [arviz.ess(position[:, :, k], method="tail") for k in range(dim)]
    return Diagnostics(draws, float(np.max(rhat)), float(np.min(bulk)), float(np.min(tail)))
