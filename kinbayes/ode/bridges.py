"""The native log likelihood for its hosts: JAX, NumPy, and what numba compiles.

Every host reaches the kernel through `Numbers.code`, whose first entry is the kernel's address. So no address is a
constant of compiled or cached code, as long as the numbers are *arguments* of what is compiled. A program that closes
over them would hold addresses that mean nothing in another process, to which JAX's persistent cache may carry it.

The addresses stay good for the life of the process, even inside a compiled program that outlives every Python object:
machine code of models and of the handler below is never freed.
"""

import ctypes
import functools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numba
import numpy as np
from jaxtyping import Array, ArrayLike, Float
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kinbayes.ode import kernel, native
from kinbayes.ode.native import Numbers
from kinbayes.ode.status import Status

# ---- numba: in compiled code a whole number stands for an address


@intrinsic
def _words(typing_context, address):
    """Return a pointer to the words of 64 bits at an address."""

    def generate(context, builder, signature, values):
        return builder.inttoptr(values[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(types.int64), generate


@intrinsic
def _address(typing_context, array, element):
    """Return the address of a vector's data."""

    def generate(context, builder, signature, values):
        return builder.ptrtoint(context.make_array(array)(context, builder, value=values[0]).data, ir.IntType(64))

    is_vector = isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C"
    if not (is_vector and array.dtype == element.dtype):
        raise numba.TypingError(f"expected a contiguous vector of {element.dtype}, got {array}")
    return types.int64(array, element), generate


@intrinsic
def _evaluate(typing_context, code, ints, floats, vectors, num_vectors, totals):
    """Call the kernel for the totals of some vectors."""

    def generate(context, builder, signature, values):
        word = ir.IntType(64)
        address = builder.load(builder.inttoptr(values[0], word.as_pointer()))
        evaluate = builder.inttoptr(address, ir.FunctionType(ir.VoidType(), [word] * 10).as_pointer())
        null = ir.Constant(word, 0)
        builder.call(evaluate, [*values[:5], null, values[5], null, null, null])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


def _cached(compile_fn: Callable, function: Callable, *signature: types.Type) -> Callable:
    """Return the compiled function, from the cache where one can be written."""
    try:
        return compile_fn(*signature, cache=True)(function)
    except RuntimeError:  # no folder for the cache is writable
        return compile_fn(*signature)(function)


def _of_vectors(u, code, ints, floats):
    if u.size != ints[ints[0]]:
        raise ValueError("the vector has not as many entries as the problem has parameters")
    total = np.empty(1)
    _evaluate(
        _address(code, np.int64),
        _address(ints, np.int64),
        _address(floats, np.float64),
        _address(u, np.float64),
        1,
        _address(total, np.float64),
    )
    return total[0]


native_log_likelihood = _cached(functools.partial(numba.njit, nogil=True), _of_vectors)
"""Return the log likelihood of `u` (dim,): `native_log_likelihood(u, code, ints, floats)`, for code that numba compiles.

It takes contiguous vectors only and holds no address, so what calls it can be cached on disk.
"""


# ---- XLA's side

# Offsets in words, sizes in bytes, and codes of XLA's C interface (xla/ffi/api/c_api.h).
_FIRST_VERSION, _LAST_VERSION = 1, 3  # minor versions (the major one is 0) whose structs are those below
_FRAME_SIZE, _LIST_SIZE, _BUFFER_SIZE, _EXTENSION_SIZE, _METADATA_SIZE, _VERSION_SIZE = 168, 40, 48, 32, 36, 24
_FRAME_EXTENSION, _FRAME_API, _FRAME_OPERANDS, _FRAME_RESULTS = 1, 2, 5, 10
_LIST_COUNT, _LIST_ITEMS = 2, 4
_BUFFER_TYPE, _BUFFER_DATA, _BUFFER_RANK, _BUFFER_DIMS = 2, 3, 4, 5
_EXTENSION_TYPE, _EXTENSION_METADATA, _METADATA_VERSION = 1, 3, 1
_API_VERSION, _API_CREATE_ERROR, _VERSION_NUMBERS = 2, 6, 2
_S64, _F64, _METADATA, _INVALID_ARGUMENT = 5, 12, 1, 3


@intrinsic(prefer_literal=True)
def _error(typing_context, create, message):
    """Return an error of XLA's, made by its function at the address `create`."""

    def generate(context, builder, signature, values):
        word = ir.IntType(64)
        text = builder.ptrtoint(context.insert_const_string(builder.module, message.literal_value), word)
        # The fields of XLA_FFI_Error_Create_Args: its size, extensions, message, code.
        fields = (word(28), word(0), text, word(_INVALID_ARGUMENT))
        arguments = builder.alloca(word, size=len(fields))
        for k, field in enumerate(fields):
            builder.store(field, builder.gep(arguments, [word(k)]))
        function = builder.inttoptr(values[0], ir.FunctionType(word, [word]).as_pointer())
        return builder.call(function, [builder.ptrtoint(arguments, word)])

    return types.int64(create, message), generate


@numba.njit
def _low(word):
    """Return the lower half of a word: of a field of 32 bits, whose neighbour may hold anything."""
    return word & 0xFFFFFFFF


@numba.njit
def _answer(frame):
    """Tell XLA which version of its interface this is written for: XLA's own, if its structs are the known ones.

    Left without an answer, XLA reads version 0.0, and refuses the handler.
    """
    extension, api = _words(frame[_FRAME_EXTENSION]), _words(frame[_FRAME_API])
    metadata, version = _words(extension[_EXTENSION_METADATA]), api[_API_VERSION + _VERSION_NUMBERS]
    if (
        frame[0] == _FRAME_SIZE
        and frame[_FRAME_OPERANDS] == _LIST_SIZE
        and frame[_FRAME_RESULTS] == _LIST_SIZE
        and extension[0] == _EXTENSION_SIZE
        and metadata[0] >= _METADATA_SIZE
        and metadata[_METADATA_VERSION] == _VERSION_SIZE
        and api[_API_VERSION] == _VERSION_SIZE
        and _low(version) == 0
        and _FIRST_VERSION <= version >> 32 <= _LAST_VERSION
    ):
        metadata[_METADATA_VERSION + _VERSION_NUMBERS] = version


@numba.njit
def _entry(buffer, batch, rank, at):
    """Return the address of an operand's vector in entry `at` of the batch: an axis of length 1 serves all."""
    own = _words(buffer[_BUFFER_DIMS])
    offset, stride = 0, own[rank]
    for axis in range(rank - 1, -1, -1):
        offset += stride * (at % batch[axis]) if own[axis] > 1 else 0
        stride *= own[axis]
        at //= batch[axis]
    return buffer[_BUFFER_DATA] + 8 * offset


def _handle(frame):
    """Serve one call of XLA's, or its question for metadata.

    The operands are u, code, ints and floats, each with the axes of the batch before its own; the results are the
    log likelihoods. It keeps nothing between calls and writes to its results only, so threads may call it at once.
    """
    if frame[_FRAME_EXTENSION] != 0 and _low(_words(frame[_FRAME_EXTENSION])[_EXTENSION_TYPE]) == _METADATA:
        _answer(frame)
        return 0
    create = _words(frame[_FRAME_API])[_API_CREATE_ERROR]
    if frame[_FRAME_OPERANDS + _LIST_COUNT] != 4 or frame[_FRAME_RESULTS + _LIST_COUNT] != 1:
        return _error(create, "kinbayes: expected 4 operands and 1 result")
    operands, results = _words(frame[_FRAME_OPERANDS + _LIST_ITEMS]), _words(frame[_FRAME_RESULTS + _LIST_ITEMS])
    totals = _words(results[0])
    rank, batch = totals[_BUFFER_RANK], _words(totals[_BUFFER_DIMS])
    is_sound = totals[0] == _BUFFER_SIZE and _low(totals[_BUFFER_TYPE]) == _F64
    is_shared = True  # whether all vectors go with the same numbers
    for k in range(4):
        operand = _words(operands[k])
        own, element = _words(operand[_BUFFER_DIMS]), _F64 if k == 0 or k == 3 else _S64
        is_sound = is_sound and operand[0] == _BUFFER_SIZE and operand[_BUFFER_RANK] == rank + 1
        is_sound = is_sound and _low(operand[_BUFFER_TYPE]) == element
        if not is_sound:
            break
        for axis in range(rank):
            is_sound = is_sound and (own[axis] == 1 or own[axis] == batch[axis])
            is_shared = is_shared and own[axis] == (batch[axis] if k == 0 else 1)
    if not is_sound:
        return _error(create, "kinbayes: an operand or a result has not the expected type or shape")
    size = 1
    for axis in range(rank):
        size *= batch[axis]
    u, code, ints, floats = _words(operands[0]), _words(operands[1]), _words(operands[2]), _words(operands[3])
    num_together = max(size, 1) if is_shared else 1
    for at in range(0, size, num_together):
        numbers = _words(_entry(ints, batch, rank, at))
        if numbers[numbers[0]] != _words(u[_BUFFER_DIMS])[rank]:
            return _error(create, "kinbayes: the vector has not as many entries as the problem has parameters")
        _evaluate(
            _entry(code, batch, rank, at),
            _entry(ints, batch, rank, at),
            _entry(floats, batch, rank, at),
            _entry(u, batch, rank, at),
            num_together,
            totals[_BUFFER_DATA] + 8 * at,
        )
    return 0


@functools.cache
def _handler() -> numba.core.ccallback.CFunc:
    """Return the compiled handler: 0.9 s the first time on a machine, 3 ms from the cache."""
    handler = _cached(numba.cfunc, _handle, types.int64(types.CPointer(types.int64)))
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(handler))  # XLA forgets no handler, so its code must stay for good
    return handler


@functools.cache
def _target() -> str | None:
    """Return the name by which XLA knows the handler, or None where XLA cannot call it."""
    # While there is no CPU client yet, JAX would only queue the handler, and a refusal would then break that client.
    try:
        jax.local_devices(backend="cpu")
    except RuntimeError:
        return None
    address = _handler().address
    # A name stands for one address for good, and a second copy of this module has a handler of its own.
    for name in ("kinbayes_log_likelihood", f"kinbayes_log_likelihood_{address:x}"):
        try:
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform="cpu")
        except jax.errors.JaxRuntimeError:  # the name is taken, or XLA's interface is not one that is known here
            continue
        return name
    return None


