"""The Model of an SBML model: which of its symbols are states, parameters and expressions."""

import functools
import math
from collections.abc import Collection, Mapping, Sequence, Set

import libsbml

from kinbayes.formats.sbml.errors import SBMLError, at
from kinbayes.formats.sbml.events import in_amounts, read_events
from kinbayes.formats.sbml.rate_of import rates_of
from kinbayes.formats.sbml.reactions import changes, kinetic_laws, reacting
from kinbayes.formats.sbml.rules import Rules, initial_assignments, read_rules, solutions, unknowns
from kinbayes.formats.sbml.source import Source, is_point, read_source
from kinbayes.model.expressions import ZERO, Expr, const, substitute, symbol
from kinbayes.model.formula import RATE_OF, rate_of
from kinbayes.model.model import Model


def model_of(element: libsbml.Model) -> Model:
    """Return the Model of an SBML model.

    Raises
    ------
    SBMLError
        If the model contradicts itself.
    UnsupportedSBMLError
        If it uses what is not supported.
    ModelError
        If definitions form a circle.
    """
    source = read_source(element)
    starts = initial_assignments(source)
    rules = read_rules(source, starts)
    events = read_events(source, rules.assigned.keys())
    jumping = {name for event in events for name, _ in event.assignments}
    solved = unknowns(source, rules, reacting(source) | jumping)
    laws, local = kinetic_laws(source)
    change = changes(source, rules.assigned.keys() | rules.rates.keys())
    jumps_with = functools.partial(_unsteady, {*solved, *laws, *_with_a_rate(rules)}, _users(source, rules))
    unsteady = jumps_with(jumping)
    hidden = _hidden(source, rules, solved, unsteady)

    initial = {**_values(source), **local, **_sizes(source), **starts}
    expressions = {**rules.assigned, **laws}
    derivatives: dict[str, Expr] = {}
    for species in element.getListOfSpecies():
        name, size = species.getId(), symbol(species.getCompartment())
        state, slope = hidden.get(name, name), change.get(name)
        if name in hidden:
            initial[state] = starts[name] * size if name in starts else _start(species, is_amount=True)
            expressions[name] = symbol(state) / size
            if name in rules.rates:  # of the concentration
                slope = rules.rates[name] * size + symbol(name) * rate_of(size)
        elif name in rules.rates:
            slope = rules.rates[name]
        elif slope is not None and not _is_amount(source, species):
            slope = slope / size
        if slope is None and name in jumping:
            slope = ZERO
        if slope is not None:
            derivatives[state] = slope
    others = {name: rules.rates.get(name, ZERO) for name in (*rules.rates, *sorted(jumping))}
    derivatives |= {name: slope for name, slope in others.items() if source.find(libsbml.Species, name) is None}
    expressions |= solutions(rules, solved, expressions)
    initial = {name: start for name, start in initial.items() if name not in expressions}
    constants = initial.keys() - derivatives.keys()
    events = in_amounts(source, events, hidden, constants, jumps_with)
    roots = [*initial.values(), *(root for event in events for root in event.formulas)]
    rates = rates_of(roots, derivatives, expressions)
    return Model(
        name=element.getId() or element.getName() or "model",
        derivatives=_replaced(derivatives, rates),
        initial=_replaced(initial, rates),
        expressions=_replaced(expressions, rates),
        units=_units(element),
        events=tuple(event.substituted(rates) for event in events),
    )


def _replaced(formulas: Mapping[str, Expr], rates: Mapping[str, Expr]) -> dict[str, Expr]:
    return dict(zip(formulas, substitute(list(formulas.values()), rates), strict=True)) if rates else dict(formulas)


def _with_a_rate(rules: Rules) -> set[str]:
    """Return what assignment rules make of time derivatives."""
    return {name for name, e in rules.assigned.items() if any(s.startswith(RATE_OF) for s in e.symbols)}


