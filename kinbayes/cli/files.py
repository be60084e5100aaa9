"""The files that commands write: looked at before a long run, and written whole or not at all."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path


def check_folder(path: Path) -> None:
    """Refuse, before a long run, a path that cannot be written after it."""
    folder = path.resolve().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"cannot write {path}: {folder} is no folder that may be written; choose another --out")


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file whole or not at all."""
    check_folder(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def is_result(path: Path) -> bool:
    """Return whether a path is a result, or the checkpoint of one."""
    return path.is_file() or (path / "zarr.json").is_file()
