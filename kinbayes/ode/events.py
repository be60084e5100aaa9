"""Events along the steps of the kernel, which calls these loops by address: when a model jumps, and what happens then.

The semantics are those of SBML Level 3 Version 2, section 4.11: all that is due at a moment is done one after the
other, by priority, and each may make others fire. Before that come the changes that experiments make, the first events:
no other event has seen the states before them.

References
----------
Hucka et al. (2019), The Systems Biology Markup Language (SBML): Language Specification for Level 3 Version 2 Core
Release 2. Journal of Integrative Bioinformatics 16(2). doi:10.1515/jib-2019-0021
"""

import math

from numba import types

from kinbayes.ode.dense_output import state_within, states_within
from kinbayes.ode.intrinsics import call, compiled, inline, jit, numbers, plus, pointers
from kinbayes.ode.memory import EventParts, Parts
from kinbayes.ode.numbers import (
    ARRIVE,
    AT_ROOT,
    AT_START,
    AT_SWITCH,
    FAILED,
    FIRE,
    GOES_ON,
    JUMP,
    MAKE,
    MOVE,
    NEXT,
    PHASE,
    PLACE,
    TAKE,
    TIME,
    WATCH,
    Code,
    DerivativeInts,
    EventInts,
    EventSizes,
    Ints,
    Sizes,
)
from kinbayes.ode.segments import SAME_TIME, segment, turn
from kinbayes.ode.sources import SOURCES
from kinbayes.ode.steps import linearize

_ASSIGN, _FIRES, _SEEN = (Code._fields.index(name) for name in ("assign", "fires", "watch"))
_DERIVATIVES, _EVENT_DERIVATIVES = Code._fields.index("derivatives"), Code._fields.index("event_derivatives")
_ints_of, _parts_of, _sizes_of = pointers(Ints), pointers(Parts), numbers(Sizes)
_event_ints_of, _event_parts_of, _event_sizes_of = pointers(EventInts), pointers(EventParts), numbers(EventSizes)
_FIRST = len(Ints._fields) + len(DerivativeInts._fields)  # of the sections for events
_FINEST = 1e-16  # part of the time within which a moment is found
_MOST = 100_000  # events of one moment, and changes of modes within one step
_NONE = 2.0  # the place of no moment within a step
_UNKNOWN = 2.0  # which of two numbers is larger, before the start
_COUNT, _RANDOM, _CAUSE = range(3)  # of `about`
# The minimal standard generator of Park and Miller (1988), doi:10.1145/63039.63042: a lane's own, always the same.
_FACTOR, _MODULUS, _SEED = 16807.0, 2147483647.0, 1043618065.0


# ---- modes


@inline
def _modes(work, sizes, own_sizes):
    return plus(work.constants, sizes.constants - 2 * sizes.switches - own_sizes.modes)


@inline
def _pulses(work, sizes, own_sizes):
    return plus(work.constants, sizes.constants - 2 * sizes.switches - own_sizes.modes - own_sizes.pulses)


@inline
def _is_passed(before, now):
    """Return whether two numbers have become equal, or have passed each other: by their sides before and now."""
    return (now == 0.0 and before != 0.0) or (now != 0.0 and now == -before)


@jit
def _settle(code, work, part, sizes, own_sizes, y):
    """Set the modes to what they are at a point; those inside others come first."""
    modes = _modes(work, sizes, own_sizes)
    for _ in range(own_sizes.modes + 1):
        call(code[_SEEN], (y, work.constants, part.seen))
        is_settled = True
        for m in range(own_sizes.modes):
            is_settled = is_settled and part.seen[m] == modes[m]
            modes[m] = part.seen[m]
        if is_settled:
            break


@jit
def _is_other(code, work, part, own, sizes, own_sizes, theta, t, t_new):
    """Return whether a mode changes between the start of the step and a place within it."""
    n = sizes.states
    for k in range(own_sizes.watched):
        work.point[own.watched[k]] = state_within(work, own.watched[k], n, theta)
    work.moment[TIME] = t_new if theta == 1.0 else t + theta * (t_new - t)
    if sizes.has_time:
        work.point[n - 1] = work.moment[TIME]
    call(code[_SEEN], (work.point, work.constants, part.seen))
    modes = _modes(work, sizes, own_sizes)
    is_other = False
    for k in range(own_sizes.modes):
        is_other = is_other or part.seen[k] != modes[k]
    return is_other


