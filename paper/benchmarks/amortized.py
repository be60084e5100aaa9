"""The workflow of learned proposals on three problems: archive, training, and all that its figures show, as numbers.

::

    python paper/benchmarks/amortized.py                     # Boehm, Fujita and Teusink; cvae and flow
    python paper/benchmarks/amortized.py --only Boehm --networks flow

Archives are made by `kb.amortize` itself, of at most 100,000 evaluations each. Written are amortized.csv (a row a
number), amortized_curves.csv (every tenth epoch), amortized_feasibility.csv, amortized_fidelity.csv (quartiles of what
was achieved at each condition), amortized_novelty.csv, amortized_starts.csv. Rows of the same problem and network are
replaced.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from collection import arguments, read, short
from teusink import teusink

import kinbayes as kb
from kinbayes.run.learned.evaluation import ProposalEvaluation

BUDGET = 100_000
PROBLEMS: dict[str, Callable[[Path], kb.Problem]] = {
    "Boehm": lambda data: read(data, "Boehm_JProteomeRes2014"),
    "Fujita": lambda data: read(data, "Fujita_SciSignal2010"),
    "Teusink": teusink,
}


def tables_of(proposal: object, found: ProposalEvaluation) -> dict[str, pd.DataFrame]:
    """Return what is written of a proposal, by the name of the file."""
    numbers = found.numbers | {k: v for k, v in proposal.training.items() if isinstance(v, int | float)}
    asked = " ".join(f"{c:.4g}" for c in proposal.conditions)
    numbers |= {"conditions": asked, "generated outside the bounds": found.starts.num_outside}
    history, kept = proposal.history, slice(9, None, 10)
    curves = {"epoch": np.arange(1, len(history.train.loss) + 1)[kept]}
    for part in ("train", "validation"):
        for name in ("loss", "rmse", "relative_rmse", "pearson", "spearman"):
            curves[f"{part}_{name}"] = np.round(getattr(getattr(history, part), name)[kept], 4)
    achieved = found.fidelity.table.groupby("condition").achieved.describe(percentiles=[0.25, 0.5, 0.75])
    distances = pd.DataFrame(
        [
            (name, *np.round(np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]), 4))
            for name, values in found.novelty._asdict().items()
            if isinstance(values, np.ndarray)
        ],
        columns=["distances", "5 %", "25 %", "50 %", "75 %", "95 %"],
    )
    starts = found.starts.differences.rename_axis("start").reset_index()
    starts = starts.assign(optima_generated=found.starts.optima["generated"].iloc[-1])
    starts = starts.assign(optima=[found.starts.optima[name].iloc[-1] for name in starts.start])
    return {
        "amortized": pd.DataFrame({"quantity": numbers.keys(), "value": numbers.values()}),
        "amortized_curves": pd.DataFrame(curves),
        "amortized_feasibility": found.feasibility.round(4),
        "amortized_fidelity": achieved.round(4).reset_index(),
        "amortized_novelty": distances,
        "amortized_starts": starts.round(4),
    }


def write(folder: Path, name: str, table: pd.DataFrame, problem: str, network: str) -> None:
    """Write rows in the place of those of the same problem and network."""
    path = folder / f"{name}.csv"
    table = table.assign(problem=problem, network=network)
    table = table[["problem", "network", *table.columns[:-2]]]
    if path.exists():
        old = pd.read_csv(path)
        table = pd.concat([old[(old.problem != problem) | (old.network != network)], table])
    table.to_csv(path, index=False)


def main() -> None:
    """Measure what the command line asks for."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", default=list(PROBLEMS), help="problems")
    parser.add_argument("--networks", nargs="*", default=["cvae", "flow"])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--archives", type=Path, help="folder in which archives are kept, and found again")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.archives or Path(temporary)
        for name in given.only:
            problem = PROBLEMS[name](given.data)
            archive = folder / f"{short(name)}.zarr"
            for network in given.networks:
                began = time.perf_counter()
                proposal = kb.amortize(
                    problem,
                    archive=archive,
                    network=network,
                    max_evaluations=2_000 if given.quick else BUDGET,
                    epochs=5 if given.quick else given.epochs,
                )
                proposal.save(folder / f"{name}_{network}.npz")
                found = kb.evaluate_proposal(problem, proposal, archive, starts=5 if given.quick else 100)
                print(name, network, f"{time.perf_counter() - began:.0f} s", found.numbers, flush=True)
                for file, table in {} if given.quick else tables_of(proposal, found).items():
                    write(given.out, file, table, name, network)


if __name__ == "__main__":
    main()
