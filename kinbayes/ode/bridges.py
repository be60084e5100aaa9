"""The native log likelihood for its hosts: JAX, NumPy, and what numba compiles.

Every host reaches the kernel through `Numbers.code`, whose first entry is the kernel's address. So no address is a
constant of compiled or cached code, as long as the numbers are *arguments* of what is compiled. A program that closes
over them would hold addresses that mean nothing in another process, to which JAX's persistent cache may carry it.

The addresses stay good for the life of the process, even inside a compiled program that outlives every Python object:
machine code of models and of the handler below is never freed.
"""

import ctypes
import functools
import math
import os
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numba
import numpy as np
from jaxtyping import Array, ArrayLike, Float
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kinbayes.ode import kernel, native
from kinbayes.ode.native import Numbers
from kinbayes.ode.status import Status

# ---- numba: in compiled code a whole number stands for an address

_WORD = ir.IntType(64)


def _pointer(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return builder.inttoptr(address, _WORD.as_pointer())


def _call(builder: ir.IRBuilder, address: ir.Value, arguments: Sequence[ir.Value], returned: ir.Type) -> ir.Value:
    """Call the C function at an address with words."""
    function = ir.FunctionType(returned, [_WORD] * len(arguments))
    return builder.call(builder.inttoptr(address, function.as_pointer()), arguments)


@intrinsic
def _words(typing_context, address):
    """Return a pointer to the words of 64 bits at an address."""

    def generate(context, builder, signature, values):
        return _pointer(builder, values[0])

    return types.CPointer(types.int64)(types.int64), generate


@intrinsic
def _doubles(typing_context, address):
    """Return a pointer to the real numbers at an address."""

    def generate(context, builder, signature, values):
        return builder.inttoptr(values[0], ir.DoubleType().as_pointer())

    return types.CPointer(types.float64)(types.int64), generate


@intrinsic
def _address(typing_context, array, element):
    """Return the address of a vector's data."""

    def generate(context, builder, signature, values):
        return builder.ptrtoint(context.make_array(array)(context, builder, value=values[0]).data, _WORD)

    is_vector = isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C"
    if not (is_vector and array.dtype == element.dtype):
        raise numba.TypingError(f"expected a contiguous vector of {element.dtype}, got {array}")
    return types.int64(array, element), generate


@intrinsic
def _evaluate(typing_context, code, ints, floats, vectors, num_vectors, counter, totals, lanes):
    """Call the kernel, whose address is the first entry of `code`, without tables and states."""

    def generate(context, builder, signature, values):
        _call(builder, builder.load(_pointer(builder, values[0])), [*values, _WORD(0), _WORD(0)], ir.VoidType())
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), generate


def _cached(compile_fn: Callable, function: Callable, *signature: types.Type) -> Callable:
    """Return the compiled function, from the cache where one can be written."""
    try:
        return compile_fn(*signature, cache=True)(function)
    except RuntimeError:  # no folder for the cache is writable
        return compile_fn(*signature)(function)


def _of_vector(u, code, ints, floats):
    if u.size != ints[ints[0]]:
        raise ValueError("the vector has not as many entries as the problem has parameters")
    total = np.empty(1)
    _evaluate(
        _address(code, np.int64),
        _address(ints, np.int64),
        _address(floats, np.float64),
        _address(u, np.float64),
        1,
        0,
        _address(total, np.float64),
        0,
    )
    return total[0]


native_log_likelihood = _cached(functools.partial(numba.njit, nogil=True), _of_vector)
"""Return the log likelihood of a vector: `native_log_likelihood(u, code, ints, floats)`, for what numba compiles.

It takes contiguous vectors only, and holds no address: what calls it can be cached on disk. A call from Python costs
0.6 µs beside the kernel.
"""


# ---- the batch over XLA's threads


@intrinsic
def _add(typing_context, address, amount):
    """Add to a word that threads share; return what it was."""

    def generate(context, builder, signature, values):
        return builder.atomic_rmw("add", _pointer(builder, values[0]), values[1], "acq_rel")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _allocate(typing_context, size):
    def generate(context, builder, signature, values):
        return builder.ptrtoint(context.nrt.allocate(builder, values[0]), _WORD)

    return types.int64(types.int64), generate


