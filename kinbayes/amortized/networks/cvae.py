"""The conditional variational autoencoder.

An encoder recognises the latents of a point at a condition, r(z|y, c), a decoder makes points of latents, p(y|z, c),
and the latents are standard normal whatever the condition. The loss is minus a bound on log p(y|c), with the
divergence between r and p(z) weighted by `beta`.

References
----------
Kingma and Welling (2014), Auto-encoding variational Bayes, International Conference on Learning Representations,
arXiv:1312.6114. Sohn, Lee and Yan (2015), Learning structured output representation using deep conditional generative
models, Advances in Neural Information Processing Systems 28. Higgins et al. (2017), beta-VAE: Learning basic visual
concepts with a constrained variational framework, International Conference on Learning Representations.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Key, PyTree

from kinbayes.amortized.networks.base import Network
from kinbayes.amortized.networks.heads import Head, find_head
from kinbayes.amortized.networks.layers import (
    Blocks,
    Linear,
    check_sizes,
    trainable_weights,
    weighted_mean,
    with_condition,
)

# r(z|y, c) is kept between a width of 0.002 and one of 7, in units of the prior's: a narrower one gives the few latents
# next to its mean all the weight, a wider one is of no use, and exp of neither overflows.
_MIN_LOG_VARIANCE, _MAX_LOG_VARIANCE = -12.0, 4.0

# Where log variances start in training: with latents that say something, which a decoder then learns to listen to. From
# the prior's width, 0, it may never.
_FIRST_LOG_VARIANCE = -3.0

# Rows that a decoder is given at once: enough for fast products of matrices, few enough for any memory.
_MAX_ROWS = 8192


class Encoder(eqx.Module):
    """Read a point at a condition: blocks over both, then a linear layer."""

    blocks: Blocks
    readout: Linear

    def __init__(
        self, key: Key[Array, ""], dim: int, num_layers: int, hidden_channels: int, out_channels: int, num_outputs: int
    ):
        blocks_key, readout_key = jax.random.split(key)
        self.blocks = Blocks(blocks_key, dim + 1, (hidden_channels,) * (num_layers - 1) + (out_channels,))
        self.readout = Linear(readout_key, out_channels, num_outputs)

    def __call__(
        self, y: Float[Array, "n dim"], c: Float[Array, " n"], weight: Float[Array, " n"] | None
    ) -> tuple[Float[Array, "n outputs"], "Encoder"]:
        features, blocks = self.blocks(with_condition(y, c), weight)
        return self.readout(features), eqx.tree_at(lambda encoder: encoder.blocks, self, blocks)


class Decoder(eqx.Module):
    """Make the outputs of a head: blocks over latents and condition, then a linear layer."""

    blocks: Blocks
    readout: Linear
    dim: int = eqx.field(static=True)

    def __init__(
        self, key: Key[Array, ""], dim: int, num_layers: int, hidden_channels: int, latent_dim: int, num_outputs: int
    ):
        blocks_key, readout_key = jax.random.split(key)
        self.blocks = Blocks(blocks_key, latent_dim + 1, (hidden_channels,) * num_layers)
        self.readout = Linear(readout_key, hidden_channels, dim * num_outputs)
        self.dim = dim

    def __call__(
        self, z: Float[Array, "n latent"], c: Float[Array, " n"], weight: Float[Array, " n"] | None
    ) -> tuple[Float[Array, "n dim outputs"], "Decoder"]:
        features, blocks = self.blocks(with_condition(z, c), weight)
        outputs = self.readout(features).reshape(len(z), self.dim, -1)
        return outputs, eqx.tree_at(lambda decoder: decoder.blocks, self, blocks)


class VariationalAutoencoder(Network):
    """Hold a conditional variational autoencoder; any encoder with the call of `Encoder` will do.

    The encoder's outputs are the mean of r(z|y, c) and its log variance, the latter before `_mean_and_log_variance`
    bounds it.
    """

    encoder: eqx.Module
    decoder: Decoder
    latent_dim: int = eqx.field(static=True)
    beta: float = eqx.field(static=True)
    head: Head = eqx.field(static=True)

    @property
    def has_density(self) -> bool:
        return self.head.has_density

    def trainable(self) -> PyTree[bool]:
        return trainable_weights(self)

    def loss(
        self, key: Key[Array, ""], y: Float[Array, "n dim"], c: Float[Array, " n"], weight: Float[Array, " n"]
    ) -> tuple[Float[Array, ""], "VariationalAutoencoder"]:
        losses, encoder, decoder = self._losses(key, y, c, weight)
        moved = eqx.tree_at(lambda network: (network.encoder, network.decoder), self, (encoder, decoder))
        return weighted_mean(losses, weight), moved

    def validation_loss(
        self, key: Key[Array, ""], y: Float[Array, "n dim"], c: Float[Array, " n"], weight: Float[Array, " n"]
    ) -> Float[Array, ""]:
        losses, _, _ = self._losses(key, y, c, None)
        return weighted_mean(losses, weight)

    def generate(self, key: Key[Array, ""], c: Float[Array, " n"]) -> Float[Array, "n dim"]:
        z_key, y_key = jax.random.split(key)
        z = jax.random.normal(z_key, (len(c), self.latent_dim))
        return self.head.sample(y_key, self.decoder(z, c, None)[0])

    def reconstruct(self, y: Float[Array, "n dim"], c: Float[Array, " n"]) -> Float[Array, "n dim"]:
        return self.head.point(self.decoder(self.encode(y, c), c, None)[0])

    def encode(self, y: Float[Array, "n dim"], c: Float[Array, " n"]) -> Float[Array, "n latent"]:
        mean, _ = self._recognised(y, c)
        return mean

    def propose(
        self, key: Key[Array, ""], c: Float[Array, " n"], num_latents: int
    ) -> tuple[Float[Array, "n dim"], Float[Array, " n"]]:
        self._check_density(num_latents)
        z_key, y_key, others_key = jax.random.split(key, 3)
        z = jax.random.normal(z_key, (len(c), self.latent_dim))
        y = self.head.sample(y_key, self.decoder(z, c, None)[0])
        mean, log_variance = self._recognised(y, c)
        log_weights = self._log_weight(y, c, z, mean, log_variance)[None]
        if num_latents > 1:
            others = self._log_weights(others_key, y, c, mean, log_variance, num_latents - 1)
            log_weights = jnp.concatenate([log_weights, others])
        return y, logsumexp(log_weights, axis=0) - math.log(num_latents)

    def log_density(
        self, key: Key[Array, ""], y: Float[Array, "n dim"], c: Float[Array, " n"], num_latents: int
    ) -> Float[Array, " n"]:
        self._check_density(num_latents)
        mean, log_variance = self._recognised(y, c)
        log_weights = self._log_weights(key, y, c, mean, log_variance, num_latents)
        return logsumexp(log_weights, axis=0) - math.log(num_latents)

    def _losses(
        self, key: Key[Array, ""], y: Float[Array, "n dim"], c: Float[Array, " n"], weight: Float[Array, " n"] | None
    ) -> tuple[Float[Array, " n"], eqx.Module, Decoder]:
        readout, encoder = self.encoder(y, c, weight)
        mean, log_variance = _mean_and_log_variance(readout)
        z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
        outputs, decoder = self.decoder(z, c, weight)
        losses = self.head.loss(outputs, y).sum(axis=1) + self.beta * divergence(mean, log_variance)
        return losses, encoder, decoder

    def _recognised(
        self, y: Float[Array, "n dim"], c: Float[Array, " n"]
    ) -> tuple[Float[Array, "n latent"], Float[Array, "n latent"]]:
        return _mean_and_log_variance(self.encoder(y, c, None)[0])

    def _log_weights(
        self,
        key: Key[Array, ""],
        y: Float[Array, "n dim"],
        c: Float[Array, " n"],
        mean: Float[Array, "n latent"],
        log_variance: Float[Array, "n latent"],
        num_latents: int,
    ) -> Float[Array, "num n"]:
        # log p(z) p(y|z, c)/r(z|y, c) of latents from r; in turns, each with as many latents as rows allow.
        def one(one_key: Key[Array, ""]) -> Float[Array, " n"]:
            z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(one_key, mean.shape)
            return self._log_weight(y, c, z, mean, log_variance)

        at_once = min(num_latents, max(1, _MAX_ROWS // max(1, len(y))))
        return jax.lax.map(one, jax.random.split(key, num_latents), batch_size=at_once)

    def _log_weight(
        self,
        y: Float[Array, "n dim"],
        c: Float[Array, " n"],
        z: Float[Array, "n latent"],
        mean: Float[Array, "n latent"],
        log_variance: Float[Array, "n latent"],
    ) -> Float[Array, " n"]:
        outputs, _ = self.decoder(z, c, None)
        # The constants of the two normal densities cancel.
        log_prior = -0.5 * z**2
        log_recognition = -0.5 * ((z - mean) ** 2 * jnp.exp(-log_variance) + log_variance)
        return self.head.log_density(outputs, y).sum(axis=1) + (log_prior - log_recognition).sum(axis=1)

    def _check_density(self, num_latents: int) -> None:
        if not self.has_density:
            raise NotImplementedError(
                "the head of this network has no density; build it with one of 'gaussian', 'student_t' and "
                "'continuous_bernoulli' to draw proposals"
            )
        if num_latents < 1:
            raise ValueError(f"num_latents = {num_latents}; an estimate of a density takes 1 or more")


def cvae(
    key: Key[Array, ""],
    dim: int,
    *,
    enc_num_layers: int = 3,
    enc_hidden_channels: int = 64,
    enc_out_channels: int = 32,
    latent_dim: int = 8,
    dec_num_layers: int = 3,
    dec_hidden_channels: int = 64,
    beta: float = 1.0,
    head: str = "gaussian",
) -> VariationalAutoencoder:
    """Build a conditional variational autoencoder.

    The sizes are a start for some ten parameters and some thousand points; they are what a search over
    hyperparameters is for.

    Parameters
    ----------
    key
        Random key of the weights.
    dim
        Dimensions of a point.
    enc_num_layers, enc_hidden_channels, enc_out_channels
        Blocks of the encoder, the width of all but the last, and of the last.
    latent_dim
        Dimensions of the latents.
    dec_num_layers, dec_hidden_channels
        Blocks of the decoder and their width.
    beta
        Weight of the divergence between r(z|y, c) and the prior; with 1 the loss bounds minus the log density.
    head
        What the decoder's outputs are: 'gaussian', 'student_t', 'continuous_bernoulli', or 'bce', which has no density.

    Returns
    -------
    The network.

    Raises
    ------
    ValueError
        A size below 1, a negative beta, or an unknown head.
    """
    check_sizes(
        {
            "dim": dim,
            "enc_num_layers": enc_num_layers,
            "enc_hidden_channels": enc_hidden_channels,
            "enc_out_channels": enc_out_channels,
            "latent_dim": latent_dim,
            "dec_num_layers": dec_num_layers,
            "dec_hidden_channels": dec_hidden_channels,
        }
    )
    encoder_key, decoder_key = jax.random.split(key)
    encoder = Encoder(encoder_key, dim, enc_num_layers, enc_hidden_channels, enc_out_channels, 2 * latent_dim)
    return autoencoder(decoder_key, dim, encoder, latent_dim, dec_num_layers, dec_hidden_channels, beta, head)


def autoencoder(
    key: Key[Array, ""],
    dim: int,
    encoder: eqx.Module,
    latent_dim: int,
    dec_num_layers: int,
    dec_hidden_channels: int,
    beta: float,
    head: str,
) -> VariationalAutoencoder:
    """Put a decoder behind an encoder; raise `ValueError` for a negative beta or an unknown head."""
    if not 0.0 <= beta < math.inf:
        raise ValueError(f"beta = {beta}; the weight of the divergence must be 0 or more, and finite")
    chosen = find_head(head)
    first = jnp.repeat(jnp.array([0.0, _FIRST_LOG_VARIANCE]), latent_dim)
    encoder = eqx.tree_at(lambda node: node.readout.bias, encoder, first)
    decoder = Decoder(key, dim, dec_num_layers, dec_hidden_channels, latent_dim, chosen.num_outputs)
    return VariationalAutoencoder(encoder, decoder, latent_dim, float(beta), chosen)


def divergence(mean: Float[Array, "n latent"], log_variance: Float[Array, "n latent"]) -> Float[Array, " n"]:
    """Return the Kullback-Leibler divergence of a diagonal normal distribution from the standard one."""
    return 0.5 * (mean**2 + jnp.expm1(log_variance) - log_variance).sum(axis=1)


def _mean_and_log_variance(
    readout: Float[Array, "n twice_latent"],
) -> tuple[Float[Array, "n latent"], Float[Array, "n latent"]]:
    mean, raw = jnp.split(readout, 2, axis=1)
    # Smooth bounds: nearly the identity between them, and a gradient beyond them.
    below = _MAX_LOG_VARIANCE - jax.nn.softplus(_MAX_LOG_VARIANCE - raw)
    return mean, _MIN_LOG_VARIANCE + jax.nn.softplus(below - _MIN_LOG_VARIANCE)
