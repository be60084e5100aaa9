"""Steady states: where a simulation has come close to one, Newton's method finds it, or finds that there is none.

A step of the implicit Euler method that is much longer than all that has been simulated is a step of Newton's method
where the Jacobian is regular. Where it is singular, since the model conserves something, the step conserves that too.

References
----------
Kelley, C. T., Keyes, D. E. (1998). Convergence analysis of pseudo-transient continuation. SIAM Journal on Numerical
Analysis 35(2), 508-523. doi:10.1137/S0036142996304796
"""

import math

from kinbayes.ode.intrinsics import call, inline, jit, plus
from kinbayes.ode.numbers import WIDTH, Code
from kinbayes.ode.steps import linearize

_FACTOR, _SOLVE, _CHECK = (Code._fields.index(name) for name in ("factor", "solve", "check"))
_STEADY = 0.1  # part of its tolerance that a state at rest may still move
# Relative tolerances: a simulation need not come to rest at a finer one than the first, since Newton's method goes on
# from there; rounding keeps that from a finer one than the second.
_NEAR, _FINEST = 1e-6, 1e-10
# Times the time simulated: the lengths of a step of Newton's method, and of one that shows whether there is a rest.
_LONG, _FAR = 30.0, 1e3
# Part of a state that rounding may take within the fastest relaxation. Where a sum is kept, and nothing brings the
# states back, a long step adds up what is lost: as long as may lose a small part of the tolerance is long enough.
_ROUNDING, _FEW = 1e-15, 0.01
_MOST_LOST = 1e-4  # where rounding may have taken more than this part of a state, nobody knows whether it rests
_LESS, _SHORT = 0.5, 1e-3  # steps become shorter by this part at least, until they are this part of what is asked for
_MOST_MOVED = 10.0  # times what a state near its rest may move: that far Newton's method may take it
_MOST_STEPS = 10
_MANY = 100.0  # steps; more of them would add up their rounding


@inline
def _near(sizes, rtol):
    """Return by how much near its rest a state may still move more; forces that fade must have faded."""
    return 1.0 if sizes.has_time != 0 else max(1.0, _NEAR / rtol)


@jit
def rates(work, whole, sizes):
    """Return the smallest rate at which a state relaxes by itself, infinite where there is none, and the largest."""
    slowest, fastest = math.inf, 0.0
    for e in range(sizes.entries):
        if whole.entry_rows[e] == whole.entry_columns[e] and work.jac[e] != 0.0:
            slowest, fastest = min(slowest, abs(work.jac[e])), max(fastest, abs(work.jac[e]))
    return slowest, fastest


@inline
def rounding(fastest, t):
    """Return which part of a state rounding may take per time: more than a small part of it never counts, up to `t`."""
    return min(_ROUNDING * fastest, _MOST_LOST / t)


@jit
def is_near_rest(work, whole, sizes, t, h, rtol):
    """Return whether the step of size `h` to time `t` found every state near its rest.

    It was such that no state moves while time doubles, and none is bound to move within its own time scale: by its
    derivative, or by a force that is small just now. What has no time scale of its own is held against the slowest.
    """
    num, near = sizes.states - sizes.has_time, _STEADY * _near(sizes, rtol)
    if not (t > 0.0 and _MANY * h >= t):
        return False
    slowest, fastest = rates(work, whole, sizes)
    is_near, most, lost = True, near * min(1.0, 2.0 * h / t), rounding(fastest, t)
    for i in range(num):
        is_near = is_near and abs(work.u[i] - work.y[i]) <= most * work.weights[i] + h * lost * abs(work.u[i])
    if not is_near:
        return False
    if slowest == math.inf:
        slowest = sizes.has_time / t
    num_resting = 0
    for i in range(num):
        most = near * work.weights[i] * slowest + lost * abs(work.u[i])
        num_resting += 1 if abs(work.f[i]) <= most else 0
    for e in range(sizes.entries):
        i, j = whole.entry_rows[e], whole.entry_columns[e]
        if i == j and i < num:
            most = near * work.weights[i]
            is_counted = abs(work.f[i]) <= most * slowest + lost * abs(work.u[i])
            num_resting += 1 if not is_counted and abs(work.f[i]) <= most * abs(work.jac[e]) else 0
        elif j == num and i < num:
            is_near = is_near and abs(work.jac[e]) <= near * work.weights[i] * slowest * slowest
    is_long = sizes.has_time == 0 or t * slowest >= 1.0  # a force is watched for as long as what it moves takes
    return is_near and is_long and num_resting == num


@jit
def _move(code, work, whole, sizes, length, move):
    """Compute a step of some length; return the largest part of its tolerance that a state moves."""
    num = sizes.states - sizes.has_time
    for i in range(num, sizes.states):
        work.f[i] = 0.0  # time stands still
    work.shift[0] = 1.0 / length
    call(code[_FACTOR], (work.shift, work.jac, work.factors, whole.pattern))
    call(code[_SOLVE], (work.f, work.factors, move, whole.pattern))
    call(code[_CHECK], (work.shift, work.jac, work.f, move, work.weights, work.row))
    size = 0.0 if work.row[0] == 0.0 else math.inf
    for i in range(num):
        part = abs(move[i]) / work.weights[i]
        size = max(size, part if part >= 0.0 else math.inf)  # what is no number is too large
    return size


@inline
def _is_short(work, num, move, most, lost):
    """Return whether a step moves no state, but for what rounding may."""
    is_short = True
    for i in range(num):
        is_short = is_short and abs(move[i]) <= most * work.weights[i] + lost * abs(work.y[i])
    return is_short


@jit
def find(code, work, whole, sizes, t, rtol):
    """Move the states at time `t` to the steady state near them; return whether there is one, else leave them.

    The stages of the step before are lost.
    """
    n, num = sizes.states, sizes.states - sizes.has_time
    y, m = work.y, (n + WIDTH - 1) // WIDTH * WIDTH
    before, move = plus(work.stages, 0), plus(work.stages, m)
    for i in range(n):
        before[i] = y[i]
    _, fastest = rates(work, whole, sizes)
    lost, most = rounding(fastest, t), _STEADY * max(1.0, _FINEST / rtol)
    length = t * min(_LONG, max(1.0, _FEW * rtol / (t * lost))) if lost > 0.0 else t * _LONG
    last, is_found = math.inf, False
    for _ in range(_MOST_STEPS):
        size = _move(code, work, whole, sizes, length, move)
        if not size < _LESS * last:
            break
        is_found = _is_short(work, num, move, most, length * lost)
        for i in range(num):
            y[i] += move[i]
        if not linearize(code, work, y, n, sizes.entries):
            is_found = False
            break
        last = size
        if size <= _SHORT * most:
            break
    for i in range(num):
        most_moved = _MOST_MOVED * _near(sizes, rtol) * work.weights[i] + length * lost * abs(y[i])
        is_found = is_found and abs(y[i] - before[i]) <= most_moved
    # What moves far more slowly than all that has been simulated is seen by a step that is far longer.
    length = t * min(_FAR, max(1.0, _MOST_LOST / (t * lost))) if lost > 0.0 else t * _FAR
    is_found = is_found and _move(code, work, whole, sizes, length, move) < math.inf
    is_found = is_found and _is_short(work, num, move, most, length * lost)
    if not is_found:
        for i in range(n):
            y[i] = before[i]
        linearize(code, work, y, n, sizes.entries)
    for i in range(n):
        work.u[i], before[i], move[i] = y[i], 0.0, 0.0
    return is_found
