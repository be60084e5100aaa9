import ctypes

import numpy as np
import pytest

from kinbayes.model import llvm
from kinbayes.model.expressions import OPERATIONS, ZERO, apply, const, evaluate, symbol, where
from kinbayes.model.llvm import Function, assembly, machine_code

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
