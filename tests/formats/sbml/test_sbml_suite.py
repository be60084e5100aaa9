"""The SBML semantic test suite, where it lies beside the project."""

from collections import Counter
from pathlib import Path

import pytest

from tests.formats.sbml.judge import cases, compared, judge

SUITE = Path(__file__).parents[4] / "shared" / "data" / "sbml_test_suite"
pytestmark = pytest.mark.skipif(not SUITE.is_dir(), reason="the SBML test suite is not beside the project")

# Between them they have every tag of the suite that a supported case has.
# fmt: off
SAMPLE = [
    "00056", "00598", "01061", "01118", "01199", "01210", "01235", "01247", "01277",
    "01288", "01291", "01310", "01316", "01465", "01478", "01496", "01513", "01553",
    "01640", "01657", "01762", "01765", "01784", "01796", "01805",
    # Stoichiometries, conversion factors, rates, points
    "01108", "01484", "01502", "00068", "01253",
    # Events
    "00947", "01000", "01505", "01510", "01531", "01780",
    # Algebraic rules, submodels
    "00040", "00539", "01124", "01349", "01793",
]
# fmt: on


@pytest.mark.parametrize("case", SAMPLE)
def test_a_case_passes(case):
    assert compared(SUITE / case).wrong == []


def test_the_comparison_notices_a_wrong_rate():
    assert compared(SUITE / "00001", {"k1": 1.0}).wrong == []
    assert compared(SUITE / "00001", {"k1": 1.01}).wrong == ["S1", "S2"]


@pytest.mark.slow
def test_no_case_is_wrong_and_what_is_refused_is_known():
    verdicts = [judge(SUITE, case, tier) for case, tier in cases(SUITE).items()]
    assert [v for v in verdicts if v.outcome == "wrong"] == []
    assert Counter((v.tier, v.outcome) for v in verdicts) == {
        ("1", "passed"): 689,
        ("2", "passed"): 123,
        ("3", "passed"): 161,
        ("out", "passed"): 152,
        ("out", "refused"): 89,
    }
    reasons = ("delay", "fast", "no kinetic law", "there is no file", "cannot determine")
    refused = [next(r for r in reasons if r in v.reason) for v in verdicts if v.outcome == "refused"]
    assert Counter(refused) == {
        "delay": 34,
        "fast": 23,
        "no kinetic law": 24,
        "there is no file": 7,  # the suite beside the project holds no files but model.xml
        "cannot determine": 1,  # either of two species
    }
