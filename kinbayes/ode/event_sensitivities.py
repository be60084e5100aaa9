"""Tangents at the moments where a model jumps; the loops of events call these by address.

A moment comes later by some time for every tangent. For what happens then, the states are differentiated at the moment
instead of at a fixed time: the tangents grow by the derivatives times that delay, are taken through what happens, and
shrink by the derivatives after it times the delay.
"""

from numba import types

from kinbayes.ode.dense_output import states_within, tangents_within
from kinbayes.ode.intrinsics import BLOCK, call, compiled, inline, jit, numbers, plus, pointers
from kinbayes.ode.memory import DerivativeParts, EventParts, Parts
from kinbayes.ode.numbers import (
    AT_ROOT,
    AT_START,
    AT_SWITCH,
    CROSS,
    EQUILIBRATES,
    FIRE,
    MAKE,
    MOVE,
    PHASE,
    TAKE,
    Code,
    DerivativeInts,
    DerivativeSizes,
    EventInts,
    EventSizes,
    Ints,
    Sizes,
)
from kinbayes.ode.sources import SOURCES

_LINEARIZE, _PARTIALS = Code._fields.index("linearize"), Code._fields.index("moment_partials")
_CONDITIONS, _CONDITIONAL = Code._fields.index("conditions"), Code._fields.index("conditional")
_ints_of, _parts_of, _sizes_of = pointers(Ints), pointers(Parts), numbers(Sizes)
_derivative_ints_of, _derivative_parts_of = pointers(DerivativeInts), pointers(DerivativeParts)
_derivative_sizes_of = numbers(DerivativeSizes)
_event_ints_of, _event_parts_of, _event_sizes_of = pointers(EventInts), pointers(EventParts), numbers(EventSizes)
_FIRST, _FIRST_OF_EVENTS = len(Ints._fields), len(Ints._fields) + len(DerivativeInts._fields)
_LARGEST = 1e300
_HALVINGS = 52  # of a step, to find what happens within it


@inline
def _move(tangents, slopes, delay, sign, n, blocks):
    """Add derivatives times a delay to tangents."""
    for b in range(blocks):
        for i in range(n):
            for j in range(BLOCK):
                tangents[(b * n + i) * BLOCK + j] += sign * slopes[i] * delay[b * BLOCK + j]


@jit
def _differentiated(part, own, tangents, tangent, row, delay, slopes, n, blocks, out):
    """Set `out` to the derivative of a row of the moments' functions at the moment: along tangents and inputs."""
    for x in range(blocks * BLOCK):
        out[x] = 0.0
    for q in range(own.moment_start[row], own.moment_start[row + 1]):
        value, index = part.partials[q], own.moment_index[q]
        if not abs(value) <= _LARGEST:
            continue
        if own.moment_kind[q] == 0:
            for b in range(blocks):
                for j in range(BLOCK):
                    moved = tangents[(b * n + index) * BLOCK + j] + slopes[index] * delay[b * BLOCK + j]
                    out[b * BLOCK + j] += value * moved
        elif tangent[index] >= 0:
            out[tangent[index]] += value


@jit
def _at_root(part, own, tangents, tangent, row, n, blocks):
    """Set the delay of a moment from the function whose passing makes it."""
    for x in range(blocks * BLOCK):
        part.delay[x] = 0.0
    slope = 0.0
    for q in range(own.moment_start[row], own.moment_start[row + 1]):
        if own.moment_kind[q] == 0:
            slope += part.partials[q] * part.before[own.moment_index[q]]
    _differentiated(part, own, tangents, tangent, row, part.delay, part.before, n, blocks, part.new_tangents)
    for x in range(blocks * BLOCK):
        # A function that passes by a jump of its own has no slope; such a moment does not move.
        part.delay[x] = -part.new_tangents[x] / slope if slope != 0.0 else 0.0


@jit
def _cross(code, work, part, own, behind, sizes, own_sizes, tangent):
    """Move the tangents at the end of a step over the conditions that have changed within it.

    Where that makes the derivatives jump, the errors of the states have kept the step short, so that its end is as good
    a place as the moment itself.
    """
    n, num = sizes.states, own_sizes.conditions
    were, are, within = part.conditions, plus(part.conditions, num), plus(part.conditions, 2 * num)
    call(code[_CONDITIONS], (work.y, work.constants, were))
    call(code[_CONDITIONS], (work.u, work.constants, are))
    for k in range(num):
        if were[k] != are[k]:
            low, high = 0.0, 1.0
            for _ in range(_HALVINGS):
                middle = 0.5 * (low + high)
                states_within(work, work.point, n, middle)
                call(code[_CONDITIONS], (work.point, work.constants, within))
                if within[k] == were[k]:
                    low = middle
                else:
                    high = middle
            states_within(work, work.point, n, high)
            tangents_within(behind, behind.observed, own_sizes.blocks, n, high)
            call(code[_CONDITIONAL], (work.point, work.constants, were, part.before))
            call(code[_PARTIALS], (work.point, work.constants, behind.more, part.partials))
            row = own_sizes.modes + own_sizes.events + own_sizes.assignments + k
            _at_root(part, own, behind.observed, tangent, row, n, own_sizes.blocks)
            were[k] = are[k]
            call(code[_CONDITIONAL], (work.point, work.constants, were, part.after))
            _move(behind.u, part.before, part.delay, 1.0, n, own_sizes.blocks)
            _move(behind.u, part.after, part.delay, -1.0, n, own_sizes.blocks)


