"""What a text has to be before a model is looked for in it: XML that a parser survives, and valid SBML."""

from xml.parsers import expat

import libsbml

from kinbayes.formats.sbml.errors import SBMLError, UnsupportedSBMLError

# libsbml's parser recurses: on a stack of 8 MiB it ended the process at about 4,000 open elements.
# The curated BioModels stay below 40.
_MAX_DEPTH = 1000


def check_xml(where: str, data: bytes) -> None:
    """Refuse what libsbml's parser does not survive or does not explain.

    Parameters
    ----------
    where
        What errors call the text.
    data
        The text.

    Raises
    ------
    SBMLError
        If the text is no well-formed XML, declares entities, or is nested too deep.
    """
    parser = expat.ParserCreate()
    depth = 0

    def start(_name: str, _attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            line = parser.CurrentLineNumber
            raise SBMLError(f"{where}, line {line}: elements are nested more than {_MAX_DEPTH} deep")

    def end(_name: str) -> None:
        nonlocal depth
        depth -= 1

    def entity(name: str, *_declaration: object) -> None:
        line = parser.CurrentLineNumber
        raise SBMLError(f"{where}, line {line}: entity {name!r} is declared; write out what it stands for")

    parser.StartElementHandler, parser.EndElementHandler, parser.EntityDeclHandler = start, end, entity
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        reason = expat.errors.messages[error.code]
        raise SBMLError(f"{where}, line {error.lineno}: this is not well-formed XML: {reason}") from error


def check_document(where: str, document: libsbml.SBMLDocument) -> None:
    """Refuse a document that libsbml finds wrong, or that holds no model.

    Raises
    ------
    SBMLError
        If it is no valid SBML.
    UnsupportedSBMLError
        If it requires a package that libsbml does not know.
    """
    for error in (document.getError(i) for i in range(document.getNumErrors())):
        text = f"{where}, line {error.getLine()}: {' '.join(error.getMessage().split())}"
        if error.getErrorId() == libsbml.RequiredPackagePresent:
            raise UnsupportedSBMLError(text)
        if error.getSeverity() >= libsbml.LIBSBML_SEV_ERROR and not _is_harmless(error):
            raise SBMLError(text)
    if document.getModel() is None:
        raise SBMLError(f"{where}: it holds no model")


def _is_harmless(error: libsbml.SBMLError) -> bool:
    # How a text declared its encoding does not matter once it is read. Some tools declare in a Level 2 file
    # the namespaces of Level 3 packages, which have no effect there.
    encoding = (libsbml.MissingXMLEncoding, libsbml.MissingXMLDecl, libsbml.BadXMLDecl, libsbml.NotUTF8)
    return error.getErrorId() in encoding or (
        error.getErrorId() == libsbml.NotSchemaConformant and "The L3 package" in error.getMessage()
    )
