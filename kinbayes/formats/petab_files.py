"""The files of a PEtab problem: its YAML, the paths in it, and the tables that these lead to."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from kinbayes.formats.petab_table import PEtabError, Row, read_rows, read_text


def read_yaml(path: Path) -> dict:
    """Return what a YAML file holds.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    PEtabError
        If it is not YAML, or holds no `key: value` pairs.
    """
    text = read_text(path)
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none, too many brackets
        raise PEtabError(f"{path}: this is not YAML: {' '.join(str(error).split())}") from error
    return mapping(path, content, "the file")


def mapping(path: Path, content: object, what: str) -> dict:
    """Return what must be `key: value` pairs."""
    if not isinstance(content, dict):
        raise PEtabError(f"{path}: {what} must hold `key: value` pairs, not {content!r}")
    return content


def required(path: Path, content: dict, key: str) -> object:
    """Return what must be there."""
    if key not in content:
        raise PEtabError(f"{path}: {key!r} is missing; there are {list(content)}")
    return content[key]


def file_paths(path: Path, content: dict, key: str) -> list[Path]:
    """Return the files under a key; a problem reads nothing outside its own folder."""
    names = required(path, content, key)
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(map(_is_file_name, names)):
        raise PEtabError(f"{path}: {key!r} is {names!r}; it must be a list of file names")
    folder = path.parent.resolve()
    for name in names:
        if Path(name).is_absolute() or not (folder / name).resolve().is_relative_to(folder):
            raise PEtabError(f"{path}: {key!r} names {name!r}, outside {path.parent}; move it there")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{path}: {key!r} names {name!r}, but {path.parent} has no such file")
    return [path.parent / name for name in names]


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and "\0" not in name


def table_rows(paths: Sequence[Path], columns: Sequence[str]) -> list[Row]:
    """Return the lines of a table that may be split over several files."""
    return [row for path in paths for row in read_rows(path, columns)]


def unique(column: str, things: Iterator[tuple]) -> dict[str, tuple]:
    """Return (row, thing) by the thing's name."""
    found: dict[str, tuple] = {}
    for row, thing in things:
        if thing.name in found:
            raise row.error(column, f"{thing.name!r} is defined already, in {found[thing.name][0].place}")
        found[thing.name] = (row, thing)
    return found
