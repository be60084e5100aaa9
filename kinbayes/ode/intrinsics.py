"""What compiled loops need beside Python: calls by address, pointers, memory, and sums over vectors of numbers."""

from collections.abc import Callable, Sequence

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kinbayes.ode import tableau
from kinbayes.ode.numbers import WIDTH as BLOCK

_HALF = BLOCK // 2  # for few states, sums over vectors of this many are faster

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


def pointers(names: type) -> Callable:
    """Return a compiled function that gives pointers by the names of a tuple: (base, offsets) -> tuple."""

    @intrinsic
    def sections(typing_context, base, offsets):
        found = types.NamedUniTuple(base, len(names._fields), names)

        def generate(context, builder, signature, values):
            at = [builder.load(builder.gep(values[1], [ir.IntType(64)(k)])) for k in range(found.count)]
            element = context.get_data_type(base.dtype)
            parts = [builder.gep(values[0], [offset], source_etype=element) for offset in at]
            return context.make_tuple(builder, found, parts)

        return found(base, offsets), generate

    return sections


def numbers(names: type) -> Callable:
    """Return a compiled function that gives the numbers of an array by the names of a tuple."""

    @intrinsic
    def values_of(typing_context, array):
        found = types.NamedUniTuple(array.dtype, len(names._fields), names)

        def generate(context, builder, signature, values):
            at = [builder.load(builder.gep(values[0], [ir.IntType(64)(k)])) for k in range(found.count)]
            return context.make_tuple(builder, found, at)

        return found(array), generate

    return values_of


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
def aligned(typing_context, memory):
    """Return the first place in memory at which a whole vector may begin; at most 7 numbers on."""

    def generate(context, builder, signature, values):
        word = ir.IntType(64)
        address = builder.add(builder.ptrtoint(values[0], word), word(63))
        return builder.inttoptr(builder.and_(address, word(-64)), values[0].type)

    return memory(memory), generate


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


def _stage_sums(width: int) -> Callable:
    """Return a compiled function that computes the sums for a stage over all stages before it but the newest.

    base = y + sum_j a_j k_j and rhs = (sum_j c_j k_j) / h, with vectors of `width` numbers: a compiler that does not
    know that the arrays are apart would take them number by number. The newest stage is left to the model's own
    function: so these sums are computed beside it, and only it is waited for. `method` are the coefficients a and c,
    all rows of each: numbers in memory stay in registers over a loop, while constants are fetched at every turn.
    """
    real, word, fast = ir.DoubleType(), ir.IntType(64), ("contract",)
    vector = ir.VectorType(real, width)

    @intrinsic
    def stage_sums(typing_context, stage, y, base, rhs, k, num, inverse_step, method):
        def generate(context, builder, signature, values):
            stage, y, base, rhs, k, num, inverse_step, method = values

            def place(array: ir.Value, at: ir.Value) -> ir.Value:
                return builder.bitcast(builder.gep(array, [at], source_etype=real), vector.as_pointer())

            def known(row: Sequence[float], at: int) -> dict[int, ir.Value]:
                """Return the coefficients of a row that are not 0, spread out."""
                where = {
                    j: builder.gep(method, [word(at + j)], source_etype=real) for j, x in enumerate(row) if x != 0.0
                }
                return {j: spread(builder.load(pointer, typ=real)) for j, pointer in where.items()}

            def spread(number: ir.Value) -> ir.Value:
                one = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.IntType(32)(0))
                return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width))

            def sum_of(value: ir.Value | None, factors: dict[int, ir.Value], stages: dict[int, ir.Value]) -> ir.Value:
                for j, factor in factors.items():
                    term = builder.fmul(factor, stages[j], flags=fast)
                    value = term if value is None else builder.fadd(value, term, flags=fast)
                return value

            scale = spread(inverse_step)
            done = builder.append_basic_block("sums.done")
            choice = builder.switch(stage, done)
            for number in range(2, tableau.NUM_STAGES + 1):
                block = builder.append_basic_block(f"sums.{number}")
                choice.add_case(word(number), block)
                builder.position_at_end(block)
                # The last rows of A are the one before with a 1 for the newest stage: there the old base stands for y.
                a = known(tableau.A[number, : number - 1], number * _STAGES) if number <= 6 else {}
                c = known(tableau.C[number, : number - 1], (_STAGES + number) * _STAGES) if number < _STAGES else {}
                with cgutils.for_range_slice(builder, word(0), num, word(width)) as (i, _):
                    used = sorted({*a, *c, number - 2})
                    at = {j: place(k, builder.add(i, builder.mul(num, word(j)))) for j in used}
                    stages = {j: builder.load(pointer, align=8, typ=vector) for j, pointer in at.items()}
                    start = builder.load(place(y, i), align=8, typ=vector)
                    point = sum_of(start, a, stages) if a else builder.fadd(start, stages[number - 2])
                    added = builder.fmul(sum_of(None, c, stages), scale, flags=fast) if c else None
                    builder.store(point, place(base, i), align=8)
                    if added is not None:
                        builder.store(added, place(rhs, i), align=8)
                builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return types.void(stage, y, base, rhs, k, num, inverse_step, method), generate

    return stage_sums


_STAGES = tableau.NUM_STAGES
stage_sums, tangent_sums = _stage_sums(_HALF), _stage_sums(BLOCK)


