"""The expression graph: hash-consed nodes with exact derivatives and sparsity.

Equal expressions are one object, so common parts are shared wherever they occur, identity is equality, and every
pass over a graph visits a shared part once. Passes are loops, not recursions: depth is bounded by memory alone.
"""

import functools
import math
import operator
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Union

import numpy as np

Number = int | float
Operand = Union["Expr", Number]


class Expr:
    """A node: an operation on other nodes, a constant (`op == "const"`) or a symbol (`op == "symbol"`).

    Build nodes with `const`, `symbol`, `apply`, `where` and Python's arithmetic operators, never directly.
    """

    __slots__ = ("__weakref__", "_mask", "args", "op", "value")

    op: str
    args: tuple["Expr", ...]
    value: float | str | None
    _mask: int  # the set of symbols below this node, bit k for the k-th symbol ever named

    def __init__(self, op: str, args: tuple["Expr", ...], value: float | str | None) -> None:
        self.op = op
        self.args = args
        self.value = value
        mask = _bit(value) if op == "symbol" else 0
        for a in args:
            mask |= a._mask
        self._mask = mask

    @property
    def symbols(self) -> frozenset[str]:
        """The names that this expression depends on."""
        mask, names = self._mask, []
        while mask:
            low = mask & -mask
            names.append(_names[low.bit_length() - 1])
            mask ^= low
        return frozenset(names)

    def depends_on(self, name: str) -> bool:
        """Return whether the symbol `name` occurs in this expression."""
        return bool(self._mask & _bit(name))

    def __add__(self, other: Operand) -> "Expr":
        return apply("add", self, other)

    def __radd__(self, other: Operand) -> "Expr":
        return apply("add", other, self)

    def __sub__(self, other: Operand) -> "Expr":
        return apply("sub", self, other)

    def __rsub__(self, other: Operand) -> "Expr":
        return apply("sub", other, self)

    def __mul__(self, other: Operand) -> "Expr":
        return apply("mul", self, other)

    def __rmul__(self, other: Operand) -> "Expr":
        return apply("mul", other, self)

    def __truediv__(self, other: Operand) -> "Expr":
        return apply("div", self, other)

    def __rtruediv__(self, other: Operand) -> "Expr":
        return apply("div", other, self)

    def __pow__(self, other: Operand) -> "Expr":
        return apply("pow", self, other)

    def __rpow__(self, other: Operand) -> "Expr":
        return apply("pow", other, self)

    def __neg__(self) -> "Expr":
        return apply("neg", self)

    def __reduce__(self) -> tuple:
        raise TypeError("an expression is numbered anew in every process; pickle the model, which sees to that")

    def __repr__(self) -> str:
        text = _text(self)
        return text if len(text) <= 200 else text[:197] + "..."


_names: list[str] = []
_bits: dict[str, int] = {}
_interned: "weakref.WeakValueDictionary[tuple, Expr]" = weakref.WeakValueDictionary()


def _bit(name: str) -> int:
    if name not in _bits:
        _bits[name] = 1 << len(_names)
        _names.append(name)
    return _bits[name]


def _node(op: str, args: tuple[Expr, ...] = (), value: float | str | None = None) -> Expr:
    # The sign tells 0.0 from -0.0, the repr makes every NaN one constant.
    key = (op, *map(id, args), repr(value))
    node = _interned.get(key)
    if node is None:
        node = Expr(op, args, value)
        _interned[key] = node
    return node


def const(value: Number) -> Expr:
    """Return the node of a number."""
    return _node("const", (), float(value))


def symbol(name: str) -> Expr:
    """Return the node of a name."""
    return _node("symbol", (), name)


ZERO, ONE = const(0.0), const(1.0)
TIME = symbol("time")


class Operation(NamedTuple):
    """What an operation is: its NumPy function, and its partial derivatives as expressions of its arguments."""

    numpy: Callable
    partials: tuple[Callable[..., Expr], ...] = ()  # one an argument; none: the derivative is zero
    is_boolean: bool = False


def _safe_log(x: Expr) -> Expr:
    # In d(x**y)/dy = x**y log(x) the limit at x = 0 is 0 for every y > 0, so the logarithm is cut off there.
    return where(apply("gt", x, ZERO), apply("log", x), ZERO)


def _log_gamma(x: np.ndarray | np.float64) -> np.ndarray | np.float64:
    from scipy.special import gammaln

    return gammaln(x)


def _digamma(x: np.ndarray | np.float64) -> np.ndarray | np.float64:
    from scipy.special import digamma

    return digamma(x)


def _log_normal_cdf(x: np.ndarray | np.float64) -> np.ndarray | np.float64:
    from scipy.special import log_ndtr

    return log_ndtr(x)


