"""The cases of the SBML semantic test suite, simulated and compared with its results.

A case passes if |C - U| <= Ta + Tr |C| for every value C of the suite and ours, U; infinities and NaN compare as
such. The tolerances Ta and Tr are the case's, those of the simulation the same for all cases.
"""

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import libsbml
import numpy as np

import kinbayes as kb
from kinbayes.formats.sbml.comp import flatten, has_submodels
from kinbayes.formats.sbml.reader import SBMLError, read_sbml
from kinbayes.formats.sbml.source import is_point
from kinbayes.model.expressions import evaluate

RTOL, ATOL, MAX_STEPS = 1e-9, 1e-14, 1_000_000


class Verdict(NamedTuple):
    """What became of a case: passed, refused (by the reader, in words), or wrong.

    Seconds are those of reading, compiling and simulating; of them, those of compiling.
    """

    case: str
    tier: str
    outcome: str
    reason: str
    seconds: float
    compiling: float


class Compared(NamedTuple):
    """The variables of a case whose values are outside of the tolerance; seconds as in `Verdict`."""

    wrong: list[str]
    seconds: float
    compiling: float


class Settings(NamedTuple):
    times: np.ndarray
    absolute: float
    relative: float
    amounts: frozenset[str]
    concentrations: frozenset[str]


def cases(suite: Path) -> dict[str, str]:
    """Every case of the suite with its tier."""
    with (suite / "cases.tsv").open(encoding="utf-8") as file:
        return {row["case"]: row["tier"] for row in csv.DictReader(file, delimiter="\t")}


def judge(suite: Path, case: str, tier: str) -> Verdict:
    """Read, simulate and compare a case."""
    seconds = compiling = 0.0
    try:
        found = compared(suite / case)
        seconds, compiling = found.seconds, found.compiling
        outcome, reason = ("wrong", "differs: " + ", ".join(found.wrong)) if found.wrong else ("passed", "")
    except SBMLError as error:
        outcome, reason = "refused", str(error).replace(f"{suite / case}/", "")
    except (RuntimeError, ValueError) as error:
        outcome, reason = "wrong", f"{type(error).__name__}: {error}"
    return Verdict(case, tier, outcome, reason, seconds, compiling)


def compared(folder: Path, given: Mapping[str, float] | None = None) -> Compared:
    """Read and simulate a case, and compare it."""
    path, given = folder / "model.xml", given or {}
    started = time.perf_counter()
    model = read_sbml(path)  # refuses what has no settings either
    settings, expected = _settings(folder), _expected(folder)
    read = time.perf_counter()
    found = kb.simulate(model, settings.times, given, rtol=RTOL, atol=ATOL, max_steps=MAX_STEPS)
    ended = time.perf_counter()
    kb.simulate(model, settings.times, given, rtol=RTOL, atol=ATOL, max_steps=MAX_STEPS)  # compiled already
    again = time.perf_counter() - ended
    start = model.initial_values(())
    constants = dict(zip(start, evaluate(list(start.values()), {"time": 0.0}), strict=True))
    values = {**constants, **given, **{name: column.values for name, column in found.items()}}
    values |= {"time": values["time_"]} if "time_" in values else {}
    document = libsbml.readSBMLFromFile(str(path))  # keeps what belongs to it alive
    if has_submodels(document):
        flatten(document, path.read_text(encoding="utf-8"), folder)
    wrong = [
        name
        for name, value in expected.items()
        if not _is_close(value, _value(document.getModel(), name, values, settings), settings)
    ]
    return Compared(wrong, ended - started, max(ended - read - again, 0.0))


def _settings(folder: Path) -> Settings:
    lines = (folder / "settings.txt").read_text(encoding="utf-8").splitlines()
    found = {key.strip(): value.strip() for key, value in (line.split(":", 1) for line in lines if ":" in line)}
    start, duration = float(found["start"]), float(found["duration"])

    def names(key: str) -> frozenset[str]:
        return frozenset(name.strip() for name in found.get(key, "").split(",") if name.strip())

    return Settings(
        times=np.linspace(start, start + duration, int(found["steps"]) + 1),
        absolute=float(found["absolute"]),
        relative=float(found["relative"]),
        amounts=names("amount"),
        concentrations=names("concentration"),
    )


def _expected(folder: Path) -> dict[str, np.ndarray]:
    with (folder / "results.csv").open(encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    columns = np.array([row for row in rows if row], dtype=float).T
    return {
        name.strip(): column for name, column in zip(header, columns, strict=True) if name.strip().lower() != "time"
    }


def _value(model: libsbml.Model, name: str, values: Mapping[str, np.ndarray], settings: Settings) -> np.ndarray:
    """The values of a name, a species as amount or concentration, as the case asks."""
    species = model.getSpecies(name)
    if species is not None:
        is_amount = species.getHasOnlySubstanceUnits() or is_point(model.getCompartment(species.getCompartment()))
        if is_amount and name in settings.concentrations:
            return values[name] / values[species.getCompartment()]
        if not is_amount and name in settings.amounts:
            return values[name] * values[species.getCompartment()]
    if name not in values:  # a stoichiometry that nothing changes is no quantity of the model
        return np.float64(model.getElementBySId(name).getStoichiometry())
    return values[name]


def _is_close(expected: np.ndarray, found: np.ndarray, settings: Settings) -> bool:
    with np.errstate(invalid="ignore"):
        is_inside = np.abs(expected - found) <= settings.absolute + settings.relative * np.abs(expected)
    is_same = (expected == found) | (np.isnan(expected) & np.isnan(found))
    return bool(np.all(is_inside | is_same))
