import math

import libsbml
import numpy as np
import pytest
from scipy.special import gamma

from kinbayes.model.expressions import TIME, ZERO, const, evaluate, symbol
from kinbayes.model.formula import RATE_OF as RATE
from kinbayes.model.formula import FormulaError, UnsupportedFormulaError, from_ast, parse, rate_of, unsupported

X, Y = symbol("x"), symbol("y")


def value(expression, **values):
    return float(evaluate([expression], values)[0])


def tree(content):
    """The syntax tree of MathML."""
    made = libsbml.readMathMLFromString(
        f'<?xml version="1.0" encoding="UTF-8"?><math xmlns="http://www.w3.org/1998/Math/MathML">{content}</math>'
    )
    assert made is not None, content
    return made


def call(operator, *arguments):
    inside = "".join(a if str(a).startswith("<") else f"<cn>{a}</cn>" for a in arguments)
    return f"<apply><{operator}/>{inside}</apply>"


# ---- Text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log(x)", math.log(1.3)),
        ("ln(x)", math.log(1.3)),
        ("log10(x)", math.log10(1.3)),
        ("log(8, 2)", 3.0),
        ("x^2 + y^-1", 1.3**2 + 1 / 0.7),
        ("-x^2", -(1.3**2)),
        ("x - y - 1", 1.3 - 0.7 - 1),
        ("2^3^2", 512.0),
        ("6 / 3 / 2", 1.0),
        ("sqrt(x) * exp(-y)", math.sqrt(1.3) * math.exp(-0.7)),
        ("pow(x, y)", 1.3**0.7),
        ("piecewise(1, x < y, 2, y < x, 3)", 2.0),
        ("max(1, x, y) + min(x, y)", 1.3 + 0.7),
        ("x > 1 && y > 1 || !(x == y)", 1.0),
        ("pi", math.pi),
        ("exponentiale", math.e),
        ("1.5e-3", 1.5e-3),
        ("3 / 4", 0.75),
        ("inf", math.inf),
        ("abs(-x)", 1.3),
    ],
)
def test_text_has_the_value_of_its_formula(text, expected):
    assert value(parse(text), x=1.3, y=0.7) == pytest.approx(expected, rel=1e-14)


def test_text_of_numbers_names_and_time():
    assert parse(3) is const(3)
    assert parse(0.25) is const(0.25)
    assert parse("x") is X
    assert parse("time + x") is TIME + X
    assert parse("e + pI + avogadro").symbols == {"e", "pI", "avogadro"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("1 +", "unexpected end of string"),
        ("x**2", "syntax error"),
        ("2 x", "units"),
        ("x²", "characters other than ASCII"),
        ("rate_µ", "characters other than ASCII"),
        ("f(x)", "function 'f' is not defined"),
        ("sin(1, 2)", "exactly one argument"),
        ("__import__('os')", "cannot read the formula"),
        ("x; y", "cannot read the formula"),
    ],
)
def test_text_that_is_no_formula_is_refused(text, message):
    with pytest.raises(FormulaError, match=message):
        parse(text)


@pytest.mark.parametrize("text", ["delay(x, 1)", "rateOf(x)", "lambda(x, x)"])
def test_what_is_not_supported_is_named(text):
    with pytest.raises(UnsupportedFormulaError, match=text.split("(")[0]):
        parse(text)


@pytest.mark.parametrize("text", ["(" * 15_000 + "x" + ")" * 15_000, "sin(" * 15_000 + "x" + ")" * 15_000])
def test_text_nested_without_end_is_refused(text):
    with pytest.raises(FormulaError, match="memory exhausted"):
        parse(text)


def test_a_sum_of_5000_terms_is_read():
    terms = parse(" + ".join(f"x * {k}" for k in range(5000)))
    assert value(terms, x=2.0) == 4999 * 5000


# ---- Syntax trees


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (call("plus"), 0),
        (call("times"), 1),
        (call("plus", 1, 2, 3), 6),
        (call("times", 2, 3, 4), 24),
        (call("minus", 5), -5),
        (call("minus", 5, 2), 3),
        (call("divide", 1, 4), 0.25),
        (call("power", 2, 10), 1024),
        (call("root", 9), 3),
        (call("root", "<degree><cn>3</cn></degree>", 8), 2),
        (call("log", 1000), 3),
        (call("log", "<logbase><cn>2</cn></logbase>", 32), 5),
        (call("ln", 2), math.log(2)),
        (call("factorial", 5), 120),
        (call("factorial", 2.5), gamma(3.5)),
        (call("floor", -1.5), -2),
        (call("ceiling", -1.5), -1),
        (call("quotient", -7, 2), -3),
        (call("rem", -7, 2), -1),
        (call("max", 1, 3, 2), 3),
        (call("min", 1, 3, -2), -2),
        (call("lt", 1, 2, 3), 1),
        (call("lt", 1, 3, 2), 0),
        (call("geq", 3, 3, 2), 1),
        (call("neq", 3, 3), 0),
        (call("and", "<true/>", "<false/>"), 0),
        (call("and"), 1),
        (call("or"), 0),
        (call("xor", "<true/>", "<true/>", "<true/>"), 1),
        (call("xor", "<true/>", "<true/>"), 0),
        (call("not", "<false/>"), 1),
        (call("implies", "<true/>", "<false/>"), 0),
        ("<piecewise><piece><cn>1</cn><false/></piece><otherwise><cn>2</cn></otherwise></piecewise>", 2),
        ("<piecewise><piece><cn>1</cn><false/></piece></piecewise>", math.nan),
        ('<cn type="rational">3<sep/>4</cn>', 0.75),
        ('<cn type="rational">1<sep/>0</cn>', math.inf),
        ('<cn type="e-notation">2.5<sep/>3</cn>', 2500),
        ("<infinity/>", math.inf),
        ("<notanumber/>", math.nan),
        ("<exponentiale/>", math.e),
        (
            '<csymbol encoding="text" definitionURL="http://www.sbml.org/sbml/symbols/avogadro">N</csymbol>',
            6.02214179e23,
        ),
    ],
)
def test_trees_have_the_value_of_their_formula(content, expected):
    assert value(from_ast(tree(content))) == pytest.approx(expected, rel=1e-13, nan_ok=True)


