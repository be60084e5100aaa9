"""What experiments are in PEtab version 2: periods, each of which begins with the changes of its conditions.

The first may lead to a steady state; what it changes then holds on, unless a later period changes it again.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from kinbayes.formats.files import shown
from kinbayes.formats.petab.formula import InexpressibleError, expression_text
from kinbayes.formats.petab.measured import formula_in
from kinbayes.formats.petab.table import Row, UnsupportedPEtabError, number
from kinbayes.model.expressions import const, substitute
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.problem.observables import Experiment, Period
from kinbayes.problem.periods import carrier

_AS_IT_IS = "model_as_it_is"  # the experiment of measurements that name none

Changes = dict[str, float | str]


def conditions_of(rows: Sequence[Row], parameters: Collection[str]) -> dict[str, dict[str, Row]]:
    """Return condition -> target -> the line that says its value, and that is no parameter of the table."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        own, target = found.setdefault(row.identifier("conditionId"), {}), row.identifier("targetId")
        if target in own:
            raise row.error("targetId", f"the condition sets {target!r} already, in {own[target].place}")
        if target in parameters:
            raise row.error("targetId", f"{target!r} is in the parameter table, so no condition can set it")
        if not row["targetValue"]:
            raise row.error("targetValue", f"it is empty; give a number or a formula, or remove the line of {target!r}")
        own[target] = row
    return found


class Experiments(NamedTuple):
    """All experiments, and which one comes before another, as its pre-equilibration."""

    all: list[Experiment]
    before: Mapping[str, str]
    known: Mapping[str, str]  # the name in the table -> the experiment's


def experiments_of(
    rows: Sequence[Row],
    conditions: Mapping[str, dict[str, Row]],
    model: Model,
    values: Mapping[str, float | None],
    parameters: Collection[str],
    *,
    has_plain: bool,
) -> Experiments:
    """Return the experiments of a table's lines.

    Parameters
    ----------
    rows
        The lines: an experiment, a time, and a condition or none.
    conditions
        As `conditions_of` returns them.
    model
        The model.
    values
        The values of parameters that tables or the model give.
    parameters
        The names in the parameter table.
    has_plain
        Whether there are measurements of the model as it is, without an experiment.

    Raises
    ------
    PEtabError
        If a line names what does not exist, two of them contradict each other, or a formula cannot be read.
    UnsupportedPEtabError
        If what follows from a pre-equilibration cannot be written as a formula.
    """
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(row.identifier("experimentId"), []).append(row)
    plain = _AS_IT_IS
    while plain in lines:
        plain += "_"
    found, rests, before = [Experiment(plain)] if has_plain else [], {}, {}
    for name, own in lines.items():
        periods = _periods(own, conditions, model, values)
        rest = periods.pop(-math.inf, None)
        if rest is None:
            start = min(periods)
            at_start = periods.pop(start)
        else:
            key = tuple(rest.items())
            if key not in rests:
                rests[key] = f"{name}_preequilibration"
                if rests[key] in lines:
                    raise lines[rests[key]][0].error(
                        "experimentId", f"{rests[key]!r} is that before {name!r}; rename it"
                    )
                found.append(Experiment(rests[key], rest))
            before[name] = rests[key]
            start = min(periods, default=0.0)
            try:
                at_start = _held(rest, model, parameters)
            except InexpressibleError as error:
                raise UnsupportedPEtabError(f"{own[0].place}: what follows from {name!r} at -inf: {error}") from error
            first = periods.get(start, {})
            if all(_is_plain(target, v, model, values) for target, v in first.items()):
                at_start |= periods.pop(start, {})
        later = tuple(Period(time, changes) for time, changes in sorted(periods.items()))
        found.append(Experiment(name, at_start, start, later))
    return Experiments(found, before, {"": plain, **{name: name for name in lines}})


def _periods(
    rows: Sequence[Row], conditions: Mapping[str, dict[str, Row]], model: Model, values: Mapping[str, float | None]
) -> dict[float, Changes]:
    """Return time -> changes, of an experiment's lines."""
    found: dict[float, Changes] = {}
    known = {"time", *values, *model.initial, *model.expressions}

    def time(row: Row) -> float:
        at = row.number("time")
        if at == math.inf:
            raise row.error("time", "a period cannot begin at inf; give a finite time, or -inf to begin at rest")
        return at

    for at, group in groupby(sorted(rows, key=time), key=time):
        changes = found.setdefault(at, {})
        for row in group:
            if row["conditionId"] and row["conditionId"] not in conditions:
                raise row.error("conditionId", f"unknown {row['conditionId']!r}; known are {shown(list(conditions))}")
            for target, line in conditions.get(row["conditionId"], {}).items():
                if target in changes:
                    raise row.error("conditionId", f"two conditions set {target!r} at time {at:g}")
                if target not in model.initial and carrier(model, target) is None:
                    is_ruled = target in model.expressions
                    computed = "is computed by a rule of the model; set what that depends on"
                    why = computed if is_ruled else "is no species, compartment or parameter of the model"
                    raise line.error("targetId", f"{target!r} {why}")
                text = line["targetValue"]
                is_text = text in values or math.isnan(number(text))
                unknown = sorted(formula_in(line, "targetValue", text).symbols - known) if is_text else []
                if unknown:
                    raise line.error("targetValue", f"{unknown} are defined neither in the model nor as parameters")
                changes[target] = text if is_text else number(text)
    return found


def _held(rest: Changes, model: Model, parameters: Collection[str]) -> Changes:
    """Return what holds on after a pre-equilibration: what it set, and what followed from that as it began.

    Of states the model itself knows.
    """
    moving = {target for target in rest if target in model.derivatives or carrier(model, target) is not None}
    held = {target: value for target, value in rest.items() if target not in moving}
    given = {target: parse(rest[target]) if isinstance(rest[target], str) else const(rest[target]) for target in rest}
    for target in moving & model.expressions.keys():
        amount, size = carrier(model, target)
        given[amount] = given.pop(target) * substitute([size], given)[0]
        moving.add(amount)
    starts = model.initial_values([*given, *(n for n in parameters if n in model.initial and n not in given)])
    for name in model.parameters:
        start = starts[name]
        if name not in given and not start.symbols.isdisjoint(moving):
            held[name] = expression_text(substitute([start], given)[0])
    return held


def _is_plain(target: str, value: float | str, model: Model, values: Mapping[str, float | None]) -> bool:
    """Return whether a change after a pre-equilibration is a number that nothing else follows.

    Else it is a change like those of later periods, since what a model computes at its start is not computed again.
    """
    if isinstance(value, str) and value not in values:
        return False
    follows = [model.initial[name] for name in model.parameters]
    follows += [e.args[1] for e in model.expressions.values() if e.op == "div" and e.args[0].value in model.derivatives]
    return target in model.initial and not any(e.depends_on(target) for e in follows)


def in_version_1(row: Row, experiments: Experiments) -> Row:
    """Return a measurement with the columns of version 1."""
    name = row["experimentId"]
    if name not in experiments.known:
        known = shown([n for n in experiments.known if n])
        raise row.error("experimentId", f"unknown {name!r}; known are {known}")
    cells = {**row.cells, "simulationConditionId": experiments.known[name]}
    return Row(row.place, {**cells, "preequilibrationConditionId": experiments.before.get(name, "")})
