"""Particle swarm: points that fly towards the best that they and the others have seen."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from kinbayes.optimizers.base import Bounds, Evaluation, Optimizer, Told, reflected, told, untold, where, with_best


class State(NamedTuple):
    """Hold the swarm.

    Attributes
    ----------
    position
        Where the particles are: the candidates.
    velocity
        The move that brought them there, or the last one if its component was stopped by a wall.
    personal_position, personal_loss
        The best point of every particle; +inf where it has none.
    round
        What is told of a flight that is not told yet as a whole.
    num_told
        Number of losses that moved a particle.
    flight_loss
        The best loss after the last flight.
    num_unproductive
        Number of flights that were unproductive.
    num_stagnant
        Number of those since the last one that was not.
    """

    best_position: Float[Array, " dim"]
    best_loss: Float[Array, ""]
    converged: Bool[Array, ""]
    finished: Bool[Array, ""]
    position: Float[Array, "particles dim"]
    velocity: Float[Array, "particles dim"]
    personal_position: Float[Array, "particles dim"]
    personal_loss: Float[Array, " particles"]
    round: Told
    num_told: Int[Array, ""]
    flight_loss: Float[Array, ""]
    num_unproductive: Int[Array, ""]
    num_stagnant: Int[Array, ""]


def particle_swarm(
    bounds: Bounds,
    *,
    num_particles: int = 40,
    inertia: float = 0.7,
    cognition: float = 1.5,
    social: float = 1.5,
    final_inertia: float | None = None,
    num_unproductive: int = 30,
    absolute_tolerance: float = 1e-9,
    relative_tolerance: float = 0.0,
    max_stagnant: int = 100,
    asynchronous: bool = False,
) -> Optimizer:
    """Build a swarm whose particles share the best point that any of them has seen.

    A particle's velocity is what inertia leaves of the last one, plus pulls of random strength in every parameter
    towards its own best point and the swarm's. Beyond a wall it is folded back and stands still in that parameter. At
    first it flies half-way to another particle: this made no difference on test functions to the velocity 0 that
    Engelbrecht advises, but particles move on even if nothing could be evaluated yet.

    Parameters
    ----------
    bounds
        Walls of the search.
    num_particles
        Number of particles. With 20 or 30 one search in twenty ended beside the minimum of Rosenbrock's valley in four
        dimensions, with 40 or 60 none.
    inertia
        Part of the velocity that is kept.
    cognition, social
        Largest pulls towards the particle's best point and the swarm's. Large ones make the swarm fly apart.
    final_inertia
        Inertia that unproductive flights lead to; by default it does not change.
    num_unproductive
        Number of unproductive flights, since the beginning, at which inertia is half-way to `final_inertia`.
    absolute_tolerance, relative_tolerance
        A flight was unproductive if it lowered the best loss by no more than the absolute tolerance and this part of
        the loss's size. The swarm has converged when the best points of half the particles are as close as that to the
        best loss.
    max_stagnant
        The search gives up after so many unproductive flights in a row.
    asynchronous
        Whether a particle flies on as soon as its loss is told; else the swarm waits for all of them. As many losses as
        there are particles then count as one flight.

    Returns
    -------
    The optimizer; `init` takes the particles' positions. Its members are their best points.

    Raises
    ------
    ValueError
        If a setting is not possible.

    References
    ----------
    Kennedy and Eberhart (1995), Particle swarm optimization, doi:10.1109/ICNN.1995.488968.
    Engelbrecht (2012), Particle swarm optimization: velocity initialization, doi:10.1109/CEC.2012.6256112.
    """
    _check(num_particles, inertia, final_inertia, cognition, social, num_unproductive, max_stagnant)
    if not (absolute_tolerance >= 0.0 and relative_tolerance >= 0.0):
        raise ValueError(
            f"absolute_tolerance = {absolute_tolerance}, relative_tolerance = {relative_tolerance}: choose 0 or more"
        )
    friction = inertia if final_inertia is None else final_inertia
    everyone = jnp.arange(num_particles)

    def init(key: Key[Array, ""], U: Float[Array, "particles dim"]) -> State:
        position = jnp.clip(U, bounds.lower, bounds.upper)
        circle = jax.random.permutation(key, num_particles)
        ahead = jnp.zeros(num_particles, int).at[circle].set(jnp.roll(circle, 1))
        return State(
            best_position=position[0],
            best_loss=jnp.array(jnp.inf),
            converged=jnp.array(False),
            finished=jnp.array(False),
            position=position,
            velocity=0.5 * (position[ahead] - position),
            personal_position=position,
            personal_loss=jnp.full(num_particles, jnp.inf),
            round=untold(num_particles),
            num_told=jnp.array(0),
            flight_loss=jnp.array(jnp.inf),
            num_unproductive=jnp.array(0),
            num_stagnant=jnp.array(0),
        )

    def ask(state: State) -> Float[Array, "particles dim"]:
        return state.position

    def tell(key: Key[Array, ""], state: State, evaluation: Evaluation) -> State:
        gathered = told(state.round, evaluation)
        seen = with_best(state, state.position, gathered)
        if asynchronous:
            flying = everyone if evaluation.index is None else evaluation.index
            new = flown(key, seen, gathered, flying)
        else:
            waiting = seen._replace(round=gathered)
            new = where(gathered.is_told.all(), flown(key, seen, gathered, everyone), waiting)
        return where(state.finished, state, new)

    def flown(key: Key[Array, ""], state: State, gathered: Told, flying: Int[Array, " n"]) -> State:
        """Let particles remember the best, and move on."""
        is_best = gathered.is_told & (gathered.loss <= state.personal_loss)
        num_told = state.num_told + len(flying)
        state = counted(
            state._replace(
                personal_position=jnp.where(is_best[:, None], state.position, state.personal_position),
                personal_loss=jnp.where(is_best, gathered.loss, state.personal_loss),
                round=untold(num_particles),
                num_told=num_told,
            ),
            num_told // num_particles > state.num_told // num_particles,
        )
        position, velocity = jax.vmap(moved, in_axes=(None, None, 0))(key, state, flying)
        return state._replace(
            position=state.position.at[flying].set(position), velocity=state.velocity.at[flying].set(velocity)
        )

    def counted(state: State, is_flight: Bool[Array, ""]) -> State:
        """Judge the flight if it is complete, and the swarm."""
        is_unproductive = is_flight & is_close(state.flight_loss, state.best_loss)
        num_stagnant = jnp.where(is_unproductive, state.num_stagnant + 1, jnp.where(is_flight, 0, state.num_stagnant))
        # Of all particles it would ask too much: some stay for long in other basins.
        converged = is_close(jnp.median(state.personal_loss), state.personal_loss.min())
        return state._replace(
            converged=converged,
            finished=converged | (num_stagnant >= max_stagnant),
            flight_loss=jnp.where(is_flight, state.best_loss, state.flight_loss),
            num_unproductive=state.num_unproductive + is_unproductive,
            num_stagnant=num_stagnant,
        )

    def is_close(loss: Float[Array, ""], best: Float[Array, ""]) -> Bool[Array, ""]:
        # Of infinite losses the difference is +inf or NaN, which is not close.
        return loss - best <= absolute_tolerance + relative_tolerance * jnp.where(
            jnp.isfinite(best), jnp.abs(best), 0.0
        )

    def moved(
        key: Key[Array, ""], state: State, particle: Int[Array, ""]
    ) -> tuple[Float[Array, " dim"], Float[Array, " dim"]]:
        """Return a particle's next position and velocity."""
        # A key of its own: the move does not depend on which others are made.
        draws = jax.random.uniform(jax.random.fold_in(key, particle), (2, bounds.lower.shape[0]))
        position = state.position[particle]
        unproductive = state.num_unproductive / (state.num_unproductive + num_unproductive)
        velocity = (
            (inertia + (friction - inertia) * unproductive) * state.velocity[particle]
            + cognition * draws[0] * (state.personal_position[particle] - position)
            + jnp.where(jnp.isfinite(state.best_loss), social, 0.0) * draws[1] * (state.best_position - position)
        )
        goal = position + velocity
        is_out = (goal < bounds.lower) | (goal > bounds.upper)
        return reflected(goal[None], bounds)[0], jnp.where(is_out, 0.0, velocity)

    def members(state: State) -> tuple[Float[Array, "particles dim"], Float[Array, " particles"]]:
        order = jnp.argsort(state.personal_loss)
        return state.personal_position[order], state.personal_loss[order]

    return Optimizer(num_particles, init, ask, tell, members)


def _check(num_particles, inertia, final_inertia, cognition, social, num_unproductive, max_stagnant) -> None:
    """Raise an error for a number that cannot be meant."""
    counts = {"num_particles": num_particles, "num_unproductive": num_unproductive, "max_stagnant": max_stagnant}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} = {count}: choose 1 or more")
    for name, value in {"inertia": inertia, "final_inertia": final_inertia}.items():
        if value is not None and not 0.0 <= value < 1.0:
            raise ValueError(f"{name} = {value}: choose it from 0 to below 1, or velocities grow")
    for name, value in {"cognition": cognition, "social": social}.items():
        if not value >= 0.0:
            raise ValueError(f"{name} = {value}: choose 0 or more")
