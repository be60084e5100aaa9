"""The compiled functions of a problem's structure, kept for the next problem of the same structure."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kinbayes.model.model import Model
from kinbayes.ode.status import Status
from kinbayes.problem.groups import counted, num_counted, on_host
from kinbayes.problem.information import information
from kinbayes.problem.jax_likelihood import jax_likelihood, value_and_jacobian
from kinbayes.problem.layout import Groups, LikelihoodData
from kinbayes.problem.likelihood import MOST_SETTINGS, Declaration, Likelihood, RowDerivatives, Rows, likelihood
from kinbayes.problem.log_prior import Form, PriorData, prior_function
from kinbayes.problem.observables import Observable

ENGINES = ("native", "jax")
_KEPT = 16  # structures whose compiled code stays in memory
_BATCH = 64  # vectors that the JAX engine simulates at once: enough to fill vector units, little memory


class Structure(NamedTuple):
    """All that compiled code depends on; two problems that agree on it share their code.

    `given` holds one set an experiment: the names that it sets. `is_censored` says whether a measurement is.
    """

    model: Model
    declarations: tuple[Declaration, ...]
    priors: tuple[Form | None, ...]
    observables: tuple[Observable, ...]
    given: tuple[frozenset[str], ...]
    engine: str
    max_steps: int
    is_censored: bool


class Data(NamedTuple):
    """The numbers of a likelihood, a pytree: laid out for the JAX engine, and packed for the native one.

    Those of the native engine come with derivatives or without.
    """

    layout: LikelihoodData
    native: tuple | None


class Batched(NamedTuple):
    """Functions of a batch of scaled vectors U (n, dim), for compiled programs.

    Bound to a problem's numbers they are pytrees: a program that takes them as an argument serves every problem of
    the same structure without compiling again.

    Attributes
    ----------
    log_prior, log_likelihood
        -> (n,)
    value_and_grad
        -> log priors and log likelihoods (n,), and the gradients of both (n, dim).
    curvature
        (U, weights (n, measurements), which say how often every measurement counts, or None) -> the same, and
        (n, dim, dim): Fisher information and the prior's curvature where that is concave.
    """

    log_prior: Callable
    log_likelihood: Callable
    value_and_grad: Callable
    curvature: Callable


class Functions(NamedTuple):
    """The functions of one structure.

    Attributes
    ----------
    likelihood
        Its expressions.
    data
        LikelihoodData -> Data, without derivatives.
    differentiable
        Data -> Data, with derivatives.
    log_prior, log_likelihood, pointwise, simulated
        Of one vector, in JAX.
    evaluate, rows, states, row_derivatives
        (Data, U), of a batch, in NumPy; `evaluate` gives log likelihoods and statuses (n,).
    batched
        Of a batch, in JAX.
    """

    likelihood: Likelihood
    data: Callable
    differentiable: Callable
    log_prior: Callable
    log_likelihood: Callable
    pointwise: Callable
    simulated: Callable
    evaluate: Callable
    rows: Callable
    states: Callable
    row_derivatives: Callable
    batched: Batched


class _Values(NamedTuple):
    """What an engine computes: functions of (u, Data) in JAX, and of (Data, U) in NumPy.

    Those in JAX have derivatives in both modes.
    """

    data: Callable
    differentiable: Callable
    log_likelihood: Callable
    log_likelihoods: Callable  # of a batch
    values_and_gradients: Callable  # of a batch
    pointwise: Callable
    simulated: Callable
    evaluate: Callable
    rows: Callable
    states: Callable
    row_derivatives: Callable
    rows_and_slopes: Callable  # of a batch: (U, Data) -> Rows, RowDerivatives, in JAX


@functools.lru_cache(maxsize=_KEPT)
def functions(structure: Structure) -> Functions:
    """Return the functions of a structure; those in JAX are compiled when they are first called.

    Raises
    ------
    ModelError, FormulaError
        If the structure contradicts itself.
    ValueError
        If the engine is unknown.
    """
    model, declarations, priors, observables, given, engine, max_steps, is_censored = structure
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; choose from {list(ENGINES)}")
    terms = likelihood(model, declarations, observables, given, is_censored=is_censored)
    values = (_native if engine == "native" else _jax)(terms, max_steps)
    prior_fn = prior_function(priors)

    def log_prior(prior: PriorData, U: Array) -> Array:
        return jax.vmap(prior_fn, in_axes=(0, None))(U, prior)

    def value_and_grad(prior: PriorData, data: Data, U: Array) -> tuple:
        prior_value, prior_grad = jax.vmap(lambda u: value_and_jacobian(prior_fn, u, prior))(U)
        value, grad = values.values_and_gradients(U, data)
        return prior_value, value, prior_grad, grad

    def curvature(prior: PriorData, data: Data, U: Array, weights: Array | None) -> tuple:
        prior_value, prior_grad = jax.vmap(lambda u: value_and_jacobian(prior_fn, u, prior))(U)
        rows, slopes = values.rows_and_slopes(U, data)
        densities = rows.log_density if weights is None else _weighted(weights, rows.log_density)
        is_good = jnp.all(rows.status == int(Status.OK), axis=-1) & ~jnp.isnan(densities.sum(axis=1))
        value = jnp.where(is_good, densities.sum(axis=1), -jnp.inf)
        steepness = slopes.log_density if weights is None else weights[..., None] * slopes.log_density
        grad = jnp.where(jnp.isfinite(value)[:, None], steepness.sum(axis=1), 0.0)
        found = information(observables, counted(data.layout), rows, slopes, weights, is_censored=is_censored)
        bend = jax.vmap(lambda u: _prior_curvature(prior_fn, u, prior))(U)
        return prior_value, value, prior_grad, grad, found + jax.vmap(jnp.diag)(bend)

    return Functions(
        terms,
        values.data,
        values.differentiable,
        jax.jit(prior_fn),
        jax.jit(values.log_likelihood),
        jax.jit(values.pointwise),
        jax.jit(values.simulated),
        values.evaluate,
        values.rows,
        values.states,
        values.row_derivatives,
        Batched(
            jax.jit(log_prior),
            jax.jit(lambda data, U: values.log_likelihoods(U, data)),
            jax.jit(value_and_grad),
            jax.jit(curvature),
        ),
    )


def _weighted(weights: Float[Array, "n rows"], densities: Float[Array, "n rows"]) -> Float[Array, "n rows"]:
    """Return weighted log densities; what counts zero times may be anything."""
    return jnp.where(weights == 0.0, 0.0, weights * densities)


def _prior_curvature(prior_fn: Callable, u: Float[Array, " dim"], prior: PriorData) -> Float[Array, " dim"]:
    """Return minus the second derivatives of the log prior, a sum over parameters, where they are positive."""
    gradient = jax.grad(prior_fn)
    _, bend = jax.jvp(lambda w: gradient(w, prior), (u,), (jnp.ones_like(u),))
    return jnp.where(jnp.isfinite(bend), jnp.maximum(-bend, 0.0), 0.0)


def _jax(terms: Likelihood, max_steps: int) -> _Values:
    engine = jax_likelihood(terms, max_steps=max_steps)

    def total(u: Array, data: Data) -> Array:
        return jnp.sum(engine.pointwise(u, data.layout))

    def rule(function: Callable) -> Callable:
        return _forward_differentiable(function, lambda u, data: value_and_jacobian(function, u, data))

    def rows(data: Data, U: Array) -> Rows:
        return jax.vmap(engine.rows, in_axes=(0, None))(U, data.layout)

    def states(data: Data, U: Array) -> Array:
        return jax.vmap(engine.states, in_axes=(0, None))(U, data.layout)

    def row_derivatives(data: Data, U: Array) -> RowDerivatives:
        def parts(u: Array, data: Data) -> Array:
            found = engine.rows(u, data.layout)
            return jnp.concatenate([found.simulated[:, None], found.noise, found.log_density[:, None]], axis=1)

        _, slopes = jax.vmap(lambda u: value_and_jacobian(parts, u, data))(U)
        return RowDerivatives(slopes[:, :, 0], slopes[:, :, 1:-1], slopes[:, :, -1])

    def rows_and_slopes(U: Array, data: Data) -> tuple[Rows, RowDerivatives]:
        return rows(data, U), row_derivatives(data, U)

    rows_in_batches = _in_batches(jax.jit(rows))

    def evaluate(data: Data, U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = rows_in_batches(data, U)
        return _checked(found.log_density.sum(axis=-1), found.status.max(axis=-1))

    return _Values(
        data=lambda layout: jax.device_put(Data(layout, None)),
        differentiable=lambda data: data,
        log_likelihood=rule(total),
        log_likelihoods=jax.vmap(total, in_axes=(0, None)),
        values_and_gradients=jax.vmap(lambda u, data: value_and_jacobian(total, u, data), in_axes=(0, None)),
        pointwise=rule(lambda u, data: engine.pointwise(u, data.layout)),
        simulated=rule(lambda u, data: engine.rows(u, data.layout).simulated),
        evaluate=evaluate,
        rows=rows_in_batches,
        states=_in_batches(jax.jit(states)),
        row_derivatives=_in_batches(jax.jit(row_derivatives)),
        rows_and_slopes=rows_and_slopes,
    )


def _native(terms: Likelihood, max_steps: int) -> _Values:
    from kinbayes.ode import bridges  # numba takes a while to load, and the JAX engine does without
    from kinbayes.ode import native as native_engine
    from kinbayes.problem import native_gradient, native_likelihood

    code = native_likelihood.compiled(terms)

    def data(layout: LikelihoodData) -> Data:
        return jax.device_put(Data(layout, native_likelihood.numbers(code, terms, layout, max_steps=max_steps)))

    @functools.lru_cache(maxsize=_KEPT)
    def derivatives(inputs: tuple[int, ...]) -> native_engine.Differentiated:
        return native_gradient.differentiated(code, terms, inputs)

    def differentiable(data: Data) -> Data:
        found = derivatives(native_gradient.wanted(data.layout))
        numbers = native_gradient.numbers(code, found, terms, data.layout, max_steps=max_steps)
        return jax.device_put(Data(data.layout, numbers))

    def of_measurements(value: Callable, derivative: Callable) -> Callable:
        def call(u: Array, data: Data) -> Array:
            result = jax.ShapeDtypeStruct((num_counted(data.layout),), np.float64)

            def host(numbers: tuple, groups: Groups | None, u: Array) -> np.ndarray:
                return value(native_engine.Numbers(*numbers), np.asarray(u)[None], on_host(groups))[0]

            return jax.pure_callback(host, result, tuple(data.native), data.layout.groups, u, vmap_method="sequential")

        def with_jacobian(u: Array, data: Data) -> tuple[Array, Array]:
            num = num_counted(data.layout)
            results = (jax.ShapeDtypeStruct((num,), np.float64), jax.ShapeDtypeStruct((num, u.shape[0]), np.float64))

            def host(numbers: tuple, groups: Groups | None, u: Array) -> tuple[np.ndarray, np.ndarray]:
                own, U, groups = native_engine.Numbers(*numbers), np.asarray(u)[None], on_host(groups)
                return value(own, U, groups)[0], derivative(native_gradient.row_derivatives(own, U, groups))[0]

            return jax.pure_callback(host, results, tuple(data.native), data.layout.groups, u, vmap_method="sequential")

        return _forward_differentiable(call, with_jacobian)

    def rows_and_slopes(U: Array, data: Data) -> tuple[Rows, RowDerivatives]:
        (num, dim), rows, lanes = U.shape, num_counted(data.layout), data.layout.times.shape[0]
        real = lambda *shape: jax.ShapeDtypeStruct(shape, np.float64)  # noqa: E731
        shapes = (
            Rows(
                real(num, rows),
                real(num, rows, MOST_SETTINGS),
                real(num, rows),
                jax.ShapeDtypeStruct((num, lanes), np.int64),
            ),
            RowDerivatives(real(num, rows, dim), real(num, rows, MOST_SETTINGS, dim), real(num, rows, dim)),
        )

        def host(numbers: tuple, groups: Groups | None, U: Array) -> tuple[Rows, RowDerivatives]:
            return native_gradient.rows_and_slopes(native_engine.Numbers(*numbers), np.asarray(U), on_host(groups))

        return jax.pure_callback(host, shapes, tuple(data.native), data.layout.groups, U, vmap_method="sequential")

    # The kernel's totals are of all rows. Where rows are in groups, totals come from the rows that count.

    def grouped(U: Array, data: Data) -> Array:
        def host(numbers: tuple, groups: Groups, U: Array) -> np.ndarray:
            own = native_engine.Numbers(*numbers)
            return _checked(*native_likelihood.evaluate(own, np.asarray(U), on_host(groups)))[0]

        result = jax.ShapeDtypeStruct(U.shape[:1], np.float64)
        return jax.pure_callback(host, result, tuple(data.native), data.layout.groups, U, vmap_method="sequential")

    def grouped_with_gradients(U: Array, data: Data) -> tuple[Array, Array]:
        rows, slopes = rows_and_slopes(U, data)
        value = rows.log_density.sum(axis=1)
        is_good = jnp.all(rows.status == int(Status.OK), axis=1) & ~jnp.isnan(value)
        value = jnp.where(is_good, value, -jnp.inf)
        return value, jnp.where(jnp.isfinite(value)[:, None], slopes.log_density.sum(axis=1), 0.0)

    grouped_one = _forward_differentiable(
        lambda u, data: grouped(u[None], data)[0],
        lambda u, data: tuple(part[0] for part in grouped_with_gradients(u[None], data)),
    )

    def log_likelihoods(U: Array, data: Data) -> Array:
        return bridges.log_likelihoods(data.native, U) if data.layout.groups is None else grouped(U, data)

    def log_likelihood(u: Array, data: Data) -> Array:
        return bridges.log_likelihood(data.native, u) if data.layout.groups is None else grouped_one(u, data)

    def values_and_gradients(U: Array, data: Data) -> tuple[Array, Array]:
        is_plain = data.layout.groups is None
        return bridges.values_and_gradients(data.native, U) if is_plain else grouped_with_gradients(U, data)

    def of_rows(function: Callable) -> Callable:
        return lambda data, U: function(data.native, U, on_host(data.layout.groups))

    return _Values(
        data=data,
        differentiable=differentiable,
        log_likelihood=log_likelihood,
        log_likelihoods=log_likelihoods,
        values_and_gradients=values_and_gradients,
        pointwise=of_measurements(native_likelihood.pointwise, lambda found: found.log_density),
        simulated=of_measurements(
            lambda *numbers: native_likelihood.rows(*numbers).simulated, lambda found: found.simulated
        ),
        evaluate=lambda data, U: _checked(*of_rows(native_likelihood.evaluate)(data, U)),
        rows=of_rows(native_likelihood.rows),
        states=lambda data, U: native_likelihood.states(data.native, U),
        row_derivatives=of_rows(native_gradient.row_derivatives),
        rows_and_slopes=rows_and_slopes,
    )


def _forward_differentiable(value: Callable, value_and_derivative: Callable) -> Callable:
    """Return `value(u, data)` with a derivative rule, given the Jacobian.

    The Jacobian is computed forward whatever mode is asked for, since solving an ODE backward costs far more; the rule
    is linear in the tangent, so reverse mode transposes it. Where a value is not finite its derivative is zero.
    """

    @jax.custom_jvp
    def wrapped(u: Array, data: Data) -> Array:
        return value(u, data)

    @wrapped.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
        found, jacobian = value_and_derivative(*primals)
        return found, jnp.where(jnp.isfinite(found)[..., None], jacobian, 0.0) @ tangents[0]

    return wrapped


def _checked(
    log_likelihood: Float[np.ndarray, " n"], status: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Return both, once a density that is no number is a status, and what failed has a likelihood of zero."""
    status = np.where((status == Status.OK) & np.isnan(log_likelihood), int(Status.NOT_FINITE), status)
    return np.where(status == Status.OK, log_likelihood, -np.inf), status


def _in_batches(function: Callable) -> Callable:
    """Return `function(data, U)` as NumPy arrays, in batches of one size: it is compiled once for any number."""

    def batches(data: Data, U: Float[np.ndarray, "n dim"]) -> tuple | np.ndarray:
        num = len(U)
        padded = np.concatenate([U, np.repeat(U[-1:], -num % _BATCH, axis=0)])
        parts = [
            jax.tree.map(np.asarray, function(data, jnp.asarray(padded[k : k + _BATCH])))
            for k in range(0, len(padded), _BATCH)
        ]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num], *parts)

    return batches
