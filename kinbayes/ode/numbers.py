"""What the kernel is given: a model's addresses and a problem's numbers, in three arrays.

Whole and real numbers stand in sections, one after the other; the offsets of all sections come first.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from kinbayes.ode.tableau import A, C


class Ints(NamedTuple):
    """Sections of whole numbers; pointers to them inside the kernel."""

    sizes: np.ndarray  # in the order of `Sizes`
    entry_rows: np.ndarray  # where the Jacobian has entries
    entry_columns: np.ndarray
    pattern: np.ndarray  # for the linear solver
    input_index: np.ndarray  # (lanes, inputs): an entry of the parameter vector, or -1
    is_equilibrated: np.ndarray  # (lanes,)
    equilibration_index: np.ndarray  # (lanes, inputs)
    is_reset: np.ndarray  # (lanes, states): set anew after the equilibration
    lane_times: np.ndarray  # (lanes + 1,): where the times of each lane begin
    time_rows: np.ndarray  # (times + 1,): where the rows of each time begin
    row_function: np.ndarray  # (rows,): which observable
    row_place: np.ndarray  # (rows,): where the row stands in the table
    row_arguments: np.ndarray  # (rows + 1,): where the arguments of each row begin
    argument_index: np.ndarray  # an entry of the parameter vector, or -1
    parts: np.ndarray  # where in memory those of `Parts` begin


class DerivativeInts(NamedTuple):
    """Sections of whole numbers that derivatives take, and empty without them.

    A lane has one tangent for every parameter that its simulation depends on: the derivative of all states with respect
    to it. The parameter's natural value counts here.
    """

    derivative_sizes: np.ndarray = np.zeros(0)  # in the order of `DerivativeSizes`
    derivative_parts: np.ndarray = np.zeros(0)  # where in memory those of `DerivativeParts` begin
    lane_tangents: np.ndarray = np.zeros(0)  # (lanes + 1,): where the tangents of each lane begin
    tangent_parameter: np.ndarray = np.zeros(0)  # an entry of the parameter vector
    input_tangent: np.ndarray = np.zeros(0)  # (lanes, inputs): a tangent of the lane, or -1
    equilibration_tangent: np.ndarray = np.zeros(0)  # (lanes, inputs)
    # (lanes, entries of dterms/dp): place in the sources, which is set; where another entry stands already, it is added
    # to -2 - place; -1 for none.
    source_place: np.ndarray = np.zeros(0)
    equilibration_place: np.ndarray = np.zeros(0)
    start_rows: np.ndarray = np.zeros(0)  # where the derivative of the start has entries: states
    start_inputs: np.ndarray = np.zeros(0)
    switch_numbers: np.ndarray = np.zeros(0)  # the same of the times of switches
    switch_inputs: np.ndarray = np.zeros(0)
    partial_start: np.ndarray = np.zeros(0)  # (observables + 1,): where the partial derivatives of each begin
    partial_densities: np.ndarray = np.zeros(0)  # (observables,): where those of its log density end
    partial_column: np.ndarray = np.zeros(0)  # of the table of rows
    partial_kind: np.ndarray = np.zeros(0)  # 0: with respect to a state, 1: an input, 2: an argument
    partial_index: np.ndarray = np.zeros(0)  # of it


class EventInts(NamedTuple):
    """Sections of whole numbers that events and modes take, and empty without them."""

    event_sizes: np.ndarray = np.zeros(0)  # in the order of `EventSizes`
    event_parts: np.ndarray = np.zeros(0)  # where in memory those of `EventParts` begin
    moves_rates: np.ndarray = np.zeros(0)  # (modes,)
    watched: np.ndarray = np.zeros(0)  # the states that enter modes and pulses
    is_true_before: np.ndarray = np.zeros(0)  # (events,)
    is_persistent: np.ndarray = np.zeros(0)  # (events,)
    keeps_values: np.ndarray = np.zeros(0)  # (events,)
    assignment_start: np.ndarray = np.zeros(0)  # (events + 1,): where the assignments of each begin
    assignment_state: np.ndarray = np.zeros(0)
    # Partial derivatives, where derivatives are wanted: (modes + events + assignments + conditions + 1,) where those of
    # a mode's root, of a delay, of a new value, of a condition's root begin.
    moment_start: np.ndarray = np.zeros(0)
    moment_kind: np.ndarray = np.zeros(0)  # 0: with respect to a state, 1: an input
    moment_index: np.ndarray = np.zeros(0)  # of it


class EventSizes(NamedTuple):
    """Numbers of things that events and modes take."""

    modes: int
    pulses: int
    events: int
    changes: int  # events that come before all others of their time; these stand first
    assignments: int
    most: int  # assignments of an event
    capacity: int  # of the list of events that wait
    samples: int  # points of a step at which modes are looked at
    watched: int  # states that enter modes and pulses
    partials: int = 0
    blocks: int = 0  # of tangents
    conditions: int = 0  # comparisons and roundings in the derivatives that states enter


class DerivativeSizes(NamedTuple):
    """Numbers of things that derivatives take."""

    blocks: int  # of tangents, of the lane that has the most
    varying: int  # entries of the terms' Jacobian that depend on states
    bent: int  # and of those whose derivative along a stage is not 0
    sources: int  # entries of the derivative of terms with respect to inputs
    source_rows: int  # terms that have one
    start_entries: int
    switch_entries: int
    more: int  # constants that only derivatives need
    partials: int  # of the observable that has the most
    conditions: int  # comparisons and roundings in the derivatives that states enter


class Floats(NamedTuple):
    """Sections of real numbers; pointers to them inside the kernel."""

    method: np.ndarray  # the coefficients A, then C, by rows
    tolerances: np.ndarray  # relative, absolute
    scale_factors: np.ndarray  # (dim,): d log(theta) / du, or 0 for a linear scale
    input_constant: np.ndarray  # (lanes, inputs)
    is_given: np.ndarray  # (lanes, sometimes)
    equilibration_constant: np.ndarray
    equilibration_is_given: np.ndarray
    times: np.ndarray  # ascending in every lane
    argument_constant: np.ndarray


class Sizes(NamedTuple):
    """Numbers of things."""

    parameters: int
    inputs: int
    sometimes: int
    states: int  # time included where it is one
    has_time: int  # whether time is the last state
    is_solved: int  # whether the function `stage` solves too
    constants: int
    switches: int
    observables: int
    entries: int
    factors: int
    lanes: int
    times: int
    rows: int
    arguments: int  # of the row that has the most
    columns: int  # of the table of rows: density, prediction, settings
    max_steps: int
    memory: int  # numbers that a thread needs room for
    has_gradient: int = 0  # whether the code has what derivatives take
    has_events: int = 0  # whether it has what events and modes take


class Code(NamedTuple):
    """Addresses: of the kernel, then of a model's functions; those of the observables follow, then their derivatives'.

    The last constants of a model are its pulses, its modes, the times at which it switches, then the switches as they
    stand.
    """

    evaluate: int  # the kernel itself, for those who call it by address
    start: int  # (inputs) -> states, constants
    switch: int  # (time, constants) -> switches
    linearize: int  # (states, constants) -> derivatives, Jacobian
    factor: int  # (shift, Jacobian) -> factors of shift I - J; the pattern is its last argument
    solve: int  # (right-hand side, factors) -> solution; the pattern is its last argument
    check: int  # (shift, Jacobian, right-hand side, solution, weights) -> number of rows that are wrong
    # (base, rhs, newest stage k, its a and c / h, constants, factors) -> f(base + a k) + rhs + c k / h; its solution
    # already, where the linear solver is straight-line code
    stage: int
    # What derivatives take; 0 without them.
    derivatives: int = 0  # the loops around the next three
    seed: int = 0  # (inputs) -> derivatives of the start and of the switches' times, constants that only they need
    # (states and stages k, of all stages at once; states, constants, more constants) -> the Jacobian of the terms
    # where it varies, its derivative along k, and dterms/dp with its derivative along k, of all stages at once
    slopes: int = 0
    # (base, rhs, newest tangent, tangent at the step's start, sources, a and c / h, constants, the terms'
    # Jacobian, its derivative, factors) -> the right-hand side for the tangent's stage; its solution already, where the
    # solver is straight-line code
    tangent: int = 0
    solve_block: int = 0  # (right-hand sides of a block, factors, scratch, pattern), where that is none
    # What events and modes take; 0 without them.
    events: int = 0  # the loops around the next three
    watch: int = 0  # (states, constants) -> modes, sides of pulses
    fires: int = 0  # (states, constants) -> triggers, delays, priorities
    assign: int = 0  # (states, constants) -> what all events assign
    event_derivatives: int = 0  # the loops that move tangents over moments
    # (states, constants, more constants) -> partial derivatives of roots, of delays, and of what is assigned
    moment_partials: int = 0
    conditions: int = 0  # (states, constants) -> the comparisons and roundings in the derivatives that states enter
    conditional: int = 0  # (states, constants, conditions) -> derivatives


# For what the kernel calls the loops of derivatives.
BEGIN, GO_ON, STEP, REST, OBSERVE, CUT, ADVANCE, JUMP, END = range(9)
# For what it calls the loops of events.
WATCH, ARRIVE, LEAVE = range(3)
# What they tell: the place within the step of the next moment, or 2; its time; when something is due next; whether they
# fail. And what all are told: one of the next line.
PLACE, TIME, NEXT, FAILED, PHASE = range(5)
STARTS, EQUILIBRATES, GOES_ON = range(3)  # without an equilibration, in one, after it
# For what these call the loops that move tangents.
AT_START, AT_SWITCH, AT_ROOT, MOVE, FIRE, TAKE, MAKE, CROSS = range(8)


class LaneColumns(NamedTuple):
    """What is told of every lane."""

    log_likelihood: int = 0
    status: int = 1
    time: int = 2  # that was reached
    steps: int = 3
    rejected: int = 4
    moving: int = 5  # where it failed, the state that moves most for its size, else -1
    rate: int = 6  # its derivative
    phase: int = 7  # in which it ended


WIDTH = 8  # numbers of a vector: all stages, or tangents of a block; parts of memory are made of whole ones


NUM_FLOATS, NUM_CODE = len(Floats._fields), len(Code._fields)
NUM_INTS = len(Ints._fields) + len(DerivativeInts._fields) + len(EventInts._fields)
NUM_LANE_COLUMNS = len(LaneColumns._fields)
NUM_OFFSETS = NUM_INTS + 1 + NUM_FLOATS + 1


METHOD = np.stack([A, C])
NO_DERIVATIVES, NO_EVENTS = DerivativeInts(), EventInts()
NO_EVENT_SIZES = EventSizes(
    modes=0, pulses=0, events=0, changes=0, assignments=0, most=1, capacity=0, samples=0, watched=0
)


def pack(
    ints: Ints, floats: Floats, derivatives: DerivativeInts = NO_DERIVATIVES, events: EventInts = NO_EVENTS
) -> tuple[np.ndarray, np.ndarray]:
    """Return all sections as one array of whole and one of real numbers."""
    int_parts = [np.asarray(part, dtype=np.int64).ravel() for part in (*ints, *derivatives, *events)]
    float_parts = [np.asarray(part, dtype=np.float64).ravel() for part in floats]
    int_offsets = NUM_OFFSETS + np.cumsum([0, *(part.size for part in int_parts)])
    float_offsets = np.cumsum([0, *(part.size for part in float_parts)])
    return np.concatenate([int_offsets, float_offsets, *int_parts]), np.concatenate(float_parts)


def section(ints: np.ndarray, name: str) -> np.ndarray:
    """Return a section of whole numbers out of what `pack` made."""
    k = (*Ints._fields, *DerivativeInts._fields, *EventInts._fields).index(name)
    return ints[ints[k] : ints[k + 1]]


class Numbers(NamedTuple):
    """A model's addresses and a problem's numbers, as the kernel wants them."""

    code: Int[np.ndarray, " functions"]
    ints: Int[np.ndarray, " ints"]
    floats: Float[np.ndarray, " floats"]

    @property
    def sizes(self) -> Sizes:
        """The sizes among the numbers."""
        return Sizes(*map(int, section(np.asarray(self.ints), "sizes")))
