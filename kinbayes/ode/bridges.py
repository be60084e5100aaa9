"""The native log likelihood for its hosts: JAX, NumPy, and what numba compiles.

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
from jaxtyping import Array, ArrayLike, Float
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kinbayes.ode import kernel, native, xla_handler
from kinbayes.ode.numbers import NUM_CODE, NUM_OFFSETS, Numbers

# ---- JAX


def log_likelihood(numbers: Numbers, u: Float[ArrayLike, " dim"]) -> Float[Array, ""]:
    """Return the log likelihood of a vector, inside compiled programs too; -inf where a lane fails.

    On a CPU, XLA calls the kernel itself, without Python, in the thread that runs the program. Under `vmap` one call
    takes the whole batch, one vector after the other. On other platforms, and where XLA does not support the handler's
    version, it calls back to Python, with the same result.

    Beside the kernel a call costs 0.2 µs in a compiled loop (the callback 150 µs); from Python, a compiled function
    with this call takes 2 µs longer than an empty one. It has no derivative.

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
    jax.errors.JaxRuntimeError
        At run time, if the vector is not as long as the problem has parameters.
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
    ValueError
        If an array has not the type or number of axes that is read.
    jax.errors.JaxRuntimeError
        At run time, if the vectors are not as long as the problem has parameters.
    """
    return _totals(xla_handler.target(), True, *_operands(numbers, U, 2))


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


@functools.partial(jax.jit, static_argnums=(0, 1))
def _totals(target: str | None, over_threads: bool, u: Array, *numbers: Array) -> Array:
    """Return the log likelihood of a vector or those of a batch, by XLA's target if there is one.

    Under `vmap` it takes one larger batch, or where the numbers differ, one batch after the other.
    """

    def by_xla(U: Array, *numbers: Array) -> Array:
        call = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(U.shape[:1], np.float64))
        return call(U, *numbers, over_threads=np.int64(over_threads))

    def by_callback(U: Array, *numbers: Array) -> Array:
        return jax.pure_callback(_on_host, jax.ShapeDtypeStruct(U.shape[:1], np.float64), U, *numbers)

    @custom_vmap
    def totals(*operands: Array) -> Array:
        if target is None:
            return by_callback(*operands)
        return jax.lax.platform_dependent(*operands, cpu=by_xla, default=by_callback)

    @totals.def_vmap
    def totals_of_batches(size: int, is_batched: list[bool], *operands: Array) -> tuple[Array, bool]:
        if not any(is_batched[1:]):
            U, *numbers = operands
            return totals(jax.lax.collapse(U, 0, 2), *numbers).reshape(U.shape[:2]), True

        def batch(k: Array) -> Array:
            return totals(*(x[k] if has_axis else x for x, has_axis in zip(operands, is_batched, strict=True)))

        return jax.lax.map(batch, jnp.arange(size)), True

    return totals(jnp.atleast_2d(u), *numbers).reshape(u.shape[:-1])


_FEW = 4  # lanes; to ask other threads takes some 0.05 ms, in which one thread does one or two


def _on_host(U: ArrayLike, *numbers: ArrayLike) -> np.ndarray:
    """Return the log likelihoods of some vectors, over all threads where that pays.

    Nothing but NumPy is called here: JAX may need the very thread that waits for this.
    """
    vectors, own = np.asarray(U), Numbers(*map(np.asarray, numbers))
    sizes = own.sizes
    if vectors.shape[-1] != sizes.parameters:
        raise ValueError(
            f"the vectors have {vectors.shape[-1]} entries, but the problem has {sizes.parameters} parameters"
        )
    if len(vectors) * sizes.lanes <= _FEW:
        return native.log_likelihoods(own, vectors)
    return native.totals(native.simulated(own, vectors).lanes)


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
    if numbers.code[0] != kernel.evaluate.address:
        raise ValueError("the numbers hold addresses of another process; compile the model in this one")
    pointer = ctypes.c_void_p
    evaluate = ctypes.CFUNCTYPE(None, *[pointer] * 4, ctypes.c_int64, *[pointer] * 5)(int(numbers.code[0]))
    # These pointers keep their arrays alive.
    code, ints, floats = (np.ascontiguousarray(part).ctypes.data_as(pointer) for part in numbers)
    shape = (numbers.sizes.parameters,)

    def log_likelihood(u: np.ndarray) -> float:
        vector = np.asarray(u, dtype=np.float64)
        if vector.shape != shape:
            raise ValueError(f"the vector has shape {vector.shape}, expected {shape}")
        total = ctypes.c_double()
        # Bytes are the fastest way from an array to an address.
        evaluate(code, ints, floats, vector.tobytes(), 1, None, ctypes.byref(total), None, None, None)
        return total.value

    return log_likelihood


# ---- numba


@intrinsic
def _evaluate(typing_context, code, ints, floats, u, total):
    """Call the kernel, whose address is the first entry of `code`, for one vector."""
    expected = (types.int64, types.int64, types.float64, types.float64, types.float64)
    for array, element in zip((code, ints, floats, u, total), expected, strict=True):
        is_vector = isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C"
        if not (is_vector and array.dtype == element):
            raise numba.TypingError(f"expected a contiguous vector of {element}, got {array}")

    def generate(context, builder, signature, values):
        word, typed = ir.IntType(64), zip(signature.args, values, strict=True)
        data = [context.make_array(array)(context, builder, value=value).data for array, value in typed]
        address = builder.load(data[0])
        *vectors, totals = (builder.ptrtoint(pointer, word) for pointer in data)
        arguments = [*vectors, word(1), word(0), totals, word(0), word(0), word(0)]
        function = ir.FunctionType(ir.VoidType(), [word] * len(arguments))
        builder.call(builder.inttoptr(address, function.as_pointer()), arguments)
        return context.get_dummy_value()

    return types.void(code, ints, floats, u, total), generate


def _of_vector(u, code, ints, floats):
    if u.size != ints[ints[0]]:
        raise ValueError("the vector has not as many entries as the problem has parameters")
    total = np.empty(1)
    _evaluate(code, ints, floats, u, total)
    return total[0]


native_log_likelihood = xla_handler.cached(functools.partial(numba.njit, nogil=True), _of_vector)
"""Return the log likelihood of a vector: `native_log_likelihood(u, code, ints, floats)`, for what numba compiles.

It takes contiguous vectors only, and holds no address: what calls it can be cached on disk. A call from Python costs
0.6 µs beside the kernel.
"""
