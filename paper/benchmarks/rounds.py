"""Measure contestants side by side: in short rounds that alternate, so that a busy machine slows all of them.

Times of one run are compared with each other, never with those of another run.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

Contestant = Callable[[], Mapping[str, float]]  # a short round -> seconds a unit of work, by name


def clock(name: str, call: Callable[[], object], *, units: int = 1, seconds: float = 0.02) -> Contestant:
    """Return a contestant that repeats a call.

    Parameters
    ----------
    name
        What the result is called.
    call
        What is measured. It is called twice at once: to warm up, and to see how often it fits into a round.
    units
        Units of work in one call.
    seconds
        Length of a round; a longer call is made once.
    """
    call()
    started = time.perf_counter()
    call()
    count = max(1, int(seconds / max(time.perf_counter() - started, 1e-9)))

    def play() -> dict[str, float]:
        started = time.perf_counter()
        for _ in range(count):
            call()
        return {name: (time.perf_counter() - started) / (count * units)}

    return play


def fastest(contestants: Sequence[Contestant], *, rounds: int) -> dict[str, float]:
    """Let contestants take turns; return the smallest time of each."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        for play in contestants:
            for name, seconds in play().items():
                best[name] = min(best.get(name, seconds), seconds)
    return best


def tell(row: Mapping[str, object]) -> None:
    """Print a row of a table."""
    parts = (f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
    print(", ".join(parts), flush=True)


def write(rows: Sequence[Mapping[str, object]], path: Path) -> pd.DataFrame:
    """Write a table with four digits, and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    table.to_csv(path, index=False, float_format="%.4g")
    print(f"wrote {path}", flush=True)
    return table


def draw(panels: plt.Figure, path: Path) -> None:
    """Write a figure as SVG, small and the same each time: with text as text and no date."""
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kinbayes"}):
        panels.savefig(path, metadata={"Date": None})
    print(f"wrote {path}", flush=True)
