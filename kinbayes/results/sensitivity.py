"""How much each parameter's posterior hangs on the prior, and how much on the data, by power-scaling.

The prior, or the likelihood, is raised to powers slightly below and above 1. What that does to a marginal posterior is
told by importance weights of the draws that are there; nothing is simulated.
"""

import arviz as az
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from kinbayes.results.convergence import MIN_DRAWS
from kinbayes.results.pointwise import pointwise_log_likelihood
from kinbayes.results.store import InferenceData, read_group
from kinbayes.results.summary import posterior, scaled_draws

THRESHOLD = 0.05  # of Kallioinen et al. (2024)
FLAT = 1e-6  # a log prior that varies by less is constant
CHANCE = 1 / 3  # measured: see `_chance`


def prior_sensitivity(idata: InferenceData) -> pd.DataFrame:
    """Return how sensitive every parameter's marginal posterior is to the prior and to the likelihood.

    A sensitivity is the rate at which the marginal moves, as a distance between distribution functions (cumulative
    Jensen-Shannon), when the log density of the prior or of the likelihood is multiplied by a number around 1. It is
    taken on the parameter's own scale. The prior is the joint one: a parameter whose own prior is flat may still move,
    through others that it is correlated with, if theirs are scaled.

    Bounds are not scaled. A prior that is constant between bounds on the parameter's scale, as are assumed ones, has no
    sensitivity at all, whatever its bounds do to the posterior: widen them and sample again to see that.

    Scaled draws move a little by chance: about a third of the standard deviation of the log density over the square
    root of the number of independent draws. What is below twice that counts as nothing.

    Parameters
    ----------
    idata
        A sampling run, with `log_prior` in its `sample_stats`.

    Returns
    -------
    Table with one row a parameter and the columns `prior` and `likelihood`, the sensitivities, NaN where draws are not
    finite or never moved; `verdict`, in words; `stated_prior`, the parameter's own. Its attributes are `threshold`,
    the sensitivity from which one counts, and `chance_prior` and `chance_likelihood`, what chance makes.

    Raises
    ------
    ValueError
        If the run has fewer than 8 draws, no `log_prior`, or a log density that is not finite.

    References
    ----------
    Kallioinen, Paananen, Bürkner, Vehtari (2024), Detecting and diagnosing prior and likelihood sensitivity with
    power-scaling, Statistics and Computing 34, doi:10.1007/s11222-023-10366-5.
    """
    draws = scaled_draws(idata)
    if draws.shape[1] < MIN_DRAWS:
        raise ValueError(f"the run has {draws.shape[1]} draws; sensitivities can be told of {MIN_DRAWS} or more")
    components = {"prior": _log_prior(idata), "likelihood": pointwise_log_likelihood(idata).sum(axis=-1)}
    found = {name: _sensitivities(draws, component) for name, component in components.items()}
    chance = {name: _chance(component) for name, component in components.items()}
    is_flat = bool(np.ptp(components["prior"]) < FLAT)
    is_high = {name: (found[name] >= max(THRESHOLD, 2 * chance[name])).tolist() for name in components}
    verdicts = [
        "unknown: draws are not finite or never moved" if np.isnan(prior) else _verdict(is_flat, *highs)
        for prior, *highs in zip(found["prior"], is_high["prior"], is_high["likelihood"], strict=True)
    ]
    variables = posterior(idata).data_vars
    table = pd.DataFrame(
        {**found, "verdict": verdicts, "stated_prior": [variable.attrs["prior"] for variable in variables.values()]},
        index=pd.Index(list(variables), name="parameter"),
    )
    table.attrs = {"threshold": THRESHOLD} | {f"chance_{name}": value for name, value in chance.items()}
    return table


def _verdict(is_flat: bool, is_prior_high: bool, is_likelihood_high: bool) -> str:
    if is_flat:
        return "flat prior: only its bounds matter"
    if is_prior_high:
        return "possible conflict of prior and data" if is_likelihood_high else "strong prior or weak likelihood"
    return "the data decide" if is_likelihood_high else "neither prior nor data move it: look at its bounds"


def _log_prior(idata: InferenceData) -> Float[np.ndarray, "chains draws"]:
    stats = read_group(idata, "sample_stats")
    if "log_prior" not in stats:
        raise ValueError("this run has no 'log_prior' in its sample_stats, which is what is scaled; sample again")
    values = stats["log_prior"].values
    if not np.all(np.isfinite(values)):
        raise ValueError(f"the log prior of {int(np.sum(~np.isfinite(values)))} draws is not finite")
    return values


def _sensitivities(
    draws: Float[np.ndarray, "chains draws dim"], component: Float[np.ndarray, "chains draws"]
) -> Float[np.ndarray, " dim"]:
    """Return the sensitivity of every parameter to the scaling of a log density, by ArviZ."""
    dims, coords = ("chain", "draw"), {"chain": np.arange(draws.shape[0]), "draw": np.arange(draws.shape[1])}
    is_known = np.all(np.isfinite(draws), axis=(0, 1)) & (np.ptp(draws, axis=(0, 1)) > 0)
    variables = {str(k): (dims, draws[..., k]) for k in np.flatnonzero(is_known)}
    data = az.InferenceData(
        posterior=xr.Dataset(variables, coords), log_prior=xr.Dataset({"component": (dims, component)}, coords)
    )
    sensitivities = np.full(draws.shape[-1], np.nan)
    if is_known.any():
        found = az.psens(data, component="prior")
        sensitivities[is_known] = [float(found[name]) for name in variables]
    return sensitivities


def _chance(component: Float[np.ndarray, "chains draws"]) -> float:
    """Return the sensitivity that a parameter shows on average which has nothing to do with a log density.

    Weighting by it moves the mean of any function of independent draws by its standard deviation over the root of
    their number; the third is what the distance makes of that, for normal marginals.
    """
    if np.ptp(component) < FLAT:
        return 0.0
    return float(CHANCE * component.std() / np.sqrt(az.ess(component, method="mean")))
