"""Priors between bounds: the mass that lies there, and draws."""

import math

import numpy as np
from jaxtyping import Float

from kinbayes.problem.priors import Prior


def log_mass(prior: Prior, low: float, high: float) -> float:
    """Return the log of the prior's mass between `low` and `high`, accurate in either tail."""
    if low <= prior.support[0] and prior.support[1] <= high:
        return 0.0  # without SciPy's distributions, which load for longer than most models compile
    frozen = prior.distribution()
    near_low = low >= frozen.median()
    mass = frozen.sf(low) - frozen.sf(high) if near_low else frozen.cdf(high) - frozen.cdf(low)
    return math.log(mass) if mass > 0 else -math.inf


def draw(prior: Prior, low: float, high: float, rng: np.random.Generator, size: int) -> Float[np.ndarray, " size"]:
    """Return draws of the prior truncated to [low, high], by inversion."""
    frozen = prior.distribution()
    if low >= frozen.median():
        values = frozen.isf(rng.uniform(frozen.sf(high), frozen.sf(low), size))
    else:
        values = frozen.ppf(rng.uniform(frozen.cdf(low), frozen.cdf(high), size))
    return np.clip(values, low, high)
