"""One step of Rodas5P over a model's machine code: its linear system, its stages, and what its error may be.

References
----------
Hairer, E., Wanner, G. (1996). Solving Ordinary Differential Equations II. Springer. doi:10.1007/978-3-642-05221-7
"""

import math

from kinbayes.ode import tableau
from kinbayes.ode.intrinsics import call, inline, jit, plus, stage_sums
from kinbayes.ode.numbers import Code

_LINEARIZE, _SOLVE, _STAGE = (Code._fields.index(name) for name in ("linearize", "solve", "stage"))
_A, _C, _NUM_STAGES = tableau.A, tableau.C, tableau.NUM_STAGES
_LARGEST = 1e300
# Of a state beside the largest one, below which its own size no longer lowers its absolute tolerance: on published
# problems 1e-6 took a quarter more steps for the same accuracy.
_SMALLEST_SIZE = 1e-3


@jit
def linearize(code, work, y, num_states, num_entries):
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


@inline
def set_weights(work, y, num, rtol, atol):
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
def initial_step(work, sizes, whole, num):
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
def stages(code, work, whole, is_solved, m, ih, method):
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
