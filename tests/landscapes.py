"""Losses of one point with known minima, and searches in them, for the tests of populations."""

import jax
import jax.numpy as jnp
import numpy as np

from kinbayes.optimizers.base import Bounds, Evaluation, OptimizerFactory
from kinbayes.optimizers.initial import latin_hypercube


def sphere(u):
    return jnp.sum((u - 0.3) ** 2)


def rosenbrock(u):
    return jnp.sum(100.0 * (u[1:] - u[:-1] ** 2) ** 2 + (1.0 - u[:-1]) ** 2)


def rastrigin(u):
    return jnp.sum(u**2 - 10.0 * jnp.cos(2.0 * jnp.pi * u) + 10.0)


def beyond_a_wall(u):
    """A bowl whose centre is 1 behind the upper walls at 2, where it is 0."""
    return jnp.sum((u - 3.0) ** 2 - 1.0)


def failing(u):
    """A bowl that fails at 30 % of all points, in grains far smaller than moves."""
    grain = jnp.abs(jnp.sin(1e5 * jnp.sum(u))) * 1e3
    grain = grain - jnp.floor(grain)
    return jnp.where(grain < 0.15, jnp.inf, jnp.where(grain < 0.3, jnp.nan, sphere(u)))


def box(dim: int, wall: float = 2.0) -> Bounds:
    return Bounds(jnp.full(dim, -wall), jnp.full(dim, wall))


def points(seed: int, n: int, bounds: Bounds) -> jax.Array:
    return jnp.asarray(latin_hypercube(seed, n, *map(np.asarray, bounds)))


def minimised(factory: OptimizerFactory, loss, bounds, *, rounds, num_starts=5, design=None, **settings):
    """Run several starts; return the last states and the best losses (starts, rounds)."""
    optimizer = factory(bounds, **settings)

    def run(key, U):
        def step(state, i):
            told = Evaluation(jax.vmap(loss)(optimizer.ask(state)))
            state = optimizer.tell(jax.random.fold_in(key, i), state, told)
            return state, state.best_loss

        return jax.lax.scan(step, optimizer.init(key, U), jnp.arange(rounds))

    ends = bounds if design is None else design
    U = jnp.stack([points(k, optimizer.num_points, ends) for k in range(num_starts)])
    return jax.jit(jax.vmap(run))(jax.vmap(jax.random.key)(jnp.arange(num_starts)), U)
