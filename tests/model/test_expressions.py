import gc
import math

import numpy as np
import pytest
import sympy
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kinbayes.model.expressions import (
    ONE,
    OPERATIONS,
    TIME,
    ZERO,
    Expr,
    apply,
    const,
    derivatives,
    directional_derivatives,
    evaluate,
    jacobian,
    lift_constants,
    postorder,
    substitute,
    symbol,
    where,
)

A, B, C = symbol("a"), symbol("b"), symbol("c")


def value(expression: Expr, **values: float) -> float:
    return float(evaluate([expression], values)[0])


def slope(expression: Expr, name: str, **values: float) -> float:
    return value(derivatives([expression], name)[0], **values)


# ---- One object for equal expressions


def test_equal_expressions_are_one_object():
    assert symbol("a") is A
    assert const(2) is const(2.0)
    assert apply("sin", A + 1) is apply("sin", A + 1)
    assert A + B is B + A
    assert A * B is B * A
    assert A - B is not B - A
    assert apply("max", A, B) is apply("max", B, A)
    assert where(apply("lt", A, B), A, 2) is where(apply("lt", A, B), A, 2)


def test_signs_of_zero_differ_and_all_nan_are_one():
    assert const(-0.0) is not ZERO
    assert const(math.nan) is const(-math.nan)
    assert const(math.inf) is not const(-math.inf)


def test_an_expression_that_nobody_holds_is_forgotten_and_can_be_made_again():
    texts = set()
    for _ in range(3):
        expression = apply("tanh", symbol("forgotten") * 3 + 1)
        texts.add(repr(expression))
        assert expression is apply("tanh", 1 + 3 * symbol("forgotten"))
        del expression
        gc.collect()
    assert texts == {"tanh(((forgotten * 3) + 1))"}


@pytest.mark.parametrize(
    ("made", "simple"),
    [
        (A + 0, A),
        (0 + A, A),
        (A - 0, A),
        (0 - A, -A),
        (A - A, ZERO),
        (A + (-B), A - B),
        (A - (-B), A + B),
        (apply("neg", -A), A),
        (A * 1, A),
        (1 * A, A),
        (A * 0, ZERO),
        (-1 * A, -A),
        (A * -1, -A),
        (A / 1, A),
        (0 / A, ZERO),
        (A**0, ONE),
        (A**1, A),
        (1**A, ONE),
        (A**2, A * A),
        (const(2) + 3, const(5)),
        (2 ** const(3), const(8)),
        (apply("sqrt", 16), const(4)),
        (apply("log_gamma", 3), const(math.log(2))),
        (const(1) / 0, const(math.inf)),
        (apply("log", -1), const(math.nan)),
        (where(apply("lt", A, 1), B, B), B),
        (where(apply("lt", 1, 2), A, B), A),
        (where(apply("and", 1, 0), A, B), B),
    ],
)
def test_neutral_elements_vanish_and_constants_fold(made, simple):
    assert made is simple


def test_symbols_below_an_expression():
    expression = apply("exp", A * TIME) + where(apply("gt", B, 1), 2, C)
    assert expression.symbols == {"a", "b", "c", "time"}
    assert expression.depends_on("b")
    assert not expression.depends_on("d")
    assert (expression * 0).symbols == frozenset()


def test_repr_of_what_shares_its_parts_ends():
    """Written out it has more than 2^200 symbols."""
    expression = A
    for _ in range(200):
        expression = apply("sin", expression) * (expression + 1)
    assert len(repr(expression)) < 20_000


def test_repr_is_readable_and_short():
    assert repr(-((A + 2) ** B) / where(apply("le", A, B), 1, 0)) == ("((-((a + 2) ^ b)) / where((a <= b), 1, 0))")
    assert len(repr(sum((symbol(f"x{i}") for i in range(500)), start=ZERO))) == 200


# ---- Values


def test_truth_values_are_numbers_and_numbers_are_truth_values():
    assert value(apply("lt", A, B) + apply("lt", A, C), a=1, b=2, c=3) == 2
    assert value(apply("and", A, B), a=2, b=-0.5) == 1
    assert value(apply("or", A, apply("not", B)), a=0, b=0) == 1
    assert value(where(A, 10, 20), a=0) == 20
    assert value(apply("ne", apply("gt", A, 0), apply("gt", B, 0)), a=1, b=-1) == 1


def test_values_broadcast_as_arrays():
    grid = np.linspace(0, 1, 5)
    got = evaluate([A + apply("sin", B), where(apply("gt", B, 0.5), A, 0)], {"a": 2.0, "b": grid})
    np.testing.assert_allclose(got[0], 2 + np.sin(grid))
    np.testing.assert_allclose(got[1], np.where(grid > 0.5, 2, 0))


