"""The contract that every sampler in the registry keeps."""

import subprocess
import sys
from typing import NamedTuple

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from kinbayes.run.loop.driver import run_sampler
from kinbayes.samplers import SAMPLERS
from kinbayes.samplers.base import MetropolisInfo, MetropolisState, Sampler, metropolis
from kinbayes.samplers.random_walk import reflect
from tests import targets


class Size(NamedTuple):
    """The size of a run that has about 1,000 effective draws, in iterations of `thin` steps."""

    num_warmup: int
    num_draws: int
    thin: int


SIZES = {
    "adaptive_metropolis": Size(100, 1000, 10),
    "amortized": Size(200, 1000, 1),
    "dream": Size(200, 1000, 10),
    "nuts": Size(500, 1000, 1),
    "parallel_tempering": Size(200, 1000, 10),
    "random_walk": Size(100, 2000, 10),
}
TEMPERING = "parallel_tempering"
SINGLE = sorted(SAMPLERS.keys() - {TEMPERING})  # all that sample at the target's own temperature
TRACES = []  # shapes of what a target was traced with
BATCHES = []  # shapes of what it was evaluated at


def draw(name: str, known: targets.KnownTarget, *, seed: int = 0, num_draws: int | None = None):
    size = SIZES[name]
    return run_sampler(
        known.target,
        SAMPLERS[name],
        initial=known.initial,
        num_warmup=size.num_warmup,
        num_draws=size.num_draws if num_draws is None else num_draws,
        thin=size.thin,
        seed=seed,
        chunk=2000,
    )


def counted(known: targets.KnownTarget) -> targets.KnownTarget:
    """The same target, which leaves a mark whenever it is traced."""
    target = known.target._replace(
        log_likelihood=Partial(_counting, known.target.log_likelihood),
        value_and_grad=Partial(_counting, known.target.value_and_grad),
    )
    return known._replace(target=target)


def _counting(function, U):
    TRACES.append(U.shape)
    return function(U)


@pytest.fixture(scope="module", params=SAMPLERS)
def correlated_runs(request):
    """Runs of a target and of one with other data, and how often it had been traced after each."""
    TRACES.clear()
    runs, traces = [], []
    # The mean moves by 0.2 posterior standard deviations.
    for observed in (1.5, 1.6):
        runs.append(draw(request.param, counted(targets.correlated_normal(observed=observed))))
        traces.append(list(TRACES))
    return *runs, traces


@pytest.fixture(scope="module", params=SAMPLERS)
def bounded_run(request):
    return draw(request.param, targets.against_walls())


def test_correlated_draws_have_the_known_moments_and_quantiles(correlated_runs):
    run, _, _ = correlated_runs
    assert run.diagnostics[-1].max_rhat < 1.02
    assert targets.worst_error(run.position, targets.correlated_normal()) < 5


def test_the_comparison_notices_a_shifted_target(correlated_runs):
    _, shifted, _ = correlated_runs
    assert targets.worst_error(shifted.position, targets.correlated_normal(observed=1.6)) < 5
    assert targets.worst_error(shifted.position, targets.correlated_normal()) > 5


def test_new_data_trace_nothing(correlated_runs):
    _, _, (first, second) = correlated_runs
    assert first
    assert second == first


def test_every_evaluation_is_of_all_chains(correlated_runs):
    _, _, (shapes, _) = correlated_runs
    # A single row is how NUTS sees one chain while it is traced, before it is batched; seven rows are a start and its
    # neighbours along three axes. 28 are the candidates of all chains, 7 each.
    assert (4, 3) in shapes
    assert set(shapes) <= {(4, 3), (1, 3), (7, 3), (28, 3)}


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - {"amortized", "nuts"}))
def test_a_step_is_one_batch(name):
    known = targets.correlated_normal()
    target = known.target._replace(log_likelihood=Partial(_seen, known.target.log_likelihood))
    BATCHES.clear()
    run = run_sampler(target, SAMPLERS[name], initial=known.initial, num_warmup=0, num_draws=5, seed=0)
    assert run.iterations == 5
    rungs = run.info["beta"].shape[2:] if name == TEMPERING else ()
    assert BATCHES[-5:] == 5 * [(*rungs, 4, 3)]
    assert len(BATCHES) <= 7  # what else there is belongs to the start


def _seen(function, U):
    return function(jax.pure_callback(_record, jax.ShapeDtypeStruct(U.shape, U.dtype), U, vmap_method="broadcast_all"))


def _record(U):
    BATCHES.append(U.shape)
    return U


