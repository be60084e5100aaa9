import ctypes
import functools
import random

import numpy as np
import pytest

from kinbayes.model.expressions import evaluate
from kinbayes.model.llvm import Function, machine_code
from kinbayes.ode.sparse_lu import (
    elimination,
    indexed_lu,
    method,
    residual,
    sparse_lu,
)


def chain(size):
    return size, sorted({(i, j) for i in range(size) for j in (i - 1, i, i + 1) if 0 <= j < size})


def network(size, num_reactions, seed):
    """The pattern of reactions A + B -> C."""
    stream, found = random.Random(seed), set()
    for _ in range(num_reactions):
        a, b, c = stream.sample(range(size), 3)
        found |= {(i, j) for i in (a, b, c) for j in (a, b)}
    return size, sorted(found)


def full(size):
    return size, [(i, j) for i in range(size) for j in range(size)]


def arrow(size):
    return size, sorted({(i, j) for i in range(size) for j in range(size) if i == j or 0 in (i, j)})


PATTERNS = {
    "1x1": full(1),
    "no entries": (3, []),
    "no diagonal": (3, [(0, 2), (1, 0), (2, 1)]),
    "chain": chain(40),
    "arrow": arrow(12),
    "full": full(9),
    "blocks": (9, [(3 * k + i, 3 * k + j) for k in range(3) for i in range(3) for j in range(3) if i + j != 3]),
    "network": network(25, 30, seed=1),
    "sparse network": network(40, 20, seed=2),
}


def split(entries):
    return [i for i, _ in entries], [j for _, j in entries]


def matrix(size, entries, values, shift):
    w = shift * np.eye(size)
    for (i, j), value in zip(entries, values, strict=True):
        w[i, j] -= value
    return w


class Compiled:
    """A function as machine code, called with NumPy arrays."""

    def __init__(self, inputs, outputs):
        self.code = machine_code([Function("f", inputs, [outputs])])
        self.pointer = ctypes.POINTER(ctypes.c_double)
        self.run = ctypes.CFUNCTYPE(None, *[self.pointer] * (len(inputs) + 1))(self.code.addresses["f"])
        self.size = len(outputs)

    def __call__(self, *arrays):
        out = np.full(self.size, np.nan)
        kept = [np.array(a, dtype=float, ndmin=1) for a in (*arrays, out)]
        self.run(*(a.ctypes.data_as(self.pointer) for a in kept))
        return kept[-1]


@functools.cache
def straight(size, entries):
    lu = sparse_lu(size, *split(entries))
    factor = Compiled([["shift"], lu.inputs[1:]], lu.factors)
    return factor, Compiled([lu.factor_names, lu.rhs_names], lu.solution)


@functools.cache
def check(size, entries, **settings):
    parts = residual(size, *split(entries), **settings)
    names = [["shift"], parts.inputs[1:], parts.rhs_names, parts.solution_names, parts.weight_names]
    return Compiled(names, [parts.num_wrong])


def solve(size, entries, values, shift, b):
    """Return the factors and the solution of the straight-line code."""
    factor, substitute = straight(size, tuple(entries))
    factors = factor(shift, values)
    return factors, substitute(factors, b)


def num_wrong(size, entries, values, shift, b, x, *, weights=1e-6, **settings):
    weights = np.broadcast_to(weights, size).astype(float)
    return check(size, tuple(entries), **settings)(shift, values, b, x, weights)[0]


def indexed_factor(arrays, values, shift):
    """Return the factors from index arrays, with the plainest loops there are."""
    (_, entry_start, entries, entry_columns, _, start, pivot, columns) = (a.tolist() for a in arrays)
    factors = np.full(len(columns), np.nan)
    for i in range(len(pivot)):
        row = dict.fromkeys(columns[start[i] : start[i + 1]], 0.0)
        row[i] += shift
        for e in range(entry_start[i], entry_start[i + 1]):
            row[entry_columns[e]] -= values[entries[e]]
        for k in columns[start[i] : pivot[i]]:
            row[k] *= factors[pivot[k]]
            for p in range(pivot[k] + 1, start[k + 1]):
                row[columns[p]] -= row[k] * factors[p]
        row[i] = 1 / row[i]
        factors[start[i] : start[i + 1]] = list(row.values())
    return factors


def indexed_solve(arrays, factors, b):
    order, start, pivot, columns = (a.tolist() for a in (arrays.order, arrays.start, arrays.pivot, arrays.columns))
    w, x = [0.0] * len(order), np.full(len(order), np.nan)
    for i in range(len(order)):
        w[i] = b[order[i]] - sum(factors[p] * w[columns[p]] for p in range(start[i], pivot[i]))
    for i in reversed(range(len(order))):
        above = sum(factors[p] * w[columns[p]] for p in range(pivot[i] + 1, start[i + 1]))
        x[order[i]] = w[i] = (w[i] - above) * factors[pivot[i]]
    return x


