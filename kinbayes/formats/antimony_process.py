"""The process that asks the library antimony: texts that it does not survive end this process and no other.

See `kinbayes.formats.apart`. The question is Antimony; the answer its SBML, or what the library says is wrong with it.
"""

import json
import os
import sys

_MEMORY = 2**30  # bytes


def main() -> None:
    """Translate the text."""
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
    import antimony

    text = sys.stdin.buffer.read().decode()
    antimony.clearDirectories()
    is_read = antimony.loadAntimonyString(text) >= 0
    sbml = antimony.getSBMLString(antimony.getMainModuleName()) if is_read else None
    json.dump({"said": "" if is_read else _error(antimony), "sbml": sbml}, answer)
    answer.close()


def _error(antimony: object) -> str:
    try:
        return antimony.getLastError()
    except UnicodeDecodeError:  # it quotes one byte of several
        return ""


if __name__ == "__main__":
    main()
