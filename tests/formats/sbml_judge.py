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
from kinbayes.formats.sbml import SBMLError, read_sbml
from kinbayes.formats.sbml_comp import flatten, has_submodels
from kinbayes.formats.sbml_source import is_point
from kinbayes.model.expressions import evaluate

RTOL, ATOL, MAX_STEPS = 1e-9, 1e-14, 1_000_000


class Verdict(NamedTuple):
    """What became of a case: passed, refused (when read, or for values that are not finite), or wrong."""

    case: str
    tier: str
    outcome: str
    reason: str
    seconds: float


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
    started = time.perf_counter()
    try:
        wrong = wrong_variables(suite / case)
        outcome, reason = ("wrong", "differs: " + ", ".join(wrong)) if wrong else ("passed", "")
    except SBMLError as error:
        outcome, reason = "refused", str(error).replace(f"{suite / case}/", "")
    except (RuntimeError, ValueError) as error:
        outcome = "refused" if "no finite value" in str(error) else "wrong"
        reason = f"{type(error).__name__}: {error}"
    return Verdict(case, tier, outcome, reason, time.perf_counter() - started)


def wrong_variables(folder: Path, given: Mapping[str, float] | None = None) -> list[str]:
    """The variables of a case whose values are outside of the tolerance."""
    path = folder / "model.xml"
    model = read_sbml(path)  # refuses what has no settings either
    settings, expected = _settings(folder), _expected(folder)
    given = given or {}
    found = kb.simulate(model, settings.times, given, rtol=RTOL, atol=ATOL, max_steps=MAX_STEPS)
    start = model.initial_values(())
    constants = dict(zip(start, evaluate(list(start.values()), {"time": 0.0}), strict=True))
    values = {**constants, **given, **{name: column.values for name, column in found.items()}}
    values |= {"time": values["time_"]} if "time_" in values else {}
    document = libsbml.readSBMLFromFile(str(path))  # keeps what belongs to it alive
    if has_submodels(document):
        flatten(document, folder)
    return [
        name
        for name, value in expected.items()
        if not _is_close(value, _value(document.getModel(), name, values, settings), settings)
    ]


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
