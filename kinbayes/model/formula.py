"""From libsbml's syntax trees, and from formula text through libsbml's parser, to expressions.

Nothing is evaluated: a tree is walked node by node, and what has no meaning here is refused by name.
"""

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping

import libsbml

from kinbayes.model.expressions import TIME, ZERO, Expr, apply, const, postorder, substitute, symbol, where

# User-defined: name -> (argument names, body), or what makes an expression of the arguments.
Functions = Mapping[str, tuple[tuple[str, ...], Expr] | Callable[..., Expr]]

# What formula text reads as numbers; SBML may give these names to quantities.
CONSTANTS = frozenset(("exponentiale", "false", "inf", "infinity", "nan", "notanumber", "pi", "true"))

RATE_OF = "rate of "  # a symbol of this prefix stands for the time derivative of the name that follows

# CODATA 2006, the value that SBML Level 3 fixes (section 3.4.6 of its specification).
_AVOGADRO = 6.02214179e23


# libsbml keeps the arguments of an operator in a chain that is walked for every one of them, so time grows with their
# square. The curated BioModels stay below 200.
MOST_ARGUMENTS = 5000

# libsbml's parser recurses: a formula of 400,000 characters ended the process. Those of the PEtab collection have less
# than 1000.
_LONGEST = 100_000
_SHOWN = 200  # characters that messages quote
_REPEATED = "' at "  # what ends libsbml's own quotation of the text


class FormulaError(ValueError):
    """A formula that cannot be read."""


class UnsupportedFormulaError(FormulaError):
    """A formula that uses what is not supported."""


def rate_of(quantity: Expr) -> Expr:
    """Return the symbol of the time derivative of a symbol; a number has the derivative 0.

    Raises
    ------
    UnsupportedFormulaError
        If the quantity is neither: what it depends on is not known here.
    """
    if quantity.op == "const":
        return ZERO
    if quantity.op != "symbol" or quantity is TIME:
        # With its common parts written out, an expression may be longer than the memory.
        what = str(quantity) if len(postorder([quantity])) <= 20 else "a long expression"
        raise UnsupportedFormulaError(f"rateOf of {what} is not supported in a formula, only that of a name")
    return symbol(RATE_OF + quantity.value)


def _chain(op: str) -> Callable[..., Expr]:
    def relation(*args: Expr) -> Expr:
        pairs = [apply(op, a, b) for a, b in itertools.pairwise(args)]
        return functools.reduce(lambda a, b: apply("and", a, b), pairs)

    return relation


def _fold(op: str, neutral: float) -> Callable[..., Expr]:
    return lambda *args: functools.reduce(lambda a, b: apply(op, a, b), args) if args else const(neutral)


def _minus(a: Expr, b: Expr | None = None) -> Expr:
    return -a if b is None else a - b


