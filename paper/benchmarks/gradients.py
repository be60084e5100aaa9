"""Measure gradients of the log likelihood: how exact they are, and what they cost.

reference   Against AMICI's at tight tolerances, against finite differences, and against the JAX engine.
amici       Value and gradient beside AMICI's forward and adjoint modes: with rtol = atol = 1e-8 in every tool
            ("same"), and each with the loosest rtol = atol = 10^-k at which, and below which, its gradient stays within
            1e-3 of the reference's largest component ("loosest").
parameters  Value and gradient in values, against the number of parameters.
first       The first value and gradient of a fresh process, with and without numba's cache.

python paper/benchmarks/gradients.py --amici PYTHON --amici-models FOLDER
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import differences
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from collection import arguments, numbers, read, require, short
from engine import EXPONENTS, SAME, Amici, loosest
from rounds import clock, draw, fastest, tell, write
from scaling import END, network
from throughput import first

import kinbayes as kb
from kinbayes.ode import bridges, native
from kinbayes.ode.numbers import section
from kinbayes.ode.status import Status

TIGHT = (1e-12, 1e-12)
TIGHT_EQUILIBRATED = (1e-12, 1e-8)  # rounding keeps steady states from a smaller atol
MANY_STEPS = 200_000
JAX_TOLERANCE = 1e-10
JAX_SECONDS = 60.0  # where the JAX engine takes longer for the nominal point, the random points are left out
# Whose stored gradient finite differences replace: the nominal point is next to a pole, and AMICI's gradient depends
# on its tolerances, 2 % off at the tightest that it finishes.
REPLACED = ("Crauste",)
METHODS = ("forward", "adjoint")
NETWORK = 34  # species, so that there are 102 rates
COUNTS = (2, 4, 8, 16, 32, 64, 100)


class Case(NamedTuple):
    """A problem, and what is stored of it, in the order of its parameters."""

    name: str
    problem: kb.Problem
    nominal: np.ndarray
    gradient: np.ndarray  # AMICI's at the nominal point
    points: np.ndarray


def cases(data: Path, chosen: list[str]) -> list[Case]:
    """Return the problems whose gradients are stored, those chosen or all."""
    stored = json.loads(require(data / "reference" / "amici.json").read_text())["problems"]
    found = []
    for name, values in stored.items():
        if chosen and short(name) not in chosen:
            continue
        problem = read(data, name, max_steps=MANY_STEPS)
        order = [values["ids"].index(n) for n in problem.parameter_names]
        nominal, gradient = (np.array(values[key])[order] for key in ("nominal", "gradient_nominal"))
        found.append(Case(name, problem, nominal, gradient, np.array(values["points"])[:, order]))
    return found


def native_gradient(problem: kb.Problem, u: np.ndarray) -> np.ndarray:
    """Return the native engine's gradient, or NaN where it gives up."""
    value, gradient = bridges.host_value_and_gradient(problem.gradient_numbers)(u)
    return gradient if np.isfinite(value) else np.full(len(u), np.nan)


def status(problem: kb.Problem, u: np.ndarray, *, with_gradients: bool) -> str:
    """Return the name of the first status that is not OK, or OK."""
    packed = problem.gradient_numbers if with_gradients else numbers(problem)
    found = native.simulated(packed, u[None], with_gradients=with_gradients).lanes.status.ravel()
    return Status(int(found[np.argmax(found != Status.OK)])).name


def difference(case: Case, u: np.ndarray) -> differences.Difference:
    """Return the gradient by finite differences of the native engine's values at tight tolerances."""
    tight = case.problem.with_tolerances(*(TIGHT_EQUILIBRATED if case.problem.is_equilibrated else TIGHT))
    return differences.gradient(lambda U: tight.evaluate(U).log_likelihood, u)


