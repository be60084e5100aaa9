"""The native log likelihood and its gradient for their hosts: JAX, NumPy, and what numba compiles.

Every host reaches the kernel through `Numbers.code`, whose first entry is the kernel's address. So no address is a
constant of compiled or cached code, as long as the numbers are *arguments* of what is compiled. A program that closes
over them would hold addresses that mean nothing in another process, to which JAX's persistent cache may carry it.

The addresses stay good for the life of the process, even inside a compiled program that outlives every Python object:
machine code of models and of XLA's handler is never freed.
"""

import ctypes
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numba
import numpy as np
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, ArrayLike, Float
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kinbayes.ode import loops_code, native, xla_handler
from kinbayes.ode.numbers import NUM_CODE, NUM_OFFSETS, Numbers, Sizes

# ---- JAX


def log_likelihood(numbers: Numbers, u: Float[ArrayLike, " dim"]) -> Float[Array, ""]:
    """Return the log likelihood of a vector, inside compiled programs too; -inf where a lane fails.

    On a CPU, XLA calls the kernel itself, without Python, in the thread that runs the program. Under `vmap` one call
    takes the whole batch, one vector after the other. On other platforms, and where XLA does not support the handler's
    version, it calls back to Python, with the same result.

    Beside the kernel a call costs 0.2 µs in a compiled loop (the callback 150 µs); from Python, a compiled function
    with this call takes 2 µs longer than an empty one.

    It can be differentiated once with respect to the vector, in forward and in reverse mode: one call of the kernel
    then serves value and derivative. It chooses its steps for both, so the value is another within the tolerances than
    without a derivative. Where the value is -inf the derivative is 0.

    Parameters
    ----------
    numbers
        The problem's numbers. They must be arguments of a compiled program, not its constants.
    u
        Scaled vector.

    Raises
    ------
    ValueError
        If an array has not the type or number of axes that is read.
    TypeError
        If it is differentiated with respect to the numbers.
    jax.errors.JaxRuntimeError
        At run time, if the vector is not as long as the problem has parameters, or if it is differentiated though
        the numbers have no derivatives.
    """
    return _totals(xla_handler.target(), False, *_operands(numbers, u, 1))


def log_likelihoods(numbers: Numbers, U: Float[ArrayLike, "n dim"]) -> Float[Array, " n"]:
    """Return the log likelihood of every vector, inside compiled programs too, over all threads.

    The same as `log_likelihood` under `vmap`, to the last bit, but those threads of XLA's that are free take lanes too:
    on two cores 16 vectors of ten lanes take 148 µs in place of 279. It pays from the second lane on: two lanes of 1 µs
    already take no longer than in one thread, since nobody waits for threads that come too late. Use it where one
    program does all the work, not where several share the cores.

    Parameters
    ----------
    numbers
        The problem's numbers. They must be arguments of a compiled program, not its constants.
    U
        Scaled vectors.

    Raises
    ------
    ValueError, TypeError, jax.errors.JaxRuntimeError
        As `log_likelihood`.
    """
    return _totals(xla_handler.target(), True, *_operands(numbers, U, 2))


def value_and_gradient(numbers: Numbers, u: Float[ArrayLike, " dim"]) -> tuple[Float[Array, ""], Float[Array, " dim"]]:
    """Return the log likelihood of a vector and its gradient, inside compiled programs too; -inf and 0 where it fails.

    The same call of the kernel as under `jax.value_and_grad(log_likelihood, 1)`, for programs that want no derivative
    of JAX's making.

    Parameters
    ----------
    numbers
        The problem's numbers. They must be arguments of a compiled program, not its constants.
    u
        Scaled vector.

    Raises
    ------
    ValueError, jax.errors.JaxRuntimeError
        As `log_likelihood`.
    """
    return _results(xla_handler.target(), False, True, *_operands(numbers, u, 1))


def values_and_gradients(
    numbers: Numbers, U: Float[ArrayLike, "n dim"]
) -> tuple[Float[Array, " n"], Float[Array, "n dim"]]:
    """Return the log likelihood of every vector and its gradient, over all threads.

    The same as `value_and_gradient` under `vmap`, to the last bit.

    Parameters
    ----------
    numbers
        The problem's numbers. They must be arguments of a compiled program, not its constants.
    U
        Scaled vectors.

    Raises
    ------
    ValueError, jax.errors.JaxRuntimeError
        As `log_likelihood`.
    """
    return _results(xla_handler.target(), True, True, *_operands(numbers, U, 2))


