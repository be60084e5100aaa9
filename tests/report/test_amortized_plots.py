"""What figures of learned proposals draw, against the numbers they were given."""

import numpy as np
import pandas as pd
import pytest

from kinbayes.report.amortized_plots import (
    plot_feasibility,
    plot_fidelity,
    plot_latent,
    plot_novelty,
    plot_search,
    plot_starts,
    plot_training,
)


def lines(ax):
    return {line.get_label(): line.get_ydata() for line in ax.get_lines()}


def test_curves_are_those_of_training_and_validation():
    loss, rmse = ((np.array([start, start - 1.0]), np.array([start + 1.0, start])) for start in (3.0, 2.0))
    figure = plot_training({"loss": loss, "RMSE": rmse})
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["loss", "RMSE"]
    drawn = lines(figure.axes[1])
    assert list(drawn["training"]) == [2.0, 1.0]
    assert list(drawn["validation"]) == [3.0, 2.0]


def test_latents_have_the_colour_of_their_tenth():
    figure = plot_latent(np.zeros((3, 2)), np.array([0.02, 0.55, 1.0]), "pca", 0.5)
    np.testing.assert_allclose(figure.axes[0].collections[0].get_array(), [0.05, 0.55, 0.95])
    assert "PCA" in figure.axes[0].get_title(loc="left")


def test_feasibility_has_shares_and_baselines():
    rows = [("generated", c, s, s - 0.1, s + 0.05) for c, s in ((0.0, 0.9), (1.0, 0.5))]
    rows.append(("uniform", np.nan, 0.3, 0.2, 0.4))
    figure = plot_feasibility(pd.DataFrame(rows, columns=["source", "condition", "share", "lower", "upper"]))
    (container,) = figure.axes[0].containers
    assert list(container.lines[0].get_ydata()) == [0.9, 0.5]
    assert list(lines(figure.axes[0])["uniform"]) == [0.3, 0.3]


def test_boxes_have_the_medians_of_what_was_achieved():
    table = pd.DataFrame({"condition": [0.0] * 3 + [1.0] * 3, "achieved": [0.1, 0.2, np.nan, 0.7, 0.8, 0.9]})
    figure = plot_fidelity(table, 0.9, 0.65)
    heights = [line.get_ydata() for line in figure.axes[0].get_lines()]
    assert any(np.allclose(y, 0.15) for y in heights)
    assert any(np.allclose(y, 0.8) for y in heights)
    assert "slope 0.65" in figure.axes[0].get_title(loc="left")


def test_distances_are_drawn_also_where_they_are_all_the_same():
    figure = plot_novelty({"a": np.linspace(0, 1, 50), "b": np.zeros(5)}, {"c": np.linspace(0, 1, 9)})
    assert set(lines(figure.axes[0])) == {"a", "b"}
    assert set(lines(figure.axes[1])) == {"c"}


def test_a_waterfall_is_sorted_and_above_the_best():
    losses = pd.DataFrame({"generated": [3.0, 1.0, 2.0], "random": [5.0, np.inf, 4.0]})
    optima = pd.DataFrame({"generated": [1, 2], "random": [0, 1]}, index=[1, 3])
    waterfall, found = plot_starts(losses, optima).axes
    np.testing.assert_allclose(lines(waterfall)["generated"], [0.001, 1.001, 2.001])
    np.testing.assert_allclose(lines(waterfall)["random"], [3.001, 4.001, np.inf])
    assert [list(line.get_ydata()) for line in found.get_lines()] == [[1, 2], [0, 1]]


def test_the_chosen_run_of_a_search_stands_out():
    table = pd.DataFrame(
        {
            "layers": [1, 2, 3],
            "head": ["a", "b", "a"],
            "same": [7, 7, 7],
            "train": [3.0, 2.0, 1.0],
            "validation": [3.0, 1.0, 2.0],
        }
    )
    (ax,) = plot_search(table, 1, "all 3 runs").axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["layers", "head", "train", "validation"]
    thick = [line for line in ax.get_lines() if line.get_linewidth() == pytest.approx(2.2)]
    assert len(thick) == 1
    np.testing.assert_allclose(thick[0].get_ydata(), [0.5, 1.0, 0.5, 0.0])
    assert ax.get_title(loc="left").startswith("all 3 runs; ")


def test_a_failed_run_ends_before_its_losses_and_one_run_is_a_figure_too():
    table = pd.DataFrame({"width": [16, 64], "rate": [0.1, 0.2], "train": [1.0, np.nan], "validation": [2.0, np.nan]})
    (ax,) = plot_search(table, 0, "all 2 runs").axes
    assert sorted(np.isfinite(line.get_ydata()).sum() for line in ax.get_lines()[:2]) == [2, 4]
    assert {"16", "64", "0.100"} <= {text.get_text() for text in ax.texts}
    (ax,) = plot_search(table[:1], 0, "one run").axes
    assert list(ax.get_lines()[0].get_ydata()) == [0.5, 0.5]
