"""A ladder beside other steppers must be exact; one that follows the others is not, and the test must see it."""

from functools import partial

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from jax.tree_util import Partial

from kinbayes.hosts.pymc_kernels import conditional_ladder_kernel, ladder_kernel
from kinbayes.samplers.adaptive_metropolis import adaptive_metropolis
from kinbayes.samplers.base import Target

# z is -1 or 1, as likely; x is normal around z GAP with variance 1; MEASURED is normal around x with deviation NOISE.
GAP, NOISE, MEASURED = 1.5, 1.5, 1.0
WEIGHTS = np.array([norm.pdf(MEASURED, z * GAP, np.hypot(1.0, NOISE)) for z in (-1, 1)])
UP = float(WEIGHTS[1] / WEIGHTS.sum())  # the posterior's probability of z = 1
MEAN = float(sum(w * (z * GAP + (MEASURED - z * GAP) / (1 + NOISE**2)) for w, z in zip(WEIGHTS, (-1, 1), strict=True)))
MEAN /= float(WEIGHTS.sum())


def log_prior(z, X):
    return norm.logpdf(X[:, 0], z * GAP)


def log_likelihood(X):
    return norm.logpdf(MEASURED, X[:, 0], NOISE)


def target(z) -> Target:
    nothing = Partial(lambda u: u)
    walls = jnp.full(1, jnp.inf)
    return Target(Partial(log_prior, z), Partial(log_likelihood), nothing, -walls, walls, nothing, nothing)


@partial(jax.jit, static_argnames=("kernel", "num_draws"))
def gibbs(key, reference, *, kernel, num_draws=100_000, num_warmup=300):
    """Move x by a kernel and z by its conditional, in turn; return the draws of both."""
    build = partial(kernel, 4, adaptive_metropolis, (), num_warmup)

    def draw(carry, i):
        state, z = carry
        one = build(target(z), target(jnp.where(i < num_warmup, z, reference)))
        step_key, z_key = jax.random.split(jax.random.fold_in(key, i))
        state = one.moved(state, state.position, i <= num_warmup)
        state, info = one.step(step_key, state)
        state = jax.lax.cond(i < num_warmup, one.tune, lambda state, _: state, state, info)
        x = state.position[0, 0]
        z = jnp.where(jax.random.bernoulli(z_key, jax.nn.sigmoid(2 * GAP * x)), 1.0, -1.0)
        return (state, z), (x, z > 0, info.exchange_rate[0])

    first = build(target(1.0), target(1.0)).init(key, jnp.zeros((1, 1)))
    _, draws = jax.lax.scan(draw, (first, 1.0), jnp.arange(num_warmup + num_draws))
    return [d[num_warmup:] for d in draws]


def errors(draws, truth):
    """Return how many standard errors the mean is off."""
    draws = np.asarray(draws, float)
    return abs(draws.mean() - truth) / (draws.std() / np.sqrt(az.ess(draws[None])))


@pytest.mark.parametrize("reference", [-1.0, 1.0])
def test_a_ladder_beside_other_steppers_is_exact(reference):
    x, is_up, exchange_rate = gibbs(jax.random.key(1), reference, kernel=conditional_ladder_kernel)
    assert errors(x, MEAN) < 5
    assert errors(is_up, UP) < 5
    assert 0.1 < exchange_rate.mean() < 0.99
    assert errors(is_up, 0.5) > 5


def test_a_ladder_that_follows_the_others_is_not():
    x, is_up, _ = gibbs(jax.random.key(1), 0.0, kernel=ladder_kernel)
    assert errors(x, MEAN) > 6
    assert errors(is_up, UP) > 6
