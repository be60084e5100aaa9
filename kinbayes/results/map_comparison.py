"""A mode and a posterior side by side: what each says of a parameter, and whether the data determine it."""

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from scipy import stats

from kinbayes.results.attributes import attributes
from kinbayes.results.mode_store import SIDES
from kinbayes.results.profile_interval import profile_intervals
from kinbayes.results.scales import from_scale, to_scale
from kinbayes.results.store import InferenceData, read_group
from kinbayes.results.summary import credible_intervals
from kinbayes.results.summary import posterior as draws_of
from kinbayes.results.verdict import converged

MIN_CONTRACTION = 0.5
OPEN = float(np.exp(-stats.chi2.ppf(0.95, 1) / 2))  # 0.147: at the ends of a profile's 95 % interval, of the maximum
BETTER = 0.01  # log density by which a draw is better than the mode
MAX_K_HAT, MAX_OUTSIDE = 0.7, 0.05  # of the Laplace approximation: importance weights, share beyond walls
_WINDOW = 1 / 20  # of the prior, where its end is looked at, or less: of the posterior's 95 % interval …
_PER_INTERVAL = 1 / 10
_PRIOR_DRAWS = 10  # … but not fewer draws of the prior than these

RULE = (
    "A side is closed if the data end it. The profile decides where it was followed far enough: it is closed if it "
    "drops by half a chi-square quantile before the wall, for the larger part by the likelihood. Else the posterior "
    "decides: it is open if the density of the posterior relative to the prior, at that end of the prior, is above "
    f"{OPEN:.3f} of its largest (the same drop, 1.92). Ends are the outermost twentieth of the prior, or less where "
    "the posterior is narrow. Identified: both sides are closed, and the contraction, 1 - variance of the posterior / "
    f"variance of the prior, is above {MIN_CONTRACTION:g}. One-sided: one side is closed. Not identified: all others."
)


def compare(
    map: InferenceData,
    posterior: InferenceData,
    profile: InferenceData | None = None,
    laplace: InferenceData | None = None,
    prob: float = 0.95,
) -> pd.DataFrame:
    """Compare the mode of a posterior with the posterior, and say of every parameter whether the data determine it.

    A side of a parameter is closed if the data end it. The profile decides where there is one that was followed far
    enough: a side is closed if the profile drops by half the chi-square quantile before the wall, and the likelihood
    has the larger part in that drop. Else the posterior decides: a side is open if the density of the posterior
    relative to the prior (which is the marginal likelihood), at that end of the prior, is above 0.147 = exp(-1.92) of
    its largest. The end is the outermost twentieth of the prior's mass, or a tenth of the posterior's 95 % interval
    where that is smaller, as far as draws of the prior resolve it.

    - `identified`: both sides are closed, and the contraction is above 0.5
    - `one-sided`: one side is closed, so that the data give a limit and no more
    - `not identified`: all others

    Parameters
    ----------
    map
        A result of `kinbayes.optimize`.
    posterior
        A result of `kinbayes.sample`.
    profile
        A result of `kinbayes.profile`.
    laplace
        A result of `kinbayes.laplace`; None also where it refuses.
    prob
        Probability of all intervals.

    Returns
    -------
    Table with one row a parameter, natural units:

    - `map`: the best point
    - `laplace_lower`, `laplace_upper`: of the normal approximation in u, walls not considered; NaN without one
    - `profile_lower`, `profile_upper`: NaN without a profile, and where a side is open
    - `mean` (taken on the parameter's scale), `median`, `lower`, `upper`: of the posterior, equal tails
    - `contraction`: 1 - variance of the posterior / variance of the prior, in u
    - `unit`, `scale`
    - `below`, `above`: `closed` or `open`
    - `verdict`

    Its attributes are `prob`, `rule`, and `caveats`: sentences that must not be left out where the table is shown.

    Raises
    ------
    ValueError
        If the results are of different problems, or one is of another kind.
    """
    known = {"map": map, "posterior": posterior, "profile": profile, "laplace": laplace}
    given = {role: idata for role, idata in known.items() if idata is not None}
    _refuse_other_problems(given)
    estimates = read_group(map, "map_estimate")
    best = estimates.isel(start=int(np.argmax(estimates.log_density.values)))
    table = credible_intervals(posterior, prob)
    names = table.index
    missing = [name for name in names if name not in best]
    if missing:
        raise ValueError(f"the map has no estimates of {missing}; it is of another problem")
    of_profile = profile_intervals(profile, prob) if profile is not None else _no_profile()
    of_laplace = _laplace_intervals(laplace, prob) if laplace is not None else None
    prior = posterior.prior if "prior" in posterior.groups() else None
    rows, disagreeing = {}, []
    for name in names:
        draws = draws_of(posterior)[name]
        scale = str(draws.attrs["scale"])
        u = to_scale(draws.values, scale).ravel()
        prior_u = None if prior is None else to_scale(prior[name].values, scale).ravel()
        contraction = np.nan if prior_u is None else 1 - np.var(u) / np.var(prior_u)
        own = of_profile.loc[name] if name in of_profile.index else None
        is_closed = [_is_closed(own, side, u, prior_u) for side in SIDES]
        disagreeing += [f"{name} {side}" for side in SIDES if own is not None and _disagree(own, side, u, prior_u)]
        rows[name] = {
            "map": float(best[name]),
            "laplace_lower": np.nan if of_laplace is None else of_laplace.loc[name, "lower"],
            "laplace_upper": np.nan if of_laplace is None else of_laplace.loc[name, "upper"],
            "profile_lower": np.nan if own is None else own["lower"],
            "profile_upper": np.nan if own is None else own["upper"],
            "mean": float(from_scale(np.mean(u, keepdims=True), scale)[0]),
            **table.loc[name, ["median", "lower", "upper"]],
            "contraction": contraction,
            "unit": table.loc[name, "unit"],
            "scale": scale,
            **{side: "closed" if ends else "open" for side, ends in zip(SIDES, is_closed, strict=True)},
            "verdict": _verdict(*is_closed, contraction),
        }
    compared = pd.DataFrame.from_dict(rows, orient="index").rename_axis("parameter")
    compared.attrs = {"prob": prob, "rule": RULE, "caveats": _caveats(given, best, of_profile, disagreeing)}
    return compared


