"""The log density in unconstrained space for samplers that call C functions: nutpie.

Its two parts are called by address: what the prior and the walls add, straight-line machine code of the problem, and
the kernel. All addresses come among the words that the caller hands through, so that no address is a constant of
cached code.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import types

from kinbayes.ode.intrinsics import allocate, call, compiled, free, plus
from kinbayes.ode.sources import SOURCES


class Words(NamedTuple):
    """What a caller hands through: addresses of two functions, each followed by those of the arrays it reads.

    The prior is a function (x, numbers, u, du/dx, [log prior, log|du/dx|], gradient of their sum in x), written from
    its third argument on.
    """

    prior: int
    prior_numbers: int
    evaluate: int
    code: int
    ints: int
    floats: int


# Why a point has no density; hosts take any number above 0 for a point to turn back from.
NO_PRIOR, NO_LIKELIHOOD = 1, 2

_floats, _words = types.CPointer(types.float64), types.CPointer(types.int64)
_null = np.int64(0)


def _density(sources: int) -> Callable:
    @compiled(types.int64(types.uint64, _floats, _floats, _floats, _words))
    def density(dim, x, gradient, log_density, words):
        """Compute the log density of x and its gradient; return 0, or why there is none.

        An entry of the gradient that is not finite counts as zero: leapfrog steps are reversible and keep volume with
        any field in the gradient's place.
        """
        _ = sources  # in the closure, where the cache sees it
        n = np.int64(dim)
        u = allocate(3 * n + 3)
        slope, likelihood_gradient, values, total = plus(u, n), plus(u, 2 * n), plus(u, 3 * n), plus(u, 3 * n + 2)
        call(words[0], (x, words[1], u, slope, values, gradient))
        value, failure = values[0] + values[1], NO_PRIOR
        if -math.inf < value < math.inf:
            lanes = (_null, _null, _null, likelihood_gradient, _null)
            call(words[2], (words[3], words[4], words[5], u, np.int64(1), _null, total, *lanes))
            value, failure = value + total[0], NO_LIKELIHOOD
        is_good = -math.inf < value < math.inf
        for k in range(n):
            entry = gradient[k] + slope[k] * likelihood_gradient[k]
            gradient[k] = entry if is_good and -math.inf < entry < math.inf else 0.0
        log_density[0] = value if is_good else -math.inf
        free(u)
        return 0 if is_good else failure

    return density


def _expand(sources: int) -> Callable:
    @compiled(types.int64(types.uint64, types.uint64, _floats, _floats, _words))
    def expand(dim, size, x, out, words):
        """Write u, the log prior and log|du/dx| of x: dim + 2 numbers; return 0."""
        _ = sources
        n = np.int64(dim)
        memory = allocate(2 * n)
        call(words[0], (x, words[1], out, memory, plus(out, n), plus(memory, n)))
        free(memory)
        return 0

    return expand


density = _density(SOURCES)
expand = _expand(SOURCES)
