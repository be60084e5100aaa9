"""Measure log likelihoods of published problems: the native engine, the JAX engine, and, where given, AMICI.

Twice: with rtol = atol = 1e-8 in every tool ("same"), and each tool with the loosest rtol = atol = 10^-k at which,
and below which, its log likelihood stays within 1e-3 of the reference ("loosest").

python paper/benchmarks/engine.py --amici PYTHON --amici-models FOLDER
"""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from collection import ROOT, arguments, around_nominal, compile_seconds, likelihood, numbers, read, require, short
from rounds import Contestant, clock, draw, fastest, tell, write

import kinbayes as kb
from kinbayes.ode import bridges, native

SAME = 1e-8
WITHIN = 1e-3
EXPONENTS = range(3, 13)
BATCH, JAX_BATCH = 256, 64
JAX_SECONDS = 5.0  # a longer call of the JAX engine is measured in a single round


class Amici:
    """AMICI in its own environment, asked by lines of JSON."""

    def __init__(self, python: Path, models: Path) -> None:
        command = [str(python), str(ROOT / "paper" / "benchmarks" / "amici_server.py"), "--models", str(models)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, **request: object) -> dict:
        """Return the answer to a request."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the AMICI server ended with {self.process.wait()}; run it by hand to see why")
        return json.loads(line)

    def load(self, path: Path) -> dict:
        """Compile a problem, or find it compiled; return its ids, scales and compile times."""
        answer = self.ask(do="load", problem=str(path))
        if not answer["ok"]:
            raise RuntimeError(f"AMICI cannot load {path}: {answer['error']}")
        return answer

    def contestant(self, u: np.ndarray, tolerance: float, *, method: str = "", seconds: float = 0.02) -> Contestant:
        """Return a contestant that has AMICI time itself at a vector in AMICI's order; with a gradient by a method."""
        request = {"do": "time", "rtol": tolerance, "atol": tolerance, "u": u.tolist()}
        name = "amici"
        if method:
            request |= {"do": "time_gradient", "method": method}
            name = f"amici_{method}"
        first = self.ask(**request, calls=1)
        # The server measures both times five times over.
        calls = max(1, int(seconds / (5 * (first["seconds_solver"] + first["seconds_objective"]))))

        def play() -> dict[str, float]:
            answer = self.ask(**request, calls=calls)
            return {f"{name}_solver": answer["seconds_solver"], f"{name}_objective": answer["seconds_objective"]}

        return play

    def log_likelihood(self, u: np.ndarray, tolerance: float) -> float:
        """Return the log likelihood, or NaN where AMICI gives up."""
        answer = self.ask(do="time", rtol=tolerance, atol=tolerance, u=u.tolist(), calls=0)
        return answer["log_likelihood"] if answer["ok"] else np.nan

    def gradient(self, u: np.ndarray, tolerance: float, method: str) -> np.ndarray:
        """Return the gradient by a method, or NaN where AMICI gives up."""
        answer = self.ask(do="time_gradient", method=method, rtol=tolerance, atol=tolerance, u=u.tolist(), calls=0)
        return np.array(answer["gradient"]) if answer["ok"] else np.full(len(u), np.nan)


def errors(log_likelihood: Callable[[float], float], reference: float) -> dict[float, float]:
    """Return the error at every tolerance tried, loosest first."""
    return {tolerance: abs(log_likelihood(tolerance) - reference) for tolerance in (10.0**-k for k in EXPONENTS)}


def loosest(found: dict[float, float]) -> float | None:
    """Return the loosest tolerance from which on every error is small enough, or None."""
    best = None
    for tolerance, error in reversed(found.items()):
        if not error <= WITHIN:
            break
        best = tolerance
    return best


def main() -> None:
    """Measure every problem, and write the table and the figure."""
    parser = arguments(__doc__)
    parser.add_argument("--amici", type=Path, help="interpreter of an environment with AMICI and pyPESTO")
    parser.add_argument("--amici-models", type=Path, help="folder that keeps AMICI's compiled models")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--no-jax", action="store_true", help="leave the JAX engine out")
    parser.add_argument("--problems", nargs="*", help="first words of problems; all by default")
    given = parser.parse_args()
    if (given.amici is None) != (given.amici_models is None):
        parser.error("--amici and --amici-models go together")
    stored = json.loads(require(given.data / "reference" / "amici.json").read_text())["problems"]
    chosen = given.problems or (["Boehm", "Bruno"] if given.quick else [short(name) for name in stored])
    amici = Amici(given.amici, given.amici_models) if given.amici else None
    rows = []
    read(given.data, next(iter(stored)))  # loads what every first problem loads
    for name in (n for n in stored if short(n) in chosen):
        rows += rows_of(given.data, name, stored[name], amici, is_with_jax=not given.no_jax, rounds=given.rounds)
    table = write(rows, given.out / "engine.csv")
    told(table)
    figure(table, given.out / "engine.svg")


