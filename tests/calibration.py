"""Simulation-based calibration: whether draws of posteriors are spread as they should be.

Parameters are drawn from the prior and measurements from the model. Over many such replicates the rank of the truth
among independent draws of the posterior is uniform, and a central interval covers the truth as often as it says. Ranks
of parameters cannot tell a posterior from the prior, whose draws are as uniform about the truth; those of the log
likelihood, which depends on the data, can.

Prior draws that cannot be simulated are drawn again: the truth then comes from the prior given that the simulation
succeeds, and so does the posterior, since a failed simulation has no likelihood.

References
----------
Talts, Betancourt, Simpson, Vehtari, Gelman (2018), Validating Bayesian inference algorithms with simulation-based
calibration, arXiv:1804.06788.
Modrák, Moon, Kim, Bürkner, Huurre, Faltejsková, Gelman, Vehtari (2023), Simulation-based calibration checking for
Bayesian computation: the choice of test quantities shapes sensitivity, doi:10.1214/23-BA1404.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.stats
from jax.tree_util import Partial

import kinbayes as kb
from kinbayes.ode.status import Status
from kinbayes.problem.native_posterior import native_posterior
from kinbayes.results.convergence import diagnose
from kinbayes.run.choice import target
from kinbayes.run.loop.background import run_chains
from kinbayes.run.loop.driver import run_sampler
from kinbayes.run.loop.runs import SamplerRun
from kinbayes.run.starts.chain_starts import drawn_starts
from kinbayes.samplers import SAMPLERS
from kinbayes.samplers.base import Proposal, Target
from tests import proposals

CHAINS, KEPT = 3, 159  # draws that are ranked against: 160 ranks make equal bins and central intervals, 53 a chain
LEVELS = (0.5, 0.8, 0.95)
STARTS = 512  # draws of the prior, from the best of which chains start
MAX_R_HAT = 1.05
LONGER = 8  # times, for a run that has not converged
FEW_CANDIDATES = (("num_candidates", 8), ("local_steps", 20))  # as many as a network that has learned nothing is worth
Sampling = Callable[[kb.Problem, np.ndarray, int, int], SamplerRun]  # problem, starts, seed, factor of the length


# ---- problems and samplers


def conversion() -> kb.Problem:
    """Return `models/conversion_reaction` with noise so wide that a good part of what is known is the prior's.

    With the model's own noise that is 1 %, and an error in the prior does not show.
    """
    problem = kb.read_petab(kb.example("conversion_reaction"))
    observables = [dataclasses.replace(o, noise=kb.noise.normal(4.0)) for o in problem.observables]
    return kb.Problem(problem.model, problem.parameters, observables, table(problem), experiments=problem.experiments)


def influenza() -> kb.Problem:
    """Return `models/influenza`: nonlinear, with outbreaks of all sizes and with none."""
    return kb.read_petab(kb.example("influenza"))


PROBLEMS: dict[str, Callable[[], kb.Problem]] = {"conversion_reaction": conversion, "influenza": influenza}


class Size(NamedTuple):
    """The size of a run of every chain, in iterations of `thin` steps."""

    num_warmup: int
    num_draws: int
    thin: int


SIZES = {
    "adaptive_metropolis": {"conversion_reaction": Size(60, 159, 6), "influenza": Size(200, 212, 20)},
    "amortized": {"conversion_reaction": Size(60, 159, 1), "influenza": Size(600, 212, 1)},
    "dream": {"conversion_reaction": Size(60, 159, 10), "influenza": Size(200, 212, 30)},
    "nuts_numpyro": {"conversion_reaction": Size(200, 159, 1), "influenza": Size(300, 212, 1)},
    "nuts_nutpie": {"conversion_reaction": Size(200, 159, 1), "influenza": Size(300, 212, 1)},
    "parallel_tempering": {"conversion_reaction": Size(50, 159, 10), "influenza": Size(200, 212, 20)},
    "random_walk": {"conversion_reaction": Size(50, 159, 10), "influenza": Size(200, 212, 60)},
}


def sampling(name: str, size: Size, change: Callable[[Target], Target] = lambda target: target) -> Sampling:
    """Return the function that runs a sampler; `nuts` comes with its backend's name, nutpie's without a change."""

    def run(problem: kb.Problem, starts: np.ndarray, seed: int, factor: int) -> SamplerRun:
        if name == "nuts_nutpie":  # keeps every draw
            posterior = native_posterior(problem.estimated, problem.gradient_numbers)
            lengths = {"num_warmup": factor * size.num_warmup, "num_draws": factor * size.num_draws}
            return run_chains(posterior, initial=starts, seed=seed, **lengths)
        factory = SAMPLERS["nuts" if name == "nuts_numpyro" else name]
        lengths = {"num_warmup": size.num_warmup, "num_draws": size.num_draws, "thin": factor * size.thin}
        lengths |= {"seed": seed, "chunk": size.num_draws}  # judged once
        known, settings = change(target(problem)), ()
        if name == "amortized":
            known, settings = known._replace(proposal=untrained_proposal(problem)), FEW_CANDIDATES
        return run_sampler(known, factory, settings, initial=starts, **lengths)

    return run


def untrained_proposal(problem: kb.Problem) -> Proposal:
    """Return a network of random weights, about as wide as the prior, which knows nothing of any data."""
    draws = problem.draw_prior(np.random.default_rng(0), 1000)
    mean, sd = draws.mean(axis=0), draws.std(axis=0)
    network = proposals.latent(proposals.untrained(mean, sd, seed=4), 4)
    return proposals.mixture(network, proposals.student_t(mean, sd), 0.1)


# ---- ranks


class Ranks(NamedTuple):
    """Where the truth lies among the draws of every replicate whose chains have converged.

    Attributes
    ----------
    names
        The quantities: the parameters, then `log_likelihood`.
    values
        Number of draws below the truth, 0 to `KEPT`, (replicates, quantities).
    unconverged
        Number of replicates left out, since even longer chains had not converged.
    seconds
        Time of every replicate, compilation included.
    """

    names: tuple[str, ...]
    values: np.ndarray
    unconverged: int
    seconds: np.ndarray


def calibrate(problem: kb.Problem, sample: Sampling, *, replicates: int, seed: int) -> Ranks:
    """Rank the truth in the posteriors of measurements simulated from it, a number of times.

    Truths and measurements depend on the seed alone: of one seed, all samplers see the same.
    """
    ranks, seconds = [], []
    for replicate in range(replicates):
        rng = np.random.default_rng([seed, replicate])
        began = time.perf_counter()
        truth, posterior = simulated(problem, rng)
        starts = best_starts(posterior, rng)
        run_seed = int(rng.integers(2**31))
        for factor in (1, LONGER):
            run = sample(posterior, starts, run_seed, factor)
            if has_converged(run):
                true_log_likelihood = target(posterior).log_likelihood(truth[None])
                ranks.append(rank(np.append(truth, true_log_likelihood), kept(run), rng))
                break
        seconds.append(time.perf_counter() - began)
    names = (*problem.parameter_names, "log_likelihood")
    return Ranks(names, np.array(ranks).reshape(-1, len(names)), replicates - len(ranks), np.array(seconds))


def simulated(problem: kb.Problem, rng: np.random.Generator) -> tuple[np.ndarray, kb.Problem]:
    """Return a draw of the prior, and the problem with measurements simulated from it."""
    while True:
        truth = problem.draw_prior(rng, 1)
        rows = problem.rows(truth)
        if np.all(rows.status == Status.OK):
            break
    values = problem.draw_measurements(rng, rows.simulated, rows.noise)[0]
    return truth[0], problem.with_data(values)


def best_starts(problem: kb.Problem, rng: np.random.Generator) -> np.ndarray:
    """Return the best of many draws of the prior, which shortens the warmup; they know nothing of the truth."""
    points, _ = drawn_starts(problem, STARTS, rng)
    return points[np.argsort(-problem.evaluate(points).log_likelihood)[:CHAINS]]


def table(problem: kb.Problem) -> pd.DataFrame:
    """Return the measurements of a problem whose observables have no placeholders."""
    rows = [(m.observable, m.experiment, m.time, m.value) for m in problem.measurements]
    return pd.DataFrame(rows, columns=["observableId", "simulationConditionId", "time", "measurement"])


def has_converged(run: SamplerRun) -> bool:
    """Tell whether the chains agree, and have as many effective draws of every quantity as are kept."""
    ours, found = run.diagnostics[-1], diagnose(run.log_likelihood[..., None])
    agree = max(ours.max_rhat, found.r_hat[0]) < MAX_R_HAT
    return bool(agree and min(ours.min_ess_bulk, found.ess_bulk[0]) >= KEPT)


def kept(run: SamplerRun) -> np.ndarray:
    """Return draws from evenly over the chains, with their log likelihood last, (`KEPT`, quantities)."""
    chains, length = run.log_likelihood.shape
    per_chain = KEPT // chains
    every = np.arange(1, per_chain + 1) * length // per_chain - 1
    draws = np.concatenate([run.position, run.log_likelihood[..., None]], axis=-1)[:, every]
    return draws.reshape(KEPT, -1)


def rank(truth: np.ndarray, draws: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return how many draws lie below the truth, (quantities,); ties are broken at random."""
    return (draws < truth).sum(axis=0) + rng.integers((draws == truth).sum(axis=0) + 1)


