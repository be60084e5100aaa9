"""From the scaled parameter vector to the log density of every measurement.

The *structure* (functions) is compiled once; the *numbers* (measurements, times, conditions, tolerances) are arrays
that are passed in, so that new numbers of the same shapes compile nothing.

A *lane* is one simulation: a parameter vector under one experiment. The *inputs* of a lane are the names that
something outside the model may set: the model's plain constants, what parameters or experiments give, and names
that only formulas use.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kinbayes.model.codegen import to_jax
from kinbayes.model.expressions import Expr, substitute, symbol
from kinbayes.model.formula import FormulaError, parse
from kinbayes.model.model import Model, ModelError
from kinbayes.ode.diffrax_engine import integrator
from kinbayes.ode.status import Status
from kinbayes.problem.observables import DataError, Experiment, Measurement, Observable
from kinbayes.problem.parameters import Parameter, jax_natural

_MOST_SETTINGS = 2  # of any noise family


class Source(NamedTuple):
    """Where values come from: entry `index` of the natural parameter vector, or a constant where it is −1."""

    index: Int[Array, "*shape"]
    constant: Float[Array, "*shape"]

    def values(self, theta: Float[Array, " dim"]) -> Float[Array, "*shape"]:
        """Return the values under a natural parameter vector."""
        padded = jnp.concatenate([theta, jnp.zeros(1)])
        return jnp.where(self.index >= 0, padded[self.index], self.constant)


class RowData(NamedTuple):
    """The numbers of one observable's measurements."""

    lane: Int[Array, " rows"]
    time_index: Int[Array, " rows"]
    time: Float[Array, " rows"]
    placeholders: Source  # (placeholders, rows)
    measurement: Float[Array, " rows"]


class LikelihoodData(NamedTuple):
    """The numbers of a likelihood, a pytree."""

    inputs: Source  # (inputs, lanes)
    is_given: Float[Array, "sometimes lanes"]
    times: Float[Array, "lanes times"]
    rows: tuple[RowData, ...]  # one an observable
    order: Int[Array, " measurements"]  # from rows by observable to rows of the data
    rtol: Float[Array, ""]
    atol: Float[Array, ""]


class Rows(NamedTuple):
    """What parameter vectors predict, measurement by measurement in the order of the data."""

    simulated: Float[Array | np.ndarray, "*batch measurements"]
    noise: Float[Array | np.ndarray, "*batch measurements settings"]
    log_density: Float[Array | np.ndarray, "*batch measurements"]
    status: Int[Array | np.ndarray, "*batch lanes"]


