"""Commands about the mode of a posterior."""

from pathlib import Path
from typing import Annotated

import typer

from kinbayes.cli.app import (
    Absolute,
    Archive,
    Checkpoint,
    MaxSeconds,
    ProblemPath,
    ProposalFile,
    Relative,
    Seed,
    Settings,
    app,
)
from kinbayes.cli.arguments import initial_of, settings_of
from kinbayes.cli.files import check_folder, write_whole
from kinbayes.cli.printing import console, print_lines, print_mode, print_table, wrote


@app.command()
def optimize(
    problem: ProblemPath,
    optimizer: Annotated[
        str,
        typer.Option(
            help="multistart, quasi_newton, scatter_search, differential_evolution, particle_swarm, simplex, "
            "simulated_annealing, bayesian, or genetic."
        ),
    ] = "multistart",
    starts: Annotated[
        int | None,
        typer.Option(help="Independent starts; by default 50 of searches with gradients, else 1.", show_default=False),
    ] = None,
    max_evaluations: Annotated[int, typer.Option(help="Evaluations that may be spent.")] = 20_000,
    refine: Annotated[
        str | None,
        typer.Option(help="End with a local search: multistart, quasi_newton or simplex.", show_default=False),
    ] = None,
    loss: Annotated[str, typer.Option(help="posterior, or petab: the objective of PEtab tools.")] = "posterior",
    initial: Annotated[
        str,
        typer.Option(
            help="latin_hypercube, sobol, multi_jittered, random, prior, nominal, generative (points of the proposal's "
            "network), or a file written by optimize."
        ),
    ] = "latin_hypercube",
    proposal: ProposalFile = None,
    target_loss: Annotated[float | None, typer.Option(help="Stop at this loss.", show_default=False)] = None,
    settings: Settings = None,
    checkpoint: Checkpoint = None,
    archive: Archive = None,
    max_seconds: MaxSeconds = None,
    out: Annotated[Path, typer.Option(help="Result to write (NetCDF).")] = Path("map.nc"),
    seed: Seed = 0,
    rtol: Relative = 1e-6,
    atol: Absolute = 1e-9,
) -> None:
    """Find the mode of a problem's posterior."""
    import kinbayes as kb
    from kinbayes.results.store import save

    check_folder(out)
    found = kb.read_petab(problem, rtol=rtol, atol=atol)
    idata = kb.optimize(
        found,
        optimizer,
        starts=starts,
        max_evaluations=max_evaluations,
        refine=refine,
        loss=loss,
        initial=initial_of(initial),
        proposal=None if proposal is None else kb.load_proposal(proposal),
        target_loss=target_loss,
        seed=seed,
        settings=settings_of(settings),
        checkpoint=checkpoint,
        archive=archive,
        max_seconds=max_seconds,
    )
    print_mode(idata)
    wrote(save(idata, out))


@app.command()
def profile(
    problem: ProblemPath,
    mode: Annotated[Path, typer.Argument(help="A file written by optimize.", show_default=False)],
    parameters: Annotated[
        list[str] | None, typer.Option("--parameter", help="A parameter; all by default.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Result to write (NetCDF).")] = Path("profile.nc"),
    rtol: Relative = 1e-6,
    atol: Absolute = 1e-9,
) -> None:
    """Walk from the mode along every parameter, to intervals that need no draws."""
    import kinbayes as kb
    from kinbayes.results.profile_interval import profile_intervals
    from kinbayes.results.store import save

    check_folder(out)
    found = kb.profile(kb.read_petab(problem, rtol=rtol, atol=atol), kb.load(mode), parameters=parameters or None)
    print_table(profile_intervals(found), "profile: 95 % intervals")
    wrote(save(found, out))


@app.command()
def compare(
    mode: Annotated[Path, typer.Argument(help="A file written by optimize.", show_default=False)],
    posterior: Annotated[Path, typer.Argument(help="A file written by sample.", show_default=False)],
    profiles: Annotated[
        Path | None, typer.Option("--profile", help="A file written by profile.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Figure to write (PNG).")] = Path("compare.png"),
) -> None:
    """Compare the mode with the posterior, and say which parameters the data determine."""
    import kinbayes as kb
    from kinbayes.report.map_plots import plot_compare

    check_folder(out)
    results = [kb.load(mode), kb.load(posterior), None if profiles is None else kb.load(profiles)]
    table = kb.compare(*results)
    print_table(table.drop(columns=["below", "above"]), f"mode and posterior, intervals of {table.attrs['prob']:.0%}")
    console.print(table.attrs["rule"], highlight=False, soft_wrap=True)
    print_lines(table.attrs["caveats"])
    wrote(write_whole(out, lambda path: plot_compare(*results).savefig(path, dpi=150, format="png")))
