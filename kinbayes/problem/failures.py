"""What failed of a parameter vector's simulations, in words that say where and what to try."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kinbayes.ode.native import Lanes
from kinbayes.ode.numbers import EQUILIBRATES
from kinbayes.ode.status import Status
from kinbayes.problem.layout import Lane


class Failure(NamedTuple):
    """A simulation that failed.

    Attributes
    ----------
    experiment
        The experiment that was simulated.
    preequilibration
        The one under which it failed, where that was in the pre-equilibration before it; else empty.
    status
        Why.
    time
        The time that it reached, from its start.
    state, rate
        The state that moved most for its size there, and its derivative; an empty name where none moved.
    """

    experiment: str
    preequilibration: str
    status: Status
    time: float
    state: str
    rate: float

    def __str__(self) -> str:
        place = f"experiment {self.experiment!r}"
        if self.preequilibration:
            place += f", in its pre-equilibration {self.preequilibration!r}"
        moving = f", where d{self.state}/dt = {self.rate:.3g}" if self.state else ""
        return f"{place}, {self.time:.4g} after its start{moving}: {self.status.advice}"


def failures(lanes: Lanes, names: Sequence[Lane], states: Sequence[str]) -> tuple[Failure, ...]:
    """Return the failures among the simulations of one vector.

    Parameters
    ----------
    lanes
        What became of them, of one vector.
    names
        What every lane simulates.
    states
        The names of the states.
    """
    found = []
    for k in np.flatnonzero(lanes.status[0] != Status.OK):
        is_before, moving = lanes.phase[0, k] == EQUILIBRATES, int(lanes.moving[0, k])
        found.append(
            Failure(
                names[k].experiment,
                names[k].preequilibration if is_before else "",
                Status(int(lanes.status[0, k])),
                float(lanes.time[0, k]),
                states[moving] if moving >= 0 else "",
                float(lanes.rate[0, k]),
            )
        )
    return tuple(found)
