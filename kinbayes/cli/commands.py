"""The command line: every command parses, calls one function, and prints a table and the one path it wrote."""

from functools import partial
from pathlib import Path
from typing import Annotated

import pandas as pd
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
from kinbayes.cli.arguments import initial_of, number, pairs, settings_of, times_of
from kinbayes.cli.files import check_folder, write_whole
from kinbayes.cli.printing import (
    console,
    parameter_table,
    posterior_table,
    print_mode,
    print_table,
    print_verdict,
    wrote,
)

_SBML = (".xml", ".sbml")
_ANTIMONY = (".ant", ".antimony", ".txt")  # known here too, since reading loads libsbml
_FORMATS = ("petab",)  # of exports
_MOST = 20  # reasons that are printed


@app.command()
def demo(
    example: Annotated[str, typer.Argument(help="Name of an example model.")] = "lynx_hare",
    folder: Annotated[Path, typer.Option(help="Where run.nc and the figure go.")] = Path(),
    seed: Seed = 0,
) -> None:
    """Fit and sample an example model: its mode, its posterior, credible intervals, one figure."""
    import kinbayes as kb
    from kinbayes.report.plots import plot_overview
    from kinbayes.results.store import save

    problem = kb.read_petab(kb.example(example))
    console.print(f"{problem}", highlight=False)
    mode = kb.optimize(problem, starts=10, seed=seed)
    idata = kb.sample(problem, draws=500, warmup=500, seed=seed, initial=mode)
    found = posterior_table(idata)
    found.insert(0, "mode", [float(mode.map_estimate[name][0]) for name in found.index])
    print_table(found, f"{example}: mode, posterior median and 95 % credible interval")
    print_verdict(idata)
    figure = folder / f"{example}.png"
    write_whole(figure, lambda path: plot_overview(idata).savefig(path, dpi=150, format="png"))
    console.print(f"figure: {figure}", highlight=False, soft_wrap=True)
    wrote(save(idata, folder / "run.nc"))


@app.command()
def init(
    model: Annotated[Path, typer.Argument(help="SBML file.", show_default=False)],
    data: Annotated[Path, typer.Argument(help="Table of measurements (CSV or TSV).", show_default=False)],
    folder: Annotated[Path, typer.Option(help="Folder to make for the problem.")] = Path("problem"),
) -> None:
    """Write a starting PEtab problem, to edit, from an SBML file and a table."""
    from kinbayes.formats.petab.init import init_petab
    from kinbayes.formats.petab.reader import read_petab

    path = init_petab(model, data, folder)
    print_table(parameter_table(read_petab(path)), "parameters of the new problem: edit bounds and priors")
    wrote(path)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="PEtab problem (YAML), or model (SBML, Antimony).", show_default=False)],
    rtol: Relative = 1e-6,
    atol: Absolute = 1e-9,
) -> None:
    """Say what a problem or model holds, and try it.

    A problem is simulated at its nominal point, and the gradient tested there. Of a model it is told what it uses,
    whether it can be simulated, and if not, why.
    """
    from kinbayes.formats.petab.reader import read_petab
    from kinbayes.run.check import check as check_problem

    if file.suffix.lower() in (*_SBML, *_ANTIMONY):
        _check_model(file)
        return
    found = read_petab(file, rtol=rtol, atol=atol)
    console.print(f"{found}", highlight=False)
    print_table(parameter_table(found), "parameters")
    result = check_problem(found)
    for line in result.lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not result.is_good:
        raise typer.Exit(1)


@app.command()
def export(
    problem: ProblemPath,
    folder: Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)],
    format: Annotated[str, typer.Option(help="petab.")] = "petab",
    version: Annotated[
        int | None, typer.Option(help="1 or 2; by default 1 where it suffices.", show_default=False)
    ] = None,
) -> None:
    """Write a problem for other tools, as PEtab of either version."""
    import kinbayes as kb

    if format not in _FORMATS:
        raise ValueError(f"unknown format {format!r}; choose from {list(_FORMATS)}")
    wrote(kb.export_petab(kb.read_petab(problem), folder, version=version))


