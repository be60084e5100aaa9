"""Going on with a run as it was asked for, which its checkpoint knows."""

import os
from collections.abc import Callable
from pathlib import Path

from kinbayes.problem.problem import Problem
from kinbayes.results.checkpoint import Checkpoint, CheckpointError
from kinbayes.results.store import InferenceData
from kinbayes.run.optimize import optimize
from kinbayes.run.sample import sample


def resume(
    path: str | os.PathLike[str],
    read_problem: Callable[..., Problem],
    *,
    length: int | None = None,
    archive: str | os.PathLike[str] | None = None,
    max_seconds: float | None = None,
    progress: bool = True,
) -> InferenceData:
    """Continue the run of a checkpoint, of `sample` or of `optimize`.

    Parameters
    ----------
    path
        The checkpoint.
    read_problem
        Returns the problem, given the keyword arguments `rtol`, `atol` and `engine` with which the run was begun.
    length
        Number of draws of every chain, or of evaluations, if they are to be more than was asked for.
    archive
        A folder to which evaluated points are appended, as in `sample` and `optimize`; None for none.
    max_seconds
        Seconds after which to stop again; None for no limit.
    progress
        Whether to show a progress bar.

    Returns
    -------
    The result, as that of `sample` or `optimize`.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or it cannot be continued.
    ArchiveError
        If the archive cannot be made or written, is one of another problem, or another run is writing it.
    """
    found = Checkpoint(Path(path), is_writable=False)
    plan, asked = found.plan, found.plan["asked"]
    if "proposal" in asked:
        raise CheckpointError(
            f"{path} draws from a learned proposal, {asked['proposal'][:12]}, which it does not hold: go on with it by "
            "kinbayes.sample, with that proposal and resume=True"
        )
    problem = read_problem(rtol=plan["rtol"], atol=plan["atol"], engine=plan["engine"])
    again = {"checkpoint": path, "resume": True, "archive": archive, "max_seconds": max_seconds, "progress": progress}
    if plan["kind"] == "optimize":
        return optimize(problem, max_evaluations=length or found.capacity, **asked, **again)
    kept = asked["warmup"] if asked["keep_warmup"] else 0
    return sample(problem, draws=length or found.capacity - kept, **asked, **again)
