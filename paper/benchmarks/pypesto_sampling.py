"""Sample published problems with pyPESTO's samplers over AMICI, and keep the draws for the comparison of samplers.

Runs with the interpreter of an environment of its own, made on a machine with a C++ compiler, BLAS, HDF5, SWIG, CMake
and Ninja (Debian: g++ libopenblas-dev libhdf5-dev swig cmake ninja-build)::

    python -m venv amici
    amici/bin/pip install amici==1.0.1 pypesto==0.7.0 petab
    amici/bin/python pypesto_sampling.py --models FOLDER --starts FOLDER --keep FOLDER --only Boehm --samples 10000

--starts is the folder in which samplers.py keeps where chains start (its --cache), --keep the one of its draws, and
`samplers.py --read` then makes the rows of what was kept here. --models keeps what AMICI compiles for the next run.

Everything is pyPESTO's default but the starting points: AdaptiveMetropolisSampler; AdaptiveParallelTemperingSampler
with five chains, of which the one of temperature 1 counts (by default they all start a tenth of the way from the given
point to a draw of the prior). Four runs of each are spread over two processes, which
share nothing. A process loads its problem before the clock runs. The wall time is that of the slower process.

What is discarded is what pyPESTO's geweke_test says, the largest of all runs; where it says that nothing has
converged, half of each run. That is the "warmup" of the row; its time is its share of the run.
"""

import argparse
import json
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

# The library petab has to be found before the script of that name in this folder
if sys.path[0] == str(Path(__file__).resolve().parent):
    sys.path.append(sys.path.pop(0))

import numpy as np
import pypesto
from amici_server import Loaded, load  # from here on, all that is printed goes to stderr
from pypesto.petab import PetabImporter
from pypesto.sample import AdaptiveMetropolisSampler, AdaptiveParallelTemperingSampler, geweke_test

ROOT = Path(__file__).resolve().parents[2]
PROBLEMS = (
    "Boehm_JProteomeRes2014",
    "Bruno_JExpBot2016",
    "Sneyd_PNAS2002",
    "Elowitz_Nature2000",
    "Fiedler_BMCSystBiol2016",
    "Crauste_CellSystems2017",
    "Fujita_SciSignal2010",
)
SAMPLERS = ("adaptive_metropolis", "parallel_tempering")
RUNS, PROCESSES, TEMPERATURES = 4, 2, 5
TIGHT = (1e-10, 1e-12)  # rtol and atol of the densities that samplers.py shows
SAME = 1e-3  # in log density, between the two tools: any two points may differ by this much more or less


class Starts(NamedTuple):
    """Where chains start, in the order of names; and points with the log densities that kinbayes has there."""

    names: list[str]
    points: np.ndarray
    seconds: float
    shown: np.ndarray
    log_density: np.ndarray


class Run(NamedTuple):
    """One run: every sample of temperature 1, its first one left out, and what pyPESTO says of it."""

    samples: np.ndarray
    log_posterior: np.ndarray
    burn_in: int
    evaluations: int
    seconds: float
    cpu_seconds: float


class Counted(AdaptiveMetropolisSampler):
    """The sampler, which also counts the proposals inside the bounds: the others are not simulated."""

    evaluations = 1  # at the start

    def _propose_parameter(self, x: np.ndarray) -> np.ndarray:
        proposed = super()._propose_parameter(x)
        self.evaluations += bool(np.all((proposed >= self.problem.lb) & (proposed <= self.problem.ub)))
        return proposed


def posterior(loaded: Loaded, rtol: float, atol: float) -> pypesto.Problem:
    """Return pyPESTO's problem: the likelihood, the bounds, and the priors if there are any."""
    solver = loaded.objective.amici_solver
    solver.set_relative_tolerance(rtol)
    solver.set_absolute_tolerance(atol)
    return PetabImporter(loaded.problem).create_problem(objective=loaded.objective)  # which it copies