# ---- JAX


def log_likelihood(numbers: Numbers, u: Float[ArrayLike, " dim"]) -> Float[Array, ""]:
    """Return the log likelihood of a vector, inside compiled programs too; -inf where a lane fails.

    On a CPU, XLA calls the kernel itself, without Python, in the thread that runs the program. Under `vmap` one call
    takes the whole batch, one vector after the other. On other platforms, and where XLA's interface is unknown, it
    calls back to Python, with the same result.

    The call costs 1.1 µs in a compiled loop (the callback 150 µs), and 2 µs more than a trivial program when a
    compiled function is called from Python. It has no derivative.

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
    operands = _operands(numbers, u, 1)
    if _target() is None:
        return _by_callback(*operands)
    return jax.lax.platform_dependent(*operands, cpu=_by_xla, default=_by_callback)


def log_likelihoods(numbers: Numbers, U: Float[ArrayLike, "n dim"]) -> Float[Array, " n"]:
    """Return the log likelihood of every vector, inside compiled programs too, over all threads of the process.

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
    operands = _operands(numbers, U, 2)
    if len(operands[0]) <= _FEW:
        return jax.vmap(log_likelihood, (None, 0))(numbers, operands[0])
    return jax.vmap(_by_callback, (0, None, None, None))(*operands)


