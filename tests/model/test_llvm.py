import ctypes
import itertools
import random

import numpy as np
import pytest

from kinbayes.model import llvm
from kinbayes.model.expressions import OPERATIONS, ZERO, apply, const, evaluate, symbol, where
from kinbayes.model.llvm import WIDTH, Function, assembly, machine_code

A, B, C = symbol("a"), symbol("b"), symbol("c")


def compiled(functions, name):
    """Return one of the functions over NumPy arrays."""
    code = machine_code(functions)

    def call(*arrays):
        run = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(arrays))(code.addresses[name])
        run(*(a.ctypes.data for a in arrays))

    return call


def values_at(roots, names):
    """Return a function that gives the values of expressions at a point; it is compiled once."""
    call = compiled([Function("f", [names], [roots])], "f")

    def values(point):
        out = np.full(len(roots), -77.0)
        call(np.array([point[n] for n in names], dtype=float), out)
        return out

    return values


@pytest.mark.parametrize("op", OPERATIONS)
def test_every_operation_is_that_of_numpy(op):
    arguments = {1: (A,), 2: (A, B), 3: (apply("lt", A, B), A, B)}
    count = 3 if op == "where" else getattr(OPERATIONS[op].numpy, "nin", 1)
    expression = apply(op, *arguments[count])
    values = values_at([expression], ["a", "b"])
    for a in (0.3, 0.5, 1.7, 0.0, -0.4, np.inf, -np.inf, np.nan):
        for b in (0.5, 0.2, 0.0, -2.0, np.inf, np.nan):
            if (op, a, b) == ("pow", -np.inf, 0.5):
                continue  # C has infinity there; NumPy takes the square root
            point = {"a": a, "b": b}
            np.testing.assert_allclose(values(point)[0], float(evaluate([expression], point)[0]), rtol=1e-14)


def test_powers_with_constant_exponents_are_numpys():
    exponents = [*range(-17, 18), 0.5, -0.5, 2.5, 1e3]
    values = values_at([A**exponent for exponent in exponents], ["a"])
    for a in (0.7, 1.9, -1.3, 0.0):
        with np.errstate(all="ignore"):
            wanted = np.power(a, np.array(exponents, dtype=float))
        np.testing.assert_allclose(values({"a": a}), wanted, rtol=1e-14)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_kept(bad):
    """Sums in another order, or x - x = 0, would lose them."""
    roots = [
        (A + B) - A,
        (A + 1) - A,
        (A - B) + B,
        (A * B) / A,
        A * B - A * C,
        0.5 * A - 0.25 * A,
        A / A,
        A * (B - B * C),
    ]
    point = {"a": bad, "b": 2.0, "c": 0.5}
    found = values_at(roots, ["a", "b", "c"])(point)
    np.testing.assert_array_equal(found, evaluate(roots, point))
    assert not np.any(np.isfinite(found))


def test_a_sum_keeps_its_order():
    total = ((A + B) + C) - B
    for point in ({"a": 1.0, "b": 1e16, "c": 1.0}, {"a": 1e-3, "b": 1e3, "c": -1e-3}):
        assert values_at([total], ["a", "b", "c"])(point)[0] == evaluate([total], point)[0]


def test_arrays_in_and_arrays_out():
    function = Function("f", [["a", "b"], ["c"]], [[A + C, const(2.5)], [B, ZERO, A * B]])
    first, second = np.zeros(2), np.zeros(3)
    compiled([function], "f")(np.array([3.0, 4.0]), np.array([10.0]), first, second)
    np.testing.assert_array_equal(first, [13.0, 2.5])
    np.testing.assert_array_equal(second, [4.0, 0.0, 12.0])


def test_long_functions_are_split_and_compute_the_same():
    roots, is_small, x = [], apply("lt", A, B), A
    for k in range(900):
        x = apply("sin", x) + const(k / 7) * B
        roots.append(where(is_small, x, C) if k % 3 else x)
    point = {"a": 0.3, "b": 0.8, "c": 1.9}
    function = Function("f", [["a", "b", "c"]], [roots])
    assert assembly([function]).count("define internal") > 5
    np.testing.assert_allclose(values_at(roots, ["a", "b", "c"])(point), evaluate(roots, point), rtol=1e-12)


def test_a_function_without_operations_stores_its_inputs():
    np.testing.assert_array_equal(values_at([A, A, ZERO], ["a"])({"a": 4.0}), [4.0, 4.0, 0.0])


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"function 'f' uses \['c'\]"):
        machine_code([Function("f", [["a"]], [[A + C]])])


