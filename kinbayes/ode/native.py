"""The native engine: a model's functions as machine code, its lanes over the threads of the process."""

import ctypes
import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from kinbayes.model.expressions import Expr, SparseJacobian, substitute, symbol
from kinbayes.model.llvm import Function, MachineCode, machine_code
from kinbayes.model.model import Model
from kinbayes.ode import loops_code
from kinbayes.ode.equations import Equations, Moments, equations
from kinbayes.ode.numbers import NUM_CODE, NUM_LANE_COLUMNS, Code, EventInts, EventSizes, Numbers
from kinbayes.ode.sensitivity_equations import Observer, SensitivityEquations, sensitivity_equations
from kinbayes.ode.sparse_lu import SparseLU, elimination, indexed_lu, method, residual, sparse_lu
from kinbayes.ode.status import Status

# Called through ctypes, which lets other Python threads run meanwhile.
_POINTER = ctypes.c_void_p
_KERNEL = loops_code.address("kernel", "evaluate")
_EVALUATE = ctypes.CFUNCTYPE(None, *[_POINTER] * 4, ctypes.c_int64, *[_POINTER] * 7)(_KERNEL)

_ROOM = 64  # for events that wait, beside four for each
# Points of a step at which modes are looked at. A function of time alone does not keep steps short: it may turn back
# and forth within one.
_SAMPLES, _SAMPLES_OF_WAVES = 4, 64

# Addresses stand in compiled JAX programs, whose life nobody can follow; so machine code (some 50 KB a model) is kept.
_KEPT: list[MachineCode] = []


class Compiled(NamedTuple):
    """A model with its observers as machine code.

    Attributes
    ----------
    addresses
        Of the functions, as the kernel wants them; good for the life of the process.
    entries
        Rows and columns of the Jacobian's entries.
    pattern
        What the linear solver wants of them.
    num_states
        Time included where it is one.
    has_time, is_solved
        Whether time is a state, and whether stages come solved.
    num_constants, num_switches, num_factors
        Lengths of arrays.
    event_sizes
        Of what happens at moments; None where nothing does.
    equations, lu
        From which derivatives are made.
    """

    addresses: Int[np.ndarray, " functions"]
    entries: tuple[Int[np.ndarray, " entries"], Int[np.ndarray, " entries"]]
    pattern: Int[np.ndarray, " numbers"]
    num_states: int
    has_time: bool
    is_solved: bool
    num_constants: int
    num_switches: int
    num_factors: int
    event_sizes: EventSizes | None
    equations: Equations
    lu: SparseLU | None


def compiled(
    model: Model,
    start: Mapping[str, Expr],
    inputs: Sequence[str],
    observers: Sequence[Observer],
    *,
    is_optimized: bool = True,
) -> Compiled:
    """Compile a model.

    Parameters
    ----------
    model
        The model.
    start
        The start of every state and the value of every parameter, in the names of `inputs`.
    inputs
        What a lane is given.
    observers
        What is computed at the times of the data.
    is_optimized
        Whether the code is to be fast, or else soon there.
    """
    found = equations(model, start)
    states, constants, pattern = found.states, tuple(found.constants), found.pattern
    check = residual(len(states), pattern.rows, pattern.columns)
    names = (states, constants)
    solver = _linear_solver(pattern, len(states))
    functions = [
        Function("start", [inputs], [found.start, tuple(found.constants.values())]),
        Function("switch", [["time"], constants], [tuple(found.switches.values())]),
        Function("linearize", names, [found.rhs, found.entries]),
        Function(
            "check",
            [check.inputs[:1], check.inputs[1:], check.rhs_names, check.solution_names, check.weight_names],
            [[check.num_wrong]],
        ),
        _stage(found.rhs, states, constants, solver),
        *solver.functions,
        *(Function(f"observe{k}", [*names, o.arguments], [o.outputs]) for k, o in enumerate(observers)),
        *_event_functions(found.moments, names),
    ]
    code = machine_code(functions, is_optimized=is_optimized)
    _KEPT.append(code)
    addresses = {"evaluate": _KERNEL, **solver.addresses, **code.addresses}
    if not found.moments.is_empty:
        addresses["events"] = loops_code.address("events", "events")
    order = (*Code._fields, *(f"observe{k}" for k in range(len(observers))))
    return Compiled(
        np.array([addresses.get(name, 0) for name in order], dtype=np.int64),
        (np.array(pattern.rows, dtype=np.int64), np.array(pattern.columns, dtype=np.int64)),
        solver.pattern,
        len(states),
        found.has_time,
        bool(solver.functions),
        len(constants),
        len(found.switches),
        solver.num_factors,
        None if found.moments.is_empty else _event_sizes(found),
        found,
        solver.lu,
    )