def test_a_symbol_without_value_is_an_error():
    with pytest.raises(KeyError, match="b"):
        evaluate([A + B], {"a": 1.0})


def test_substitution_is_simultaneous():
    first, second = substitute([A / B, apply("lt", A, 2)], {"a": B, "b": A})
    assert first is B / A
    assert second is apply("lt", B, 2)
    assert substitute([A + B + C], {"a": const(1), "b": const(2)})[0] is 3 + C
    truth = substitute([where(A, 1, 2) + A], {"a": apply("gt", C, 0)})[0]
    assert value(truth, c=1.0) == 2


# ---- Derivatives

POINTS = {"acosh": (1.7,), "log_gamma": (2.3,), "abs": (-1.3,), "pow": (1.3, 2.4), "min": (0.4, 0.3)}


_SMOOTH = [op for op, operation in OPERATIONS.items() if operation.partials and op != "digamma"]


@pytest.mark.parametrize("op", _SMOOTH)
def test_partial_derivatives_are_central_differences(op):
    count = len(OPERATIONS[op].partials)
    point = dict(zip("ab", POINTS.get(op, (0.4, 0.7)), strict=False))
    expression = apply(op, *(symbol(name) for name in "ab"[:count]))
    h = 1e-5
    for name in "ab"[:count]:
        up, down = {**point, name: point[name] + h}, {**point, name: point[name] - h}
        difference = (value(expression, **up) - value(expression, **down)) / (2 * h)
        assert slope(expression, name, **point) == pytest.approx(difference, rel=1e-8)


def test_steps_and_truth_values_have_no_slope():
    for op in ("floor", "ceil", "sign"):
        assert derivatives([apply(op, A * B)], "a")[0] is ZERO
    assert derivatives([apply("lt", A, 1)], "a")[0] is ZERO
    assert derivatives([2.0 * apply("lt", A, 1)], "a")[0] is ZERO


def test_the_derivative_of_digamma_is_refused():
    with pytest.raises(ValueError, match="the derivative of digamma is not available"):
        derivatives([apply("digamma", A)], "a")
    assert derivatives([apply("digamma", A)], "b")[0] is ZERO


def test_a_choice_keeps_its_condition():
    d = derivatives([where(apply("lt", A, 1), A * A, 3 * A)], "a")[0]
    assert value(d, a=0.5) == 1
    assert value(d, a=2.0) == 3
    for op, below, above in (("min", 1, 0), ("max", 0, 1)):
        d = derivatives([apply(op, A, B)], "a")[0]
        assert (value(d, a=1.0, b=2.0), value(d, a=3.0, b=2.0)) == (below, above)


def test_powers_have_finite_slopes_at_zero():
    power = A**B
    assert slope(power, "a", a=0.0, b=2.0) == 0
    assert slope(power, "a", a=0.0, b=1.0) == 1
    assert slope(power, "b", a=0.0, b=2.0) == 0
    assert slope(A * A, "a", a=0.0) == 0
    assert slope(A**3, "a", a=0.0) == 0
    mixed = derivatives(derivatives([power], "a"), "b")[0]
    assert value(mixed, a=0.0, b=3.0) == 0


def test_a_hill_function_has_finite_slopes_at_zero():
    hill = A**B / (C**B + A**B)
    for name in "abc":
        assert slope(hill, name, a=0.0, b=2.5, c=0.7) == 0


_LEAVES = st.sampled_from(["a", "b", "c", 2, 0.5, -1.5, 3])
_UNARY = ["neg", "sin", "cos", "tan", "tanh", "exp", "sqrt", "log", "log10", "asinh", "atan", "sinh", "cosh"]
_BINARY = ["add", "sub", "mul", "div", "pow"]
_RECIPES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(_UNARY), inner), st.tuples(st.sampled_from(_BINARY), inner, inner)
    ),
    max_leaves=12,
)


def build(recipe: tuple | str | float) -> Expr:
    match recipe:
        case (op, *parts):
            return apply(op, *map(build, parts))
        case str():
            return symbol(recipe)
        case _:
            return const(recipe)


_SYMPY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "neg": lambda a: -a,
    "log10": lambda a: sympy.log(a) / sympy.log(10),
}


def to_sympy(recipe: tuple | str | float) -> sympy.Expr:
    match recipe:
        case (op, *parts):
            return (_SYMPY.get(op) or getattr(sympy, op))(*map(to_sympy, parts))
        case str():
            return sympy.Symbol(recipe, positive=True)
        case _:
            return sympy.Rational(recipe)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(_RECIPES, st.tuples(*[st.floats(0.3, 1.7)] * 3))
