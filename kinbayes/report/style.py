"""What all figures share: colours, grids of panels, how numbers are written."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

# Okabe and Ito's palette, which colour-blind readers can tell apart (https://jfly.uni-koeln.de/color/)
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, GREY, PALE = "#222222", "#6b6b6b", "#dddddd"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def shape(count: int, most_columns: int) -> tuple[int, int]:
    """Return rows and columns of a grid."""
    columns = min(count, most_columns)
    return math.ceil(count / columns), columns


def grid(figure: FigureBase, count: int, rows: int, columns: int) -> list[Axes]:
    """Return the panels of a grid, row by row."""
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[count:]:
        ax.remove()
    for ax in axes[:count]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(GREY)
        ax.tick_params(colors=GREY, labelsize=8.5)
        ax.set_axisbelow(True)
    return axes[:count]


def titled(name: str, unit: str) -> str:
    """Return a name with its unit."""
    return f"{name} ({unit})" if unit else name


def percent(prob: float) -> str:
    """Return a probability as percents."""
    return f"{100 * prob:g} %"


def number(value: float) -> str:
    """Return three significant digits, powers of ten as a human writes them."""
    mantissa, _, exponent = f"{value:#.3g}".partition("e")
    power = f"×10{str(int(exponent)).translate(_SUPERSCRIPTS)}" if exponent else ""
    return mantissa.rstrip(".").replace("-", "−") + power