_FEW = 8


def _operands(numbers: Numbers, u: ArrayLike, rank: int) -> list[Array]:
    """Return the operands, once they are known to have the types that the kernel reads without asking."""
    operands = [jnp.asarray(part) for part in (u, *numbers)]
    for name, part, element, own, least in zip(
        ("u", *Numbers._fields),
        operands,
        (np.float64, np.int64, np.int64, np.float64),
        (rank, 1, 1, 1),
        (0, kernel.NUM_CODE, kernel.NUM_OFFSETS, 0),
        strict=True,
    ):
        if part.dtype != element or part.ndim != own or part.shape[-1] < least:
            raise ValueError(
                f"{name} is {part.dtype}{list(part.shape)}; expected {np.dtype(element)} with {own} axes and at least "
                f"{least} entries, from native numbers and float64 vectors"
            )
    return operands


def _by_xla(u: Array, code: Array, ints: Array, floats: Array) -> Array:
    result = jax.ShapeDtypeStruct(u.shape[:-1], np.float64)
    return jax.ffi.ffi_call(_target(), result, vmap_method="expand_dims")(u, code, ints, floats)


def _by_callback(u: Array, code: Array, ints: Array, floats: Array) -> Array:
    result = jax.ShapeDtypeStruct(u.shape[:-1], np.float64)
    return jax.pure_callback(_on_host, result, u, code, ints, floats, vmap_method="expand_dims")


