"""SBML: models of Level 2 and Level 3 core, without events."""

import math
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

import libsbml

from kinbayes.model.expressions import ZERO, Expr, const, substitute, symbol
from kinbayes.model.formula import FormulaError, Functions, UnsupportedFormulaError, from_ast
from kinbayes.model.model import Model, ModelError

# libsbml's parser recurses: on a stack of 8 MiB it ended the process at about 4,000 open elements.
# The curated BioModels stay below 40.
_MAX_DEPTH = 1000


class SBMLError(ValueError):
    """A file that is no valid SBML, or a model that contradicts itself."""


class UnsupportedSBMLError(SBMLError):
    """An SBML model that uses what is not supported."""


def read_sbml(path: str | Path) -> Model:
    """Read a kinetic model from an SBML file (Level 2 or Level 3 core, without events).

    A symbol keeps the meaning that it has in SBML's mathematics: a species is its concentration, or its
    amount if it has only substance units; a compartment is its size; a reaction is its rate. A local
    parameter is named `reaction.parameter`. What no rule and no reaction changes is a parameter of the model.
    A concentration in a compartment of changing size is an expression, its state the hidden
    `amount of species`.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Model
        The model. A value that the file leaves open is NaN.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    SBMLError
        If the file is no valid SBML, or its model contradicts itself.
    UnsupportedSBMLError
        If the model uses Level 1, events, algebraic rules, delays, `rateOf`, fast reactions, variable
        stoichiometry, conversion factors, or a package that changes its mathematics.

    References
    ----------
    Hucka et al. (2019), The Systems Biology Markup Language (SBML): Language Specification for Level 3
    Version 2 Core Release 2. Journal of Integrative Bioinformatics 16(2). doi:10.1515/jib-2019-0021
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such SBML file: {path}")
    _check_xml(path)
    document = libsbml.readSBMLFromFile(str(path))
    _check_document(path, document)
    try:
        model = _model(_source(document.getModel()))
        model.initial_values(())  # a circle shows here, before anything is computed
    except ModelError as error:
        raise SBMLError(f"{path}: {error}") from error
    return model


def _check_xml(path: Path) -> None:
    """Refuse what libsbml's parser does not survive or does not explain."""
    parser = expat.ParserCreate()
    depth = 0

    def start(_name: str, _attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            line = parser.CurrentLineNumber
            raise SBMLError(f"{path}, line {line}: elements are nested more than {_MAX_DEPTH} deep")

    def end(_name: str) -> None:
        nonlocal depth
        depth -= 1

    def entity(name: str, *_declaration: object) -> None:
        line = parser.CurrentLineNumber
        raise SBMLError(f"{path}, line {line}: entity {name!r} is declared; write out what it stands for")

    parser.StartElementHandler, parser.EndElementHandler, parser.EntityDeclHandler = start, end, entity
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        reason = expat.errors.messages[error.code]
        raise SBMLError(f"{path}, line {error.lineno}: this is not well-formed XML: {reason}") from error


def _check_document(path: Path, document: libsbml.SBMLDocument) -> None:
    level = document.getLevel()
    if level == 1:
        raise UnsupportedSBMLError(f"{path}: SBML Level 1 is not supported; convert the file to Level 3")
    for error in (document.getError(i) for i in range(document.getNumErrors())):
        text = f"{path}, line {error.getLine()}: {' '.join(error.getMessage().split())}"
        if error.getErrorId() == libsbml.RequiredPackagePresent:
            raise UnsupportedSBMLError(text)
        if error.getSeverity() >= libsbml.LIBSBML_SEV_ERROR and not _is_harmless(error):
            raise SBMLError(text)
    if document.getModel() is None:
        raise SBMLError(f"{path}: it holds no model")
    for i in range(document.getNumPlugins() if level > 2 else 0):  # in Level 2 nothing can be required
        package = document.getPlugin(i).getPackageName()
        # libsbml counts the mathematics of Level 3 Version 2 as a package; formula.py knows it.
        if document.getPackageRequired(package) and package != "l3v2extendedmath":
            raise UnsupportedSBMLError(f"{path}: the model requires the package {package!r}, not supported")


def _is_harmless(error: libsbml.SBMLError) -> bool:
    # How a text declared its encoding does not matter once it is read. Some tools declare in a Level 2 file
    # the namespaces of Level 3 packages, which have no effect there.
    encoding = (libsbml.MissingXMLEncoding, libsbml.MissingXMLDecl, libsbml.BadXMLDecl, libsbml.NotUTF8)
    return error.getErrorId() in encoding or (
        error.getErrorId() == libsbml.NotSchemaConformant and "The L3 package" in error.getMessage()
    )


def _at(element: libsbml.SBase, text: str) -> str:
    """Return the text of an error with its place: file, line and id (of a rule: its target)."""
    path = element.getSBMLDocument().getLocationURI().removeprefix("file:")
    name = f" {element.getId()!r}" if element.getId() else ""
    return f"{path}, line {element.getLine()}: {element.getElementName()}{name}: {text}"


class _Source(NamedTuple):
    """The model of a file, and what its formulas can refer to."""

    model: libsbml.Model
    functions: Functions
    stoichiometries: Mapping[str, Expr]  # of the species references that have an id
    names: frozenset[str]  # of everything else that has a value


def _source(model: libsbml.Model) -> _Source:
    if model.getNumEvents():
        raise UnsupportedSBMLError(_at(model.getEvent(0), "events are not supported"))
    named = [
        *model.getListOfCompartments(),
        *model.getListOfSpecies(),
        *model.getListOfParameters(),
        *model.getListOfReactions(),
    ]
    used = [reference for reaction in model.getListOfReactions() for _, reference in _references(reaction)]
    references = [reference for reference in used if reference.isSetId()]
    lines: dict[str, int] = {}
    for element in [*named, *references, *model.getListOfFunctionDefinitions()]:
        name = element.getId()
        _check_name(element, name)
        if name in lines:
            raise SBMLError(_at(element, f"line {lines[name]} has the same id"))
        lines[name] = element.getLine()
    stoichiometries = {reference.getId(): const(_stoichiometry(reference)) for reference in references}
    return _Source(model, _functions(model), stoichiometries, frozenset(e.getId() for e in named))


def _check_name(element: libsbml.SBase, name: str) -> None:
    if name == "time":
        text = "the name 'time' is not supported, formulas use it for the time; rename it"
        raise UnsupportedSBMLError(_at(element, text))


def _functions(model: libsbml.Model) -> Functions:
    """Return the functions of a model; one may call others, wherever these are defined."""
    waiting = {f.getId(): f for f in model.getListOfFunctionDefinitions() if f.getBody() is not None}
    done: dict[str, tuple[tuple[str, ...], Expr]] = {}
    while waiting:
        ready = [f for f in waiting.values() if not waiting.keys() & _calls(f.getBody())]
        if not ready:
            function = next(iter(waiting.values()))
            raise SBMLError(_at(function, f"the functions {sorted(waiting)} call each other in a circle"))
        for function in ready:
            arguments = tuple(function.getArgument(i).getName() for i in range(function.getNumArguments()))
            for argument in arguments:
                _check_name(function, argument)
            body = _expression(function, function.getBody(), done, {*arguments})
            done[function.getId()] = (arguments, body)
            del waiting[function.getId()]
    return done


def _calls(root: libsbml.ASTNode) -> set[str]:
    names, stack = set(), [root]
    while stack:
        node = stack.pop()
        if node.getType() == libsbml.AST_FUNCTION:
            names.add(node.getName())
        stack.extend(node.getChild(i) for i in range(node.getNumChildren()))
    return names


def _expression(element: libsbml.SBase, tree: libsbml.ASTNode, functions: Functions, known: Set[str]) -> Expr:
    try:
        expression = from_ast(tree, functions)
    except UnsupportedFormulaError as error:
        raise UnsupportedSBMLError(_at(element, str(error))) from error
    except FormulaError as error:
        raise SBMLError(_at(element, str(error))) from error
    unknown = sorted(expression.symbols - known - {"time"})
    if unknown:
        raise SBMLError(_at(element, f"its formula uses {unknown}, not defined in the model"))
    return expression


def _formula(
    source: _Source, element: libsbml.SBase, tree: libsbml.ASTNode, local: Mapping[str, Expr] | None = None
) -> Expr:
    fixed = {**source.stoichiometries, **(local or {})}
    expression = _expression(element, tree, source.functions, source.names | fixed.keys())
    return substitute([expression], fixed)[0]


def _model(source: _Source) -> Model:
    starts = _initial_assignments(source)
    assigned, rates = _rules(source, starts)
    laws, local = _kinetic_laws(source)
    species = source.model.getListOfSpecies()
    parameters, compartments = source.model.getListOfParameters(), source.model.getListOfCompartments()
    initial = {
        **{s.getId(): _start(s, is_amount=s.getHasOnlySubstanceUnits()) for s in species},
        **{p.getId(): const(p.getValue() if p.isSetValue() else math.nan) for p in parameters},
        **local,
        **{c.getId(): const(c.getSize() if c.isSetSize() else math.nan) for c in compartments},
        **starts,
    }
    expressions = {**assigned, **laws}
    ruled = assigned.keys() | rates.keys()
    changes = _changes(source, ruled)
    derivatives: dict[str, Expr] = {}
    for s in species:
        _check_species(source, s)
        name, size = s.getId(), symbol(s.getCompartment())
        state, change = name, changes.get(name)
        if name in ruled:
            continue
        if not s.getHasOnlySubstanceUnits():
            if s.getCompartment() in ruled:  # the size changes the concentration, too, but not the amount
                state = f"amount of {name}"
                initial[state] = starts[name] * size if name in starts else _start(s, is_amount=True)
                expressions[name] = symbol(state) / size
            elif change is not None:
                change = change / size
        if change is not None:
            derivatives[state] = change
    return Model(
        name=source.model.getId() or source.model.getName() or "model",
        derivatives={**derivatives, **rates},
        initial={name: start for name, start in initial.items() if name not in expressions},
        expressions=expressions,
        units=_units(source.model),
    )


def _check_species(source: _Source, species: libsbml.Species) -> None:
    if species.isSetConversionFactor() or source.model.isSetConversionFactor():
        raise UnsupportedSBMLError(_at(species, "conversion factors are not supported"))
    compartment = source.model.getCompartment(species.getCompartment())
    if compartment is None:
        raise SBMLError(_at(species, f"compartment {species.getCompartment()!r} is not defined"))
    is_point = compartment.isSetSpatialDimensions() and compartment.getSpatialDimensionsAsDouble() == 0
    if is_point and not species.getHasOnlySubstanceUnits():
        text = f"in compartment {compartment.getId()!r}, of no dimensions, there is no concentration"
        raise UnsupportedSBMLError(_at(species, f"{text}; set hasOnlySubstanceUnits"))


def _initial_assignments(source: _Source) -> dict[str, Expr]:
    starts: dict[str, Expr] = {}
    for assignment in source.model.getListOfInitialAssignments():
        if assignment.isSetMath():  # without a formula it has no effect
            _check_target(source, assignment, starts.keys())
            starts[assignment.getSymbol()] = _formula(source, assignment, assignment.getMath())
    return starts


def _rules(source: _Source, starts: Mapping[str, Expr]) -> tuple[dict[str, Expr], dict[str, Expr]]:
    """Return the formulas of the assignment rules and of the rate rules by their targets."""
    assigned: dict[str, Expr] = {}
    rates: dict[str, Expr] = {}
    for rule in source.model.getListOfRules():
        if rule.isAlgebraic():
            raise UnsupportedSBMLError(_at(rule, "algebraic rules are not supported"))
        if rule.isSetMath():  # without a formula it has no effect
            table, taken = (assigned, {*starts, *rates}) if rule.isAssignment() else (rates, {*assigned})
            _check_target(source, rule, taken | table.keys())
            table[rule.getVariable()] = _formula(source, rule, rule.getMath())
    return assigned, rates


def _check_target(source: _Source, element: libsbml.SBase, taken: Set[str]) -> None:
    target = element.getId()
    if target in source.stoichiometries:
        raise UnsupportedSBMLError(_at(element, "variable stoichiometry is not supported"))
    if target not in source.names or source.model.getReaction(target) is not None:
        raise SBMLError(_at(element, "there is no species, parameter or compartment of this id"))
    if target in taken:
        raise SBMLError(_at(element, "another rule or initial assignment has the same target"))


def _kinetic_laws(source: _Source) -> tuple[dict[str, Expr], dict[str, Expr]]:
    """Return the rate of every reaction, and the values of the local parameters."""
    laws: dict[str, Expr] = {}
    values: dict[str, Expr] = {}
    for reaction in source.model.getListOfReactions():
        law = reaction.getKineticLaw()
        if reaction.getFast():
            raise UnsupportedSBMLError(_at(reaction, "fast reactions are not supported"))
        if law is None or not law.isSetMath():
            raise SBMLError(_at(reaction, "it has no kinetic law, so its rate is not defined"))
        local: dict[str, Expr] = {}
        for parameter in law.getListOfParameters():
            _check_name(parameter, parameter.getId())
            name = f"{reaction.getId()}.{parameter.getId()}"
            local[parameter.getId()] = symbol(name)
            values[name] = const(parameter.getValue() if parameter.isSetValue() else math.nan)
        laws[reaction.getId()] = _formula(source, reaction, law.getMath(), local)
    return laws, values


def _references(reaction: libsbml.Reaction) -> Iterator[tuple[int, libsbml.SpeciesReference]]:
    """Return the reactants and products of a reaction, each with the sign of its change."""
    yield from ((-1, reference) for reference in reaction.getListOfReactants())
    yield from ((+1, reference) for reference in reaction.getListOfProducts())


def _stoichiometry(reference: libsbml.SpeciesReference) -> float:
    value = reference.getStoichiometry() / reference.getDenominator()
    if reference.isSetStoichiometryMath() or math.isnan(value):
        text = f"the stoichiometry of {reference.getSpecies()!r} is no number, so it is not supported"
        raise UnsupportedSBMLError(_at(reference, text))
    return value


def _changes(source: _Source, ruled: Set[str]) -> dict[str, Expr]:
    """Return what reactions add to the amount of each species per time."""
    changes: dict[str, Expr] = {}
    for reaction in source.model.getListOfReactions():
        net: dict[str, float] = {}
        for sign, reference in _references(reaction):
            name = reference.getSpecies()
            species = source.model.getSpecies(name)
            if species is None:
                raise SBMLError(_at(reaction, f"species {name!r} is not defined"))
            if species.getBoundaryCondition():
                continue
            if species.getConstant() or name in ruled:
                text = f"species {name!r} is constant or the target of a rule, so no reaction can change it"
                raise SBMLError(_at(reaction, f"{text}; set its boundaryCondition"))
            net[name] = net.get(name, 0.0) + sign * _stoichiometry(reference)
        for name, number in net.items():
            if number:
                changes[name] = changes.get(name, ZERO) + number * symbol(reaction.getId())
    return changes


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
