"""Where the example models lie: inside an installed package, beside the package in a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def folder() -> Path:
    """Return the folder of all example models."""
    installed = _PACKAGE / "models"
    return installed if installed.is_dir() else _PACKAGE.parent / "models"


def names() -> list[str]:
    """Return the names of the example models."""
    return sorted(path.parent.name for path in folder().glob("*/problem.yaml"))


def example(name: str) -> Path:
    """Return the path of an example's `problem.yaml`, for `read_petab`.

    Raises
    ------
    ValueError
        If there is no such example.
    """
    if name not in names():
        raise ValueError(f"unknown example {name!r}; choose from {names()}")
    return folder() / name / "problem.yaml"
