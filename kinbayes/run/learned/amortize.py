"""Learning a proposal: an archive of simulations, a network trained on it, and the conditions that serve best."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Float

from kinbayes.amortized import scaling
from kinbayes.amortized.proposal import LearnedProposal, learned_proposal
from kinbayes.amortized.selection import training_points
from kinbayes.problem.problem import Problem
from kinbayes.results.importance import Importance, importance
from kinbayes.run.ladder import MAX_K_HAT
from kinbayes.run.learned.archived import archived
from kinbayes.run.learned.learning import learn, planned
from kinbayes.run.weighted import draw_weighted

# Conditions that are tried for the sampler, as multiples of the one that asks for the bulk of a normal posterior: the
# network may have learned other points as good as those. Four together cover it. Of a posterior of nine parameters and
# one flow, draws at one condition had an effective share of 15 %; at four about it 32 %; at another one 41 % of the
# first 1000 and 3 % of 16,000, since it missed the tails, which few draws show (k-hat was 0.86).
ABOUT, MULTIPLES = (0.5, 0.75, 1.0, 1.25), (0.5, 0.75, 1.0, 1.5, 2.0)
NUM_TRIED = 2000  # draws of each
LIMITS_OF_K_HAT = (0.5, MAX_K_HAT)  # of weights with a variance; of weights that may be used


def amortize(
    problem: Problem,
    *,
    archive: str | os.PathLike[str] | None = None,
    network: str = "cvae",
    settings: Mapping[str, object] | None = None,
    max_evaluations: int = 50_000,
    max_points: int = 10_000,
    epochs: int = 300,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    batch_size: int | None = None,
    search_runs: int = 0,
    search_epochs: int | None = None,
    condition: float | Sequence[float] | Float[np.ndarray, " conditions"] | None = None,
    condition_scaling: str = "log_minmax",
    num_latents: int = 4,
    epsilon: float = 0.05,
    seed: int = 0,
    progress: bool = True,
) -> LearnedProposal:
    """Learn a proposal for a problem's posterior from simulations that searches and samplers have done.

    The network learns the distribution of points given their loss. `kb.sample(problem, sampler="amortized",
    proposal=…)` samples with it exactly, however good or poor it is: a poor one costs time.

    Parameters
    ----------
    problem
        The problem.
    archive
        A folder that `sample` and `optimize` have filled by their argument of that name. If there is none, one is made:
        a fifth of its evaluations by `scatter_search`, a fifth by `multistart`, and the rest by chains of `dream` that
        start at the optima. None makes one that is not kept.
    network
        A name in `NETWORKS`: `cvae`, `transformer_cvae`, `flow`; `ccgan` has no density and gives starts alone.
    settings
        Settings of the network, by name; see its docstring.
    max_evaluations
        Evaluations of the problem for an archive that is made here.
    max_points
        Points to learn from, at most: half of them the best, half drawn from the rest.
    epochs, learning_rate, weight_decay, batch_size
        Of the training. None is what a search finds, and without one 0.001, 0.0001 and 256.
    search_runs
        Runs of a random search over the settings of the network and of its training that are not given here, within
        `kinbayes.amortized.search_spaces`; what changes the meaning of the loss, such as a head, is not searched. The
        best run goes on to the end of the training. 0 is no search.
    search_epochs
        Epochs of every such run; by default a fifth of `epochs`, and 20 at least.
    condition
        What to ask for, between 0 (the best loss of the archive) and 1 (the worst), or several such, each in an equal
        share of the draws; by default those among a few choices at which draws are worth most as weighted draws of the
        posterior; for a network without a density the one that asks for its bulk.
    condition_scaling
        How losses become conditions: `log_minmax`, `minmax` or `rank`.
    num_latents
        Latents of an estimate of the density, at every condition. More make weights more even, and cost time.
    epsilon
        Share of points that come from a broad distribution in the place of the network's.
    seed
        Seeds everything that is random.
    progress
        Whether to show a progress bar.

    Returns
    -------
    The proposal. `save` writes it into a file, which `kinbayes.load_proposal` reads.

    Raises
    ------
    ValueError
        If a name or a setting is unknown or out of range, or the archive has too few points.
    ArchiveError
        If the archive is none, or of another problem.
    """
    plan = planned(
        network,
        problem.dim,
        settings=settings or {},
        training_settings={"learning_rate": learning_rate, "weight_decay": weight_decay, "batch_size": batch_size},
        epochs=epochs,
        search_runs=search_runs,
        search_epochs=search_epochs,
        seed=seed,
    )
    began = time.perf_counter()
    rows = archived(problem, archive, max_evaluations, seed=seed, progress=progress)
    seconds_archive = time.perf_counter() - began
    points = training_points(rows, max_points, seed)
    box = scaling.fit_box(problem.lower, problem.upper, problem.scale, points.u)
    of_loss = scaling.fit_condition(points.loss, condition_scaling)
    began = time.perf_counter()
    y, c = np.asarray(scaling.to_box(box, points.u)), scaling.to_condition(of_loss, points.loss)
    learned = learn(plan, y, c, progress=progress)
    proposal = learned_proposal(
        problem,
        learned.trained.network,
        network_name=network,
        network_settings=learned.network_settings,
        box=box,
        condition_scaling=of_loss,
        condition=condition,
        num_latents=num_latents,
        epsilon=epsilon,
        history=learned.trained.history,
        training={
            "archived": len(rows.u),
            "failed": points.num_failed,
            "feasible": points.num_feasible,
            "points": len(points.u),
            "max_points": max_points,
            **learned.facts,
            "seconds_archive": seconds_archive,
            "seconds_training": time.perf_counter() - began,
        },
    )
    if condition is not None or not proposal.network.has_density:
        return proposal
    began = time.perf_counter()
    found = tried(problem, proposal, seed=seed)
    told = {"simulations_of_conditions": NUM_TRIED * len(MULTIPLES), "seconds_conditions": time.perf_counter() - began}
    for conditions, weights in found.items():
        told[f"effective_share_at_{_name(conditions)}"] = weights.effective_share
    chosen = best_conditions(found) if found else proposal.conditions
    return replace(proposal, conditions=np.array(chosen), training={**proposal.training, **told})


def tried(problem: Problem, proposal: LearnedProposal, *, seed: int) -> dict[tuple[float, ...], Importance]:
    """Return what some draws are worth as weighted draws of the posterior, by the conditions they were asked for.

    Conditions of which no draw has a density are left out.
    """
    found = {}
    (center,) = proposal.conditions
    for k, multiple in enumerate(MULTIPLES):
        conditions = tuple(float(multiple * part * center) for part in ABOUT)
        source = replace(proposal, conditions=np.array(conditions)).for_sampler()
        drawn = draw_weighted(problem, source, jax.random.fold_in(jax.random.key(seed), k), NUM_TRIED)
        if np.isfinite(drawn.log_weight).any():
            found[conditions] = importance(drawn.log_weight)
    return found


def best_conditions(found: Mapping[tuple[float, ...], Importance]) -> tuple[float, ...]:
    """Return the conditions whose draws are worth most, of those whose weights have the lightest tails.

    A narrow proposal may seem to be worth more than one that covers the posterior, whose tails it has not seen.
    """
    for limit in LIMITS_OF_K_HAT:
        trusted = {conditions: weights for conditions, weights in found.items() if weights.k_hat < limit}
        if trusted:
            break
    kept = trusted or found
    return max(kept, key=lambda conditions: kept[conditions].effective_share)


def _name(conditions: tuple[float, ...]) -> str:
    return "+".join(f"{c:.3g}" for c in conditions)
