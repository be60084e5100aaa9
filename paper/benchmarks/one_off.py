"""Measure what one simulation of a small model costs that nobody will simulate again, in fresh processes.

The import of kinbayes, the first model read, its first simulation, and then reading and simulating each of 20 further
models of the SBML semantic test suite, one after the other. Medians of 5 processes; numba's cache and byte code are
there already.

python paper/benchmarks/one_off.py
"""

import argparse
import compileall
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROCESSES, FURTHER = 5, 20

# Run with the paths of the models: nothing else may be imported before the clock starts.
PROGRAM = """
import json, sys, time
clock = time.perf_counter
times, marks = [0.1 * k for k in range(101)], [clock()]
import kinbayes as kb
marks.append(clock())
model = kb.read_sbml(sys.argv[1])
marks.append(clock())
kb.simulate(model, times)
marks.append(clock())
for path in sys.argv[2:]:
    kb.simulate(kb.read_sbml(path), times)
    marks.append(clock())
print(json.dumps([after - before for before, after in zip(marks, marks[1:])]))
"""


def models(suite: Path) -> list[Path]:
    """Return a model and further ones, spread over the cases without events."""
    with (suite / "cases.tsv").open() as file:
        cases = [row["case"] for row in csv.DictReader(file, delimiter="\t") if row["tier"] == "1"]
    return [suite / cases[k * len(cases) // (FURTHER + 1)] / "model.xml" for k in range(FURTHER + 1)]


def seconds(paths: list[Path]) -> list[float]:
    """Return the seconds of each part in a fresh process."""
    command = [sys.executable, "-c", PROGRAM, *map(str, paths)]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data")
    suite = parser.parse_args().data / "sbml_test_suite"
    if not suite.is_dir():
        sys.exit(f"skipped: {suite} is absent; give the folder of the data with --data")
    compileall.compile_dir(ROOT / "kinbayes", quiet=2)
    paths = models(suite)
    seconds(paths)  # fills numba's cache
    runs = [seconds(paths) for _ in range(PROCESSES)]
    parts = {
        "import kinbayes": [run[0] for run in runs],
        "first read": [run[1] for run in runs],
        "first simulation": [run[2] for run in runs],
        "first read and simulation": [run[1] + run[2] for run in runs],
        "further model, median": [statistics.median(run[3:]) for run in runs],
        "further model, worst": [max(run[3:]) for run in runs],
    }
    print(f"{'ms':26} {'median':>8} {'fastest':>8} {'slowest':>8}")
    for name, taken in parts.items():
        print(f"{name:26} {1e3 * statistics.median(taken):8.1f} {1e3 * min(taken):8.1f} {1e3 * max(taken):8.1f}")


if __name__ == "__main__":
    main()