@jit
def _next_change(code, work, part, own, sizes, own_sizes, after, t, t_new):
    """Return the first place in the step, after another one, at which a mode has changed, or none.

    There it has changed: all that asks again at that point, which is left behind, gets the same answer.
    """
    low = after
    for k in range(own_sizes.samples):
        high = (k + 1.0) / own_sizes.samples
        if high > low:
            if _is_other(code, work, part, own, sizes, own_sizes, high, t, t_new):
                while (high - low) * (t_new - t) > _FINEST * t_new:
                    middle = 0.5 * (low + high)
                    if not low < middle < high:
                        break
                    if _is_other(code, work, part, own, sizes, own_sizes, middle, t, t_new):
                        high = middle
                    else:
                        low = middle
                states_within(work, work.point, sizes.states, high)
                _is_other(code, work, part, own, sizes, own_sizes, high, t, t_new)
                return high
            low = high
    return _NONE


@jit
def _watch(code, work, part, own, sizes, own_sizes, t, t_new):
    """Find the first moment of a step: where an event fires, or a mode changes that is in the derivatives."""
    modes = _modes(work, sizes, own_sizes)
    theta, num = 0.0, own_sizes.modes
    for _ in range(_MOST):
        theta = _next_change(code, work, part, own, sizes, own_sizes, theta, t, t_new)
        if theta > 1.0:
            break
        cause = -1
        for m in range(num):
            part.kept[m] = modes[m]
            cause = m if cause < 0 and part.seen[m] != modes[m] else cause
        _settle(code, work, part, sizes, own_sizes, work.point)
        is_moment = False
        for m in range(num):
            is_moment = is_moment or (own.moves_rates[m] != 0 and modes[m] != part.kept[m])
        for p in range(own_sizes.pulses):
            is_moment = is_moment or _is_passed(part.sides[p], part.seen[num + p])
        if own_sizes.events > 0:
            call(code[_FIRES], (work.point, work.constants, part.fires))
            for e in range(own_sizes.events):
                is_moment = is_moment or (abs(part.fires[e]) > 0.0 and part.is_true[e] == 0.0)
        if is_moment:
            for m in range(num):
                modes[m] = part.kept[m]
            part.about[_CAUSE] = cause
            break
        for p in range(own_sizes.pulses):
            part.sides[p] = part.seen[num + p]
        if own_sizes.events > 0:
            _fall(part, own, own_sizes)
    work.moment[PLACE] = theta


# ---- events


@jit
def _fall(part, own, own_sizes):
    """Let go of the triggers that have become false, and of what waits for one that must not."""
    for e in range(own_sizes.events):
        if part.is_true[e] != 0.0 and not abs(part.fires[e]) > 0.0:
            part.is_true[e] = 0.0
            if own.is_persistent[e] == 0:
                for place in range(own_sizes.capacity):
                    if part.waiting[place] == e:
                        part.waiting[place] = -1.0


@inline
def _tell(kind, code, ints, floats, memory, lane, index, place):
    """Let the loops that move tangents do their part."""
    call(code[_EVENT_DERIVATIVES], (kind, code, ints, floats, memory, lane, index, place))


