"""How a simulation ended: data, never an exception inside compiled code."""

from enum import IntEnum


class Status(IntEnum):
    """The end of a simulation; anything but OK makes the likelihood zero."""

    OK = 0
    MAX_STEPS = 1
    NOT_FINITE = 2
    STEP_TOO_SMALL = 3
    SOLVER_FAILED = 4
    NO_STEADY_STATE = 5
    EVENTS_FAILED = 6

    @property
    def advice(self) -> str:
        """What happened, and what to try."""
        return _ADVICE[self]


_ADVICE = {
    Status.OK: "the simulation succeeded",
    Status.MAX_STEPS: "the solver used all its steps; loosen rtol and atol, raise max_steps, or narrow the bounds",
    Status.NOT_FINITE: "the solution or an observable became infinite or NaN; check signs, units and bounds",
    Status.STEP_TOO_SMALL: "the step size shrank to nothing: a singularity or a jump; check the model near that time",
    Status.NO_STEADY_STATE: "no steady state was reached; look for a state that only grows, or raise max_steps",
    Status.EVENTS_FAILED: "events fire without end, too many wait, or a delay is negative; check triggers and delays",
    Status.SOLVER_FAILED: "an implicit step could not be solved; loosen rtol and atol or narrow the bounds",
}
