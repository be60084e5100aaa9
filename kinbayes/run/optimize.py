"""Finding the mode of a posterior: starts, the search, its refinement, and the result."""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext

import numpy as np

from kinbayes.amortized.archive import open_archive
from kinbayes.amortized.proposal import LearnedProposal
from kinbayes.optimizers import OPTIMIZERS
from kinbayes.optimizers.base import Bounds
from kinbayes.problem.problem import Problem
from kinbayes.results import store
from kinbayes.results.folder import append, finish
from kinbayes.results.load import load
from kinbayes.results.store import InferenceData
from kinbayes.run import record, saving
from kinbayes.run.budget import Clock, check_budgets, in_turn
from kinbayes.run.loop.runs import OptimizerRun
from kinbayes.run.loop.search import LOSSES, search
from kinbayes.run.map_result import map_result
from kinbayes.run.progress import ProgressDisplay
from kinbayes.run.recording import CANDIDATES, REFINEMENT, Recorder
from kinbayes.run.refine import REFINERS, SHARE, refined
from kinbayes.run.settings import checked_settings
from kinbayes.run.starts.search_starts import search_starts
from kinbayes.run.study import Study

STARTS = {"multistart": 50, "quasi_newton": 50}  # of local searches with gradients; of all others one


def optimize(
    problem: Problem,
    optimizer: str = "multistart",
    *,
    starts: int | None = None,
    max_evaluations: int = 20_000,
    refine: str | None = None,
    loss: str = "posterior",
    initial: str | InferenceData | np.ndarray = "latin_hypercube",
    proposal: LearnedProposal | None = None,
    target_loss: float | None = None,
    seed: int = 0,
    settings: Mapping[str, object] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    archive: str | os.PathLike[str] | None = None,
    max_seconds: float | None = None,
    progress: bool = True,
) -> InferenceData:
    """Find the mode of a posterior: the vector u of highest density with respect to du.

    Parameters
    ----------
    problem
        The problem; its posterior may be improper, and its objective functions need be no likelihoods.
    optimizer
        A name in `OPTIMIZERS`. Local searches with gradients: `multistart` (damped Gauss-Newton steps), `quasi_newton`.
        Populations without: `differential_evolution`, `scatter_search`, `particle_swarm`, `simulated_annealing`.
        `simplex`: a local search without gradients. `bayesian`, `genetic`: few, expensive evaluations, by Optuna.
    starts
        Number of independent starts, run side by side; by default 50 of a local search with gradients, else 1.
    max_evaluations
        Simulations of the whole problem that may be spent.
    refine
        A local search with which to end, from the best points of all starts: `multistart`, `quasi_newton` or `simplex`.
        Half of the evaluations and of the seconds is kept for it. The best of these searches go on with tolerances a
        thousand times tighter.
    loss
        What is minimised: `posterior`, the negative log density with respect to du, or `petab`, the objective of PEtab
        tools, which leaves out what the priors' scales and bounds do.
    initial
        Where to begin. A design, in which parameters are spread between their bounds, and those with open ones drawn
        from their priors: `latin_hypercube`, `sobol`, `multi_jittered`, `random`; `prior`, draws of it; `nominal`, the
        nominal point and a Latin hypercube; `generative`, points of a learned `proposal`; a result of `optimize`; or
        scaled vectors (starts, dim). Starts that are one point are replaced where they cannot be simulated.
    proposal
        What generates, for `initial="generative"`.
    target_loss
        Loss at which to stop; None for none.
    seed
        Seeds everything that is random.
    settings
        Settings of the optimizer, by name; see its docstring.
    checkpoint
        A folder to make, in which the search is kept while it goes on, and its result; of `bayesian` and `genetic`
        also study.log, which Optuna's dashboard opens. A refinement is not kept: it begins anew.
    resume
        Whether to continue the search of the checkpoint, and begin it if there is none. All else must be asked for as
        it was, but `max_evaluations` may be more. It ends where one that was never interrupted does, to the last bit.
    archive
        A folder, made if there is none, to which all candidates are appended, failures and those of the refinement
        included, to train networks on: `kinbayes.read_archive` reads it. Their densities are those
        that the search saw, also of the loss `petab`; in a refinement they have its tolerances. Not kept is the search
        for starts that can be simulated. Failures are simulated twice, for their status. A search that is continued
        appends what it evaluates anew.
    max_seconds
        Seconds after which to stop with what there is, starts not counted; None for no limit.
    progress
        Whether to show a progress bar.

    Returns
    -------
    InferenceData
        Groups `map_estimate` (one entry a start, and a point that was refined; best first), `optimization_history`,
        `curvature` at the best point, `observed_data`, `constant_data`; attributes hold how it was made.

    Raises
    ------
    ValueError
        If a name or a setting is unknown.
    StartError
        If no start can be simulated.
    CheckpointError
        If the checkpoint cannot be made, written or continued, or is one of another search.
    ArchiveError
        If the archive cannot be made or written, is one of another problem, or another run is writing it.
    """
    began = time.perf_counter()
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {optimizer!r}; choose from {sorted(OPTIMIZERS)}")
    if refine is not None and refine not in REFINERS:
        raise ValueError(f"unknown refine {refine!r}; choose from {sorted(REFINERS)}, or None")
    if loss not in LOSSES:
        raise ValueError(f"unknown loss {loss!r}; choose from {list(LOSSES)}")
    starts = STARTS.get(optimizer, 1) if starts is None else starts
    if starts < 1 or max_evaluations < 1:
        raise ValueError(f"starts is {starts} and max_evaluations {max_evaluations}; both must be at least 1")
    factory = OPTIMIZERS[optimizer]
    pairs = checked_settings(optimizer, factory, settings or {}, fixed=("bounds",))
    bound = factory(Bounds(problem.lower, problem.upper), **dict(pairs))
    share = 1.0 if refine is None else 1.0 - SHARE
    first_round, allowed = starts * bound.num_points, int(share * max_evaluations)
    if first_round > allowed:
        raise ValueError(
            f"max_evaluations is {max_evaluations}, of which {optimizer!r} has {allowed}, but its first round takes "
            f"{first_round}, {bound.num_points} of each start; give more evaluations, or fewer starts"
        )
    store.check_names(problem.parameter_names, [o.name for o in problem.observables])
    check_budgets(max_seconds=max_seconds)
    asked = {
        "optimizer": optimizer,
        "settings": dict(pairs),
        "starts": starts,
        "refine": refine,
        "loss": loss,
        "target_loss": target_loss,
        "seed": seed,
    }
    saved = saving.opened(checkpoint, resume=resume, kind="optimize", problem=problem, asked=asked)
    with (
        nullcontext() if saved is None else closing(saved),
        nullcontext() if archive is None else open_archive(archive, problem) as kept,
    ):
        if saved is not None and saved.is_begun:
            if saved.has_result and saved.optimizer_run().stopped in ("finished", "target_loss"):
                return load(saved.path)
            first, said = saved.optimizer_run(), saved.plan["said"]
        else:
            first, said = search_starts(problem, initial, starts, bound.num_points, seed, proposal)
            if saved is not None:
                saved.prepare({"said": said}, {}, 8 * (problem.dim + 6) * (starts + 45))
        study = None
        if saved is not None and not bound.is_traceable:
            walls = np.asarray(problem.lower), np.asarray(problem.upper)
            study = Study(saved.path / "study.log", problem.name, problem.parameter_names, *walls)
        aim = -np.inf if target_loss is None else target_loss

        def recording(name: str, given: Mapping[str, object], words: str, iterations: int = 0) -> Callable | None:
            """Return what appends to the archive, if there is one, as a run of its own."""
            if kept is None:
                return None
            own = kept.begin_run(kind="optimize", algorithm=name, settings=given, seed=seed, kept=words)
            return Recorder(kept, problem, own, loss=loss, iterations=iterations).update

        with ProgressDisplay() if progress else nullcontext() as display:
            clock, own = Clock(max_seconds), Clock(None if max_seconds is None else share * max_seconds)
            shown, is_kept = display and display.update, kept is not None
            done = len(first.history) if isinstance(first, OptimizerRun) else 0
            recorded = recording(optimizer, dict(pairs), CANDIDATES, done)
            run = search(
                problem,
                factory,
                pairs,
                loss=loss,
                initial=first,
                max_evaluations=allowed,
                seed=seed,
                target_loss=aim,
                trace=saved,
                keeps_evaluated=is_kept,
                on_chunk=in_turn([shown, recorded, saved and saved.update, study and study.update, own.reason]),
            )
            if saved is not None:
                saved.commit(run)
            heats: tuple[OptimizerRun, ...] = ()
            if refine is not None and run.stopped not in ("interrupted", "target_loss"):
                left = max_evaluations - run.evaluations
                hooks = in_turn([shown, recording(refine, {}, REFINEMENT), clock.reason])
                settled = {"seed": seed, "target_loss": aim, "keeps_evaluated": is_kept}
                heats = refined(problem, run, refine, loss, left, on_chunk=hooks, **settled)
        evaluations = run.evaluations + sum(heat.evaluations for heat in heats)
        about = record.attributes(
            problem,
            algorithm=optimizer,
            settings=dict(pairs),
            seed=seed,
            wall_time=time.perf_counter() - began,
            simulations=evaluations * problem.num_lanes,
        )
        about |= {"refine": refine or "", "loss": loss, "starts": starts, "evaluations": evaluations}
        idata = map_result(problem, run, heats, about | said)
        if saved is None:
            return idata
        with saved.writing_result() as folder:
            for name in idata.groups():
                append(folder, name, idata[name])
            finish(folder, idata.attrs)
        return load(saved.path)
