"""Models of submodels made one model, and the process that tries it: some that are broken end libsbml.

See `kinbayes.formats.apart`. The question is JSON: the text of a document, its place and its folder. The answer is what
libsbml says is wrong with it, or null.
"""

import json
import os
import sys
from types import ModuleType

_MEMORY = 2 * 2**30  # bytes


def flattened(libsbml: ModuleType, document: object, folder: str) -> str | None:
    """Replace the model of a document by one without submodels, in place; return what is wrong, or None.

    Parameters
    ----------
    libsbml
        The library, which is imported in two ways.
    document
        The SBML document.
    folder
        Where the models of other files are.
    """
    properties = libsbml.ConversionProperties()
    properties.addOption("flatten comp", True)
    properties.addOption("leavePorts", False)
    properties.addOption("performValidation", True)
    properties.addOption("abortIfUnflattenable", "requiredOnly")
    properties.addOption("basePath", folder)
    known = document.getNumErrors()
    if document.convert(properties) == libsbml.LIBSBML_OPERATION_SUCCESS:
        return None
    found = [document.getError(i) for i in range(known, document.getNumErrors())]
    errors = [error.getMessage() for error in found if error.getSeverity() >= libsbml.LIBSBML_SEV_ERROR]
    return " ".join(" ".join(errors).split()) or "libsbml does not say why"


def main() -> None:
    """Try to flatten the document."""
    try:
        import resource
    except ModuleNotFoundError:  # on Windows there are no such limits
        pass
    else:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    sys.path.append(sys.argv[1])
    import libsbml

    question = json.loads(sys.stdin.buffer.read())
    document = libsbml.readSBMLFromString(question["text"])
    document.setLocationURI(question["where"])
    json.dump({"wrong": flattened(libsbml, document, question["folder"])}, answer)
    answer.close()


if __name__ == "__main__":
    main()
