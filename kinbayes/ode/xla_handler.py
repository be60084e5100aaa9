"""XLA's way to the native log likelihood: a handler of its foreign function interface, compiled by numba.

On a CPU, XLA calls the handler in the thread that runs a program, without Python. The handler keeps nothing between
calls and writes to its results only, so threads may call it at once.

The compiler's cache looks at this file alone. So all that is compiled stands here, the kernel is called by the address
among the numbers, and what other files may rearrange are variables of a closure, which the cache does compare.
"""

import ctypes
import functools
import math
import os
from collections.abc import Callable, Sequence

import jax
import numba
from llvmlite import ir
from numba import types
from numba.core import ccallback, cgutils
from numba.extending import intrinsic

from kinbayes.ode.numbers import LaneColumns, Sizes
from kinbayes.ode.status import Status

# ---- places, in words

# In XLA's C interface (xla/ffi/api/c_api.h): paths that begin at the frame of a call.
_FIRST = (0,)
_EXTENSION, _EXTENSION_TYPE, _METADATA, _METADATA_VERSION = (1,), (1, 1), (1, 3), 3
_EXECUTION, _CREATE_ERROR, _DESTROY_ERROR, _SCHEDULE, _NUM_THREADS = (3,), (2, 6), (2, 8), (2, 17), (2, 18)
_NUM_OPERANDS, _NUM_RESULTS, _NUM_ATTRIBUTES = (7,), (12,), (17,)
_TYPE, _DATA, _RANK, _DIMS = 2, 3, 4, 5  # of a buffer
_VECTORS, _CODE, _INTS, _FLOATS = ((9, k, _DATA) for k in range(4))
_NUM_VECTORS, _DIM = (9, 0, _DIMS, 0), (9, 0, _DIMS, 1)
_TOTALS, _NUM_TOTALS = (14, 0, _DATA), (14, 0, _DIMS, 0)
_GRADIENTS, _NUM_GRADIENTS, _WIDTH = (14, 1, _DATA), (14, 1, _DIMS, 0), (14, 1, _DIMS, 1)
_ATTRIBUTE_TYPE, _OVER_THREADS = (20, 0, 0), (20, 0, 1, 0)
# Its codes.
_IS_METADATA, _S64, _F64, _INVALID_ARGUMENT = 1, 5, 12, 3
_VERSION = 3 << 32  # 0.3; XLA refuses a handler of a version that it does not support

# In what threads share while they work on one batch: the state, the kernel's counter and first arguments, the address
# of the lanes' gradients or null, the columns of the lanes, and those gradients. It begins with 0, where XLA's frame
# has its size.
_STATE, _COUNTER, _ARGUMENTS, _LANES = 1, 2, 3, 9
# The state counts those who may still read it and those at work, and tells whether nobody may begin any more.
_REFERENCE, _AT_WORK, _CLOSED = 1, 1 << 20, 1 << 40


# ---- numba: in compiled code a whole number stands for an address

_WORD, _HALF, _REAL = ir.IntType(64), ir.IntType(32), ir.DoubleType()
_malloc = types.ExternalFunction("malloc", types.int64(types.int64))
_free = types.ExternalFunction("free", types.void(types.int64))
_yield = types.ExternalFunction("SwitchToThread" if os.name == "nt" else "sched_yield", types.int32())


def _entry(builder: ir.IRBuilder, address: ir.Value, k: ir.Value | int, element: ir.Type = _WORD) -> ir.Value:
    """Return the pointer to an entry of the array at an address."""
    return builder.gep(builder.inttoptr(address, element.as_pointer()), [_WORD(k) if isinstance(k, int) else k])


def _call(builder: ir.IRBuilder, address: ir.Value, words: Sequence[ir.Value], returned: ir.Type) -> ir.Value:
    """Call the C function at an address with words."""
    function = ir.FunctionType(returned, [_WORD] * len(words))
    return builder.call(builder.inttoptr(address, function.as_pointer()), words)