class Likelihood:
    """The compiled structure of a likelihood.

    Parameters
    ----------
    model, parameters, observables, experiments
        As given to `Problem`.
    solver, max_steps
        Settings of the engine.

    Raises
    ------
    ModelError
        If a parameter, an experiment or a formula names what is nowhere defined.
    """

    def __init__(
        self,
        model: Model,
        parameters: Sequence[Parameter],
        observables: Sequence[Observable],
        experiments: Sequence[Experiment],
        *,
        solver: str,
        max_steps: int,
    ) -> None:
        self.model = model
        self.names = [p.name for p in parameters if p.estimate]
        self.fixed = {p.name: p.nominal for p in parameters if not p.estimate}
        self.observables = list(observables)
        formulas = [_formulas(model, o) for o in observables]
        self.placeholders = [placeholders(o.name, f) for o, f in zip(observables, formulas, strict=True)]
        self._inputs(parameters, experiments, formulas)
        self._functions(formulas, tuple(p.scale for p in parameters if p.estimate), solver, max_steps)

    def _inputs(self, parameters: Sequence[Parameter], experiments: Sequence[Experiment], formulas: list) -> None:
        model, declared = self.model, {p.name for p in parameters}
        settable = set(model.initial)
        computed = sorted(declared & set(model.expressions))
        if computed:
            raise ModelError(f"parameters {computed} are computed by the model's own rules; remove them or the rules")
        for experiment in experiments:
            for name, value in experiment.values.items():
                if name not in settable:
                    raise ModelError(
                        f"experiment {experiment.name!r} sets {name!r}, which is no state or parameter of the model"
                    )
                if not (value in declared or _is_number(value)):
                    raise ModelError(
                        f"experiment {experiment.name!r} sets {name!r} to {value!r}, neither a number nor a parameter"
                    )
        in_formulas = {s for f in formulas for e in f for s in e.symbols}
        for observable, formula, own in zip(self.observables, formulas, self.placeholders, strict=True):
            known = declared | settable | set(own) | {"time"}
            unknown = sorted({s for e in formula for s in e.symbols} - known)
            if unknown:
                raise ModelError(
                    f"observable {observable.name!r} uses {unknown}, defined neither in the model nor as a parameter"
                )
        plain = [name for name in model.parameters if model.initial[name].op == "const"]
        given = [n for n in model.initial if n in declared or any(n in e.values for e in experiments)]
        self.extra = sorted((in_formulas & declared) - settable)
        self.inputs = [*dict.fromkeys([*plain, *given]), *self.extra]
        # A definition that only some experiments replace is kept beside the value that replaces it.
        self.sometimes = [
            n for n in given if n not in declared and n not in plain and not all(n in e.values for e in experiments)
        ]

    def _functions(self, formulas: list, scales: tuple, solver: str, max_steps: int) -> None:
        model = self.model
        always = [n for n in self.inputs if n not in self.sometimes and n not in self.extra]
        start = model.initial_values(always, self.sometimes)
        start_names = [*always, *(n for name in self.sometimes for n in model.given_names(name)), "time"]
        start_fn = to_jax([start[n] for n in (*model.states, *model.parameters)], start_names)
        row_names = ("time", *model.states, *model.parameters, *self.extra)
        prediction_fns = [
            to_jax(formula, (*row_names, *own)) for formula, own in zip(formulas, self.placeholders, strict=True)
        ]
        density_fns = []
        for observable in self.observables:
            settings = [symbol(f"setting {k}") for k in range(len(observable.noise.formulas))]
            density = observable.noise.log_density(symbol("measurement"), symbol("prediction"), *settings)
            density_fns.append(to_jax([density], ("measurement", "prediction", *(s.value for s in settings))))
        integrate = integrator(model, solver=solver, max_steps=max_steps)
        num_states = len(model.states)
        always_rows = np.array([self.inputs.index(n) for n in always], dtype=int)
        sometimes_rows = np.array([self.inputs.index(n) for n in self.sometimes], dtype=int)
        extra_rows = np.array([self.inputs.index(n) for n in self.extra], dtype=int)

        def lanes(u: Float[Array, " dim"], data: LikelihoodData) -> tuple[Array, Array, Array, Array, Array]:
            theta = jax_natural(u, scales)
            inputs = data.inputs.values(theta)
            switched = [v for k, row in enumerate(sometimes_rows) for v in (data.is_given[k], inputs[row])]
            values = start_fn(*(inputs[row] for row in always_rows), *switched, jnp.zeros(()))
            values = (
                jnp.stack([jnp.broadcast_to(v, data.times.shape[:1]) for v in values], axis=-1)
                if values
                else (jnp.zeros((data.times.shape[0], 0)))
            )
            initial, constants = values[:, :num_states], values[:, num_states:]
            solution = jax.vmap(integrate, in_axes=(0, 0, 0, None, None))(
                initial, constants, data.times, data.rtol, data.atol
            )
            return theta, solution.states, constants, inputs[extra_rows], solution.status

        def rows(u: Float[Array, " dim"], data: LikelihoodData) -> Rows:
            theta, states, constants, extra, status = lanes(u, data)
            parts = []
            for prediction_fn, density_fn, row in zip(prediction_fns, density_fns, data.rows, strict=True):
                at_rows = (*states[row.lane, row.time_index].T, *constants[row.lane].T, *extra[:, row.lane])
                prediction, *settings = prediction_fn(row.time, *at_rows, *row.placeholders.values(theta))
                (density,) = density_fn(row.measurement, prediction, *settings)
                columns = [prediction, density, *settings, *[0.0] * (_MOST_SETTINGS - len(settings))]
                parts.append(jnp.stack([jnp.broadcast_to(c, row.time.shape) for c in columns], axis=-1))
            table = jnp.concatenate(parts)[data.order]
            return Rows(table[:, 0], table[:, 2:], table[:, 1], status)

        def pointwise(u: Float[Array, " dim"], data: LikelihoodData) -> Float[Array, " measurements"]:
            found = rows(u, data)
            is_good = jnp.all(found.status == int(Status.OK)) & ~jnp.isnan(found.log_density)
            return jnp.where(is_good, found.log_density, -jnp.inf)

        self.states = lambda u, data: lanes(u, data)[1]
        self.rows = rows
        self.pointwise = forward_differentiable(pointwise)
        self.simulated = forward_differentiable(lambda u, data: rows(u, data).simulated)
        self.log_likelihood = forward_differentiable(lambda u, data: jnp.sum(pointwise(u, data)))

    def data(
        self, measurements: Sequence[Measurement], experiments: Sequence[Experiment], *, rtol: float, atol: float
    ) -> LikelihoodData:
        """Return the numbers of these measurements.

        Raises
        ------
        DataError
            If a row gives too few or too many values for the placeholders of its observable, or unknown names.
        """
        used = [e for e in experiments if any(m.experiment == e.name for m in measurements)]
        lane_of = {e.name: k for k, e in enumerate(used)}
        lane_times = [sorted({m.time for m in measurements if m.experiment == e.name}) for e in used]
        most = max(len(t) for t in lane_times)
        times = np.array([t + [t[-1]] * (most - len(t)) for t in lane_times])
        time_index = [{t: k for k, t in enumerate(ts)} for ts in lane_times]
        groups = [[r for r, m in enumerate(measurements) if m.observable == o.name] for o in self.observables]
        row_data = []
        for observable, own, group in zip(self.observables, self.placeholders, groups, strict=True):
            members = [measurements[r] for r in group]
            lanes = [lane_of[m.experiment] for m in members]
            cells = [self._cells(observable.name, own, r, measurements[r]) for r in group]
            row_data.append(
                RowData(
                    jnp.asarray(lanes, dtype=int),
                    jnp.asarray([time_index[c][m.time] for c, m in zip(lanes, members, strict=True)], dtype=int),
                    jnp.asarray([m.time for m in members], dtype=float),
                    self._source([[row[k] for row in cells] for k in range(len(own))], len(group)),
                    jnp.asarray([m.value for m in members], dtype=float),
                )
            )
        order = np.argsort(np.array([r for group in groups for r in group]), kind="stable")
        is_given = np.array([[float(n in e.values) for e in used] for n in self.sometimes]).reshape(-1, len(used))
        inputs = [[e.values.get(n, self._default(n)) for e in used] for n in self.inputs]
        return LikelihoodData(
            self._source(inputs, len(used)),
            jnp.asarray(is_given),
            jnp.asarray(times),
            tuple(row_data),
            jnp.asarray(order),
            jnp.asarray(rtol, dtype=float),
            jnp.asarray(atol, dtype=float),
        )

    def _default(self, name: str) -> float | str:
        if name in self.names or name in self.fixed:
            return name
        definition = self.model.initial[name]
        return float(definition.value) if definition.op == "const" else 0.0

    def _cells(self, observable: str, own: Sequence[str], row: int, m: Measurement) -> list[str]:
        cells = []
        for column, kind, given in (
            ("observableParameters", "observableParameter", m.observable_parameters),
            ("noiseParameters", "noiseParameter", m.noise_parameters),
        ):
            expected = sum(p.startswith(kind) for p in own)
            if len(given) != expected:
                raise DataError(
                    f"data row {row}, column {column!r}: observable {observable!r} takes {expected} value(s) there, "
                    f"but {list(given)} has {len(given)}"
                )
            cells.extend(given)
        for cell in cells:
            if not (cell in self.names or cell in self.fixed or _is_number(cell)):
                raise DataError(f"data row {row}: {cell!r} is neither a number nor a parameter of the problem")
        return cells

    def _source(self, table: list[list[float | str]], width: int) -> Source:
        flat = [cell for line in table for cell in line]
        index = [self.names.index(c) if c in self.names else -1 for c in flat]
        constant = [0.0 if c in self.names else float(self.fixed.get(c, c)) for c in flat]
        shape = (len(table), width)
        return Source(jnp.asarray(index, dtype=int).reshape(shape), jnp.asarray(constant, dtype=float).reshape(shape))


