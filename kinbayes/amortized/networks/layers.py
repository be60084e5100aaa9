"""The blocks that the networks are made of: linear, ReLU, batch normalisation.

Layers take batches. In training a layer gets the weights of the rows, normalises by the batch and returns itself with
its running statistics moved on; without weights it normalises by these, so that what a network says of a point does not
depend on the batch it comes in.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

# Both as in PyTorch's BatchNorm1d.
_MOMENTUM = 0.1
_EPSILON = 1e-5


class Linear(eqx.Module):
    """Map rows linearly."""

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]

    def __init__(self, key: Key[Array, ""], num_inputs: int, num_outputs: int):
        # Uniform with variance 1/(3 inputs), as in PyTorch's Linear.
        bound = 1.0 / math.sqrt(num_inputs)
        self.weight = jax.random.uniform(key, (num_inputs, num_outputs), minval=-bound, maxval=bound)
        self.bias = jnp.zeros(num_outputs)

    def __call__(self, x: Float[Array, "*rows inputs"]) -> Float[Array, "*rows outputs"]:
        return x @ self.weight + self.bias


class BatchNorm(eqx.Module):
    """Normalise every feature over a batch (Ioffe and Szegedy 2015, arXiv:1502.03167)."""

    scale: Float[Array, " features"]
    shift: Float[Array, " features"]
    mean: Float[Array, " features"]
    variance: Float[Array, " features"]

    def __init__(self, num_features: int):
        self.scale, self.shift = jnp.ones(num_features), jnp.zeros(num_features)
        self.mean, self.variance = jnp.zeros(num_features), jnp.ones(num_features)

    def __call__(
        self, x: Float[Array, "n features"], weight: Float[Array, " n"] | None
    ) -> tuple[Float[Array, "n features"], "BatchNorm"]:
        if weight is None:
            mean, variance = jax.lax.stop_gradient((self.mean, self.variance))
            return self._normalised(x, mean, variance), self
        mean = weighted_mean(x, weight)
        variance = weighted_mean((x - mean) ** 2, weight)
        # A batch of no weight has no say either.
        momentum = jnp.where(weight.sum() > 0.0, _MOMENTUM, 0.0)
        running = jax.lax.stop_gradient(
            (
                self.mean + momentum * (mean - self.mean),
                self.variance + momentum * (variance - self.variance),
            )
        )
        moved = eqx.tree_at(lambda layer: (layer.mean, layer.variance), self, running)
        return self._normalised(x, mean, variance), moved

    def _normalised(
        self, x: Float[Array, "n features"], mean: Float[Array, " features"], variance: Float[Array, " features"]
    ) -> Float[Array, "n features"]:
        return self.scale * (x - mean) / jnp.sqrt(variance + _EPSILON) + self.shift


class Blocks(eqx.Module):
    """Chain blocks of linear, ReLU and batch normalisation."""

    linears: tuple[Linear, ...]
    norms: tuple[BatchNorm, ...]

    def __init__(self, key: Key[Array, ""], num_inputs: int, widths: tuple[int, ...]):
        keys = jax.random.split(key, len(widths))
        inputs = (num_inputs, *widths[:-1])
        self.linears = tuple(Linear(k, i, o) for k, i, o in zip(keys, inputs, widths, strict=True))
        self.norms = tuple(BatchNorm(width) for width in widths)

    def __call__(
        self, x: Float[Array, "n inputs"], weight: Float[Array, " n"] | None
    ) -> tuple[Float[Array, "n outputs"], "Blocks"]:
        norms = []
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x, moved = norm(jax.nn.relu(linear(x)), weight)
            norms.append(moved)
        return x, eqx.tree_at(lambda blocks: blocks.norms, self, tuple(norms))


def trainable_weights(module: eqx.Module) -> PyTree[bool]:
    """Return a module with True in place of its arrays of floats, but for running statistics of batches."""

    def mark(node: PyTree) -> PyTree:
        marked = jax.tree.map(eqx.is_inexact_array, node)
        if not isinstance(node, BatchNorm):
            return marked
        return eqx.tree_at(lambda norm: (norm.mean, norm.variance), marked, (False, False))

    return jax.tree.map(mark, module, is_leaf=lambda node: isinstance(node, BatchNorm))


def weighted_mean(x: Float[Array, " n *features"], weight: Float[Array, " n"]) -> Float[Array, "*features"]:
    """Return the mean over rows; zero where no row has a weight."""
    total = weight.sum()
    share = weight / jnp.where(total > 0.0, total, 1.0)
    return jnp.tensordot(share, x, axes=1)


def with_condition(x: Float[Array, "n inputs"], c: Float[Array, " n"]) -> Float[Array, "n inputs+1"]:
    """Append conditions to rows."""
    return jnp.concatenate([x, c[:, None]], axis=1)


def check_sizes(sizes: dict[str, int]) -> None:
    """Raise `ValueError` for a network without dimensions, layers or channels, by the name of the size."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} = {size}; it must be 1 or more")
