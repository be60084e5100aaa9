"""What one step of the native engine spends its time on, and how near that is to what the core can do.

Every compiled function of a model is called again and again from a numba loop. What it computes is counted in its
program: additions, subtractions, multiplications and divisions; calls like exp or pow are counted apart. The core's
peak is measured too: chains of fused multiply-adds that do not wait for each other, with the widest vectors.
"""

import ctypes
from collections.abc import Callable, Mapping

import numba
import numpy as np
from collection import likelihood, numbers, short
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from rounds import clock, fastest

import kinbayes as kb
from kinbayes.model.codegen import program
from kinbayes.model.llvm import Function, machine_code
from kinbayes.ode import bridges, intrinsics, native, tableau
from kinbayes.ode.memory import padded
from kinbayes.ode.numbers import METHOD, NUM_CODE, Code, Numbers
from kinbayes.problem import native_likelihood

_ARITHMETIC = frozenset(("add", "sub", "mul", "div", "sqrt"))
_FREE = frozenset(("const", "symbol", "neg", "abs", "where", "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"))
_REPEATS = 2000  # calls in one measurement
_VALUE = 0.3  # of every state, constant and argument: nothing in straight-line code depends on it, but calls do
_pointer = types.CPointer(types.float64)

# ---- the peak

_CHAINS = 16  # more than the units times the latency of any present core
_LENGTH = 100_000


def _peak_loop(width: int) -> Callable:
    @intrinsic
    def chains(typing_context, count):
        def generate(context, builder, signature, values):
            number = ir.VectorType(ir.DoubleType(), width) if width > 1 else ir.DoubleType()

            def constant(value: float) -> ir.Constant:
                return ir.Constant(number, [value] * width if width > 1 else value)

            name = f"llvm.fma.v{width}f64" if width > 1 else "llvm.fma.f64"
            fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(number, [number] * 3), name)
            places = [cgutils.alloca_once_value(builder, constant(1.0 + k)) for k in range(_CHAINS)]
            with cgutils.for_range(builder, values[0]):
                for place in places:
                    term = builder.call(fma, [builder.load(place), constant(0.999), constant(0.001)])
                    builder.store(term, place)
            total = constant(0.0)
            for place in places:
                total = builder.fadd(total, builder.load(place))
            return builder.extract_element(total, ir.IntType(32)(0)) if width > 1 else total

        return types.float64(count), generate

    return numba.njit(lambda count: chains(count))


def peak_gflops(*, rounds: int) -> dict[int, float]:
    """Return the peak of one core in 1e9 operations a second, by numbers in a vector."""
    contestants = []
    for width in (1, 2, 4, 8):
        loop = _peak_loop(width)
        contestants.append(clock(str(width), lambda f=loop: f(_LENGTH), units=2 * width * _CHAINS * _LENGTH))
    return {int(width): 1e-9 / seconds for width, seconds in fastest(contestants, rounds=rounds).items()}


# ---- what is computed


def operations(function: Function) -> tuple[int, int]:
    """Return how many arithmetic operations a function makes, and how many calls of other functions."""
    code = program([root for array in function.outputs for root in array])
    flops = calls = 0
    for op, args, _ in code.instructions:
        exponent = code.instructions[args[1]][2] if op == "pow" else None
        if isinstance(exponent, float) and exponent.is_integer():
            power = int(abs(exponent))  # by repeated squaring
            flops += power.bit_length() + power.bit_count() - 2
        elif op in _ARITHMETIC:
            flops += 1
        elif op not in _FREE:
            calls += 1
    return flops, calls


def functions(problem: kb.Problem) -> dict[str, Function]:
    """Return the functions that are compiled for a problem, by name."""
    found: list[Function] = []

    def noted(functions: list[Function], *, is_optimized: bool = True) -> object:
        found.extend(functions)
        return machine_code(functions, is_optimized=is_optimized)

    native.machine_code = noted
    native_likelihood.compiled(likelihood(problem))
    native.machine_code = machine_code
    return {f.name: f for f in found}


def _sum_flops(width: int) -> int:
    a = sum(np.count_nonzero(tableau.A[s, : s - 1]) for s in range(2, 7)) + 2
    c = sum(np.count_nonzero(tableau.C[s, : s - 1]) for s in range(2, tableau.NUM_STAGES))
    return 2 * int(a + c) * width


# ---- what it takes


@numba.cfunc(types.void(types.int64, *[_pointer] * 7, types.int64))
def _repeat(address, a, b, c, d, e, f, g, count):
    # A C function leaves arguments alone that it does not have.
    for _ in range(count):
        intrinsics.call(address, (a, b, c, d, e, f, g))


@numba.cfunc(types.void(types.int64, *[_pointer] * 6, types.int64, types.int64))
def _repeat_stages(address, base, rhs, stages, coefficients, constants, factors, num, count):
    # As in a step, every stage waits for the one before.
    for _ in range(count):
        for s in range(1, tableau.NUM_STAGES):
            newest, out = intrinsics.plus(stages, (s - 1) * num), intrinsics.plus(stages, s * num)
            own = intrinsics.plus(coefficients, 2 * s)
            intrinsics.call(address, (base, rhs, newest, own, constants, factors, out))


@numba.cfunc(types.void(*[_pointer] * 5, types.int64, types.int64))
def _repeat_sums(y, base, rhs, k, method, num, count):
    for _ in range(count):
        for stage in range(2, tableau.NUM_STAGES + 1):
            intrinsics.stage_sums(stage, y, base, rhs, k, num, 1.0, method)


