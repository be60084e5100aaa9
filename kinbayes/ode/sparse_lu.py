"""Sparse LU without pivoting of W = gI − J, for a fixed pattern of J, as straight-line expressions."""

from collections.abc import Sequence
from typing import NamedTuple

from kinbayes.model.expressions import ZERO, Expr, symbol


class SparseLU(NamedTuple):
    """Elimination and substitution of one pattern.

    `factors` are expressions in the symbols of `inputs` (the diagonal shift, then the entries of J); `solution` are
    expressions in the symbols of `factor_names` and `rhs_names`.
    """

    inputs: tuple[str, ...]
    factors: tuple[Expr, ...]
    factor_names: tuple[str, ...]
    rhs_names: tuple[str, ...]
    solution: tuple[Expr, ...]
    num_updates: int


def minimum_degree(size: int, rows: Sequence[int], columns: Sequence[int]) -> list[int]:
    """Return an elimination order with little fill: always the pivot with the smallest Markowitz product.

    References
    ----------
    Markowitz, H. M. (1957). The elimination form of the inverse and its application to linear programming.
    Management Science 3, 255-269. doi:10.1287/mnsc.3.3.255
    """
    in_row: list[set[int]] = [{k} for k in range(size)]
    in_column: list[set[int]] = [{k} for k in range(size)]
    for i, j in zip(rows, columns, strict=True):
        in_row[i].add(j)
        in_column[j].add(i)
    order: list[int] = []
    left = set(range(size))
    while left:
        pivot = min(left, key=lambda k: ((len(in_row[k]) - 1) * (len(in_column[k]) - 1), k))
        for i in in_column[pivot] - {pivot}:
            in_row[i] |= in_row[pivot] - {pivot}
            in_row[i].discard(pivot)
        for j in in_row[pivot] - {pivot}:
            in_column[j] |= in_column[pivot] - {pivot}
            in_column[j].discard(pivot)
        left.remove(pivot)
        order.append(pivot)
    return order


def sparse_lu(size: int, rows: Sequence[int], columns: Sequence[int]) -> SparseLU:
    """Return the programs that factor gI − J and solve with it.

    Parameters
    ----------
    size
        Number of rows.
    rows, columns
        Where J has entries.
    """
    order = minimum_degree(size, rows, columns)
    place = {row: k for k, row in enumerate(order)}
    shift, entries = symbol("shift"), [symbol(f"J{k}") for k in range(len(rows))]
    matrix: dict[tuple[int, int], Expr] = {(k, k): shift for k in range(size)}
    for i, j, entry in zip(rows, columns, entries, strict=True):
        key = (place[i], place[j])
        matrix[key] = matrix.get(key, ZERO) - entry
    num_updates = 0
    for k in range(size):
        pivot = 1 / matrix[k, k]
        right = [j for j in range(k + 1, size) if (k, j) in matrix]
        for i in range(k + 1, size):
            if (i, k) in matrix:
                multiplier = matrix[i, k] * pivot
                matrix[i, k] = multiplier
                for j in right:
                    matrix[i, j] = matrix.get((i, j), ZERO) - multiplier * matrix[k, j]
                    num_updates += 1
        matrix[k, k] = pivot  # the inverse of the pivot is what substitution needs
    keys = sorted(matrix)
    factor_names = tuple(f"F{k}" for k in range(len(keys)))
    factor = {key: symbol(name) for key, name in zip(keys, factor_names, strict=True)}
    rhs_names = tuple(f"b{k}" for k in range(size))
    x = [symbol(rhs_names[order[k]]) for k in range(size)]
    for i, j in keys:
        if j < i:
            x[i] = x[i] - factor[i, j] * x[j]
    for i in reversed(range(size)):
        for j in range(i + 1, size):
            if (i, j) in factor:
                x[i] = x[i] - factor[i, j] * x[j]
        x[i] = x[i] * factor[i, i]
    return SparseLU(
        ("shift", *(e.value for e in entries)),
        tuple(matrix[key] for key in keys),
        factor_names,
        rhs_names,
        tuple(x[place[k]] for k in range(size)),
        num_updates,
    )
