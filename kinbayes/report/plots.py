"""Figures of stored runs.

Every function takes a result and returns a Figure that is free of pyplot's state: nothing is shown, saved or
left open. Numbers come from `kinbayes.results.summary`; here they get a place and a colour.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from kinbayes.report.style import GREY, INK, PALE, PALETTE, grid, number, percent, shape, titled
from kinbayes.results import summary
from kinbayes.results.attributes import attributes
from kinbayes.results.store import InferenceData

_GAP = 0.12  # of the time axis, between its last time and a steady state
_MARKERS = {"": "o", "below": "v", "above": "^"}  # limits point to where the true value lies
_WIDE_DATA = 100.0  # largest / smallest measurement, above which an axis is logarithmic
_WIDE_INTERVAL = 20.0  # upper / lower end, above which an axis is logarithmic
_VISIBLE = 0.005  # of a density's maximum: below, the curve is not told from the axis


def plot_overview(idata: InferenceData, *, prob: float = 0.95, max_fits: int = 6, max_parameters: int = 12) -> Figure:
    """Draw data with predictive bands above, marginal posteriors with their intervals below.

    Parameters
    ----------
    idata
        A sampling run. Its attributes `problem`, `algorithm`, `converged` are shown where they are known.
    prob
        Posterior probability of the wider band and of the intervals.
    max_fits, max_parameters
        Panels drawn of either kind. Where there are more the headings say so; `plot_fit` and `plot_posterior`
        draw all.

    Raises
    ------
    ValueError
        If the run has no posterior or no predictions.
    """
    panels = _panels(idata)
    names = [str(name) for name in summary.posterior(idata).data_vars]
    fits, shown = panels[:max_fits], names[:max_parameters]
    fit_rows, fit_columns = shape(len(fits), 2 if len(fits) in (2, 4) else 3)
    rows, columns = shape(len(shown), 4)
    heights = [0.6 + (3.1 if fit_columns < 3 else 2.5) * fit_rows, 0.4 + 1.75 * rows]
    figure = Figure(figsize=(11, 0.6 + sum(heights)), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.13, h_pad=0.06, hspace=0.03, wspace=0.03)
    _heading(figure, idata)
    above, below = figure.subfigures(2, 1, height_ratios=heights)
    _section(above, "Measurements and predictions", len(fits), len(panels))
    _draw_fits(above, idata, fits, fit_rows, fit_columns, prob)
    prior = "; prior dashed" if "prior" in idata.groups() else ""
    _section(below, f"Posterior: median and {percent(prob)} interval{prior}", len(shown), len(names))
    _draw_marginals(below, idata, shown, rows, columns, summary.credible_intervals(idata, prob))
    return figure


def plot_fit(idata: InferenceData, *, prob: float = 0.95) -> Figure:
    """Draw the data over posterior predictive bands, a panel for every observable in every experiment.

    Parameters
    ----------
    idata
        A sampling run.
    prob
        Probability of the wider band; the narrower one has 50 %. Both include measurement noise.

    Raises
    ------
    ValueError
        If the run has no predictions.
    """
    panels = _panels(idata)
    rows, columns = shape(len(panels), 3)
    figure = Figure(figsize=(1 + 3.6 * columns, 0.6 + 2.7 * rows), layout="constrained", facecolor="white")
    _draw_fits(figure, idata, panels, rows, columns, prob)
    return figure


def plot_posterior(
    idata: InferenceData, *, prob: float = 0.95, kind: summary.Kind = "eti", on: summary.On = "scaled"
) -> Figure:
    """Draw the marginal posterior of every parameter with its interval, and the prior where it is stored.

    Parameters
    ----------
    idata
        A sampling run.
    prob, kind, on
        The interval, as in `credible_intervals`.

    Raises
    ------
    ValueError
        If the run has no posterior, or a setting is out of its range.
    """
    intervals = summary.credible_intervals(idata, prob, kind, on)
    rows, columns = shape(len(intervals), 4)
    figure = Figure(figsize=(2.75 * columns, 0.4 + 1.9 * rows), layout="constrained", facecolor="white")
    _draw_marginals(figure, idata, list(intervals.index), rows, columns, intervals)
    return figure


def plot_trace(idata: InferenceData) -> Figure:
    """Draw every chain of every parameter draw by draw, divergences as ticks below.

    Raises
    ------
    ValueError
        If the run has no posterior.
    """
    variables = summary.posterior(idata).data_vars
    intervals = summary.credible_intervals(idata)
    diverging = idata.sample_stats.get("diverging")
    rows, columns = shape(len(variables), 2)
    figure = Figure(figsize=(5.5 * columns, 0.3 + 1.6 * rows), layout="constrained", facecolor="white")
    for ax, (name, variable) in zip(grid(figure, len(variables), rows, columns), variables.items(), strict=True):
        for chain, draws in enumerate(variable.values):
            ax.plot(variable.draw.values, draws, color=PALETTE[chain % len(PALETTE)], lw=0.5, alpha=0.75)
        if diverging is not None:
            where = variable.draw.values[diverging.values.any(axis=0)]
            ax.plot(where, [0.02] * len(where), "|", color=INK, ms=6, transform=ax.get_xaxis_transform())
        if _is_logarithmic(intervals.loc[name]):
            ax.set_yscale("log")
        ax.margins(x=0)
        ax.set_title(titled(str(name), variable.attrs["unit"]), loc="left", fontsize=9, color=INK)
    for ax in figure.axes[-columns:]:
        ax.set_xlabel("draw", color=GREY, fontsize=9)
    return figure


# ---- fits


def _panels(idata: InferenceData) -> list[tuple[str, str]]:
    table = summary.measurements(idata)
    return list(dict.fromkeys(zip(table["observable"], table["experiment"], strict=True)))


def _draw_fits(
    figure: FigureBase,
    idata: InferenceData,
    panels: Sequence[tuple[str, str]],
    rows: int,
    columns: int,
    prob: float,
) -> None:
    data = dict(list(summary.measurements(idata).groupby(["observable", "experiment"])))
    wide, narrow = (
        dict(list(summary.predictive_intervals(idata, p).groupby(["observable", "experiment"]))) for p in (prob, 0.5)
    )
    observables = list(idata.observed_data.data_vars)
    has_experiments = len({experiment for _, experiment in data}) > 1
    axes = grid(figure, len(panels), rows, columns)
    for k, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
        observable, experiment = panel
        color = PALETTE[observables.index(observable) % len(PALETTE)]
        _draw_fit(ax, data[panel], wide[panel], narrow[panel], color)
        label = idata.observed_data[observable].attrs["label"]
        ax.set_title(f"{label}, {experiment}" if has_experiments else label, loc="left", fontsize=10, color=INK)
        if k + columns >= len(panels):
            ax.set_xlabel(titled("time", idata.constant_data[f"{observable}_time"].attrs["unit"]), color=GREY)
    censoring = [
        word for word in ("below", "above") if any((table["censoring"] == word).any() for table in data.values())
    ]
    handles = [
        Line2D([], [], ls="", marker="o", ms=5, color=INK, label="measured"),
        *(Line2D([], [], ls="", marker=_MARKERS[w], ms=5, color=INK, label=f"{w} this limit") for w in censoring),
        Line2D([], [], color=GREY, lw=2, label="median"),
        Patch(color=GREY, alpha=0.55, lw=0, label="50 % of new measurements"),
        Patch(color=GREY, alpha=0.25, lw=0, label=f"{percent(prob)} of new measurements"),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9, labelcolor=GREY
    )


def _draw_fit(ax: Axes, data: pd.DataFrame, wide: pd.DataFrame, narrow: pd.DataFrame, color: str) -> None:
    is_finite = np.isfinite(data["time"])
    data, wide, narrow = (_with_rest(table, data["time"][is_finite]) for table in (data, wide, narrow))
    for band, alpha in ((wide, 0.20), (narrow, 0.30)):
        followed, alone = _followed(band)
        ax.fill_between(followed["time"], followed["lower"], followed["upper"], color=color, alpha=alpha, lw=0)
        # One time: a band without width would not be seen.
        ax.vlines(alone["time"], alone["lower"], alone["upper"], color=color, alpha=alpha, lw=12)
    followed, alone = _followed(wide)
    ax.plot(followed["time"], followed["median"], color=color, lw=2)
    ax.plot(alone["time"], alone["median"], "_", color=color, mew=2, ms=12)
    for censoring, marker in _MARKERS.items():
        own = data[data["censoring"] == censoring]
        ax.plot(own["time"], own["measurement"], marker, color=INK, ms=5, mec="white", mew=0.8, zorder=3)
    if not is_finite.all():
        label = ax.get_xaxis_transform()
        ax.annotate("steady", (data["time"].max(), 1), xycoords=label, ha="center", va="bottom", fontsize=8, color=GREY)
    lowest = min(wide["lower"].min(), data["measurement"].min())
    if lowest > 0 and data["measurement"].max() > _WIDE_DATA * data["measurement"].min():
        ax.set_yscale("log")
    elif lowest >= 0:
        ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.margins(x=0.02)
    ax.grid(axis="y", color=PALE, lw=0.6)


def _with_rest(table: pd.DataFrame, finite: pd.Series) -> pd.DataFrame:
    """Return a table in which steady states stand a little behind the finite times of the data."""
    span = float(finite.max() - finite.min()) if len(finite) else 0.0
    end = (float(finite.max()) if len(finite) else 0.0) + (_GAP * span or 1.0)
    is_rest = np.isinf(table["time"])
    return table.assign(time=table["time"].where(~is_rest, end), is_rest=is_rest)


def _followed(band: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the part of a band that is a curve, and what stands alone."""
    is_rest = band["is_rest"] | ((~band["is_rest"]).sum() == 1)
    return band[~is_rest], band[is_rest]


