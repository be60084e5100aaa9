"""The command line: every command parses, calls one function, and prints a table and the one path it wrote."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

console = Console()
errors = Console(stderr=True)


class _Commands(typer.core.TyperGroup):
    """Commands whose expected errors are one readable message, without a traceback."""

    def invoke(self, ctx: object) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except typer.Exit:  # a RuntimeError, too
            raise
        except (ValueError, OSError, RuntimeError) as error:
            errors.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Posteriors for kinetic ODE models: from a model and measurements to credible intervals.",
)

_SBML = (".xml", ".sbml")
_ANTIMONY = (".ant", ".antimony", ".txt")  # known here too, since reading loads libsbml
_FORMATS = ("petab",)  # of exports
_MOST = 20  # reasons that are printed

ProblemPath = Annotated[Path, typer.Argument(help="PEtab problem (YAML).", show_default=False)]
Seed = Annotated[int, typer.Option(help="Seeds everything that is random.")]
Relative = Annotated[float, typer.Option(help="Relative tolerance of the simulation.")]
Absolute = Annotated[float, typer.Option(help="Absolute tolerance of the simulation.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting as name=value; may be repeated.", show_default=False),
]


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
    found = _posterior(idata)
    found.insert(0, "mode", [float(mode.map_estimate[name][0]) for name in found.index])
    _print_table(found, f"{example}: mode, posterior median and 95 % credible interval")
    _print_verdict(idata)
    figure = folder / f"{example}.png"
    _write(figure, lambda path: plot_overview(idata).savefig(path, dpi=150, format="png"))
    console.print(f"figure: {figure}", highlight=False, soft_wrap=True)
    _wrote(save(idata, folder / "run.nc"))


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
    _print_table(_parameters(read_petab(path)), "parameters of the new problem: edit bounds and priors")
    _wrote(path)


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
    _print_table(_parameters(found), "parameters")
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
    _wrote(kb.export_petab(kb.read_petab(problem), folder, version=version))


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

    given = {name: _number(name, text) for name, text in _pairs(values)}
    read = kb.read_antimony if model.suffix.lower() in _ANTIMONY else kb.read_sbml
    found = kb.simulate(read(model), _times(times), given, rtol=rtol, atol=atol).to_dataframe()
    _print_table(found.iloc[:: max(1, len(found) // 10)], f"{model.name}: every {max(1, len(found) // 10)}th time")
    _wrote(_write(out, lambda path: found.to_csv(path)))


@app.command()
def sample(
    problem: ProblemPath,
    sampler: Annotated[
        str, typer.Option(help="nuts, adaptive_metropolis, random_walk, dream, parallel_tempering, or auto.")
    ] = "nuts",
    draws: Annotated[int, typer.Option(help="Kept draws of every chain.")] = 1000,
    warmup: Annotated[int, typer.Option(help="Warmup iterations of every chain.")] = 1000,
    chains: Annotated[int, typer.Option(help="Number of chains.")] = 4,
    thin: Annotated[
        int | None, typer.Option(help="Steps an iteration; the sampler's own if left out.", show_default=False)
    ] = None,
    initial: Annotated[
        str, typer.Option(help="prior, nominal, multistart, or a file written by optimize or sample.")
    ] = "prior",
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="Result to write (NetCDF).")] = Path("run.nc"),
    seed: Seed = 0,
    rtol: Relative = 1e-6,
    atol: Absolute = 1e-9,
) -> None:
    """Sample the posterior of a problem."""
    import kinbayes as kb
    from kinbayes.results.store import save

    _check_folder(out)
    found = kb.read_petab(problem, rtol=rtol, atol=atol)
    idata = kb.sample(
        found,
        sampler,
        draws=draws,
        warmup=warmup,
        chains=chains,
        thin=thin,
        seed=seed,
        initial=kb.load(initial) if Path(initial).is_file() else initial,
        settings=_settings(settings),
    )
    _print_table(_posterior(idata), "posterior median and 95 % credible interval")
    _print_verdict(idata)
    _wrote(save(idata, out))


@app.command()
def optimize(
    problem: ProblemPath,
    optimizer: Annotated[str, typer.Option(help="multistart.")] = "multistart",
    starts: Annotated[int, typer.Option(help="Number of starts.")] = 20,
    max_evaluations: Annotated[int, typer.Option(help="Evaluations that may be spent.")] = 20_000,
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="Result to write (NetCDF).")] = Path("map.nc"),
    seed: Seed = 0,
    rtol: Relative = 1e-6,
    atol: Absolute = 1e-9,
) -> None:
    """Find the mode of a problem's posterior."""
    import kinbayes as kb
    from kinbayes.results.store import save

    _check_folder(out)
    found = kb.read_petab(problem, rtol=rtol, atol=atol)
    idata = kb.optimize(
        found,
        optimizer,
        starts=starts,
        max_evaluations=max_evaluations,
        seed=seed,
        settings=_settings(settings),
    )
    ends = idata.map_estimate
    shown = [n for n in ends.data_vars if n not in found.parameter_names] + list(found.parameter_names)
    _print_table(ends[shown].isel(start=slice(0, 5)).to_dataframe().T, "the best starts, best first")
    _wrote(save(idata, out))


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

    _check_folder(out)
    found = kb.read_petab(problem, rtol=rtol, atol=atol)
    idata = kb.predict(
        kb.load(result),
        found,
        times=None if times is None else _times(times),
        experiment=experiment,
        draws=draws,
        seed=seed,
    )
    table = bands(idata.predictions)
    _print_table(table.iloc[:: max(1, len(table) // 20)], "new measurements: median and 95 % band, noise included")
    _wrote(save(idata, out))


def _check_model(path: Path) -> None:
    from kinbayes.formats.sbml.survey import survey

    found = survey(path)
    if found.features:
        console.print(f"{path.name}: {found.format}", highlight=False, markup=False, soft_wrap=True)
        _print_table(pd.DataFrame({"number": found.features}), "it uses")
    for reason in found.refusals[:_MOST]:
        console.print(reason, highlight=False, markup=False, soft_wrap=True)
    if len(found.refusals) > _MOST:
        console.print(f"and {len(found.refusals) - _MOST} more")
    if found.refusals:
        console.print("cannot be simulated", style="bold red")
        raise typer.Exit(1)
    console.print("can be simulated", style="green")


def _parameters(problem: object) -> pd.DataFrame:
    from kinbayes.run.record import prior_text

    rows = {
        p.name: (p.scale, *p.bounds, p.nominal, prior_text(p) if p.estimate else "fixed") for p in problem.parameters
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["scale", "lower", "upper", "nominal", "prior"])


def _posterior(idata: object) -> pd.DataFrame:
    """Return the table of a posterior as a terminal can show it: equal-tailed intervals depend on no scale."""
    from kinbayes.results.summary import table

    found = table(idata).drop(columns="interval_on").astype({"ess_bulk": "Int64", "ess_tail": "Int64"}, errors="ignore")
    return found.rename(columns={"r_hat": "R-hat", "ess_bulk": "ESS bulk", "ess_tail": "ESS tail"})


def _pairs(texts: list[str] | None) -> list[tuple[str, str]]:
    for text in texts or []:
        if "=" not in text:
            raise ValueError(f"--set {text}: write it as name=value")
    return [tuple(text.split("=", 1)) for text in texts or []]


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--set {name}={text}: {text!r} is no number") from None


def _settings(texts: list[str] | None) -> dict[str, object]:
    """Return settings by name; those of tempering's inner sampler, as inner.name=value, in a mapping of their own."""
    found: dict[str, object] = {}
    for name, text in _pairs(texts):
        prefix, _, own = name.partition(".")
        where = found.setdefault(f"{prefix}_settings", {}) if own else found
        where[own or name] = _value(text)
    return found


def _value(text: str) -> object:
    words = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        return text


def _times(text: str) -> list[float]:
    import numpy as np

    try:
        if ":" in text:
            start, stop, count = text.split(":")
            return np.linspace(float(start), float(stop), int(count)).tolist()
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--times {text}: write start:stop:count, as 0:100:101, or a list, as 0,1,2.5") from None


def _check_folder(path: Path) -> None:
    """Refuse, before a long run, a path that cannot be written after it."""
    folder = path.resolve().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"cannot write {path}: {folder} is no folder that may be written; choose another --out")


def _write(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file whole or not at all."""
    _check_folder(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _print_table(table: pd.DataFrame, title: str) -> None:
    said = [c for c in table.columns if not table[c].astype(str).eq("").all()]
    table = table[said]
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    shown.add_column(str(table.index.name or ""), style="bold", no_wrap=True)
    for column in table.columns:
        is_text = not pd.api.types.is_numeric_dtype(table[column])
        shown.add_column(str(column), justify="left" if is_text else "right", overflow="fold")
    for name, row in table.iterrows():
        shown.add_row(_text(name), *map(_text, row))
    console.print(shown)


def _text(value: object) -> str:
    from rich.markup import escape

    if isinstance(value, float):
        return f"{value:.4g}" if value == value else "–"
    return escape("–" if value is None else str(value))


def _print_verdict(idata: object) -> None:
    from kinbayes.results.attributes import attributes

    found = attributes(idata)
    if found["converged"]:
        console.print("converged: R-hat, effective sample sizes and all other rules hold", style="green")
    else:
        console.print("NOT CONVERGED: do not trust these numbers yet", style="bold red")
        _print_lines(found["not_converged_because"])
    if found["cautions"]:
        console.print("to be known:", style="yellow")
        _print_lines(found["cautions"])
    if "log_evidence" in found:
        console.print(f"log evidence {found['log_evidence']:.2f} ± {found['log_evidence_error']:.2f}", highlight=False)


def _print_lines(lines: list[str]) -> None:
    for line in lines:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _wrote(path: Path) -> None:
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
