"""The loop around nutpie's chains, on a normal posterior without a model."""

import os

import numpy as np
import pytest

import kinbayes as kb
from kinbayes.problem.native_posterior import native_posterior
from kinbayes.run.loop.background import run_chains
from tests.fake_kernel import numbers

INITIAL = np.random.default_rng(0).normal(size=(4, 2))
LENGTHS = {"initial": INITIAL, "num_warmup": 200, "num_draws": 300, "seed": 1}
LONG = {**LENGTHS, "num_draws": 10_000_000}
PRECISION = np.array([[2.0, 0.5], [0.5, 1.0]])


def posterior(fails_above=np.inf):
    parameters = [kb.Parameter(name, kb.Normal(0.0, 3.0)) for name in ("a", "b")]
    return native_posterior(parameters, numbers(np.zeros(2), PRECISION, fails_above))


@pytest.fixture(scope="module")
def complete():
    return run_chains(posterior(), **LENGTHS)


def test_a_run_is_like_the_drivers(complete):
    assert complete.stopped == "completed"
    assert complete.position.shape == (4, 300, 2)
    assert complete.log_prior.shape == complete.log_likelihood.shape == (4, 300)
    assert {values.shape for values in complete.info.values()} == {(4, 300)}
    assert complete.iterations == 500
    assert complete.num_steps > complete.info["n_steps"].sum() + 4 * 200
    assert complete.diagnostics[-1].num_draws == 300
    assert complete.diagnostics[-1].max_rhat < 1.05
    assert complete.seconds_warmup > 0
    assert complete.seconds_draws > 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot confine a process to one core")
def test_draws_do_not_depend_on_the_number_of_cores(complete):
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        again = run_chains(posterior(), **LENGTHS)
    finally:
        os.sched_setaffinity(0, cores)
    np.testing.assert_array_equal(again.position, complete.position)
    for name, values in complete.info.items():
        np.testing.assert_array_equal(again.info[name], values)


def test_chains_differ_though_they_start_at_one_point():
    run = run_chains(posterior(), **{**LENGTHS, "initial": np.tile(INITIAL[0], (4, 1))})
    assert len(np.unique(run.position[:, -1, 0])) == 4


def test_progress_is_told_to_the_end():
    told = []
    run = run_chains(posterior(), **LENGTHS, on_chunk=lambda progress: told.append(progress))
    warmup, *_, draws = told
    assert (warmup.phase, warmup.done, warmup.total, warmup.run.stopped) == ("warmup", 200, 200, "")
    assert warmup.info["acceptance_rate"].shape == (4, 200)
    assert (draws.phase, draws.done, draws.total, draws.run.stopped) == ("draws", 300, 300, "completed")
    assert run.stopped == "completed"


def test_a_reason_stops_the_run():
    run = run_chains(posterior(), **LONG, on_chunk=lambda progress: "enough" if progress.phase == "draws" else None)
    assert run.stopped == "enough"
    chains, draws, _ = run.position.shape
    assert chains == 4
    assert 0 < draws < LONG["num_draws"]
    assert run.diagnostics[-1].num_draws == draws


def test_an_interrupted_run_keeps_its_draws():
    def interrupt(progress):
        raise KeyboardInterrupt

    run = run_chains(posterior(), **LONG, on_chunk=interrupt)
    assert run.stopped == "interrupted"
    assert run.position.shape[0] == 4


def test_a_start_without_density_is_refused():
    with pytest.raises(ValueError, match=r"chains \[0, 1, 2, 3\] start where the density is zero or not finite"):
        run_chains(posterior(fails_above=-10.0), **LENGTHS)


def test_a_failing_region_shows_as_divergences():
    start = {**LENGTHS, "initial": np.minimum(INITIAL, -0.5)}
    assert run_chains(posterior(), **start).info["diverging"].sum() == 0
    run = run_chains(posterior(fails_above=0.0), **start)
    assert run.info["diverging"].mean() > 0.1
    assert run.position[..., 0].max() < 0.0