def _call_kernel(builder: ir.IRBuilder, arguments: Sequence[ir.Value], gradients: ir.Value) -> None:
    """Call the kernel, whose address is the first entry of its first argument, for no tables, states and slopes."""
    address, null = builder.load(_entry(builder, arguments[0], 0)), _WORD(0)
    _call(builder, address, [*arguments, null, null, gradients, null], ir.VoidType())


@intrinsic
def _read(typing_context, address, path):
    """Return the word at the end of a path: `_read(a, (i, j))` is `a[i][j]`."""

    def generate(context, builder, signature, values):
        word = values[0]
        for k in cgutils.unpack_tuple(builder, values[1]):
            word = builder.load(_entry(builder, word, k))
        return word

    return types.int64(address, path), generate


@intrinsic
def _read_real(typing_context, address, k):
    """Return an entry of an array of real numbers."""

    def generate(context, builder, signature, values):
        return builder.load(_entry(builder, *values, _REAL))

    return types.float64(address, types.int64), generate


@intrinsic
def _sum(typing_context, rows, num, width, sums):
    """Write the sums over rows of real numbers, in their order."""

    def generate(context, builder, signature, values):
        rows, num, width, sums = values
        with cgutils.for_range(builder, width) as column:
            total = cgutils.alloca_once_value(builder, _REAL(0.0))
            with cgutils.for_range(builder, num) as row:
                k = builder.add(builder.mul(row.index, width), column.index)
                part = builder.load(_entry(builder, rows, k, _REAL))
                builder.store(builder.fadd(builder.load(total), part), total)
            builder.store(builder.load(total), _entry(builder, sums, column.index, _REAL))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def _write(typing_context, address, numbers):
    """Write words or real numbers, one behind the other."""

    def generate(context, builder, signature, values):
        for k, number in enumerate(cgutils.unpack_tuple(builder, values[1])):
            builder.store(number, _entry(builder, values[0], k, number.type))
        return context.get_dummy_value()

    unit = types.float64 if numbers.dtype == types.float64 else types.int64
    return types.void(address, types.UniTuple(unit, len(numbers))), generate


@intrinsic
def _add(typing_context, address, amount):
    """Add to a word that threads share; return what it was."""

    def generate(context, builder, signature, values):
        return builder.atomic_rmw("add", _entry(builder, values[0], 0), values[1], "acq_rel")

    return types.int64(address, types.int64), generate


def _all_are(*expected: tuple[Sequence[int], int]) -> Callable:
    """Return a compiled function that tells whether the fields of 32 bits at the ends of paths are the expected."""

    @intrinsic
    def all_are(typing_context, frame):
        def generate(context, builder, signature, values):
            found = ir.IntType(1)(True)
            for (*path, last), value in expected:
                address = values[0]
                for k in path:
                    address = builder.load(_entry(builder, address, k))
                field = builder.load(_entry(builder, address, 2 * last, _HALF))
                found = builder.and_(found, builder.icmp_unsigned("==", field, _HALF(value)))
            return found

        return types.boolean(frame), generate

    return all_are


_KINDS = (
    *(((9, 0), _F64, 2), ((9, 1), _S64, 1), ((9, 2), _S64, 1), ((9, 3), _F64, 1)),
    *(((14, 0), _F64, 1), ((14, 1), _F64, 2)),
)
_is_question = _all_are((_EXTENSION_TYPE, _IS_METADATA))
_has_all = _all_are((_NUM_OPERANDS, 4), (_NUM_RESULTS, 2), (_NUM_ATTRIBUTES, 1))
_has_kinds = _all_are(
    (_ATTRIBUTE_TYPE, _S64),
    *(((*buffer, _TYPE), element) for buffer, element, _ in _KINDS),
    *(((*buffer, _RANK), rank) for buffer, _, rank in _KINDS),
)


@intrinsic
def _evaluate(typing_context, code, ints, floats, vectors, num_vectors, counter, totals, lanes, gradients):
    """Call the kernel."""

    def generate(context, builder, signature, values):
        _call_kernel(builder, values[:-1], values[-1])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), generate


