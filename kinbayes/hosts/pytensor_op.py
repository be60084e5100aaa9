"""The native log likelihood as an operation of PyTensor, for PyMC and nutpie; its gradient is another.

The numbers are inputs of the graph, best as shared variables. So nothing of a problem, no address above all, stands in
the code that PyTensor compiles and caches, and other problems and data compile nothing.
"""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytensor
from pytensor.gradient import grad_not_implemented, grad_undefined
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.op import Op
from pytensor.graph.rewriting.basic import node_rewriter
from pytensor.link.jax.dispatch.basic import jax_funcify
from pytensor.link.numba.dispatch.basic import numba_njit, register_funcify_default_op_cache_key
from pytensor.tensor.rewriting.basic import register_specialize
from pytensor.tensor.type import dscalar, dvector, lvector

from kinbayes.ode import bridges
from kinbayes.ode.numbers import Numbers, Sizes


def shared(numbers: Numbers, name: str) -> Numbers:
    """Return the numbers as shared variables.

    Parameters
    ----------
    numbers
        The problem's numbers.
    name
        What their names begin with; nutpie wants no two variables of one name.
    """
    parts = zip(Numbers._fields, numbers, strict=True)
    return Numbers(*(pytensor.shared(np.ascontiguousarray(part), name=f"{name}_{field}") for field, part in parts))


def _inputs(*given: Variable) -> list[Variable]:
    """Return a scaled vector (dim,) and the parts of the numbers, once they are known to have the right types."""
    kinds = (dvector, lvector, lvector, dvector)
    return [kind.filter_variable(variable) for kind, variable in zip(kinds, given, strict=True)]


class LogLikelihood(Op):
    """The log likelihood of a vector; -inf where a lane fails."""

    __props__ = ()

    def make_node(self, u: Variable, code: Variable, ints: Variable, floats: Variable) -> Apply:
        return Apply(self, _inputs(u, code, ints, floats), [dscalar()])

    def perform(self, node: Apply, inputs: Sequence[np.ndarray], output_storage: list[list]) -> None:
        output_storage[0][0] = np.asarray(bridges.native_log_likelihood(*map(np.ascontiguousarray, inputs)))

    def infer_shape(self, fgraph: FunctionGraph, node: Apply, shapes: list[tuple]) -> list[tuple]:
        return [()]

    def L_op(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], output_grads: Sequence[Variable]
    ) -> list[Variable]:
        _, gradient = value_and_gradient(*inputs)
        _, code, ints, floats = inputs
        return [
            output_grads[0] * gradient,
            grad_undefined(self, 1, code, "addresses"),
            grad_undefined(self, 2, ints, "whole numbers"),
            grad_not_implemented(self, 3, floats, "only the vector has a gradient"),
        ]


class ValueAndGradient(Op):
    """The log likelihood of a vector and its gradient; -inf and 0 where a lane fails."""

    __props__ = ()

    def make_node(self, u: Variable, code: Variable, ints: Variable, floats: Variable) -> Apply:
        inputs = _inputs(u, code, ints, floats)
        return Apply(self, inputs, [dscalar(), inputs[0].type()])

    def perform(self, node: Apply, inputs: Sequence[np.ndarray], output_storage: list[list]) -> None:
        value, gradient = bridges.native_value_and_gradient(*map(np.ascontiguousarray, inputs))
        output_storage[0][0], output_storage[1][0] = np.asarray(value), gradient

    def infer_shape(self, fgraph: FunctionGraph, node: Apply, shapes: list[tuple]) -> list[tuple]:
        return [(), shapes[0]]


log_likelihood = LogLikelihood()
value_and_gradient = ValueAndGradient()


@register_specialize
@node_rewriter([LogLikelihood])
def value_beside_gradient(fgraph: FunctionGraph, node: Apply) -> list[Variable] | None:
    """Take the value from the call that computes the gradient, where there is one."""
    for client, _ in fgraph.clients[node.inputs[0]]:
        is_same = isinstance(client.op, ValueAndGradient)
        if is_same and all(a is b for a, b in zip(client.inputs, node.inputs, strict=True)):
            return [client.outputs[0]]
    return None


# ---- numba

# PyTensor's cache knows an operation by its name and this number alone: it has to tell what it is compiled from.
_SOURCES = zlib.crc32(repr(Sizes._fields).encode(), zlib.crc32(Path(bridges.__file__).read_bytes()))


@register_funcify_default_op_cache_key(LogLikelihood)
def _log_likelihood_by_numba(op: Op, **context: object) -> tuple[Callable, int]:
    native = bridges.native_log_likelihood

    @numba_njit
    def log_likelihood(u, code, ints, floats):
        vectors = (np.ascontiguousarray(u), np.ascontiguousarray(code))
        return np.asarray(native(*vectors, np.ascontiguousarray(ints), np.ascontiguousarray(floats)))

    return log_likelihood, _SOURCES


@register_funcify_default_op_cache_key(ValueAndGradient)
def _value_and_gradient_by_numba(op: Op, **context: object) -> tuple[Callable, int]:
    native = bridges.native_value_and_gradient

    @numba_njit
    def value_and_gradient(u, code, ints, floats):
        vectors = (np.ascontiguousarray(u), np.ascontiguousarray(code))
        value, gradient = native(*vectors, np.ascontiguousarray(ints), np.ascontiguousarray(floats))
        return np.asarray(value), gradient

    return value_and_gradient, _SOURCES


# ---- JAX


@jax_funcify.register(LogLikelihood)
def _log_likelihood_by_jax(op: Op, **context: object) -> Callable:
    return lambda u, *numbers: bridges.log_likelihood(Numbers(*numbers), u)


@jax_funcify.register(ValueAndGradient)
def _value_and_gradient_by_jax(op: Op, **context: object) -> Callable:
    return lambda u, *numbers: bridges.value_and_gradient(Numbers(*numbers), u)
