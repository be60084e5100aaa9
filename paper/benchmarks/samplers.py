"""Compare samplers on published problems: effective draws a second and an evaluation, and whether they agree.

python paper/benchmarks/samplers.py --only Boehm --samplers nuts_nutpie dream    # runs, keeps draws, adds their rows
python paper/benchmarks/samplers.py --read                                       # rows of all kept runs, nothing runs
python paper/benchmarks/samplers.py --agreement                                  # kept runs against each other

Every sampler starts its chains from the same points, found once and kept in a file with the time that took. A first
run of one draw, in which everything compiles, is not counted. The draws of other tools, kept in the same form, get
their rows with --read: see pypesto_sampling.py.
"""

import itertools
import json
import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import arviz
import numpy as np
import pandas as pd
from collection import arguments, around_nominal, read, short
from rounds import tell
from scipy.stats import beta, norm

import kinbayes as kb
from kinbayes.problem.native_posterior import native_posterior
from kinbayes.results.convergence import diagnose
from kinbayes.results.tempering import round_trips, swap_rates
from kinbayes.run.choice import target
from kinbayes.run.loop.background import run_chains
from kinbayes.run.loop.driver import run_sampler
from kinbayes.run.loop.runs import SamplerProgress, SamplerRun
from kinbayes.run.starts.chain_starts import chain_starts
from kinbayes.samplers import SAMPLERS

PROBLEMS = (
    "Boehm_JProteomeRes2014",
    "Bruno_JExpBot2016",
    "Sneyd_PNAS2002",
    "Elowitz_Nature2000",
    "Fiedler_BMCSystBiol2016",
    "Crauste_CellSystems2017",
    "Fujita_SciSignal2010",
)


class Plan(NamedTuple):
    """How long a sampler runs: iterations of `thin` steps each, in the warmup too, every one of which gives a draw."""

    warmup: int
    draws: int
    thin: int = 1
    chains: int = 4


PLANS = {
    "nuts_nutpie": Plan(1000, 1000),
    "nuts_numpyro": Plan(1000, 1000),
    "random_walk": Plan(2000, 4000, thin=25),
    "adaptive_metropolis": Plan(2000, 4000, thin=25),
    "parallel_tempering": Plan(2000, 4000, thin=5),
    "dream": Plan(2000, 4000, thin=25),
}
MAX_R_HAT, MIN_ESS_PER_CHAIN = 1.01, 100.0  # a run within both has converged
TIGHT = {"rtol": 1e-10, "atol": 1e-12}  # where densities are shown to other tools
AROUND = 3  # of the points shown
ENDS = (0.05, 0.95)
CHANCE = 0.01  # of calling two samplers of the same posterior different, for all its parameters together


class Starts(NamedTuple):
    """Where chains start, and the seconds it took to find out."""

    points: np.ndarray
    seconds: float


class Kept(NamedTuple):
    """A run that is kept: draws of u (chains, draws, dim), their log densities, and what it says of itself."""

    draws: np.ndarray
    lp: np.ndarray
    names: np.ndarray
    told: dict


# ---- what is kept


def starts_of(problem: kb.Problem, initial: str, folder: Path) -> Starts:
    """Return the starts of all chains: those in the folder, or new ones, which are then in the folder.

    The file has also what another tool needs to show that it has the same posterior: the log density at the starts
    and around the nominal point, by tight tolerances.
    """
    path = folder / f"{short(problem.name)}_{initial}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        points, said = chain_starts(problem, initial, max(p.chains for p in PLANS.values()), np.random.default_rng(0))
        seconds = time.perf_counter() - began
        shown = np.vstack([points, problem.nominal, around_nominal(problem, AROUND)])
        found = problem.with_tolerances(**TIGHT).evaluate(shown)
        np.savez(
            path,
            points=points,
            seconds=seconds,
            names=problem.parameter_names,
            shown=shown,
            log_density=found.log_prior + found.log_likelihood,
            said=json.dumps(said),
        )
    with np.load(path) as file:
        return Starts(file["points"], float(file["seconds"]))


