"""All that an SBML document uses and that is not supported, found without building a model."""

from collections.abc import Iterator

import libsbml

from kinbayes.formats.sbml.document import elements
from kinbayes.formats.sbml.errors import at
from kinbayes.model.formula import unsupported

_NAMED = (libsbml.Compartment, libsbml.Species, libsbml.Parameter, libsbml.Reaction, libsbml.SpeciesReference)

# libsbml counts the mathematics of Level 3 Version 2 as a package; the formulas know it.
_KNOWN_PACKAGES = ("l3v2extendedmath",)


def refusals(document: libsbml.SBMLDocument) -> list[str]:
    """Return what a document uses and is not supported, each with its place.

    What only shows when the model is built, such as algebraic rules without a solution, is not among it.

    Parameters
    ----------
    document
        A document without errors that holds a model, its submodels flattened.
    """
    found = [
        at(document, f"the model requires the package {package!r}, which is not supported")
        for package in _required_packages(document)
    ]
    for element in elements(document.getModel()):
        if element.getPackageName() == "core":
            found += [at(_with_id(element), reason) for reason in _reasons(element)]
    return found


def _required_packages(document: libsbml.SBMLDocument) -> list[str]:
    plugins = [document.getPlugin(i) for i in range(document.getNumPlugins())]
    names = [plugin.getPackageName() for plugin in plugins]
    # In Level 2 nothing can be required.
    return [
        name
        for name in names
        if document.getLevel() > 2 and document.getPackageRequired(name) and name not in _KNOWN_PACKAGES
    ]


def _reasons(element: libsbml.SBase) -> Iterator[str]:
    names = [element.getId()] if isinstance(element, _NAMED) else []
    if isinstance(element, libsbml.FunctionDefinition):
        names = [element.getArgument(i).getName() for i in range(element.getNumArguments())]
    if "time" in names:
        yield "the name 'time' is not supported, formulas use it for the time; rename it"
    if isinstance(element, libsbml.Reaction):
        if element.getFast():
            yield "fast reactions are not supported; set fast to false if its rate is meant as it stands"
        if element.getKineticLaw() is None or not element.getKineticLaw().isSetMath():
            yield "it has no kinetic law, so its rate is not defined"
    tree = _tree(element)
    if tree is not None and not isinstance(element, libsbml.Constraint):
        yield from (f"{name} is not supported in a formula" for name in dict.fromkeys(unsupported(tree)))


def _tree(element: libsbml.SBase) -> libsbml.ASTNode | None:
    if isinstance(element, libsbml.FunctionDefinition):
        return element.getBody()
    return element.getMath() if hasattr(element, "getMath") else None


def _with_id(element: libsbml.SBase) -> libsbml.SBase:
    """Return the element itself or the nearest around it that has an id, in the model."""
    around = element
    while not around.getId():
        around = around.getParentSBMLObject()
        if around is None or isinstance(around, libsbml.Model):
            return element
    return around