def _users(source: Source, rules: Rules) -> dict[str, list[str]]:
    """Return what depends on each name, by an assignment rule or because it is the size around a species."""
    users: dict[str, list[str]] = {}
    for name, formula in rules.assigned.items():
        for used in formula.symbols:
            users.setdefault(used, []).append(name)
    for species in source.model.getListOfSpecies():
        users.setdefault(species.getCompartment(), []).append(species.getId())
    return users


def _unsteady(restless: Set[str], users: Mapping[str, Sequence[str]], jumping: Set[str]) -> set[str]:
    """Return what jumps when events assign the names `jumping`: these, what may always jump, and all that uses it."""
    if not jumping:
        return set()
    found = restless | jumping
    waiting = list(found)
    while waiting:
        more = set(users.get(waiting.pop(), ())) - found
        found |= more
        waiting.extend(more)
    return found


def _is_amount(source: Source, species: libsbml.Species) -> bool:
    """Return whether the symbol of a species is its amount, not its concentration."""
    compartment = source.find(libsbml.Compartment, species.getCompartment())
    if compartment is None:
        raise SBMLError(at(species, f"compartment {species.getCompartment()!r} is not defined"))
    return species.getHasOnlySubstanceUnits() or is_point(compartment)


def _hidden(source: Source, rules: Rules, solved: Collection[str], unsteady: Set[str]) -> dict[str, str]:
    """Return the concentrations whose states are amounts, with the names of these.

    Where the size of a compartment changes, the amount stays and the concentration follows. A rate rule determines
    the concentration itself, but not what becomes of it when the size jumps.
    """
    ruled = {*rules.assigned, *rules.rates, *solved}
    hidden = {}
    for species in source.model.getListOfSpecies():
        name, size = species.getId(), species.getCompartment()
        if _is_amount(source, species) or name in rules.assigned or name in solved:
            continue
        if size in unsteady or (size in ruled and name not in rules.rates):
            hidden[name] = f"amount of {name}"
    return hidden


def _values(source: Source) -> dict[str, Expr]:
    """Return the values that the file gives species, parameters and species references; NaN where there is none."""
    species, parameters = source.model.getListOfSpecies(), source.model.getListOfParameters()
    references = source.references.items()
    return {
        **{s.getId(): _start(s, is_amount=_is_amount(source, s)) for s in species},
        **{p.getId(): const(p.getValue() if p.isSetValue() else math.nan) for p in parameters},
        **{name: const(reference.getStoichiometry()) for name, reference in references},
    }


def _sizes(source: Source) -> dict[str, Expr]:
    """Return the sizes of compartments; where the file gives none 1 in Level 1, NaN in the others."""
    unset = 1.0 if source.model.getLevel() == 1 else math.nan
    compartments = [c for c in source.model.getListOfCompartments() if c.getId() in source.names]
    return {c.getId(): const(c.getSize() if c.isSetSize() else unset) for c in compartments}


def _start(species: libsbml.Species, *, is_amount: bool) -> Expr:
    """Return the initial amount or concentration; where the file has the other one, it follows the size."""
    size = symbol(species.getCompartment())
    if species.isSetInitialAmount():
        value = const(species.getInitialAmount())
        return value if is_amount else value / size
    if species.isSetInitialConcentration():
        value = const(species.getInitialConcentration())
        return value * size if is_amount else value
    return const(math.nan)


def _units(model: libsbml.Model) -> dict[str, str]:
    """Return the units that a file declares, as it calls them."""

    def text(name: str) -> str:
        definition = model.getUnitDefinition(name)
        return definition.getName() or name if definition else name

    declared = [*model.getListOfParameters(), *model.getListOfCompartments()]
    units = {element.getId(): text(element.getUnits()) for element in declared if element.isSetUnits()}
    for species in model.getListOfSpecies():
        substance = text(species.getSubstanceUnits() or model.getSubstanceUnits())
        size = units.get(species.getCompartment())
        if substance and species.getHasOnlySubstanceUnits():
            units[species.getId()] = substance
        elif substance and size:
            units[species.getId()] = f"{substance}/{size}"
    return units
