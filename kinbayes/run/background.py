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
from kinbayes.run.driver import JUDGING_GROWTH, Diagnostics, SamplerProgress, SamplerRun, judged, refuse_starts
from kinbayes.run.pieces import Settings
from kinbayes.samplers.nutpie import Chain, NativeTarget, start_chain

REPORT = 0.5  # seconds between reports, or more:
SHARE = 0.1  # of the time, which making them may take


class _Plan(NamedTuple):
    """Numbers of iterations, and when the run and its chains began."""

    num_warmup: int
    num_draws: int
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
        plan = _Plan(num_warmup, num_draws, began, time.perf_counter())
        stopped = _watched(chains, plan, on_chunk)
    finally:
        for chain in chains:
            chain.stop()
    return judged(_run(_common(chains, num_warmup), plan, stopped, ()), 1.0)


def native_target(posterior: NativePosterior) -> NativeTarget:
    """Return all that nutpie's chains may know of a posterior."""
    dim, density, expand, words, owner, _ = posterior
    return NativeTarget(dim, density, expand, words, partial(value_and_grad, posterior), owner)


def _watched(chains: Sequence[Chain], plan: _Plan, on_chunk: Callable | None) -> str:
    """Report until the chains have ended or are to be stopped; return which."""
    try:
        if on_chunk is None:
            while not _wait(chains, REPORT):
                pass
            return "completed"
        for progress in _reports(chains, plan):
            reason = on_chunk(progress)
            if reason and not progress.run.stopped:
                return reason
    except KeyboardInterrupt:
        return "interrupted"
    return "completed"


def _reports(chains: Sequence[Chain], plan: _Plan) -> Iterator[SamplerProgress]:
    """Wait for the end of the chains, and tell meanwhile how far the slowest is."""
    pause, is_tuning, is_done = REPORT, plan.num_warmup > 0, False
    diagnostics: tuple[Diagnostics, ...] = ()
    while not is_done:
        is_done = _wait(chains, pause)
        asked = time.perf_counter()
        found = _common(chains, plan.num_warmup)
        run = judged(_run(found, plan, "completed" if is_done else "", diagnostics), JUDGING_GROWTH)
        diagnostics = run.diagnostics
        done = min(run.iterations, plan.num_warmup)
        if is_tuning and done > 0:
            is_tuning = done < plan.num_warmup
            info = {name: values[:, :done] for name, values in found.info.items()}
            yield SamplerProgress("warmup", done, plan.num_warmup, info, run._replace(diagnostics=(), stopped=""))
        if run.iterations > plan.num_warmup:
            yield SamplerProgress("draws", run.iterations - plan.num_warmup, plan.num_draws, run.info, run)
        pause = max(REPORT, (time.perf_counter() - asked) / SHARE)


def _wait(chains: Sequence[Chain], seconds: float) -> bool:
    """Wait for the end of all chains, not longer than some seconds; return whether it has come."""
    end = time.perf_counter() + seconds
    return all(chain.wait(max(end - time.perf_counter(), 0.0)) for chain in chains)


class _Found(NamedTuple):
    """What all chains have so far, (chains, iterations, …), and the numbers of evaluations, of all and of warmup."""

    position: np.ndarray
    log_prior: np.ndarray
    log_likelihood: np.ndarray
    info: dict[str, np.ndarray]
    num_steps: int
    num_tuning: int


def _common(chains: Sequence[Chain], num_warmup: int) -> _Found:
    """Return what all chains have so far."""
    draws = [chain.draws() for chain in chains]
    length = min(len(chain.position) for chain in draws)
    steps = [chain.info["n_steps"] for chain in draws]
    position, log_prior, log_likelihood, infos = zip(*draws, strict=True)

    def stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([part[:length] for part in parts])

    return _Found(
        stacked(position),
        stacked(log_prior),
        stacked(log_likelihood),
        {name: stacked([info[name] for info in infos]) for name in infos[0]},
        int(sum(own.sum() for own in steps)),
        int(sum(own[:num_warmup].sum() for own in steps)),
    )


def _run(found: _Found, plan: _Plan, stopped: str, diagnostics: tuple[Diagnostics, ...]) -> SamplerRun:
    """Make a run of what was found; the time of a phase is its share of all evaluations."""
    now, kept = time.perf_counter(), slice(plan.num_warmup, None)
    seconds_draws = (now - plan.started) * (1 - found.num_tuning / max(found.num_steps, 1))
    return SamplerRun(
        position=found.position[:, kept],
        log_prior=found.log_prior[:, kept],
        log_likelihood=found.log_likelihood[:, kept],
        info={name: values[:, kept] for name, values in found.info.items()},
        state=None,
        diagnostics=diagnostics,
        iterations=found.position.shape[1],
        num_steps=found.num_steps,
        seconds_warmup=now - plan.began - seconds_draws,
        seconds_draws=seconds_draws,
        stopped=stopped,
    )
