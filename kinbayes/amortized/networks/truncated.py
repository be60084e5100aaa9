"""The normal and Student's t distribution, truncated to the unit interval.

A location may lie anywhere, far outside of the interval too, and a scale be tiny. The mass between the walls is then
far below the smallest number, and a log density that subtracts its logarithm has lost every digit. Both families are
therefore written relative to the wall next to the location: a point is mirrored so that this wall is 0, and what the
wall and the point have in common cancels on paper.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import erf, ndtr, ndtri
from jaxtyping import Array, Float, Int

from kinbayes.model.normal_tail import erfcx

_ROOT_2 = math.sqrt(2.0)
# Newton's method on a convex function, from the right: the error halves at worst until it is below 1, within 7 steps of
# the farthest start (u next to 1, the location at the wall), then squares.
_NEWTON_STEPS = 12


def normal_log_density(
    location: Float[Array, "*shape"], scale: Float[Array, "*shape"], y: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Return the log density of the normal distribution between 0 and 1."""
    location, y, _ = _mirrored(location, y)
    # Where the location is outside: exp(a²/2) times the mass, a = -location/scale and b the walls in units of the
    # scale. Either form sees a harmless location where it is not taken, so that no derivative becomes NaN.
    outside = jnp.minimum(location, 0.0)
    low, high = -outside / (_ROOT_2 * scale), (1.0 - outside) / (_ROOT_2 * scale)
    gap = (1.0 - 2.0 * outside) / (2.0 * scale**2)  # (b² - a²)/2
    tail = -y * (y - 2.0 * outside) / (2.0 * scale**2) - jnp.log(0.5 * (erfcx(low) - jnp.exp(-gap) * erfcx(high)))
    # Where it is inside the two terms of the mass have the same sign.
    inside = jnp.where(location < 0.0, 0.0, location)
    mass = 0.5 * (erf(inside / (_ROOT_2 * scale)) + erf((1.0 - inside) / (_ROOT_2 * scale)))
    middle = -0.5 * ((y - inside) / scale) ** 2 - jnp.log(mass)
    return jnp.where(location < 0.0, tail, middle) - jnp.log(scale) - 0.5 * math.log(2.0 * math.pi)