def keep(kept: Kept, folder: Path) -> None:
    """Write a run to a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    told = kept.told
    path = folder / f"{told['problem']}_{told['sampler']}_{told['seed']}.npz"
    np.savez(path, draws=kept.draws, lp=kept.lp, names=kept.names, told=json.dumps(told))


def kept_runs(folder: Path) -> list[Kept]:
    """Return all runs in a folder."""
    found = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            found.append(Kept(file["draws"], file["lp"], file["names"], json.loads(str(file["told"]))))
    return found


def put(row: Mapping[str, object], path: Path) -> None:
    """Add a row to a table on the disk, in the place of an older one of the same run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = ("problem", "sampler", "seed")
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    rows = [old for old in rows if any(old[k] != row[k] for k in key)] + [row]
    written = path.with_suffix(".new")
    pd.DataFrame(rows).to_csv(written, index=False, float_format="%.6g")
    written.replace(path)
    tell(row)


# ---- runs


def runner(problem: kb.Problem, sampler: str) -> Callable[..., SamplerRun]:
    """Return the function that runs a sampler on a problem; all but nutpie's takes `thin` too."""
    match sampler:
        case "nuts_nutpie":
            return partial(run_chains, native_posterior(problem.estimated, problem.gradient_numbers), ())
        case "nuts_numpyro":
            return partial(run_sampler, target(problem), SAMPLERS["nuts"], ())
        case _:
            return partial(run_sampler, target(problem), SAMPLERS[sampler], ())


def run_of(
    problem: kb.Problem, sampler: str, plan: Plan, starts: Starts, *, seed: int, seconds: float, initial: str
) -> Kept:
    """Compile a sampler, then run it for as long as its plan says, or for some seconds."""
    began = time.perf_counter()
    run, points = runner(problem, sampler), starts.points[: plan.chains]
    lengths = {"num_warmup": plan.warmup, "num_draws": plan.draws}
    if sampler == "nuts_nutpie":
        run(initial=points, num_warmup=1, num_draws=1, seed=seed)
    else:  # the length of the warmup is compiled in
        lengths["thin"] = plan.thin
        run(initial=points, **lengths, seed=seed, on_chunk=lambda _: "compiled")
    seconds_compile = time.perf_counter() - began

    started = time.perf_counter()

    def stop(_: SamplerProgress) -> str | None:
        return f"stopped after {seconds:g} s" if time.perf_counter() - started > seconds else None

    found = run(initial=points, **lengths, seed=seed, on_chunk=stop)
    info, done = found.info, found.position.shape[1] > 0
    told = {
        "problem": short(problem.name),
        "sampler": sampler,
        "seed": seed,
        "warmup": plan.warmup,
        "thin": plan.thin,
        "rtol": problem.rtol,
        "atol": problem.atol,
        "initial": initial,
        "seconds_starts": starts.seconds,
        "seconds_compile": seconds_compile,
        "seconds_warmup": found.seconds_warmup,
        "seconds_draws": found.seconds_draws,
        "evaluations": found.num_steps,
        "stopped": found.stopped,
    }
    if done:
        told["acceptance_rate"] = float(np.mean(info["acceptance_rate"]))
    if done and "diverging" in info:
        told["divergent"] = int(info["diverging"].sum())
    if done and "round_trips" in info:
        tempered = arviz.from_dict(sample_stats=info)
        told["min_swap_rate"] = float(swap_rates(tempered).min())
        told["round_trips"] = int(round_trips(tempered).sum())
    return Kept(found.position, found.log_prior + found.log_likelihood, np.array(problem.parameter_names), told)


# ---- rows


