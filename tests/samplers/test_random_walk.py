import jax.numpy as jnp
import numpy as np
import pytest

from kinbayes.run.loop.driver import run_sampler
from kinbayes.samplers.random_walk import random_walk, reflect
from tests import targets


def test_reflection_folds_until_inside():
    lower = jnp.array([0.0, 0.0, -jnp.inf, -jnp.inf])
    upper = jnp.array([1.0, jnp.inf, 2.0, jnp.inf])
    outside = jnp.array(
        [[-0.25, -0.25, 2.25, -9.0], [1.25, 3.0, 1.0, 9.0], [2.25, 0.0, 9.0, 0.0], [-7.75, 1.0, 2.0, 1.0]]
    )
    inside = [[0.25, 0.25, 1.75, -9.0], [0.75, 3.0, 1.0, 9.0], [0.25, 0.0, -5.0, 0.0], [0.25, 1.0, 2.0, 1.0]]
    np.testing.assert_allclose(reflect(outside, lower, upper), inside, atol=1e-12)


def test_reflection_of_the_farthest_points_stays_inside():
    points = jnp.array([[1e308], [-1e308], [1.0 + 1e-16], [-1e-300]])
    folded = reflect(points, jnp.zeros(1), jnp.full(1, 0.1))
    assert np.all((folded >= 0.0) & (folded <= 0.1))


@pytest.mark.parametrize(("dim", "goal"), [(1, 0.44), (10, 0.2546)])
def test_warmup_reaches_the_acceptance_rate_for_the_dimension(dim, goal):
    known = targets.correlated_normal(dim=dim, correlation=0.0)
    run = run_sampler(
        known.target,
        random_walk,
        (("step_size", 20.0),),
        initial=known.initial,
        num_warmup=1000,
        num_draws=2000,
        seed=3,
    )
    assert abs(run.info["acceptance_rate"].mean() - goal) < 0.05


def test_warmup_learns_the_scales_of_the_parameters():
    lower = np.full(3, -np.inf)
    sd = np.array([0.01, 1.0, 100.0])
    target = targets.build_target(_anisotropic, _nothing, {"sd": sd}, lower, -lower)
    initial = sd * np.random.default_rng(5).normal(size=(4, 3))
    run = run_sampler(target, random_walk, initial=initial, num_warmup=3000, num_draws=0, seed=4)
    np.testing.assert_allclose(np.log10(run.state.tuning.scale), [-2.0, 0.0, 2.0], atol=0.3)


def _anisotropic(data, u):
    return -0.5 * ((u / data["sd"]) ** 2).sum()


def _nothing(data, u):
    return 0.0 * u.sum()
