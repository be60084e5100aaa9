"""LU factors of W = gI − J for a fixed pattern of J: without pivoting by pattern, with pivoting where it is dense."""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Literal, NamedTuple

import numpy as np

from kinbayes.model.expressions import ZERO, Expr, apply, symbol, where


class Elimination(NamedTuple):
    """An elimination order of one pattern, and the pattern of the factors.

    Rows and columns are counted in elimination order.

    Attributes
    ----------
    order
        The row and column of W that is eliminated k-th.
    right
        For every pivot the columns right of it in its row, ascending.
    below
        For every pivot the rows below it in its column, ascending.
    num_updates
        Number of multiply-adds of the elimination.
    """

    order: tuple[int, ...]
    right: tuple[tuple[int, ...], ...]
    below: tuple[tuple[int, ...], ...]
    num_updates: int

    @property
    def place(self) -> tuple[int, ...]:
        """When each row and column of W is eliminated."""
        place = [0] * len(self.order)
        for k, row in enumerate(self.order):
            place[row] = k
        return tuple(place)

    @property
    def left(self) -> tuple[tuple[int, ...], ...]:
        """For every pivot the columns left of it in its row, ascending."""
        left: list[list[int]] = [[] for _ in self.order]
        for k, below in enumerate(self.below):
            for i in below:
                left[i].append(k)
        return tuple(map(tuple, left))


def elimination(size: int, rows: Sequence[int], columns: Sequence[int]) -> Elimination:
    """Return an elimination with little fill: always the pivot with the smallest Markowitz product, then number.

    Parameters
    ----------
    size
        Number of rows.
    rows, columns
        Where J has entries.

    References
    ----------
    Markowitz, H. M. (1957). The elimination form of the inverse and its application to linear programming.
    Management Science 3, 255-269. doi:10.1287/mnsc.3.3.255
    """
    # Sets of rows and columns are bits of integers.
    in_row, in_column = [1 << k for k in range(size)], [1 << k for k in range(size)]
    for i, j in zip(rows, columns, strict=True):
        in_row[i] |= 1 << j
        in_column[j] |= 1 << i
    cost = [(in_row[k].bit_count() - 1) * (in_column[k].bit_count() - 1) for k in range(size)]
    heap = [(cost[k], k) for k in range(size)]
    heapify(heap)
    place: dict[int, int] = {}
    steps: list[tuple[list[int], list[int]]] = []
    while heap:
        price, pivot = heappop(heap)
        if pivot in place or price != cost[pivot]:
            continue  # the cost has changed since; its new one is in the heap too
        place[pivot] = len(steps)
        row, column = in_row[pivot] ^ (1 << pivot), in_column[pivot] ^ (1 << pivot)
        right, below = _members(row), _members(column)
        for i in below:
            in_row[i] = (in_row[i] | row) & ~(1 << pivot)
        for j in right:
            in_column[j] = (in_column[j] | column) & ~(1 << pivot)
        for k in _members(row | column):
            cost[k] = (in_row[k].bit_count() - 1) * (in_column[k].bit_count() - 1)
            heappush(heap, (cost[k], k))
        steps.append((right, below))
    return Elimination(
        tuple(place),
        tuple(tuple(sorted(place[j] for j in right)) for right, _ in steps),
        tuple(tuple(sorted(place[i] for i in below)) for _, below in steps),
        sum(len(right) * len(below) for right, below in steps),
    )


def _members(bits: int) -> list[int]:
    return [k for k, bit in enumerate(reversed(f"{bits:b}")) if bit == "1"]


class SparseLU(NamedTuple):
    """Elimination and substitution of one pattern as straight-line expressions, in symbols that no file can use.

    `factors` are expressions in the symbols of `inputs` (the diagonal shift, then the entries of J); `solution` are
    expressions in the symbols of `factor_names` and `rhs_names`. The factors lie by rows in elimination order, L
    without its unit diagonal and U with the inverses of the pivots.
    """

    inputs: tuple[str, ...]
    factors: tuple[Expr, ...]
    factor_names: tuple[str, ...]
    rhs_names: tuple[str, ...]
    solution: tuple[Expr, ...]
    num_updates: int


