"""The network protocol: a conditional generator on the unit box, and what exact sampling asks of it.

A network sees points of the unit box and conditions, and nothing else of the package. It is an equinox module, so a
pytree: it can be an argument of a compiled function, and other weights compile nothing. Functions work on batches.

A network with latent variables has no closed density. It has an unbiased estimate of it instead: with latents z₁…z_K,

    q̂(y; z₁…z_K) = mean_k p(z_k) p(y|z_k, c) / r(z_k|y, c),

in which p(z) and p(y|z, c) generate and r(z|y, c) recognises. If one of the latents, in a place that does not matter,
made y and the others are drawn from r, then y and the latents together have the density q̂ · Π r(z_k|y, c); if all of
them are drawn from r given a draw y of π, they have the density π · Π r(z_k|y, c). The ratio π/q̂ is thus an exact
importance weight on the extended space, whatever the number of latents and however poor the network (Andrieu and
Roberts 2009, doi:10.1214/07-AOS574, for the principle). With all latents drawn anew for a y that the network made,
q̂ is another number, and the weight biased.
"""

from typing import Protocol

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key, PyTree


class Network(eqx.Module):
    """Hold a conditional generator of points of the unit box."""

    @property
    def has_density(self) -> bool:
        """Whether `propose` and `log_density` exist; it may depend on how the network was built.

        A network without them gives points to start from, never proposals.
        """
        return False

    def trainable(self) -> PyTree[bool]:
        """Return the network with True in place of what an optimizer may move, False in place of all else.

        By default that is every array of floats. Statistics of batches are such arrays too and must be False: their
        gradient is zero, but weight decay would move them. `loss` updates them itself, so a step of training takes the
        trainable half from the optimizer and the other half from the network that `loss` returns.
        """
        return jax.tree.map(eqx.is_inexact_array, self)

    def loss(
        self, key: Key[Array, ""], y: Float[Array, "n dim"], c: Float[Array, " n"], weight: Float[Array, " n"]
    ) -> tuple[Float[Array, ""], "Network"]:
        """Return the weighted mean loss of a batch, and the network with the statistics of its batches updated.

        Rows of weight 0 fill a batch up and have no say in either.
        """
        raise NotImplementedError

    def validation_loss(
        self, key: Key[Array, ""], y: Float[Array, "n dim"], c: Float[Array, " n"], weight: Float[Array, " n"]
    ) -> Float[Array, ""]:
        """Return the weighted mean loss as the network is when it is used, its statistics fixed."""
        raise NotImplementedError

    def generate(self, key: Key[Array, ""], c: Float[Array, " n"]) -> Float[Array, "n dim"]:
        """Return one point a condition."""
        raise NotImplementedError

    def reconstruct(self, y: Float[Array, "n dim"], c: Float[Array, " n"]) -> Float[Array, "n dim"]:
        """Return the point that the network makes of the most plausible latent of a point."""
        raise NotImplementedError

    def encode(self, y: Float[Array, "n dim"], c: Float[Array, " n"]) -> Float[Array, "n latent"]:
        """Return the most plausible latent of every point."""
        raise NotImplementedError

    def propose(
        self, key: Key[Array, ""], c: Float[Array, " n"], num_latents: int
    ) -> tuple[Float[Array, "n dim"], Float[Array, " n"]]:
        """Return one point a condition with log q̂ of it, the latent that made it being one of `num_latents`."""
        raise NotImplementedError

    def log_density(
        self, key: Key[Array, ""], y: Float[Array, "n dim"], c: Float[Array, " n"], num_latents: int
    ) -> Float[Array, " n"]:
        """Return log q̂ of given points, all latents drawn from r; for a network without latents its log density."""
        raise NotImplementedError


class NetworkFactory(Protocol):
    """Describe a network's factory: every setting of its own is keyword-only, hashable and has a default."""

    def __call__(self, key: Key[Array, ""], dim: int) -> Network:
        """Build a network with random weights for points of `dim` dimensions."""
        ...
