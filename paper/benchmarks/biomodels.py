"""Read and simulate the curated BioModels, and compare their concentrations with those of libroadrunner and COPASI.

Every model is read and simulated from 0 to 100 with the same tolerances. Where a reference is known, the concentrations
of its species at t = 50 and 100 agree if each is within 1e-4 of the reference, of at least a small size: 1e-6 of the
largest that this species is in the simulation, and 1e-9 of the largest that any is. Below it a solver knows nothing
of a value. What a model leaves open is given as libroadrunner takes it: 1 for a compartment, 0 for anything else.

python paper/benchmarks/biomodels.py
python paper/benchmarks/biomodels.py BIOMD0000000010 BIOMD0000000033
"""

import argparse
import itertools
import json
import re
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import libsbml
import numpy as np
import pandas as pd
import xarray as xr

import kinbayes as kb
from kinbayes.model.expressions import evaluate

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"

TIMES = np.linspace(0.0, 100.0, 101)
RTOL, ATOL, MAX_STEPS = 1e-8, 1e-12, 1_000_000
AGREES = 1e-4
SMALLEST_OF_SPECIES, SMALLEST_OF_MODEL = 1e-6, 1e-9
LIMIT = 120  # seconds for a model
FIRST = ("BIOMD0000000809", "BIOMD0000000820")  # load what all models share, without and with events


class Outcome(NamedTuple):
    """What became of a model.

    Attributes
    ----------
    model
        Its name.
    outcome
        agree or differ; simulated, where no reference is known; refused when read or for values that are not
        given; failed in the simulation.
    reason
        Why it is refused or failed; of which species the difference is largest, and when.
    difference
        The largest relative difference.
    read, compile, simulate
        Seconds; NaN where it did not come to that.
    """

    model: str
    outcome: str
    reason: str = ""
    difference: float = np.nan
    read: float = np.nan
    compile: float = np.nan
    simulate: float = np.nan


def outcomes(data: Path, names: Sequence[str] = ()) -> Iterator[Outcome]:
    """Yield what becomes of models, of all by default."""
    reference = json.loads((data / "reference" / "biomodels.json").read_text())["models"]
    with zipfile.ZipFile(data / "biomodels.zip") as archive, tempfile.TemporaryDirectory() as folder:
        members = [n for n in sorted(archive.namelist()) if n.endswith(".xml") and (not names or Path(n).stem in names)]
        for member in members:
            path = Path(archive.extract(member, folder))
            yield outcome(path, reference.get(path.stem))
            path.unlink()


