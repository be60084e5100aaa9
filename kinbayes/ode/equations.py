"""A model's equations in the form in which they are solved: autonomous, smooth between switches, constants lifted."""

from collections.abc import Mapping
from typing import NamedTuple

from kinbayes.model.expressions import (
    ONE,
    ZERO,
    Expr,
    SparseJacobian,
    jacobian,
    lift_constants,
    substitute,
    symbol,
    time_switches,
)
from kinbayes.model.model import Model


class Equations(NamedTuple):
    """The equations of a model.

    Attributes
    ----------
    states
        Names of the states, `time` last where it is one.
    has_time
        Whether time is a state.
    plain
        The derivatives in the names of states, switches and the model's parameters.
    rhs
        The same in the names of states and constants.
    pattern
        Where their Jacobian has entries.
    entries
        Those entries, in the names of states and constants.
    start
        The start of every state, in the names of the inputs.
    constants
        Name -> what it is at time 0, in the names of the inputs; last come the times of the switches, then the
        switches as they stand.
    switches
        Name -> whether it is on, in the names of the constants and `time`.
    """

    states: tuple[str, ...]
    has_time: bool
    plain: tuple[Expr, ...]
    rhs: tuple[Expr, ...]
    pattern: SparseJacobian
    entries: tuple[Expr, ...]
    start: tuple[Expr, ...]
    constants: Mapping[str, Expr]
    switches: Mapping[str, Expr]


def equations(model: Model, start: Mapping[str, Expr]) -> Equations:
    """Return the equations of a model.

    Parameters
    ----------
    model
        The model.
    start
        The start of every state and the value of every parameter, in the names of the inputs.
    """
    plain, switches = time_switches(list(model.derivatives.values()), model.states, "switch ")
    has_time = any(e.depends_on("time") for e in plain)
    states = (*model.states, "time") if has_time else model.states
    plain = [*plain, ONE] if has_time else plain
    varying = {*states, *switches}
    rhs, parts = lift_constants(plain, varying, "constant ")
    pattern = jacobian(rhs, states)
    entries, more = lift_constants(pattern.entries, varying, "coefficient ")
    more = dict(zip(more, substitute(list(more.values()), parts), strict=True))
    constants = {
        **{name: symbol(name) for name in model.parameters},
        **parts,
        **more,
        **{f"time of {name}": switch.time for name, switch in switches.items()},
        **dict.fromkeys(switches, ZERO),
    }
    at_start = substitute([*(symbol(s) for s in model.states), *constants.values()], {**start})
    at_start = substitute(at_start, {"time": ZERO})
    at_start[len(model.states) : len(model.states)] = [ZERO] * has_time
    return Equations(
        states,
        has_time,
        tuple(plain),
        tuple(rhs),
        pattern,
        tuple(entries),
        tuple(at_start[: len(states)]),
        dict(zip(constants, at_start[len(states) :], strict=True)),
        {name: switch.condition for name, switch in switches.items()},
    )