def read_starts(path: Path) -> Starts:
    """Read what samplers.py keeps of a problem."""
    if not path.exists():
        sys.exit(f"{path} is absent; run samplers.py on this problem first")
    with np.load(path) as file:
        names = [str(name) for name in file["names"]]
        return Starts(names, file["points"], float(file["seconds"]), file["shown"], file["log_density"])


def offset(problem: pypesto.Problem, order: list[int], starts: Starts) -> float:
    """Return what to add to pyPESTO's log posterior, after a check that this is the same at all points shown.

    pyPESTO leaves out the density of uniform priors, a constant.

    Parameters
    ----------
    problem
        pyPESTO's problem at tight tolerances.
    order
        Where its parameters are in the points.
    starts
        The points, and kinbayes' log densities there.

    Raises
    ------
    ValueError
        If it is not the same: another posterior. Or if fewer than two points can be simulated by both tools.
    """
    theirs = -np.array([problem.objective(u) for u in starts.shown[:, order]])
    both = np.isfinite(theirs) & np.isfinite(starts.log_density)
    found = starts.log_density[both] - theirs[both]
    if len(found) < 2 or np.ptp(found) >= SAME:
        raise ValueError(f"the log posteriors do not differ by a constant: {starts.log_density} and {theirs}")
    say(
        f"log posteriors at {len(found)} of {len(both)} points, {np.ptp(theirs[both]):.3g} apart, differ by a constant "
        f"within {np.ptp(found):.1e}"
    )
    return float(np.mean(found))


def sample(problem: pypesto.Problem, kind: str, start: np.ndarray, *, samples: int, seed: int) -> Run:
    """Run a sampler once."""
    np.random.seed(seed)  # noqa: NPY002 - pyPESTO draws from NumPy's global stream
    inner = Counted({"show_progress": False})
    sampler = inner
    if kind == "parallel_tempering":
        options = {"show_progress": False}
        sampler = AdaptiveParallelTemperingSampler(inner, n_chains=TEMPERATURES, options=options)
    began, cpu_began = time.perf_counter(), time.process_time()
    result = pypesto.sample.sample(problem, samples, sampler, x0=start)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    found = result.sample_result
    chains = [inner] if sampler is inner else sampler.samplers
    return Run(
        found.trace_x[0, 1:],
        -found.trace_neglogpost[0, 1:],
        max(int(geweke_test(result)) - 1, 0),
        sum(chain.evaluations for chain in chains),
        seconds,
        cpu_seconds,
    )


def work(given: argparse.Namespace, name: str, kind: str, first: int, answers: multiprocessing.Queue) -> None:
    """Load a problem, and make every second run, one after the other."""
    logging.disable(logging.ERROR)  # every failed simulation is one
    loaded, _ = load(given.data / "petab" / "benchmark" / name / f"{name}.yaml", given.models)
    starts, solver = read_starts(starts_file(given, name)), loaded.objective.amici_solver
    rtol = solver.get_relative_tolerance() if given.rtol is None else given.rtol
    atol = solver.get_absolute_tolerance() if given.atol is None else given.atol
    order = [starts.names.index(parameter) for parameter in loaded.problem.x_free_ids]
    back = np.argsort(order)
    constant = offset(posterior(loaded, *TIGHT), order, starts)
    problem = posterior(loaded, rtol, atol)
    for k in range(first, RUNS, PROCESSES):
        seed = RUNS * given.seed + k
        run = sample(problem, kind, starts.points[k][order], samples=given.samples, seed=seed)
        moved = run._replace(samples=run.samples[:, back], log_posterior=run.log_posterior + constant)
        answers.put((k, moved, {"rtol": rtol, "atol": atol}))


