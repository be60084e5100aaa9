"""Budgets: when a run has had enough, and why it stops."""

import time
from collections.abc import Callable, Sequence

from kinbayes.run.loop.runs import OptimizerProgress, SamplerProgress

MAX_RHAT = 1.01  # of a run that may end because it has draws enough


class SamplerBudget:
    """Stop a sampler's run when one of its budgets is spent.

    Parameters
    ----------
    num_lanes
        Number of simulations of one evaluation of the target.
    max_seconds
        Most seconds from now on; None for no limit.
    max_simulations
        Most simulations of the whole run.
    target_ess
        Bulk and tail effective sample size of every parameter at which there are draws enough.

    Raises
    ------
    ValueError
        If a budget is not positive.
    """

    def __init__(
        self, num_lanes: int, max_seconds: float | None, max_simulations: int | None, target_ess: float | None
    ) -> None:
        check_budgets(max_seconds=max_seconds, max_simulations=max_simulations, target_ess=target_ess)
        self._num_lanes, self._target_ess, self._max_simulations = num_lanes, target_ess, max_simulations
        self._clock = Clock(max_seconds)

    def reason(self, progress: SamplerProgress) -> str | None:
        """Return why a run is to stop; the driver's `on_chunk`."""
        run = progress.run
        simulations = run.num_steps * self._num_lanes
        if self._max_simulations is not None and simulations >= self._max_simulations:
            return "max_simulations"
        if self._target_ess is not None and run.diagnostics:
            _, rhat, bulk, tail = run.diagnostics[-1]
            if rhat <= MAX_RHAT and min(bulk, tail) >= self._target_ess:
                return "target_ess"
        return self._clock.reason(progress)


class Clock:
    """Stop a run after some seconds, counted from now; None for no limit."""

    def __init__(self, max_seconds: float | None) -> None:
        check_budgets(max_seconds=max_seconds)
        self._began, self._max_seconds = time.perf_counter(), max_seconds

    def reason(self, progress: SamplerProgress | OptimizerProgress) -> str | None:
        """Return why a run is to stop; the driver's `on_chunk`."""
        is_over = self._max_seconds is not None and time.perf_counter() - self._began >= self._max_seconds
        return "max_seconds" if is_over else None


def check_budgets(**budgets: float | None) -> None:
    """Refuse budgets with which nothing can be done."""
    for name, value in budgets.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} is {value}; it must be positive, or None for no limit")


def in_turn(hooks: Sequence[Callable | None]) -> Callable:
    """Return one `on_chunk` that calls several, of which the last reason counts."""
    used = [hook for hook in hooks if hook is not None]

    def on_chunk(progress: SamplerProgress | OptimizerProgress) -> str | None:
        return [hook(progress) for hook in used][-1]

    return on_chunk
