"""Exponential, logarithm and power of vectors, in LLVM IR: the C library has them for one number at a time.

They are for derivatives: an exponential and a logarithm are right to 1.5 units in the last place, and a power x**n to
1.5 + 2 |n log x| of them. Where a number of the vector is not of the ordinary kind (0, negative, infinite, NaN, or
with a result near the limits of the format) the C library does the whole vector, so these cases are what they always
are.
"""

import functools
import math

from llvmlite import ir

WIDTH = 8
_REAL, _WORD = ir.DoubleType(), ir.IntType(64)
_VECTOR, _WORDS = ir.VectorType(_REAL, WIDTH), ir.VectorType(_WORD, WIDTH)
_FAST = ("contract",)
_LARGEST_EXPONENT = 700.0  # exp of it is still an ordinary number, and so is that of its negative
_SMALLEST, _LARGEST = 2.0**-1000, 2.0**1000
_LN2_HIGH = math.ldexp(round(math.ldexp(math.log(2.0), 32)), -32)  # its products with exponents are exact
_LN2_LOW = 1.908214929270587700e-10 - (_LN2_HIGH - 6.93147180369123816490e-01)
NAMES = ("exp", "log", "pow")


def _spread(value: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [value] * WIDTH)


def _words(value: int) -> ir.Constant:
    return ir.Constant(_WORDS, [value] * WIDTH)


class _Maths:
    """Writes formulas."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def fused(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """Return a b + c."""
        return self.builder.fadd(self.builder.fmul(a, b, flags=_FAST), c, flags=_FAST)

    def polynomial(self, x: ir.Value, coefficients: list[float]) -> ir.Value:
        """Return the sum of coefficients times ascending powers of x."""
        total = _spread(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            total = self.fused(total, x, _spread(coefficient))
        return total

    def exp(self, x: ir.Value) -> ir.Value:
        """Return 2**k exp(r) with r = x - k log 2 as small as possible, by the series of exp(r)."""
        builder = self.builder
        # Added to a number this large, another loses its fraction: what is left is whole.
        shift = _spread(1.5 * 2.0**52)
        shifted = self.fused(x, _spread(1.0 / math.log(2.0)), shift)
        k = builder.fsub(shifted, shift)
        r = self.fused(k, _spread(-_LN2_LOW), self.fused(k, _spread(-_LN2_HIGH), x))
        series = self.polynomial(r, [1.0 / math.factorial(n) for n in range(14)])
        power = builder.shl(builder.bitcast(shifted, _WORDS), _words(52))
        return builder.bitcast(builder.add(builder.bitcast(series, _WORDS), power), _VECTOR)

    def log(self, x: ir.Value) -> ir.Value:
        """Return e log 2 + log m with x = m 2**e, m around 1, by the series of the inverse hyperbolic tangent."""
        builder = self.builder
        bits = builder.bitcast(x, _WORDS)
        # From the bits of the square root of 1/2 on: so m lies between that and its double.
        above = builder.sub(bits, _words(0x3FE6A09E667F3BCD))
        exponent = builder.ashr(above, _words(52))
        m = builder.bitcast(builder.sub(bits, builder.shl(exponent, _words(52))), _VECTOR)
        e = builder.sitofp(exponent, _VECTOR)
        f = builder.fsub(m, _spread(1.0))
        s = builder.fdiv(f, builder.fadd(_spread(2.0), f))
        z = builder.fmul(s, s)
        tail = builder.fmul(z, self.polynomial(z, [2.0 / (2 * n + 3) for n in range(11)]))
        # log m = 2 s + s tail = f - s (f - tail): the rest beside f is small
        small = builder.fmul(s, builder.fsub(f, tail))
        rest = self.fused(e, _spread(_LN2_LOW), builder.fneg(small))
        return self.fused(e, _spread(_LN2_HIGH), builder.fadd(f, rest))


def _lies_between(builder: ir.IRBuilder, x: ir.Value, low: float, high: float) -> ir.Value:
    above = builder.fcmp_ordered(">", x, _spread(low))
    return builder.and_(above, builder.fcmp_ordered("<", x, _spread(high)))


@functools.cache
def definition(name: str) -> str:
    """Return the definition of a function of vectors, `kinbayes.exp`, `kinbayes.log` or `kinbayes.pow`.

    It calls that of one number, `llvm.exp.f64` and so on, which the module has to declare.
    """
    module = ir.Module()
    count = 2 if name == "pow" else 1
    function = ir.Function(module, ir.FunctionType(_VECTOR, [_VECTOR] * count), f"kinbayes.{name}")
    function.linkage = "internal"
    plain = ir.Function(module, ir.FunctionType(_REAL, [_REAL] * count), f"llvm.{name}.f64")
    builder = ir.IRBuilder(function.append_basic_block())
    maths, x = _Maths(builder), function.args[0]
    if name == "exp":
        is_ordinary = _lies_between(builder, x, -_LARGEST_EXPONENT, _LARGEST_EXPONENT)
    else:
        is_ordinary = _lies_between(builder, x, _SMALLEST, _LARGEST)
    if name == "pow":
        exponent = builder.fmul(function.args[1], maths.log(x))
        is_small = _lies_between(builder, exponent, -_LARGEST_EXPONENT, _LARGEST_EXPONENT)
        is_ordinary = builder.and_(is_ordinary, is_small)
    bits = builder.bitcast(is_ordinary, ir.IntType(WIDTH))
    everywhere = builder.icmp_unsigned("==", bits, ir.Constant(ir.IntType(WIDTH), 2**WIDTH - 1))
    with builder.if_then(everywhere):
        builder.ret(maths.log(x) if name == "log" else maths.exp(exponent if name == "pow" else x))
    result = ir.Constant(_VECTOR, ir.Undefined)
    for k in range(WIDTH):
        parts = [builder.extract_element(a, ir.IntType(32)(k)) for a in function.args]
        result = builder.insert_element(result, builder.call(plain, parts), ir.IntType(32)(k))
    builder.ret(result)
    return str(function)