def runs_of(given: argparse.Namespace, name: str, kind: str) -> tuple[list[Run], dict[str, float]]:
    """Return all runs of a sampler, and the tolerances they had."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    workers = [context.Process(target=work, args=(given, name, kind, k, answers)) for k in range(PROCESSES)]
    for worker in workers:
        worker.start()
    found: dict[int, Run] = {}
    told: dict[str, float] = {}
    while len(found) < RUNS:
        if answers.empty() and not all(w.is_alive() or w.exitcode == 0 for w in workers):
            sys.exit(f"a process ended without its runs of {name}; see its message above")
        if answers.empty():
            time.sleep(0.2)
            continue
        k, run, told = answers.get()
        found[k] = run
    for worker in workers:
        worker.join()
    return [found[k] for k in range(RUNS)], told


def keep(given: argparse.Namespace, name: str, kind: str, runs: list[Run], tolerances: Mapping[str, float]) -> None:
    """Write the draws after the warmup, in the form of samplers.py."""
    starts, length = read_starts(starts_file(given, name)), given.samples
    burn_ins = [run.burn_in for run in runs]
    warmup = max(burn_ins) if max(burn_ins) < length - 1 else length // 2
    samples = np.stack([run.samples for run in runs])
    seconds = max(sum(run.seconds for run in runs[k::PROCESSES]) for k in range(PROCESSES))
    moved = np.any(np.diff(samples[:, warmup:], axis=1) != 0, axis=-1)
    told = {
        "problem": name.split("_")[0],
        "sampler": f"pypesto_{kind}" + (f"_{given.rtol:g}" if given.rtol else ""),
        "seed": given.seed,
        "warmup": warmup,
        "thin": 1,
        **tolerances,
        "initial": given.initial,
        "seconds_starts": starts.seconds,
        "seconds_compile": float("nan"),
        "seconds_warmup": seconds * warmup / length,
        "seconds_draws": seconds * (1 - warmup / length),
        "evaluations": sum(run.evaluations for run in runs),
        "stopped": "completed",
        "acceptance_rate": float(moved.mean()),
        "burn_ins": burn_ins,
        "cores": os.cpu_count(),
    }
    given.keep.mkdir(parents=True, exist_ok=True)
    np.savez(
        given.keep / f"{told['problem']}_{told['sampler']}_{given.seed}.npz",
        draws=samples[:, warmup:],
        lp=np.stack([run.log_posterior for run in runs])[:, warmup:],
        names=starts.names,
        told=json.dumps(told),
    )
    cpu_seconds = sum(run.cpu_seconds for run in runs)
    say(
        f"{told['problem']} {told['sampler']}: {RUNS} runs of {length} samples, {seconds:.1f} s in {PROCESSES} "
        f"processes, {cpu_seconds:.1f} s of CPU, {told['evaluations']} evaluations, burn-in {burn_ins}"
    )


def starts_file(given: argparse.Namespace, name: str) -> Path:
    """Return where samplers.py keeps the starts of a problem."""
    return given.starts / f"{name.split('_')[0]}_{given.initial}.npz"


def say(text: str) -> None:
    """Print a line."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Run every sampler on every problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder that keeps compiled models")
    parser.add_argument("--starts", type=Path, required=True, help="folder in which samplers.py keeps starts")
    parser.add_argument("--keep", type=Path, required=True, help="folder of the draws")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data")
    parser.add_argument("--initial", default="multistart", help="which starts: prior, nominal, multistart")
    parser.add_argument("--only", nargs="*", help="first words of problems; all by default")
    parser.add_argument("--samplers", nargs="*", choices=SAMPLERS, default=SAMPLERS)
    parser.add_argument("--samples", type=int, default=10_000, help="of every run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rtol", type=float, help="AMICI's own by default, 1e-8; the row's name then has it")
    parser.add_argument("--atol", type=float, help="AMICI's own by default, 1e-16")
    given = parser.parse_args()
    for name in PROBLEMS:
        if given.only and name.split("_")[0] not in given.only:
            continue
        for kind in given.samplers:
            keep(given, name, kind, *runs_of(given, name, kind))


if __name__ == "__main__":
    main()
