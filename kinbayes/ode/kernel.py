"""The native integrator: Rodas5P in one loop that calls a model's machine code by address.

It is compiled once per machine, since nothing of a model is a constant in it: sizes are data, functions are addresses.
The compiler's cache looks at this file alone: callees stand here, and a change of tableau.py or status.py is noticed
only together with one of this file.

References
----------
Steinebach, G. (2023). Construction of Rosenbrock-Wanner method Rodas5P and numerical benchmarks within the Julia
Differential Equations package. BIT Numerical Mathematics 63, 27. doi:10.1007/s10543-023-00967-x
Hairer, E., Wanner, G. (1996). Solving Ordinary Differential Equations II. Springer. doi:10.1007/978-3-642-05221-7
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kinbayes.ode import tableau
from kinbayes.ode.status import Status

# ---- what the kernel is given, in two arrays: offsets of its sections first, then the sections


class Ints(NamedTuple):
    """Sections of whole numbers; pointers to them inside the kernel."""

    sizes: np.ndarray  # in the order of `Sizes`
    entry_rows: np.ndarray  # where the Jacobian has entries
    entry_columns: np.ndarray
    pattern: np.ndarray  # for the linear solver
    input_index: np.ndarray  # (lanes, inputs): an entry of the parameter vector, or -1
    is_equilibrated: np.ndarray  # (lanes,)
    equilibration_index: np.ndarray  # (lanes, inputs)
    is_reset: np.ndarray  # (lanes, states): set anew after the equilibration
    lane_times: np.ndarray  # (lanes + 1,): where the times of each lane begin
    time_rows: np.ndarray  # (times + 1,): where the rows of each time begin
    row_function: np.ndarray  # (rows,): which observable
    row_place: np.ndarray  # (rows,): where the row stands in the table
    row_arguments: np.ndarray  # (rows + 1,): where the arguments of each row begin
    argument_index: np.ndarray  # an entry of the parameter vector, or -1


class Floats(NamedTuple):
    """Sections of real numbers; pointers to them inside the kernel."""

    tolerances: np.ndarray  # relative, absolute
    scale_factors: np.ndarray  # (dim,): d log(theta) / du, or 0 for a linear scale
    input_constant: np.ndarray  # (lanes, inputs)
    is_given: np.ndarray  # (lanes, sometimes)
    equilibration_constant: np.ndarray
    equilibration_is_given: np.ndarray
    times: np.ndarray  # ascending in every lane
    argument_constant: np.ndarray


class Sizes(NamedTuple):
    """Numbers of things."""

    parameters: int
    inputs: int
    sometimes: int
    states: int  # time included where it is one
    has_time: int  # whether time is the last state
    is_solved: int  # whether the function `stage` solves too
    constants: int
    switches: int
    observables: int
    entries: int
    factors: int
    lanes: int
    times: int
    rows: int
    arguments: int  # of the row that has the most
    columns: int  # of the table of rows: density, prediction, settings
    max_steps: int


class Code(NamedTuple):
    """Addresses: of the kernel, then of a model's functions; those of the observables follow.

    The last constants of a model are the times at which it switches, then the switches as they stand.
    """

    evaluate: int  # the kernel itself, for those who call it by address
    start: int  # (inputs) -> states, constants
    switch: int  # (time, constants) -> switches
    linearize: int  # (states, constants) -> derivatives, Jacobian
    factor: int  # (shift, Jacobian) -> factors of shift I - J; the pattern is its last argument
    solve: int  # (right-hand side, factors) -> solution; the pattern is its last argument
    check: int  # (shift, Jacobian, right-hand side, solution, weights) -> number of rows that are wrong
    stage: (
        int  # (base, rhs, newest stage, its coefficients, constants, factors) -> solution for f(base + a k) + rhs + c k
    )


class LaneColumns(NamedTuple):
    """What is told of every lane."""

    log_likelihood: int = 0
    status: int = 1
    time: int = 2  # that was reached
    steps: int = 3
    rejected: int = 4


NUM_INTS, NUM_FLOATS, NUM_SIZES, NUM_CODE = (len(c._fields) for c in (Ints, Floats, Sizes, Code))
NUM_LANE_COLUMNS = len(LaneColumns._fields)
NUM_OFFSETS = NUM_INTS + 1 + NUM_FLOATS + 1


def pack(ints: Ints, floats: Floats) -> tuple[np.ndarray, np.ndarray]:
    """Return all sections as one array of whole and one of real numbers."""
    int_parts = [np.asarray(part, dtype=np.int64).ravel() for part in ints]
    float_parts = [np.asarray(part, dtype=np.float64).ravel() for part in floats]
    int_offsets = NUM_OFFSETS + np.cumsum([0, *(part.size for part in int_parts)])
    float_offsets = np.cumsum([0, *(part.size for part in float_parts)])
    return np.concatenate([int_offsets, float_offsets, *int_parts]), np.concatenate(float_parts)


def section(ints: np.ndarray, name: str) -> np.ndarray:
    """Return a section of whole numbers out of what `pack` made."""
    k = Ints._fields.index(name)
    return ints[ints[k] : ints[k + 1]]


# ---- compilation

# NaN and infinity must stay what they are: with all fast-math flags a NaN error would count as small.
_OPTIONS = {"fastmath": {"contract", "reassoc", "arcp", "nsz"}, "error_model": "numpy"}
_jit = numba.njit(nogil=True, **_OPTIONS)
_inline = numba.njit(nogil=True, inline="always", **_OPTIONS)


def _compiled(signature: object) -> Callable:
    """Return a decorator that compiles to a C function, from the cache where one can be written."""

    def decorate(function: Callable) -> Callable:
        try:
            return numba.cfunc(signature, cache=True, nopython=True, **_OPTIONS)(function)
        except RuntimeError:  # no folder for the cache is writable
            return numba.cfunc(signature, nopython=True, **_OPTIONS)(function)

    return decorate


@intrinsic
def _call(typing_context, address, pointers):
    """Call the function at an address."""

    def generate(context, builder, signature, values):
        arguments = [builder.extract_value(values[1], k) for k in range(len(signature.args[1]))]
        function = ir.FunctionType(ir.VoidType(), [a.type for a in arguments])
        builder.call(builder.inttoptr(values[0], function.as_pointer()), arguments)
        return context.get_dummy_value()

    return types.void(address, pointers), generate


@intrinsic
def _plus(typing_context, pointer, count):
    """Return the pointer to the entry `count` places on."""

    def generate(context, builder, signature, values):
        return builder.gep(values[0], [values[1]], source_etype=context.get_data_type(pointer.dtype))

    return pointer(pointer, types.int64), generate


@intrinsic
def _is_null(typing_context, pointer):
    def generate(context, builder, signature, values):
        return builder.icmp_unsigned("==", values[0], ir.Constant(values[0].type, None))

    return types.boolean(pointer), generate


@intrinsic
def _allocate(typing_context, count):
    """Return memory for doubles, all 0."""

    def generate(context, builder, signature, values):
        size, pointer = ir.IntType(64), ir.IntType(8).as_pointer()
        calloc = cgutils.get_or_insert_function(builder.module, ir.FunctionType(pointer, [size, size]), "calloc")
        memory = builder.call(calloc, [values[0], ir.Constant(size, 8)])
        return builder.bitcast(memory, ir.DoubleType().as_pointer())

    return types.CPointer(types.float64)(count), generate


@intrinsic
def _free(typing_context, memory):
    def generate(context, builder, signature, values):
        pointer = ir.IntType(8).as_pointer()
        free = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [pointer]), "free")
        builder.call(free, [builder.bitcast(values[0], pointer)])
        return context.get_dummy_value()

    return types.void(memory), generate


@intrinsic
def _take(typing_context, counter):
    """Return a counter and add 1 to it, at once for all threads."""

    def generate(context, builder, signature, values):
        return builder.atomic_rmw("add", values[0], ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate


@_inline
def _unpack(ints, floats):
    """Return pointers to the sections by name; `pack` is the inverse."""
    i, f = ints, _plus(ints, NUM_INTS + 1)
    whole = Ints(
        _plus(i, i[0]),
        _plus(i, i[1]),
        _plus(i, i[2]),
        _plus(i, i[3]),
        _plus(i, i[4]),
        _plus(i, i[5]),
        _plus(i, i[6]),
        _plus(i, i[7]),
        _plus(i, i[8]),
        _plus(i, i[9]),
        _plus(i, i[10]),
        _plus(i, i[11]),
        _plus(i, i[12]),
        _plus(i, i[13]),
    )
    real = Floats(
        _plus(floats, f[0]),
        _plus(floats, f[1]),
        _plus(floats, f[2]),
        _plus(floats, f[3]),
        _plus(floats, f[4]),
        _plus(floats, f[5]),
        _plus(floats, f[6]),
        _plus(floats, f[7]),
    )
    z = whole.sizes
    sizes = Sizes(
        z[0], z[1], z[2], z[3], z[4], z[5], z[6], z[7], z[8], z[9], z[10], z[11], z[12], z[13], z[14], z[15], z[16]
    )
    return sizes, whole, real


# ---- constants

_, _START, _SWITCH, _LINEARIZE, _FACTOR, _SOLVE, _CHECK, _STAGE = range(NUM_CODE)
_GAMMA = tableau.GAMMA
_A, _C, _H = tableau.A, tableau.C, tableau.H
_NUM_STAGES = tableau.NUM_STAGES
_OK, _MAX_STEPS, _NOT_FINITE = int(Status.OK), int(Status.MAX_STEPS), int(Status.NOT_FINITE)
_STEP_TOO_SMALL, _NO_STEADY_STATE = int(Status.STEP_TOO_SMALL), int(Status.NO_STEADY_STATE)
_SAFETY = 0.9
# Of the PI controller (Hairer & Wanner 1996, IV.2): on ten published problems it rejects half as many steps as the
# plain one, for the same work at the same accuracy.
_GAIN, _GAIN_BEFORE, _SMALLEST_ERROR = 0.2, 0.06, 1e-4
_SHRINK, _GROW = 0.2, 6.0  # limits on the change of a step; Hairer & Wanner (1996), IV.8
_LARGEST = 1e300
_FINEST = 1e-15  # a step below this part of the time reached no longer moves it
_SAME_TIME = 1e-14  # relative distance below which two times count as one
_WIDTH = 4  # numbers in a vector; arrays of states are padded to whole vectors
# Of a state beside the largest one, below which its own size no longer lowers its absolute tolerance: on published
# problems 1e-6 took a quarter more steps for the same accuracy.
_SMALLEST_SIZE = 1e-3
_STEADY = 0.1  # part of its tolerance that a state at rest may still move
_NEVER = 1e100  # time at which a model that has not come to rest never will


class _Work(NamedTuple):
    """Pointers to the memory of one thread."""

    theta: np.ndarray  # natural parameter values
    inputs: np.ndarray  # of a lane, then whether the sometimes given are
    constants: np.ndarray
    y: np.ndarray
    f: np.ndarray
    u: np.ndarray  # twice: sums for this stage and for the next
    rhs: np.ndarray  # twice
    none: np.ndarray  # zeros
    sum: np.ndarray  # what a stage is to be solved for
    largest: np.ndarray  # the largest that every state has been
    floors: np.ndarray  # the absolute tolerance of every state
    weights: np.ndarray  # the error that it may have at the start of a step
    stages: np.ndarray  # one after the other
    observed: np.ndarray  # the states at a time of the data
    jac: np.ndarray
    factors: np.ndarray
    shift: np.ndarray
    newest: np.ndarray  # the coefficients a and c / h of the newest stage
    arguments: np.ndarray
    row: np.ndarray


@_inline
def _padded(num_states):
    return (num_states + _WIDTH - 1) // _WIDTH * _WIDTH


@_inline
def _memory_size(sizes):
    many = sizes.parameters + sizes.inputs + sizes.sometimes + sizes.constants + sizes.entries + sizes.factors
    return many + (12 + _NUM_STAGES) * _padded(sizes.states) + 3 + sizes.arguments + sizes.columns + 1


@_inline
def _divide(memory, sizes):
    """Return the parts of a thread's memory."""
    n = _padded(sizes.states)
    theta = memory
    inputs = _plus(theta, sizes.parameters)
    constants = _plus(inputs, sizes.inputs + sizes.sometimes)
    y = _plus(constants, sizes.constants)
    f = _plus(y, n)
    u = _plus(f, n)
    rhs = _plus(u, 2 * n)
    none = _plus(rhs, 2 * n)
    sum_ = _plus(none, n)
    largest = _plus(sum_, n)
    floors = _plus(largest, n)
    weights = _plus(floors, n)
    stages = _plus(weights, n)
    observed = _plus(stages, _NUM_STAGES * n)
    jac = _plus(observed, n)
    factors = _plus(jac, sizes.entries)
    shift = _plus(factors, sizes.factors)
    newest = _plus(shift, 1)
    arguments = _plus(newest, 2)
    row = _plus(arguments, sizes.arguments)
    return _Work(
        theta,
        inputs,
        constants,
        y,
        f,
        u,
        rhs,
        none,
        sum_,
        largest,
        floors,
        weights,
        stages,
        observed,
        jac,
        factors,
        shift,
        newest,
        arguments,
        row,
    )


