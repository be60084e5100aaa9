"""Forward sensitivities along the steps of the kernel, which calls these loops by address.

The tangents of a lane lie in blocks of 8, each a vector of processor numbers. They differentiate the discrete scheme: a
tangent's stage takes the matrix that its step has factored already.
"""

import math

from numba import types

from kinbayes.ode import tableau
from kinbayes.ode.dense_output import add_tangents, tangents_within
from kinbayes.ode.intrinsics import (
    BLOCK,
    call,
    compiled,
    finish_tangents,
    inline,
    is_null,
    jit,
    numbers,
    plus,
    pointers,
    stage_points,
    tangent_sums,
)
from kinbayes.ode.memory import DerivativeParts, Parts
from kinbayes.ode.numbers import (
    ADVANCE,
    BEGIN,
    CROSS,
    CUT,
    END,
    EQUILIBRATES,
    GO_ON,
    JUMP,
    NUM_CODE,
    NUM_INTS,
    OBSERVE,
    PHASE,
    REST,
    STEP,
    Code,
    DerivativeInts,
    DerivativeSizes,
    Floats,
    Ints,
    Sizes,
)
from kinbayes.ode.sources import SOURCES
from kinbayes.ode.steady_state import rates, rounding

_SEED, _SLOPES, _TANGENT = (Code._fields.index(name) for name in ("seed", "slopes", "tangent"))
_LINEARIZE, _FACTOR, _SOLVE_BLOCK = (Code._fields.index(name) for name in ("linearize", "factor", "solve_block"))
_EVENT_DERIVATIVES = Code._fields.index("event_derivatives")
_A, _C, _GAMMA, _NUM_STAGES = tableau.A, tableau.C, tableau.GAMMA, tableau.NUM_STAGES
_LARGEST = 1e300
_MOST_TO_REST, _GROW = 60, 6.0  # steps, and how much longer each is than the one before
_STEADY = 0.1  # part of its tolerance that a tangent at rest may still move
# Relative tolerances of that: rounding keeps tangents from finer ones than the first, and as each step leaves a small
# part of the way, one more brings them from a coarse tolerance to the second.
_FINEST, _COARSEST = 1e-10, 1e-7
_ints_of, _floats_of, _parts_of, _sizes_of = pointers(Ints), pointers(Floats), pointers(Parts), numbers(Sizes)
_derivative_ints_of, _derivative_parts_of = pointers(DerivativeInts), pointers(DerivativeParts)
_derivative_sizes_of = numbers(DerivativeSizes)
_FIRST = len(Ints._fields)  # of the sections for derivatives


@jit
def _step(code, work, part, places, sizes, own_sizes, whole, real, ih):
    """Compute the tangents at the end of a step that the states have made; return their error."""
    n, num, blocks, method = sizes.states, sizes.states - sizes.has_time, own_sizes.blocks, real.method
    size, m, error = n * BLOCK, (n + BLOCK - 1) // BLOCK * BLOCK, 0.0
    stage_points(work.y, work.stages, n, m, part.points, part.stages)
    call(
        code[_SLOPES],
        (part.points, part.stages, work.y, work.constants, part.more, part.slopes, part.bends, part.sources),
    )
    row = own_sizes.source_rows * BLOCK
    for q in range(own_sizes.sources):
        place = places[q]
        if place >= 0:
            for s in range(_NUM_STAGES):
                part.p[place + s * row] = part.sources[q * BLOCK + s]
        elif place < -1:
            for s in range(_NUM_STAGES):
                part.p[-2 - place + s * row] += part.sources[q * BLOCK + s]
    for b in range(blocks):
        y, k = plus(part.y, b * size), plus(part.k, b * _NUM_STAGES * size)
        base, rhs, newest = y, part.none, part.none
        part.newest[0] = part.newest[1] = 0.0
        for s in range(_NUM_STAGES):
            # As for the states: the sums for the next stage leave out this one, so that they are computed beside it.
            half = (s + 1) % 2 * size
            next_base, next_rhs = base, rhs
            if s > 0:
                next_base, next_rhs = plus(part.base, half), plus(part.rhs, half)
                tangent_sums(s + 1, base if s >= 6 else y, next_base, next_rhs, k, size, ih, method)
                newest = plus(k, (s - 1) * size)
                part.newest[0], part.newest[1] = _A[s, s - 1], ih * _C[s, s - 1]
            out = plus(k, s * size)
            shared = (part.newest, work.constants, plus(part.slopes, s), plus(part.bends, s), work.factors)
            call(code[_TANGENT], (base, rhs, newest, y, plus(part.p, (b * _NUM_STAGES + s) * row), *shared, out))
            if sizes.is_solved == 0:
                call(code[_SOLVE_BLOCK], (out, work.factors, part.scratch, whole.pattern))
            base, rhs = next_base, next_rhs
        last, u = plus(k, (_NUM_STAGES - 1) * size), plus(part.u, b * size)
        block = (base, last, y, plus(part.size, b * BLOCK), u)
        square = finish_tangents((work.y, work.u, work.floors), block, num, n, real.tolerances[0])
        error = max(error, square if square <= _LARGEST else math.inf)  # what is no number is too large
    return math.sqrt(error / num) if num > 0 else 0.0


