"""The names of an SBML model, and its formulas as expressions."""

from collections import ChainMap
from collections.abc import Container, Iterator, Mapping
from typing import NamedTuple

import libsbml

from kinbayes.formats.sbml.document import elements
from kinbayes.formats.sbml.errors import SBMLError, UnsupportedSBMLError, at
from kinbayes.model.expressions import ZERO, Expr, const, substitute, symbol
from kinbayes.model.formula import RATE_OF, FormulaError, Functions, UnsupportedFormulaError, from_ast, nodes, rate_of

_DERIVATIVE = "http://en.wikipedia.org/wiki/Derivative"

# Of all formulas together; those of the curated BioModels stay below 25,000.
_MOST_NODES = 200_000


class Source(NamedTuple):
    """The model of a file, and what its formulas can refer to.

    Attributes
    ----------
    model
        The model.
    elements
        Its compartments, species, parameters and reactions, by id.
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
    elements: Mapping[str, libsbml.SBase]
    functions: Functions
    stoichiometries: Mapping[str, Expr]
    references: Mapping[str, libsbml.SpeciesReference]
    names: frozenset[str]

    def is_constant(self, name: str) -> bool:
        """Return whether the file calls a name constant; reactions have rates, which are not."""
        element = self.references.get(name) or self.elements.get(name)
        if element is None or isinstance(element, libsbml.Reaction):
            return False
        return self.model.getLevel() > 1 and element.getConstant()  # Level 1 knows no constants

    def find(self, kind: type, name: str) -> libsbml.SBase | None:
        """Return the element of a kind and id; libsbml would look through all of them."""
        element = self.elements.get(name)
        return element if isinstance(element, kind) else None


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
        elements={element.getId(): element for element in named},
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
    for other in elements(model):
        other.renameSIdRefs("time", name)


def _given(model: libsbml.Model) -> set[str]:
    """Return the names that an initial assignment, a rule or an event gives a value."""
    rules = list(model.getListOfRules())
    events = [assignment for event in model.getListOfEvents() for assignment in event.getListOfEventAssignments()]
    targets = [*model.getListOfInitialAssignments(), *(r for r in rules if not r.isAlgebraic()), *events]
    names = {element.getId() for element in targets if element.isSetMath()}
    algebraic = [rule.getMath() for rule in rules if rule.isAlgebraic() and rule.isSetMath()]
    return names.union(*(_named(tree, libsbml.AST_NAME) for tree in algebraic))


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
    calls = {name: _named(f.getBody(), libsbml.AST_FUNCTION) for name, f in waiting.items()}
    sizes = dict.fromkeys(done, 1)  # of the bodies with all calls written out
    while waiting:
        ready = [f for name, f in waiting.items() if waiting.keys().isdisjoint(calls[name])]
        if not ready:
            function = next(iter(waiting.values()))
            raise SBMLError(at(function, f"the functions {sorted(waiting)} call each other in a circle"))
        for function in ready:
            size = sum(1 for _ in nodes(function.getBody()))
            sizes[function.getId()] = size + sum(sizes.get(name, 0) for name in calls[function.getId()])
            _check_size(function, sizes[function.getId()])
            arguments = tuple(function.getArgument(i).getName() for i in range(function.getNumArguments()))
            body = _expression(function, function.getBody(), done, {*arguments})
            done[function.getId()] = (arguments, body)
            del waiting[function.getId()]
    if done:
        math = [element.getMath() for element in elements(model) if hasattr(element, "getMath")]
        called = [name for tree in math if tree is not None for name in _named(tree, libsbml.AST_FUNCTION)]
        _check_size(model, sum(sizes.get(name, 0) for name in called))
    return done


def _check_size(element: libsbml.SBase, size: int) -> None:
    """Refuse calls that would fill the memory when written out: functions may call each other twice, and so on."""
    if size > _MOST_NODES:
        text = f"with the calls of functions written out it has more than {_MOST_NODES:,} operations"
        raise SBMLError(at(element, f"{text}; let functions call each other less often"))


def _is_rate_of(function: libsbml.FunctionDefinition) -> bool:
    """Return whether a function stands for `rateOf`: COPASI marks it so where SBML itself has no symbol for it."""
    annotation = function.getAnnotation()
    children = [annotation.getChild(i) for i in range(annotation.getNumChildren())] if annotation is not None else []
    marks = [child.getAttrValue("definition") for child in children if child.getName() == "symbols"]
    return function.getNumArguments() == 1 and _DERIVATIVE in marks


def _named(root: libsbml.ASTNode, kind: int) -> list[str]:
    """Return the names of all nodes of a kind."""
    return [node.getName() for node in nodes(root) if node.getType() == kind]


def _expression(element: libsbml.SBase, tree: libsbml.ASTNode, functions: Functions, *known: Container[str]) -> Expr:
    try:
        expression = from_ast(tree, functions)
    except UnsupportedFormulaError as error:
        raise UnsupportedSBMLError(at(element, str(error))) from error
    except FormulaError as error:
        raise SBMLError(at(element, str(error))) from error
    names = {name.removeprefix(RATE_OF) for name in expression.symbols} - {"time"}
    unknown = sorted(name for name in names if not any(name in some for some in known))
    if unknown:
        raise SBMLError(at(element, f"its formula uses {unknown}, not defined in the model"))
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
    fixed = ChainMap(local or {}, source.stoichiometries)
    expression = _expression(element, tree, source.functions, source.names, fixed)
    names = {name: name.removeprefix(RATE_OF) for name in expression.symbols}
    # What is constant has no rate.
    used = {name: fixed[base] if name == base else ZERO for name, base in names.items() if base in fixed}
    return substitute([expression], used)[0]
