"""Simulated annealing: independent chains of Metropolis moves that cool down."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from kinbayes.optimizers.base import Bounds, Evaluation, Optimizer, reflected, told, untold, where

# Part of the moves that a chain's step size aims to be accepted; Corana and others keep it between 0.4 and 0.6.
ACCEPTANCE_RATE = 0.4

# How fast the logarithm of the step size follows; 0.02 took up to half as many evaluations again.
GAIN = 0.1

# Part of the moves that are as wide as the first. Without any, chains shrank their steps to a basin while it was still
# warm enough to leave it: 20 of 40 searches found Rastrigin's minimum in two dimensions, with them all 40.
WIDE_PROBABILITY = 0.2


class Chains(NamedTuple):
    """Hold the chains.

    Attributes
    ----------
    position, loss
        Where they are; +inf where nothing was evaluated.
    candidate
        Where they may go.
    best_position, best_loss
        The best point of each.
    inverse_temperature
        By which differences of the loss are multiplied.
    log_step_size
        Logarithm of the length of narrow moves, in parts of the ranges.
    num_idle
        Number of moves since a chain last found a better point or went uphill, and so became colder.
    """

    position: Float[Array, "chains dim"]
    loss: Float[Array, " chains"]
    candidate: Float[Array, "chains dim"]
    best_position: Float[Array, "chains dim"]
    best_loss: Float[Array, " chains"]
    inverse_temperature: Float[Array, " chains"]
    log_step_size: Float[Array, " chains"]
    num_idle: Int[Array, " chains"]


class State(NamedTuple):
    """Hold the chains and the best of them."""

    best_position: Float[Array, " dim"]
    best_loss: Float[Array, ""]
    converged: Bool[Array, ""]
    finished: Bool[Array, ""]
    chains: Chains


def simulated_annealing(
    bounds: Bounds,
    *,
    step_size: float = 0.2,
    initial_inverse_temperature: float = 0.01,
    final_inverse_temperature: float = 1e6,
    cooling: float = 0.05,
    num_chains: int = 10,
    max_idle: int = 1000,
) -> Optimizer:
    """Build a batch of annealed chains that know nothing of each other.

    A move adds a normal number to every parameter, folded back at the walls, and is accepted with probability
    min(1, exp(-β Δ)), Δ the rise of the loss and β the inverse temperature. Every accepted uphill move multiplies β by
    1 + cooling: additions would take millions of moves to the temperatures at which digits of the loss are decided. For
    the same reason every chain adapts the length of its moves to how many are accepted, as Corana and others do; one
    move in five keeps the first length, so that chains may leave a basin. A chain is told by itself, and moves at once.

    Parameters
    ----------
    bounds
        Walls of the search.
    step_size
        Length of the first moves, and of the wide ones later: the norm of their standard deviations as parts of the
        parameters' ranges, root mean square; in units of u where a parameter is open.
    initial_inverse_temperature
        First β. At β = 1 a chain samples exp(-loss), which is the posterior if the loss is its negative logarithm.
    final_inverse_temperature
        A chain is cold above this β. About a minimum of a smooth loss it wanders dim / (2 β) above it on average.
    cooling
        Part by which an accepted uphill move raises β.
    num_chains
        Number of chains, which are one batch.
    max_idle
        A chain gives up after so many moves without a better point and without an uphill move: all is flat, or fails.

    Returns
    -------
    The optimizer; `init` takes a point for every chain. It has finished when every chain is cold or has given up, and
    converged if that with the best point is cold. Its members are the chains' best points.

    Raises
    ------
    ValueError
        If a setting is not possible.

    References
    ----------
    Kirkpatrick, Gelatt and Vecchi (1983), Optimization by simulated annealing, doi:10.1126/science.220.4598.671.
    Corana, Marchesi, Martini and Ridella (1987), Minimizing multimodal functions of continuous variables with the
    "simulated annealing" algorithm, doi:10.1145/29380.29864.
    """
    settings = {
        "step_size": step_size,
        "initial_inverse_temperature": initial_inverse_temperature,
        "cooling": cooling,
        "num_chains": num_chains,
        "max_idle": max_idle,
    }
    for name, value in settings.items():
        if not value > 0:
            raise ValueError(f"{name} = {value}: choose it above 0")
    if not final_inverse_temperature > initial_inverse_temperature:
        raise ValueError(
            f"final_inverse_temperature = {final_inverse_temperature}: choose it above "
            f"initial_inverse_temperature = {initial_inverse_temperature}"
        )
    dim = bounds.lower.shape[0]
    width = bounds.upper - bounds.lower
    scale = jnp.where(jnp.isfinite(width), width, 1.0) / jnp.sqrt(dim)
    # Steps of more than the range are folded back: no better than those of the range. On a plateau they would grow
    # for ever.
    longest = max(step_size, 1.0)

    def init(key: Key[Array, ""], U: Float[Array, "chains dim"]) -> State:
        position = jnp.clip(U, bounds.lower, bounds.upper)
        chains = Chains(
            position=position,
            loss=jnp.full(num_chains, jnp.inf),
            candidate=position,
            best_position=position,
            best_loss=jnp.full(num_chains, jnp.inf),
            inverse_temperature=jnp.full(num_chains, initial_inverse_temperature),
            log_step_size=jnp.full(num_chains, jnp.log(step_size)),
            num_idle=jnp.zeros(num_chains, int),
        )
        return State(position[0], jnp.array(jnp.inf), jnp.array(False), jnp.array(False), chains)

    def ask(state: State) -> Float[Array, "chains dim"]:
        return state.chains.candidate

    def tell(key: Key[Array, ""], state: State, evaluation: Evaluation) -> State:
        now = told(untold(num_chains), evaluation)
        # A key for every chain: its move does not depend on which others are told.
        moved = jax.vmap(move)(jax.random.split(key, num_chains), state.chains, now.loss)
        chains = jax.vmap(where)(now.is_told, moved, state.chains)
        best = chains.best_loss.argmin()
        is_cold = chains.inverse_temperature >= final_inverse_temperature
        finished = (is_cold | (chains.num_idle >= max_idle)).all()
        new = State(chains.best_position[best], chains.best_loss[best], finished & is_cold[best], finished, chains)
        return where(state.finished, state, new)

    def move(key: Key[Array, ""], chain: Chains, loss: Float[Array, ""]) -> Chains:
        """Accept one chain's candidate or not, and choose the next."""
        accept_key, width_key, step_key = jax.random.split(key, 3)
        # A chain goes anywhere until its first success.
        is_lost = chain.loss == jnp.inf
        rise = loss - chain.loss
        probability = jnp.exp(-chain.inverse_temperature * jnp.maximum(rise, 0.0))
        accepted = is_lost | (jax.random.uniform(accept_key) < probability)
        is_uphill = accepted & (rise > 0.0)
        is_better = loss < chain.best_loss
        position = jnp.where(accepted, chain.candidate, chain.position)
        adapted = jnp.minimum(chain.log_step_size + GAIN * (accepted - ACCEPTANCE_RATE), jnp.log(longest))
        log_step_size = jnp.where(is_lost, chain.log_step_size, adapted)
        is_wide = is_lost | (jax.random.uniform(width_key) < WIDE_PROBABILITY)
        step = jnp.where(is_wide, step_size, jnp.exp(log_step_size)) * scale * jax.random.normal(step_key, dim)
        return Chains(
            position=position,
            loss=jnp.where(accepted, loss, chain.loss),
            candidate=reflected((position + step)[None], bounds)[0],
            best_position=jnp.where(is_better, chain.candidate, chain.best_position),
            best_loss=jnp.where(is_better, loss, chain.best_loss),
            inverse_temperature=chain.inverse_temperature * jnp.where(is_uphill, 1.0 + cooling, 1.0),
            log_step_size=log_step_size,
            num_idle=jnp.where(is_uphill | is_better, 0, chain.num_idle + 1),
        )

    def members(state: State) -> tuple[Float[Array, "chains dim"], Float[Array, " chains"]]:
        order = jnp.argsort(state.chains.best_loss)
        return state.chains.best_position[order], state.chains.best_loss[order]

    return Optimizer(num_chains, init, ask, tell, members)
