"""A digest of everything that defines a posterior."""

import hashlib
from collections.abc import Mapping, Sequence

from kinbayes.model.codegen import program
from kinbayes.model.model import Model
from kinbayes.problem.constraints import Constraint
from kinbayes.problem.inputs import Input
from kinbayes.problem.observables import Experiment, Measurement, Observable
from kinbayes.problem.parameters import Parameter


def digest(
    model: Model,
    parameters: Sequence[Parameter],
    observables: Sequence[Observable],
    experiments: Sequence[Experiment],
    inputs: Sequence[Input],
    measurements: Sequence[Measurement],
    constraints: Sequence[Constraint],
    *,
    settings: tuple,
) -> str:
    """Return a digest of the parts of a problem and the settings of its solver, the same in every process.

    Values of estimated parameters are no part of it, nor are labels and units.
    """
    parts = (
        _model(model),
        [(p.name, p.scale, p.prior, p.bounds, None if p.estimate else p.nominal) for p in parameters],
        [(o.name, o.formula, o.noise) for o in observables],
        [(e.name, _sorted(e.values), e.start, [(p.start, _sorted(p.values)) for p in e.periods]) for e in experiments],
        [(i.name, i.interpolation, _sorted(i.curves)) for i in inputs],
        (tuple(measurements), *settings, *constraints),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _model(model: Model) -> tuple:
    formulas = [formula for event in model.events for formula in event.formulas]
    code = program([*model.derivatives.values(), *model.initial.values(), *model.expressions.values(), *formulas])
    flags = [(e.is_true_before, e.is_persistent, e.keeps_values, e.priority is None) for e in model.events]
    events = [(e.name, [target for target, _ in e.assignments]) for e in model.events]
    return (tuple(model.derivatives), tuple(model.initial), tuple(model.expressions), events, flags, code)


def _sorted(values: Mapping) -> list:
    return sorted(values.items())
