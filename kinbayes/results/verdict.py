"""Whether a sampling run may be trusted: one function a subject, sentences that say what is wrong and what to try.

`converged` joins the subjects that forbid trust in the draws, `cautions` those that do not: they tell of a sampler that
works harder than it should, and of a posterior that is not quite the one that was asked for.
"""

import arviz as az
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from kinbayes.results.attributes import attributes
from kinbayes.results.convergence import MIN_DRAWS
from kinbayes.results.store import InferenceData
from kinbayes.results.summary import diagnostics, posterior, scaled_draws
from kinbayes.results.tempering import round_trips, swap_rates

MIN_MOVES = 0.1  # of the other chains' median: a chain that moves less often is stuck
DRAWS_PER_RUNG = 10  # a run with fewer need not have made a round trip
MAX_DEEPEST = 0.01  # share of draws at the largest tree depth
MIN_BFMI = 0.3  # the limit that ArviZ names, provisional
MIN_SWAP_RATE = 0.1
MIN_EFFECTIVE_SHARE = 0.95  # of draws, once they are weighted towards the exact solution
MAX_K_HAT, MAX_CHANGE = 0.7, 0.1  # of those weights, and of the log likelihood
MAX_FAILED = 0.01  # share of simulations near the bulk


def converged(
    idata: InferenceData,
    *,
    max_r_hat: float = 1.01,
    min_ess_per_chain: float = 100.0,
    max_divergent: float = 0.001,
) -> tuple[bool, list[str]]:
    """Say whether a sampling run may be trusted, and if not, why and what to try.

    Beside the rules that the settings are for: a chain must move about as often as the others, none may lie below
    the best one's log densities, every ladder of a tempered run must have brought a walker from the prior to the
    posterior and back, and weights by which draws were resampled must have a tail that allows it. Draws of an
    approximation, such as Laplace's, are never converged.

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
    approximation = attributes(idata).get("approximation")
    if approximation is not None:
        return False, [
            f"The draws are of an approximation ({approximation}), not of the posterior, so they cannot converge. "
            "Use kinbayes.sample; k_hat and effective_share say how far the two are apart."
        ]
    found = diagnostics(idata)
    reasons = [
        *_unknown(found),
        *_heavy_weights(idata),
        *_single_chain(idata),
        *_stuck_chains(idata),
        *_lower_chains(idata),
        *_disagreement(found, max_r_hat),
        *_few_draws(found, min_ess_per_chain * posterior(idata).sizes["chain"]),
        *_divergences(idata, max_divergent),
        *_no_round_trips(idata),
    ]
    return not reasons, reasons


def cautions(idata: InferenceData) -> list[str]:
    """Say what does not forbid trust in the draws, but should be known, and what to try.

    Tree depth and energy of the No-U-Turn sampler, swap rates of a tempered run, and what the run has checked of its
    simulations: whether the tolerances shape the posterior, and how many fail near its bulk.

    Parameters
    ----------
    idata
        A sampling run.

    Returns
    -------
    A sentence for each rule that does not hold.

    Raises
    ------
    ValueError
        If the run has no posterior.
    """
    posterior(idata)
    return [
        *_deepest_trees(idata),
        *_energy(idata),
        *_rare_swaps(idata),
        *_loose_tolerances(idata),
        *_failures_near_bulk(idata),
    ]


# ---- reasons not to trust the draws


def _unknown(found: pd.DataFrame) -> list[str]:
    unknown = found.index[found["ess_bulk"].isna() | found["ess_tail"].isna()]
    if not len(unknown):
        return []
    return [
        f"{_names(unknown)}: never moved, not finite, or fewer than {MIN_DRAWS} draws. "
        "Check the bounds and the starting points, or draw more."
    ]


def _heavy_weights(idata: InferenceData) -> list[str]:
    """Tell of draws that are resampled by weights whose tail is too heavy."""
    known = attributes(idata)
    if known.get("rung") != "importance" or known.get("pareto_k", np.inf) < known["pareto_k_limit"]:
        return []
    k_hat = f"{known['pareto_k']:.2f}" if "pareto_k" in known else "unknown"
    return [
        f"The draws are weighted, and few of {known['weighted_draws']} have most of the weight: k-hat is {k_hat}, and "
        f"must be below {known['pareto_k_limit']:.2f}. Leave the setting rung at 'auto', or learn a better proposal."
    ]


def _single_chain(idata: InferenceData) -> list[str]:
    if posterior(idata).sizes["chain"] > 1:
        return []
    return ["There is one chain, so nothing shows that another would agree. Run four."]


def _disagreement(found: pd.DataFrame, max_r_hat: float) -> list[str]:
    apart = found.loc[found["r_hat"] > max_r_hat, "r_hat"].sort_values(ascending=False)
    if not len(apart):
        return []
    return [
        f"The chains disagree: R-hat is {apart.iloc[0]:.3f} for {apart.index[0]}, above {max_r_hat} for "
        f"{_names(apart.index)}. Draw more, with a longer warmup; if chains stay apart, "
        "there may be several modes."
    ]


def _few_draws(found: pd.DataFrame, least: float) -> list[str]:
    sentences = []
    for column, what in (("ess_bulk", "the median"), ("ess_tail", "interval ends")):
        short = found.loc[found[column] < least, column].sort_values()
        if len(short):
            sentences.append(
                f"Too few independent draws for {what}: {short.iloc[0]:.0f} for {short.index[0]}, below "
                f"{least:.0f} for {_names(short.index)}. "
                f"Draw about {least / short.iloc[0]:.1f} times as many."
            )
    return sentences


def _divergences(idata: InferenceData, max_divergent: float) -> list[str]:
    if "diverging" not in idata.sample_stats or idata.sample_stats["diverging"].mean() <= max_divergent:
        return []
    diverging = idata.sample_stats["diverging"]
    return [
        f"{int(diverging.sum())} of {diverging.size} draws diverged: the sampler missed narrow "
        "parts of the posterior, or simulations fail there. "
        "Raise the target acceptance rate or tighten the tolerances."
    ]


def _stuck_chains(idata: InferenceData) -> list[str]:
    is_stuck, moves = _stuck(idata)
    if not is_stuck.any():
        return []
    return [
        f"{_chains(idata, is_stuck)} stuck: at most {100 * moves[is_stuck].max():.2g} % of the draws differ from the "
        "one before. Start elsewhere, or warm up longer; simulations may fail all around."
    ]


def _stuck(idata: InferenceData) -> tuple[Bool[np.ndarray, " chains"], Float[np.ndarray, " chains"]]:
    """Tell which chains move much less often than the others, or never, and the share of draws that moved."""
    draws = scaled_draws(idata)
    moves = np.any(np.diff(draws, axis=1) != 0, axis=-1).sum(axis=1) / max(draws.shape[1] - 1, 1)
    if draws.shape[0] < 2 or draws.shape[1] < MIN_DRAWS:
        return np.zeros(len(moves), dtype=bool), moves  # there are other sentences for both
    others = np.array([np.median(np.delete(moves, k)) for k in range(len(moves))])
    return (moves == 0) | (moves < MIN_MOVES * others), moves


def _lower_chains(idata: InferenceData) -> list[str]:
    """Find chains whose log densities lie below those of the best chain that moves."""
    log_density = idata.sample_stats["lp"].values
    is_stuck, _ = _stuck(idata)
    if is_stuck.all() or not np.all(np.isfinite(log_density)):
        return []
    low, middle, high = np.quantile(log_density, [0.05, 0.5, 0.95], axis=1)
    best = int(np.argmax(np.where(is_stuck, -np.inf, middle)))
    is_lower = high < low[best]
    if not is_lower.any():
        return []
    gaps = ", ".join(f"{gap:.3g}" for gap in middle[best] - middle[is_lower])
    return [
        f"{_chains(idata, is_lower)} {gaps} log units below chain {int(idata.posterior.chain[best])}: in another, "
        "lower mode, or still on the way. Warm up longer, start from the result of kinbayes.optimize, or use "
        'sampler="parallel_tempering", which weighs modes against each other.'
    ]


def _no_round_trips(idata: InferenceData) -> list[str]:
    if "round_trips" not in idata.sample_stats:
        return []
    sizes = idata.sample_stats.sizes
    is_idle = round_trips(idata) == 0
    if sizes["draw"] < DRAWS_PER_RUNG * sizes["rung"] or not is_idle.any():
        return []
    return [
        f"{_chains(idata, is_idle)} without a round trip: in {sizes['draw']} draws no walker went from the prior to "
        "the posterior and back, so nothing of the prior's width has reached the posterior. Add rungs or draw more."
    ]


# ---- what should be known


def _deepest_trees(idata: InferenceData) -> list[str]:
    settings = attributes(idata).get("settings", {})
    if "tree_depth" not in idata.sample_stats or "max_tree_depth" not in settings:
        return []
    deepest = int(settings["max_tree_depth"])
    share = float((idata.sample_stats["tree_depth"] >= deepest).mean())
    if share <= MAX_DEEPEST:
        return []
    return [
        f"{100 * share:.3g} % of the trajectories were cut off at the largest tree depth, {deepest}: the draws hold, "
        "but each costs much and moves little. Parameters may be strongly correlated or not determined: use "
        "dense_mass, warm up longer, or give them priors; raising max_tree_depth comes last."
    ]


def _energy(idata: InferenceData) -> list[str]:
    if "energy" not in idata.sample_stats or idata.sample_stats.sizes["draw"] < MIN_DRAWS:
        return []
    energy = idata.sample_stats["energy"].values
    if not np.all(np.isfinite(energy)) or np.any(np.ptp(energy, axis=1) == 0):
        return []
    found = np.asarray(az.bfmi(energy))
    is_low = found < MIN_BFMI
    if not is_low.any():
        return []
    return [
        f"{_chains(idata, is_low)} slow through the energies: the fraction of missing information (E-BFMI) is "
        f"{found.min():.2f}, below {MIN_BFMI}, so the tails may be missed. They are heavy or the scales vary: give "
        "parameters that the data do not determine narrower priors, or put them on a logarithmic scale."
    ]


def _rare_swaps(idata: InferenceData) -> list[str]:
    if "swap_rate" not in idata.sample_stats:
        return []
    rates = swap_rates(idata)
    worst = int(np.argmin(rates))
    if rates[worst] >= MIN_SWAP_RATE:
        return []
    beta = idata.sample_stats["beta"].values.mean(axis=(0, 1))
    barrier, rungs = float(np.sum(1 - rates)), len(beta)
    wanted = int(np.ceil(2 * barrier)) + 1  # spread evenly, each pair then swaps every second time
    advice = f"use {wanted} rungs" if wanted > rungs else "warm up longer, so that the ladder spreads its rungs evenly"
    return [
        f"Swaps between the rungs with beta {beta[worst]:.3g} and {beta[worst + 1]:.3g} are rare: {rates[worst]:.2g} "
        f"of them succeed, below {MIN_SWAP_RATE}. The barrier between prior and posterior is at least {barrier:.2g} "
        f"over {rungs} rungs: {advice}."
    ]


def _loose_tolerances(idata: InferenceData) -> list[str]:
    known = attributes(idata)
    if "solver_check" not in known:
        return []
    check, rtol, atol = known["solver_check"], known["rtol"], known["atol"]  # the check's own tolerances are tighter
    share, k_hat, change = check["effective_share"], check["k_hat"], check["largest_change"]
    used, tighter = f"rtol={rtol:.3g} and atol={atol:.3g}", f"rtol={rtol / 10:.3g} and atol={atol / 10:.3g}"
    sentences = []
    is_heavy = k_hat is not None and k_hat > MAX_K_HAT and change > MAX_CHANGE
    if is_heavy or (share is not None and share < MIN_EFFECTIVE_SHARE):
        tail = "cannot be told" if k_hat is None else f"{k_hat:.2f}"
        sentences.append(
            f"The tolerances {used} are too loose for this posterior: solved at rtol={check['rtol']:.3g} and "
            f"atol={check['atol']:.3g}, log likelihoods change by up to {change:.2g}, and draws that are weighted by "
            f"that are worth {100 * share:.3g} % of their number (k-hat: {tail}). Set {tighter} and sample again."
        )
    if check["failed"] > 0:
        sentences.append(
            f"{check['failed']} of {check['draws']} draws could not be simulated when their solution was checked at "
            f"rtol={check['rtol']:.3g} and atol={check['atol']:.3g}, so nothing shows that {used} are tight enough "
            f"there. Raise max_steps, or set {tighter} and sample again."
        )
    return sentences


def _failures_near_bulk(idata: InferenceData) -> list[str]:
    found = attributes(idata).get("failed_near_bulk")
    if found is None or found["failed"] <= MAX_FAILED * found["tried"]:
        return []
    reasons = ", ".join(f"{count} {reason}" for reason, count in found["by_reason"].items())
    return [
        f"{found['failed']} of {found['tried']} simulations near the bulk of the posterior failed ({reasons}): the "
        "failures truncate the posterior there. Tighten rtol and atol, raise max_steps, or set bounds that leave out "
        "what cannot be."
    ]


# ---- words


def _names(index: pd.Index, most: int = 5) -> str:
    more = f" and {len(index) - most} more" if len(index) > most else ""
    return ", ".join(index[:most]) + more


def _chains(idata: InferenceData, is_meant: Bool[np.ndarray, " chains"]) -> str:
    """Return the chains as the start of a sentence, with their verb."""
    names = [str(name) for name in posterior(idata).chain.values[is_meant]]
    return f"Chain {names[0]} is" if len(names) == 1 else f"Chains {', '.join(names)} are"
