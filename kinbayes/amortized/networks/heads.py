"""Heads: what a decoder's outputs say about a point of the unit box, one dimension at a time.

A head with a density is a distribution on [0, 1] itself: mass beyond the walls would be mass of proposals that can
never be accepted, and a density that does not integrate to 1 over the box is a wrong importance weight.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from kinbayes.amortized.networks import truncated

# The likelihood of a point grows without bound as a scale shrinks around it, so a decoder that remembers the points it
# was trained on would never be done. 1e-3 of the box is narrower than any posterior that is worth a proposal of its
# own, and leaves weights that float64 can hold.
MIN_SCALE = 1e-3

# Below, the differences of exponentials in the continuous Bernoulli are replaced by series, right to 1e-15 there.
_SMALL = 1e-2


class Head(NamedTuple):
    """Hold what a decoder's outputs mean; the outputs of a dimension are the last axis.

    Attributes
    ----------
    num_outputs
        Outputs a dimension.
    loss
        (outputs (*shape, num_outputs), y (*shape)) -> the loss of every number; minus the log density, if there is one.
    sample
        (key, outputs) -> y (*shape): what a generated point is.
    point
        outputs -> y (*shape): the one point that stands for the distribution, its median or its mean.
    log_density
        (outputs, y) -> log density on [0, 1]; None for a head without.
    """

    num_outputs: int
    loss: Callable
    sample: Callable
    point: Callable
    log_density: Callable | None

    @property
    def has_density(self) -> bool:
        """Whether the head is a distribution."""
        return self.log_density is not None


def gaussian_log_density(outputs: Float[Array, "*shape 2"], y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the log density of a normal distribution truncated to the unit interval."""
    return truncated.normal_log_density(*_location_and_scale(outputs), y)


def gaussian_quantile(outputs: Float[Array, "*shape 2"], u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return its quantiles at u."""
    return truncated.normal_quantile(*_location_and_scale(outputs), u)


def student_t_log_density(outputs: Float[Array, "*shape 2"], y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the log density of a Student t distribution, 4 degrees of freedom, truncated to the unit interval.

    With 4 degrees of freedom distribution function and quantile are elementary, and the tails heavy enough to cover
    what a network has missed.
    """
    return truncated.student_t_log_density(*_location_and_scale(outputs), y)


def student_t_quantile(outputs: Float[Array, "*shape 2"], u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return its quantiles at u."""
    return truncated.student_t_quantile(*_location_and_scale(outputs), u)


def continuous_bernoulli_log_density(
    outputs: Float[Array, "*shape 1"], y: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Return the log density of the continuous Bernoulli distribution of a logit.

    It is proportional to exp(logit · y), the binary cross entropy with the normaliser that makes it a density.

    References
    ----------
    Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli: fixing a pervasive error in variational autoencoders,
    Advances in Neural Information Processing Systems 32, arXiv:1907.06845.
    """
    rate, y = _decay(outputs, y)
    # ∫ exp(-rate y) = (1 - exp(-rate))/rate
    is_small = rate < _SMALL
    large = jnp.where(is_small, _SMALL, rate)
    small = jnp.where(is_small, rate, 0.0)
    series = 1.0 - small / 2.0 * (1.0 - small / 3.0 * (1.0 - small / 4.0 * (1.0 - small / 5.0 * (1.0 - small / 6.0))))
    return -rate * y - jnp.log(jnp.where(is_small, series, -jnp.expm1(-large) / large))


def continuous_bernoulli_quantile(
    outputs: Float[Array, "*shape 1"], u: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Return its quantiles at u."""
    rate, u = _decay(outputs, u)
    positive = jnp.maximum(rate, jnp.finfo(rate.dtype).eps)  # below it is uniform, to all digits
    y = jnp.clip(-jnp.log1p(u * jnp.expm1(-positive)) / positive, 0.0, 1.0)
    return jnp.where(outputs[..., 0] > 0.0, 1.0 - y, y)


def binary_cross_entropy(outputs: Float[Array, "*shape 1"], y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the binary cross entropy of y and the sigmoid of a logit: a loss, but no density of y."""
    logit = outputs[..., 0]
    return jax.nn.softplus(logit) - logit * y


def binary_mean(outputs: Float[Array, "*shape 1"]) -> Float[Array, "*shape"]:
    """Return the sigmoid of a logit."""
    return jax.nn.sigmoid(outputs[..., 0])


def _sample_binary_mean(key: Key[Array, ""], outputs: Float[Array, "*shape 1"]) -> Float[Array, "*shape"]:
    return binary_mean(outputs)  # as a draw of 0 or 1 would be no point of the box


def _location_and_scale(outputs: Float[Array, "*shape 2"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    # Outputs of zero are the middle of the box and a scale of 0.13. From a scale that fills the box a decoder learns
    # that no location matters before the latents say one, and stays there.
    return 0.5 + outputs[..., 0], MIN_SCALE + jax.nn.softplus(outputs[..., 1] - 2.0)


def _decay(
    outputs: Float[Array, "*shape 1"], y: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    # The density mirrored, where it rises, so that it falls.
    logit = outputs[..., 0]
    is_rising = logit > 0.0
    return jnp.where(is_rising, logit, -logit), jnp.where(is_rising, 1.0 - y, y)


def _distribution(num_outputs: int, log_density: Callable, quantile: Callable) -> Head:
    def loss(outputs: Float[Array, "*shape k"], y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return -log_density(outputs, y)

    def sample(key: Key[Array, ""], outputs: Float[Array, "*shape k"]) -> Float[Array, "*shape"]:
        return quantile(outputs, jax.random.uniform(key, outputs.shape[:-1], outputs.dtype))

    def point(outputs: Float[Array, "*shape k"]) -> Float[Array, "*shape"]:
        return quantile(outputs, jnp.full(outputs.shape[:-1], 0.5, outputs.dtype))

    return Head(num_outputs, loss, sample, point, log_density)


HEADS: dict[str, Head] = {
    "bce": Head(1, binary_cross_entropy, _sample_binary_mean, binary_mean, None),
    "gaussian": _distribution(2, gaussian_log_density, gaussian_quantile),
    "student_t": _distribution(2, student_t_log_density, student_t_quantile),
    "continuous_bernoulli": _distribution(1, continuous_bernoulli_log_density, continuous_bernoulli_quantile),
}


def find_head(name: str) -> Head:
    """Return a head by its name, with the names there are if there is none."""
    if name not in HEADS:
        raise ValueError(f"unknown head {name!r}; choose from {sorted(HEADS)}")
    return HEADS[name]
