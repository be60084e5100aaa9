"""The arrays of a pytree by name, and the pytree again: what files hold of networks and of training."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

LARGEST = 2**30  # bytes of all arrays of a file; a network that is larger needs more than a file format


def arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """Return the arrays of a pytree by their paths.

    Raises
    ------
    TypeError
        If a leaf is no array of numbers: it could neither be saved, nor be an argument of a compiled function.
    """
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path)
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic) or not _is_numeric(leaf.dtype):
            raise TypeError(
                f"the leaf {name} is {leaf!r}, and all leaves must be arrays of numbers; make it a static field "
                "(eqx.field(static=True)), or an array"
            )
        found[name] = np.asarray(leaf, order="C")
    return found


def _is_numeric(dtype: object) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind in "biuf"


def filled(structure: PyTree, read: Callable[[str], np.ndarray], layout: Mapping[str, tuple[str, tuple]]) -> PyTree:
    """Return a pytree with given arrays.

    Parameters
    ----------
    structure
        The tree: arrays, or their shapes and types alone. What is no array of NumPy there becomes one of JAX.
    read
        Name -> array. It is asked when all names, types and shapes are known to be right.
    layout
        Type (as `numpy.dtype.str`) and shape of every array that there is.

    Raises
    ------
    ValueError
        If the arrays are not those of the tree, or too large.
    """
    paths, tree = jax.tree_util.tree_flatten_with_path(structure)
    expected = {jax.tree_util.keystr(path): (np.dtype(leaf.dtype).str, tuple(leaf.shape)) for path, leaf in paths}
    if dict(layout) != expected:
        odd = sorted(name for name in layout.keys() | expected if layout.get(name) != expected.get(name))
        first = odd[0]
        raise ValueError(
            f"{len(odd)} arrays are not as they should be, the first of them {first}: there is {layout.get(first)}, "
            f"and {expected.get(first)} is needed"
        )
    size = sum(math.prod(shape) * np.dtype(kind).itemsize for kind, shape in expected.values())
    if size > LARGEST:
        raise ValueError(f"the arrays have {size} bytes, more than {LARGEST}, the most that is read")
    of_numpy = [isinstance(leaf, np.ndarray) for _, leaf in paths]
    values = [read(name) if stays else jnp.asarray(read(name)) for name, stays in zip(expected, of_numpy, strict=True)]
    return jax.tree.unflatten(tree, values)


def layout(found: Mapping[str, np.ndarray]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return type and shape of every array."""
    return {name: (array.dtype.str, array.shape) for name, array in found.items()}