@jit
def _is_at_rest(work, part, blocks, n, num, rtol, lost):
    """Return whether a step has moved no tangent but for the part that rounding may take."""
    is_at_rest = True
    for b in range(blocks):
        for i in range(num):
            for j in range(BLOCK):
                x, theta = (b * n + i) * BLOCK + j, part.size[b * BLOCK + j]
                most = work.floors[i] + rtol * max(abs(work.y[i]), theta * abs(part.u[x]))
                most = _STEADY * most + lost * theta * abs(part.u[x])
                is_at_rest = is_at_rest and theta * abs(part.u[x] - part.y[x]) <= most
    return is_at_rest


@jit
def _come_to_rest(code, work, part, places, sizes, own_sizes, whole, real, h):
    """Bring the tangents to rest where the states are; return whether they came there.

    States that were at rest from the beginning have never told their tangents how long the way is: here it is gone in
    steps that grow, along stages that do not move.
    """
    n, blocks, rtol = sizes.states, own_sizes.blocks, min(max(real.tolerances[0], _FINEST), _COARSEST)
    _, fastest = rates(work, whole, sizes)
    for x in range(_NUM_STAGES * ((n + BLOCK - 1) // BLOCK * BLOCK)):
        work.stages[x] = 0.0
    for _ in range(_MOST_TO_REST):
        h *= _GROW
        work.shift[0] = 1.0 / (_GAMMA * h)
        call(code[_FACTOR], (work.shift, work.jac, work.factors, whole.pattern))
        _step(code, work, part, places, sizes, own_sizes, whole, real, 1.0 / h)
        lost = h * rounding(fastest, h)
        is_at_rest = _is_at_rest(work, part, blocks, n, n - sizes.has_time, rtol, lost)
        for x in range(blocks * n * BLOCK):
            part.y[x] = part.u[x]
        if is_at_rest:
            return True
    return False


@jit
def _begin(code, work, part, own, sizes, own_sizes, lane, tangent, is_reset, scale_factors, is_first):
    """Set the tangents to those of the start; where states go on from an equilibration, theirs do too."""
    n, blocks = sizes.states, own_sizes.blocks
    if is_first:
        for j in range(sizes.parameters):
            part.scale[j] = work.theta[j] * scale_factors[j] if scale_factors[j] != 0.0 else 1.0
            part.total[j] = 0.0
        first = own.lane_tangents[lane]
        for x in range(blocks * BLOCK):
            part.size[x] = 0.0
        for j in range(own.lane_tangents[lane + 1] - first):
            k = own.tangent_parameter[first + j]
            # On a linear scale a parameter may be 0, where its own size says nothing.
            part.size[j] = max(abs(work.theta[k]), 0.0 if scale_factors[k] != 0.0 else 1.0)
        for x in range(blocks * BLOCK):
            part.through[x] = 0.0
        for x in range(blocks * n * BLOCK * _NUM_STAGES):
            part.k[x] = 0.0
    # Also after an equilibration, whose inputs may have been other parameters.
    for x in range(blocks * own_sizes.source_rows * BLOCK * _NUM_STAGES):
        part.p[x] = 0.0
    call(code[_SEED], (work.inputs, part.start, part.times, part.more))
    num = n - sizes.has_time
    for i in range(n):
        is_set = is_first or (i < num and is_reset[lane * num + i] != 0)
        for b in range(blocks if is_set else 0):
            for j in range(BLOCK):
                part.y[(b * n + i) * BLOCK + j] = 0.0
    for q in range(own_sizes.start_entries):
        i = own.start_rows[q]
        j = tangent[lane * sizes.inputs + own.start_inputs[q]]
        if j >= 0 and (is_first or is_reset[lane * num + i] != 0):
            part.y[(j // BLOCK * n + i) * BLOCK + j % BLOCK] += part.start[q]
    for x in range(blocks * n * BLOCK):
        part.u[x] = part.y[x]


@jit
def _jump(code, work, part, own, sizes, own_sizes, lane, tangent):
    """Move the tangents over the switches of a time: a later one keeps the old derivatives for longer.

    Those that have turned are turned back one after the other: each moves the tangents by what it alone changes.
    """
    n = sizes.states
    switches = plus(work.constants, sizes.constants - sizes.switches)
    before, after = part.scratch, plus(part.scratch, n)
    num_switches = sizes.switches if own_sizes.switch_entries > 0 else 0
    for i in range(n):
        after[i] = work.f[i]
    for s in range(num_switches):
        if work.turned[s] != switches[s]:
            work.turned[s], switches[s] = switches[s], work.turned[s]
            # The factors are computed anew in every step; until then the Jacobian, which nobody wants, may lie there.
            call(code[_LINEARIZE], (work.y, work.constants, before, work.factors))
            for q in range(own_sizes.switch_entries):
                j = tangent[lane * sizes.inputs + own.switch_inputs[q]]
                for i in range(n if j >= 0 and own.switch_numbers[q] == s else 0):
                    move = (before[i] - after[i]) * part.times[q]
                    part.y[(j // BLOCK * n + i) * BLOCK + j % BLOCK] += move
            for i in range(n):
                after[i] = before[i]
    for s in range(num_switches):
        work.turned[s], switches[s] = switches[s], work.turned[s]


@jit
def _observe(code, work, part, own, sizes, own_sizes, whole, argument_constant, lane, at, theta, first_tangent, slopes):
    """Add the derivatives of the log densities of the rows of a time; fill their lines of the table."""
    n, blocks = sizes.states, own_sizes.blocks
    for i in range(n):
        part.weights[i] = 0.0
    if not is_null(slopes):
        tangents_within(part, part.observed, blocks, n, theta)
    for r in range(whole.time_rows[at], whole.time_rows[at + 1]):
        first, observable = whole.row_arguments[r], whole.row_function[r]
        for j in range(whole.row_arguments[r + 1] - first):
            k = whole.argument_index[first + j]
            work.arguments[j] = work.theta[k] if k >= 0 else argument_constant[first + j]
        call(
            code[NUM_CODE + sizes.observables + observable],
            (work.observed, work.constants, part.more, work.arguments, part.partials),
        )
        begin = own.partial_start[observable]
        for p in range(begin, own.partial_start[observable + 1]):
            kind, index, value = own.partial_kind[p], own.partial_index[p], part.partials[p - begin]
            is_density = p < own.partial_densities[observable]
            line = slopes
            if not is_null(slopes):
                line = plus(slopes, (whole.row_place[r] * sizes.columns + own.partial_column[p]) * sizes.parameters)
            if kind == 0:
                part.weights[index] += value if is_density else 0.0
                for j in range(0 if is_null(slopes) else own.lane_tangents[lane + 1] - first_tangent):
                    k = own.tangent_parameter[first_tangent + j]
                    line[k] += value * part.observed[(j // BLOCK * n + index) * BLOCK + j % BLOCK] * part.scale[k]
            else:
                k = whole.input_index[lane * sizes.inputs + index] if kind == 1 else whole.argument_index[first + index]
                if k >= 0:
                    part.total[k] += value if is_density else 0.0
                    if not is_null(slopes):
                        line[k] += value * part.scale[k]
    for i in range(n):
        for b in range(blocks if part.weights[i] != 0.0 else 0):
            add_tangents(part, plus(part.through, b * BLOCK), i, b, n, theta, part.weights[i])


@inline
def _end(part, own, lane, num_parameters, gradient):
    """Add the gradient of the lane's log likelihood; what is not finite counts as 0."""
    first = own.lane_tangents[lane]
    for j in range(own.lane_tangents[lane + 1] - first):
        part.total[own.tangent_parameter[first + j]] += part.through[j]
    for k in range(num_parameters):
        slope = part.total[k] * part.scale[k]
        if abs(slope) <= _LARGEST:
            gradient[k] += slope


_ints, _floats = types.CPointer(types.int64), types.CPointer(types.float64)


def _derivatives(sources: int):
    @compiled(
        types.void(
            types.int64,
            _ints,
            _ints,
            _floats,
            _floats,
            types.int64,
            types.int64,
            types.float64,
            _floats,
            _floats,
        )
    )
    def derivatives(event, code, ints, floats, memory, lane, at, a, gradient, slopes):
        """Do what an event of the kernel asks for; what it is told is the first entry of the row in `memory`.

        `a` is the inverse step of `STEP`, the last step before `REST`, and the place within the step of `OBSERVE` and
        `CUT`.
        """
        whole, real = _ints_of(ints, ints), _floats_of(floats, plus(ints, NUM_INTS + 1))
        own = _derivative_ints_of(ints, plus(ints, _FIRST))
        sizes, own_sizes = _sizes_of(whole.sizes), _derivative_sizes_of(own.derivative_sizes)
        work, part = _parts_of(memory, whole.parts), _derivative_parts_of(memory, own.derivative_parts)
        blocks, n = own_sizes.blocks, sizes.states
        is_equilibration = work.moment[PHASE] == EQUILIBRATES
        tangent = own.equilibration_tangent if is_equilibration else own.input_tangent
        places = own.equilibration_place if is_equilibration else own.source_place
        places = plus(places, lane * own_sizes.sources)
        if event == STEP:
            work.row[0] = _step(code, work, part, places, sizes, own_sizes, whole, real, a + 0.0 * sources)
        elif event == OBSERVE:
            first = own.lane_tangents[lane]
            _observe(
                code,
                work,
                part,
                own,
                sizes,
                own_sizes,
                whole,
                real.argument_constant,
                lane,
                at,
                a,
                first,
                slopes,
            )
        elif event == REST:
            is_at_rest = _come_to_rest(code, work, part, places, sizes, own_sizes, whole, real, a)
            work.row[0] = 1.0 if is_at_rest else 0.0
        elif event == ADVANCE:
            if own_sizes.conditions > 0:
                call(code[_EVENT_DERIVATIVES], (CROSS, code, ints, floats, memory, lane, 0, 0))
            for x in range(blocks * n * BLOCK):
                part.y[x] = part.u[x]
        elif event == CUT:
            tangents_within(part, part.observed, blocks, n, a)
            for x in range(blocks * n * BLOCK):
                part.u[x] = part.observed[x]
        elif event == JUMP:
            _jump(code, work, part, own, sizes, own_sizes, lane, tangent)
        elif event == END and not is_null(gradient):
            _end(part, own, lane, sizes.parameters, gradient)
        elif event in (BEGIN, GO_ON):
            is_first = event == BEGIN
            _begin(
                code,
                work,
                part,
                own,
                sizes,
                own_sizes,
                lane,
                tangent,
                whole.is_reset,
                real.scale_factors,
                is_first,
            )

    return derivatives


derivatives = _derivatives(SOURCES)
