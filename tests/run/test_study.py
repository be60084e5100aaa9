import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import optuna
import pytest
from jax.tree_util import Partial
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from kinbayes.optimizers.base import Bounds, Evaluation
from kinbayes.optimizers.bayesian import bayesian
from kinbayes.optimizers.initial import latin_hypercube
from kinbayes.run.loop.driver import run_optimizer
from kinbayes.run.loop.runs import OptimizerProgress
from kinbayes.run.study import Study

NAMES = ["k1", "k2", "Hill"]
LOWER, UPPER = np.array([-5.0, -np.inf, 2.0]), np.array([3.0, np.inf, 2.0])


def trials(n: int, *, starts: int = 2, seed: int = 0, capacity: int = 40):
    """Return what a driver reports after n trials of every start, a quarter of which failed."""
    rng = np.random.default_rng(seed)
    positions = np.stack([rng.uniform(-5.0, 3.0, (starts, capacity)), rng.normal(size=(starts, capacity)) * 3.0,
                          np.full((starts, capacity), 2.0)], axis=-1)  # fmt: skip
    losses = np.where(rng.random((starts, capacity)) < 0.25, np.inf, rng.normal(size=(starts, capacity)))
    state = SimpleNamespace(positions=positions, losses=losses, num_trials=np.full(starts, n))
    return OptimizerProgress("optimize", starts * n, starts * capacity, SimpleNamespace(state=state))


def writer(path) -> Study:
    return Study(path, "Boehm", NAMES, LOWER, UPPER)


def reopened(path) -> list[optuna.Study]:
    """Open a file as anybody would."""
    storage = JournalStorage(JournalFileBackend(str(path)))
    names = optuna.get_all_study_names(storage)
    return [optuna.load_study(study_name=name, storage=storage) for name in names]


def assert_says(path, progress):
    state, studies = progress.run.state, reopened(path)
    assert [study.study_name for study in studies] == [f"Boehm start {k}" for k in range(len(state.num_trials))]
    for k, study in enumerate(studies):
        n = int(state.num_trials[k])
        assert [trial.number for trial in study.trials] == list(range(n))
        found = [[trial.params[name] for name in NAMES] for trial in study.trials]
        np.testing.assert_array_equal(np.reshape(found, (n, 3)), state.positions[k, :n])
        for trial, loss in zip(study.trials, state.losses[k], strict=False):
            assert trial.state == (TrialState.COMPLETE if np.isfinite(loss) else TrialState.FAIL)
            assert trial.value == (loss if np.isfinite(loss) else None)
        if np.isfinite(state.losses[k, :n]).any():
            assert study.best_value == state.losses[k, :n].min()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "study.log"


def test_a_study_has_all_trials_and_the_best(path):
    study = writer(path)
    for n in (8, 8, 16, 40):
        assert study.update(trials(n)) is None
        assert_says(path, trials(n))
    distributions = reopened(path)[0].trials[0].distributions
    assert (distributions["k1"].low, distributions["k1"].high) == (-5.0, 3.0)
    furthest = np.abs(trials(40).run.state.positions[0, :, 1]).max()
    assert distributions["k2"].high == -distributions["k2"].low == 2.0 ** np.ceil(np.log2(furthest))
    assert distributions["Hill"].single()


def test_the_file_is_lines_of_json(path):
    writer(path).update(trials(16))
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 2 + 2 * 16
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_is_missing_is_appended(path):
    """Nothing that was written is touched, by the same writer or by that of a run that goes on."""
    bounds = np.full(3, -20.0), np.full(3, 20.0)
    study = Study(path, "Boehm", NAMES, *bounds)
    study.update(trials(8))
    first = path.read_bytes()
    study.update(trials(16))
    second = path.read_bytes()
    Study(path, "Boehm", NAMES, *bounds).update(trials(24))
    assert second.startswith(first)
    assert len(second) > len(first)
    assert path.read_bytes().startswith(second)
    assert_says(path, trials(24))


def test_a_writer_that_goes_on_gives_the_same_trials_as_one_that_was_not_interrupted(path, tmp_path):
    writer(tmp_path / "whole.log").update(trials(40))
    for n in (8, 24, 40):
        writer(path).update(trials(n))
    assert_says(path, trials(40))
    for one, other in zip(reopened(path), reopened(tmp_path / "whole.log"), strict=True):
        assert [(t.params, t.distributions, t.value) for t in one.trials] == [
            (t.params, t.distributions, t.value) for t in other.trials
        ]


def test_a_file_ahead_of_the_state_is_written_anew(path):
    writer(path).update(trials(24))
    writer(path).update(trials(16))
    assert_says(path, trials(16))


def test_a_state_that_went_back_is_followed(path):
    study = writer(path)
    for n in (24, 16, 40):
        study.update(trials(n))
        assert_says(path, trials(n))


@pytest.mark.parametrize("other", [{"seed": 1}, {"starts": 3}], ids=["other_numbers", "other_starts"])
def test_the_file_of_another_run_is_written_anew(path, other):
    writer(path).update(trials(16, **other))
    writer(path).update(trials(24))
    assert_says(path, trials(24))


@pytest.mark.parametrize(
    "torn", [lambda b: b[:-7], lambda b: b[:40] + b[60:], lambda b: b"no study\n", lambda b: b'{"op_code":99}\n']
)
def test_a_torn_file_is_written_anew(path, torn):
    writer(path).update(trials(16))
    path.write_bytes(torn(path.read_bytes()))
    writer(path).update(trials(24))
    assert_says(path, trials(24))


def test_no_trials_yet(path):
    study = writer(path)
    study.update(trials(0))
    assert_says(path, trials(0))
    study.update(trials(8))
    assert_says(path, trials(8))


def test_optuna_stays_silent_and_as_it_was(path, capfd):
    verbosity = optuna.logging.get_verbosity()
    writer(path).update(trials(16))
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == verbosity


def _fails_on_the_left(U):
    return Evaluation(jnp.where(U[:, 0] < -1.0, jnp.nan, jnp.sum((U - 0.3) ** 2, axis=1)))


def test_a_search_writes_its_trials_as_it_goes(path):
    bounds, settings = Bounds(np.full(3, -2.0), np.full(3, 2.0)), (("max_trials", 40),)
    search = {"bounds": bounds, "seed": 0, "on_chunk": Study(path, "Boehm", NAMES, *bounds).update}
    points = np.stack([latin_hypercube(seed, 8, *bounds) for seed in range(2)])
    objective = Partial(_fails_on_the_left)
    part = run_optimizer(objective, bayesian, settings, initial=points, max_evaluations=40, **search)
    assert_says(path, OptimizerProgress("optimize", 0, 0, part))
    run = run_optimizer(objective, bayesian, settings, initial=part, max_evaluations=1000, **search)
    assert_says(path, OptimizerProgress("optimize", 0, 0, run))
    assert [study.best_value for study in reopened(path)] == run.loss.tolist()
    assert {len(study.trials) for study in reopened(path)} == {40}
