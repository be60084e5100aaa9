"""SBML of a Model."""

import math
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from xml.sax.saxutils import quoteattr

from kinbayes.formats.sbml.mathml import UnwritableError, common_parts, mathml
from kinbayes.model.expressions import ZERO, Expr, is_boolean, symbol
from kinbayes.model.model import Event, Model

_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNITS = (  # L3V2, section 4.4.2
    "ampere avogadro becquerel candela coulomb dimensionless farad gram gray henry hertz item joule katal kelvin "
    "kilogram litre lumen lux metre mole newton ohm pascal radian second siemens sievert steradian tesla volt watt "
    "weber"
)
_BASE_UNITS = frozenset(_UNITS.split())


def valid_ids(names: Iterable[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Return name -> id for names that may be no ids; those that are keep theirs.

    An id has ASCII letters, digits and underscores, and no digit first.

    Parameters
    ----------
    names
        The names.
    taken
        Ids that only names equal to them get.
    """
    names = list(dict.fromkeys(names))
    ids = {name: name for name in names if _ID.fullmatch(name)}
    used = {*taken, *ids}
    for name in names:
        if name not in ids:
            word = re.sub(r"[^A-Za-z0-9_]", "_", name)
            ids[name] = free_id(word if _ID.fullmatch(word) else f"_{word}", used)
            used.add(ids[name])
    return {name: ids[name] for name in names}


def free_id(word: str, used: Collection[str]) -> str:
    """Return an id that is not used: the word, or one that begins with it."""
    found, number = word, 1
    while found in used:
        number += 1
        found = f"{word}_{number}"
    return found


def model_ids(model: Model, taken: Collection[str] = ()) -> dict[str, str]:
    """Return the ids that `write_sbml` gives the names of a model, see `valid_ids`."""
    return valid_ids([*model.initial, *model.expressions], taken)


def write_sbml(model: Model, *, ids: Mapping[str, str] | None = None, taken: Collection[str] = ()) -> str:
    """Return a model as SBML Level 3 Version 2.

    States become parameters with rate rules, so there are no species and compartments: a model has lost what these
    were, and what its names mean is the same without them. Expressions become assignment rules. Where formulas are
    several times longer written out than as a graph, or nested deep, parts of them become assignment rules
    named `part_1`, `part_2`, … Numbers read back bit for bit.

    Parameters
    ----------
    model
        The model.
    ids
        The ids of all its names; by default those of `model_ids`.
    taken
        Ids that nothing new gets, for what is beside the model.

    Returns
    -------
    str
        The text. Units are the model's texts, without definitions.

    Raises
    ------
    UnwritableError
        If SBML has no words for a formula, or an event comes before all others.
    """
    first = [event.name for event in model.events if event.comes_first]
    if first:
        raise UnwritableError(f"events {first} come before all others, which SBML has no way to say")
    ids = model_ids(model, taken) if ids is None else ids
    used = {*taken, *ids.values()}
    names = {symbol(name): id_ for name, id_ in ids.items()}
    # A part of a formula that is an expression of the model is written as its name, as it was in the file.
    names |= {e: ids[name] for name, e in reversed(model.expressions.items()) if e.args and not is_boolean(e)}
    formulas = [*model.derivatives.values(), *model.initial.values(), *model.expressions.values()]
    parts: dict[str, Expr] = {}
    for part in common_parts([*formulas, *(f for event in model.events for f in event.formulas)], names):
        name = free_id(f"part_{len(parts) + 1}", used)
        used.add(name)
        parts[name], names[part] = part, name
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<sbml xmlns="http://www.sbml.org/sbml/level3/version2/core" level="3" version="2">',
        f"<model{_attributes(id=model.name if _ID.fullmatch(model.name) else None, name=model.name)}>",
        *_list("UnitDefinitions", _unit_definitions(model)),
        *_list("Parameters", _parameters(model, ids, parts)),
        *_list("InitialAssignments", _initial_assignments(model, ids, names)),
        *_list("Rules", _rules(model, ids, names, parts)),
        *_list("Events", _events(model, ids, names, used)),
        "</model>",
        "</sbml>",
        "",
    ]
    return "\n".join(lines)


def _attributes(**values: str | bool | None) -> str:
    """Return attributes of an element, without those that are None."""
    texts = {name: str(value).lower() if isinstance(value, bool) else value for name, value in values.items()}
    return "".join(f" {name}={quoteattr(text)}" for name, text in texts.items() if text is not None)


def _list(kind: str, elements: Iterable[str]) -> list[str]:
    elements = list(elements)
    return [f"<listOf{kind}>", *elements, f"</listOf{kind}>"] if elements else []


def _unit_ids(model: Model) -> dict[str, str]:
    """Return the id of every unit that has a text: SBML's own, or that of a definition."""
    texts = list(dict.fromkeys(unit for unit in model.units.values() if unit))
    return {text: text if text in _BASE_UNITS else f"unit_{k}" for k, text in enumerate(texts, start=1)}


def _unit_definitions(model: Model) -> Iterator[str]:
    for text, id_ in _unit_ids(model).items():
        if text not in _BASE_UNITS:
            yield f"<unitDefinition{_attributes(id=id_, name=text)}/>"


def _parameters(model: Model, ids: Mapping[str, str], parts: Mapping[str, Expr]) -> Iterator[str]:
    units = _unit_ids(model)
    for name, id_ in ids.items():
        start = model.initial.get(name)
        yield "<parameter{}/>".format(
            _attributes(
                id=id_,
                name=None if id_ == name else name,
                value=_value(start) if start is not None and _is_attribute(start) else None,
                units=units.get(model.units.get(name, "")),
                constant=start is not None and name not in model.derivatives,
            )
        )
    yield from (f"<parameter{_attributes(id=name, constant=False)}/>" for name in parts)


def _is_attribute(start: Expr) -> bool:
    """Return whether a value is a number that readers know as such: libsbml knows none nearer to 0 in an attribute."""
    return start.op == "const" and (start.value == 0 or not abs(start.value) < sys.float_info.min)


def _value(start: Expr) -> str | None:
    """Return the text of a number, None for NaN."""
    if math.isinf(start.value):
        return "INF" if start.value > 0 else "-INF"
    return None if math.isnan(start.value) else repr(start.value)


def _initial_assignments(model: Model, ids: Mapping[str, str], names: Mapping[Expr, str]) -> Iterator[str]:
    for name, start in model.initial.items():
        if not _is_attribute(start):
            yield f"<initialAssignment{_attributes(symbol=ids[name])}>{mathml(start, names)}</initialAssignment>"


def _rules(model: Model, ids: Mapping[str, str], names: Mapping[Expr, str], parts: Mapping[str, Expr]) -> Iterator[str]:
    rules = {**{ids[name]: e for name, e in model.expressions.items()}, **parts}
    for id_, e in rules.items():
        math_ = mathml(e, names, is_definition=names.get(e) == id_)
        yield f"<assignmentRule{_attributes(variable=id_)}>{math_}</assignmentRule>"
    for state, slope in model.derivatives.items():
        yield f"<rateRule{_attributes(variable=ids[state])}>{mathml(slope, names)}</rateRule>"


def _events(model: Model, ids: Mapping[str, str], names: Mapping[Expr, str], used: Collection[str]) -> Iterator[str]:
    events = valid_ids((event.name for event in model.events), used)
    for event in model.events:
        yield from _event(event, free_id(events[event.name], used), ids, names)


def _event(event: Event, id_: str, ids: Mapping[str, str], names: Mapping[Expr, str]) -> Iterator[str]:
    own = _attributes(id=id_, name=event.name, useValuesFromTriggerTime=event.keeps_values)
    trigger = _attributes(initialValue=event.is_true_before, persistent=event.is_persistent)
    yield f"<event{own}>"
    yield f"<trigger{trigger}>{mathml(event.trigger, names)}</trigger>"
    if event.priority is not None:
        yield f"<priority>{mathml(event.priority, names)}</priority>"
    if event.delay is not ZERO:
        yield f"<delay>{mathml(event.delay, names)}</delay>"
    assigned = ((_attributes(variable=ids[state]), mathml(value, names)) for state, value in event.assignments)
    yield from _list("EventAssignments", (f"<eventAssignment{a}>{m}</eventAssignment>" for a, m in assigned))
    yield "</event>"
