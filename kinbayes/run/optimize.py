"""Finding the mode of a posterior: designs, the run, and its result."""

import os
import time
from collections.abc import Mapping
from contextlib import closing, nullcontext

import numpy as np

from kinbayes.optimizers import OPTIMIZERS
from kinbayes.problem.parameters import natural
from kinbayes.problem.problem import Problem
from kinbayes.results import store
from kinbayes.results.folder import append, finish
from kinbayes.results.load import load
from kinbayes.results.store import InferenceData
from kinbayes.run import record, saving
from kinbayes.run.budget import Clock, check_budgets, in_turn
from kinbayes.run.progress import ProgressDisplay
from kinbayes.run.runs import OptimizerRun
from kinbayes.run.search import search
from kinbayes.run.settings import checked_settings
from kinbayes.run.starts import drawn_starts


def optimize(
    problem: Problem,
    optimizer: str = "multistart",
    *,
    starts: int = 20,
    max_evaluations: int = 20_000,
    seed: int = 0,
    settings: Mapping[str, object] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    max_seconds: float | None = None,
    progress: bool = True,
) -> InferenceData:
    """Find the mode of a posterior: the vector u of highest density with respect to du.

    Parameters
    ----------
    problem
        The problem; its posterior may be improper.
    optimizer
        A name in `OPTIMIZERS`: `multistart`.
    starts
        Number of starts, drawn from the prior (uniformly within the bounds where there is none). Those that cannot be
        simulated are replaced.
    max_evaluations
        Simulations of the whole problem that may be spent.
    seed
        Seeds everything that is random.
    settings
        Settings of the optimizer, by name; see its docstring.
    checkpoint
        A folder to make, in which the search is kept while it goes on, and its result.
    resume
        Whether to continue the search of the checkpoint, and begin it if there is none. All else must be asked for as
        it was, but `max_evaluations` may be more. It ends where one that was never interrupted does, to the last bit.
    max_seconds
        Seconds after which to stop with what there is, starts not counted; None for no limit.
    progress
        Whether to show a progress bar.

    Returns
    -------
    InferenceData
        Groups `map_estimate` (one entry a start, best first), `optimization_history`, `observed_data`,
        `constant_data`; attributes hold how it was made.

    Raises
    ------
    ValueError
        If a name or a setting is unknown.
    StartError
        If no start can be simulated.
    CheckpointError
        If the checkpoint cannot be made, written or continued, or is one of another search.
    """
    began = time.perf_counter()
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {optimizer!r}; choose from {sorted(OPTIMIZERS)}")
    if starts < 1 or max_evaluations < 1:
        raise ValueError(f"starts is {starts} and max_evaluations {max_evaluations}; both must be at least 1")
    factory = OPTIMIZERS[optimizer]
    pairs = checked_settings(optimizer, factory, settings or {}, fixed=("bounds",))
    store.check_names(problem.parameter_names, [o.name for o in problem.observables])
    check_budgets(max_seconds=max_seconds)
    asked = {"optimizer": optimizer, "settings": dict(pairs), "starts": starts, "seed": seed}
    saved = saving.opened(checkpoint, resume=resume, kind="optimize", problem=problem, asked=asked)
    with nullcontext() if saved is None else closing(saved):
        if saved is not None and saved.is_begun:
            if saved.has_result and saved.optimizer_run().stopped == "finished":
                return load(saved.path)
            first, said = saved.optimizer_run(), saved.plan["said"]
        else:
            first, said = drawn_starts(problem, starts, np.random.default_rng(seed))
            if saved is not None:
                saved.prepare({"said": said, "num_points": len(first)}, {}, 8 * (problem.dim + 4) * starts)
        with ProgressDisplay() if progress else nullcontext() as display:
            run = search(
                problem,
                factory,
                pairs,
                initial=first,
                max_evaluations=max_evaluations,
                seed=seed,
                trace=saved,
                on_chunk=in_turn([display and display.update, saved and saved.update, Clock(max_seconds).reason]),
            )
        about = record.attributes(
            problem,
            algorithm=optimizer,
            settings=dict(pairs),
            seed=seed,
            wall_time=time.perf_counter() - began,
            simulations=run.evaluations * problem.num_lanes,
        )
        idata = _result(problem, run, about | said)
        if saved is None:
            return idata
        saved.commit(run)
        with saved.writing_result() as folder:
            for name in idata.groups():
                append(folder, name, idata[name])
            finish(folder, idata.attrs)
        return load(saved.path)


def _result(problem: Problem, run: OptimizerRun, attrs: Mapping[str, object]) -> InferenceData:
    # The losses came with gradients, in whose steps the errors of the sensitivities have a say: they differ a little.
    found = problem.evaluate(run.position)
    order = np.argsort(-(found.log_likelihood + found.log_prior), kind="stable")
    log_likelihood, log_prior = found.log_likelihood[order], found.log_prior[order]
    return store.map_data(
        record.parameter_table(problem),
        record.measurement_table(problem),
        estimates=natural(run.position[order], problem.scale),
        log_density=log_likelihood + log_prior,
        log_likelihood=log_likelihood,
        log_prior=log_prior,
        converged=run.converged[order],
        history={"log_density": -run.history},
        attrs=dict(attrs) | {"stopped": run.stopped, "converged": bool(run.converged[order[0]])},
    )
