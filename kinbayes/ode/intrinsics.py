"""What compiled loops need beside Python: calls by address, pointers, memory, and sums over vectors of numbers.

numba's cache looks at one file only. A function that is cached takes `SOURCES` into its closure, so that the cache
notices a change in any file whose content is compiled into it.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kinbayes.ode import tableau

_FILES = ("intrinsics.py", "kernel.py", "lu_loops.py", "numbers.py", "status.py", "tableau.py")
SOURCES = int.from_bytes(
    hashlib.sha256(b"".join((Path(__file__).parent / name).read_bytes() for name in _FILES)).digest()[:7]
)

WIDTH = 4  # numbers in a vector; arrays of states are padded to whole vectors

# NaN and infinity must stay what they are: with all fast-math flags a NaN error would count as small.
_OPTIONS = {"fastmath": {"contract", "reassoc", "arcp", "nsz"}, "error_model": "numpy"}
jit = numba.njit(nogil=True, **_OPTIONS)
inline = numba.njit(nogil=True, inline="always", **_OPTIONS)


def compiled(signature: object) -> Callable:
    """Return a decorator that compiles to a C function, from the cache where one can be written."""

    def decorate(function: Callable) -> Callable:
        try:
            return numba.cfunc(signature, cache=True, nopython=True, **_OPTIONS)(function)
        except RuntimeError:  # no folder for the cache is writable
            return numba.cfunc(signature, nopython=True, **_OPTIONS)(function)

    return decorate


@intrinsic
def call(typing_context, address, pointers):
    """Call the function at an address."""

    def generate(context, builder, signature, values):
        arguments = [builder.extract_value(values[1], k) for k in range(len(signature.args[1]))]
        function = ir.FunctionType(ir.VoidType(), [a.type for a in arguments])
        builder.call(builder.inttoptr(values[0], function.as_pointer()), arguments)
        return context.get_dummy_value()

    return types.void(address, pointers), generate


@intrinsic
def plus(typing_context, pointer, count):
    """Return the pointer to the entry `count` places on."""

    def generate(context, builder, signature, values):
        return builder.gep(values[0], [values[1]], source_etype=context.get_data_type(pointer.dtype))

    return pointer(pointer, types.int64), generate


@intrinsic
def is_null(typing_context, pointer):
    """Return whether a pointer points nowhere."""

    def generate(context, builder, signature, values):
        return builder.icmp_unsigned("==", values[0], ir.Constant(values[0].type, None))

    return types.boolean(pointer), generate


@intrinsic
def allocate(typing_context, count):
    """Return memory for doubles, all 0."""

    def generate(context, builder, signature, values):
        size, pointer = ir.IntType(64), ir.IntType(8).as_pointer()
        calloc = cgutils.get_or_insert_function(builder.module, ir.FunctionType(pointer, [size, size]), "calloc")
        memory = builder.call(calloc, [values[0], ir.Constant(size, 8)])
        return builder.bitcast(memory, ir.DoubleType().as_pointer())

    return types.CPointer(types.float64)(count), generate


@intrinsic
def free(typing_context, memory):
    """Give memory back."""

    def generate(context, builder, signature, values):
        pointer = ir.IntType(8).as_pointer()
        free = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [pointer]), "free")
        builder.call(free, [builder.bitcast(values[0], pointer)])
        return context.get_dummy_value()

    return types.void(memory), generate


@intrinsic
def take(typing_context, counter):
    """Return a counter and add 1 to it, at once for all threads."""

    def generate(context, builder, signature, values):
        return builder.atomic_rmw("add", values[0], ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate


@intrinsic
def stage_sums(typing_context, stage, y, base, rhs, k, num, inverse_step):
    """Compute the sums for a stage over all stages before it but the newest.

    base = y + sum_j a_j k_j and rhs = (sum_j c_j k_j) / h, with vectors of WIDTH numbers: a compiler that does not
    know that the arrays are apart would take them number by number. The newest stage is left to the model's own
    function: so these sums are computed beside it, and only it is waited for.
    """
    vector, word, fast = ir.VectorType(ir.DoubleType(), WIDTH), ir.IntType(64), ("contract",)

    def generate(context, builder, signature, values):
        stage, y, base, rhs, k, num, inverse_step = values

        def place(array: ir.Value, at: ir.Value) -> ir.Value:
            return builder.bitcast(builder.gep(array, [at], source_etype=ir.DoubleType()), vector.as_pointer())

        def sum_of(value: ir.Value | None, coefficients: Sequence[float], at: ir.Value) -> ir.Value | None:
            for j, coefficient in enumerate(coefficients):
                if coefficient != 0.0:
                    load = builder.load(place(k, builder.add(at, builder.mul(num, word(j)))), align=8, typ=vector)
                    term = builder.fmul(ir.Constant(vector, [coefficient] * WIDTH), load, flags=fast)
                    value = term if value is None else builder.fadd(value, term, flags=fast)
            return value

        first = builder.insert_element(ir.Constant(vector, ir.Undefined), inverse_step, ir.IntType(32)(0))
        scale = builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH))
        done = builder.append_basic_block("sums.done")
        choice = builder.switch(stage, done)
        for number in range(2, tableau.NUM_STAGES + 1):
            # The last rows of A are the one before with a 1 for the newest stage: there the old base stands for y.
            a = tableau.A[number, : number - 1] if number <= 6 else [0.0] * (number - 2) + [1.0]
            c = tableau.C[number, : number - 1] if number < tableau.NUM_STAGES else []
            block = builder.append_basic_block(f"sums.{number}")
            choice.add_case(word(number), block)
            builder.position_at_end(block)
            with cgutils.for_range_slice(builder, word(0), num, word(WIDTH)) as (i, _):
                start = builder.load(place(y, i), align=8, typ=vector)
                builder.store(sum_of(start, a, i), place(base, i), align=8)
                added = sum_of(None, c, i)
                if added is not None:
                    builder.store(builder.fmul(added, scale, flags=fast), place(rhs, i), align=8)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(stage, y, base, rhs, k, num, inverse_step), generate
