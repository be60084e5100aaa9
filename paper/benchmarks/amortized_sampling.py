"""Sampling with learned proposals beside other samplers: effective draws per simulation and per second, and break-even.

::

    python paper/benchmarks/amortized_sampling.py            # Boehm and a bimodal problem: amortized_sampling.csv

The bimodal problem has two pools that decay by rates of the same prior, and only their sum is measured: swapping the
rates changes nothing, so half of the posterior has the first one larger. A sampler that sees one mode alone is told by
`share_of_first_mode`, and the evidence is known from a grid. Each sampler runs twice, and the second run, compiled, is
timed. The archive's and the training's cost stand beside; `break_even` is the number of data sets of the same problem
(`with_data`) at which a proposal that was learned once has cost as many seconds as the best other sampler that
converged, for as many effective draws.
"""

import time

import numpy as np
import pandas as pd
from collection import arguments, read
from scipy.special import logsumexp

import kinbayes as kb
from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.results.convergence import diagnose
from kinbayes.run.starts.chain_starts import values

WANTED = 1000  # effective draws that a data set is to have
RUNS = {
    "nuts": {"draws": 2000, "warmup": 1000},
    "parallel_tempering": {"draws": 2000, "warmup": 1000},
    "dream": {"draws": 2000, "warmup": 1000},
}
AMORTIZED = {"draws": 2000, "warmup": 500}


def bimodal(seed: int = 0) -> kb.Problem:
    """Return the problem of two pools of which the sum is measured, with noise of sd 0.02."""
    model = kb.Model(
        "two_pools",
        {"A": parse("-k1 * A"), "B": parse("-k2 * B")},
        {"A": const(1.0), "B": const(1.0), "k1": const(1.0), "k2": const(0.1)},
    )
    times = np.linspace(0.5, 15.0, 15)
    exact = np.exp(-times) + np.exp(-0.1 * times)
    noisy = exact + 0.02 * np.random.default_rng(seed).normal(size=len(times))
    return kb.Problem(
        model,
        [kb.Parameter(name, kb.LogUniform(1e-3, 1e2), scale="log10") for name in ("k1", "k2")],
        [kb.Observable("total", "A + B", kb.noise.normal(0.02))],
        pd.DataFrame({"observableId": "total", "time": times, "measurement": noisy}),
    )


def measured(problem: kb.Problem, sampler: str, lengths: dict, **settings: object) -> dict[str, object]:
    """Return the row of one sampler, timed when it is compiled."""
    kb.sample(problem, sampler, progress=False, seed=0, **lengths, **settings)
    began = time.perf_counter()
    found = kb.sample(problem, sampler, progress=False, seed=1, **lengths, **settings)
    seconds = time.perf_counter() - began
    u = values(problem, found.posterior.transpose("chain", "draw", ...))
    rhat, bulk, _ = diagnose(u)
    return {
        "problem": problem.name,
        "sampler": sampler,
        "rung": found.attrs.get("rung", ""),
        "seconds": round(seconds, 2),
        "simulations": int(found.attrs["simulations"]) // problem.num_lanes,
        "ess": round(float(np.min(bulk)), 1),
        "rhat": round(float(np.max(rhat)), 4),
        "converged": bool(found.attrs["converged"]),
        "ess_per_second": round(float(np.min(bulk)) / seconds, 2),
        "ess_per_1000_simulations": round(
            1000 * float(np.min(bulk)) / (int(found.attrs["simulations"]) / problem.num_lanes), 2
        ),
        "share_of_first_mode": round(float(np.mean(u[..., 0] > u[..., 1])), 3) if problem.dim == 2 else np.nan,
        "log_evidence": round(float(found.attrs["log_evidence"]), 3) if "log_evidence" in found.attrs else np.nan,
        "pareto_k": round(float(found.attrs["pareto_k"]), 2) if "pareto_k" in found.attrs else np.nan,
    }


def learned(problem: kb.Problem, network: str, *, budget: int, epochs: int, lengths: dict) -> list[dict[str, object]]:
    """Return the rows of a learned proposal, on its own data and on data that its posterior predicts."""
    began = time.perf_counter()
    proposal = kb.amortize(problem, network=network, max_evaluations=budget, epochs=epochs, progress=False)
    once = time.perf_counter() - began
    facts = proposal.training
    cost = {
        "network": network,
        "seconds_once": round(once, 1),
        "seconds_archive": round(facts["seconds_archive"], 1),
        "seconds_training": round(facts["seconds_training"], 1),
        "simulations_once": facts["archived"] + facts["simulations_of_conditions"],
    }
    rows = [measured(problem, "amortized", lengths, proposal=proposal) | cost | {"data": "its own"}]
    other = resampled(problem, seed=1)
    rows.append(measured(other, "amortized", lengths, proposal=proposal) | cost | {"data": "other"})
    for row in rows:
        total = row["simulations"] + row["simulations_once"]
        row["ess_per_1000_simulations_whole"] = round(1000 * row["ess"] / total, 3)
        row["ess_per_second_whole"] = round(row["ess"] / (row["seconds"] + once), 3)
    return rows


def resampled(problem: kb.Problem, seed: int) -> kb.Problem:
    """Return the problem with measurements drawn at its nominal point, or at the best of searches if it has none."""
    mode = kb.optimize(problem, progress=False)
    u = np.array([values(problem, mode.map_estimate)[0]])
    rows = problem.rows(u)
    drawn = problem.draw_measurements(np.random.default_rng(seed), rows.simulated, rows.noise)[0]
    return problem.with_data(drawn)


def on_grid(problem: kb.Problem, size: int = 1000) -> dict[str, object]:
    """Return the row of the evidence of two parameters by the midpoint rule between their bounds."""
    lower, upper = np.asarray(problem.lower), np.asarray(problem.upper)
    shares = (np.arange(size) + 0.5) / size
    points = np.stack(np.meshgrid(shares, shares, indexing="ij"), axis=-1).reshape(-1, 2)
    found = problem.evaluate(lower + (upper - lower) * points)
    log_mass = found.log_prior + found.log_likelihood + np.log(np.prod((upper - lower) / size))
    return {"problem": problem.name, "sampler": "grid", "log_evidence": round(float(logsumexp(log_mass)), 3)}


def main() -> None:
    """Measure, and write one table."""
    parser = arguments(__doc__)
    parser.add_argument("--budget", type=int, default=50_000, help="evaluations for the archive")
    parser.add_argument("--epochs", type=int, default=300)
    given = parser.parse_args()
    rows = []
    for problem in (bimodal(), read(given.data, "Boehm_JProteomeRes2014")):
        others = [on_grid(problem)] if problem.dim == 2 else []
        for name, lengths in RUNS.items():
            short = {"draws": 50, "warmup": 50} if given.quick else lengths
            others.append(measured(problem, name, short, initial="multistart"))
            print(others[-1], flush=True)
        best = max((row["ess_per_second"] for row in others if row.get("converged")), default=np.nan)
        for network in ("cvae", "flow"):
            budget, epochs = (3_000, 5) if given.quick else (given.budget, given.epochs)
            lengths = {"draws": 50, "warmup": 50} if given.quick else AMORTIZED
            for row in learned(problem, network, budget=budget, epochs=epochs, lengths=lengths):
                gain = WANTED / best - WANTED / row["ess_per_second"]
                row["break_even"] = int(np.ceil(row["seconds_once"] / gain)) if gain > 0 else np.inf
                others.append(row)
                print(row, flush=True)
        rows += others
        if not given.quick:
            pd.DataFrame(rows).to_csv(given.out / "amortized_sampling.csv", index=False)


if __name__ == "__main__":
    main()