def _refuse_other_problems(given: dict[str, InferenceData]) -> None:
    known = {role: attributes(idata) for role, idata in given.items()}
    role, *others = [role for role, found in known.items() if "problem_hash" in found]
    for other in others:
        a, b = known[role], known[other]
        if a["problem_hash"] != b["problem_hash"]:
            raise ValueError(
                f"the {role} is of the problem {a.get('problem', '')!r} ({a['problem_hash']}) and the {other} of "
                f"{b.get('problem', '')!r} ({b['problem_hash']}): model, data, priors or tolerances differ. Make both "
                "of one problem"
            )


def _laplace_intervals(laplace: InferenceData, prob: float) -> pd.DataFrame:
    group, quantile = read_group(laplace, "laplace"), stats.norm.ppf((1 + prob) / 2)
    half = quantile * group.standard_deviation.values
    ends = np.stack([group["mode"].values - half, group["mode"].values + half], axis=-1)
    scales = group.scale.values
    natural = [from_scale(pair, str(scale)) for pair, scale in zip(ends, scales, strict=True)]
    return pd.DataFrame(natural, index=group.parameter.values, columns=["lower", "upper"])


def _no_profile() -> pd.DataFrame:
    return pd.DataFrame(columns=["lower", "upper", *SIDES])


# ---- sides


def _is_closed(own: pd.Series | None, side: str, u: np.ndarray, prior_u: np.ndarray | None) -> bool:
    """Tell whether a side is closed: by the profile where it knows, else by the posterior."""
    if own is not None and own[side] in ("data", "prior", "wall"):
        return bool(own[side] == "data")
    return prior_u is not None and not is_open(u, prior_u, side)


def _disagree(own: pd.Series, side: str, u: np.ndarray, prior_u: np.ndarray | None) -> bool:
    if prior_u is None or own[side] not in ("data", "prior", "wall"):
        return False
    return (own[side] == "data") == is_open(u, prior_u, side)


