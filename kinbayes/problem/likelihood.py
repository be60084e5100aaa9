"""From the scaled parameter vector to the log density of every measurement: the functions of one structure.

They are compiled once. The numbers (measurements, times, experiments, constants, tolerances) are arrays that are passed
in, laid out by `layout`.
"""

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
from kinbayes.problem.layout import LikelihoodData, Slots
from kinbayes.problem.observables import Observable
from kinbayes.problem.parameters import jax_natural

_MOST_SETTINGS = 2  # of any noise family


class Rows(NamedTuple):
    """What parameter vectors predict, measurement by measurement in the order of the data."""

    simulated: Float[Array | np.ndarray, "*batch measurements"]
    noise: Float[Array | np.ndarray, "*batch measurements settings"]
    log_density: Float[Array | np.ndarray, "*batch measurements"]
    status: Int[Array | np.ndarray, "*batch lanes"]


class Declaration(NamedTuple):
    """What the structure of a likelihood knows of a parameter: not its value, bounds or prior."""

    name: str
    scale: str
    is_estimated: bool


class Likelihood:
    """The compiled structure of a likelihood.

    Parameters
    ----------
    model, observables
        As given to `Problem`.
    declarations
        The parameters, in order.
    given
        One set an experiment: the names that it sets.
    solver, max_steps
        Settings of the engine.

    Raises
    ------
    ModelError
        If a parameter or a formula names what is nowhere defined.
    """

    def __init__(
        self,
        model: Model,
        declarations: Sequence[Declaration],
        observables: Sequence[Observable],
        given: Sequence[frozenset[str]],
        *,
        solver: str,
        max_steps: int,
    ) -> None:
        self.model = model
        self.observables = list(observables)
        formulas = [_formulas(model, o) for o in observables]
        own = {o.name: placeholders(o.name, f) for o, f in zip(observables, formulas, strict=True)}
        declared = {d.name for d in declarations}
        _check_names(model, declared, formulas, own)
        plain = [name for name in model.parameters if model.initial[name].op == "const"]
        set_by_one = [n for n in model.initial if n in declared or any(n in names for names in given)]
        self.extra = sorted({s for f in formulas for e in f for s in e.symbols} & declared - set(model.initial))
        self.slots = Slots(
            model,
            tuple(d.name for d in declarations if d.is_estimated),
            (*dict.fromkeys([*plain, *set_by_one]), *self.extra),
            # A definition that only some experiments replace is kept beside the value that replaces it.
            tuple(
                n for n in set_by_one if n not in declared and n not in plain and not all(n in names for names in given)
            ),
            own,
        )
        self._functions(formulas, tuple(d.scale for d in declarations if d.is_estimated), solver, max_steps)

    def _functions(self, formulas: list, scales: tuple, solver: str, max_steps: int) -> None:
        model, input_names, sometimes = self.model, self.slots.inputs, self.slots.sometimes
        always = [n for n in input_names if n not in sometimes and n not in self.extra]
        start = model.initial_values(always, sometimes)
        start_names = [*always, *(n for name in sometimes for n in model.given_names(name)), "time"]
        start_fn = to_jax([start[n] for n in (*model.states, *model.parameters)], start_names)
        row_names = ("time", *model.states, *model.parameters, *self.extra)
        prediction_fns = [
            to_jax(formula, (*row_names, *own))
            for formula, own in zip(formulas, self.slots.placeholders.values(), strict=True)
        ]
        density_fns = []
        for observable in self.observables:
            settings = [symbol(f"setting {k}") for k in range(len(observable.noise.formulas))]
            density = observable.noise.log_density(symbol("measurement"), symbol("prediction"), *settings)
            density_fns.append(to_jax([density], ("measurement", "prediction", *(s.value for s in settings))))
        integrate = integrator(model, solver=solver, max_steps=max_steps)
        num_states = len(model.states)
        always_rows = np.array([input_names.index(n) for n in always], dtype=int)
        sometimes_rows = np.array([input_names.index(n) for n in sometimes], dtype=int)
        extra_rows = np.array([input_names.index(n) for n in self.extra], dtype=int)

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


def _check_names(model: Model, declared: set[str], formulas: list, own: Mapping[str, Sequence[str]]) -> None:
    computed = sorted(declared & set(model.expressions))
    if computed:
        raise ModelError(f"parameters {computed} are computed by the model's own rules; remove them or the rules")
    for (observable, filled), formula in zip(own.items(), formulas, strict=True):
        known = declared | set(model.initial) | set(filled) | {"time"}
        unknown = sorted({s for e in formula for s in e.symbols} - known)
        if unknown:
            raise ModelError(
                f"observable {observable!r} uses {unknown}, defined neither in the model nor as a parameter"
            )


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
