"""Rows of an archive are what a run evaluated, no more and no less, and to keep them changes nothing."""

import signal

import numpy as np
import pandas as pd
import pytest

import kinbayes as kb
from kinbayes.amortized.archive import ArchiveError, Rows, open_archive, read_archive
from kinbayes.model.formula import parse
from kinbayes.ode.status import Status
from kinbayes.results.attributes import attributes
from kinbayes.run import recording
from kinbayes.run.budget import SamplerBudget
from kinbayes.run.loop.pieces import Evaluated
from kinbayes.run.loop.runs import SamplerProgress
from kinbayes.run.loop.search import of_density
from kinbayes.samplers.base import Proposed

LENGTHS = {"draws": 12, "warmup": 8, "chains": 3, "seed": 2, "initial": "nominal", "progress": False}


@pytest.fixture(scope="module")
def problem():
    """Growth that becomes infinite at time 1 / k if nothing decays, so that much of the prior fails."""
    model = kb.Model("growth", {"y": parse("k * y^2 - d * y")}, {n: parse("1") for n in ("y", "k", "d")})
    parameters = [
        kb.Parameter("k", kb.LogNormal(-2.0, 1.5), lower=0.01, upper=100.0, nominal=0.4),
        kb.Parameter("d", kb.Uniform(0.0, 2.0), nominal=0.5),
    ]
    observables = [kb.Observable("seen", "y", kb.noise.normal("0.2"))]
    data = pd.DataFrame({"observableId": ["seen"] * 3, "time": [0.5, 1.0, 1.5], "measurement": [1.0, 1.1, 0.9]})
    return kb.Problem(model, parameters, observables, data, max_steps=500)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "points.zarr"


def assert_true(problem, rows, *, rtol=1e-9):
    """Check what rows say against the problem."""
    found = problem.evaluate(rows.u)
    np.testing.assert_array_equal(rows.status, found.status)
    is_ok = found.status == Status.OK
    np.testing.assert_allclose(rows.log_likelihood[is_ok], found.log_likelihood[is_ok], rtol=rtol, atol=1e-9)
    np.testing.assert_allclose(rows.log_prior, found.log_prior, rtol=1e-9)
    np.testing.assert_array_equal(np.isinf(rows.loss), ~is_ok)


def best_loss(idata):
    return -float(idata.map_estimate["log_density"][0])


@pytest.mark.parametrize(("optimizer", "loss"), [("differential_evolution", "posterior"), ("bayesian", "petab")])
def test_rows_of_a_search_are_all_that_it_evaluated(problem, path, optimizer, loss):
    found = kb.optimize(problem, optimizer, max_evaluations=120, starts=2, loss=loss, archive=path, progress=False)
    kept = read_archive(path)
    rows = kept.read()
    assert len(kept) == found.attrs["evaluations"] > 60
    assert_true(problem, rows)
    assert np.isnan(rows.gradient_norm).all()
    assert set(rows.start) == {0, 1}
    assert (np.diff(rows.iteration) >= 0).all()
    assert rows.iteration[-1] + 1 == len(found.optimization_history["loss"])
    assert (rows.status != Status.OK).any()
    assert (rows.status == Status.OK).any()
    assert rows.loss.min() == pytest.approx(best_loss(found), rel=1e-9) or loss == "petab"
    (run,) = kept.runs
    assert (run.kind, run.algorithm, run.seed, run.kept) == ("optimize", optimizer, 0, "all candidates")


def test_the_objective_of_petab_differs_and_is_undone(problem):
    U = np.array([[[[-1.0, 0.3], [-0.5, 1.0]]]])
    density = np.array([-problem.log_density(u) for u in U.reshape(-1, 2)]).reshape(1, 1, 2)
    losses = np.array([problem.petab_objective(u) for u in U.reshape(-1, 2)]).reshape(1, 1, 2)
    assert np.abs(losses - density).min() > 0.1
    np.testing.assert_allclose(of_density(problem, "petab", Evaluated(U, losses, None)).loss, density, rtol=1e-9)


