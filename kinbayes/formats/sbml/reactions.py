"""What the reactions of an SBML model change, and how fast."""

import math
from collections.abc import Set

import libsbml

from kinbayes.formats.sbml.errors import SBMLError, at
from kinbayes.formats.sbml.source import Source, formula, references, stoichiometry
from kinbayes.model.expressions import ZERO, Expr, const, symbol


def kinetic_laws(source: Source) -> tuple[dict[str, Expr], dict[str, Expr]]:
    """Return the rate of every reaction, and the values of the local parameters."""
    laws: dict[str, Expr] = {}
    values: dict[str, Expr] = {}
    for reaction in source.model.getListOfReactions():
        law = reaction.getKineticLaw()
        local: dict[str, Expr] = {}
        for parameter in law.getListOfParameters():
            name = f"{reaction.getId()}.{parameter.getId()}"
            local[parameter.getId()] = symbol(name)
            values[name] = const(parameter.getValue() if parameter.isSetValue() else math.nan)
        laws[reaction.getId()] = formula(source, reaction, law.getMath(), local)
    return laws, values


def reacting(source: Source) -> set[str]:
    """Return the species that reactions can change."""
    found = set()
    for reaction in source.model.getListOfReactions():
        for _, reference in references(reaction):
            name = reference.getSpecies()
            species = source.find(libsbml.Species, name)
            if species is None:
                raise SBMLError(at(reaction, f"species {name!r} is not defined"))
            if not species.getBoundaryCondition():
                found.add(name)
    return found


def changes(source: Source, ruled: Set[str]) -> dict[str, Expr]:
    """Return what reactions add to the amount of each species per time.

    Parameters
    ----------
    source
        The model.
    ruled
        What rules determine; no reaction can change it.
    """
    can_change = reacting(source)
    total: dict[str, Expr] = {}
    for reaction in source.model.getListOfReactions():
        net: dict[str, Expr] = {}
        for sign, reference in references(reaction):
            name = reference.getSpecies()
            if name not in can_change:
                continue
            if name in ruled or source.elements[name].getConstant():
                text = f"species {name!r} is constant or the target of a rule, so no reaction can change it"
                raise SBMLError(at(reaction, f"{text}; set its boundaryCondition"))
            net[name] = net.get(name, ZERO) + sign * _factor(source, reference)
        for name, number in net.items():
            if number is not ZERO:
                total[name] = total.get(name, ZERO) + number * symbol(reaction.getId())
    return {name: _converted(source, name, change) for name, change in total.items()}


def _factor(source: Source, reference: libsbml.SpeciesReference) -> Expr:
    """Return the stoichiometry of a species reference: a formula in Level 2, a symbol where something changes it."""
    if reference.isSetStoichiometryMath() and reference.getStoichiometryMath().isSetMath():
        return formula(source, reference, reference.getStoichiometryMath().getMath())
    if reference.getId() in source.references:
        return symbol(reference.getId())
    return const(stoichiometry(reference))


def _converted(source: Source, name: str, change: Expr) -> Expr:
    """Return the change of a species in its own units, where reactions have others."""
    species = source.elements[name]
    factor = species.getConversionFactor() or source.model.getConversionFactor()
    if factor and source.find(libsbml.Parameter, factor) is None:
        raise SBMLError(at(species, f"its conversion factor {factor!r} is no parameter of the model"))
    return change * symbol(factor) if factor else change
