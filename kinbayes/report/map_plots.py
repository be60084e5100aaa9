"""Figures about a mode: how many searches found it, profiles through it, and what it says beside the posterior."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from kinbayes.report.style import GREY, INK, PALE, PALETTE, grid, number, percent, shape, titled
from kinbayes.results import summary
from kinbayes.results.map_comparison import compare
from kinbayes.results.profile_interval import chi_square_drop, profile_intervals
from kinbayes.results.scales import to_scale
from kinbayes.results.store import InferenceData, read_group

_POSTERIOR, _PROFILE, _LAPLACE = PALETTE[0], PALETTE[1], PALETTE[2]
_VERDICT = {"identified": PALETTE[2], "one-sided": "#B07400", "not identified": PALETTE[1]}
_ROW = 0.52  # inches
_LANES = {"profile": -0.26, "posterior": 0.0, "laplace": 0.26}  # of a row, downwards: where intervals lie
_MARGIN = 0.13  # of a row's axis, left and right of its intervals, for their ends in numbers
_BASE, _RIDGE = 0.24, 0.66  # of a row: where densities stand, and the highest
_WIDE = 20.0  # upper / lower end of a profile, above which its axis is logarithmic
_NEAREST = 1e-4  # log density: nearer ends are shown as one
_SAME_MODE = 0.1  # log density within which searches are counted as of the best mode


class _ProfileEnds(NamedTuple):
    """Where a profile's interval ends, or the walk where that is open; and a cap, an arrow at a wall, or nothing."""

    lower: float
    upper: float
    markers: tuple[str, ...]


def plot_compare(
    map: InferenceData,
    posterior: InferenceData,
    profile: InferenceData | None = None,
    laplace: InferenceData | None = None,
    prob: float = 0.95,
) -> Figure:
    """Draw mode, intervals and verdict of every parameter, one row each, on its own scale.

    On the left the posterior within the prior; on the right the intervals, enlarged. The mode is a dot, the profile's
    interval above, the Laplace approximation's below that of the posterior. An arrow marks a wall that a profile meets
    before its interval ends; an end without a cap is one that it did not reach. A profile that lies below a better mode
    altogether has no interval.

    The settings, and what is refused, are those of `compare`.
    """
    table = compare(map, posterior, profile, laplace, prob)
    size = len(table)
    figure = Figure(figsize=(11.5, 1.25 + _ROW * size), facecolor="white")
    top, bottom = 1 - 0.55 / figure.get_figheight(), 0.62 / figure.get_figheight()
    within, ends = figure.subplots(1, 2, gridspec_kw={"left": 0.17, "right": 0.815, "wspace": 0.12, "top": top,
                                                      "bottom": bottom, "width_ratios": [1, 1.25]})  # fmt: skip
    for ax, heading in ((within, "Posterior within the prior"), (ends, f"{percent(prob)} intervals, enlarged")):
        ax.set_xlim(-0.015, 1.015)
        ax.set_ylim(size - 0.45, -0.62)
        ax.spines[:].set_visible(False)
        ax.xaxis.set_major_locator(NullLocator())
        ax.yaxis.set_major_locator(NullLocator())
        ax.set_title(heading, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=6)
        for row in range(size - 1):
            ax.axhline(row + 0.5, color=PALE, lw=0.6)
    of_profile = {} if profile is None else _profile_ends(profile, prob)
    for row, name in enumerate(table.index):
        known = table.loc[name]
        _draw_within(within, row, posterior, str(name), known)
        _draw_ends(ends, row, known, of_profile.get(str(name)))
        label = within.get_yaxis_transform()
        within.text(-0.03, row - 0.04, name, transform=label, ha="right", va="center", fontsize=9.5, color=INK)
        if known["unit"]:
            within.text(
                -0.03, row + 0.27, known["unit"], transform=label, ha="right", va="center", fontsize=7.5, color=GREY
            )
        _draw_verdict(ends, row, known)
    handles = [
        Patch(fc=PALE, ec=GREY, lw=0.7, label="prior"),
        Patch(fc=_POSTERIOR, alpha=0.4, lw=0, label="posterior"),
        Line2D([], [], ls="", marker="o", ms=6, color=INK, mec="white", label="mode (MAP)"),
        Line2D([], [], color=_POSTERIOR, lw=3.5, label="posterior interval, median"),
        *([Line2D([], [], color=_PROFILE, lw=2, label="profile interval")] if profile is not None else []),
        *([Line2D([], [], color=_LAPLACE, lw=2, label="Laplace interval")] if laplace is not None else []),
    ]
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=9, labelcolor=GREY,
        bbox_to_anchor=(0.5, 0.06 / figure.get_figheight()),
    )  # fmt: skip
    return figure


