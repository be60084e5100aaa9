"""Asking a library in a process of its own: there are texts that it does not survive, or never finishes."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType


class EndedError(Exception):
    """A process that ended without an answer; the message says how."""


def ask(module: ModuleType, library: str, text: str, seconds: float) -> dict:
    """Return what a process answers.

    Parameters
    ----------
    module
        What it runs: `module.main()`. It imports nothing of kinbayes, so it starts fast, reads `text` from its standard
        input and writes JSON to its standard output. Its argument is the folder in which the library lies.
    library
        The library's name.
    text
        The question.
    seconds
        The most that it may take.

    Raises
    ------
    ModuleNotFoundError
        If there is no such library.
    EndedError
        If it came to its end, or took too long.
    """
    found = importlib.util.find_spec(library)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"there is no package {library}", name=library)
    # Isolated: the working folder may hold modules of anyone.
    command = [sys.executable, "-I", module.__file__, str(Path(found.origin).parents[1])]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise EndedError(f"took longer than {seconds:.0f} s") from error
    if done.returncode:
        raise EndedError(f"came to its end (exit status {done.returncode})")
    return json.loads(done.stdout)
