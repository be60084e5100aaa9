"""Calibrate every sampler by simulation, and add its rows to a table; tests/calibration.py says how.

A row is a quantity of one run: the p-value of its ranks' uniformity, and the share of central intervals that cover the
truth. `smallest_p` is of all tests of the run, corrected for their number; below 0.001 the run fails. The rows of a
mistake must fail.

python paper/benchmarks/calibration.py                                        # all samplers, both models, the mistakes
python paper/benchmarks/calibration.py --samplers dream --models influenza    # replaces these rows
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from collection import ROOT, arguments
from rounds import tell

sys.path.insert(0, str(ROOT))  # the calibration is a part of the tests
from tests import calibration

ALPHA = 0.001
CONTROL = "adaptive_metropolis"  # the sampler that is given mistaken targets
RUN = ["sampler", "mistake", "model"]  # what rows of one run share


def rows_of(sampler: str, mistake: str, model: str, *, replicates: int, seed: int) -> list[dict[str, object]]:
    """Calibrate a sampler, with a mistake if one is named, and return the rows of its quantities."""
    change = [calibration.MISTAKES[mistake]] if mistake else []
    sample = calibration.sampling(sampler, calibration.SIZES[sampler][model], *change)
    ranks = calibration.calibrate(calibration.PROBLEMS[model](), sample, replicates=replicates, seed=seed)
    verdict = calibration.judge(ranks.values)
    rows = [
        {
            "sampler": sampler,
            "mistake": mistake,
            "model": model,
            "quantity": name,
            "replicates": len(ranks.values),
            "unconverged": ranks.unconverged,
            "p_uniform": verdict.p_uniform[k],
            **{f"coverage_{100 * level:.0f}": verdict.coverage[k, j] for j, level in enumerate(calibration.LEVELS)},
            "smallest_p_coverage": verdict.p_coverage[k].min(),
            "smallest_p": verdict.p,
            "verdict": "fails" if verdict.p < ALPHA else "calibrated",
            "median_seconds": np.median(ranks.seconds),
            "mean_seconds": ranks.seconds.mean(),
        }
        for k, name in enumerate(ranks.names)
    ]
    for row in rows:
        tell(row)
    return rows


def put(rows: list[dict[str, object]], path: Path) -> None:
    """Add the rows of a run to a table, in place of those of the same run before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    if path.exists():
        before = pd.read_csv(path, keep_default_na=False)
        is_other = (before[RUN] != [rows[0][key] for key in RUN]).any(axis=1)
        table = pd.concat([before[is_other], table])
    table.to_csv(path, index=False, float_format="%.4g")


def main() -> None:
    """Calibrate what is asked for, and write the rows of each run when it is done."""
    parser = arguments(__doc__)
    parser.add_argument("--samplers", nargs="*", choices=list(calibration.SIZES), help="all by default")
    parser.add_argument("--models", nargs="*", choices=list(calibration.PROBLEMS), help="all by default")
    parser.add_argument("--no-mistakes", action="store_true", help="leave the negative controls out")
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    models, samplers = given.models or list(calibration.PROBLEMS), given.samplers or list(calibration.SIZES)
    runs = [(sampler, "", model) for sampler in samplers for model in models]
    if not given.no_mistakes:
        runs += [(CONTROL, mistake, "conversion_reaction") for mistake in calibration.MISTAKES]
    for run in runs:
        rows = rows_of(*run, replicates=10 if given.quick else given.replicates, seed=given.seed)
        if not given.quick:
            put(rows, given.out / "calibration.csv")


if __name__ == "__main__":
    main()
