"""The continuous conditional generative adversarial network.

A generator makes points of latents and a condition, a discriminator tells them from those of the archive. Conditions
are continuous, so hardly two points share one: a point stands in for all conditions in its vicinity. For a target
t = c + ε, in which ε is normal with the width `condition_noise`, the discriminator sees a point of the batch, drawn in
proportion to exp(-(c_i - t)²/vicinity²), and a generated one, both at t. That is the soft vicinal loss of the paper
with its weights as probabilities, and the batch in place of all data.

The two players share one scalar: each sees the other, and what it is shown, behind a stop of the gradient, so that the
sum of their losses has for either the gradient of its own. The players move at the same time, which converges to where
they rest only with a penalty on the discriminator's gradient at points of the archive (Mescheder et al.).

A third network takes generated points back to their latents, by least squares. Nothing is proposed with it; it is what
`encode` and `reconstruct` use.

References
----------
Ding, Wang, Xu, Welch and Wang (2021), CcGAN: Continuous conditional generative adversarial networks for image
generation, International Conference on Learning Representations. Mescheder, Geiger and Nowozin (2018), Which training
methods for GANs do actually converge?, International Conference on Machine Learning, arXiv:1801.04406. Gneiting and
Raftery (2007), Strictly proper scoring rules, prediction, and estimation, doi:10.1198/016214506000001437, for the
validation loss.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from kinbayes.amortized.networks.base import Network
from kinbayes.amortized.networks.cvae import Decoder, Encoder
from kinbayes.amortized.networks.layers import Linear, check_sizes, trainable_weights, weighted_mean, with_condition

# Generated points that a validation point is held against.
_NUM_SCORED = 16


class Discriminator(eqx.Module):
    """Return the logit of a point being one of the archive; without batch statistics, which tell whose batch it is."""

    linears: tuple[Linear, ...]

    def __init__(self, key: Key[Array, ""], dim: int, num_layers: int, hidden_channels: int, out_channels: int):
        widths = (dim + 1, *(hidden_channels,) * (num_layers - 1), out_channels, 1)
        keys = jax.random.split(key, num_layers + 1)
        self.linears = tuple(Linear(k, i, o) for k, i, o in zip(keys, widths[:-1], widths[1:], strict=True))

    def __call__(self, y: Float[Array, "n dim"], c: Float[Array, " n"]) -> Float[Array, " n"]:
        x = with_condition(2.0 * y - 1.0, c)
        for linear in self.linears[:-1]:
            x = jax.nn.leaky_relu(linear(x), 0.2)
        return self.linears[-1](x)[:, 0]


class ContinuousConditionalGAN(Network):
    """Hold generator, discriminator and the way back to the latents."""

    generator: Decoder
    discriminator: Discriminator
    inverse: Encoder
    latent_dim: int = eqx.field(static=True)
    vicinity: float = eqx.field(static=True)
    condition_noise: float = eqx.field(static=True)
    gradient_penalty: float = eqx.field(static=True)

    def trainable(self) -> PyTree[bool]:
        return trainable_weights(self)

    def loss(
        self, key: Key[Array, ""], y: Float[Array, "n dim"], c: Float[Array, " n"], weight: Float[Array, " n"]
    ) -> tuple[Float[Array, ""], "ContinuousConditionalGAN"]:
        """Return the sum of three losses, of which each part of the network sees its own alone.

        It says nothing about how well the network does; the validation loss does.
        """
        noise_key, real_key, z_key = jax.random.split(key, 3)
        target = c + self.condition_noise * jax.random.normal(noise_key, c.shape)
        real = y[self._in_vicinity(real_key, c, target, weight)]
        z = jax.random.normal(z_key, (len(c), self.latent_dim))
        generated, generator = self._generated(z, target, weight)

        shown = jax.lax.stop_gradient(generated)
        discrimination = (
            jax.nn.softplus(-self.discriminator(real, target))
            + jax.nn.softplus(self.discriminator(shown, target))
            + 0.5 * self.gradient_penalty * self._squared_slope(real, target)
        )
        opponent = jax.tree.map(jax.lax.stop_gradient, self.discriminator)
        generation = jax.nn.softplus(-opponent(generated, target))
        recovered, inverse = self.inverse(shown, target, weight)
        inversion = ((recovered - z) ** 2).mean(axis=1)

        moved = eqx.tree_at(lambda network: (network.generator, network.inverse), self, (generator, inverse))
        return weighted_mean(discrimination + generation + inversion, weight), moved

    def validation_loss(
        self, key: Key[Array, ""], y: Float[Array, "n dim"], c: Float[Array, " n"], weight: Float[Array, " n"]
    ) -> Float[Array, ""]:
        """Return the weighted mean energy score: E|G(c) - y| - E|G(c) - G'(c)|/2, distances in the box.

        It is a strictly proper score: in expectation smallest, for every condition, where the generator has the
        distribution of the data, so it sees a collapsed network, which no loss of the game does.
        """
        keys = jax.random.split(key, _NUM_SCORED)
        points = jax.lax.map(lambda one_key: self.generate(one_key, c), keys)
        to_data = _distance(points, y).mean(axis=0)
        # Mean over pairs of different points, in turns of one shift of the points against themselves.
        shifts = jnp.arange(1, _NUM_SCORED)
        apart = jax.lax.map(lambda shift: _distance(points, jnp.roll(points, shift, axis=0)).mean(axis=0), shifts)
        return weighted_mean(to_data - 0.5 * apart.mean(axis=0), weight)

    def generate(self, key: Key[Array, ""], c: Float[Array, " n"]) -> Float[Array, "n dim"]:
        return self._generated(jax.random.normal(key, (len(c), self.latent_dim)), c, None)[0]

    def reconstruct(self, y: Float[Array, "n dim"], c: Float[Array, " n"]) -> Float[Array, "n dim"]:
        return self._generated(self.encode(y, c), c, None)[0]

    def encode(self, y: Float[Array, "n dim"], c: Float[Array, " n"]) -> Float[Array, "n latent"]:
        return self.inverse(y, c, None)[0]

    def _generated(
        self, z: Float[Array, "n latent"], c: Float[Array, " n"], weight: Float[Array, " n"] | None
    ) -> tuple[Float[Array, "n dim"], Decoder]:
        outputs, generator = self.generator(z, c, weight)
        return jax.nn.sigmoid(outputs[..., 0]), generator

    def _in_vicinity(
        self, key: Key[Array, ""], c: Float[Array, " n"], target: Float[Array, " n"], weight: Float[Array, " n"]
    ) -> Array:
        logits = jnp.log(weight) - ((c - target[:, None]) / self.vicinity) ** 2
        return jax.random.categorical(key, logits, axis=1)

    def _squared_slope(self, y: Float[Array, "n dim"], c: Float[Array, " n"]) -> Float[Array, " n"]:
        slope = jax.grad(lambda points: self.discriminator(points, c).sum())(y)
        return (slope**2).sum(axis=1)


def ccgan(
    key: Key[Array, ""],
    dim: int,
    *,
    enc_num_layers: int = 3,
    enc_hidden_channels: int = 64,
    enc_out_channels: int = 32,
    latent_dim: int = 8,
    dec_num_layers: int = 3,
    dec_hidden_channels: int = 64,
    vicinity: float = 0.05,
    condition_noise: float = 0.02,
    gradient_penalty: float = 0.1,
) -> ContinuousConditionalGAN:
    """Build a continuous conditional generative adversarial network. It has no density.

    Parameters
    ----------
    key
        Random key of the weights.
    dim
        Dimensions of a point.
    enc_num_layers, enc_hidden_channels, enc_out_channels
        Layers of the discriminator, and of the way back to the latents: how many, the width of all but the last, and of
        the last.
    latent_dim
        Dimensions of the latents.
    dec_num_layers, dec_hidden_channels
        Blocks of the generator and their width.
    vicinity
        Distance of conditions at which a point has lost all but 1/e of its weight; conditions are of the order of 1.
    condition_noise
        Standard deviation of targets about conditions.
    gradient_penalty
        Factor of half the squared gradient of the discriminator at points of the archive.

    Returns
    -------
    The network.

    Raises
    ------
    ValueError
        A size below 1, a vicinity that is not positive, or a negative noise or penalty.
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
    if not 0.0 < vicinity < math.inf:
        raise ValueError(f"vicinity = {vicinity}; the width of the vicinity must be positive and finite")
    for name, value in {"condition_noise": condition_noise, "gradient_penalty": gradient_penalty}.items():
        if not 0.0 <= value < math.inf:
            raise ValueError(f"{name} = {value}; it must be 0 or more, and finite")
    generator_key, discriminator_key, inverse_key = jax.random.split(key, 3)
    return ContinuousConditionalGAN(
        Decoder(generator_key, dim, dec_num_layers, dec_hidden_channels, latent_dim, 1),
        Discriminator(discriminator_key, dim, enc_num_layers, enc_hidden_channels, enc_out_channels),
        Encoder(inverse_key, dim, enc_num_layers, enc_hidden_channels, enc_out_channels, latent_dim),
        latent_dim,
        float(vicinity),
        float(condition_noise),
        float(gradient_penalty),
    )


def _distance(
    a: Float[Array, "num n dim"], b: Float[Array, "num n dim"] | Float[Array, "n dim"]
) -> Float[Array, "num n"]:
    return jnp.sqrt(((a - b) ** 2).sum(axis=-1))