@intrinsic
def _take_lanes(typing_context, shared):
    """Call the kernel for those lanes of a shared batch that nobody has taken yet."""

    def generate(context, builder, signature, values):
        *arguments, gradients = (builder.load(_entry(builder, values[0], k)) for k in range(_ARGUMENTS, _LANES))
        counter, lanes = (builder.add(values[0], _WORD(8 * k)) for k in (_COUNTER, _LANES))
        _call_kernel(builder, [*arguments, counter, _WORD(0), lanes], gradients)
        return context.get_dummy_value()

    return types.void(shared), generate


@intrinsic
def _call_xla(typing_context, function, fields):
    """Call a function of XLA's interface: all take the address of one struct, and return an error or null."""
    num_words = len(fields) + 2  # before the fields stand the struct's size, and null where no extension is

    def generate(context, builder, signature, values):
        struct = builder.ptrtoint(cgutils.alloca_once(builder, _WORD, size=num_words), _WORD)
        for k, word in enumerate([_WORD(8 * num_words), _WORD(0), *cgutils.unpack_tuple(builder, values[1])]):
            builder.store(word, _entry(builder, struct, k))
        return _call(builder, values[0], [struct], _WORD)

    return types.int64(function, types.UniTuple(types.int64, len(fields))), generate


@intrinsic(prefer_literal=True)
def _text(typing_context, message):
    """Return the address of a text."""

    def generate(context, builder, signature, values):
        return builder.ptrtoint(context.insert_const_string(builder.module, message.literal_value), _WORD)

    return types.int64(message), generate


@intrinsic
def _this_task(typing_context):
    """Return the address of a C function without result that calls the function being compiled."""

    def generate(context, builder, signature, values):
        name = f"{builder.function.name}.task"
        function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [_WORD]), name)
        function.linkage = "internal"
        inside = ir.IRBuilder(function.append_basic_block())
        context.call_conv.call_function(inside, builder.function, types.int64, [types.int64], function.args)
        inside.ret_void()
        return builder.ptrtoint(function, _WORD)

    return types.int64(), generate


def cached(compile_fn: Callable, function: Callable, *signature: types.Type) -> Callable:
    """Return the compiled function, from the cache where one can be written."""
    try:
        return compile_fn(*signature, cache=True)(function)
    except RuntimeError:  # no folder for the cache is writable
        return compile_fn(*signature)(function)


# ---- the handler


