"""What the parts of a problem are called in PEtab, and the model that goes with these names.

PEtab wants ids, made of letters, digits and underscores, and one thing for one id: the start of a state is no
parameter of its table, nor is what conditions set, and an observable is called like nothing in the model.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

from kinbayes.formats.petab.export.parts import Parts
from kinbayes.formats.petab.formula import names_in, renamed
from kinbayes.formats.sbml.writer import free_id, model_ids, valid_ids
from kinbayes.model.expressions import const, symbol
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.problem.likelihood import placeholders
from kinbayes.problem.observables import Observable


class Names(NamedTuple):
    """The ids of a problem's parts, by their names here.

    Attributes
    ----------
    model
        The model to be written.
    in_model
        The ids of its quantities.
    parameters
        The ids of the declared parameters. The start of a state `S` is the parameter `S_start`, from which the model
        takes it. A parameter `k` that experiments set remains in the model, and where they do not set it they take it
        from the parameter `k_default`.
    defaults
        The names of the parameters of that second kind.
    observables, experiments
        The ids of the others.
    """

    model: Model
    in_model: Mapping[str, str]
    parameters: Mapping[str, str]
    defaults: tuple[str, ...]
    observables: Mapping[str, str]
    experiments: Mapping[str, str]

    @property
    def taken(self) -> frozenset[str]:
        """All ids."""
        ids = (self.in_model, self.parameters, self.observables, self.experiments)
        return frozenset(itertools.chain.from_iterable(part.values() for part in ids))

    def formula(self, observable: Observable, text: str) -> str:
        """Return a formula of an observable with the ids in it."""
        new = self.observables[observable.name]
        if new == observable.name:
            return text
        own = {p: f"{p.removesuffix(observable.name)}{new}" for p in all_placeholders(observable)}
        if observable.name not in self.model.initial:  # else the formula means that
            own[observable.name] = new
        return renamed(text, own)


def all_placeholders(observable: Observable) -> list[str]:
    """Return the placeholders of an observable's formulas, those of the noise last."""
    return placeholders(observable.name, [parse(text) for text in (observable.formula, *observable.noise.formulas)])


def names_of(problem: Parts) -> Names:
    """Return the ids of a problem's parts."""
    model, declared, observed = problem.model, problem.parameters, [o.name for o in problem.observables]
    in_model = model_ids(model, [*(p.name for p in declared), *observed])
    used = {*in_model.values(), *(p.name for p in declared), *observed}
    is_set = {name for e in problem.experiments for name in itertools.chain(e.values, *(p.values for p in e.periods))}
    starts, defaults, parameters = {}, [], {}
    for name in (p.name for p in declared):
        parameters[name] = in_model.get(name, name)
        if name in model.derivatives:
            parameters[name] = starts[name] = _new(f"{in_model[name]}_start", used)
        elif name in model.initial and name in is_set:
            parameters[name] = _new(f"{in_model[name]}_default", used)
            defaults.append(name)
        elif name not in model.initial and valid_ids([name])[name] != name:
            parameters[name] = _new(name, used)
    observables = {}
    for name in observed:
        is_free = name not in in_model.values() and valid_ids([name])[name] == name
        observables[name] = name if is_free else _new(f"obs_{name}", used)
    kept = [parameters[name] for name in _unused(problem)]
    values = {parameters[p.name]: math.nan if p.nominal is None else p.nominal for p in declared}
    initial = {
        **{name: symbol(starts[name]) if name in starts else start for name, start in model.initial.items()},
        **{id_: const(values[id_]) for id_ in (*starts.values(), *kept)},
    }
    units = {**model.units, **{p.name: p.unit for p in declared if p.unit and p.name in model.initial}}
    in_model |= {id_: id_ for id_ in (*starts.values(), *kept)}
    return Names(
        dataclasses.replace(model, initial=initial, units=units),
        in_model,
        parameters,
        tuple(defaults),
        observables,
        valid_ids(e.name for e in problem.experiments),
    )


def _new(word: str, used: set[str]) -> str:
    """Return an id that is not used, and count it as used."""
    id_ = free_id(valid_ids([word])[word], used)
    used.add(id_)
    return id_


def _unused(problem: Parts) -> list[str]:
    """Return the parameters that appear nowhere: no table of PEtab may hold them, unless the model does."""
    model, experiments = problem.model, problem.experiments
    periods = [period.values for e in experiments for period in e.periods]
    cells = [str(value) for values in (*(e.values for e in experiments), *periods) for value in values.values()]
    cells += [part for m in problem.measurements for part in (*m.observable_parameters, *m.noise_parameters)]
    used = {name for cell in cells for name in (cell, *names_in(cell))}
    used |= {name for o in problem.observables for text in (o.formula, *o.noise.formulas) for name in names_in(text)}
    used |= {n for n in model.initial if n not in model.derivatives and not all(n in e.given for e in experiments)}
    return [p.name for p in problem.parameters if p.name not in used]
