"""`python -m kinbayes.cli`."""

from kinbayes.cli.commands import app

app()
