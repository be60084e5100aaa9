"""PEtab's tables: lines whose cells know their place, and errors that name it."""

import csv
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kinbayes.formats.files import read_bytes, shown

# What pandas, with which PEtab's own tools read tables, takes for an empty cell.
_NO_VALUE = frozenset(("", "nan", "NaN", "NA", "N/A", "null", "NULL", "None"))
_MOST_CELLS = 5_000_000  # of a table; as many take about 5 s and 1 GB

_LINE_END = re.compile(r"\r\n?")
_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class PEtabError(ValueError):
    """A PEtab problem that contradicts itself; the message names the file, its line and its column."""


class UnsupportedPEtabError(PEtabError):
    """A valid PEtab problem that uses what is not supported."""


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Parameters
    ----------
    place
        Its file and line, for messages.
    cells
        Column -> cell; an empty one is empty text, like that of a column which the table does not have.
    """

    place: str
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")

    def error(self, column: str, message: str) -> PEtabError:
        """Return an error at one of its cells."""
        return PEtabError(f"{self.place}, column {column!r}: {message}")

    def number(self, column: str) -> float:
        """Return a cell that must be a number; it may be infinite."""
        value = number(self[column])
        if math.isnan(value):
            raise self.error(column, f"{shown(self[column])} is no number; correct the cell")
        return value

    def identifier(self, column: str) -> str:
        """Return a cell that must be an id."""
        if not _ID.fullmatch(self[column]):
            raise self.error(column, f"{shown(self[column])} is no id; use letters, digits and _, no digit first")
        return self[column]

    def choice(self, column: str, choices: Collection[str], default: str = "") -> str:
        """Return a cell that must be one of some words."""
        value = self[column] or default
        if value not in choices:
            raise self.error(column, f"unknown {value!r}; choose from {list(choices)}")
        return value

    def parts(self, column: str) -> list[str]:
        """Return the parts of a cell that semicolons separate."""
        return [part.strip() for part in self[column].split(";")] if self[column] else []


def number(text: str) -> float:
    """Return the number that a text states, NaN where it states none."""
    if "_" in text or not text.isascii():  # Python would read 1_000, and the digits of other scripts
        return math.nan
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return math.nan if math.isinf(value) and "inf" not in text.lower() else value  # 1e400 is too large a number


def read_rows(path: Path, required: Sequence[str], separator: str = "\t") -> Iterator[Row]:
    """Return the lines of a table in one file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    PEtabError
        If it is not UTF-8 or too large, a column is missing or occurs twice, or a line has more cells than the header.
    """
    lines = _lines(path, separator)
    header = [cell for cell in next(lines, (1, []))[1] if cell]
    for column in required:
        if column not in header:
            raise PEtabError(f"{path}: the column {column!r} is missing; there are {shown(header)}")
    twice = sorted(column for column, count in Counter(header).items() if count > 1)
    if twice:
        raise PEtabError(f"{path}, line 1: columns {shown(twice)} occur twice; remove or rename one")
    for line, cells in lines:
        if any(cells[len(header) :]):
            counts = f"{len(cells)} cells, but there are {len(header)} columns"
            raise PEtabError(f"{path}, line {line}: {counts} (separated by {separator!r})")
        if any(cells):  # an empty line is none; separators at the end of a line may be left out
            padded = itertools.zip_longest(header, cells[: len(header)], fillvalue="")
            yield Row(f"{path}, line {line}", dict(padded))


def _lines(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of every line, with its number."""
    reader = csv.reader(io.StringIO(read_text(path)), delimiter=separator)
    count = 0
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise PEtabError(f"{path}, line {reader.line_num}: {error}; check the quotation marks") from error
        if fields is None:
            return
        count += max(1, len(fields))
        if count > _MOST_CELLS:
            text = f"the table has more than {_MOST_CELLS:,} cells, the most that are read; shorten it"
            raise PEtabError(f"{path}, line {reader.line_num}: {text}")
        yield reader.line_num, [_cell(field) for field in fields]


def _cell(field: str) -> str:
    return "" if field.strip() in _NO_VALUE else field.strip()


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    PEtabError
        If it is not UTF-8, or too large.
    """
    try:
        return _LINE_END.sub("\n", read_bytes(path, "file", PEtabError).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise PEtabError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
