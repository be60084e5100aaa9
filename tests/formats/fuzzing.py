"""Files as strangers might write them: real ones, changed at random, and what becomes of reading them.

A case is a kind and a number, so it can be replayed: `python -m tests.formats.fuzzing sbml 17` writes its files to a
folder and reads them. The oracle: a model or problem, or an error of kinbayes that names the file, in bounded time and
memory.
"""

import copy
import functools
import io
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import yaml

from tests.formats import guarded
from tests.formats.guarded import Outcome, Reader

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
KINDS = ("sbml", "antimony", "petab v1", "petab v2", "formula")
SHARE = 0.02  # of what can be read is simulated or evaluated, too
_MODULE = "tests.formats.fuzzing"
_PER_PROCESS = 1000  # cases, after which a process is replaced: names that were ever read are kept
_LARGEST = 100_000  # bytes of a seed: larger ones take longer and are no stranger

Files = dict[str, bytes]


class Case(NamedTuple):
    """A case, and what became of it."""

    kind: str
    number: int
    outcome: Outcome


def run(kind: str, numbers: range) -> Iterator[Case]:
    """Yield what becomes of cases."""
    with Reader(_MODULE) as reader:
        for number in numbers:
            if number % _PER_PROCESS == 0:
                reader.stop()
            yield Case(kind, number, reader([kind, number]))


def failures(cases: list[Case]) -> list[str]:
    """Return what is wrong with cases: errors of other types than kinbayes', and processes that ended."""
    bad = [case for case in cases if case.outcome.kind in ("untyped", "died")]
    return [f"{c.kind} {c.number}: {c.outcome.kind}, {c.outcome.error}\n{c.outcome.message}" for c in bad]


# ---- seeds


@functools.cache
def seeds(kind: str) -> list[Files]:
    """Return the files that are changed, as folders: the examples, and the collections where these are."""
    if kind == "formula":
        return [{"formula": text.encode()} for text in _FORMULAS]
    examples = sorted((ROOT / "models").glob("*"))
    if kind == "sbml":
        suite = sorted((DATA / "sbml_test_suite").glob("*/*.xml"))[::7]
        found = [path.read_bytes() for path in [*(folder / "model.xml" for folder in examples), *suite]]
        found += _archive(DATA / "biomodels.zip")
        return [{"model.xml": data} for data in found if len(data) < _LARGEST]
    if kind == "antimony":
        texts = [(folder / "model.ant").read_text() for folder in examples]
        texts += [f"{text}\nmodel *outer()\n  a: {_name(text)}(); b: {_name(text)}()\nend\n" for text in texts]
        return [{"model.ant": text.encode()} for text in (*texts, _ANTIMONY)]
    version = kind[-1]
    suite = sorted((DATA / "petab" / "test_suite").glob(f"v{version}.*/sbml/*"))
    folders = [*(examples if version == "1" else ()), *suite]
    return [_folder(folder) for folder in folders if list(folder.glob("*.yaml"))]


def _archive(path: Path) -> list[bytes]:
    if not path.is_file():
        return []
    with zipfile.ZipFile(path) as archive:
        return [archive.read(name) for name in sorted(archive.namelist())[::11] if name.endswith(".xml")]


def _name(antimony: str) -> str:
    return re.search(r"model\s+\*?(\w+)", antimony)[1]


def _folder(folder: Path) -> Files:
    """Return the files of a PEtab problem, its YAML as problem.yaml."""
    files = {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix in (".tsv", ".xml", ".yaml")}
    main = next(name for name in sorted(files, key=lambda n: "solution" in n or "simul" in n) if name.endswith("yaml"))
    return {("problem.yaml" if name == main else name): data for name, data in files.items()}


_FORMULAS = (
    "k1 * A * B / (Km + A)^n",
    "observableParameter1_o * log10(x + 1e-3) - -y^2",
    "piecewise(a, time < 3 && b >= 2, c, !d || e != 1, 0)",
    "exp(-k * time) * sqrt(abs(x)) + min(a, b, 3) % 2",
    "sin(pi * x) + factorial(4) + root(3, x) + log(2, y) + ln(z)",
    "((((a + b) * c) - d) / e) ^ f ^ -g",
    "1.5e-3 + .5 + 5. + 1E+10 + 0",
    "floor(a) + ceil(b) + tanh(c) + arcsin(d) + sec(e)",
)
_ANTIMONY = """
function f(x, y)
  x / (y + x)
end
model *m()
  compartment c = 2; species A in c, B in c
  R1: A + 2 B => 3 B; k * A * B * f(A, 3); R2: B -> ; d * B
  A = 10; B = 1; k = 0.1; d = 1.5; y := A + B; z' = -z + time; z = 1
  E1: at (time > 2), priority = 1: A = A + 5, z = 0
  A is "the first"; unit u = 1e-3 mole; k has u
end
"""


