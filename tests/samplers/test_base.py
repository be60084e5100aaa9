import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from kinbayes.samplers.base import MetropolisState, metropolis
from tests import targets

VALUES = np.array([0.0, np.nan, np.inf, -np.inf])


def test_no_density_is_nan_or_infinite():
    found = targets.correlated_normal().target.log_density(*jnp.meshgrid(VALUES, VALUES))
    np.testing.assert_array_equal(found, np.where(np.arange(16).reshape(4, 4) == 0, 0.0, -np.inf))


def test_at_beta_zero_only_the_prior_counts():
    prior = targets.correlated_normal().target._replace(beta=jnp.array(0.0))
    np.testing.assert_array_equal(prior.log_density(jnp.full(4, -2.0), jnp.asarray(VALUES)), -2.0)
    half = prior._replace(beta=jnp.array(0.5))
    assert half.log_density(jnp.array(-2.0), jnp.array(-6.0)) == -5.0


def _table(values, U):
    return values[U[:, 0].astype(int)]


def target_of(log_likelihoods):
    """A target whose log likelihood at 0, 1, 2, … is given, and whose prior is flat from 0 to 9."""
    known = targets.against_walls().target
    flat = Partial(_table, jnp.zeros(10))
    likelihood = Partial(_table, jnp.asarray(log_likelihoods))
    return known._replace(log_prior=flat, log_likelihood=likelihood, lower=jnp.zeros(1), upper=jnp.full(1, 9.0))


def moved(log_likelihoods, start, proposal, log_correction=0.0):
    target = target_of(log_likelihoods)
    U = jnp.asarray(start, float)[:, None]
    state = MetropolisState(U, target.log_prior(U), target.log_likelihood(U), None)
    return metropolis(jax.random.key(0), target, state, jnp.asarray(proposal, float)[:, None], log_correction)


def test_a_move_between_two_failures_is_refused():
    table = [-np.inf, 0.0, np.log(0.5), np.nan, np.inf]
    state, probability, _ = moved(table, [0, 0, 1, 1, 1, 1, 0], [0, 1, 0, 2, 3, 4, 3])
    np.testing.assert_allclose(probability, [0.0, 1.0, 0.0, 0.5, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(np.delete(state.position[:, 0], 3), [0, 1, 1, 1, 1, 0])
    assert state.log_likelihood[1] == 0.0


def test_beyond_a_wall_nothing_is_accepted():
    state, probability, proposed = moved(np.zeros(10), [1, 8], [-1, 10])
    np.testing.assert_array_equal(probability, 0.0)
    np.testing.assert_array_equal(state.position[:, 0], [1, 8])
    assert all(np.isnan(values).all() for values in proposed)


def test_what_was_proposed_is_told_accepted_or_not():
    table = [0.0, -3.0, -np.inf]
    state, _, (position, log_prior, log_likelihood) = moved(table, [0, 0, 1, 0], [1, 2, 0, 12])
    assert state.position[1, 0] == 0.0
    np.testing.assert_array_equal(position[:, 0], [1.0, 2.0, 0.0, np.nan])
    np.testing.assert_array_equal(log_likelihood, [-3.0, -np.inf, 0.0, np.nan])
    np.testing.assert_array_equal(log_prior, [0.0, 0.0, 0.0, np.nan])


@pytest.mark.parametrize(("correction", "expected"), [(0.0, 0.5), (np.log(0.5), 0.25), (1.0, 1.0)])
def test_an_asymmetric_proposal_is_corrected(correction, expected):
    _, probability, _ = moved([0.0, np.log(0.5)], [0], [1], jnp.array([correction]))
    np.testing.assert_allclose(probability, expected)
