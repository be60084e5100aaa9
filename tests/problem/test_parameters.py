"""Parameters: what is refused, and the maps between natural, scaled and unconstrained values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinbayes.problem import parameters as maps
from kinbayes.problem.log_prior import forms, prior_data, prior_function
from kinbayes.problem.parameters import Box, Parameter, ParameterError
from kinbayes.problem.priors import LogNormal, LogUniform, Normal, Uniform

INF = math.inf
WALLS = {"both": (-2.0, 3.5), "lower": (-2.0, INF), "upper": (-INF, 3.5), "none": (-INF, INF)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": "log10", "lower": 0.0, "upper": 1.0}, "its lower bound is 0.0; give a bound > 0"),
        ({"scale": "ln", "lower": -1.0, "upper": 1.0}, "its lower bound is -1.0"),
        ({"lower": 2.0, "upper": 1.0}, "the lower bound 2.0 is not below the upper bound 1.0"),
        ({"lower": 1.0, "upper": 1.0}, "is not below"),
        ({"prior": Uniform(0.0, 1.0), "lower": 2.0}, "bounds and the prior's support together"),
        ({"prior": Normal(0.0, 1.0), "lower": 60.0, "upper": 70.0}, "no mass between the bounds"),
        ({"estimate": False}, "needs a nominal value"),
        ({"estimate": False, "nominal": math.nan}, "needs a nominal value"),
    ],
)
def test_parameters_that_contradict_themselves_are_refused(arguments, message):
    with pytest.raises(ParameterError, match=message) as caught:
        Parameter("k", **arguments)
    assert "'k'" in str(caught.value)


def test_an_unknown_scale_is_refused():
    with pytest.raises((ParameterError, TypeError), match="scale"):  # the annotation's check comes first
        Parameter("k", scale="log")


def test_priors_of_positive_quantities_move_on_log10():
    assert Parameter("k", LogNormal(0.0, 1.0)).scale == "log10"
    assert Parameter("k", LogUniform(1.0, 2.0)).scale == "log10"
    assert Parameter("k", LogNormal(0.0, 1.0), scale="lin").scale == "lin"
    assert Parameter("k", Normal(0.0, 1.0)).scale == "lin"
    assert Parameter("k").scale == "lin"


def test_bounds_are_those_of_parameter_prior_and_scale_together():
    assert Parameter("k", Uniform(1.0, 5.0), lower=0.0, upper=3.0).bounds == (1, 3)
    assert Parameter("k", Normal(0.0, 1.0), scale="log10").bounds == (0, INF)
    assert Parameter("k", Normal(0.0, 1.0), scale="log10").scaled_bounds == (-INF, INF)
    assert Parameter("k", Normal(0.0, 1.0), scale="log10", upper=100.0).scaled_bounds == (-INF, 2)
    scaled = Parameter("k", Uniform(-1.0, 2.0, on="scaled"), scale="log10", lower=1.0)
    np.testing.assert_allclose(scaled.bounds, (1, 100))
    np.testing.assert_allclose(scaled.prior_bounds, (0, 2))


def test_without_a_prior_finite_bounds_imply_one():
    assumed = Parameter("k", scale="log10", lower=0.1, upper=1000.0)
    assert assumed.is_assumed
    assert assumed.is_proper
    np.testing.assert_allclose(assumed.effective_prior.settings, (-1, 3))
    assert not Parameter("k", Uniform(0.0, 1.0)).is_assumed


@pytest.mark.parametrize("bounds", [{}, {"lower": 1.0}, {"upper": 1.0}])
def test_without_a_prior_an_open_bound_is_improper(bounds):
    parameter = Parameter("k", **bounds)
    assert not parameter.is_proper
    assert parameter.effective_prior is None
    function, data = prior_function(forms([parameter])), prior_data([parameter])
    assert float(function(jnp.array([1.0]), data)) == 0
    with pytest.raises(ParameterError, match="'k' has no proper prior to draw from"):
        maps.draw([parameter], np.random.default_rng(0), 3)


# ---- natural and scaled


@settings(max_examples=50, deadline=None)
@given(st.floats(-20, 20), st.sampled_from(maps.SCALES))
def test_natural_and_scaled_are_inverse(u, scale):
    theta = maps.natural(np.array([u]), (scale,))
    np.testing.assert_allclose(maps.scaled(theta, (scale,)), [u], rtol=1e-12, atol=1e-12)


def test_natural_values_are_powers():
    u = np.array([[0.5, 0.5, 0.5], [-3.0, -3.0, -3.0]])
    expected = np.stack([u[:, 0], np.exp(u[:, 1]), 10 ** u[:, 2]], axis=-1)
    np.testing.assert_allclose(maps.natural(u, maps.SCALES), expected, rtol=1e-14)
    np.testing.assert_allclose(jax.vmap(lambda v: maps.jax_natural(v, maps.SCALES))(u), expected, rtol=1e-14)


def test_a_linear_parameter_may_be_huge():
    # The power that belongs to the other scales must not spoil value or slope.
    value, slope = jax.value_and_grad(lambda v: maps.jax_natural(v, ("lin",))[0])(jnp.array([1e6]))
    assert value == 1e6
    assert slope[0] == 1


# ---- scaled and unconstrained


@pytest.mark.parametrize("walls", WALLS.values(), ids=WALLS)
@settings(max_examples=30, deadline=None)
@given(x=st.floats(-8, 8))
def test_constrain_and_unconstrain_are_inverse(walls, x):
    box = Box(jnp.array([walls[0]]), jnp.array([walls[1]]))
    u, _ = maps.constrain(box, jnp.array([x]))
    assert walls[0] <= u[0] <= walls[1]
    np.testing.assert_allclose(maps.unconstrain(box, u), [x], rtol=1e-9, atol=1e-9)


def test_log_slope_is_the_logarithm_of_the_jacobian():
    lower, upper = map(jnp.array, zip(*WALLS.values(), strict=True))
    box = Box(lower, upper)
    for x in np.random.default_rng(3).normal(0, 2, (5, len(WALLS))):
        jacobian = jax.jacfwd(lambda v: maps.constrain(box, v)[0])(jnp.asarray(x))
        np.testing.assert_allclose(jacobian, np.diag(np.diag(jacobian)))
        expected = np.log(np.abs(np.diag(jacobian))).sum()
        assert float(maps.constrain(box, jnp.asarray(x))[1]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("walls", WALLS.values(), ids=WALLS)
@pytest.mark.parametrize("x", [-800.0, 800.0])
def test_far_out_slopes_are_no_nan(walls, x):
    box = Box(jnp.array([walls[0]]), jnp.array([walls[1]]))
    jacobian = jax.jacfwd(lambda v: maps.constrain(box, v))(jnp.array([x]))
    assert not any(jnp.any(jnp.isnan(part)) for part in jacobian)


def test_the_prior_in_unconstrained_space_integrates_to_one():
    parameter = Parameter("k", Normal(1.0, 0.7), scale="log10", lower=0.1, upper=10.0)
    function, data = prior_function(forms([parameter])), prior_data([parameter])
    box = Box(data.lower, data.upper)

    def log_density(x):
        u, log_slope = maps.constrain(box, x[None])
        return function(u, data) + log_slope

    x = np.linspace(-40, 40, 4001)
    density = np.exp(jax.vmap(log_density)(jnp.asarray(x)))
    assert np.trapezoid(density, x) == pytest.approx(1, abs=1e-9)


# ---- the measure


def densities_at(theta, prior, scale, bounds):
    parameter = Parameter("k", prior, scale=scale, lower=bounds[0], upper=bounds[1])
    function, data = prior_function(forms([parameter])), prior_data([parameter])
    u = maps.scaled(theta[:, None], (scale,))
    return np.asarray(jax.vmap(function, in_axes=(0, None))(jnp.asarray(u), data))


@pytest.mark.parametrize("scale", ["ln", "log10"])
@pytest.mark.parametrize("bounds", [(0.05, 4.0), (1e-12, None)], ids=["truncated", "positive"])
def test_a_prior_on_natural_values_does_not_depend_on_the_scale(scale, bounds):
    theta = np.array([0.06, 0.5, 1.0, 3.9])
    prior = Normal(1.0, 0.7)
    log_slope = np.log(theta) + math.log(maps.LOG_FACTORS[scale])  # log |dθ/du|
    moved = densities_at(theta, prior, scale, bounds) - log_slope
    np.testing.assert_allclose(moved, densities_at(theta, prior, "lin", bounds), rtol=1e-12, atol=1e-12)


def test_a_prior_on_the_scale_does_depend_on_it():
    theta, bounds = np.array([0.06, 0.5, 1.0, 3.9]), (0.05, 4.0)
    prior = Normal(1.0, 0.7, on="scaled")
    moved = densities_at(theta, prior, "log10", bounds) - np.log(theta * math.log(10))
    assert np.max(np.abs(moved - densities_at(theta, prior, "lin", bounds))) > 0.1


def test_no_vector_leaves_the_box():
    """Where the logistic curve is 1, lower + (upper - lower) may be rounded to more than the upper wall."""
    lower, upper = np.sort(np.random.default_rng(0).uniform(-5, 9, (2, 2000)), axis=0)
    assert np.any(lower + (upper - lower) > upper)  # the control: plain arithmetic leaves it
    for x in (-700.0, -40.0, 40.0, 700.0):
        u, log_slope = maps.constrain(maps.Box(jnp.asarray(lower), jnp.asarray(upper)), jnp.full(2000, x))
        assert np.all((u >= lower) & (u <= upper))
        assert np.isfinite(log_slope)