# ---- changes

_WORDS = """
    nan inf -inf NaN INF -INF 1e400 -1e400 1e308 -1e308 5e-324 -0 0 -1 1 2 0x10 1_000 1,5 99999999999999999999 1e-400
    true false None null time pi exponentiale avogadro sin lambda __import__ ä １２ x/0 .. /dev/zero https://x.org/y.xml
    ' " ; ()
"""
_SPECIAL = (*_WORDS.split(), "", " ", "\0", "\t", "\n", "a" * 5000, "9" * 5000, "(" * 500, "problem.yaml")
_TOKEN = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*|[0-9.]+(?:[eE][-+]?[0-9]+)?|[^\sA-Za-z0-9_]")
_NUMBER = re.compile(rb"[0-9.]+(?:[eE][-+]?[0-9]+)?")

Rng = np.random.Generator


def files_of(kind: str, number: int) -> Files:
    """Return the files of a case."""
    rng = np.random.default_rng([KINDS.index(kind), number])
    pool = seeds(kind)
    files = dict(_one(rng, pool))
    for _ in range(rng.geometric(0.5)):
        name = _one(rng, sorted(files))
        other = _one(rng, pool)
        files[name] = _changed(rng, name, files[name], other.get(name, next(iter(other.values()))))
    return files


def _one(rng: Rng, things: list | tuple) -> object:
    return things[rng.integers(len(things))]


def _special(rng: Rng) -> str:
    return _one(rng, _SPECIAL)


def _changed(rng: Rng, name: str, data: bytes, other: bytes) -> bytes:
    changes = [_bytes, _tokens, _tokens]
    structure = {".xml": _xml, ".tsv": _table, ".yaml": _yaml}.get(Path(name).suffix)
    changes += [] if structure is None else [structure] * 4
    return _one(rng, changes)(rng, data, other)


def _bytes(rng: Rng, data: bytes, other: bytes) -> bytes:
    a, b = sorted(rng.integers(len(data) + 1, size=2)) if data else (0, 0)
    b = min(b, a + int(rng.geometric(0.02)))
    match rng.integers(6):
        case 0:  # flip
            changed = bytearray(data)
            for place in rng.integers(len(data), size=min(len(data), 3)):
                changed[place] ^= 1 << int(rng.integers(8))
            return bytes(changed)
        case 1:
            return data[:a] + data[b:]
        case 2:
            return data[:b] + data[a:b] * int(rng.geometric(0.3)) + data[b:]
        case 3:
            return data[:a] + rng.bytes(int(rng.geometric(0.2))) + data[a:]
        case 4:
            return data[:a]
        case _:
            cut = int(rng.integers(len(other) + 1))
            return data[:a] + other[cut:]


def _tokens(rng: Rng, data: bytes, other: bytes) -> bytes:
    pattern = _one(rng, (_TOKEN, _NUMBER))
    found = [match.span() for match in pattern.finditer(data)]
    if not found:
        return data
    (a, b), (c, d) = sorted((_one(rng, found), _one(rng, found)))
    match rng.integers(4):
        case 0:  # swapped
            return data if c < b else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]
        case 1:  # one in place of all of the same text
            return data.replace(data[a:b], data[c:d])
        case 2:
            return data[:a] + data[c:d] + data[b:]
        case _:
            return data[:a] + _special(rng).encode() + data[b:]


def _table(rng: Rng, data: bytes, other: bytes) -> bytes:
    rows = [line.split("\t") for line in data.decode("utf-8", "replace").splitlines()] or [[""]]
    strange = [line.split("\t") for line in other.decode("utf-8", "replace").splitlines()] or [[""]]
    row, again = (int(k) for k in rng.integers(len(rows), size=2))
    column = int(rng.integers(max(1, len(rows[0]))))
    match rng.integers(9):
        case 0:
            del rows[row]
        case 1:
            rows.insert(row, list(rows[again]))
        case 2:
            rows = [cells[:column] + cells[column + 1 :] for cells in rows]
        case 3:
            rows = [[*cells, *cells[column : column + 1]] for cells in rows]
        case 4:
            rows[0][column] = _one(rng, rows[0]) if rng.random() < 0.5 else _special(rng)
        case 5:
            rows[row][rng.integers(len(rows[row]))] = _special(rng)
        case 6:
            rows[row][rng.integers(len(rows[row]))] = _one(rng, rows[again])
        case 7:
            rows.append(_one(rng, strange))
        case _:
            rows[row] += [_special(rng)]
    return "\n".join("\t".join(cells) for cells in rows).encode() + b"\n"


