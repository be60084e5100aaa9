"""The native log likelihood as operations of PyTensor, for PyMC and nutpie; measurements drawn from a problem too.

An operation has its problem with it, and is pickled with it: in the process where it is unpickled the problem's code is
compiled anew. In the graph, a handle stands for the problem (see `kinbayes.ode.handles`), the only number of it there.
So nothing of a problem, no address above all, stands in the code that PyTensor compiles and caches; other problems and
data compile nothing, and no compiled function can reach for an address of another process.
"""

import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.gradient import grad_undefined
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.op import Op
from pytensor.graph.rewriting.basic import node_rewriter
from pytensor.link.jax.dispatch.basic import jax_funcify
from pytensor.link.numba.dispatch.basic import (
    generate_fallback_impl,
    numba_njit,
    register_funcify_and_cache_key,
    register_funcify_default_op_cache_key,
)
from pytensor.scalar.basic import Second
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.math import Sum
from pytensor.tensor.random.op import RNGConsumerOp
from pytensor.tensor.random.type import random_generator_type
from pytensor.tensor.random.utils import custom_rng_deepcopy
from pytensor.tensor.rewriting.basic import register_canonicalize, register_specialize
from pytensor.tensor.type import dscalar, dvector, lvector, tensor
from pytensor.tensor.variable import TensorVariable

from kinbayes.ode import bridges, handles
from kinbayes.ode.numbers import Numbers, Sizes
from kinbayes.ode.status import Status
from kinbayes.problem import native_gradient, native_likelihood
from kinbayes.problem.problem import Problem


def log_likelihood(problem: Problem, u: TensorVariable) -> TensorVariable:
    """Return the log likelihood of a scaled vector (dim,), a scalar with a gradient; -inf where a lane fails.

    Parameters
    ----------
    problem
        The problem, on the native engine.
    u
        Scaled vector.

    Raises
    ------
    ValueError
        If the engine is another.
    TypeError
        If `u` is no vector of float64.
    """
    return LogLikelihood(problem)(u, _handle(problem))


def pointwise_log_likelihood(problem: Problem, u: TensorVariable) -> TensorVariable:
    """Return the log density of every measurement (measurements,), in the order of the data; -inf where a lane fails.

    Their sum, and its gradient, cost what `log_likelihood` costs.

    Parameters
    ----------
    problem
        The problem, on the native engine.
    u
        Scaled vector.

    Raises
    ------
    ValueError
        If the engine is another.
    TypeError
        If `u` is no vector of float64.
    """
    return PointwiseLogLikelihood(problem)(u, _handle(problem))


def draw_measurements(problem: Problem, rng: Variable, u: TensorVariable) -> list[Variable]:
    """Return the random generator's next state and a draw of the measurements, in the order of the data.

    They are simulated, and measurement noise is added; none is censored. All are NaN where a lane fails.

    Parameters
    ----------
    problem
        The problem.
    rng
        A random generator.
    u
        Scaled vector.
    """
    return DrawMeasurements(problem)(rng, u)


# Handle -> the shared variable of it: nutpie wants no two of one name.
_handles: dict[int, TensorVariable] = {}


def _number(problem: Problem) -> int:
    """Return the handle of a problem: 63 bits of its digest."""
    return int(problem.hash[:16], 16) >> 1 or 1


def _handle(problem: Problem) -> TensorVariable:
    """Return the variable that stands for a problem: shared, so that its value is no part of compiled code."""
    number = _number(problem)
    if number not in _handles:
        _handles[number] = pytensor.shared(np.array([number]), name=f"kinbayes_{number:x}")
    return _handles[number]


class _OfProblem(Op):
    """An operation that has a problem with it. Which one it computes with, its input tells, the problem's handle.

    So two of one kind are equal, as PyTensor sees it, whatever their problems.
    """

    __props__ = ()

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._register()

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(state)
        self._register()

    def _register(self) -> None:
        handles.register(_number(self.problem), self.problem.gradient_numbers, self.problem)

    def infer_shape(self, fgraph: FunctionGraph, node: Apply, shapes: list[tuple]) -> list[tuple]:
        return [tuple(map(pt.constant, output.type.shape)) for output in node.outputs]