@pytest.mark.parametrize("beta", [0.5, 0.0])
@pytest.mark.parametrize("name", SINGLE)
def test_the_temperature_is_that_of_the_likelihood(name, beta):
    known = targets.correlated_normal(beta=beta)
    run = draw(name, counted(known))  # of the structure that the other tests have compiled
    assert targets.worst_error(run.position, known) < 5
    assert targets.worst_error(run.position, targets.correlated_normal()) > 5
    # What is reported is the likelihood itself.
    np.testing.assert_allclose(
        run.log_likelihood[0, -5:], known.target.log_likelihood(run.position[0, -5:]), rtol=1e-12
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_skewed_draws_have_the_known_moments_and_quantiles(name):
    known = targets.log_gamma()
    assert targets.worst_error(draw(name, known).position, known) < 5


def test_bounded_draws_have_the_known_moments_and_quantiles(bounded_run):
    assert targets.worst_error(bounded_run.position, targets.against_walls()) < 5


def test_draws_respect_the_walls(bounded_run):
    target, position = targets.against_walls().target, bounded_run.position
    assert np.all((position >= np.asarray(target.lower)) & (position <= np.asarray(target.upper)))


def test_densities_belong_to_the_draws(bounded_run):
    target, draws = targets.against_walls().target, bounded_run.position[:, -20:].reshape(-1, 4)
    np.testing.assert_allclose(bounded_run.log_prior[:, -20:].ravel(), target.log_prior(draws), rtol=1e-12)
    likelihood = bounded_run.log_likelihood[:, -20:].ravel()
    np.testing.assert_allclose(likelihood, target.log_likelihood(draws), rtol=1e-12)


def test_statistics_have_a_value_for_every_draw(bounded_run):
    info = bounded_run.info
    assert {"acceptance_rate", "n_steps"} <= info.keys()
    for values in info.values():
        # Some have one more axis: the rungs of tempering.
        assert values.shape[:2] == bounded_run.log_prior.shape
        assert values.ndim <= 3
        assert np.isfinite(values).all()
    assert 0.2 < info["acceptance_rate"].mean() < 0.97


@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_of_a_ridge_between_walls_have_the_known_moments_and_quantiles(name):
    known = targets.in_a_corner()
    assert targets.worst_error(draw(name, known).position, known) < 5


def test_the_ridge_shows_that_folding_a_correlated_proposal_is_wrong():
    known = targets.in_a_corner()
    run = run_sampler(known.target, folding, initial=known.initial, num_warmup=0, num_draws=2000, thin=10, seed=0)
    assert run.diagnostics[-1].max_rhat < 1.02
    assert targets.worst_error(run.position, known) > 5


def folding(target, *, num_warmup):
    """A Metropolis sampler with a proposal of correlation 0.95 that is folded back into the walls."""
    root = 0.3 * jnp.linalg.cholesky(jnp.array([[1.0, 0.95], [0.95, 1.0]]))

    def init(key, U):
        return MetropolisState(U, target.log_prior(U), target.log_likelihood(U), tuning=())

    def step(key, state):
        move_key, accept_key = jax.random.split(key)
        moved = state.position + jax.random.normal(move_key, state.position.shape) @ root.T
        state, probability, _ = metropolis(accept_key, target, state, reflect(moved, target.lower, target.upper))
        return state, MetropolisInfo(probability, probability, jnp.ones(len(probability), int))

    return Sampler(init, step, lambda state, info: state)


@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_avoid_the_infeasible_nine_tenths_of_the_prior(name):
    known = targets.mostly_infeasible()
    run = draw(name, known)
    assert np.isfinite(run.log_likelihood).all()
    assert targets.worst_error(run.position, known) < 5


def test_tempering_finds_the_weights_of_two_modes():
    known = targets.two_modes()
    run = draw(TEMPERING, known)
    is_second = (run.position[:, :, 0] > 0).astype(float)
    error = is_second.std() / np.sqrt(arviz.ess(is_second, method="mean"))
    assert error < 0.05
    assert abs(is_second.mean() - targets.WEIGHT) < 5 * error
    assert targets.worst_error(run.position, known) < 5


def test_a_random_walk_misses_the_mode_where_it_did_not_start():
    run = draw("random_walk", targets.two_modes())
    assert run.position[:, :, 0].max() < 0
    assert run.diagnostics[-1].max_rhat < 1.02  # to which R-hat is blind


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("failure", [np.nan, -np.inf, np.inf])
def test_a_failed_evaluation_is_never_accepted(name, failure):
    known = targets.log_gamma(edge=0.0, failure=failure)
    run = draw(name, known)
    assert run.position[:, :, 0].max() <= 0.0
    assert np.isfinite(run.log_likelihood).all()
    assert targets.worst_error(run.position, known) < 5


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_seed_decides_the_draws(name):
    first, again, other = (draw(name, targets.log_gamma(), seed=s, num_draws=20).position for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).any(axis=2).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_tuning_is_frozen_after_warmup(name):
    known, size = targets.log_gamma(), SIZES[name]
    short, long = (draw(name, known, num_draws=n) for n in (1, 30))
    jax.tree.map(np.testing.assert_array_equal, short.state.tuning, long.state.tuning)
    untuned = run_sampler(
        known.target,
        SAMPLERS[name],
        initial=known.initial,
        num_warmup=size.num_warmup,
        num_draws=0,
        thin=size.thin,
        seed=0,
        chunk=2000,
        on_chunk=lambda progress: "enough",
    )
    assert not np.array_equal(*(jax.tree.leaves(run.state.tuning)[0] for run in (short, untuned)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_tuning_changes_nothing_else(name):
    known = targets.log_gamma()
    sampler = SAMPLERS[name](known.target, num_warmup=SIZES[name].num_warmup)

    def tuned(key, U):
        state = sampler.init(key, U)
        _, info = sampler.step(key, state)
        new_state = sampler.tune(state, info)
        for field in set(state._fields) - {"tuning"}:
            assert getattr(new_state, field) is getattr(state, field)
        return new_state

    jax.eval_shape(tuned, jax.random.key(0), known.initial)


def test_the_registry_imports_no_foreign_sampler():
    code = "import sys, kinbayes.samplers; sys.exit('numpyro' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