def test_sums_in_another_order_would_lose_nan(monkeypatch):
    """The control of the tests above: they see what the compiler may not do."""
    monkeypatch.setattr(llvm, "_FLAGS", f"{llvm._FLAGS} reassoc")
    point = {"a": np.nan, "b": 2.0}
    assert values_at([(A + B) - A], ["a", "b"])(point)[0] == 2.0


# ---- vectors

NUMBERS = (0.3, 0.5, 1.7, 0.0, -0.4, np.inf, -np.inf, np.nan)
OTHERS = (0.5, 0.2, 0.0, -2.0, np.inf, np.nan, 3.0, -0.5)


def vectors_at(roots, wide, narrow):
    """Return a function of vectors (names, WIDTH) and numbers (names,) that gives vectors; it is compiled once."""
    call = compiled([Function("f", [wide, narrow], [roots], frozenset([0]))], "f")

    def values(vectors, numbers):
        out = np.full((len(roots), WIDTH), -77.0)
        call(
            np.array([vectors[n] for n in wide], dtype=float), np.array([numbers[n] for n in narrow], dtype=float), out
        )
        return out

    return values


def assert_as_evaluated(roots, vectors, numbers, rtol=1e-14):
    found = vectors_at(roots, list(vectors), list(numbers))(vectors, numbers)
    expected = [np.broadcast_to(e, WIDTH).astype(float) for e in evaluate(roots, {**vectors, **numbers})]
    np.testing.assert_allclose(found, expected, rtol=rtol)
    return found


@pytest.mark.parametrize("op", OPERATIONS)
def test_every_operation_of_vectors_is_that_of_numpy(op):
    """Vectors with vectors, with numbers, and numbers alone, beside one another."""
    x, y, p, q = map(symbol, "xypq")
    is_small = apply("lt", x, y), apply("lt", p, y), apply("lt", p, q)
    if op == "where":
        choices = itertools.product(is_small, (x, p), (y, q))
        roots = [where(*arguments) for arguments in choices]
    elif getattr(OPERATIONS[op].numpy, "nin", 1) == 1:
        roots = [apply(op, x), apply(op, p)]
    else:
        roots = [apply(op, *arguments) for arguments in itertools.product((x, p, const(0.7)), (y, q, const(-0.3)))]
    values = vectors_at(roots, ["x", "y"], ["p", "q"])
    for shift, (a, b) in enumerate(itertools.product(NUMBERS, OTHERS)):
        vectors = {"x": np.roll(NUMBERS, shift), "y": np.array(OTHERS)}
        if op == "pow":  # of -infinity to 0.5 C has infinity; NumPy takes the square root
            vectors["x"] = np.where(np.isneginf(vectors["x"]), -1.0, vectors["x"])
            a = max(a, -1.0)
        found = values(vectors, {"p": a, "q": b})
        expected = evaluate(roots, {**vectors, "p": a, "q": b})
        expected = np.array([np.broadcast_to(e, WIDTH) for e in expected], dtype=float)
        np.testing.assert_allclose(found, expected, rtol=1e-14)


def tangle(wide, narrow):
    """Return expressions of numbers and vectors in one another, of all kinds, with truths among them."""
    stream, nodes, truths = random.Random(5), [*map(symbol, (*wide, *narrow)), const(0.7)], []
    for _ in range(120):
        a, b, c = (stream.choice(nodes[-25:]) for _ in range(3))
        truths.append(apply(stream.choice(["lt", "ge", "and", "or"]), a, b))
        nodes += [
            apply(stream.choice(["sin", "tanh", "atan", "abs", "sign", "floor"]), a * 0.5 + b),
            where(stream.choice(truths[-9:]), a, b),
            apply(stream.choice(["add", "sub", "mul", "min", "max"]), apply("cos", b), c),
            apply("not", stream.choice(truths)) * 0.25 + a / (2 + b * b),
        ]
    return [*nodes[-300:], *truths[-20:]]


@pytest.mark.parametrize("longest", [1, 7, 300])
def test_long_vector_functions_are_split_and_compute_the_same(monkeypatch, longest):
    monkeypatch.setattr(llvm, "_LONGEST", longest)
    wide, narrow, stream = ["x", "y"], ["p", "q"], np.random.default_rng(0)
    roots = tangle(wide, narrow)
    pieces = assembly([Function("f", [wide, narrow], [roots], frozenset([0]))]).count("define internal")
    assert pieces > (1 if longest == 300 else 50)
    vectors = {name: stream.normal(0, 1, WIDTH) for name in wide}
    found = assert_as_evaluated(roots, vectors, {"p": 0.4, "q": -1.3}, rtol=1e-9)
    assert np.mean(found != found[:, :1]) > 0.5  # or it would be all the same what a vector holds