def values_of(size, entries, seed=0):
    stream = np.random.RandomState(seed)
    return stream.randn(len(entries)), stream.randn(size)


@pytest.mark.parametrize("name", PATTERNS)
def test_straight_line_code_solves_as_numpy_does(name):
    size, entries = PATTERNS[name]
    values, b = values_of(size, entries)
    shift = 1.0 + np.abs(values).sum()
    _, x = solve(size, entries, values, shift, b)
    np.testing.assert_allclose(x, np.linalg.solve(matrix(size, entries, values, shift), b), rtol=1e-12)
    assert num_wrong(size, entries, values, shift, b, x) == 0


@pytest.mark.parametrize("name", PATTERNS)
def test_indexed_factors_are_those_of_the_straight_line_code(name):
    size, entries = PATTERNS[name]
    # The entries may come in any order.
    entries = random.Random(3).sample(entries, len(entries))
    values, b = values_of(size, entries)
    shift = 1.0 + np.abs(values).sum()
    factors, x = solve(size, entries, values, shift, b)
    arrays = indexed_lu(size, *split(entries))
    assert {a.dtype for a in arrays} == {np.dtype(np.uint64)}
    indexed = indexed_factor(arrays, values, shift)
    np.testing.assert_allclose(indexed, factors, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(indexed_solve(arrays, indexed, b), x, rtol=1e-13)
    np.testing.assert_array_equal(arrays.entry_columns, np.argsort(arrays.order)[arrays.entry_states])


@pytest.mark.parametrize("name", PATTERNS)
def test_the_pivot_is_always_the_cheapest_of_those_left(name):
    size, entries = PATTERNS[name]
    plan = elimination(size, *split(entries))
    pattern = np.eye(size, dtype=bool)
    for i, j in entries:
        pattern[i, j] = True
    left, num_updates = set(range(size)), 0
    for step, pivot in enumerate(plan.order):
        rest = sorted(left)
        cost = {k: (pattern[k, rest].sum() - 1) * (pattern[rest, k].sum() - 1) for k in rest}
        assert pivot == min(rest, key=lambda k: (cost[k], k))
        left.remove(pivot)
        right = {j for j in left if pattern[pivot, j]}
        below = {i for i in left if pattern[i, pivot]}
        assert {plan.order[j] for j in plan.right[step]} == right
        assert {plan.order[i] for i in plan.below[step]} == below
        for i in below:
            pattern[i, list(right)] = True
        num_updates += len(right) * len(below)
    assert plan.num_updates == num_updates


def test_chains_and_arrows_fill_nothing():
    assert elimination(500, *split(chain(500)[1])).num_updates == 499
    assert elimination(500, *split(arrow(500)[1])).num_updates == 499


def test_the_form_follows_the_work():
    assert method(8, 30) == "straight"
    assert method(500, 499) == "straight"  # a chain, however long
    assert method(150, 8_649) == "indexed"
    assert method(500, 268_153) == "indexed"
    assert method(40, 20_540) == "indexed"
    assert method(120, 568_820) == "dense"


def test_a_program_that_overflows_or_meets_a_zero_pivot_is_not_called_right():
    size, entries = 2, [(0, 1), (1, 0)]
    values, b = np.array([1.0, 1.0]), np.array([1.0, 2.0])
    _, x = solve(size, entries, values, 0.0, b)
    assert not np.isfinite(x).all()
    assert num_wrong(size, entries, values, 0.0, b, x) > 0


def autocatalysis(digits):
    """Return A + B -> 2 B, B -> A (B first) where the shift meets the growth rate of B up to 10^-digits."""
    size, entries = full(2)
    a, b = 4.0, 0.5  # amounts; both rate constants are 1
    return size, entries, np.array([a - 1, b, 1 - a, -b]), (a - 1) * (1 + 10.0**-digits)


def hollow(digits):
    """Return three states that feed each other and lose nothing: pivots as small as the shift."""
    size, entries = 3, [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    return size, entries, np.array([1.0, 2.0, 3.0, -1.0, -2.0, 0.5]), 10.0**-digits


def singular_block(digits):
    """Return a matrix whose first eliminated blocks are nearly singular, far from any single small entry."""
    size, entries = full(4)
    values = np.array([2.0, 1.0, 0.3, 0.1, 1.0, 2.0, 0.2, 0.7, 0.4, 0.1, -5.0, 1.0, 0.6, 0.2, 1.0, -7.0])
    return size, entries, values, 3.0 + 10.0**-digits  # an eigenvalue of the leading block is 3


def rescaled(case, decades):
    """Return the same system with states in units that differ by many decades."""
    size, entries, values, shift = case
    unit = 10.0 ** np.linspace(0, decades, size)
    return size, entries, np.array([v * unit[i] / unit[j] for (i, j), v in zip(entries, values, strict=True)]), shift


TRAPS = {"autocatalysis": autocatalysis, "hollow": hollow, "singular block": singular_block}


@pytest.mark.parametrize("decades", [0, 8, -8])
@pytest.mark.parametrize("trap", TRAPS)
def test_lost_digits_are_seen_and_kept_ones_raise_no_alarm(trap, decades):
    stream, lost, kept = np.random.RandomState(5), 0, 0
    for digits in (*np.arange(0.0, 3.0, 0.5), *np.arange(8.0, 14.0, 0.5)):
        case = rescaled(TRAPS[trap](digits), decades)
        size, entries, values, shift = case
        unit = 10.0 ** np.linspace(0, decades, size)
        b = stream.randn(size) * unit
        _, x = solve(size, entries, values, shift, b)
        w = matrix(size, entries, values, shift)
        scaled = w * unit / unit[:, None]
        reference = np.linalg.solve(scaled, b / unit) * unit
        error = np.max(np.abs(x - reference) / unit) / np.max(np.abs(reference) / unit)
        # A solution may be wrong by 1e-6 of its size. The control: with pivoting the same systems are solved.
        weights = 1e-6 * np.max(np.abs(reference) / unit) * unit
        # Where no state decays by itself and the step is huge, even rounding raises an alarm: the step is halved.
        if trap != "hollow":
            assert num_wrong(size, entries, values, shift, b, reference, weights=weights) == 0
        alarm = num_wrong(size, entries, values, shift, b, x, weights=weights) > 0
        if error > 1e-6:
            assert alarm
            lost += 1
        if digits < 3:
            assert not alarm
            kept += 1
    assert lost >= 2
    assert kept == 6


def test_halving_the_step_ends_the_alarm():
    size, entries, values, shift = singular_block(13.0)
    b, alarms = np.array([1.0, -2.0, 0.5, 3.0]), []
    for _ in range(3):
        _, x = solve(size, entries, values, shift, b)
        alarms.append(num_wrong(size, entries, values, shift, b, x, weights=1e-8) > 0)
        shift *= 2
    assert alarms == [True, False, False]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_solution_that_is_not_finite_is_wrong(bad):
    size, b = 3, np.array([1.0, -2.0, 0.0])
    assert num_wrong(size, [], np.array([]), 2.0, b, b / 2) == 0
    assert num_wrong(size, [], np.array([]), 2.0, b, np.array([0.5, bad, 0.0])) == 1


def test_an_error_in_any_solution_entry_counts_the_rows_it_spoils():
    size, entries = chain(6)
    values, b = values_of(size, entries)
    _, x = solve(size, entries, values, 9.0, b)
    for weights, wanted in ((1e-9, 3), (1e-2, 0)):
        spoiled = x.copy()
        spoiled[3] *= 1 + 1e-6
        assert num_wrong(size, entries, values, 9.0, b, spoiled, weights=weights) == wanted


def test_near_a_slow_manifold_cancellation_raises_no_alarm():
    # Two fast fluxes of 1e10 cancel but for 1e-6: a residual beside |W| |x| + |b| is large, the solution is good.
    size, entries = 3, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (2, 2)]
    values, b = np.array([-1e10, 1e4, 1e10, -1e4, 1e-3, -1e-3]), np.array([1e-6, -1e-6, 0.0])
    _, x = solve(size, entries, values, 1e-4, b)
    assert num_wrong(size, entries, values, 1e-4, b, x, weights=1e-9) == 0


def test_states_that_died_out_raise_no_alarm():
    # Subnormal numbers have few digits: 4 / 3 of the smallest one is the smallest one.
    size, entries, values = 2, [(0, 0), (1, 0), (1, 1)], np.array([-0.1, 0.1, -0.3])
    b = np.array([5e-324, 0.0])
    _, x = solve(size, entries, values, 0.7, b)
    assert num_wrong(size, entries, values, 0.7, b, x) == 0


def test_the_check_knows_a_right_solution_only_by_its_equations():
    size, entries = full(3)
    values, b = values_of(size, entries)
    parts = residual(size, *split(entries))
    known = dict(zip(parts.inputs, [8.0, *values], strict=True)) | dict(zip(parts.rhs_names, b, strict=True))
    known |= dict.fromkeys(parts.weight_names, 1e-6)
    right = np.linalg.solve(matrix(size, entries, values, 8.0), b)
    spoiled = (np.array([bad, *right[1:]]) for bad in (np.nan, np.inf, -np.inf))
    for x, wanted in ((right, 0), (np.zeros(3), 3), *((x, 3) for x in spoiled)):
        assert evaluate([parts.num_wrong], known | dict(zip(parts.solution_names, x, strict=True)))[0] == wanted
