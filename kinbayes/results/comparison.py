"""Models of the same measurements side by side: predictions of what is left out, weights, evidence."""

import warnings
from collections.abc import Mapping

import arviz as az
import numpy as np
import pandas as pd
import xarray as xr

from kinbayes.results.attributes import attributes
from kinbayes.results.evidence import Evidence, log_evidence
from kinbayes.results.prediction_score import MAX_K_HAT, ONE_AT_A_TIME, PredictionScore, loo
from kinbayes.results.store import InferenceData, read_group
from kinbayes.results.summary import measurements
from kinbayes.results.verdict import converged

_PLACE = ["observable", "experiment", "time", "censoring", "measurement"]


def compare_models(idatas: Mapping[str, InferenceData]) -> pd.DataFrame:
    """Compare models of the same measurements, by predictions of each measurement left out and by their evidence.

    Parameters
    ----------
    idatas
        Sampling runs by name, two or more, of different models and the same measurements in any order.

    Returns
    -------
    Table with one row a model, the best prediction first:

    - `elpd_loo`, `se`: the log density of measurements left out, see `loo`, and its standard error
    - `elpd_diff`, `se_diff`: how far the model lies behind the first, and the standard error of that, which is smaller
      than those of both where they fail at the same measurements
    - `p_loo`: effective number of parameters
    - `weight`: in the mixture of the models that predicts best (stacking); a model may be good and have none, if
      another says the same
    - `num_high_k`: measurements for which the estimate fails (k̂ > 0.7)
    - `log_evidence`, `log_evidence_error`: NaN for runs that are not tempered
    - `log_bayes_factor`: log evidence minus that of the first row; NaN unless all runs are tempered
    - `num_assumed_priors`: parameters whose prior is uniform between bounds because none was stated
    - `converged`

    Its attribute `caveats` lists sentences that must not be left out where the table is shown.

    Raises
    ------
    ValueError
        If there are fewer than two runs, their measurements differ, or one cannot be scored (see `loo`).

    References
    ----------
    Vehtari, Gelman, Gabry (2017), Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC,
    Statistics and Computing 27, doi:10.1007/s11222-016-9696-4.
    Yao, Vehtari, Simpson, Gelman (2018), Using stacking to average Bayesian predictive distributions, Bayesian
    Analysis 13(3), doi:10.1214/17-BA1091.
    """
    if len(idatas) < 2:
        raise ValueError(f"there are {len(idatas)} models; comparing takes two or more")
    _refuse_other_data(idatas)
    scores = {name: loo(idata) for name, idata in idatas.items()}
    ranked = _ranked(scores)
    evidence = {name: _evidence(idata) for name, idata in idatas.items()}
    known = {name: attributes(idata) for name, idata in idatas.items()}
    best = ranked.index[0]
    table = pd.DataFrame.from_dict(
        {
            name: {
                "elpd_loo": scores[name].elpd,
                "se": scores[name].se,
                "elpd_diff": float(ranked.loc[name, "elpd_diff"]),
                "se_diff": float(ranked.loc[name, "dse"]),
                "p_loo": scores[name].effective_parameters,
                "weight": float(ranked.loc[name, "weight"]),
                "num_high_k": int((scores[name].pointwise["k_hat"] > MAX_K_HAT).sum()),
                "log_evidence": evidence[name].value,
                "log_evidence_error": evidence[name].error,
                "num_assumed_priors": len(known[name].get("assumed_priors", [])),
                "converged": bool(
                    known[name]["converged"] if "converged" in known[name] else converged(idatas[name])[0]
                ),
            }
            for name in ranked.index
        },
        orient="index",
    ).rename_axis("model")
    factors = table["log_evidence"] - table.loc[best, "log_evidence"]
    is_known = bool(table["log_evidence"].notna().all())
    table.insert(table.columns.get_loc("log_evidence_error") + 1, "log_bayes_factor", factors if is_known else np.nan)
    table.attrs = {"caveats": _caveats(table, scores)}
    return table


def _ranked(scores: Mapping[str, PredictionScore]) -> pd.DataFrame:
    """Return differences and stacking weights as ArviZ computes them, the best model first."""
    shares = {name: score.pointwise.sort_values(_PLACE)["elpd"].to_numpy() for name, score in scores.items()}
    # Differences and weights do not change when all models gain the same in a measurement. ArviZ takes exponentials.
    highest = np.max(list(shares.values()), axis=0)
    found = {name: _as_arviz(scores[name], shares[name] - highest) for name in scores}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k-hat, which is in the caveats, and what pandas says of ArviZ
        return az.compare(found, method="stacking")


def _as_arviz(score: PredictionScore, shares: np.ndarray) -> pd.Series:
    entries = {
        "elpd_loo": score.elpd,
        "se": score.se,
        "p_loo": score.effective_parameters,
        "warning": False,
        "loo_i": xr.DataArray(shares, dims="measurement"),
        "scale": "log",
    }
    return az.ELPDData(data=list(entries.values()), index=list(entries))


def _evidence(idata: InferenceData) -> Evidence:
    return log_evidence(idata) if "beta" in read_group(idata, "sample_stats") else Evidence(np.nan, np.nan)


def _caveats(table: pd.DataFrame, scores: Mapping[str, PredictionScore]) -> list[str]:
    own = [
        f"{name}: {caveat}" for name in table.index for caveat in scores[name].caveats if caveat is not ONE_AT_A_TIME
    ]
    caveats = [ONE_AT_A_TIME, *own]
    if not table["converged"].all():
        names = ", ".join(table.index[~table["converged"]])
        caveats.append(f"{names}: the run has not converged, so its row is not to be trusted.")
    close = table.index[1:][(table["elpd_diff"] < 2 * table["se_diff"])[1:]]
    if len(close):
        caveats.append(f"The predictions of {', '.join(close)} cannot be told from those of {table.index[0]}.")
    if table["log_evidence"].notna().any():
        assumed = table.index[table["num_assumed_priors"] > 0]
        where = f" (priors were assumed in {', '.join(assumed)})" if len(assumed) else ""
        caveats.append(
            "The evidence depends on every prior, and where one is flat on its bounds: ten times wider bounds of a "
            f"parameter that the data determine divide it by ten{where}."
        )
    return caveats


def _refuse_other_data(idatas: Mapping[str, InferenceData]) -> None:
    first, *others = idatas
    reference = measurements(idatas[first]).sort_values(_PLACE, ignore_index=True)
    for name in others:
        differs = _difference(reference, measurements(idatas[name]).sort_values(_PLACE, ignore_index=True))
        if differs:
            raise ValueError(
                f"{first!r} and {name!r} are models of different measurements: {differs}. Models can only be compared "
                "on the same ones; sample both again with one table of measurements"
            )


def _difference(a: pd.DataFrame, b: pd.DataFrame) -> str:
    """Return what two sorted tables of measurements differ in; empty if in nothing."""
    for what in ("observable", "experiment"):
        alone = sorted(set(a[what]) ^ set(b[what]))
        if alone:
            return f"{what}s {alone} are in one of them only"
    if len(a) != len(b):
        return f"there are {len(a)} and {len(b)} of them"
    for what in _PLACE:
        rows = np.flatnonzero(a[what].to_numpy() != b[what].to_numpy())
        if len(rows):
            row = rows[0]
            return (
                f"the {what} differs in {len(rows)} rows, such as {a[what][row]!r} and {b[what][row]!r} "
                f"({a['observable'][row]} in {a['experiment'][row]} at {a['time'][row]:g})"
            )
    return ""
