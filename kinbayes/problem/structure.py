"""The compiled functions of a problem's structure, kept for the next problem of the same structure."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kinbayes.model.model import Model
from kinbayes.problem.layout import LikelihoodData
from kinbayes.problem.likelihood import Declaration, Likelihood, Rows, value_and_jacobian
from kinbayes.problem.log_prior import Form, PriorData, prior_function
from kinbayes.problem.observables import Observable

_KEPT = 16  # structures whose compiled code stays in memory


class Structure(NamedTuple):
    """All that compiled code depends on; two problems that agree on it share their code.

    `given` holds one set an experiment: the names that it sets.
    """

    model: Model
    declarations: tuple[Declaration, ...]
    priors: tuple[Form | None, ...]
    observables: tuple[Observable, ...]
    given: tuple[frozenset[str], ...]
    solver: str
    max_steps: int


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
    """The compiled functions of one structure: of one vector, but `rows`, `states` and `batched`."""

    likelihood: Likelihood
    log_prior: Callable
    log_likelihood: Callable
    pointwise: Callable
    simulated: Callable
    rows: Callable
    states: Callable
    batched: Batched


@functools.lru_cache(maxsize=_KEPT)
def functions(structure: Structure) -> Functions:
    """Return the functions of a structure; each is compiled when it is first called.

    Raises
    ------
    ModelError, FormulaError
        If the structure contradicts itself.
    """
    model, declarations, priors, observables, given, solver, max_steps = structure
    likelihood = Likelihood(model, declarations, observables, given, solver=solver, max_steps=max_steps)
    prior_fn = prior_function(priors)

    def log_prior(prior: PriorData, U: Array) -> Array:
        return jax.vmap(prior_fn, in_axes=(0, None))(U, prior)

    def log_likelihood(data: LikelihoodData, U: Array) -> Array:
        return jax.vmap(likelihood.log_likelihood, in_axes=(0, None))(U, data)

    def value_and_grad(prior: PriorData, data: LikelihoodData, U: Array) -> tuple:
        def one(u: Array) -> tuple[Array, Array, Array, Array]:
            prior_value, prior_grad = value_and_jacobian(prior_fn, u, prior)
            value, grad = value_and_jacobian(lambda w, d: jnp.sum(likelihood.pointwise(w, d)), u, data)
            return prior_value, value, prior_grad, grad

        return jax.vmap(one)(U)

    def rows(data: LikelihoodData, U: Array) -> Rows:
        return jax.vmap(likelihood.rows, in_axes=(0, None))(U, data)

    def states(data: LikelihoodData, U: Array) -> Array:
        return jax.vmap(likelihood.states, in_axes=(0, None))(U, data)

    return Functions(
        likelihood,
        jax.jit(prior_fn),
        jax.jit(likelihood.log_likelihood),
        jax.jit(likelihood.pointwise),
        jax.jit(likelihood.simulated),
        jax.jit(rows),
        jax.jit(states),
        Batched(*map(jax.jit, (log_prior, log_likelihood, value_and_grad))),
    )
