"""The page about a learned proposal: all figures with their numbers."""

import pandas as pd

from kinbayes.amortized.proposal import LearnedProposal
from kinbayes.report.amortized_plots import (
    plot_feasibility,
    plot_fidelity,
    plot_latent,
    plot_novelty,
    plot_starts,
    plot_training,
)
from kinbayes.report.html import Section, page
from kinbayes.run.amortized_evaluation import ProposalEvaluation

CURVES = {
    "loss": "loss",
    "rmse": "RMSE",
    "relative_rmse": "RMSE over that of the mean",
    "pearson": "Pearson",
    "spearman": "Spearman",
}


def evaluation_page(name: str, proposal: LearnedProposal, found: ProposalEvaluation) -> str:
    """Return all figures and their numbers as HTML."""
    history, facts = proposal.history, pd.Series(proposal.training, name="value")
    curves = {
        title: (getattr(history.train, name), getattr(history.validation, name)) for name, title in CURVES.items()
    }
    new, starts, of = found.novelty, found.starts, found.latent
    pairs = {
        "generated to training": new.generated_training,
        "generated to best quarter": new.generated_best,
        "within best quarter": new.within_best,
    }
    nearest = {"of generated points": new.nearest_training, "of training points": new.nearest_within_training}
    last = history.validation
    parameters = pd.DataFrame(
        {
            "RMSE": last.parameter_rmse[-1],
            "RMSE over that of the mean": last.parameter_relative_rmse[-1],
            "Pearson": last.parameter_pearson[-1],
            "Spearman": last.parameter_spearman[-1],
        },
        index=list(proposal.parameter_names),
    )
    said = (
        f"Network {proposal.network_name} {dict(proposal.network_settings)}. Condition {proposal.condition:g}, "
        f"{proposal.num_latents} latents an estimate, {proposal.epsilon:g} defensive. Hash {proposal.hash}."
    )
    return page(
        f"Learned proposal for {name}",
        [
            Section("What it is", said, tables=[pd.Series(found.numbers, name="value").to_frame(), facts.to_frame()]),
            Section(
                "Training",
                "After every epoch. Correlations over all parameters at once are inflated by differences between "
                "parameters; the table has them parameter by parameter, after the last epoch, validation.",
                [plot_training(curves)],
                [parameters],
            ),
            Section(
                "Latent space",
                "Points of the validation as the network encodes them, coloured by their loss.",
                [plot_latent(of.embedding, of.condition, of.method, of.r_squared)],
            ),
            Section(
                "Feasibility",
                "Share of points between the bounds that can be simulated, with Wilson's intervals of 95 %, against "
                "the condition that was asked for; beside it points that need no network.",
                [plot_feasibility(found.feasibility)],
                [found.feasibility.loc[:, found.feasibility.ne(0).any()]],
            ),
            Section(
                "Fidelity",
                f"A hundred points a condition, each as the condition that its loss stands for. Of those asked for "
                f"between 0 and 1, {found.fidelity.num_failed} could not be simulated.",
                [plot_fidelity(found.fidelity.table, found.fidelity.spearman, found.fidelity.slope)],
            ),
            Section(
                "Novelty",
                f"Distances in the unit box. Duplicates: {new.duplicates:.1%}. A nearest-neighbour classifier tells "
                f"generated points from the best quarter with accuracy {new.accuracy:.2f} (p = {new.p_value:.3g}; 0.5 "
                "where they cannot be told apart).",
                [plot_novelty(pairs, nearest)],
            ),
            Section(
                "Starts",
                "Local searches from generated points and from others, at equal budgets. Positive differences: "
                "searches from generated points ended lower, in the median over pairs; with bootstrap intervals.",
                [plot_starts(starts.losses, starts.optima)],
                [starts.differences, starts.optima, pd.Series(starts.evaluations, name="evaluations").to_frame()],
            ),
        ],
    )