# ---- marginals


def _draw_marginals(
    figure: FigureBase,
    idata: InferenceData,
    names: Sequence[str],
    rows: int,
    columns: int,
    intervals: pd.DataFrame,
) -> None:
    for ax, name in zip(grid(figure, len(names), rows, columns), names, strict=True):
        _draw_marginal(ax, idata, name, intervals.loc[name])


def _draw_marginal(ax: Axes, idata: InferenceData, name: str, interval: pd.Series) -> None:
    median, lower, upper = interval["median"], interval["lower"], interval["upper"]
    is_logarithmic = _is_logarithmic(interval)
    on = "scaled" if is_logarithmic else "natural"
    values, density = summary.marginal_density(idata, name, on=on)
    ax.spines["left"].set_visible(False)
    ax.yaxis.set_major_locator(NullLocator())
    ax.set_title(titled(name, interval["unit"]), loc="left", fontsize=10, color=INK, pad=16)
    text = f"{number(median)}  [{number(lower)}, {number(upper)}]" if math.isfinite(median) else "unknown"
    ax.annotate(text, (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", fontsize=8.5, color=GREY)
    if not len(values):
        ax.text(0.5, 0.5, "constant, or not finite", transform=ax.transAxes, ha="center", color=GREY, fontsize=9)
        ax.xaxis.set_major_locator(NullLocator())
        return
    inside = (values >= lower) & (values <= upper)
    ax.fill_between(values, density, color=PALETTE[0], alpha=0.15, lw=0)
    ax.fill_between(values, density, where=inside, color=PALETTE[0], alpha=0.40, lw=0)
    ax.plot(values, density, color=PALETTE[0], lw=1.5)
    ax.plot([lower, upper], [0, 0], color=INK, lw=3, solid_capstyle="butt", clip_on=False, zorder=3)
    ax.plot([median], [0], "o", color="white", mec=INK, mew=1.5, ms=6, clip_on=False, zorder=4)
    if "prior" in idata.groups():
        ax.plot(*summary.marginal_density(idata, name, on=on, group="prior"), color=GREY, lw=1, ls=(0, (4, 3)))
    if is_logarithmic:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(numticks=5))
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 4, 5, 10], min_n_ticks=3))
    visible = values[density > _VISIBLE * density.max()]
    ax.set_xlim(visible[0], visible[-1])
    ax.set_ylim(0, 1.08 * density.max())


def _is_logarithmic(interval: pd.Series) -> bool:
    return interval["scale"] != "lin" and bool(interval["upper"] > _WIDE_INTERVAL * interval["lower"])


# ---- words


def _heading(figure: Figure, idata: InferenceData) -> None:
    known, sizes = attributes(idata), summary.posterior(idata).sizes
    parts = [str(known["algorithm"])] if "algorithm" in known else []
    parts.append(f"{sizes['chain']} × {sizes['draw']:,} draws")
    if "converged" in known:
        parts.append("converged" if known["converged"] else "NOT CONVERGED: do not trust the intervals")
    is_doubtful = not known.get("converged", True)
    figure.suptitle(
        f"{known.get('problem', 'Posterior')}   ·   {', '.join(parts)}",
        x=0.012, ha="left", fontsize=13, color=PALETTE[1] if is_doubtful else INK,
    )  # fmt: skip


def _section(figure: FigureBase, title: str, shown: int, total: int) -> None:
    more = f"   ({shown} of {total} shown)" if shown < total else ""
    figure.suptitle(title + more, x=0.012, ha="left", fontsize=11, fontweight="bold", color=INK)
