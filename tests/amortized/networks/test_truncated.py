import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from kinbayes.amortized.networks import truncated

# Locations in, at the edge of and far outside of the box; scales down to the bound of the heads and up to flat.
LOCATIONS = np.array([-1e6, -50.0, -1.0, -1e-3, 0.0, 0.2, 0.5, 0.7, 1.0, 1.3, 40.0, 1e6])
SCALES = np.array([1e-3, 0.03, 0.3, 2.0, 100.0])
GRID = [array.ravel() for array in np.meshgrid(LOCATIONS, SCALES)]
FAMILIES = {
    "normal": (truncated.normal_log_density, truncated.normal_quantile, stats.norm),
    "student_t": (truncated.student_t_log_density, truncated.student_t_quantile, stats.t(4)),
}
LOG_DENSITY = {name: jax.jit(family[0]) for name, family in FAMILIES.items()}
QUANTILE = {name: jax.jit(family[1]) for name, family in FAMILIES.items()}


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


def test_the_density_integrates_to_one_wherever_location_and_scale_are(name):
    location, scale = GRID
    # Panels that halve towards the mode and its decay length, which is at a wall or inside.
    mode = np.clip(location, 0.0, 1.0)
    ladder = np.concatenate([[0.0], np.geomspace(1e-14, 1.0, 200)])
    edges = np.concatenate([mode[None] - ladder[::-1, None], mode[None] + ladder[1:, None]])
    edges = np.clip(edges, 0.0, 1.0)
    nodes, weights = np.polynomial.legendre.leggauss(10)
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    y = middle[..., None] + half[..., None] * nodes
    density = np.exp(LOG_DENSITY[name](*np.broadcast_arrays(location[:, None], scale[:, None], y)))
    error = np.abs((density * weights * half[..., None]).sum(axis=(0, 2)) - 1.0)
    # Floats next to 1 are too coarse for a density that falls by e within 1e-12.
    assert error[np.abs(location) < 100.0].max() < 1e-8
    assert error.max() < 1e-5


def test_the_density_is_that_of_scipy_where_scipy_can_hold_the_mass(name):
    location, scale = (array[(np.abs(GRID[0] - 0.5) <= 1.0) & (GRID[1] >= 0.3)] for array in GRID)
    family = FAMILIES[name][2]
    mass = family.cdf((1 - location) / scale) - family.cdf(-location / scale)
    y = np.linspace(0.0, 1.0, 7)[:, None]
    expected = family.logpdf((y - location) / scale) - np.log(scale) - np.log(mass)
    result = LOG_DENSITY[name](*np.broadcast_arrays(location, scale, y))
    np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-10)


def test_quantiles_invert_the_integral_of_the_density(name):
    location, scale = GRID
    u = np.array([1e-3, 0.01, 0.3, 0.5, 0.9, 0.999])[:, None]
    location, scale, u = np.broadcast_arrays(location, scale, u)
    y = np.asarray(QUANTILE[name](location, scale, u))
    assert np.all((y >= 0.0) & (y <= 1.0))
    # dy/du is one over the density at y.
    step = 1e-5 * np.minimum(u, 1 - u)
    rise = (QUANTILE[name](location, scale, u + step) - QUANTILE[name](location, scale, u - step)) / (2 * step)
    is_resolved = rise * step > 1e-10  # differences of numbers below 1 keep six digits then
    slope = np.exp(-LOG_DENSITY[name](location, scale, y))
    error = np.where(is_resolved, np.abs(rise / slope - 1.0), 0.0)
    assert is_resolved.mean() > 0.2
    assert error[np.abs(location) < 100.0].max() < 1e-3
    assert error.max() < 1e-2  # of locations with ten digits less than the box
    for end in (0.0, 1.0):
        y = np.asarray(QUANTILE[name](location, scale, np.full_like(u, end)))
        assert np.all((y >= 0.0) & (y <= 1.0))


def test_draws_are_distributed_as_scipy_has_it(name):
    family = FAMILIES[name][2]
    for seed, (location, scale) in enumerate([(0.3, 0.1), (-0.2, 0.15), (1.4, 0.5), (-3.0, 0.4), (0.5, 30.0)]):
        u = np.asarray(jax.random.uniform(jax.random.key(seed), (20_000,)))
        y = np.asarray(QUANTILE[name](*np.broadcast_arrays(location, scale, u)))
        # On the side on which the walls are in the lower tail SciPy keeps the digits.
        sign = -1.0 if location < 0.5 else 1.0
        low, high = sorted([sign * (0.0 - location) / scale, sign * (1.0 - location) / scale])

        def cdf(t, low=low, high=high):
            return (family.cdf(t) - family.cdf(low)) / (family.cdf(high) - family.cdf(low))

        # A test at the level of five standard errors of a normal statistic.
        assert stats.kstest(sign * (y - location) / scale, cdf).pvalue > 2 * stats.norm.sf(5.0)
        wrong = stats.kstest(sign * (y**1.1 - location) / scale, cdf).pvalue
        assert wrong < 2 * stats.norm.sf(5.0)


def test_the_distribution_function_of_student_t_is_that_of_scipy():
    t = np.concatenate([-np.geomspace(1e-3, 1e8, 60), [0.0], np.geomspace(1e-3, 1e8, 60)])
    np.testing.assert_allclose(truncated.student_t_cdf(jnp.asarray(t)), stats.t(4).cdf(t), rtol=1e-12)


def test_the_quantile_of_student_t_is_that_of_scipy():
    # A scale so small that the walls are nowhere near.
    u = np.linspace(0.01, 0.99, 50)
    scale = np.full(50, 1e-6)
    y = np.asarray(QUANTILE["student_t"](np.full(50, 0.4), scale, u))
    np.testing.assert_allclose((y - 0.4) / scale, stats.t(4).ppf(u), rtol=1e-8)


def test_gradients_are_finite_and_right_at_the_walls_and_far_away(name):
    location, scale = GRID
    y = np.array([0.0, 1e-300, 0.5, 1.0 - 1e-16, 1.0])[:, None]
    location, scale, y = np.broadcast_arrays(location, scale, y)
    log_density = FAMILIES[name][0]
    gradient = jax.jit(jax.grad(lambda *arguments: log_density(*arguments).sum(), argnums=(0, 1, 2)))
    for derivative in gradient(location, scale, y):
        assert np.isfinite(derivative).all()
    near = np.abs(location - 0.5) <= 1.5
    step = 1e-6 * scale
    for position, derivative in enumerate(gradient(location, scale, np.full_like(y, 0.25))):
        arguments = [location, scale, np.full_like(y, 0.25)]
        above, below = list(arguments), list(arguments)
        above[position], below[position] = above[position] + step, below[position] - step
        numeric = (LOG_DENSITY[name](*above) - LOG_DENSITY[name](*below)) / (2 * step)
        error = np.abs(numeric - derivative) / (np.abs(derivative) + 1e-2 / scale)
        assert error[near].max() < 1e-5


def test_quadrature_sees_a_density_without_its_normaliser():
    def untruncated(y):
        return stats.norm.pdf((y - 0.1) / 0.2) / 0.2

    assert abs(integrate.quad(untruncated, 0, 1)[0] - 1.0) > 0.1
