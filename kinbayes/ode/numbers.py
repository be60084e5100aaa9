"""What the kernel is given: a model's addresses and a problem's numbers, in three arrays.

Whole and real numbers stand in sections, one after the other; the offsets of all sections come first.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


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


class Floats(NamedTuple):
    """Sections of real numbers; pointers to them inside the kernel."""

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


class Code(NamedTuple):
    """Addresses: of the kernel, then of a model's functions; those of the observables follow.

    The last constants of a model are the times at which it switches, then the switches as they stand.
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


class LaneColumns(NamedTuple):
    """What is told of every lane."""

    log_likelihood: int = 0
    status: int = 1
    time: int = 2  # that was reached
    steps: int = 3
    rejected: int = 4


NUM_INTS, NUM_FLOATS, NUM_SIZES, NUM_CODE = (len(c._fields) for c in (Ints, Floats, Sizes, Code))
NUM_LANE_COLUMNS = len(LaneColumns._fields)
NUM_OFFSETS = NUM_INTS + 1 + NUM_FLOATS + 1


def pack(ints: Ints, floats: Floats) -> tuple[np.ndarray, np.ndarray]:
    """Return all sections as one array of whole and one of real numbers."""
    int_parts = [np.asarray(part, dtype=np.int64).ravel() for part in ints]
    float_parts = [np.asarray(part, dtype=np.float64).ravel() for part in floats]
    int_offsets = NUM_OFFSETS + np.cumsum([0, *(part.size for part in int_parts)])
    float_offsets = np.cumsum([0, *(part.size for part in float_parts)])
    return np.concatenate([int_offsets, float_offsets, *int_parts]), np.concatenate(float_parts)


def section(ints: np.ndarray, name: str) -> np.ndarray:
    """Return a section of whole numbers out of what `pack` made."""
    k = Ints._fields.index(name)
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