def _inputs(u: Variable, handle: Variable) -> list[Variable]:
    """Return a scaled vector (dim,) and a handle (1,), once they are known to have the right types."""
    return [dvector.filter_variable(u), lvector.filter_variable(handle)]


def _numbers(handle: np.ndarray) -> Numbers:
    return handles.registered(int(handle[0]))


class LogLikelihood(_OfProblem):
    """The log likelihood of a vector; -inf where a lane fails."""

    def make_node(self, u: Variable, handle: Variable) -> Apply:
        return Apply(self, _inputs(u, handle), [dscalar()])

    def perform(self, node: Apply, inputs: Sequence[np.ndarray], output_storage: list[list]) -> None:
        u, handle = inputs
        value = bridges.native_log_likelihood(np.ascontiguousarray(u), *_numbers(handle))
        output_storage[0][0] = np.asarray(value)

    def L_op(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], output_grads: Sequence[Variable]
    ) -> list[Variable]:
        _, gradient = ValueAndGradient(self.problem)(*inputs)
        return [output_grads[0] * gradient, grad_undefined(self, 1, inputs[1], "a handle")]


class ValueAndGradient(_OfProblem):
    """The log likelihood of a vector and its gradient; -inf and 0 where a lane fails."""

    def make_node(self, u: Variable, handle: Variable) -> Apply:
        return Apply(self, _inputs(u, handle), [dscalar(), tensor(shape=(self.problem.dim,), dtype="float64")])

    def perform(self, node: Apply, inputs: Sequence[np.ndarray], output_storage: list[list]) -> None:
        u, handle = inputs
        value, gradient = bridges.native_value_and_gradient(np.ascontiguousarray(u), *_numbers(handle))
        output_storage[0][0], output_storage[1][0] = np.asarray(value), gradient


class PointwiseLogLikelihood(_OfProblem):
    """The log density of every measurement; -inf where a lane fails."""

    def make_node(self, u: Variable, handle: Variable) -> Apply:
        return Apply(self, _inputs(u, handle), [_measured(self.problem)])

    def perform(self, node: Apply, inputs: Sequence[np.ndarray], output_storage: list[list]) -> None:
        u, handle = inputs
        output_storage[0][0] = native_likelihood.pointwise(_numbers(handle), u[None])[0]

    def L_op(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], output_grads: Sequence[Variable]
    ) -> list[Variable]:
        (weights,) = output_grads
        weight = _same_for_all(weights)
        if weight is None:
            gradient = WeightedGradient(self.problem)(*inputs, weights)
        else:
            gradient = weight * ValueAndGradient(self.problem)(*inputs)[1]
        return [gradient, grad_undefined(self, 1, inputs[1], "a handle")]


class WeightedGradient(_OfProblem):
    """The gradient of a weighted sum over the measurements' log densities; 0 where a lane fails."""

    def make_node(self, u: Variable, handle: Variable, weights: Variable) -> Apply:
        inputs = [*_inputs(u, handle), dvector.filter_variable(weights)]
        return Apply(self, inputs, [tensor(shape=(self.problem.dim,), dtype="float64")])

    def perform(self, node: Apply, inputs: Sequence[np.ndarray], output_storage: list[list]) -> None:
        u, handle, weights = inputs
        slopes = native_gradient.row_derivatives(_numbers(handle), u[None]).log_density[0]
        output_storage[0][0] = weights @ slopes


class DrawMeasurements(RNGConsumerOp):
    """Draw measurements: a simulation, and measurement noise; NaN where a lane fails."""

    __props__ = ("hash",)

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.hash = problem.hash

    def make_node(self, rng: Variable, u: Variable) -> Apply:
        inputs = [random_generator_type.filter_variable(rng), dvector.filter_variable(u)]
        return Apply(self, inputs, [random_generator_type(), _measured(self.problem)])

    def update(self, node: Apply) -> dict[Variable, Variable]:
        return {node.inputs[0]: node.outputs[0]}

    def perform(self, node: Apply, inputs: Sequence[object], output_storage: list[list]) -> None:
        rng, u = inputs
        rng, rows = custom_rng_deepcopy(rng), self.problem.rows(u[None])
        is_good = np.all(rows.status == Status.OK)
        simulated = np.where(is_good, rows.simulated[0], np.nan)
        drawn = self.problem.draw_measurements(rng, simulated, rows.noise[0])
        output_storage[0][0], output_storage[1][0] = rng, drawn