def plot_profiles(
    profile: InferenceData, posterior: InferenceData | None = None, *, prob: float = 0.95, columns: int = 4
) -> Figure:
    """Draw the profile of every parameter as log density below the best, a panel each.

    Parameters
    ----------
    profile
        A result of `kinbayes.profile`.
    posterior
        A sampling run, whose marginal densities are drawn beside the profiles; both are 0 at their highest.
    prob
        Of the intervals that are shaded; the dashed line is their level.
    columns
        Panels side by side.

    Raises
    ------
    ValueError
        If the result has no profiles.
    """
    group = read_group(profile, "profile")
    found = profile_intervals(profile, prob)
    rows, columns = shape(len(found), columns)
    level = chi_square_drop(prob)
    figure = Figure(figsize=(2.9 * columns, 0.55 + 2.05 * rows), layout="constrained", facecolor="white")
    highest, depth = float(np.nanmax(group.log_density.values)), 1.25 * float(profile.attrs["drop"])
    axes = grid(figure, len(found), rows, columns)
    for k, (ax, name) in enumerate(zip(axes, found.index, strict=True)):
        own = group.sel(parameter=name)
        _draw_profile(ax, own, found.loc[name], highest, depth, level)
        if posterior is not None:
            values, density = summary.marginal_density(posterior, str(name))
            if len(density):
                with np.errstate(divide="ignore"):
                    below = np.log(density / density.max())
                # Further down a kernel estimate shows single draws.
                shown = np.where(below > -float(profile.attrs["drop"]), below, np.nan)
                ax.plot(values, shown, color=_POSTERIOR, lw=1.4, zorder=1)
        if k % columns == 0:
            ax.set_ylabel("log density\nbelow the best", color=GREY, fontsize=9)
    handles = [
        Line2D([], [], color=_PROFILE, marker="o", ms=4, lw=1.5, label="profile"),
        Line2D([], [], color=_PROFILE, marker="o", ms=4, mfc="white", ls="", label="search not converged"),
        Line2D([], [], color=GREY, lw=1, ls=(0, (4, 3)), label=f"{percent(prob)} level, −{level:.2f}"),
        Patch(fc=_PROFILE, alpha=0.12, lw=0, label=f"{percent(prob)} interval"),
        Line2D([], [], color=INK, lw=2.5, label="bound"),
        *([Line2D([], [], color=_POSTERIOR, lw=1.4, label="marginal posterior")] if posterior is not None else []),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(handles), 3 * columns // 2), frameon=False,
        fontsize=9, labelcolor=GREY,
    )  # fmt: skip
    return figure


def plot_waterfall(map: InferenceData) -> Figure:
    """Draw how far below the best every search ended, sorted: steps are optima, and a long first one is trust.

    Raises
    ------
    ValueError
        If the result is not one of `kinbayes.optimize`.
    """
    estimates = read_group(map, "map_estimate")
    log_density = estimates.log_density.values
    order = np.argsort(-log_density, kind="stable")
    order = order[np.isfinite(log_density[order])]
    gap = log_density[order[0]] - log_density[order]
    shown, converged = np.maximum(gap, _NEAREST), estimates.converged.values[order].astype(bool)
    place = np.arange(1, len(order) + 1)
    figure = Figure(figsize=(6.4, 3.6), layout="constrained", facecolor="white")
    (ax,) = grid(figure, 1, 1, 1)
    ax.set_yscale("log")
    ax.axhspan(_NEAREST / 3, _SAME_MODE, color=_LAPLACE, alpha=0.10, lw=0)
    ax.plot(place, shown, color=PALE, lw=1.2, zorder=1)
    for is_shown, face, word in ((converged, _POSTERIOR, "converged"), (~converged, "white", "not converged")):
        if is_shown.any():
            ax.plot(place[is_shown], shown[is_shown], "o", ms=6, color=_POSTERIOR, mfc=face, mew=1.2, label=word)
    ax.set_ylim(3 * max(shown.max(), 1.0), _NEAREST / 3)
    ax.set_xlim(0.3, len(order) + 0.7)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(axis="y", color=PALE, lw=0.6)
    ax.set_xlabel("search, best first", color=GREY)
    ax.set_ylabel("log density below the best", color=GREY)
    num_same, failed = int(np.sum(gap <= _SAME_MODE)), len(log_density) - len(order)
    without = f"; {failed} without a density" if failed else ""
    ax.set_title(
        f"{num_same} of {len(log_density)} searches within {_SAME_MODE:g} of the best{without}",
        loc="left", fontsize=10.5, color=INK,
    )  # fmt: skip
    ax.legend(frameon=False, fontsize=9, labelcolor=GREY, loc="best")
    return figure


