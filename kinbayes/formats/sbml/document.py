"""SBML documents: read, and free of what libsbml finds wrong."""

import re
from collections.abc import Iterator

import libsbml

from kinbayes.formats.files import shown
from kinbayes.formats.sbml.errors import SBMLError, UnsupportedSBMLError, at
from kinbayes.formats.sbml.markup import check_xml

_PACKAGE = re.compile(r"""(\sxmlns(?::[\w.-]+)?\s*=\s*["'])(?=http://www\.sbml\.org/sbml/level3/)""")
_DECLARATION = re.compile(r"<\?xml\s[^>]*\?>")


def read_document(where: str, data: bytes) -> libsbml.SBMLDocument:
    """Return the document of a text, which holds a model.

    Parameters
    ----------
    where
        What errors call the text.
    data
        The text.

    Raises
    ------
    SBMLError
        If the text is no XML that can be read (see `check_xml`), or no valid SBML.
    UnsupportedSBMLError
        If it requires a package that libsbml does not know.
    """
    # libsbml sees the very text that was checked; from a file it would unpack what looks like an archive.
    document = libsbml.readSBMLFromString(checked(where, data))
    document.setLocationURI(f"file:{where}")
    _check_document(where, document)
    return document


def checked(where: str, data: bytes) -> str:
    """Return the text that libsbml is given; it refuses what `check_xml` refuses."""
    encoding, namespace = check_xml(where, data)
    text = data.decode(encoding)
    if "/level3/" not in namespace:
        # Some tools declare in a Level 2 file the namespaces of Level 3 packages, which have no effect there.
        text = _PACKAGE.sub(r"\1unused:", text)
    declared = _DECLARATION.match(text)
    return '<?xml version="1.0" encoding="UTF-8"?>' + text[declared.end() if declared else 0 :]


def _check_document(where: str, document: libsbml.SBMLDocument) -> None:
    """Refuse a document that libsbml finds wrong, or that holds no model."""
    for error in (document.getError(i) for i in range(document.getNumErrors())):
        text = f"{where}, line {error.getLine()}: {' '.join(error.getMessage().split())}"
        if error.getErrorId() == libsbml.RequiredPackagePresent:
            raise UnsupportedSBMLError(text)
        if error.getSeverity() >= libsbml.LIBSBML_SEV_ERROR and not _is_harmless(error):
            raise SBMLError(text)
    if document.getModel() is None:
        raise SBMLError(f"{where}: it holds no model")
    if document.getLevel() == 1:  # its formulas are text; libsbml leaves out what it cannot read
        for element in elements(document.getModel()):
            if hasattr(element, "getFormula") and element.isSetFormula() and not element.isSetMath():
                raise SBMLError(at(element, f"cannot read its formula {shown(element.getFormula())}"))


def _is_harmless(error: libsbml.SBMLError) -> bool:
    # How a text declared its encoding does not matter once it is read, nor do packages in Level 2 (see above).
    encoding = (libsbml.MissingXMLEncoding, libsbml.MissingXMLDecl, libsbml.BadXMLDecl, libsbml.NotUTF8)
    return error.getErrorId() in encoding or (
        error.getErrorId() == libsbml.NotSchemaConformant and "The L3 package" in error.getMessage()
    )


def elements(model: libsbml.Model) -> Iterator[libsbml.SBase]:
    """Yield everything in a model; the list is a chain, of which only the first is found at once."""
    chain = model.getListOfAllElements()
    while chain.getSize():
        yield chain.remove(0)
