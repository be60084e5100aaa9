"""Find the modes of published problems with pyPESTO's multistarts over AMICI, for the comparison of optimizers.

Runs with the interpreter of the environment that pypesto_sampling.py describes, with Fides in it::

    amici/bin/pip install fides==0.8.0
    amici/bin/python pypesto_optimizing.py --models FOLDER
    amici/bin/python pypesto_optimizing.py --models FOLDER --only Boehm --starts 200

--models keeps what AMICI compiles for the next run. The rows replace those of the same runs in optimizers_peers.csv.

Everything is pyPESTO's default: starts drawn between the bounds on the parameters' scales (its PEtab startpoints),
AMICI's tolerances, the optimizers' limits. Optimizers are `fides`, whose default Hessian is a hybrid, AMICI's Fisher
information at first and BFGS later; `fides_fim`, the Fisher information at all iterations; `l_bfgs_b`, SciPy's.
Only Fides' lines to the log are switched off. Gradients come from forward sensitivities, AMICI's default and what the
Fisher information needs; with --gradient adjoint, from the adjoint state.

The clock runs from the draw of the starts to the result of all, in as many processes as asked for (pyPESTO's
MultiProcessEngine; of one, its SingleCoreEngine), each with one thread. Import and compilation are before it; how long
compilation took when the model was new is a column. A start is a hit if its loss, the negative log likelihood, is
within a tenth of that at the published point, which is integrated at tight tolerances. Evaluations are losses asked
for; Fides gets gradients with them, L-BFGS-B by a second simulation each.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

# The library petab has to be found before the script of that name in this folder
if sys.path[0] == str(Path(__file__).resolve().parent):
    sys.path.append(sys.path.pop(0))

import numpy as np
import pandas as pd
import pypesto
from amici._installation import amici as compiled
from amici_server import Loaded, cpu_seconds, load  # from here on, all that is printed goes to stderr
from pypesto.engine import MultiProcessEngine, SingleCoreEngine
from pypesto.optimize import FidesOptimizer, Optimizer, ScipyOptimizer, minimize
from pypesto.petab import PetabImporter

ROOT = Path(__file__).resolve().parents[2]
PROBLEMS = ("Boehm_JProteomeRes2014", "Bruno_JExpBot2016", "Fujita_SciSignal2010")
OPTIMIZERS = ("fides", "fides_fim", "l_bfgs_b")
LIMIT = 1000  # of a start by default: iterations of Fides, evaluations of L-BFGS-B
TIGHT = (1e-10, 1e-12)  # rtol and atol of the loss at the published point
NEAR = 0.1  # above that loss, and still a hit
KEY = ("problem", "tool", "optimizer", "gradient", "seed", "starts", "processes")


def optimizer_of(kind: str) -> Optimizer:
    """Return an optimizer of pyPESTO's."""
    match kind:
        case "fides":
            return FidesOptimizer(verbose=logging.ERROR)
        case "fides_fim":
            return FidesOptimizer(hessian_update=None, verbose=logging.ERROR)
        case _:
            return ScipyOptimizer("L-BFGS-B")


def negative_log_likelihood(loaded: Loaded, rtol: float, atol: float, method: str) -> pypesto.Problem:
    """Return pyPESTO's problem, of these tolerances and gradients by this method."""
    solver = loaded.objective.amici_solver
    solver.set_relative_tolerance(rtol)
    solver.set_absolute_tolerance(atol)
    solver.set_sensitivity_method(getattr(compiled.SensitivityMethod, method))
    return PetabImporter(loaded.problem).create_problem(objective=loaded.objective)  # which it copies


def row_of(problem: pypesto.Problem, kind: str, known: float, given: argparse.Namespace, seed: int) -> dict:
    """Run all starts of a seed; return what they reached, and in what time."""
    engine = SingleCoreEngine() if given.processes == 1 else MultiProcessEngine(given.processes)
    np.random.seed(seed)  # noqa: NPY002 - pyPESTO draws from NumPy's global stream
    load_average = os.getloadavg()[0]
    began, cpu_began = time.perf_counter(), cpu_seconds()
    result = minimize(problem, optimizer_of(kind), n_starts=given.starts, engine=engine, progress_bar=False)
    seconds, spent = time.perf_counter() - began, cpu_seconds() - cpu_began
    found = result.optimize_result
    losses = np.array([np.inf if loss is None else loss for loss in found.fval])
    hits = int(np.sum(losses <= known + NEAR))
    return {
        "optimizer": kind,
        "gradient": given.gradient,
        "seed": seed,
        "starts": given.starts,
        "budget": LIMIT * given.starts,
        "evaluations": sum(count or 0 for count in found.n_fval),
        "gradients": sum(count or 0 for count in found.n_grad),
        "seconds": seconds,
        "cpu_seconds": spent,
        "hits": hits,
        "known_loss": known,
        "best_loss_minus_known": np.nanmin(losses) - known,
        "seconds_per_hit": seconds / hits if hits else np.nan,
        "success": hits > 0,
        "processes": given.processes,
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
    parts = (f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
    print(", ".join(parts), file=sys.stderr, flush=True)


def main() -> None:
    """Run every optimizer on every problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder that keeps compiled models")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data")
    parser.add_argument("--out", type=Path, default=ROOT / "paper" / "results", help="folder of the results")
    parser.add_argument("--problems", nargs="*", default=PROBLEMS, help="names of problems")
    parser.add_argument("--only", nargs="*", help="first words of problems; all by default")
    parser.add_argument("--optimizers", nargs="*", choices=OPTIMIZERS, default=("fides", "l_bfgs_b"))
    parser.add_argument("--gradient", choices=("forward", "adjoint"), default="forward")
    parser.add_argument("--starts", type=int, default=20, help="of every seed")
    parser.add_argument("--seeds", nargs="*", type=int, default=range(5))
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    logging.disable(logging.ERROR)  # every failed simulation is one
    for name in given.problems:
        short = name.split("_")[0]
        if given.only and short not in given.only:
            continue
        loaded, answer = load(given.data / "petab" / "benchmark" / name / f"{name}.yaml", given.models)
        solver = loaded.objective.amici_solver
        rtol, atol = solver.get_relative_tolerance(), solver.get_absolute_tolerance()
        known = float(negative_log_likelihood(loaded, *TIGHT, given.gradient).objective(np.array(answer["nominal"])))
        problem = negative_log_likelihood(loaded, rtol, atol, given.gradient)
        about = {"tolerances": f"rtol {rtol:g} atol {atol:g}", "compile_seconds": answer["seconds_compile"]}
        tool = {"problem": short, "tool": "pypesto", "version": pypesto.__version__}
        for kind in given.optimizers:
            for seed in given.seeds:
                row = row_of(problem, kind, known, given, seed)
                put(tool | row | about, given.out / "optimizers_peers.csv")


if __name__ == "__main__":
    main()
