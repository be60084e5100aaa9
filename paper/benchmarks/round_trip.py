"""Write the problems of the PEtab benchmark collection as PEtab of either version, read them back, compare densities.

Both posteriors are evaluated at the same five points, drawn from the prior (where it is improper, around the nominal
point), at tight tolerances. Version 2 has no scales, so densities are compared with respect to natural values.

python paper/benchmarks/round_trip.py
"""

import csv
import math
import tempfile
from pathlib import Path
from typing import NamedTuple

import collection
import numpy as np

import kinbayes as kb

SEED, POINTS = 0, 5
TOLERANCES = {"rtol": 1e-8, "atol": 1e-12}


class Row(NamedTuple):
    """A line of the table: one problem in one version.

    The difference is the largest absolute one of the log densities where both are finite, relative the same over the
    density; sizes are those of the SBML file and of all files, in bytes.
    """

    problem: str
    version: int
    max_difference: float
    max_relative_difference: float
    finite_points: int
    model_bytes: int
    bytes: int
    seed: int
    reason: str


def natural_log_density(problem: kb.Problem, u: np.ndarray) -> float:
    """Return the log posterior density with respect to natural values."""
    factors = {"ln": 1.0, "log10": math.log(10)}  # d ln(theta) / du
    logs = [factors[s] * x + math.log(factors[s]) for s, x in zip(problem.scale, u, strict=True) if s != "lin"]
    return float(problem.log_density(u)) - sum(logs)


def densities(problem: kb.Problem, other: kb.Problem) -> np.ndarray:
    """Return the log densities of two problems at the same points, shape ``(points, 2)``."""
    drawn = problem.draw_starts(np.random.default_rng(SEED), POINTS)
    found = []
    for u in drawn:
        values = problem.to_natural(u).values()
        # Where a wall of the prior is computed anew, rounding may move it a little.
        v = np.clip(other.to_scaled(dict(zip(other.parameter_names, values, strict=True))), other.lower, other.upper)
        found.append((natural_log_density(problem, u), natural_log_density(other, np.asarray(v))))
    return np.array(found)


def row(data: Path, name: str, version: int) -> Row:
    """Return the line of a problem."""
    try:
        problem = collection.read(data, name, **TOLERANCES)
        with tempfile.TemporaryDirectory() as folder:
            path = kb.export_petab(problem, Path(folder) / name, version=version)
            sizes = [file.stat().st_size for file in path.parent.iterdir()]
            model = (path.parent / "model.xml").stat().st_size
            both = densities(problem, kb.read_petab(path, **TOLERANCES))
    except ValueError as error:
        return Row(name, version, math.nan, math.nan, 0, 0, 0, SEED, " ".join(str(error).split()))
    finite = both[np.isfinite(both).all(axis=1)]
    difference = np.abs(finite[:, 0] - finite[:, 1])
    is_same = np.array_equal(np.isfinite(both[:, 0]), np.isfinite(both[:, 1]))
    return Row(
        name,
        version,
        float(difference.max(initial=0)),
        float((difference / np.abs(finite[:, 0])).max(initial=0)),
        len(finite),
        model,
        sum(sizes),
        SEED,
        "" if is_same else "finite at other points",
    )


def main() -> None:
    """Compare all problems and write the table."""
    arguments = collection.arguments(__doc__).parse_args()
    folder = collection.require(arguments.data / "petab" / "benchmark")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())[: 2 if arguments.quick else None]
    rows = []
    for name in names:
        for version in (1, 2):
            rows.append(row(arguments.data, name, version))
            print(rows[-1], flush=True)
    if not arguments.quick:
        with (arguments.out / "round_trip.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Row._fields)
            writer.writerows(rows)


if __name__ == "__main__":
    main()
