import pytest

from kinbayes.model.algebraic import AlgebraicError, solve
from kinbayes.model.expressions import apply, evaluate, symbol, where

A, B, X, Y, Z = (symbol(name) for name in "abxyz")
VALUES = {"a": 1.7, "b": 0.6}


def residuals(equations, unknowns):
    """The equations at their solution."""
    found = solve(equations, unknowns)
    assert set(found) == set(unknowns)
    assert all(value.symbols <= set(VALUES) for value in found.values())
    solution = dict(zip(found, evaluate(list(found.values()), VALUES), strict=True))
    return [float(r) for r in evaluate(equations, {**VALUES, **solution})]


@pytest.mark.parametrize(
    "equation",
    [
        X - A,
        A - X,
        2 * X - A * X + B,
        (X + A) / B - X,
        X / (X + A) - B,
        A / X - B,
        A / (B + 1 / X) - B,
        (X - A) / (X + B) + X / (X + B),
        where(apply("gt", A, B), X - 1, 2 * X) - B,
        -(-X + A) * apply("exp", B),
    ],
)
def test_one_equation(equation):
    assert residuals([equation], ["x"]) == pytest.approx([0.0], abs=1e-14)


def test_a_solution_is_simple_where_it_can_be():
    assert solve([X - A * B], ["x"]) == {"x": A * B}
    assert solve([A + B - X], ["x"])["x"] is A + B


@pytest.mark.parametrize(
    ("equations", "unknowns"),
    [
        ([X + Y - A, X - Y - B], ["x", "y"]),
        ([A * X + B * Y - 1, B * X - A * Y], ["x", "y"]),
        ([X + Y + Z - A, X - 2 * Y + B, Z * A - Y], ["x", "y", "z"]),
        ([X * Y - A, Y - B], ["x", "y"]),  # linear in x once y is known
        ([X / Y - A, X + Y - B], ["x", "y"]),
        ([Y - A, X - Y * Y], ["x", "y"]),
    ],
)
def test_several_equations(equations, unknowns):
    assert residuals(equations, unknowns) == pytest.approx([0.0] * len(equations), abs=1e-13)


@pytest.mark.parametrize(
    ("equations", "unknowns", "place"),
    [
        ([X * X - A], ["x"], 0),  # two solutions
        ([apply("exp", X) - A], ["x"], 0),
        ([X + apply("floor", X) - A], ["x"], 0),  # the derivative of floor is 0
        ([where(apply("gt", X, 1), 2 * X, 3 * X) - A], ["x"], 0),
        ([apply("abs", X) - A], ["x"], 0),
        ([X + apply("gt", X, 1) - A], ["x"], 0),
        ([A - B], ["x"], 0),  # it does not determine x
        ([X + Y - A, 2 * X + 2 * Y - B], ["x", "y"], 1),  # nor do these determine both
        ([Y - A, X * X - Y], ["x", "y"], 1),
        ([B * (X - A) / (X - A) - 1], ["x"], 0),
        ([A * X / X - B], ["x"], 0),  # no x but 0 would do, and that does not
    ],
)
def test_what_has_not_exactly_one_solution_is_refused(equations, unknowns, place):
    with pytest.raises(AlgebraicError) as error:
        solve(equations, unknowns)
    assert error.value.equation == place
