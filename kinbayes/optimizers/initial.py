"""Designs: sets of points in a box for algorithms to start from."""

import math
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


def multi_jittered(seed: int, n: int, lower: Box, upper: Box) -> Points:
    """Draw n points that are stratified in every parameter and in every pair of parameters.

    They are p² points, for the smallest prime number p with p² ≥ n and p ≥ dim - 1. Every parameter has exactly one
    in each p²-th of its range, and every pair of parameters exactly one in each cell of a p by p grid. Where n is less
    than p², they are n of these at random: no two of them then share a cell. A box of two parameters has one point in
    each cell of an a by b grid, n = a b, for every n.

    Parameters and returns are those of `random`.

    References
    ----------
    Chiu, Shirley and Wang (1994), Multi-jittered sampling, in Graphics Gems IV.
    Tang (1993), Orthogonal array-based Latin hypercubes, Journal of the American Statistical Association 88,
    doi:10.1080/01621459.1993.10476423.
    """
    rng, dim = np.random.default_rng(seed), len(lower)
    if dim == 2:
        return _stretched(_multi_jittered_square(rng, n), lower, upper)
    p = 2
    while p**2 < n or p < dim - 1 or any(p % factor == 0 for factor in range(2, p)):
        p += 1
    points = qmc.LatinHypercube(dim, strength=2, rng=rng).random(p**2)
    return _stretched(points if n == p**2 else rng.permutation(points)[:n], lower, upper)


DESIGNS: dict[str, Callable[[int, int, Box, Box], Points]] = {
    "latin_hypercube": latin_hypercube,
    "multi_jittered": multi_jittered,
    "random": random,
    "sobol": sobol,
}


def _multi_jittered_square(rng: np.random.Generator, n: int) -> Points:
    a = max(factor for factor in range(1, math.isqrt(n) + 1) if n % factor == 0)
    b = n // a
    # Of the n strata of x each column of cells has b, which its cells share out; so do rows with the a strata of y.
    column, row = np.divmod(np.arange(n), b)
    x = column * b + rng.permuted(np.tile(np.arange(b), (a, 1)), axis=1)[column, row]
    y = row * a + rng.permuted(np.tile(np.arange(a), (b, 1)), axis=1)[row, column]
    return (np.column_stack([x, y]) + rng.random((n, 2))) / n


def _stretched(points: Points, lower: Box, upper: Box) -> Points:
    lower, upper = np.asarray(lower, float), np.asarray(upper, float)
    is_open = ~np.isfinite(upper - lower)
    if is_open.any():
        raise ValueError(
            f"a design needs a finite box, but entries {np.flatnonzero(is_open).tolist()} are open: "
            "give them bounds, or draw the starting points from the prior"
        )
    return lower + (upper - lower) * points