_TRIGONOMETRY = {
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "sec": lambda x: 1 / np.cos(x),
    "csc": lambda x: 1 / np.sin(x),
    "cot": lambda x: 1 / np.tan(x),
}
_HYPERBOLIC = {
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "sech": lambda x: 1 / np.cosh(x),
    "csch": lambda x: 1 / np.sinh(x),
    "coth": lambda x: 1 / np.tanh(x),
}


@pytest.mark.parametrize("name", [*_TRIGONOMETRY, *_HYPERBOLIC])
def test_trigonometry_and_its_inverses(name):
    function = {**_TRIGONOMETRY, **_HYPERBOLIC}[name]
    image = value(from_ast(tree(call(name, 0.6))))
    assert image == pytest.approx(function(0.6), rel=1e-14)
    assert value(from_ast(tree(call(f"arc{name}", image)))) == pytest.approx(0.6, rel=1e-13)


def test_functions_are_replaced_by_their_bodies():
    functions = {"f": (("a", "b"), symbol("a") / symbol("b"))}
    made = from_ast(tree("<apply><ci>f</ci><ci>b</ci><ci>a</ci></apply>"), functions)
    assert made is symbol("b") / symbol("a")
    with pytest.raises(FormulaError, match=r"'f' takes 2 argument\(s\), not 1"):
        from_ast(tree("<apply><ci>f</ci><cn>1</cn></apply>"), functions)
    with pytest.raises(FormulaError, match=r"'g' is not defined; defined are \['f'\]"):
        from_ast(tree("<apply><ci>g</ci><cn>1</cn></apply>"), functions)


SYMBOLS = "http://www.sbml.org/sbml/symbols"
RATE_OF = f'<csymbol encoding="text" definitionURL="{SYMBOLS}/rateOf">rateOf</csymbol>'
DELAY = f'<csymbol encoding="text" definitionURL="{SYMBOLS}/delay">delay</csymbol>'


def test_a_rate_is_a_symbol_of_its_own():
    made = from_ast(tree(f"<apply>{RATE_OF}<ci>x</ci></apply>"))
    assert made is rate_of(X)
    assert made.symbols == {RATE + "x"}
    assert rate_of(const(3)) is ZERO
    with pytest.raises(UnsupportedFormulaError, match="rateOf of time"):
        rate_of(TIME)


def test_a_rate_in_a_function_is_that_of_its_argument():
    functions = {"f": (("a", "b"), rate_of(symbol("a")) * symbol("b"))}
    assert from_ast(tree("<apply><ci>f</ci><ci>y</ci><ci>x</ci></apply>"), functions) is rate_of(Y) * X
    assert from_ast(tree("<apply><ci>f</ci><cn>2</cn><ci>x</ci></apply>"), functions) is ZERO
    with pytest.raises(UnsupportedFormulaError, match=r"rateOf of \(x - y\)"):
        from_ast(tree("<apply><ci>f</ci><apply><minus/><ci>x</ci><ci>y</ci></apply><ci>x</ci></apply>"), functions)


def test_all_that_is_not_supported_is_listed():
    late = f"<apply>{DELAY}<ci>x</ci><ci>y</ci></apply>"
    now = f"<apply>{DELAY}<ci>x</ci><cn>0</cn></apply>"
    assert unsupported(tree(call("plus", late, now, call("sin", late)))) == ["delay", "delay"]
    assert unsupported(tree(call("plus", now, "<ci>x</ci>"))) == []
    assert from_ast(tree(now)) is X


def test_no_quantity_is_named_time():
    with pytest.raises(UnsupportedFormulaError, match="the name 'time' is not supported"):
        from_ast(tree("<ci>time</ci>"))


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (call("divide", 1), 1),
        (call("minus"), 0),
        (call("minus", 1, 2, 3), 3),
        (call("power", 1), 1),
        (call("sin", 1, 2), 2),
        (call("root"), 0),
        (call("eq", 1), 1),
        (call("gt"), 0),
        (call("not", 1, 2), 2),
        (call("quotient", 1), 1),
    ],
)
def test_wrong_numbers_of_arguments_are_refused(content, count):
    with pytest.raises(FormulaError, match=rf"cannot take {count} argument\(s\)"):
        from_ast(tree(content))
