"""From expressions to functions: one program of numbered instructions, run by JAX while it traces."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, ArrayLike

from kinbayes.model.expressions import Expr, postorder
from kinbayes.model.normal_tail import erfcx, log_normal_cdf


class Program(NamedTuple):
    """Expressions as straight-line code: register k holds the result of instruction k."""

    instructions: tuple[tuple[str, tuple[int, ...], float | str | None], ...]
    outputs: tuple[int, ...]


def program(roots: Sequence[Expr]) -> Program:
    """Return the program that computes `roots`, every common part once."""
    nodes = postorder(roots)
    register = {node: k for k, node in enumerate(nodes)}
    instructions = tuple((n.op, tuple(register[a] for a in n.args), n.value) for n in nodes)
    return Program(instructions, tuple(register[root] for root in roots))


_JAX: dict[str, Callable] = {
    "add": jnp.add,
    "sub": jnp.subtract,
    "mul": jnp.multiply,
    "div": jnp.divide,
    "pow": jnp.power,
    "neg": jnp.negative,
    "abs": jnp.abs,
    "sign": jnp.sign,
    "floor": jnp.floor,
    "ceil": jnp.ceil,
    "sqrt": jnp.sqrt,
    "exp": jnp.exp,
    "log": jnp.log,
    "log10": jnp.log10,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "tan": jnp.tan,
    "asin": jnp.arcsin,
    "acos": jnp.arccos,
    "atan": jnp.arctan,
    "sinh": jnp.sinh,
    "cosh": jnp.cosh,
    "tanh": jnp.tanh,
    "asinh": jnp.arcsinh,
    "acosh": jnp.arccosh,
    "atanh": jnp.arctanh,
    "log_gamma": gammaln,
    "digamma": digamma,
    "log_normal_cdf": log_normal_cdf,
    "erfcx": erfcx,
    "min": jnp.minimum,
    "max": jnp.maximum,
    "lt": jnp.less,
    "le": jnp.less_equal,
    "gt": jnp.greater,
    "ge": jnp.greater_equal,
    "eq": jnp.equal,
    "ne": jnp.not_equal,
    "and": jnp.logical_and,
    "or": jnp.logical_or,
    "not": jnp.logical_not,
    "where": jnp.where,
}


def to_jax(roots: Sequence[Expr], names: Sequence[str]) -> Callable[..., list[Array]]:
    """Return a JAX function of one array (or number) a name, that returns one array a root.

    Arrays broadcast against each other, so the function also serves whole batches.

    Raises
    ------
    ValueError
        If a root uses a symbol that is not among `names`.
    """
    unknown = sorted({s for root in roots for s in root.symbols} - set(names))
    if unknown:
        raise ValueError(f"expressions use {unknown}, but the function's arguments are {list(names)}")
    code = program(roots)
    position = {name: k for k, name in enumerate(names)}

    def compiled(*values: ArrayLike) -> list[Array]:
        registers: list = []
        for op, args, value in code.instructions:
            if op == "const":
                registers.append(value)
            elif op == "symbol":
                registers.append(values[position[value]])
            else:
                registers.append(_JAX[op](*(registers[a] for a in args)))
        return [jnp.asarray(registers[k], dtype=jnp.float64) for k in code.outputs]

    return compiled
