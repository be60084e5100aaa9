import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from kinbayes.amortized.networks.heads import HEADS, MIN_SCALE, find_head

DENSITIES = sorted(name for name, head in HEADS.items() if head.has_density)
# Raw outputs of a network that has run away, too: locations -30 to 30, scales from the bound up.
EXTREMES = {
    1: np.array([[-500.0], [-30.0], [-0.011], [-1e-3], [0.0], [1e-9], [0.009], [2.0], [700.0]]),
    2: np.array([[0.0, 0.0], [-0.5, -40.0], [-30.0, -40.0], [30.0, 5.0], [0.3, -3.0], [1.0, -40.0], [0.5, 22.0]]),
}


def test_bce_alone_has_no_density():
    assert DENSITIES == ["continuous_bernoulli", "gaussian", "student_t"]
    assert not HEADS["bce"].has_density
    with pytest.raises(ValueError, match=r"unknown head 'normal'; choose from \['bce', 'cont"):
        find_head("normal")


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density_integrates_to_one_whatever_the_outputs(name):
    head = HEADS[name]
    outputs = EXTREMES[head.num_outputs]
    # Panels that halve towards both walls and towards the middle, where the locations of narrow scales are.
    ladder = np.geomspace(1e-12, 0.25, 150)
    edges = np.unique(
        np.concatenate(
            [[0.0, 0.5, 0.8, 1.0], ladder, 1 - ladder, *(x + s * ladder for s in (-1, 1) for x in (0.5, 0.8))]
        )
    )
    edges = edges[(edges >= 0.0) & (edges <= 1.0)]
    nodes, weights = np.polynomial.legendre.leggauss(10)
    half = np.diff(edges)[:, None] / 2
    y = ((edges[1:] + edges[:-1])[:, None] / 2 + half * nodes).ravel()
    log_density = jax.jit(jax.vmap(head.log_density, in_axes=(None, 0)))(outputs, np.tile(y[:, None], len(outputs)))
    integral = (np.exp(log_density) * (half * weights).reshape(-1, 1)).sum(axis=0)
    np.testing.assert_allclose(integral, 1.0, rtol=1e-7)


@pytest.mark.parametrize("name", sorted(HEADS))
def test_loss_and_gradient_are_finite_at_the_walls(name):
    head = HEADS[name]
    outputs = np.repeat(EXTREMES[head.num_outputs], 5, axis=0)
    y = np.tile([0.0, 1e-300, 0.4, 1.0 - 1e-16, 1.0], len(outputs) // 5)
    value_and_grad = jax.jit(jax.value_and_grad(lambda o, y: head.loss(o, y).sum(), argnums=(0, 1)))
    value, gradients = value_and_grad(outputs, y)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_the_continuous_bernoulli_is_the_cross_entropy_with_a_normaliser():
    head = HEADS["continuous_bernoulli"]
    y = jnp.linspace(0.0, 1.0, 5)
    for logit in (-7.0, -0.5, -0.02, -0.005, 0.0, 0.005, 0.02, 3.0):
        mean = 1 / (1 + np.exp(-logit))
        mass, _ = integrate.quad(lambda x, p=mean: p**x * (1 - p) ** (1 - x), 0, 1, epsabs=1e-13)
        outputs = jnp.full((5, 1), logit)
        expected = y * np.log(mean) + (1 - y) * np.log1p(-mean) - np.log(mass)
        np.testing.assert_allclose(head.log_density(outputs, y), expected, rtol=1e-11, atol=1e-11)
        cross_entropy = HEADS["bce"].loss(outputs, y)
        np.testing.assert_allclose(head.loss(outputs, y), cross_entropy + np.log(mass), rtol=1e-11, atol=1e-11)


def test_the_gradient_of_the_continuous_bernoulli_is_smooth_through_its_series():
    logit = np.concatenate([-np.geomspace(1e-12, 0.1, 50), [0.0], np.geomspace(1e-12, 0.1, 50)])
    gradient = jax.jit(
        jax.vmap(jax.grad(lambda a: HEADS["continuous_bernoulli"].log_density(a[None], jnp.array(0.5))))
    )(logit)
    # d/da log(2 sinh(a/2)/a) = coth(a/2)/2 - 1/a = a/12 - a³/720 + a⁵/30240
    np.testing.assert_allclose(gradient, -(logit / 12 - logit**3 / 720 + logit**5 / 30240), atol=1e-11)


def test_draws_of_the_continuous_bernoulli_have_its_distribution():
    head = HEADS["continuous_bernoulli"]
    for seed, logit in enumerate([-20.0, -1.0, 0.0, 1e-5, 4.0]):
        y = np.asarray(head.sample(jax.random.key(seed), jnp.full((20_000, 1), logit)))
        slope = logit if abs(logit) > 1e-3 else 1e-3  # told apart by no more than 1e-4 in 20 000 draws

        def cdf(x, slope=slope):
            return np.expm1(slope * x) / np.expm1(slope)

        assert stats.kstest(y, cdf).pvalue > 2 * stats.norm.sf(5.0)
        assert stats.kstest(y**1.1, cdf).pvalue < 2 * stats.norm.sf(5.0)


@pytest.mark.parametrize("name", DENSITIES)
def test_a_point_is_the_median_of_the_draws(name):
    head = HEADS[name]
    outputs = jnp.full((20_000, head.num_outputs), 0.4)
    draws = head.sample(jax.random.key(1), outputs)
    share = np.mean(draws < head.point(outputs))
    assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(20_000)
    np.testing.assert_array_equal(draws, head.sample(jax.random.key(1), outputs))


def test_bce_generates_its_mean():
    outputs = jnp.array([[-3.0], [0.0], [2.0]])
    np.testing.assert_allclose(HEADS["bce"].sample(jax.random.key(0), outputs), 1 / (1 + np.exp(-outputs[:, 0])))


def test_scales_have_a_lower_bound():
    density = HEADS["gaussian"].log_density(jnp.array([[0.0, -1e4]]), jnp.array([0.5]))
    np.testing.assert_allclose(density, -np.log(MIN_SCALE * np.sqrt(2 * np.pi)))