def _piecewise(*args: Expr) -> Expr:
    pairs, rest = args[: len(args) // 2 * 2], args[len(args) // 2 * 2 :]
    result = rest[0] if rest else const(math.nan)
    for value, condition in reversed(list(zip(pairs[::2], pairs[1::2], strict=True))):
        result = where(condition, value, result)
    return result


def _root(*args: Expr) -> Expr:
    degree, x = args if len(args) == 2 else (const(2.0), *args)
    return apply("sqrt", x) if degree is const(2.0) else x ** (1 / degree)


def _log(*args: Expr) -> Expr:
    base, x = args if len(args) == 2 else (const(10.0), *args)
    return apply("log10", x) if base is const(10.0) else apply("log", x) / apply("log", base)


def _exclusive(*args: Expr) -> Expr:
    return functools.reduce(lambda a, b: apply("ne", a, b), (where(a, 1, 0) for a in args)) if args else ZERO


def _quotient(a: Expr, b: Expr) -> Expr:
    ratio = a / b
    return where(apply("ge", ratio, 0), apply("floor", ratio), apply("ceil", ratio))


def _unary(op: str) -> Callable[[Expr], Expr]:
    return lambda x: apply(op, x)


def _of_reciprocal(op: str) -> Callable[[Expr], Expr]:
    return lambda x: apply(op, 1 / x)


def _reciprocal_of(op: str) -> Callable[[Expr], Expr]:
    return lambda x: 1 / apply(op, x)


def _named(name: str) -> Expr:
    if name == "time":  # the time itself is a node of another kind
        raise UnsupportedFormulaError("the name 'time' is not supported, formulas use it for the time; rename it")
    return symbol(name)


_BUILD: dict[int, Callable[..., Expr]] = {
    libsbml.AST_PLUS: _fold("add", 0.0),
    libsbml.AST_TIMES: _fold("mul", 1.0),
    libsbml.AST_MINUS: _minus,
    libsbml.AST_DIVIDE: lambda a, b: a / b,
    libsbml.AST_POWER: lambda a, b: a**b,
    libsbml.AST_FUNCTION_POWER: lambda a, b: a**b,
    libsbml.AST_FUNCTION_ROOT: _root,
    libsbml.AST_FUNCTION_LOG: _log,
    libsbml.AST_FUNCTION_LN: _unary("log"),
    libsbml.AST_FUNCTION_EXP: _unary("exp"),
    libsbml.AST_FUNCTION_ABS: _unary("abs"),
    libsbml.AST_FUNCTION_FLOOR: _unary("floor"),
    libsbml.AST_FUNCTION_CEILING: _unary("ceil"),
    libsbml.AST_FUNCTION_FACTORIAL: lambda n: apply("exp", apply("log_gamma", n + 1)),
    libsbml.AST_FUNCTION_SIN: _unary("sin"),
    libsbml.AST_FUNCTION_COS: _unary("cos"),
    libsbml.AST_FUNCTION_TAN: _unary("tan"),
    libsbml.AST_FUNCTION_SEC: _reciprocal_of("cos"),
    libsbml.AST_FUNCTION_CSC: _reciprocal_of("sin"),
    libsbml.AST_FUNCTION_COT: _reciprocal_of("tan"),
    libsbml.AST_FUNCTION_SINH: _unary("sinh"),
    libsbml.AST_FUNCTION_COSH: _unary("cosh"),
    libsbml.AST_FUNCTION_TANH: _unary("tanh"),
    libsbml.AST_FUNCTION_SECH: _reciprocal_of("cosh"),
    libsbml.AST_FUNCTION_CSCH: _reciprocal_of("sinh"),
    libsbml.AST_FUNCTION_COTH: _reciprocal_of("tanh"),
    libsbml.AST_FUNCTION_ARCSIN: _unary("asin"),
    libsbml.AST_FUNCTION_ARCCOS: _unary("acos"),
    libsbml.AST_FUNCTION_ARCTAN: _unary("atan"),
    libsbml.AST_FUNCTION_ARCSEC: _of_reciprocal("acos"),
    libsbml.AST_FUNCTION_ARCCSC: _of_reciprocal("asin"),
    libsbml.AST_FUNCTION_ARCCOT: _of_reciprocal("atan"),
    libsbml.AST_FUNCTION_ARCSINH: _unary("asinh"),
    libsbml.AST_FUNCTION_ARCCOSH: _unary("acosh"),
    libsbml.AST_FUNCTION_ARCTANH: _unary("atanh"),
    libsbml.AST_FUNCTION_ARCSECH: _of_reciprocal("acosh"),
    libsbml.AST_FUNCTION_ARCCSCH: _of_reciprocal("asinh"),
    libsbml.AST_FUNCTION_ARCCOTH: _of_reciprocal("atanh"),
    libsbml.AST_FUNCTION_MIN: _fold("min", math.inf),
    libsbml.AST_FUNCTION_MAX: _fold("max", -math.inf),
    libsbml.AST_FUNCTION_QUOTIENT: _quotient,
    libsbml.AST_FUNCTION_REM: lambda a, b: a - b * _quotient(a, b),
    libsbml.AST_FUNCTION_PIECEWISE: _piecewise,
    libsbml.AST_LOGICAL_AND: _fold("and", 1.0),
    libsbml.AST_LOGICAL_OR: _fold("or", 0.0),
    libsbml.AST_LOGICAL_XOR: _exclusive,
    libsbml.AST_LOGICAL_NOT: _unary("not"),
    libsbml.AST_LOGICAL_IMPLIES: lambda a, b: apply("or", apply("not", a), b),
    libsbml.AST_RELATIONAL_LT: _chain("lt"),
    libsbml.AST_RELATIONAL_LEQ: _chain("le"),
    libsbml.AST_RELATIONAL_GT: _chain("gt"),
    libsbml.AST_RELATIONAL_GEQ: _chain("ge"),
    libsbml.AST_RELATIONAL_EQ: _chain("eq"),
    libsbml.AST_RELATIONAL_NEQ: _chain("ne"),
    libsbml.AST_FUNCTION_RATE_OF: rate_of,
    libsbml.AST_FUNCTION_DELAY: lambda x, nothing: x,  # any other delay is refused below
}

_LEAVES: dict[int, Callable[[libsbml.ASTNode], Expr]] = {
    libsbml.AST_INTEGER: lambda node: const(node.getInteger()),
    libsbml.AST_REAL: lambda node: const(node.getReal()),
    libsbml.AST_REAL_E: lambda node: const(node.getReal()),
    libsbml.AST_RATIONAL: lambda node: const(node.getReal()),
    libsbml.AST_NAME: lambda node: _named(node.getName()),
    libsbml.AST_NAME_TIME: lambda node: TIME,
    libsbml.AST_NAME_AVOGADRO: lambda node: const(_AVOGADRO),
    libsbml.AST_CONSTANT_E: lambda node: const(math.e),
    libsbml.AST_CONSTANT_PI: lambda node: const(math.pi),
    libsbml.AST_CONSTANT_TRUE: lambda node: const(1.0),
    libsbml.AST_CONSTANT_FALSE: lambda node: const(0.0),
}


def unsupported(root: libsbml.ASTNode) -> list[str]:
    """Return what a syntax tree uses that is not supported, by name."""
    return [name for node in nodes(root) if (name := _refused(node))]


def nodes(root: libsbml.ASTNode) -> Iterator[libsbml.ASTNode]:
    """Yield all nodes of a syntax tree, an operator before its arguments."""
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.getChild(i) for i in reversed(range(node.getNumChildren())))


