"""Sampling a posterior: starts, the run, and its result."""

import os
import time
from collections.abc import Mapping
from contextlib import closing, nullcontext

import numpy as np
from jaxtyping import Float

from kinbayes.amortized.archive import open_archive
from kinbayes.problem.parameters import ParameterError
from kinbayes.problem.problem import Problem
from kinbayes.results import store
from kinbayes.results.attributes import encode
from kinbayes.results.evidence import log_evidence
from kinbayes.results.folder import finish
from kinbayes.results.load import load
from kinbayes.results.store import InferenceData
from kinbayes.results.verdict import cautions, converged
from kinbayes.run import ladder, record, saving
from kinbayes.run.budget import SamplerBudget, check_budgets, in_turn
from kinbayes.run.choice import Choice, automatic, chosen
from kinbayes.run.loop.runs import SamplerRun
from kinbayes.run.posterior_check import failed_near_bulk, solver_check
from kinbayes.run.posterior_result import draws_alone, posterior_result
from kinbayes.run.progress import ProgressDisplay
from kinbayes.run.recording import DRAWS, PROPOSALS, Recorder
from kinbayes.run.saving import Saving
from kinbayes.run.starts.chain_starts import chain_starts
from kinbayes.run.starts.generated import generated_starts

MOST_CHECKED = 10_000  # draws, of which some are simulated again