def _erfcx(x: np.ndarray | np.float64) -> np.ndarray | np.float64:
    from scipy.special import erfcx

    return erfcx(x)


OPERATIONS: dict[str, Operation] = {
    "add": Operation(np.add, (lambda a, b: ONE, lambda a, b: ONE)),
    "sub": Operation(np.subtract, (lambda a, b: ONE, lambda a, b: const(-1.0))),
    "mul": Operation(np.multiply, (lambda a, b: b, lambda a, b: a)),
    "div": Operation(np.divide, (lambda a, b: 1 / b, lambda a, b: -(a / b) / b)),
    "pow": Operation(np.power, (lambda a, b: b * a ** (b - 1), lambda a, b: _safe_log(a) * a**b)),
    "neg": Operation(np.negative, (lambda a: const(-1.0),)),
    "abs": Operation(np.abs, (lambda a: apply("sign", a),)),
    "sign": Operation(np.sign),
    "floor": Operation(np.floor),
    "ceil": Operation(np.ceil),
    "sqrt": Operation(np.sqrt, (lambda a: 0.5 / apply("sqrt", a),)),
    "exp": Operation(np.exp, (lambda a: apply("exp", a),)),
    "log": Operation(np.log, (lambda a: 1 / a,)),
    "log10": Operation(np.log10, (lambda a: 1 / (a * math.log(10)),)),
    "sin": Operation(np.sin, (lambda a: apply("cos", a),)),
    "cos": Operation(np.cos, (lambda a: -apply("sin", a),)),
    "tan": Operation(np.tan, (lambda a: 1 + apply("tan", a) ** 2,)),
    "asin": Operation(np.arcsin, (lambda a: 1 / apply("sqrt", 1 - a * a),)),
    "acos": Operation(np.arccos, (lambda a: -1 / apply("sqrt", 1 - a * a),)),
    "atan": Operation(np.arctan, (lambda a: 1 / (1 + a * a),)),
    "sinh": Operation(np.sinh, (lambda a: apply("cosh", a),)),
    "cosh": Operation(np.cosh, (lambda a: apply("sinh", a),)),
    "tanh": Operation(np.tanh, (lambda a: 1 - apply("tanh", a) ** 2,)),
    "asinh": Operation(np.arcsinh, (lambda a: 1 / apply("sqrt", a * a + 1),)),
    "acosh": Operation(np.arccosh, (lambda a: 1 / apply("sqrt", a * a - 1),)),
    "atanh": Operation(np.arctanh, (lambda a: 1 / (1 - a * a),)),
    "log_gamma": Operation(_log_gamma, (lambda a: apply("digamma", a),)),
    "digamma": Operation(_digamma, (lambda a: _no_derivative("digamma"),)),
    # The normal density over the distribution function, without their quotient: both vanish far below 0.
    "log_normal_cdf": Operation(
        _log_normal_cdf, (lambda a: math.sqrt(2 / math.pi) / apply("erfcx", -math.sqrt(0.5) * a),)
    ),
    "erfcx": Operation(_erfcx, (lambda a: 2 * a * apply("erfcx", a) - 2 / math.sqrt(math.pi),)),
    "min": Operation(
        np.minimum,
        (lambda a, b: where(apply("le", a, b), 1, 0), lambda a, b: where(apply("le", a, b), 0, 1)),
    ),
    "max": Operation(
        np.maximum,
        (lambda a, b: where(apply("ge", a, b), 1, 0), lambda a, b: where(apply("ge", a, b), 0, 1)),
    ),
    "lt": Operation(np.less, is_boolean=True),
    "le": Operation(np.less_equal, is_boolean=True),
    "gt": Operation(np.greater, is_boolean=True),
    "ge": Operation(np.greater_equal, is_boolean=True),
    "eq": Operation(np.equal, is_boolean=True),
    "ne": Operation(np.not_equal, is_boolean=True),
    "and": Operation(np.logical_and, is_boolean=True),
    "or": Operation(np.logical_or, is_boolean=True),
    "not": Operation(np.logical_not, is_boolean=True),
    "where": Operation(np.where),  # its derivative keeps the condition: see `derivative`
}


_BOOLEANS = frozenset(op for op, operation in OPERATIONS.items() if operation.is_boolean)
_COMMUTATIVE = frozenset(("add", "mul", "min", "max", "eq", "ne", "and", "or"))


def _no_derivative(name: str) -> Expr:
    raise ValueError(f"the derivative of {name} is not available; state the expression without it")


def is_boolean(node: Expr) -> bool:
    """Return whether an expression is a truth value, not a number."""
    return node.op in _BOOLEANS