def _spread(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
    """Return a block's vector of one number."""
    lane = ir.IntType(32)
    one = builder.insert_element(ir.Constant(ir.VectorType(number.type, BLOCK), ir.Undefined), number, lane(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(lane, BLOCK), [0] * BLOCK))


def _vector_at(builder: ir.IRBuilder, array: ir.Value, i: ir.Value) -> ir.Value:
    """Return the pointer to an entry of an array of a block's vectors."""
    real = ir.DoubleType()
    at = builder.gep(array, [builder.mul(i, ir.IntType(64)(BLOCK))], source_etype=real)
    return builder.bitcast(at, ir.VectorType(real, BLOCK).as_pointer())


@intrinsic
def stage_points(typing_context, y, k, num, stride, points, stages):
    """Compute the points u = y + sum_j a_j k_j of all stages, and gather the stages: (num, stages) each.

    The stages lie `stride` apart.
    """
    real, word, lane = ir.DoubleType(), ir.IntType(64), ir.IntType(32)
    vector = ir.VectorType(real, BLOCK)

    def generate(context, builder, signature, values):
        y, k, num, stride, points, stages = values

        with cgutils.for_range(builder, num) as loop:
            i = loop.index
            point = _spread(builder, builder.load(builder.gep(y, [i], source_etype=real), typ=real))
            gathered = ir.Constant(vector, ir.Undefined)
            for j in range(tableau.NUM_STAGES):
                at = builder.gep(k, [builder.add(i, builder.mul(stride, word(j)))], source_etype=real)
                stage = builder.load(at, typ=real)
                gathered = builder.insert_element(gathered, stage, lane(j))
                if j + 1 < tableau.NUM_STAGES:
                    column = ir.Constant(vector, [float(a) for a in tableau.A[:, j]])
                    term = builder.fmul(column, _spread(builder, stage), flags=("contract",))
                    point = builder.fadd(point, term, flags=("contract",))
            builder.store(point, _vector_at(builder, points, i), align=8)
            builder.store(gathered, _vector_at(builder, stages, i), align=8)
        return context.get_dummy_value()

    return types.void(y, k, num, stride, points, stages), generate


@intrinsic
def add_multiple(typing_context, total, factor, terms):
    """Add a multiple of a block's vector to another."""
    vector = ir.VectorType(ir.DoubleType(), BLOCK)

    def generate(context, builder, signature, values):
        total, factor, terms = values
        factor = _spread(builder, factor)
        total, terms = (builder.bitcast(p, vector.as_pointer()) for p in (total, terms))
        product = builder.fmul(factor, builder.load(terms, align=8, typ=vector), flags=("contract",))
        added = builder.fadd(builder.load(total, align=8, typ=vector), product, flags=("contract",))
        builder.store(added, total, align=8)
        return context.get_dummy_value()

    return types.void(total, factor, terms), generate


@intrinsic
def finish_tangents(typing_context, work, block, num, all_states, rtol):
    """Add the last stage to a block of tangents, and return the largest error of one of them, a square.

    `work` are the states before and after the step and their floors; `block` are the tangents but for the last stage,
    that stage, the tangents before, the sizes of their parameters, and those after the step. In units of a state, which
    a tangent gets from the size of its parameter, its error may be that of the state, or the same part of itself.
    """
    real, word, lane = ir.DoubleType(), ir.IntType(64), ir.IntType(32)
    vector, fast = ir.VectorType(real, BLOCK), ("contract", "nsz", "arcp")

    def generate(context, builder, signature, values):
        before, after, floors = cgutils.unpack_tuple(builder, values[0])
        base, last, y, size, u = cgutils.unpack_tuple(builder, values[1])
        _, _, num, all_states, rtol = values

        def load(array: ir.Value, i: ir.Value) -> ir.Value:
            return builder.load(_vector_at(builder, array, i), align=8, typ=vector)

        def number(array: ir.Value, i: ir.Value) -> ir.Value:
            return builder.load(builder.gep(array, [i], source_etype=real), typ=real)

        def call(name: str, kind: ir.Type, *arguments: ir.Value) -> ir.Value:
            function = ir.FunctionType(kind, [kind] * len(arguments))
            return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)

        def larger(a: ir.Value, b: ir.Value) -> ir.Value:
            return call("llvm.maxnum.v8f64", vector, a, b)

        def absolute(a: ir.Value) -> ir.Value:
            return call("llvm.fabs.v8f64", vector, a)

        squares = cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * BLOCK))
        sizes, rtols = load(size, word(0)), _spread(builder, rtol)
        with cgutils.for_range(builder, all_states) as loop:
            i = loop.index
            stage = load(last, i)
            new = builder.fadd(load(base, i), stage)
            builder.store(new, _vector_at(builder, u, i), align=8)
            with builder.if_then(builder.icmp_signed("<", i, num)):
                own = call(
                    "llvm.maxnum.f64", real, *(call("llvm.fabs.f64", real, number(a, i)) for a in (before, after))
                )
                tangent = builder.fmul(sizes, larger(absolute(load(y, i)), absolute(new)))
                most = builder.fmul(rtols, larger(_spread(builder, own), tangent), flags=fast)
                most = builder.fadd(_spread(builder, number(floors, i)), most, flags=fast)
                error = builder.fdiv(builder.fmul(stage, sizes), most)
                square = builder.fmul(error, error, flags=fast)
                builder.store(builder.fadd(builder.load(squares), square, flags=fast), squares)
        found = builder.load(squares)
        first, *others = (builder.extract_element(found, lane(j)) for j in range(BLOCK))
        largest = total = first
        for other in others:
            largest = builder.select(builder.fcmp_ordered(">", other, largest), other, largest)
            total = builder.fadd(total, other)
        # What is no number makes the sum none; a maximum would pass it over.
        largest = builder.select(builder.fcmp_ordered("ord", total, total), largest, total)
        return largest

    return types.float64(work, block, num, all_states, rtol), generate
