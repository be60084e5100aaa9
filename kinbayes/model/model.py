"""What a kinetic model is: a frozen value of expressions, without any foreign type."""

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kinbayes.model.codegen import Program, program
from kinbayes.model.expressions import ZERO, Expr, restored, substitute, symbol, where


class ModelError(ValueError):
    """A model that contradicts itself, or a name that a model does not know."""


class Event(NamedTuple):
    """States that jump when a condition becomes true, as in SBML (Level 3 Version 2, section 4.11).

    Its formulas are in states, parameters, expressions of the model, and `time`.

    Attributes
    ----------
    name
        The event's name, unique in its model.
    trigger
        The event fires when this becomes true. Two numbers that vary are equal at the moments where one passes the
        other.
    assignments
        (state, its new value), all computed before any is made.
    delay
        The time between firing and the assignments.
    priority
        Of events that are due at once the one of highest priority goes first; None goes last. It is computed anew
        after each.
    is_true_before
        What the trigger counts as before the start; False lets it fire at the start.
    is_persistent
        Whether the assignments are made although the trigger became false during the delay.
    keeps_values
        Whether the new values are computed when the event fires, or else when they are assigned.
    comes_first
        Whether it happens before any other event of its time looks at the states, as what an experiment changes does.
        Such events stand before all others in a model.
    """

    name: str
    trigger: Expr
    assignments: tuple[tuple[str, Expr], ...]
    delay: Expr = ZERO
    priority: Expr | None = None
    is_true_before: bool = True
    is_persistent: bool = True
    keeps_values: bool = True
    comes_first: bool = False

    @property
    def formulas(self) -> tuple[Expr, ...]:
        """All of its formulas."""
        own = (self.trigger, self.delay, *(value for _, value in self.assignments))
        return own if self.priority is None else (*own, self.priority)

    def substituted(self, replacements: Mapping[str, Expr]) -> "Event":
        """Return the event with expressions in place of symbols, in all of its formulas."""
        formulas = substitute(self.formulas, replacements)
        targets = [target for target, _ in self.assignments]
        return self._replace(
            trigger=formulas[0],
            delay=formulas[1],
            assignments=tuple(zip(targets, formulas[2:], strict=False)),
            priority=None if self.priority is None else formulas[-1],
        )


