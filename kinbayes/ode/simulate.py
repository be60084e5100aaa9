"""One simulation of a model, as a labelled dataset."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from kinbayes.model.expressions import Expr, evaluate
from kinbayes.model.model import Model
from kinbayes.ode import native
from kinbayes.ode.memory import laid_out
from kinbayes.ode.numbers import METHOD, NO_DERIVATIVES, NO_EVENTS, Floats, Ints, Numbers, Sizes, pack
from kinbayes.ode.status import Status
from kinbayes.ode.tolerances import check_tolerances


class SimulationError(RuntimeError):
    """A simulation that did not reach its last time."""


def simulate(
    model: Model,
    times: Sequence[float] | Float[np.ndarray, " times"],
    parameters: Mapping[str, float] | None = None,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    max_steps: int = 10_000,
) -> xr.Dataset:
    """Simulate a model from time 0.

    Parameters
    ----------
    model
        The model.
    times
        Output times, ascending, none before 0, in the model's unit of time. At the time of an event, what it has
        changed is seen, unless its trigger is a strict comparison with time.
    parameters
        Values that replace the model's own: of parameters, or of states at time 0. What is defined through them
        follows.
    rtol, atol
        Relative and absolute tolerance; the absolute one is lowered for states that have always been smaller than 1.
    max_steps
        Steps after which the simulation is given up.

    Returns
    -------
    xarray.Dataset
        One variable (time,) a state and expression of the model, with attr `unit` where known.

    Raises
    ------
    ValueError
        If times are not ascending from 0 on, or a tolerance, or a parameter that the states depend on, is no finite
        number.
    ModelError
        If a name in `parameters` cannot be given.
    SimulationError
        If the solver fails; the message says why and what to try.
    """
    check_tolerances(rtol, atol)
    times = np.asarray(times, dtype=float)
    if (
        times.ndim != 1
        or times.size == 0
        or not np.all(np.isfinite(times))
        or np.any(np.diff(times) < 0)
        or times[0] < 0
    ):
        raise ValueError(f"times must be finite, ascending and not before 0; they are {times}")
    plain = {n: float(e.value) for n, e in model.initial.items() if e.op == "const"}
    given = {**plain, **{name: float(value) for name, value in (parameters or {}).items()}}
    lost = {name for name, value in given.items() if not np.isfinite(value)}
    missing = sorted(lost & (_needed(model, tuple(given)) | {*(parameters or {})})) if lost else []
    if missing:
        raise ValueError(f"{missing} have no finite value; give them in parameters=")
    code = _compiled(model, tuple(given))
    numbers = _numbers(code, list(given.values()), times, (rtol, atol), max_steps)
    found = native.simulated(numbers, np.zeros((1, 0)), with_states=True)
    status, reached = Status(int(found.lanes.status[0, 0])), found.lanes.time[0, 0]
    if status != Status.OK:
        raise SimulationError(f"the simulation of {model.name!r} failed at time {reached:g}: {status.advice}")
    constants = evaluate(_constants(model, tuple(given)), {**given, "time": 0.0})
    values = {
        "time": times,
        **dict(zip(model.parameters, constants, strict=True)),
        **dict(zip(model.states, found.states[0].T, strict=True)),
    }
    expressions = evaluate(list(model.expressions.values()), values)
    columns = {name: values[name] for name in model.states} | dict(zip(model.expressions, expressions, strict=True))
    variables = {
        name: (
            "time",
            column if np.ndim(column) else np.full(times.shape, column),
            {"unit": model.units[name]} if name in model.units else {},
        )
        for name, column in columns.items()
    }
    return xr.Dataset(variables, coords={"time": times}, attrs={"model": model.name, "rtol": rtol, "atol": atol})


def _needed(model: Model, given: tuple[str, ...]) -> set[str]:
    """Return what the states depend on."""
    formulas = [*model.derivatives.values(), *(formula for event in model.events for formula in event.formulas)]
    used = {*model.states, *(name for formula in formulas for name in formula.symbols)}
    start = model.initial_values(given)
    return {name for known in used & start.keys() for name in start[known].symbols}


@functools.lru_cache(maxsize=64)
def _compiled(model: Model, given: tuple[str, ...]) -> native.Compiled:
    # Of a model that is simulated once, compilation takes far longer than the simulation.
    return native.compiled(model, model.initial_values(given), given, [], is_optimized=False)


@functools.lru_cache(maxsize=64)
def _constants(model: Model, given: tuple[str, ...]) -> list[Expr]:
    start = model.initial_values(given)
    return [start[name] for name in model.parameters]


def _numbers(
    code: native.Compiled, given: list[float], times: np.ndarray, tolerances: tuple, max_steps: int
) -> Numbers:
    """Return the numbers of one lane without measurements."""
    num_states = code.num_states - code.has_time
    sizes = Sizes(
        parameters=0,
        inputs=len(given),
        sometimes=0,
        states=code.num_states,
        has_time=int(code.has_time),
        is_solved=int(code.is_solved),
        constants=code.num_constants,
        switches=code.num_switches,
        observables=0,
        entries=len(code.entries[0]),
        factors=code.num_factors,
        lanes=1,
        times=len(times),
        rows=0,
        arguments=0,
        columns=0,
        max_steps=max_steps,
        memory=0,
    )
    layout = laid_out(sizes, None, code.event_sizes)
    events = NO_EVENTS
    if code.event_sizes is not None:
        events = native.event_numbers(code, code.event_sizes, layout.event_parts)
    none = np.zeros(0)
    by_parameter = np.full(len(given), -1)
    ints = Ints(
        sizes=np.array(layout.sizes),
        entry_rows=code.entries[0],
        entry_columns=code.entries[1],
        pattern=code.pattern,
        input_index=by_parameter,
        is_equilibrated=np.zeros(1),
        equilibration_index=by_parameter,
        is_reset=np.ones(num_states),
        lane_times=np.array([0, len(times)]),
        time_rows=np.zeros(len(times) + 1),
        row_function=none,
        row_place=none,
        row_arguments=np.zeros(1),
        argument_index=none,
        parts=layout.parts,
    )
    values = np.array(given)
    floats = Floats(METHOD, np.array(tolerances), none, values, none, values, none, times, none)
    return Numbers(code.addresses, *pack(ints, floats, NO_DERIVATIVES, events))
