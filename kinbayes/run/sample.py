"""Sampling a posterior: starts, the run, and its result."""

import time
from collections.abc import Mapping
from contextlib import nullcontext

import numpy as np
from jax.tree_util import Partial
from jaxtyping import Float

from kinbayes.ode.status import Status
from kinbayes.problem.parameters import Box, ParameterError, constrain, natural, unconstrain
from kinbayes.problem.problem import Problem
from kinbayes.results import store
from kinbayes.results.attributes import encode
from kinbayes.results.store import InferenceData
from kinbayes.results.summary import converged
from kinbayes.run import record
from kinbayes.run.driver import SamplerRun, run_sampler
from kinbayes.run.progress import ProgressDisplay
from kinbayes.run.settings import checked_settings
from kinbayes.run.starts import chain_starts
from kinbayes.samplers import SAMPLERS
from kinbayes.samplers.base import Target


def sample(
    problem: Problem,
    sampler: str = "nuts",
    *,
    draws: int = 1000,
    warmup: int = 1000,
    chains: int = 4,
    seed: int = 0,
    initial: str | InferenceData | Float[np.ndarray, "chains dim"] = "prior",
    settings: Mapping[str, object] | None = None,
    progress: bool = True,
) -> InferenceData:
    """Sample the posterior of a problem.

    Parameters
    ----------
    problem
        The problem; its posterior must be proper.
    sampler
        A name in `SAMPLERS`: `nuts` or `random_walk`.
    draws, warmup
        Kept and discarded iterations of every chain; tuning ends with the warmup.
    chains
        Number of independent chains.
    seed
        Seeds everything that is random.
    initial
        Where chains start: `prior` (draws of the prior), `nominal`, the result of `optimize` (prior draws, pulled
        nine tenths of the way to the best mode), or scaled vectors (chains, dim).
    settings
        Settings of the sampler, by name; see its docstring.
    progress
        Whether to show a progress bar.

    Returns
    -------
    InferenceData
        Groups `posterior` (natural units), `sample_stats`, `log_likelihood`, `posterior_predictive`, `prior`,
        `prior_predictive`, `observed_data`, `constant_data`. Attributes hold how it was made, and `converged` with
        `not_converged_because`.

    Raises
    ------
    ParameterError
        If the posterior is improper.
    StartError
        If no start has a density.
    ValueError
        If a name or a setting is unknown.
    RuntimeError
        If the run was interrupted before its first draw.
    """
    began = time.perf_counter()
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; choose from {sorted(SAMPLERS)}")
    factory = SAMPLERS[sampler]
    pairs = checked_settings(sampler, factory, settings or {}, fixed=("target", "num_warmup"))
    improper = [p.name for p in problem.estimated if not p.is_proper]
    if improper:
        raise ParameterError(
            f"the prior of {improper} is improper (no prior, and open bounds), so the posterior may be too; "
            "give them a prior or finite bounds to sample, or optimize instead"
        )
    for name, value, least in (("draws", draws, 1), ("warmup", warmup, 0), ("chains", chains, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    store.check_names(problem.parameter_names, [o.name for o in problem.observables])
    rng = np.random.default_rng(seed)
    start, said = chain_starts(problem, initial, chains, rng)
    with ProgressDisplay() if progress else nullcontext() as display:
        run = run_sampler(
            target(problem),
            factory,
            pairs,
            initial=start,
            num_warmup=warmup,
            num_draws=draws,
            seed=seed,
            on_chunk=display and display.update,
        )
    if run.position.shape[1] == 0:
        raise RuntimeError(f"the run was {run.stopped} in its warmup, so there are no draws to keep")
    idata = _result(problem, run, rng)
    is_converged, reasons = converged(idata)
    if run.stopped != "completed":
        is_converged, reasons = False, [f"the run was {run.stopped}.", *reasons]
    attrs = record.attributes(
        problem,
        algorithm=sampler,
        settings=dict(pairs),
        seed=seed,
        wall_time=time.perf_counter() - began,
        simulations=run.num_steps * problem.num_lanes,
    )
    attrs |= said | {
        "warmup": warmup,
        "seconds_warmup": run.seconds_warmup,
        "seconds_draws": run.seconds_draws,
        "stopped": run.stopped,
        "converged": is_converged,
        "not_converged_because": reasons,
    }
    idata.attrs.update(encode(attrs))
    return idata


def target(problem: Problem) -> Target:
    """Return all that a sampler may know of a problem."""
    box = Box(problem.lower, problem.upper)
    batched = problem.batched
    return Target(
        batched.log_prior,
        batched.log_likelihood,
        batched.value_and_grad,
        problem.lower,
        problem.upper,
        Partial(constrain, box),
        Partial(unconstrain, box),
    )


def _result(problem: Problem, run: SamplerRun, rng: np.random.Generator) -> InferenceData:
    chains, draws, dim = run.position.shape
    log_density, replicated = _replicated(problem, run.position.reshape(-1, dim), rng)
    prior = problem.draw_prior(rng, chains * draws)
    _, prior_replicated = _replicated(problem, prior, rng)
    stats = {"lp": run.log_prior + run.log_likelihood, "log_prior": run.log_prior, **run.info}
    return store.posterior_data(
        record.parameter_table(problem),
        record.measurement_table(problem),
        draws=natural(run.position, problem.scale),
        sample_stats=stats,
        log_likelihood=log_density.reshape(chains, draws, -1),
        posterior_predictive=replicated.reshape(chains, draws, -1),
        prior=natural(prior, problem.scale),
        prior_predictive=prior_replicated,
        attrs={},
    )


def _replicated(
    problem: Problem, points: Float[np.ndarray, "n dim"], rng: np.random.Generator
) -> tuple[Float[np.ndarray, "n measurements"], Float[np.ndarray, "n measurements"]]:
    """Return the log density of every measurement, and replicated measurements; NaN where a simulation failed."""
    rows = problem.rows(points)
    is_failed = np.any(rows.status != Status.OK, axis=-1)[:, None]
    simulated = np.where(is_failed, np.nan, rows.simulated)
    return rows.log_density, problem.draw_measurements(rng, simulated, rows.noise)