def _operands(numbers: Numbers, u: ArrayLike, rank: int) -> list[Array]:
    """Return the operands, once they are known to have the types that the kernel reads without asking."""
    operands = [jnp.asarray(part) for part in (u, *numbers)]
    wanted = (
        ("u", np.float64, rank, 0),
        ("code", np.int64, 1, NUM_CODE),
        ("ints", np.int64, 1, NUM_OFFSETS),
        ("floats", np.float64, 1, 0),
    )
    for part, (name, element, axes, least) in zip(operands, wanted, strict=True):
        if part.dtype != element or part.ndim != axes or part.shape[-1] < least:
            raise ValueError(
                f"{name} is {part.dtype}{list(part.shape)}; expected {np.dtype(element)}, {axes} axes and at least "
                f"{least} entries: vectors of floats, and the numbers of a native problem"
            )
    return operands


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _differentiable(target: str | None, over_threads: bool, u: Array, *numbers: Array) -> Array:
    """Return the log likelihood of a vector or those of a batch."""
    return _results(target, over_threads, False, u, *numbers)[0]


@functools.partial(_differentiable.defjvp, symbolic_zeros=True)
def _derivative(target: str | None, over_threads: bool, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    along, *others = tangents
    if not all(isinstance(tangent, SymbolicZero) for tangent in others):
        raise TypeError("the log likelihood can only be differentiated with respect to the vector, not the numbers")
    totals, gradients = _results(target, over_threads, True, *primals)
    return totals, jnp.sum(gradients * along, axis=-1)


_totals = jax.jit(_differentiable, static_argnums=(0, 1))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _results(
    target: str | None, over_threads: bool, with_gradient: bool, u: Array, *numbers: Array
) -> tuple[Array, Array]:
    """Return log likelihood and gradient of a vector or those of a batch, by XLA's target if there is one.

    Without gradient the second has no columns. Under `vmap` it takes one larger batch, or where the numbers differ, one
    batch after the other.
    """

    def shapes(U: Array) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        n, dim = U.shape
        return jax.ShapeDtypeStruct((n,), U.dtype), jax.ShapeDtypeStruct((n, dim if with_gradient else 0), U.dtype)

    def by_xla(U: Array, *numbers: Array) -> tuple[Array, Array]:
        return tuple(jax.ffi.ffi_call(target, shapes(U))(U, *numbers, over_threads=np.int64(over_threads)))

    def by_callback(U: Array, *numbers: Array) -> tuple[Array, Array]:
        return jax.pure_callback(functools.partial(_on_host, with_gradient), shapes(U), U, *numbers)

    @custom_vmap
    def call(*operands: Array) -> tuple[Array, Array]:
        if target is None:
            return by_callback(*operands)
        return jax.lax.platform_dependent(*operands, cpu=by_xla, default=by_callback)

    @call.def_vmap
    def call_for_batches(size: int, is_batched: list[bool], *operands: Array) -> tuple[tuple, tuple[bool, bool]]:
        if not any(is_batched[1:]):
            U, *numbers = operands
            flat = call(jax.lax.collapse(U, 0, 2), *numbers)
            return tuple(x.reshape(*U.shape[:2], *x.shape[1:]) for x in flat), (True, True)

        def batch(k: Array) -> tuple[Array, Array]:
            return call(*(x[k] if has_axis else x for x, has_axis in zip(operands, is_batched, strict=True)))

        return jax.lax.map(batch, jnp.arange(size)), (True, True)

    totals, gradients = call(jnp.atleast_2d(u), *numbers)
    return totals.reshape(u.shape[:-1]), gradients.reshape(*u.shape[:-1], gradients.shape[-1])


_FEW = 4  # lanes; to ask other threads takes some 0.05 ms, in which one thread does one or two


def _on_host(with_gradient: bool, U: ArrayLike, *numbers: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return log likelihoods and gradients of some vectors, over all threads where that pays.

    Nothing but NumPy is called here: JAX may need the very thread that waits for this.
    """
    vectors, own = np.asarray(U), Numbers(*map(np.asarray, numbers))
    sizes = own.sizes
    if vectors.shape[-1] != sizes.parameters:
        raise ValueError(
            f"the vectors have {vectors.shape[-1]} entries, but the problem has {sizes.parameters} parameters"
        )
    is_few, none = len(vectors) * sizes.lanes <= _FEW, np.zeros((len(vectors), 0))
    if not with_gradient:
        totals = native.log_likelihoods(own, vectors) if is_few else native.totals(native.simulated(own, vectors).lanes)
        return totals, none
    if is_few:
        return native.log_likelihoods_and_gradients(own, vectors)
    found = native.simulated(own, vectors, with_gradients=True)
    totals = native.totals(found.lanes)
    # Lane by lane, in the order of the kernel.
    gradients = functools.reduce(np.add, np.moveaxis(found.gradients, 1, 0), np.zeros_like(vectors))
    return totals, np.where(totals[:, None] > -np.inf, gradients, 0.0)


# ---- NumPy


def host_log_likelihood(numbers: Numbers) -> Callable[[np.ndarray], float]:
    """Return the log likelihood as a function of one vector (dim,), for hosts outside JAX.

    Its calls cost 1.3 µs beside the kernel. They let other Python threads run, and may come from several at once.

    Parameters
    ----------
    numbers
        The problem's numbers.

    Raises
    ------
    ValueError
        If the numbers are of another process; from the function, if the vector's shape is wrong.
    """
    evaluate = _on_one_vector(numbers)

    def log_likelihood(u: np.ndarray) -> float:
        total = ctypes.c_double()
        evaluate(u, ctypes.byref(total), None)
        return total.value

    return log_likelihood


def host_value_and_gradient(numbers: Numbers) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Return log likelihood and gradient (dim,) as a function of one vector (dim,), for hosts outside JAX.

    Its calls cost 1.6 µs beside the kernel, and are as safe as those of `host_log_likelihood`. Where a lane fails they
    return -inf and 0.

    Parameters
    ----------
    numbers
        The problem's numbers.

    Raises
    ------
    ValueError
        If the numbers are of another process or have no derivatives; from the function, if the vector's shape is
        wrong.
    """
    evaluate, sizes = _on_one_vector(numbers), numbers.sizes
    if not sizes.has_gradient:
        raise ValueError("these numbers have no derivatives; take those that were made with them")
    results = ctypes.c_double * (1 + sizes.parameters)

    def value_and_gradient(u: np.ndarray) -> tuple[float, np.ndarray]:
        found = results()
        evaluate(u, found, ctypes.byref(found, 8))
        return found[0], np.frombuffer(found)[1:]

    return value_and_gradient


def _on_one_vector(numbers: Numbers) -> Callable:
    """Return a function of a vector and of where its total and gradient (or null) are to go."""
    if numbers.code[0] != loops_code.address("kernel", "evaluate"):
        raise ValueError("the numbers hold addresses of another process; compile the model in this one")
    pointer = ctypes.c_void_p
    evaluate = ctypes.CFUNCTYPE(None, *[pointer] * 4, ctypes.c_int64, *[pointer] * 7)(int(numbers.code[0]))
    # These pointers keep their arrays alive.
    code, ints, floats = (np.ascontiguousarray(part).ctypes.data_as(pointer) for part in numbers)
    shape = (numbers.sizes.parameters,)

    def on_one_vector(u: np.ndarray, total: object, gradient: object) -> None:
        vector = np.asarray(u, dtype=np.float64)
        if vector.shape != shape:
            raise ValueError(f"the vector has shape {vector.shape}, expected {shape}")
        # Bytes are the fastest way from an array to an address.
        evaluate(code, ints, floats, vector.tobytes(), 1, None, total, None, None, None, gradient, None)

    return on_one_vector


# ---- numba


@intrinsic
def _evaluate(typing_context, code, ints, floats, u, total, gradient):
    """Call the kernel, whose address is the first entry of `code`, for one vector; the gradient may be None."""
    given = (code, ints, floats, u, total, gradient)
    expected = (types.int64, types.int64, types.float64, types.float64, types.float64, types.float64)
    for array, element in zip(given, expected, strict=True):
        is_vector = isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C"
        if not (is_vector and array.dtype == element) and not (array is gradient and array == types.none):
            raise numba.TypingError(f"expected a contiguous vector of {element}, got {array}")

    def generate(context, builder, signature, values):
        word = ir.IntType(64)

        def pointer(array, value):
            if array == types.none:
                return word(0)
            return builder.ptrtoint(context.make_array(array)(context, builder, value=value).data, word)

        *vectors, total, gradient = map(pointer, signature.args, values)
        address = builder.load(builder.inttoptr(vectors[0], word.as_pointer()))
        null = word(0)
        arguments = [*vectors, word(1), null, total, null, null, null, gradient, null]
        function = ir.FunctionType(ir.VoidType(), [word] * len(arguments))
        builder.call(builder.inttoptr(address, function.as_pointer()), arguments)
        return context.get_dummy_value()

    return types.void(*given), generate


def _of_vector(u, code, ints, floats):
    if u.size != ints[ints[0]]:
        raise ValueError("the vector has not as many entries as the problem has parameters")
    total = np.empty(1)
    _evaluate(code, ints, floats, u, total, None)
    return total[0]


def _with_gradient(has_gradient_at: int) -> Callable:
    def of_vector(u, code, ints, floats):
        if u.size != ints[ints[0]]:
            raise ValueError("the vector has not as many entries as the problem has parameters")
        if ints[ints[0] + has_gradient_at] == 0:  # in the closure, where the cache sees it
            raise ValueError("these numbers have no derivatives; take those that were made with them")
        total, gradient = np.empty(1), np.empty(u.size)
        _evaluate(code, ints, floats, u, total, gradient)
        return total[0], gradient

    return of_vector


_njit = functools.partial(numba.njit, nogil=True)

native_log_likelihood = xla_handler.cached(_njit, _of_vector)
"""Return the log likelihood of a vector: `native_log_likelihood(u, code, ints, floats)`, for what numba compiles.

It takes contiguous vectors only, and holds no address: what calls it can be cached on disk. A call from Python costs
0.6 µs beside the kernel.
"""

native_value_and_gradient = xla_handler.cached(_njit, _with_gradient(Sizes._fields.index("has_gradient")))
"""Return the log likelihood of a vector and its gradient, as `native_log_likelihood`; -inf and 0 where a lane fails.

A call from Python costs 0.9 µs beside the kernel.
"""
