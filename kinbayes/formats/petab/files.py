"""The files of a PEtab problem: its YAML, the paths in it, and the tables that these lead to."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from kinbayes.formats.files import is_inside, shown
from kinbayes.formats.petab.table import PEtabError, Row, read_rows, read_text

_LONGEST = 2**20  # characters of YAML, which is read slowly; the problems of the PEtab collection have less than 1000


class _Loader(yaml.SafeLoader):
    """Plain YAML: without anchors, with which a short text can be endless, without tags, and no key twice."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 - those of YAML 1.1 read 1:30 as 90, and on as true

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        event = self.peek_event()
        if event.anchor is not None or event.tag is not None:  # an alias has the anchor's name
            raise yaml.MarkedYAMLError(problem="anchors, aliases and tags are not read", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in names:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} occurs twice", problem_mark=key.start_mark)
            names.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _starts in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"[-+]?(0|[1-9][0-9]{0,17})", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]{1,300}(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"({_pattern})\Z"), _starts)


def read_yaml(path: Path) -> dict:
    """Return what a YAML file holds.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    PEtabError
        If it is not YAML, holds no `key: value` pairs, or uses anchors or tags.
    """
    text = read_text(path)
    if len(text) > _LONGEST:
        raise PEtabError(f"{path}: it has more than {_LONGEST:,} characters, too many for a list of files")
    try:
        content = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:  # too many brackets
        reason = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise PEtabError(f"{path}: this is not YAML: {reason}") from error
    return mapping(path, content, "the file")


def mapping(path: Path, content: object, what: str) -> dict:
    """Return what must be `key: value` pairs."""
    if not isinstance(content, dict):
        raise PEtabError(f"{path}: {what} must hold `key: value` pairs, not {shown(content)}")
    return content


def required(path: Path, content: dict, key: str) -> object:
    """Return what must be there."""
    if key not in content:
        raise PEtabError(f"{path}: {key!r} is missing; there are {shown(list(content))}")
    return content[key]


def file_paths(path: Path, content: dict, key: str) -> list[Path]:
    """Return the files under a key; a problem reads nothing outside its own folder."""
    names = required(path, content, key)
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(map(_is_file_name, names)):
        raise PEtabError(f"{path}: {key!r} is {shown(names)}; it must be a list of file names")
    for name in names:
        if not is_inside(path.parent, name):
            raise PEtabError(f"{path}: {key!r} names {shown(name)}, outside {path.parent}; move it there")
        if not os.path.isfile(path.parent / name):
            raise FileNotFoundError(f"{path}: {key!r} names {shown(name)}, but {path.parent} has no such file")
    return [path.parent / name for name in names]


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name.isprintable()  # no zero byte, and no half of a character


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
