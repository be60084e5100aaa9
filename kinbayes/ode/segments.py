"""Segments of a lane between the times at which its model switches."""

from kinbayes.ode.intrinsics import call, inline, plus
from kinbayes.ode.numbers import Code

NEVER = 1e100  # time at which a model that has not come to rest never will
SAME_TIME = 1e-14  # relative distance below which two times count as one
_SWITCH = Code._fields.index("switch")


@inline
def turn(code, work, sizes, at):
    """Set the switches as they are at a time; keep what they were."""
    switches = plus(work.constants, sizes.constants - sizes.switches)
    for s in range(sizes.switches):
        work.turned[s] = switches[s]
    work.shift[0] = at
    if sizes.switches > 0:
        call(code[_SWITCH], (work.shift, work.constants, switches))


@inline
def segment(code, work, sizes, t, end):
    """Set the switches for the time after `t`; return when the next of them changes, at most `end`."""
    times = plus(work.constants, sizes.constants - 2 * sizes.switches)
    stop = end
    for s in range(sizes.switches):
        if times[s] > t * (1.0 + SAME_TIME) and times[s] < stop:
            stop = times[s]
    # In the middle of a segment no comparison of times is in doubt.
    turn(code, work, sizes, 0.5 * (t + stop) if stop < NEVER else 2.0 * t + 1.0)
    return stop
