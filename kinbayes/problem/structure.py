"""The compiled functions of a problem's structure, kept for the next problem of the same structure."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kinbayes.model.model import Model, ModelError
from kinbayes.ode.status import Status
from kinbayes.problem.jax_likelihood import JaxLikelihood, jax_likelihood, value_and_jacobian
from kinbayes.problem.layout import LikelihoodData
from kinbayes.problem.likelihood import Declaration, Likelihood, Rows, likelihood
from kinbayes.problem.log_prior import Form, PriorData, prior_function
from kinbayes.problem.observables import Observable

ENGINES = ("native", "jax")
_KEPT = 16  # structures whose compiled code stays in memory
_BATCH = 64  # vectors that the JAX engine simulates at once: enough to fill vector units, little memory


class Structure(NamedTuple):
    """All that compiled code depends on; two problems that agree on it share their code.

    `given` holds one set an experiment: the names that it sets.
    """

    model: Model
    declarations: tuple[Declaration, ...]
    priors: tuple[Form | None, ...]
    observables: tuple[Observable, ...]
    given: tuple[frozenset[str], ...]
    engine: str
    max_steps: int
    is_equilibrated: bool


class Data(NamedTuple):
    """The numbers of a likelihood, a pytree: laid out for the JAX engine, and packed for the native one."""

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
    """

    log_prior: Callable
    log_likelihood: Callable
    value_and_grad: Callable


class Functions(NamedTuple):
    """The functions of one structure.

    Attributes
    ----------
    likelihood
        Its expressions.
    data
        LikelihoodData -> Data
    log_prior, log_likelihood, pointwise, simulated
        Of one vector, in JAX.
    evaluate, rows, states
        (Data, U), of a batch, in NumPy; `evaluate` gives log likelihoods and statuses (n,).
    batched
        Of a batch, in JAX.
    """

    likelihood: Likelihood
    data: Callable
    log_prior: Callable
    log_likelihood: Callable
    pointwise: Callable
    simulated: Callable
    evaluate: Callable
    rows: Callable
    states: Callable
    batched: Batched


class _Values(NamedTuple):
    """What an engine computes: functions of (u, Data) in JAX, and of (Data, U) in NumPy."""

    data: Callable
    log_likelihood: Callable
    log_likelihoods: Callable  # of a batch
    pointwise: Callable
    simulated: Callable
    evaluate: Callable
    rows: Callable
    states: Callable


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
    model, declarations, priors, observables, given, engine, max_steps, is_equilibrated = structure
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; choose from {list(ENGINES)}")
    terms = likelihood(model, declarations, observables, given)

    @functools.cache
    def smooth() -> JaxLikelihood:
        if is_equilibrated:
            raise ModelError("gradients through a pre-equilibration are not available yet; use sampler='random_walk'")
        return jax_likelihood(terms, max_steps=max_steps)

    values = (_native if engine == "native" else _jax)(terms, smooth, max_steps)
    prior_fn = prior_function(priors)

    def log_prior(prior: PriorData, U: Array) -> Array:
        return jax.vmap(prior_fn, in_axes=(0, None))(U, prior)

    def value_and_grad(prior: PriorData, data: Data, U: Array) -> tuple:
        def one(u: Array) -> tuple[Array, Array, Array, Array]:
            prior_value, prior_grad = value_and_jacobian(prior_fn, u, prior)
            total = lambda w, d: jnp.sum(smooth().pointwise(w, d))  # noqa: E731
            return prior_value, prior_grad, *value_and_jacobian(total, u, data.layout)

        prior_value, prior_grad, value, grad = jax.vmap(one)(U)
        if engine == "native":
            value = values.log_likelihoods(U, data)
            grad = jnp.where(jnp.isfinite(value)[:, None], grad, 0.0)
        return prior_value, value, prior_grad, grad

    def rule(value: Callable, differentiable: Callable) -> Callable:
        return jax.jit(_forward_differentiable(value, lambda u, data: differentiable(u, data.layout)))

    return Functions(
        terms,
        values.data,
        jax.jit(prior_fn),
        rule(values.log_likelihood, lambda u, data: jnp.sum(smooth().pointwise(u, data))),
        rule(values.pointwise, lambda u, data: smooth().pointwise(u, data)),
        rule(values.simulated, lambda u, data: smooth().rows(u, data).simulated),
        values.evaluate,
        values.rows,
        values.states,
        Batched(jax.jit(log_prior), jax.jit(lambda data, U: values.log_likelihoods(U, data)), jax.jit(value_and_grad)),
    )


