"""The page about a learned proposal: all figures with their numbers."""

import pandas as pd

from kinbayes.amortized.hyperparameters import LOSSES
from kinbayes.amortized.proposal import LearnedProposal
from kinbayes.amortized.search_record import RUNS, chosen, recorded
from kinbayes.report.amortized_plots import (
    plot_feasibility,
    plot_fidelity,
    plot_latent,
    plot_novelty,
    plot_search,
    plot_starts,
    plot_training,
)
from kinbayes.report.html import Section, page
from kinbayes.run.learned.evaluation import ProposalEvaluation

CURVES = {
    "loss": "loss",
    "rmse": "RMSE, in widths of the box",
    "relative_rmse": "RMSE over that of the mean",
    "pearson": "Pearson",
    "spearman": "Spearman",
}

TRAINING = ("learning_rate", "weight_decay", "batch_size")
LEAST_SHOWN = 5  # of the best runs of a search, where their quarter is fewer


def evaluation_page(name: str, proposal: LearnedProposal, found: ProposalEvaluation) -> str:
    """Return all figures and their numbers as HTML."""
    history = proposal.history
    facts = pd.Series({name: fact for name, fact in proposal.training.items() if name != RUNS}, name="value")
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
            "RMSE, in widths of the box": last.parameter_rmse[-1],
            "RMSE over that of the mean": last.parameter_relative_rmse[-1],
            "Pearson": last.parameter_pearson[-1],
            "Spearman": last.parameter_spearman[-1],
        },
        index=list(proposal.parameter_names),
    )
    conditions = ", ".join(f"{c:.3g}" for c in proposal.conditions)
    said = (
        f"Network {proposal.network_name} {dict(proposal.network_settings)}. Asked for {conditions}, "
        f"{proposal.num_latents} latents an estimate, {proposal.epsilon:g} defensive. Hash {proposal.hash}."
    )
    return page(
        f"Learned proposal for {name}",
        [
            Section("What it is", said, tables=[pd.Series(found.numbers, name="value").to_frame(), facts.to_frame()]),
            *search_sections(proposal),
            Section(
                "Training",
                "After every epoch. Correlations over all parameters at once are inflated by differences between "
                "parameters; the table has them parameter by parameter, after the last epoch, validation. A flow loses "
                "nothing: its errors are 0.",
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


def search_sections(proposal: LearnedProposal) -> list[Section]:
    """Return the section about the search that found a proposal's settings; none where there was no search."""
    runs = recorded(proposal.training)
    if runs is None:
        return []
    best = chosen(runs)
    table = runs.drop(columns="best_epoch")
    ranks = table[LOSSES[1]].rank(method="first")
    num_best = min(max(len(table) // 4, LEAST_SHOWN), int(ranks.notna().sum()))
    shown = table[ranks <= num_best]
    searched = [name for name in table.columns if name not in LOSSES]
    of_training = [name for name in TRAINING if name in proposal.training]
    values = {**proposal.network_settings, **{name: proposal.training[name] for name in of_training}}
    settings = pd.DataFrame(
        {"value": pd.Series(values, dtype=object), "searched": ["yes" if name in searched else "" for name in values]}
    )
    failed = int(table[LOSSES[1]].isna().sum())
    epochs = proposal.training["search_epochs"]
    return [
        Section(
            "Search",
            f"{len(runs)} random choices of settings, each trained for {epochs} epochs; {failed} of them came to no "
            "finite loss. The one with the least loss on the rows of validation was trained on, with the settings of "
            "the table. Lines are runs; along every axis values are placed by their rank.",
            [
                plot_search(table, best, f"all {len(table)} runs"),
                plot_search(shown.reset_index(drop=True), list(shown.index).index(best), f"the best {len(shown)} runs"),
            ],
            [settings],
        )
    ]
