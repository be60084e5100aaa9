"""What is wrong with an SBML file, and where."""

import libsbml


class SBMLError(ValueError):
    """A file that is no valid SBML, or a model that contradicts itself."""


class UnsupportedSBMLError(SBMLError):
    """An SBML model that uses what is not supported."""


def at(element: libsbml.SBase, text: str) -> str:
    """Return the text of an error with its place: file, line and id (of a rule: its target)."""
    place = element.getSBMLDocument().getLocationURI().removeprefix("file:")
    line = f", line {element.getLine()}" if element.getLine() else ""  # none in a model made of submodels
    name = f" {element.getId()!r}" if element.getId() else ""
    return f"{place}{line}: {element.getElementName()}{name}: {text}"