def _jax(terms: Likelihood, smooth: Callable, max_steps: int) -> _Values:
    def rows(data: Data, U: Array) -> Rows:
        return jax.vmap(smooth().rows, in_axes=(0, None))(U, data.layout)

    def states(data: Data, U: Array) -> Array:
        return jax.vmap(smooth().states, in_axes=(0, None))(U, data.layout)

    def log_likelihood(u: Array, data: Data) -> Array:
        return jnp.sum(smooth().pointwise(u, data.layout))

    rows_in_batches = _in_batches(jax.jit(rows))

    def evaluate(data: Data, U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = rows_in_batches(data, U)
        return _checked(found.log_density.sum(axis=-1), found.status.max(axis=-1))

    return _Values(
        data=lambda layout: jax.device_put(Data(layout, None)),
        log_likelihood=log_likelihood,
        log_likelihoods=jax.vmap(log_likelihood, in_axes=(0, None)),
        pointwise=lambda u, data: smooth().pointwise(u, data.layout),
        simulated=lambda u, data: smooth().rows(u, data.layout).simulated,
        evaluate=evaluate,
        rows=rows_in_batches,
        states=_in_batches(jax.jit(states)),
    )


def _native(terms: Likelihood, smooth: Callable, max_steps: int) -> _Values:
    from kinbayes.ode import bridges  # numba takes a while to load, and the JAX engine does without
    from kinbayes.ode import native as native_engine
    from kinbayes.problem import native_likelihood as native

    code = native.compiled(terms)

    def data(layout: LikelihoodData) -> Data:
        packed = native.numbers(code, terms, layout, max_steps=max_steps)
        return jax.device_put(Data(layout, packed))

    def of_measurements(function: Callable) -> Callable:
        def call(u: Array, data: Data) -> Array:
            result = jax.ShapeDtypeStruct(data.layout.order.shape, np.float64)
            host = lambda numbers, u: function(native_engine.Numbers(*numbers), np.asarray(u))  # noqa: E731
            return jax.pure_callback(host, result, tuple(data.native), u, vmap_method="sequential")

        return call

    return _Values(
        data=data,
        log_likelihood=lambda u, data: bridges.log_likelihood(data.native, u),
        log_likelihoods=lambda U, data: bridges.log_likelihoods(data.native, U),
        pointwise=of_measurements(native.pointwise),
        simulated=of_measurements(lambda numbers, u: native.rows(numbers, u[None]).simulated[0]),
        evaluate=lambda data, U: _checked(*native.evaluate(data.native, U)),
        rows=lambda data, U: native.rows(data.native, U),
        states=lambda data, U: native.states(data.native, U),
    )


def _forward_differentiable(value: Callable, differentiable: Callable) -> Callable:
    """Return `value(u, data)` with a derivative rule: the Jacobian of `differentiable`, in forward mode.

    The Jacobian is computed forward whatever mode is asked for, since solving an ODE backward costs far more; the rule
    is linear in the tangent, so reverse mode transposes it. Where a value is not finite its derivative is zero.
    """

    @jax.custom_jvp
    def wrapped(u: Array, data: Data) -> Array:
        return value(u, data)

    @wrapped.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
        u, data = primals
        _, jacobian = value_and_jacobian(differentiable, u, data)
        found = value(u, data)
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