def _event_functions(moments: Moments, names: tuple[Sequence[str], Sequence[str]]) -> list[Function]:
    if moments.is_empty:
        return []
    return [
        Function("watch", names, [[*(mode.value for mode in moments.modes.values()), *moments.pulses.values()]]),
        Function("fires", names, [[*moments.triggers, *moments.delays, *moments.priorities]]),
        Function("assign", names, [moments.values]),
    ]


def _event_sizes(found: Equations) -> EventSizes:
    moments = found.moments
    return EventSizes(
        modes=len(moments.modes),
        pulses=len(moments.pulses),
        events=len(moments.triggers),
        changes=sum(event.comes_first for event in found.events),
        assignments=len(moments.values),
        most=max((b - a for a, b in itertools.pairwise(moments.first)), default=0) or 1,
        capacity=_ROOM + 4 * len(moments.triggers),
        samples=_SAMPLES_OF_WAVES if moments.is_wavy else _SAMPLES,
        watched=len(_watched(found)),
    )


def _watched(found: Equations) -> list[int]:
    looked_at = [*(mode.value for mode in found.moments.modes.values()), *found.moments.pulses.values()]
    return [k for k, state in enumerate(found.states) if any(e.depends_on(state) for e in looked_at)]


def event_numbers(code: Compiled, sizes: EventSizes, event_parts: Int[np.ndarray, " parts"]) -> EventInts:
    """Return the numbers of events, without those that derivatives take."""
    moments, events = code.equations.moments, code.equations.events
    return EventInts(
        event_sizes=np.array(sizes),
        event_parts=event_parts,
        moves_rates=np.array(moments.moves_rates),
        watched=np.array(_watched(code.equations)),
        is_true_before=np.array([event.is_true_before for event in events]),
        is_persistent=np.array([event.is_persistent for event in events]),
        keeps_values=np.array([event.keeps_values for event in events]),
        assignment_start=np.array(moments.first),
        assignment_state=np.array(moments.targets),
    )


class Differentiated(NamedTuple):
    """The derivatives of a compiled model as machine code.

    Attributes
    ----------
    addresses
        As in `Compiled`, with those that derivatives take.
    equations
        Where the outputs of the functions belong.
    """

    addresses: Int[np.ndarray, " functions"]
    equations: SensitivityEquations


def differentiated(
    code: Compiled,
    start: Mapping[str, Expr],
    inputs: Sequence[str],
    observers: Sequence[Observer],
    wanted: Sequence[int],
) -> Differentiated:
    """Compile the derivatives of a compiled model with respect to some of its inputs, by number."""
    found = sensitivity_equations(code.equations, start, inputs, observers, wanted, code.lu)
    more = machine_code(found.functions)
    _KEPT.append(more)
    own = {**dict(zip(Code._fields, code.addresses.tolist(), strict=False)), **more.addresses}
    own["derivatives"] = loops_code.address("sensitivities", "derivatives")
    if code.event_sizes is not None or found.num_conditions > 0:
        own["event_derivatives"] = loops_code.address("event_sensitivities", "event_derivatives")
    addresses = [own[name] for name in Code._fields]
    behind = [more.addresses[f"partials{k}"] for k in range(len(observers))]
    return Differentiated(np.array([*addresses, *code.addresses[NUM_CODE:], *behind], dtype=np.int64), found)


