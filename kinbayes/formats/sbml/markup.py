"""XML that libsbml's parser survives, explains and reads right."""

import codecs
import re
from collections.abc import Mapping
from xml.parsers import expat

from kinbayes.formats.files import shown
from kinbayes.formats.sbml.errors import SBMLError
from kinbayes.model.formula import MOST_ARGUMENTS

# libsbml's parser recurses: on a stack of 8 MiB it ended the process at about 4,000 open elements.
# The curated BioModels stay below 40.
_MAX_DEPTH = 1000

# The formulas of Level 1 are text, which libsbml's parser turns into trees as deep as they are long: at 600,000
# characters it ended the process.
_MAX_FORMULA = 20_000

# What expat and libsbml both read without the tables of the system.
_ENCODINGS = {"utf-8": "utf-8", "utf-16": "utf-16", "us-ascii": "ascii", "iso-8859-1": "latin-1"}
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    b"<\0": "utf-16-le",
    b"\0<": "utf-16-be",
}
# libsbml reads the digits that a number begins with, and hexadecimal ones.
_REAL, _WHOLE = r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", r"[-+]?[0-9]+"
_NUMBER = {
    "real": re.compile(_REAL),
    "integer": re.compile(_WHOLE),
    "e-notation": re.compile(rf"{_REAL};{_WHOLE}"),
    "rational": re.compile(rf"{_WHOLE};{_WHOLE}"),
}
_MATH = "http://www.w3.org/1998/Math/MathML"
_CN, _OPERATORS = f"{_MATH} cn", (f"{_MATH} apply", f"{_MATH} piecewise")
_NUMBERS = {
    "compartment": ("size", "volume", "spatialDimensions"),
    "species": ("initialAmount", "initialConcentration"),
    "specie": ("initialAmount",),
    "parameter": ("value",),
    "localParameter": ("value",),
    "speciesReference": ("stoichiometry", "denominator"),
    "specieReference": ("stoichiometry", "denominator"),
}
_SBML = "http://www.sbml.org/sbml/"
_CORE = {  # namespace -> level and versions
    f"{_SBML}level1": ("1", ("1", "2")),
    f"{_SBML}level2": ("2", ("1",)),
    **{f"{_SBML}level2/version{k}": ("2", (k,)) for k in "2345"},
    **{f"{_SBML}level3/version{k}/core": ("3", (k,)) for k in "12"},
}
_IS_PACKAGE = re.compile(rf"{re.escape(_SBML)}level3/version[0-9]+/(?!core)[a-z0-9]+/version[0-9]+")


def check_xml(where: str, data: bytes) -> tuple[str, str]:
    """Refuse what libsbml's parser does not survive, does not explain or misreads.

    Parameters
    ----------
    where
        What errors call the text.
    data
        The text.

    Returns
    -------
    encoding, namespace
        The text's encoding, as Python calls it, and the namespace of its outermost element.

    Raises
    ------
    SBMLError
        If the text is no well-formed XML in UTF-8, UTF-16, ASCII or Latin-1, declares entities or several namespaces of
        SBML, is nested too deep, or has a formula that is too long or a number that is none.
    """
    parser = expat.ParserCreate(namespace_separator=" ")
    encodings = ["utf-8"]
    namespaces = [""]  # of the outermost element, once it is open
    versions: list[str] = []  # what is wrong with those that the outermost element states
    counts = [0]  # of the elements in those that are open
    declared: set[str] = set()  # the namespaces of SBML itself
    numbers: list[list[str]] = []  # the parts of the number that is open, if there is one

    def refuse(reason: str) -> None:
        raise SBMLError(f"{where}, line {parser.CurrentLineNumber}: {reason}")

    def declaration(_version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is None:
            return
        if encoding.lower() not in _ENCODINGS:
            refuse(f"it is in {encoding!r}; save it as UTF-8, and declare that")
        encodings.append(_ENCODINGS[encoding.lower()])

    def entity(name: str, *_declaration: object) -> None:
        refuse(f"entity {name!r} is declared; write out what it stands for")

    def declare(_prefix: str | None, uri: str | None) -> None:
        # libsbml ends the process where a document has two of these, or one that it does not know.
        if uri is None or not uri.startswith(_SBML) or _IS_PACKAGE.fullmatch(uri):
            return
        if uri not in _CORE:
            refuse(f"there is no SBML of the namespace {shown(uri)}; correct its level and version")
        declared.add(uri)
        if namespaces[1:] and uri != namespaces[-1]:
            refuse(f"the namespace {uri} is not that of the document, {namespaces[-1]}; remove it")

    def start(name: str, attributes: dict[str, str]) -> None:
        counts[-1] += 1
        counts.append(0)
        if len(counts) > _MAX_DEPTH + 1:
            refuse(f"elements are nested more than {_MAX_DEPTH} deep")
        if len(attributes.get("formula", "")) > _MAX_FORMULA:
            refuse(f"the formula has more than {_MAX_FORMULA:,} characters; split it into several rules")
        namespace, _, kind = name.rpartition(" ")
        if len(counts) == 2:
            namespaces.append(namespace)
            if kind == "sbml" and (wrong := _wrong_version(namespace, attributes)):
                versions.append(f"{where}, line {parser.CurrentLineNumber}: sbml: {wrong}")
            for uri in declared - {namespace}:
                refuse(f"the namespace {uri} is not that of the document, {namespace}; remove it")
        if namespace in _CORE and any("x" in attributes.get(key, "").lower() for key in _NUMBERS.get(kind, ())):
            refuse(f"a number of this {kind} is hexadecimal; write it as a decimal")
        if name == _CN:
            numbers.append([attributes.get("type", "real"), ""])
            parser.CharacterDataHandler = text
        elif kind == "sep" and numbers:
            numbers[-1].append("")

    def text(characters: str) -> None:
        if numbers:
            numbers[-1][-1] += characters

    def end(name: str) -> None:
        if counts.pop() > MOST_ARGUMENTS and name in _OPERATORS:
            refuse(f"the operator that ends here has more than {MOST_ARGUMENTS:,} arguments; split it into several")
        if name == _CN:
            parser.CharacterDataHandler = None
            form, *parts = numbers.pop()
            if not _NUMBER.get(form, _NUMBER["real"]).fullmatch(";".join(part.strip() for part in parts)):
                refuse(f"{shown(' '.join(parts).strip())} is no number of the type {shown(form)}")

    parser.XmlDeclHandler, parser.EntityDeclHandler = declaration, entity
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartNamespaceDeclHandler = declare
    parser.buffer_text = True
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        reason = expat.errors.messages[error.code]
        raise SBMLError(f"{where}, line {error.lineno}: this is not well-formed XML: {reason}") from error
    if versions:
        raise SBMLError(versions[0])
    return next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), encodings[-1]), namespaces[-1]


def _wrong_version(namespace: str, attributes: Mapping[str, str]) -> str | None:
    """Return how level and version differ from those of the namespace, which libsbml does not always survive."""
    if namespace not in _CORE:
        return f"the level and version of an SBML document are those of its namespace, not {shown(namespace)}"
    level, versions = _CORE[namespace]
    found = attributes.get("level"), attributes.get("version")
    if found[0] == level and found[1] in versions:
        return None
    wanted = f"level {level!r} and version {' or '.join(map(repr, versions))}"
    return f"level and version are {shown(found)}; the namespace is that of {wanted}"
