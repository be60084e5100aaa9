"""Antimony: models as text, through the SBML that the library of the same name makes of them."""

import dataclasses
import graphlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from kinbayes.formats import antimony_process
from kinbayes.formats.apart import EndedError, ask
from kinbayes.formats.files import is_inside, read_bytes, shown
from kinbayes.formats.sbml.reader import read_sbml_text
from kinbayes.model.model import Model

ENDINGS = (".ant", ".antimony", ".txt")  # of files

_TEXT = "Antimony text"  # what errors call one
_UNNAMED = "__main"  # what Antimony calls a model without a name
_LINE_END = re.compile(r"\r\n?")

# What the library may take: time by the text's size, on a slow machine. Models within models can make much of little.
_SECONDS = 5.0
_SECONDS_A_CHARACTER = 2e-5
_MOST_SBML = 10 * 2**20  # characters; the largest of the curated BioModels has 3 million
_MOST_SAID = 1000  # characters of its errors, which quote formulas

# Comments, texts and imports; a quotation mark that opens no text on its line stays over, and a comment without an end.
# Nothing is tried in more than one way, so the time is that of one look at the text.
_TOKEN = re.compile(
    r"""//[^\n]*+|\#[^\n]*+|/\*(?>.*?\*/)|```(?>.*?```)
    |\bimport\b(?>(?:[ \t]|/\*(?>.*?\*/))*)"(?P<imported>[^"\n]*+)"
    |"(?>(?:[^"\\\n]|\\.)*)"
    |(?P<open>"|/\*)""",
    re.DOTALL | re.VERBOSE,
)


class AntimonyError(ValueError):
    """A text that is no valid Antimony."""


def read_antimony(text_or_path: str | Path) -> Model:
    """Read a kinetic model from Antimony, given as text or as a file.

    Parameters
    ----------
    text_or_path
        A `Path` is a file. A str is a file if it has one line and either ends in .ant, .antimony or .txt, or has none
        of the characters ``;``, ``=`` and ``>``, without which Antimony says nothing. Any other str is Antimony.
        A file may import others of its own folder and of the folders in it, by paths from there. A text cannot
        import files.

    Returns
    -------
    Model
        The model marked by ``*``, or else the last of the text, as `kb.read_sbml` makes it of Antimony's
        translation to SBML.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModuleNotFoundError
        If the package antimony is not installed.
    AntimonyError
        If the text is no valid Antimony, imports what it may not, or takes the library too long.
    SBMLError
        If the model cannot be read from its translation (see `kb.read_sbml`).

    References
    ----------
    Smith et al. (2009), Antimony: a modular model definition language. Bioinformatics 25(18), 2452-2454.
    doi:10.1093/bioinformatics/btp401

    Examples
    --------
    >>> model = kb.read_antimony("A -> B; k * A; A = 10; B = 0; k = 0.3")
    """
    where = str(text_or_path) if _is_path(text_or_path) else _TEXT
    model = read_sbml_text(to_sbml(text_or_path), f"{where}, as SBML")
    if model.name != _UNNAMED:
        return model
    return dataclasses.replace(model, name="model" if where is _TEXT else Path(where).stem)


def to_sbml(text_or_path: str | Path) -> str:
    """Return the SBML that Antimony makes of a text or file (see `read_antimony`)."""
    if not _is_path(text_or_path):
        _check_text(text_or_path, _TEXT)
        for line, imported in _imports(text_or_path, _TEXT):
            raise AntimonyError(f"{_TEXT}, line {line}: only a file can import {imported!r}; write the text to a file")
        return _translated({_TEXT: text_or_path}, {})
    path = Path(text_or_path)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"no such Antimony file: {path} (a text of one line is Antimony if it has one of the characters ; = >)"
        )
    return _translated(*_files(path))


def _is_path(text_or_path: str | Path) -> bool:
    if isinstance(text_or_path, Path):
        return True
    is_line = "\n" not in text_or_path and "\r" not in text_or_path and text_or_path.strip() != ""
    return is_line and (text_or_path.lower().endswith(ENDINGS) or not set(";=>") & set(text_or_path))


def _check_text(text: str, where: str) -> None:
    if "\0" in text:
        raise AntimonyError(f"{where}: it holds a zero byte, so it is no text")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise AntimonyError(f"{where}: it holds half of a character, so it is no text")
    if not text.strip():
        raise AntimonyError(f"{where}: it is empty")