def _yaml(rng: Rng, data: bytes, other: bytes) -> bytes:
    try:
        content = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError):
        return data
    values = (None, [], {}, True, 1, -1.5, [None], {"a": 1}, [[]], "x", content, *_SPECIAL)
    value = _one(rng, values)
    places = list(_places(content))
    if not places:
        return yaml.safe_dump(value).encode()
    holder, key = _one(rng, places)
    match rng.integers(4):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[_special(rng)] = holder.pop(key)
        case 2:
            holder[key] = [holder[key], holder[key]]
        case _:
            holder[key] = value
    return yaml.dump(content).encode("utf-8", "replace")


def _places(content: object, levels: int = 5) -> Iterator[tuple]:
    """Yield what holds each value, and its key; not deeper than PEtab is, since what was changed may hold itself."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        if levels > 1:
            yield from _places(content[key], levels - 1)


def _xml(rng: Rng, data: bytes, other: bytes) -> bytes:
    try:
        root, strange = ElementTree.fromstring(data), ElementTree.fromstring(other)
    except (ElementTree.ParseError, LookupError, ValueError):
        return _tokens(rng, data, other)
    holders = [element for element in root.iter() if len(element)] or [root]
    holder, elements = _one(rng, holders), list(root.iter())
    place = int(rng.integers(max(1, len(holder))))
    chosen = _one(rng, elements)
    match rng.integers(10):
        case 0 if len(holder):
            del holder[place]
        case 1 if len(holder):
            holder.insert(place, copy.deepcopy(holder[place]))
        case 2 if len(holder):  # moved
            inner = holder[place]
            del holder[place]
            _one(rng, elements).append(inner)
        case 3:  # nested
            inner = copy.deepcopy(chosen)
            chosen[:] = [inner]
        case 4:
            chosen.tag = _one(rng, elements).tag
        case 5 if chosen.attrib:
            del chosen.attrib[_one(rng, sorted(chosen.attrib))]
        case 6:
            given = _one(rng, elements)
            chosen.attrib.update(given.attrib)
        case 7 if chosen.attrib:
            chosen.set(_one(rng, sorted(chosen.attrib)), _special(rng).replace("\0", ""))
        case 8:
            chosen.text = _special(rng).replace("\0", "")
        case _:
            holder.insert(place, _one(rng, list(strange.iter())))
    changed = io.BytesIO()
    ElementTree.ElementTree(root).write(changed, encoding="UTF-8", xml_declaration=True)
    return changed.getvalue()


# ---- reading


class Misplaced(Exception):
    """An error that does not say where."""


def answer(request: list) -> None:
    """Read a case; some of what can be read is simulated or evaluated."""
    kind, number = request
    files = files_of(kind, number)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        try:
            _read(kind, Path(folder), files)
        except (ValueError, OSError) as error:
            if kind != "formula" and folder not in str(error):
                raise Misplaced(f"{type(error).__name__}: {error}") from error
            raise
        if np.random.default_rng([KINDS.index(kind), number, 1]).random() < SHARE:
            _use(kind, Path(folder))


def _read(kind: str, folder: Path, files: Files) -> object:
    import kinbayes as kb
    from kinbayes.model.formula import parse

    match kind:
        case "sbml":
            return kb.read_sbml(folder / "model.xml")
        case "antimony":
            return kb.read_antimony(folder / "model.ant")
        case "formula":
            return parse(files["formula"].decode("utf-8", "replace"))
    return kb.read_petab(folder / "problem.yaml", max_steps=200)


def _use(kind: str, folder: Path) -> None:
    import kinbayes as kb

    thing = _read(kind, folder, {"formula": b"x"})
    if isinstance(thing, kb.Model):
        try:
            kb.simulate(thing, [0.0, 1.0], max_steps=200)
        except ValueError as error:
            if "have no finite value" not in str(error):
                raise
    elif isinstance(thing, kb.Problem):
        thing.evaluate(np.atleast_2d(thing.nominal))


def main(arguments: list[str], ready: Callable[[], None]) -> None:
    """Serve requests; or replay one case."""
    if not arguments:
        ready()
        guarded.serve(answer)
        return
    kind, number = arguments
    folder = Path("/tmp") / f"kinbayes {kind} {number}"
    folder.mkdir(exist_ok=True)
    for name, data in files_of(kind, int(number)).items():
        (folder / name).write_bytes(data)
    print(folder)
    answer([kind, int(number)])


if __name__ == "__main__":
    main(sys.argv[1:], guarded.warm)