# ---- the verdict


class Verdict(NamedTuple):
    """What ranks say of a sampler.

    Attributes
    ----------
    p_uniform
        Of every quantity, the p-value of a chi-square test that its ranks are uniform, (quantities,).
    coverage
        Share of replicates in which the central intervals of `LEVELS` cover the truth, (quantities, levels).
    p_coverage
        Two-sided p-values of exact binomial tests of these, (quantities, levels).
    p
        The smallest of all these p-values times their number, at most 1: a calibrated sampler has one below alpha with
        a probability of at most alpha (Bonferroni).
    """

    p_uniform: np.ndarray
    coverage: np.ndarray
    p_coverage: np.ndarray
    p: float


def judge(ranks: np.ndarray) -> Verdict:
    """Test whether ranks, (replicates, quantities), are those of a calibrated sampler."""
    replicates, _ = ranks.shape
    num_bins = 20 if replicates >= 200 else 10  # of at least five expected ranks, from 50 replicates on
    bins = ranks * num_bins // (KEPT + 1)
    counts = np.array([np.bincount(column, minlength=num_bins) for column in bins.T])
    p_uniform = scipy.stats.chisquare(counts, axis=1).pvalue
    tails = np.round((1 - np.array(LEVELS)) / 2 * (KEPT + 1)).astype(int)  # ranks on either side of an interval
    is_covered = (ranks[..., None] >= tails) & (ranks[..., None] <= KEPT - tails)
    p_coverage = np.array(
        [
            [scipy.stats.binomtest(k, replicates, level).pvalue for k, level in zip(row, LEVELS, strict=True)]
            for row in is_covered.sum(axis=0).tolist()
        ]
    )
    p_values = np.append(p_uniform, p_coverage)
    return Verdict(p_uniform, is_covered.mean(axis=0), p_coverage, min(1.0, len(p_values) * p_values.min()))


# ---- mistakes that it must find


def with_a_wrong_jacobian(target: Target) -> Target:
    """Multiply the prior by the derivative of a log10 scale, which is none of its own."""
    return target._replace(log_prior=Partial(_scaled_again, target.log_prior))


def _scaled_again(log_prior: Callable, U: np.ndarray):
    return log_prior(U) + np.log(10.0) * U.sum(axis=1)


def with_a_wrong_sign(target: Target) -> Target:
    """Divide by the prior."""
    return target._replace(log_prior=Partial(_negated, target.log_prior))


def _negated(log_prior: Callable, U: np.ndarray):
    return -log_prior(U)


def without_data(target: Target) -> Target:
    """Return the prior."""
    return target._replace(beta=jnp.array(0.0))


MISTAKES = {"wrong Jacobian": with_a_wrong_jacobian, "wrong sign": with_a_wrong_sign, "prior": without_data}
