"""The loop that runs every sampler and every optimizer, in compiled pieces."""

import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from kinbayes.optimizers.base import Bounds, OptimizerFactory
from kinbayes.run.loop.host_search import search_on_host, start_on_host
from kinbayes.run.loop.pieces import Settings, best_members, sample, search, start_optimizer, start_sampler
from kinbayes.run.loop.runs import (
    JUDGING_GROWTH,
    OptimizerProgress,
    OptimizerRun,
    SamplerProgress,
    SamplerRun,
    judged,
)
from kinbayes.run.loop.state import Leaves, restored
from kinbayes.run.loop.trace import Draws, Memory, Trace
from kinbayes.samplers.base import Proposed, SamplerFactory, SamplerState, Target

# Ctrl-C, the progress bar and every budget wait for the end of a piece: its length follows the clock (s).
SHORT_PIECE, LONG_PIECE = 0.5, 2.0


def run_sampler(
    target: Target,
    factory: SamplerFactory,
    settings: Settings = (),
    *,
    initial: Float[np.ndarray | Array, "chains dim"] | SamplerRun,
    num_warmup: int,
    num_draws: int,
    seed: int,
    thin: int = 1,
    keep_warmup: bool = False,
    keeps_evaluated: bool = False,
    trace: Trace | None = None,
    chunk: int = 100,
    on_chunk: Callable[[SamplerProgress], str | None] | None = None,
) -> SamplerRun:
    """Run a sampler for its warmup and its draws.

    The random numbers of a step depend on the seed and the step's index alone, so a run gives the same draws
    bit for bit however it is cut into pieces, interrupted and continued. Nothing is compiled again for a
    target of the same structure with other numbers in it.

    Parameters
    ----------
    target
        The posterior.
    factory
        The sampler, a value of `SAMPLERS`.
    settings
        The factory's keyword arguments, as pairs of name and value.
    initial
        Starting points, (chains, dim), strictly inside the walls; or an earlier run, which is continued.
    num_warmup, num_draws
        Numbers of iterations of every chain that tune the sampler, and whose draws are kept.
    seed
        Seed of all random numbers.
    thin
        Number of steps of an iteration, of which the last gives its draw.
    keep_warmup
        Whether to keep what warmup draws; the run that is continued must have done so too.
    keeps_evaluated
        Whether progress brings the proposals of every iteration's last step; of a sampler without, its draws.
    trace
        Where the draws go; memory by default.
    chunk
        Number of draws after which convergence is judged; a compiled piece is never longer.
    on_chunk
        Called after each piece. A text that it returns stops the run and is the reason given.
        KeyboardInterrupt, its own or the keyboard's, stops the run as "interrupted".

    Returns
    -------
    The run, with the draws there are.

    Raises
    ------
    ValueError
        If a chain starts outside the walls, on one, or where the density is zero or not finite; or if the run
        to continue is longer than what is asked for.
    """
    init_key, step_key = jax.random.split(jax.random.key(seed))
    algorithm = {"factory": factory, "settings": settings, "num_warmup": num_warmup * thin}
    began = time.perf_counter()
    keep_warmup = keep_warmup and num_warmup > 0
    trace = Memory() if trace is None else trace
    end, first_kept = num_warmup + num_draws, 0 if keep_warmup else num_warmup
    start = partial(start_sampler, target, init_key, **algorithm)
    advance = partial(sample, target, step_key, **algorithm, capacity=chunk, keeps_evaluated=keeps_evaluated)
    if isinstance(initial, SamplerRun):
        if initial.iterations > end:
            raise ValueError(
                f"the run to continue has taken {initial.iterations} iterations, more than the {num_warmup} of "
                f"warmup and the {num_draws} draws asked for: ask for more draws"
            )
        if initial.iterations and keep_warmup != (initial.warmup is not None):
            raise ValueError(f"keep_warmup is {keep_warmup}, which the run to continue was not begun with")
        begun = initial._replace(stopped="", state=_continued(initial.state, start, *initial.position.shape[::2]))
    else:
        begun = _begun(target, start(_inside(initial, target.lower, target.upper)))
    shapes, _ = _apart(jax.eval_shape(advance, begun.state, 0, 0, thin)[1])
    trace.begin(shapes, end - first_kept, begun.state)
    for part in () if trace.length else (begun.warmup, begun.draws):
        if part is not None and part.position.shape[1]:
            trace.write(_axes_swapped(part))
    begun = begun._replace(seconds_warmup=begun.seconds_warmup + time.perf_counter() - began)

    def piece(run: SamplerRun, longest: int) -> SamplerProgress:
        start, began = run.iterations, time.perf_counter()
        phase, first, last = ("warmup", 0, num_warmup) if start < num_warmup else ("draws", num_warmup, end)
        # Pieces end on multiples of the chunk, so that what is judged does not depend on the clock.
        length = min(longest, chunk - (start - first) % chunk, last - start)
        state, draws = advance(run.state, start, length, thin)
        rows, proposed = _apart(jax.tree.map(lambda leaf: np.asarray(leaf)[:length], draws))
        if start >= first_kept:
            trace.write(rows)
        seconds, done = time.perf_counter() - began, start + length
        run = run._replace(
            state=state,
            iterations=done,
            num_steps=run.num_steps + int(rows.info["n_steps"].sum()),
            stopped="completed" if done == end else "",
        )
        if phase == "warmup":
            warmup = trace.read(0, done) if keep_warmup else None
            run = run._replace(seconds_warmup=run.seconds_warmup + seconds, warmup=warmup)
        else:
            drawn = trace.read(num_warmup - first_kept, done - first_kept)
            run = run._replace(seconds_draws=run.seconds_draws + seconds, **drawn._asdict())
            run = judged(run, JUDGING_GROWTH) if (done - first) % chunk == 0 else run
        progress = SamplerProgress(phase, done - first, last - first, _axes_swapped(rows.info), run)
        if not keeps_evaluated:
            return progress
        evaluated = Proposed(*rows[:3]) if proposed is None else proposed
        return progress._replace(evaluated=_axes_swapped(evaluated), is_draws=proposed is None)

    return judged(_driven(begun, piece, on_chunk, chunk), 1.0)


