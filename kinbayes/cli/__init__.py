"""The command line."""

from kinbayes.cli import amortized, commands, modes  # noqa: F401 - they add their commands
from kinbayes.cli.app import app

__all__ = ["app"]