@dataclass(frozen=True, eq=False)
class Model:
    """A kinetic ODE model: dy/dt = f(time, y, p), and events that change y at once.

    Every quantity has one name. It is a *state* (integrated, or changed by events), a *parameter* (constant in time),
    or an *expression* (computed from the others at every time). Models with the same definitions are equal.

    Parameters
    ----------
    name
        The model's name.
    derivatives
        State name -> its time derivative, in states, parameters and `time`.
    initial
        The start of every state and the value of every parameter: an expression in other names of `initial` and of
        `expressions`. Setting a name to a number replaces its expression, and what depends on it follows.
    expressions
        Name -> expression in states, parameters and `time`: assignment rules, reaction rates.
    units
        Name -> unit, as text, for those whose unit is known.
    events
        The events, in the order in which those go that are due at once and have no priority. What only events change
        is a state with the derivative 0.

    Raises
    ------
    ModelError
        If a state has no initial expression, a name is used that is not defined, definitions form a circle, or an
        event assigns what is no state.
    """

    name: str
    derivatives: Mapping[str, Expr]
    initial: Mapping[str, Expr]
    expressions: Mapping[str, Expr] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    events: tuple[Event, ...] = ()

    def __post_init__(self) -> None:
        for state in self.derivatives:
            if state not in self.initial:
                raise ModelError(f"state {state!r} has no initial value")
        twice = sorted(self.initial.keys() & self.expressions.keys())
        if twice:
            raise ModelError(f"{twice} are defined both by a value and by an expression")
        known = {"time", *self.initial, *self.expressions}
        for part in (self.derivatives, self.initial, self.expressions):
            for name, expression in part.items():
                unknown = sorted(expression.symbols - known)
                if unknown:
                    raise ModelError(f"{name!r} uses {unknown}, defined nowhere in the model")
        self._check_events(known)
        object.__setattr__(self, "expressions", resolve(self.expressions))
        rhs = substitute(list(self.derivatives.values()), self.expressions)
        object.__setattr__(self, "derivatives", dict(zip(self.derivatives, rhs, strict=True)))
        object.__setattr__(self, "events", tuple(event.substituted(self.expressions) for event in self.events))

    def _check_events(self, known: Collection[str]) -> None:
        names = [event.name for event in self.events]
        if len(set(names)) < len(names):
            raise ModelError(f"two events have the same name: {sorted(n for n in names if names.count(n) > 1)}")
        if sorted(self.events, key=lambda event: not event.comes_first) != list(self.events):
            raise ModelError("events that come first must stand before all others")
        for event in self.events:
            unknown = sorted(frozenset().union(*(e.symbols for e in event.formulas)) - set(known))
            if unknown:
                raise ModelError(f"event {event.name!r} uses {unknown}, defined nowhere in the model")
            targets = [target for target, _ in event.assignments]
            wrong = sorted(t for t in targets if t not in self.derivatives or targets.count(t) > 1)
            if wrong:
                raise ModelError(f"event {event.name!r} assigns {wrong}: only states, and each once, can be assigned")

    def __reduce__(self) -> tuple:
        # As one program: expressions may be nested deeper than pickles, and are numbered anew in every process.
        parts = (self.derivatives, self.initial, self.expressions)
        formulas = [e for part in parts for e in part.values()]
        formulas += [e for event in self.events for e in event.formulas]
        events = [(e.name, [t for t, _ in e.assignments], e.priority is not None, e[5:]) for e in self.events]
        return _unpickled, (self.name, [list(part) for part in parts], dict(self.units), events, program(formulas))

    @property
    def states(self) -> tuple[str, ...]:
        """The names of the states, in the order of the state vector."""
        return tuple(self.derivatives)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters, in the order of the parameter vector."""
        return tuple(name for name in self.initial if name not in self.derivatives)

    def initial_values(self, given: Collection[str], sometimes: Collection[str] = ()) -> dict[str, Expr]:
        """Return the start of every state and the value of every parameter in terms of the names `given`.

        Names that are given stay symbols; every other name is replaced by its definition. A name that is given only
        `sometimes` becomes a choice between its definition and the two symbols of `given_names`.

        Raises
        ------
        ModelError
            If a name cannot be given, or definitions form a circle.
        """
        for name in (*given, *sometimes):
            if name not in self.initial:
                why = (
                    "is computed by the model" if name in self.expressions else "is no state or parameter of the model"
                )
                raise ModelError(f"{name!r} {why}, so it cannot be given; choose from {sorted(self.initial)}")
        # Expressions are written out already; all at once, since they share most of what they are made of.
        initial = dict(zip(self.initial, substitute(list(self.initial.values()), self.expressions), strict=True))
        definitions = {name: e for name, e in initial.items() if name not in given}
        for name in sometimes:
            is_given, value = map(symbol, self.given_names(name))
            definitions[name] = where(is_given, value, definitions[name])
        resolved = resolve(definitions)
        return {name: resolved.get(name, symbol(name)) for name in self.initial}

    def at_start(self, formulas: Sequence[Expr], given: Collection[str]) -> list[Expr]:
        """Return formulas as the model starts, in terms of the names `given`, names that it does not have, and `time`.

        Raises
        ------
        ModelError
            If definitions form a circle.
        """
        start = self.initial_values([name for name in given if name in self.initial])
        return substitute(substitute(formulas, self.expressions), start)

    @staticmethod
    def given_names(name: str) -> tuple[str, str]:
        """Return the symbols for whether `name` is given, and for its value then; no file can use these names."""
        return f"{name} is given", f"{name} as given"

    @functools.cached_property
    def _definitions(self) -> tuple:
        parts = (self.derivatives, self.initial, self.expressions)
        # Equal expressions are one object, so this is cheap.
        return (self.events, *(tuple(part.items()) for part in parts))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and self._definitions == other._definitions

    def __hash__(self) -> int:
        return hash(self._definitions)

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}: {len(self.states)} states, {len(self.parameters)} parameters, "
            f"{len(self.expressions)} expressions)"
        )


def _unpickled(
    name: str, names: list[list[str]], units: Mapping[str, str], events: list[tuple], code: Program
) -> Model:
    """Return the model that `Model.__reduce__` took apart."""
    nodes = restored(code.instructions)
    formulas = iter([nodes[k] for k in code.outputs])
    derivatives, initial, expressions = ({n: next(formulas) for n in part} for part in names)
    own = []
    for event, targets, has_priority, flags in events:
        trigger, delay = next(formulas), next(formulas)
        assignments = tuple([(target, next(formulas)) for target in targets])
        own.append(Event(event, trigger, assignments, delay, next(formulas) if has_priority else None, *flags))
    return Model(name, derivatives, initial, expressions, units, tuple(own))


def resolve(definitions: Mapping[str, Expr]) -> dict[str, Expr]:
    """Return every definition with the other defined names replaced by theirs.

    Raises
    ------
    ModelError
        If definitions form a circle.
    """
    done: dict[str, Expr] = {}
    path: set[str] = set()  # the names between `start` and the top of the stack, whose definitions are under way
    for start in definitions:
        stack = [start]
        while stack:
            name = stack[-1]
            if name in done:
                stack.pop()
                continue
            path.add(name)
            used = [s for s in definitions[name].symbols if s in definitions]
            needed = {name for name in used if name not in done}
            if needed & path:
                raise ModelError(f"the definitions of {sorted({name, *needed & path})} form a circle")
            if needed:
                stack.extend(sorted(needed))
            else:
                done[name] = substitute([definitions[name]], {s: done[s] for s in used})[0]
                path.remove(name)
    return {name: done[name] for name in definitions}