def run_optimizer(
    objective: Callable,
    factory: OptimizerFactory,
    settings: Settings = (),
    *,
    bounds: Bounds,
    initial: Float[np.ndarray | Array, "starts points dim"] | OptimizerRun,
    max_evaluations: int,
    seed: int,
    target_loss: float = -np.inf,
    keeps_evaluated: bool = False,
    trace: Trace | None = None,
    chunk: int = 100,
    on_chunk: Callable[[OptimizerProgress], str | None] | None = None,
) -> OptimizerRun:
    """Run independent starts of an optimizer until all have finished, one is good enough, or the evaluations are spent.

    Parameters
    ----------
    objective
        `jax.tree_util.Partial`: candidates (n, dim) -> `Evaluation`. Other numbers in it compile nothing again.
    factory
        The optimizer, a value of `OPTIMIZERS`.
    settings
        The factory's keyword arguments, as pairs of name and value.
    bounds
        Walls of the search, (dim,), or of every start, (starts, dim).
    initial
        Points to begin at inside the bounds, (starts, points, dim), as many for each start as the optimizer's
        `num_points`; or an earlier run, which is continued.
    max_evaluations
        Largest number of candidates to evaluate; an iteration that would pass it is not begun.
    seed
        Seed of all random numbers.
    target_loss
        Loss that is good enough.
    keeps_evaluated
        Whether progress brings all candidates and their losses.
    trace
        Where the history goes beside the run: `loss` and `evaluations`, one row an iteration.
    chunk
        Largest number of iterations of one piece.
    on_chunk
        Called after each piece, as in `run_sampler`.

    Returns
    -------
    The run.

    Raises
    ------
    ValueError
        If a point lies outside the bounds, or the number of points is another.
    """
    num_starts = initial.num_starts if isinstance(initial, OptimizerRun) else len(initial)
    bounds = Bounds(*(jnp.broadcast_to(jnp.asarray(w, float), (num_starts, np.shape(w)[-1])) for w in bounds))
    init_key, step_key = jax.random.split(jax.random.key(seed))
    algorithm, target_loss = {"factory": factory, "settings": settings}, float(target_loss)
    optimizer = factory(Bounds(bounds.lower[0], bounds.upper[0]), **dict(settings))
    starter, searcher = (start_optimizer, search) if optimizer.is_traceable else (start_on_host, search_on_host)
    start = partial(starter, bounds, init_key, **algorithm)
    if isinstance(initial, OptimizerRun):
        state = initial.state
        if isinstance(state, Leaves):
            state = restored(state, start(_anywhere(bounds, optimizer.num_points)))
        begun = initial._replace(state=state, stopped="")
    else:
        expected = (num_starts, optimizer.num_points, bounds.lower.shape[1])
        if np.shape(initial) != expected:
            raise ValueError(f"initial has shape {np.shape(initial)}; the optimizer begins at points {expected}")
        points = _inside(initial, bounds.lower[:, None], bounds.upper[:, None], or_on=True)
        begun = OptimizerRun(
            **dict.fromkeys(("position", "loss", "converged", "finished", "members", "member_losses"), np.zeros(0)),
            history=np.zeros(0),
            counts=np.zeros(0, int),
            state=start(points),
            num_starts=num_starts,
            evaluations=0,
            seconds=0.0,
            stopped="",
        )
    members = partial(best_members, bounds, **algorithm, is_traceable=optimizer.is_traceable)
    begun = _found(begun, members, target_loss)
    kept = {"capacity": chunk, "keeps_evaluated": keeps_evaluated}
    advance = partial(searcher, objective, bounds, step_key, **algorithm, **kept)
    if trace is not None:
        trace.begin({"loss": np.zeros(1), "evaluations": np.zeros(1, int)}, max_evaluations, begun.state)

    def piece(run: OptimizerRun, longest: int) -> OptimizerProgress:
        began, allowed = time.perf_counter(), max_evaluations - run.evaluations
        state, rounds = advance(run.state, len(run.history), longest, allowed, target_loss)
        done = int(rounds.done)
        losses, counts = np.asarray(rounds.losses)[:done], run.evaluations + np.asarray(rounds.counts)[:done]
        if trace is not None:
            trace.write({"loss": losses, "evaluations": counts})
        run = run._replace(
            state=state,
            history=np.concatenate([run.history, losses]),
            counts=np.concatenate([run.counts, counts]),
            evaluations=run.evaluations + int(rounds.evaluations),
        )
        run = _found(run, members, target_loss)
        if not run.stopped and done < longest:
            run = run._replace(stopped="max_evaluations")
        run = run._replace(seconds=run.seconds + time.perf_counter() - began)
        evaluated = jax.tree.map(lambda leaf: np.asarray(leaf)[:done], rounds.evaluated)
        return OptimizerProgress("optimize", run.evaluations, max_evaluations, run, evaluated)

    return _driven(begun, piece, on_chunk, chunk)