def reason(kept: Kept) -> str:
    """Return why a run has not converged; nothing if it has."""
    found, chains = diagnose(kept.draws), len(kept.draws)
    why = [] if kept.told["stopped"] == "completed" else [kept.told["stopped"]]
    ess = np.concatenate([found.ess_bulk, found.ess_tail])
    if not np.all(np.isfinite(ess)):
        why.append("too few draws, or chains that never moved")
    if np.max(found.r_hat, initial=1.0) > MAX_R_HAT:
        why.append(f"R-hat {np.max(found.r_hat):.3f}")
    if np.min(ess) < MIN_ESS_PER_CHAIN * chains:
        why.append(f"ESS {np.min(ess):.0f} of {chains} chains")
    return "; ".join(why)


def row_of(kept: Kept) -> dict[str, object]:
    """Return what a run reached, and in what time."""
    told, found = kept.told, diagnose(kept.draws)
    bulk = found.ess_bulk.min()
    why_not = reason(kept)
    return {
        "problem": told["problem"],
        "sampler": told["sampler"],
        "seed": told["seed"],
        "parameters": len(kept.names),
        "chains": len(kept.draws),
        "warmup": told["warmup"],
        "draws": kept.draws.shape[1],
        "thin": told["thin"],
        "rtol": told["rtol"],
        "atol": told["atol"],
        "initial": told["initial"],
        "seconds_starts": told["seconds_starts"],
        "seconds_compile": told["seconds_compile"],
        "seconds_warmup": told["seconds_warmup"],
        "seconds_draws": told["seconds_draws"],
        "min_ess_bulk": bulk,
        "min_ess_tail": found.ess_tail.min(),
        "max_r_hat": found.r_hat.max(),
        "min_ess_bulk_per_second": bulk / (told["seconds_warmup"] + told["seconds_draws"]),
        "evaluations": told["evaluations"],
        "ess_per_1000_evaluations": 1000 * bulk / max(told["evaluations"], 1),
        "acceptance_rate": told.get("acceptance_rate", np.nan),
        "divergent": told.get("divergent", np.nan),
        "min_swap_rate": told.get("min_swap_rate", np.nan),
        "round_trips": told.get("round_trips", np.nan),
        "peak_log_density": np.max(kept.lp) if kept.lp.size else np.nan,
        "converged": "not converged" if why_not else "converged",
        "why_not": why_not,
        "cores": told.get("cores", os.cpu_count()),
    }


# ---- agreement


