"""The native engine: a model's functions as machine code, its lanes over the threads of the process."""

import ctypes
import functools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from kinbayes.model.expressions import (
    ONE,
    ZERO,
    Expr,
    jacobian,
    lift_constants,
    substitute,
    symbol,
    time_switches,
)
from kinbayes.model.llvm import Function, MachineCode, machine_code
from kinbayes.model.model import Model
from kinbayes.ode import kernel
from kinbayes.ode.sparse_lu import SparseLU, sparse_lu
from kinbayes.ode.status import Status

# Called through ctypes, which lets other Python threads run meanwhile.
_POINTER = ctypes.c_void_p
_EVALUATE = ctypes.CFUNCTYPE(None, *[_POINTER] * 4, ctypes.c_int64, *[_POINTER] * 5)(kernel.evaluate.address)


class Observer(NamedTuple):
    """What is computed at a time of the data.

    Attributes
    ----------
    outputs
        The log density of a measurement, its prediction, and what else goes into the table of rows; in the model's
        names and those of `arguments`.
    arguments
        The names that every row fills in.
    """

    outputs: tuple[Expr, ...]
    arguments: tuple[str, ...]


class Compiled(NamedTuple):
    """A model with its observers as machine code.

    Attributes
    ----------
    addresses
        Of the functions, as the kernel wants them.
    code
        What keeps the addresses good.
    entries
        Rows and columns of the Jacobian's entries.
    num_states
        Time included where it is one.
    has_time, num_constants, num_switches, num_factors
        Whether time is a state, and lengths of arrays.
    """

    addresses: Int[np.ndarray, " functions"]
    code: MachineCode
    entries: tuple[Int[np.ndarray, " entries"], Int[np.ndarray, " entries"]]
    num_states: int
    has_time: bool
    num_constants: int
    num_switches: int
    num_factors: int


