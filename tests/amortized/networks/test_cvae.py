"""The exactness of proposals, with untrained networks: it must not depend on what a network has learned."""

import functools
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kinbayes.amortized.networks import NETWORKS
from kinbayes.amortized.networks.cvae import cvae, divergence

SIZES = {
    "enc_num_layers": 2,
    "enc_hidden_channels": 8,
    "enc_out_channels": 4,
    "latent_dim": 1,
    "dec_num_layers": 1,
    "dec_hidden_channels": 8,
}
EXACT = {"cvae": SIZES, "transformer_cvae": {**SIZES, "enc_num_layers": 1, "num_heads": 2}}
HEADS = ["gaussian", "student_t", "continuous_bernoulli"]


@eqx.filter_jit
def propose(network, key, c, num_latents):
    return network.propose(key, c, num_latents)


@eqx.filter_jit
def log_density(network, key, y, c, num_latents):
    return network.log_density(key, y, c, num_latents)


@functools.cache
def random_network(name, dim, *, head="student_t", seed=3):
    """Return an untrained network: a decoder that listens to its latents, an encoder that knows nothing of that."""
    network = NETWORKS[name](jax.random.key(seed), dim, head=head, **EXACT[name])
    network = eqx.tree_at(lambda n: n.decoder.readout.weight, network, replace_fn=lambda weight: 4.0 * weight)
    if head != "continuous_bernoulli":
        network = eqx.tree_at(lambda n: n.decoder.readout.bias, network, jnp.tile(jnp.array([0.0, 2.0]), dim))
    # It recognises latents in the wrong place, but as widely as the prior: the variance of the weights is finite.
    return eqx.tree_at(lambda n: n.encoder.readout.bias, network, jnp.array([0.8, 0.0]))


@jax.jit
def marginal(network, y, c):
    """Return ∫ p(z) p(y|z, c) dz for one latent dimension, by the trapezoidal rule."""
    z = jnp.linspace(-9.0, 9.0, 2001)[:, None]
    outputs, _ = network.decoder(z, jnp.full(len(z), c), None)
    density = jnp.exp(network.head.log_density(outputs, jnp.full((len(z), 1), y))[:, 0])
    return (density * jnp.exp(-0.5 * z[:, 0] ** 2)).sum() * 18.0 / 2000 / np.sqrt(2.0 * np.pi)


@pytest.mark.parametrize(("head", "num_latents"), [("student_t", 1), *((head, 4) for head in HEADS)])
def test_the_estimate_of_a_density_is_unbiased(head, num_latents):
    check_unbiased(random_network("cvae", 1, head=head), num_latents)


@pytest.mark.slow
def test_the_estimate_of_a_density_is_unbiased_with_a_transformer():
    check_unbiased(random_network("transformer_cvae", 1), 4)


def check_unbiased(network, num_latents):
    num = 20_000
    for y, c in [(0.2, 0.9), (1.0, 0.1)]:
        key = jax.random.key(num_latents)
        logs = log_density(network, key, jnp.full((num, 1), y), jnp.full(num, c), num_latents)
        estimates = np.exp(np.asarray(logs))
        error = estimates.std() / np.sqrt(num)
        expected = marginal(network, y, c)
        assert error < 0.02 * expected
        assert abs(estimates.mean() - expected) < 5 * error


@pytest.mark.parametrize(("name", "dim"), [("cvae", 1), pytest.param("transformer_cvae", 2, marks=pytest.mark.slow)])
def test_weights_of_proposals_integrate_over_the_box(name, dim):
    # E[h(y)/q̂] = ∫ h for the latents that made the points, whatever the number of latents
    network = random_network(name, dim)
    num = 50_000
    c = jnp.full(num, 0.3)
    for num_latents in (1, 4) if dim == 1 else (4,):
        y, log_q = propose(network, jax.random.key(5), c, num_latents)
        assert np.all((y >= 0.0) & (y <= 1.0))
        assert z_score(y, log_q) < 5.0


