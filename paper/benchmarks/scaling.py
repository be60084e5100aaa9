"""Measure the native engine against size: chains, random networks, and one model under many conditions.

A chain passes its first species on to its last. A network has as many random reactions A + B -> C as three halves of
its species, forward and back. Conditions are copies of one published problem's data as experiments of their own.

python paper/benchmarks/scaling.py
"""

import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from collection import arguments, compile_seconds, numbers, read
from rounds import clock, draw, fastest, tell, write

import kinbayes as kb
from kinbayes.model.expressions import ONE, ZERO, const, jacobian, symbol
from kinbayes.ode import bridges, native
from kinbayes.ode.sparse_lu import elimination, method

END = 10.0  # of a simulation; rates are around 1
TIMES = 10


def chain(size: int) -> kb.Model:
    """Return S0 -> S1 -> ... with rates between 0.5 and 1.5."""
    rates = np.random.default_rng(0).uniform(0.5, 1.5, size)
    species = [symbol(f"S{i}") for i in range(size)]
    flow = [symbol(f"k{i}") * species[i] for i in range(size - 1)]
    derivatives = [(flow[i - 1] if i else ZERO) - (flow[i] if i < size - 1 else ZERO) for i in range(size)]
    return model(f"chain of {size}", derivatives, rates, [1.0] + [0.0] * (size - 1))


def network(size: int, *, seed: int = 0) -> kb.Model:
    """Return random reversible reactions A + B <-> C with log-normal rates, from log-normal starts."""
    rng = np.random.default_rng(seed)
    species = [symbol(f"S{i}") for i in range(size)]
    derivatives = [ZERO] * size
    num_reactions = 3 * size // 2
    for j in range(num_reactions):
        a, b, c = rng.choice(size, 3, replace=False)
        rate = symbol(f"k{2 * j}") * species[a] * species[b] - symbol(f"k{2 * j + 1}") * species[c]
        for i, sign in ((a, -1), (b, -1), (c, 1)):
            derivatives[i] = derivatives[i] + sign * rate
    return model(f"network of {size}", derivatives, rng.lognormal(size=2 * num_reactions), rng.lognormal(size=size))


def model(name: str, derivatives: list, rates: np.ndarray, start: np.ndarray | list[float]) -> kb.Model:
    """Return a model of the species S0, S1, ... and the rates k0, k1, ..."""
    initial = {f"S{i}": const(float(value)) for i, value in enumerate(start)}
    initial |= {f"k{j}": const(float(value)) for j, value in enumerate(rates)}
    return kb.Model(name, {f"S{i}": rhs for i, rhs in enumerate(derivatives)}, initial)


def measured(model: kb.Model, end: float) -> kb.Problem:
    """Return a problem whose first and last species are measured ten times; one rate is estimated."""
    last = len(model.states) - 1
    observables = [kb.Observable(f"y{i}", f"S{i}", kb.noise.normal("1")) for i in (0, last)]
    rows = [(o.name, end * (k + 1) / TIMES, 0.0) for o in observables for k in range(TIMES)]
    data = pd.DataFrame(rows, columns=["observableId", "time", "measurement"])
    rate = kb.Parameter("k0", kb.LogUniform(1e-3, 1e3), nominal=1.0)
    return kb.Problem(model, [rate], observables, data)


def replicated(problem: kb.Problem, copies: int) -> kb.Problem:
    """Return a problem with every experiment that many times."""
    experiments = [kb.Experiment(f"{e.name} {k}", e.values) for k in range(copies) for e in problem.experiments]
    rows = [
        {
            "observableId": m.observable,
            "simulationConditionId": f"{m.experiment} {k}",
            "time": m.time,
            "measurement": m.value,
            "observableParameters": ";".join(map(str, m.observable_parameters)),
            "noiseParameters": ";".join(map(str, m.noise_parameters)),
        }
        for k in range(copies)
        for m in problem.measurements
    ]
    return kb.Problem(
        problem.model, problem.parameters, problem.observables, pd.DataFrame(rows), experiments=experiments
    )