_ints, _floats = types.CPointer(types.int64), types.CPointer(types.float64)


def _event_derivatives(sources: int):
    @compiled(types.void(types.int64, _ints, _ints, _floats, _floats, types.int64, types.int64, types.int64))
    def event_derivatives(kind, code, ints, floats, memory, lane, index, place):
        """Move the tangents of a lane over what happens.

        `index` is the switch of `AT_SWITCH`, the mode of `AT_ROOT`, and else the event; `place` is that of the list of
        events that wait.
        """
        whole = _ints_of(ints, ints)
        own, of_lanes = (
            _event_ints_of(ints, plus(ints, _FIRST_OF_EVENTS)),
            _derivative_ints_of(ints, plus(ints, _FIRST)),
        )
        sizes, own_sizes = _sizes_of(whole.sizes), _event_sizes_of(own.event_sizes)
        derivative_sizes = _derivative_sizes_of(of_lanes.derivative_sizes)
        work, part = _parts_of(memory, whole.parts), _event_parts_of(memory, own.event_parts)
        behind = _derivative_parts_of(memory, of_lanes.derivative_parts)
        n, blocks, tangents = sizes.states, own_sizes.blocks, behind.y
        of_inputs = of_lanes.equilibration_tangent if work.moment[PHASE] == EQUILIBRATES else of_lanes.input_tangent
        tangent = plus(of_inputs, lane * sizes.inputs)
        if kind == CROSS:
            _cross(code, work, part, own, behind, sizes, own_sizes, tangent)
            return
        most, size = own_sizes.most, own_sizes.blocks * BLOCK
        waiting = plus(part.due_delay, place * size)
        first = own.assignment_start[index] if kind in (FIRE, TAKE, MAKE) else 0
        num = own.assignment_start[index + 1] - first if kind in (FIRE, TAKE, MAKE) else 0
        row = own_sizes.modes + own_sizes.events + first
        # The factors are computed anew in every step; until then the Jacobian, which nobody wants, may lie there.
        slopes = part.after if kind in (MOVE, MAKE) else part.before
        call(code[_LINEARIZE], (work.y, work.constants, slopes, work.factors))
        if kind in (AT_ROOT, FIRE, TAKE):
            call(code[_PARTIALS], (work.y, work.constants, behind.more, part.partials))
        if kind == AT_START:
            for x in range(size):
                part.delay[x] = 0.0 * sources
        elif kind == AT_SWITCH:
            for x in range(size):
                part.delay[x] = 0.0
            for q in range(derivative_sizes.switch_entries):
                j = tangent[of_lanes.switch_inputs[q]]
                if j >= 0 and of_lanes.switch_numbers[q] == index:
                    part.delay[j] += behind.times[q]
        elif kind == AT_ROOT:
            _at_root(part, own, tangents, tangent, index, n, blocks)
        elif kind == MOVE:
            _move(tangents, part.before, part.delay, 1.0, n, blocks)
            _move(tangents, part.after, part.delay, -1.0, n, blocks)
        elif kind == FIRE:
            of_delay = own_sizes.modes + index
            _differentiated(part, own, tangents, tangent, of_delay, part.delay, part.before, n, blocks, waiting)
            for x in range(size):
                waiting[x] += part.delay[x]
            for k in range(num):
                kept = plus(part.value_tangents, (place * most + k) * size)
                _differentiated(part, own, tangents, tangent, row + k, part.delay, part.before, n, blocks, kept)
        elif kind == TAKE:
            for x in range(size):
                part.delay[x] = waiting[x]
            for k in range(num):
                new, kept = plus(part.new_tangents, k * size), plus(part.value_tangents, (place * most + k) * size)
                if own.keeps_values[index] != 0:
                    for x in range(size):
                        new[x] = kept[x]
                else:
                    _differentiated(part, own, tangents, tangent, row + k, part.delay, part.before, n, blocks, new)
            _move(tangents, part.before, part.delay, 1.0, n, blocks)
        elif kind == MAKE:
            for k in range(num):
                i = own.assignment_state[first + k]
                for b in range(blocks):
                    for j in range(BLOCK):
                        tangents[(b * n + i) * BLOCK + j] = part.new_tangents[k * size + b * BLOCK + j]
            _move(tangents, part.after, part.delay, -1.0, n, blocks)

    return event_derivatives


event_derivatives = _event_derivatives(SOURCES)
