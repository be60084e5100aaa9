"""What an SBML or Antimony model uses, and whether it can be simulated."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import libsbml

from kinbayes.formats.antimony import ENDINGS, AntimonyError, read_antimony, to_sbml
from kinbayes.formats.files import read_bytes
from kinbayes.formats.sbml.document import elements, read_document
from kinbayes.formats.sbml.errors import SBMLError
from kinbayes.formats.sbml.reader import read_sbml
from kinbayes.model.formula import nodes
from kinbayes.model.model import Model
from kinbayes.ode.simulate import SimulationError, simulate

_SHORT = 1e-6  # a time in any unit: one step shows whether the model has derivatives at its start


class Survey(NamedTuple):
    """What a model uses and what stands against its simulation.

    Attributes
    ----------
    format
        Level and version of its SBML; empty where the file is none.
    features
        What it uses -> how often.
    refusals
        Why it cannot be simulated, each with its place; none where it can.
    """

    format: str
    features: dict[str, int]
    refusals: list[str]


def survey(path: str | Path) -> Survey:
    """Say what a model uses and try whether it can be read and simulated.

    Parameters
    ----------
    path
        An SBML file, or an Antimony file (.ant, .antimony, .txt): of its SBML is told.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModuleNotFoundError
        If the file is Antimony, and the package antimony is not installed.
    """
    path = Path(path)
    try:
        if path.suffix.lower() in ENDINGS:
            read = read_antimony
            document = read_document(f"{path}, as SBML", to_sbml(path).encode())
        else:
            read = read_sbml
            document = read_document(str(path), read_bytes(path, "SBML file", SBMLError))
    except (SBMLError, AntimonyError) as error:
        return Survey("", {}, str(error).splitlines())
    label = f"SBML Level {document.getLevel()} Version {document.getVersion()}"
    return Survey(label, _features(document), _refusals(path, read))


def _refusals(path: Path, read: Callable[[Path], Model]) -> list[str]:
    """Return what reading the model and simulating its start say."""
    try:
        model = read(path)
    except SBMLError as error:
        return str(error).splitlines()
    try:
        simulate(model, [0.0, _SHORT])
    except (ValueError, SimulationError) as error:
        return str(error).splitlines()
    return []


def _features(document: libsbml.SBMLDocument) -> dict[str, int]:
    model = document.getModel()
    reactions = model.getListOfReactions()
    found = Counter(
        {
            "species": model.getNumSpecies(),
            "compartments": model.getNumCompartments(),
            "parameters": model.getNumParameters(),
            "reactions": model.getNumReactions(),
        }
    )
    for element in elements(model):
        if element.getPackageName() == "core":
            found.update(_kinds(element))
            tree = element.getMath() if hasattr(element, "getMath") else None
            found.update({_SYMBOLS[kind] for kind in _node_types(tree) & _SYMBOLS.keys()})
    found["conversion factors"] += model.isSetConversionFactor()
    found["local parameters"] = sum(r.getKineticLaw().getNumParameters() for r in reactions if r.isSetKineticLaw())
    references = [reference for reaction in reactions for reference in _references(reaction)]
    targets = {assignment.getSymbol() for assignment in model.getListOfInitialAssignments()}
    targets |= {rule.getVariable() for rule in model.getListOfRules() if not rule.isAlgebraic()}
    found["variable stoichiometries"] = sum(r.isSetStoichiometryMath() or r.getId() in targets for r in references)
    for plugin in (document.getPlugin(i) for i in range(document.getNumPlugins())):
        if plugin.getPackageName() != _EXTENDED_MATH:
            found[f"package {plugin.getPackageName()}"] = 1
    main = ("species", "compartments", "parameters", "reactions")
    return {name: count for name, count in found.items() if count or name in main}


def _kinds(element: libsbml.SBase) -> Iterator[str]:
    """Yield what an element counts as."""
    match element:
        case libsbml.AssignmentRule():
            yield "assignment rules"
        case libsbml.RateRule():
            yield "rate rules"
        case libsbml.AlgebraicRule():
            yield "algebraic rules"
        case libsbml.InitialAssignment():
            yield "initial assignments"
        case libsbml.FunctionDefinition():
            yield "function definitions"
        case libsbml.Constraint():
            yield "constraints (not looked at)"
        case libsbml.Species():
            yield from _true(
                ("species as amounts", element.getHasOnlySubstanceUnits()),
                ("boundary species", element.getBoundaryCondition()),
                ("conversion factors", element.isSetConversionFactor()),
            )
        case libsbml.Reaction():
            yield from _true(
                ("fast reactions", element.getFast()),
                ("reactions without kinetic law", element.getKineticLaw() is None),
            )
        case libsbml.Event():
            trigger = element.getTrigger()
            yield "events"
            yield from _true(
                ("events with delay", element.isSetDelay()),
                ("events with priority", element.isSetPriority()),
                ("events that are not persistent", trigger is not None and not trigger.getPersistent()),
                ("events that may fire at the start", trigger is not None and not trigger.getInitialValue()),
            )


def _true(*named: tuple[str, bool]) -> Iterator[str]:
    return (name for name, is_so in named if is_so)


def _references(reaction: libsbml.Reaction) -> Iterator[libsbml.SpeciesReference]:
    yield from reaction.getListOfReactants()
    yield from reaction.getListOfProducts()


_EXTENDED_MATH = "l3v2extendedmath"  # libsbml counts the mathematics of Level 3 Version 2 as a package

_SYMBOLS = {
    libsbml.AST_NAME_TIME: "formulas with time",
    libsbml.AST_NAME_AVOGADRO: "formulas with Avogadro's constant",
    libsbml.AST_FUNCTION_DELAY: "formulas with delay",
    libsbml.AST_FUNCTION_RATE_OF: "formulas with rateOf",
    libsbml.AST_FUNCTION_PIECEWISE: "formulas with piecewise",
    libsbml.AST_FUNCTION_FLOOR: "formulas with roundings",
    libsbml.AST_FUNCTION_CEILING: "formulas with roundings",
    libsbml.AST_FUNCTION_QUOTIENT: "formulas with roundings",
    libsbml.AST_FUNCTION_REM: "formulas with roundings",
}


def _node_types(tree: libsbml.ASTNode | None) -> set[int]:
    return set() if tree is None else {node.getType() for node in nodes(tree)}