# ---- one step


@_inline
def _linearize(code, work, y, num_states, num_entries):
    """Compute the derivatives and the Jacobian at `y`; return whether the derivatives are finite.

    An entry of the Jacobian that is not finite, like the slope of a square root at 0, counts as 0: the step is then
    less exact, as its error estimate tells.
    """
    _call(code[_LINEARIZE], (y, work.constants, work.f, work.jac))
    is_finite = True
    for i in range(num_states):
        is_finite = is_finite and abs(work.f[i]) <= _LARGEST
    for e in range(num_entries):
        work.jac[e] = work.jac[e] if abs(work.jac[e]) <= _LARGEST else 0.0
    return is_finite


@_inline
def _is_steady(work, whole, num_entries, num, t, h):
    """Return whether the step of size `h` to time `t` found every state at rest.

    No state moved while time nearly doubled, and none is bound to move within its own time scale.
    """
    is_steady = t > 0.0 and 2.0 * h >= t
    for i in range(num):
        is_steady = is_steady and abs(work.u[i] - work.y[i]) <= _STEADY * work.weights[i]
    for e in range(num_entries if is_steady else 0):
        i = whole.entry_rows[e]
        if i == whole.entry_columns[e] and i < num:
            is_steady = is_steady and abs(work.f[i]) <= _STEADY * work.weights[i] * abs(work.jac[e])
    return is_steady


