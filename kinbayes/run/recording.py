"""What a run evaluates, as rows of an archive: the driver's `on_chunk`."""

import numpy as np
from jaxtyping import Array, Bool, Float

from kinbayes.amortized.archive import Archive, Rows
from kinbayes.ode.status import Status
from kinbayes.problem.problem import Problem
from kinbayes.results.disk import uninterrupted
from kinbayes.run.loop.pieces import Evaluated
from kinbayes.run.loop.runs import OptimizerProgress, SamplerProgress
from kinbayes.run.loop.search import of_density
from kinbayes.samplers.base import Proposed

_BLOCK = 1024  # points whose priors are computed at once: one size, compiled once
# What is kept, in words, for the table of runs.
PROPOSALS = "the proposals between the walls, of an iteration's last step alone; of a sampler without, its draws"
DRAWS = "the draws, but one that repeats the one before"
CANDIDATES = "all candidates"
REFINEMENT = "all candidates of the refinement, at its own tolerances"


class Recorder:
    """Append what progress brings to an archive; Ctrl-C waits until a piece is kept whole.

    Failures are simulated once more, for their status. Of a point that fails with derivatives alone, what the
    simulation without them says is kept.

    Parameters
    ----------
    archive
        The archive.
    problem
        The problem.
    run
        Index of the run in the archive.
    loss
        Of an optimizer: what it minimises, one of `search.LOSSES`.
    iterations
        Number of iterations that were done before, by a run that is continued.
    """

    def __init__(
        self, archive: Archive, problem: Problem, run: int, *, loss: str = "posterior", iterations: int = 0
    ) -> None:
        self._archive, self._problem, self._run, self._loss = archive, problem, run, loss
        self._iterations = iterations
        self._last: Float[np.ndarray, "chains dim"] | None = None  # draws, of a sampler that tells no proposals

    def update(self, progress: SamplerProgress | OptimizerProgress) -> None:
        """Append a piece; the driver's `on_chunk`."""
        if progress.evaluated is None or not progress.evaluated.position.size:
            return
        with uninterrupted():
            if isinstance(progress, OptimizerProgress):
                rows = of_search(self._problem, of_density(self._problem, self._loss, progress.evaluated))
                length = len(progress.evaluated.position)
            else:
                rows = of_sampling(self._problem, self._new(progress))
                length = progress.evaluated.position.shape[1]
            rows = rows._replace(run=rows.run + self._run, iteration=rows.iteration + self._iterations)
            self._iterations += length
            self._archive.append(rows)

    def _new(self, progress: SamplerProgress) -> Proposed:
        """Return proposals; or draws, NaN where a draw is the one before once more, since nothing was evaluated."""
        found = progress.evaluated
        if not progress.is_draws:
            return found
        first = np.full_like(found.position[:, :1], np.nan) if self._last is None else self._last[:, None]
        before = np.concatenate([first, found.position[:, :-1]], axis=1)
        self._last = np.array(found.position[:, -1])
        is_new = (found.position != before).any(axis=-1, keepdims=True)
        return found._replace(position=np.where(is_new, found.position, np.nan))


def of_search(problem: Problem, found: Evaluated) -> Rows:
    """Return rows of what a search has evaluated, by iterations; its loss is the negative log density."""
    rounds, starts, n, dim = found.position.shape
    U = found.position.reshape(-1, dim)
    is_known = np.isfinite(U).all(axis=1)
    iteration, start, _ = np.indices((rounds, starts, n)).reshape(3, -1)
    log_prior = _log_prior(problem, U)
    loss = found.loss.ravel()
    norm = np.full(len(U), np.nan)
    if found.gradient is not None:
        with np.errstate(over="ignore"):
            norm = np.linalg.norm(found.gradient.reshape(-1, dim), axis=1)
    log_likelihood = np.full(len(U), -np.inf)
    np.subtract(-loss, log_prior, out=log_likelihood, where=np.isfinite(loss))
    return _rows(problem, U, log_likelihood, log_prior, norm, start, iteration, is_known)


def of_sampling(problem: Problem, found: Proposed) -> Rows:
    """Return rows of proposals (chains, length, …), by iterations; those of all rungs of a ladder are of its chain."""
    places = np.indices(found.log_prior.shape)
    by_iterations = [np.moveaxis(values, 1, 0).ravel() for values in (found.log_likelihood, found.log_prior, *places)]
    log_likelihood, log_prior, start, iteration, *_ = by_iterations
    U = np.moveaxis(found.position, 1, 0).reshape(-1, problem.dim)
    is_known, nothing = np.isfinite(U).all(axis=1), np.full(len(U), np.nan)
    return _rows(problem, U, log_likelihood, log_prior, nothing, start, iteration, is_known)


def _rows(
    problem: Problem,
    U: Float[np.ndarray, "rows dim"],
    log_likelihood: Float[np.ndarray, " rows"],
    log_prior: Float[np.ndarray, " rows"],
    gradient_norm: Float[np.ndarray, " rows"],
    start: np.ndarray,
    iteration: np.ndarray,
    is_known: Bool[np.ndarray, " rows"],
) -> Rows:
    """Return rows of those points that are known, with the statuses of the failures."""
    log_likelihood, log_prior, gradient_norm = map(np.array, (log_likelihood, log_prior, gradient_norm))
    status = np.full(len(U), Status.OK, np.int8)
    failed = np.flatnonzero(is_known & ~np.isfinite(log_likelihood))
    if failed.size:
        found = problem.evaluate(U[failed])
        log_likelihood[failed], log_prior[failed], status[failed] = found
        gradient_norm[failed] = np.nan
    rows = Rows(U, log_likelihood, log_prior, gradient_norm, status, np.zeros_like(start), start, iteration)
    return Rows(*(values[is_known] for values in rows))


def _log_prior(problem: Problem, U: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray | Array, " rows"]:
    """Return log priors of any number of points."""
    padded = np.resize(U, (-(-len(U) // _BLOCK) * _BLOCK, problem.dim))
    blocks = [problem.batched.log_prior(block) for block in padded.reshape(-1, _BLOCK, problem.dim)]
    return np.concatenate([np.zeros(0), *blocks])[: len(U)]
