"""The integration of one lane: adaptive steps, the times of the data, and the moments where the model jumps.

References
----------
Steinebach, G. (2023). Construction of Rosenbrock-Wanner method Rodas5P and numerical benchmarks within the Julia
Differential Equations package. BIT Numerical Mathematics 63, 27. doi:10.1007/s10543-023-00967-x
Hairer, E., Wanner, G. (1996). Solving Ordinary Differential Equations II. Springer. doi:10.1007/978-3-642-05221-7
"""

import math
from typing import NamedTuple

import numpy as np

from kinbayes.ode import tableau
from kinbayes.ode.dense_output import states_within
from kinbayes.ode.intrinsics import call, inline, is_null, jit, plus
from kinbayes.ode.numbers import (
    ADVANCE,
    ARRIVE,
    CUT,
    FAILED,
    JUMP,
    LEAVE,
    NEXT,
    NUM_CODE,
    OBSERVE,
    PLACE,
    REST,
    STEP,
    TIME,
    WATCH,
    WIDTH,
    Code,
)
from kinbayes.ode.segments import NEVER, segment
from kinbayes.ode.status import Status
from kinbayes.ode.steady_state import find, is_near_rest
from kinbayes.ode.steps import initial_step, linearize, set_weights, stages

_FACTOR, _SOLVE, _CHECK = (Code._fields.index(name) for name in ("factor", "solve", "check"))
_DERIVATIVES, _EVENTS = Code._fields.index("derivatives"), Code._fields.index("events")
_GAMMA, _NUM_STAGES = tableau.GAMMA, tableau.NUM_STAGES
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


class Task(NamedTuple):
    """What derivatives are told of a lane."""

    is_wanted: bool
    code: np.ndarray
    ints: np.ndarray
    floats: np.ndarray
    memory: np.ndarray
    lane: int
    gradient: np.ndarray
    slopes: np.ndarray


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


@inline
def differentiate(event, task, at, a):
    """Let the loops of derivatives do their part, where derivatives are wanted."""
    if task.is_wanted:
        call(
            task.code[_DERIVATIVES],
            (event, task.code, task.ints, task.floats, task.memory, task.lane, at, a, task.gradient, task.slopes),
        )


@inline
def _happen(kind, task, t, t_new):
    """Let the loops of events do their part."""
    call(
        task.code[_EVENTS],
        (kind, task.code, task.ints, task.floats, task.memory, task.lane, task.is_wanted, t, t_new),
    )


@jit
def _observe_at(code, whole, real, work, task, at, theta, n, num, table, states, columns):
    """Do the same for time `at`, at a place within the step, with the states and derivatives that are wanted."""
    states_within(work, work.observed, n, theta)
    total = _observe(code, whole, real, work, work.observed, at, table, columns)
    differentiate(OBSERVE, task, at, theta)
    if not is_null(states):
        for i in range(num):
            states[at * num + i] = work.observed[i]
    return total