def _as_number(value: Operand) -> Expr:
    node = value if isinstance(value, Expr) else const(value)
    return _node("where", (node, ONE, ZERO)) if node.op in _BOOLEANS else node


def _as_boolean(value: Operand) -> Expr:
    node = value if isinstance(value, Expr) else const(value)
    return node if is_boolean(node) else apply("ne", node, ZERO)


def apply(op: str, *args: Operand) -> Expr:
    """Return the node of `op` on `args`, in its simplest exact form.

    Constants are folded and the neutral and absorbing elements 0 and 1 removed. Truth values become 1 and 0 where
    a number is expected, and a number is true where it is not 0.
    """
    if op in ("and", "or", "not"):
        nodes = tuple(_as_boolean(a) for a in args)
    elif op == "where":
        return where(*args)
    else:
        nodes = tuple([_as_number(a) for a in args])
    for node in nodes:
        if node.op != "const" or op in _BOOLEANS:
            return _simplified(op, nodes)
    with np.errstate(all="ignore"):
        return const(float(OPERATIONS[op].numpy(*(np.float64(a.value) for a in nodes))))


def where(condition: Operand, if_true: Operand, if_false: Operand) -> Expr:
    """Return the node that is `if_true` where `condition` holds, else `if_false`."""
    condition, if_true, if_false = _as_boolean(condition), _as_number(if_true), _as_number(if_false)
    if if_true is if_false:
        return if_true
    if not condition._mask:
        return if_true if evaluate([condition], {})[0] else if_false
    return _node("where", (condition, if_true, if_false))


def _simplified(op: str, nodes: tuple[Expr, ...]) -> Expr:
    first, last = nodes[0], nodes[-1]
    match op:
        case "add":
            if first is ZERO:
                return last
            if last is ZERO:
                return first
            if last.op == "neg":
                return apply("sub", first, last.args[0])
        case "sub":
            if last is ZERO:
                return first
            if first is ZERO:
                return apply("neg", last)
            if first is last:
                return ZERO
            if last.op == "neg":
                return apply("add", first, last.args[0])
        case "mul":
            if first is ZERO or last is ZERO:
                return ZERO
            if first is ONE:
                return last
            if last is ONE:
                return first
            if first.op == "const" and first.value == -1.0:
                return apply("neg", last)
            if last.op == "const" and last.value == -1.0:
                return apply("neg", first)
        case "div":
            if first is ZERO:
                return ZERO
            if last is ONE:
                return first
        case "pow":
            if last is ZERO or first is ONE:
                return ONE
            if last is ONE:
                return first
            if last.op == "const" and last.value == 2.0:
                return apply("mul", first, first)
        case "neg":
            if first.op == "neg":
                return first.args[0]
    if op in _COMMUTATIVE:
        swapped = _interned.get((op, id(last), id(first), "None"))
        if swapped is not None:
            return swapped
    return _node(op, nodes)


def postorder(roots: Iterable[Expr]) -> list[Expr]:
    """Return every node below `roots` once, arguments before the operations on them."""
    return _postorder(roots, None)


def restored(instructions: Iterable[tuple[str, Sequence[int], float | str | None]]) -> list[Expr]:
    """Return the nodes of a program's instructions, by register: as they were, nothing is simplified again."""
    nodes: list[Expr] = []
    for op, arguments, value in instructions:
        nodes.append(_node(op, tuple(nodes[a] for a in arguments), value))
    return nodes


def _postorder(roots: Iterable[Expr], mask: int | None) -> list[Expr]:
    """Return the nodes that depend on a symbol of a set, or all, as `postorder` does."""
    order: dict[Expr, None] = {}
    stack = [(root, False) for root in reversed(list(roots)) if mask is None or root._mask & mask]
    while stack:
        node, is_open = stack.pop()
        if node in order:
            continue
        if is_open or not node.args:
            order[node] = None
        else:
            stack.append((node, True))
            open_ = (a for a in reversed(node.args) if a not in order and (mask is None or a._mask & mask))
            stack.extend((a, False) for a in open_)
    return list(order)


def evaluate(roots: Sequence[Expr], values: Mapping[str, object]) -> list:
    """Return the values of `roots` with NumPy, numbers or arrays, for tests and one-off evaluations.

    Raises
    ------
    KeyError
        If a symbol has no value.
    """
    done: dict[Expr, object] = {}
    with np.errstate(all="ignore"):
        for node in postorder(roots):
            if node.op == "const":
                done[node] = np.float64(node.value)
            elif node.op == "symbol":
                done[node] = np.asarray(values[node.value], dtype=float)[()]
            else:
                done[node] = OPERATIONS[node.op].numpy(*(done[a] for a in node.args))
    return [done[root] for root in roots]


