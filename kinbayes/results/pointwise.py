"""The log density of every measurement in every draw, the measurements of all observables side by side."""

import numpy as np
from jaxtyping import Float

from kinbayes.results.store import InferenceData, read_group


def pointwise_log_likelihood(idata: InferenceData) -> Float[np.ndarray, "chains draws measurements"]:
    """Return the log density of every measurement, in the order of `kinbayes.results.summary.measurements`.

    Raises
    ------
    ValueError
        If the run has no log likelihood, or one that is not finite in some draw: its simulation failed when the
        measurements were computed one by one.
    """
    pointwise = read_group(idata, "log_likelihood")
    names = list(read_group(idata, "observed_data").data_vars)  # the order of the measurements
    values = np.concatenate([pointwise[name].values for name in names], axis=-1)
    num_failed = int(np.sum(~np.isfinite(values).all(axis=-1)))
    if num_failed:
        num_draws = values.shape[0] * values.shape[1]
        raise ValueError(
            f"{num_failed} of {num_draws} draws have no finite log density for some measurement: "
            "their simulations failed, and the posterior without them is another one. Tighten rtol and atol, or "
            "raise max_steps, and sample again"
        )
    return values
