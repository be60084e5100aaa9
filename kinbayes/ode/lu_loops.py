"""LU factors by loops, for patterns too large for straight-line code: over index arrays, or dense with pivoting.

Both have the C signatures of the straight-line functions, with a pattern of whole numbers as the last argument, and
are called by address. Index arrays are unsigned: a loop over signed indices would test each for a negative one.
"""

import numba
import numpy as np
from jaxtyping import Int
from numba import types

from kinbayes.ode.intrinsics import compiled
from kinbayes.ode.numbers import WIDTH
from kinbayes.ode.sparse_lu import IndexedLU

_ONE = np.uint64(1)  # beside an unsigned number only an unsigned one stays whole
_SIZES = 3  # numbers before the arrays of a pattern
_pattern, _floats = types.CPointer(types.uint64), types.CPointer(types.float64)


_compiled = compiled(types.void(_floats, _floats, _floats, _pattern))


def indexed_pattern(lu: IndexedLU) -> Int[np.ndarray, " numbers"]:
    """Return what the indexed functions want of a pattern."""
    sizes = (lu.order.size, lu.entries.size, lu.columns.size)
    return np.concatenate([np.array(sizes, dtype=np.uint64), *lu]).astype(np.int64)


def dense_pattern(
    size: int, rows: Int[np.ndarray, " entries"], columns: Int[np.ndarray, " entries"]
) -> Int[np.ndarray, " numbers"]:
    """Return what the dense functions want of a pattern."""
    return np.concatenate([[size, rows.size, 0], rows, columns])


@_compiled
def indexed_factor(shift, jac, factors, pattern):
    """Set the factors to those of shift I - J, row by row in elimination order."""
    size, num_entries, num_factors = pattern[0], pattern[1], pattern[2]
    numbers = numba.carray(pattern, 2 * _SIZES + 4 * size + 3 * num_entries + num_factors)
    entry_start = numbers[_SIZES + size : _SIZES + 2 * size + 1]
    entries = numbers[_SIZES + 2 * size + 1 : _SIZES + 2 * size + 1 + num_entries]
    entry_columns = numbers[_SIZES + 2 * size + 1 + num_entries : _SIZES + 2 * size + 1 + 2 * num_entries]
    behind = _SIZES + 2 * size + 1 + 3 * num_entries
    start, pivot = numbers[behind : behind + size + 1], numbers[behind + size + 1 : behind + 2 * size + 1]
    columns = numbers[behind + 2 * size + 1 : behind + 2 * size + 1 + num_factors]
    memory = numba.carray(factors, num_factors + size)
    row = memory[num_factors:]
    for i in range(size):
        for p in range(start[i], start[i + _ONE]):
            row[columns[p]] = 0.0
        for e in range(entry_start[i], entry_start[i + _ONE]):
            row[entry_columns[e]] -= jac[entries[e]]
        row[i] += shift[0]
        for p in range(start[i], pivot[i]):
            k = columns[p]
            multiplier = row[k] * memory[pivot[k]]
            memory[p] = multiplier
            for q in range(pivot[k] + _ONE, start[k + _ONE]):
                row[columns[q]] -= multiplier * memory[q]
        memory[pivot[i]] = 1.0 / row[i]
        for p in range(pivot[i] + _ONE, start[i + _ONE]):
            memory[p] = row[columns[p]]


@_compiled
def indexed_solve(rhs, factors, solution, pattern):
    """Set the solution to that for a right-hand side."""
    size, num_entries, num_factors = pattern[0], pattern[1], pattern[2]
    numbers = numba.carray(pattern, 2 * _SIZES + 4 * size + 3 * num_entries + num_factors)
    order = numbers[_SIZES : _SIZES + size]
    behind = _SIZES + 2 * size + 1 + 3 * num_entries
    start, pivot = numbers[behind : behind + size + 1], numbers[behind + size + 1 : behind + 2 * size + 1]
    columns = numbers[behind + 2 * size + 1 : behind + 2 * size + 1 + num_factors]
    memory = numba.carray(factors, num_factors + size)
    x = memory[num_factors:]
    for i in range(size):
        total = rhs[order[i]]
        for p in range(start[i], pivot[i]):
            total -= memory[p] * x[columns[p]]
        x[i] = total
    for back in range(size):
        i = size - _ONE - back
        total = x[i]
        for p in range(pivot[i] + _ONE, start[i + _ONE]):
            total -= memory[p] * x[columns[p]]
        x[i] = total * memory[pivot[i]]
        solution[order[i]] = x[i]


