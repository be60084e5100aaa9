"""Measure where the native engine's time goes: threads, failing vectors, calls, first calls, parts of a step.

threads    256 vectors of Boehm, drawn around the nominal one, on every number of threads.
failures   Vectors drawn uniformly between the bounds, against the same number without those whose simulation fails.
calls      What a log likelihood costs beside the kernel, from JAX, NumPy and numba.
first      The first log likelihood of a fresh process, with and without numba's cache.
parts      Parts of a step, and the share of the core's peak.

python paper/benchmarks/throughput.py
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numba
import numpy as np
import pandas as pd
from collection import ROOT, arguments, around_nominal, numbers, read, require, short
from rounds import clock, draw, fastest, tell, write
from step_parts import parts, peak_gflops

import kinbayes as kb
from kinbayes.ode import bridges, native
from kinbayes.ode.status import Status

BOEHM = "Boehm_JProteomeRes2014"
FAILING = (BOEHM, "Fujita_SciSignal2010", "Crauste_CellSystems2017", "Elowitz_Nature2000")
FIRST = (BOEHM, "Bachmann_MSB2011", "Isensee_JCB2018")
PARTS = (BOEHM, "Elowitz_Nature2000", "Bachmann_MSB2011", "Isensee_JCB2018")
BATCH = 256

# ---- threads


def threads(problem: kb.Problem, *, rounds: int) -> list[dict[str, object]]:
    """Return the time of a batch on 1, 2, 4, ... threads, and in JAX."""
    packed, batch = numbers(problem), around_nominal(problem, BATCH)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = sorted({*(2**k for k in range(cores.bit_length()) if 2**k <= cores), cores})
    function, on_device = problem.batched.log_likelihood, jax.numpy.asarray(batch)
    contestants = [
        *(clock(str(n), lambda n=n: native.simulated(packed, batch, num_threads=n)) for n in counts),
        clock("JAX, all", lambda: function(on_device).block_until_ready()),
    ]
    seconds = fastest(contestants, rounds=rounds)
    return [
        {"problem": short(problem.name), "vectors": BATCH, "threads": name, "ms": 1e3 * s, "speedup": seconds["1"] / s}
        for name, s in seconds.items()
    ]


# ---- failures


def failures(problem: kb.Problem, *, size: int, rounds: int) -> list[dict[str, object]]:
    """Return what vectors cost that end with each status, and their share of a batch."""
    packed = numbers(problem)
    drawn = np.random.default_rng(0).uniform(problem.lower, problem.upper, (size, problem.dim))
    lanes = native.simulated(packed, drawn).lanes
    # A vector is given up at its first lane that fails.
    is_bad = lanes.status != Status.OK
    last = np.where(is_bad.any(axis=1), is_bad.argmax(axis=1), packed.sizes.lanes - 1)
    vectors = np.arange(size)
    status = lanes.status[vectors, last]
    steps, rejected = (np.cumsum(part, axis=1)[vectors, last] for part in (lanes.steps, lanes.rejected))
    finishing = drawn[status == Status.OK]
    if not len(finishing):
        raise RuntimeError(f"{problem.name}: no vector finishes")
    replaced = np.where((status == Status.OK)[:, None], drawn, finishing[vectors % len(finishing)])
    kinds = sorted(set(status.tolist()))
    contestants = [
        clock("drawn", lambda: native.log_likelihoods(packed, drawn)),
        clock("replaced", lambda: native.log_likelihoods(packed, replaced)),
        clock("drawn, threads", lambda: native.simulated(packed, drawn)),
        clock("replaced, threads", lambda: native.simulated(packed, replaced)),
        *(clock(str(k), lambda U=drawn[status == k]: native.log_likelihoods(packed, U)) for k in kinds),
    ]
    seconds = fastest(contestants, rounds=rounds)
    return [
        {
            "problem": short(problem.name),
            "rtol": problem.rtol,
            "atol": problem.atol,
            "status": Status(k).name,
            "vectors": int(np.sum(status == k)),
            "mean_steps": steps[status == k].mean(),
            "largest_steps": int(steps[status == k].max()),
            "mean_rejected": rejected[status == k].mean(),
            "share_of_steps": steps[status == k].sum() / steps.sum(),
            "share_of_time": seconds[str(k)] / sum(seconds[str(j)] for j in kinds),
            "drawn_s": seconds["drawn"],
            "replaced_s": seconds["replaced"],
            "drawn_over_replaced": seconds["drawn"] / seconds["replaced"],
            "drawn_over_replaced_threads": seconds["drawn, threads"] / seconds["replaced, threads"],
        }
        for k in kinds
    ]


# ---- calls


@numba.njit
def _numba_loop(u, code, ints, floats, count):
    total = 0.0
    for _ in range(count):
        total += bridges.native_log_likelihood(u, code, ints, floats)
    return total


def calls(problem: kb.Problem, *, rounds: int, count: int) -> list[dict[str, object]]:
    """Return the time of a log likelihood in every host, and what of it is not the kernel's.

    Tolerances are loose, so that little of the time is.
    """
    problem = problem.with_tolerances(1e-3, 1e-3)
    packed, u = numbers(problem), np.asarray(problem.nominal)
    many, host = np.repeat(u[None], count, axis=0), bridges.host_log_likelihood(packed)

    @functools.partial(jax.jit, static_argnums=2)
    def loop(packed: native.Numbers, u: jax.Array, count: int) -> jax.Array:
        # Each call waits for the one before, and none can be left out.
        again = lambda _, total: total + bridges.log_likelihood(packed, u + 1e-300 * total)  # noqa: E731
        return jax.lax.fori_loop(0, count, again, 0.0)

    nothing = jax.jit(lambda u, data: jax.numpy.sum(u))
    operands, vector = native.Numbers(*map(jax.numpy.asarray, packed)), jax.numpy.asarray(u)
    contestants = [
        clock("kernel", lambda: native.log_likelihoods(packed, many), units=count),
        clock("numba loop", lambda: _numba_loop(u, *packed, count), units=count),
        clock("NumPy call", lambda: host(u)),
        clock("JAX loop", lambda: loop(operands, vector, count).block_until_ready(), units=count),
        clock("JAX call of nothing", lambda: nothing(vector, problem._data).block_until_ready()),
        clock("JAX call", lambda: problem.log_likelihood(vector).block_until_ready()),
    ]
    seconds = fastest(contestants, rounds=rounds)
    return [
        {
            "problem": short(problem.name),
            "host": name,
            "us": 1e6 * s,
            "us_beside_kernel": 1e6 * (s - seconds["kernel"]) if name != "JAX call of nothing" else np.nan,
        }
        for name, s in seconds.items()
    ]


# ---- first calls

AFTER_IMPORT = ("load_formats", "load_engine", "read", "compile", "first_call")


def first(path: Path, *, rounds: int, call: str = "log_likelihood") -> list[dict[str, object]]:
    """Return the parts of the first call of a problem's function: the very first on a machine, with numba's cache."""
    command = [sys.executable, str(ROOT / "paper" / "benchmarks" / "first_call.py"), str(path), call]
    found: dict[str, list[dict]] = {"empty": [], "filled": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for cache in found:
                done = subprocess.run(
                    command, env={**os.environ, "NUMBA_CACHE_DIR": folder}, capture_output=True, text=True, check=False
                )
                if done.returncode:
                    raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
                found[cache].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for cache, runs in found.items():
        least = {part: min(run[part] for run in runs) for part in ("import_kinbayes", *AFTER_IMPORT, "second_call")}
        after = sum(least[part] for part in AFTER_IMPORT)
        rows.append({"problem": short(path.stem), "cache": cache, **least, "after_import": after})
    return rows


# ---- the whole


def main() -> None:
    """Measure what is asked for, and write tables and a figure."""
    kinds = ("threads", "failures", "calls", "first", "parts")
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", choices=kinds, default=kinds)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--vectors", type=int, help="vectors drawn between the bounds; 10000 by default")
    parser.add_argument("--failing", nargs="*", default=FAILING, help="problems of which vectors are drawn")
    given = parser.parse_args()
    rounds = min(given.rounds, 3) if given.quick else given.rounds
    size = given.vectors or (500 if given.quick else 10_000)
    tables: dict[str, list[dict[str, object]]] = {kind: [] for kind in given.only}
    for kind, rows in tables.items():
        match kind:
            case "threads":
                rows += threads(read(given.data, BOEHM), rounds=rounds)
            case "failures":
                for name in given.failing[:2] if given.quick else given.failing:
                    rows += failures(read(given.data, name), size=size, rounds=min(rounds, 5))
            case "calls":
                rows += calls(read(given.data, BOEHM), rounds=rounds, count=200 if given.quick else 5000)
            case "first":
                for name in FIRST[:1] if given.quick else FIRST:
                    path = require(given.data / "petab" / "benchmark" / name / f"{name}.yaml")
                    rows += first(path.resolve(), rounds=1 if given.quick else 3)
            case "parts":
                peak = peak_gflops(rounds=rounds)
                told = ", ".join(f"{value:.1f} with vectors of {width}" for width, value in peak.items())
                print(f"peak of one core in GFLOP/s: {told}")
                rows += [
                    {"problem": "the core", "part": f"fused multiply-add, vectors of {width}", "gflops": value}
                    for width, value in peak.items()
                ]
                for name in PARTS[:2] if given.quick else PARTS:
                    rows += parts(read(given.data, name), peak, rounds=rounds)
        for row in rows:
            tell({"table": kind, **row})
        write(rows, given.out / f"throughput_{kind}.csv")
    if {"first", "parts"} <= tables.keys():
        figure(pd.DataFrame(tables["parts"]), pd.DataFrame(tables["first"]), given.out / "throughput.svg")


def figure(parts: pd.DataFrame, first: pd.DataFrame, path: Path) -> None:
    """Draw the parts of a step, and of the first log likelihood of a process."""
    panels, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    inside = parts[(parts["problem"] != "the core") & (parts["part"] != "whole step")]
    steps = inside.pivot(index="problem", columns="part", values="ns")[list(dict.fromkeys(inside["part"]))]
    steps.plot.barh(stacked=True, ax=axes[0], xlabel="ns a step", ylabel="")
    labelled = first.set_index(first["problem"] + ", cache " + first["cache"])[list(AFTER_IMPORT)]
    labelled = labelled.rename(columns=lambda column: column.replace("_", " "))
    labelled.plot.barh(stacked=True, ax=axes[1], xlabel="s to the first log likelihood", ylabel="")
    for axis in axes:
        axis.invert_yaxis()
        axis.legend(fontsize=7, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    draw(panels, path)


if __name__ == "__main__":
    main()
