"""Compare modes with posteriors on three problems, by Laplace approximations, profiles and draws.

::

    python paper/benchmarks/mode_and_posterior.py

Writes the tables of `kb.compare` to mode_and_posterior.csv. `agree` is the largest distance of the ends of two kinds of
intervals, in posterior standard deviations on the parameter's scale, over the parameters that both have.
"""

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
from collection import arguments, read

import kinbayes as kb

SAMPLED = {"draws": 4000, "warmup": 4000, "initial": "multistart", "seed": 0, "progress": False}
KINDS = {
    "posterior": ("lower", "upper"),
    "profile": ("profile_lower", "profile_upper"),
    "laplace": ("laplace_lower", "laplace_upper"),
}


def compared(problem: kb.Problem, sampler: str) -> pd.DataFrame:
    """Return the comparison of a problem's mode and posterior; what was not possible stands in its attributes."""
    began = time.perf_counter()
    mode = kb.optimize(problem, starts=100, progress=False)
    seconds = {"optimize": time.perf_counter() - began}
    began = time.perf_counter()
    profile = kb.profile(problem, mode)
    seconds["profile"] = time.perf_counter() - began
    try:
        laplace, refused = kb.laplace(problem, mode), ""
    except ValueError as error:
        laplace, refused = None, str(error)
    began = time.perf_counter()
    posterior = kb.sample(problem, sampler, **SAMPLED)
    seconds["sample"] = time.perf_counter() - began
    table = kb.compare(mode, posterior, profile, laplace)
    draws = {name: np.asarray(posterior.posterior[name]).ravel() for name in table.index}
    table["sd"] = [np.std(_scaled(draws[name], scale)) for name, scale in zip(table.index, table["scale"], strict=True)]
    table.attrs |= {"refused": refused, "seconds": seconds, "converged": bool(posterior.attrs["converged"])}
    return table


def _scaled(values: np.ndarray, scale: str) -> np.ndarray:
    return {"lin": lambda x: x, "ln": np.log, "log10": np.log10}[scale](values)


def distance(table: pd.DataFrame, one: str, other: str) -> float:
    """Return the largest distance of the ends of two kinds of intervals, in posterior standard deviations."""
    found = []
    for a, b in zip(KINDS[one], KINDS[other], strict=True):
        for name in table.index:
            ends, scale = table.loc[name, [a, b]].astype(float).to_numpy(), table.loc[name, "scale"]
            if np.all(np.isfinite(ends)):
                found.append(float(np.ptp(_scaled(ends, scale))) / table.loc[name, "sd"])
    return max(found, default=np.nan)


def told(name: str, table: pd.DataFrame) -> Sequence[str]:
    """Return what a comparison says, in lines."""
    verdicts = table["verdict"].value_counts().to_dict()
    others = table.index[table["verdict"] != "identified"].tolist()
    pairs = [("profile", "posterior"), ("laplace", "posterior"), ("laplace", "profile")]
    agreement = ", ".join(f"{a} and {b} {distance(table, a, b):.2f}" for a, b in pairs)
    seconds = ", ".join(f"{what} {value:.1f} s" for what, value in table.attrs["seconds"].items())
    return [
        f"{name}: {verdicts}; not identified or one-sided: {others}",
        f"  largest distance of ends in sd: {agreement}; converged: {table.attrs['converged']}; {seconds}",
        *(f"  Laplace refused: {table.attrs['refused']}" for _ in [0] if table.attrs["refused"]),
        *(f"  {caveat}" for caveat in table.attrs["caveats"]),
    ]


def main() -> None:
    """Compare, print, and write one table."""
    given = arguments(__doc__).parse_args()
    problems = {
        "conversion_reaction": (kb.read_petab(kb.example("conversion_reaction")), "adaptive_metropolis"),
        "lynx_hare": (kb.read_petab(kb.example("lynx_hare")), "nuts"),
        "Boehm": (read(given.data, "Boehm_JProteomeRes2014"), "adaptive_metropolis"),
    }
    tables = []
    for name, (problem, sampler) in problems.items():
        table = compared(problem, sampler)
        print("\n".join(told(name, table)), flush=True)
        tables.append(table.reset_index().assign(problem=name))
    if not given.quick:
        pd.concat(tables).set_index(["problem", "parameter"]).to_csv(given.out / "mode_and_posterior.csv")


if __name__ == "__main__":
    main()
