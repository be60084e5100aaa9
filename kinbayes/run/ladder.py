"""How much of the work a learned proposal can do, as the importance weights of its draws tell: three rungs.

`importance`: the draws themselves, weighted. `i-SIR`: chains that choose among their state and draws, in turn with
local moves. `local`: chains of local moves that start at draws.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float

from kinbayes.problem.problem import Problem
from kinbayes.results.importance import Importance, importance
from kinbayes.run.starts.chain_starts import StartError, chain_starts
from kinbayes.run.starts.spread import inside
from kinbayes.run.weighted import (
    Weighted,
    by_chain,
    distinct_starts,
    draw_weighted,
    evidence_of_weights,
    num_evaluated,
    refresh_rate,
)
from kinbayes.samplers.amortized import num_local_steps
from kinbayes.samplers.base import Proposal

RUNGS = ("importance", "i-SIR", "local")
NUM_PILOT = 4096  # draws of a batch: enough to see the tail of the weights
MIN_ESS_PER_CHAIN = 100  # of the draws, as `kinbayes.converged` asks of a run
MOST_WEIGHTED = 2**22  # draws, which are in memory; of a proposal that is just good enough they are worth some 65,000
MAX_K_HAT = 0.7
MIN_REFRESH = 0.02  # of the draws: a chain of a thousand then begins anew about twenty times


@runtime_checkable
class ProposalSource(Protocol):
    """Say what `kinbayes.sample` asks of a learned proposal.

    Attributes
    ----------
    parameter_names
        The estimated parameters, in the order of the vectors that it draws.
    problem_hash, hash
        Of the problem it was learned on, and of itself.
    """

    parameter_names: tuple[str, ...]
    problem_hash: str
    hash: str

    def for_sampler(self) -> Proposal:
        """Return what samplers draw from."""
        ...


class Climb(NamedTuple):
    """Hold the rung on which a proposal is used, why, and the draws that told.

    Attributes
    ----------
    rung, because
        One of `RUNGS`, and why in words.
    drawn
        All draws, (n, …).
    found
        Their smoothed weights; None if no draw has a density.
    refresh_rate
        How often a step of i-SIR would choose a candidate.
    """

    rung: str
    because: str
    drawn: Weighted
    found: Importance | None
    refresh_rate: float


def max_k_hat(num_draws: int) -> float:
    """Return the shape of the weights' tail below which so many draws can be weighted.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao, Gabry (2024), Pareto smoothed importance sampling, Journal of Machine Learning
    Research 25(72), arXiv:1507.02646.
    """
    return min(1 - 1 / math.log10(num_draws), MAX_K_HAT)


def climb(
    problem: Problem,
    source: ProposalSource,
    settings: Mapping[str, object],
    *,
    chains: int,
    draws: int,
    thin: int,
    seed: int,
    max_simulations: int | None = None,
) -> Climb:
    """Draw from a proposal, a batch at a time, and find the rung for it.

    A draw of i-SIR is worth one independent draw at best. So weighted draws are better where one of no more than its
    simulations counts, and k-hat of their weights is below `max_k_hat`. One batch tells; then the draws are doubled
    until they are worth as many as are to be kept, and must still do. Otherwise the weights tell how often i-SIR would
    choose a candidate between one draw and the next; if that is seldom, chains do without.

    Parameters
    ----------
    problem
        The posterior.
    source
        The proposal.
    settings
        `num_pilot`, the size of a batch; `num_candidates` and `local_steps` of i-SIR; `rung`, one of `RUNGS`, or `auto`
        to find it.
    chains, draws, thin
        Numbers of chains, of draws that each is to have, and of steps from one to the next.
    seed
        Seed of the draws.
    max_simulations
        Beyond the first no batch is drawn that could take more simulations in all; None for no limit.

    Returns
    -------
    The rung and the draws.

    Raises
    ------
    StartError
        If the rung is to be `importance`, and no draw has a density.
    """
    proposal, size, asked = source.for_sampler(), settings["num_pilot"], settings["rung"]
    rng = np.random.default_rng([seed, 2])
    key = jax.random.key(int(rng.integers(2**31)))
    kept = chains * max(draws, MIN_ESS_PER_CHAIN)
    per_draw = thin * (settings["num_candidates"] - 1 + num_local_steps(settings["local_steps"], problem.dim))
    most = min(per_draw * kept, MOST_WEIGHTED)
    if max_simulations is not None:
        most = min(most, max_simulations // problem.num_lanes)
    batches, wanted = [], 1
    while True:
        while len(batches) < wanted:
            batches.append(draw_weighted(problem, proposal, jax.random.fold_in(key, len(batches)), size))
        drawn = Weighted(*map(np.concatenate, zip(*batches, strict=True)))
        if not np.isfinite(drawn.log_weight).any():
            return _without_weights(asked, drawn)
        found = importance(drawn.log_weight)
        rate = refresh_rate(drawn.log_weight, settings["num_candidates"], rng)
        judged = judged_rung(found, 1 - (1 - rate) ** thin, per_draw)
        rung, because = judged if asked == "auto" else (asked, "it was asked for")
        wanted = min(math.ceil(kept / found.effective_share / size), most // size, 2 * len(batches))
        if rung != "importance" or len(batches) >= wanted:
            return Climb(rung, because, drawn, found, rate)


def _without_weights(asked: str, drawn: Weighted) -> Climb:
    if asked == "importance":
        raise StartError(
            f"none of {len(drawn.log_weight)} draws of the proposal has a density, so there is nothing to weigh; was "
            "it learned on this model?"
        )
    because = "it was asked for" if asked != "auto" else f"none of {len(drawn.log_weight)} draws has a density"
    return Climb("local" if asked == "auto" else asked, because, drawn, None, 0.0)


def judged_rung(found: Importance, rate: float, per_draw: int) -> tuple[str, str]:
    """Return the rung that weights allow, and why.

    Parameters
    ----------
    found
        The smoothed weights.
    rate
        How often i-SIR would choose a candidate from one draw to the next.
    per_draw
        Simulations that this takes.
    """
    num = len(found.log_weights)
    each, limit = 1 / found.effective_share, max_k_hat(num)
    weights = f"k-hat of {num} weights is {found.k_hat:.2f} (limit {limit:.2f}), and one of {each:.3g} draws counts"
    if found.k_hat < limit and each <= per_draw:
        return "importance", weights
    weights += f" (limit {per_draw})"
    refreshed = f"candidates refresh {100 * rate:.2g} % of the states from one draw to the next"
    if rate >= MIN_REFRESH:
        return "i-SIR", f"{weights}; {refreshed}"
    return "local", f"{weights}; {refreshed}, less than {100 * MIN_REFRESH:g} %"


def begun(
    problem: Problem,
    source: ProposalSource,
    climbed: Climb,
    initial: object,
    chains: int,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "chains dim"] | Weighted, dict[str, object]]:
    """Return what a run on a rung begins with, weighted draws or starts, and what the result is to say.

    Parameters
    ----------
    problem
        The problem.
    source
        The proposal.
    climbed
        Its rung and draws.
    initial
        Where chains start, as in `chain_starts`; None for draws of the proposal by weight.
    chains
        Number of chains.
    rng
        Random numbers.

    Raises
    ------
    StartError
        If no draw of the proposal has a density, or a given start has none.
    """
    said = _said(problem, source, climbed)
    if climbed.rung == "importance":
        return by_chain(climbed.drawn, climbed.found, chains), said | {"initial": "draws of the proposal"}
    if initial is not None:
        points, of_starts = chain_starts(problem, initial, chains, rng)
        return points, said | of_starts
    if climbed.found is None:
        raise StartError(
            f"none of {len(climbed.drawn.log_weight)} draws of the proposal has a density: start elsewhere by "
            "initial=, or learn the proposal on this model"
        )
    points = inside(problem, distinct_starts(climbed.drawn, climbed.found, chains, rng))
    return points, said | {"initial": "draws of the proposal, by weight and all different"}


def _said(problem: Problem, source: ProposalSource, climbed: Climb) -> dict[str, object]:
    """Return what a result says of the proposal: the rung, the weights, the evidence."""
    rung, because, drawn, found, rate = climbed
    num = len(drawn.log_weight)
    if source.problem_hash != problem.hash:
        because += (
            f". The proposal was learned on another problem of these parameters ({source.problem_hash[:12]}); draws "
            "are as exact, but cost the more the further the two are apart"
        )
    said = {
        "rung": rung,
        "rung_because": because,
        "proposal_hash": source.hash,
        "proposal_problem_hash": source.problem_hash,
        "pareto_k": found.k_hat if found is not None and np.isfinite(found.k_hat) else None,
        "pareto_k_limit": max_k_hat(num),
        "effective_share": 0.0 if found is None else found.effective_share,
        "expected_refresh_rate": rate,
        "weighted_draws": num,
        "simulations_of_weights": num_evaluated(drawn) * problem.num_lanes,
    }
    if found is None or not found.k_hat < max_k_hat(num):
        told = "no draw has a density" if found is None else f"k-hat of their weights is {found.k_hat:.2f}"
        return said | {
            "no_evidence_because": f"{num} draws of the proposal cannot tell: {told}, and at most "
            f"{max_k_hat(num):.2f} is needed; use parallel_tempering"
        }
    value, error = evidence_of_weights(drawn.log_weight)
    return said | {"log_evidence": value, "log_evidence_error": error}
