"""Training: a closed form, the same weights for the same seed, and training that goes on as if never interrupted."""

import io
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from scipy import stats

from kinbayes.amortized import leaves, training
from kinbayes.amortized.fit import fit_of
from kinbayes.amortized.networks.base import Network
from kinbayes.amortized.training import TrainingError, arrays, restored, train

RNG = np.random.default_rng(0)
C = RNG.uniform(size=203)
Y = np.clip(np.column_stack([0.2 + 0.5 * C, 0.9 - 0.4 * C]) + RNG.normal(0, 0.03, (203, 2)), 0, 1)
WEIGHT = np.where(np.arange(203) % 5 == 0, 0.0, RNG.uniform(0.5, 2.0, 203))
SETTINGS = {"learning_rate": 0.05, "weight_decay": 0.0, "batch_size": 32, "seed": 4}


class Line(Network):
    """Points on a line along the condition; the mean condition of batches is a statistic."""

    start: Array
    slope: Array
    mean: Array
    gain: Array

    def trainable(self):
        return eqx.tree_at(lambda tree: (tree.mean, tree.gain), jax.tree.map(lambda leaf: True, self), (False, False))

    def loss(self, key, y, c, weight):
        mean = 0.9 * self.mean + 0.1 * jnp.sum(weight * c) / weight.sum()
        return self.validation_loss(key, y, c, weight), eqx.tree_at(lambda tree: tree.mean, self, mean)

    def validation_loss(self, key, y, c, weight):
        errors = ((y - self.reconstruct(y, c)) ** 2).sum(axis=1)
        return self.gain * jnp.sum(weight * errors) / weight.sum()

    def reconstruct(self, y, c):
        return self.start + self.slope * c[:, None]


def line(gain=1.0):
    return Line(jnp.zeros(2), jnp.zeros(2), jnp.array(7.0), jnp.array(gain))


def same(one, other):
    one, other = leaves.arrays(one), leaves.arrays(other)
    return one.keys() == other.keys() and all(np.array_equal(one[n], other[n], equal_nan=True) for n in one)


@pytest.fixture(scope="module")
def trained():
    return train(line(), Y, C, weight=WEIGHT, epochs=60, **SETTINGS)


def test_it_finds_weighted_least_squares(trained):
    rows = training.split(int((WEIGHT > 0).sum()), 0.1, 4)[0]
    y, c, root = Y[WEIGHT > 0][rows], C[WEIGHT > 0][rows], np.sqrt(WEIGHT[WEIGHT > 0][rows])
    design = np.column_stack([np.ones_like(c), c])
    best = np.linalg.lstsq(design * root[:, None], y * root[:, None], rcond=None)[0]
    np.testing.assert_allclose([trained.network.start, trained.network.slope], best, atol=0.01)
    assert trained.stopped == ""
    assert trained.history.validation.loss.shape == (60,)
    assert trained.history.validation.parameter_rmse.shape == (60, 2)


def test_the_best_network_is_kept(trained):
    best = int(trained.state.best_epoch)
    assert np.argmin(trained.history.validation.loss) == best - 1
    assert trained.history.validation.loss[best - 1] == trained.state.best_loss
    again = train(line(), Y, C, weight=WEIGHT, epochs=best, **SETTINGS)
    assert same(again.state.network, trained.network)


def test_rows_without_weight_are_as_if_they_were_not_there(trained):
    fewer = train(line(), Y[WEIGHT > 0], C[WEIGHT > 0], weight=WEIGHT[WEIGHT > 0], epochs=60, **SETTINGS)
    assert same(fewer.state, trained.state)


def test_training_that_goes_on_is_that_which_was_never_interrupted(trained):
    part = train(line(), Y, C, weight=WEIGHT, epochs=25, **SETTINGS)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays(part.state))
    file.seek(0)
    with np.load(file, allow_pickle=False) as found:
        state = restored(dict(found), line())
    assert same(state, part.state)
    assert same(train(line(), Y, C, weight=WEIGHT, epochs=60, state=state, **SETTINGS).state, trained.state)
    other = train(line(), Y, C, weight=WEIGHT, epochs=60, **SETTINGS | {"seed": 5})
    assert not same(other.state.network, trained.state.network)


def test_ctrl_c_keeps_what_there_is(trained):
    def press(state):
        if state.num_epochs == 25:
            raise KeyboardInterrupt

    stopped = train(line(), Y, C, weight=WEIGHT, epochs=60, on_epoch=press, **SETTINGS)
    assert stopped.is_interrupted
    assert stopped.stopped == "interrupted after 25 of 60 epochs"
    assert same(train(line(), Y, C, weight=WEIGHT, epochs=60, state=stopped.state, **SETTINGS).state, trained.state)