@_inline
def _set_weights(work, y, num, rtol, atol):
    """Set what errors states may have; the absolute one is less for states that have always been smaller than 1."""
    biggest = 0.0
    for i in range(num):
        work.largest[i] = max(work.largest[i], abs(y[i]))
        biggest = max(biggest, work.largest[i])
    least = _SMALLEST_SIZE * (biggest if biggest > 0.0 else 1.0)
    for i in range(num):
        work.floors[i] = atol * min(1.0, max(work.largest[i], least))
        work.weights[i] = work.floors[i] + rtol * abs(y[i])


@_inline
def _initial_step(work, sizes, whole, num):
    """Return a first step from the sizes of y, y' and y'' = J y' (Hairer, Norsett & Wanner 1993, II.4)."""
    y, f, second = work.y, work.f, work.u
    for i in range(sizes.states):
        second[i] = 0.0
    for e in range(sizes.entries):
        second[whole.entry_rows[e]] += work.jac[e] * f[whole.entry_columns[e]]
    d0 = d1 = d2 = 0.0
    for i in range(num):
        weight = 1.0 / work.weights[i]
        d0 += (y[i] * weight) ** 2
        d1 += (f[i] * weight) ** 2
        d2 += (second[i] * weight) ** 2
    d0, d1, d2 = math.sqrt(d0 / num), math.sqrt(d1 / num), math.sqrt(d2 / num)
    h0 = 0.01 * d0 / d1 if d0 > 1e-5 and d1 > 1e-5 else 1e-6
    biggest = max(d1, math.sqrt(d2))
    h1 = (0.01 / biggest) ** 0.2 if biggest > 1e-15 else max(1e-6, 1e-3 * h0)
    return min(100.0 * h0, h1)


