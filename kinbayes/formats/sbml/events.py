"""Events of an SBML model."""

from collections.abc import Callable, Mapping, Sequence, Set

import libsbml

from kinbayes.formats.sbml.errors import SBMLError, UnsupportedSBMLError, at
from kinbayes.formats.sbml.source import Source, formula
from kinbayes.model.expressions import ZERO, Expr, symbol
from kinbayes.model.model import Event


def read_events(source: Source, assigned: Set[str]) -> list[Event]:
    """Return the events, which assign what the file names: a concentration too where the state is an amount.

    An event without the formula of a trigger never fires. An assignment, delay or priority without a formula has no
    effect.

    Parameters
    ----------
    source
        The model.
    assigned
        The targets of assignment rules, which no event can change.
    """
    names = {event.getId() for event in source.model.getListOfEvents()}
    events = []
    for number, element in enumerate(source.model.getListOfEvents(), start=1):
        trigger, delay, priority = element.getTrigger(), element.getDelay(), element.getPriority()
        assignments = tuple(_assignments(source, element, assigned).items())
        if trigger is None or not trigger.isSetMath() or not assignments:
            continue
        name = element.getId() or f"event {number}"
        while not element.getId() and name in names:
            name += "'"
        has_priority = priority is not None and priority.isSetMath()
        has_settings = source.model.getLevel() > 2
        event = Event(
            name=name,
            trigger=formula(source, element, trigger.getMath()),
            assignments=assignments,
            delay=formula(source, element, delay.getMath()) if delay is not None and delay.isSetMath() else ZERO,
            priority=formula(source, element, priority.getMath()) if has_priority else None,
            is_true_before=trigger.getInitialValue() if has_settings else True,
            is_persistent=trigger.getPersistent() if has_settings else True,
            keeps_values=element.getUseValuesFromTriggerTime(),
        )
        events.append(event)
    return events


def _assignments(source: Source, event: libsbml.Event, assigned: Set[str]) -> dict[str, Expr]:
    found: dict[str, Expr] = {}
    for assignment in event.getListOfEventAssignments():
        if not assignment.isSetMath():
            continue
        name = assignment.getVariable()
        if name not in source.names or source.find(libsbml.Reaction, name) is not None:
            text = "there is no species, parameter, compartment or species reference of this id"
            raise SBMLError(at(assignment, text))
        if name in assigned:
            raise SBMLError(at(assignment, "an assignment rule determines it, so no event can change it"))
        if source.is_constant(name):
            raise SBMLError(at(assignment, "it is constant, so no event can change it"))
        if name in found:
            raise SBMLError(at(assignment, "the same event has another assignment of it"))
        found[name] = formula(source, assignment, assignment.getMath())
    return found


def in_amounts(
    source: Source,
    events: Sequence[Event],
    hidden: Mapping[str, str],
    constants: Set[str],
    jumps_with: Callable[[Set[str]], Set[str]],
) -> tuple[Event, ...]:
    """Return events that assign amounts instead of the concentrations whose states are amounts.

    A new concentration is that in the old size. Where the same event changes the size, the amount stays and the
    concentration follows, so that the order of its assignments does not matter.

    Parameters
    ----------
    source
        The model.
    events
        The events.
    hidden
        The species whose states are amounts under other names, with these.
    constants
        What never changes.
    jumps_with
        All that jumps when events assign a set of names.
    """
    targets = {event.name: {name for name, _ in event.assignments} for event in events}

    def translated(event: Event) -> Event:
        if not targets[event.name] & hidden.keys():
            return event
        if all(value.symbols <= constants for _, value in event.assignments):
            event = event._replace(keeps_values=False)  # it is all the same, and the size is then that of the time
        others = jumps_with(set().union(*(names for name, names in targets.items() if name != event.name)))
        assignments = []
        for name, value in event.assignments:
            if name in hidden:
                size = source.elements[name].getCompartment()
                # The concentration is that of the trigger, but the size that of the assignment. An event computes
                # all at one of the two times, which is right for both only where the size stays in between.
                if event.keeps_values and (event.delay is not ZERO or size in others):
                    text = (
                        f"event {event.name!r} assigns a concentration computed earlier while the size of {size!r} "
                        "may change, which is not supported; set the event's useValuesFromTriggerTime to false"
                    )
                    raise UnsupportedSBMLError(at(source.elements[name], text))
                assignments.append((hidden[name], value * symbol(size)))
            else:
                assignments.append((name, value))
        return event._replace(assignments=tuple(assignments))

    return tuple(translated(event) for event in events)
