"""The loop around chains that run by themselves in threads: progress, Ctrl-C, and a run like the driver's."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from kinbayes.problem.native_posterior import NativePosterior, value_and_grad
from kinbayes.problem.parameters import unconstrain
from kinbayes.run.loop.driver import refuse_starts
from kinbayes.run.loop.pieces import Settings
from kinbayes.run.loop.runs import JUDGING_GROWTH, Diagnostics, SamplerProgress, SamplerRun, judged
from kinbayes.run.loop.trace import Draws, Trace
from kinbayes.samplers.base import Proposed
from kinbayes.samplers.nutpie import Chain, NativeTarget, start_chain

REPORT = 0.5  # seconds between reports, or more:
SHARE = 0.1  # of the time, which making them may take


class _Plan(NamedTuple):
    """Numbers of iterations, the first whose draw is kept, whether draws are reported, and when the run began."""

    num_warmup: int
    num_draws: int
    first_kept: int
    keeps_evaluated: bool
    began: float
    started: float


def run_chains(
    posterior: NativePosterior,
    settings: Settings = (),
    *,
    initial: Float[np.ndarray, "chains dim"],
    num_warmup: int,
    num_draws: int,
    seed: int,
    keep_warmup: bool = False,
    keeps_evaluated: bool = False,
    trace: Trace | None = None,
    on_chunk: Callable[[SamplerProgress], str | None] | None = None,
) -> SamplerRun:
    """Run nutpie's chains, all at once, for their warmup and their draws.

    A chain's draws depend on the seed, its number and its start alone, whatever the number of threads. A run that was
    stopped has as many draws of every chain as the slowest.

    Parameters
    ----------
    posterior
        The posterior.
    settings
        Settings of `start_chain`, as pairs of name and value.
    initial
        Scaled vectors where the chains start, strictly inside the walls.
    num_warmup, num_draws
        Numbers of iterations of every chain that tune, and that are kept.
    seed
        Seed of all random numbers.
    keep_warmup
        Whether to keep what warmup draws.
    keeps_evaluated
        Whether progress brings the draws: what lies between them nutpie does not tell.
    trace
        Where the draws go beside nutpie's own memory, which holds them all.
    on_chunk
        Called about twice a second. A text that it returns stops the run and is the reason given. KeyboardInterrupt,
        its own or the keyboard's, stops the run as "interrupted".

    Returns
    -------
    The run, with the draws there are. It cannot be continued.

    Raises
    ------
    ValueError
        If a chain starts where the density is zero or not finite, or a setting has no meaning.
    """
    began = time.perf_counter()
    X = np.asarray(jax.vmap(partial(unconstrain, posterior.box))(initial))
    target = native_target(posterior)
    refuse_starts(np.array([target.value_and_grad(x)[0] for x in X]))
    seeds = np.random.SeedSequence(seed).generate_state(len(X), np.uint64).tolist()
    chains: list[Chain] = []
    try:
        for x, own in zip(X, seeds, strict=True):
            chain = start_chain(target, x, num_warmup=num_warmup, num_draws=num_draws, seed=own, **dict(settings))
            chains.append(chain)
        first_kept = 0 if keep_warmup else num_warmup
        plan = _Plan(num_warmup, num_draws, first_kept, keeps_evaluated, began, time.perf_counter())
        if trace is not None:
            shapes = jax.tree.map(_axes_swapped, _common(chains, num_warmup).draws)
            trace.begin(shapes, num_warmup + num_draws - plan.first_kept, None)
        stopped = _watched(chains, plan, trace, on_chunk)
    finally:
        for chain in chains:
            chain.stop()
    found = _common(chains, num_warmup)
    _keep(found.draws, plan, trace)
    return judged(_run(found, plan, stopped, ()), 1.0)


def native_target(posterior: NativePosterior) -> NativeTarget:
    """Return all that nutpie's chains may know of a posterior."""
    dim, density, expand, words, owner, _ = posterior
    return NativeTarget(dim, density, expand, words, partial(value_and_grad, posterior), owner)


def _watched(chains: Sequence[Chain], plan: _Plan, trace: Trace | None, on_chunk: Callable | None) -> str:
    """Report until the chains have ended or are to be stopped; return which."""
    try:
        if on_chunk is None:
            while not _wait(chains, REPORT):
                pass
            return "completed"
        for progress in _reports(chains, plan, trace):
            reason = on_chunk(progress)
            if reason and not progress.run.stopped:
                return reason
    except KeyboardInterrupt:
        return "interrupted"
    return "completed"