@intrinsic
def _sums(typing_context, stage, y, base, rhs, k, num, inverse_step):
    """Compute the sums for a stage over all stages before it but the newest.

    base = y + sum_j a_j k_j and rhs = (sum_j c_j k_j) / h, with vectors of _WIDTH numbers: a compiler that does not
    know that the arrays are apart would take them number by number. The newest stage is left to the model's own
    function: so these sums are computed beside it, and only it is waited for.
    """
    vector, word, fast = ir.VectorType(ir.DoubleType(), _WIDTH), ir.IntType(64), ("contract",)

    def generate(context, builder, signature, values):
        stage, y, base, rhs, k, num, inverse_step = values

        def place(array: ir.Value, at: ir.Value) -> ir.Value:
            return builder.bitcast(builder.gep(array, [at], source_etype=ir.DoubleType()), vector.as_pointer())

        def sum_of(value: ir.Value | None, coefficients: Sequence[float], at: ir.Value) -> ir.Value | None:
            for j, coefficient in enumerate(coefficients):
                if coefficient != 0.0:
                    load = builder.load(place(k, builder.add(at, builder.mul(num, word(j)))), align=8, typ=vector)
                    term = builder.fmul(ir.Constant(vector, [coefficient] * _WIDTH), load, flags=fast)
                    value = term if value is None else builder.fadd(value, term, flags=fast)
            return value

        first = builder.insert_element(ir.Constant(vector, ir.Undefined), inverse_step, ir.IntType(32)(0))
        scale = builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), _WIDTH), [0] * _WIDTH))
        done = builder.append_basic_block("sums.done")
        choice = builder.switch(stage, done)
        for number in range(2, _NUM_STAGES + 1):
            # The last rows of A are the one before with a 1 for the newest stage: there the old base stands for y.
            a = tableau.A[number, : number - 1] if number <= 6 else [0.0] * (number - 2) + [1.0]
            c = tableau.C[number, : number - 1] if number < _NUM_STAGES else []
            block = builder.append_basic_block(f"sums.{number}")
            choice.add_case(word(number), block)
            builder.position_at_end(block)
            with cgutils.for_range_slice(builder, word(0), num, word(_WIDTH)) as (i, _):
                start = builder.load(place(y, i), align=8, typ=vector)
                builder.store(sum_of(start, a, i), place(base, i), align=8)
                added = sum_of(None, c, i)
                if added is not None:
                    builder.store(builder.fmul(added, scale, flags=fast), place(rhs, i), align=8)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(stage, y, base, rhs, k, num, inverse_step), generate