@intrinsic
def _free(typing_context, address):
    def generate(context, builder, signature, values):
        context.nrt.free(builder, builder.inttoptr(values[0], ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def _yield(typing_context):
    """Let another thread have this core."""

    def generate(context, builder, signature, values):
        name = "SwitchToThread" if os.name == "nt" else "sched_yield"
        builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.IntType(32), []), name), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _call_xla(typing_context, function, fields):
    """Call a function of XLA's interface: all take the address of one struct, and return an error or null."""

    def generate(context, builder, signature, values):
        struct = cgutils.alloca_once(builder, _WORD, size=len(fields))
        for k in range(len(fields)):
            builder.store(builder.extract_value(values[1], k), builder.gep(struct, [_WORD(k)]))
        return _call(builder, values[0], [builder.ptrtoint(struct, _WORD)], _WORD)

    return types.int64(function, types.UniTuple(types.int64, len(fields))), generate


# What threads share while they work on one batch, in words; the columns of the lanes follow.
_REFERENCES, _STATE, _COUNTER, _CODE, _INTS, _FLOATS, _VECTORS, _NUM_VECTORS, _LANES = range(9)
_CLOSED = 1 << 32  # added to the state, which counts those at work, when nobody may begin any more


@numba.njit
def _release(shared):
    if _add(shared + 8 * _REFERENCES, -1) == 1:
        _free(shared)


@numba.njit
def _take_lanes(shared):
    s = _words(shared)
    counter, lanes = shared + 8 * _COUNTER, shared + 8 * _LANES
    _evaluate(s[_CODE], s[_INTS], s[_FLOATS], s[_VECTORS], s[_NUM_VECTORS], counter, 0, lanes)


@numba.njit
def _help(shared):
    """Do what a thread of XLA's does: take lanes, unless it comes too late."""
    if _add(shared + 8 * _STATE, 1) < _CLOSED:
        _take_lanes(shared)
    _add(shared + 8 * _STATE, -1)
    _release(shared)


@intrinsic
def _helper(typing_context):
    """Return the address of a C function that does what `_help` does."""

    def generate(context, builder, signature, values):
        name = f"{builder.function.name}.help"
        function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [_WORD]), name)
        function.linkage = "internal"
        inside = ir.IRBuilder(function.append_basic_block())
        typed = types.void(types.int64)
        compiled = context.compile_subroutine(inside, _help.py_func, typed)
        context.call_internal_no_propagate(inside, compiled.fndesc, typed, function.args)
        inside.ret_void()
        return builder.ptrtoint(function, _WORD)

    return types.int64(), generate


@numba.njit
def _over_threads(api, execution, code, ints, floats, vectors, num_vectors, num_lanes, totals, columns):
    """Write the log likelihoods of some vectors, with the help of those threads of XLA's that are free.

    Nobody waits for a thread that has not begun: it may never come as long as this one is not done. The lanes are
    added in the kernel's order, so that threads change no bit.
    """
    num = num_vectors * num_lanes
    shared = _allocate(8 * (_LANES + num * len(columns)))
    s, state = _words(shared), shared + 8 * _STATE
    s[_REFERENCES], s[_STATE], s[_COUNTER] = 1, 0, 0
    s[_CODE], s[_INTS], s[_FLOATS], s[_VECTORS], s[_NUM_VECTORS] = code, ints, floats, vectors, num_vectors
    found = shared + 8 * _LANES
    error = _call_xla(api[_API_NUM_THREADS], (_NUM_THREADS_SIZE, 0, execution, found))
    num_helpers = min(_words(found)[0], num) - 1 if error == 0 else 0
    for _ in range(num_helpers):
        _add(shared + 8 * _REFERENCES, 1)
        error = _call_xla(api[_API_SCHEDULE], (_SCHEDULE_SIZE, 0, execution, _helper(), shared))
        if error != 0:
            _release(shared)
            break
    if error != 0:
        _call_xla(api[_API_DESTROY_ERROR], (_DESTROY_ERROR_SIZE, 0, error))
    _take_lanes(shared)
    _add(state, _CLOSED)
    while _add(state, 0) != _CLOSED:
        _yield()
    lane, out = _doubles(found), _doubles(totals)
    for v in range(num_vectors):
        out[v] = 0.0
        for k in range(v * num_lanes * len(columns), (v + 1) * num_lanes * len(columns), len(columns)):
            value = lane[k + columns.log_likelihood]
            is_good = lane[k + columns.status] == _OK and value < math.inf  # a value that is no number is not
            out[v] = out[v] + value if is_good else -math.inf
    _release(shared)


