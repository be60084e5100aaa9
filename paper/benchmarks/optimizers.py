"""Measure all optimizers on published problems: evaluations and seconds to the best known optimum, and how often.

::

    python paper/benchmarks/optimizers.py            # Boehm, Bruno and Fujita, five seeds: optimizers.csv
    python paper/benchmarks/optimizers.py --all      # the other five small problems as well
    python paper/benchmarks/optimizers.py --hits     # many starts of the local searches alone: optimizers_hits.csv
    python paper/benchmarks/optimizers.py --only Boehm --optimizers scatter_search --seeds 1

A run has reached the best known optimum when its loss is within 0.1 of that at the published parameters. It ends there:
`evaluations` and `seconds` are those of the whole run, so of one that failed what it spent. Programs are compiled
before the clock runs, in a run of a few evaluations (`first_seconds`). Peers are measured by pypesto_optimizing.py and
scipy_optimizing.py.
"""

import time
from typing import NamedTuple

import numpy as np
import pandas as pd
from collection import arguments, read, short

import kinbayes as kb

PROBLEMS = ("Boehm_JProteomeRes2014", "Bruno_JExpBot2016", "Fujita_SciSignal2010")
OTHERS = (
    "Sneyd_PNAS2002",
    "Elowitz_Nature2000",
    "Fiedler_BMCSystBiol2016",
    "Crauste_CellSystems2017",
    "Brannmark_JBC2010",
)
NEAR = 0.1


class Effort(NamedTuple):
    """What an optimizer is given."""

    optimizer: str
    starts: int
    max_evaluations: int
    refine: str | None = None
    settings: tuple[tuple[str, object], ...] = ()
    max_seconds: float = 15.0

    @property
    def label(self) -> str:
        """The optimizer, its method and its refinement."""
        method = [str(value) for name, value in self.settings if name == "method"]
        return "+".join([self.optimizer, *method, *([self.refine] if self.refine else [])])


EFFORTS = (
    Effort("multistart", 200, 100_000),
    Effort("quasi_newton", 200, 100_000),
    Effort("scatter_search", 5, 100_000),
    Effort("scatter_search", 5, 100_000, "multistart", max_seconds=120.0),
    Effort("differential_evolution", 1, 100_000),
    Effort("differential_evolution", 1, 100_000, "multistart"),
    Effort("particle_swarm", 5, 100_000),
    Effort("particle_swarm", 5, 100_000, "multistart"),
    Effort("simplex", 20, 100_000),
    Effort("simulated_annealing", 5, 100_000),
    Effort("bayesian", 1, 1_000, settings=(("method", "tpe"),)),
    Effort("bayesian", 1, 1_000, "multistart", (("method", "tpe"),)),
    Effort("bayesian", 5, 20_000, settings=(("method", "cma_es"), ("max_trials", 4_000))),
    Effort("genetic", 1, 5_000),
)


def run(problem: kb.Problem, effort: Effort, known: float, seed: int) -> dict[str, object]:
    """Return the row of one run."""
    settings = {
        "starts": effort.starts,
        "refine": effort.refine,
        "settings": dict(effort.settings),
        "seed": seed,
        "progress": False,
    }
    began = time.perf_counter()
    kb.optimize(problem, effort.optimizer, max_evaluations=min(effort.max_evaluations // 5, 4_000), **settings)
    first = time.perf_counter() - began
    began = time.perf_counter()
    found = kb.optimize(
        problem,
        effort.optimizer,
        max_evaluations=effort.max_evaluations,
        max_seconds=effort.max_seconds,
        target_loss=known + NEAR,
        **settings,
    )
    seconds = time.perf_counter() - began
    best = float(found.map_estimate["loss"][0]) - known
    return {
        "problem": short(problem.name),
        "optimizer": effort.label,
        "seed": seed,
        "starts": effort.starts,
        "max_evaluations": effort.max_evaluations,
        "evaluations": int(found.attrs["evaluations"]),
        "seconds": round(seconds, 2),
        "is_reached": best <= NEAR,
        "best_minus_known": round(best, 4),
        "stopped": found.attrs["stopped"],
        "first_seconds": round(first, 2),
    }


def hits(problem: kb.Problem, optimizer: str, known: float, *, starts: int, seed: int) -> dict[str, object]:
    """Return the row of many starts that all run to their end."""
    settings = {"starts": starts, "seed": seed, "max_evaluations": 1_000 * starts, "progress": False}
    kb.optimize(problem, optimizer, **settings | {"max_evaluations": starts})
    began = time.perf_counter()
    found = kb.optimize(problem, optimizer, **settings)
    seconds = time.perf_counter() - began
    loss = found.map_estimate["loss"].values - known
    num = int(np.sum(loss <= NEAR))
    return {
        "problem": short(problem.name),
        "optimizer": optimizer,
        "seed": seed,
        "starts": starts,
        "evaluations": int(found.attrs["evaluations"]),
        "seconds": round(seconds, 2),
        "hits": num,
        "seconds_per_hit": round(seconds / num, 3) if num else np.inf,
        "best_minus_known": round(float(loss[0]), 4),
        "converged": int(found.map_estimate["converged"].sum()),
        "distinct_optima": int(found.attrs["distinct_optima"]),
    }


def known_loss(problem: kb.Problem) -> float:
    """Return the loss at the published parameters."""
    return -float(problem.log_density(problem.nominal))


def main() -> None:
    """Measure what the command line asks for, and write one table."""
    parser = arguments(__doc__)
    parser.add_argument("--all", action="store_true", help="the other five small problems as well")
    parser.add_argument("--hits", action="store_true", help="many starts of the local searches alone")
    parser.add_argument("--only", nargs="*", help="first words of problems")
    parser.add_argument("--optimizers", nargs="*", help="labels of the table")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    names = [name for name in (*PROBLEMS, *OTHERS) if short(name) in (given.only or map(short, _asked(given.all)))]
    path = given.out / ("optimizers_hits.csv" if given.hits else "optimizers.csv")
    for name in names:
        problem = read(given.data, name)
        known = known_loss(problem)
        for seed in range(1 if given.quick else given.seeds):
            rows = []
            if given.hits:
                for optimizer in ("multistart", "quasi_newton"):
                    rows.append(hits(problem, optimizer, known, starts=20 if given.quick else 200, seed=seed))
                    print(rows[-1], flush=True)
            for effort in () if given.hits else EFFORTS:
                if given.optimizers and effort.label not in given.optimizers:
                    continue
                rows.append(run(problem, effort._replace(max_seconds=2.0) if given.quick else effort, known, seed))
                print(rows[-1], flush=True)
            if rows and not given.quick:
                _write(pd.DataFrame(rows), path)


def _asked(is_all: bool) -> tuple[str, ...]:
    return (*PROBLEMS, *OTHERS) if is_all else PROBLEMS


def _write(table: pd.DataFrame, path) -> None:
    """Write rows in the place of those of the same problem, optimizer and seed."""
    keys = ["problem", "optimizer", "seed"]
    if path.exists():
        table = pd.concat([pd.read_csv(path), table]).drop_duplicates(keys, keep="last")
    table.to_csv(path, index=False)


if __name__ == "__main__":
    main()