class _Solver(NamedTuple):
    """How linear systems are solved: functions to compile, or addresses of loops and their pattern."""

    lu: SparseLU | None
    functions: tuple[Function, ...]
    addresses: dict[str, int]
    pattern: Int[np.ndarray, " numbers"]
    num_factors: int


def _linear_solver(jacobian: SparseJacobian, size: int) -> _Solver:
    rows, columns = np.array(jacobian.rows, dtype=np.int64), np.array(jacobian.columns, dtype=np.int64)
    kind = method(size, elimination(size, jacobian.rows, jacobian.columns).num_updates)
    if kind == "straight":
        lu = sparse_lu(size, jacobian.rows, jacobian.columns)
        factor = Function("factor", [lu.inputs[:1], lu.inputs[1:]], [lu.factors])
        solve = Function("solve", [lu.rhs_names, lu.factor_names], [lu.solution])
        return _Solver(lu, (factor, solve), {}, np.zeros(0, dtype=np.int64), len(lu.factors))
    from kinbayes.ode import lu_loops  # compiled only where a model needs them

    if kind == "dense":
        pattern, num_factors = lu_loops.dense_pattern(size, rows, columns), size * size + size
    else:
        plan = indexed_lu(size, jacobian.rows, jacobian.columns)
        pattern, num_factors = lu_loops.indexed_pattern(plan), plan.columns.size + size
    names = ("factor", "solve", "solve_block")
    loops = {name: getattr(lu_loops, f"{kind}_{name}").address for name in names}
    return _Solver(None, (), loops, pattern, num_factors)


def _stage_inputs(states: Sequence[str]) -> list[list[str]]:
    return [[f"{kind} {k}" for k in range(len(states))] for kind in ("base", "rhs", "newest")] + [
        ["a newest", "c newest / h"]
    ]


def _stage(rhs: Sequence[Expr], states: Sequence[str], constants: Sequence[str], solver: _Solver) -> Function:
    """Return the function of one stage: f(base + a newest) + rhs + (c / h) newest, or the solution for it."""
    inputs = _stage_inputs(states)
    base, partial, newest, coefficients = (list(map(symbol, names)) for names in inputs)
    at = {name: b + coefficients[0] * k for name, b, k in zip(states, base, newest, strict=True)}
    terms = zip(substitute(rhs, at), partial, newest, strict=True)
    added = [f + (r + coefficients[1] * k) for f, r, k in terms]
    if solver.lu is None:
        return Function("stage", [*inputs, constants, []], [added])
    solved = substitute(solver.lu.solution, dict(zip(solver.lu.rhs_names, added, strict=True)))
    return Function("stage", [*inputs, constants, solver.lu.factor_names], [solved])


class Lanes(NamedTuple):
    """What became of every lane: its log likelihood, status, the time it reached, and its steps.

    Where it failed, also the state that moves most for its size, and its derivative there, else -1 and 0; and the phase
    in which it ended.
    """

    log_likelihood: Float[np.ndarray, "n lanes"]
    status: Int[np.ndarray, "n lanes"]
    time: Float[np.ndarray, "n lanes"]
    steps: Int[np.ndarray, "n lanes"]
    rejected: Int[np.ndarray, "n lanes"]
    moving: Int[np.ndarray, "n lanes"]
    rate: Float[np.ndarray, "n lanes"]
    phase: Int[np.ndarray, "n lanes"]


def total(lanes: Lanes) -> Float[np.ndarray, " n"]:
    """Return the sum over the lanes of every vector, in the kernel's order: so threads change no bit."""
    return functools.reduce(np.add, np.moveaxis(lanes.log_likelihood, -1, 0))


def totals(lanes: Lanes) -> Float[np.ndarray, " n"]:
    """Return the log likelihood of every vector; -inf where a lane fails or has none."""
    is_good = np.all((lanes.status == Status.OK) & (lanes.log_likelihood < np.inf), axis=-1)
    return np.where(is_good, total(lanes), -np.inf)