def _refused(node: libsbml.ASTNode) -> str | None:
    kind = node.getType()
    if kind == libsbml.AST_FUNCTION_DELAY:
        time = node.getChild(1)
        return None if time is not None and time.isNumber() and time.getValue() == 0 else "delay"
    if kind in _LEAVES or kind in _BUILD or kind == libsbml.AST_FUNCTION:
        return None
    return "lambda" if kind == libsbml.AST_LAMBDA else node.getName() or "this element"


def from_ast(root: libsbml.ASTNode, functions: Functions | None = None) -> Expr:
    """Return the expression of a syntax tree.

    The time derivative of a name (`rateOf` in SBML) becomes a symbol of its own, see `rate_of`.

    Parameters
    ----------
    root
        The tree, of MathML or of formula text.
    functions
        User-defined functions by name; a call is replaced by the function's body.

    Raises
    ------
    UnsupportedFormulaError
        If the tree uses what is not supported.
    FormulaError
        If the tree calls what is not defined, or with a wrong number of arguments.
    """
    functions = functions or {}
    results: list[Expr] = []
    stack: list[tuple[libsbml.ASTNode, bool]] = [(root, False)]
    while stack:
        node, is_open = stack.pop()
        kind, count = node.getType(), node.getNumChildren()
        refused = _refused(node)
        if refused:
            raise UnsupportedFormulaError(f"{refused} is not supported in a formula")
        if count > MOST_ARGUMENTS:
            raise FormulaError(
                f"an operator has {count:,} arguments, more than {MOST_ARGUMENTS:,}; split it into several"
            )
        if kind in _LEAVES:
            results.append(_LEAVES[kind](node))
        elif is_open:
            args = results[len(results) - count :]
            del results[len(results) - count :]
            results.append(_call(node, args, functions) if kind == libsbml.AST_FUNCTION else _build(node, args))
        else:
            stack.append((node, True))
            stack.extend((node.getChild(i), False) for i in reversed(range(count)))
    return results[0]