def _reports(chains: Sequence[Chain], plan: _Plan, trace: Trace | None) -> Iterator[SamplerProgress]:
    """Wait for the end of the chains, and tell meanwhile how far the slowest is."""
    pause, is_tuning, is_done, told = REPORT, plan.num_warmup > 0, False, 0
    diagnostics: tuple[Diagnostics, ...] = ()
    while not is_done:
        is_done = _wait(chains, pause)
        asked = time.perf_counter()
        found = _common(chains, plan.num_warmup)
        _keep(found.draws, plan, trace)
        run = judged(_run(found, plan, "completed" if is_done else "", diagnostics), JUDGING_GROWTH)
        diagnostics = run.diagnostics
        done = min(run.iterations, plan.num_warmup)
        if is_tuning and done > 0:
            is_tuning = done < plan.num_warmup
            new, so_far = _part(found.draws, slice(min(told, done), done)), run._replace(diagnostics=(), stopped="")
            yield _told(plan, SamplerProgress("warmup", done, plan.num_warmup, new.info, so_far), new)
        if run.iterations > plan.num_warmup:
            new, done = _part(found.draws, slice(max(told, plan.num_warmup), None)), run.iterations - plan.num_warmup
            yield _told(plan, SamplerProgress("draws", done, plan.num_draws, new.info, run), new)
        told = run.iterations
        pause = max(REPORT, (time.perf_counter() - asked) / SHARE)


def _told(plan: _Plan, progress: SamplerProgress, new: Draws) -> SamplerProgress:
    """Return progress with the draws that are new, if they are wanted."""
    return progress._replace(evaluated=Proposed(*new[:3]), is_draws=True) if plan.keeps_evaluated else progress


def _wait(chains: Sequence[Chain], seconds: float) -> bool:
    """Wait for the end of all chains, not longer than some seconds; return whether it has come."""
    end = time.perf_counter() + seconds
    return all(chain.wait(max(end - time.perf_counter(), 0.0)) for chain in chains)


class _Found(NamedTuple):
    """What all chains have so far, those of warmup included, and the numbers of evaluations, of all and of warmup."""

    draws: Draws
    num_steps: int
    num_tuning: int


def _common(chains: Sequence[Chain], num_warmup: int) -> _Found:
    """Return what all chains have so far."""
    draws = [chain.draws() for chain in chains]
    length = min(len(chain.position) for chain in draws)
    steps = [chain.info["n_steps"] for chain in draws]
    stacked = jax.tree.map(lambda *parts: np.stack([part[:length] for part in parts]), *draws)
    return _Found(
        Draws(*stacked), int(sum(own.sum() for own in steps)), int(sum(own[:num_warmup].sum() for own in steps))
    )


def _keep(draws: Draws, plan: _Plan, trace: Trace | None) -> None:
    """Write to a trace what it has not yet."""
    first = plan.first_kept + (0 if trace is None else trace.length)
    if trace is not None and draws.position.shape[1] > first:
        trace.write(jax.tree.map(_axes_swapped, _part(draws, slice(first, None))))


def _part(draws: Draws, iterations: slice) -> Draws:
    return jax.tree.map(lambda values: values[:, iterations], draws)


def _axes_swapped(values: np.ndarray) -> np.ndarray:
    return np.moveaxis(values, 0, 1)


def _run(found: _Found, plan: _Plan, stopped: str, diagnostics: tuple[Diagnostics, ...]) -> SamplerRun:
    """Make a run of what was found; the time of a phase is its share of all evaluations."""
    now = time.perf_counter()
    seconds_draws = (now - plan.started) * (1 - found.num_tuning / max(found.num_steps, 1))
    return SamplerRun(
        **_part(found.draws, slice(plan.num_warmup, None))._asdict(),
        warmup=_part(found.draws, slice(plan.num_warmup)) if plan.first_kept == 0 else None,
        state=None,
        diagnostics=diagnostics,
        iterations=found.draws.position.shape[1],
        num_steps=found.num_steps,
        seconds_warmup=now - plan.began - seconds_draws,
        seconds_draws=seconds_draws,
        stopped=stopped,
    )