def test_a_state_of_other_data_or_settings_is_refused(trained):
    with pytest.raises(ValueError, match="other data or settings"):
        train(line(), Y, C, epochs=61, state=trained.state, **SETTINGS)
    with pytest.raises(ValueError, match="arrays are not as they should be"):
        restored({**arrays(trained.state), ".best_loss": np.zeros(3)}, line())


def test_statistics_are_kept_and_neither_trained_nor_decayed():
    found = train(line(), Y, C, weight=WEIGHT, epochs=20, **SETTINGS | {"weight_decay": 5.0, "learning_rate": 0.1})
    assert found.state.network.mean == pytest.approx(C.mean(), abs=0.05)
    assert found.state.network.gain == 1.0
    assert np.abs(found.state.network.slope).max() < 0.2  # what is trained is decayed


def test_a_loss_that_is_no_number_ends_it_with_the_best_network():
    with pytest.raises(TrainingError, match=r"after the first epoch: try a learning_rate below 0\.05"):
        train(line(np.nan), Y, C, weight=WEIGHT, epochs=3, **SETTINGS)
    good = train(line(), Y, C, weight=WEIGHT, epochs=2, **SETTINGS).state
    broken = good._replace(network=eqx.tree_at(lambda tree: tree.gain, good.network, jnp.array(np.inf)))
    found = train(line(), Y, C, weight=WEIGHT, epochs=9, state=broken, **SETTINGS)
    assert found.stopped.startswith(
        f"the loss was no finite number after epoch 3; the network of epoch {good.best_epoch}"
    )
    assert same(found.network, good.best)
    assert not found.is_interrupted


def test_an_epoch_is_compiled_once_whatever_the_rates(trained):
    before = training._epoch._cache_size()
    train(line(2.0), Y[::-1], C[::-1], weight=WEIGHT[::-1], epochs=3, **SETTINGS | {"learning_rate": 0.01, "seed": 9})
    assert training._epoch._cache_size() == before


@pytest.mark.parametrize(
    ("y", "c", "settings", "message"),
    [
        (np.where(Y[3, 1] == Y, 1.5, Y), C, {}, r"y\[3, 1\] is 1.5; points must lie in the unit box"),
        (Y, np.where(C[2] == C, np.inf, C), {}, r"c\[2\] is inf; .* leave failed simulations out"),
        (Y, C[1:], {}, "203 points, 202 conditions"),
        (Y[:1], C[:1], {}, "there are 1 rows"),
        (Y, C, {"weight": -WEIGHT}, "weights must be finite and not negative"),
        (Y, C, {"validation_share": 1.0}, "validation_share is 1.0"),
        (Y, C, {"learning_rate": 0.0}, "learning_rate is 0.0"),
        (Y, C, {"epochs": 0}, "epochs is 0"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(y, c, settings, message):
    if len(y) != len(c):
        with pytest.raises((ValueError, TypeError)):  # shapes are also checked by types, in tests
            train(line(), y, c, **settings)
    else:
        with pytest.raises(ValueError, match=message):
            train(line(), y, c, **settings)


def test_a_leaf_that_is_no_array_is_refused():
    odd = eqx.tree_at(lambda tree: tree.gain, line(), 1.0)
    with pytest.raises(TypeError, match=r"the leaf \.gain is 1\.0"):
        train(odd, Y, C)


def test_the_fit_is_what_scipy_says():
    y = RNG.uniform(size=(80, 3)) * [1.0, 0.1, 0.1] + [0.0, 0.4, 0.8]
    found = y + RNG.normal(0, 0.05, y.shape)
    found[:, 2] = 0.85
    fit = fit_of(y, found, 1.5)
    assert fit.loss == 1.5
    assert fit.rmse == pytest.approx(np.sqrt(np.mean((y - found) ** 2)))
    assert fit.pearson == pytest.approx(stats.pearsonr(y.ravel(), found.ravel()).statistic)
    assert fit.spearman == pytest.approx(stats.spearmanr(y.ravel(), found.ravel()).statistic)
    assert fit.relative_rmse == pytest.approx(fit.rmse / np.sqrt(y.var(axis=0).mean()))
    for k in (0, 1):
        assert fit.parameter_pearson[k] == pytest.approx(stats.pearsonr(y[:, k], found[:, k]).statistic)
        assert fit.parameter_spearman[k] == pytest.approx(stats.spearmanr(y[:, k], found[:, k]).statistic)
        assert fit.parameter_relative_rmse[k] == pytest.approx(fit.parameter_rmse[k] / y[:, k].std())
    assert np.isnan(fit.parameter_pearson[2])
    assert fit.pearson > fit.parameter_pearson[1] + 0.3  # what differences between parameters do


def test_without_the_extra_it_is_told_what_to_install():
    code = "import sys; sys.modules['optax'] = None; import kinbayes; kinbayes.amortize"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().endswith("networks are trained by optax: pip install 'kinbayes[amortized]'")
