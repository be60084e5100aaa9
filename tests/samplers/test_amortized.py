"""i-SIR with untrained random networks: exact whatever the network, as a plug-in scheme is not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.tree_util import Partial

from kinbayes.samplers.adaptive_metropolis import adaptive_metropolis
from kinbayes.samplers.amortized import amortized, refresh
from kinbayes.samplers.base import MetropolisState, Proposal
from kinbayes.samplers.nuts import nuts
from tests import proposals, targets

KNOWN = {
    1: targets.correlated_normal(dim=1),
    2: targets.log_gamma(),
    10: targets.correlated_normal(dim=10),
}
BATCHES = []  # shapes of what a target was evaluated at


def exact_draws(dim, size):
    rng = np.random.default_rng(1)
    if dim == 2:
        counted = scipy.stats.loggamma(4.0, loc=-np.log(4.0)), scipy.stats.loggamma(1.0)
        return np.stack([each.rvs(size, random_state=rng) for each in counted], axis=1)
    covariance = 0.8 * np.ones((dim, dim)) + 0.2 * np.eye(dim)
    gain = covariance[:, 0] / (covariance[0, 0] + 0.5**2)
    return rng.multivariate_normal(1.5 * gain, covariance - np.outer(gain, covariance[0]), size=size)


@partial(jax.jit, static_argnames=("num_steps", "num_candidates", "local_steps"))
def moved(target, key, U, *, num_steps, num_candidates, local_steps):
    sampler = amortized(target, num_warmup=0, num_candidates=num_candidates, local_steps=local_steps)

    def step(state, key):
        state, info = sampler.step(key, state)
        return state, (info.refresh_rate.mean(), info.acceptance_rate.mean())

    state, rates = jax.lax.scan(step, sampler.init(key, U), jax.random.split(key, num_steps))
    return state.position, *(rate.mean() for rate in rates)


def largest_z(position, known):
    """The largest deviation of moments and quantiles of independent draws from the known ones, in standard errors."""
    position = np.asarray(position)
    root = np.sqrt(len(position))
    squares = (position - known.mean) ** 2
    errors = [(position.mean(axis=0) - known.mean) / (known.sd / root)]
    errors += [(squares.mean(axis=0) - known.sd**2) / (squares.std(axis=0) / root)]
    for quantile, p in ((known.low, 0.05), (known.high, 0.95)):
        errors += [((position < quantile).mean(axis=0) - p) / (np.sqrt(p * (1 - p)) / root)]
    return float(np.abs(errors).max())


def network(dim):
    return proposals.untrained(KNOWN[dim].mean, KNOWN[dim].sd, seed=3)


def after_steps(dim, proposal, *, chains=2000, num_steps=5, num_candidates=8, local_steps=0):
    target = KNOWN[dim].target._replace(proposal=proposal)
    size = {"num_steps": num_steps, "num_candidates": num_candidates, "local_steps": local_steps}
    position, refreshed, accepted = moved(target, jax.random.key(7), jnp.asarray(exact_draws(dim, chains)), **size)
    return largest_z(position, KNOWN[dim]), float(refreshed), float(accepted)


# ---- the networks of these tests


@pytest.mark.parametrize("num_latents", [1, 4])
def test_estimates_are_those_of_the_networks_density(num_latents):
    random_network = network(2)
    proposal, num = proposals.latent(random_network, num_latents), 40_000
    y, log_density = proposal.draw(jax.random.key(0), num)
    exact = proposals.log_density_in_closed_form(random_network, y)
    # By importance weights of draws, the integral of any density is 1.
    inside = scipy.stats.multivariate_normal(np.asarray(random_network.shift), 0.1).logpdf(y)
    weights = np.exp(inside - np.asarray(log_density))
    assert abs(weights.mean() - 1) < 5 * weights.std() / np.sqrt(num)
    plain = np.exp(inside - exact)
    assert weights.std() > plain.std()  # what the estimate costs
    point = jnp.tile(y[:1], (num, 1))
    estimates = np.exp(proposal.log_density(jax.random.key(1), point) - exact[0])
    assert abs(estimates.mean() - 1) < 5 * estimates.std() / np.sqrt(num)


# ---- invariance


@pytest.mark.parametrize(("dim", "num_latents"), [(1, 1), (1, 16), (2, 4), (10, 4)])
def test_targets_are_invariant_under_draws_of_a_random_network(dim, num_latents):
    z, refreshed, _ = after_steps(dim, proposals.latent(network(dim), num_latents))
    assert refreshed > 0.01
    assert z < 5


def test_a_target_is_invariant_under_the_cycle_with_local_moves():
    z, refreshed, accepted = after_steps(2, proposals.latent(network(2), 4), local_steps=2)
    assert refreshed > 0.1
    assert accepted > 0.1
    assert z < 5


def defensive():
    wide = proposals.student_t(KNOWN[2].mean, 2 * KNOWN[2].sd)
    return proposals.mixture(proposals.latent(network(2), 4), wide, 0.1)


def test_a_target_is_invariant_under_a_defensive_mixture():
    z, refreshed, _ = after_steps(2, defensive())
    assert refreshed > 0.1
    assert z < 5


@pytest.mark.parametrize("num_latents", [1, 4, 16])
def test_latents_that_had_no_part_in_a_draw_make_a_biased_kernel(num_latents):
    z, refreshed, _ = after_steps(1, proposals.latent(network(1), num_latents, is_exact=False))
    assert z > 5
    if num_latents == 1:  # which looks better than it should
        assert refreshed > after_steps(1, proposals.latent(network(1), 1))[1]


@pytest.mark.slow
@pytest.mark.parametrize("local_steps", [0, 3])
@pytest.mark.parametrize("num_latents", [1, 4, 16])
@pytest.mark.parametrize("dim", KNOWN)
def test_targets_are_invariant_by_many_chains(dim, num_latents, local_steps):
    size = {"chains": 20_000, "local_steps": local_steps}
    z, refreshed, _ = after_steps(dim, proposals.latent(network(dim), num_latents), **size)
    print(f"{dim} parameters, {num_latents} latents: z {z:.1f}, refreshed {refreshed:.3f}")
    assert refreshed > 0.01
    assert z < 5


@pytest.mark.slow
def test_the_bias_of_a_plug_in_falls_with_the_number_of_latents():
    found = []
    for num_latents in (1, 4, 16, 64):
        proposal = proposals.latent(network(1), num_latents, is_exact=False)
        found.append(after_steps(1, proposal, chains=20_000)[0])
    print("z of K = 1, 4, 16, 64:", np.round(found, 1))
    assert found == sorted(found, reverse=True)
    assert min(found) > 5


def test_chains_from_elsewhere_come_to_the_target():
    # A kernel that never moves leaves every target invariant. The mixture's weights are bounded, so it forgets fast.
    target, size = KNOWN[2].target._replace(proposal=defensive()), {"num_candidates": 8, "local_steps": 0}
    position, *_ = moved(target, jax.random.key(8), jnp.full((2000, 2), -0.5), num_steps=40, **size)
    assert largest_z(position, KNOWN[2]) < 5


# ---- one choice


def chosen(proposal, U, known=KNOWN[2], num_candidates=4):
    target = known.target._replace(proposal=proposal)
    return _chosen(target, U, num_candidates=num_candidates)


@partial(jax.jit, static_argnames="num_candidates")
def _chosen(target, U, *, num_candidates):
    state = MetropolisState(U, target.log_prior(U), target.log_likelihood(U), tuning=())
    return state, *refresh(jax.random.key(3), target, state, num_candidates)


def test_a_state_beyond_reach_of_the_proposal_stays():
    U = jnp.full((50, 2), -0.5)
    state, after, rate, _ = chosen(proposals.uniform([0.0, 0.0], [0.5, 0.5]), U)
    np.testing.assert_array_equal(after.position, U)
    np.testing.assert_array_equal(after.log_likelihood, state.log_likelihood)
    assert not rate.any()


@pytest.mark.parametrize("failure", [np.nan, -np.inf, np.inf])
def test_where_no_draw_has_a_density_the_state_stays(failure):
    known = targets.log_gamma(edge=0.0, failure=failure)
    U = jnp.full((50, 2), -0.5)
    _, after, rate, draws = chosen(proposals.uniform([0.1, -1.0], [1.0, 0.0]), U, known)
    np.testing.assert_array_equal(after.position, U)
    assert not rate.any()
    assert np.isfinite(draws.position).all()


def test_a_state_without_density_is_left():
    known = targets.log_gamma(edge=0.0, failure=-np.inf)
    _, after, rate, _ = chosen(proposals.uniform([-1.0, -1.0], [1.0, 1.0]), jnp.full((500, 2), 0.5), known)
    is_able = rate > 0
    assert 0.6 < is_able.mean() < 0.99  # 7 of 8 have a candidate of density
    np.testing.assert_array_equal(rate[is_able], 1.0)
    assert (after.position[is_able, 0] <= 0).all()
    assert (after.position[~is_able] == 0.5).all()


def test_draws_are_chosen_by_weight():
    # Of the uniform's draws, seen together, those of an interval have its share of the target.
    known = targets.against_walls()
    box = np.array([[0.0, 1.0, 1.0, -1.0], [0.5, 2.0, 2.0, 1.0]])
    U = jnp.tile(jnp.array([0.2, 1.2, 1.8, 0.0]), (4000, 1))
    _, after, rate, draws = chosen(proposals.uniform(*box), U, known, num_candidates=200)
    position = np.asarray(after.position)[np.asarray(rate) > 0.9]
    assert len(position) > 3000
    share = scipy.stats.truncexpon(0.5 * 6, scale=1 / 6).cdf(0.1)
    error = np.sqrt(share * (1 - share) / len(position))
    assert abs((position[:, 0] < 0.1).mean() - share) < 5 * error
    assert abs((np.asarray(draws.position)[..., 0] < 0.1).mean() - share) > 5 * error


def test_draws_beyond_a_wall_are_not_evaluated():
    known = targets.against_walls()
    U = jnp.asarray(np.repeat(known.initial, 25, axis=0))
    _, after, _, draws = chosen(proposals.uniform([-1.0, 1.0, 1.0, -1.0], [1.0, 2.0, 2.0, 1.0]), U, known)
    is_outside = np.isnan(np.asarray(draws.position)).all(axis=-1)
    assert 0.3 < is_outside.mean() < 0.7
    np.testing.assert_array_equal(is_outside, np.isnan(np.asarray(draws.log_prior)))
    assert (np.asarray(after.position) >= np.asarray(known.target.lower)).all()


# ---- the sampler


def test_all_candidates_of_all_chains_are_one_batch():
    known = targets.correlated_normal()
    target = known.target._replace(log_likelihood=Partial(_seen, known.target.log_likelihood))
    sampler = amortized(target, num_warmup=0, num_candidates=32, local_steps=2)
    state = sampler.init(jax.random.key(0), jnp.asarray(known.initial))
    BATCHES.clear()
    _, info = jax.block_until_ready(jax.jit(sampler.step)(jax.random.key(1), state))
    assert BATCHES == [(124, 3), (4, 3), (4, 3)]
    assert info.n_steps.tolist() == 4 * [33]
    assert info.proposed.position.shape == (4, 33, 3)
    log_prior = known.target.log_prior(info.proposed.position[1])
    np.testing.assert_allclose(info.proposed.log_prior[1], log_prior, rtol=1e-12)


def _seen(function, U):
    return function(jax.pure_callback(_record, jax.ShapeDtypeStruct(U.shape, U.dtype), U))


def _record(U):
    BATCHES.append(U.shape)
    return U


def test_without_local_moves_nothing_is_tuned():
    sampler = amortized(KNOWN[2].target, num_warmup=5, local_steps=0)

    def step(key, U):
        after, info = sampler.step(key, sampler.init(key, U))
        assert sampler.tune(after, info) is after
        assert info.acceptance_rate is info.refresh_rate
        return after

    jax.eval_shape(step, jax.random.key(1), jnp.zeros((3, 2)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_candidates": 1}, "num_candidates is 1; it must be at least 2"),
        ({"local_steps": -1}, "local_steps is -1; it must be at least 0"),
    ],
)
def test_senseless_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        amortized(KNOWN[2].target, num_warmup=0, **settings)


def test_a_target_without_a_proposal_is_refused():
    with pytest.raises(ValueError, match=r"the target has none; give kinbayes\.sample one as proposal="):
        amortized(KNOWN[2].target._replace(proposal=None), num_warmup=0)


def test_a_local_sampler_whose_state_a_refresh_would_leave_behind_is_refused():
    sampler = amortized(KNOWN[2].target, num_warmup=0, local=nuts)
    with pytest.raises(ValueError, match=r"holds \['likelihood_gradient', .* choose one of Gaussian moves"):
        jax.eval_shape(sampler.init, jax.random.key(0), jnp.zeros((2, 2)))


def test_settings_reach_the_local_sampler():
    pairs = (("adapt", "never"),)
    with pytest.raises(ValueError, match="unknown adapt 'never'"):
        amortized(KNOWN[2].target, num_warmup=0, local=adaptive_metropolis, local_settings=pairs)


def test_a_proposal_is_a_part_of_the_target():
    assert isinstance(KNOWN[2].target.proposal, Proposal)
    jax.tree.map(jnp.asarray, KNOWN[2].target)  # a pytree of arrays
