"""The archive that a proposal is learned from: one that there is, or one that searches and chains fill."""

import os
import tempfile
from contextlib import nullcontext
from pathlib import Path

from kinbayes.amortized.archive import Rows, read_archive
from kinbayes.problem.problem import Problem
from kinbayes.run.optimize import optimize
from kinbayes.run.sample import sample

# Of the evaluations for an archive: a population, local searches, and chains that start at the optima. Searches alone
# leave hardly a point in the bulk of the posterior: of 26,000 evaluations of models/lynx_hare 157 were within 12 of the
# least loss.
SHARE_OF_POPULATION, SHARE_OF_SEARCHES = 0.2, 0.2
PER_SEARCH = 25  # evaluations, by which the number of starts is found
ARCHIVE_CHAINS = 8


def archived(
    problem: Problem, archive: str | os.PathLike[str] | None, max_evaluations: int, *, seed: int, progress: bool
) -> Rows:
    """Return the rows of an archive; of a new one, if there is none yet."""
    with tempfile.TemporaryDirectory() if archive is None else nullcontext(archive) as folder:
        path = Path(folder) / "archive.zarr" if archive is None else Path(folder)
        if not path.exists():
            _fill(problem, path, max_evaluations, seed=seed, progress=progress)
        with read_archive(path) as opened:
            if opened.problem_hash != problem.hash:
                raise ValueError(
                    f"{path} has points of another problem: {opened.problem_name!r}, whose hash is "
                    f"{opened.problem_hash[:12]}, not {problem.name!r} with {problem.hash[:12]}; give that problem, or "
                    "another folder"
                )
            return opened.read()


def _fill(problem: Problem, path: Path, max_evaluations: int, *, seed: int, progress: bool) -> None:
    """Make an archive by a population, by local searches and, if the posterior may be sampled, by chains."""
    common = {"seed": seed, "archive": path, "progress": progress}
    shares = SHARE_OF_POPULATION, SHARE_OF_SEARCHES
    for_population, for_searches = (int(share * max_evaluations) for share in shares)
    optimize(problem, "scatter_search", max_evaluations=for_population, **common)
    starts = max(for_searches // PER_SEARCH, 1)
    mode = optimize(problem, "multistart", starts=starts, max_evaluations=for_searches, **common)
    if not (problem.is_likelihood and problem.is_proper):
        return
    with read_archive(path) as opened:
        left = max_evaluations - len(opened)
    steps = left // ARCHIVE_CHAINS
    lengths = {"warmup": steps // 4, "draws": steps - steps // 4, "chains": ARCHIVE_CHAINS, "thin": 1}
    sample(problem, "dream", initial=mode, **lengths, **common)
