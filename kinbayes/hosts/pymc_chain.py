"""A chain of a sampler on a PyMC model: what it carries from draw to draw, and the programs that move it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, Key, PyTree
from pytensor.graph.basic import Variable

from kinbayes.hosts.pymc_kernels import Kernel
from kinbayes.hosts.pymc_target import Conditional, conditional
from kinbayes.samplers.base import SamplerState, StepInfo, Target

KernelBuilder = Callable[[int, Target, Target], Kernel]


class ChainState(NamedTuple):
    """Hold what a chain carries from draw to draw.

    Attributes
    ----------
    seed
        Of all its random numbers.
    num_steps
        Number of steps taken.
    memory
        The sampler's state as one vector, which begins with the position. A vector goes to JAX and back in a fraction
        of the time of a tree.
    reference
        Values of the other variables at which a ladder stands: those of the last draw that tuned.
    """

    seed: int
    num_steps: int
    memory: Float[np.ndarray, " size"]
    reference: tuple[np.ndarray, ...]


class Program(NamedTuple):
    """Hold what every process makes of the model for itself.

    Attributes
    ----------
    density
        The density of the variables to move.
    start
        (others, reference, data, seed, position (dim,)) -> a chain's first state, as a vector.
    advance
        (others, reference, data, seed, memory, position (dim,), is_stale, is_tuning, first, last) -> the state after
        the steps from the first to before the last, as a vector, and what the last of them told, in a row.
    num_steps
        Number of steps of a draw.
    """

    density: Conditional
    start: Callable
    advance: Callable
    num_steps: int


def program(
    model: pm.Model,
    own: Sequence[Variable],
    point: Mapping[str, np.ndarray],
    *,
    kernels: tuple[KernelBuilder, KernelBuilder],
    told: tuple[str, ...],
    num_warmup: int,
    steps: int | None,
    steps_per_parameter: int,
) -> Program:
    """Make the programs that move some variables of a model; they are compiled when they are called first.

    Parameters
    ----------
    model
        The model.
    own
        The value variables to move.
    point
        Values of all variables, for their shapes.
    kernels
        The kernel where the density depends on no other variable, and where it does.
    told
        Names of what a step is to tell.
    num_warmup
        Number of draws that tune.
    steps, steps_per_parameter
        Number of steps of a draw or, if that is None, for every parameter.
    """
    density = conditional(model, own, point)
    num_steps = steps or steps_per_parameter * sum(point[v.name].size for v in own)
    build = partial(kernels[bool(density.others)], num_warmup * num_steps)
    start, advance = partial(_start, density, build), partial(_advance, density, build, told)
    return Program(density, jax.jit(start), jax.jit(advance), num_steps)


def _start(
    density: Conditional,
    build: Callable[[Target, Target], Kernel],
    others: tuple,
    reference: tuple,
    data: tuple,
    seed: Int[Array, ""],
    position: Float[Array, " dim"],
) -> Float[Array, " size"]:
    """Return a chain's first state as a vector."""
    kernel = build(*(density.target(len(position), values, data) for values in (others, reference)))
    init_key, _ = _keys(seed)
    return ravel_pytree(kernel.init(init_key, position[None]))[0]


def _advance(
    density: Conditional,
    build: Callable[[Target, Target], Kernel],
    names: tuple[str, ...],
    others: tuple,
    reference: tuple,
    data: tuple,
    seed: Int[Array, ""],
    memory: Float[Array, " size"],
    position: Float[Array, " dim"],
    is_stale: Bool[Array, ""],
    is_tuning: Bool[Array, ""],
    first: Int[Array, ""],
    last: Int[Array, ""],
) -> tuple[Float[Array, " size"], Float[Array, " values"]]:
    """Return the state after the steps of a draw, and what the last of them tells, with the evaluations of all."""
    kernel = build(*(density.target(len(position), values, data) for values in (others, reference)))
    init_key, step_key = _keys(seed)
    state = _like(jax.eval_shape(kernel.init, init_key, position[None]), memory)
    state = jax.lax.cond(is_stale, kernel.moved, lambda state, *_: state, state, position[None], is_tuning)

    def step(i: Array, carry: tuple[SamplerState, StepInfo]) -> tuple[SamplerState, StepInfo]:
        state, before = carry
        state, info = kernel.step(jax.random.fold_in(step_key, i), state)
        state = jax.lax.cond(is_tuning, kernel.tune, lambda state, _: state, state, info)
        return state, info._replace(n_steps=info.n_steps + before.n_steps)

    nothing = jax.tree.map(lambda row: jnp.zeros(row.shape, row.dtype), jax.eval_shape(kernel.step, step_key, state)[1])
    state, info = jax.lax.fori_loop(first, last, step, (state, nothing))
    return ravel_pytree(state)[0], jnp.concatenate([jnp.ravel(getattr(info, name)).astype(float) for name in names])


def _keys(seed: Int[Array, ""]) -> Key[Array, "2"]:
    return jax.random.split(jax.random.key(seed))


def _like(shapes: PyTree, memory: Float[Array, " size"]) -> PyTree:
    """Return the tree of certain shapes and types that was made a vector."""
    _, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))
    return unravel(memory)
