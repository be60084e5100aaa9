"""Sampling a posterior: starts, the run, and its result."""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial

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
from kinbayes.run.pieces import Settings
from kinbayes.run.progress import ProgressDisplay
from kinbayes.run.settings import checked_settings
from kinbayes.run.starts import chain_starts
from kinbayes.samplers import SAMPLERS
from kinbayes.samplers.base import Target
from kinbayes.samplers.nutpie import start_chain

BACKENDS = ("nutpie", "numpyro")  # of nuts
_FIXED = ("target", "start", "num_warmup", "num_draws", "seed")  # arguments of samplers that are no settings


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
        Settings of the sampler, by name; see its docstring. `nuts` has one more, `backend`: `nutpie`, which calls the
        native engine without Python (the default with that engine; its settings are those of
        `kinbayes.samplers.nutpie.start_chain`), or `numpyro`, which runs on either engine.
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
    pairs = _settings(problem, sampler, settings or {})
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
        lengths = {"num_warmup": warmup, "num_draws": draws, "seed": seed}
        run = _runner(problem, sampler, dict(pairs))(initial=start, on_chunk=display and display.update, **lengths)
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


def _settings(problem: Problem, sampler: str, given: Mapping[str, object]) -> Settings:
    """Return all settings, defaults included; for `nuts` the first is the backend that runs it."""
    if sampler != "nuts":
        return checked_settings(sampler, SAMPLERS[sampler], given, fixed=_FIXED)
    own = dict(given)
    is_native = problem.engine == "native"
    backend = own.pop("backend", "nutpie" if is_native else "numpyro")
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r} of 'nuts'; choose from {list(BACKENDS)}")
    if backend == "nutpie" and not is_native:
        raise ValueError(f"nutpie calls the native engine, and this problem's is {problem.engine!r}: use 'numpyro'")
    factory = start_chain if backend == "nutpie" else SAMPLERS[sampler]
    return (("backend", backend), *checked_settings(sampler, factory, own, fixed=_FIXED))


def _runner(problem: Problem, sampler: str, settings: dict[str, object]) -> Callable[..., SamplerRun]:
    """Return the function that runs a sampler, once it is told where to start and how long to run."""
    backend = settings.pop("backend", None)
    pairs = tuple(settings.items())
    if backend != "nutpie":
        return partial(run_sampler, target(problem), SAMPLERS[sampler], pairs)
    from kinbayes.problem.native_posterior import native_posterior  # numba, which takes a while to load
    from kinbayes.run.background import run_chains

    return partial(run_chains, native_posterior(problem.estimated, problem.gradient_numbers), pairs)


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