def is_open(u: Float[np.ndarray, " draws"], prior_u: Float[np.ndarray, " prior_draws"], side: str) -> bool:
    """Tell whether nothing but the prior ends a posterior on a side, below or above; of what is not finite, it is."""
    if not np.all(np.isfinite(u)):
        return True
    size = len(prior_u)
    p = np.sort(np.interp(u, np.sort(prior_u), (np.arange(size) + 0.5) / size))  # uniform if the data say nothing
    low, high = np.quantile(p, [0.025, 0.975])
    window = max(min(_WINDOW, _PER_INTERVAL * (high - low)), _PRIOR_DRAWS / size)
    most = np.max(np.searchsorted(p, p + window, side="right") - np.arange(len(p)))
    at_end = np.sum(p <= window) if side == "below" else np.sum(p >= 1 - window)
    return bool(at_end > OPEN * most)


def _verdict(is_closed_below: bool, is_closed_above: bool, contraction: float) -> str:
    if is_closed_below and is_closed_above:
        return "not identified" if contraction <= MIN_CONTRACTION else "identified"
    return "one-sided" if is_closed_below or is_closed_above else "not identified"


# ---- caveats


def _caveats(
    given: dict[str, InferenceData], best: xr.Dataset, of_profile: pd.DataFrame, disagreeing: list[str]
) -> list[str]:
    posterior, laplace, profile = given["posterior"], given.get("laplace"), given.get("profile")
    known = attributes(posterior)
    sentences = []
    if "approximation" in known:
        sentences.append(f"The posterior is no sampling run but an approximation ({known['approximation']}).")
    elif not (known["converged"] if "converged" in known else converged(posterior)[0]):
        sentences.append("The sampling run has not converged, so the posterior's columns are not to be trusted.")
    if not bool(best.converged):
        sentences.append("The search for the mode has not converged: its best point may not be one.")
    highest = float(np.nanmax(posterior.sample_stats["lp"].values))
    if highest > float(best.log_density) + BETTER:
        sentences.append(
            f"The mode was missed: a draw of the posterior has a log density of {highest:.6g}, the map "
            f"{float(best.log_density):.6g}. Search again, with more starts or from the posterior."
        )
    if "prior" not in posterior.groups():
        sentences.append(
            "The posterior has no draws of the prior, so there is no contraction, and sides without a profile count "
            "as open."
        )
    if laplace is None:
        sentences.append("There is no Laplace approximation: none was given, or kinbayes.laplace refuses one here.")
    else:
        sentences += _laplace_caveats(attributes(laplace))
    if profile is not None:
        sentences += _profile_caveats(profile, of_profile, disagreeing)
    assumed = known.get("assumed_priors", [])
    if assumed:
        sentences.append(
            f"The prior of {_listed(assumed)} is uniform between bounds because none was stated: at an open side the "
            "posterior's interval ends where the bound was put."
        )
    return sentences


def _laplace_caveats(known: dict[str, object]) -> list[str]:
    if not known.get("k_hat", 0.0) > MAX_K_HAT and not known.get("share_outside", 0.0) > MAX_OUTSIDE:
        return []
    return [
        f"The Laplace approximation is poor: k-hat is {known['k_hat']:.2g}, and {100 * known['share_outside']:.3g} % "
        "of it lie beyond walls."
    ]


def _profile_caveats(profile: InferenceData, of_profile: pd.DataFrame, disagreeing: list[str]) -> list[str]:
    sentences = []
    better = attributes(profile).get("better_mode")
    if better is not None:
        sentences.append(
            f"On the profile of {better['on_profile_of']} there is a better mode, with a log density of "
            f"{better['log_density']:.6g}: search again from there."
        )
    short = [
        f"{name} {side}" for side in SIDES for name in of_profile.index[of_profile[side].isin(["points", "failed"])]
    ]
    if short:
        sentences.append(f"Profiles end early, and the posterior decides: {_listed(short)}.")
    if disagreeing:
        sentences.append(
            f"Profile and posterior disagree on whether the data close a side: {_listed(disagreeing)}. Of values that "
            "fit well the posterior counts how many there are, the profile does not."
        )
    return sentences


def _listed(words: list[str], most: int = 5) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
