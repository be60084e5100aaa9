"""The native integrator over many lanes, compiled once per machine.

Nothing of a model is a constant in it: sizes are data, functions are addresses.
"""

import math
from collections.abc import Callable

from numba import types

from kinbayes.ode.integrator import Task, differentiate, integrate
from kinbayes.ode.intrinsics import (
    aligned,
    allocate,
    call,
    compiled,
    free,
    inline,
    is_null,
    numbers,
    plus,
    pointers,
    take,
)
from kinbayes.ode.memory import Parts
from kinbayes.ode.numbers import (
    BEGIN,
    END,
    EQUILIBRATES,
    GO_ON,
    GOES_ON,
    NUM_INTS,
    NUM_LANE_COLUMNS,
    PHASE,
    STARTS,
    WIDTH,
    Code,
    Floats,
    Ints,
    Sizes,
)
from kinbayes.ode.sources import SOURCES
from kinbayes.ode.status import Status

_ints_of, _floats_of, _parts_of, _sizes_of = pointers(Ints), pointers(Floats), pointers(Parts), numbers(Sizes)
_START, _OK, _LARGEST = Code._fields.index("start"), int(Status.OK), 1e300

# ---- one lane


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
def _lane(code, sizes, whole, real, work, task, lane, table, states):
    """Simulate one lane; the natural parameter values are in `work` already."""
    num = sizes.states - sizes.has_time
    is_equilibrated = whole.is_equilibrated[lane] != 0
    is_equilibration = is_equilibrated
    steps = rejected = 0
    while True:
        work.moment[PHASE] = EQUILIBRATES if is_equilibration else GOES_ON if is_equilibrated else STARTS
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
            differentiate(BEGIN, task, 0, 0.0)
        else:
            _start(
                code, work, lane, whole.input_index, real.input_constant, real.is_given, sizes.inputs, sizes.sometimes
            )
            first, last = whole.lane_times[lane], whole.lane_times[lane + 1]
            for i in range(num if is_equilibrated else 0):
                if whole.is_reset[lane * num + i] == 0:
                    work.y[i] = work.observed[i]
            differentiate(GO_ON if is_equilibrated else BEGIN, task, 0, 0.0)
        total, status, t, more, more_rejected = integrate(
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
        differentiate(END, task, 0, 0.0)
    return total, status, t, steps, rejected


@inline
def _moving(work, num):
    """Return which state moves most for its size, or -1 where none moves."""
    found, most = -1.0, 0.0
    for i in range(num):
        speed = abs(work.f[i]) / max(abs(work.y[i]), work.floors[i])
        if speed > most:
            found, most = float(i), speed
    return found


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
            about = Task(is_wanted, code, ints, floats, memory, lane, some_gradient, some_slopes)
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
                told[5] = -1.0 if status == _OK else _moving(work, num_states)
                told[6] = 0.0 if told[5] < 0.0 else work.f[int(told[5])]
                told[7] = work.moment[PHASE]
        free(allocated)

    return evaluate


evaluate = _kernel(SOURCES)