@jit
def _fire(code, ints, floats, memory, lane, work, part, own, own_sizes, is_wanted, t, num_events):
    """Look at the first triggers; what has become true comes to wait."""
    call(code[_FIRES], (work.y, work.constants, part.fires))
    _fall(part, own, own_sizes)
    is_assigned = False
    for e in range(num_events):
        if part.is_true[e] == 0.0 and abs(part.fires[e]) > 0.0:
            part.is_true[e] = 1.0
            place = 0
            while place < own_sizes.capacity and part.waiting[place] >= 0.0:
                place += 1
            delay = part.fires[own_sizes.events + e]
            if place == own_sizes.capacity or not delay >= 0.0:
                work.moment[FAILED] = 1.0
                return
            if not is_assigned:
                call(code[_ASSIGN], (work.y, work.constants, part.assigned))
                is_assigned = True
            part.waiting[place], part.due[place] = e, t + delay
            part.order[place] = part.about[_COUNT]
            part.about[_COUNT] += 1.0
            first = own.assignment_start[e]
            for k in range(own.assignment_start[e + 1] - first):
                part.values[place * own_sizes.most + k] = part.assigned[first + k]
            if is_wanted:
                _tell(FIRE, code, ints, floats, memory, lane, e, place)


@jit
def _choose(part, own_sizes, t, num_events):
    """Return the place of what comes next at a time, or -1: by priority, by lot among equals, else by order.

    Only the first events are asked.
    """
    best, highest, num_equal = -1, -math.inf, 0.0
    for place in range(own_sizes.capacity):
        if 0.0 <= part.waiting[place] < num_events and part.due[place] <= t * (1.0 + SAME_TIME):
            priority = part.fires[2 * own_sizes.events + int(part.waiting[place])]
            if best < 0 or priority > highest:
                best, highest, num_equal = place, priority if priority > -math.inf else -math.inf, 1.0
            elif priority == highest and highest > -math.inf:
                num_equal += 1.0
                part.about[_RANDOM] = part.about[_RANDOM] * _FACTOR % _MODULUS
                if part.about[_RANDOM] * num_equal < _MODULUS:
                    best = place
            elif highest == -math.inf and part.order[place] < part.order[best]:
                best = place
    return best


@jit
def _happen(code, ints, floats, memory, lane, work, part, own, own_sizes, is_wanted, t, sizes, num_events):
    """Do all of the first events that is due at a time."""
    if num_events == 0:
        return
    _fire(code, ints, floats, memory, lane, work, part, own, own_sizes, is_wanted, t, num_events)
    for count in range(_MOST + 1):
        place = _choose(part, own_sizes, t, num_events)
        if place < 0 or work.moment[FAILED] != 0.0:
            break
        if count == _MOST:
            work.moment[FAILED] = 1.0
            break
        e = int(part.waiting[place])
        first, values = own.assignment_start[e], plus(part.values, place * own_sizes.most)
        if own.keeps_values[e] == 0:
            call(code[_ASSIGN], (work.y, work.constants, part.assigned))
            values = plus(part.assigned, first)
        if is_wanted:
            _tell(TAKE, code, ints, floats, memory, lane, e, place)
        for k in range(own.assignment_start[e + 1] - first):
            work.y[own.assignment_state[first + k]] = values[k]
        part.waiting[place] = -1.0
        _settle(code, work, part, sizes, own_sizes, work.y)
        pulses, sides = _pulses(work, sizes, own_sizes), plus(part.seen, own_sizes.modes)
        for p in range(own_sizes.pulses):
            # What was assigned may have made numbers equal, or have ended that they are.
            pulses[p] = pulses[p] if sides[p] == part.sides[p] else 1.0 if sides[p] == 0.0 else 0.0
            part.sides[p] = sides[p]
        if is_wanted:
            _tell(MAKE, code, ints, floats, memory, lane, e, place)
        _fire(code, ints, floats, memory, lane, work, part, own, own_sizes, is_wanted, t, num_events)


