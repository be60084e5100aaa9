"""Read and simulate all cases of the SBML semantic test suite; count those that pass, are refused, or wrong.

Tier 1 has no events, tier 2 simple ones, tier 3 delayed, prioritised or non-persistent ones; "out" needs algebraic
rules, delays, fast reactions, packages or random execution.

python paper/benchmarks/sbml_suite.py
python paper/benchmarks/sbml_suite.py 00001 01208
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from collection import ROOT, arguments, require

sys.path.insert(0, str(ROOT))  # the judge is a part of the tests
from tests.formats.sbml.judge import Verdict, cases, judge

OUTCOMES = ("passed", "refused", "wrong")


def main() -> None:
    """Judge the cases named, or all; write and print what became of them."""
    parser = arguments(__doc__)
    parser.add_argument("case", nargs="*", help="cases, all if none is named")
    parser.add_argument("--tier", help="cases of one tier alone")
    given = parser.parse_args()
    suite = require(given.data / "sbml_test_suite")
    tiers = {c: tier for c, tier in cases(suite).items() if given.tier in (None, tier)}
    chosen = given.case or list(tiers)
    verdicts = [judge(suite, case, tiers[case]) for case in (chosen[::20] if given.quick else chosen)]
    tell(verdicts)
    if not (given.case or given.quick or given.tier):
        write(verdicts, given.out)


def write(verdicts: list[Verdict], folder: Path) -> None:
    """Write the table of all cases."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(verdicts)
    table[["seconds", "compiling"]] = table[["seconds", "compiling"]].round(4)
    table.to_csv(folder / "sbml_suite.csv", index=False)


def tell(verdicts: list[Verdict]) -> None:
    """Print what is wrong, why cases are refused, the numbers by tier, and the seconds."""
    for verdict in verdicts:
        if verdict.outcome == "wrong":
            print(f"{verdict.case} (tier {verdict.tier}): {verdict.reason}")
    for tier in sorted({v.tier for v in verdicts}):
        count = Counter(v.outcome for v in verdicts if v.tier == tier)
        print(f"tier {tier:>4}: " + ", ".join(f"{count[outcome]} {outcome}" for outcome in OUTCOMES))
    seconds = np.array([v.seconds for v in verdicts])
    compiling = sum(v.compiling for v in verdicts)
    worst = verdicts[int(seconds.argmax())]
    print(
        f"{seconds.sum():.1f} s in all, median {np.median(seconds):.3f} s, worst {worst.seconds:.1f} s ({worst.case}), "
        f"share of compilation {compiling / seconds.sum():.0%}"
    )


if __name__ == "__main__":
    main()