@jit
def integrate(code, sizes, whole, real, work, task, is_equilibration, at, last, table, states):
    """Integrate from time 0 and observe at the times `at` to `last`.

    An equilibration, and a time that is infinite, are reached where nothing moves any more. Returns the log likelihood,
    the status, the time reached, and the numbers of steps and of rejected ones.
    """
    n, num = sizes.states, sizes.states - sizes.has_time
    rtol, atol = real.tolerances[0], real.tolerances[1]
    y, u, f, jac, k = work.y, work.u, work.f, work.jac, work.stages
    m = (n + WIDTH - 1) // WIDTH * WIDTH
    last_stage = plus(k, (_NUM_STAGES - 1) * m)
    total, t, steps, rejected = 0.0, 0.0, 0, 0
    num_times = last  # up to the last one that is finite
    while num_times > at and real.times[num_times - 1] == math.inf:
        num_times -= 1
    goes_to_rest = is_equilibration or num_times < last
    end = NEVER if goes_to_rest else real.times[last - 1]
    has_events = sizes.has_events != 0 and num > 0
    floors = work.floors
    for i in range(n):
        u[i], work.largest[i], work.weights[i] = y[i], 0.0, _LARGEST
    for i in range(_NUM_STAGES * m):
        k[i] = 0.0  # the lane before may have left NaN, which no weight of 0 takes away
    error, log_previous, h, ih, was_rejected = 0.0, 0.0, 0.0, 0.0, False
    stop, t_new, is_cut = 0.0, end if num == 0 else 0.0, False
    # Whether the step's end is still to be taken over, and whether what happens at this time has happened.
    is_new, is_told, is_steady = True, False, False
    while True:
        # Observe up to the new time: at first that of the start. What happens at that time comes before its rows.
        is_moment = has_events and not is_told and (is_cut or t_new >= stop)
        while at < num_times and (real.times[at] < t_new or (real.times[at] == t_new and not is_moment)):
            theta = (real.times[at] - t) * ih
            total += _observe_at(code, whole, real, work, task, at, theta, n, num, table, states, sizes.columns)
            at += 1
        if is_new:
            if is_cut:
                for i in range(n):
                    u[i] = work.point[i]
                differentiate(CUT, task, at, work.moment[PLACE])
            t, is_new = t_new, False
            set_weights(work, u, num, rtol, atol)
            is_steady = goes_to_rest and at == num_times and stop == end and not is_cut
            is_steady = is_steady and is_near_rest(work, whole, sizes, t, h, rtol)
            differentiate(ADVANCE, task, at, t)
            for i in range(n):
                y[i] = u[i]
        if is_moment:
            _happen(ARRIVE, task, t, end)
            if work.moment[FAILED] != 0.0:
                return total, _EVENTS_FAILED, t, steps, rejected
            ih, is_told = 0.0, True
            continue
        is_steady = is_steady and find(code, work, whole, sizes, t, rtol)
        if is_steady and task.is_wanted:
            differentiate(REST, task, at, h)
            if work.row[0] == 0.0:
                return total, _NO_STEADY_STATE, t, steps, rejected
        if is_steady or not t < end:
            if goes_to_rest and not is_steady and num > 0:
                return total, _NO_STEADY_STATE, t, steps, rejected
            ih = 0.0
            while at < last:
                total += _observe_at(code, whole, real, work, task, at, 0.0, n, num, table, states, sizes.columns)
                at += 1
            return total, _OK, t, steps, rejected
        if t >= stop or is_cut:
            if has_events:
                _happen(LEAVE, task, t, end)
                stop = work.moment[NEXT]
                if work.moment[FAILED] != 0.0:
                    return total, _EVENTS_FAILED, t, steps, rejected
                set_weights(work, y, num, rtol, atol)
            else:
                stop = segment(code, work, sizes, t, end)
            if not linearize(code, work, y, n, sizes.entries):
                return total, _NOT_FINITE, t, steps, rejected
            if not has_events and t > 0.0 and sizes.switches > 0:
                differentiate(JUMP, task, at, t)
            h = initial_step(work, sizes, whole, num)
            is_cut = False
        else:
            log_error = math.log(max(error, _SMALLEST_ERROR))
            factor = _SAFETY * math.exp(_GAIN_BEFORE * log_previous - _GAIN * log_error)
            h *= min(1.0 if was_rejected else _GROW, max(_SHRINK, factor))
            log_previous = log_error
        was_rejected = False
        if stop - t <= _FINEST * t:
            # What is due next is due as good as now.
            t = t_new = stop
            ih, is_told = 0.0, False
            if sizes.has_time:
                y[num] = stop
            continue
        while True:
            if steps == sizes.max_steps:
                status = _NO_STEADY_STATE if goes_to_rest and at == num_times else _MAX_STEPS
                return total, status, t, steps, rejected
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
            stages(code, work, whole, sizes.is_solved != 0, m, ih, real.method)
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
                differentiate(STEP, task, at, ih)
                error = max(error, work.row[0])
            if is_good and error <= 1.0:
                # The new point is accepted only where the model is finite.
                if linearize(code, work, u, n, sizes.entries):
                    break
                is_good = False
                linearize(code, work, y, n, sizes.entries)
            rejected += 1
            was_rejected = True
            shrink = _SAFETY * math.exp(-0.2 * math.log(error)) if is_good and error < _LARGEST else _SHRINK
            h *= max(_SHRINK, shrink)
        is_new, is_told = True, False
        if has_events:
            _happen(WATCH, task, t, t_new)
            if work.moment[PLACE] <= 1.0:
                is_cut, t_new = True, work.moment[TIME]
