"""How well positions travel between the prior and the posterior in a tempered run."""

import numpy as np
from jaxtyping import Float, Int

from kinbayes.results.store import InferenceData, read_group

TINY = np.finfo(float).tiny  # a weight for a rung on which nothing could be simulated


def swap_rates(idata: InferenceData) -> Float[np.ndarray, " pairs"]:
    """Return the probability that neighbouring rungs swap, on average over chains and draws.

    Draws whose simulation has failed on the lower rung are left out: they would be refused by any ladder.

    The sum of the rejections, Σ_k (1 - rate_k), estimates the global communication barrier Λ: how hard it is to get
    from the prior to the posterior, whatever the ladder, if it has rungs enough. Spread evenly, N rungs then swap at
    the rate 1 - Λ / (N - 1).

    Raises
    ------
    ValueError
        If the run is not tempered.

    References
    ----------
    Syed, Bouchard-Côté, Deligiannidis, Doucet (2022), Non-reversible parallel tempering: a scalable highly parallel
    MCMC scheme, Journal of the Royal Statistical Society B 84(2), doi:10.1111/rssb.12464.
    """
    could_swap = np.isfinite(_statistic(idata, "rung_log_likelihood")[..., :-1])
    return np.average(_statistic(idata, "swap_rate"), axis=(0, 1), weights=np.where(could_swap, 1.0, TINY))


def round_trips(idata: InferenceData) -> Int[np.ndarray, " chains"]:
    """Return how often a walker came to the prior from the posterior, between the first draw and the last.

    Raises
    ------
    ValueError
        If the run is not tempered.
    """
    return np.ptp(_statistic(idata, "round_trips"), axis=1)


def _statistic(idata: InferenceData, name: str) -> np.ndarray:
    stats = read_group(idata, "sample_stats")
    if name not in stats:
        raise ValueError(
            f"this run is not tempered: its sample_stats have no {name!r}; "
            'use kinbayes.sample(problem, sampler="parallel_tempering")'
        )
    return stats[name].values
