"""SBML models made of submodels (the package `comp`), flattened into one model by libsbml."""

from pathlib import Path

import libsbml

from kinbayes.formats.sbml.document import check_document, check_xml
from kinbayes.formats.sbml.errors import SBMLError, UnsupportedSBMLError, at


def has_submodels(document: libsbml.SBMLDocument) -> bool:
    """Return whether a document uses the package for submodels."""
    return document.getLevel() > 2 and document.getPlugin("comp") is not None


def flatten(document: libsbml.SBMLDocument, folder: Path | None) -> None:
    """Replace the model of a document by one without submodels, in place.

    Parameters
    ----------
    document
        The document, which `has_submodels`.
    folder
        Where the models of other files are read from; None refuses them.

    Raises
    ------
    SBMLError
        If libsbml cannot do it.
    UnsupportedSBMLError
        If a model of a file outside of the folder is used.
    """
    _check_files(document, folder, folder, ())
    properties = libsbml.ConversionProperties()
    properties.addOption("flatten comp", True)
    properties.addOption("leavePorts", False)
    properties.addOption("performValidation", True)
    properties.addOption("abortIfUnflattenable", "requiredOnly")
    properties.addOption("basePath", str(folder or ""))
    known = document.getNumErrors()
    if document.convert(properties) != libsbml.LIBSBML_OPERATION_SUCCESS:
        found = [document.getError(i) for i in range(known, document.getNumErrors())]
        errors = [error for error in found if error.getSeverity() >= libsbml.LIBSBML_SEV_ERROR]
        reasons = " ".join(" ".join(e.getMessage().split()) for e in errors) or "libsbml does not say why"
        raise SBMLError(at(document, f"its submodels cannot be made one model: {reasons}"))


def _check_files(
    document: libsbml.SBMLDocument, root: Path | None, folder: Path | None, trail: tuple[Path, ...]
) -> None:
    """Refuse models of other files that are not in or below the folder `root`, and files that use each other."""
    plugin = document.getPlugin("comp")
    for i in range(plugin.getNumExternalModelDefinitions() if plugin is not None else 0):
        definition = plugin.getExternalModelDefinition(i)
        source = definition.getSource()
        if root is None or folder is None:
            raise UnsupportedSBMLError(at(definition, f"a text without a folder cannot use the file {source!r}"))
        path = (folder / source).resolve()
        is_plain = ":" not in source and not Path(source).is_absolute() and ".." not in Path(source).parts
        if not is_plain or not path.is_relative_to(root.resolve()):
            raise UnsupportedSBMLError(at(definition, f"it is the file {source!r}, not one in the model's folder"))
        if not path.is_file():
            raise SBMLError(at(definition, f"there is no file {source!r} in the model's folder"))
        if path in trail:
            raise SBMLError(at(definition, f"the file {source!r} uses itself"))
        check_xml(str(path), path.read_bytes())
        external = libsbml.readSBMLFromFile(str(path))
        check_document(str(path), external)
        _check_files(external, root, path.parent, (*trail, path))