@app.command()
def simulate(
    model: Annotated[Path, typer.Argument(help="SBML or Antimony file.", show_default=False)],
    times: Annotated[str, typer.Option(help="Output times: start:stop:count, or a list t1,t2,…")] = "0:100:101",
    values: Annotated[
        list[str] | None,
        typer.Option("--set", help="A parameter or initial value as name=value.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Table to write (CSV).")] = Path("simulation.csv"),
    rtol: Relative = 1e-6,
    atol: Absolute = 1e-9,
) -> None:
    """Simulate a model."""
    import kinbayes as kb

    given = {name: number(name, text) for name, text in pairs(values)}
    read = kb.read_antimony if model.suffix.lower() in _ANTIMONY else kb.read_sbml
    found = kb.simulate(read(model), times_of(times), given, rtol=rtol, atol=atol).to_dataframe()
    print_table(found.iloc[:: max(1, len(found) // 10)], f"{model.name}: every {max(1, len(found) // 10)}th time")
    wrote(write_whole(out, lambda path: found.to_csv(path)))


@app.command()
def sample(
    problem: ProblemPath,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="nuts, adaptive_metropolis, random_walk, dream, parallel_tempering, amortized, or auto; by default "
            "nuts, with a proposal amortized.",
            show_default=False,
        ),
    ] = None,
    draws: Annotated[int, typer.Option(help="Kept draws of every chain.")] = 1000,
    warmup: Annotated[int, typer.Option(help="Warmup iterations of every chain.")] = 1000,
    chains: Annotated[int, typer.Option(help="Number of chains.")] = 4,
    thin: Annotated[
        int | None, typer.Option(help="Steps an iteration; the sampler's own if left out.", show_default=False)
    ] = None,
    initial: Annotated[
        str | None,
        typer.Option(
            help="prior, nominal, multistart, generative (points of the proposal's network), or a file written by "
            "optimize or sample; by default prior, with amortized the proposal's draws.",
            show_default=False,
        ),
    ] = None,
    proposal: ProposalFile = None,
    settings: Settings = None,
    checkpoint: Checkpoint = None,
    archive: Archive = None,
    keep_warmup: Annotated[bool, typer.Option(help="Keep what warmup draws.")] = False,
    max_seconds: MaxSeconds = None,
    max_simulations: Annotated[
        int | None, typer.Option(help="Stop after so many simulations.", show_default=False)
    ] = None,
    target_ess: Annotated[
        float | None,
        typer.Option(help="Stop when all effective sample sizes are as large.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Result to write (NetCDF).")] = Path("run.nc"),
    seed: Seed = 0,
    rtol: Relative = 1e-6,
    atol: Absolute = 1e-9,
) -> None:
    """Sample the posterior of a problem."""
    import kinbayes as kb
    from kinbayes.results.store import save

    check_folder(out)
    found = kb.read_petab(problem, rtol=rtol, atol=atol)
    idata = kb.sample(
        found,
        sampler or ("nuts" if proposal is None else "amortized"),
        draws=draws,
        warmup=warmup,
        chains=chains,
        thin=thin,
        seed=seed,
        initial=initial_of(initial),
        proposal=None if proposal is None else kb.load_proposal(proposal),
        settings=settings_of(settings),
        checkpoint=checkpoint,
        archive=archive,
        keep_warmup=keep_warmup,
        max_seconds=max_seconds,
        max_simulations=max_simulations,
        target_ess=target_ess,
    )
    _tell_posterior(idata)
    if checkpoint is not None and idata.attrs["stopped"] != "completed":
        console.print(f"go on with it: kinbayes resume {checkpoint} {problem}", highlight=False, soft_wrap=True)
    wrote(save(idata, out))


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="A checkpoint of sample or optimize.", show_default=False)],
    problem: ProblemPath,
    length: Annotated[
        int | None,
        typer.Option(help="Draws of every chain, or evaluations, if more than was asked for.", show_default=False),
    ] = None,
    archive: Archive = None,
    max_seconds: MaxSeconds = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Result to write as well (NetCDF); it stays in the checkpoint.", show_default=False),
    ] = None,
) -> None:
    """Go on with a run that was interrupted, killed, or is to be longer."""
    from kinbayes.formats.petab.reader import read_petab
    from kinbayes.results.store import save
    from kinbayes.run.resume import resume as resume_run

    if out is not None:
        check_folder(out)
    idata = resume_run(run, partial(read_petab, problem), length=length, archive=archive, max_seconds=max_seconds)
    if "posterior" in idata.groups():
        _tell_posterior(idata)
    else:
        print_mode(idata)
    wrote(run if out is None else save(idata, out))


@app.command()
def predict(
    result: Annotated[Path, typer.Argument(help="A file written by sample or optimize.", show_default=False)],
    problem: ProblemPath,
    times: Annotated[
        str | None,
        typer.Option(help="Times: start:stop:count, or t1,t2,…; by default up to the last measurement."),
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="Experiment; the first by default.")] = None,
    draws: Annotated[int, typer.Option(help="Posterior draws to use.")] = 500,
    out: Annotated[Path, typer.Option(help="Result to write (NetCDF).")] = Path("prediction.nc"),
    seed: Seed = 0,
    rtol: Relative = 1e-6,
    atol: Absolute = 1e-9,
) -> None:
    """Predict states and observables with their bands, at times that were measured or not."""
    import kinbayes as kb
    from kinbayes.results.store import save
    from kinbayes.results.summary import bands

    check_folder(out)
    found = kb.read_petab(problem, rtol=rtol, atol=atol)
    idata = kb.predict(
        kb.load(result),
        found,
        times=None if times is None else times_of(times),
        experiment=experiment,
        draws=draws,
        seed=seed,
    )
    is_noisy = bool(idata.predictions.data_vars)
    table = bands(idata.predictions if is_noisy else idata.observables)
    what = "new measurements: median and 95 % band, noise included" if is_noisy else "observables: median and 95 % band"
    print_table(table.iloc[:: max(1, len(table) // 20)], what)
    wrote(save(idata, out))


def _tell_posterior(idata: object) -> None:
    print_table(posterior_table(idata), "posterior median and 95 % credible interval")
    print_verdict(idata)


def _check_model(path: Path) -> None:
    from kinbayes.formats.sbml.survey import survey

    found = survey(path)
    if found.features:
        console.print(f"{path.name}: {found.format}", highlight=False, markup=False, soft_wrap=True)
        print_table(pd.DataFrame({"number": found.features}), "it uses")
    for reason in found.refusals[:_MOST]:
        console.print(reason, highlight=False, markup=False, soft_wrap=True)
    if len(found.refusals) > _MOST:
        console.print(f"and {len(found.refusals) - _MOST} more")
    if found.refusals:
        console.print("cannot be simulated", style="bold red")
        raise typer.Exit(1)
    console.print("can be simulated", style="green")