def error(gradient: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest error, relative to the reference's largest component."""
    return float(np.max(np.abs(gradient - reference)) / np.max(np.abs(reference)))


# ---- against references


def reference(data: Path, case: Case, *, num_points: int, is_with_jax: bool) -> list[dict[str, object]]:
    """Return errors at the nominal point and at random points, one point a row."""
    rows, tight = [], TIGHT_EQUILIBRATED if case.problem.is_equilibrated else TIGHT
    # The JAX engine refuses problems with a pre-equilibration.
    is_with_jax = is_with_jax and not case.problem.is_equilibrated
    if is_with_jax:
        tolerances = {"rtol": JAX_TOLERANCE, "atol": JAX_TOLERANCE, "max_steps": MANY_STEPS}
        jax_gradient = read(data, case.name, engine="jax", **tolerances).batched.value_and_grad
    for k, u in enumerate([case.nominal, *case.points[:num_points]]):
        row: dict[str, object] = {"problem": short(case.name), "point": k or "nominal"}
        for kind in ("status", "gradient_status"):  # at tight tolerances
            row[kind] = status(case.problem.with_tolerances(*tight), u, with_gradients=kind == "gradient_status")
        tools = {
            "default": lambda u=u: native_gradient(case.problem, u),
            "same": lambda u=u: native_gradient(case.problem.with_tolerances(SAME, SAME), u),
            "tight": lambda u=u: native_gradient(case.problem.with_tolerances(*tight), u),
        }
        found = {name: gradient() for name, gradient in tools.items()} if row["status"] == "OK" else {}
        by_differences = difference(case, u) if found else None
        if found and is_with_jax:
            started = time.perf_counter()
            found["jax"] = np.asarray(jax_gradient(u[None])[3][0])
            is_with_jax = time.perf_counter() - started < JAX_SECONDS
        if found:
            largest = np.max(np.abs(by_differences.gradient))
            row |= {"largest": largest, "difference_uncertainty": by_differences.uncertainty.max() / largest}
            row |= {f"{name}_to_difference": error(g, by_differences.gradient) for name, g in found.items()}
            row |= {"tight_to_jax": error(found["tight"], found["jax"])} if "jax" in found else {}
        if found and not k:
            row |= {f"{name}_to_stored": error(g, case.gradient) for name, g in found.items()}
            row["difference_to_stored"] = error(by_differences.gradient, case.gradient)
        rows.append(row)
        tell(row)
    return rows


# ---- beside AMICI


def errors_of(gradient: Callable[[float], np.ndarray], true: np.ndarray) -> dict[float, float]:
    """Return the error at every tolerance tried, loosest first, but for the tightest where a tool gives up."""
    found = {tolerance: error(gradient(tolerance), true) for tolerance in (10.0**-k for k in EXPONENTS)}
    last = max(k for k, e in enumerate(found.values()) if not np.isnan(e))
    return dict(list(found.items())[: last + 1])


def beside_amici(data: Path, case: Case, amici: Amici, *, rounds: int) -> list[dict[str, object]]:
    """Return the times of one problem at the nominal point, one comparison a row."""
    answer, u = amici.load(data / "petab" / "benchmark" / case.name / f"{case.name}.yaml"), case.nominal
    names = case.problem.parameter_names
    to_theirs, to_ours = [names.index(n) for n in answer["ids"]], [answer["ids"].index(n) for n in names]
    theirs = u[to_theirs]
    np.testing.assert_allclose(theirs, answer["nominal"])
    true = difference(case, u).gradient if short(case.name) in REPLACED else case.gradient
    gradients = {"native": lambda t: native_gradient(case.problem.with_tolerances(t, t), u)} | {
        f"amici_{m}": lambda t, m=m: amici.gradient(theirs, t, m)[to_ours] for m in METHODS
    }
    errors = {tool: errors_of(gradient, true) for tool, gradient in gradients.items()}

    rows = []
    for comparison in ("same", "loosest"):
        row: dict[str, object] = {"problem": short(case.name), "comparison": comparison, "parameters": len(u)}
        chosen = {tool: SAME if comparison == "same" else loosest(found) for tool, found in errors.items()}
        for tool, tolerance in chosen.items():
            row |= {f"{tool}_tolerance": tolerance, f"{tool}_error": errors[tool].get(tolerance, np.nan)}
        contestants = []
        if chosen["native"]:
            problem = case.problem.with_tolerances(chosen["native"], chosen["native"])
            value, both = bridges.host_log_likelihood(numbers(problem)), problem.gradient_numbers
            gradient = bridges.host_value_and_gradient(both)
            contestants += [clock("native_value", lambda f=value: f(u)), clock("native", lambda f=gradient: f(u))]
        contestants += [
            amici.contestant(theirs, chosen[f"amici_{method}"], method=method)
            for method in METHODS
            if chosen[f"amici_{method}"] in errors[f"amici_{method}"]
        ]
        seconds = fastest(contestants, rounds=rounds)
        row |= {f"{key}_ms": 1e3 * value for key, value in seconds.items()}
        for part in ("solver", "objective"):
            times = [seconds[key] for key in (f"amici_{m}_{part}" for m in METHODS) if key in seconds]
            if times and "native" in seconds:
                row[f"amici_{part}_over_native"] = min(times) / seconds["native"]
        rows.append(row)
        tell(row)
    return rows


def told(table: pd.DataFrame) -> None:
    """Print geometric means and the smallest of AMICI's times in ours, over the problems that have them."""
    for comparison, rows in table.groupby("comparison", sort=False):
        for column in (c for c in table.columns if c.endswith("_over_native")):
            ratios = rows.set_index("problem")[column].dropna()
            if len(ratios):
                print(
                    f"{comparison:8s} {column:28s} geometric mean {np.exp(np.log(ratios).mean()):.2f}, worst "
                    f"{ratios.min():.2f} ({ratios.idxmin()}), Bachmann {ratios.get('Bachmann', np.nan):.2f}, "
                    f"{len(ratios)} problems"
                )


# ---- against the number of parameters


def network_of(count: int) -> kb.Problem:
    """Return a random network some of whose rates are estimated, the same simulation for every number of them."""
    model = network(NETWORK)
    values = model.initial_values({})
    parameters = [
        kb.Parameter(f"k{j}", kb.LogUniform(1e-6, 1e6), nominal=float(values[f"k{j}"].value)) for j in range(count)
    ]
    observables = [kb.Observable(f"y{i}", f"S{i}", kb.noise.normal("1")) for i in range(0, NETWORK, 4)]
    rows = [(o.name, END * (k + 1) / 10, 0.0) for o in observables for k in range(10)]
    data = pd.DataFrame(rows, columns=["observableId", "time", "measurement"])
    return kb.Problem(model, parameters, observables, data, rtol=SAME, atol=SAME)


def cost(family: str, problem: kb.Problem, *, rounds: int) -> dict[str, object]:
    """Return the time of the value with its gradient, and of the value alone."""
    u, both = np.asarray(problem.nominal), problem.gradient_numbers
    value, gradient = bridges.host_log_likelihood(numbers(problem)), bridges.host_value_and_gradient(both)
    seconds = fastest([clock("value", lambda: value(u)), clock("both", lambda: gradient(u))], rounds=rounds)
    steps = {w: int(native.simulated(both, u[None], with_gradients=w).lanes.steps.sum()) for w in (False, True)}
    row = {
        "family": family,
        "problem": short(problem.name),
        "states": both.sizes.states,
        "lanes": both.sizes.lanes,
        "parameters": problem.dim,
        "tangents": np.diff(section(both.ints, "lane_tangents")).mean(),  # of a lane
        "steps": steps[False],
        "gradient_steps": steps[True],
        "value_ms": 1e3 * seconds["value"],
        "value_and_gradient_ms": 1e3 * seconds["both"],
        "ratio": seconds["both"] / seconds["value"],
        "ratio_per_step": seconds["both"] / steps[True] / (seconds["value"] / steps[False]),
    }
    tell(row)
    return row


# ---- the whole


def main() -> None:
    """Measure what is asked for, and write tables and a figure."""
    kinds = ("reference", "amici", "parameters", "first")
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", choices=kinds, default=kinds)
    parser.add_argument("--amici", type=Path, help="interpreter of an environment with AMICI and pyPESTO")
    parser.add_argument("--amici-models", type=Path, help="folder that keeps AMICI's compiled models")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--points", type=int, default=10, help="random points of each problem")
    parser.add_argument("--no-jax", action="store_true", help="leave the JAX engine out")
    parser.add_argument("--problems", nargs="*", help="first words of problems; all by default")
    given = parser.parse_args()
    if "amici" in given.only and (given.amici is None or given.amici_models is None):
        parser.error("amici needs --amici and --amici-models; or choose others with --only")
    chosen = cases(given.data, given.problems or (["Boehm", "Bruno"] if given.quick else []))
    rounds, num_points = (2, 1) if given.quick else (given.rounds, given.points)
    for kind in given.only:
        path = given.out / f"gradients_{kind}.csv"
        match kind:
            case "reference":
                found = [reference(given.data, c, num_points=num_points, is_with_jax=not given.no_jax) for c in chosen]
                write([row for rows in found for row in rows], path)
            case "amici":
                amici = Amici(given.amici, given.amici_models)
                found = [beside_amici(given.data, c, amici, rounds=rounds) for c in chosen]
                told(write([row for rows in found for row in rows], path))
            case "parameters":
                networks = [cost("network", network_of(n), rounds=rounds) for n in COUNTS]
                rows = [
                    *networks,
                    *(cost("problem", c.problem.with_tolerances(SAME, SAME), rounds=rounds) for c in chosen),
                ]
                figure(write(rows, path), given.out / "gradients.svg")
            case "first":
                rows = []
                for case in chosen:
                    source = given.data / "petab" / "benchmark" / case.name / f"{case.name}.yaml"
                    rows += first(source.resolve(), rounds=min(rounds, 3), call="value_and_grad")
                    tell(rows[-1])
                write(rows, path)


def figure(table: pd.DataFrame, path: Path) -> None:
    """Draw what value and gradient cost in values, against tangents."""
    panels, axis = plt.subplots(figsize=(5, 3.6), layout="constrained")
    rows = table[table["family"] == "network"]
    axis.plot(rows["tangents"], rows["ratio"], "o-", color="C0", label=f"network of {NETWORK} species")
    rows = table[table["family"] == "problem"]
    axis.plot(rows["tangents"], rows["ratio"], "s", color="C1", fillstyle="none", label="published problems")
    for _, row in rows.iterrows():
        axis.annotate(row["problem"], (row["tangents"], row["ratio"]), (3, 3), textcoords="offset points", fontsize=6)
    counts = np.array([table["tangents"].min(), table["tangents"].max()])
    axis.plot(counts, counts + 1, ":", color="0.5", label="forward differences")
    axis.set(xscale="log", yscale="log", xlabel="parameters of the ODE, per simulation")
    axis.set_ylabel("time of value and gradient, in values")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    draw(panels, path)


if __name__ == "__main__":
    main()
