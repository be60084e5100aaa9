"""Sampling a posterior: starts, the run, and its result."""

import time
from collections.abc import Mapping
from contextlib import nullcontext

import numpy as np
from jaxtyping import Float

from kinbayes.ode.status import Status
from kinbayes.problem.parameters import ParameterError, natural
from kinbayes.problem.problem import Problem
from kinbayes.results import store
from kinbayes.results.attributes import encode
from kinbayes.results.evidence import log_evidence
from kinbayes.results.store import InferenceData
from kinbayes.results.verdict import cautions, converged
from kinbayes.run import record
from kinbayes.run.choice import automatic, chosen
from kinbayes.run.driver import SamplerRun
from kinbayes.run.posterior_check import failed_near_bulk, solver_check
from kinbayes.run.progress import ProgressDisplay
from kinbayes.run.starts import chain_starts


def sample(
    problem: Problem,
    sampler: str = "nuts",
    *,
    draws: int = 1000,
    warmup: int = 1000,
    chains: int = 4,
    thin: int | None = None,
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
        A name in `SAMPLERS`; or `auto`: `parallel_tempering` where a search for starts has found several optima that
        matter, else `dream` for up to 25 parameters, else `nuts`.
    draws, warmup
        Kept and discarded iterations of every chain; tuning ends with the warmup.
    chains
        Number of chains.
    thin
        Number of steps of an iteration, of warmup and of draws; the last one gives its draw. By default 1 for `nuts`
        and for tempering with it inside, 1 for every parameter for other `parallel_tempering`, and 5 for every
        parameter for the others, whose steps are cheap and small.
    seed
        Seeds everything that is random.
    initial
        Where chains start: `prior` (draws of the prior), `nominal`, `multistart` (searches from the nominal point and
        from prior draws, then around all optima that matter), the result of `optimize` (around its optima that matter)
        or of `sample` (its last draws), or scaled vectors (chains, dim). The attribute `initial` of the result says it.
    settings
        Settings of the sampler, by name; see its docstring. `nuts` has one more, `backend`: `nutpie`, which calls the
        native engine without Python (the default with that engine; its settings are those of
        `kinbayes.samplers.nutpie.start_chain`), or `numpyro`, which runs on either engine. For `parallel_tempering`
        `inner` is a name in `SAMPLERS`, and `inner_settings` maps names to values.
    progress
        Whether to show a progress bar.

    Returns
    -------
    InferenceData
        Groups `posterior` (natural units), `sample_stats`, `log_likelihood`, `posterior_predictive`, `prior`,
        `prior_predictive`, `observed_data`, `constant_data`. Attributes hold how it was made, `converged` with
        `not_converged_because`, `cautions` of what else should be known, and for `parallel_tempering` the
        `log_evidence` with its standard error.

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
    improper = [p.name for p in problem.estimated if not p.is_proper]
    if improper:
        raise ParameterError(
            f"the prior of {improper} is improper (no prior, and open bounds), so the posterior may be too; "
            "give them a prior or finite bounds to sample, or optimize instead"
        )
    for name, value, least in (("draws", draws, 1), ("warmup", warmup, 0), ("chains", chains, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    if sampler == "auto" and settings:
        raise ValueError(f"settings {sorted(settings)} belong to one sampler, and 'auto' may choose another; name it")
    # What can be refused is refused before a search for starts.
    choice = None if sampler == "auto" else chosen(problem, sampler, settings or {}, thin)
    store.check_names(problem.parameter_names, [o.name for o in problem.observables])
    rng = np.random.default_rng(seed)
    start, said = chain_starts(problem, initial, chains, rng)
    if choice is None:
        name, said["chosen_because"] = automatic(problem.dim, said.get("optima", 0))
        choice = chosen(problem, name, {}, thin)
    with ProgressDisplay() if progress else nullcontext() as display:
        lengths = {"num_warmup": warmup, "num_draws": draws, "seed": seed}
        run = choice.run(initial=start, on_chunk=display and display.update, **lengths)
    if run.position.shape[1] == 0:
        raise RuntimeError(f"the run was {run.stopped} in its warmup, so there are no draws to keep")
    points = run.position.reshape(-1, problem.dim)
    idata = _result(problem, run, rng)
    attrs = record.attributes(
        problem,
        algorithm=choice.name,
        settings=choice.settings,
        seed=seed,
        wall_time=time.perf_counter() - began,
        simulations=run.num_steps * problem.num_lanes,
    )
    attrs |= said | {
        "warmup": warmup,
        "thin": choice.thin,
        "seconds_warmup": run.seconds_warmup,
        "seconds_draws": run.seconds_draws,
        "stopped": run.stopped,
        "solver_check": solver_check(problem, points),
        "failed_near_bulk": failed_near_bulk(problem, points, rng),
    }
    if choice.name == "parallel_tempering":
        attrs |= _evidence(idata)
    idata.attrs.update(encode(attrs))
    is_converged, reasons = converged(idata)
    if run.stopped != "completed":
        is_converged, reasons = False, [f"the run was {run.stopped}.", *reasons]
    verdict = {"converged": is_converged, "not_converged_because": reasons, "cautions": cautions(idata)}
    idata.attrs.update(encode(verdict))
    return idata


def _evidence(idata: InferenceData) -> dict[str, object]:
    """Return the evidence as a result tells it; why there is none where the run cannot tell."""
    try:
        found = log_evidence(idata)
    except ValueError as error:
        return {"no_evidence_because": str(error)}
    return {"log_evidence": found.value, "log_evidence_error": found.error}


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
