"""The tails of the normal distribution in JAX, whose own functions lose digits or underflow there."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import erfc
from jaxtyping import Array, ArrayLike, Float

_FAR = 5.0  # from here on the continued fraction of erfcx converges fast; below, exp(x²) erfc(x) keeps its digits
_TERMS = 20  # of it: right to the last digits at `_FAR`


def erfcx(x: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """Return exp(x²) erfc(x), the scaled complementary error function; infinite where it overflows, below -26.6.

    References
    ----------
    NIST Digital Library of Mathematical Functions, 7.9.1: the continued fraction of erfc (Laplace).
    """
    # Either form sees a harmless argument where it is not taken, so that no derivative becomes NaN.
    near, far = jnp.minimum(x, _FAR), jnp.maximum(x, _FAR)
    tail = far
    for k in range(_TERMS, 0, -1):
        tail = far + 0.5 * k / tail
    return jnp.where(x < _FAR, jnp.exp(near * near) * erfc(near), 1 / (math.sqrt(math.pi) * tail))


@jax.custom_jvp
def log_normal_cdf(x: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """Return the log of the standard normal distribution function, accurate in either tail, as is its derivative."""
    scaled = -math.sqrt(0.5) * jnp.asarray(x)
    below = jnp.log(0.5 * erfcx(jnp.maximum(scaled, 0.0))) - scaled * scaled
    above = jnp.log1p(-0.5 * erfc(-jnp.minimum(scaled, 1.0)))
    return jnp.where(scaled > math.sqrt(0.5), below, above)


@log_normal_cdf.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x,), (slope,) = primals, tangents
    # The density over the distribution function, without their quotient: both vanish far below 0.
    return log_normal_cdf(x), slope * math.sqrt(2 / math.pi) / erfcx(-math.sqrt(0.5) * x)
