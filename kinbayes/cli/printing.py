"""What commands print: tables, verdicts, paths."""

from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

console = Console()


def parameter_table(problem: object) -> pd.DataFrame:
    """Return the parameters of a problem, fixed ones too."""
    from kinbayes.run.record import prior_text

    rows = {
        p.name: (p.scale, *p.bounds, p.nominal, prior_text(p) if p.estimate else "fixed") for p in problem.parameters
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["scale", "lower", "upper", "nominal", "prior"])


def posterior_table(idata: object) -> pd.DataFrame:
    """Return the table of a posterior as a terminal can show it: equal-tailed intervals depend on no scale."""
    from kinbayes.results.summary import table

    found = table(idata).drop(columns="interval_on").astype({"ess_bulk": "Int64", "ess_tail": "Int64"}, errors="ignore")
    return found.rename(columns={"r_hat": "R-hat", "ess_bulk": "ESS bulk", "ess_tail": "ESS tail"})


def print_table(table: pd.DataFrame, title: str) -> None:
    """Print a table without the columns that say nothing."""
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


def print_verdict(idata: object) -> None:
    """Print whether a run may be trusted, and what should be known of it."""
    from kinbayes.results.attributes import attributes

    found = attributes(idata)
    if found["converged"]:
        console.print("converged: R-hat, effective sample sizes and all other rules hold", style="green")
    else:
        console.print("NOT CONVERGED: do not trust these numbers yet", style="bold red")
        print_lines(found["not_converged_because"])
    if found["cautions"]:
        console.print("to be known:", style="yellow")
        print_lines(found["cautions"])
    if "log_evidence" in found:
        console.print(f"log evidence {found['log_evidence']:.2f} ± {found['log_evidence_error']:.2f}", highlight=False)


def print_mode(idata: object) -> None:
    """Print the best ends of a search, and how many came near the best."""
    ends = idata.map_estimate
    own = ("loss", "log_density", "log_likelihood", "log_prior", "converged", "is_refined")
    shown = [*own, *(name for name in ends.data_vars if name not in own)]
    print_table(ends[shown].isel(start=slice(0, 5)).to_dataframe().T, "the best ends, best first")
    near, num = idata.attrs["starts_near_best"], ends.sizes["start"]
    text = f"{near} of {num} ends lie within 0.1 of the best, in {idata.attrs['evaluations']} evaluations"
    console.print(text, highlight=False)
    if not idata.attrs["converged"]:
        console.print("the best has not converged: give more evaluations, or refine it", style="bold red")


def print_lines(lines: list[str]) -> None:
    """Print lines, set in."""
    for line in lines:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def wrote(path: Path) -> None:
    """Print what was written."""
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