def _driven(run, piece: Callable, on_chunk: Callable | None, chunk: int):
    """Repeat pieces until the run has stopped."""
    longest = 1
    try:
        while not run.stopped:
            began = time.perf_counter()
            progress = piece(run, longest)
            run, seconds = progress.run, time.perf_counter() - began
            reason = on_chunk(progress) if on_chunk is not None else None
            if reason and not run.stopped:
                run = run._replace(stopped=reason)
            if seconds < SHORT_PIECE:
                longest = min(2 * longest, chunk)
            elif seconds > LONG_PIECE:
                longest = max(longest // 2, 1)
    except KeyboardInterrupt:
        return run._replace(stopped="interrupted")
    return run


def _inside(points, lower, upper, *, or_on: bool = False) -> Float[Array, "... dim"]:
    """Check that starting points lie inside the walls, or on them where that will do."""
    points = np.asarray(points, float)
    lower, upper = (np.broadcast_to(np.asarray(wall), points.shape) for wall in (lower, upper))
    fits = (lower <= points) & (points <= upper) if or_on else (lower < points) & (points < upper)
    if not fits.all():
        *start, column = place = tuple(map(int, np.argwhere(~fits)[0]))
        raise ValueError(
            f"start {', point '.join(map(str, start))} has {points[place]} in entry {column}, which must lie "
            f"{'in' if or_on else 'strictly inside'} [{lower[place]}, {upper[place]}]"
        )
    return jnp.asarray(points)


def _begun(target: Target, state: SamplerState) -> SamplerRun:
    """Make a run of no draws, after a check that every chain can move."""
    refuse_starts(np.asarray(target.log_density(state.log_prior, state.log_likelihood)))
    chains, dim = state.position.shape
    return SamplerRun(
        position=np.zeros((chains, 0, dim)),
        log_prior=np.zeros((chains, 0)),
        log_likelihood=np.zeros((chains, 0)),
        info={},
        warmup=None,
        state=state,
        diagnostics=(),
        iterations=0,
        num_steps=0,
        seconds_warmup=0.0,
        seconds_draws=0.0,
        stopped="",
    )


def refuse_starts(log_densities: Float[np.ndarray, " chains"]) -> None:
    """Check that every chain can move.

    Raises
    ------
    ValueError
        If a log density is not finite.
    """
    fails = np.flatnonzero(~np.isfinite(log_densities))
    if fails.size:
        raise ValueError(
            f"chains {fails.tolist()} start where the density is zero or not finite: start them where the "
            "prior is positive and the model can be simulated"
        )


def _apart(piece: dict[str, PyTree]) -> tuple[Draws, Proposed | None]:
    """Return the draws of a piece, and what was proposed."""
    return Draws(**{name: values for name, values in piece.items() if name != "proposed"}), piece["proposed"]


def _axes_swapped(rows: PyTree) -> PyTree:
    """Return arrays (iterations, chains, …) as (chains, iterations, …), and the other way round."""
    return jax.tree.map(lambda leaf: np.moveaxis(np.asarray(leaf), 0, 1), rows)


def _continued(state: PyTree, start: Callable, num_points: int, dim: int) -> PyTree:
    """Return the state from which a run goes on."""
    if not isinstance(state, Leaves):
        return state
    return jax.tree.map(jnp.asarray, restored(state, jax.eval_shape(start, jnp.zeros((num_points, dim)))))


def _anywhere(bounds: Bounds, num_points: int) -> Float[np.ndarray, "starts points dim"]:
    """Return points inside the bounds, of the shape with which a run begins."""
    inside = np.clip(0.0, np.asarray(bounds.lower), np.asarray(bounds.upper))
    return np.repeat(inside[:, None], num_points, axis=1)


def _found(run: OptimizerRun, members: Callable, target_loss: float) -> OptimizerRun:
    """Return a run with what its state says."""
    finished, loss = np.asarray(run.state.finished), np.asarray(run.state.best_loss)
    positions, losses = members(run.state)
    is_good = bool(len(loss)) and loss.min() <= target_loss
    return run._replace(
        position=np.asarray(run.state.best_position),
        loss=loss,
        converged=np.asarray(run.state.converged),
        finished=finished,
        members=np.asarray(positions),
        member_losses=np.asarray(losses),
        stopped="finished" if finished.all() else "target_loss" if is_good else "",
    )