class Simulated(NamedTuple):
    """Lanes, and where asked for, their rows and states, and derivatives of the lanes and of the rows."""

    lanes: Lanes
    rows: Float[np.ndarray, "n rows columns"] | None
    states: Float[np.ndarray, "n times states"] | None
    gradients: Float[np.ndarray, "n lanes dim"] | None
    slopes: Float[np.ndarray, "n rows columns dim"] | None


def log_likelihoods(numbers: Numbers, U: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, " n"]:
    """Return the log likelihood of every vector, in this thread; -inf where a lane fails."""
    vectors = np.ascontiguousarray(U, dtype=np.float64)
    totals = np.empty(len(vectors))
    _evaluate(numbers, vectors, len(vectors), None, totals, None, None, None, None, None)
    return totals


def log_likelihoods_and_gradients(
    numbers: Numbers, U: Float[np.ndarray, "n dim"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n dim"]]:
    """Return the log likelihood of every vector and its gradient, in this thread; -inf and 0 where a lane fails."""
    _check_gradient(numbers)
    vectors = np.ascontiguousarray(U, dtype=np.float64)
    totals, gradients = np.empty(len(vectors)), np.empty(vectors.shape)
    _evaluate(numbers, vectors, len(vectors), None, totals, None, None, None, gradients, None)
    return totals, gradients


def _check_gradient(numbers: Numbers) -> None:
    if not numbers.sizes.has_gradient:
        raise ValueError("these numbers have no derivatives; take those that were made with them")


def simulated(
    numbers: Numbers,
    U: Float[np.ndarray, "n dim"],
    *,
    with_rows: bool = False,
    with_states: bool = False,
    with_gradients: bool = False,
    with_slopes: bool = False,
    num_threads: int | None = None,
) -> Simulated:
    """Simulate every lane of every vector, over all threads.

    A lane's result depends on nothing but its own numbers.
    """
    vectors = np.ascontiguousarray(U, dtype=np.float64)
    n, sizes = len(vectors), numbers.sizes
    lanes = np.zeros((n, sizes.lanes, NUM_LANE_COLUMNS))
    rows = np.full((n, sizes.rows, sizes.columns), np.nan) if with_rows else None
    states = np.full((n, sizes.times, sizes.states - sizes.has_time), np.nan) if with_states else None
    if with_gradients or with_slopes:
        _check_gradient(numbers)
    gradients = np.zeros((n, sizes.lanes, sizes.parameters)) if with_gradients else None
    slopes = np.zeros((n, sizes.rows, sizes.columns, sizes.parameters)) if with_slopes else None
    counter = np.zeros(1, dtype=np.int64)
    num_threads = min(num_threads or _num_cores(), n * sizes.lanes)
    run = (numbers, vectors, n, counter, None, lanes, rows, states, gradients, slopes)
    if num_threads <= 1:
        _evaluate(*run)
    else:
        others = [_pool().submit(_evaluate, *run) for _ in range(num_threads - 1)]
        _evaluate(*run)
        for other in others:
            other.result()
    value, status, time, steps, rejected, moving, rate, phase = np.moveaxis(lanes, -1, 0)
    status, steps, rejected, moving, phase = (p.astype(int) for p in (status, steps, rejected, moving, phase))
    found = Lanes(value, status, time, steps, rejected, moving, rate, phase)
    return Simulated(found, rows, states, gradients, slopes)


def _evaluate(
    numbers: Numbers,
    vectors: np.ndarray,
    num_vectors: int,
    counter: np.ndarray | None,
    *outputs: np.ndarray | None,
) -> None:
    parts = [np.asarray(part) for part in numbers]
    code, ints, floats = (part.ctypes.data for part in parts)
    others = (None if array is None else array.ctypes.data for array in (counter, *outputs))
    _EVALUATE(code, ints, floats, vectors.ctypes.data, num_vectors, *others)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """Return the threads that help, kept because starting them takes longer than many a batch."""
    return ThreadPoolExecutor(max(_num_cores() - 1, 1), thread_name_prefix="kinbayes")


if hasattr(os, "register_at_fork"):  # threads do not come along into a forked process
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
