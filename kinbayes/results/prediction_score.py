"""How well a model predicts measurements that it has not seen, estimated from one run by ArviZ."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import arviz as az
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool

from kinbayes.results.convergence import MIN_DRAWS
from kinbayes.results.pointwise import pointwise_log_likelihood
from kinbayes.results.store import InferenceData
from kinbayes.results.summary import measurements, posterior

MAX_K_HAT = 0.7  # Vehtari et al. (2024): above, no number of draws is enough
MAX_VARIANCE = 0.4  # Vehtari, Gelman, Gabry (2017): above, WAIC is not to be relied on
ONE_AT_A_TIME = (
    "Measurements are left out one at a time, between their neighbours of the same time course: this scores how well a "
    "gap is filled, not how well a whole new experiment is predicted."
)


class PredictionScore(NamedTuple):
    """Hold the expected log predictive density of new measurements, and what is to be said of it.

    Attributes
    ----------
    elpd
        The sum over all measurements of the log density of each, given the others. Higher is better; it has meaning
        only beside that of another model of the same measurements.
    se
        Its standard error, from how the measurements' shares scatter.
    effective_parameters
        How much lower it is than the log density of the measurements when they are not left out.
    pointwise
        One row a measurement: `observable`, `experiment`, `time`, `censoring`, `measurement`, its share `elpd`, and
        what tells whether to trust that: `k_hat` (of `loo`) or `variance` (of `waic`).
    caveats
        Sentences that must not be left out where the number is shown.
    """

    elpd: float
    se: float
    effective_parameters: float
    pointwise: pd.DataFrame
    caveats: list[str]


def loo(idata: InferenceData) -> PredictionScore:
    """Estimate the log density of every measurement given all others, by Pareto-smoothed importance sampling.

    All measurements of all observables count, each on its own: a measurement is left out while its neighbours in the
    same time course stay. Importance sampling fails for measurements that determine the posterior, which k̂ > 0.7
    shows; the caveats name them.

    Parameters
    ----------
    idata
        A sampling run.

    Returns
    -------
    The score, with `k_hat` of every measurement.

    Raises
    ------
    ValueError
        If the run has fewer than 8 draws, no log likelihood, or draws whose simulation failed.

    References
    ----------
    Vehtari, Gelman, Gabry (2017), Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC,
    Statistics and Computing 27, doi:10.1007/s11222-016-9696-4.
    """
    found = _by_arviz(az.loo, idata)
    pointwise = measurements(idata).assign(elpd=found["loo_i"].values, k_hat=np.asarray(found["pareto_k"]))
    is_high = (pointwise["k_hat"] > MAX_K_HAT).to_numpy()
    caveats = [ONE_AT_A_TIME]
    if is_high.any():
        caveats.append(
            f"k-hat is above {MAX_K_HAT} for {_places(pointwise, is_high)}: the posterior without it is another one, "
            "which these draws cannot tell, so its share is not to be trusted. It may be an outlier, or the only "
            "measurement that determines a parameter."
        )
    return _score(found, found["elpd_loo"], found["p_loo"], pointwise, caveats)


def waic(idata: InferenceData) -> PredictionScore:
    """Estimate the log predictive density of new measurements by the widely applicable information criterion.

    It approximates what `loo` estimates, and knows less well when it fails: prefer `loo`.

    Parameters
    ----------
    idata
        A sampling run.

    Returns
    -------
    The score, with the posterior `variance` of the log density of every measurement.

    Raises
    ------
    ValueError
        If the run has fewer than 8 draws, no log likelihood, or draws whose simulation failed.

    References
    ----------
    Vehtari, Gelman, Gabry (2017), Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC,
    Statistics and Computing 27, doi:10.1007/s11222-016-9696-4.
    """
    found = _by_arviz(az.waic, idata)
    variance = pointwise_log_likelihood(idata).var(axis=(0, 1))
    pointwise = measurements(idata).assign(elpd=found["waic_i"].values, variance=variance)
    is_high = variance > MAX_VARIANCE
    caveats = [ONE_AT_A_TIME]
    if is_high.any():
        caveats.append(
            f"The log density varies by more than {MAX_VARIANCE} (variance) for {_places(pointwise, is_high)}: "
            "WAIC may fail there. Use loo."
        )
    return _score(found, found["elpd_waic"], found["p_waic"], pointwise, caveats)


def _by_arviz(criterion: Callable[..., pd.Series], idata: InferenceData) -> pd.Series:
    """Return what ArviZ says of all measurements as one variable."""
    num_draws = posterior(idata).sizes["draw"]
    if num_draws < MIN_DRAWS:
        raise ValueError(f"the run has {num_draws} draws; predictions can be scored with {MIN_DRAWS} or more")
    values = pointwise_log_likelihood(idata)
    joined = xr.Dataset({"all": (("chain", "draw", "measurement"), values)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what ArviZ warns of is in the caveats
        return criterion(az.InferenceData(posterior=posterior(idata), log_likelihood=joined), pointwise=True)


def _score(
    found: pd.Series, elpd: float, effective_parameters: float, pointwise: pd.DataFrame, caveats: list[str]
) -> PredictionScore:
    num_censored = int((pointwise["censoring"] != "").sum())
    if num_censored:
        caveats.append(
            f"{num_censored} of {len(pointwise)} measurements are censored: their shares are probabilities of lying "
            "beyond a limit, the others' are densities, so the sum compares models but has no unit."
        )
    return PredictionScore(float(elpd), float(found["se"]), float(effective_parameters), pointwise, caveats)


def _places(pointwise: pd.DataFrame, is_meant: Bool[np.ndarray, " measurements"], most: int = 5) -> str:
    meant = pointwise[is_meant]
    named = [f"{row.observable} in {row.experiment} at {row.time:g}" for row in meant.head(most).itertuples()]
    more = f"; and {len(meant) - most} more" if len(meant) > most else ""
    return f"{len(meant)} of {len(pointwise)} measurements ({'; '.join(named)}{more})"