def _is_number(cell: float | str) -> bool:
    try:
        return not math.isnan(float(cell))
    except ValueError:
        return False


def _formulas(model: Model, observable: Observable) -> list[Expr]:
    """Return the observable's prediction and its noise settings, in states, parameters and placeholders."""
    try:
        prediction, *settings = (parse(text) for text in (observable.formula, *observable.noise.formulas))
    except FormulaError as error:
        raise FormulaError(f"observable {observable.name!r}: {error}") from error
    own: Mapping[str, Expr] = {} if observable.name in model.initial else {observable.name: prediction}
    return substitute([prediction, *substitute(settings, own)], model.expressions)


def placeholders(observable: str, formulas: Sequence[Expr]) -> list[str]:
    """Return the names in an observable's formulas that each measurement fills in, in order."""
    found = {s for f in formulas for s in f.symbols}
    names = []
    for kind in ("observableParameter", "noiseParameter"):
        numbers = [
            int(s[len(kind) : -len(observable) - 1])
            for s in found
            if s.startswith(kind) and s.endswith(f"_{observable}") and s[len(kind) : -len(observable) - 1].isdigit()
        ]
        names += [f"{kind}{k}_{observable}" for k in range(1, max(numbers, default=0) + 1)]
    return names


def forward_differentiable(function: Callable) -> Callable:
    """Return `function(u, data)` with the derivative rule of forward mode, whatever mode is asked for.

    The Jacobian with respect to u is computed forward, since solving an ODE backward costs far more; the rule is
    linear in the tangent, so reverse mode transposes it. Where a value is not finite its derivative is zero.
    """

    @jax.custom_jvp
    def wrapped(u: Array, data: tuple) -> Array:
        return function(u, data)

    @wrapped.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
        u, data = primals
        value, jacobian = value_and_jacobian(function, u, data)
        return value, jacobian @ tangents[0]

    return wrapped


def value_and_jacobian(function: Callable, u: Float[Array, " dim"], data: tuple) -> tuple[Array, Array]:
    """Return the value and the Jacobian (…, dim) with respect to u, in forward mode; zeros at values not finite."""
    basis = jnp.eye(u.shape[0])
    value, columns = jax.vmap(lambda v: jax.jvp(lambda w: function(w, data), (u,), (v,)), out_axes=(None, -1))(basis)
    return value, jnp.where(jnp.isfinite(value)[..., None], columns, 0.0)
