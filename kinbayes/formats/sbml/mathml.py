"""Expressions as MathML: the inverse of reading it.

The text is made here and not by libsbml, which prints numbers with 15 digits: these read back as other numbers.
"""

import collections
import decimal
import math
from collections.abc import Iterable, Mapping
from xml.sax.saxutils import escape

from kinbayes.model.expressions import ONE, TIME, Expr, is_boolean

_TIME = '<csymbol encoding="text" definitionURL="http://www.sbml.org/sbml/symbols/time"> time </csymbol>'  # L3V2, 3.4.6
_ELEMENTS = {
    "div": "divide",
    "pow": "power",
    "neg": "minus",
    "sub": "minus",
    "abs": "abs",
    "floor": "floor",
    "ceil": "ceiling",
    "sqrt": "root",
    "exp": "exp",
    "log": "ln",
    **{name: name for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{f"a{name}": f"arc{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "lt": "lt",
    "le": "leq",
    "gt": "gt",
    "ge": "geq",
    "eq": "eq",
    "ne": "neq",
    "not": "not",
}
_CHAINS = {"mul": "times", "and": "and", "or": "or", "min": "min", "max": "max"}
_SUMS = ("add", "sub")

# What a formula may cost more than its graph before its common parts get names, and from what size on.
_MOST_COPIES, _SMALLEST = 4, 12
# Readers recurse over the tree: ours ends at 1,000 open elements, an operation opens at most three.
_DEEPEST = 150
_LONGEST = 1000  # operands; our reader takes five times as many


class UnwritableError(ValueError):
    """A model or an expression that SBML has no way to say."""


def mathml(root: Expr, names: Mapping[Expr, str], *, is_definition: bool = False) -> str:
    """Return the `math` element of an expression.

    Parameters
    ----------
    root
        The expression.
    names
        What is written for an expression: the id of every symbol, and names of common parts.
    is_definition
        Whether it is written out although it has a name.

    Raises
    ------
    UnwritableError
        If there are no words for it.
    """
    texts: list[str] = []
    stack: list[str | Expr] = list(reversed(_pieces(root, names))) if is_definition else [root]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            texts.append(item)
        elif item in names:
            texts.append(f"<ci> {escape(names[item])} </ci>")
        else:
            stack.extend(reversed(_pieces(item, names)))
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML">{"".join(texts)}</math>'


def number(value: float) -> str:
    """Return the shortest decimal number without exponent that reads back as the same one."""
    return format(decimal.Decimal(repr(value)), "f").removesuffix(".0")


def _constant(value: float) -> str:
    if math.isnan(value):
        return "<notanumber/>"
    if math.isinf(value):
        return "<infinity/>" if value > 0 else "<apply><minus/><infinity/></apply>"
    return f"<cn> {number(value)} </cn>"


def _pieces(node: Expr, names: Mapping[Expr, str]) -> list[str | Expr]:
    """Return the text of a node, with expressions where its arguments go."""
    op, args = node.op, node.args
    if op == "const":
        return [_constant(node.value)]
    if op == "symbol":
        return [_TIME] if node is TIME else [f"<ci> {escape(names[node])} </ci>"]
    if op in _SUMS and (op == "add" or args[0].op in _SUMS):
        terms = _terms(node, names)
        signed = [["<apply><minus/>", t, "</apply>"] if is_subtracted else [t] for t, is_subtracted in terms]
        return ["<apply><plus/>", *(piece for term in signed for piece in term), "</apply>"]
    if _is_square(node):
        return ["<apply><power/>", args[0], "<cn> 2 </cn></apply>"]
    if op in _CHAINS:
        return [f"<apply><{_CHAINS[op]}/>", *_factors(node, names), "</apply>"]
    if _is_factorial(node, names):
        return ["<apply><factorial/>", args[0].args[0].args[0], "</apply>"]
    if op in _ELEMENTS:
        return [f"<apply><{_ELEMENTS[op]}/>", *args, "</apply>"]
    if op == "log10":
        return ["<apply><log/><logbase><cn> 10 </cn></logbase>", *args, "</apply>"]
    if op == "where":
        return _piecewise(node, names)
    if op == "sign":  # of 0 and of no number it is that itself
        minus = ["<piece><cn> -1 </cn><apply><lt/>", *args, "<cn> 0 </cn></apply></piece>"]
        plus = ["<piece><cn> 1 </cn><apply><gt/>", *args, "<cn> 0 </cn></apply></piece>"]
        return ["<piecewise>", *minus, *plus, "<otherwise>", *args, "</otherwise></piecewise>"]
    if op == "log_gamma":  # log((x - 1)!)
        return ["<apply><ln/><apply><factorial/><apply><minus/>", *args, "<cn> 1 </cn></apply></apply></apply>"]
    raise UnwritableError(f"SBML has no function for {op!r}")


def _is_square(node: Expr) -> bool:
    return node.op == "mul" and node.args[0] is node.args[1] and bool(node.args[0].args)


def _is_factorial(node: Expr, names: Mapping[Expr, str]) -> bool:
    """Return whether a node is exp(log_gamma(n + 1)), which is what n! is read as."""
    gamma = node.args[0]
    if node.op != "exp" or gamma.op != "log_gamma" or gamma in names:
        return False
    return gamma.args[0].op == "add" and gamma.args[0].args[1] is ONE


def _terms(node: Expr, names: Mapping[Expr, str]) -> list[tuple[Expr, bool]]:
    """Return the terms of a sum in their order, and whether each is subtracted."""
    terms = []
    while True:
        left, right = node.args
        terms.append((right, node.op == "sub"))
        if left.op not in _SUMS or left in names or len(terms) == _LONGEST:
            return [(left, False), *reversed(terms)]
        node = left


def _factors(node: Expr, names: Mapping[Expr, str]) -> list[Expr]:
    """Return the arguments of a chain of one operation, in their order."""
    op, factors = node.op, []
    while True:
        left, right = node.args
        factors.append(right)
        if left.op != op or left in names or _is_square(left) or len(factors) == _LONGEST:
            return [left, *reversed(factors)]
        node = left


def _piecewise(node: Expr, names: Mapping[Expr, str]) -> list[str | Expr]:
    pieces: list[str | Expr] = ["<piecewise>"]
    while True:
        condition, if_true, if_false = node.args
        pieces += ["<piece>", if_true, condition, "</piece>"]
        if if_false.op != "where" or if_false in names or len(pieces) > _LONGEST:
            return [*pieces, "<otherwise>", if_false, "</otherwise></piecewise>"]
        node = if_false


def common_parts(roots: Iterable[Expr], names: Mapping[Expr, str]) -> list[Expr]:
    """Return the parts of expressions that should have names of their own, each after the parts that it uses.

    These are the parts that occur more than once, where the expressions are several times longer written out than
    as a graph, and parts that are nested deep.

    Parameters
    ----------
    roots
        The expressions, which are written out whether they have names or not.
    names
        What has a name already.
    """
    roots = list(roots)
    order = _written(roots, names)
    uses = collections.Counter(a for node in order for a in set(node.args))
    lengths: dict[Expr, int] = {}
    for node in order:
        lengths[node] = 1 + sum(1 if a in names else lengths[a] for a in node.args)
    is_long = sum(lengths[root] for root in roots) > _MOST_COPIES * len(order)
    parts: dict[Expr, None] = {}
    depths: dict[Expr, int] = {}
    for node in order:
        inner = [a for a in node.args if a not in names and a not in parts]
        lengths[node] = 1 + len(node.args) - len(inner) + sum(lengths[a] for a in inner)
        depths[node] = max((depths[a] + (not _continues(node, a)) for a in inner), default=0)
        is_common = is_long and uses[node] > 1 and lengths[node] >= _SMALLEST
        if (is_common or depths[node] > _DEEPEST) and node not in names and not is_boolean(node):
            parts[node] = None
    return list(parts)


def _continues(node: Expr, argument: Expr) -> bool:
    """Return whether an argument is written beside the others and not inside."""
    if node.op == "where":
        return argument is node.args[2] and argument.op == "where"
    is_same = argument.op == node.op in _CHAINS or (argument.op in _SUMS and node.op in _SUMS)
    return is_same and argument is node.args[0]


def _written(roots: Iterable[Expr], names: Mapping[Expr, str]) -> list[Expr]:
    """Return every node that is written out, once, arguments first."""
    order: dict[Expr, None] = {}
    stack = [(root, False) for root in roots]
    while stack:
        node, is_open = stack.pop()
        if is_open:
            order[node] = None
        elif node not in order:
            stack.append((node, True))
            stack.extend((a, False) for a in node.args if a not in order and a not in names)
    return list(order)
