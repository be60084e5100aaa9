"""What a run is, complete or not, what it tells of a piece, and whether its draws have converged."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from kinbayes.results.convergence import diagnose
from kinbayes.run.loop.pieces import Evaluated
from kinbayes.run.loop.state import Leaves
from kinbayes.run.loop.trace import Draws
from kinbayes.samplers.base import Proposed, SamplerState

# Judging takes time and memory in proportion to the draws: after every chunk of a long run it would take over.
JUDGING_GROWTH = 1.1
MOST_JUDGED = 20_000  # of a chain; of more every second one is judged, every third, …


class Diagnostics(NamedTuple):
    """Hold the worst R-hat and effective sample sizes of all entries of u, after some draws."""

    num_draws: int
    max_rhat: float
    min_ess_bulk: float
    min_ess_tail: float


class SamplerRun(NamedTuple):
    """Hold a run of a sampler, complete or not.

    Attributes
    ----------
    position, log_prior, log_likelihood, info
        The draws, as in `Draws`.
    warmup
        The draws of the warmup, if they were to be kept.
    state
        The sampler's state after the last step, or `Leaves` of it; None for a run that cannot be continued.
    diagnostics
        Convergence, one entry each time it was judged; once the run has stopped the last one is of all draws, or of
        every second, third, … where there are more than are looked at.
    iterations
        Number of iterations done, warmup included.
    num_steps
        Number of evaluations of the target by all chains, warmup included.
    seconds_warmup, seconds_draws
        Wall time of the two phases; compilation counts as warmup.
    stopped
        Why it ended: "completed", "interrupted", or what `on_chunk` said; empty while it runs.
    """

    position: Float[np.ndarray, "chains draws dim"]
    log_prior: Float[np.ndarray, "chains draws"]
    log_likelihood: Float[np.ndarray, "chains draws"]
    info: dict[str, np.ndarray]
    warmup: Draws | None
    state: "SamplerState | Leaves | None"
    diagnostics: tuple[Diagnostics, ...]
    iterations: int
    num_steps: int
    seconds_warmup: float
    seconds_draws: float
    stopped: str

    @property
    def draws(self) -> Draws:
        """The draws."""
        return Draws(self.position, self.log_prior, self.log_likelihood, self.info)


class SamplerProgress(NamedTuple):
    """Report one piece of a run: iterations done of the phase's total, its statistics, and the run as it is now.

    `phase` is "warmup" or "draws"; `info` has (chains, length) arrays. `evaluated` has the piece's proposals, (chains,
    length, …), or its draws if the sampler tells no proposals (`is_draws`); None if they were not to be kept.
    """

    phase: str
    done: int
    total: int
    info: dict[str, np.ndarray]
    run: SamplerRun
    evaluated: Proposed | None = None
    is_draws: bool = False


class OptimizerRun(NamedTuple):
    """Hold a run of an optimizer, complete or not.

    Attributes
    ----------
    position, loss
        Best point of every start, (starts, dim), and its loss, (starts,).
    converged, finished
        Which starts met the optimizer's test for an optimum, and which have ended for any reason, (starts,).
    members, member_losses
        The points of every start that a local search may begin at, (starts, members, dim), best first, and their
        losses.
    history, counts
        Lowest loss of all starts after each iteration, (iterations,), and the evaluations that it had taken.
    state
        The states of all starts after the last iteration, stacked, or `Leaves` of them.
    num_starts
        Number of starts.
    evaluations
        Number of candidates evaluated.
    seconds
        Wall time, compilation included.
    stopped
        Why it ended: "finished" (every start has), "target_loss", "max_evaluations", "interrupted", or what `on_chunk`
        said; empty while it runs.
    """

    position: Float[np.ndarray, "starts dim"]
    loss: Float[np.ndarray, " starts"]
    converged: Bool[np.ndarray, " starts"]
    finished: Bool[np.ndarray, " starts"]
    members: Float[np.ndarray, "starts members dim"]
    member_losses: Float[np.ndarray, "starts members"]
    history: Float[np.ndarray, " iterations"]
    counts: Int[np.ndarray, " iterations"]
    state: PyTree
    num_starts: int
    evaluations: int
    seconds: float
    stopped: str


class OptimizerProgress(NamedTuple):
    """Report one piece of a run: evaluations done of the total allowed, and the run as it is now.

    `evaluated` has all that the piece evaluated; None if it was not to be kept.
    """

    phase: str
    done: int
    total: int
    run: OptimizerRun
    evaluated: Evaluated | None = None


def judged(run: SamplerRun, growth: float) -> SamplerRun:
    """Judge convergence, if there are `growth` times as many draws as when it was judged last."""
    draws = run.position.shape[1]
    judged = run.diagnostics[-1].num_draws if run.diagnostics else -1
    if draws == judged or draws < growth * judged:
        return run
    r_hat, bulk, tail = diagnose(np.asarray(run.position[:, :: max(-(-draws // MOST_JUDGED), 1)]))
    # NaN, of what cannot be told, is worse than any number.
    worst = Diagnostics(draws, float(np.max(r_hat)), float(np.min(bulk)), float(np.min(tail)))
    return run._replace(diagnostics=(*run.diagnostics, worst))
