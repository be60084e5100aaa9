"""Draws of a proposal with their importance weights: what they tell of the posterior, and as a run of chains."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from kinbayes.problem.problem import Problem
from kinbayes.results.evidence import Evidence
from kinbayes.results.importance import Importance
from kinbayes.run.loop.runs import SamplerProgress, SamplerRun, judged
from kinbayes.run.loop.trace import Draws, Memory, Trace
from kinbayes.samplers.base import Proposal, Proposed

_JUDGED = 4096  # steps of i-SIR whose refresh rate is averaged


class Weighted(NamedTuple):
    """Hold draws of a proposal with their densities and log π/q̂.

    Beyond a wall nothing is evaluated: there the densities are NaN. A draw without a density has the log weight -inf.
    """

    position: Float[np.ndarray, "*n dim"]
    log_prior: Float[np.ndarray, " *n"]
    log_likelihood: Float[np.ndarray, " *n"]
    log_weight: Float[np.ndarray, " *n"]


def draw_weighted(problem: Problem, proposal: Proposal, key: Key[Array, ""], size: int) -> Weighted:
    """Draw from a proposal as one batch, and weigh the draws.

    Parameters
    ----------
    problem
        The posterior.
    proposal
        What to draw from; the weight of a draw has the density that came with it.
    key
        Random key.
    size
        Number of draws.
    """
    U, log_proposal = map(np.array, _drawn(proposal, key, size))
    is_inside = np.all((np.asarray(problem.lower) <= U) & (np.asarray(problem.upper) >= U), axis=1)
    log_prior, log_likelihood = np.full((2, size), np.nan)
    if is_inside.any():
        found = problem.evaluate(U[is_inside])
        log_prior[is_inside], log_likelihood[is_inside] = found.log_prior, found.log_likelihood
    log_density = log_prior + log_likelihood
    is_good = np.isfinite(log_density) & np.isfinite(log_proposal)
    log_weight = np.subtract(log_density, log_proposal, out=np.full(size, -np.inf), where=is_good)
    return Weighted(U, log_prior, log_likelihood, log_weight)


@partial(jax.jit, static_argnames="size")
def _drawn(proposal: Proposal, key: Key[Array, ""], size: int) -> tuple[Array, Array]:
    return proposal.draw(key, size)


def num_evaluated(drawn: Weighted) -> int:
    """Return how many draws were evaluated: those between the walls."""
    return int(np.sum(~np.isnan(drawn.log_prior)))


def evidence_of_weights(log_weight: Float[np.ndarray, " n"]) -> Evidence:
    """Return the log of the mean weight, failures with weight 0 among them, and its standard error.

    The mean is unbiased for the evidence, whatever the proposal; the error can be believed where the weights have a
    variance, so where k-hat is small.
    """
    highest = log_weight.max()
    weights = np.exp(log_weight - highest)
    mean = weights.mean()
    return Evidence(float(np.log(mean) + highest), float(weights.std(ddof=1) / mean / math.sqrt(len(weights))))


def refresh_rate(log_weight: Float[np.ndarray, " n"], num_candidates: int, rng: np.random.Generator) -> float:
    """Return how often a step of i-SIR would choose a candidate: the state one of the draws by weight, the others any.

    Parameters
    ----------
    log_weight
        Log weights, of which one at least is finite.
    num_candidates
        Number of points to choose from, the state among them.
    rng
        Random numbers.
    """
    weights = np.exp(log_weight - log_weight.max())
    state = rng.choice(len(weights), size=_JUDGED, p=weights / weights.sum())
    others = rng.integers(len(weights) - 1, size=(_JUDGED, num_candidates - 1))
    together = weights[others + (others >= state[:, None])].sum(axis=1)  # no candidate is the state itself
    return float(np.mean(together / (together + weights[state])))


def distinct_starts(
    drawn: Weighted, found: Importance, chains: int, rng: np.random.Generator
) -> Float[np.ndarray, "chains dim"]:
    """Return draws by weight, all of them different as long as there are enough with a weight."""
    # The largest of log weights plus Gumbel noise: draws without replacement.
    order = np.argsort(-(found.log_weights + rng.gumbel(size=len(found.log_weights))), kind="stable")
    num_good = int(np.isfinite(found.log_weights).sum())
    return drawn.position[np.resize(order[:num_good], chains)]


def by_chain(drawn: Weighted, found: Importance, chains: int) -> Weighted:
    """Share draws out among chains, (chains, n, …), with smoothed weights; a few at the end may be left over."""
    length = len(drawn.log_weight) // chains
    smoothed = drawn._replace(log_weight=found.log_weights)
    return Weighted(*(leaf[: chains * length].reshape(chains, length, *leaf.shape[1:]) for leaf in smoothed))


def run_weighted(
    *,
    initial: Weighted,
    num_warmup: int,
    num_draws: int,
    seed: int,
    keep_warmup: bool = False,
    keeps_evaluated: bool = False,
    trace: Trace | None = None,
    on_chunk: Callable[[SamplerProgress], str | None] | None = None,
) -> SamplerRun:
    """Make a run of weighted draws: each chain resamples, by weight, draws of its own.

    Chains have no draw in common, so that R-hat compares independent estimates. Resampling is systematic and copies of
    a draw follow each other: to an effective sample size they are what they are, one draw.

    Parameters
    ----------
    initial
        The draws of every chain, with smoothed weights, (chains, n, …).
    num_warmup, keep_warmup
        Not used: there is no warmup.
    num_draws
        Number of draws of every chain.
    seed
        Seed of the resampling.
    keeps_evaluated
        Whether progress brings all weighted draws.
    trace
        Where the draws go; memory by default.
    on_chunk
        Called once, at the end.

    Returns
    -------
    The run, which cannot be continued; its evaluations are counted where the weights are made. As acceptance rate it
    has the number of equally weighted draws that are worth as much as a chain's, divided by the number of these.
    """
    rng = np.random.default_rng([seed, 3])
    weights = np.exp(initial.log_weight - initial.log_weight.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    steps = (np.arange(num_draws) + rng.random((len(weights), 1))) / num_draws
    chosen = np.array([np.searchsorted(np.cumsum(w), s) for w, s in zip(weights, steps, strict=True)])
    chosen = np.minimum(chosen, weights.shape[1] - 1)  # by rounding, the sum may be less than 1
    position, log_prior, log_likelihood, _ = (
        np.take_along_axis(leaf, chosen.reshape(*chosen.shape, *(1,) * (leaf.ndim - 2)), axis=1) for leaf in initial
    )
    share = 1 / (weights.shape[1] * np.sum(weights**2, axis=1, keepdims=True))
    info = {
        "acceptance_rate": np.broadcast_to(share, chosen.shape).copy(),
        "n_steps": np.zeros(chosen.shape, int),
    }
    rows = jax.tree.map(lambda leaf: np.moveaxis(leaf, 0, 1), Draws(position, log_prior, log_likelihood, info))
    trace = Memory() if trace is None else trace
    trace.begin(rows, num_draws, None)
    trace.write(rows)
    run = SamplerRun(
        **trace.read(0, num_draws)._asdict(),
        warmup=None,
        state=None,
        diagnostics=(),
        iterations=num_draws,
        num_steps=0,
        seconds_warmup=0.0,
        seconds_draws=0.0,
        stopped="completed",
    )
    run = judged(run, 1.0)
    if on_chunk is not None:
        progress = SamplerProgress("draws", num_draws, num_draws, info, run)
        is_inside = ~np.isnan(initial.log_prior)[..., None]
        evaluated = Proposed(np.where(is_inside, initial.position, np.nan), *initial[1:3])
        on_chunk(progress._replace(evaluated=evaluated) if keeps_evaluated else progress)
    return run
