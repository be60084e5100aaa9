"""The evidence, the probability density of the data under a model, from a tempered run by stepping stones.

Rung k of a ladder draws from the prior times the likelihood to the power β_k, from the prior (β = 0) to the posterior
(β = 1). The evidence is the product of the ratios of their normalising constants, and each ratio is a mean over the
draws of the lower rung.
"""

from typing import NamedTuple

import arviz as az
import numpy as np
from jaxtyping import Float

from kinbayes.results.convergence import MIN_DRAWS
from kinbayes.results.store import InferenceData, read_group

MIN_CHAINS = 4  # whose own estimates tell how far they scatter


class Evidence(NamedTuple):
    """Hold the logarithm of the evidence and its standard error.

    Attributes
    ----------
    value
        log Z, with Z the mean of the likelihood over the prior, bounds included.
    error
        One standard error of `value`.
    """

    value: float
    error: float


def log_evidence(idata: InferenceData) -> Evidence:
    """Estimate the log evidence of a tempered run.

    log Z = Σ_k log mean exp((β_{k+1} - β_k) ℓ_k), with ℓ_k the log likelihoods of rung k's draws. A draw whose
    simulation fails has likelihood zero, so the share of the prior that cannot be simulated lowers the evidence.

    The error is that of the mean over draws of φ = Σ_k (w_k / mean w_k - 1), with the weights w_k above: one series for
    all rungs, so that it knows that neighbours exchange positions, and by its effective sample size that draws follow
    each other. Where four chains or more scatter wider than that, the error is the scatter of their own estimates. It
    knows of nothing that no rung has found.

    The evidence is a statement about the prior as much as about the model: ten times wider bounds of a parameter that
    the data determine divide it by ten.

    Parameters
    ----------
    idata
        A run of parallel tempering: `beta` and `rung_log_likelihood` in its `sample_stats`.

    Returns
    -------
    The log evidence and its standard error.

    Raises
    ------
    ValueError
        If the run is not tempered or has fewer than 8 draws, its ladder moves, differs between chains or does not
        lead from 0 to 1, a log likelihood is NaN or +inf, or all of a rung are -inf.

    References
    ----------
    Xie, Lewis, Fan, Kuo, Chen (2011), Improving marginal likelihood estimation for Bayesian phylogenetic model
    selection, Systematic Biology 60(2), doi:10.1093/sysbio/syq085.
    """
    beta, log_likelihood = _ladder(idata)
    log_weights = np.diff(beta) * log_likelihood[..., :-1]  # (chains, draws, rungs - 1)
    highest = log_weights.max(axis=(0, 1))
    barren = np.flatnonzero(np.isneginf(highest))
    if len(barren):
        raise ValueError(
            f"no draw of the rung with beta {beta[barren[0]]:.3g} could be simulated, so nothing is known of the "
            "evidence; narrow the bounds, or loosen rtol and atol"
        )
    weights = np.exp(log_weights - highest)
    ratios = weights.mean(axis=(0, 1))
    value = float(np.sum(np.log(ratios) + highest))
    return Evidence(value, max(_error_of_mean((weights / ratios).sum(axis=-1)), _scatter(weights / ratios)))


def _error_of_mean(values: Float[np.ndarray, "chains draws"]) -> float:
    """Return the standard error of a mean over draws that follow each other."""
    if np.ptp(values) == 0:
        return 0.0
    # arviz.mcse, with numba installed, fails or gives an array under NumPy 2.4.
    return float(values.std(ddof=1) / np.sqrt(az.ess(values, method="mean")))


def _scatter(weights: Float[np.ndarray, "chains draws pairs"]) -> float:
    """Return the standard error of the mean of the chains' own estimates; 0 where chains are too few to tell."""
    if len(weights) < MIN_CHAINS:
        return 0.0
    with np.errstate(divide="ignore"):  # a chain that found nothing
        estimates = np.log(weights.mean(axis=1)).sum(axis=-1)
    return float(estimates.std(ddof=1) / np.sqrt(len(estimates))) if np.all(np.isfinite(estimates)) else np.inf


def _ladder(idata: InferenceData) -> tuple[Float[np.ndarray, " rungs"], Float[np.ndarray, "chains draws rungs"]]:
    """Return the betas of a tempered run and its rungs' log likelihoods, once they are fit for stepping stones."""
    stats = read_group(idata, "sample_stats")
    missing = sorted({"beta", "rung_log_likelihood"} - set(stats.data_vars))
    if missing:
        raise ValueError(
            f"the evidence needs a tempered run, and this one has no {missing} in its sample_stats; "
            'use kinbayes.sample(problem, sampler="parallel_tempering")'
        )
    betas, log_likelihood = stats["beta"].values, stats["rung_log_likelihood"].values
    if betas.shape[1] < MIN_DRAWS:
        raise ValueError(f"the run has {betas.shape[1]} draws; an error can be told of {MIN_DRAWS} or more")
    beta = betas[0, 0]
    if not np.all(betas == beta):
        raise ValueError(
            "the ladder (beta) is not the same in all chains and draws, so there is no ratio to average; it must "
            "be fixed when the warmup ends"
        )
    if not (beta[0] == 0 and beta[-1] == 1 and np.all(np.diff(beta) > 0)):
        raise ValueError(f"the ladder must rise from 0 (the prior) to 1 (the posterior), but is {beta.tolist()}")
    num_wrong = int(np.sum(np.isnan(log_likelihood) | np.isposinf(log_likelihood)))
    if num_wrong:
        raise ValueError(
            f"{num_wrong} of {log_likelihood.size} log likelihoods of the rungs are NaN or +inf; "
            "a failed simulation counts as -inf"
        )
    return beta, log_likelihood
