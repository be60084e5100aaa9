"""Progress of a run on the terminal: a bar for every phase, or a few lines where there is no terminal."""

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from kinbayes.run.loop.runs import OptimizerProgress, SamplerProgress

LINES_PER_PHASE = 4


class ProgressDisplay:
    """Show a run while it goes on: a context manager around it, whose `update` is the driver's `on_chunk`.

    Parameters
    ----------
    console
        Where to write; the standard error by default, so that what a command prints stays clean.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = Console(stderr=True) if console is None else console
        columns = (
            TextColumn("{task.description:>8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[summary]}"),
        )
        self._bars = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._lines: dict[str, int] = {}
        self._diverging: dict[str, int] = {}

    def __enter__(self) -> "ProgressDisplay":
        """Begin to draw."""
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop drawing and leave the bars as they are."""
        self._bars.stop()

    def update(self, progress: SamplerProgress | OptimizerProgress) -> None:
        """Show where a phase of a run stands."""
        is_last = bool(progress.run.stopped)
        self.show(progress.phase, progress.done, progress.total, self._summary(progress), is_last=is_last)

    def show(self, phase: str, done: int, total: int, text: str, *, is_last: bool = False) -> None:
        """Show how much of a phase is done, with a few words; the last time in any case."""
        if self._console.is_terminal:
            if phase not in self._tasks:
                self._tasks[phase] = self._bars.add_task(phase, total=total, summary=text)
            self._bars.update(self._tasks[phase], completed=done, summary=text)
            return
        lines = done * LINES_PER_PHASE // max(total, 1)
        if lines > self._lines.get(phase, 0) or is_last:
            self._lines[phase] = lines
            self._console.print(f"{phase} {done}/{total}: {text}", highlight=False, markup=False, soft_wrap=True)

    def _summary(self, progress: SamplerProgress | OptimizerProgress) -> str:
        """Describe where a phase stands in a few words.

        Acceptance, divergences and convergence of a sampler; loss and finished starts of an optimizer.
        """
        run = progress.run
        if isinstance(progress, OptimizerProgress):
            return f"loss {run.loss.min():.6g}, {run.finished.sum()} of {len(run.loss)} starts finished"
        words = [f"acceptance {progress.info['acceptance_rate'].mean():.2f}"]
        if "diverging" in progress.info:
            count = self._diverging.get(progress.phase, 0) + int(np.sum(progress.info["diverging"]))
            self._diverging[progress.phase] = count
            words.append(f"{count} diverging")
        if run.diagnostics:
            _, rhat, bulk, tail = run.diagnostics[-1]
            words.append(f"R-hat {rhat:.3f}, ESS {bulk:.0f} bulk, {tail:.0f} tail")
        return ", ".join(words)