def substitute(roots: Sequence[Expr], replacements: Mapping[str, Expr]) -> list[Expr]:
    """Return `roots` with symbols replaced, all at once (a replacement is not searched again)."""
    mask = functools.reduce(operator.or_, map(_bit, replacements), 0)
    done: dict[Expr, Expr] = {}
    for node in _postorder(roots, mask):
        if node.op == "symbol":
            done[node] = replacements[node.value]
        else:
            done[node] = apply(node.op, *(done.get(a, a) for a in node.args))
    return [done.get(root, root) for root in roots]


def derivatives(roots: Sequence[Expr], name: str) -> list[Expr]:
    """Return the exact partial derivatives of `roots` with respect to the symbol `name`."""
    return directional_derivatives(roots, {name: ONE})


def directional_derivatives(roots: Sequence[Expr], direction: Mapping[str, Expr]) -> list[Expr]:
    """Return the exact derivatives of `roots` along a direction: symbol -> its component; other symbols stay."""
    mask = functools.reduce(operator.or_, map(_bit, direction), 0)
    done: dict[Expr, Expr] = {}
    for node in _postorder(roots, mask):
        if is_boolean(node):
            continue
        if node.op == "symbol":
            done[node] = direction[node.value]
        elif node.op == "where":
            condition, if_true, if_false = node.args
            done[node] = where(condition, done.get(if_true, ZERO), done.get(if_false, ZERO))
        else:
            terms = [(p, done.get(a, ZERO)) for p, a in zip(OPERATIONS[node.op].partials, node.args, strict=False)]
            done[node] = sum((p(*node.args) * slope for p, slope in terms if slope is not ZERO), start=ZERO)
    return [done.get(root, ZERO) for root in roots]


def lift_constants(roots: Sequence[Expr], varying: Iterable[str], prefix: str) -> tuple[list[Expr], dict[str, Expr]]:
    """Return `roots` with what does not depend on the symbols `varying` computed beforehand.

    Division by such a part becomes multiplication by its inverse.

    Returns
    -------
    roots
        The roots, in the old symbols and in new ones, `prefix` and a number.
    parts
        New symbol -> the expression it stands for, in the old symbols.
    """
    mask = functools.reduce(operator.or_, map(_bit, varying), 0)
    names: dict[Expr, Expr] = {}

    def lifted(node: Expr) -> Expr:
        if node._mask & mask or not node.args or is_boolean(node):
            return done.get(node, node)
        if node not in names:
            names[node] = symbol(f"{prefix}{len(names)}")
        return names[node]

    done: dict[Expr, Expr] = {}
    for node in postorder(roots):
        if node._mask & mask:
            args = node.args
            if node.op == "div" and not args[1]._mask & mask:
                done[node] = apply("mul", lifted(args[0]), lifted(1 / args[1]))
            elif args:
                done[node] = apply(node.op, *map(lifted, args))
    return [lifted(root) for root in roots], {e.value: part for part, e in names.items()}


class SparseJacobian(NamedTuple):
    """The entries of a Jacobian that are not identically zero, by rows."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    entries: tuple[Expr, ...]


def jacobian(roots: Sequence[Expr], names: Sequence[str]) -> SparseJacobian:
    """Return the sparse Jacobian of `roots` with respect to the symbols `names`."""
    found: list[tuple[int, int, Expr]] = []
    for column, name in enumerate(names):
        rows = [row for row, root in enumerate(roots) if root.depends_on(name)]
        entries = derivatives([roots[row] for row in rows], name)
        found.extend((row, column, e) for row, e in zip(rows, entries, strict=True) if e is not ZERO)
    found.sort(key=lambda entry: entry[:2])
    return SparseJacobian(*(tuple(part) for part in zip(*found, strict=True))) if found else SparseJacobian((), (), ())


_LONGEST_TEXT = 10_000
_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "pow": "^",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "eq": "==",
    "ne": "!=",
    "and": "&&",
    "or": "||",
}


def _text(root: Expr) -> str:
    """Return an expression as text; long parts of it, which with what they share may be endless, are left out."""
    done: dict[Expr, str] = {}
    for node in postorder([root]):
        parts = [done[a] for a in node.args]
        if node.op == "const":
            done[node] = f"{node.value:.17g}"
        elif node.op == "symbol":
            done[node] = str(node.value)
        elif node.op in _INFIX:
            done[node] = f"({parts[0]} {_INFIX[node.op]} {parts[1]})"
        elif node.op == "neg":
            done[node] = f"(-{parts[0]})"
        else:
            done[node] = f"{node.op}({', '.join(parts)})"
        if len(done[node]) > _LONGEST_TEXT:
            done[node] = "(...)"
    return done[root]