def rows_of(
    data: Path, name: str, stored: dict, amici: Amici | None, *, is_with_jax: bool, rounds: int
) -> list[dict[str, object]]:
    """Return the rows of one problem, one a comparison."""
    problem = read(data, name)
    order = [stored["ids"].index(n) for n in problem.parameter_names]
    u, batch = np.array(stored["nominal"])[order], around_nominal(problem, BATCH)
    reference = stored["llh_nominal"]

    def native_value(tolerance: float) -> float:
        return native.log_likelihoods(numbers(problem.with_tolerances(tolerance, tolerance)), u[None])[0]

    errors_of, shared = {"native": errors(native_value, reference)}, {"compile_seconds": compile_seconds(problem)}
    # The JAX engine refuses problems with a pre-equilibration.
    is_with_jax = is_with_jax and not any(m.preequilibration for m in problem.measurements)
    if is_with_jax:
        jax_problem = read(data, name, engine="jax")
        started = time.perf_counter()
        jax_value = lambda t: float(jax_problem.with_tolerances(t, t).log_likelihood(u))  # noqa: E731
        jax_value(1e-3)
        shared["jax_compile_seconds"] = time.perf_counter() - started
        errors_of["jax"] = errors(jax_value, reference)
    if amici is not None:
        answer = amici.load(data / "petab" / "benchmark" / name / f"{name}.yaml")
        shared |= {f"amici_{key}": answer[key] for key in ("seconds_compile", "cpu_seconds_compile")}
        theirs = u[[problem.parameter_names.index(n) for n in answer["ids"]]]
        np.testing.assert_allclose(theirs, answer["nominal"])
        errors_of["amici"] = errors(lambda t: amici.log_likelihood(theirs, t), reference)

    rows = []
    for comparison in ("same", "loosest"):
        chosen = {tool: SAME if comparison == "same" else loosest(found) for tool, found in errors_of.items()}
        row: dict[str, object] = {"problem": short(name), "comparison": comparison}
        for tool, tolerance in chosen.items():
            row |= {f"{tool}_tolerance": tolerance, f"{tool}_error": errors_of[tool].get(tolerance, np.nan)}
        contestants, long = [], []
        if chosen["native"]:
            packed = numbers(problem.with_tolerances(chosen["native"], chosen["native"]))
            steps = native.simulated(packed, u[None]).lanes
            row |= {"lanes": packed.sizes.lanes, "steps": steps.steps.sum(), "rejected": steps.rejected.sum()}
            alone = bridges.host_log_likelihood(packed)
            contestants += [
                clock("native", lambda f=alone: f(u)),
                clock("native_batch", lambda p=packed: native.log_likelihoods(p, batch), units=BATCH),
                clock("native_batch_threads", lambda p=packed: native.simulated(p, batch), units=BATCH),
            ]
        if chosen.get("amici"):
            contestants.append(amici.contestant(theirs, chosen["amici"]))
        if chosen.get("jax"):
            some = batch[:JAX_BATCH]
            long = jax_contestants(jax_problem.with_tolerances(chosen["jax"], chosen["jax"]), u, some)
            contestants.append(
                clock("native_jax_batch", lambda p=packed, b=some: native.simulated(p, b), units=len(some))
            )
        seconds = fastest([*contestants, *long], rounds=1) if long else {}
        is_long = any(seconds.get(key, 0) > JAX_SECONDS for key in ("jax", "jax_batch"))
        again = fastest(contestants if is_long else [*contestants, *long], rounds=rounds)
        seconds = {key: min(value, seconds.get(key, value)) for key, value in (seconds | again).items()}
        row |= {f"{key}_ms": 1e3 * value for key, value in seconds.items()}
        if "native" in seconds:
            row["us_per_step"] = 1e6 * seconds["native"] / row["steps"]
            row |= {
                f"{key}_over_native": seconds[key] / seconds[own]
                for key, own in (
                    ("amici_solver", "native"),
                    ("amici_objective", "native"),
                    ("jax", "native"),
                    ("jax_batch", "native_jax_batch"),
                )
                if key in seconds
            }
        rows.append({**row, "states": len(likelihood(problem).model.states), **shared})
        tell(rows[-1])
    return rows


def jax_contestants(problem: kb.Problem, u: np.ndarray, batch: np.ndarray) -> list[Contestant]:
    """Return one vector alone, and a batch, on the JAX engine."""
    one, many, function = jax.numpy.asarray(u), jax.numpy.asarray(batch), problem.batched.log_likelihood
    return [
        clock("jax", lambda: problem.log_likelihood(one).block_until_ready()),
        clock("jax_batch", lambda: function(many).block_until_ready(), units=len(batch)),
    ]


def told(table: pd.DataFrame) -> None:
    """Print geometric means of the ratios over the problems that have them."""
    for comparison, rows in table.groupby("comparison", sort=False):
        for column in (c for c in table.columns if c.endswith("_over_native")):
            ratios = rows[column].dropna()
            if len(ratios):
                mean = np.exp(np.log(ratios).mean())
                print(
                    f"{comparison:8s} {column:28s} geometric mean {mean:8.2f}, {ratios.min():.2f} to "
                    f"{ratios.max():.2f}, {len(ratios)} problems"
                )


_MARKS = {
    "native": ("native, alone", "o", "C0"),
    "native_batch_threads": ("native, batch on all threads", ".", "C0"),
    "amici_solver": ("AMICI, solver", "s", "C1"),
    "amici_objective": ("AMICI, pyPESTO's objective", "x", "C1"),
    "jax": ("JAX engine, alone", "^", "C2"),
    "jax_batch": ("JAX engine, batch", "v", "C2"),
}


def figure(table: pd.DataFrame, path: Path) -> None:
    """Draw milliseconds a log likelihood, problem by problem."""
    panels, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, sharex=True, layout="constrained")
    for axis, (comparison, rows) in zip(axes, table.groupby("comparison", sort=False), strict=False):
        for key, (label, mark, colour) in _MARKS.items():
            if f"{key}_ms" in rows:
                axis.plot(rows[f"{key}_ms"], rows["problem"], mark, color=colour, label=label, fillstyle="none")
        axis.set_xscale("log")
        axis.set_xlabel("ms a log likelihood")
        axis.set_title("rtol = atol = 1e-8" if comparison == "same" else "each within 1e-3 of the reference")
        axis.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    panels.legend(*axes[0].get_legend_handles_labels(), fontsize=7, ncols=3, loc="outside lower center")
    draw(panels, path)


if __name__ == "__main__":
    main()