@_compiled
def indexed_solve_block(block, factors, scratch, pattern):
    """Set every right-hand side of a block (size, WIDTH) to its solution; the scratch is as large."""
    size, num_entries, num_factors = pattern[0], pattern[1], pattern[2]
    numbers = numba.carray(pattern, 2 * _SIZES + 4 * size + 3 * num_entries + num_factors)
    order = numbers[_SIZES : _SIZES + size]
    behind = _SIZES + 2 * size + 1 + 3 * num_entries
    start, pivot = numbers[behind : behind + size + 1], numbers[behind + size + 1 : behind + 2 * size + 1]
    columns = numbers[behind + 2 * size + 1 : behind + 2 * size + 1 + num_factors]
    memory = numba.carray(factors, num_factors + size)
    given, x = numba.carray(block, (size, WIDTH)), numba.carray(scratch, (size, WIDTH))
    for i in range(size):
        for c in range(WIDTH):
            x[i, c] = given[order[i], c]
        for p in range(start[i], pivot[i]):
            for c in range(WIDTH):
                x[i, c] -= memory[p] * x[columns[p], c]
    for back in range(size):
        i = size - _ONE - back
        for p in range(pivot[i] + _ONE, start[i + _ONE]):
            for c in range(WIDTH):
                x[i, c] -= memory[p] * x[columns[p], c]
        for c in range(WIDTH):
            x[i, c] *= memory[pivot[i]]
            given[order[i], c] = x[i, c]


@_compiled
def dense_factor(shift, jac, factors, pattern):
    """Set the factors to those of shift I - J with partial pivoting, row by row, and the exchanges of rows."""
    size, num_entries = np.int64(pattern[0]), np.int64(pattern[1])
    a = numba.carray(factors, (size, size))
    pivots = numba.carray(factors, size * size + size)[size * size :]
    numbers = numba.carray(pattern, _SIZES + 2 * num_entries)
    rows, columns = numbers[_SIZES : _SIZES + num_entries], numbers[_SIZES + num_entries :]
    for i in range(size):
        for j in range(size):
            a[i, j] = 0.0
        a[i, i] = shift[0]
    for e in range(num_entries):
        a[rows[e], columns[e]] -= jac[e]
    for k in range(size):
        best, largest = k, abs(a[k, k])
        for i in range(k + 1, size):
            here = abs(a[i, k])
            if here > largest:
                best, largest = i, here
        pivots[k] = best
        if best != k:
            upper, lower = a[k], a[best]
            for j in range(size):
                held = upper[j]
                upper[j] = lower[j]
                lower[j] = held
        a[k, k] = 1.0 / a[k, k]
        source = a[k, k + 1 :]
        for i in range(k + 1, size):
            multiplier = a[i, k] * a[k, k]
            if multiplier != 0.0:
                a[i, k] = multiplier
                target = a[i, k + 1 :]
                for j in range(source.size):
                    target[j] -= multiplier * source[j]


@_compiled
def dense_solve(rhs, factors, solution, pattern):
    """Set the solution to that for a right-hand side."""
    size = np.int64(pattern[0])
    a = numba.carray(factors, (size, size))
    pivots = numba.carray(factors, size * size + size)[size * size :]
    x = numba.carray(solution, size)
    for i in range(size):
        x[i] = rhs[i]
    for i in range(size):
        place = np.int64(pivots[i])
        total = x[place]
        x[place] = x[i]
        row = a[i, :i]
        for j in range(row.size):
            total -= row[j] * x[j]
        x[i] = total
    for back in range(size):
        i = size - 1 - back
        total = x[i]
        row, after = a[i, i + 1 :], x[i + 1 :]
        for j in range(row.size):
            total -= row[j] * after[j]
        x[i] = total * a[i, i]


@_compiled
def dense_solve_block(block, factors, scratch, pattern):
    """Set every right-hand side of a block (size, WIDTH) to its solution; no scratch is needed."""
    size = np.int64(pattern[0])
    a = numba.carray(factors, (size, size))
    pivots = numba.carray(factors, size * size + size)[size * size :]
    x = numba.carray(block, (size, WIDTH))
    for i in range(size):
        place = np.int64(pivots[i])
        for c in range(WIDTH):
            held = x[place, c]
            x[place, c] = x[i, c]
            x[i, c] = held
        for j in range(i):
            for c in range(WIDTH):
                x[i, c] -= a[i, j] * x[j, c]
    for back in range(size):
        i = size - 1 - back
        for j in range(i + 1, size):
            for c in range(WIDTH):
                x[i, c] -= a[i, j] * x[j, c]
        for c in range(WIDTH):
            x[i, c] *= a[i, i]
