"""The solution within a step, from its ends and its stages: states, and tangents."""

from kinbayes.ode import tableau
from kinbayes.ode.intrinsics import BLOCK, add_multiple, inline, jit, plus

_H, _NUM_STAGES = tableau.H, tableau.NUM_STAGES


@inline
def state_within(work, i, n, theta):
    """Return a state at a place within the step, from 0 at its start to 1 at its end."""
    m, inner = (n + BLOCK - 1) // BLOCK * BLOCK, 0.0
    for s in range(_NUM_STAGES):
        inner += (_H[0, s] + theta * (_H[1, s] + theta * _H[2, s])) * work.stages[s * m + i]
    return (1.0 - theta) * work.y[i] + theta * (work.u[i] + (1.0 - theta) * inner)


@jit
def states_within(work, out, n, theta):
    """Compute all states at a place within the step."""
    for i in range(n):
        out[i] = state_within(work, i, n, theta)


@inline
def add_tangents(part, out, i, b, n, theta, factor):
    """Add a multiple of a state's block of tangents at a place within the step."""
    size = n * BLOCK
    at = (b * n + i) * BLOCK
    add_multiple(out, factor * (1.0 - theta), plus(part.y, at))
    add_multiple(out, factor * theta, plus(part.u, at))
    for s in range(_NUM_STAGES):
        weight = theta * (1.0 - theta) * (_H[0, s] + theta * (_H[1, s] + theta * _H[2, s]))
        add_multiple(out, factor * weight, plus(part.k, (b * _NUM_STAGES + s) * size + i * BLOCK))


@jit
def tangents_within(part, out, blocks, n, theta):
    """Compute all tangents at a place within the step."""
    for x in range(blocks * n * BLOCK):
        out[x] = 0.0
    for b in range(blocks):
        for i in range(n):
            add_tangents(part, plus(out, (b * n + i) * BLOCK), i, b, n, theta, 1.0)