def _imports(text: str, where: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the path of every import."""
    if "import" not in text:
        return
    line, place = 1, 0
    for token in _TOKEN.finditer(text):
        line += text.count("\n", place, token.start())
        place = token.start()
        if token["open"]:  # what follows might be an import, and might not
            what = "a quoted text does not end on its line" if token["open"] == '"' else "a comment does not end"
            raise AntimonyError(f"{where}, line {line}: {what}")
        if token["imported"] is not None:
            yield line, token["imported"]


def _files(main: Path) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Return the text of a file and of all that it imports, and what each calls the others.

    Antimony itself would look in the working folder first, and anywhere on the disk.
    """
    main_path = Path(os.path.realpath(main))
    folder = main_path.parent
    texts: dict[str, str] = {}
    imports: dict[str, dict[str, str]] = {}
    waiting = [main_path]
    while waiting:
        path = waiting.pop()
        where = str(main if path == main_path else path)
        if where in texts:
            continue
        try:
            texts[where] = _LINE_END.sub("\n", read_bytes(path, "Antimony file", AntimonyError).decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise AntimonyError(f"{where}: it is no text in UTF-8 (byte {error.start})") from error
        _check_text(texts[where], where)
        if texts[where].lstrip().startswith("<"):
            raise AntimonyError(f"{where}: it is no Antimony; read SBML with kb.read_sbml, which imports no other file")
        imports[where] = {}
        for line, imported in _imports(texts[where], where):
            if "\\" in imported or not is_inside(folder, imported):
                text = f"import {shown(imported)} leaves the folder of the model; write a path from {folder}, with /"
                raise AntimonyError(f"{where}, line {line}: {text}")
            target = Path(os.path.realpath(folder / imported))
            if not os.path.isfile(target):
                raise AntimonyError(f"{where}, line {line}: there is no file {shown(imported)} in {folder} to import")
            imports[where][imported] = str(main if target == main_path else target)
            waiting.append(target)
    try:
        graphlib.TopologicalSorter({where: named.values() for where, named in imports.items()}).prepare()
    except graphlib.CycleError as error:
        raise AntimonyError(f"{main}: files import each other in a circle: {sorted(set(error.args[1]))}") from error
    return texts, imports


def _translated(texts: Mapping[str, str], imports: Mapping[str, Mapping[str, str]]) -> str:
    """Return the SBML of the first text; of the others Antimony sees copies, each by its full path."""
    with tempfile.TemporaryDirectory() as folder:
        copies = {where: Path(folder).resolve() / f"{number}.ant" for number, where in enumerate(texts)}

        def renamed(where: str, token: re.Match) -> str:
            if token["imported"] is None:
                return token[0]
            return f'import "{copies[imports[where][token["imported"]]].as_posix()}"'

        main, *imported = (
            _TOKEN.sub(lambda token, where=where: renamed(where, token), text) if imports.get(where) else text
            for where, text in texts.items()
        )
        for copy, text in zip(list(copies.values())[1:], imported, strict=True):
            copy.write_text(text, encoding="utf-8", newline="\n")
        seconds = _SECONDS + _SECONDS_A_CHARACTER * sum(map(len, texts.values()))
        try:
            answer = ask(antimony_process, "antimony", main, seconds)
        except ModuleNotFoundError as error:
            text = "reading Antimony takes the package antimony: pip install 'kinbayes[antimony]'"
            raise ModuleNotFoundError(text, name="antimony") from error
        except EndedError as error:
            text = f"the library antimony {error}; shorten its formulas, and use fewer models in models"
            raise AntimonyError(f"{next(iter(texts))}: {text}") from error
    if answer["sbml"] is None:
        raise AntimonyError(_said(answer["said"], copies))
    if len(answer["sbml"]) > _MOST_SBML:
        text = f"its SBML has more than {_MOST_SBML:,} characters, the most that is read; use fewer models in models"
        raise AntimonyError(f"{next(iter(texts))}: {text}")
    return answer["sbml"]


def _said(text: str, copies: Mapping[str, Path]) -> str:
    """Return Antimony's error, with the names of the files that were copied."""
    first = next(iter(copies))
    if not text:
        return f"{first}: a name is not in ASCII; use letters a to z, digits and _"
    text = " ".join(text.split()).replace("Error in model string", first, 1)
    for where, copy in copies.items():
        # Files of one folder are named without it.
        text = re.sub(rf"^Error in file '({re.escape(str(copy.parent))}/*)?{copy.name}'", lambda _, w=where: w, text)
    return text if len(text) <= _MOST_SAID else f"{text[:_MOST_SAID]}..."