# ---- comparison, row by row


def _draw_within(ax: Axes, row: int, posterior: InferenceData, name: str, known: pd.Series) -> None:
    """Draw prior and posterior densities over the prior's range, which has the length 1."""
    scale, groups = known["scale"], ["posterior"] + ["prior"] * ("prior" in posterior.groups())
    drawn = to_scale(read_group(posterior, groups[-1])[name].values, scale).ravel()
    low, high = float(np.min(drawn)), float(np.max(drawn))
    base = row + _BASE
    ax.plot([0, 1], [base, base], color=GREY, lw=0.8, zorder=2)
    for group in reversed(groups):
        values, density = summary.marginal_density(posterior, name, group=group)
        if not len(values):
            continue
        x = (to_scale(values, scale) - low) / (high - low)
        is_inside = (x >= 0) & (x <= 1)
        height = base - _RIDGE * density / density.max() * (0.45 if group == "prior" and len(groups) == 2 else 1.0)
        colors = {"color": PALE, "alpha": 0.8} if group == "prior" else {"color": _POSTERIOR, "alpha": 0.40}
        ax.fill_between(x[is_inside], base, height[is_inside], lw=0, zorder=1, **colors)
        line = {"color": GREY, "lw": 0.7} if group == "prior" else {"color": _POSTERIOR, "lw": 1.2}
        ax.plot(x[is_inside], height[is_inside], zorder=2, **line)
    at = (to_scale(np.array(known["map"]), scale) - low) / (high - low)
    ax.plot([np.clip(at, 0, 1)], [base], "o", color=INK, ms=5.5, mec="white", mew=0.8, zorder=4, clip_on=False)
    natural = read_group(posterior, groups[-1])[name].values
    for x, value, side in ((0, natural.min(), "left"), (1, natural.max(), "right")):
        ax.text(x, base + 0.16, number(float(value)), ha=side, va="center", fontsize=7, color=GREY)


def _draw_ends(ax: Axes, row: int, known: pd.Series, profiled: _ProfileEnds | None) -> None:
    """Draw all intervals of a parameter, on an axis from the lowest to the highest end."""
    scale = known["scale"]
    intervals = {
        "posterior": (known["lower"], known["upper"]),
        "laplace": (known["laplace_lower"], known["laplace_upper"]),
    }
    if profiled is not None:
        intervals["profile"] = (profiled.lower, profiled.upper)
    on_axis = [to_scale(np.array(ends, dtype=float), scale) for ends in intervals.values()]
    known_ends = np.concatenate([*on_axis, [to_scale(np.array(known["map"]), scale)]])
    known_ends = known_ends[np.isfinite(known_ends)]
    low, high = float(known_ends.min()), float(known_ends.max())

    def place(values) -> np.ndarray:
        u = to_scale(np.asarray(values, dtype=float), scale)
        return _MARGIN + (1 - 2 * _MARGIN) * (u - low) / (high - low if high > low else 1.0)

    colors = {"posterior": (_POSTERIOR, 3.5), "profile": (_PROFILE, 1.8), "laplace": (_LAPLACE, 1.8)}
    for what, ends in intervals.items():
        if not np.all(np.isfinite(ends)):
            continue
        (color, width), y = colors[what], row + _LANES[what]
        x = place(ends)
        ax.plot(x, [y, y], color=color, lw=width, solid_capstyle="butt", zorder=3)
        if what == "posterior":
            ax.plot(place([known["median"]] * 2), [y - 0.13, y + 0.13], color=color, lw=1.6, zorder=4)
            continue
        for end, marker in zip(x, profiled.markers if what == "profile" else ("|", "|"), strict=True):
            ax.plot([end], [y], marker, color=color, ms=7 if marker == "|" else 6, mew=1.6, zorder=3)
    at = place([known["map"]])
    ax.plot(at, [row], "o", color=INK, ms=5.5, mec="white", mew=0.8, zorder=5)
    for x, value, side in ((_MARGIN - 0.02, known["lower"], "right"), (1.02 - _MARGIN, known["upper"], "left")):
        ax.text(x, row, number(float(value)), ha=side, va="center", fontsize=8, color=_POSTERIOR)


