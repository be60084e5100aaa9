"""Reading files in a process that may be stopped or killed: with a limit on time and on memory."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

SECONDS = 10.0
MEMORY = 2 * 2**30  # bytes that reading may take, on top of what the process has once all is imported


class Outcome(NamedTuple):
    """What became of one reading.

    Attributes
    ----------
    kind
        "read", "refused" (by an error of kinbayes), "untyped" (by any other), or "died" (a crash, or past the limits).
    error
        The error's class; of a process that died its exit status.
    message
        The error's message; of a process that died the end of what it wrote.
    seconds
        How long it took.
    memory
        The most that the process has had so far, in bytes.
    """

    kind: str
    error: str = ""
    message: str = ""
    seconds: float = 0.0
    memory: int = 0


class Reader:
    """A process that reads one thing after the other; where it dies, a new one takes its place.

    Parameters
    ----------
    module
        What it runs: `python -m module`; it calls `serve`.
    """

    def __init__(self, module: str) -> None:
        self._command = [sys.executable, "-m", module]
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process; the next request starts a new one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __call__(self, request: object) -> Outcome:
        """Return what becomes of a request."""
        if self._process is None:
            root = Path(__file__).parents[2]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=root)
        process = self._process
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if line:
            return Outcome(*json.loads(line))
        _, said = process.communicate()
        self._process = None
        return Outcome("died", str(process.returncode), said.partition("Extension modules:")[0][-4000:])


def serve(answer: Callable[[list], None]) -> None:
    """Answer requests, one a line, until there are no more; `answer(request)` returns nothing or raises."""
    import faulthandler
    import os
    import resource
    import time

    # The answers go where nothing else is written: libraries print.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    faulthandler.enable()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + MEMORY,) * 2)
    for line in _lines():
        start = time.perf_counter()
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        kind, error, message = _said(answer, json.loads(line))
        faulthandler.cancel_dump_traceback_later()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps([kind, error, message, time.perf_counter() - start, memory]), file=answers, flush=True)


def _lines() -> Iterator[str]:
    return iter(sys.stdin.readline, "")


def _said(answer: Callable[[list], None], request: list) -> tuple[str, str, str]:
    import traceback

    from kinbayes.formats.antimony import AntimonyError
    from kinbayes.formats.petab.table import PEtabError
    from kinbayes.formats.sbml.errors import SBMLError
    from kinbayes.model.formula import FormulaError
    from kinbayes.model.model import ModelError
    from kinbayes.ode.simulate import SimulationError
    from kinbayes.problem.observables import DataError
    from kinbayes.problem.parameters import ParameterError

    typed = (AntimonyError, PEtabError, SBMLError, FormulaError, ModelError, SimulationError, DataError, ParameterError)
    files = (FileNotFoundError, IsADirectoryError, PermissionError, NotADirectoryError)
    try:
        answer(request)
    except (*typed, *files) as error:
        return "refused", type(error).__name__, str(error)
    except BaseException as error:
        trace = "".join(traceback.format_exception(error, limit=-6))
        return "untyped", type(error).__name__, trace[-6000:]
    return "read", "", ""


def read(request: list) -> None:
    """Read what a request names: its kind and its path or text."""
    import kinbayes as kb

    kind, what = request[:2]
    if kind == "sbml":
        kb.read_sbml(what)
    elif kind == "antimony":
        kb.read_antimony(Path(what))
    elif kind == "petab":
        kb.read_petab(what)
    elif kind == "table":
        from kinbayes.formats.petab.init import init_petab

        init_petab(*request[1:])
    elif kind == "formula":
        from kinbayes.model.formula import parse

        parse(what)
    else:
        raise ValueError(kind)


def warm() -> None:
    """Import and compile what every reading takes, which does not count against the limits."""
    import kinbayes as kb

    model = Path(__file__).parents[2] / "models" / "lynx_hare"
    problem = kb.read_petab(model / "problem.yaml")
    problem.evaluate(problem.nominal[None])
    kb.simulate(kb.read_antimony(model / "model.ant"), [0.0, 1.0])


if __name__ == "__main__":
    warm()
    serve(read)
