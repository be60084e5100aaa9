"""Functions of vectors against the extended precision of NumPy, and the C library where numbers are not ordinary."""

import ctypes

import numpy as np
import pytest

from kinbayes.model.expressions import apply, symbol
from kinbayes.model.llvm import WIDTH, Function, machine_code
from kinbayes.model.vector_math import NAMES

X, N = symbol("x"), symbol("n")
ROOTS = {"exp": apply("exp", X), "log": apply("log", X), "pow": X**N}
NUM = 10_000 * WIDTH
ODD = np.array([0.0, -0.0, -1.5, np.inf, -np.inf, np.nan, 5e-324, 1e-310, 1e308, 709.9, 745.0, -745.5])


@pytest.fixture(scope="module")
def code():
    inputs = {name: [["x"], ["n"]] for name in NAMES}
    functions = [Function(f"vector_{n}", inputs[n], [[ROOTS[n]]], frozenset([0, 1])) for n in NAMES]
    return machine_code(functions)


def values(code, name, x, n=None):
    n = np.ones_like(x) if n is None else n
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(code.addresses[f"vector_{name}"])
    found = np.empty_like(x)
    for k in range(0, len(x), WIDTH):
        call(*(part[k:].ctypes.data for part in (x, n, found)))
    return found


def units(found, exact):
    """Return the largest error in units in the last place."""
    rounded = exact.astype(float)
    return float(np.max(np.abs(found.astype(np.longdouble) - exact) / np.spacing(np.abs(rounded))))


@pytest.mark.parametrize("limit", [1e-9, 1.0, 40.0, 699.0])
def test_exponentials(code, limit):
    x = np.random.default_rng(0).uniform(-limit, limit, NUM)
    assert units(values(code, "exp", x), np.exp(x.astype(np.longdouble))) < 1.5


@pytest.mark.parametrize("limit", [1e-9, 1e-3, 0.8, 40.0, 690.0])
def test_logarithms(code, limit):
    x = np.exp(np.random.default_rng(1).uniform(-limit, limit, NUM))
    assert units(values(code, "log", x), np.log(x.astype(np.longdouble))) < 1.5


def test_logarithms_around_where_the_exponent_changes(code):
    root = np.float64(0.5) ** 0.5
    near = np.concatenate(
        [np.nextafter(root * 2.0**e, side) for e in range(-8, 8) for side in (0.0, root * 2.0**e, 9e9)], None
    )
    x = near[: len(near) // WIDTH * WIDTH]
    assert units(values(code, "log", x), np.log(x.astype(np.longdouble))) < 1.5


def test_powers(code):
    stream = np.random.default_rng(2)
    x, n = np.exp(stream.uniform(-30, 30, NUM)), stream.uniform(-8, 8, NUM)
    exact = x.astype(np.longdouble) ** n.astype(np.longdouble)
    # A relative error of log x and the rounding of n log x, half an epsilon each, and that of the exponential.
    limit = 1.5 + 2 * np.abs(n * np.log(x))
    errors = np.abs(values(code, "pow", x, n) - exact) / np.spacing(exact.astype(float))
    assert np.all(errors < limit)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize("place", [0, 3, WIDTH - 1])
def test_odd_numbers_give_what_they_always_give(code, name, odd, place):
    x, exponents = np.linspace(0.5, 2.0, WIDTH), (2.5, 2.0, 0.0, -1.0, 300.0)
    x[place] = odd
    for n in exponents if name == "pow" else (1.0,):
        n = np.full(WIDTH, n)
        with np.errstate(all="ignore"):
            expected = {"exp": np.exp, "log": np.log, "pow": np.power}[name](*((x, n) if name == "pow" else (x,)))
        np.testing.assert_allclose(values(code, name, x, n), expected, rtol=1e-15)


def test_results_beyond_the_format_are_what_they_always_are(code):
    x = np.full(WIDTH, 10.0)
    for n in (305.0, 309.0, -309.0, -330.0, np.inf, -np.inf, np.nan):
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(values(code, "pow", x, np.full(WIDTH, n)), np.power(x, n), rtol=1e-13)
