"""Measure the No-U-Turn sampler on the native engine: effective draws a second, and where a leapfrog step's time goes.

nutpie         Its loop calls machine code; every chain in a thread of its own.
numpyro        Compiled by XLA, which calls the kernel: all chains in one batch.
numpyro alone  The same, every chain by itself in a thread of its own.

python paper/benchmarks/nuts.py
"""

import ctypes
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from collection import arguments, read, short
from rounds import clock, fastest, tell, write

import kinbayes as kb
from kinbayes.ode import native
from kinbayes.ode.host_density import Words
from kinbayes.problem.native_posterior import native_posterior
from kinbayes.problem.parameters import unconstrain
from kinbayes.results.convergence import diagnose
from kinbayes.run.choice import target
from kinbayes.run.loop.background import run_chains
from kinbayes.run.loop.driver import run_sampler
from kinbayes.run.loop.runs import SamplerRun
from kinbayes.run.starts.chain_starts import chain_starts
from kinbayes.samplers import SAMPLERS

POINTS = 100  # draws at which the parts of a step are measured


def backends(problem: kb.Problem, starts: np.ndarray, num_warmup: int) -> dict[str, Callable]:
    """Return functions (seed, number of draws) that run all chains, and return one run or several."""
    posterior, host = native_posterior(problem.estimated, problem.gradient_numbers), target(problem)
    chains = len(starts)

    def by_numpyro_from(initial: np.ndarray, seed: int, num_draws: int) -> SamplerRun:
        lengths = {"num_warmup": num_warmup, "num_draws": num_draws}
        return run_sampler(host, SAMPLERS["nuts"], initial=initial, seed=seed, **lengths)

    def by_nutpie(seed: int, num_draws: int) -> list[SamplerRun]:
        return [run_chains(posterior, initial=starts, num_warmup=num_warmup, num_draws=num_draws, seed=seed)]

    def by_numpyro(seed: int, num_draws: int) -> list[SamplerRun]:
        return [by_numpyro_from(starts, seed, num_draws)]

    def alone(seed: int, num_draws: int) -> list[SamplerRun]:
        def one(k: int) -> SamplerRun:
            return by_numpyro_from(starts[k : k + 1], chains * seed + k, num_draws)

        with ThreadPoolExecutor(chains) as threads:
            return list(threads.map(one, range(chains)))

    return {"nutpie": by_nutpie, "numpyro": by_numpyro, "numpyro alone": alone}


def parts(problem: kb.Problem, draws: np.ndarray, *, rounds: int) -> dict[str, float]:
    """Return the seconds that an evaluation takes in one thread, a mean over draws: kernel, then prior and walls."""
    both = problem.gradient_numbers
    posterior = native_posterior(problem.estimated, both)
    words, dim = Words(*posterior.words.tolist()), posterior.dim
    prior = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 6)(words.prior)
    x, u, slope, gradient = (np.empty(dim) for _ in range(4))
    x[:] = unconstrain(posterior.box, draws[0])
    values = np.empty(2)
    pointers = [x.ctypes.data, words.prior_numbers, *(part.ctypes.data for part in (u, slope, values, gradient))]
    return fastest(
        [
            clock("kernel", lambda: native.log_likelihoods_and_gradients(both, draws), units=len(draws)),
            clock("value", lambda: native.log_likelihoods(both, draws), units=len(draws)),
            clock("prior", lambda: prior(*pointers)),  # a call through ctypes included
        ],
        rounds=rounds,
    )


def row_of(
    name: str, run: Callable, problem: kb.Problem, seed: int, num_draws: int, *, rounds: int
) -> dict[str, object]:
    """Return what one run reached, and where its time went."""
    began = time.process_time()
    runs = run(seed, num_draws)
    cpu_seconds = time.process_time() - began
    position = np.concatenate([part.position for part in runs])
    found = diagnose(position)
    seconds = max(part.seconds_warmup + part.seconds_draws for part in runs)
    steps = sum(part.num_steps for part in runs)
    draws = position.reshape(-1, problem.dim)
    took = parts(problem, draws[:: max(1, len(draws) // POINTS)], rounds=rounds)
    per_step = cpu_seconds / steps
    row = {
        "problem": short(problem.name),
        "backend": name,
        "seed": seed,
        "chains": len(position),
        "draws": position.shape[1],
        "rtol": problem.rtol,
        "atol": problem.atol,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "seconds": seconds,
        "min_ess_bulk": found.ess_bulk.min(),
        "min_ess_bulk_per_second": found.ess_bulk.min() / seconds,
        "max_r_hat": found.r_hat.max(),
        "divergent": sum(int(part.info["diverging"].sum()) for part in runs),
        "steps": steps,
        "us_per_step": 1e6 * per_step,  # of CPU time, judging the draws included
        "kernel_us": 1e6 * took["kernel"],
        "kernel_value_us": 1e6 * took["value"],
        "prior_and_walls_us": 1e6 * took["prior"],
        "sampler_us": 1e6 * (per_step - took["kernel"] - took["prior"]),
        "share_of_kernel": took["kernel"] / per_step,
    }
    tell(row)
    return row


def main() -> None:
    """Run every backend, and write the table."""
    parser = arguments(__doc__)
    parser.add_argument("--problem", default="Boehm_JProteomeRes2014")
    parser.add_argument("--backends", nargs="*", help="names of backends; all by default")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--initial", default="nominal", help="prior or nominal")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each backend")
    given = parser.parse_args()
    problem = read(given.data, given.problem)
    starts, _ = chain_starts(problem, given.initial, given.chains, np.random.default_rng(0))
    share = 10 if given.quick else 1
    num_warmup, num_draws, rounds = given.warmup // share, given.draws // share, 1 if given.quick else 5
    rows = []
    for name, run in backends(problem, starts, num_warmup).items():
        if given.backends and name not in given.backends:
            continue
        run(given.seeds, 1)  # compiles, and is not counted
        rows += [row_of(name, run, problem, seed, num_draws, rounds=rounds) for seed in range(given.seeds)]
    write(rows, given.out / "gradients_nuts.csv")


if __name__ == "__main__":
    main()
