"""All that is worth knowing of a learned proposal, as numbers."""

import os
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd

from kinbayes.amortized import scaling
from kinbayes.amortized.archive import read_archive
from kinbayes.amortized.evaluation.baselines import best_quarter
from kinbayes.amortized.evaluation.feasibility import feasibility
from kinbayes.amortized.evaluation.fidelity import Fidelity, fidelity
from kinbayes.amortized.evaluation.latent import Latent, latent
from kinbayes.amortized.evaluation.novelty import Novelty, active_units, novelty
from kinbayes.amortized.proposal import LearnedProposal
from kinbayes.amortized.selection import training_points
from kinbayes.amortized.training import VALIDATION_SHARE, split
from kinbayes.problem.problem import Problem
from kinbayes.run.learned.starts_comparison import StartsComparison, compare_starts


class ProposalEvaluation(NamedTuple):
    """Hold the numbers of a proposal, part by part; see the functions of the same names.

    Attributes
    ----------
    numbers
        The few that tell most, by name.
    """

    feasibility: pd.DataFrame
    fidelity: Fidelity
    latent: Latent
    novelty: Novelty
    starts: StartsComparison
    numbers: dict[str, float]


def evaluate_proposal(
    problem: Problem,
    proposal: LearnedProposal,
    archive: str | os.PathLike[str],
    *,
    num: int = 400,
    starts: int = 100,
    seed: int = 0,
) -> ProposalEvaluation:
    """Measure what a proposal's points are worth.

    Parameters
    ----------
    problem
        The problem.
    proposal
        The proposal.
    archive
        The archive that it was learned from.
    num
        Points of each condition and each baseline whose feasibility is looked at.
    starts
        Starts of each kind that are compared.
    seed
        Seeds everything that is random.
    """
    with read_archive(archive) as opened:
        u, loss, *_ = training_points(opened.read(), proposal.training["max_points"], proposal.training["seed"])
    y = np.asarray(scaling.to_box(proposal.box, u))
    c = scaling.to_condition(proposal.condition_scaling, loss)
    _, of_validation = split(len(u), VALIDATION_SHARE, proposal.training["seed"])
    latents = np.asarray(proposal.network.encode(jnp.asarray(y[of_validation]), jnp.asarray(c[of_validation])))
    generated = np.asarray(scaling.to_box(proposal.box, proposal.generate(seed, num).U))
    shares = feasibility(problem, proposal, u, loss, num=num, seed=seed)
    wishes = fidelity(problem, proposal, seed=seed)
    of_latent = latent(latents, c[of_validation], seed=seed)
    new = novelty(generated, y, np.asarray(scaling.to_box(proposal.box, best_quarter(u, loss))), seed=seed)
    reached = compare_starts(problem, proposal, u, loss, starts=starts, seed=seed)
    validation, best_epoch = proposal.history.validation, proposal.training["best_epoch"] - 1
    share = shares.set_index("source").share
    at_zero = shares[(shares.source == "generated") & (shares.condition == 0.0)]
    numbers = {
        "validation loss": float(validation.loss[best_epoch]),
        "validation RMSE over that of the mean": float(validation.relative_rmse[best_epoch]),
        "feasible share at condition 0": float(at_zero.share.iloc[0]),
        "feasible share of the training set's best quarter": float(share["best_quarter_of_training"]),
        "feasible share of the prior": float(share["prior"]),
        "feasible share of a Gaussian fitted to the best quarter": float(share["gaussian_of_best_quarter"]),
        "Spearman of asked and achieved": wishes.spearman,
        "slope of achieved over asked": wishes.slope,
        "R² of the condition in latent space": of_latent.r_squared,
        "active latent units": float(active_units(latents)),
        "duplicates": new.duplicates,
        "two-sample accuracy": new.accuracy,
        "two-sample p-value": new.p_value,
    }
    return ProposalEvaluation(shares, wishes, of_latent, new, reached, numbers)