def test_rows_of_local_searches_have_gradients(problem, path):
    asked = {"starts": 3, "loss": "petab", "max_evaluations": 60}
    found = kb.optimize(problem, "quasi_newton", archive=path, progress=False, **asked)
    rows = read_archive(path).read()
    assert len(rows.u) == found.attrs["evaluations"]
    assert_true(problem, rows, rtol=1e-4)  # with gradients the solver takes other steps
    is_ok = rows.status == Status.OK
    norms = [np.linalg.norm(problem.value_and_grad(u)[1]) for u in rows.u[is_ok][:20]]
    np.testing.assert_allclose(rows.gradient_norm[is_ok][:20], norms, rtol=1e-4, atol=1e-4)
    assert np.isnan(rows.gradient_norm[~is_ok]).all()


@pytest.mark.slow
def test_those_of_a_refinement_follow(problem, path):
    asked = {"starts": 2, "refine": "simplex", "max_evaluations": 1200}
    found = kb.optimize(problem, "differential_evolution", archive=path, progress=False, **asked)
    kept = read_archive(path)
    rows = kept.read()
    assert len(kept) == found.attrs["evaluations"]
    assert [run.kept for run in kept.runs] == [recording.CANDIDATES, recording.REFINEMENT]
    assert [run.algorithm for run in kept.runs] == ["differential_evolution", "simplex"]
    np.testing.assert_allclose(rows.log_prior, problem.evaluate(rows.u).log_prior, rtol=1e-9)
    assert_true(problem, Rows(*(values[rows.run == 0] for values in rows)))  # heats have tolerances of their own
    last = rows.iteration[rows.run == 1]
    assert (np.diff(last) >= 0).all()  # through all heats
    assert len(np.unique(last)) == last.max() + 1


def test_the_proposals_of_rungs_belong_to_their_chain(problem):
    rng = np.random.default_rng(0)
    U = rng.uniform([-2.0, 0.0], [-0.5, 2.0], (3, 4, 5, 2))  # chains, iterations, rungs
    U[1, 2, 3] = np.nan
    flat = problem.evaluate(np.nan_to_num(U.reshape(-1, 2), nan=-1.0))
    log_prior, log_likelihood = (values.reshape(3, 4, 5) for values in (flat.log_prior, flat.log_likelihood))
    rows = recording.of_sampling(problem, Proposed(U, log_prior, log_likelihood))
    assert len(rows.u) == 3 * 4 * 5 - 1
    assert_true(problem, rows)
    for chain, iteration in np.ndindex(3, 4):
        own = rows.u[(rows.start == chain) & (rows.iteration == iteration)]
        expected = U[chain, iteration]
        np.testing.assert_array_equal(own, expected[np.isfinite(expected).all(axis=1)])


@pytest.fixture(
    scope="module", params=["random_walk", "dream", pytest.param("parallel_tempering", marks=pytest.mark.slow), "nuts"]
)
def recorded(request, problem, tmp_path_factory):
    """The sampler's name, and the same run with an archive and without."""
    where = tmp_path_factory.mktemp(request.param) / "points.zarr"
    name, steps = request.param, {} if request.param == "nuts" else {"thin": 1}
    settings = {"rungs": 3, "inner": "random_walk"} if name == "parallel_tempering" else {}
    asked = LENGTHS | steps | {"settings": settings, "keep_warmup": True}
    runs = [kb.sample(problem, name, archive=place, **asked) for place in (where, None)]
    return name, *runs, read_archive(where)


def test_an_archive_changes_no_draw(recorded):
    _, with_archive, without, _ = recorded
    for group in ("posterior", "sample_stats", "warmup_posterior", "warmup_sample_stats"):
        assert list(with_archive[group].data_vars) == list(without[group].data_vars)
        for name, values in without[group].data_vars.items():
            np.testing.assert_array_equal(with_archive[group][name].values, values.values, err_msg=name)


