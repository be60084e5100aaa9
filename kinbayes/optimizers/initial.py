"""Designs: sets of points in a box for algorithms to start from."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.stats import qmc

Box = Float[np.ndarray, " dim"]
Points = Float[np.ndarray, "n dim"]


def random(seed: int, n: int, lower: Box, upper: Box) -> Points:
    """Draw n points uniformly from the box.

    Parameters
    ----------
    seed
        Seed of the random numbers.
    n
        Number of points.
    lower, upper
        Corners of the box, (dim,), finite.

    Returns
    -------
    Points, (n, dim).
    """
    return _stretched(np.random.default_rng(seed).random((n, len(lower))), lower, upper)


def latin_hypercube(seed: int, n: int, lower: Box, upper: Box) -> Points:
    """Draw n points of which every parameter has exactly one in each n-th of its range.

    Parameters and returns are those of `random`.
    """
    return _stretched(qmc.LatinHypercube(len(lower), rng=seed).random(n), lower, upper)


def sobol(seed: int, n: int, lower: Box, upper: Box) -> Points:
    """Take the first n points of a scrambled Sobol' sequence; it is balanced when n is a power of two.

    Parameters and returns are those of `random`.
    """
    sequence = qmc.Sobol(len(lower), rng=seed)
    return _stretched(sequence.random_base2((n - 1).bit_length())[:n], lower, upper)


DESIGNS: dict[str, Callable[[int, int, Box, Box], Points]] = {
    "latin_hypercube": latin_hypercube,
    "random": random,
    "sobol": sobol,
}


def _stretched(points: Points, lower: Box, upper: Box) -> Points:
    lower, upper = np.asarray(lower, float), np.asarray(upper, float)
    is_open = ~np.isfinite(upper - lower)
    if is_open.any():
        raise ValueError(
            f"a design needs a finite box, but entries {np.flatnonzero(is_open).tolist()} are open: "
            "give them bounds, or draw the starting points from the prior"
        )
    return lower + (upper - lower) * points