def _handle(lanes_at: int, has_gradient_at: int, columns: LaneColumns, ok: int) -> Callable:
    """Return the function that serves a call of XLA's, its question for metadata, or one of the threads that help.

    The operands are the vectors, code, ints and floats; the results are the log likelihoods and their gradients, which
    have as many columns as the vectors, or none where nobody wants them; the attribute tells whether to use all
    threads. It is one function, as each that numba compiles takes a while.
    """
    lane_size, value_at, status_at = 8 * len(columns), columns.log_likelihood, columns.status

    def handle(frame):
        if _read(frame, _FIRST) == 0:  # a thread that helps: it takes lanes, unless it comes too late
            if _add(frame + 8 * _STATE, _AT_WORK) < _CLOSED:
                _take_lanes(frame)
            if _add(frame + 8 * _STATE, -_AT_WORK - _REFERENCE) & (_AT_WORK - 1) == _REFERENCE:
                _free(frame)
            return 0
        if _read(frame, _EXTENSION) != 0 and _is_question(frame):
            _write(_read(frame, _METADATA) + 8 * _METADATA_VERSION, (_VERSION,))
            return 0
        message = 0
        if not _has_all(frame):
            message = _text("kinbayes: expected 4 operands, 2 results and 1 attribute")
        elif (
            not _has_kinds(frame)
            or not _read(frame, _NUM_VECTORS) == _read(frame, _NUM_TOTALS) == _read(frame, _NUM_GRADIENTS)
            or (_read(frame, _WIDTH) != 0 and _read(frame, _WIDTH) != _read(frame, _DIM))
        ):
            message = _text("kinbayes: an operand, result or attribute has not the expected type or shape")
        else:
            sizes = _read(frame, _INTS) + 8 * _read(_read(frame, _INTS), _FIRST)
            if _read(frame, _DIM) != _read(sizes, _FIRST):
                message = _text("kinbayes: the vector has not as many entries as the problem has parameters")
            elif _read(frame, _WIDTH) > 0 and _read(sizes, (has_gradient_at,)) == 0:
                message = _text("kinbayes: these numbers have no derivatives; take those that were made with them")
        if message != 0:
            return _call_xla(_read(frame, _CREATE_ERROR), (message, _INVALID_ARGUMENT))
        vectors, num_vectors, totals = _read(frame, _VECTORS), _read(frame, _NUM_VECTORS), _read(frame, _TOTALS)
        code, ints, floats = _read(frame, _CODE), _read(frame, _INTS), _read(frame, _FLOATS)
        gradients, width = _read(frame, _GRADIENTS), _read(frame, _WIDTH)
        num_lanes = _read(sizes, (lanes_at,))
        num = num_vectors * num_lanes
        if num < 2 or _read(frame, _OVER_THREADS) == 0:
            _evaluate(code, ints, floats, vectors, num_vectors, 0, totals, 0, gradients if width > 0 else 0)
            return 0
        # Nobody waits for a thread that has not begun: it may never come as long as this one is not done.
        shared = _malloc(8 * _LANES + num * (lane_size + 8 * width))
        state, lane, execution = shared + 8 * _STATE, shared + 8 * _LANES, _read(frame, _EXECUTION)
        parts = lane + num * lane_size if width > 0 else 0  # of the gradients, by lanes
        _write(shared, (0, _REFERENCE, 0, code, ints, floats, vectors, num_vectors, parts))
        error = _call_xla(_read(frame, _NUM_THREADS), (execution, lane))
        for _ in range(min(_read(lane, _FIRST), num) - 1 if error == 0 else 0):
            _add(state, _REFERENCE)
            error = _call_xla(_read(frame, _SCHEDULE), (execution, _this_task(), shared))
            if error != 0:
                _add(state, -_REFERENCE)
                break
        if error != 0:
            _call_xla(_read(frame, _DESTROY_ERROR), (error,))
        _take_lanes(shared)
        _add(state, _CLOSED)
        while _add(state, 0) >= _CLOSED + _AT_WORK:
            _yield()
        # Lane by lane, in the order of the kernel: so threads change no bit.
        for v in range(num_vectors):
            total = 0.0
            for _ in range(num_lanes):
                value = _read_real(lane, value_at)
                is_good = _read_real(lane, status_at) == ok and value < math.inf  # a value that is no number is not
                total = total + value if is_good else -math.inf
                lane += lane_size
            _write(totals + 8 * v, (total,))
            good_lanes = num_lanes if total > -math.inf else 0  # the sum of none is 0
            _sum(parts, good_lanes, width, gradients)
            parts += 8 * width * num_lanes
            gradients += 8 * width
        if _add(state, -_REFERENCE) & (_AT_WORK - 1) == _REFERENCE:
            _free(shared)
        return 0

    return handle


@functools.cache
def handler() -> ccallback.CFunc:
    """Return the compiled handler: 0.3 s the first time on a machine, 2 ms from the cache."""
    lanes_at, has_gradient_at = map(Sizes._fields.index, ("lanes", "has_gradient"))
    handle = _handle(lanes_at, has_gradient_at, LaneColumns(), int(Status.OK))
    found = cached(numba.cfunc, handle, types.int64(types.int64))
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(found))  # XLA forgets no handler, so its code must stay for good
    return found


@functools.cache
def target() -> str | None:
    """Return the name by which XLA knows the handler, or None where XLA cannot call it."""
    # While there is no CPU client yet, JAX would only queue the handler, and a refusal would then break that client.
    try:
        jax.local_devices(backend="cpu")
    except RuntimeError:
        return None
    address = handler().address
    # A name stands for one address for good, and a second copy of this module has a handler of its own.
    for name in ("kinbayes_log_likelihood", f"kinbayes_log_likelihood_{address:x}"):
        try:
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform="cpu")
        except jax.errors.JaxRuntimeError:  # the name is taken, or XLA does not support the version
            continue
        return name
    return None