def _measured(problem: Problem) -> TensorVariable:
    return tensor(shape=(len(problem.measurements),), dtype="float64")


def _same_for_all(weights: Variable) -> Variable | None:
    """Return the scalar that all weights are, if the graph tells: the gradient of a sum begins so."""
    node = weights.owner
    if node is None or not isinstance(node.op, Elemwise) or not isinstance(node.op.scalar_op, Second):
        return None
    filled = node.inputs[1]
    return filled.squeeze() if all(filled.type.broadcastable) else None


@register_canonicalize
@node_rewriter([Sum])
def sum_by_the_kernel(fgraph: FunctionGraph, node: Apply) -> list[Variable] | None:
    """Take the sum over all measurements from the kernel."""
    below = node.inputs[0].owner
    if below is None or not isinstance(below.op, PointwiseLogLikelihood) or node.op.axis not in (None, (0,)):
        return None
    return [LogLikelihood(below.op.problem)(*below.inputs)]


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
_SOURCES = zlib.crc32(repr(Sizes._fields).encode())
for _module in (bridges, handles):
    _SOURCES = zlib.crc32(Path(_module.__file__).read_bytes(), _SOURCES)


@register_funcify_default_op_cache_key(LogLikelihood)
def _log_likelihood_by_numba(op: Op, **context: object) -> tuple[Callable, int]:
    native, numbers_of = bridges.native_log_likelihood, handles.numbers_of

    @numba_njit
    def log_likelihood(u, handle):
        code, ints, floats = numbers_of(handle[0])
        return np.asarray(native(np.ascontiguousarray(u), code, ints, floats))

    return log_likelihood, _SOURCES


@register_funcify_default_op_cache_key(ValueAndGradient)
def _value_and_gradient_by_numba(op: Op, **context: object) -> tuple[Callable, int]:
    native, numbers_of = bridges.native_value_and_gradient, handles.numbers_of

    @numba_njit
    def value_and_gradient(u, handle):
        code, ints, floats = numbers_of(handle[0])
        value, gradient = native(np.ascontiguousarray(u), code, ints, floats)
        return np.asarray(value), gradient

    return value_and_gradient, _SOURCES


@register_funcify_and_cache_key(PointwiseLogLikelihood)
@register_funcify_and_cache_key(WeightedGradient)
@register_funcify_and_cache_key(DrawMeasurements)
def _by_python(op: Op, node: Apply, **context: object) -> tuple[Callable, None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Numba will use object mode")  # it is meant to
        return generate_fallback_impl(op, node, **context), None


# ---- JAX: a program holds the numbers, since handles mean nothing to XLA


@jax_funcify.register(LogLikelihood)
def _log_likelihood_by_jax(op: LogLikelihood, **context: object) -> Callable:
    numbers = Numbers(*map(jnp.asarray, op.problem.gradient_numbers))
    # Over all threads, once it is a batch: of a ladder's rungs, say.
    return lambda u, handle: bridges.log_likelihoods(numbers, u[None])[0]


@jax_funcify.register(ValueAndGradient)
def _value_and_gradient_by_jax(op: ValueAndGradient, **context: object) -> Callable:
    numbers = Numbers(*map(jnp.asarray, op.problem.gradient_numbers))
    return lambda u, handle: bridges.value_and_gradient(numbers, u)


@jax_funcify.register(PointwiseLogLikelihood)
def _pointwise_by_jax(op: PointwiseLogLikelihood, **context: object) -> Callable:
    return lambda u, handle: op.problem.pointwise_log_likelihood(u)


@jax_funcify.register(WeightedGradient)
def _weighted_gradient_by_jax(op: WeightedGradient, **context: object) -> Callable:
    return lambda u, handle, weights: jax.vjp(op.problem.pointwise_log_likelihood, u)[1](weights)[0]
