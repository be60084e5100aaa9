import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from kinbayes.run.loop.driver import run_sampler
from kinbayes.samplers.nuts import nuts
from tests import targets


def run_nuts(target, initial, settings=(), *, num_warmup=500, num_draws=200):
    return run_sampler(
        target,
        nuts,
        settings,
        initial=initial,
        num_warmup=num_warmup,
        num_draws=num_draws,
        seed=0,
        chunk=5000,
    )


@pytest.fixture(scope="module")
def dense_run():
    """A run with a dense mass matrix and short trees, which evaluates densities with gradients only."""
    known = targets.correlated_normal()
    target = known.target._replace(log_prior=Partial(_refuse), log_likelihood=Partial(_refuse))
    settings = (("dense_mass", True), ("max_tree_depth", 2))
    return run_nuts(target, known.initial, settings, num_warmup=1000)


def _refuse(U):
    raise AssertionError("this evaluation would be a second simulation of a point")


def test_dense_mass_learns_the_covariance(dense_run):
    # The covariance of the prior, less what the measurement (noise 0.5) of the first entry tells.
    prior = np.full((3, 3), 0.8) + 0.2 * np.eye(3)
    covariance = prior - np.outer(prior[0], prior[0]) / (1.0 + 0.5**2)
    # The last window has 500 draws of each chain: the error is about 10 %.
    learned = np.asarray(dense_run.state.tuning.adaptation.inverse_mass_matrix).mean(axis=0)
    np.testing.assert_allclose(learned, covariance, rtol=0.2)


def test_trees_end_at_the_depth_asked_for(dense_run):
    assert dense_run.info["tree_depth"].max() == 2
    assert dense_run.info["n_steps"].max() == 3


def test_num_steps_counts_evaluations(dense_run):
    assert dense_run.num_steps >= dense_run.info["n_steps"].sum() + 4 * 1000


def test_a_failing_region_shows_as_divergences():
    smooth, failing = targets.log_gamma(), targets.log_gamma(edge=0.0)
    assert run_nuts(smooth.target, smooth.initial).info["diverging"].sum() == 0
    assert run_nuts(failing.target, failing.initial).info["diverging"].mean() > 0.1


def test_a_gradient_that_is_not_finite_counts_as_zero():
    known = targets.log_gamma()
    target = known.target._replace(value_and_grad=Partial(_half_blind, known.target.value_and_grad))
    U = jnp.asarray(known.initial)
    full = nuts(known.target, num_warmup=10).init(jax.random.key(0), U)
    half = nuts(target, num_warmup=10).init(jax.random.key(0), U)
    np.testing.assert_array_equal(half.likelihood_gradient[:, 0], 0.0)
    np.testing.assert_array_equal(half.likelihood_gradient[:, 1], full.likelihood_gradient[:, 1])
    np.testing.assert_array_equal(half.prior_gradient, full.prior_gradient)


def _half_blind(function, U):
    log_prior, log_likelihood, prior_gradient, likelihood_gradient = function(U)
    return log_prior, log_likelihood, prior_gradient, likelihood_gradient.at[:, 0].set(np.nan)
