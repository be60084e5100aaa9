"""Run PEtab's test suite and benchmark collection: densities and gradients against references, and their time.

Every case of the suite is evaluated at its nominal point with one setting for all; its gradient is compared with
differences. Of the collection the log likelihood at the nominal point is compared with other tools' values, the
gradient with extrapolated differences, both over the largest component.

python paper/benchmarks/petab.py
"""

import csv
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml
from collection import arguments, compile_seconds, likelihood, read, require, short
from differences import gradient

import kinbayes as kb
from kinbayes.problem import native_gradient, native_likelihood

SUITE = {"rtol": 1e-10, "atol": 1e-12}
VALUE = {"rtol": 1e-8, "atol": 1e-8}
EXACT = {"rtol": 1e-12, "atol": 1e-14}
# Negative log likelihoods at the nominal points, from the tests of other tools; of Crauste, AMICI's at its tightest.
KNOWN = {
    "Bachmann_MSB2011": -418.4057,
    "Blasi_CellSystems2016": -642.83,
    "Boehm_JProteomeRes2014": 138.2220,
    "Brannmark_JBC2010": 141.8891,
    "Bruno_JExpBot2016": -46.68818,
    "Crauste_CellSystems2017": math.nan,
    "Elowitz_Nature2000": -63.2028,
    "Fiedler_BMCSystBiol2016": -58.58390,
    "Fujita_SciSignal2010": -53.08378,
    "Isensee_JCB2018": 3949.376,
    "Perelson_Science1996": 432.0386,
    "Schwen_PONE2014": 943.9993,
    "Sneyd_PNAS2002": -319.79178,
    "Weber_BMC2015": 296.2018,
    "Zheng_PNAS2012": -278.3335,
}
ROUNDS = 7


class Case(NamedTuple):
    """A case of the suite: how far the sum of squares, the log likelihood, predictions and the gradient are off."""

    case: str
    chi2: float
    log_likelihood: float
    simulations: float
    gradient: float
    passes: bool


class Line(NamedTuple):
    """A problem of the collection."""

    problem: str
    lanes: int
    parameters: int
    log_likelihood: float
    reference: float
    difference: float
    petab_prior: float  # log prior as PEtab tools count it
    gradient_error: float
    uncertainty: float  # of the differences that the gradient is compared with
    read_seconds: float
    compile_seconds: float
    gradient_compile_seconds: float
    value_ms: float
    gradient_ms: float


def cases(data: Path) -> Iterator[Case]:
    """Yield all cases of both versions."""
    for version, pattern in (("v1.0.0", "*/_*_solution.yaml"), ("v2.0.0", "*/_*_solution.yaml")):
        for path in sorted((data / "petab" / "test_suite" / version / "sbml").glob(pattern)):
            yield case(path, version)


def case(path: Path, version: str) -> Case:
    """Return what comes out of one case."""
    known = yaml.safe_load(path.read_text())
    problem = kb.read_petab(path.with_name(path.name.replace("_solution", "")), **SUITE)
    u = np.asarray(problem.nominal)
    table = pd.concat(pd.read_csv(path.parent / name, sep="\t") for name in known["simulation_files"])
    found = problem.evaluate(u[None]).log_likelihood[0]
    chi2 = np.sum(np.asarray(problem.residuals(u)) ** 2)
    simulations = np.max(np.abs(np.asarray(problem.simulated(u)) - table["simulation"]))
    off = (abs(chi2 - known["chi2"]), abs(found - known["llh"]), simulations)
    allowed = (known["tol_chi2"], known["tol_llh"], known["tol_simulations"])
    passes = all(a <= b for a, b in zip(off, allowed, strict=True))
    return Case(f"{version}/{path.parent.name}", *off, gradient_error(problem)[0], passes)


def gradient_error(problem: kb.Problem) -> tuple[float, float]:
    """Return how far the gradient is from extrapolated differences, and what these may be off by there.

    Both over the largest component, of the one that is furthest.
    """
    u = np.asarray(problem.nominal)
    if not problem.dim:
        return 0.0, 0.0
    own = np.asarray(problem.batched.value_and_grad(u[None])[3][0])
    found = gradient(lambda U: problem.evaluate(U).log_likelihood, u)
    errors, size = np.abs(own - found.gradient), max(1.0, float(np.max(np.abs(own))))
    worst = int(np.argmax(errors))
    return float(errors[worst]) / size, float(found.uncertainty[worst]) / size


def line(data: Path, name: str, tight: dict) -> Line:
    """Return what comes out of one problem."""
    started = time.perf_counter()
    problem = read(data, name, **VALUE)
    read_seconds = time.perf_counter() - started
    u = np.asarray(problem.nominal)
    value = problem.evaluate(u[None]).log_likelihood[0]
    prior = -problem.petab_objective(u) - float(problem.log_likelihood(u))
    reference = tight.get(name, -KNOWN[name])
    problem.batched.value_and_grad(u[None])
    return Line(
        short(name),
        problem.num_lanes,
        problem.dim,
        value,
        reference,
        value - reference,
        prior,
        *gradient_error(read(data, name, **EXACT)),
        read_seconds,
        compile_seconds(problem),
        gradient_compile_seconds(problem),
        1e3 * seconds(lambda: problem.evaluate(u[None])),
        1e3 * seconds(lambda: np.asarray(problem.batched.value_and_grad(u[None])[3])),
    )


def gradient_compile_seconds(problem: kb.Problem) -> float:
    """Return the seconds from expressions to the machine code of derivatives, the smallest of three."""
    terms = likelihood(problem)
    code, wanted = native_likelihood.compiled(terms), native_gradient.wanted(problem._data.layout)
    return min(_timed(lambda: native_gradient.differentiated(code, terms, wanted)) for _ in range(3))


def _timed(function: Callable) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def seconds(function: Callable) -> float:
    """Return the seconds of a call, the median of some."""
    function()
    return float(np.median([_timed(function) for _ in range(ROUNDS)]))


def write(path: Path, rows: list[NamedTuple]) -> None:
    """Write rows as a table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0]._fields)
        writer.writerows([f"{v:.10g}" if isinstance(v, float) else v for v in row] for row in rows)


def main() -> None:
    """Write both tables and tell what they hold."""
    args = arguments(__doc__).parse_args()
    references = json.loads(require(args.data / "reference" / "amici.json").read_text())["problems"]
    tight = {name: known["llh_nominal"] for name, known in references.items()}
    names = list(KNOWN)[:2] if args.quick else list(KNOWN)
    lines = []
    for name in names:
        lines.append(line(args.data, name, tight))
        print(*(f"{v:.10g}" if isinstance(v, float) else v for v in lines[-1]), flush=True)
    found = list(cases(args.data)) if not args.quick else []
    for version in ("v1.0.0", "v2.0.0"):
        own = [c for c in found if c.case.startswith(version)]
        print(
            version,
            sum(c.passes for c in own),
            "of",
            len(own),
            "gradients",
            max((c.gradient for c in own), default=0.0),
        )
    if not args.quick:
        args.out.mkdir(exist_ok=True)
        write(args.out / "petab.csv", lines)
        write(args.out / "petab_suite.csv", found)


if __name__ == "__main__":
    main()
