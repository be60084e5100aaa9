"""Figures about learned proposals: how a network was trained, and what its points are worth.

They take the numbers that `kinbayes.amortized.evaluation` and `kinbayes.run.learned` return, as tables and arrays, and
return figures; nothing is computed here but histograms and the densities drawn over them.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import gaussian_kde

from kinbayes.report.style import GREY, INK, PALE, PALETTE, grid, number, shape

_TRAIN, _VALIDATION = PALETTE[0], PALETTE[1]
_SHOWN = 0.99  # of distances; the last ones would leave the others no room
_BINS = 10  # of the condition, each 0.1 wide


def plot_training(
    curves: Mapping[str, tuple[Float[np.ndarray, " epochs"], Float[np.ndarray, " epochs"]]],
) -> Figure:
    """Draw curves over epochs, a panel each.

    Parameters
    ----------
    curves
        Values after every epoch by their name, for training and for validation.
    """
    rows, columns = shape(len(curves), 3)
    figure, axes = _figure(len(curves), rows, columns)
    for ax, (name, (train, validation)) in zip(axes, curves.items(), strict=True):
        epochs = np.arange(1, len(train) + 1)
        ax.plot(epochs, train, color=_TRAIN, lw=1.2, label="training")
        ax.plot(epochs, validation, color=_VALIDATION, lw=1.2, label="validation")
        ax.set_xlabel("epoch", fontsize=9, color=GREY)
        _titled(ax, name)
    axes[0].legend(frameon=False, fontsize=8.5, labelcolor=GREY)
    return figure


def plot_latent(
    embedding: Float[np.ndarray, "n 2"], condition: Float[np.ndarray, " n"], method: str, r_squared: float
) -> Figure:
    """Draw latents in two dimensions, coloured by the loss they stand for, in ten steps."""
    figure, (ax,) = _figure(1, 1, 1)
    binned = np.clip(np.floor(condition * _BINS), 0, _BINS - 1) / _BINS + 0.5 / _BINS
    points = ax.scatter(*embedding.T, c=binned, s=6, lw=0, cmap="viridis_r", vmin=0, vmax=1)
    bar = figure.colorbar(points, ax=ax, ticks=np.linspace(0, 1, _BINS + 1), boundaries=np.linspace(0, 1, _BINS + 1))
    bar.set_label("condition (0: best loss)", fontsize=9, color=GREY)
    _titled(ax, f"latents of the validation ({method.upper()}); R² of the condition from neighbours {r_squared:.2f}")
    return figure


def plot_feasibility(table: pd.DataFrame) -> Figure:
    """Draw the share of points that can be simulated against the condition, with baselines as lines.

    Parameters
    ----------
    table
        As `kinbayes.amortized.evaluation.feasibility.feasibility` returns it.
    """
    figure, (ax,) = _figure(1, 1, 1)
    generated = table[table.source == "generated"].sort_values("condition")
    error = np.array([generated.share - generated.lower, generated.upper - generated.share])
    ax.errorbar(generated.condition, generated.share, error, color=PALETTE[0], marker="o", ms=4, lw=1.2, capsize=2,
                label="generated")  # fmt: skip
    others = table[table.source != "generated"]
    for k, row in enumerate(others.itertuples()):
        colour, style = PALETTE[1 + k % 5], ("-", "--")[k // 5]
        ax.axhline(row.share, color=colour, lw=1.1, ls=style, label=row.source.replace("_", " "))
    for low, high in ((ax.get_xlim()[0], 0.0), (1.0, ax.get_xlim()[1])):
        ax.axvspan(low, high, color=PALE, alpha=0.5, lw=0, zorder=0)
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlabel("condition (shaded: extrapolation)", fontsize=9, color=GREY)
    _titled(ax, "share of points that can be simulated")
    ax.legend(frameon=False, fontsize=8, labelcolor=GREY, bbox_to_anchor=(1.01, 1), loc="upper left")
    return figure


def plot_fidelity(table: pd.DataFrame, spearman: float, slope: float) -> Figure:
    """Draw the conditions that points achieved, a box for each that was asked for.

    Parameters
    ----------
    table
        Columns `condition` and `achieved`, one row a point; missing where it failed.
    spearman, slope
        Of achieved over asked conditions.
    """
    figure, (ax,) = _figure(1, 1, 1)
    asked = np.unique(table.condition)
    achieved = [table.achieved[table.condition == c].dropna().to_numpy() for c in asked]
    width = 0.6 * float(np.min(np.diff(asked))) if len(asked) > 1 else 0.05
    ax.boxplot(achieved, positions=asked, widths=width, manage_ticks=False, flierprops={"ms": 2, "mec": GREY},
               medianprops={"color": PALETTE[1]}, boxprops={"color": INK}, whiskerprops={"color": INK},
               capprops={"color": INK})  # fmt: skip
    ax.plot([asked[0], asked[-1]], [asked[0], asked[-1]], color=PALETTE[0], lw=1, ls="--")
    ax.set_xlabel("condition asked for", fontsize=9, color=GREY)
    _titled(ax, f"condition achieved; Spearman {spearman:.2f}, slope {slope:.2f} (1 where all wishes are granted)")
    return figure


def plot_novelty(
    pairs: Mapping[str, Float[np.ndarray, " pairs"]], nearest: Mapping[str, Float[np.ndarray, " n"]]
) -> Figure:
    """Draw distances in the unit box, histograms with densities: of pairs on the left, to the nearest on the right.

    A hundredth of each kind may lie beyond what is shown.
    """
    figure, axes = _figure(2, 1, 2)
    for ax, title, groups in zip(
        axes, ("distances of pairs", "distances to the nearest training point"), (pairs, nearest), strict=True
    ):
        highest = max(float(np.quantile(values, _SHOWN)) for values in groups.values()) or 1.0
        at = np.linspace(0.0, highest, 200)
        for colour, (name, values) in zip(PALETTE, groups.items(), strict=False):
            ax.hist(values, bins=np.linspace(0.0, highest, 41), density=True, color=colour, alpha=0.25, lw=0)
            if np.ptp(values) > 0:
                some = np.random.default_rng(0).choice(values, size=2000) if len(values) > 2000 else values
                ax.plot(at, gaussian_kde(some)(at), color=colour, lw=1.3, label=name)
            else:
                ax.axvline(values[0], color=colour, lw=1.3, label=name)
        ax.legend(frameon=False, fontsize=8, labelcolor=GREY)
        ax.set_yticks([])
        _titled(ax, title)
    return figure


def plot_starts(losses: pd.DataFrame, optima: pd.DataFrame) -> Figure:
    """Draw final losses of local searches, sorted, above the best of all; and optima against starts.

    Parameters
    ----------
    losses
        One row a start, a column a kind of start; +inf where it found nothing.
    optima
        Number of distinct optima; the index is the number of starts.
    """
    figure, (waterfall, found) = _figure(2, 1, 2)
    best = float(losses.min(axis=None))
    for colour, name in zip(PALETTE, losses.columns, strict=False):
        label = name.replace("_", " ")
        excess = np.sort(losses[name].to_numpy()) - best
        waterfall.plot(np.arange(1, len(excess) + 1), 1e-3 + excess, color=colour, lw=1.3, label=label)
        found.plot(optima.index, optima[name], color=colour, lw=1.3, marker="o", ms=3)
    waterfall.set_yscale("log")
    waterfall.set_xlabel("start, best first", fontsize=9, color=GREY)
    waterfall.legend(frameon=False, fontsize=8, labelcolor=GREY)
    found.set_xlabel("starts", fontsize=9, color=GREY)
    found.yaxis.set_major_locator(MaxNLocator(integer=True))
    _titled(waterfall, "final loss above the best, plus 0.001")
    _titled(found, "distinct optima within 10 of the best")
    return figure


def plot_search(table: pd.DataFrame, best: int, title: str) -> Figure:
    """Draw runs of a random search as parallel lines, values placed by rank; the chosen run stands out.

    A line is the darker the less its validation loss, and that of a run that failed ends before its losses. Settings in
    which no two runs differ have no axis.

    Parameters
    ----------
    table
        One row a run: settings, then the losses of training and of validation as the last two columns.
    best
        Row of the chosen run.
    title
        Which runs these are.
    """
    losses = list(table.columns[-2:])
    columns = [name for name in table.columns if name in losses or table[name].nunique() > 1]
    figure, (ax,) = _figure(1, 1, 1, width=max(8.0, 0.9 * len(columns)))
    heights = pd.DataFrame({name: _height(table[name]) for name in columns})
    strength = 0.25 + 0.5 * (1.0 - heights.iloc[:, -1].fillna(1.0)) ** 2
    for k in np.argsort(strength, kind="stable"):
        ax.plot(range(len(columns)), heights.iloc[k], color=PALETTE[0], lw=0.9, alpha=strength[k])
    ax.plot(range(len(columns)), heights.iloc[best], color=PALETTE[1], lw=2.2)
    for k, name in enumerate(columns):
        ax.axvline(k, color=PALE, lw=0.8, zorder=0)
        for at, text in zip((-0.1, 1.04), _ends(table[name]), strict=True):
            ax.text(k, at, text, ha="center", fontsize=7.5, color=GREY)
    ax.set_xticks(range(len(columns)), [name.replace("_", " ") for name in columns], rotation=30, ha="right")
    ax.tick_params(labelsize=8)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_ylim(-0.14, 1.12)
    _titled(ax, f"{title}; the chosen one in orange, others the darker the less their validation loss")
    return figure


def _ends(values: pd.Series) -> tuple[str, str]:
    """Return the lowest and the highest value as text."""
    if pd.api.types.is_integer_dtype(values):
        return str(values.min()), str(values.max())
    if pd.api.types.is_numeric_dtype(values):
        return number(float(values.min())), number(float(values.max()))
    words = sorted(values.astype(str))
    return words[0], words[-1]


def _height(values: pd.Series) -> Float[np.ndarray, " runs"]:
    """Return the place of every value between the lowest and the highest by rank, words in their order."""
    is_number = pd.api.types.is_numeric_dtype(values)
    ranks = (values if is_number else values.astype(str)).rank(method="dense").to_numpy(float)
    low, high = np.nanmin(ranks), np.nanmax(ranks)
    return (ranks - low) / (high - low) if high > low else 0.5 * ranks / low


def _figure(count: int, rows: int, columns: int, width: float | None = None) -> tuple[Figure, list]:
    size = (4.2 * columns if width is None else width, 3.2 * rows)
    figure = Figure(figsize=(max(size[0], 7.5), size[1]), layout="constrained", facecolor="white")
    return figure, grid(figure, count, rows, columns)


def _titled(ax, text: str) -> None:
    ax.set_title(text, loc="left", fontsize=9.5, color=INK)
