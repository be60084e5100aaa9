"""A network at some conditions and a defensive component as one proposal, in scaled parameters.

With the share ε a point comes from the defensive density d, and all latents from the network's r; else one of the
conditions is drawn, and point and latents come from the network at it, one of the latents having made the point, and
those of the other conditions from their r. Either way point and latents have the density
((1 - ε) mean_j q̂_j + ε d) · Π r, with the estimates q̂_j of `kinbayes.amortized.networks.base`, so that the first factor
is what an exact weight divides by. A network with a density has no latents, and q̂ is the density.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Key

from kinbayes.amortized import defensive, scaling
from kinbayes.amortized.defensive import Defensive
from kinbayes.amortized.networks.base import Network
from kinbayes.amortized.scaling import BoxScaling


class Mixture(eqx.Module):
    """Hold both parts as a pytree: another network of the same form compiles nothing."""

    network: Network
    box: BoxScaling
    defensive: Defensive
    conditions: Float[Array, " conditions"]
    epsilon: Float[Array, ""]
    num_latents: int = eqx.field(static=True)


def draw(mixture: Mixture, key: Key[Array, ""], num: int) -> tuple[Float[Array, "num dim"], Float[Array, " num"]]:
    """Return draws and log q̂ of each, with the latents they were made with.

    What a network draws outside of its box is never accepted, as its log q̂ is +inf: by the density it has none there.
    """
    which, choice, own_key, other_key, latents = jax.random.split(key, 5)
    num_conditions = len(mixture.conditions)
    made_by = jax.random.randint(which, (num,), 0, num_conditions)
    y, log_own = mixture.network.propose(own_key, mixture.conditions[made_by], mixture.num_latents)
    others = defensive.draw(mixture.defensive, other_key, num)
    is_own = jax.random.uniform(choice, (num,)) >= mixture.epsilon
    U = jnp.where(is_own[:, None], scaling.from_box(mixture.box, y), others)
    has_made = is_own & (jnp.arange(num_conditions)[:, None] == made_by)
    own = log_own + scaling.log_volume(mixture.box)
    log_network = _mean(jnp.where(has_made, own, _log_network(mixture, latents, U)))
    is_stray = is_own & ~((y >= 0) & (y <= 1)).all(axis=1)
    return U, jnp.where(is_stray, jnp.inf, _mixed(mixture, U, log_network))


def log_density(mixture: Mixture, key: Key[Array, ""], U: Float[Array, "n dim"]) -> Float[Array, " n"]:
    """Return log q̂ of points of the target, all latents drawn anew."""
    return _mixed(mixture, U, _mean(_log_network(mixture, key, U)))


def _log_network(mixture: Mixture, key: Key[Array, ""], U: Float[Array, "n dim"]) -> Float[Array, "conditions n"]:
    """Return log q̂ of the network alone at each condition, -inf outside of its box."""
    is_inside = scaling.is_inside(mixture.box, U)
    y = jnp.where(is_inside[:, None], scaling.to_box(mixture.box, U), 0.5)

    def at(condition: tuple[Array, Array]) -> Array:
        c, own_key = condition
        return mixture.network.log_density(own_key, y, jnp.full(len(U), c), mixture.num_latents)

    log_density = jax.lax.map(at, (mixture.conditions, jax.random.split(key, len(mixture.conditions))))
    return jnp.where(is_inside, log_density + scaling.log_volume(mixture.box), -jnp.inf)


def _mean(log_parts: Float[Array, "conditions n"]) -> Float[Array, " n"]:
    """Return the logarithm of the mean density over the conditions."""
    return logsumexp(log_parts, axis=0) - math.log(len(log_parts))


def _mixed(mixture: Mixture, U: Float[Array, "n dim"], log_network: Float[Array, " n"]) -> Float[Array, " n"]:
    log_other = defensive.log_density(mixture.defensive, U)
    return jnp.logaddexp(jnp.log1p(-mixture.epsilon) + log_network, jnp.log(mixture.epsilon) + log_other)
