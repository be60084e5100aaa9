import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kinbayes.amortized.networks.ccgan import ccgan

NETWORK = ccgan(
    jax.random.key(0),
    1,
    enc_num_layers=1,
    enc_hidden_channels=4,
    enc_out_channels=4,
    latent_dim=1,
    dec_num_layers=1,
    dec_hidden_channels=4,
)


@pytest.mark.slow
def test_each_player_descends_its_own_loss():
    # Each player's slope does not see how the other would have to move: a step along the sum of the losses makes the
    # discriminator tell better, and the generator deceive better.
    rng = np.random.default_rng(0)
    y, c, weight = jnp.asarray(0.8 + 0.02 * rng.normal(size=(64, 1))), jnp.asarray(rng.uniform(size=64)), jnp.ones(64)
    key = jax.random.key(1)

    @jax.jit
    def slopes(network):
        return jax.grad(lambda n: n.loss(key, y, c, weight)[0])(network)

    @jax.jit
    def deception(network):
        _, _, z_key = jax.random.split(key, 3)
        noise_key, _, _ = jax.random.split(key, 3)
        target = c + network.condition_noise * jax.random.normal(noise_key, c.shape)
        generated, _ = network._generated(jax.random.normal(z_key, (64, 1)), target, weight)
        return jax.nn.softplus(-network.discriminator(generated, target)).mean()

    slope = slopes(NETWORK)
    own = jax.jit(jax.grad(deception))(NETWORK)
    for ours, theirs in zip(jax.tree.leaves(slope.generator), jax.tree.leaves(own.generator), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    moved = jax.tree.map(lambda leaf, change: leaf - 0.1 * change, NETWORK.discriminator, slope.discriminator)
    better = eqx.tree_at(lambda n: n.discriminator, NETWORK, moved)
    assert deception(better) > deception(NETWORK)


def test_points_stand_in_for_conditions_of_their_vicinity_alone():
    c = jnp.linspace(0.0, 1.0, 101)
    weight = jnp.where(jnp.arange(101) % 2 == 0, 1.0, 0.0)
    keys = jax.random.split(jax.random.key(0), 500)
    rows = np.asarray(jax.jit(jax.vmap(lambda key: NETWORK._in_vicinity(key, c, c, weight)))(keys))
    assert np.all(rows % 2 == 0)
    distance = np.asarray(c)[rows] - np.asarray(c)
    inner = distance[:, 30:71]
    # exp(-d²/vicinity²) is a normal density of variance vicinity²/2.
    sd = NETWORK.vicinity / np.sqrt(2.0)
    error = 5.0 * sd / np.sqrt(2.0 * inner.size)
    assert abs(inner.std() - sd) < error
    assert abs(inner.mean()) < 2.0 * error


def test_it_makes_no_proposals():
    assert not NETWORK.has_density
    with pytest.raises(NotImplementedError):
        NETWORK.propose(jax.random.key(0), jnp.zeros(2), 4)


def test_senseless_settings_are_refused():
    with pytest.raises(ValueError, match=r"vicinity = 0\.0"):
        ccgan(jax.random.key(0), 1, vicinity=0.0)
    with pytest.raises(ValueError, match=r"gradient_penalty = -1\.0"):
        ccgan(jax.random.key(0), 1, gradient_penalty=-1.0)
    with pytest.raises(ValueError, match="enc_num_layers = 0"):
        ccgan(jax.random.key(0), 1, enc_num_layers=0)