@pytest.mark.parametrize("num_latents", [1, 4])
def test_with_all_latents_drawn_anew_weights_are_wrong(num_latents):
    # The negative control: the plug-in scheme, which forgets the latent that made a point.
    network = random_network("cvae", 1)
    num = 50_000
    c = jnp.full(num, 0.3)
    y, _ = propose(network, jax.random.key(5), c, num_latents)
    assert z_score(y, log_density(network, jax.random.key(6), y, c, num_latents)) > 10.0


def z_score(y, log_q):
    terms = np.asarray(jnp.prod(6.0 * y * (1.0 - y), axis=1) * jnp.exp(-log_q))
    return abs(terms.mean() - 1.0) / (terms.std() / np.sqrt(len(terms)))


def test_estimates_do_not_depend_on_how_many_latents_go_at_once(monkeypatch):
    network = random_network("cvae", 2)
    y, c, key = jnp.full((3, 2), 0.4), jnp.array([0.1, 0.5, 1.2]), jax.random.key(0)
    at_once = log_density(network, key, y, c, 5)
    monkeypatch.setattr(sys.modules[cvae.__module__], "_MAX_ROWS", 6)
    in_turns = jax.jit(lambda n: n.log_density(key, y, c, 5))(network)
    np.testing.assert_allclose(in_turns, at_once, rtol=1e-12)


def test_the_divergence_is_that_of_normal_distributions():
    mean, log_variance = jnp.array([[0.3, -2.0], [0.0, 0.0]]), jnp.array([[-1.0, 0.7], [0.0, 0.0]])
    x = np.linspace(-20.0, 20.0, 20_001)[:, None, None]
    sd = np.exp(0.5 * np.asarray(log_variance))
    log_r = stats.norm.logpdf(x, mean, sd)
    expected = (np.exp(log_r) * (log_r - stats.norm.logpdf(x))).sum(axis=(0, 2)) * 40.0 / 20_000
    np.testing.assert_allclose(divergence(mean, log_variance), expected, atol=1e-10)


def test_the_loss_is_reconstruction_and_divergence_and_bounds_minus_the_log_density():
    network = random_network("cvae", 1)
    num = 20_000
    y, c, weight = jnp.full((num, 1), 0.7), jnp.full(num, 0.2), jnp.ones(num)
    key = jax.random.key(1)

    @jax.jit
    def terms(network):
        mean, raw = jnp.split(network.encoder(y, c, None)[0], 2, axis=1)
        z = mean + jnp.exp(0.5 * raw) * jax.random.normal(key, mean.shape)
        outputs, _ = network.decoder(z, c, None)
        reconstruction = network.head.loss(outputs, y)[:, 0].mean()
        return reconstruction, divergence(mean, raw)[0], network.validation_loss(key, y, c, weight)

    # The bounds of the log variance are far from what this network says: they move it by less than 0.05.
    reconstruction, gap, bound = terms(network)
    np.testing.assert_allclose(bound, reconstruction + gap, atol=0.02)
    assert gap > 0.1
    assert bound > -np.log(marginal(network, 0.7, 0.2))


def test_a_head_without_density_makes_no_proposals():
    network = cvae(jax.random.key(0), 2, head="bce", **SIZES)
    assert not network.has_density
    with pytest.raises(NotImplementedError, match="head of this network has no density"):
        network.propose(jax.random.key(0), jnp.zeros(3), 4)
    with pytest.raises(NotImplementedError, match="head of this network has no density"):
        network.log_density(jax.random.key(0), jnp.zeros((3, 2)), jnp.zeros(3), 4)
    assert cvae(jax.random.key(0), 2, head="student_t", **SIZES).has_density


def test_senseless_settings_are_refused():
    for settings, message in [
        ({"latent_dim": 0}, "latent_dim = 0; it must be 1 or more"),
        ({"beta": -1.0}, "beta = -1.0"),
        ({"head": "cauchy"}, "unknown head 'cauchy'"),
    ]:
        with pytest.raises(ValueError, match=message):
            cvae(jax.random.key(0), 2, **{**SIZES, **settings})
    with pytest.raises(ValueError, match="num_latents = 0"):
        random_network("cvae", 2).propose(jax.random.key(0), jnp.zeros(3), 0)
    with pytest.raises(ValueError, match="no multiple of num_heads = 3"):
        NETWORKS["transformer_cvae"](jax.random.key(0), 2, enc_hidden_channels=8, num_heads=3)
