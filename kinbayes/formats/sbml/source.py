"""The names of an SBML model, and its formulas as expressions."""

from collections.abc import Iterator, Mapping, Set
from typing import NamedTuple

import libsbml

from kinbayes.formats.sbml.errors import SBMLError, UnsupportedSBMLError, at
from kinbayes.model.expressions import ZERO, Expr, const, substitute, symbol
from kinbayes.model.formula import RATE_OF, FormulaError, Functions, UnsupportedFormulaError, from_ast, rate_of

_DERIVATIVE = "http://en.wikipedia.org/wiki/Derivative"


class Source(NamedTuple):
    """The model of a file, and what its formulas can refer to.

    Attributes
    ----------
    model
        The model.
    functions
        Its functions.
    stoichiometries
        The species references that have an id and a number that nothing changes.
    references
        The species references that something gives a value.
    names
        Everything that has a value, without those numbers: compartments, species, parameters, reactions, references.
    """

    model: libsbml.Model
    functions: Functions
    stoichiometries: Mapping[str, Expr]
    references: Mapping[str, libsbml.SpeciesReference]
    names: frozenset[str]

    def is_constant(self, name: str) -> bool:
        """Return whether the file calls a name constant; reactions have rates, which are not."""
        element = self.references.get(name)
        kinds = (self.model.getCompartment, self.model.getSpecies, self.model.getParameter)
        element = element or next(filter(None, (find(name) for find in kinds)), None)
        # Level 1 knows no constants.
        return element is not None and self.model.getLevel() > 1 and element.getConstant()


def read_source(model: libsbml.Model) -> Source:
    """Return the names of a model; no two may be the same."""
    named = [
        *model.getListOfCompartments(),
        *model.getListOfSpecies(),
        *model.getListOfParameters(),
        *model.getListOfReactions(),
    ]
    used = [reference for reaction in model.getListOfReactions() for _, reference in references(reaction)]
    with_id = [reference for reference in used if reference.isSetId()]
    lines: dict[str, int] = {}
    for element in [*named, *with_id, *model.getListOfFunctionDefinitions()]:
        if element.getId() in lines:
            raise SBMLError(at(element, f"line {lines[element.getId()]} has the same id"))
        lines[element.getId()] = element.getLine()
    given = _given(model)
    varying = {reference.getId(): reference for reference in with_id if reference.getId() in given}
    numbers = [r for r in with_id if r.getId() not in varying and not r.isSetStoichiometryMath()]
    names = {e.getId() for e in named if not _is_sizeless_point(e) or e.getId() in given}
    return Source(
        model=model,
        functions=_functions(model),
        stoichiometries={reference.getId(): const(stoichiometry(reference)) for reference in numbers},
        references=varying,
        names=frozenset(names | varying.keys()),
    )


def rename_time(model: libsbml.Model) -> None:
    """Give what a model calls `time` another name, in place: formulas use that name for the time itself."""
    element = model.getElementBySId("time")
    if element is None:
        return
    name = "time_"
    while model.getElementBySId(name) is not None:
        name += "_"
    element.setId(name)
    everything = model.getListOfAllElements()
    for other in (everything.get(i) for i in range(everything.getSize())):
        other.renameSIdRefs("time", name)


def _given(model: libsbml.Model) -> set[str]:
    """Return the names that an initial assignment, a rule or an event gives a value."""
    rules = list(model.getListOfRules())
    events = [assignment for event in model.getListOfEvents() for assignment in event.getListOfEventAssignments()]
    targets = [*model.getListOfInitialAssignments(), *(r for r in rules if not r.isAlgebraic()), *events]
    names = {element.getId() for element in targets if element.isSetMath()}
    algebraic = [rule.getMath() for rule in rules if rule.isAlgebraic() and rule.isSetMath()]
    return names.union(*(_names(tree, libsbml.AST_NAME) for tree in algebraic))


def _is_sizeless_point(element: libsbml.SBase) -> bool:
    return isinstance(element, libsbml.Compartment) and is_point(element) and not element.isSetSize()


