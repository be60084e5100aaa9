"""Files that were changed at random are read, or refused by an error of kinbayes that names them; see `fuzzing`."""

import pytest

from tests.formats.fuzzing import KINDS, Case, failures, files_of, run, seeds
from tests.formats.guarded import Outcome

FEW = {"sbml": 80, "antimony": 10, "petab v1": 50, "petab v2": 50, "formula": 30}
MANY = {"sbml": 2000, "antimony": 300, "petab v1": 1000, "petab v2": 1000, "formula": 1000}


def check(kind, numbers):
    if not seeds(kind):
        pytest.skip(f"there is nothing of the kind {kind} to change here")
    if kind == "antimony":
        pytest.importorskip("antimony")
    cases = list(run(kind, numbers))
    kinds = {case.outcome.kind for case in cases}
    assert not failures(cases), "\n".join(failures(cases)[:5])
    assert kinds == {"read", "refused"}
    print(f"{kind}: {sum(c.outcome.kind == 'read' for c in cases)} of {len(cases)} read")


@pytest.mark.parametrize("kind", KINDS)
def test_some_changed_files(kind):
    check(kind, range(FEW[kind]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_changed_files(kind):
    check(kind, range(1_000_000, 1_000_000 + MANY[kind]))


def test_a_case_is_its_number():
    for kind in ("sbml", "petab v1", "formula"):
        assert files_of(kind, 3) == files_of(kind, 3)
        assert files_of(kind, 3) != files_of(kind, 4)


def test_other_errors_and_ended_processes_are_failures():
    outcomes = {"read": 0, "refused": 0, "untyped": 1, "died": 1}
    for kind, count in outcomes.items():
        assert len(failures([Case("sbml", 7, Outcome(kind))])) == count
