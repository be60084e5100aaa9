"""What experiments do beyond setting numbers, as part of the model: another start, formulas, later changes.

Numbers stay numbers: they become parameters of the model that experiments set, so that others compile nothing. What
changes later becomes a state with the derivative 0, and each change an event.
"""

import itertools
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from kinbayes.model.expressions import TIME, ZERO, Expr, apply, const, substitute, symbol, where
from kinbayes.model.formula import FormulaError, parse
from kinbayes.model.model import Event, Model, ModelError
from kinbayes.problem.observables import Experiment

# Names that no file can use. The first is the time at which a lane begins; inside the model time counts from there.
START = "the start"
_TIME_OF = "time of change "


class Expanded(NamedTuple):
    """A model that does what experiments ask for, and the experiments in its names, with numbers and parameters."""

    model: Model
    experiments: tuple[Experiment, ...]


def chosen(name: str) -> str:
    """Return the parameter that says which formula a name starts from, or 0 for its own."""
    return f"formula of {name}"


def clock(model: Model) -> Expr:
    """Return the time as experiments count it, in the names of an expanded model."""
    return TIME + symbol(START) if START in model.initial else TIME


def without_periods(experiment: Experiment) -> Experiment:
    """Return an expanded experiment in which nothing changes later, as it is for an equilibration."""
    return replace(experiment, values={n: v for n, v in experiment.values.items() if not n.startswith(_TIME_OF)})


def expanded(model: Model, experiments: Sequence[Experiment], names: Collection[str]) -> Expanded:
    """Return a model that does what experiments ask for.

    Parameters
    ----------
    model
        The model.
    experiments
        Whatever they set may be a number, the name of a parameter, or a formula.
    names
        The names of the problem's parameters.

    Raises
    ------
    ModelError
        If an experiment sets what cannot be set, by a formula that cannot be read or uses unknown names, or its
        periods are out of order.
    """
    if not any(e.start != 0 or e.periods or _formulas(e, model, names) for e in experiments):
        return Expanded(model, tuple(experiments))
    for experiment in experiments:
        _check_times(experiment)
    work = _Work(model, frozenset(names))
    if any(e.start != 0 for e in experiments):
        work.initial[START] = ZERO
    values = [_at_start(work, e) for e in experiments]
    for experiment, own in zip(experiments, values, strict=True):
        _later(work, experiment, own)
    _begin_anew(work, values)
    return Expanded(
        work.model_of(),
        tuple(replace(e, values=own, periods=()) for e, own in zip(experiments, values, strict=True)),
    )


def _check_times(experiment: Experiment) -> None:
    times = [experiment.start, *(p.start for p in experiment.periods)]
    if not all(map(math.isfinite, times)):
        raise ModelError(f"experiment {experiment.name!r}: its times {times} must be finite")
    for before, after in itertools.pairwise(times[1:]):
        if not before < after:
            raise ModelError(f"experiment {experiment.name!r}: period {after:g} must come after {before:g}")
    if len(times) > 1 and times[1] < times[0]:
        raise ModelError(f"experiment {experiment.name!r}: period {times[1]:g} begins before the start at {times[0]:g}")


class _Work:
    """A model on its way."""

    def __init__(self, model: Model, names: frozenset[str]) -> None:
        self.model, self.names = model, names
        self.initial = dict(model.initial)
        self.choices: dict[str, list[Expr]] = {}  # target -> the formulas that it may start from
        self.changes: dict[tuple, int] = {}  # (what is assigned, how many like it came before) -> its number
        self.events: list[Event] = []
        self.jumping: dict[str, None] = {}

    def formula(self, where_: str, text: float | str) -> Expr:
        """Return a formula whose names are known; those of parameters that the model lacks are given to it."""
        try:
            formula = parse(text)
        except FormulaError as error:
            raise ModelError(f"{where_}: {error}") from error
        for name in sorted(formula.symbols - {"time"}):
            if name in self.names and name not in self.initial and name not in self.model.expressions:
                self.initial[name] = const(math.nan)
            if name not in self.initial and name not in self.model.expressions:
                raise ModelError(f"{where_}: {name!r} is defined neither in the model nor as a parameter")
        return formula

    @property
    def clock(self) -> Expr:
        return TIME + symbol(START) if START in self.initial else TIME

    def model_of(self) -> Model:
        """Return the model: choices among formulas, changes as events, and time as it counts."""
        for target, formulas in self.choices.items():
            choice, value = symbol(chosen(target)), self.initial[target]
            for k, formula in reversed(list(enumerate(formulas, start=1))):
                value = where(apply("eq", choice, const(float(k))), formula, value)
            self.initial[target] = value
            self.initial[chosen(target)] = ZERO
        old, time = self.model, {"time": self.clock}

        def shifted(formulas: Mapping[str, Expr]) -> dict[str, Expr]:
            return dict(zip(formulas, substitute(list(formulas.values()), time), strict=True))

        return Model(
            old.name,
            {**shifted(old.derivatives), **{n: ZERO for n in self.jumping if n not in old.derivatives}},
            shifted(self.initial),
            shifted(old.expressions),
            old.units,
            (*self.events, *(event.substituted(time) for event in old.events)),
        )


