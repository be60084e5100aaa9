"""What every network with latents must do."""

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array

from kinbayes.amortized.networks import NETWORKS
from kinbayes.amortized.networks.base import Network
from kinbayes.amortized.networks.layers import BatchNorm

BLOCKS = {
    "enc_num_layers": 2,
    "enc_hidden_channels": 16,
    "enc_out_channels": 8,
    "latent_dim": 2,
    "dec_num_layers": 2,
    "dec_hidden_channels": 16,
}
SETTINGS = {"cvae": BLOCKS, "transformer_cvae": {**BLOCKS, "enc_num_layers": 1, "num_heads": 2}, "ccgan": BLOCKS}
NAMES = sorted(SETTINGS)


class Answers(NamedTuple):
    loss: Array
    moved: Network
    validation_loss: Array
    slopes: Network
    generated: Array
    code: Array
    reconstructed: Array


@jax.jit
def ask(network, key, y, c, weight):
    """Return all that every network answers, compiled once a network; slopes are of both losses, by every array."""

    def both(network):
        loss, moved = network.loss(key, y, c, weight)
        validation_loss = network.validation_loss(key, y, c, weight)
        return loss + validation_loss, (loss, moved, validation_loss)

    (_, (loss, moved, validation_loss)), slopes = jax.value_and_grad(both, has_aux=True)(network)
    points = network.generate(key, c), network.encode(y, c), network.reconstruct(y, c)
    return Answers(loss, moved, validation_loss, slopes, *points)


@functools.cache
def build(name):
    return NETWORKS[name](jax.random.key(0), 2, **SETTINGS[name])


def statistics_of(network):
    return eqx.filter(network, jax.tree.map(lambda mark: not mark, network.trainable()))


def batch(num, seed=0):
    """Return points of a distribution with two modes, whose place moves with the condition."""
    rng = np.random.default_rng(seed)
    c = rng.uniform(size=num)
    sign = rng.choice([-1.0, 1.0], num)
    centre = np.stack([0.5 + 0.3 * sign, 0.3 + 0.4 * c], axis=1)
    return jnp.asarray(centre + 0.03 * rng.normal(size=(num, 2))), jnp.asarray(c), jnp.ones(num)


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.slow) if n != "cvae" else n for n in NAMES])
def name(request):
    return request.param


def test_all_leaves_are_arrays_of_floats(name):
    # as a network is an argument of compiled functions, and saved
    leaves = jax.tree.leaves(build(name))
    assert all(eqx.is_inexact_array(leaf) and leaf.dtype == float for leaf in leaves)


def test_the_shapes_are_those_of_the_protocol(name):
    network = build(name)
    answers = ask(network, jax.random.key(1), *batch(8))
    assert answers.loss.shape == ()
    assert answers.validation_loss.shape == ()
    assert jax.tree.structure(answers.moved) == jax.tree.structure(network)
    for points in (answers.generated, answers.reconstructed):
        assert points.shape == (8, 2)
        assert np.all((points >= 0.0) & (points <= 1.0))
    assert answers.code.shape == (8, 2)


def test_the_same_key_gives_the_same(name):
    network = build(name)
    again = NETWORKS[name](jax.random.key(0), 2, **SETTINGS[name])
    assert eqx.tree_equal(network, again)
    answers = ask(network, jax.random.key(1), *batch(8))
    assert eqx.tree_equal(answers, ask(again, jax.random.key(1), *batch(8)))
    others = ask(network, jax.random.key(2), *batch(8))
    assert answers.loss != others.loss
    assert not np.array_equal(answers.generated, others.generated)
    np.testing.assert_array_equal(answers.reconstructed, others.reconstructed)


def test_rows_of_weight_zero_change_nothing(name):
    network, key = build(name), jax.random.key(4)
    y, c, _ = batch(8)
    weight = jnp.array([1.0, 1.0, 0.0, 2.0, 0.0, 1.0, 1.0, 0.5])
    answers = ask(network, key, y, c, weight)
    others = ask(network, key, y.at[2].set(0.9).at[4].set(0.0), c.at[2].set(7.0).at[4].set(-3.0), weight)
    assert eqx.tree_equal(answers[:4], others[:4])
    # The negative control: a row with a weight does.
    others = ask(network, key, y.at[3].set(0.9), c.at[3].set(0.1), weight)
    assert answers.validation_loss != others.validation_loss
    assert not eqx.tree_equal(answers.moved, others.moved)
    # A batch of nothing is no NaN and leaves the statistics.
    nothing = ask(network, key, y, c, jnp.zeros(8))
    assert nothing.loss == 0.0
    assert eqx.tree_equal(nothing.moved, network)
    assert all(np.all(slope == 0.0) for slope in jax.tree.leaves(nothing.slopes))


