"""Differential evolution: a population whose members move along differences between others."""

from math import ceil
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from kinbayes.optimizers.base import Bounds, Evaluation, Optimizer, Told, reflected, told, untold, where, with_best

# Where a trial starts from, a random member, the island's best or the one it is to replace, and the number of
# differences that it adds.
STRATEGIES = {
    "rand1": ("random", 1),
    "rand2": ("random", 2),
    "best1": ("best", 1),
    "best2": ("best", 2),
    "all1": ("target", 1),
    "all2": ("target", 2),
}


class State(NamedTuple):
    """Hold the population, island after island, and the trial of every member.

    Attributes
    ----------
    position, loss
        The members; +inf where none is evaluated.
    candidates
        The trial of every member, which replaces it if it is not worse; at first the member itself.
    round
        What is told of the candidates, of a generation that is not told yet as a whole.
    num_told
        Number of trials that went into the population.
    """

    best_position: Float[Array, " dim"]
    best_loss: Float[Array, ""]
    converged: Bool[Array, ""]
    finished: Bool[Array, ""]
    position: Float[Array, "members dim"]
    loss: Float[Array, " members"]
    candidates: Float[Array, "members dim"]
    round: Told
    num_told: Int[Array, ""]


def differential_evolution(
    bounds: Bounds,
    *,
    strategy: str = "rand1",
    mutation_rate: float = 0.9,
    mutation_factor: float = 0.7,
    population_size: int | None = None,
    islands: int = 1,
    migrate_every: int = 20,
    num_to_migrate: int = 3,
    asynchronous: bool = False,
    tolerance: float = 1e-9,
) -> Optimizer:
    """Build a population that evolves by differences between its members.

    The trial of a member is a base point, to which differences between other members are added, times a factor; some of
    its parameters are the member's own. It takes the member's place if it is not worse. At least one parameter that is
    not fixed is not the member's, for else the trial would be the member, whose loss is known. Beyond a wall trials are
    folded back.

    Parameters
    ----------
    bounds
        Walls of the search.
    strategy
        Base and number of differences of a trial: `rand1`, `rand2` from a random member, `best1`, `best2` from the
        best, `all1`, `all2` from the member whose trial it is.
    mutation_rate
        Probability with which a parameter is not the member's own. With .5 few trials follow a curved valley: of 10
        searches in Rosenbrock's in four dimensions 7 came to a loss of 1e-6, and all with .9.
    mutation_factor
        Factor on the differences.
    population_size
        Number of members, by default 10 for every parameter (Storn and Price); rounded up to a multiple of
        `islands`.
    islands
        Number of parts of the population that evolve by themselves: base and differences are their own.
    migrate_every
        Number of generations, the first one included, after which members change islands.
    num_to_migrate
        Number of members of every island, drawn at random, that then take the places of those that leave the next
        island, in a random circle of all islands.
    asynchronous
        Whether a trial takes its place, and the next one of that member is made, as soon as its loss is told; else
        the population waits for the whole generation. As many losses as there are members then count as one
        generation.
    tolerance
        The search has converged when the losses of the whole population, all finite, differ by no more than this.

    Returns
    -------
    The optimizer; `init` takes the population.

    Raises
    ------
    ValueError
        If a setting is not possible, or the islands are too small for the strategy.

    References
    ----------
    Storn and Price (1997), Differential evolution: a simple and efficient heuristic for global optimization over
    continuous spaces, doi:10.1023/A:1008202821328.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}; choose from {sorted(STRATEGIES)}")
    base, num_differences = STRATEGIES[strategy]
    # The target, the base if that is another one, and the ends of the differences are all different members.
    smallest = 1 + (base != "target") + 2 * num_differences
    dim = bounds.lower.shape[0]
    wanted = max(10 * dim, smallest * islands) if population_size is None else population_size
    _check(mutation_rate, mutation_factor, wanted, islands, migrate_every, num_to_migrate, tolerance)
    island_size = ceil(wanted / islands)
    size = islands * island_size
    if island_size < max(smallest, num_to_migrate if islands > 1 else 0):
        raise ValueError(
            f"{wanted} members on {islands} islands are too few: strategy {strategy!r} needs {smallest} on each, and "
            f"migration no fewer than {num_to_migrate}; raise population_size or lower islands"
        )
    everyone = jnp.arange(size)

    def init(key: Key[Array, ""], U: Float[Array, "members dim"]) -> State:
        position = jnp.clip(U, bounds.lower, bounds.upper)
        return State(
            best_position=position[0],
            best_loss=jnp.array(jnp.inf),
            converged=jnp.array(False),
            finished=jnp.array(False),
            position=position,
            loss=jnp.full(size, jnp.inf),
            candidates=position,
            round=untold(size),
            num_told=jnp.array(0),
        )

    def ask(state: State) -> Float[Array, "members dim"]:
        return state.candidates

    def tell(key: Key[Array, ""], state: State, evaluation: Evaluation) -> State:
        gathered = told(state.round, evaluation)
        seen = with_best(state, state.candidates, gathered)
        if asynchronous:
            targets = everyone if evaluation.index is None else evaluation.index
            new = advanced(key, seen, gathered, targets)
        else:
            waiting = seen._replace(round=gathered)
            new = where(gathered.is_told.all(), advanced(key, seen, gathered, everyone), waiting)
        return where(state.finished, state, new)

    def advanced(key: Key[Array, ""], state: State, gathered: Told, targets: Int[Array, " n"]) -> State:
        """Let trials take the places of their targets, and make these targets' next ones."""
        migration_key, trial_key = jax.random.split(key)
        is_replaced = gathered.is_told & (gathered.loss <= state.loss)
        position = jnp.where(is_replaced[:, None], state.candidates, state.position)
        loss = jnp.where(is_replaced, gathered.loss, state.loss)
        num_told = state.num_told + len(targets)
        if islands > 1:
            period = migrate_every * size
            migrates = num_told // period > state.num_told // period
            position, loss = where(migrates, migrated(migration_key, position, loss), (position, loss))
        # While any loss is +inf this is +inf or NaN, and so the test is not met.
        converged = loss.max() - loss.min() <= tolerance
        trials = jax.vmap(trial, in_axes=(None, None, None, 0))(trial_key, position, loss, targets)
        return state._replace(
            converged=converged,
            finished=converged,
            position=position,
            loss=loss,
            candidates=state.candidates.at[targets].set(reflected(trials, bounds)),
            round=untold(size),
            num_told=num_told,
        )

    def trial(
        key: Key[Array, ""],
        position: Float[Array, "members dim"],
        loss: Float[Array, " members"],
        target: Int[Array, ""],
    ) -> Float[Array, " dim"]:
        """Make a trial of one member; its walls are yet to be looked at."""
        # A key of its own: the trial does not depend on which others are made.
        partner_key, mutation_key = jax.random.split(jax.random.fold_in(key, target))
        first = target // island_size * island_size
        best = first + jax.lax.dynamic_slice(loss, (first,), (island_size,)).argmin()
        # Partners are the island's members of the highest draws, and so all different.
        draws = jax.random.uniform(partner_key, island_size).at[target - first].set(-1.0)
        if base == "best":
            draws = draws.at[best - first].set(-1.0)
        num_partners = 2 * num_differences + (base == "random")
        partners = position[first + jax.lax.top_k(draws, num_partners)[1]]
        ends = partners[-2 * num_differences :]
        difference = (ends[0::2] - ends[1::2]).sum(axis=0)
        # The parameter of the least draw mutates in any case.
        draws = jnp.where(bounds.upper > bounds.lower, jax.random.uniform(mutation_key, dim), jnp.inf)
        is_mutated = (draws < mutation_rate) | (draws == draws.min())
        start = {"random": partners[0], "best": position[best], "target": position[target]}[base]
        return jnp.where(is_mutated, start + mutation_factor * difference, position[target])

    def migrated(key: Key[Array, ""], position: Float[Array, "members dim"], loss: Float[Array, " members"]):
        """Send members of every island to the next one in a random circle of them."""
        circle_key, slot_key = jax.random.split(key)
        circle = jax.random.permutation(circle_key, islands)
        origin = jnp.zeros(islands, int).at[circle].set(jnp.roll(circle, 1))
        slots = jax.lax.top_k(jax.random.uniform(slot_key, (islands, island_size)), num_to_migrate)[1]
        slots = slots + island_size * jnp.arange(islands)[:, None]
        return position.at[slots].set(position[slots[origin]]), loss.at[slots].set(loss[slots[origin]])

    def members(state: State) -> tuple[Float[Array, "members dim"], Float[Array, " members"]]:
        order = jnp.argsort(state.loss)
        return state.position[order], state.loss[order]

    return Optimizer(size, init, ask, tell, members)


def _check(mutation_rate, mutation_factor, population_size, islands, migrate_every, num_to_migrate, tolerance) -> None:
    """Raise an error for a number that cannot be meant."""
    if not 0.0 <= mutation_rate <= 1.0:
        raise ValueError(f"mutation_rate = {mutation_rate} is no probability: choose it from 0 to 1")
    if not 0.0 < mutation_factor <= 2.0:
        raise ValueError(f"mutation_factor = {mutation_factor}: choose it above 0 and no more than 2")
    if not tolerance >= 0.0:
        raise ValueError(f"tolerance = {tolerance}: choose a difference of losses, 0 or more")
    counts = {
        "population_size": population_size,
        "islands": islands,
        "migrate_every": migrate_every,
        "num_to_migrate": num_to_migrate,
    }
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} = {count}: choose 1 or more")