def row_of(family: str, size: int, make: Callable[[], kb.Problem], *, rounds: int) -> dict[str, object]:
    """Return what one point costs."""
    started = time.perf_counter()
    problem = make()
    made = time.perf_counter() - started
    packed, u = numbers(problem), np.asarray(problem.nominal)
    lanes = native.simulated(packed, u[None]).lanes
    if lanes.status.any():
        raise RuntimeError(f"{family}, {size}: the simulation ended with status {set(lanes.status.ravel().tolist())}")
    alone = bridges.host_log_likelihood(packed)
    seconds = fastest([clock("alone", lambda: alone(u))], rounds=rounds)["alone"]
    steps = int(lanes.steps.sum())
    has_time = bool(packed.sizes.has_time)
    rhs = [*problem.model.derivatives.values(), *[ONE] * has_time]
    pattern = jacobian(rhs, (*problem.model.states, *["time"] * has_time))
    updates = elimination(packed.sizes.states, pattern.rows, pattern.columns).num_updates
    row = {
        "family": family,
        "size": size,
        "states": packed.sizes.states,
        "entries": packed.sizes.entries,
        "lanes": packed.sizes.lanes,
        "measurements": len(problem.measurements),
        "num_updates": updates,
        "linear_solver": method(packed.sizes.states, updates),
        "steps": steps,
        "rejected": int(lanes.rejected.sum()),
        "ms": 1e3 * seconds,
        "us_per_step": 1e6 * seconds / steps,
        "compile_seconds": compile_seconds(problem),
        "problem_seconds": made,
    }
    tell(row)
    return row


def main() -> None:
    """Measure every size, and write the table and the figure."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--problem", default="Boehm_JProteomeRes2014", help="the problem whose conditions are copied")
    parser.add_argument("--seed", type=int, default=0, help="of the random networks")
    given = parser.parse_args()
    chains = [5, 20, 100] if given.quick else [5, 10, 20, 50, 100, 200, 350, 500]
    networks = [20, 40] if given.quick else [20, 30, 40, 60, 80, 100, 120, 150]
    copies = [1, 4] if given.quick else [1, 2, 4, 8, 16, 32, 64, 128]
    original = read(given.data, given.problem)
    plan = [
        *(("chain", n, lambda n=n: measured(chain(n), END)) for n in chains),
        *(("network", n, lambda n=n: measured(network(n, seed=given.seed), END)) for n in networks),
        *(("conditions", n, lambda n=n: replicated(original, n)) for n in copies),
    ]
    table = pd.DataFrame([row_of(*point, rounds=given.rounds) for point in plan])
    for column in ("us_per_step", "compile_seconds", "ms"):
        logs = np.log(table[[column, "size"]])
        table[f"slope_{column}"] = (
            logs[column].groupby(table["family"]).diff() / logs["size"].groupby(table["family"]).diff()
        )
    write(table.to_dict("records"), given.out / "scaling.csv")
    figure(table, given.out / "scaling.svg")


def figure(table: pd.DataFrame, path: Path) -> None:
    """Draw the time of a step and of compilation against species, and of an evaluation against conditions."""
    panels, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
    marks = {"straight": "o", "indexed": "s", "dense": "^"}
    for family, colour in (("chain", "C0"), ("network", "C1")):
        rows = table[table["family"] == family]
        for axis, column in ((axes[0], "us_per_step"), (axes[1], "compile_seconds")):
            axis.plot(rows["size"], rows[column], color=colour, label=family)
            for solver, mark in marks.items():
                own = rows[rows["linear_solver"] == solver]
                axis.plot(own["size"], own[column], mark, color=colour, label=f"{family}, {solver}" * bool(len(own)))
    rows = table[table["family"] == "conditions"]
    axes[2].plot(rows["size"], rows["ms"], "o-", color="C2")
    for axis, x, y in (
        (axes[0], "species", "µs a step"),
        (axes[1], "species", "s to compile"),
        (axes[2], "conditions", "ms a log likelihood"),
    ):
        axis.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    draw(panels, path)


if __name__ == "__main__":
    main()
