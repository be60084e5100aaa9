"""The random search over settings."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jaxtyping import Array

from kinbayes.amortized.hyperparameters import Between, search
from kinbayes.amortized.networks import NETWORKS
from kinbayes.amortized.networks.base import Network

RNG = np.random.default_rng(0)
C = RNG.uniform(size=60)
Y = np.clip(0.2 + 0.5 * C + RNG.normal(0, 0.05, 60), 0, 1)[:, None]
FIXED = {"power": 1, "batch_size": 32}


class Curve(Network):
    """Points on a curve along the condition."""

    slopes: Array

    def loss(self, key, y, c, weight):
        return self.validation_loss(key, y, c, weight), self

    def validation_loss(self, key, y, c, weight):
        return jnp.sum(weight * (y - self.reconstruct(y, c))[:, 0] ** 2) / weight.sum()

    def reconstruct(self, y, c):
        return (self.slopes * c[:, None] ** jnp.arange(len(self.slopes))).sum(axis=1, keepdims=True)


def curve(key, dim, *, power: int = 2):
    return Curve(jnp.zeros(power + 1))


@pytest.fixture(scope="module", autouse=True)
def known():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "curve", curve)
        yield


SPACE = {"learning_rate": Between(1e-4, 0.1, is_log=True), "epochs": Between(1, 6)}


@pytest.fixture(scope="module")
def found():
    return search("curve", Y, C, SPACE, num_runs=4, fixed=FIXED, seed=3)


def test_the_table_has_all_runs_and_ends_with_the_losses(found):
    assert list(found.runs.columns) == ["learning_rate", "epochs", "best_epoch", "train_loss", "validation_loss"]
    assert len(found.runs) == 4
    assert found.runs["learning_rate"].between(1e-4, 0.1).all()
    assert found.runs["epochs"].isin(range(1, 7)).all()
    assert found.runs["epochs"].nunique() > 1


def test_the_best_run_has_the_least_validation_loss(found):
    best = found.runs.loc[found.runs["validation_loss"].idxmin()]
    assert found.training_settings["learning_rate"] == best["learning_rate"]
    assert found.training_settings["batch_size"] == 32
    assert found.network_settings == {k: v for k, v in FIXED.items() if k != "batch_size"}
    assert found.trained.state.best_loss == best["validation_loss"]
    assert found.trained.history.train.loss[int(best["best_epoch"]) - 1] == best["train_loss"]


def test_settings_of_the_network_are_searched_as_those_of_its_training_are():
    found = search("curve", Y, C, {"power": [1, 2, 3]}, num_runs=3, fixed={"batch_size": 32, "epochs": 1})
    best = found.runs.loc[found.runs["validation_loss"].idxmin()]
    assert found.network_settings == {"power": best["power"]}
    assert len(found.trained.network.slopes) == best["power"] + 1


def test_the_same_seed_gives_the_same_table_and_ctrl_c_keeps_what_there_is(found):
    tables = []

    def press(table):
        tables.append(table)
        if len(table) == 2:
            raise KeyboardInterrupt

    again = search("curve", Y, C, SPACE, num_runs=4, fixed=FIXED, seed=3, on_run=press)
    pd.testing.assert_frame_equal(again.runs, found.runs[:2])
    assert len(tables) == 2
    assert again.is_interrupted
    assert not found.is_interrupted


def test_ctrl_c_before_any_run_has_a_loss_is_not_taken_for_failure(monkeypatch):
    def press(self, y, c):
        raise KeyboardInterrupt

    monkeypatch.setattr(Curve, "reconstruct", press)
    with pytest.raises(KeyboardInterrupt):
        search("curve", Y[:50], C[:50], SPACE, num_runs=2, fixed=FIXED)


@pytest.mark.parametrize(
    ("space", "fixed", "message"),
    [
        ({"width": [1, 2]}, {}, "unknown settings .'width'.; choose from"),
        (SPACE, {"epochs": 3}, "both searched and fixed"),
        ({}, {}, "there are 0 settings"),
        ({"power": []}, {}, "list of choices"),
        ({"power": Between(8, 4)}, {}, "between 8 and 4"),
        ({"learning_rate": Between(0.0, 1.0, is_log=True)}, {}, "on a log scale above 0"),
    ],
)
def test_a_space_that_is_none_is_refused(space, fixed, message):
    with pytest.raises(ValueError, match=message):
        search("curve", Y, C, space, fixed=fixed)


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="unknown network 'gan'; choose from"):
        search("gan", Y, C, SPACE)
