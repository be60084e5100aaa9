"""A model's equations in the form in which they are solved: autonomous, smooth between switches, constants lifted."""

import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

from kinbayes.model.discontinuities import Mode, Switch, equalities, is_wave, modes, time_switches
from kinbayes.model.expressions import (
    ONE,
    ZERO,
    Expr,
    SparseJacobian,
    const,
    jacobian,
    lift_constants,
    substitute,
    symbol,
    where,
)
from kinbayes.model.model import Event, Model


class Moments(NamedTuple):
    """What happens at the moments where a model jumps, in the names of states, switches, modes and parameters.

    Attributes
    ----------
    modes
        Name -> a comparison or rounding that holds still between moments.
    pulses
        Name -> which of two numbers is larger, 1 or -1, or 0 where they are equal. A pulse is 1 at the moment where
        that is so or where it changes, else 0.
    moves_rates
        Of every mode whether it is in the derivatives.
    is_wavy
        Whether a mode follows a function of time that may turn back.
    triggers, delays, priorities
        Of every event; no priority is -infinity.
    values
        What all events assign, one event after the other.
    targets
        The states that they assign, by number.
    first
        Where the assignments of each event begin, and where the last end.
    """

    modes: Mapping[str, Mode]
    pulses: Mapping[str, Expr]
    moves_rates: tuple[bool, ...]
    is_wavy: bool
    triggers: tuple[Expr, ...]
    delays: tuple[Expr, ...]
    priorities: tuple[Expr, ...]
    values: tuple[Expr, ...]
    targets: tuple[int, ...]
    first: tuple[int, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing jumps but at the times of switches."""
        return not self.modes and not self.triggers


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
        Name -> what it is at time 0, in the names of the inputs; last come the pulses, the modes, the times of the
        switches, then the switches as they stand.
    switches
        Name -> whether it is on, in the names of the constants and `time`.
    moments
        The formulas of events, and the modes.
    events
        The events as the model has them.
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
    moments: Moments
    events: tuple[Event, ...]

    @property
    def varying(self) -> frozenset[str]:
        """What is not constant from the start to the end: states, switches, modes and pulses."""
        return frozenset((*self.states, *self.switches, *self.moments.modes, *self.moments.pulses))


def equations(model: Model, start: Mapping[str, Expr]) -> Equations:
    """Return the equations of a model.

    Parameters
    ----------
    model
        The model.
    start
        The start of every state and the value of every parameter, in the names of the inputs.
    """
    plain, switches, moments = _smooth(model)
    formulas = (*moments.triggers, *moments.delays, *moments.priorities, *moments.values)
    followed = [*(e for mode in moments.modes.values() for e in mode), *moments.pulses.values()]
    has_time = any(e.depends_on("time") for e in (*plain, *formulas, *followed))
    states = (*model.states, "time") if has_time else model.states
    plain = [*plain, ONE] if has_time else plain
    varying = {*states, *switches, *moments.modes}
    rhs, parts = lift_constants(plain, varying, "constant ")
    pattern = jacobian(rhs, states)
    entries, more = lift_constants(pattern.entries, varying, "coefficient ")
    more = dict(zip(more, substitute(list(more.values()), parts), strict=True))
    constants = {
        **{name: symbol(name) for name in model.parameters},
        **parts,
        **more,
        **dict.fromkeys(moments.pulses, ZERO),
        **dict.fromkeys(moments.modes, ZERO),
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
        moments,
        model.events,
    )


def _smooth(model: Model) -> tuple[list[Expr], Mapping[str, Switch], Moments]:
    """Return the derivatives as they are between jumps, and what jumps."""
    events = model.events
    number = {name: k for k, name in enumerate(model.states)}
    flowing = [name for name, rate in model.derivatives.items() if rate is not ZERO]
    triggers, sides = equalities([where(event.trigger, ONE, ZERO) for event in events], flowing, "pulse ")
    parts = [
        list(model.derivatives.values()),
        [*triggers, *(where(at_least, ONE, ZERO) - where(at_most, ONE, ZERO) for at_least, at_most in sides.values())],
        [event.delay for event in events],
        [const(-math.inf) if event.priority is None else event.priority for event in events],
        [value for event in events for _, value in event.assignments],
    ]
    ends = list(itertools.accumulate(map(len, parts), initial=0))
    roots, switches = time_switches([root for part in parts for root in part], model.states, "switch ")
    rates, conditions, delays, priorities, values = (roots[a:b] for a, b in itertools.pairwise(ends))
    conditions, rates, found = modes(conditions, rates, flowing, "mode ")
    return (
        rates,
        switches,
        Moments(
            found,
            dict(zip(sides, conditions[len(events) :], strict=True)),
            tuple(any(rate.depends_on(name) for rate in rates) for name in found),
            any(is_wave(mode.root, flowing) for mode in found.values()),
            tuple(conditions[: len(events)]),
            tuple(delays),
            tuple(priorities),
            tuple(values),
            tuple(number[target] for event in events for target, _ in event.assignments),
            tuple(itertools.accumulate((len(event.assignments) for event in events), initial=0)),
        ),
    )