def test_truths_cross_the_pieces_of_vector_functions(monkeypatch):
    monkeypatch.setattr(llvm, "_LONGEST", 1)
    x, p = symbol("x"), symbol("p")
    is_small, is_on = apply("lt", x, 0.5), apply("gt", p, 0)
    roots = [
        where(apply("and", is_small, is_on), x, p),
        where(apply("or", apply("not", is_small), is_on), p, x),
        where(is_on, x, 1),
        is_small,
        is_on,
    ]
    for p_ in (1.0, -1.0):
        assert_as_evaluated(roots, {"x": np.linspace(0, 1, WIDTH)}, {"p": p_})


def test_functions_without_vector_form_meet_numbers_and_vectors():
    x, p = symbol("x"), symbol("p")
    ops = ("log_gamma", "digamma", "tan", "asinh", "atanh", "acos", "sinh")
    roots = [apply(op, argument) + x for op in ops for argument in (x, p, x * p, x + 0.1)]
    assert_as_evaluated(roots, {"x": np.linspace(0.1, 0.8, WIDTH)}, {"p": 0.9}, rtol=1e-13)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_their_own_place(bad):
    roots = [(A + B) - A, (A - B) + B, (A * B) / A, A * B - A * C, 0.5 * A - 0.25 * A, A / A, A * (B - B * C)]
    values = vectors_at(roots, ["a", "b"], ["c"])
    for at in range(WIDTH):
        a = np.linspace(1, 2, WIDTH)
        b = a[::-1].copy()
        good = values({"a": a, "b": b}, {"c": 0.5})
        a[at] = bad
        found = values({"a": a, "b": b}, {"c": 0.5})
        assert not np.any(np.isfinite(found[:, at]))
        rest = np.arange(WIDTH) != at
        np.testing.assert_array_equal(found[:, rest], good[:, rest])
    found = values({"a": np.ones(WIDTH), "b": np.ones(WIDTH)}, {"c": bad})
    np.testing.assert_array_equal(np.isfinite(found), ~np.isin(np.arange(7), [3, 6])[:, None] & np.ones(WIDTH, bool))


def test_a_vector_does_in_each_place_what_a_number_does():
    roots = tangle(["x", "y"], ["p"])
    names, stream = ["x", "y", "p"], np.random.default_rng(1)
    vectors = {"x": stream.normal(0, 1, WIDTH), "y": stream.normal(0, 1, WIDTH)}
    of_vectors, alone = vectors_at(roots, ["x", "y"], ["p"]), values_at(roots, names)
    found = of_vectors(vectors, {"p": 0.3})
    for at in range(WIDTH):
        point = {"x": vectors["x"][at], "y": vectors["y"][at], "p": 0.3}
        np.testing.assert_allclose(found[:, at], alone(point), rtol=1e-9)
        copies = of_vectors({n: np.full(WIDTH, point[n]) for n in "xy"}, {"p": 0.3})
        np.testing.assert_array_equal(copies, found[:, at : at + 1] + np.zeros(WIDTH))


def test_vectors_need_not_lie_at_whole_vectors():
    room = np.arange(1 + 3 * WIDTH, dtype=float)
    inputs, out = room[1 : 1 + 2 * WIDTH], room[1 + 2 * WIDTH :]
    expected = inputs[:WIDTH] * inputs[WIDTH:]
    compiled([Function("f", [["a", "b"]], [[A * B]], frozenset([0]))], "f")(inputs, out)
    np.testing.assert_array_equal(out, expected)


def test_vector_functions_without_operations_store_what_they_are_given():
    found = assert_as_evaluated([A, B, ZERO, const(2.5), A], {"a": np.arange(8.0)}, {"b": 3.0})
    np.testing.assert_array_equal(found, [np.arange(8), [3] * 8, [0] * 8, [2.5] * 8, np.arange(8)])


def test_many_arrays_of_vectors_and_numbers():
    """As the functions of derivatives have them: outputs are vectors, even of what depends on none."""
    function = Function("f", [["a"], ["b"], ["c"]], [[A + C], [B * C, C]], frozenset([0, 1]))
    a, b, first, second = np.arange(8.0), np.arange(8.0) ** 2, np.zeros(8), np.zeros((2, 8))
    compiled([function], "f")(a, b, np.array([3.0]), first, second)
    np.testing.assert_array_equal(first, a + 3)
    np.testing.assert_array_equal(second, [b * 3, [3.0] * 8])
