"""`python -m kinbayes.cli`."""

from kinbayes.cli import app

app()
