"""The contract that every sampler in the registry keeps."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.tree_util import Partial

from kinbayes.run.driver import run_sampler
from kinbayes.samplers import SAMPLERS
from tests import targets

# Draws for about 1,000 effective ones; a random walk's are worth less each and cost next to nothing.
NUM_DRAWS = {"nuts": 1000, "random_walk": 20_000}
TRACES = []


def draw(name: str, known: targets.KnownTarget, *, seed: int = 0, num_draws: int | None = None):
    return run_sampler(
        known.target,
        SAMPLERS[name],
        initial=known.initial,
        num_warmup=500,
        num_draws=NUM_DRAWS[name] if num_draws is None else num_draws,
        seed=seed,
        chunk=5000,
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


def test_every_evaluation_is_one_batch_of_all_chains(correlated_runs):
    _, _, (shapes, _) = correlated_runs
    # A single row is how NUTS sees one chain while it is traced, before it is batched; seven rows are a start and its
    # neighbours along three axes.
    assert (4, 3) in shapes
    assert set(shapes) <= {(4, 3), (1, 3), (7, 3)}


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
    assert {"acceptance_rate", "n_steps", "step_size"} <= info.keys()
    for values in info.values():
        assert values.shape == bounded_run.log_prior.shape
        assert np.isfinite(values).all()
    assert 0.2 < info["acceptance_rate"].mean() < 0.97


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
    short, long = (draw(name, targets.log_gamma(), num_draws=n) for n in (1, 30))
    jax.tree.map(np.testing.assert_array_equal, short.state.tuning, long.state.tuning)
    untuned = run_sampler(
        targets.log_gamma().target,
        SAMPLERS[name],
        initial=targets.log_gamma().initial,
        num_warmup=500,
        num_draws=0,
        seed=0,
        chunk=5000,
        on_chunk=lambda progress: "enough",
    )
    assert not np.array_equal(*(jax.tree.leaves(run.state.tuning)[0] for run in (short, untuned)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_tuning_changes_nothing_else(name):
    known = targets.log_gamma()
    sampler = SAMPLERS[name](known.target, num_warmup=500)

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