def _caller(packed: Numbers) -> Callable[..., Callable[[], None]]:
    """Return a function that returns loops: of a model's function, over arrays."""
    repeat = _from_python(_repeat, 1 + 7 + 1)

    def caller(index: int, *arrays: np.ndarray, count: int = _REPEATS) -> Callable[[], None]:
        pointers = [array.ctypes.data for array in arrays]
        filled = pointers + [pointers[-1]] * (7 - len(pointers))
        # The arrays stay alive as long as the loop.
        return lambda keep=arrays: repeat(int(packed.code[index]), *filled, count)

    return caller


def _from_python(function: object, num_words: int) -> Callable[..., None]:
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * num_words)(function.address)


def parts(problem: kb.Problem, peak: Mapping[int, float], *, rounds: int) -> list[dict[str, object]]:
    """Return the parts of a mean step at the nominal vector, and the whole step, one a row.

    Every problem must be small enough for straight-line code, so that stages come solved.
    """
    packed, u = numbers(problem), np.asarray(problem.nominal)
    sizes = packed.sizes
    if not sizes.is_solved:
        raise ValueError(f"{problem.name} is solved by loops; choose a problem with straight-line code")
    width = padded(sizes.states)
    full = lambda size: np.full(max(size, 1), _VALUE)  # noqa: E731
    y, f, constants, jacobian, factors = map(full, (width, width, sizes.constants, sizes.entries, sizes.factors))
    rhs, out, base, weights = (full(2 * width) for _ in range(4))
    stages, summed, row = full(8 * width), full(8 * width), full(sizes.columns)
    # The shift of a mean step: with one far off, solutions would be denormal numbers, which are slow.
    lanes = native.simulated(packed, u[None]).lanes
    steps = int(lanes.steps.sum())
    shift = np.array([steps / (tableau.GAMMA * lanes.time.sum())])
    coefficients = np.full((tableau.NUM_STAGES, 2), 1e-12)  # so states stay where calls like pow take their time
    arguments_ = full(sizes.arguments)
    caller, at = _caller(packed), {name: k for k, name in enumerate(Code._fields)}
    calls = {
        "linearize": (at["linearize"], y, constants, f, jacobian),
        "factor": (at["factor"], shift, jacobian, factors),
        "first solve": (at["solve"], f, factors, out),
        "check": (at["check"], shift, jacobian, f, out, weights, row),
    }
    for call in calls.values():  # once, in the order of a step: now the numbers fit together
        caller(*call, count=1)()
    if not all(np.isfinite(array).all() for array in (f, jacobian, factors, out)):
        raise ValueError(f"{problem.name}: the functions are not finite where all states are {_VALUE}")
    contestants = [clock(name, caller(*call), units=_REPEATS) for name, call in calls.items()]
    for k in range(sizes.observables):
        call = caller(NUM_CODE + k, y, constants, arguments_, row)
        contestants.append(clock(f"observe{k}", call, units=_REPEATS))
    sums, stage = _from_python(_repeat_sums, 7), _from_python(_repeat_stages, 9)
    pointers = [array.ctypes.data for array in (y, base, rhs, summed, METHOD)]
    contestants.append(clock("sums", lambda: sums(*pointers, width, _REPEATS), units=_REPEATS))
    arrays = (y, full(width), stages, coefficients, constants, factors)
    at_stage = [int(packed.code[at["stage"]]), *(array.ctypes.data for array in arrays)]
    contestants.append(clock("seven stages", lambda: stage(*at_stage, width, _REPEATS), units=_REPEATS))
    alone = bridges.host_log_likelihood(packed)
    contestants.append(clock("whole", lambda: alone(u)))
    seconds = fastest(contestants, rounds=rounds)

    code = functions(problem)
    names = [o.name for o in problem.observables]
    rows_of = np.bincount([names.index(m.observable) for m in problem.measurements], minlength=len(names))
    times = {
        **{name: seconds[name] for name in ("linearize", "factor", "first solve", "check")},
        "seven stages": seconds["seven stages"],
        "sums": seconds["sums"],
        "observables": sum(count * seconds[f"observe{k}"] for k, count in enumerate(rows_of)) / steps,
    }
    own = {"first solve": "solve", "seven stages": "stage"}
    work = {name: operations(code[own.get(name, name)]) for name in times if own.get(name, name) in code}
    work["seven stages"] = tuple(7 * count for count in work["seven stages"])
    work["sums"] = (_sum_flops(width), 0)
    observed = [operations(code[f"observe{k}"]) for k in range(len(rows_of))]
    work["observables"] = tuple(
        round(sum(count * part[j] for count, part in zip(rows_of, observed, strict=True)) / steps) for j in range(2)
    )
    whole = seconds["whole"] / steps
    times |= {"the rest": whole - sum(times.values()), "whole step": whole}
    work |= {"the rest": (0, 0), "whole step": tuple(sum(part[j] for part in work.values()) for j in range(2))}
    return [
        {
            "problem": short(problem.name),
            "part": name,
            "ns": 1e9 * taken,
            "share": taken / whole,
            "operations": work[name][0],
            "calls": work[name][1],
            "gflops": 1e-9 * work[name][0] / taken,
            "of_scalar_peak": 1e-9 * work[name][0] / taken / peak[1],
            "of_peak": 1e-9 * work[name][0] / taken / max(peak.values()),
            "steps": steps,
        }
        for name, taken in times.items()
    ]
