"""A PyMC model as the target of a sampler: PyTensor's graphs of its log density as functions of JAX."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
import pytensor.tensor as pt
from jax.tree_util import Partial
from jaxtyping import Array, Float
from pytensor.compile import SharedVariable
from pytensor.compile.mode import get_mode
from pytensor.graph.basic import Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import graph_inputs
from pytensor.link.jax.dispatch import jax_funcify
from pytensor.tensor.random.type import RandomType

from kinbayes.samplers.base import Target

# What PyTensor and JAX say of a graph that JAX cannot compute: an operation without a JAX implementation, a shape or an
# index that depends on values.
_NOT_IN_JAX = (NotImplementedError, TypeError, IndexError)


class Conditional(NamedTuple):
    """Hold the density of some of a model's variables given all others, up to what does not depend on them.

    Attributes
    ----------
    log_prior, log_likelihood
        Functions of JAX: (u (dim,), values of `others`, values of `data`) -> scalar.
    others
        Names of the other variables on which they depend.
    data
        The shared variables on which they depend, such as those of `pm.Data`.
    """

    log_prior: Callable
    log_likelihood: Callable
    others: tuple[str, ...]
    data: tuple[SharedVariable, ...]

    def target(self, dim: int, others: Sequence[np.ndarray], data: Sequence[Array]) -> Target:
        """Return the target where the other variables and the data have certain values, which are leaves of it."""
        return Target(
            log_prior=Partial(_batched, Partial(self.log_prior), tuple(others), tuple(data)),
            log_likelihood=Partial(_batched, Partial(self.log_likelihood), tuple(others), tuple(data)),
            value_and_grad=Partial(_without_gradient),
            lower=jnp.full(dim, -jnp.inf),
            upper=jnp.full(dim, jnp.inf),
            constrain=Partial(_same_with_volume),
            unconstrain=Partial(_same),
        )


def conditional(model: pm.Model, own: Sequence[Variable], point: Mapping[str, np.ndarray]) -> Conditional:
    """Return the density of some variables of a model given all others, in the space in which PyMC moves them.

    The prior has the terms of the free variables, with the Jacobians of their transforms; the likelihood those of the
    observed ones and the potentials, as in PyMC's sequential Monte Carlo. Terms that depend on none of the variables
    are left out, so that a block of a large model costs what depends on it.

    A term of which PyTensor knows no JAX implementation is computed by PyTensor's own, called back from JAX. A call
    then takes some 90 µs beside the term; a compiled one under 1.

    Parameters
    ----------
    model
        The model.
    own
        Some of its value variables.
    point
        Values of all of them, for their shapes.

    Raises
    ------
    ValueError
        If the density is random, as that of minibatches.
    """
    prior, likelihood = (_sum_of_terms(model, rvs, own) for rvs in (model.free_RVs, _observed(model)))
    inputs = {*graph_inputs([prior, likelihood])}
    others = tuple(v for v in model.value_vars if v in inputs and v not in own)
    data = tuple(v for v in inputs if isinstance(v, SharedVariable))
    if any(isinstance(v.type, RandomType) for v in data):
        raise ValueError(
            "the log density depends on random numbers, as with minibatches, and these steps need the same one each "
            "time: give the whole data"
        )
    shapes = [point[v.name].shape for v in own]
    as_function = partial(_as_function, model, own, shapes, others, data, point)
    return Conditional(as_function(prior), as_function(likelihood), tuple(v.name for v in others), data)


def _observed(model: pm.Model) -> list[Variable]:
    return [*model.observed_RVs, *model.potentials]


def _sum_of_terms(model: pm.Model, terms_of: list[Variable], own: Sequence[Variable]) -> Variable:
    """Return the sum of those terms of the log density that depend on some variables."""
    terms = model.logp(vars=terms_of, sum=False) if terms_of else []
    return sum((term.sum() for term in terms if {*graph_inputs([term])} & {*own}), pt.constant(0.0))


def _as_function(
    model: pm.Model,
    own: Sequence[Variable],
    shapes: Sequence[tuple[int, ...]],
    others: Sequence[Variable],
    data: Sequence[SharedVariable],
    point: Mapping[str, np.ndarray],
    density: Variable,
) -> Callable:
    """Return a scalar of a graph as a function of JAX."""
    # As arguments, the data may change without compilation.
    plain = [v.type(v.name) for v in data]
    outputs = clone_replace([density], dict(zip(data, plain, strict=True)))
    graph = FunctionGraph([*own, *others, *plain], outputs, clone=True)
    # A parameter out of its bounds is a density of 0, as in PyMC's own functions.
    check = "local_check_parameter_to_ninf_switch" if model.check_bounds else "local_remove_check_parameter"
    get_mode("JAX").including(check).optimizer.rewrite(graph)
    values = [point[v.name] for v in (*own, *others)] + [v.get_value(borrow=True) for v in data]
    try:
        in_jax = jax_funcify(graph)
        jax.eval_shape(in_jax, *values)
    except _NOT_IN_JAX:
        with model:  # which says whether parameters are checked
            by_pytensor = pm.pytensorf.compile([*own, *others], density, on_unused_input="ignore")
        return partial(_called_back, partial(_on_host, by_pytensor, shapes))
    return partial(_called, in_jax, shapes)


def _called(in_jax: Callable, shapes: list, u: Float[Array, " dim"], others: tuple, data: tuple) -> Float[Array, ""]:
    (value,) = in_jax(*_parts(u, shapes), *others, *data)
    return jnp.asarray(value, dtype=float)


def _called_back(on_host: Callable, u: Float[Array, " dim"], others: tuple, data: tuple) -> Float[Array, ""]:
    # PyTensor's function has the data already.
    shape = jax.ShapeDtypeStruct((), u.dtype)
    return jax.pure_callback(on_host, shape, u, *others, vmap_method="broadcast_all")


def _on_host(by_pytensor: Callable, shapes: list, u: Array, *others: Array) -> np.ndarray:
    """Return the values of a batch, whose axes all arguments have in front.

    Nothing but NumPy is called here: JAX may need the very thread that waits for this.
    """
    batch = np.shape(u)[:-1]
    rows = [np.asarray(x).reshape(-1, *np.shape(x)[len(batch) :]) for x in (u, *others)]
    values = [by_pytensor(*_parts(own, shapes), *rest) for own, *rest in zip(*rows, strict=True)]
    return np.asarray(values, dtype=float).reshape(batch)


def _parts(u, shapes: Sequence[tuple[int, ...]]) -> list:
    """Return the variables of a vector."""
    sizes = [math.prod(shape) for shape in shapes]
    ends = np.cumsum(sizes)
    return [u[end - size : end].reshape(shape) for end, size, shape in zip(ends, sizes, shapes, strict=True)]


def _batched(density: Callable, others: tuple, data: tuple, U: Float[Array, "n dim"]) -> Float[Array, " n"]:
    return jax.vmap(lambda u: density(u, others, data))(U)


def _without_gradient(U: Float[Array, "n dim"]) -> None:
    raise ValueError("steps in PyMC take samplers without gradients; PyMC has its own NUTS")


def _same_with_volume(x: Float[Array, " dim"]) -> tuple[Float[Array, " dim"], float]:
    return x, 0.0


def _same(u: Float[Array, " dim"]) -> Float[Array, " dim"]:
    return u