def sparse_lu(size: int, rows: Sequence[int], columns: Sequence[int]) -> SparseLU:
    """Return the programs that factor gI − J without pivoting and solve with it.

    Parameters
    ----------
    size
        Number of rows.
    rows, columns
        Where J has entries.
    """
    plan = elimination(size, rows, columns)
    place, left = plan.place, plan.left
    shift, entries = symbol("shift"), [symbol(f"J {k}") for k in range(len(rows))]
    matrix: dict[tuple[int, int], Expr] = {(k, k): shift for k in range(size)}
    for i, j, entry in zip(rows, columns, entries, strict=True):
        key = (place[i], place[j])
        matrix[key] = matrix.get(key, ZERO) - entry
    for k in range(size):
        pivot = 1 / matrix[k, k]
        for i in plan.below[k]:
            multiplier = matrix[i, k] * pivot
            matrix[i, k] = multiplier
            for j in plan.right[k]:
                matrix[i, j] = matrix.get((i, j), ZERO) - multiplier * matrix[k, j]
        matrix[k, k] = pivot  # the inverse of the pivot is what substitution needs
    keys = [(i, j) for i in range(size) for j in (*left[i], i, *plan.right[i])]
    factor_names = tuple(f"F {k}" for k in range(len(keys)))
    factor = {key: symbol(name) for key, name in zip(keys, factor_names, strict=True)}
    rhs_names = tuple(f"b {k}" for k in range(size))
    x = [symbol(rhs_names[row]) for row in plan.order]
    for i in range(size):
        for j in left[i]:
            x[i] = x[i] - factor[i, j] * x[j]
    for i in reversed(range(size)):
        for j in reversed(plan.right[i]):  # the one that is known last comes last
            x[i] = x[i] - factor[i, j] * x[j]
        x[i] = x[i] * factor[i, i]
    return SparseLU(
        ("shift", *(e.value for e in entries)),
        tuple(matrix[key] for key in keys),
        factor_names,
        rhs_names,
        tuple(x[k] for k in place),
        plan.num_updates,
    )


class IndexedLU(NamedTuple):
    """Elimination and substitution of one pattern as arrays that loops run over.

    All are unsigned: a loop over signed indices would test each of them for a negative one. Rows and columns are
    counted in elimination order unless said; the factors lie as those of `SparseLU`.

    Attributes
    ----------
    order
        [size] The row and column of W that is eliminated k-th.
    entry_start
        [size + 1] Row k holds the entries of J number entry_start[k] to entry_start[k + 1] of the three below.
    entries
        [entries of J] The position of an entry among the values of J.
    entry_columns
        [entries of J] Its column.
    entry_states
        [entries of J] Its column in the order of W.
    start
        [size + 1] Row k of the factors is start[k] to start[k + 1].
    pivot
        [size] The position of the inverse pivot of row k; L lies before it and U behind.
    columns
        [factors] The column of a factor.
    """

    order: np.ndarray
    entry_start: np.ndarray
    entries: np.ndarray
    entry_columns: np.ndarray
    entry_states: np.ndarray
    start: np.ndarray
    pivot: np.ndarray
    columns: np.ndarray


def indexed_lu(size: int, rows: Sequence[int], columns: Sequence[int]) -> IndexedLU:
    """Return the arrays with which loops factor gI − J without pivoting and solve with it.

    Parameters
    ----------
    size
        Number of rows.
    rows, columns
        Where J has entries.
    """
    plan = elimination(size, rows, columns)
    place, left = plan.place, plan.left
    entries = sorted(range(len(rows)), key=lambda e: place[rows[e]])
    counts = np.bincount([place[row] for row in rows], minlength=size) if len(rows) else np.zeros(size)
    lengths = [len(left[k]) + 1 + len(plan.right[k]) for k in range(size)]
    start = np.concatenate([[0], np.cumsum(lengths)])
    arrays = (
        plan.order,
        np.concatenate([[0], np.cumsum(counts)]),
        entries,
        [place[columns[e]] for e in entries],
        [columns[e] for e in entries],
        start,
        start[:-1] + [len(left[k]) for k in range(size)],
        [j for k in range(size) for j in (*left[k], k, *plan.right[k])],
    )
    return IndexedLU(*(np.array(a, dtype=np.uint64) for a in arrays))