def test_random_expressions_agree_with_sympy(recipe, point):
    expression = build(recipe)
    values = dict(zip("abc", point, strict=True))
    made = [expression, *(derivatives([expression], name)[0] for name in "abc")]
    nodes = np.array(evaluate(postorder(made), values), dtype=float)
    assume(np.all(np.abs(nodes) < 1e4))  # finite, and no cancellation between large numbers
    exact = to_sympy(recipe)
    # Of 50 digits, not exact: the exact power of a fraction may have millions of digits.
    at = {sympy.Symbol(name, positive=True): sympy.Float(v, 50) for name, v in values.items()}
    wanted = [exact, *(exact.diff(variable) for variable in at)]
    for number, formula in zip(evaluate(made, values), wanted, strict=True):
        assert float(number) == pytest.approx(complex(formula.subs(at).evalf(25)), rel=1e-9, abs=1e-8)


# ---- Size


def test_a_chain_of_500_states_has_a_banded_jacobian():
    states = [f"s{i}" for i in range(500)]
    k = [symbol(f"k{i}") for i in range(500)]
    flux = [k[i] * symbol(s) / (1 + symbol(s)) for i, s in enumerate(states)]
    rhs = [-flux[0]] + [flux[i - 1] - flux[i] for i in range(1, 500)]
    pattern = jacobian(rhs, states)
    assert len(pattern.entries) == 999
    assert list(zip(pattern.rows, pattern.columns, strict=True)) == sorted(
        [(i, i) for i in range(500)] + [(i, i - 1) for i in range(1, 500)]
    )
    assert len(postorder(pattern.entries)) < 10 * len(postorder(rhs))
    diagonal = value(pattern.entries[0], s0=2.0, k0=3.0)
    assert diagonal == pytest.approx(-3 / 9)


def test_an_empty_jacobian_has_no_entries():
    assert jacobian([A * 2], ["b"]).entries == ()


def test_shared_parts_are_one_part():
    doubled = A
    for _ in range(200):  # 2**200 terms without sharing
        doubled = doubled + apply("sin", doubled)
    assert len(postorder([doubled])) == 401
    assert math.isfinite(slope(doubled, "a", a=0.1))
    assert len(repr(A + B)) < 10


@pytest.mark.parametrize(
    ("levels", "grow"),
    [(20_000, lambda e, s: e + s), (3_000, lambda e, s: apply("sin", e) * s)],
    ids=["sum", "nest"],
)
def test_deep_expressions_are_no_recursion(levels, grow):
    names = [f"deep{i % 50}" for i in range(levels)]
    deep = A
    for name in names:
        deep = grow(deep, symbol(name))
    at = {"a": 0.5, **dict.fromkeys(names, 1.0)}
    assert math.isfinite(value(deep, **at))
    assert math.isfinite(slope(deep, "a", **at))
    moved = substitute([deep], {"a": B})[0]
    assert moved.depends_on("b")
    assert not moved.depends_on("a")
    del deep, moved  # freeing it must not recurse either
    gc.collect()


def test_a_nan_in_a_sum_outlives_simplification():
    lost = (apply("log", -A) + 1) - apply("log", -A)
    assert lost.depends_on("a")
    assert math.isnan(value(lost, a=1.0))
    moved = substitute([lost], {"a": B + 1})[0]
    assert math.isnan(value(moved, b=1.0))


# ---- What does not vary


def test_what_does_not_vary_is_lifted():
    rates = [A * apply("exp", B * C) + apply("exp", B * C), A / (B + 1), B * C, A, const(2.0), B]
    roots, parts = lift_constants(rates, ["a"], "part ")
    assert all(name.startswith("part ") for name in parts)
    assert not any(part.depends_on("a") for part in parts.values())
    assert set().union(*(root.symbols for root in roots)) <= {"a", "b", *parts}
    # exp(b c) is one part; division by b + 1 became multiplication.
    assert len(parts) == 3
    assert [root.op for root in roots] == ["add", "mul", "symbol", "symbol", "const", "symbol"]
    point = {"a": 0.7, "b": 1.3, "c": -0.4}
    at = point | dict(zip(parts, evaluate(list(parts.values()), point), strict=True))
    np.testing.assert_allclose(evaluate(roots, at), evaluate(rates, point), rtol=1e-14)
    assert substitute(roots, parts)[2:] == rates[2:]