def test_statistics_of_batches_are_not_trainable(name):
    network = build(name)
    answers = ask(network, jax.random.key(1), *batch(8))
    statistics, moved = statistics_of(network), statistics_of(answers.moved)
    assert len(jax.tree.leaves(statistics)) == 2 * {"cvae": 4, "transformer_cvae": 3, "ccgan": 4}[name]
    for before, after in zip(jax.tree.leaves(statistics), jax.tree.leaves(moved), strict=True):
        assert np.all(np.isfinite(after))
        assert not np.array_equal(before, after)
    assert eqx.tree_equal(eqx.filter(answers.moved, network.trainable()), eqx.filter(network, network.trainable()))
    # All else has a gradient, and statistics none even where they are asked for theirs.
    for slope in jax.tree.leaves(statistics_of(answers.slopes)):
        assert np.all(slope == 0.0)
    for slope in jax.tree.leaves(eqx.filter(answers.slopes, network.trainable())):
        assert np.isfinite(slope).all()
        assert np.any(slope != 0.0)


def test_the_loss_sees_the_batch_and_all_else_the_running_statistics(name):
    network = build(name)
    y, c, weight = batch(8)
    statistics, rest = eqx.partition(network, jax.tree.map(lambda mark: not mark, network.trainable()))
    shifted = eqx.combine(jax.tree.map(lambda leaf: leaf + 0.7, statistics), rest)
    answers, others = ask(network, jax.random.key(1), y, c, weight), ask(shifted, jax.random.key(1), y, c, weight)
    assert answers.loss == others.loss
    assert answers.validation_loss != others.validation_loss
    assert not np.array_equal(answers.generated, others.generated)
    assert not np.array_equal(answers.code, others.code)
    # What a network says of a point then does not depend on the others.
    others = ask(network, jax.random.key(1), y.at[5:].set(0.1), c.at[5:].set(0.4), weight)
    np.testing.assert_allclose(answers.reconstructed[:5], others.reconstructed[:5], rtol=1e-12)


def test_running_statistics_converge_to_those_of_the_data():
    norm = BatchNorm(3)
    x = jnp.asarray(np.random.default_rng(0).normal([1.0, -2.0, 0.0], [0.1, 3.0, 1.0], size=(20, 3)))
    weight = jnp.asarray(np.random.default_rng(1).uniform(size=20))
    settled, _ = jax.lax.scan(lambda n, _: (n(x, weight)[1], None), norm, length=400)
    mean = np.average(x, axis=0, weights=weight)
    np.testing.assert_allclose(settled.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(settled.variance, np.average((x - mean) ** 2, axis=0, weights=weight), rtol=1e-9)
    # In use the layer is then what it was in training.
    np.testing.assert_allclose(settled(x, None)[0], norm(x, weight)[0], rtol=1e-9)


def train(network, num_steps, learning_rate):
    updates = optax.adam(learning_rate)
    y, c, weight = batch(512)

    def step(carry, key):
        network, optimizer = carry
        rows_key, loss_key = jax.random.split(key)
        rows = jax.random.choice(rows_key, len(y), (64,))
        params, rest = eqx.partition(network, network.trainable())

        def objective(params):
            value, moved = eqx.combine(params, rest).loss(loss_key, y[rows], c[rows], weight[rows])
            return value, eqx.partition(moved, network.trainable())[1]

        slopes, rest = jax.grad(objective, has_aux=True)(params)
        change, optimizer = updates.update(slopes, optimizer, params)
        return (eqx.combine(optax.apply_updates(params, change), rest), optimizer), None

    @jax.jit
    def run(network, key):
        optimizer = updates.init(eqx.filter(network, network.trainable()))
        return jax.lax.scan(step, (network, optimizer), jax.random.split(key, num_steps))[0][0]

    return run(network, jax.random.key(7))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_steps", "learning_rate"),
    [
        ("cvae", 1000, 1e-2),
        ("transformer_cvae", 1000, 1e-2),
        ("ccgan", 2000, 1e-3),
    ],
)
def test_a_trained_network_finds_both_modes_where_the_condition_has_them(name, num_steps, learning_rate):
    untrained = build(name)
    network = train(untrained, num_steps, learning_rate)
    held_out = batch(512, seed=1)
    score = jax.jit(lambda network: network.validation_loss(jax.random.key(2), *held_out))
    assert score(network) < score(untrained)
    c = jnp.repeat(jnp.array([0.2, 0.8]), 2000)
    points = np.asarray(jax.jit(lambda network: network.generate(jax.random.key(3), c))(network))
    for value, of_value in ((0.2, points[:2000]), (0.8, points[2000:])):
        is_at_height = np.abs(of_value[:, 1] - (0.3 + 0.4 * value)) < 0.1
        assert is_at_height.mean() > 0.8  # a third of these heights, if the condition had no say
        for mode in (0.2, 0.8):
            assert (np.abs(of_value[is_at_height, 0] - mode) < 0.15).mean() > 0.37  # 0.3 of uniform points
        assert (np.abs(of_value[:, 0] - 0.5) < 0.1).mean() < 0.12  # 0.2 of these
