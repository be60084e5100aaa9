"""Read 100,000 files that were changed at random; count what was read and refused, and what else happened.

A file is read into a model or problem, or refused by an error of kinbayes that names it, within 10 s and 2 GiB. Some of
what can be read is simulated or evaluated, too. Anything else is a failure, printed with the number that replays it:
`python -m tests.formats.fuzzing sbml 17`.

python paper/benchmarks/fuzz.py
python paper/benchmarks/fuzz.py --quick
"""

import sys
from collections import Counter

import pandas as pd
from collection import ROOT, arguments

sys.path.insert(0, str(ROOT))  # the harness is a part of the tests
from tests.formats.fuzzing import Case, failures, run

CASES = {"sbml": 40_000, "antimony": 5_000, "petab v1": 15_000, "petab v2": 15_000, "formula": 25_000}


def main() -> None:
    """Read the cases of every kind; write and print what became of them."""
    given = arguments(__doc__).parse_args()
    rows = []
    for kind, number in CASES.items():
        cases = list(run(kind, range(number // 100 if given.quick else number)))
        rows.append(row(kind, cases))
        print(rows[-1], flush=True)
        for failure in failures(cases):
            print(failure, flush=True)
    if not given.quick:
        given.out.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).fillna(0).convert_dtypes().to_csv(given.out / "fuzzing.csv", index=False)


def row(kind: str, cases: list[Case]) -> dict[str, object]:
    """Return the line of the table for one kind."""
    outcomes = [case.outcome for case in cases]
    refused = Counter(outcome.error for outcome in outcomes if outcome.kind == "refused")
    counts = Counter(outcome.kind for outcome in outcomes)
    return {
        "kind": kind,
        "cases": len(cases),
        "read": counts["read"],
        "untyped_errors": counts["untyped"],
        "ended_processes": counts["died"],
        "slowest_seconds": round(max(outcome.seconds for outcome in outcomes), 3),
        "peak_memory_MiB": max(outcome.memory for outcome in outcomes) // 2**20,
        **dict(sorted(refused.items())),
    }


if __name__ == "__main__":
    main()