def test_conditions_that_do_not_vary_stay_conditions():
    rate = where(apply("gt", B, C), A, 2 * A) + where(apply("and", apply("gt", B, 1), apply("lt", A, C)), 1, 0)
    (root,), parts = lift_constants([rate], ["a"], "part ")
    for b in (0.5, 1.5):
        for a in (0.2, 3.0):
            point = {"a": a, "b": b, "c": 1.0}
            at = point | dict(zip(parts, evaluate(list(parts.values()), point), strict=True))
            assert value(root, **at) == value(rate, **point)


def test_nothing_is_lifted_where_all_varies():
    roots, parts = lift_constants([A * B, A + 1], ["a", "b"], "part ")
    assert roots == [A * B, A + 1]
    assert parts == {}


# ---- Directional derivatives

SMOOTH = [
    A * B / (C + A),
    A**B + C**2.5,
    apply("exp", A * B) * apply("sin", C - A),
    apply("log", A + B * C) / apply("sqrt", B),
    where(apply("lt", A, B), A * A * C, apply("tanh", B * C)),
    apply("min", A * C, B) + apply("max", A, B * C) + apply("abs", A - B),
    apply("atan", A) - apply("log_gamma", B) * apply("cosh", C),
    (A + B) * (A + B) / (1 + (A + B) * (A + B)) + A * B * C,
]
PLACES = [{"a": 0.7, "b": 1.9, "c": 1.3}, {"a": 2.3, "b": 0.4, "c": 0.8}, {"a": 1.1, "b": 3.1, "c": 2.2}]


@pytest.mark.parametrize("point", PLACES)
def test_a_directional_derivative_is_the_sum_of_the_partials(point):
    direction = {"a": symbol("u"), "b": B * symbol("v"), "c": const(-0.6)}
    at = {**point, "u": 0.31, "v": -1.7}
    components = {name: value(e, **at) for name, e in direction.items()}
    found = evaluate(directional_derivatives(SMOOTH, direction), at)
    partials = {name: np.array(evaluate(derivatives(SMOOTH, name), at), dtype=float) for name in direction}
    np.testing.assert_allclose(found, sum(components[n] * partials[n] for n in direction), rtol=1e-13)
    h = 1e-6
    ends = [evaluate(SMOOTH, {n: x + s * h * components[n] for n, x in point.items()}) for s in (1, -1)]
    np.testing.assert_allclose(found, np.subtract(*ends) / (2 * h), rtol=1e-8, atol=1e-9)


def test_the_direction_of_one_symbol_is_its_derivative():
    for name in "abc":
        assert directional_derivatives(SMOOTH, {name: ONE}) == derivatives(SMOOTH, name)
        assert all(e is ZERO for e in directional_derivatives(SMOOTH, {name: ZERO}))
    assert all(e is ZERO for e in directional_derivatives(SMOOTH, {}))
    assert all(e is ZERO for e in directional_derivatives([*SMOOTH[:2], TIME], {"elsewhere": A}))


def test_what_has_no_component_stays():
    (found,) = directional_derivatives([A * B + symbol("d") * A], {"a": symbol("u")})
    assert value(found, a=3.0, b=5.0, d=7.0, u=2.0) == 24.0
    assert not found.depends_on("a")


def test_directions_are_not_differentiated_themselves():
    """A component may name what it is the component of."""
    (once,) = directional_derivatives([A * A * B], {"a": A * A, "b": A})
    assert value(once, a=3.0, b=5.0) == 2 * 3 * 5 * 9 + 9 * 3
    (twice,) = directional_derivatives([directional_derivatives([A**3], {"a": symbol("u")})[0]], {"a": symbol("u")})
    assert value(twice, a=2.0, u=0.5) == pytest.approx(6 * 2 * 0.25)


@pytest.mark.parametrize("point", PLACES)
def test_the_derivative_of_a_jacobian_along_a_direction_is_that_of_all_its_entries(point):
    """What the method takes: D = dJ/dy along k."""
    names, k = ["a", "b", "c"], np.array([0.4, -0.9, 0.2])
    entries = jacobian(SMOOTH[:4], names).entries
    found = evaluate(directional_derivatives(entries, dict(zip(names, map(const, k.tolist()), strict=True))), point)
    h = 1e-6
    ends = [evaluate(entries, {n: point[n] + s * h * d for n, d in zip(names, k, strict=True)}) for s in (1, -1)]
    np.testing.assert_allclose(found, np.subtract(*ends) / (2 * h), rtol=1e-7, atol=1e-8)


def test_a_shared_part_is_differentiated_once():
    x = A
    for _ in range(200):
        x = x * x + B * x
    (found,) = directional_derivatives([x], {"a": symbol("u"), "b": symbol("v")})
    assert len(postorder([found])) < 5000
