"""Find the modes of published problems with SciPy's differential evolution, for the comparison of optimizers.

python paper/benchmarks/scipy_optimizing.py                          # every problem and seed
python paper/benchmarks/scipy_optimizing.py --only Boehm --seeds 0   # replaces that row of optimizers_peers.csv

The objective is kinbayes' own log likelihood, called from Python, so that only the search differs; the problems have
no priors but their bounds. All of scipy.optimize.differential_evolution is default but the seed and the number of
generations, which is what the budget allows: 15 members a parameter, one process, and L-BFGS-B from the best member at
the end (`polish`), with differences for gradients. What that end evaluates is counted too, beyond the budget. Rows of
`differential_evolution_unpolished` are without.

A run stops as soon as a loss, the negative log likelihood, is within a tenth of that at the published point, which is
integrated at tight tolerances: evaluations and seconds are those to there, or all if it never comes there. Compilation
is before the clock; its column has the seconds from the files to a first value.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import scipy
from collection import arguments, numbers, read, short
from rounds import tell
from scipy.optimize import differential_evolution

import kinbayes as kb
from kinbayes.ode.bridges import host_log_likelihood

PROBLEMS = ("Boehm_JProteomeRes2014", "Bruno_JExpBot2016", "Fujita_SciSignal2010")
OPTIMIZERS = {"differential_evolution": True, "differential_evolution_unpolished": False}
MEMBERS = 15  # a parameter, SciPy's default
TIGHT = {"rtol": 1e-10, "atol": 1e-12}  # of the loss at the published point
NEAR = 0.1  # above that loss, and still a hit
KEY = ("problem", "tool", "optimizer", "seed", "processes")


class Hit(Exception):
    """Ends a search: its target is reached."""


class Counted:
    """The loss, which counts its calls, remembers the lowest, and ends the search at the target."""

    def __init__(self, log_likelihood: Callable[[np.ndarray], float], target: float):
        self.log_likelihood, self.target = log_likelihood, target
        self.evaluations, self.lowest = 0, np.inf

    def __call__(self, u: np.ndarray) -> float:
        """Return the loss, +inf where the problem cannot be simulated."""
        loss = -self.log_likelihood(u)
        self.evaluations += 1
        self.lowest = min(self.lowest, loss)
        if loss <= self.target:
            raise Hit
        return loss


def row_of(problem: kb.Problem, known: float, *, polish: bool, budget: int, seed: int) -> dict[str, object]:
    """Run a search; return what it reached, and in what time."""
    loss = Counted(host_log_likelihood(numbers(problem)), known + NEAR)
    bounds = np.stack([problem.lower, problem.upper], axis=1)
    generations = max(budget // (MEMBERS * problem.dim) - 1, 1)  # beside the first population
    load_average = os.getloadavg()[0]
    began, cpu_began = time.perf_counter(), time.process_time()
    try:
        with np.errstate(invalid="ignore"):  # differences of two infinite losses
            differential_evolution(loss, bounds, maxiter=generations, popsize=MEMBERS, polish=polish, rng=seed)
        is_hit = False
    except Hit:
        is_hit = True
    seconds, spent = time.perf_counter() - began, time.process_time() - cpu_began
    return {
        "seed": seed,
        "starts": 1,
        "budget": budget,
        "evaluations": loss.evaluations,
        "seconds": seconds,
        "cpu_seconds": spent,
        "hits": int(is_hit),
        "known_loss": known,
        "best_loss_minus_known": loss.lowest - known,
        "seconds_per_hit": seconds if is_hit else np.nan,
        "success": is_hit,
        "processes": 1,
        "load_average": load_average,
    }


def put(row: Mapping[str, object], path: Path) -> None:
    """Add a row to a table on the disk, in the place of an older one of the same run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    rows = [old for old in rows if any(old[k] != row[k] for k in KEY)] + [row]
    written = path.with_suffix(".new")
    pd.DataFrame(rows).to_csv(written, index=False, float_format="%.6g")
    written.replace(path)
    tell(row)


def runs(given: argparse.Namespace, name: str) -> None:
    """Make all runs on one problem."""
    began = time.perf_counter()
    problem = read(given.data, name)
    host_log_likelihood(numbers(problem))(np.asarray(problem.nominal))
    about = {
        "tolerances": f"rtol {problem.rtol:g} atol {problem.atol:g}",
        "compile_seconds": time.perf_counter() - began,
    }
    known = -host_log_likelihood(numbers(problem.with_tolerances(**TIGHT)))(np.asarray(problem.nominal))
    for optimizer in given.optimizers:
        tool = {"problem": short(name), "tool": "scipy", "version": scipy.__version__, "optimizer": optimizer}
        for seed in given.seeds:
            row = row_of(problem, known, polish=OPTIMIZERS[optimizer], budget=given.budget, seed=seed)
            put(tool | row | about, given.out / "optimizers_peers.csv")


def main() -> None:
    """Run differential evolution on every problem."""
    parser = arguments(__doc__)
    parser.add_argument("--problems", nargs="*", default=PROBLEMS, help="names of problems")
    parser.add_argument("--only", nargs="*", help="first words of problems; all by default")
    parser.add_argument("--optimizers", nargs="*", choices=list(OPTIMIZERS), default=["differential_evolution"])
    parser.add_argument("--seeds", nargs="*", type=int, default=range(5))
    parser.add_argument("--budget", type=int, default=20_000, help="evaluations of all generations")
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.budget = [0], 2000
    for name in given.problems:
        if not given.only or short(name) in given.only:
            runs(given, name)


if __name__ == "__main__":
    main()