def _formulas(experiment: Experiment, model: Model, names: Collection[str]) -> dict[str, float | str]:
    """Return what an experiment sets at its start by a formula, or where a formula of the model follows from it."""
    return {
        name: value
        for name, value in experiment.values.items()
        if name in experiment.given and (carrier(model, name) or not _is_plain(value, names))
    }


def _is_plain(value: float | str, names: Collection[str]) -> bool:
    """Return whether a value is a number or a parameter."""
    try:
        return value in names or not math.isnan(float(value))
    except ValueError:
        return False


def carrier(model: Model, name: str) -> tuple[str, Expr] | None:
    """Return the amount and the size whose quotient a concentration is; None for what is no concentration.

    Other quotients are rules like all others: they follow what they depend on.
    """
    formula, amount = model.expressions.get(name), f"amount of {name}"
    is_concentration = formula is not None and formula.op == "div" and formula.args[0] is symbol(amount)
    return (amount, formula.args[1]) if is_concentration and amount in model.initial else None


def _target(work: _Work, where_: str, name: str) -> None:
    if name not in work.model.initial and carrier(work.model, name) is None:
        why = "the model computes by a rule" if name in work.model.expressions else "is no state or parameter of it"
        raise ModelError(f"{where_} sets {name!r}, which {why}; set what it depends on")


def _at_start(work: _Work, experiment: Experiment) -> dict[str, float | str]:
    """Return what an experiment sets at its start, formulas as numbers that choose among those of the model."""
    found = dict(experiment.values)
    if START in work.initial:
        found[START] = experiment.start
    for name, value in _formulas(experiment, work.model, work.names).items():
        place = f"experiment {experiment.name!r}"
        _target(work, place, name)
        if name in work.names:
            raise ModelError(
                f"{place} sets {name!r}, a parameter of the problem, by the formula {value!r}; a period can"
            )
        del found[name]
        if _is_plain(value, work.names):
            slot = f"value of {name} at the start"
            formula, found[slot], work.initial[slot] = symbol(slot), value, ZERO
        else:
            formula = work.formula(f"{place}, {name!r}", value)
            formula = work.model.at_start([formula], work.names)[0]  # it sees the model's own values
        target, carried = name, carrier(work.model, name)
        if carried is not None:
            target, formula = carried[0], formula * carried[1]
        known = work.choices.setdefault(target, [])
        if formula not in known:
            known.append(formula)
        found[chosen(target)] = float(known.index(formula) + 1)
    return found


def _later(work: _Work, experiment: Experiment, values: dict[str, float | str]) -> None:
    """Make the changes of an experiment's periods events of the model, and set their times and numbers."""
    seen: Counter[tuple] = Counter()
    for period in experiment.periods:
        place = f"experiment {experiment.name!r}, period {period.start:g}"
        given = {n: v for n, v in period.values.items() if isinstance(v, str) or not math.isnan(v)}
        formulas: dict[str, Expr | None] = {}
        for name, value in given.items():
            _target(work, place, name)
            is_plain = _is_plain(value, work.names)
            formulas[name] = None if is_plain else work.formula(f"{place}, {name!r}", value)
        shape = tuple(sorted(formulas.items(), key=lambda item: item[0]))
        key = (shape, seen[shape])
        seen[shape] += 1
        if not formulas:
            continue
        if key not in work.changes:
            work.changes[key] = len(work.events)
            work.events.append(_event(work, len(work.events), formulas))
        number = work.changes[key]
        values[f"{_TIME_OF}{number}"] = period.start - experiment.start
        values |= {_value_of(number, name): given[name] for name, formula in formulas.items() if formula is None}


def _begin_anew(work: _Work, values: Sequence[dict[str, float | str]]) -> None:
    """Let what periods make a state start as a parameter does, whatever it was in a pre-equilibration.

    Other states go on from their steady state where an experiment does not set them.
    """
    for name in work.jumping:
        for own in values if name not in work.model.derivatives else ():
            if name not in own:
                own.setdefault(chosen(name), 0.0)
                work.initial[chosen(name)] = ZERO


def _value_of(number: int, name: str) -> str:
    return f"value of {name} in change {number}"


def _event(work: _Work, number: int, formulas: Mapping[str, Expr | None]) -> Event:
    """Return a change as an event. A concentration stays what it is when only the size below it changes."""
    work.initial[f"{_TIME_OF}{number}"] = const(math.inf)
    new = {}
    for name, formula in formulas.items():
        new[name] = (
            symbol(_value_of(number, name)) if formula is None else substitute([formula], {"time": work.clock})[0]
        )
        if formula is None:
            work.initial[_value_of(number, name)] = ZERO
    assigned = {name: value for name, value in new.items() if name in work.model.initial}
    for name in work.model.expressions:
        carried = carrier(work.model, name)
        if carried is not None and (name in new or carried[1].symbols & new.keys()):
            state, size = carried
            assigned[state] = new.get(name, symbol(name)) * substitute([size], assigned)[0]
    work.jumping |= dict.fromkeys(assigned)
    return Event(
        f"change {number}",
        apply("ge", TIME, symbol(f"{_TIME_OF}{number}")),
        tuple(assigned.items()),
        is_true_before=False,
        comes_first=True,
    )
