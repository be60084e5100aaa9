"""Initial assignments and rules of an SBML model."""

from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

import libsbml

from kinbayes.formats.sbml.errors import SBMLError, UnsupportedSBMLError, at
from kinbayes.formats.sbml.source import Source, formula
from kinbayes.model.algebraic import AlgebraicError, solve
from kinbayes.model.expressions import Expr, substitute
from kinbayes.model.model import resolve


class Rules(NamedTuple):
    """The rules of a model by their targets, and the formulas that algebraic rules make 0.

    What has no formula has no effect.
    """

    assigned: dict[str, Expr]
    rates: dict[str, Expr]
    zeros: list[tuple[libsbml.AlgebraicRule, Expr]]


def initial_assignments(source: Source) -> dict[str, Expr]:
    """Return the formulas of the initial assignments by their targets."""
    starts: dict[str, Expr] = {}
    for assignment in source.model.getListOfInitialAssignments():
        if assignment.isSetMath():
            _check_target(source, assignment, starts.keys())
            starts[assignment.getSymbol()] = formula(source, assignment, assignment.getMath())
    return starts


def read_rules(source: Source, starts: Mapping[str, Expr]) -> Rules:
    """Return the rules of a model that has these initial assignments."""
    rules = Rules({}, {}, [])
    for rule in source.model.getListOfRules():
        if not rule.isSetMath():
            continue
        if rule.isAlgebraic():
            rules.zeros.append((rule, formula(source, rule, rule.getMath())))
            continue
        table, taken = (
            (rules.assigned, {*starts, *rules.rates}) if rule.isAssignment() else (rules.rates, {*rules.assigned})
        )
        _check_target(source, rule, taken | table.keys())
        table[rule.getVariable()] = formula(source, rule, rule.getMath())
    return rules


def _check_target(source: Source, element: libsbml.SBase, taken: Set[str]) -> None:
    target = element.getId()
    if target not in source.names or source.find(libsbml.Reaction, target) is not None:
        text = "there is no species, parameter, compartment or species reference of this id"
        raise SBMLError(at(element, text))
    if target in taken:
        raise SBMLError(at(element, "another rule or initial assignment has the same target"))


def unknowns(source: Source, rules: Rules, changed: Set[str]) -> list[str]:
    """Return what the algebraic rules determine: what is not constant in their formulas and nothing else changes.

    Parameters
    ----------
    source
        The model.
    rules
        Its rules.
    changed
        What reactions and events change.
    """
    taken = {*rules.assigned, *rules.rates, *changed}
    used = frozenset().union(*(zero.symbols for _, zero in rules.zeros)) & source.names
    free = sorted(
        name for name in used - taken if not source.is_constant(name) and source.find(libsbml.Reaction, name) is None
    )
    if len(free) != len(rules.zeros):
        rule, _ = rules.zeros[0]
        text = f"{len(rules.zeros)} algebraic rule(s) cannot determine {free or 'anything'}"
        if len(free) > len(rules.zeros):
            raise UnsupportedSBMLError(at(rule, f"{text}; declare constant what does not change"))
        raise SBMLError(at(rule, f"{text}: everything else in their formulas is constant or changed otherwise"))
    return free


def solutions(rules: Rules, names: Sequence[str], expressions: Mapping[str, Expr]) -> dict[str, Expr]:
    """Return expressions of the unknowns of the algebraic rules.

    Parameters
    ----------
    rules
        The rules.
    names
        The unknowns.
    expressions
        All other expressions of the model; the unknowns may be hidden in them.
    """
    if not names:
        return {}
    known = resolve(expressions)
    zeros = substitute([zero for _, zero in rules.zeros], known)
    try:
        return solve(zeros, names)
    except AlgebraicError as error:
        rule, _ = rules.zeros[error.equation]
        raise UnsupportedSBMLError(at(rule, str(error))) from error
