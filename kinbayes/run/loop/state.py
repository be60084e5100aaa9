"""The state of an algorithm as bytes, and the state again from these in another process."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree


class Leaves(NamedTuple):
    """Hold the arrays of a state one after the other.

    Attributes
    ----------
    layout
        Name, type and shape of each.
    data
        Their bytes.
    """

    layout: tuple[tuple[str, str, tuple[int, ...]], ...]
    data: bytes


def leaves(state: PyTree) -> Leaves:
    """Return a state's arrays as bytes."""
    found = [
        (jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]
    layout = tuple((name, leaf.dtype.str, leaf.shape) for name, leaf in found)
    return Leaves(layout, b"".join(leaf.tobytes() for _, leaf in found))


def restored(saved: Leaves, structure: PyTree) -> PyTree:
    """Return the state that was saved.

    Parameters
    ----------
    saved
        Its arrays.
    structure
        What the algorithm's states look like now: the same tree of shapes and types.

    Raises
    ------
    ValueError
        If the arrays are others.
    """
    paths, tree = jax.tree_util.tree_flatten_with_path(structure)
    expected = tuple((jax.tree_util.keystr(path), np.dtype(leaf.dtype).str, leaf.shape) for path, leaf in paths)
    if saved.layout != expected:
        odd = sorted({name for name, *_ in set(saved.layout) ^ set(expected)})
        raise ValueError(
            f"the saved state is not one of this algorithm: {odd} differ; it was saved by another version, or with "
            "other settings or numbers of chains and parameters"
        )
    values, at = [], 0
    for _, kind, shape in saved.layout:
        size = np.dtype(kind).itemsize * int(np.prod(shape))
        values.append(np.frombuffer(saved.data[at : at + size], kind).reshape(shape))
        at += size
    return jax.tree.unflatten(tree, values)