def _on_host(u: ArrayLike, *numbers: ArrayLike) -> np.ndarray:
    """Return the log likelihoods of a batch: an axis of length 1 serves all.

    Nothing but NumPy is called here: JAX may need the very thread that waits for this.
    """
    every = [np.asarray(part) for part in (u, *numbers)]
    batch = np.broadcast_shapes(*(part.shape[:-1] for part in every))
    if every[0].shape[:-1] == batch and all(part.size == part.shape[-1] for part in every[1:]):
        vectors, *own = (part.reshape(-1, part.shape[-1]) for part in every)
        return _totals(Numbers(*(part[0] for part in own)), vectors).reshape(batch)
    every = [np.broadcast_to(part, (*batch, part.shape[-1])) for part in every]
    found = np.empty(batch)
    for at in np.ndindex(batch):
        vector, *own = (np.ascontiguousarray(part[at]) for part in every)
        found[at] = _totals(Numbers(*own), vector[None])[0]
    return found


def _totals(numbers: Numbers, U: np.ndarray) -> np.ndarray:
    """Return the log likelihoods of some vectors, over all threads."""
    _check_dim(U.shape[-1], numbers)
    if len(U) == 1:
        return native.log_likelihoods(numbers, U)
    lanes = native.simulated(numbers, U).lanes
    # The lanes are added in the kernel's order, so that threads change no bit.
    total = functools.reduce(operator.add, lanes.log_likelihood.T, np.zeros(len(U)))
    return np.where((lanes.status == Status.OK).all(axis=1), total, -np.inf)


def _check_dim(dim: int, numbers: Numbers) -> None:
    expected = numbers.sizes.parameters
    if dim != expected:
        raise ValueError(f"the vector has {dim} entries, but the problem has {expected} parameters")


# ---- NumPy


def host_log_likelihood(numbers: Numbers) -> Callable[[np.ndarray], float]:
    """Return the log likelihood as a function of one vector (dim,), for hosts outside JAX.

    Its calls cost 1.1 µs beside the kernel. They let other Python threads run, and may come from several at once.

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
    code, ints, floats = (
        np.ascontiguousarray(part).ctypes.data_as(pointer) for part in numbers
    )  # they keep the arrays
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
