from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from kinbayes.run.loop.driver import run_sampler
from kinbayes.samplers import SAMPLERS
from kinbayes.samplers.base import Sampler
from kinbayes.samplers.nuts import nuts
from kinbayes.samplers.parallel_tempering import equalised, parallel_tempering, swap_probability
from kinbayes.samplers.random_walk import random_walk
from tests import targets

KNOWN = targets.correlated_normal()


def run(known=KNOWN, settings=(), *, num_warmup=2000, num_draws=5000, seed=1):
    return run_sampler(
        known.target,
        parallel_tempering,
        settings,
        initial=known.initial,
        num_warmup=num_warmup,
        num_draws=num_draws,
        seed=seed,
        chunk=1000,
    )


@pytest.fixture(scope="module")
def tempered():
    return run(settings=(("rungs", 5),))


def test_swaps_have_the_probability_of_the_formula():
    beta = jnp.array([0.0, 0.5, 1.0])
    values = jnp.array([[-3.0, -1.0], [-1.0, -3.0], [-2.0, -1.0]])
    expected = np.minimum(1.0, np.exp([[0.5 * -2.0, 0.5 * 2.0], [0.5 * 1.0, 0.5 * -2.0]]))
    np.testing.assert_allclose(swap_probability(beta, values), expected)


@pytest.mark.parametrize("failure", [-np.inf, np.nan, np.inf])
def test_a_failed_simulation_never_goes_towards_the_posterior(failure):
    beta, failed = jnp.array([0.0, 1.0]), jnp.array([[failure, failure], [-1.0, failure]])
    np.testing.assert_array_equal(swap_probability(beta, failed), [[0.0, 0.0]])


def test_the_ladder_moves_until_rejections_are_equal():
    spread = np.linspace(0.0, 1.0, 5)
    beta = jnp.asarray(spread ** (1 / 0.3))
    np.testing.assert_allclose(equalised(beta, jnp.full(4, 0.3)), beta, atol=1e-12)
    # All rejections between the first two rungs: there the others belong.
    found = np.asarray(equalised(beta, jnp.array([0.8, 0.0, 0.0, 0.0]))) ** 0.3
    np.testing.assert_allclose(found, [0.0, 0.0625, 0.125, 0.1875, 1.0], atol=1e-12)


def test_warmup_makes_neighbours_exchange_equally_often(tempered):
    rates = tempered.info["swap_rate"].mean(axis=(0, 1))
    assert np.ptp(rates) < 0.15
    untuned = run(settings=(("rungs", 5),), num_warmup=0, num_draws=5000)
    assert np.ptp(untuned.info["swap_rate"].mean(axis=(0, 1))) > 0.15
    beta = tempered.info["beta"]
    assert np.all(beta == beta[0, 0])
    assert np.all(np.diff(beta[0, 0]) > 0)
    assert (beta[0, 0, 0], beta[0, 0, -1]) == (0.0, 1.0)


@pytest.fixture(scope="module")
def walkers():
    """Which walker is on a rung, step by step, told by positions that an inner sampler never changes."""
    labels = targets.build_target(_flat, _flat, {}, np.full(1, -9.0), np.full(1, 9.0))
    sampler = parallel_tempering(labels, num_warmup=0, rungs=4, inner=_still)
    state = sampler.init(jax.random.key(0), jnp.zeros((3, 1)))
    position = jnp.broadcast_to(jnp.arange(4.0)[:, None, None], (4, 3, 1))
    # Log likelihoods that differ a little, so that some swaps are refused.
    state = state._replace(rungs=state.rungs._replace(position=position, log_likelihood=3 * position[:, :, 0]))
    step, seen, trips = jax.jit(sampler.step), [np.asarray(position[:, :, 0])], []
    for k in range(300):
        state, info = step(jax.random.key(k), state)
        seen.append(np.asarray(state.rungs.position[:, :, 0]))
        trips.append(np.asarray(info.round_trips))
        np.testing.assert_array_equal(info.rung_log_likelihood, 3 * seen[-1].T)
    return np.array(seen).astype(int), np.array(trips)


def _flat(data, u):
    return 0.0 * u.sum()


class _Still(NamedTuple):
    position: jax.Array
    log_prior: jax.Array
    log_likelihood: jax.Array
    tuning: None


class _Info(NamedTuple):
    acceptance_rate: jax.Array
    n_steps: jax.Array


def _still(target, *, num_warmup):
    """A sampler that stays where it is."""

    def init(key, U):
        return _Still(U, target.log_prior(U), target.log_likelihood(U), None)

    def step(key, state):
        return state, _Info(jnp.ones(len(state.position)), jnp.ones(len(state.position), int))

    return Sampler(init, step, lambda state, info: state)


def test_walkers_are_never_lost_and_only_neighbours_exchange(walkers):
    seen, _ = walkers
    np.testing.assert_array_equal(np.sort(seen, axis=1), np.broadcast_to(np.arange(4)[:, None], seen.shape))
    moves = np.diff(np.argsort(seen, axis=1), axis=0)
    assert set(np.unique(moves)) == {-1, 0, 1}
    for parity in (0, 1):  # even and odd pairs take turns
        went_up = np.argsort(seen, axis=1)[:-1][parity::2][moves[parity::2] == 1]
        assert set(went_up % 2) == {parity}