def is_point(compartment: libsbml.Compartment) -> bool:
    """Return whether a compartment has no dimensions: what is in it has an amount, but no concentration."""
    return compartment.isSetSpatialDimensions() and compartment.getSpatialDimensionsAsDouble() == 0


def references(reaction: libsbml.Reaction) -> Iterator[tuple[int, libsbml.SpeciesReference]]:
    """Return the reactants and products of a reaction, each with the sign of its change."""
    yield from ((-1, reference) for reference in reaction.getListOfReactants())
    yield from ((+1, reference) for reference in reaction.getListOfProducts())


def stoichiometry(reference: libsbml.SpeciesReference) -> float:
    """Return the number that the file gives a species reference."""
    value = reference.getStoichiometry() / reference.getDenominator()
    if value != value:
        text = f"the stoichiometry of {reference.getSpecies()!r} is no number, so it is not supported"
        raise UnsupportedSBMLError(at(reference, text))
    return value


def _functions(model: libsbml.Model) -> Functions:
    """Return the functions of a model; one may call others, wherever these are defined."""
    waiting = {f.getId(): f for f in model.getListOfFunctionDefinitions() if f.getBody() is not None}
    done = {f.getId(): (("x",), rate_of(symbol("x"))) for f in waiting.values() if _is_rate_of(f)}
    waiting = {name: f for name, f in waiting.items() if name not in done}
    calls = {name: _names(f.getBody(), libsbml.AST_FUNCTION) for name, f in waiting.items()}
    while waiting:
        ready = [f for name, f in waiting.items() if not waiting.keys() & calls[name]]
        if not ready:
            function = next(iter(waiting.values()))
            raise SBMLError(at(function, f"the functions {sorted(waiting)} call each other in a circle"))
        for function in ready:
            arguments = tuple(function.getArgument(i).getName() for i in range(function.getNumArguments()))
            body = _expression(function, function.getBody(), done, {*arguments})
            done[function.getId()] = (arguments, body)
            del waiting[function.getId()]
    return done


def _is_rate_of(function: libsbml.FunctionDefinition) -> bool:
    """Return whether a function stands for `rateOf`: COPASI marks it so where SBML itself has no symbol for it."""
    annotation = function.getAnnotation()
    children = [annotation.getChild(i) for i in range(annotation.getNumChildren())] if annotation is not None else []
    marks = [child.getAttrValue("definition") for child in children if child.getName() == "symbols"]
    return function.getNumArguments() == 1 and _DERIVATIVE in marks


def _names(root: libsbml.ASTNode, kind: int) -> set[str]:
    """Return the names of all nodes of a kind."""
    names, stack = set(), [root]
    while stack:
        node = stack.pop()
        if node.getType() == kind:
            names.add(node.getName())
        stack.extend(node.getChild(i) for i in range(node.getNumChildren()))
    return names


def _expression(element: libsbml.SBase, tree: libsbml.ASTNode, functions: Functions, known: Set[str]) -> Expr:
    try:
        expression = from_ast(tree, functions)
    except UnsupportedFormulaError as error:
        raise UnsupportedSBMLError(at(element, str(error))) from error
    except FormulaError as error:
        raise SBMLError(at(element, str(error))) from error
    unknown = {name.removeprefix(RATE_OF) for name in expression.symbols} - known - {"time"}
    if unknown:
        raise SBMLError(at(element, f"its formula uses {sorted(unknown)}, not defined in the model"))
    return expression


def formula(
    source: Source, element: libsbml.SBase, tree: libsbml.ASTNode, local: Mapping[str, Expr] | None = None
) -> Expr:
    """Return the expression of a formula of an element.

    Parameters
    ----------
    source
        The model.
    element
        Where the formula stands, for errors.
    tree
        The formula.
    local
        Constants that only this formula knows; they hide others of the same name.
    """
    fixed = {**source.stoichiometries, **(local or {})}
    expression = _expression(element, tree, source.functions, source.names | fixed.keys())
    used = {name: value for name, value in fixed.items() if expression.depends_on(name)}
    slopes = {RATE_OF + name: ZERO for name in fixed if expression.depends_on(RATE_OF + name)}
    return substitute([expression], {**used, **slopes})[0]