def test_rows_of_a_sampler_are_its_proposals(problem, recorded):
    name, found, _, kept = recorded
    rows, per_iteration = kept.read(), 3 if name == "parallel_tempering" else 1
    assert_true(problem, rows, rtol=1e-4 if name == "nuts" else 1e-9)  # with gradients the solver takes other steps
    assert (rows.iteration.max(), set(rows.start)) == (19, {0, 1, 2})
    counts = np.bincount(rows.iteration * 3 + rows.start, minlength=60)
    assert counts.max() <= per_iteration
    if name == "random_walk":  # which folds its proposals back at the walls
        assert (counts == 1).all()
    if name == "parallel_tempering":
        assert (rows.status != Status.OK).any(), "the prior's rung goes everywhere"
        assert len(kept) > 3 * 20
        return  # exchanges bring draws of other rungs, and of the prior, which is where the rungs start
    for chain in range(3):
        U = np.concatenate([scaled(problem, found[group], chain) for group in ("warmup_posterior", "posterior")])
        is_moved = np.concatenate([[name == "nuts"], (np.diff(U, axis=0) != 0).any(axis=1)])
        assert is_moved.any()
        own = rows.u[rows.start == chain]
        assert all(np.isclose(own, u, rtol=1e-12, atol=1e-12).all(axis=1).any() for u in U[is_moved])
        if name == "nuts":
            np.testing.assert_allclose(own, U[is_moved], rtol=1e-12, atol=1e-12)
    (run,) = kept.runs
    assert run.settings == attributes(found)["settings"]
    assert run.kept == (recording.DRAWS if name == "nuts" else recording.PROPOSALS)


def scaled(problem, group, chain):
    values = {name: group[name].values[chain] for name in problem.parameter_names}
    return np.array([problem.to_scaled({n: float(v[k]) for n, v in values.items()}) for k in range(len(values["k"]))])


def test_of_several_steps_the_last_is_kept(problem, path):
    kb.sample(problem, "random_walk", thin=4, archive=path, **LENGTHS | {"warmup": 2})
    rows = read_archive(path).read()
    assert len(rows.u) == 3 * 14
    assert_true(problem, rows)


def test_a_draw_that_repeats_the_one_before_is_kept_once(problem, path):
    first, second, third = np.array([[-1.0, 0.5], [-0.9, 0.5], [-0.8, 0.6]])
    pieces = [[[first, first, second]], [[second, third, first]]]
    with open_archive(path, problem) as kept:
        own = kept.begin_run(kind="sample", algorithm="nuts", settings={}, seed=0, kept=recording.DRAWS)
        recorder = recording.Recorder(kept, problem, own, iterations=10)
        for position in pieces:
            evaluated = Proposed(np.array(position), np.zeros((1, 3)), np.zeros((1, 3)))
            recorder.update(SamplerProgress("draws", 3, 6, {}, None, evaluated, is_draws=True))
        rows = kept.read()
    np.testing.assert_array_equal(rows.u, [first, second, third, first])
    np.testing.assert_array_equal(rows.iteration, [10, 12, 14, 15])


@pytest.mark.slow
def test_an_archive_changes_no_search(problem, path):
    asked = {"starts": 2, "max_evaluations": 120, "progress": False}
    runs = [kb.optimize(problem, "differential_evolution", archive=where, **asked) for where in (path, None)]
    for group in ("map_estimate", "optimization_history"):
        for name, values in runs[1][group].data_vars.items():
            np.testing.assert_array_equal(runs[0][group][name].values, values.values, err_msg=name)


