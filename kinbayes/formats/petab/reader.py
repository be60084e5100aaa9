"""PEtab problems of either version."""

import functools
import os
from pathlib import Path

from kinbayes.formats.petab import v1, v2
from kinbayes.formats.petab.files import read_yaml, required
from kinbayes.formats.petab.table import UnsupportedPEtabError
from kinbayes.problem.problem import Problem

_READERS = {"1": v1.problem_of, "2": v2.problem_of}


def read_petab(
    path: str | Path,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    engine: str = "native",
    max_steps: int = 10_000,
) -> Problem:
    """Read a problem in PEtab.

    Parameters
    ----------
    path
        The YAML file, or a folder in which it is the only one. Every file that it names lies in its folder or below.
    rtol, atol, engine, max_steps
        Settings of the simulation, see `Problem`.

    Returns
    -------
    Problem
        The problem. A parameter without a prior in its table has no stated prior: it is uniform on its scale between
        its bounds. With a prior, an empty bound is open. A model parameter that is in no table keeps the value that the
        model gives it. Initialization priors, names, and columns that PEtab does not define are ignored, but for
        `censoring` in the measurements, which is ours: see `Problem`.

        The scale `log` of version 1 is `ln` here. Version 2 has no scales: parameters with a log-uniform, log-normal or
        log-Laplace prior move on `log10`, all others on `lin`. What comes before the start of an experiment there is an
        experiment of its own here, with the name of the other and `_preequilibration`.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    PEtabError
        If a table contradicts itself, another table, or the model.
    UnsupportedPEtabError
        If the problem uses several models or extensions.
    SBMLError
        If the model cannot be read.
    """
    path = _problem_file(Path(path))
    content = read_yaml(path)
    version = str(required(path, content, "format_version"))
    reader = _READERS.get(version.split(".")[0])
    if reader is None:
        raise UnsupportedPEtabError(f"{path}: format_version {version} is not supported, only {', '.join(_READERS)}")
    make = functools.partial(Problem, rtol=rtol, atol=atol, engine=engine, max_steps=max_steps)
    return reader(path, content, make)


def _problem_file(path: Path) -> Path:
    """Return the file of a problem that is named by its folder."""
    if not os.path.isdir(path):  # False of names that no system takes
        return path
    found = sorted(entry.name for entry in path.iterdir() if entry.suffix in (".yaml", ".yml"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{path} is a folder with {len(found)} YAML files{f' ({found})' if found else ''}; name the problem's own"
        )
    return path / found[0]
