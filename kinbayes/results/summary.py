"""The numbers read off a stored run: intervals, diagnostics, densities, predictive bands.

Medians, densities and intervals of highest density depend on the scale on which they are taken: here on each
parameter's own scale unless another is asked for. What is reported are natural values. A parameter with a
draw that is not finite has NaN for its numbers; nothing is left out silently.
"""

from typing import Literal

import arviz as az
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from kinbayes.results.convergence import diagnose
from kinbayes.results.scales import LOG_BASES, from_scale, to_scale
from kinbayes.results.store import InferenceData, read_group

On = Literal["scaled", "natural"]
Kind = Literal["eti", "hdi"]


def credible_intervals(idata: InferenceData, prob: float = 0.95, kind: Kind = "eti", on: On = "scaled") -> pd.DataFrame:
    """Return the median and a credible interval of every parameter, in natural units.

    Parameters
    ----------
    idata
        A sampling run.
    prob
        Posterior probability inside the interval, between 0 and 1.
    kind
        `eti`, the equal-tailed interval between two quantiles, or `hdi`, the shortest one, of highest density
        if the posterior has one mode.
    on
        The scale on which they are taken: each parameter's own, or the natural one. An equal-tailed interval
        is the same on both, an interval of highest density is not.

    Returns
    -------
    Table with one row a parameter and the columns `median`, `lower`, `upper`, `unit`, `scale`, `interval_on`;
    its attributes name `prob`, `kind` and `on`.

    Raises
    ------
    ValueError
        If a setting is out of its range, or the run has no posterior.
    """
    _check_prob(prob)
    if kind not in ("eti", "hdi"):
        raise ValueError(f"unknown kind {kind!r}; choose 'eti' (equal tails) or 'hdi' (highest density)")
    rows = {}
    for name, variable in posterior(idata).data_vars.items():
        scale = _scale_on(variable, on)
        draws = to_scale(variable.values, scale).ravel()
        low, middle, high = np.full(3, np.nan)
        if np.all(np.isfinite(draws)):
            middle = np.median(draws)
            low, high = az.hdi(draws, hdi_prob=prob) if kind == "hdi" else np.quantile(draws, _tails(prob))
        values = from_scale(np.array([middle, low, high]), scale)
        rows[name] = (*values, variable.attrs["unit"], variable.attrs["scale"], scale)
    columns = ["median", "lower", "upper", "unit", "scale", "interval_on"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("parameter")
    table.attrs = {"prob": prob, "kind": kind, "on": on}
    return table


def diagnostics(idata: InferenceData) -> pd.DataFrame:
    """Return rank-normalised R-hat, bulk and tail effective sample size of every parameter, on its own scale.

    What cannot be told is NaN; see `kinbayes.results.convergence`.

    Returns
    -------
    Table with one row a parameter and the columns `r_hat`, `ess_bulk`, `ess_tail`.

    Raises
    ------
    ValueError
        If the run has no posterior.
    """
    names = pd.Index(list(posterior(idata).data_vars), name="parameter")
    return pd.DataFrame(diagnose(scaled_draws(idata))._asdict(), index=names)


def table(idata: InferenceData, prob: float = 0.95, kind: Kind = "eti", on: On = "scaled") -> pd.DataFrame:
    """Return one table for display: median, interval, unit and diagnostics of every parameter.

    The settings are those of `credible_intervals`, and so are the table's attributes.

    Returns
    -------
    Table with one row a parameter and the columns `median`, `lower`, `upper`, `unit`, `interval_on`, `r_hat`,
    `ess_bulk`, `ess_tail`.
    """
    intervals = credible_intervals(idata, prob, kind, on)
    joined = intervals.drop(columns="scale").join(diagnostics(idata))
    joined.attrs = intervals.attrs
    return joined


def predictive_intervals(idata: InferenceData, prob: float = 0.95) -> pd.DataFrame:
    """Return equal-tailed intervals in which new measurements would fall, noise included.

    Replicates, measurements of one observable in one experiment at one time, share an interval.

    Returns
    -------
    Table sorted by time, with the columns `observable`, `experiment`, `time`, `median`, `lower`, `upper`.

    Raises
    ------
    ValueError
        If `prob` is out of its range, or the run has no predictions.
    """
    _check_prob(prob)
    predictive = read_group(idata, "posterior_predictive")
    tables = []
    for observable, variable in predictive.data_vars.items():
        draws = variable.values.reshape(-1, variable.shape[-1])
        for (experiment, time), rows in _places(idata, str(observable)).groupby(["experiment", "time"]).indices.items():
            low, middle, high = np.quantile(draws[:, rows], [_tails(prob)[0], 0.5, _tails(prob)[1]])
            tables.append((observable, experiment, time, middle, low, high))
    columns = ["observable", "experiment", "time", "median", "lower", "upper"]
    return pd.DataFrame(tables, columns=columns)


def bands(predicted: xr.Dataset, prob: float = 0.95) -> pd.DataFrame:
    """Return equal-tailed intervals of predictions, time by time.

    Parameters
    ----------
    predicted
        A group of a prediction: `states`, `observables` or `predictions`.
    prob
        Posterior probability inside the interval, between 0 and 1.

    Returns
    -------
    Table with one row a variable and time, and the columns `time`, `median`, `lower`, `upper`, and `failed`:
    draws whose simulation failed, which are left out.

    Raises
    ------
    ValueError
        If `prob` is out of its range.
    """
    _check_prob(prob)
    tables = []
    for name, variable in predicted.data_vars.items():
        draws = variable.values.reshape(-1, variable.sizes["time"])
        is_failed = np.isnan(draws).any(axis=1)
        kept = draws[~is_failed] if not is_failed.all() else draws
        low, middle, high = np.quantile(kept, [_tails(prob)[0], 0.5, _tails(prob)[1]], axis=0)
        columns = {"time": predicted.time.values, "median": middle, "lower": low, "upper": high}
        index = pd.Index([name] * draws.shape[1], name="variable")
        tables.append(pd.DataFrame({**columns, "failed": int(is_failed.sum())}, index=index))
    return pd.concat(tables)


def measurements(idata: InferenceData) -> pd.DataFrame:
    """Return the measurements, with the columns `observable`, `experiment`, `time`, `censoring`, `measurement`."""
    observed = read_group(idata, "observed_data")
    tables = [
        _places(idata, str(name)).assign(measurement=variable.values) for name, variable in observed.data_vars.items()
    ]
    return pd.concat(tables, ignore_index=True)


def marginal_density(
    idata: InferenceData,
    parameter: str,
    *,
    on: On = "scaled",
    group: Literal["posterior", "prior"] = "posterior",
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Return the density of one parameter, by a kernel estimate on its own scale, where it is smoothest.

    Returns
    -------
    Natural values in rising order, and the density there with respect to the parameter on the scale asked
    for. Both are empty where the draws are constant or not finite.

    Raises
    ------
    ValueError
        If the run has no such group.
    """
    variable = read_group(idata, group)[parameter]
    own, asked = variable.attrs["scale"], _scale_on(variable, on)
    draws = to_scale(variable.values, own).ravel()
    if not np.all(np.isfinite(draws)) or np.ptp(draws) == 0:
        return np.empty(0), np.empty(0)
    grid, density = az.kde(draws)
    values = from_scale(grid, own)
    slope = 1.0 if own == asked else 1 / (values * np.log(LOG_BASES[own]))  # du/dθ
    return values, density * slope


# ---- what the functions above share


def posterior(idata: InferenceData) -> xr.Dataset:
    """Return the posterior draws.

    Raises
    ------
    ValueError
        If the run has none.
    """
    return read_group(idata, "posterior")


def scaled_draws(idata: InferenceData) -> Float[np.ndarray, "chains draws dim"]:
    """Return the posterior draws, each parameter on its own scale; not finite where a scale does not hold a value.

    Raises
    ------
    ValueError
        If the run has no posterior.
    """
    variables = posterior(idata).data_vars.values()
    return np.stack([to_scale(v.values, v.attrs["scale"]) for v in variables], axis=-1)


def _scale_on(variable: xr.DataArray, on: On) -> str:
    """Return the scale that `on` means for a parameter."""
    if on not in ("scaled", "natural"):
        raise ValueError(f"unknown scale {on!r}; choose 'scaled' (each parameter's own) or 'natural'")
    return variable.attrs["scale"] if on == "scaled" else "lin"


def _places(idata: InferenceData, observable: str) -> pd.DataFrame:
    places = idata.constant_data
    columns = {what: places[f"{observable}_{what}"].values for what in ("experiment", "time")}
    censoring = places[f"{observable}_censoring"].values if f"{observable}_censoring" in places else ""
    return pd.DataFrame({"observable": observable, **columns, "censoring": censoring})


def _check_prob(prob: float) -> None:
    if not 0 < prob < 1:
        raise ValueError(f"prob is {prob}; give a probability between 0 and 1, such as 0.95")


def _tails(prob: float) -> list[float]:
    return [(1 - prob) / 2, (1 + prob) / 2]
