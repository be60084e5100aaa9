"""The result of a sampler's run: what follows from its draws, some thousands at a time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from kinbayes.ode.status import Status
from kinbayes.problem.parameters import natural
from kinbayes.problem.problem import Problem
from kinbayes.results import store
from kinbayes.results.folder import append, opened
from kinbayes.results.store import InferenceData
from kinbayes.run import record
from kinbayes.run.loop.runs import SamplerRun
from kinbayes.run.loop.trace import Draws

AT_ONCE = 2**20  # simulated measurements
MOST_PRIOR = 10_000  # draws of the prior, which serve figures


def posterior_result(
    problem: Problem, run: SamplerRun, rng: np.random.Generator, folder: Path | None = None
) -> InferenceData:
    """Return the groups of a run's result; where the run may be larger than memory, from a folder.

    Parameters
    ----------
    problem
        The problem that was sampled.
    run
        The run.
    rng
        Random numbers.
    folder
        Where to write the groups; None keeps them in memory.
    """
    tables = record.parameter_table(problem), record.measurement_table(problem)
    chains, num_draws, _ = run.position.shape
    size = min(chains * num_draws, MOST_PRIOR)
    prior = problem.draw_prior(rng, size)
    once = {
        "prior": natural(prior, problem.scale),
        "prior_predictive": _replicated(problem, prior, rng)[1],
    }
    if run.warmup is not None:
        warmup = Draws(*(_in_memory(part) for part in run.warmup))
        once |= {"warmup": natural(warmup.position, problem.scale), "warmup_stats": _statistics(warmup)}
    found = []
    at_once = max(AT_ONCE // (max(len(problem.measurements), 1) * chains), 1)
    for first, part in _parts(run.draws, at_once):
        values, replicated = _replicated(problem, part.position.reshape(-1, problem.dim), rng)
        idata = store.posterior_data(
            *tables,
            draws=natural(part.position, problem.scale),
            sample_stats=_statistics(part),
            log_likelihood=values.reshape(*part.log_prior.shape, -1),
            posterior_predictive=replicated.reshape(*part.log_prior.shape, -1),
            first_draw=first,
            attrs={},
            **({} if first else once),
        )
        if folder is None:
            found.append(idata)
            continue
        for name in idata.groups():
            append(folder, name, idata[name])
    if folder is not None:
        return opened(folder)
    return found[0] if len(found) == 1 else store.joined(found)


def draws_alone(problem: Problem, run: SamplerRun) -> InferenceData:
    """Return the groups that need no simulation."""
    draws = Draws(*(_in_memory(part) for part in run.draws))
    return store.posterior_data(
        record.parameter_table(problem),
        record.measurement_table(problem),
        draws=natural(draws.position, problem.scale),
        sample_stats=_statistics(draws),
        attrs={},
    )


def _parts(draws: Draws, length: int) -> Iterator[tuple[int, Draws]]:
    """Give draws in parts of some length, each with the number of its first."""
    num_draws = draws.position.shape[1]
    for first in range(0, num_draws, length):
        taken = slice(first, min(first + length, num_draws))
        *fields, info = draws
        part = (np.asarray(field[:, taken]) for field in fields)
        yield first, Draws(*part, {name: np.asarray(values[:, taken]) for name, values in info.items()})


def _in_memory(part: object) -> object:
    return {name: np.asarray(v) for name, v in part.items()} if isinstance(part, dict) else np.asarray(part)


def _statistics(draws: Draws) -> dict[str, np.ndarray]:
    return {"lp": draws.log_prior + draws.log_likelihood, "log_prior": draws.log_prior, **draws.info}


def _replicated(
    problem: Problem, points: Float[np.ndarray, "n dim"], rng: np.random.Generator
) -> tuple[Float[np.ndarray, "n measurements"], Float[np.ndarray, "n measurements"]]:
    """Return the log density of every measurement, and replicated measurements; NaN where a simulation failed."""
    rows = problem.rows(points)
    is_failed = np.any(rows.status != Status.OK, axis=-1)[:, None]
    simulated = np.where(is_failed, np.nan, rows.simulated)
    return rows.log_density, problem.draw_measurements(rng, simulated, rows.noise)
