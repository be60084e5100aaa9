"""The command about learned proposals."""

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from kinbayes.cli.app import Absolute, ProblemPath, Relative, Seed, Settings, app
from kinbayes.cli.arguments import settings_of
from kinbayes.cli.files import check_folder, write_whole
from kinbayes.cli.printing import print_table, wrote


@app.command()
def amortize(
    problem: ProblemPath,
    network: Annotated[str, typer.Option(help="cvae, transformer_cvae, flow, or ccgan.")] = "cvae",
    archive: Annotated[
        Path | None,
        typer.Option(
            help="Archive that sample and optimize have filled, or a folder for a new one; by default one that is not "
            "kept.",
            show_default=False,
        ),
    ] = None,
    max_evaluations: Annotated[int, typer.Option(help="Evaluations for a new archive.")] = 50_000,
    max_points: Annotated[int, typer.Option(help="Points to learn from, at most.")] = 10_000,
    epochs: Annotated[int, typer.Option(help="Epochs of training.")] = 300,
    search: Annotated[
        int, typer.Option(help="Runs of a random search over settings of the network, the best of which is trained on.")
    ] = 0,
    condition: Annotated[
        float | None, typer.Option(help="What to ask for; by default the best of a few.", show_default=False)
    ] = None,
    settings: Settings = None,
    starts: Annotated[int, typer.Option(help="Starts of each kind that the page compares.")] = 100,
    out: Annotated[Path, typer.Option(help="Proposal to write.")] = Path("proposal.npz"),
    report: Annotated[Path, typer.Option(help="Page to write (HTML).")] = Path("proposal.html"),
    seed: Seed = 0,
    rtol: Relative = 1e-6,
    atol: Absolute = 1e-9,
) -> None:
    """Learn a proposal from simulations, and tell what its points are worth."""
    import pandas as pd

    import kinbayes as kb
    from kinbayes.cli.amortized_page import evaluation_page
    from kinbayes.run.learned.evaluation import evaluate_proposal

    check_folder(out)
    check_folder(report)
    found = kb.read_petab(problem, rtol=rtol, atol=atol)
    with tempfile.TemporaryDirectory() if archive is None else nullcontext(archive) as folder:
        archive = Path(folder) / "archive.zarr" if archive is None else archive
        proposal = kb.amortize(
            found,
            archive=archive,
            network=network,
            settings=settings_of(settings),
            max_evaluations=max_evaluations,
            max_points=max_points,
            epochs=epochs,
            search_runs=search,
            condition=condition,
            seed=seed,
        )
        proposal.save(out)
        wrote(out)
        evaluation = evaluate_proposal(found, proposal, archive, starts=starts, seed=seed)
    print_table(pd.Series(evaluation.numbers, name="value").to_frame(), "learned proposal")
    text = evaluation_page(found.name, proposal, evaluation)
    wrote(write_whole(report, lambda path: path.write_text(text, encoding="utf-8")))
