"""SBML models made of submodels (the package `comp`), flattened into one model by libsbml."""

import graphlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import libsbml

from kinbayes.formats.apart import EndedError, ask
from kinbayes.formats.files import is_inside, read_bytes, shown
from kinbayes.formats.sbml import comp_process
from kinbayes.formats.sbml.document import read_document
from kinbayes.formats.sbml.errors import SBMLError, UnsupportedSBMLError, at

# What libsbml flattens in about 3 s; its time grows with the square of the elements, and doubles with every level.
_MOST_ELEMENTS = 7_000
_MOST_LEVELS = 25
_SECONDS = 5.0


def has_submodels(document: libsbml.SBMLDocument) -> bool:
    """Return whether a document uses the package for submodels."""
    return document.getLevel() > 2 and document.getPlugin("comp") is not None


def flatten(document: libsbml.SBMLDocument, text: str, folder: Path | None) -> None:
    """Replace the model of a document by one without submodels, in place.

    Parameters
    ----------
    document
        The document, which `has_submodels`.
    text
        What it was read from.
    folder
        Where the models of other files are read from; None refuses them.

    Raises
    ------
    SBMLError
        If libsbml cannot do it, or the model would have too many elements.
    UnsupportedSBMLError
        If a model of a file outside of the folder is used.
    """
    _Files(folder, {}).sizes(document, folder, ())
    place = "" if folder is None else str(folder)
    question = {"text": text, "where": document.getLocationURI(), "folder": place}
    # Some documents that are broken end libsbml; another process shows it. Its document is not taken instead: it lacks
    # the lines of this one, and the last digits of its numbers.
    try:
        wrong = ask(comp_process, "libsbml", json.dumps(question), _SECONDS)["wrong"]
    except EndedError as error:
        wrong = f"libsbml {error}"
    if wrong is None:
        wrong = comp_process.flattened(libsbml, document, place)
    if wrong is not None:
        raise SBMLError(at(document, f"its submodels cannot be made one model: {wrong}"))


class _Size(NamedTuple):
    """What a model is once its submodels are written out; it may contain another twice, and that another, and so on."""

    elements: int
    levels: int


class _Sizes(NamedTuple):
    """What stands in a document, before anything is written out.

    Attributes
    ----------
    flat
        The sizes of its models, by id; that of the main model under "", too.
    read
        The elements of all that libsbml reads: it reads a file again for every definition that names it.
    """

    flat: Mapping[str, _Size]
    read: int


class _Files(NamedTuple):
    """The files in or below a folder, or None, and the sizes of those that were looked at."""

    root: Path | None
    known: dict[Path, _Sizes]

    def sizes(self, document: libsbml.SBMLDocument, folder: Path | None, trail: tuple[Path, ...]) -> _Sizes:
        """Return the sizes of a document; refuse files elsewhere, files that use each other, and too large models."""
        external: dict[str, _Size] = {}
        read = sum(model.getListOfAllElements().getSize() for model in _models(document))
        for definition in _externals(document):
            path = self._path(definition, folder)
            if path in trail:
                raise SBMLError(at(definition, f"the file {definition.getSource()!r} uses itself"))
            if path not in self.known:
                inner = read_document(str(path), read_bytes(path, "SBML file", SBMLError))
                self.known[path] = self.sizes(inner, path.parent, (*trail, path))
            external[definition.getId()] = self.known[path].flat.get(definition.getModelRef(), _Size(0, 0))
            read += self.known[path].read
        flat = _flat(document, external)
        if max(read, *(size.elements for size in flat.values())) > _MOST_ELEMENTS:
            text = f"with its submodels written out it has more than {_MOST_ELEMENTS:,} elements; use fewer of them"
            raise SBMLError(at(document, text))
        if max(size.levels for size in flat.values()) > _MOST_LEVELS or len(trail) > _MOST_LEVELS:
            raise SBMLError(at(document, f"its submodels are nested more than {_MOST_LEVELS} deep; use fewer levels"))
        return _Sizes(flat, read)

    def _path(self, definition: libsbml.ExternalModelDefinition, folder: Path | None) -> Path:
        source = definition.getSource()
        if self.root is None or folder is None:
            raise UnsupportedSBMLError(at(definition, f"a text without a folder cannot use the file {shown(source)}"))
        is_plain = ":" not in source and ".." not in Path(source).parts
        path = Path(os.path.realpath(folder / source))
        if not is_plain or not is_inside(folder, source) or not path.is_relative_to(os.path.realpath(self.root)):
            raise UnsupportedSBMLError(at(definition, f"it is the file {shown(source)}, not one in the model's folder"))
        if not os.path.isfile(path):
            raise SBMLError(at(definition, f"there is no file {shown(source)} in the model's folder"))
        return path


def _externals(document: libsbml.SBMLDocument) -> Iterator[libsbml.ExternalModelDefinition]:
    plugin = document.getPlugin("comp")
    yield from plugin.getListOfExternalModelDefinitions() if plugin is not None else ()


def _models(document: libsbml.SBMLDocument) -> list[libsbml.Model]:
    plugin = document.getPlugin("comp")
    return [document.getModel(), *(plugin.getListOfModelDefinitions() if plugin is not None else ())]


def _flat(document: libsbml.SBMLDocument, external: Mapping[str, _Size]) -> dict[str, _Size]:
    """Return the sizes of the models of a document, which may not form a circle."""
    models = {model.getId(): model for model in _models(document)}
    parts = {name: _parts(model) for name, model in models.items()}
    try:
        order = list(graphlib.TopologicalSorter(parts).static_order())
    except graphlib.CycleError as error:
        text = f"its submodels cannot be made one model: modelRef leads in a circle, {shown(error.args[1])}"
        raise SBMLError(at(document, text)) from error
    flat = dict(external)
    for name in (name for name in order if name in models):  # the others are in other files, or nowhere
        inner = [flat.get(part, _Size(0, 0)) for part in parts[name]]
        own = models[name].getListOfAllElements().getSize()
        flat[name] = _Size(own + sum(s.elements for s in inner), 1 + max((s.levels for s in inner), default=0))
    return flat | {"": flat[document.getModel().getId()]}


def _parts(model: libsbml.Model) -> list[str]:
    plugin = model.getPlugin("comp")
    return [part.getModelRef() for part in plugin.getListOfSubmodels()] if plugin is not None else []
