"""Sample one PEtab problem and add a row to a table: what R-hat and how many effective draws a second it reaches.

python paper/benchmarks/posterior.py problem.yaml --out paper/results/posterior.csv
"""

import argparse
import os
from pathlib import Path

import pandas as pd

import kinbayes as kb
from kinbayes.results.attributes import attributes
from kinbayes.results.summary import diagnostics


def main() -> None:
    """Run, and append the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problem", type=Path)
    parser.add_argument("--sampler", default="nuts")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--initial", default="prior", help="prior, nominal, or multistart")
    parser.add_argument("--starts", type=int, default=20, help="starts of the multistart")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep", type=Path, help="where to save the whole run")
    given = parser.parse_args()

    problem = kb.read_petab(given.problem)
    is_searched = given.initial == "multistart"
    mode = kb.optimize(problem, starts=given.starts, seed=given.seed) if is_searched else None
    idata = kb.sample(
        problem,
        given.sampler,
        draws=given.draws,
        warmup=given.warmup,
        seed=given.seed,
        initial=given.initial if mode is None else mode,
    )
    if given.keep:
        idata.to_netcdf(str(given.keep), engine="h5netcdf")
    found, told = diagnostics(idata), attributes(idata)
    seconds = told["seconds_warmup"] + told["seconds_draws"]
    row = {
        "problem": problem.name,
        "sampler": given.sampler,
        "initial": f"multistart of {given.starts}" if mode is not None else given.initial,
        "chains": idata.posterior.sizes["chain"],
        "warmup": given.warmup,
        "draws": given.draws,
        "rtol": problem.rtol,
        "max_r_hat": found["r_hat"].max(),
        "min_ess_bulk": found["ess_bulk"].min(),
        "seconds_warmup": told["seconds_warmup"],
        "seconds_draws": told["seconds_draws"],
        "min_ess_bulk_per_second": found["ess_bulk"].min() / seconds,
        "divergent": int(idata.sample_stats["diverging"].sum()) if "diverging" in idata.sample_stats else 0,
        "best_log_density": float(mode.map_estimate["log_density"][0]) if mode is not None else float("nan"),
        "best_log_likelihood": float(mode.map_estimate["log_likelihood"][0]) if mode is not None else float("nan"),
        "converged": bool(told["converged"]),
        "why_not": " ".join(told["not_converged_because"]),
        "cores": os.cpu_count(),
    }
    pd.DataFrame([row]).to_csv(given.out, mode="a", header=not given.out.exists(), index=False)
    print(pd.Series(row).to_string())


if __name__ == "__main__":
    main()