def outcome(path: Path, reference: Mapping[str, Mapping[str, float]] | None) -> Outcome:
    """Return what becomes of one model."""
    name, document = path.stem, libsbml.readSBMLFromFile(str(path))
    sbml = document.getModel()
    read = compile_ = simulate = np.nan
    try:
        with _limit(LIMIT):
            started = time.perf_counter()
            model = kb.read_sbml(path)
            read = time.perf_counter() - started
            given = _given(model, sbml)
            first, found = _simulated(model, given)
            simulate, _ = _simulated(model, given)  # compiled already
            compile_ = first - simulate
    except TimeoutError:
        return Outcome(name, "failed", f"no end after {LIMIT} s", read=read)
    except (ValueError, NotImplementedError) as error:
        return Outcome(name, "refused", _said(error, path), read=read)
    except RuntimeError as error:
        return Outcome(name, "failed", _said(error, path), read=read)
    times = (read, compile_, simulate)
    added = "".join(f"; given {n} = {value:g}" for n, value in given.items())
    if reference is None:
        return Outcome(name, "simulated", added.removeprefix("; "), np.nan, *times)
    largest, where = difference(concentrations(sbml, model, given, found), reference)
    return Outcome(name, "agree" if largest <= AGREES else "differ", where + added, largest, *times)


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in what takes longer (at the next line of Python)."""

    def stop(_signal: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _given(model: kb.Model, sbml: libsbml.Model) -> dict[str, float]:
    """Return the values that the model leaves open."""
    missing = [n for n, e in model.initial.items() if e.op == "const" and np.isnan(e.value)]
    return {name: 1.0 if sbml.getCompartment(name) is not None else 0.0 for name in missing}


def _simulated(model: kb.Model, given: Mapping[str, float]) -> tuple[float, xr.Dataset]:
    started = time.perf_counter()
    found = kb.simulate(model, TIMES, given, rtol=RTOL, atol=ATOL, max_steps=MAX_STEPS)
    return time.perf_counter() - started, found


def _said(error: Exception, path: Path) -> str:
    first, *others = str(error).replace(f"{path.parent}/", "").splitlines()
    return f"{first} (and {len(others)} more)" if others else first


def concentrations(
    sbml: libsbml.Model, model: kb.Model, given: Mapping[str, float], found: xr.Dataset
) -> dict[str, np.ndarray]:
    """Return the concentration of every species at every time: an amount by the size of its compartment."""
    start = model.initial_values(tuple(given))
    constants = evaluate([start[name] for name in model.parameters], {**given, "time": 0.0})
    values = {**dict(zip(model.parameters, constants, strict=True)), **{n: v.values for n, v in found.items()}}
    values = {name: np.broadcast_to(value, found.time.shape) for name, value in values.items()}
    values["time"] = values.get("time_")  # read_sbml's name for a species that a file calls so
    return {
        s.getId(): values[s.getId()] / (values[s.getCompartment()] if s.getHasOnlySubstanceUnits() else 1.0)
        for s in sbml.getListOfSpecies()
    }


def difference(found: Mapping[str, np.ndarray], reference: Mapping[str, Mapping[str, float]]) -> tuple[float, str]:
    """Return the largest relative difference (infinite for NaN), and where it is."""
    sizes = {name: np.nanmax(np.abs(values), initial=0.0) for name, values in found.items()}
    smallest = SMALLEST_OF_MODEL * max(sizes.values(), default=0.0)
    largest, where = 0.0, ""
    for (label, moment), name in itertools.product((("t50", 50), ("t100", 100)), reference["t50"]):
        expected, value = reference[label][name], float(found[name][np.searchsorted(TIMES, moment)])
        scale = max(abs(expected), SMALLEST_OF_SPECIES * sizes[name], smallest, sys.float_info.min)
        relative = abs(value - expected) / scale
        if not relative <= largest:
            largest = np.inf if np.isnan(relative) else relative
            where = f"{name} at {moment}: {value:.10g}, expected {expected:.10g}"
    return largest, where


def kind(reason: str) -> str:
    """Return a reason without what is the model's own: file, line, ids, numbers."""
    text = re.sub(r"^\S+\.xml(, line \d+)?: ", "", reason.removesuffix(" more)").split(" (and ")[0])
    text = re.sub(r"^[A-Za-z]+( '[^']*')?: ", "", text)
    return re.sub(r"'[^']*'|\[[^\]]*\]|\b[-+.\de]*\d\b", "…", text)[:90]


def main() -> None:
    """Go through the models, write the table and print what it comes to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names of models; all by default, and only then a table is written")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data")
    parser.add_argument("--out", type=Path, default=ROOT / "paper" / "results" / "biomodels.csv", help="the table")
    given = parser.parse_args()
    if not (given.data / "biomodels.zip").is_file():
        sys.exit(f"skipped: {given.data / 'biomodels.zip'} is absent; give the folder of the data with --data")
    rows = []
    list(outcomes(given.data, FIRST))
    for row in outcomes(given.data, given.models):
        rows.append(row)
        if row.outcome not in ("agree", "simulated") or given.models:
            print(f"{row.model} {row.outcome} {row.difference:.2g} {row.reason}", flush=True)
    table = pd.DataFrame(rows)
    if not given.models:
        table.to_csv(given.out, index=False, float_format="%.4g", lineterminator="\n")
    summarize(table)


def summarize(table: pd.DataFrame) -> None:
    """Print how many models load, simulate and agree, why others do not, and how long it takes."""
    counts = table["outcome"].value_counts()
    known = table[table["outcome"].isin(["agree", "differ"])]
    num_read, num_simulated = table["read"].notna().sum(), table["simulate"].notna().sum()
    print(f"{len(table)} models, {num_read} read, {num_simulated} simulated, {len(known)} compared")
    print(f"{counts.get('agree', 0)} agree, median difference {known['difference'].median():.1e}")
    for outcome_ in ("refused", "failed"):
        for reason, count in table.loc[table["outcome"] == outcome_, "reason"].map(kind).value_counts().items():
            print(f"  {outcome_} {count}: {reason}")
    for part in ("read", "compile", "simulate"):
        seconds = table.set_index("model")[part].dropna()
        if len(seconds):
            print(f"{part}: median {seconds.median():.2g} s, worst {seconds.max():.3g} s ({seconds.idxmax()})")
    total = table[["read", "compile", "simulate"]].sum()
    if total.sum():
        print(f"share of compilation: {total['compile'] / total.sum():.0%} of {total.sum():.0f} s")


if __name__ == "__main__":
    main()