# ---- XLA's call

# Offsets in words, sizes in bytes, and codes of XLA's C interface (xla/ffi/api/c_api.h).
_FIRST_VERSION, _LAST_VERSION = 1, 3  # minor versions (the major one is 0) whose structs are those below
_FRAME_SIZE, _LIST_SIZE, _ATTRIBUTES_SIZE, _BUFFER_SIZE = 168, 40, 48, 48
_EXTENSION_SIZE, _METADATA_SIZE, _VERSION_SIZE = 32, 36, 24
_CREATE_ERROR_SIZE, _DESTROY_ERROR_SIZE, _SCHEDULE_SIZE, _NUM_THREADS_SIZE = 28, 24, 40, 32
_FRAME_EXTENSION, _FRAME_API, _FRAME_EXECUTION, _FRAME_OPERANDS, _FRAME_RESULTS, _FRAME_ATTRIBUTES = 1, 2, 3, 5, 10, 15
_LIST_COUNT, _LIST_ITEMS, _ATTRIBUTES_ITEMS = 2, 4, 5
_BUFFER_TYPE, _BUFFER_DATA, _BUFFER_RANK, _BUFFER_DIMS = 2, 3, 4, 5
_EXTENSION_TYPE, _EXTENSION_METADATA, _METADATA_VERSION = 1, 3, 1
_API_VERSION, _API_CREATE_ERROR, _API_DESTROY_ERROR, _API_SCHEDULE, _API_NUM_THREADS = 2, 6, 8, 17, 18
_VERSION_NUMBERS = 2
_S64, _F64, _METADATA, _INVALID_ARGUMENT = 5, 12, 1, 3
_OK = int(Status.OK)


@intrinsic(prefer_literal=True)
def _text(typing_context, message):
    """Return the address of a text."""

    def generate(context, builder, signature, values):
        return builder.ptrtoint(context.insert_const_string(builder.module, message.literal_value), _WORD)

    return types.int64(message), generate


@numba.njit
def _refuse(api, message):
    """Return an error of XLA's."""
    return _call_xla(api[_API_CREATE_ERROR], (_CREATE_ERROR_SIZE, 0, message, _INVALID_ARGUMENT))


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
        and frame[_FRAME_ATTRIBUTES] == _ATTRIBUTES_SIZE
        and extension[0] == _EXTENSION_SIZE
        and metadata[0] >= _METADATA_SIZE
        and metadata[_METADATA_VERSION] == _VERSION_SIZE
        and api[0] > 8 * _API_NUM_THREADS
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


