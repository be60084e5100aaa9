"""A run that ends before its time must go on as if it had not, and a wrong one must be refused before it takes time."""

import numpy as np
import pandas as pd
import pytest

import kinbayes as kb
from kinbayes.results.attributes import attributes
from kinbayes.results.checkpoint import Checkpoint, CheckpointError
from kinbayes.results.store import StoreError
from kinbayes.run import sample, saving

LENGTHS = {"draws": 250, "warmup": 40, "chains": 2, "thin": 2, "seed": 3, "progress": False}


@pytest.fixture(scope="module")
def problem():
    return kb.read_petab(kb.example("conversion_reaction"))


@pytest.fixture(scope="module")
def whole(problem):
    return kb.sample(problem, "random_walk", keep_warmup=True, **LENGTHS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.zarr"


def assert_same(found, expected):
    assert set(found.groups()) == set(expected.groups())
    for group in expected.groups():
        assert list(found[group].data_vars) == list(expected[group].data_vars)
        for name, values in expected[group].data_vars.items():
            np.testing.assert_array_equal(found[group][name].values, values.values, err_msg=f"{group} {name}")
            assert found[group][name].attrs == values.attrs
        for name, values in expected[group].coords.items():
            np.testing.assert_array_equal(found[group][name].values, values.values, err_msg=f"{group} {name}")
    timed = {"wall_time", "seconds_warmup", "seconds_draws"}
    assert {k: v for k, v in found.attrs.items() if k not in timed} == {
        k: v for k, v in expected.attrs.items() if k not in timed
    }


def dies(monkeypatch, *, after, commits=True):
    """Let a run die after so many pieces, as if it were killed: nothing is committed at its end."""
    pieces = []

    def update(self, progress):
        pieces.append(progress)
        if commits:
            self.commit(progress.run)
        if len(pieces) == after:
            raise SystemExit("killed")

    monkeypatch.setattr(saving.Saving, "update", update)


def test_a_checkpoint_changes_no_number(problem, whole, path):
    found = kb.sample(problem, "random_walk", keep_warmup=True, checkpoint=path, **LENGTHS)
    assert_same(found, whole)
    assert_same(kb.load(path), whole)
    assert whole.warmup_posterior.sizes == {"chain": 2, "draw": 40}
    again = kb.sample(problem, "random_walk", keep_warmup=True, checkpoint=path, resume=True, **LENGTHS)
    assert again.attrs == found.attrs  # its wall time too: nothing was run


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("after", [1, 3, 7, 10])
def test_a_run_that_died_goes_on_as_if_it_had_not(problem, whole, path, monkeypatch, after, commits):
    asked = {"keep_warmup": True, "checkpoint": path, "resume": True, **LENGTHS}
    dies(monkeypatch, after=after, commits=commits)
    with pytest.raises(SystemExit):
        kb.sample(problem, "random_walk", **asked)
    assert_same(kb.sample(problem, "random_walk", **asked), whole)


def test_draws_can_be_read_before_the_run_has_ended(problem, whole, path, monkeypatch):
    dies(monkeypatch, after=8)
    with pytest.raises(SystemExit):
        kb.sample(problem, "random_walk", keep_warmup=True, checkpoint=path, **LENGTHS)
    found = kb.load(path)
    drawn = found.posterior.sizes["draw"]
    assert 0 < drawn < 250
    for name in problem.parameter_names:
        np.testing.assert_allclose(found.posterior[name], whole.posterior[name][:, :drawn], rtol=1e-14)
    np.testing.assert_array_equal(found.sample_stats.lp, whole.sample_stats.lp[:, :drawn])
    said = attributes(found)
    assert said["not_converged_because"] == [f"it has not ended: {drawn} of 250 draws are there"]
    assert (said["stopped"], said["converged"], said["seed"]) == ("unfinished", 0, 3)
    kb.credible_intervals(found)
    kb.predict(found, problem, draws=5)
    assert kb.sample(problem, "random_walk", initial=found, **LENGTHS).posterior.sizes["draw"] == 250


def test_a_run_can_be_made_longer(problem, whole, path):
    kb.sample(problem, "random_walk", keep_warmup=True, checkpoint=path, **{**LENGTHS, "draws": 25})
    found = kb.sample(problem, "random_walk", keep_warmup=True, checkpoint=path, resume=True, **LENGTHS)
    assert_same(found, whole)
    with pytest.raises(ValueError, match="290 iterations, more than the 40 of warmup and the 50 draws asked for"):
        kb.sample(problem, "random_walk", keep_warmup=True, checkpoint=path, resume=True, **{**LENGTHS, "draws": 50})
    assert_same(kb.load(path), whole)


def test_another_run_is_refused(problem, path):
    kb.sample(problem, "random_walk", checkpoint=path, **LENGTHS)

    def again(problem, sampler="random_walk", resume=True, **changes):
        kb.sample(problem, sampler, checkpoint=path, resume=resume, **{**LENGTHS, **changes})

    with pytest.raises(CheckpointError, match="exists: go on with it by resume=True"):
        again(problem, resume=False)
    for name, value, was in (("seed", 4, 3), ("warmup", 41, 40), ("chains", 3, 2), ("thin", 1, 2)):
        with pytest.raises(CheckpointError, match=f"was begun with {name} {was}, not {value}: ask for the same"):
            again(problem, **{name: value})
    with pytest.raises(CheckpointError, match="was begun with sampler 'random_walk', not 'dream'"):
        again(problem, "dream")
    with pytest.raises(CheckpointError, match=r"was begun with settings .*0\.2.*, not .*0\.3"):
        again(problem, settings={"step_size": 0.3})
    with pytest.raises(CheckpointError, match=r"another problem: .*rtol 1e-06.* Give that problem, with the same data"):
        again(problem.with_tolerances(1e-7, 1e-9))
    with pytest.raises(CheckpointError, match=r"is the checkpoint of kinbayes\.sample, not of kinbayes\.optimize"):
        kb.optimize(problem, checkpoint=path, resume=True, progress=False)
    with pytest.raises(ValueError, match="resume is True, but there is no checkpoint to go on with: give its path"):
        kb.sample(problem, resume=True)


def test_other_versions_are_said_before_the_run_goes_on(problem, path, monkeypatch):
    kb.sample(problem, "random_walk", checkpoint=path, **{**LENGTHS, "draws": 25})
    now = saving.environment()
    monkeypatch.setattr(saving, "environment", lambda: now | {"versions": now["versions"] | {"jax": "99.0"}})
    with pytest.warns(UserWarning, match=r"other surroundings \(jax .*, now 99\.0\).* not bit for bit"):
        kb.sample(problem, "random_walk", checkpoint=path, resume=True, **LENGTHS)


def test_chains_of_nutpie_keep_what_they_have_and_say_that_they_cannot_go_on(problem, path, monkeypatch):
    asked = {"draws": 30, "warmup": 30, "chains": 2, "progress": False, "checkpoint": path, "resume": True}
    whole = kb.sample(problem, **{**asked, "checkpoint": None, "resume": False})
    commit = saving.Saving.commit

    def half(self, run):
        self._checkpoint.truncate(11)
        commit(self, run._replace(position=run.position[:, :11]))
        raise SystemExit("killed")

    monkeypatch.setattr(saving.Saving, "commit", half)
    with pytest.raises(SystemExit):
        kb.sample(problem, **asked)
    monkeypatch.undo()
    found = kb.load(path)
    np.testing.assert_array_equal(found.sample_stats.lp, whole.sample_stats.lp[:, :11])
    with pytest.raises(CheckpointError, match=r"has 11 of 30 draws of nutpie's chains, which cannot go on bit for bit"):
        kb.sample(problem, **asked)
    with pytest.raises(CheckpointError, match="has 11 draws, more than the 10 asked for"):
        kb.sample(problem, **{**asked, "draws": 10})
    completed = kb.sample(problem, **{**asked, "draws": 11})
    assert attributes(completed)["stopped"] == "completed"
    assert_same(completed, kb.load(path))


def test_nutpies_chains_begin_anew_where_there_is_nothing_yet(problem, path, monkeypatch):
    asked = {"draws": 30, "warmup": 30, "chains": 2, "progress": False, "checkpoint": path, "resume": True}

    def killed(*args):
        raise SystemExit("killed")

    monkeypatch.setattr(saving.Saving, "commit", killed)
    with pytest.raises(SystemExit):
        kb.sample(problem, **asked)
    monkeypatch.undo()
    with pytest.raises(StoreError, match="has no draws yet; go on with it by resume=True"):
        kb.load(path)
    assert_same(kb.sample(problem, **asked), kb.sample(problem, **{**asked, "checkpoint": None, "resume": False}))


def test_ctrl_c_while_the_result_is_made_keeps_the_draws(problem, whole, path, monkeypatch):
    def pressed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("kinbayes.run.sample.solver_check", pressed)
    found = kb.sample(problem, "random_walk", **LENGTHS)
    kept = kb.sample(problem, "random_walk", checkpoint=path, **LENGTHS)
    for idata in (found, kept):
        assert set(idata.groups()) == {"posterior", "sample_stats", "observed_data", "constant_data"}
        for name in problem.parameter_names:
            np.testing.assert_array_equal(idata.posterior[name], whole.posterior[name])
        assert attributes(idata)["converged"] == 0
        assert "interrupted while its result was made" in attributes(idata)["not_converged_because"][0]
    monkeypatch.undo()
    completed = kb.sample(problem, "random_walk", checkpoint=path, resume=True, **LENGTHS)
    np.testing.assert_array_equal(completed.log_likelihood.A_measured, whole.log_likelihood.A_measured)


def test_budgets_stop_a_run_and_say_so(problem, path):
    short = kb.sample(problem, "random_walk", **{**LENGTHS, "draws": 5000}, max_simulations=1000, checkpoint=path)
    assert attributes(short)["stopped"] == "max_simulations"
    assert 1000 <= attributes(short)["simulations"] < 5000
    enough = kb.sample(problem, "adaptive_metropolis", draws=100_000, progress=False, target_ess=500)
    said = attributes(enough)
    assert (said["stopped"], said["converged"]) == ("target_ess", 1)
    assert enough.posterior.sizes["draw"] < 3000
    with pytest.raises(RuntimeError, match=r"stopped in its warmup \(max_seconds\), so there are no draws yet$"):
        kb.sample(problem, "random_walk", **{**LENGTHS, "warmup": 10**6}, max_seconds=0.1)


def test_the_clock_does_not_count_the_starts(problem, monkeypatch):
    told, starts, budget = [], sample.chain_starts, sample.SamplerBudget
    monkeypatch.setattr(sample, "chain_starts", lambda *args: told.append("starts") or starts(*args))
    monkeypatch.setattr(sample, "SamplerBudget", lambda *args: told.append("clock") or budget(*args))
    with pytest.raises(ValueError, match="max_seconds is -1"):
        kb.sample(problem, "random_walk", **LENGTHS, max_seconds=-1)
    assert told == []
    kb.sample(problem, "random_walk", **LENGTHS)
    assert told == ["starts", "clock"]


def test_a_search_that_died_goes_on_as_if_it_had_not(problem, path, monkeypatch):
    asked = {"starts": 5, "progress": False, "checkpoint": path, "resume": True}
    expected = kb.optimize(problem, starts=5, progress=False)
    dies(monkeypatch, after=2)
    with pytest.raises(SystemExit):
        kb.optimize(problem, **asked)
    with pytest.raises(StoreError, match="a search has no result before its end"):
        kb.load(path)
    monkeypatch.undo()
    found = kb.optimize(problem, **asked)
    assert_same(found, expected)
    assert kb.optimize(problem, **asked).attrs == found.attrs
    with pytest.raises(CheckpointError, match="was begun with starts 5, not 6"):
        kb.optimize(problem, **{**asked, "starts": 6})


def test_an_improper_prior_and_names_are_refused_before_a_folder_is_made(problem, path):
    data = pd.DataFrame({"observableId": ["A_measured"], "time": [1.0], "measurement": [7.0]})
    improper = kb.Problem(problem.model, [kb.Parameter("A_0")], problem.observables[:1], data)
    with pytest.raises(ValueError, match="improper"):
        kb.sample(improper, checkpoint=path)
    with pytest.raises(ValueError, match="unknown sampler"):
        kb.sample(problem, "gibbs", checkpoint=path)
    assert not path.exists()


def test_a_checkpoint_is_free_after_its_run(problem, path):
    kb.sample(problem, "random_walk", checkpoint=path, **LENGTHS)
    Checkpoint(path, is_writable=True).close()
