"""The sampler protocol: what a sampler may know, what it must offer, and how it accepts.

A sampler sees a `Target` and nothing else of the package. It is a factory ``name(target, *, num_warmup,
...)`` that returns a `Sampler`: three pure functions over a state whose leading axis is the chains, so that
one step of all chains is one batch and samplers that mix chains are ordinary samplers.

Every state is a NamedTuple with at least the fields of `SamplerState`; all of it but the tuning consists of arrays
whose leading axis is the chains. Every info is a NamedTuple with at least the fields of `StepInfo`. Further fields
are (chains,) arrays named as in ArviZ's ``sample_stats``, or (chains, rungs) ones of a sampler with rungs; one named
`proposed` is a `Proposed`, of samplers that can tell what they evaluated.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree


class Proposal(NamedTuple):
    """Hold an independence proposal: points drawn without regard to where the chain is, and their density.

    Both callables are `jax.tree_util.Partial` of module-level functions, with the weights of a network in their
    arguments. The density may be an estimate: then `draw` and `log_density` are the two sides of one extended space, as
    `kinbayes.amortized.networks.base` says, and the estimate of a draw is the one that came with it, never a fresh one.

    Attributes
    ----------
    draw
        (key, num) -> U (num, dim) and log q̂ of each, (num,); num is a Python int. Points may lie outside the walls.
    log_density
        (key, U (n, dim)) -> log q̂ of points that come from the target, (n,).
    """

    draw: Callable
    log_density: Callable


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
    beta
        Inverse temperature: the density is prior times likelihood to the power of beta. 1 is the posterior, 0 the
        prior.
    proposal
        What a sampler with learned proposals draws from; None for the others, which do not look at it.
    """

    log_prior: Callable
    log_likelihood: Callable
    value_and_grad: Callable
    lower: Float[Array, " dim"]
    upper: Float[Array, " dim"]
    constrain: Callable
    unconstrain: Callable
    beta: Float[Array, ""] | float = 1.0
    proposal: Proposal | None = None

    def log_density(
        self, log_prior: Float[Array, " *chains"], log_likelihood: Float[Array, " *chains"]
    ) -> Float[Array, " *chains"]:
        """Return log prior plus beta times log likelihood; what is no density (NaN or +inf) becomes -inf.

        At beta = 0 the likelihood has no say, not even where it is 0 or fails.
        """
        tempered = jnp.where(self.beta == 0, 0.0, self.beta * log_likelihood)
        total = log_prior + tempered
        return jnp.where(total < jnp.inf, total, -jnp.inf)


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


class Proposed(NamedTuple):
    """Hold where a step might have gone, and the densities there.

    Further axes behind the chains', of rungs or candidates, are those of a sampler that has them. Beyond a wall nothing
    is evaluated: there all is NaN.
    """

    position: Float[Array, "chains ... dim"]
    log_prior: Float[Array, "chains ..."]
    log_likelihood: Float[Array, "chains ..."]


class MetropolisState(NamedTuple):
    """Hold the state of a Metropolis sampler, which is what every state has."""

    position: Float[Array, "chains dim"]
    log_prior: Float[Array, " chains"]
    log_likelihood: Float[Array, " chains"]
    tuning: PyTree


class MetropolisInfo(NamedTuple):
    """Report one step of a Metropolis sampler; `step_size` is a factor on its proposals that warmup tunes."""

    acceptance_rate: Float[Array, " chains"]
    step_size: Float[Array, " chains"]
    n_steps: Int[Array, " chains"]
    proposed: Proposed | None = None


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


def proposed_by(info: StepInfo) -> Proposed | None:
    """Return the proposals of a step; None of a sampler that does not tell them."""
    return getattr(info, "proposed", None)


def without_proposed(info: StepInfo) -> StepInfo:
    """Return what a step told but its proposals, which nobody is to carry along."""
    return info if proposed_by(info) is None else info._replace(proposed=None)


def silent(sampler: Sampler) -> Sampler:
    """Return a sampler that does not tell its proposals, for programs that have no use for them."""

    def step(key: Key[Array, ""], state: SamplerState) -> tuple[SamplerState, StepInfo]:
        state, info = sampler.step(key, state)
        return state, without_proposed(info)

    return sampler._replace(step=step)


@runtime_checkable
class SamplerFactory(Protocol):
    """Describe a sampler's factory.

    `num_warmup` is the number of times `tune` will be called: a sampler that plans its warmup in windows
    needs it, the others ignore it. Every other setting is keyword-only, hashable and has a default.
    """

    def __call__(self, target: Target, *, num_warmup: int) -> Sampler:
        """Bind the sampler to a target."""
        ...


def optimal_acceptance(dim: int) -> float:
    """Return the acceptance rate at which Gaussian moves of a normal target are worth most.

    It is within 0.02 of what Gelman, Roberts and Gilks (1996, Efficient Metropolis jumping rules, Bayesian Statistics
    5) state for 1 to 10 dimensions, and tends to 0.234.
    """
    return 0.234 + 0.206 / dim


def metropolis(
    key: Key[Array, ""],
    target: Target,
    state: SamplerState,
    proposal: Float[Array, "chains dim"],
    log_correction: Float[Array, " chains"] | float = 0.0,
) -> tuple[SamplerState, Float[Array, " chains"], Proposed]:
    """Accept or reject a proposal, each chain by itself.

    Parameters
    ----------
    key
        Random key.
    target
        The posterior; all proposals are evaluated as one batch.
    state
        Where the chains are.
    proposal
        Where they are to go. Beyond a wall the density is zero.
    log_correction
        Logarithm of the density of the way back over that of the way there; 0 for symmetric proposals.

    Returns
    -------
    The state with positions and densities of what was accepted, the probabilities with which it was, and all that was
    proposed. A proposal of density zero is never accepted, also from a position of density zero.
    """
    is_inside = ((target.lower <= proposal) & (proposal <= target.upper)).all(axis=1)
    U = jnp.where(is_inside[:, None], proposal, state.position)
    log_prior, log_likelihood = target.log_prior(U), target.log_likelihood(U)
    log_density = jnp.where(is_inside, target.log_density(log_prior, log_likelihood), -jnp.inf)
    gain = log_density - target.log_density(state.log_prior, state.log_likelihood) + log_correction
    probability = jnp.where(log_density > -jnp.inf, jnp.exp(jnp.minimum(gain, 0.0)), 0.0)
    is_accepted = jax.random.uniform(key, probability.shape) < probability
    moved = state._replace(
        position=jnp.where(is_accepted[:, None], U, state.position),
        log_prior=jnp.where(is_accepted, log_prior, state.log_prior),
        log_likelihood=jnp.where(is_accepted, log_likelihood, state.log_likelihood),
    )
    proposed = Proposed(
        jnp.where(is_inside[:, None], U, jnp.nan),
        jnp.where(is_inside, log_prior, jnp.nan),
        jnp.where(is_inside, log_likelihood, jnp.nan),
    )
    return moved, probability, proposed
