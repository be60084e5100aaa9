"""The application: how commands fail, and the options that several of them have."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

errors = Console(stderr=True)


class _Commands(typer.core.TyperGroup):
    """Commands whose expected errors are one readable message, without a traceback."""

    def invoke(self, ctx: object) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except typer.Exit:  # a RuntimeError, too
            raise
        except (ValueError, OSError, RuntimeError, ImportError) as error:  # the last: an extra is not installed
            errors.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Posteriors for kinetic ODE models: from a model and measurements to credible intervals.",
)

ProblemPath = Annotated[Path, typer.Argument(help="PEtab problem (YAML), or its folder.", show_default=False)]
Seed = Annotated[int, typer.Option(help="Seeds everything that is random.")]
Relative = Annotated[float, typer.Option(help="Relative tolerance of the simulation.")]
Absolute = Annotated[float, typer.Option(help="Absolute tolerance of the simulation.")]
Checkpoint = Annotated[
    Path | None, typer.Option(help="Folder to make, in which the run is kept while it goes on.", show_default=False)
]
Archive = Annotated[
    Path | None,
    typer.Option(help="Folder to which evaluated points are appended, made if there is none.", show_default=False),
]
ProposalFile = Annotated[Path | None, typer.Option(help="A file written by amortize.", show_default=False)]
MaxSeconds = Annotated[float | None, typer.Option(help="Stop after so many seconds.", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting as name=value; may be repeated.", show_default=False),
]
