"""Problems as PEtab, for the tools that read it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from kinbayes.formats.petab.export.names import names_of
from kinbayes.formats.petab.export.parts import parts_of
from kinbayes.formats.petab.export.tables import Tables, write_table
from kinbayes.formats.petab.export.v1 import tables_v1
from kinbayes.formats.petab.export.v2 import tables_v2
from kinbayes.formats.petab.formula import InexpressibleError
from kinbayes.formats.sbml.mathml import UnwritableError
from kinbayes.formats.sbml.writer import write_sbml
from kinbayes.problem.problem import Problem

_TABLES = {1: tables_v1, 2: tables_v2}
_HEADERS = {"conditions": ("conditionId", "targetId", "targetValue")}  # of tables that may be empty


def export_petab(problem: Problem, folder: str | Path, *, version: int | None = None) -> Path:
    """Write a problem as PEtab.

    Parameters
    ----------
    problem
        The problem.
    folder
        Where it is written. It must not exist yet, or be empty.
    version
        1 or 2; by default 1 where it can express the problem, since only there parameters have scales, else 2.

    Returns
    -------
    Path
        The YAML file, beside its SBML file and tables. States are parameters of the SBML model with rate rules. Some
        parts get other names: what is called by no id, observables called like something in the model, a parameter that
        is the start of a state `S` (`S_start`), and a parameter `k` that experiments set (`k_default`). Settings of the
        simulation have no place.

    Raises
    ------
    FileExistsError
        If the folder holds something.
    InexpressibleError
        If the version, or every one, has no way to say something; the message lists all of it.

    Notes
    -----
    Priors and noise are the same densities in either version. Version 2 has no scales: a parameter that is uniform on a
    logarithm becomes log-uniform, and what reads it decides on which scale it moves. The column `censoring` of
    measurements is not PEtab's own.
    """
    folder = Path(folder)
    if version is not None and version not in _TABLES:
        raise ValueError(f"unknown version {version!r} of PEtab; choose from {list(_TABLES)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists already and is not empty; choose another folder or remove it")
    parts = parts_of(problem)
    names = names_of(parts)
    refused: dict[int, list[str]] = {}
    for candidate in _TABLES if version is None else (version,):
        tables, refused[candidate] = _TABLES[candidate](parts, names)
        if not refused[candidate]:
            break
    else:
        texts = [f"version {v}: {reason}" for v, reasons in refused.items() for reason in reasons]
        raise InexpressibleError("\n".join(["PEtab cannot express this problem:", *texts]))
    try:
        model = write_sbml(names.model, ids=names.in_model, taken=names.taken)
    except UnwritableError as error:
        raise InexpressibleError(f"PEtab cannot express this problem: {error}") from error
    with _new_folder(folder) as unfinished:
        (unfinished / "model.xml").write_text(model, encoding="utf-8")
        for name, table in tables.items():
            write_table(unfinished / f"{name}.tsv", table, _HEADERS.get(name, ()))
        text = yaml.safe_dump(_content(candidate, tables), sort_keys=False)
        (unfinished / "problem.yaml").write_text(text, encoding="utf-8")
    return folder / "problem.yaml"


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder that gets its name when it is complete, and is removed when it is not."""
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    unfinished.mkdir()
    try:
        yield unfinished
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished)
        raise


def _content(version: int, tables: Tables) -> dict[str, object]:
    """Return what the YAML file holds."""
    if version == 1:
        kinds = ("condition", "observable", "measurement")
        files = {"sbml_files": ["model.xml"], **{f"{kind}_files": [f"{kind}s.tsv"] for kind in kinds}}
        return {"format_version": 1, "parameter_file": "parameters.tsv", "problems": [files]}
    kinds = ("parameter", "condition", "experiment", "observable", "measurement")
    model = {"model": {"location": "model.xml", "language": "sbml"}}
    return {
        "format_version": "2.0.0",
        "model_files": model,
        **{f"{kind}_files": [f"{kind}s.tsv"] for kind in kinds},
    }
