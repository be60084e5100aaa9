"""Proposals with and without latent variables, for the tests of samplers that draw from them."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import kinbayes as kb
from kinbayes.samplers.base import Proposal


@dataclasses.dataclass(frozen=True)
class Handmade:
    """What a learned proposal is to `kinbayes.sample`."""

    proposal: Proposal
    parameter_names: tuple[str, ...]
    problem_hash: str
    hash: str = "handmade"

    def for_sampler(self) -> Proposal:
        return self.proposal


def handmade(problem: kb.Problem, proposal: Proposal, name: str = "handmade") -> Handmade:
    return Handmade(proposal, tuple(problem.parameter_names), problem.hash, name)


# ---- proposals with a density in closed form


def student_t(mean: np.ndarray, sd: np.ndarray) -> Proposal:
    """Independent Student's t of 2 degrees of freedom: heavy tails, and a quantile in closed form."""
    data = jnp.asarray(mean, float), jnp.asarray(sd, float)
    return Proposal(Partial(_draw_t, data), Partial(_log_density_t, data))


def _draw_t(data, key, num):
    mean, sd = data
    p = jax.random.uniform(key, (num, len(mean)), minval=1e-12)
    U = mean + sd * (2 * p - 1) / jnp.sqrt(2 * p * (1 - p))
    return U, _log_density_t(data, key, U)


def _log_density_t(data, key, U):
    mean, sd = data
    return (-1.5 * jnp.log1p(((U - mean) / sd) ** 2 / 2) - jnp.log(2 * jnp.sqrt(2) * sd)).sum(axis=1)


def uniform(lower: np.ndarray, upper: np.ndarray) -> Proposal:
    """A uniform distribution on a box."""
    data = jnp.asarray(lower, float), jnp.asarray(upper, float)
    return Proposal(Partial(_draw_uniform, data), Partial(_log_density_uniform, data))


def _draw_uniform(data, key, num):
    lower, upper = data
    U = lower + (upper - lower) * jax.random.uniform(key, (num, len(lower)))
    return U, _log_density_uniform(data, key, U)


def _log_density_uniform(data, key, U):
    lower, upper = data
    is_inside = ((lower <= U) & (upper >= U)).all(axis=1)
    return jnp.where(is_inside, -jnp.log(upper - lower).sum(), -jnp.inf)


def mixture(first: Proposal, second: Proposal, share: float) -> Proposal:
    """Draw from the second with a probability; the latents of its draws are drawn given them."""
    data = first, second, jnp.asarray(share)
    return Proposal(Partial(_draw_mixture, data), Partial(_log_density_mixture, data))


def _draw_mixture(data, key, num):
    first, second, share = data
    first_key, second_key, given_key, choice_key = jax.random.split(key, 4)
    (U, own), (V, other) = first.draw(first_key, num), second.draw(second_key, num)
    is_second = jax.random.uniform(choice_key, (num,)) < share
    of_first = jnp.where(is_second, first.log_density(given_key, V), own)
    of_second = jnp.where(is_second, other, second.log_density(given_key, U))
    return jnp.where(is_second[:, None], V, U), _mixed(share, of_first, of_second)


def _log_density_mixture(data, key, U):
    first, second, share = data
    first_key, second_key = jax.random.split(key)
    return _mixed(share, first.log_density(first_key, U), second.log_density(second_key, U))


def _mixed(share, first, second):
    return jnp.logaddexp(jnp.log1p(-share) + first, jnp.log(share) + second)


# ---- proposals with latent variables


class Affine(NamedTuple):
    """An untrained network: z ~ N(0, 1), y ~ N(decoder z + shift, width²), and z given y ~ N(mean, spread²).

    The mean is encoder (y - shift) + offset. What recognises has nothing to do with what generates.
    """

    decoder: jnp.ndarray
    shift: jnp.ndarray
    width: jnp.ndarray
    encoder: jnp.ndarray
    offset: jnp.ndarray
    spread: jnp.ndarray


LATENT = 2


def untrained(mean: np.ndarray, sd: np.ndarray, seed: int) -> Affine:
    """A network with random weights, about as wide as a target, so that some of its draws have a weight."""
    rng = np.random.default_rng(seed)
    dim = len(mean)
    return Affine(
        decoder=jnp.asarray(sd[:, None] * rng.normal(size=(dim, LATENT)) / np.sqrt(LATENT)),
        shift=jnp.asarray(mean + 0.3 * sd * rng.normal(size=dim)),
        width=jnp.asarray(sd),
        encoder=jnp.asarray(0.5 * rng.normal(size=(LATENT, dim)) / sd / np.sqrt(dim)),
        offset=jnp.asarray(rng.normal(size=LATENT)),
        spread=jnp.asarray(1.0),
    )


def latent(network: Affine, num_latents: int, *, is_exact: bool = True) -> Proposal:
    """The proposal of a network; not exact with latents of a draw that had no part in making it."""
    draw = _draw_latent if is_exact else _draw_plug_in
    places = jnp.zeros(num_latents)  # whose length is known while it is traced
    return Proposal(Partial(draw, network, places), Partial(_log_density_latent, network, places))


def _draw_latent(network, places, key, num):
    z_key, y_key, others_key = jax.random.split(key, 3)
    z = jax.random.normal(z_key, (num, 1, LATENT))
    y = z[:, 0] @ network.decoder.T + network.shift
    y = y + network.width * jax.random.normal(y_key, y.shape)
    others = _recognised(network, others_key, y, len(places) - 1)
    return y, _estimate(network, y, jnp.concatenate([z, others], axis=1))


def _draw_plug_in(network, places, key, num):
    draw_key, density_key = jax.random.split(key)
    y, _ = _draw_latent(network, places, draw_key, num)
    return y, _log_density_latent(network, places, density_key, y)


def _log_density_latent(network, places, key, y):
    return _estimate(network, y, _recognised(network, key, y, len(places)))


def _recognised(network, key, y, num_latents):
    noise = jax.random.normal(key, (len(y), num_latents, LATENT))
    return _recognised_mean(network, y) + network.spread * noise


def _recognised_mean(network, y):
    return ((y - network.shift) @ network.encoder.T + network.offset)[:, None]


def _estimate(network, y, z):
    generated = (y[:, None] - z @ network.decoder.T - network.shift) / network.width
    recognised = (z - _recognised_mean(network, y)) / network.spread
    terms = _normal(z, 1.0) + _normal(generated, network.width) - _normal(recognised, jnp.full(LATENT, network.spread))
    return jax.nn.logsumexp(terms, axis=1) - jnp.log(z.shape[1])


def _normal(standard, sd):
    """Log densities of normals with independent entries, from standardized values."""
    return (-0.5 * standard**2 - 0.5 * jnp.log(2 * jnp.pi) - jnp.log(sd)).sum(axis=-1)


def log_density_in_closed_form(network: Affine, y: np.ndarray) -> np.ndarray:
    """What the estimates of a network's density are estimates of."""
    import scipy.stats

    decoder, width = np.asarray(network.decoder), np.asarray(network.width)
    covariance = decoder @ decoder.T + np.diag(np.broadcast_to(width**2, len(decoder)))
    return scipy.stats.multivariate_normal(np.asarray(network.shift), covariance).logpdf(y)
