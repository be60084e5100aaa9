"""Answer for AMICI in side-by-side timings: compile a PEtab problem, tell what a log likelihood or its gradient costs.

Runs with the interpreter of an environment that has AMICI and pyPESTO, one JSON object a line in and out::

    python amici_server.py --models FOLDER
    {"do": "load", "problem": "boehm.yaml"}
    {"do": "time", "rtol": 1e-8, "atol": 1e-8, "u": [-1.57, ...], "calls": 100}
    {"do": "time_gradient", "method": "adjoint", "rtol": 1e-8, "atol": 1e-8, "u": [-1.57, ...], "calls": 100}

Everything else that AMICI prints goes to stderr. FOLDER keeps what is compiled for the next run.
"""
# ruff: noqa: E402 - threads, search path and stdout have to be settled before AMICI is imported

import argparse
import hashlib
import json
import math
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
os.dup2(2, 1)
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ.setdefault("AMICI_PARALLEL_COMPILE", "2")
# As in an activated environment: a model's extension loads only if made with the SWIG that AMICI was made with
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

import amici
import numpy as np
import petab.v1 as petab
from amici._installation import amici as compiled
from amici.sim.sundials.petab.v1 import fill_in_parameters
from pypesto.objective import AmiciObjective
from pypesto.petab import PetabImporter

REPETITIONS = 5


class Loaded(NamedTuple):
    """A compiled problem, and its experiments a second time: the objective refills its own at every call."""

    problem: petab.Problem
    objective: AmiciObjective
    experiments: list[compiled.ExpData]


def load(path: Path, models: Path) -> tuple[Loaded, dict]:
    """Compile or find the model of a PEtab problem, and make its likelihood (priors are left out).

    Everything is what AMICI and pyPESTO choose by themselves, the steady states before an experiment included:
    integration until the weighted right-hand side is below 100 times the solver's tolerances, no Newton steps,
    each call from the initial state (pyPESTO switches its steady-state guess off in this mode).

    Parameters
    ----------
    path
        The problem's YAML file.
    models
        Folder of compiled models.

    Returns
    -------
    The problem, and the answer: ids, scales and scaled nominal values of the estimated parameters, wall and CPU
    seconds from SBML to the imported extension (as measured when it was compiled), and whether it was there.
    """
    sources = sorted(file for file in path.parent.iterdir() if file.suffix in {".tsv", ".xml", ".yaml"})
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()
    name = f"{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}_{digest[:8]}"
    folder = models.absolute() / amici.__version__ / name
    record = folder / "seconds.json"

    problem = petab.Problem.from_yaml(path)
    # AMICI asks for this where an observable has other scales or noises at other times, and has this very test
    if petab.lint.measurement_table_has_timepoint_specific_mappings(
        problem.measurement_df,
        allow_scalar_numeric_noise_parameters=not petab.lint.observable_table_has_nontrivial_noise_formula(
            problem.observable_df
        ),
    ):
        petab.flatten_timepoint_specific_output_overrides(problem)
    creator = PetabImporter(problem, output_folder=str(folder), model_name=name).create_objective_creator()
    is_cached = record.is_file()
    started, cpu_started = time.perf_counter(), cpu_seconds()
    model = creator.create_model(force_compile=not is_cached, verbose=False)
    if not is_cached:
        spent = {"seconds_compile": time.perf_counter() - started, "cpu_seconds_compile": cpu_seconds() - cpu_started}
        record.write_text(json.dumps(spent))

    objective = creator.create_objective(model=model, n_threads=1)
    objective.update_from_problem(
        dim_full=len(problem.x_ids),
        x_free_indices=problem.x_free_indices,
        x_fixed_indices=problem.x_fixed_indices,
        x_fixed_vals=problem.x_nominal_fixed_scaled,
    )
    answer = {
        "ids": problem.x_free_ids,
        "scale": problem.parameter_df.loc[problem.x_free_ids, petab.PARAMETER_SCALE].tolist(),
        "nominal": [float(value) for value in problem.x_nominal_free_scaled],
        **json.loads(record.read_text()),
        "was_cached": is_cached,
    }
    return Loaded(problem, objective, creator.create_edatas(model)), answer


