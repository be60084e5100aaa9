"""A kernel without a model: the log likelihood of a normal distribution, which may fail beyond an edge."""

import math

import numpy as np
from numba import carray, cfunc, types

from kinbayes.ode.numbers import Numbers

_ints, _floats = types.CPointer(types.int64), types.CPointer(types.float64)


@cfunc(types.void(*[_ints] * 2, *[_floats] * 2, types.int64, _ints, *[_floats] * 6))
def _evaluate(code, ints, floats, vectors, num_vectors, counter, totals, lanes, tables, states, gradients, slopes):
    dim = ints[0]
    u, gradient = carray(vectors, (dim,)), carray(gradients, (dim,))
    numbers = carray(floats, (1 + dim + dim * dim,))
    edge, centre, precision = numbers[0], numbers[1 : 1 + dim], numbers[1 + dim :].reshape((dim, dim))
    total = 0.0
    for i in range(dim):
        gradient[i] = 0.0
        for j in range(dim):
            gradient[i] -= precision[i, j] * (u[j] - centre[j])
        total += 0.5 * gradient[i] * (u[i] - centre[i])
    fails = u[0] > edge
    totals[0] = -math.inf if fails else total
    for i in range(dim):
        gradient[i] = 0.0 if fails else gradient[i]


def numbers(centre: np.ndarray, precision: np.ndarray, fails_above: float = math.inf) -> Numbers:
    """Return the numbers of a log likelihood -(u - c) P (u - c) / 2 that fails where the first entry is too large."""
    floats = np.concatenate([[fails_above], centre, np.ravel(precision)])
    return Numbers(np.array([_evaluate.address]), np.array([len(centre)]), floats)
