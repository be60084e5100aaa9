"""Time the curated BioModels beside libroadrunner: from the file to a first result, a simulation once more, a solution.

Both simulate from 0 to 100 with 101 rows at the same tolerances, model by model in turn, each in a process of its own
that has loaded what all models share. A first result takes reading and compiling. A solution is what a posterior takes,
the states without their names; libroadrunner has no other call for it. Of both the fastest of some.

python paper/benchmarks/simulators.py --roadrunner ENVIRONMENT/bin/python
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

RTOL, ATOL, END, ROWS, ROUNDS = 1e-8, 1e-12, 100.0, 101, 3
FIRST = ("BIOMD0000000010", "BIOMD0000000001")  # load what all models share, without and with events


def answer(name: str) -> None:
    """Answer for a simulator: a path a line in, the seconds of a first simulation, a further one, a solution out."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what else is printed
    prepare = {"kinbayes": _kinbayes, "roadrunner": _roadrunner}[name]
    for line in sys.stdin:
        try:
            started = time.perf_counter()
            simulate, prepare_solution = prepare(line.strip())
            simulate()
            first = time.perf_counter() - started
            told = [first, _fastest(simulate), _fastest(prepare_solution())]
        except (ValueError, RuntimeError) as error:
            told = str(error)[:200]
        print(json.dumps(told), file=answers)


def _fastest(run: Callable[[], object]) -> float:
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run()
        rounds.append(time.perf_counter() - started)
    return min(rounds)


def _kinbayes(path: str) -> tuple[Callable, Callable]:
    import numpy as np

    import kinbayes as kb
    from kinbayes.ode import native, simulate

    model = kb.read_sbml(path)
    times = [END * k / (ROWS - 1) for k in range(ROWS)]
    missing = {n: 0.0 for n, e in model.initial.items() if e.op == "const" and e.value != e.value}

    def prepare_solution() -> Callable:
        given = {n: e.value for n, e in model.initial.items() if e.op == "const"} | missing
        code = simulate._compiled(model, tuple(given))
        numbers = simulate._numbers(code, list(given.values()), np.array(times), (RTOL, ATOL), 1_000_000)
        return lambda: native.simulated(numbers, np.zeros((1, 0)), with_states=True)

    return lambda: kb.simulate(model, times, missing, rtol=RTOL, atol=ATOL, max_steps=1_000_000), prepare_solution


def _roadrunner(path: str) -> tuple[Callable, Callable]:
    import roadrunner

    roadrunner.Logger.setLevel(roadrunner.Logger.LOG_FATAL)
    model = roadrunner.RoadRunner(path)
    model.integrator.relative_tolerance, model.integrator.absolute_tolerance = RTOL, ATOL
    model.integrator.maximum_num_steps = 1_000_000

    def simulate() -> None:
        model.resetAll()
        model.simulate(0, END, ROWS)

    return simulate, lambda: simulate


def main() -> None:
    """Time all models, write the table and print the ratios."""
    from collection import arguments, require

    parser = arguments(__doc__)
    parser.add_argument("--roadrunner", type=Path, required=True, help="a Python that has libroadrunner")
    given = parser.parse_args()
    commands = {"kinbayes": sys.executable, "roadrunner": str(given.roadrunner)}
    servers = {
        name: subprocess.Popen(
            [python, __file__, "--answer", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name, python in commands.items()
    }

    def ask(name: str, path: Path) -> object:
        server = servers[name]
        server.stdin.write(f"{path}\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    rows = []
    with zipfile.ZipFile(require(given.data / "biomodels.zip")) as archive, tempfile.TemporaryDirectory() as folder:
        members = {Path(n).stem: n for n in sorted(archive.namelist()) if n.endswith(".xml")}
        for stem in FIRST:
            for name in servers:
                ask(name, Path(archive.extract(members[stem], folder)))
        for stem in list(members)[:: 20 if given.quick else 1]:
            path = Path(archive.extract(members[stem], folder))
            rows.append((stem, *(ask(name, path) for name in servers)))
    for server in servers.values():
        server.stdin.close()
    tell(rows, None if given.quick else given.out)


def tell(rows: list[tuple], out: Path | None) -> None:
    """Print the ratios over the models that both simulate; write the table."""
    import numpy as np
    import pandas as pd

    both = [
        (s, *ours, *theirs) for s, ours, theirs in rows if not isinstance(ours, str) and not isinstance(theirs, str)
    ]
    columns = ["model", "first", "again", "solution", "roadrunner_first", "roadrunner_again", "roadrunner_solution"]
    table = pd.DataFrame(both, columns=columns)
    if out is not None:
        table.to_csv(out / "simulators.csv", index=False, float_format="%.4g")
    alone = [sum(isinstance(a, str) for _, a, _ in rows), sum(isinstance(b, str) for _, _, b in rows)]
    print(f"{len(rows)} models, {len(table)} by both; not by kinbayes {alone[0]}, not by libroadrunner {alone[1]}")
    for what in ("first", "again", "solution"):
        ratio = table[f"roadrunner_{what}"] / table[what]
        low, middle, high = ratio.quantile([0.05, 0.5, 0.95])
        print(
            f"{what}: kinbayes median {table[what].median() * 1e3:.2f} ms, libroadrunner "
            f"{table[f'roadrunner_{what}'].median() * 1e3:.2f} ms; libroadrunner over kinbayes: geometric mean "
            f"{np.exp(np.log(ratio).mean()):.2f}, median {middle:.2f}, 5 % {low:.2f}, 95 % {high:.2f}; sums "
            f"{table[f'roadrunner_{what}'].sum():.1f} s and {table[what].sum():.1f} s"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--answer"]:
        answer(sys.argv[2])
    else:
        main()