def _build(node: libsbml.ASTNode, args: list[Expr]) -> Expr:
    try:
        return _BUILD[node.getType()](*args)
    except UnsupportedFormulaError:
        raise
    except (TypeError, ValueError, IndexError) as error:  # the rows above state their arity by their arguments
        name = node.getName() or node.getOperatorName() or "an operator"
        raise FormulaError(f"{name} cannot take {len(args)} argument(s)") from error


def _call(node: libsbml.ASTNode, args: list[Expr], functions: Functions) -> Expr:
    name = node.getName()
    if name not in functions:
        own = sorted(n for n, function in functions.items() if not callable(function))
        raise FormulaError(f"function {name!r} is not defined" + (f"; defined are {own}" if own else ""))
    function = functions[name]
    if callable(function):
        try:
            return function(*args)
        except TypeError:
            raise FormulaError(f"a call of {name!r} has {len(args)} argument(s), a wrong number") from None
    names, body = function
    if len(names) != len(args):
        raise FormulaError(f"function {name!r} takes {len(names)} argument(s), not {len(args)}")
    given = dict(zip(names, args, strict=True))
    rates = {RATE_OF + name: rate_of(value) for name, value in given.items() if body.depends_on(RATE_OF + name)}
    return substitute([body], {**given, **rates})[0]


def _logarithm(x: Expr, base: Expr | None = None) -> Expr:
    return apply("log", x) if base is None else apply("log", x) / apply("log", base)


_LOG, _LOG_NAME = re.compile(r"(?<!\w)log\s*\("), "log_of"
# What PEtab has beside the functions of libsbml.
_MORE_FUNCTIONS: Functions = {
    _LOG_NAME: _logarithm,
    "log2": lambda x: _logarithm(x, const(2.0)),
    "sign": lambda x: apply("sign", x),
}


@functools.cache
def _settings() -> libsbml.L3ParserSettings:
    settings = libsbml.L3ParserSettings()
    settings.setParseLog(libsbml.L3P_PARSE_LOG_AS_LN)
    settings.setParseUnits(libsbml.L3P_NO_UNITS)  # else "2 x" is the number 2 with the unit x
    settings.setParseAvogadroCsymbol(libsbml.L3P_AVOGADRO_IS_NAME)
    settings.setParseModuloL3v2(libsbml.L3P_MODULO_IS_REM)  # else x % y becomes a formula with both three times
    settings.setComparisonCaseSensitivity(libsbml.L3P_COMPARE_BUILTINS_CASE_SENSITIVE)
    return settings


def parse(text: str | int | float) -> Expr:
    """Return the expression of formula text in PEtab's syntax: `log` is the natural logarithm, `^` the power.

    `log(a, b)` is the logarithm of `a` to the base `b`.

    Raises
    ------
    FormulaError
        If the text is not a formula.
    """
    text = str(text)
    shown = repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
    if len(text) > _LONGEST:
        raise FormulaError(f"cannot read the formula {shown}: it has more than {_LONGEST:,} characters")
    if not text.isascii() or "\0" in text:  # libsbml would skip such characters, and all after a zero byte
        raise FormulaError(f"cannot read the formula {shown}: it has characters other than ASCII")
    tree = libsbml.parseL3FormulaWithSettings(text, _settings())
    if tree is None:
        reason = " ".join(libsbml.getLastParseL3Error().split()).rpartition(_REPEATED)[2]
        raise FormulaError(f"cannot read the formula {shown}: {reason or 'it is empty'}")
    if any(node.getType() == libsbml.AST_FUNCTION_LOG for node in nodes(tree)):
        # libsbml's second argument of a logarithm is the first here; of log10(x) it makes that of x to the base 10 too.
        tree = libsbml.parseL3FormulaWithSettings(_LOG.sub(f"{_LOG_NAME}(", text), _settings())
    expression = from_ast(tree, _MORE_FUNCTIONS)
    if any(name.startswith(RATE_OF) for name in expression.symbols):
        raise UnsupportedFormulaError("rateOf is not supported in a formula")
    return expression
