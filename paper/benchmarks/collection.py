"""The problems that are measured: where they lie, and their numbers as the native engine wants them."""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

import kinbayes as kb
from kinbayes.ode.native import Numbers
from kinbayes.problem import native_likelihood
from kinbayes.problem.likelihood import Likelihood

ROOT = Path(__file__).resolve().parents[2]
_SPREAD = 0.01  # of the bounds' distance: standard deviation of vectors drawn around the nominal one


def arguments(about: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all benchmarks share."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data")
    parser.add_argument("--out", type=Path, default=ROOT / "paper" / "results", help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds, to try the script")
    return parser


def require(path: Path) -> Path:
    """Return a path of the data; end the run in words where it is absent."""
    if not path.exists():
        sys.exit(f"skipped: {path} is absent; give the folder of the data with --data")
    return path


def read(data: Path, name: str, **settings: float | str) -> kb.Problem:
    """Read a problem of the benchmark collection."""
    return kb.read_petab(require(data / "petab" / "benchmark" / name / f"{name}.yaml"), **settings)


def short(name: str) -> str:
    """Return the first word of a problem's name."""
    return name.split("_")[0]


def numbers(problem: kb.Problem) -> Numbers:
    """Return the numbers of a problem on the native engine."""
    return Numbers(*map(np.asarray, problem._data.native))


def likelihood(problem: kb.Problem) -> Likelihood:
    """Return the expressions of a problem's likelihood."""
    return problem._functions.likelihood


def compile_seconds(problem: kb.Problem, *, repetitions: int = 3) -> float:
    """Return the seconds from a problem's expressions to machine code, the smallest of some."""
    taken = []
    for _ in range(repetitions):
        started = time.perf_counter()
        native_likelihood.compiled(likelihood(problem))
        taken.append(time.perf_counter() - started)
    return min(taken)


def around_nominal(problem: kb.Problem, size: int, *, seed: int = 0) -> np.ndarray:
    """Return scaled vectors drawn around the nominal one, inside the bounds, shape ``(size, dim)``."""
    lower, upper, nominal = (np.asarray(v) for v in (problem.lower, problem.upper, problem.nominal))
    drawn = nominal + _SPREAD * (upper - lower) * np.random.default_rng(seed).normal(size=(size, problem.dim))
    return np.clip(drawn, lower, upper)
