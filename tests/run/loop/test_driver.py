import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from kinbayes.optimizers.base import Bounds, Evaluation
from kinbayes.optimizers.quasi_newton import quasi_newton
from kinbayes.run.loop.driver import run_optimizer, run_sampler
from kinbayes.run.loop.runs import OptimizerRun
from kinbayes.samplers.base import silent
from kinbayes.samplers.random_walk import random_walk
from tests import targets

KNOWN = targets.correlated_normal()


def draw(*, target=KNOWN.target, initial=KNOWN.initial, num_draws=50, chunk=20, on_chunk=None, seed=0):
    return run_sampler(
        target,
        random_walk,
        initial=initial,
        num_warmup=30,
        num_draws=num_draws,
        seed=seed,
        chunk=chunk,
        on_chunk=on_chunk,
    )


@pytest.fixture(scope="module")
def whole():
    return draw()


def test_a_run_counts_what_it_did(whole):
    assert whole.stopped == "completed"
    assert whole.position.shape == (4, 50, 3)
    assert whole.iterations == 80
    assert whole.num_steps == 4 * 80
    assert whole.seconds_warmup > 0
    assert whole.seconds_draws > 0
    np.testing.assert_array_equal(whole.position[:, -1], whole.state.position)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_draws_do_not_depend_on_the_pieces(whole, chunk):
    np.testing.assert_array_equal(draw(chunk=chunk).position, whole.position)


@pytest.mark.parametrize("phase", ["warmup", "draws"])
@pytest.mark.parametrize("interrupts", [False, True], ids=["asked", "ctrl-c"])
def test_a_continued_run_equals_an_uninterrupted_one(whole, phase, interrupts):
    def stop(progress):
        if progress.phase == phase and progress.done > 5:
            if interrupts:
                raise KeyboardInterrupt
            return "time is up"
        return None

    part = draw(on_chunk=stop)
    assert part.stopped == ("interrupted" if interrupts else "time is up")
    assert part.iterations < whole.iterations
    drawn = part.position.shape[1]
    assert (drawn > 5) == (phase == "draws")
    np.testing.assert_array_equal(part.position, whole.position[:, :drawn])
    rest = draw(initial=part)
    assert rest.stopped == "completed"
    assert rest.num_steps == whole.num_steps
    np.testing.assert_array_equal(rest.position, whole.position)
    np.testing.assert_array_equal(rest.info["acceptance_rate"], whole.info["acceptance_rate"])


def test_a_run_can_be_made_longer_but_not_shorter(whole):
    longer = draw(initial=whole, num_draws=60)
    np.testing.assert_array_equal(longer.position[:, :50], whole.position)
    np.testing.assert_array_equal(longer.position, draw(num_draws=60).position)
    with pytest.raises(ValueError, match="80 iterations, more than the 30 of warmup and the 40 draws"):
        draw(initial=whole, num_draws=40)


def test_an_iteration_of_several_steps_keeps_the_last(whole):
    lengths = {"initial": KNOWN.initial, "num_warmup": 10, "num_draws": 16, "thin": 3, "seed": 0}
    thinned = run_sampler(KNOWN.target, random_walk, chunk=7, **lengths)
    np.testing.assert_array_equal(thinned.position, whole.position[:, 2:48:3])
    np.testing.assert_array_equal(thinned.log_likelihood, whole.log_likelihood[:, 2:48:3])
    np.testing.assert_array_equal(thinned.info["n_steps"], 3)
    assert (thinned.iterations, thinned.num_steps) == (26, 4 * 78)


def test_progress_covers_both_phases():
    seen = []
    run = draw(on_chunk=seen.append)
    for phase, total in (("warmup", 30), ("draws", 50)):
        done = [progress.done for progress in seen if progress.phase == phase]
        assert done == sorted(done)
        assert done[-1] == total
        assert sum(p.info["acceptance_rate"].shape[1] for p in seen if p.phase == phase) == total
    assert seen[-1].run.stopped == "completed"
    assert [d.num_draws for d in run.diagnostics] == [20, 40, 50]


def test_an_early_view_of_the_draws_stays_as_it_was():
    views, copies = [], []

    def keep(progress):
        views.append(progress.run.position)
        copies.append(progress.run.position.copy())

    draw(on_chunk=keep)
    for view, copy in zip(views, copies, strict=True):
        np.testing.assert_array_equal(view, copy)


def test_a_start_on_a_wall_is_refused():
    known = targets.against_walls()
    initial = known.initial.copy()
    initial[2, 0] = 0.0
    with pytest.raises(ValueError, match=r"start 2 has 0\.0 in entry 0, which must lie strictly inside \[0\.0, 1\.0\]"):
        draw(target=known.target, initial=initial)


def test_a_start_without_density_is_refused():
    known = targets.log_gamma(edge=0.0)
    initial = known.initial.copy()
    initial[[1, 3], 0] = 0.1
    with pytest.raises(ValueError, match=r"chains \[1, 3\] start where the density"):
        draw(target=known.target, initial=initial)


def _paraboloid(centre, U):
    return Evaluation(jnp.sum((U - centre) ** 4, axis=1), 4.0 * (U - centre) ** 3)