@_inline
def _stages(code, work, whole, is_solved, m, ih):
    """Compute the stages of a step after the first; leave the new state but for the last stage in `work.u`."""
    k, base, rhs = work.stages, work.y, work.none
    for s in range(1, _NUM_STAGES):
        # Two halves of memory take turns: one is read here while the sums for the next stage are put into the other.
        half = (s + 1) % 2 * m
        next_base, next_rhs = _plus(work.u, half), _plus(work.rhs, half)
        _sums(s + 1, base if s >= 6 else work.y, next_base, next_rhs, k, m, ih)
        work.newest[0] = _A[s, s - 1]
        work.newest[1] = ih * _C[s, s - 1]
        newest, out = _plus(k, (s - 1) * m), _plus(k, s * m)
        right = out if is_solved else work.sum
        _call(code[_STAGE], (base, rhs, newest, work.newest, work.constants, work.factors, right))
        if not is_solved:
            _call(code[_SOLVE], (right, work.factors, out, whole.pattern))
        base, rhs = next_base, next_rhs


@_jit
def _observe(code, whole, real, work, y, at, table, columns):
    """Return the sum of the log densities of the rows of time `at`; fill their lines of the table."""
    total = 0.0
    row = work.row
    for r in range(whole.time_rows[at], whole.time_rows[at + 1]):
        first = whole.row_arguments[r]
        for j in range(whole.row_arguments[r + 1] - first):
            k = whole.argument_index[first + j]
            work.arguments[j] = work.theta[k] if k >= 0 else real.argument_constant[first + j]
        _call(code[NUM_CODE + whole.row_function[r]], (y, work.constants, work.arguments, row))
        total += row[0]
        if not _is_null(table):
            place = whole.row_place[r] * columns
            for j in range(columns):
                table[place + j] = row[j]
    return total


# ---- one lane


@_inline
def _start(code, work, lane, index, constant, is_given, num_inputs, num_sometimes):
    """Compute the start and the constants of a lane."""
    for j in range(num_inputs):
        k = index[lane * num_inputs + j]
        work.inputs[j] = work.theta[k] if k >= 0 else constant[lane * num_inputs + j]
    for j in range(num_sometimes):
        work.inputs[num_inputs + j] = is_given[lane * num_sometimes + j]
    _call(code[_START], (work.inputs, work.y, work.constants))