def statistics(kept: Kept) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return mean, 5 % and 95 % quantile of every parameter, each with its Monte Carlo standard errors."""
    columns = [np.ascontiguousarray(kept.draws[..., k]) for k in range(kept.draws.shape[-1])]
    found = {"mean": [(c.mean(), c.std() / np.sqrt(arviz.ess(c, method="mean"))) for c in columns]}
    for prob in ENDS:
        found[f"{prob:.0%}"] = [(np.quantile(c, prob), quantile_error(c, prob)) for c in columns]
    return {name: tuple(np.array(pairs).T) for name, pairs in found.items()}


def quantile_error(draws: np.ndarray, prob: float) -> float:
    """Return the standard error of a quantile of draws that follow each other.

    It is half the distance of the quantiles between which the true one lies with 68 %, of as many independent draws as
    these are worth (Vehtari et al. 2021, doi:10.1214/20-BA1221).
    """
    size = float(arviz.ess(draws, method="quantile", prob=prob))
    ends = beta(size * prob + 1, size * (1 - prob) + 1).ppf(norm.cdf([-1.0, 1.0]))
    low, high = np.quantile(draws, ends)
    return (high - low) / 2


def agreement(runs: Iterable[Kept]) -> list[dict[str, object]]:
    """Compare every two runs of one problem and different samplers, if all chains have moved.

    A row has the largest difference of each statistic in combined standard errors, and the largest of all: the
    parameter it belongs to, its size in the larger of the two standard deviations, and the bound that it exceeds once
    in a hundred comparisons if both samplers have the same posterior and their standard errors hold (of all parameters
    and statistics together, by Bonferroni's inequality). `agree` is empty unless both runs have converged.
    """
    rows = []
    moving = [run for run in runs if np.all(np.isfinite(diagnose(run.draws).ess_bulk))]
    judged = [(run, statistics(run), not reason(run)) for run in moving]
    for (one, ours, is_one), (other, theirs, is_other) in itertools.combinations(judged, 2):
        same = one.told["problem"] == other.told["problem"] and one.told["seed"] == other.told["seed"]
        if not same or one.told["sampler"] == other.told["sampler"]:
            continue
        np.testing.assert_array_equal(one.names, other.names)
        gaps = {name: ours[name][0] - theirs[name][0] for name in ours}
        z = {name: np.abs(gaps[name]) / np.hypot(ours[name][1], theirs[name][1]) for name in ours}
        worst = max(z, key=lambda name: np.max(z[name]))
        k = int(np.argmax(z[worst]))
        bound = norm.isf(CHANCE / (2 * len(z) * len(one.names)))
        row = {
            "problem": one.told["problem"],
            "one": one.told["sampler"],
            "other": other.told["sampler"],
            "seed": one.told["seed"],
            "parameters": len(one.names),
            **{f"largest_of_{name}": np.max(values) for name, values in z.items()},
            "largest": z[worst][k],
            "where": f"{worst} of {one.names[k]}",
            "in_sd": abs(gaps[worst][k]) / max(one.draws[..., k].std(), other.draws[..., k].std()),
            "bound": bound,
            "one_converged": is_one,
            "other_converged": is_other,
            "agree": bool(z[worst][k] <= bound) if is_one and is_other else "",
        }
        tell(row)
        rows.append(row)
    return rows


# ---- the whole


def sizes(given: Namespace) -> dict[str, Plan]:
    """Return how long the samplers asked for run."""
    scale = 0.02 if given.quick else given.scale
    chosen = given.samplers or list(PLANS)
    return {
        name: plan._replace(warmup=round(scale * plan.warmup), draws=round(scale * plan.draws))
        for name, plan in PLANS.items()
        if name in chosen
    }


def main() -> None:
    """Run what is asked for, and write its rows."""
    parser = arguments(__doc__)
    folder = Path(tempfile.gettempdir()) / "kinbayes-samplers"
    parser.add_argument("--only", nargs="*", help="first words of problems; all by default")
    parser.add_argument("--samplers", nargs="*", choices=list(PLANS), help="all by default")
    parser.add_argument("--initial", default="multistart", help="where chains start: prior, nominal, multistart")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all warmups and draws")
    parser.add_argument("--seconds", type=float, default=600.0, help="time after which a run is stopped")
    parser.add_argument("--rtol", type=float, default=1e-6)
    parser.add_argument("--atol", type=float, default=1e-9)
    parser.add_argument("--cache", type=Path, default=folder / "starts", help="folder that keeps the starts")
    parser.add_argument("--keep", type=Path, default=folder / "draws", help="folder that keeps the draws")
    parser.add_argument("--read", action="store_true", help="write the rows of kept runs, and run nothing")
    parser.add_argument("--agreement", action="store_true", help="compare kept runs, and run nothing")
    given = parser.parse_args()
    chosen = [name for name in PROBLEMS if not given.only or short(name) in given.only]
    table = given.out / "samplers.csv"
    if given.read or given.agreement:
        runs = [run for run in kept_runs(given.keep) if run.told["problem"] in map(short, chosen)]
        for run in runs if given.read else []:
            put(row_of(run), table)
        if given.agreement:
            path = given.out / "samplers_agreement.csv"
            pd.DataFrame(agreement(runs)).to_csv(path, index=False, float_format="%.4g")
            print(f"wrote {path}")
        return
    for name in chosen:
        problem = read(given.data, name, rtol=given.rtol, atol=given.atol)
        starts = starts_of(problem, given.initial, given.cache)
        for sampler, plan in sizes(given).items():
            limits = {"seed": given.seed, "seconds": given.seconds, "initial": given.initial}
            kept = run_of(problem, sampler, plan, starts, **limits)
            keep(kept, given.keep)
            put(row_of(kept), table)


if __name__ == "__main__":
    main()
