"""What the files of strangers may be: regular, not too large, and in the folder of the file that names them."""

import os
import reprlib
from pathlib import Path

LARGEST = 100 * 2**20  # bytes of any file; the largest of the curated BioModels has 3 MB


def read_bytes(path: Path, kind: str, error: type[ValueError]) -> bytes:
    """Return what a file holds.

    Parameters
    ----------
    path
        The file.
    kind
        What errors call it.
    error
        What is raised where it is too large.

    Raises
    ------
    FileNotFoundError
        If there is no such file; a folder, a pipe or a device is none.
    PermissionError
        If it may not be read.
    """
    # Of os.path, since pathlib raises other errors for names that are too long or hold a zero byte.
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no such {kind}: {path}" + (", which is a folder" if os.path.isdir(path) else ""))
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > LARGEST:
            raise error(f"{path}: it has more than {LARGEST // 2**20} MiB, the most that is read; split or shorten it")
        return file.read()


def is_inside(folder: Path, name: str) -> bool:
    """Return whether a path that a file of a folder names stays in that folder, links followed."""
    if Path(name).is_absolute() or "\0" in name:
        return False
    return Path(os.path.realpath(folder / name)).is_relative_to(os.path.realpath(folder))


# What a file holds may be long, or lists in lists that name each other over and over.
_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxtuple = 30
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlevel = 3


def shown(value: object) -> str:
    """Return what a message shows of something from a file: all of it, where that is short."""
    return _SHORT.repr(value)