def compiled(model: Model, start: Mapping[str, Expr], inputs: Sequence[str], observers: Sequence[Observer]) -> Compiled:
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
    """
    rhs, switches = time_switches(list(model.derivatives.values()), model.states, "switch ")
    has_time = any(e.depends_on("time") for e in rhs)
    states = (*model.states, "time") if has_time else model.states
    rhs = [*rhs, ONE] if has_time else rhs
    varying = {*states, *switches}
    rhs, parts = lift_constants(rhs, varying, "constant ")
    pattern = jacobian(rhs, states)
    entries, more = lift_constants(pattern.entries, varying, "coefficient ")
    more = dict(zip(more, substitute(list(more.values()), parts), strict=True))
    constants = {
        **{name: symbol(name) for name in model.parameters},
        **parts,
        **more,
        **{f"time of {name}": switch.time for name, switch in switches.items()},
        **dict.fromkeys(switches, ZERO),
    }
    at_start = substitute([*(symbol(s) for s in model.states), *constants.values()], {**start})
    at_start = substitute(at_start, {"time": ZERO})
    at_start[len(model.states) : len(model.states)] = [ZERO] * has_time
    lu = sparse_lu(len(states), pattern.rows, pattern.columns)
    stage = _stage(rhs, states, lu)
    names = (states, tuple(constants))
    functions = [
        Function("start", [inputs], [at_start[: len(states)], at_start[len(states) :]]),
        Function("switch", [["time"], tuple(constants)], [[switch.condition for switch in switches.values()]]),
        Function("linearize", names, [rhs, entries]),
        Function("factor", [lu.inputs[:1], lu.inputs[1:]], [lu.factors]),
        Function("solve", [lu.rhs_names, lu.factor_names], [lu.solution]),
        Function("stage", [*_stage_inputs(states), tuple(constants), lu.factor_names], [stage]),
        *(Function(f"observe{k}", [*names, o.arguments], [o.outputs]) for k, o in enumerate(observers)),
    ]
    code = machine_code(functions)
    return Compiled(
        np.array([kernel.evaluate.address, *(code.addresses[f.name] for f in functions)], dtype=np.int64),
        code,
        (np.array(pattern.rows, dtype=np.int64), np.array(pattern.columns, dtype=np.int64)),
        len(states),
        has_time,
        len(constants),
        len(switches),
        len(lu.factors),
    )


def _stage_inputs(states: Sequence[str]) -> list[list[str]]:
    return [[f"{kind} {k}" for k in range(len(states))] for kind in ("base", "rhs", "newest")] + [
        ["a newest", "c newest / h"]
    ]


def _stage(rhs: Sequence[Expr], states: Sequence[str], lu: SparseLU) -> list[Expr]:
    """Return one stage: W k = f(base + a newest) + rhs + (c / h) newest."""
    base, partial, newest, coefficients = (list(map(symbol, names)) for names in _stage_inputs(states))
    at = {name: b + coefficients[0] * k for name, b, k in zip(states, base, newest, strict=True)}
    terms = zip(substitute(rhs, at), partial, newest, strict=True)
    added = [f + (r + coefficients[1] * k) for f, r, k in terms]
    return substitute(lu.solution, dict(zip(lu.rhs_names, added, strict=True)))


class Lanes(NamedTuple):
    """What became of every lane: its log likelihood, status, the time it reached, and its steps."""

    log_likelihood: Float[np.ndarray, "n lanes"]
    status: Int[np.ndarray, "n lanes"]
    time: Float[np.ndarray, "n lanes"]
    steps: Int[np.ndarray, "n lanes"]
    rejected: Int[np.ndarray, "n lanes"]


def totals(lanes: Lanes) -> Float[np.ndarray, " n"]:
    """Return the log likelihood of every vector; -inf where a lane fails or has none."""
    is_good = np.all((lanes.status == Status.OK) & (lanes.log_likelihood < np.inf), axis=-1)
    # Lane by lane, in the order of the kernel: so the sum is the same to the last bit.
    total = functools.reduce(np.add, np.moveaxis(lanes.log_likelihood, -1, 0))
    return np.where(is_good, total, -np.inf)


class Simulated(NamedTuple):
    """Lanes, and where asked for, their rows and states."""

    lanes: Lanes
    rows: Float[np.ndarray, "n rows columns"] | None
    states: Float[np.ndarray, "n times states"] | None


class Numbers(NamedTuple):
    """A model's addresses and a problem's numbers, as the kernel wants them."""

    code: Int[np.ndarray, " functions"]
    ints: Int[np.ndarray, " ints"]
    floats: Float[np.ndarray, " floats"]

    @property
    def sizes(self) -> kernel.Sizes:
        """The sizes among the numbers."""
        return kernel.Sizes(*map(int, kernel.section(np.asarray(self.ints), "sizes")))


def log_likelihoods(numbers: Numbers, U: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, " n"]:
    """Return the log likelihood of every vector, in this thread; -inf where a lane fails."""
    vectors = np.ascontiguousarray(U, dtype=np.float64)
    totals = np.empty(len(vectors))
    _evaluate(numbers, vectors, len(vectors), None, totals, None, None, None)
    return totals


def simulated(
    numbers: Numbers,
    U: Float[np.ndarray, "n dim"],
    *,
    with_rows: bool = False,
    with_states: bool = False,
    num_threads: int | None = None,
) -> Simulated:
    """Simulate every lane of every vector, over all threads.

    A lane's result depends on nothing but its own numbers.
    """
    vectors = np.ascontiguousarray(U, dtype=np.float64)
    n, sizes = len(vectors), numbers.sizes
    lanes = np.zeros((n, sizes.lanes, kernel.NUM_LANE_COLUMNS))
    rows = np.full((n, sizes.rows, sizes.columns), np.nan) if with_rows else None
    states = np.full((n, sizes.times, sizes.states - sizes.has_time), np.nan) if with_states else None
    counter = np.zeros(1, dtype=np.int64)
    num_threads = min(num_threads or _num_cores(), n * sizes.lanes)
    run = (numbers, vectors, n, counter, None, lanes, rows, states)
    if num_threads <= 1:
        _evaluate(*run)
    else:
        with ThreadPoolExecutor(num_threads - 1) as pool:
            others = [pool.submit(_evaluate, *run) for _ in range(num_threads - 1)]
            _evaluate(*run)
            for other in others:
                other.result()
    value, status, time, steps, rejected = np.moveaxis(lanes, -1, 0)
    return Simulated(Lanes(value, status.astype(int), time, steps.astype(int), rejected.astype(int)), rows, states)


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


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
