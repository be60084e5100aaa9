"""The native integrator: Rodas5P in one loop that calls a model's machine code by address.

It is compiled once per machine, since nothing of a model is a constant in it: sizes are data, functions are addresses.

References
----------
Steinebach, G. (2023). Construction of Rosenbrock-Wanner method Rodas5P and numerical benchmarks within the Julia
Differential Equations package. BIT Numerical Mathematics 63, 27. doi:10.1007/s10543-023-00967-x
Hairer, E., Wanner, G. (1996). Solving Ordinary Differential Equations II. Springer. doi:10.1007/978-3-642-05221-7
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import types

from kinbayes.ode import tableau
from kinbayes.ode.dense_output import states_within
from kinbayes.ode.intrinsics import (
    SOURCES,
    aligned,
    allocate,
    call,
    compiled,
    free,
    inline,
    is_null,
    jit,
    numbers,
    plus,
    pointers,
    stage_sums,
    take,
)
from kinbayes.ode.numbers import (
    ADVANCE,
    BEGIN,
    CUT,
    END,
    GO_ON,
    HAPPEN,
    JUMP,
    NUM_CODE,
    NUM_INTS,
    NUM_LANE_COLUMNS,
    OBSERVE,
    PREPARE,
    REST,
    STEP,
    WATCH,
    WIDTH,
    Code,
    Floats,
    Ints,
    Parts,
    Sizes,
)
from kinbayes.ode.status import Status

# ---- constants

_ints_of, _floats_of, _parts_of, _sizes_of = pointers(Ints), pointers(Floats), pointers(Parts), numbers(Sizes)

_, _START, _SWITCH, _LINEARIZE, _FACTOR, _SOLVE, _CHECK, _STAGE, _DERIVATIVES = range(9)
_EVENTS = Code._fields.index("events")
_GAMMA = tableau.GAMMA
_A, _C = tableau.A, tableau.C
_NUM_STAGES = tableau.NUM_STAGES
_OK, _MAX_STEPS, _NOT_FINITE = int(Status.OK), int(Status.MAX_STEPS), int(Status.NOT_FINITE)
_STEP_TOO_SMALL, _NO_STEADY_STATE = int(Status.STEP_TOO_SMALL), int(Status.NO_STEADY_STATE)
_EVENTS_FAILED = int(Status.EVENTS_FAILED)
_SAFETY = 0.9
# Of the PI controller (Hairer & Wanner 1996, IV.2): on ten published problems it rejects half as many steps as the
# plain one, for the same work at the same accuracy.
_GAIN, _GAIN_BEFORE, _SMALLEST_ERROR = 0.2, 0.06, 1e-4
_SHRINK, _GROW = 0.2, 6.0  # limits on the change of a step; Hairer & Wanner (1996), IV.8
_LARGEST = 1e300
_FINEST = 1e-15  # a step below this part of the time reached no longer moves it
_SAME_TIME = 1e-14  # relative distance below which two times count as one
# Of a state beside the largest one, below which its own size no longer lowers its absolute tolerance: on published
# problems 1e-6 took a quarter more steps for the same accuracy.
_SMALLEST_SIZE = 1e-3
_STEADY = 0.1  # part of its tolerance that a state at rest may still move
_NEVER = 1e100  # time at which a model that has not come to rest never will


# ---- one step


@jit
def _linearize(code, work, y, num_states, num_entries):
    """Compute the derivatives and the Jacobian at `y`; return whether the derivatives are finite.

    An entry of the Jacobian that is not finite, like the slope of a square root at 0, counts as 0: the step is then
    less exact, as its error estimate tells.
    """
    call(code[_LINEARIZE], (y, work.constants, work.f, work.jac))
    is_finite = True
    for i in range(num_states):
        is_finite = is_finite and abs(work.f[i]) <= _LARGEST
    for e in range(num_entries):
        work.jac[e] = work.jac[e] if abs(work.jac[e]) <= _LARGEST else 0.0
    return is_finite


@jit
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


@inline
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


@jit
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
        d0 += y[i] * weight * y[i] * weight
        d1 += f[i] * weight * f[i] * weight
        d2 += second[i] * weight * second[i] * weight
    d0, d1, d2 = math.sqrt(d0 / num), math.sqrt(d1 / num), math.sqrt(d2 / num)
    h0 = 0.01 * d0 / d1 if d0 > 1e-5 and d1 > 1e-5 else 1e-6
    biggest = max(d1, math.sqrt(d2))
    h1 = math.exp(0.2 * math.log(0.01 / biggest)) if biggest > 1e-15 else max(1e-6, 1e-3 * h0)
    return min(100.0 * h0, h1)


@inline
def _stages(code, work, whole, is_solved, m, ih, method):
    """Compute the stages of a step after the first; leave the new state but for the last stage in `work.u`."""
    k, base, rhs = work.stages, work.y, work.none
    for s in range(1, _NUM_STAGES):
        # Two halves of memory take turns: one is read here while the sums for the next stage are put into the other.
        half = (s + 1) % 2 * m
        next_base, next_rhs = plus(work.u, half), plus(work.rhs, half)
        stage_sums(s + 1, base if s >= 6 else work.y, next_base, next_rhs, k, m, ih, method)
        work.newest[0] = _A[s, s - 1]
        work.newest[1] = ih * _C[s, s - 1]
        newest, out = plus(k, (s - 1) * m), plus(k, s * m)
        right = out if is_solved else work.sum
        call(code[_STAGE], (base, rhs, newest, work.newest, work.constants, work.factors, right))
        if not is_solved:
            call(code[_SOLVE], (right, work.factors, out, whole.pattern))
        base, rhs = next_base, next_rhs


@jit
def _observe(code, whole, real, work, y, at, table, columns):
    """Return the sum of the log densities of the rows of time `at`; fill their lines of the table."""
    total = 0.0
    row = work.row
    for r in range(whole.time_rows[at], whole.time_rows[at + 1]):
        first = whole.row_arguments[r]
        for j in range(whole.row_arguments[r + 1] - first):
            k = whole.argument_index[first + j]
            work.arguments[j] = work.theta[k] if k >= 0 else real.argument_constant[first + j]
        call(code[NUM_CODE + whole.row_function[r]], (y, work.constants, work.arguments, row))
        total += row[0]
        if not is_null(table):
            place = whole.row_place[r] * columns
            for j in range(columns):
                table[place + j] = row[j]
    return total


# ---- one lane


class _Task(NamedTuple):
    """What derivatives are told of a lane."""

    is_wanted: bool
    code: np.ndarray
    ints: np.ndarray
    floats: np.ndarray
    memory: np.ndarray
    lane: int
    gradient: np.ndarray
    slopes: np.ndarray


@inline
def _start(code, work, lane, index, constant, is_given, num_inputs, num_sometimes):
    """Compute the start and the constants of a lane."""
    for j in range(num_inputs):
        k = index[lane * num_inputs + j]
        work.inputs[j] = work.theta[k] if k >= 0 else constant[lane * num_inputs + j]
    for j in range(num_sometimes):
        work.inputs[num_inputs + j] = is_given[lane * num_sometimes + j]
    call(code[_START], (work.inputs, work.y, work.constants))


@inline
def _turn(code, work, sizes, at):
    """Set the switches as they are at a time; keep what they were."""
    switches = plus(work.constants, sizes.constants - sizes.switches)
    for s in range(sizes.switches):
        work.turned[s] = switches[s]
    work.shift[0] = at
    if sizes.switches > 0:
        call(code[_SWITCH], (work.shift, work.constants, switches))


@inline
def _segment(code, work, sizes, t, end):
    """Set the switches for the time after `t`; return when the next of them changes, at most `end`."""
    times = plus(work.constants, sizes.constants - 2 * sizes.switches)
    stop = end
    for s in range(sizes.switches):
        if times[s] > t * (1.0 + _SAME_TIME) and times[s] < stop:
            stop = times[s]
    # In the middle of a segment no comparison of times is in doubt.
    _turn(code, work, sizes, 0.5 * (t + stop) if stop < _NEVER else 2.0 * t + 1.0)
    return stop


@inline
def _differentiate(event, task, at, is_equilibration, a):
    """Let the loops of derivatives do their part, where derivatives are wanted."""
    if task.is_wanted:
        call(
            task.code[_DERIVATIVES],
            (
                event,
                task.code,
                task.ints,
                task.floats,
                task.memory,
                task.lane,
                at,
                is_equilibration,
                a,
                task.gradient,
                task.slopes,
            ),
        )


@inline
def _happen(kind, task, is_equilibration, t, t_new):
    """Let the loops of events do their part."""
    call(
        task.code[_EVENTS],
        (kind, task.code, task.ints, task.floats, task.memory, task.lane, task.is_wanted, is_equilibration, t, t_new),
    )


@jit
def _rows_until(code, sizes, whole, real, work, task, is_equilibration, at, last, end, is_closed, t, ih, table, states):
    """Observe at the times before `end`, or up to it, within the step from `t`.

    Returns the sum of the log densities, and which time is next.
    """
    n, num = sizes.states, sizes.states - sizes.has_time
    observed, total = work.observed, 0.0
    while at < last and (real.times[at] < end or (is_closed and real.times[at] == end)):
        theta = (real.times[at] - t) * ih
        states_within(work, observed, n, theta)
        total += _observe(code, whole, real, work, observed, at, table, sizes.columns)
        _differentiate(OBSERVE, task, at, is_equilibration, theta)
        if not is_null(states):
            for i in range(num):
                states[at * num + i] = observed[i]
        at += 1
    return total, at


@jit
def _moment(code, sizes, whole, work, task, is_equilibration, is_after, t, end):
    """Do what happens at a time, before its rows are observed or after; return when the next moment is due.

    A comparison with time that is strict, or that ends with its time, changes after the rows of that time.
    """
    stop = t
    if is_after:
        stop = _segment(code, work, sizes, t, end)
    else:
        _turn(code, work, sizes, t)
    if t > 0.0 and sizes.switches > 0 and task.is_wanted:
        _linearize(code, work, work.y, sizes.states, sizes.entries)
        _differentiate(JUMP, task, 0, is_equilibration, t)
    if sizes.has_events != 0:
        _happen(HAPPEN, task, is_equilibration, t, 0.0)
        stop = min(stop, work.moment[1]) if is_after else stop
    return stop


@jit
def _integrate(code, sizes, whole, real, work, task, is_equilibration, at, last, table, states):
    """Integrate from time 0 and observe at the times `at` to `last`, or until nothing moves any more.

    Returns the log likelihood, the status, the time reached, and the numbers of steps and of rejected ones.
    """
    n, num = sizes.states, sizes.states - sizes.has_time
    rtol, atol = real.tolerances[0], real.tolerances[1]
    y, u, f, jac, k = work.y, work.u, work.f, work.jac, work.stages
    m = (n + WIDTH - 1) // WIDTH * WIDTH
    last_stage = plus(k, (_NUM_STAGES - 1) * m)
    total, t, steps, rejected = 0.0, 0.0, 0, 0
    end = _NEVER if is_equilibration else real.times[last - 1]
    has_events = sizes.has_events != 0
    floors = work.floors
    for i in range(n):
        u[i], work.largest[i], work.weights[i] = y[i], 0.0, _LARGEST
    for i in range(_NUM_STAGES * m):
        k[i] = 0.0  # the lane before may have left NaN, which no weight of 0 takes away
    error, log_previous, h, ih, was_rejected = 0.0, 0.0, 0.0, 0.0, False
    stop, t_new, is_cut = 0.0, end if num == 0 else 0.0, False
    work.moment[4] = 1.0 if is_equilibration else 0.0
    if has_events:
        _turn(code, work, sizes, 0.0)
        _happen(PREPARE, task, is_equilibration, 0.0, 0.0)
    while True:
        # Observe up to the new time: at first that of the start. Where something happens then, it happens first.
        is_moment = has_events and (is_cut or t_new >= stop)
        if at < last and real.times[at] <= t_new:
            more, at = _rows_until(
                code,
                sizes,
                whole,
                real,
                work,
                task,
                is_equilibration,
                at,
                last,
                t_new,
                not is_moment,
                t,
                ih,
                table,
                states,
            )
            total += more
        if is_cut:
            _happen(CUT, task, is_equilibration, t, t_new)
            _differentiate(CUT, task, at, is_equilibration, work.moment[0])
        t = t_new
        _set_weights(work, u, num, rtol, atol)
        is_steady = is_equilibration and stop == end and not is_cut
        is_steady = is_steady and _is_steady(work, whole, sizes.entries, num, t, h)
        _differentiate(ADVANCE, task, at, is_equilibration, t)
        for i in range(n):
            y[i] = u[i]
        if is_moment:
            _moment(code, sizes, whole, work, task, is_equilibration, False, t, end)
            if work.moment[2] != 0.0:
                return total, _EVENTS_FAILED, t, steps, rejected
            more, at = _rows_until(
                code, sizes, whole, real, work, task, is_equilibration, at, last, t, True, t, 0.0, table, states
            )
            total += more
        if is_steady and task.is_wanted:
            _differentiate(REST, task, at, is_equilibration, h)
            if work.row[0] == 0.0:
                return total, _NO_STEADY_STATE, t, steps, rejected
        if is_steady or not t < end:
            status = _NO_STEADY_STATE if is_equilibration and not is_steady and num > 0 else _OK
            return total, status, t, steps, rejected
        if t >= stop or is_cut:
            stop = _moment(code, sizes, whole, work, task, is_equilibration, True, t, end)
            if has_events:
                if work.moment[2] != 0.0:
                    return total, _EVENTS_FAILED, t, steps, rejected
                _set_weights(work, y, num, rtol, atol)
            if not _linearize(code, work, y, n, sizes.entries):
                return total, _NOT_FINITE, t, steps, rejected
            h = _initial_step(work, sizes, whole, num)
            is_cut = False
        else:
            log_error = math.log(max(error, _SMALLEST_ERROR))
            factor = _SAFETY * math.exp(_GAIN_BEFORE * log_previous - _GAIN * log_error)
            h *= min(1.0 if was_rejected else _GROW, max(_SHRINK, factor))
            log_previous = log_error
        was_rejected = False
        if stop - t <= _FINEST * t:
            # What is due next is due as good as now.
            t_new, ih = stop, 0.0
            for i in range(num):
                u[i] = y[i]
            if sizes.has_time:
                u[num] = stop
            _differentiate(CUT, task, at, is_equilibration, 0.0)
            continue
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
            call(code[_FACTOR], (work.shift, jac, work.factors, whole.pattern))
            call(code[_SOLVE], (f, work.factors, k, whole.pattern))
            # Nothing is exchanged for a larger pivot: where that went wrong a smaller step makes the diagonal win.
            call(code[_CHECK], (work.shift, jac, f, k, work.weights, work.row))
            if work.row[0] > 0.0:
                rejected += 1
                was_rejected = True
                h *= 0.5
                continue
            _stages(code, work, whole, sizes.is_solved != 0, m, ih, real.method)
            error, is_good = 0.0, True
            for i in range(num):
                u[i] += last_stage[i]
                is_good = is_good and abs(u[i]) <= _LARGEST
                part = last_stage[i] / (floors[i] + rtol * max(abs(y[i]), abs(u[i])))
                error += part * part
            error = math.sqrt(error / num)
            t_new = stop if is_at_stop else t + h
            if sizes.has_time:
                u[num] = t_new
            if is_good and error <= 1.0:
                work.row[0] = 0.0
                _differentiate(STEP, task, at, is_equilibration, ih)
                error = max(error, work.row[0])
            if is_good and error <= 1.0:
                # The new point is accepted only where the model is finite.
                if _linearize(code, work, u, n, sizes.entries):
                    break
                is_good = False
                _linearize(code, work, y, n, sizes.entries)
            rejected += 1
            was_rejected = True
            shrink = _SAFETY * math.exp(-0.2 * math.log(error)) if is_good and error < _LARGEST else _SHRINK
            h *= max(_SHRINK, shrink)
        if has_events:
            _happen(WATCH, task, is_equilibration, t, t_new)
            if work.moment[0] <= 1.0:
                is_cut, t_new = True, work.moment[3]


@inline
def _lane(code, sizes, whole, real, work, task, lane, table, states):
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
            _differentiate(BEGIN, task, 0, True, 0.0)
        else:
            _start(
                code, work, lane, whole.input_index, real.input_constant, real.is_given, sizes.inputs, sizes.sometimes
            )
            first, last = whole.lane_times[lane], whole.lane_times[lane + 1]
            for i in range(num if is_equilibrated else 0):
                if whole.is_reset[lane * num + i] == 0:
                    work.y[i] = work.observed[i]
            _differentiate(GO_ON if is_equilibrated else BEGIN, task, 0, False, 0.0)
        total, status, t, more, more_rejected = _integrate(
            code, sizes, whole, real, work, task, is_equilibration, first, last, table, states
        )
        steps += more
        rejected += more_rejected
        if status != _OK or not is_equilibration:
            break
        is_equilibration = False
        for i in range(num):
            work.observed[i] = work.y[i]
    if status == _OK:
        _differentiate(END, task, 0, False, 0.0)
    return total, status, t, steps, rejected


# ---- many lanes


@inline
def _natural(scale_factors, vectors, first, num, theta):
    for j in range(num):
        u = vectors[first + j]
        theta[j] = math.exp(scale_factors[j] * u) if scale_factors[j] != 0.0 else u


@inline
def _clear(numbers, num):
    for k in range(num):
        numbers[k] = 0.0


_ints, _floats = types.CPointer(types.int64), types.CPointer(types.float64)


def _kernel(sources: int) -> Callable:
    @compiled(
        types.void(
            _ints, _ints, _floats, _floats, types.int64, _ints, _floats, _floats, _floats, _floats, _floats, _floats
        )
    )
    def evaluate(code, ints, floats, vectors, num_vectors, counter, totals, lanes, tables, states, gradients, slopes):
        """Evaluate log likelihoods; every argument but `num_vectors` is the address of an array, or null.

        With `totals` (num_vectors,) the vectors are taken one after the other, lane by lane, until a lane fails,
        which makes the total -inf. Otherwise lanes are taken from the counter that all threads share, and what is
        known of each is written to `lanes` (num_vectors, lanes, columns of LaneColumns), and, unless they are null,
        to `tables` (num_vectors, rows, columns) and `states` (num_vectors, times, states).

        Derivatives with respect to the vectors, unless they are null: `gradients` are those of the totals
        (num_vectors, parameters), zero where a lane fails, or of each lane (num_vectors, lanes, parameters); `slopes`
        are those of the tables (num_vectors, rows, columns, parameters).
        """
        known, task, sum_of_lanes = -1, -1, 0.0 * sources  # in the closure, where the cache sees it
        whole, real = _ints_of(ints, ints), _floats_of(floats, plus(ints, NUM_INTS + 1))
        sizes = _sizes_of(whole.sizes)
        allocated = allocate(sizes.memory + WIDTH - 1)
        memory = aligned(allocated)
        work = _parts_of(memory, whole.parts)
        is_total = not is_null(totals)
        is_wanted = not is_null(gradients) or not is_null(slopes)
        num_states, dim = sizes.states - sizes.has_time, sizes.parameters
        while True:
            task = task + 1 if is_total else take(counter)
            if task >= num_vectors * sizes.lanes:
                break
            v, lane = task // sizes.lanes, task % sizes.lanes
            some_gradient = gradients
            if not is_null(gradients):
                some_gradient = plus(gradients, (v if is_total else task) * dim)
            if v != known:
                _natural(real.scale_factors, vectors, v * dim, dim, work.theta)
                known, sum_of_lanes = v, 0.0
            if not is_null(gradients) and (lane == 0 or not is_total):
                _clear(some_gradient, dim)
            table = tables if is_null(tables) else plus(tables, v * sizes.rows * sizes.columns)
            some_states = states if is_null(states) else plus(states, v * sizes.times * num_states)
            some_slopes = slopes if is_null(slopes) else plus(slopes, v * sizes.rows * sizes.columns * dim)
            about = _Task(is_wanted, code, ints, floats, memory, lane, some_gradient, some_slopes)
            total, status, t, steps, rejected = _lane(code, sizes, whole, real, work, about, lane, table, some_states)
            if is_total:
                is_good = status == _OK and abs(total) <= _LARGEST  # a total that is no number is not
                sum_of_lanes = sum_of_lanes + total if is_good else -math.inf
                totals[v] = sum_of_lanes
                if not is_good:
                    task = (v + 1) * sizes.lanes - 1
                    if not is_null(gradients):
                        _clear(some_gradient, dim)
            else:
                told = plus(lanes, task * NUM_LANE_COLUMNS)
                told[0], told[1], told[2], told[3], told[4] = total, status, t, steps, rejected
        free(allocated)

    return evaluate


evaluate = _kernel(SOURCES)
