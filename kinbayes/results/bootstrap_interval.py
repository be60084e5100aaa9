"""Intervals of a bootstrap: quantiles of the modes of its replicates."""

import numpy as np
import pandas as pd

from kinbayes.results.scales import from_scale, to_scale
from kinbayes.results.store import InferenceData, read_group


def bootstrap_intervals(idata: InferenceData, prob: float = 0.95) -> pd.DataFrame:
    """Return the percentile interval of every parameter, from the replicates whose search converged.

    Parameters
    ----------
    idata
        A result of `kinbayes.bootstrap`.
    prob
        Share of the replicates in the interval.

    Returns
    -------
    Table with one row a parameter and the columns `lower`, `upper` (natural units; NaN where less than one replicate
    would lie beyond an end), `sd` (standard deviation on the parameter's scale), `at_lower_wall`, `at_upper_wall`,
    `without_data` (shares of replicates), and `replicates`, the number that converged, on which all others rest.

    Raises
    ------
    ValueError
        If the result has no bootstrap, `prob` is no probability, or fewer than two replicates converged.

    References
    ----------
    Efron and Tibshirani (1986), Bootstrap methods for standard errors, confidence intervals, and other measures of
    statistical accuracy, Statistical Science 1, doi:10.1214/ss/1177013815.
    """
    if not 0 < prob < 1:
        raise ValueError(f"prob is {prob}; give a probability between 0 and 1, such as 0.95")
    group = read_group(idata, "bootstrap")
    found = group.isel(replicate=group.converged.values.astype(bool))
    num, tail = found.sizes["replicate"], (1 - prob) / 2
    if num < 2:
        raise ValueError(
            f"{num} of {group.sizes['replicate']} replicates converged; an interval takes two at least: give the "
            "bootstrap more max_evaluations, or a mode that has converged"
        )
    rows = {}
    for name in found.parameter.values:
        own, ends = found.sel(parameter=name), np.full(2, np.nan)
        scale = found[name].attrs["scale"]
        u = to_scale(found[name].values, scale)
        if num * tail >= 1:
            ends = from_scale(np.quantile(u, [tail, 1 - tail]), scale)
        wall = own.at_wall.values
        shares = [np.mean(wall < 0), np.mean(wall > 0), np.mean(own.without_data.values.astype(bool))]
        rows[str(name)] = (*ends, np.std(u, ddof=1), *shares, num)
    columns = ["lower", "upper", "sd", "at_lower_wall", "at_upper_wall", "without_data", "replicates"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("parameter")
