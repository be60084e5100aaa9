import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from kinbayes.run.loop.driver import run_sampler
from kinbayes.samplers.adaptive_metropolis import adaptive_metropolis
from kinbayes.samplers.random_walk import reflect
from tests import targets

KNOWN = targets.correlated_normal(correlation=0.95)
# Of the posterior: the prior's, less what a measurement of the first entry with standard deviation 0.5 tells.
PRIOR = 0.95 * np.ones((3, 3)) + 0.05 * np.eye(3)
COVARIANCE = PRIOR - np.outer(PRIOR[0], PRIOR[0]) / (PRIOR[0, 0] + 0.25)


def run(settings=(), *, num_warmup=5000, num_draws=20_000, seed=1, known=KNOWN):
    return run_sampler(
        known.target,
        adaptive_metropolis,
        settings,
        initial=known.initial,
        num_warmup=num_warmup,
        num_draws=num_draws,
        seed=seed,
        chunk=5000,
    )


@pytest.fixture(scope="module")
def pooled():
    return run()


def test_warmup_learns_the_covariance(pooled):
    found = np.asarray(pooled.state.tuning.covariance)
    np.testing.assert_allclose(found, np.broadcast_to(COVARIANCE, found.shape), atol=0.08 * COVARIANCE.max())
    np.testing.assert_allclose(found[0], found[1])
    root = np.asarray(pooled.state.tuning.root[0])
    np.testing.assert_allclose(root @ root.T, found[0], rtol=1e-6)


def test_the_scale_is_near_its_optimum_and_not_squared(pooled):
    # 2.38**2 / dim is nearly optimal; the proposal's covariance is the scale times the learned one.
    assert np.exp(pooled.state.tuning.log_scale) == pytest.approx(2.38**2 / 3, rel=0.35)
    assert abs(pooled.info["acceptance_rate"].mean() - 0.303) < 0.03


def test_chains_by_themselves_learn_their_own_covariances():
    own = np.asarray(run((("pool", False),), num_draws=0).state.tuning.covariance)
    assert not np.allclose(own[0], own[1], rtol=1e-3)
    np.testing.assert_allclose(own, np.broadcast_to(COVARIANCE, own.shape), atol=0.3 * COVARIANCE.max())


def test_continuous_adaptation_gives_the_same_posterior():
    found = run((("adapt", "continuous"),))
    assert targets.worst_error(found.position, KNOWN) < 5
    # The tuning goes on in the draws, of which it knows after warmup as well.
    assert int(found.state.tuning.iteration) == 25_000
    shifted = targets.correlated_normal(correlation=0.95, observed=1.7)
    assert targets.worst_error(found.position, shifted) > 5


def test_unknown_adaptation_is_refused():
    with pytest.raises(ValueError, match="unknown adapt 'always'; choose 'warmup' or 'continuous'"):
        adaptive_metropolis(KNOWN.target, num_warmup=1, adapt="always")


def _uniform(data, u):
    return 0.0 * u.sum()


def after_steps(*, is_folding, num_chains=20_000, num_steps=5):
    """Where exact draws of the unit square are after some steps of a correlated proposal, in the direction (1, -1)."""
    target = targets.build_target(_uniform, _uniform, {}, np.zeros(2), np.ones(2))
    # What folds sees no walls; that the density is uniform takes care of the rest.
    seen = target._replace(lower=jnp.full(2, -jnp.inf), upper=jnp.full(2, jnp.inf)) if is_folding else target
    sampler = adaptive_metropolis(seen, num_warmup=0)
    state = sampler.init(jax.random.key(0), jax.random.uniform(jax.random.key(1), (num_chains, 2)))
    root = np.linalg.cholesky(np.array([[1.0, 0.95], [0.95, 1.0]]))
    tuning = state.tuning._replace(
        log_scale=jnp.full(num_chains, 2 * np.log(0.3)), root=jnp.broadcast_to(root, (num_chains, 2, 2))
    )
    state = state._replace(tuning=tuning)
    step = jax.jit(sampler.step)
    for k in range(num_steps):
        state, _ = step(jax.random.key(2 + k), state)
        if is_folding:
            state = state._replace(position=reflect(state.position, target.lower, target.upper))
    return np.asarray(state.position)


def test_moves_beyond_a_wall_are_rejected_since_folding_them_would_be_wrong():
    # x + y of a uniform square has a triangular distribution; folding a correlated move fills two of the corners.
    triangular = scipy.stats.triang(0.5, scale=2.0)
    right, wrong = (
        scipy.stats.kstest(after_steps(is_folding=folds).sum(axis=1), triangular.cdf).pvalue for folds in (False, True)
    )
    assert right > 1e-3
    assert wrong < 1e-6


def test_a_chain_that_never_moved_keeps_a_proposal():
    failing = targets.log_gamma(edge=-10.0)  # nothing but the start has a density, and that only by name
    state_known = targets.log_gamma()
    sampler = adaptive_metropolis(failing.target, num_warmup=100)
    state = sampler.init(jax.random.key(0), jnp.asarray(state_known.initial))
    step, tune = jax.jit(sampler.step), jax.jit(sampler.tune)
    for k in range(200):
        state, info = step(jax.random.key(k), state)
        state = tune(state, info)
    assert np.isfinite(state.tuning.root).all()
    assert np.isfinite(state.tuning.log_scale).all()
