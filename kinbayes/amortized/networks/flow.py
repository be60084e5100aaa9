"""A conditional flow of rational-quadratic splines on the unit box, by flowjax.

Coupling layers (Dinh et al. 2017, arXiv:1605.08803) of monotone splines (Durkan et al. 2019, arXiv:1906.04032) carry
the unit box onto itself, and points of the density onto uniform ones. No map to unbounded space is needed: the density
is exact, positive and finite on the closed box, walls and corners included, and integrates to one over it. Both
directions have closed forms, so drawing costs what evaluating does.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from kinbayes.amortized.networks.base import Network

try:
    from flowjax import bijections
    from flowjax.utils import get_ravelled_pytree_constructor
except ImportError:  # an extra: whoever asks for a flow is told
    bijections = None

MIN_BIN = 1e-3  # of the box: the narrowest piece of a spline
MIN_SLOPE = 1e-3


class Architecture(NamedTuple):
    """Hold what the arrays of a flow do not say."""

    dim: int
    num_layers: int
    hidden: int
    depth: int
    num_knots: int

    @property
    def num_held(self) -> int:
        """Number of parameters that a layer leaves where they are."""
        return self.dim // 2


class Layers(NamedTuple):
    """Hold the arrays of all coupling layers, which are scanned, so that one is compiled.

    `conditioner` are the weights, and `order` the parameters as the next layer sees them, (layers, dim).
    """

    conditioner: PyTree
    order: Int[Array, "*layers dim"]


class Flow(Network):
    """Hold the weights of a flow; `flow` makes one."""

    layers: Layers
    architecture: Architecture = eqx.field(static=True)

    @property
    def has_density(self) -> bool:
        return True

    def loss(
        self, key: Key[Array, ""], y: Float[Array, "n dim"], c: Float[Array, " n"], weight: Float[Array, " n"]
    ) -> tuple[Float[Array, ""], Network]:
        return self.validation_loss(key, y, c, weight), self

    def validation_loss(
        self, key: Key[Array, ""], y: Float[Array, "n dim"], c: Float[Array, " n"], weight: Float[Array, " n"]
    ) -> Float[Array, ""]:
        log_density = self.log_density(key, y, c, 1)
        return -jnp.sum(weight * log_density) / jnp.sum(weight)

    def generate(self, key: Key[Array, ""], c: Float[Array, " n"]) -> Float[Array, "n dim"]:
        return self.propose(key, c, 1)[0]

    def reconstruct(self, y: Float[Array, "n dim"], c: Float[Array, " n"]) -> Float[Array, "n dim"]:
        """Return the points themselves: a flow loses nothing on the way there and back."""
        return y

    def encode(self, y: Float[Array, "n dim"], c: Float[Array, " n"]) -> Float[Array, "n dim"]:
        """Return where points of the density become uniform."""
        return self._to_uniform(y, c)[0]

    def propose(
        self, key: Key[Array, ""], c: Float[Array, " n"], num_latents: int
    ) -> tuple[Float[Array, "n dim"], Float[Array, " n"]]:
        """Return one point a condition, and its log density; there are no latents to count."""
        z = jax.random.uniform(key, (len(c), self.architecture.dim))
        y, log_slope = self._to_points(z, c)
        return y, -log_slope

    def log_density(
        self, key: Key[Array, ""], y: Float[Array, "n dim"], c: Float[Array, " n"], num_latents: int
    ) -> Float[Array, " n"]:
        """Return the log density of points, -inf outside the closed unit box; the key has no say."""
        is_inside = ((y >= 0) & (y <= 1)).all(axis=1)
        log_slope = self._to_uniform(jnp.where(is_inside[:, None], y, 0.5), c)[1]
        return jnp.where(is_inside, log_slope, -jnp.inf)

    def _to_uniform(
        self, y: Float[Array, "n dim"], c: Float[Array, " n"]
    ) -> tuple[Float[Array, "n dim"], Float[Array, " n"]]:
        def through(carry: tuple[Array, Array], layer: Layers) -> tuple[tuple[Array, Array], None]:
            x, log_slope = self._coupled(layer, carry[0], c, is_inverse=False)
            return (x[:, layer.order], carry[1] + log_slope), None

        return jax.lax.scan(through, (y, jnp.zeros_like(c)), self.layers)[0]

    def _to_points(
        self, z: Float[Array, "n dim"], c: Float[Array, " n"]
    ) -> tuple[Float[Array, "n dim"], Float[Array, " n"]]:
        def back(carry: tuple[Array, Array], layer: Layers) -> tuple[tuple[Array, Array], None]:
            x = jnp.zeros_like(carry[0]).at[:, layer.order].set(carry[0])
            x, log_slope = self._coupled(layer, x, c, is_inverse=True)
            return (x, carry[1] + log_slope), None

        return jax.lax.scan(back, (z, jnp.zeros_like(c)), self.layers, reverse=True)[0]

    def _coupled(
        self, layer: Layers, x: Float[Array, "n dim"], c: Float[Array, " n"], *, is_inverse: bool
    ) -> tuple[Float[Array, "n dim"], Float[Array, " n"]]:
        """Send half of the parameters through splines that the other half and the condition set."""
        form = _form(self.architecture)
        conditioner = eqx.combine(layer.conditioner, eqx.filter(form.conditioner, _is_shape, inverse=True))
        held, moved = jnp.split(x, [self.architecture.num_held], axis=1)
        settings = jax.vmap(conditioner)(jnp.column_stack([held, c])).reshape(*moved.shape, -1)

        def one(setting: Float[Array, " settings"], x: Float[Array, ""]) -> tuple[Array, Array]:
            spline = form.spline(setting)
            return spline.inverse_and_log_det(x) if is_inverse else spline.transform_and_log_det(x)

        moved, log_slope = jax.vmap(jax.vmap(one))(settings, moved)
        return jnp.concatenate([held, moved], axis=1), log_slope.sum(axis=1)


def flow(
    key: Key[Array, ""], dim: int, *, num_layers: int = 6, hidden: int = 64, depth: int = 2, num_knots: int = 8
) -> Flow:
    """Return an untrained flow, close to the uniform density.

    Parameters
    ----------
    key
        Random key of its weights.
    dim
        Number of parameters.
    num_layers
        Number of coupling layers. Each moves half of the parameters, given the others and the condition.
    hidden, depth
        Width and number of hidden layers of the networks that set the splines.
    num_knots
        Number of inner knots of a spline.

    Raises
    ------
    ImportError
        If flowjax is not installed.
    ValueError
        If a size is not a positive number.
    """
    if bijections is None:
        raise ImportError("a flow needs flowjax, which is not installed: pip install 'kinbayes[amortized]'")
    architecture = Architecture(dim, num_layers, hidden, depth, num_knots)
    for name, size in architecture._asdict().items():
        if size < 1:
            raise ValueError(f"{name} is {size}; a flow needs at least 1")
    return Flow(_layers(key, architecture), architecture)


class Form(NamedTuple):
    """Hold what layers are beside their arrays: a network, its weights as shapes, and what makes splines of outputs."""

    conditioner: PyTree
    spline: Callable


@functools.lru_cache(maxsize=64)
def _form(architecture: Architecture) -> Form:
    """Return the form of layers: one object an architecture, so that other weights compile nothing."""
    with jax.ensure_compile_time_eval():  # the first to ask may be a function that is being traced
        spline = bijections.RationalQuadraticSpline(
            knots=architecture.num_knots, interval=(0.0, 1.0), min_derivative=MIN_SLOPE, min_width=MIN_BIN
        )
        # Of zeros it makes the spline that is the identity.
        splines, num_settings = get_ravelled_pytree_constructor(spline, filter_spec=eqx.is_inexact_array)
    conditioner = eqx.filter_eval_shape(
        eqx.nn.MLP,
        architecture.num_held + 1,
        (architecture.dim - architecture.num_held) * num_settings,
        architecture.hidden,
        architecture.depth,
        activation=jax.nn.silu,
        key=jax.random.key(0),
    )
    return Form(conditioner, splines)


def _is_shape(leaf: object) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _layers(key: Key[Array, ""], architecture: Architecture) -> Layers:
    """Return the layers of an untrained flow: weights and biases uniform within 1/√inputs, as PyTorch has them.

    All of them are drawn as one array: many small ones take seconds to compile.
    """
    conditioner = _form(architecture).conditioner
    shapes, tree = jax.tree.flatten(eqx.filter(conditioner, _is_shape))
    largest = [linear.in_features**-0.5 for linear in conditioner.layers for _ in ("weight", "bias")]
    sizes = [math.prod(leaf.shape) for leaf in shapes]
    drawn = jax.random.uniform(key, (architecture.num_layers, sum(sizes) + architecture.dim), minval=-1.0)
    *parts, order = jnp.split(drawn, np.cumsum(sizes), axis=1)
    weights = [
        (part * bound).reshape(-1, *leaf.shape) for part, bound, leaf in zip(parts, largest, shapes, strict=True)
    ]
    return Layers(jax.tree.unflatten(tree, weights), jnp.argsort(order, axis=1))
