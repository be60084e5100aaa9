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
_FAR = 1e3  # times the time simulated: the length of a step of Newton's method
_MOST_MOVED = 10.0  # times what a state near its rest may move: that far Newton's method may take it
_MOST_STEPS = 10
_MANY = 100.0  # steps; more of them would add up their rounding


@inline
def _near(sizes, rtol):
    """Return by how much near its rest a state may still move more; forces that fade must have faded."""
    return 1.0 if sizes.has_time != 0 else max(1.0, _NEAR / rtol)


@jit
def is_near_rest(work, whole, sizes, t, h, rtol):
    """Return whether the step of size `h` to time `t` found every state near its rest.

    It was such that no state moves while time doubles, and none is bound to move within its own time scale.
    """
    num, near = sizes.states - sizes.has_time, _STEADY * _near(sizes, rtol)
    is_near, most = t > 0.0 and _MANY * h >= t, near * min(1.0, 2.0 * h / t)
    for i in range(num if is_near else 0):
        is_near = is_near and abs(work.u[i] - work.y[i]) <= most * work.weights[i]
    for e in range(sizes.entries if is_near else 0):
        i = whole.entry_rows[e]
        if i == whole.entry_columns[e] and i < num:
            is_near = is_near and abs(work.f[i]) <= near * work.weights[i] * abs(work.jac[e])
    return is_near


@jit
def find(code, work, whole, sizes, t, rtol):
    """Move the states at time `t` to the steady state near them; return whether there is one, else leave them.

    The stages of the step before are lost.
    """
    n, num, entries = sizes.states, sizes.states - sizes.has_time, sizes.entries
    y, m = work.y, (n + WIDTH - 1) // WIDTH * WIDTH
    before, move, last = plus(work.stages, 0), plus(work.stages, m), math.inf
    for i in range(n):
        before[i] = y[i]
    is_found = False
    work.shift[0] = 1.0 / (_FAR * t)
    for _ in range(_MOST_STEPS):
        for i in range(num, n):
            work.f[i] = 0.0  # time stands still
        call(code[_FACTOR], (work.shift, work.jac, work.factors, whole.pattern))
        call(code[_SOLVE], (work.f, work.factors, move, whole.pattern))
        call(code[_CHECK], (work.shift, work.jac, work.f, move, work.weights, work.row))
        size = 0.0 if work.row[0] == 0.0 else math.inf
        for i in range(num):
            part = abs(move[i]) / work.weights[i]
            size = max(size, part if part >= 0.0 else math.inf)  # what is no number is too large
        if not size < last:
            break
        for i in range(num):
            y[i] += move[i]
        if not linearize(code, work, y, n, entries):
            break
        last = size
        is_found = size <= _STEADY * max(1.0, _FINEST / rtol)
        if is_found:
            break
    most = _MOST_MOVED * _near(sizes, rtol)
    for i in range(num):
        is_found = is_found and abs(y[i] - before[i]) <= most * work.weights[i]
    if not is_found:
        for i in range(n):
            y[i] = before[i]
        linearize(code, work, y, n, entries)
    for i in range(n):
        work.u[i], before[i], move[i] = y[i], 0.0, 0.0
    return is_found
