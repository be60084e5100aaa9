import ctypes

import numpy as np
import pytest

from kinbayes.model.expressions import OPERATIONS, ZERO, apply, const, evaluate, symbol, where
from kinbayes.model.llvm import Function, assembly, machine_code

A, B, C = symbol("a"), symbol("b"), symbol("c")


def call(functions, name, *arrays):
    """Run one compiled function over NumPy arrays."""
    code = machine_code(functions)
    pointer = ctypes.POINTER(ctypes.c_double)
    run = ctypes.CFUNCTYPE(None, *[pointer] * len(arrays))(code.addresses[name])
    run(*(a.ctypes.data_as(pointer) for a in arrays))


def values(roots, names, point):
    out = np.full(len(roots), -77.0)
    call([Function("f", [names], [roots])], "f", np.array([point[n] for n in names]), out)
    return out


@pytest.mark.parametrize("op", OPERATIONS)
def test_every_operation_is_that_of_numpy(op):
    arguments = {1: (A,), 2: (A, B), 3: (apply("lt", A, B), A, B)}
    count = 3 if op == "where" else getattr(OPERATIONS[op].numpy, "nin", 1)
    expression = apply(op, *arguments[count])
    for a in (0.3, 0.5, 1.7, 0.0, -0.4, np.inf, -np.inf, np.nan):
        for b in (0.5, 0.2, 0.0, -2.0, np.inf, np.nan):
            if (op, a, b) == ("pow", -np.inf, 0.5):
                continue  # C has infinity there; NumPy takes the square root
            point = {"a": a, "b": b}
            wanted = float(evaluate([expression], point)[0])
            np.testing.assert_allclose(values([expression], ["a", "b"], point)[0], wanted, rtol=1e-14)


@pytest.mark.parametrize("exponent", [*range(-17, 18), 0.5, -0.5, 2.5, 1e3])
def test_powers_with_constant_exponents_are_numpys(exponent):
    for a in (0.7, 1.9, -1.3, 0.0):
        with np.errstate(all="ignore"):
            wanted = np.power(a, float(exponent))
        np.testing.assert_allclose(values([A**exponent], ["a"], {"a": a})[0], wanted, rtol=1e-14)


def test_arrays_in_and_arrays_out():
    function = Function("f", [["a", "b"], ["c"]], [[A + C, const(2.5)], [B, ZERO, A * B]])
    first, second = np.zeros(2), np.zeros(3)
    call([function], "f", np.array([3.0, 4.0]), np.array([10.0]), first, second)
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
    np.testing.assert_allclose(values(roots, ["a", "b", "c"], point), evaluate(roots, point), rtol=1e-12)


def test_a_function_without_operations_stores_its_inputs():
    np.testing.assert_array_equal(values([A, A, ZERO], ["a"], {"a": 4.0}), [4.0, 4.0, 0.0])


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"function 'f' uses \['c'\]"):
        machine_code([Function("f", [["a"]], [[A + C]])])
