"""Writing to a disk that others use, with Ctrl-C at hand."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on this system: nothing keeps two processes apart there
    fcntl = None


class InUseError(RuntimeError):
    """A folder that another process has locked."""


def locked(path: Path) -> int | None:
    """Keep other processes from locking a folder until the descriptor returned is closed, or this process ends.

    None is returned where the system knows no locks.

    Raises
    ------
    InUseError
        If another process has it.
    """
    if fcntl is None:
        return None
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise InUseError(f"another process has {path}") from error
    except OSError:  # a file system that knows no locks
        os.close(lock)
        return None
    return lock


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until all is written: Zarr's threads would go on writing, and overtake what comes later."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)


def sync(path: Path) -> None:
    """Wait until a file is on the disk, not in the system's memory alone; rows without values have none."""
    if path.exists():
        with path.open("rb") as file:
            os.fsync(file.fileno())
