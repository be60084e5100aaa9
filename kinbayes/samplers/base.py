"""The sampler protocol: what a sampler may know, what it must offer, and how it accepts.

A sampler sees a `Target` and nothing else of the package. It is a factory ``name(target, *, num_warmup,
...)`` that returns a `Sampler`: three pure functions over a state whose leading axis is the chains, so that
one step of all chains is one batch and samplers that mix chains are ordinary samplers.

Every state is a NamedTuple with at least the fields of `SamplerState`, every info one with at least the
fields of `StepInfo`. Further fields of an info are (chains,) arrays named as in ArviZ's ``sample_stats``.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree


class Target(NamedTuple):
    """State a posterior over a vector u, for many chains at once.

    All callables but `host` are `jax.tree_util.Partial` of module-level functions, with every number they use
    in their arguments. A target is then a pytree and can be an argument of a compiled function: new data, no
    recompilation.

    Attributes
    ----------
    log_prior, log_likelihood
        U (chains, dim) -> (chains,). They are kept apart because tempering needs both. Where a simulation
        fails the log likelihood is -inf.
    value_and_grad
        U (chains, dim) -> log prior (chains,), log likelihood (chains,) and their gradients, (chains, dim)
        each.
    lower, upper
        Hard walls of u, (dim,); -inf and +inf where it is open.
    constrain
        x (dim,) -> u (dim,) and the scalar log|det du/dx|: the map from unconstrained space.
    unconstrain
        u (dim,), strictly inside the walls -> x (dim,).
    host
        A NumPy twin of `value_and_grad` for one vector, for programs that are not JAX; it never enters a
        compiled function.
    """

    log_prior: Callable
    log_likelihood: Callable
    value_and_grad: Callable
    lower: Float[Array, " dim"]
    upper: Float[Array, " dim"]
    constrain: Callable
    unconstrain: Callable
    host: Callable | None = None


@runtime_checkable
class SamplerState(Protocol):
    """Name the fields that every sampler's state has."""

    position: Float[Array, "chains dim"]
    log_prior: Float[Array, " chains"]
    log_likelihood: Float[Array, " chains"]
    tuning: PyTree


@runtime_checkable
class StepInfo(Protocol):
    """Name the fields that every step's info has.

    `n_steps` counts evaluations of the target, with gradient or without, that the step of a chain took.
    """

    acceptance_rate: Float[Array, " chains"]
    n_steps: Int[Array, " chains"]


class Sampler(NamedTuple):
    """Hold one sampler bound to one target.

    Attributes
    ----------
    init
        (key, U (chains, dim)) -> state.
    step
        (key, state) -> (state, info). Leaves the target invariant: it never touches ``state.tuning``.
    tune
        (state, info) -> state. For warmup only, after each step; changes ``state.tuning`` alone.
    """

    init: Callable
    step: Callable
    tune: Callable


@runtime_checkable
class SamplerFactory(Protocol):
    """Describe a sampler's factory.

    `num_warmup` is the number of times `tune` will be called: a sampler that plans its warmup in windows
    needs it, the others ignore it. Every other setting is keyword-only, hashable and has a default.
    """

    def __call__(self, target: Target, *, num_warmup: int) -> Sampler:
        """Bind the sampler to a target."""
        ...


def log_density(
    log_prior: Float[Array, " *chains"], log_likelihood: Float[Array, " *chains"]
) -> Float[Array, " *chains"]:
    """Add log prior and log likelihood; a sum that is no density (NaN or +inf) becomes -inf.

    Parameters
    ----------
    log_prior, log_likelihood
        Logarithms of the two densities, in any common shape.

    Returns
    -------
    The log density, never NaN and never +inf.
    """
    total = log_prior + log_likelihood
    return jnp.where(total < jnp.inf, total, -jnp.inf)


def metropolis(
    key: Key[Array, ""], current: Float[Array, " chains"], proposed: Float[Array, " chains"]
) -> tuple[Bool[Array, " chains"], Float[Array, " chains"]]:
    """Accept or reject symmetric proposals, each chain by itself.

    Parameters
    ----------
    key
        Random key.
    current, proposed
        Log densities from `log_density`, (chains,).

    Returns
    -------
    Whether each proposal is accepted, and the probability it had. A proposal of density zero is never
    accepted, also from a position of density zero.
    """
    probability = jnp.where(proposed > -jnp.inf, jnp.exp(jnp.minimum(proposed - current, 0.0)), 0.0)
    return jax.random.uniform(key, current.shape) < probability, probability
