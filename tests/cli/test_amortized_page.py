"""The page about a learned proposal."""

from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest

import kinbayes as kb
from kinbayes.amortized import scaling
from kinbayes.amortized.networks.flow import flow
from kinbayes.amortized.proposal import learned_proposal
from kinbayes.amortized.search_record import RUNS, record
from kinbayes.cli.amortized_page import search_sections
from kinbayes.report.html import page

SIZES = {"num_layers": 2, "hidden": 8, "depth": 1, "num_knots": 4}
TRAINING = {"learning_rate": 0.003, "weight_decay": 1e-4, "batch_size": 64, "epochs": 50, "search_epochs": 10}
LOSSES = np.array([5.0, np.nan, 3.0, 1.0, 4.0, 6.0, 2.0, 7.0])
TABLE = pd.DataFrame(
    {
        "hidden": [16, 32, 64, 8, 16, 32, 64, 128],
        "learning_rate": np.linspace(0.001, 0.008, 8),
        "best_epoch": np.where(np.isnan(LOSSES), 0, 10),
        "train_loss": LOSSES - 0.5,
        "validation_loss": LOSSES,
    }
)


@pytest.fixture(scope="module")
def proposal():
    problem = kb.read_petab(kb.example("conversion_reaction"))
    return learned_proposal(
        problem, flow(jax.random.key(0), problem.dim, **SIZES), network_name="flow", network_settings=SIZES,
        box=scaling.fit_box(problem.lower, problem.upper, problem.scale, np.zeros((1, 2))), training=TRAINING,
        condition_scaling=scaling.fit_condition(np.array([1.0, 3.0, 8.0])),
    )  # fmt: skip


def test_without_a_search_there_is_no_section_about_it(proposal):
    assert search_sections(proposal) == []


def test_a_search_is_drawn_from_the_file_all_runs_and_the_best_with_the_chosen_one(proposal, tmp_path):
    replace(proposal, training={**TRAINING, RUNS: record(TABLE)}).save(tmp_path / "searched.npz")
    (section,) = search_sections(kb.load_proposal(tmp_path / "searched.npz"))
    assert section.text.startswith("8 random choices of settings, each trained for 10 epochs; 1 of them came to no")
    for figure, num in zip(section.figures, (8, 5), strict=True):
        (ax,) = figure.axes
        names = ["hidden", "learning rate", "train loss", "validation loss"]
        assert [label.get_text() for label in ax.get_xticklabels()] == names
        *others, orange = ax.get_lines()[: num + 1]
        assert len(others) == num
        assert orange.get_linewidth() > others[0].get_linewidth()
        np.testing.assert_array_equal(orange.get_ydata()[-2:], [0.0, 0.0])
        assert orange.get_ydata()[0] == 0.0  # 8 hidden units
    assert section.figures[1].axes[0].get_title(loc="left").startswith("the best 5 runs; ")
    (settings,) = section.tables
    assert settings.loc["hidden"].tolist() == [8, "yes"]
    assert settings.loc["depth"].tolist() == [1, ""]
    assert settings.loc["learning_rate"].tolist() == [0.003, "yes"]
    assert page("Learned proposal", [section]).count("<img") == 2
