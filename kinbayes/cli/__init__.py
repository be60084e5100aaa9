"""The command line."""

from kinbayes.cli.commands import app

__all__ = ["app"]
