"""The curvature of a posterior at a point: differences of exact gradients."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from kinbayes.problem.problem import Problem

_WALL = 1e-6  # of a parameter's range: how near to a wall a point may lie
_COARSE, _FINE = 1e-3, 0.1  # steps of differences: of the prior's width, of the posterior's given all other parameters
_SHORTEST = 1e-5  # of the prior's width, below which a gradient's own errors decide


class Curvature(NamedTuple):
    """Derivatives of the log posterior density with respect to u.

    Attributes
    ----------
    gradient, hessian
        The first and the second.
    asymmetry
        The half difference of the Hessian's two estimates, one a triangle: its error shows in it. Antisymmetric.
    """

    gradient: Float[np.ndarray, " dim"]
    hessian: Float[np.ndarray, "dim dim"]
    asymmetry: Float[np.ndarray, "dim dim"]


def walls(problem: Problem) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, " dim"]]:
    """Return the lowest and the highest points strictly inside the walls."""
    lower, upper = np.asarray(problem.lower), np.asarray(problem.upper)
    margin = _WALL * np.where(np.isfinite(upper - lower), upper - lower, 1.0)
    return lower + margin, upper - margin


def curvature(problem: Problem, position: Float[np.ndarray, " dim"], width: Float[np.ndarray, " dim"]) -> Curvature:
    """Return the derivatives at a point, from central differences of exact gradients, one-sided at walls.

    Their steps are a tenth of the posterior's standard deviations given all other parameters.

    Parameters
    ----------
    problem
        The problem.
    position
        The point, a scaled vector strictly inside the walls.
    width
        The width of the prior.
    """
    rough = np.diag(_derivatives(problem, position, _COARSE * width).hessian)
    with np.errstate(divide="ignore"):
        steps = np.clip(_FINE / np.sqrt(np.abs(rough)), _SHORTEST * width, _FINE * width)
    return _derivatives(problem, position, steps)


def _derivatives(problem: Problem, position: Float[np.ndarray, " dim"], steps: Float[np.ndarray, " dim"]) -> Curvature:
    """Return the derivatives from differences over given steps.

    Where a neighbour has no density the difference is one-sided; with none on either side the curvature is taken as
    zero.
    """
    low, high = walls(problem)
    neighbours = np.clip(position + np.concatenate([np.diag(-steps), np.diag(steps)]), low, high)
    points = np.concatenate([position[None], neighbours])
    values = [np.asarray(part) for part in problem.batched.value_and_grad(jnp.asarray(points))]
    gradients = values[2] + values[3]
    fails = ~np.isfinite(values[0] + values[1]) | ~np.all(np.isfinite(gradients), axis=1)
    gradients[fails], points[fails] = gradients[0], position
    (before, after), (left, right) = (np.split(part[1:], 2) for part in (gradients, points))
    length = np.diag(right - left)
    columns = (after - before) / np.where(length > 0, length, 1.0)[:, None]
    return Curvature(gradients[0], (columns + columns.T) / 2, (columns - columns.T) / 2)