def _handle(lanes_at: int, columns: kernel.LaneColumns) -> Callable:
    """Return the function that serves a call of XLA's, or its question for metadata.

    The operands are u, code, ints and floats, each with the axes of the batch before its own; the result are the log
    likelihoods; the attribute tells whether to use all threads. It keeps nothing between calls and writes to its
    results only, so threads may call it at once.

    What the kernel may change are arguments here, because the compiler's cache looks at them, but at no other file.
    """

    def handle(frame):
        if frame[_FRAME_EXTENSION] != 0 and _low(_words(frame[_FRAME_EXTENSION])[_EXTENSION_TYPE]) == _METADATA:
            _answer(frame)
            return 0
        api = _words(frame[_FRAME_API])
        if (
            frame[_FRAME_OPERANDS + _LIST_COUNT] != 4
            or frame[_FRAME_RESULTS + _LIST_COUNT] != 1
            or frame[_FRAME_ATTRIBUTES + _LIST_COUNT] != 1
        ):
            return _refuse(api, _text("kinbayes: expected 4 operands, 1 result and 1 attribute"))
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
        attribute = _words(_words(frame[_FRAME_ATTRIBUTES + _ATTRIBUTES_ITEMS])[0])
        if not (is_sound and _low(attribute[0]) == _S64):
            return _refuse(api, _text("kinbayes: an operand, result or attribute has not the expected type or shape"))
        over_threads = _words(attribute[1])[0] != 0
        size = 1
        for axis in range(rank):
            size *= batch[axis]
        u, code, ints, floats = _words(operands[0]), _words(operands[1]), _words(operands[2]), _words(operands[3])
        num_together = max(size, 1) if is_shared else 1
        for at in range(0, size, num_together):
            own_code, own_ints = _entry(code, batch, rank, at), _entry(ints, batch, rank, at)
            own_floats, vectors = _entry(floats, batch, rank, at), _entry(u, batch, rank, at)
            out = totals[_BUFFER_DATA] + 8 * at
            sizes = _words(own_ints + 8 * _words(own_ints)[0])
            if sizes[0] != _words(u[_BUFFER_DIMS])[rank]:
                return _refuse(api, _text("kinbayes: the vector has not as many entries as the problem has parameters"))
            if over_threads and num_together * sizes[lanes_at] > 1:
                _over_threads(
                    api,
                    frame[_FRAME_EXECUTION],
                    own_code,
                    own_ints,
                    own_floats,
                    vectors,
                    num_together,
                    sizes[lanes_at],
                    out,
                    columns,
                )
            else:
                _evaluate(own_code, own_ints, own_floats, vectors, num_together, 0, out, 0)
        return 0

    return handle


@functools.cache
def _handler() -> numba.core.ccallback.CFunc:
    """Return the compiled handler: 0.9 s the first time on a machine, 3 ms from the cache."""
    handle = _handle(kernel.Sizes._fields.index("lanes"), kernel.LaneColumns())
    handler = _cached(numba.cfunc, handle, types.int64(types.CPointer(types.int64)))
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
    return _called(False, *_operands(numbers, u, 1))


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
    return jax.vmap(functools.partial(_called, True), (0, None, None, None))(*_operands(numbers, U, 2))


def _operands(numbers: Numbers, u: ArrayLike, rank: int) -> list[Array]:
    """Return the operands, once they are known to have the types that the kernel reads without asking."""
    operands = [jnp.asarray(part) for part in (u, *numbers)]
    wanted = (
        ("u", np.float64, rank, 0),
        ("code", np.int64, 1, kernel.NUM_CODE),
        ("ints", np.int64, 1, kernel.NUM_OFFSETS),
        ("floats", np.float64, 1, 0),
    )
    for part, (name, element, axes, least) in zip(operands, wanted, strict=True):
        if part.dtype != element or part.ndim != axes or part.shape[-1] < least:
            raise ValueError(
                f"{name} is {part.dtype}{list(part.shape)}; expected {np.dtype(element)}, {axes} axes and at least "
                f"{least} entries: vectors of floats, and the numbers of a native problem"
            )
    return operands


def _called(over_threads: bool, *operands: Array) -> Array:
    if _target() is None:
        return _by_callback(*operands)
    return jax.lax.platform_dependent(*operands, cpu=functools.partial(_by_xla, over_threads), default=_by_callback)


def _by_xla(over_threads: bool, *operands: Array) -> Array:
    call = jax.ffi.ffi_call(_target(), _RESULT, vmap_method="expand_dims")
    return call(*operands, over_threads=np.int64(over_threads))


def _by_callback(*operands: Array) -> Array:
    return jax.pure_callback(_on_host, _RESULT, *operands, vmap_method="expand_dims")


_RESULT = jax.ShapeDtypeStruct((), np.float64)


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


_FEW = 20  # lanes; Python threads take 0.4 ms to start, in which one thread does about as many


def _totals(numbers: Numbers, U: np.ndarray) -> np.ndarray:
    """Return the log likelihoods of some vectors, over all threads where that pays."""
    dim, expected = U.shape[-1], numbers.sizes.parameters
    if dim != expected:
        raise ValueError(f"the vectors have {dim} entries, but the problem has {expected} parameters")
    if len(U) * numbers.sizes.lanes <= _FEW:
        return native.log_likelihoods(numbers, U)
    return native.totals(native.simulated(numbers, U).lanes)


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
