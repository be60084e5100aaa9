"""Formulas as PEtab writes them, which knows fewer functions and constants than SBML's own formula text."""

import math
import re
from collections.abc import Iterator, Mapping

from kinbayes.model.expressions import Expr, postorder
from kinbayes.model.formula import CONSTANTS, parse

_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*")
_CALL = re.compile(r"(?<![\w.])([A-Za-z_]\w*)\s*\(")
_NUMBERS = CONSTANTS - {"true", "false", "inf"}  # words that PEtab reads as names, or not at all
_PLAIN = ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp", "log", "log10", "sqrt", "abs", "sign")
_INVERSE = {f"a{name}": f"arc{name}" for name in _PLAIN[:6]}
_FUNCTIONS = {**{name: name for name in _PLAIN}, **_INVERSE, "min": "min", "max": "max"}
_OPERATORS = {
    **{"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "^"},
    **{"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=", "and": "&&", "or": "||"},
}
_UNARY = frozenset((*_PLAIN, *_INVERSE.values(), "ln", "log2"))
_BINARY = frozenset(("pow", "min", "max", "log"))


class InexpressibleError(ValueError):
    """What PEtab, or one version of it, has no way to say."""


def petab_formula(text: str) -> str:
    """Return a formula for PEtab: the text itself where PEtab reads it alike, else the same written anew.

    Raises
    ------
    InexpressibleError
        If PEtab has no words for it.
    """
    if _is_petab(text):
        return text.strip()
    try:
        return expression_text(parse(text))
    except InexpressibleError as error:
        raise InexpressibleError(f"formula {text!r}: {error}") from error


def _is_petab(text: str) -> bool:
    is_plain = "%" not in text and not any(name in _NUMBERS for name in _NAME.findall(text))
    return is_plain and all(_is_known(name, count) for name, count in _calls(text))


def _is_known(function: str, num_arguments: int) -> bool:
    if function == "piecewise":
        return num_arguments % 2 == 1
    return (function in _UNARY and num_arguments == 1) or (function in _BINARY and num_arguments == 2)


def _calls(text: str) -> Iterator[tuple[str, int]]:
    """Return every function that a text calls, and how many arguments it gets."""
    for call in _CALL.finditer(text):
        depth, commas = 1, 0
        for character in text[call.end() :]:
            depth += (character == "(") - (character == ")")
            if not depth:
                break
            commas += depth == 1 and character == ","
        yield call[1], commas + 1


def expression_text(root: Expr) -> str:
    """Return the formula of an expression.

    Raises
    ------
    InexpressibleError
        If PEtab has no words for it.
    """
    done: dict[Expr, str] = {}
    for node in postorder([root]):
        done[node] = _text(node, [done[a] for a in node.args])
    return done[root]


def _text(node: Expr, parts: list[str]) -> str:
    if node.op == "symbol":
        return node.value
    if node.op == "const":
        if math.isnan(node.value):
            raise InexpressibleError("PEtab has no word for what is no number")
        return repr(node.value) if node.value >= 0 else f"({node.value!r})"
    if node.op in _OPERATORS:
        return f"({parts[0]} {_OPERATORS[node.op]} {parts[1]})"
    if node.op in _FUNCTIONS:
        return f"{_FUNCTIONS[node.op]}({', '.join(parts)})"
    if node.op in ("neg", "not"):
        return f"({'-' if node.op == 'neg' else '!'}{parts[0]})"
    if node.op == "where":
        condition, if_true, if_false = parts
        return f"piecewise({if_true}, {condition}, {if_false})"
    raise InexpressibleError(f"PEtab has no word for {node.op!r}")


def renamed(text: str, names: Mapping[str, str]) -> str:
    """Return a formula with other names in it."""
    return _NAME.sub(lambda found: names.get(found[0], found[0]), text)


def names_in(text: str) -> list[str]:
    """Return the words of a formula: names, functions among them."""
    return _NAME.findall(text)
