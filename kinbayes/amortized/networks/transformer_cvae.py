"""The conditional variational autoencoder whose encoder is a transformer: one token a parameter, one for the condition.

Attention lets the recognition of a parameter look at any other one, as interactions between parameters ask, with
weights that all parameters share. The decoder is that of the plain network.

References
----------
Vaswani et al. (2017), Attention is all you need, arXiv:1706.03762. Xiong et al. (2020), On layer normalization in the
transformer architecture, arXiv:2002.04745, for the place of the normalisations.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from kinbayes.amortized.networks.cvae import VariationalAutoencoder, autoencoder
from kinbayes.amortized.networks.layers import Blocks, Linear, check_sizes, with_condition

# Width of the network within a layer in units of a token's, as in Vaswani et al.
_EXPANSION = 4


class Layer(eqx.Module):
    """Let tokens attend to each other, then transform every one by itself; both added to what comes in."""

    attention_norm: eqx.nn.LayerNorm
    attend: Linear
    combine: Linear
    transform_norm: eqx.nn.LayerNorm
    expand: Linear
    contract: Linear
    num_heads: int = eqx.field(static=True)

    def __init__(self, key: Key[Array, ""], channels: int, num_heads: int):
        attend_key, combine_key, expand_key, contract_key = jax.random.split(key, 4)
        self.attention_norm = eqx.nn.LayerNorm(channels)
        self.attend = Linear(attend_key, channels, 3 * channels)  # queries, keys and values
        self.combine = Linear(combine_key, channels, channels)
        self.transform_norm = eqx.nn.LayerNorm(channels)
        self.expand = Linear(expand_key, channels, _EXPANSION * channels)
        self.contract = Linear(contract_key, _EXPANSION * channels, channels)
        self.num_heads = num_heads

    def __call__(self, tokens: Float[Array, "tokens channels"]) -> Float[Array, "tokens channels"]:
        queries, keys, values = jnp.split(self.attend(jax.vmap(self.attention_norm)(tokens)), 3, axis=1)
        heard = jax.nn.dot_product_attention(self._heads(queries), self._heads(keys), self._heads(values))
        tokens = tokens + self.combine(heard.reshape(tokens.shape))
        normed = jax.vmap(self.transform_norm)(tokens)
        return tokens + self.contract(jax.nn.relu(self.expand(normed)))

    def _heads(self, x: Float[Array, "tokens channels"]) -> Float[Array, "tokens heads channels_a_head"]:
        return x.reshape(len(x), self.num_heads, -1)


class TransformerEncoder(eqx.Module):
    """Recognise latents: tokens, layers of attention, the mean token through one block, then mean and log variance."""

    slope: Float[Array, "tokens channels"]
    offset: Float[Array, "tokens channels"]
    layers: tuple[Layer, ...]
    norm: eqx.nn.LayerNorm
    blocks: Blocks
    readout: Linear

    def __init__(
        self,
        key: Key[Array, ""],
        dim: int,
        num_layers: int,
        hidden_channels: int,
        out_channels: int,
        latent_dim: int,
        num_heads: int,
    ):
        slope_key, offset_key, layers_key, blocks_key, readout_key = jax.random.split(key, 5)
        # A token is a number times a direction of its parameter, plus an offset that says which parameter it is.
        self.slope = jax.random.normal(slope_key, (dim + 1, hidden_channels))
        self.offset = jax.random.normal(offset_key, (dim + 1, hidden_channels))
        self.layers = tuple(Layer(k, hidden_channels, num_heads) for k in jax.random.split(layers_key, num_layers))
        self.norm = eqx.nn.LayerNorm(hidden_channels)
        self.blocks = Blocks(blocks_key, hidden_channels, (out_channels,))
        self.readout = Linear(readout_key, out_channels, 2 * latent_dim)

    def __call__(
        self, y: Float[Array, "n dim"], c: Float[Array, " n"], weight: Float[Array, " n"] | None
    ) -> tuple[Float[Array, "n twice_latent"], "TransformerEncoder"]:
        pooled = jax.vmap(self._pooled)(with_condition(y, c))
        features, blocks = self.blocks(pooled, weight)
        return self.readout(features), eqx.tree_at(lambda encoder: encoder.blocks, self, blocks)

    def _pooled(self, row: Float[Array, " tokens"]) -> Float[Array, " channels"]:
        # From the middle of the box, so that a token's sign says on which side the parameter is.
        tokens = (2.0 * row[:, None] - 1.0) * self.slope + self.offset
        for layer in self.layers:
            tokens = layer(tokens)
        return jnp.mean(jax.vmap(self.norm)(tokens), axis=0)


def transformer_cvae(
    key: Key[Array, ""],
    dim: int,
    *,
    enc_num_layers: int = 2,
    enc_hidden_channels: int = 32,
    enc_out_channels: int = 32,
    num_heads: int = 4,
    latent_dim: int = 8,
    dec_num_layers: int = 3,
    dec_hidden_channels: int = 64,
    beta: float = 1.0,
    head: str = "gaussian",
) -> VariationalAutoencoder:
    """Build a conditional variational autoencoder with a transformer for its encoder.

    Parameters
    ----------
    key
        Random key of the weights.
    dim
        Dimensions of a point.
    enc_num_layers, enc_hidden_channels, enc_out_channels
        Layers of attention, the width of a token, and the width of the block after them.
    num_heads
        Heads of the attention; must divide `enc_hidden_channels`.
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
        A size below 1, a width that the heads do not divide, a negative beta, or an unknown head.
    """
    check_sizes(
        {
            "dim": dim,
            "enc_num_layers": enc_num_layers,
            "enc_hidden_channels": enc_hidden_channels,
            "enc_out_channels": enc_out_channels,
            "num_heads": num_heads,
            "latent_dim": latent_dim,
            "dec_num_layers": dec_num_layers,
            "dec_hidden_channels": dec_hidden_channels,
        }
    )
    if enc_hidden_channels % num_heads:
        raise ValueError(
            f"enc_hidden_channels = {enc_hidden_channels} is no multiple of num_heads = {num_heads}, which share it"
        )
    encoder_key, decoder_key = jax.random.split(key)
    encoder = TransformerEncoder(
        encoder_key, dim, enc_num_layers, enc_hidden_channels, enc_out_channels, latent_dim, num_heads
    )
    return autoencoder(decoder_key, dim, encoder, latent_dim, dec_num_layers, dec_hidden_channels, beta, head)
