"""The numbers read off a stored run: intervals, densities, predictive bands, and whether it may be trusted.

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

from kinbayes.results.convergence import MIN_DRAWS, diagnose
from kinbayes.results.store import InferenceData

On = Literal["scaled", "natural"]
Kind = Literal["eti", "hdi"]
_LOG_BASES = {"ln": np.e, "log10": 10.0}


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
        draws = _to_scale(variable.values, scale).ravel()
        low, middle, high = np.full(3, np.nan)
        if np.all(np.isfinite(draws)):
            middle = np.median(draws)
            low, high = az.hdi(draws, hdi_prob=prob) if kind == "hdi" else np.quantile(draws, _tails(prob))
        values = _from_scale(np.array([middle, low, high]), scale)
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
    variables = posterior(idata).data_vars
    draws = np.stack([_to_scale(v.values, v.attrs["scale"]) for v in variables.values()], axis=-1)
    return pd.DataFrame(diagnose(draws)._asdict(), index=pd.Index(list(variables), name="parameter"))


def converged(
    idata: InferenceData,
    *,
    max_r_hat: float = 1.01,
    min_ess_per_chain: float = 100.0,
    max_divergent: float = 0.001,
) -> tuple[bool, list[str]]:
    """Say whether a sampling run may be trusted, and if not, why and what to try.

    Parameters
    ----------
    idata
        A sampling run.
    max_r_hat
        Largest R-hat of any parameter; 1.01 is the advice of Vehtari et al. (2021).
    min_ess_per_chain
        Smallest bulk and tail effective sample size of any parameter, times the chains: 400 for their four.
    max_divergent
        Largest share of divergent draws. Single ones come from simulations that fail; more of them mean that
        there are places where the chains cannot go.

    Returns
    -------
    Whether all of this holds, and a sentence for each rule that does not.

    Raises
    ------
    ValueError
        If the run has no posterior.
    """
    found = diagnostics(idata)
    sizes = posterior(idata).sizes
    least = min_ess_per_chain * sizes["chain"]
    reasons = []

    unknown = found.index[found["ess_bulk"].isna() | found["ess_tail"].isna()]
    if len(unknown):
        reasons.append(
            f"{_names(unknown)}: never moved, not finite, or fewer than {MIN_DRAWS} draws. "
            "Check the bounds and the starting points, or draw more."
        )
    if sizes["chain"] < 2:
        reasons.append("There is one chain, so nothing shows that another would agree. Run four.")
    apart = found.loc[found["r_hat"] > max_r_hat, "r_hat"].sort_values(ascending=False)
    if len(apart):
        reasons.append(
            f"The chains disagree: R-hat is {apart.iloc[0]:.3f} for {apart.index[0]}, above {max_r_hat} for "
            f"{_names(apart.index)}. Draw more, with a longer warmup; if chains stay apart, "
            "there may be several modes."
        )
    for column, what in (("ess_bulk", "the median"), ("ess_tail", "interval ends")):
        short = found.loc[found[column] < least, column].sort_values()
        if len(short):
            reasons.append(
                f"Too few independent draws for {what}: {short.iloc[0]:.0f} for {short.index[0]}, below "
                f"{least:.0f} for {_names(short.index)}. "
                f"Draw about {least / short.iloc[0]:.1f} times as many."
            )
    if "diverging" in idata.sample_stats:
        diverging = idata.sample_stats["diverging"]
        if diverging.mean() > max_divergent:
            reasons.append(
                f"{int(diverging.sum())} of {diverging.size} draws diverged: the sampler missed narrow "
                "parts of the posterior, or simulations fail there. "
                "Raise the target acceptance rate or tighten the tolerances."
            )
    return not reasons, reasons


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
    predictive = _group(idata, "posterior_predictive")
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
    observed = _group(idata, "observed_data")
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
    variable = _group(idata, group)[parameter]
    own, asked = variable.attrs["scale"], _scale_on(variable, on)
    draws = _to_scale(variable.values, own).ravel()
    if not np.all(np.isfinite(draws)) or np.ptp(draws) == 0:
        return np.empty(0), np.empty(0)
    grid, density = az.kde(draws)
    values = _from_scale(grid, own)
    slope = 1.0 if own == asked else 1 / (values * np.log(_LOG_BASES[own]))  # du/dθ
    return values, density * slope


# ---- what the functions above share


def posterior(idata: InferenceData) -> xr.Dataset:
    """Return the posterior draws.

    Raises
    ------
    ValueError
        If the run has none.
    """
    return _group(idata, "posterior")


def _scale_on(variable: xr.DataArray, on: On) -> str:
    """Return the scale that `on` means for a parameter."""
    if on not in ("scaled", "natural"):
        raise ValueError(f"unknown scale {on!r}; choose 'scaled' (each parameter's own) or 'natural'")
    return variable.attrs["scale"] if on == "scaled" else "lin"


def _to_scale(theta: Float[np.ndarray, "*shape"], scale: str) -> Float[np.ndarray, "*shape"]:
    """Return natural values on a scale."""
    if scale == "lin":
        return theta
    with np.errstate(divide="ignore", invalid="ignore"):  # zero and below are not finite there
        return np.log(theta) / np.log(_LOG_BASES[scale])


def _from_scale(u: Float[np.ndarray, "*shape"], scale: str) -> Float[np.ndarray, "*shape"]:
    """Return natural values of scaled ones."""
    return u if scale == "lin" else _LOG_BASES[scale] ** u


def _group(idata: InferenceData, name: str) -> xr.Dataset:
    if name not in idata.groups():
        raise ValueError(f"this result has no group {name!r}, only {idata.groups()}; kinbayes.sample makes one")
    return idata[name]


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


def _names(index: pd.Index, most: int = 5) -> str:
    more = f" and {len(index) - most} more" if len(index) > most else ""
    return ", ".join(index[:most]) + more
