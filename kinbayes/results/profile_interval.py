"""Intervals of profiles: where the log density has dropped by half a quantile of the chi-square distribution."""

import numpy as np
import pandas as pd
from scipy import stats

from kinbayes.results.mode_store import SIDES
from kinbayes.results.scales import from_scale, to_scale
from kinbayes.results.store import InferenceData, read_group


def chi_square_drop(prob: float) -> float:
    """Return how far a log density drops to the ends of an interval: 1.92 for 95 %, exact for a normal one."""
    if not 0 < prob < 1:
        raise ValueError(f"prob is {prob}; give a probability between 0 and 1, such as 0.95")
    return float(stats.chi2.ppf(prob, 1)) / 2


def profile_intervals(idata: InferenceData, prob: float = 0.95) -> pd.DataFrame:
    """Return the interval of every profiled parameter, in natural units.

    An end lies where the profile has dropped by `chi_square_drop(prob)` below the highest density found. In between
    points the root of the drop is interpolated on the parameter's scale, on which it is a straight line for a normal
    posterior.

    Parameters
    ----------
    idata
        A result of `kinbayes.profile`.
    prob
        Confidence of the interval, by the chi-square approximation of a likelihood ratio.

    Returns
    -------
    Table with one row a parameter and the columns `lower`, `upper` (NaN where an end is open), `below` and `above`:
    what closes that end, `data` or `prior`, whichever has the larger part in the drop; or why it is open: `wall` (the
    bound), `points` or `failed` (the profile ends before), `lower_mode` (the whole profile lies below the interval's
    level, as a better mode was found elsewhere).

    Raises
    ------
    ValueError
        If the result has no profiles, or those end before the drop that `prob` asks for.
    """
    profile, drop = read_group(idata, "profile"), chi_square_drop(prob)
    walked = float(idata.attrs["drop"])
    if drop > walked + 1e-9:
        raise ValueError(
            f"prob is {prob}, a drop of {drop:.3g}, but the profiles were made for a drop of {walked:.3g}; make them "
            f"again with drop={drop:.4g} or more"
        )
    highest = float(np.nanmax(profile.log_density.values))
    rows = {}
    for name in profile.parameter.values:
        own = profile.sel(parameter=name)
        known = np.isfinite(own.log_density.values)
        scale = str(own.scale.values)
        u, log_density, log_prior = (
            values[known]
            for values in (to_scale(own.value.values, scale), own.log_density.values, own.log_prior.values)
        )
        fall = highest - log_density
        peak = int(np.argmin(fall))
        ends = []
        for side, step in zip(SIDES, (-1, 1), strict=True):
            outward = np.arange(peak, -1 if step < 0 else len(u), step)
            stopped = str(own[f"stopped_{side}"].values)
            ends.append(_end(u[outward], fall[outward], log_prior[outward], drop, stopped))
        (low, below), (high, above) = ends
        rows[str(name)] = (*from_scale(np.array([low, high]), scale), below, above)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["lower", "upper", *SIDES]).rename_axis("parameter")


def _end(u: np.ndarray, fall: np.ndarray, log_prior: np.ndarray, drop: float, stopped: str) -> tuple[float, str]:
    """Return where a side, from the peak outwards, crosses the level for the last time, and what brought it there."""
    if fall[0] > drop:
        return np.nan, "lower_mode"
    last = int(np.flatnonzero(fall <= drop)[-1])
    if last == len(u) - 1:
        return np.nan, stopped
    root = np.sqrt(np.maximum(fall[last : last + 2], 0.0))
    part = (np.sqrt(drop) - root[0]) / (root[1] - root[0])
    end = u[last] + part * (u[last + 1] - u[last])
    by_prior = log_prior[0] - (log_prior[last] + part * (log_prior[last + 1] - log_prior[last]))
    return float(end), "prior" if by_prior > (drop - fall[0]) / 2 else "data"
