"""Learning a proposal: an archive of simulations, a network trained on it, and the condition that serves best."""

import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from kinbayes.amortized import scaling
from kinbayes.amortized.archive import Rows, read_archive
from kinbayes.amortized.networks import NETWORKS
from kinbayes.amortized.proposal import LearnedProposal, learned_proposal
from kinbayes.amortized.selection import training_points
from kinbayes.amortized.training import TrainingState, train
from kinbayes.problem.problem import Problem
from kinbayes.results.importance import importance
from kinbayes.run.optimize import optimize
from kinbayes.run.progress import ProgressDisplay
from kinbayes.run.sample import sample
from kinbayes.run.settings import checked_settings
from kinbayes.run.weighted import draw_weighted

# Conditions that are tried for the sampler, as multiples of the one that asks for the bulk of a normal posterior: the
# network may have learned other points as good as those.
FACTORS = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
NUM_TRIED = 500  # draws at each
# Of the evaluations for an archive: a population, local searches, and chains that start at the optima. Searches alone
# leave hardly a point in the bulk of the posterior: of 26,000 evaluations of models/lynx_hare 157 were within 12 of the
# least loss.
SHARE_OF_POPULATION, SHARE_OF_SEARCHES = 0.2, 0.2
PER_SEARCH = 25  # evaluations, by which the number of starts is found
ARCHIVE_CHAINS = 8


def amortize(
    problem: Problem,
    *,
    archive: str | os.PathLike[str] | None = None,
    network: str = "cvae",
    settings: Mapping[str, object] | None = None,
    max_evaluations: int = 50_000,
    max_points: int = 10_000,
    epochs: int = 300,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    batch_size: int = 256,
    condition: float | None = None,
    condition_scaling: str = "log_minmax",
    num_latents: int = 16,
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
        Of the training.
    condition
        What to ask for, between 0 (the best loss of the archive) and 1 (the worst); by default the one of a few at
        which draws are worth most as weighted draws of the posterior; for a network without a density the one that asks
        for its bulk.
    condition_scaling
        How losses become conditions: `log_minmax`, `minmax` or `rank`.
    num_latents
        Latents of an estimate of the density.
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
        If a name or a setting is unknown, or the archive has too few points.
    ArchiveError
        If the archive is none, or of another problem.
    """
    if network not in NETWORKS:
        raise ValueError(f"unknown network {network!r}; choose from {sorted(NETWORKS)}")
    built = dict(checked_settings(network, NETWORKS[network], settings or {}, fixed=("key", "dim")))
    began = time.perf_counter()
    rows = archived(problem, archive, max_evaluations, seed=seed, progress=progress)
    seconds_archive = time.perf_counter() - began
    points = training_points(rows, max_points, seed)
    box = scaling.fit_box(problem.lower, problem.upper, problem.scale, points.u)
    of_loss = scaling.fit_condition(points.loss, condition_scaling)
    began = time.perf_counter()
    with ProgressDisplay() if progress else nullcontext() as display:

        def show(state: TrainingState) -> None:
            if display:
                losses = state.history.train.loss[-1], state.history.validation.loss[-1]
                display.show("train", state.num_epochs, epochs, "loss {:.4g}, validation {:.4g}".format(*losses))

        trained = train(
            NETWORKS[network](jax.random.key(seed), problem.dim, **built),
            np.asarray(scaling.to_box(box, points.u)),
            scaling.to_condition(of_loss, points.loss),
            epochs=epochs,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            batch_size=batch_size,
            seed=seed,
            on_epoch=show,
        )
    if trained.is_interrupted:
        raise KeyboardInterrupt
    proposal = learned_proposal(
        problem,
        trained.network,
        network_name=network,
        network_settings=built,
        box=box,
        condition_scaling=of_loss,
        condition=condition,
        num_latents=num_latents,
        epsilon=epsilon,
        history=trained.history,
        training={
            "archived": len(rows.u),
            "failed": points.num_failed,
            "feasible": points.num_feasible,
            "points": len(points.u),
            "max_points": max_points,
            "epochs": trained.state.num_epochs,
            "best_epoch": int(trained.state.best_epoch),
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "batch_size": batch_size,
            "seed": seed,
            "seconds_archive": seconds_archive,
            "seconds_training": time.perf_counter() - began,
        },
    )
    if condition is not None or not proposal.network.has_density:
        return proposal
    began = time.perf_counter()
    shares = effective_shares(problem, proposal, seed=seed)
    told = {f"effective_share_at_{c:g}": share for c, share in shares.items()}
    told |= {"simulations_of_conditions": NUM_TRIED * len(shares), "seconds_conditions": time.perf_counter() - began}
    return replace(proposal, condition=max(shares, key=shares.get), training={**proposal.training, **told})


def archived(
    problem: Problem, archive: str | os.PathLike[str] | None, max_evaluations: int, *, seed: int, progress: bool
) -> Rows:
    """Return the rows of an archive; of a new one, if there is none yet."""
    with tempfile.TemporaryDirectory() if archive is None else nullcontext(archive) as folder:
        path = Path(folder) / "archive.zarr" if archive is None else Path(folder)
        if not path.exists():
            _fill(problem, path, max_evaluations, seed=seed, progress=progress)
        with read_archive(path) as opened:
            if opened.problem_hash != problem.hash:
                raise ValueError(
                    f"{path} has points of another problem: {opened.problem_name!r}, whose hash is "
                    f"{opened.problem_hash[:12]}, not {problem.name!r} with {problem.hash[:12]}; give that problem, or "
                    "another folder"
                )
            return opened.read()


def _fill(problem: Problem, path: Path, max_evaluations: int, *, seed: int, progress: bool) -> None:
    """Make an archive by a population, by local searches and, if the posterior may be sampled, by chains."""
    common = {"seed": seed, "archive": path, "progress": progress}
    shares = SHARE_OF_POPULATION, SHARE_OF_SEARCHES
    for_population, for_searches = (int(share * max_evaluations) for share in shares)
    optimize(problem, "scatter_search", max_evaluations=for_population, **common)
    starts = max(for_searches // PER_SEARCH, 1)
    mode = optimize(problem, "multistart", starts=starts, max_evaluations=for_searches, **common)
    if not (problem.is_likelihood and problem.is_proper):
        return
    with read_archive(path) as opened:
        left = max_evaluations - len(opened)
    steps = left // ARCHIVE_CHAINS
    lengths = {"warmup": steps // 4, "draws": steps - steps // 4, "chains": ARCHIVE_CHAINS, "thin": 1}
    sample(problem, "dream", initial=mode, **lengths, **common)


def effective_shares(problem: Problem, proposal: LearnedProposal, *, seed: int) -> dict[float, float]:
    """Return, for some conditions, the share of draws that remains when they are weighted to be the posterior's.

    Weights are smoothed; where no draw has a density, or their tail is too heavy to trust any number, the share is that
    of one draw.
    """
    found = {}
    for k, factor in enumerate(FACTORS):
        condition = factor * proposal.condition
        drawn = draw_weighted(
            problem,
            replace(proposal, condition=condition).for_sampler(),
            jax.random.fold_in(jax.random.key(seed), k),
            NUM_TRIED,
        )
        is_known = np.isfinite(drawn.log_weight).any()
        found[condition] = importance(drawn.log_weight).effective_share if is_known else 1 / NUM_TRIED
    return found