def timings(loaded: Loaded, *, rtol: float, atol: float, u: list[float], calls: int, method: str | None = None) -> dict:
    """Measure one log likelihood at a point: AMICI's compiled part alone, and a call of pyPESTO's objective.

    Parameters
    ----------
    loaded
        The compiled problem.
    rtol, atol
        Tolerances of CVODES. Those of steady states follow from them, and so do those of sensitivities and of the
        adjoint state; the adjoint's quadratures keep AMICI's own.
    u
        Estimated parameters on their PEtab scales, shape ``(parameters,)``.
    calls
        Calls whose mean is one measurement; the smallest of five counts. With 0 nothing is measured.
    method
        "forward" or "adjoint", to measure the log likelihood with its gradient; without a gradient by default.

    Returns
    -------
    ``log_likelihood``; with a method, ``gradient``, that of the log likelihood with respect to u; and wall seconds a
    call, where they are measured: ``seconds_solver`` and ``seconds_objective``.

    Raises
    ------
    RuntimeError
        If a condition cannot be simulated.
    """
    problem, objective, experiments = loaded
    if len(u) != len(problem.x_free_ids):
        raise ValueError(f"u has {len(u)} values; the problem has {len(problem.x_free_ids)} estimated parameters")
    if calls < 0:
        raise ValueError(f"calls is {calls}; at least 0 are needed")
    if method not in (None, "forward", "adjoint"):
        raise ValueError(f"method is {method!r}; choose forward or adjoint")
    point = np.asarray(u, dtype=float)
    solver, orders = objective.amici_solver, (0, 1) if method else (0,)
    solver.set_relative_tolerance(rtol)
    solver.set_absolute_tolerance(atol)
    if method:
        solver.set_sensitivity_method(getattr(compiled.SensitivityMethod, method))
    # The objective asks for the same two at each of its calls
    solver.set_sensitivity_order(compiled.SensitivityOrder(max(orders)))
    solver.set_return_data_reporting_mode(compiled.RDataReporting.likelihood)
    fill_in_parameters(
        edatas=experiments,
        problem_parameters=dict(zip(problem.x_free_ids, point, strict=True)),
        scaled_parameters=True,
        parameter_mapping=objective.parameter_mapping,
        amici_model=objective.amici_model,
    )
    # amici.sim.sundials.run_simulations would add Python of its own: pointers, logs and views of the results
    pointers = compiled.ExpDataPtrVector(experiments)

    def simulate() -> list[compiled.ReturnData]:
        return compiled.run_simulations(solver, pointers, objective.amici_model, True, 1)

    results = simulate()
    for result in results:
        if result.status != compiled.AMICI_SUCCESS:
            status = amici.sim.sundials.simulation_status_to_str(result.status)
            raise RuntimeError(f"AMICI gave up at condition {result.id!r}, rtol {rtol}, atol {atol}: {status}")
    log_likelihood = sum(result.llh for result in results)
    found = objective(point, sensi_orders=orders)
    of_objective = -(found[0] if method else found)
    if not math.isclose(log_likelihood, of_objective, rel_tol=1e-9):
        raise RuntimeError(f"log likelihood {log_likelihood} of AMICI is not pyPESTO's {of_objective}")
    answer = {"log_likelihood": log_likelihood} | ({"gradient": (-found[1]).tolist()} if method else {})
    if not calls:
        return answer
    return answer | {
        "seconds_solver": seconds_a_call(simulate, calls),
        "seconds_objective": seconds_a_call(lambda: objective(point, sensi_orders=orders), calls),
    }


def seconds_a_call(call: Callable[[], object], calls: int) -> float:
    """Return the smallest of several mean wall times of a call, which is made once before."""
    call()
    means = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        for _ in range(calls):
            call()
        means.append((time.perf_counter() - started) / calls)
    return min(means)


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the compilers it has run."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def serve(requests: IO[str], models: Path) -> None:
    """Answer requests, a line each, until there are no more."""
    loaded = None
    for line in requests:
        try:
            match json.loads(line):
                case {"do": "load", "problem": path}:
                    loaded, answer = load(Path(path), models)
                case {"do": "time", "rtol": rtol, "atol": atol, "u": u, "calls": calls}:
                    if loaded is None:
                        raise ValueError("no problem is loaded: ask for one with do = load first")
                    answer = timings(loaded, rtol=rtol, atol=atol, u=u, calls=calls)
                case {"do": "time_gradient", "method": method, "rtol": rtol, "atol": atol, "u": u, "calls": calls}:
                    if loaded is None:
                        raise ValueError("no problem is loaded: ask for one with do = load first")
                    answer = timings(loaded, rtol=rtol, atol=atol, u=u, calls=calls, method=method)
                case request:
                    raise ValueError(
                        f"cannot do {request!r}; choose load (problem), time (rtol, atol, u, calls) or time_gradient "
                        "(method and the same)"
                    )
            reply = json.dumps({"ok": True, **answer}, allow_nan=False)
        except Exception as error:  # whatever AMICI raises is an answer here, and the next request gets its own
            traceback.print_exc()
            reply = json.dumps({"ok": False, "error": f"{type(error).__name__}: {error}"})
        print(reply, file=answers, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder that keeps compiled models")
    serve(sys.stdin, parser.parse_args().models)
