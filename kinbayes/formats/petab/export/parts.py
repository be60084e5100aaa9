"""The parts of a problem as PEtab knows them: what a table gives over time is in the model and the experiments."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from kinbayes.model.expressions import const
from kinbayes.model.model import Model
from kinbayes.problem.inputs import at_rest, driven
from kinbayes.problem.observables import Experiment, Measurement, Observable
from kinbayes.problem.parameters import Parameter
from kinbayes.problem.problem import Problem


class Parts(NamedTuple):
    """What makes a problem, without inputs; see `Problem`."""

    model: Model
    parameters: tuple[Parameter, ...]
    observables: tuple[Observable, ...]
    experiments: tuple[Experiment, ...]
    measurements: tuple[Measurement, ...]


def parts_of(problem: Problem) -> Parts:
    """Return the parts of a problem.

    An input becomes a rule of the model, which finds in parameters the times and coefficients of its pieces. During a
    pre-equilibration it rests, so where there are inputs the experiments that come before others are others.
    """
    parts = Parts(problem.model, problem.parameters, problem.observables, problem.experiments, problem.measurements)
    if not problem.inputs:
        return parts
    model, experiments = driven(problem.model, problem.experiments, problem.inputs)
    before = {m.preequilibration for m in problem.measurements} - {""}
    rests = {e.name: dataclasses.replace(at_rest(e), name=f"{e.name} at rest") for e in experiments if e.name in before}
    rows = [
        m._replace(preequilibration=rests[m.preequilibration].name) if m.preequilibration else m
        for m in problem.measurements
    ]
    used = {m.experiment for m in rows}
    kept = [e for e in experiments if e.name in used or e.name not in rests]
    model, experiments = _with_common(problem.model, model, [*kept, *rests.values()])
    return parts._replace(model=model, experiments=experiments, measurements=tuple(rows))


def _with_common(old: Model, model: Model, experiments: Sequence[Experiment]) -> tuple[Model, tuple[Experiment, ...]]:
    """Return a model that has the numbers which all experiments give new names, and the experiments without them."""
    new = model.initial.keys() - old.initial.keys()
    common = {}
    for name in new:
        values = {e.values.get(name, model.initial[name]) for e in experiments}
        if len(values) == 1 and isinstance(value := values.pop(), float):
            common[name] = value
    initial = {name: const(common[name]) if name in common else start for name, start in model.initial.items()}
    return dataclasses.replace(model, initial=initial), tuple(
        dataclasses.replace(e, values={n: v for n, v in e.values.items() if n not in common}) for e in experiments
    )