def test_round_trips_are_counted(walkers):
    seen, trips = walkers
    rung = np.argsort(seen, axis=1)  # (steps, walkers, chains)
    counted = np.zeros(3, int)
    for chain in range(3):
        for walker in range(4):
            ends = [r for r in rung[:, walker, chain] if r in (0, 3)]
            turns = [r for r, before in zip(ends, [None, *ends], strict=False) if r != before]
            counted[chain] += max(turns.count(0) - (turns[:1] == [0]), 0)
    assert counted.min() > 3
    np.testing.assert_array_equal(trips[-1], counted)


def test_every_rung_has_its_own_target_and_what_it_says_of_its_walkers_is_true(tempered):
    state = tempered.state
    U = jnp.asarray(state.rungs.position).reshape(-1, 3)
    shape = state.rungs.log_likelihood.shape
    np.testing.assert_allclose(KNOWN.target.log_likelihood(U).reshape(shape), state.rungs.log_likelihood, rtol=1e-12)
    np.testing.assert_allclose(KNOWN.target.log_prior(U).reshape(shape), state.rungs.log_prior, rtol=1e-12)
    np.testing.assert_array_equal(state.position, state.rungs.position[-1])
    # The first rung is the prior, where ((u - 1.5) / 0.5)**2 / 2 has mean (1 + 1.5**2) / 0.5.
    values = tempered.info["rung_log_likelihood"][:, :, 0]
    error = targets._error_of_mean(values)
    assert abs(values.mean() + (1.0 + 1.5**2) / 0.5) < 5 * error


def test_the_proposals_of_all_rungs_are_told():
    sampler = parallel_tempering(KNOWN.target, num_warmup=10, rungs=3)
    state = sampler.init(jax.random.key(0), jnp.asarray(KNOWN.initial))
    after, info = jax.jit(sampler.step)(jax.random.key(1), state)
    position, log_prior, log_likelihood = info.proposed
    assert position.shape == (4, 3, 3)
    flat = position.reshape(-1, 3)
    np.testing.assert_allclose(KNOWN.target.log_prior(flat).reshape(4, 3), log_prior, rtol=1e-12)
    np.testing.assert_allclose(KNOWN.target.log_likelihood(flat).reshape(4, 3), log_likelihood, rtol=1e-12)
    assert after.info.proposed is None  # which nothing carries along
    came_from = jnp.concatenate([position, jnp.asarray(KNOWN.initial)[:, None]], axis=1)
    assert (after.position[:, None] == came_from).all(axis=2).any(axis=1).all()


def test_evidence_of_a_normal(tempered):
    beta, values = tempered.info["beta"][0, 0], tempered.info["rung_log_likelihood"]
    weights = np.diff(beta) * values[:, :, :-1]
    each = logsumexp(weights, axis=(1,)) - np.log(values.shape[1])  # (chains, pairs)
    estimates = each.sum(axis=1)
    # The likelihood is a normal density of 1.5 with standard deviation 0.5, times sqrt(2 pi) 0.5.
    exact = -0.5 * 1.5**2 / 1.25 - 0.5 * np.log(1.25) + np.log(0.5)
    error = estimates.std(ddof=1) / np.sqrt(len(estimates))
    assert error < 0.1
    assert abs(estimates.mean() - exact) < 5 * error


@pytest.mark.parametrize(
    ("inner", "settings", "lengths"),
    [
        (random_walk, (), (2000, 20_000)),
        pytest.param(nuts, (("max_tree_depth", 5),), (300, 1000), marks=pytest.mark.slow),
    ],
)
def test_other_samplers_fit_on_the_rungs(inner, settings, lengths):
    found = run(
        settings=(("rungs", 3), ("inner", inner), ("inner_settings", settings)),
        num_warmup=lengths[0],
        num_draws=lengths[1],
    )
    assert targets.worst_error(found.position, KNOWN) < 5
    assert targets.worst_error(found.position, targets.correlated_normal(observed=1.75)) > 5


def test_all_samplers_but_this_fit_on_the_rungs():
    for name in set(SAMPLERS) - {"parallel_tempering"}:
        sampler = parallel_tempering(KNOWN.target, num_warmup=10, rungs=3, inner=SAMPLERS[name])

        def stepped(key, U, sampler=sampler):
            state, info = sampler.step(key, sampler.init(key, U))
            return sampler.tune(state, info)

        shapes = jax.eval_shape(stepped, jax.random.key(0), jnp.asarray(KNOWN.initial))
        assert shapes.position.shape == (4, 3)
        assert shapes.rungs.position.shape == (3, 4, 3)


def test_one_rung_is_no_ladder():
    with pytest.raises(ValueError, match="rungs is 1; tempering needs 2"):
        parallel_tempering(KNOWN.target, num_warmup=1, rungs=1)