@_inline
def _segment(code, work, sizes, t, end):
    """Set the switches for the time after `t`; return when the next of them changes, at most `end`."""
    times = _plus(work.constants, sizes.constants - 2 * sizes.switches)
    stop = end
    for s in range(sizes.switches):
        if times[s] > t * (1.0 + _SAME_TIME) and times[s] < stop:
            stop = times[s]
    # In the middle of a segment no comparison of times is in doubt.
    work.shift[0] = 0.5 * (t + stop) if stop < _NEVER else 2.0 * t + 1.0
    if sizes.switches > 0:
        _call(code[_SWITCH], (work.shift, work.constants, _plus(times, sizes.switches)))
    return stop


@_jit
def _integrate(code, sizes, whole, real, work, is_equilibration, at, last, table, states):
    """Integrate from time 0 and observe at the times `at` to `last`, or until nothing moves any more.

    Returns the log likelihood, the status, the time reached, and the numbers of steps and of rejected ones.
    """
    n, num = sizes.states, sizes.states - sizes.has_time
    rtol, atol = real.tolerances[0], real.tolerances[1]
    y, u, f, jac, k = work.y, work.u, work.f, work.jac, work.stages
    m = _padded(n)
    last_stage, observed = _plus(k, (_NUM_STAGES - 1) * m), work.observed
    total, t, steps, rejected = 0.0, 0.0, 0, 0
    end = _NEVER if is_equilibration else real.times[last - 1]
    floors = work.floors
    for i in range(n):
        u[i], work.largest[i], work.weights[i] = y[i], 0.0, _LARGEST
    for i in range(_NUM_STAGES * m):
        k[i] = 0.0  # the lane before may have left NaN, which no weight of 0 takes away
    error, previous, h, ih, was_rejected = 0.0, 1.0, 0.0, 0.0, False
    stop, t_new = 0.0, end if num == 0 else 0.0
    while True:
        # Observe up to the new time: at first that of the start.
        while at < last and real.times[at] <= t_new:
            theta = (real.times[at] - t) * ih
            for i in range(n):
                inner = 0.0
                for s in range(_NUM_STAGES):
                    inner += (_H[0, s] + theta * (_H[1, s] + theta * _H[2, s])) * k[s * m + i]
                observed[i] = (1.0 - theta) * y[i] + theta * (u[i] + (1.0 - theta) * inner)
            total += _observe(code, whole, real, work, observed, at, table, sizes.columns)
            if not _is_null(states):
                for i in range(num):
                    states[at * num + i] = observed[i]
            at += 1
        t = t_new
        _set_weights(work, u, num, rtol, atol)
        is_steady = is_equilibration and stop == end and _is_steady(work, whole, sizes.entries, num, t, h)
        for i in range(n):
            y[i] = u[i]
        if is_steady or not t < end:
            status = _NO_STEADY_STATE if is_equilibration and not is_steady and num > 0 else _OK
            return total, status, t, steps, rejected
        if t >= stop:
            stop = _segment(code, work, sizes, t, end)
            if not _linearize(code, work, y, n, sizes.entries):
                return total, _NOT_FINITE, t, steps, rejected
            h = _initial_step(work, sizes, whole, num)
        else:
            error = max(error, _SMALLEST_ERROR)
            factor = _SAFETY * error**-_GAIN * previous**_GAIN_BEFORE
            h *= min(1.0 if was_rejected else _GROW, max(_SHRINK, factor))
            previous = error
        was_rejected = False
        while True:
            if steps == sizes.max_steps:
                return total, _MAX_STEPS, t, steps, rejected
            is_at_stop = t + 1.0001 * h >= stop
            if is_at_stop:
                h = stop - t
            if not h > _FINEST * t:
                return total, _STEP_TOO_SMALL, t, steps, rejected
            steps += 1
            work.shift[0] = 1.0 / (_GAMMA * h)
            ih = 1.0 / h
            _call(code[_FACTOR], (work.shift, jac, work.factors, whole.pattern))
            _call(code[_SOLVE], (f, work.factors, k, whole.pattern))
            # Nothing is exchanged for a larger pivot: where that went wrong a smaller step makes the diagonal win.
            _call(code[_CHECK], (work.shift, jac, f, k, work.weights, work.row))
            if work.row[0] > 0.0:
                rejected += 1
                was_rejected = True
                h *= 0.5
                continue
            _stages(code, work, whole, sizes.is_solved != 0, m, ih)
            error, is_good = 0.0, True
            for i in range(num):
                u[i] += last_stage[i]
                is_good = is_good and abs(u[i]) <= _LARGEST
                error += (last_stage[i] / (floors[i] + rtol * max(abs(y[i]), abs(u[i])))) ** 2
            error = math.sqrt(error / num)
            t_new = stop if is_at_stop else t + h
            if sizes.has_time:
                u[num] = t_new
            if is_good and error <= 1.0:
                # The new point is accepted only where the model is finite.
                if _linearize(code, work, u, n, sizes.entries):
                    break
                is_good = False
                _linearize(code, work, y, n, sizes.entries)
            rejected += 1
            was_rejected = True
            h *= max(_SHRINK, _SAFETY * error**-0.2) if is_good and error < _LARGEST else _SHRINK


