"""SBML: models whose mathematics is an ODE with events."""

from pathlib import Path

from kinbayes.formats.files import read_bytes
from kinbayes.formats.sbml.comp import flatten, has_submodels
from kinbayes.formats.sbml.document import checked, read_document
from kinbayes.formats.sbml.errors import SBMLError, UnsupportedSBMLError
from kinbayes.formats.sbml.model import model_of
from kinbayes.formats.sbml.refusals import refusals
from kinbayes.formats.sbml.source import rename_time
from kinbayes.model.model import Model, ModelError


def read_sbml(path: str | Path) -> Model:
    """Read a kinetic model from an SBML file of any level.

    A symbol keeps the meaning that it has in SBML's mathematics: a species is its concentration, or its
    amount if it has only substance units or its compartment no dimensions; a compartment is its size; a reaction is
    its rate. A local parameter is named `reaction.parameter`. What no rule, reaction or event changes is a
    parameter of the model. What events change is a state. A concentration in a compartment of changing size is an
    expression, its state the hidden `amount of species`. What an algebraic rule determines is an expression, too.
    What a file calls `time` is `time_` here.

    Submodels of the package `comp` become part of one model, their names prefixed as `submodel__name`; models of
    other files are read only from the file's own folder.

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
        If the file is no valid SBML, or larger than can be read, or its model contradicts itself.
    UnsupportedSBMLError
        If the model uses delays (other than of events), fast reactions, reactions without kinetic law, algebraic
        rules that have not exactly one solution in closed form, events that assign a concentration computed
        earlier while the size changes, or a required package other than `comp`. The error lists all of what shows
        without building the model, a line each.

    References
    ----------
    Hucka et al. (2019), The Systems Biology Markup Language (SBML): Language Specification for Level 3
    Version 2 Core Release 2. Journal of Integrative Bioinformatics 16(2). doi:10.1515/jib-2019-0021
    """
    path = Path(path)
    return _read(str(path), read_bytes(path, "SBML file", SBMLError), path.parent)


def read_sbml_text(text: str, where: str) -> Model:
    """Read a kinetic model from SBML text, as `read_sbml` does from a file.

    Parameters
    ----------
    text
        The text. Models of other files cannot be part of it.
    where
        What errors call the text.

    Raises
    ------
    SBMLError
        If the text is no valid SBML, or its model contradicts itself.
    UnsupportedSBMLError
        If the model uses what is not supported.
    """
    return _read(where, text.encode(), None)


def _read(where: str, data: bytes, folder: Path | None) -> Model:
    document = read_document(where, data)
    if has_submodels(document):
        flatten(document, checked(where, data), folder)
    rename_time(document.getModel())
    refused = refusals(document)
    if refused:
        raise UnsupportedSBMLError("\n".join(refused))
    try:
        model = model_of(document.getModel())
        model.initial_values(())  # a circle shows here, before anything is computed
    except ModelError as error:
        raise SBMLError(f"{where}: {error}") from error
    return model


__all__ = ["SBMLError", "UnsupportedSBMLError", "read_sbml", "read_sbml_text"]