@jit
def _turn(code, ints, floats, memory, lane, work, part, own, sizes, own_sizes, is_wanted, t):
    """Set the modes to what they are at a moment, and tangents with them."""
    modes = _modes(work, sizes, own_sizes)
    for m in range(own_sizes.modes):
        part.kept[m] = modes[m]
    if is_wanted:
        kind, index = AT_START, 0
        switches = plus(work.constants, sizes.constants - sizes.switches)
        if part.about[_CAUSE] >= 0.0:
            kind, index = AT_ROOT, int(part.about[_CAUSE])
        else:
            for s in range(sizes.switches if t > 0.0 else 0):
                if work.turned[s] != switches[s]:
                    kind, index = AT_SWITCH, s
        _tell(kind, code, ints, floats, memory, lane, index, 0)
    part.about[_CAUSE] = -1.0
    _settle(code, work, part, sizes, own_sizes, work.y)
    pulses, sides = _pulses(work, sizes, own_sizes), plus(part.seen, own_sizes.modes)
    for p in range(own_sizes.pulses):
        pulses[p] = 1.0 if _is_passed(part.sides[p], sides[p]) else 0.0
        part.sides[p] = sides[p]
    is_moved = False
    for m in range(own_sizes.modes):
        is_moved = is_moved or (own.moves_rates[m] != 0 and modes[m] != part.kept[m])
    if is_wanted and is_moved:
        _tell(MOVE, code, ints, floats, memory, lane, 0, 0)


@jit
def _prepare(code, work, part, own, sizes, own_sizes, goes_on):
    """Forget the lane before; nothing waits, and unless it goes on from an equilibration, no trigger was looked at."""
    modes = _modes(work, sizes, own_sizes)
    for m in range(own_sizes.modes):
        modes[m] = 0.0
    _settle(code, work, part, sizes, own_sizes, work.y)
    for p in range(own_sizes.pulses):
        part.sides[p] = _UNKNOWN
    for e in range(0 if goes_on else own_sizes.events):
        part.is_true[e] = own.is_true_before[e]
    for place in range(own_sizes.capacity):
        part.waiting[place] = -1.0
    part.about[_COUNT], part.about[_RANDOM], part.about[_CAUSE] = 0.0, _SEED, -1.0
    work.moment[PLACE], work.moment[FAILED] = _NONE, 0.0


_ints, _floats = types.CPointer(types.int64), types.CPointer(types.float64)


def _events(sources: int):
    @compiled(
        types.void(
            types.int64,
            _ints,
            _ints,
            _floats,
            _floats,
            types.int64,
            types.boolean,
            types.float64,
            types.float64,
        )
    )
    def events(kind, code, ints, floats, memory, lane, is_wanted, t, t_new):
        """Do what the integrator asks for; what it is told is in the part `moment` of the memory.

        `WATCH` is of a step from `t` to `t_new`. All else is at `t`, and `t_new` is the end of all. `ARRIVE` comes
        before the rows of its time, `LEAVE` after them: a comparison with time that is strict, or that ends with its
        time, changes only then.
        """
        whole, own = _ints_of(ints, ints), _event_ints_of(ints, plus(ints, _FIRST))
        sizes, own_sizes = _sizes_of(whole.sizes), _event_sizes_of(own.event_sizes)
        work, part = _parts_of(memory, whole.parts), _event_parts_of(memory, own.event_parts)
        if kind == WATCH:
            work.moment[PLACE] = _NONE + 0.0 * sources
            if own_sizes.modes > 0:
                _watch(code, work, part, own, sizes, own_sizes, t, t_new)
        else:
            stop = t
            if kind == ARRIVE:
                turn(code, work, sizes, t)
                if t == 0.0:
                    _prepare(code, work, part, own, sizes, own_sizes, work.moment[PHASE] == GOES_ON)
            else:
                stop = segment(code, work, sizes, t, t_new)
            if is_wanted and t > 0.0 and sizes.switches > 0:
                linearize(code, work, work.y, sizes.states, sizes.entries)
                none = plus(memory, 0)
                call(code[_DERIVATIVES], (JUMP, code, ints, floats, memory, lane, 0, t, none, none))
            _turn(code, ints, floats, memory, lane, work, part, own, sizes, own_sizes, is_wanted, t)
            if own_sizes.events > 0:
                about = (code, ints, floats, memory, lane, work, part, own, own_sizes, is_wanted, t)
                _happen(*about, sizes, own_sizes.changes)
                _happen(*about, sizes, own_sizes.events)
            work.moment[NEXT] = stop
            for place in range(own_sizes.capacity):
                if part.waiting[place] >= 0.0:
                    work.moment[NEXT] = min(work.moment[NEXT], part.due[place])

    return events


events = _events(SOURCES)
