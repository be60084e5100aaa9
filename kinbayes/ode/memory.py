"""What a thread's memory holds, and where."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from kinbayes.ode.numbers import WIDTH, DerivativeSizes, EventSizes, Sizes
from kinbayes.ode.tableau import NUM_STAGES


class Parts(NamedTuple):
    """Lengths of the parts of a thread's memory; pointers to them inside the kernel."""

    theta: int  # natural parameter values
    inputs: int  # of a lane, then whether the sometimes given are
    constants: int
    y: int
    f: int
    u: int  # twice: sums for this stage and for the next
    rhs: int  # twice
    none: int  # zeros
    sum: int  # what a stage is to be solved for
    largest: int  # the largest that every state has been
    floors: int  # the absolute tolerance of every state
    weights: int  # the error that it may have at the start of a step
    stages: int  # one after the other
    observed: int  # the states at a time of the data
    jac: int
    factors: int
    shift: int
    newest: int  # the coefficients a and c / h of the newest stage
    arguments: int
    row: int
    turned: int  # the switches before they turned
    moment: int  # by the places of `PLACE` and so on
    point: int  # the states at that place


class EventParts(NamedTuple):
    """Lengths of the parts of a thread's memory for events; pointers to them inside their loops."""

    seen: int  # modes as they are at a point, then the sides of pulses
    kept: int  # modes as they were
    sides: int  # of pulses, as they were
    fires: int  # triggers, delays, priorities
    is_true: int  # the triggers
    assigned: int  # what all events would assign
    waiting: int  # (capacity,): the event's number, or -1
    order: int  # (capacity,): when it came to wait
    due: int  # (capacity,): its time
    values: int  # (capacity, most): what it will assign
    about: int  # how many have come to wait; the state of the random numbers; which mode changed first, or -1
    # Derivatives
    delay: int  # (blocks, WIDTH): by how much the moment comes later
    due_delay: int  # (capacity, blocks, WIDTH)
    value_tangents: int  # (capacity, most, blocks, WIDTH)
    new_tangents: int  # (most, blocks, WIDTH)
    partials: int
    before: int  # (states,): the derivatives before what happens
    after: int
    conditions: int  # as they were, as they are, and as they are within the step


class DerivativeParts(NamedTuple):
    """Lengths of the parts of a thread's memory for derivatives; pointers to them inside its loops."""

    scale: int  # (dim,): natural values by scaled ones
    total: int  # (dim,): the gradient of the lane's log likelihood, but for what comes through tangents
    through: int  # (tangents,): that
    size: int  # (tangents,): that of the parameter, which brings a tangent to the units of its state
    start: int  # entries of the derivative of the start
    times: int  # and of the times of switches
    more: int
    partials: int
    weights: int  # (states,): the derivative of the log density of all rows of a time
    points: int  # (states, stages), and so on: all stages at once
    stages: int
    slopes: int
    bends: int
    sources: int
    none: int  # zeros of one block
    base: int  # twice
    rhs: int  # twice
    newest: int  # the coefficients a and c / h of the newest stage
    scratch: int  # of a block's solver
    y: int  # (blocks, states, WIDTH): tangents
    u: int  # the same at the end of the step
    observed: int  # the same at a time of the data
    k: int  # (blocks, stages, states, WIDTH)
    p: int  # (blocks, stages, rows of sources, WIDTH)


def padded(num_states: int) -> int:
    """Return the length of an array of states, in whole vectors."""
    return (num_states + WIDTH - 1) // WIDTH * WIDTH


def parts(sizes: Sizes) -> Parts:
    """Return the lengths of the parts, without those for derivatives."""
    n = padded(sizes.states)
    return Parts(
        theta=sizes.parameters,
        inputs=sizes.inputs + sizes.sometimes,
        constants=sizes.constants,
        y=n,
        f=n,
        u=2 * n,
        rhs=2 * n,
        none=n,
        sum=n,
        largest=n,
        floors=n,
        weights=n,
        stages=NUM_STAGES * n,
        observed=n,
        jac=sizes.entries,
        factors=sizes.factors,
        shift=1,
        newest=2,
        arguments=sizes.arguments,
        row=sizes.columns + 1,
        turned=sizes.switches,
        moment=5,
        point=n,
    )


def event_parts(sizes: Sizes, own: EventSizes) -> EventParts:
    """Return the lengths of the parts."""
    n, block = padded(sizes.states), own.blocks * WIDTH
    return EventParts(
        seen=own.modes + own.pulses,
        kept=own.modes,
        sides=own.pulses,
        fires=3 * own.events,
        is_true=own.events,
        assigned=own.assignments,
        waiting=own.capacity,
        order=own.capacity,
        due=own.capacity,
        values=own.capacity * own.most,
        about=3,
        delay=block,
        due_delay=own.capacity * block,
        value_tangents=own.capacity * own.most * block,
        new_tangents=own.most * block,
        partials=own.partials,
        before=n,
        after=n,
        conditions=3 * own.conditions,
    )


def derivative_parts(sizes: Sizes, own: DerivativeSizes) -> DerivativeParts:
    """Return the lengths of the parts."""
    n, blocks, stages = sizes.states * WIDTH, own.blocks, NUM_STAGES
    return DerivativeParts(
        scale=sizes.parameters,
        total=sizes.parameters,
        through=blocks * WIDTH,
        size=blocks * WIDTH,
        start=own.start_entries,
        times=own.switch_entries,
        more=own.more,
        partials=own.partials,
        weights=sizes.states,
        points=n,
        stages=n,
        slopes=own.varying * WIDTH,
        bends=own.bent * WIDTH,
        sources=own.sources * WIDTH,
        none=n,
        base=2 * n,
        rhs=2 * n,
        newest=2,
        scratch=n,
        y=blocks * n,
        u=blocks * n,
        observed=blocks * n,
        k=blocks * stages * n,
        p=blocks * stages * own.source_rows * WIDTH,
    )


def offsets(lengths: Parts | DerivativeParts | EventParts, *, start: int = 0) -> Int[np.ndarray, " parts_and_1"]:
    """Return where parts begin, each at a whole vector, and where the last ends."""
    return start + np.concatenate([[0], np.cumsum([padded(length) for length in lengths])])


class Layout(NamedTuple):
    """Sizes with the memory that they take, and where the parts of memory begin."""

    sizes: Sizes
    parts: Int[np.ndarray, " parts"]
    derivative_parts: Int[np.ndarray, " derivative_parts"]
    event_parts: Int[np.ndarray, " event_parts"]


def laid_out(sizes: Sizes, derivative_sizes: DerivativeSizes | None, event_sizes: EventSizes | None) -> Layout:
    """Lay out the memory of a thread."""
    plain = offsets(parts(sizes))
    own = derivative_sizes
    second = plain[-1:] if own is None else offsets(derivative_parts(sizes, own), start=int(plain[-1]))
    more = event_sizes
    third = second[-1:] if more is None else offsets(event_parts(sizes, more), start=int(second[-1]))
    has_events = more is not None and more.modes + more.events > 0
    sizes = sizes._replace(memory=int(third[-1]), has_gradient=int(own is not None), has_events=int(has_events))
    return Layout(sizes, plain[:-1], second[:-1], third[:-1])