@pytest.mark.slow
def test_a_longer_run_appends_what_is_new(problem, path, tmp_path):
    asked = LENGTHS | {"checkpoint": tmp_path / "run.zarr", "thin": 1, "archive": path}
    kb.sample(problem, "random_walk", **asked)
    kb.sample(problem, "random_walk", **asked | {"draws": 20, "resume": True})
    kept = read_archive(path)
    rows = kept.read()
    assert [(rows.run == k).sum() for k in range(2)] == [60, 24]
    assert (rows.iteration[rows.run == 1].min(), rows.iteration.max()) == (20, 27)
    kb.sample(problem, "random_walk", **LENGTHS | {"draws": 20, "thin": 1, "archive": tmp_path / "whole.zarr"})
    whole = read_archive(tmp_path / "whole.zarr").read()
    np.testing.assert_array_equal(rows.u, whole.u)
    kb.sample(problem, "random_walk", **asked | {"draws": 20, "resume": True})  # its result is there
    assert len(read_archive(path)) == 84
    assert len(read_archive(path).runs) == 2


@pytest.mark.slow
def test_a_continued_search_appends_what_is_new(problem, path, tmp_path):
    asked = {"checkpoint": tmp_path / "run.zarr", "archive": path, "progress": False}
    kb.optimize(problem, "differential_evolution", max_evaluations=100, **asked)
    found = kb.optimize(problem, "differential_evolution", max_evaluations=200, resume=True, **asked)
    rows = read_archive(path).read()
    assert len(rows.u) == found.attrs["evaluations"]
    assert rows.iteration[rows.run == 1].min() == rows.iteration[rows.run == 0].max() + 1


@pytest.mark.parametrize("how", ["ctrl-c", "budget"])
def test_what_a_stopped_run_has_evaluated_is_kept(problem, path, monkeypatch, how):
    def stop(self, progress):
        if progress.phase == "warmup":
            return None
        if how == "ctrl-c":
            raise KeyboardInterrupt
        return "max_simulations"

    monkeypatch.setattr(SamplerBudget, "reason", stop)
    found = kb.sample(problem, "random_walk", thin=1, archive=path, **LENGTHS | {"draws": 60})
    assert attributes(found)["stopped"] == ("interrupted" if how == "ctrl-c" else "max_simulations")
    drawn = found.posterior.sizes["draw"]
    assert drawn < 60
    assert len(read_archive(path)) == 3 * (8 + drawn)


def test_ctrl_c_waits_until_a_piece_is_kept(problem, path, monkeypatch):
    def pressed(*args):
        signal.raise_signal(signal.SIGINT)
        return recorded(*args)

    before, recorded = signal.signal(signal.SIGINT, signal.default_int_handler), recording.of_search
    monkeypatch.setattr(recording, "of_search", pressed)
    try:  # what a shell starts in the background ignores Ctrl-C
        found = kb.optimize(problem, "differential_evolution", max_evaluations=500, archive=path, progress=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(read_archive(path)) == found.attrs["evaluations"] < 100


def test_a_point_that_fails_with_derivatives_alone_is_none_that_fails(problem):
    U = np.array([[[[-1.0, 0.5], [2.0, 0.0]]]])
    evaluated = Evaluated(U, np.full((1, 1, 2), np.inf), np.zeros((1, 1, 2, 2)))
    rows = recording.of_search(problem, evaluated)
    assert rows.status[0] == Status.OK != rows.status[1]
    assert rows.loss[0] == -problem.log_density(U[0, 0, 0])
    assert np.isnan(rows.gradient_norm).all()
    assert np.isinf(rows.loss[1])


def test_an_archive_of_another_problem_is_refused_before_anything_is_simulated(problem, path, monkeypatch):
    open_archive(path, problem.with_tolerances(1e-5, 1e-8)).close()
    monkeypatch.setattr(type(problem), "evaluate", None)
    with pytest.raises(ArchiveError, match="has points of another problem"):
        kb.sample(problem, "random_walk", archive=path, **LENGTHS)
    with pytest.raises(ArchiveError, match="has points of another problem"):
        kb.optimize(problem, archive=path, progress=False)