def _profile_ends(profile: InferenceData, prob: float) -> dict[str, _ProfileEnds]:
    """Return the ends of profiles by parameter, without those that lie below a better mode altogether."""
    found = {}
    for name, interval in profile_intervals(profile, prob).iterrows():
        words = (interval["below"], interval["above"])
        if "lower_mode" in words:
            continue
        walked = profile.profile.value.sel(parameter=name)
        ends = zip(interval[["lower", "upper"]], (float(walked.min()), float(walked.max())), strict=True)
        markers = (
            "|" if word in ("data", "prior") else arrow if word == "wall" else ""
            for word, arrow in zip(words, "<>", strict=True)
        )
        found[str(name)] = _ProfileEnds(*(end if np.isfinite(end) else last for end, last in ends), tuple(markers))
    return found


def _draw_verdict(ax: Axes, row: int, known: pd.Series) -> None:
    word = known["verdict"]
    limit = {"open": "no lower limit", "closed": "no upper limit"}[known["below"]] if word == "one-sided" else ""
    place = ax.get_yaxis_transform()
    style = {"transform": place, "ha": "left", "va": "center", "clip_on": False}
    ax.text(1.03, row - 0.1, word, fontsize=9.5, fontweight="bold", color=_VERDICT[word], **style)
    narrowed = f"contraction {known['contraction']:.3f}" if np.isfinite(known["contraction"]) else ""
    ax.text(1.03, row + 0.2, ", ".join(filter(None, [limit, narrowed])), fontsize=7.5, color=GREY, **style)


# ---- profiles


def _draw_profile(ax: Axes, own: xr.Dataset, found: pd.Series, highest: float, depth: float, level: float) -> None:
    known = np.isfinite(own.value.values)
    values, below = own.value.values[known], own.log_density.values[known] - highest
    converged = own.converged.values[known].astype(bool)
    ax.axhline(-level, color=GREY, lw=1, ls=(0, (4, 3)), zorder=0)
    if "lower_mode" in (found["below"], found["above"]):
        style = {"transform": ax.transAxes, "ha": "center", "va": "center", "fontsize": 8, "color": _PROFILE}
        ax.text(0.5, 0.5, f"{-below.max():.3g} below a better mode", **style)
    else:
        edges = zip(found[["lower", "upper"]], values[[0, -1]], strict=True)
        ax.axvspan(
            *(end if np.isfinite(end) else edge for end, edge in edges), color=_PROFILE, alpha=0.12, lw=0, zorder=0
        )
    ax.plot(values, below, color=_PROFILE, lw=1.5, zorder=2)
    for is_shown, face in ((converged, _PROFILE), (~converged, "white")):
        ax.plot(values[is_shown], below[is_shown], "o", ms=3.2, color=_PROFILE, mfc=face, mew=0.9, zorder=3)
    for side, wall in (("below", own.lower_wall), ("above", own.upper_wall)):
        if str(own[f"stopped_{side}"].values) == "wall":
            ax.axvline(float(wall), color=INK, lw=2.5, zorder=1)
    mode = int(np.argmax(below))
    ax.plot([values[mode]], [below[mode]], "o", color=INK, ms=5.5, mec="white", mew=0.8, zorder=4)
    scale, unit = str(own.scale.values), str(own.unit.values)
    if scale != "lin" and values[-1] > _WIDE * values[0]:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(numticks=5))
        ax.xaxis.set_minor_formatter(NullFormatter())
    else:
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 4, 5, 10], min_n_ticks=3))
    ax.set_xlim(*_with_margin(values, ax.get_xscale()))
    ax.set_ylim(min(0.0, below.max() + level) - depth, 0.06 * depth)
    ax.set_title(titled(str(own.parameter.values), unit), loc="left", fontsize=10, color=INK)


def _with_margin(values: np.ndarray, scale: str) -> np.ndarray:
    """Return the range of values with a little room at both ends, on the axis' scale."""
    u = np.log(values) if scale == "log" else values
    ends = np.array([u[0], u[-1]]) + 0.05 * (u[-1] - u[0]) * np.array([-1, 1])
    return np.exp(ends) if scale == "log" else ends
