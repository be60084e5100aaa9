"""Loops over patterns against NumPy, and against the check that the integrator trusts."""

import ctypes

import numpy as np
import pytest

from kinbayes.ode import lu_loops
from kinbayes.ode.numbers import WIDTH
from kinbayes.ode.sparse_lu import indexed_lu
from tests.ode.test_sparse_lu import PATTERNS, TRAPS, matrix, network, rescaled, split, values_of

POINTER = ctypes.POINTER(ctypes.c_double)
KINDS = ("indexed", "dense")


def pattern_of(kind, size, entries):
    rows, columns = (np.array(part, dtype=np.int64) for part in split(entries))
    if kind == "indexed":
        plan = indexed_lu(size, rows.tolist(), columns.tolist())
        return lu_loops.indexed_pattern(plan), plan.columns.size + size
    return lu_loops.dense_pattern(size, rows, columns), size * size + size


def call(function, *arrays):
    arrays = [np.ascontiguousarray(a) for a in arrays]
    run = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(arrays))(function.address)
    run(*(a.ctypes.data for a in arrays))


def solve(kind, size, entries, values, shift, *right_sides):
    """Return the solutions from one factorization, into memory that held NaN."""
    pattern, num_factors = pattern_of(kind, size, entries)
    factors = np.full(num_factors, np.nan)
    call(getattr(lu_loops, f"{kind}_factor"), np.array([shift]), np.array(values, dtype=float), factors, pattern)
    found = [np.full(size, np.nan) for _ in right_sides]
    for b, x in zip(right_sides, found, strict=True):
        call(getattr(lu_loops, f"{kind}_solve"), b, factors, x, pattern)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PATTERNS)
def test_loops_solve_as_numpy_does(name, kind):
    size, entries = PATTERNS[name]
    values, b = values_of(size, entries)
    shift = 1.0 + np.abs(values).sum()
    w = matrix(size, entries, values, shift)
    first, second = solve(kind, size, entries, values, shift, b, b[::-1].copy())
    np.testing.assert_allclose(first, np.linalg.solve(w, b), rtol=1e-12)
    np.testing.assert_allclose(second, np.linalg.solve(w, b[::-1]), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PATTERNS)
def test_blocks_are_solved_as_their_columns_are(name, kind):
    size, entries = PATTERNS[name]
    values, _ = values_of(size, entries)
    shift = 1.0 + np.abs(values).sum()
    block = np.random.default_rng(4).normal(size=(size, WIDTH))
    pattern, num_factors = pattern_of(kind, size, entries)
    factors, found, scratch = np.full(num_factors, np.nan), block.copy(), np.full(block.shape, np.nan)
    call(getattr(lu_loops, f"{kind}_factor"), np.array([shift]), np.array(values, dtype=float), factors, pattern)
    call(getattr(lu_loops, f"{kind}_solve_block"), found, factors, scratch, pattern)
    np.testing.assert_allclose(found, np.linalg.solve(matrix(size, entries, values, shift), block), rtol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_entries_may_come_in_any_order(kind):
    size, entries = network(25, 30, seed=1)
    values, b = values_of(size, entries)
    shift = 1.0 + np.abs(values).sum()
    order = np.random.RandomState(2).permutation(len(entries))
    (plain,) = solve(kind, size, entries, values, shift, b)
    (shuffled,) = solve(kind, size, [entries[k] for k in order], values[order], shift, b)
    np.testing.assert_allclose(shuffled, plain, rtol=1e-13)


@pytest.mark.parametrize("trap", TRAPS)
def test_exchanges_keep_the_digits_that_a_fixed_order_loses(trap):
    for digits, is_lost in ((0.0, False), (1.0, False), (11.0, True), (13.0, True)):
        case = TRAPS[trap](digits)
        unit = 10.0 ** np.linspace(0, 4, case[0])
        b = np.linspace(-1, 2, case[0])
        reference = np.linalg.solve(matrix(*case), b)
        error = {}
        for kind in KINDS:
            (x,) = solve(kind, *rescaled(case, 4), b * unit)
            error[kind] = np.max(np.abs(x / unit - reference)) / np.max(np.abs(reference))
        assert error["dense"] < 1e-9
        assert (error["indexed"] > 1e-8) == is_lost


@pytest.mark.parametrize("size", [1, 2, 5, 30, 70])
def test_dense_loops_exchange_rows(size):
    num_compared = 0
    for seed in range(20):
        stream = np.random.RandomState(seed)
        entries = [(i, j) for i in range(size) for j in range(size) if stream.rand() < 0.5]
        values, b = stream.randn(len(entries)), stream.randn(size)
        w = matrix(size, entries, values, 1e-3)
        if np.linalg.cond(w) < 1e8:
            (x,) = solve("dense", size, entries, values, 1e-3, b)
            np.testing.assert_allclose(x, np.linalg.solve(w, b), rtol=1e-6, atol=1e-8)
            num_compared += 1
    assert num_compared >= 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_zero_pivot_gives_no_number_that_looks_right(kind):
    (x,) = solve(kind, 2, [(0, 0), (0, 1), (1, 0), (1, 1)], [1.0, 1.0, 1.0, 1.0], 2.0, np.array([1.0, 2.0]))
    assert not np.any(np.isfinite(x))


@pytest.mark.parametrize("kind", KINDS)
def test_nan_and_infinity_pass_on(kind):
    size, entries = PATTERNS["chain"]
    values, b = values_of(size, entries)
    shift = 1.0 + np.abs(values).sum()
    at = np.arange(len(entries)) == 5
    assert not np.all(np.isfinite(solve(kind, size, entries, np.where(at, np.nan, values), shift, b)[0]))
    for bad in (np.nan, np.inf):
        spoiled = np.where(np.arange(size) == 3, bad, b)
        assert not np.all(np.isfinite(solve(kind, size, entries, values, shift, spoiled)[0]))
