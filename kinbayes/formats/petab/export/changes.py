"""What experiments set: expressions of the declared parameters at their start, formulas of everything later."""

import math
from collections.abc import Mapping

from kinbayes.formats.petab.export.names import Names
from kinbayes.formats.petab.export.parts import Parts
from kinbayes.formats.petab.export.tables import number_cell
from kinbayes.formats.petab.formula import expression_text, petab_formula, renamed
from kinbayes.formats.petab.table import number
from kinbayes.model.expressions import Expr, const, substitute, symbol
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.problem.observables import Experiment, Period
from kinbayes.problem.periods import carrier


def start_changes(problem: Parts, experiment: Experiment) -> dict[str, Expr]:
    """Return what an experiment sets at its start, in names of declared parameters.

    Formulas see the model's own values there, and the declared parameters as the experiment has them. A concentration
    whose state is an amount sets that.
    """
    declared = {p.name for p in problem.parameters}
    plain = {name: _plain(declared, experiment.values[name]) for name in experiment.given}
    here = {name: e for name, e in plain.items() if name in declared}

    def value(formula: Expr, known: Mapping[str, Expr]) -> Expr:
        kept = substitute([formula], {name: symbol(f"known {name}") for name in known})
        own = problem.model.at_start(kept, declared)
        known = {f"known {name}": e for name, e in known.items()}
        return substitute(own, {**here, "time": const(experiment.start), **known})[0]

    changes = {
        name: plain[name] or value(parse(experiment.values[name]), {}) for name in experiment.values if name in plain
    }
    for name, (state, size) in _amounts(problem.model).items():
        if name in changes:
            changes[state] = changes.pop(name) * value(size, changes)
    return changes


def _plain(declared: set[str], value: float | str) -> Expr | None:
    """Return a number or a declared parameter; None for a formula."""
    if not isinstance(value, str):
        return const(value)
    if value in declared:
        return symbol(value)
    return None if math.isnan(number(value)) else const(number(value))


def later_changes(problem: Parts, names: Names, period: Period) -> dict[str, str]:
    """Return what becomes what in a period, as ids and formulas in ids, which know all that there is.

    A concentration whose state is an amount stays what it is when only the size changes.
    """
    given = {n: v for n, v in period.values.items() if isinstance(v, str) or not math.isnan(v)}
    texts = {names.in_model[name]: _later(names, value) for name, value in given.items()}
    sizes = {id_: parse(text) for id_, text in texts.items()}
    to_ids = {name: symbol(id_) for name, id_ in names.in_model.items()}
    for name, (state, size) in _amounts(problem.model).items():
        id_, (in_ids,) = names.in_model[name], substitute([size], to_ids)
        if id_ in texts or in_ids.symbols & sizes.keys():
            concentration = sizes[id_] if texts.pop(id_, "") else symbol(id_)
            texts[names.in_model[state]] = expression_text(concentration * substitute([in_ids], sizes)[0])
    return texts


def _later(names: Names, value: float | str) -> str:
    if not isinstance(value, str):
        return number_cell(value)
    if value in names.parameters:
        return names.parameters[value]
    return petab_formula(renamed(value, {**names.parameters, **names.in_model}))


def _amounts(model: Model) -> dict[str, tuple[str, Expr]]:
    """Return the concentrations whose states are amounts: with these, and the sizes."""
    found = {name: carrier(model, name) for name in model.expressions}
    return {name: carried for name, carried in found.items() if carried is not None}