def normal_quantile(
    location: Float[Array, "*shape"], scale: Float[Array, "*shape"], u: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Return the quantiles at u of the normal distribution between 0 and 1."""
    location, u, is_mirrored = _mirrored(location, u)
    low, high = -location / scale, (1.0 - location) / scale
    # Inside: by the inverse of the distribution function.
    inside = location + scale * ndtri(ndtr(low) + u * (ndtr(high) - ndtr(low)))
    # Outside that is 0 - 0. The distance d from the wall solves -log(S(a + d)/S(a)) = e, S the survival function.
    wall = jnp.maximum(low, 0.0)
    here = erfcx(wall / _ROOT_2)
    gap = (high - wall) * (0.5 * (high + wall))
    survival_ratio = jnp.exp(-gap) * erfcx(high / _ROOT_2) / here
    # Next to u = 1 at the latest number below it: there is no distance at which a survival function is 0.
    below_one = jnp.minimum(u, 1.0 - 0.5 * jnp.finfo(u.dtype).eps)
    goal = -jnp.log1p(-below_one * (1.0 - survival_ratio))

    def newton(_: Int[Array, ""], d: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        there = erfcx((wall + d) / _ROOT_2)
        value = d * (wall + 0.5 * d) - jnp.log(there / here)
        return d - (value - goal) * there / math.sqrt(2.0 / math.pi)  # the slope is the hazard at a + d

    start = goal * here / math.sqrt(2.0 / math.pi)
    outside = scale * jax.lax.fori_loop(0, _NEWTON_STEPS, newton, start)
    y = jnp.clip(jnp.where(low > 0.0, outside, inside), 0.0, 1.0)
    return jnp.where(is_mirrored, 1.0 - y, y)


def student_t_log_density(
    location: Float[Array, "*shape"], scale: Float[Array, "*shape"], y: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Return the log density of Student's t distribution with 4 degrees of freedom between 0 and 1."""
    location, y, _ = _mirrored(location, y)
    t = (y - location) / scale
    low, high = -location / scale, (1.0 - location) / scale
    # 3/8 (1 + t²/4)^(-5/2), in powers of √(4 + t²) like the mass
    return math.log(12.0) - 5.0 * jnp.log(_root(t)) - jnp.log(scale) - jnp.log(_student_t_mass(low, high))


def student_t_quantile(
    location: Float[Array, "*shape"], scale: Float[Array, "*shape"], u: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Return the quantiles at u of Student's t distribution with 4 degrees of freedom between 0 and 1."""
    location, u, is_mirrored = _mirrored(location, u)
    low, high = -location / scale, (1.0 - location) / scale
    # Counted from above, where the walls are far in the tail and a probability keeps its digits.
    above = student_t_cdf(-high) + (1.0 - u) * _student_t_mass(low, high)
    y = jnp.clip(location - scale * _student_t_standard_quantile(above), 0.0, 1.0)
    return jnp.where(is_mirrored, 1.0 - y, y)


def student_t_cdf(t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the distribution function of Student's t with 4 degrees of freedom, accurate in its lower tail.

    With w = t/√(4 + t²) it is (1 + w)² (2 - w)/4 (the elementary integral of the density by t = 2 tan φ, w = sin φ).
    """
    above = _complement(-t)  # 1 + w
    return above**2 * (3.0 - above) / 4.0


def _student_t_standard_quantile(p: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    # The root of the cubic above by Viète's formula: t = ±2 √(q - 1), q = cos(φ/3)/cos(φ), cos(φ)² = 4p(1 - p); written
    # so that neither q - 1 nor φ loses digits next to the median.
    cosine = 2.0 * jnp.sqrt(p * (1.0 - p))
    phi = jnp.arcsin(jnp.clip(jnp.abs(1.0 - 2.0 * p), 0.0, 1.0))
    excess = 2.0 * jnp.sin(2.0 * phi / 3.0) * jnp.sin(phi / 3.0) / jnp.maximum(cosine, jnp.finfo(p.dtype).tiny)
    return jnp.sign(p - 0.5) * 2.0 * jnp.sqrt(excess)


def _student_t_mass(low: Float[Array, "*shape"], high: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    # F(high) - F(low) = (w₁ - w₀)(3 - w₀² - w₀w₁ - w₁²)/4 for low ≤ high and |low| ≤ high, as `_mirrored` leaves them.
    root_low, root_high = _root(low), _root(high)
    # w₁ - w₀, expanded by the sum of its terms where they have the same sign.
    positive = jnp.maximum(low, 0.0)
    root_positive = _root(positive)
    cross = root_high * root_positive * (high * root_positive + positive * root_high)
    same_sign = 4.0 * (high - positive) * (high + positive) / cross
    opposite = high / root_high - low / root_low
    rise = jnp.where(low > 0.0, same_sign, opposite)
    # The second factor in v = 1 - w, which is small where both are far in the tail.
    v0, v1 = _complement(low), _complement(high)
    return rise * (3.0 * (v0 + v1) - v0 * v0 - v0 * v1 - v1 * v1) / 4.0


def _root(t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jnp.sqrt(4.0 + t * t)


def _complement(t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    # 1 - w, by its expansion above the median
    root = _root(t)
    positive = jnp.maximum(t, 0.0)
    root_positive = _root(positive)
    return jnp.where(t > 0.0, 4.0 / (root_positive * (root_positive + positive)), 1.0 - t / root)


def _mirrored(
    location: Float[Array, "*shape"], y: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"], Array]:
    is_mirrored = location > 0.5
    return jnp.where(is_mirrored, 1.0 - location, location), jnp.where(is_mirrored, 1.0 - y, y), is_mirrored