@_inline
def _lane(code, sizes, whole, real, work, lane, table, states):
    """Simulate one lane; the natural parameter values are in `work` already."""
    num = sizes.states - sizes.has_time
    is_equilibrated = whole.is_equilibrated[lane] != 0
    is_equilibration = is_equilibrated
    steps = rejected = 0
    while True:
        if is_equilibration:
            _start(
                code,
                work,
                lane,
                whole.equilibration_index,
                real.equilibration_constant,
                real.equilibration_is_given,
                sizes.inputs,
                sizes.sometimes,
            )
            first, last = 0, 0
        else:
            _start(
                code, work, lane, whole.input_index, real.input_constant, real.is_given, sizes.inputs, sizes.sometimes
            )
            first, last = whole.lane_times[lane], whole.lane_times[lane + 1]
            for i in range(num if is_equilibrated else 0):
                if whole.is_reset[lane * num + i] == 0:
                    work.y[i] = work.observed[i]
        total, status, t, more, more_rejected = _integrate(
            code, sizes, whole, real, work, is_equilibration, first, last, table, states
        )
        steps += more
        rejected += more_rejected
        if status != _OK or not is_equilibration:
            break
        is_equilibration = False
        for i in range(num):
            work.observed[i] = work.y[i]
    return total, status, t, steps, rejected


# ---- many lanes


@_inline
def _natural(scale_factors, vectors, first, num, theta):
    for j in range(num):
        u = vectors[first + j]
        theta[j] = math.exp(scale_factors[j] * u) if scale_factors[j] != 0.0 else u


_ints, _floats = types.CPointer(types.int64), types.CPointer(types.float64)


@_compiled(types.void(_ints, _ints, _floats, _floats, types.int64, _ints, _floats, _floats, _floats, _floats))
def evaluate(code, ints, floats, vectors, num_vectors, counter, totals, lanes, tables, states):
    """Evaluate log likelihoods; every argument but `num_vectors` is the address of an array, or null.

    With `totals` (num_vectors,) the vectors are taken one after the other, lane by lane, until a lane fails, which
    makes the total -inf. Otherwise lanes are taken from the counter that all threads share, and what is known of each
    is written to `lanes` (num_vectors, lanes, columns of LaneColumns), and, unless they are null, to `tables`
    (num_vectors, rows, columns) and `states` (num_vectors, times, states).
    """
    sizes, whole, real = _unpack(ints, floats)
    memory = _allocate(_memory_size(sizes))
    work = _divide(memory, sizes)
    is_total = not _is_null(totals)
    num_states = sizes.states - sizes.has_time
    known, task, sum_of_lanes = -1, -1, 0.0
    while True:
        task = task + 1 if is_total else _take(counter)
        if task >= num_vectors * sizes.lanes:
            break
        v, lane = task // sizes.lanes, task % sizes.lanes
        if v != known:
            _natural(real.scale_factors, vectors, v * sizes.parameters, sizes.parameters, work.theta)
            known, sum_of_lanes = v, 0.0
        table = tables if _is_null(tables) else _plus(tables, v * sizes.rows * sizes.columns)
        some_states = states if _is_null(states) else _plus(states, v * sizes.times * num_states)
        total, status, t, steps, rejected = _lane(code, sizes, whole, real, work, lane, table, some_states)
        if is_total:
            is_good = status == _OK and total <= _LARGEST  # a total that is no number is not
            sum_of_lanes = sum_of_lanes + total if is_good else -math.inf
            totals[v] = sum_of_lanes
            if not is_good:
                task = (v + 1) * sizes.lanes - 1
        else:
            told = _plus(lanes, task * NUM_LANE_COLUMNS)
            told[0], told[1], told[2], told[3], told[4] = total, status, t, steps, rejected
    _free(memory)