def method(size: int, num_updates: int) -> Literal["straight", "indexed", "dense"]:
    """Return the form that costs least over a posterior's million steps and more: straight, indexed or dense.

    A step factors once and solves eight times. Measured on one core of a 2.3 GHz Xeon, in µs a step, with the seconds
    that the straight-line code took to write and compile:

    ===================  =======  ========  =======  =====  ===========
    pattern              updates  straight  indexed  dense  compilation
    ===================  =======  ========  =======  =====  ===========
    chain of 500             499        14       28      –          0.3
    network of 40          1,546       1.9      4.9     15          0.2
    network of 80          2,282       2.6      6.3     39          0.4
    network of 150         8,649       8.6       15    120          1.3
    network of 200        21,449        17       26    217          2.9
    full, 20               2,470       2.5      3.9    6.1          0.3
    full, 60              70,210         –       42     45            –
    full, 120            568,820         –      307    195            –
    ===================  =======  ========  =======  =====  ===========

    Straight-line code runs twice as fast or more, but compiles for 0.13 ms an update: for a second at 8,000. Dense code
    gains only on rows that are long and full.
    """
    if num_updates <= 8000:
        return "straight"
    return "dense" if size > 64 and 4 * num_updates > size**3 else "indexed"


LARGEST_ERROR = 0.01


class Residual(NamedTuple):
    """How many entries of a solution of W x = b are wrong by more than they may be.

    `num_wrong` is an expression in the symbols of `inputs` (as those of `SparseLU`), `rhs_names`, `solution_names` and
    `weight_names`, the error that every entry may have.
    """

    inputs: tuple[str, ...]
    rhs_names: tuple[str, ...]
    solution_names: tuple[str, ...]
    weight_names: tuple[str, ...]
    num_wrong: Expr


def residual(size: int, rows: Sequence[int], columns: Sequence[int], *, tolerance: float = LARGEST_ERROR) -> Residual:
    """Return the program that counts the rows with |b − W x| above `tolerance` (g + |J_ii|) w_i.

    The residual over the diagonal is by what one Jacobi iteration would correct x, so this is its error beside the
    weights w, whatever the units. A small pivot, or any other growth of the factors, shows here as far as it matters; a
    NaN or infinity counts as wrong. A residual beside |W| |x| + |b| would show more, and too much: near the slow
    manifold of a stiff model it is large where the solution is good.

    Parameters
    ----------
    size
        Number of rows.
    rows, columns
        Where J has entries.
    tolerance
        The part of the weights that is allowed.
    """
    shift, entries = symbol("shift"), [symbol(f"J {k}") for k in range(len(rows))]
    b, x, w = ([symbol(f"{name} {k}") for k in range(size)] for name in "bxw")
    # J is subtracted apart from the shift: their cancellation on the diagonal loses digits, too.
    wrong = [b[k] - shift * x[k] for k in range(size)]
    diagonal: list[Expr] = [shift] * size
    for i, j, entry in zip(rows, columns, entries, strict=True):
        wrong[i] = wrong[i] + entry * x[j]
        if i == j:
            diagonal[i] = diagonal[i] + apply("abs", entry)
    limits = [tolerance * d * weight for d, weight in zip(diagonal, w, strict=True)]
    is_right = [apply("lt", apply("abs", r), limit) for r, limit in zip(wrong, limits, strict=True)]
    return Residual(
        ("shift", *(e.value for e in entries)),
        tuple(e.value for e in b),
        tuple(e.value for e in x),
        tuple(e.value for e in w),
        sum((where(right, 0, 1) for right in is_right), start=ZERO),
    )