def sample(
    problem: Problem,
    sampler: str = "nuts",
    *,
    draws: int = 1000,
    warmup: int = 1000,
    chains: int = 4,
    thin: int | None = None,
    seed: int = 0,
    initial: str | InferenceData | Float[np.ndarray, "chains dim"] | None = None,
    settings: Mapping[str, object] | None = None,
    proposal: ladder.ProposalSource | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    keep_warmup: bool = False,
    archive: str | os.PathLike[str] | None = None,
    max_seconds: float | None = None,
    max_simulations: int | None = None,
    target_ess: float | None = None,
    progress: bool = True,
) -> InferenceData:
    """Sample the posterior of a problem.

    Parameters
    ----------
    problem
        The problem; its posterior must be proper.
    sampler
        A name in `SAMPLERS`, of which `amortized` needs a `proposal`; or `auto`: `parallel_tempering` where a search
        for starts has found several optima that matter, else `dream` for up to 25 parameters, else `nuts`.
    draws, warmup
        Kept and discarded iterations of every chain; tuning ends with the warmup.
    chains
        Number of chains.
    thin
        Number of steps of an iteration, of warmup and of draws; the last one gives its draw. By default 1 for `nuts`
        and for tempering with it inside, 1 for every parameter for other `parallel_tempering`, 4 for `amortized`, and 5
        for every parameter for the others, whose steps are cheap and small.
    seed
        Seeds everything that is random.
    initial
        Where chains start: `prior` (draws of the prior, the default but for `amortized`, whose chains start at draws of
        the proposal, by weight), `nominal`, `multistart` (searches from the nominal point and from prior draws, then
        around all optima that matter), `generative` (points of the proposal's network), the result of `optimize`
        (around its optima that matter) or of `sample` (its last draws), or scaled vectors (chains, dim). The attribute
        `initial` of the result says it.
    settings
        Settings of the sampler, by name; see its docstring. `nuts` has one more, `backend`: `nutpie`, which calls the
        native engine without Python (the default with that engine; its settings are those of
        `kinbayes.samplers.nutpie.start_chain`), or `numpyro`, which runs on either engine. For `parallel_tempering`
        `inner` is a name in `SAMPLERS`, and `inner_settings` maps names to values. So are `local` and `local_settings`
        of `amortized`, which has two more: `rung` (`importance`, `i-SIR` or `local`, instead of what the weights of the
        proposal's draws say) and `num_pilot`, the size of their batches.
    proposal
        For `amortized` and `initial="generative"`: a learned proposal, of this problem or of another with the same
        parameters, such as other data.
        Draws are exact whatever it is worth. It is used as far as the importance weights of some thousand draws allow
        (`kinbayes.run.ladder`): the draws themselves, resampled by weight (no warmup, and no budget but
        `max_simulations`); or as candidates of chains that move locally as well; or as their starts. The attributes
        `rung` and `rung_because` of the result say which and why; these draws are counted in its `simulations`, and
        give the `log_evidence` where the weights allow.
    checkpoint
        A folder to make, in which the run is kept while it goes on, a commit every few seconds: whatever ends it, it
        can be continued, and `kinbayes.load` reads the draws so far. The draws are then on the disk, not in memory, and
        so is the result, whose arrays are read when they are asked for.
    resume
        Whether to continue the run of the checkpoint, and begin it if there is none. All else must be asked for as it
        was, but `draws` may be more. The draws are bit for bit those of a run that was never interrupted, on the same
        devices and versions of all libraries. Chains of nutpie cannot be continued; those of the backend `numpyro` can.
    keep_warmup
        Whether to keep what warmup draws, as `warmup_posterior` and `warmup_sample_stats`.
    archive
        A folder, made if there is none, to which points that the run evaluates are appended, warmup and failures
        included, to train networks on: `kinbayes.read_archive` reads it. Kept are the proposals of an
        iteration's last step between the walls (of every step if `thin` is 1), of tempering those of all rungs; of NUTS
        the draws, since its trajectories are not told. Not kept are other steps, the points of trajectories, the starts
        and the search for them. No draw depends on it. Failures are simulated twice, for their status. A run that is
        continued appends what it evaluates anew.
    max_seconds, max_simulations, target_ess
        Stop, with the draws there are, when the run has taken so long, has taken so many simulations, or all parameters
        have so large a bulk and tail effective sample size, and an R-hat of at most 1.01. They are looked at about once
        a second. The seconds are those of this call, the simulations those of the whole run, both without starts.
    progress
        Whether to show a progress bar.

    Returns
    -------
    InferenceData
        Groups `posterior` (natural units), `sample_stats`, `log_likelihood`, `posterior_predictive`, `prior`,
        `prior_predictive`, `observed_data`, `constant_data`. Attributes hold how it was made, `converged` with
        `not_converged_because`, `cautions` of what else should be known, and for `parallel_tempering` the
        `log_evidence` with its standard error. After Ctrl-C it holds what there is, and says so.

    Raises
    ------
    ParameterError
        If the posterior is improper.
    StartError
        If no start has a density.
    ValueError
        If a name or a setting is unknown, or the problem has no likelihood.
    CheckpointError
        If the checkpoint cannot be made, written or continued, or is one of another run.
    ArchiveError
        If the archive cannot be made or written, is one of another problem, or another run is writing it.
    RuntimeError
        If the run was stopped before its first draw.
    """
    began = time.perf_counter()
    improper = [p.name for p in problem.estimated if not p.is_proper]
    if improper:
        raise ParameterError(
            f"the prior of {improper} is improper (no prior, and open bounds), so the posterior may be too; "
            "give them a prior or finite bounds to sample, or optimize instead"
        )
    if not problem.is_likelihood:
        raise ValueError(problem.no_likelihood_because)
    for name, value, least in (("draws", draws, 1), ("warmup", warmup, 0), ("chains", chains, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    is_generated = isinstance(initial, str) and initial == "generative" and sampler != "amortized"
    source, proposal = proposal, None if is_generated else proposal
    if sampler == "auto" and proposal is not None:
        raise ValueError("'auto' has no use for a proposal; choose 'amortized', or leave the proposal out")
    if sampler == "auto" and settings:
        raise ValueError(f"settings {sorted(settings)} belong to one sampler, and 'auto' may choose another; name it")
    # What can be refused is refused before a search for starts.
    choice = None if sampler == "auto" else chosen(problem, sampler, settings or {}, thin, proposal)
    check_budgets(max_seconds=max_seconds, max_simulations=max_simulations, target_ess=target_ess)
    store.check_names(problem.parameter_names, [o.name for o in problem.observables])
    asked = {
        "sampler": sampler,
        "settings": {} if choice is None else choice.settings,
        "warmup": warmup,
        "chains": chains,
        "thin": thin if choice is None else choice.thin,
        "seed": seed,
        "keep_warmup": keep_warmup,
    }
    if proposal is not None:
        asked["proposal"] = proposal.hash
    saved = saving.opened(checkpoint, resume=resume, kind="sample", problem=problem, asked=asked)
    with (
        nullcontext() if saved is None else closing(saved),
        nullcontext() if archive is None else open_archive(archive, problem) as kept,
    ):
        lengths = {"num_warmup": warmup, "num_draws": draws, "seed": seed, "keep_warmup": keep_warmup, "trace": saved}
        lengths["keeps_evaluated"] = kept is not None
        if saved is not None and saved.is_begun:
            start, said = saved.sampler_run(draws), saved.plan["said"]
            if saved.has_result and start.position.shape[1] == draws:
                return load(saved.path)
            choice = choice or chosen(problem, saved.plan["sampler"], {}, thin)
            if proposal is not None:
                choice = chosen(problem, sampler, settings or {}, thin, proposal, said["rung"])
        elif proposal is not None:
            size = {"chains": chains, "draws": draws, "seed": seed, "max_simulations": max_simulations}
            climbed = ladder.climb(problem, proposal, choice.settings, thin=choice.thin, **size)
            choice = chosen(problem, sampler, settings or {}, thin, proposal, climbed.rung)
            start, said = ladder.begun(problem, proposal, climbed, initial, chains, np.random.default_rng(seed))
            if saved is not None:
                _prepare(saved, problem, choice, asked | {"draws": draws}, said)
        else:
            start, said = (
                generated_starts(problem, source, chains, seed)
                if is_generated
                else chain_starts(problem, "prior" if initial is None else initial, chains, np.random.default_rng(seed))
            )
            if choice is None:
                name, said["chosen_because"] = automatic(problem.dim, said.get("optima", 0))
                choice = chosen(problem, name, {}, thin)
            if saved is not None:
                _prepare(saved, problem, choice, asked | {"draws": draws}, said)
        is_all = isinstance(start, SamplerRun) and start.state is None
        recorder = None
        if kept is not None and not is_all:
            words = DRAWS if choice.name == "nuts" else PROPOSALS
            own = kept.begin_run(kind="sample", algorithm=choice.name, settings=choice.settings, seed=seed, kept=words)
            done = start.iterations if isinstance(start, SamplerRun) else 0
            recorder = Recorder(kept, problem, own, iterations=done)
        budget = SamplerBudget(problem.num_lanes, max_seconds, max_simulations, target_ess)  # its clock begins here
        with ProgressDisplay() if progress else nullcontext() as display:
            hooks = [display and display.update, recorder and recorder.update, saved and saved.update, budget.reason]
            run = (
                start._replace(stopped="completed")
                if is_all
                else choice.run(initial=start, on_chunk=in_turn(hooks), **lengths)
            )
        if saved is not None:
            saved.commit(run)
        if run.position.shape[1] == 0:
            where = "" if saved is None else f"; go on with it by resume=True: it is kept in {saved.path}"
            raise RuntimeError(f"the run was stopped in its warmup ({run.stopped}), so there are no draws yet{where}")
        return _result(problem, run, choice, said | {"warmup": warmup, "seed": seed}, saved, began)


def _prepare(
    saved: Saving, problem: Problem, choice: Choice, asked: Mapping[str, object], said: Mapping[str, object]
) -> None:
    """Tell a new checkpoint what the run is, so that it can be read without the problem."""
    measured = store.measurement_groups(record.measurement_table(problem))
    attrs = record.attributes(
        problem, algorithm=choice.name, settings=choice.settings, seed=asked["seed"], wall_time=None, simulations=None
    )
    told = {
        "said": said,
        "sampler": choice.name,
        "parameters": record.parameter_table(problem)._asdict(),
        "attributes": encode(attrs | said | {"warmup": asked["warmup"], "thin": choice.thin}),
    }
    values = problem.dim + 2 * len(problem.measurements) + 8
    saved.prepare(told, measured, 8 * values * asked["draws"] * asked["chains"])


def _result(
    problem: Problem,
    run: SamplerRun,
    choice: Choice,
    said: Mapping[str, object],
    saved: Saving | None,
    began: float,
) -> InferenceData:
    """Return the result of a run that began at some time; after Ctrl-C without what takes simulations."""
    seed = said["seed"]
    said = said | {
        "thin": choice.thin,
        "seconds_warmup": run.seconds_warmup,
        "seconds_draws": run.seconds_draws,
        "stopped": run.stopped,
    }

    def about() -> dict[str, object]:
        return said | record.attributes(
            problem,
            algorithm=choice.name,
            settings=choice.settings,
            seed=seed,
            wall_time=time.perf_counter() - began,
            simulations=run.num_steps * problem.num_lanes + said.get("simulations_of_weights", 0),
        )

    try:
        with nullcontext() if saved is None else saved.writing_result() as folder:
            rng = np.random.default_rng([seed, 1])  # other numbers than those of the starts
            idata = posterior_result(problem, run, rng, folder)
            points = _some(run)
            attrs = {
                "solver_check": solver_check(problem, points),
                "failed_near_bulk": failed_near_bulk(problem, points, rng),
            } | about()
            if choice.name == "parallel_tempering":
                attrs |= _evidence(idata)
            _judge(idata, attrs, [f"the run was {run.stopped}."] if run.stopped == "interrupted" else [])
            if folder is not None:
                finish(folder, idata.attrs)
    except KeyboardInterrupt:
        idata = draws_alone(problem, run)
        _judge(
            idata,
            about(),
            ["the run was interrupted while its result was made: all that takes simulations is missing."],
        )
        return idata
    return idata if saved is None else load(saved.path)


def _judge(idata: InferenceData, attrs: Mapping[str, object], against: list[str]) -> None:
    """Write the attributes of a result, and whether it may be trusted: not if there are reasons against it."""
    idata.attrs.update(store.root_attrs(attrs))
    is_converged, reasons = converged(idata)
    verdict = {
        "converged": is_converged and not against,
        "not_converged_because": [*against, *reasons],
        "cautions": cautions(idata),
    }
    idata.attrs.update(encode(verdict))


def _some(run: SamplerRun) -> Float[np.ndarray, "n dim"]:
    """Return draws of all chains, evenly spread; all of a run that is not long."""
    chains, draws, dim = run.position.shape
    return np.asarray(run.position[:, :: max(chains * draws // MOST_CHECKED, 1)]).reshape(-1, dim)


def _evidence(idata: InferenceData) -> dict[str, object]:
    """Return the evidence as a result tells it; why there is none where the run cannot tell."""
    try:
        found = log_evidence(idata)
    except ValueError as error:
        return {"no_evidence_because": str(error)}
    return {"log_evidence": found.value, "log_evidence_error": found.error}