BOUNDS = Bounds(np.full(2, -3.0), np.full(2, 3.0))
STARTS = np.array([[1.0, 2.0], [-2.0, 0.0], [2.5, -2.5]])


def minimise(*, initial=STARTS, max_evaluations=1000, on_chunk=None, keeps_evaluated=False):
    return run_optimizer(
        Partial(_paraboloid, jnp.array([0.5, -0.5])),
        quasi_newton,
        (("gradient_tolerance", 1e-9), ("loss_tolerance", 0.0)),
        bounds=BOUNDS,
        initial=initial if isinstance(initial, OptimizerRun) else initial[:, None],
        max_evaluations=max_evaluations,
        seed=0,
        keeps_evaluated=keeps_evaluated,
        chunk=8,
        on_chunk=on_chunk,
    )


def test_a_continued_search_equals_an_uninterrupted_one():
    whole = minimise()
    part = minimise(max_evaluations=20)
    assert part.stopped == "max_evaluations"
    assert part.evaluations == 18
    rest = minimise(initial=part)
    assert rest.stopped == whole.stopped == "finished"
    assert rest.evaluations == whole.evaluations == whole.counts[-1] <= 3 * len(whole.history)
    np.testing.assert_array_equal(rest.counts, whole.counts)
    np.testing.assert_array_equal(rest.position, whole.position)
    np.testing.assert_array_equal(rest.history, whole.history)
    np.testing.assert_allclose(whole.position[whole.converged], [[0.5, -0.5]] * 3, atol=1e-2)


def test_progress_brings_what_a_search_evaluated():
    seen, without = [], []
    whole = minimise(on_chunk=seen.append, keeps_evaluated=True)
    np.testing.assert_array_equal(whole.position, minimise(on_chunk=without.append).position)
    assert all(progress.evaluated is None for progress in without)
    position, loss, gradient = (np.concatenate(part) for part in zip(*(p.evaluated for p in seen), strict=True))
    assert position.shape == gradient.shape == (len(whole.history), 3, 1, 2)
    is_known = np.isfinite(position).all(axis=-1)
    assert is_known.sum() == whole.evaluations < is_known.size  # some starts end before others
    assert (np.diff(is_known.astype(int), axis=0) <= 0).all()
    found = _paraboloid(np.array([0.5, -0.5]), position[is_known])
    np.testing.assert_allclose(loss[is_known], found.loss, rtol=1e-12)
    np.testing.assert_allclose(gradient[is_known], found.gradient, rtol=1e-12)
    lowest = np.minimum.accumulate(np.where(is_known, loss, np.inf).min(axis=(1, 2)))
    np.testing.assert_array_equal(lowest, whole.history)


def test_progress_brings_proposals_or_draws(whole):
    def brought(factory):
        seen = []
        run = run_sampler(
            KNOWN.target, factory, initial=KNOWN.initial, num_warmup=30, num_draws=50, seed=0, chunk=20,
            on_chunk=seen.append, keeps_evaluated=True,
        )  # fmt: skip
        np.testing.assert_array_equal(run.position, whole.position)
        assert run.info.keys() == whole.info.keys()
        parts = zip(*(progress.evaluated for progress in seen), strict=True)
        return seen[-1].is_draws, *(np.concatenate(part, axis=1) for part in parts)

    is_draws, position, log_prior, log_likelihood = brought(random_walk)
    assert not is_draws
    assert position.shape == (4, 80, 3)
    np.testing.assert_allclose(log_prior, KNOWN.target.log_prior(position.reshape(-1, 3)).reshape(4, 80), rtol=1e-12)
    moves = np.diff(whole.position, axis=1).any(axis=2)
    np.testing.assert_array_equal(position[:, 31:][moves], whole.position[:, 1:][moves])
    np.testing.assert_array_equal(log_likelihood[:, 31:][moves], whole.log_likelihood[:, 1:][moves])
    assert 0.1 < moves.mean() < 0.9

    is_draws, position, *_ = brought(_reticent)
    assert is_draws
    np.testing.assert_array_equal(position[:, 30:], whole.position)


def _reticent(target, *, num_warmup):
    """A random walk that does not tell its proposals."""
    return silent(random_walk(target, num_warmup=num_warmup))


def test_a_search_can_be_interrupted():
    def interrupt(progress):
        if progress.done > 9:
            raise KeyboardInterrupt

    run = minimise(on_chunk=interrupt)
    assert run.stopped == "interrupted"
    assert run.evaluations > 9
    assert minimise(on_chunk=lambda progress: "good enough").stopped == "good enough"


def test_a_start_outside_the_bounds_is_refused():
    with pytest.raises(ValueError, match=r"start 1, point 0 has 3\.5 in entry 0, which must lie in \[-3\.0, 3\.0\]"):
        minimise(initial=np.array([[3.0, 0.0], [3.5, 0.0]]))


def _fails(limit, U):
    fails = U[:, 0] > limit
    return Evaluation(jnp.where(fails, jnp.inf, 0.0), jnp.where(U > 2.0, jnp.nan, 0.0) * jnp.ones_like(U))
