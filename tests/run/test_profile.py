"""Profiles, against closed forms."""

import numpy as np
import pytest
from scipy import optimize, stats

import kinbayes as kb
from kinbayes.results.attributes import attributes
from kinbayes.results.profile_interval import chi_square_drop, profile_intervals
from kinbayes.results.store import save
from kinbayes.run.loop.pieces import search
from tests.run.modes import made, mode_at

# The closed form of models/conversion_reaction.
MEAN, SD, CORRELATION = np.array([9.976119, 0.912122]), np.array([0.305150, 0.284928]), -0.687575


@pytest.fixture(scope="module")
def conversion():
    return kb.read_petab(kb.example("conversion_reaction"))


@pytest.fixture(scope="module")
def profiles(conversion):
    return kb.profile(conversion, mode_at(conversion, A_0=MEAN[0], B_0=MEAN[1]))


def known(profiles, name):
    own = profiles.profile.sel(parameter=name)
    return own.isel(point=np.isfinite(own.value.values))


def test_the_drop_is_half_a_quantile_of_chi_square():
    assert chi_square_drop(0.95) == pytest.approx(1.920729)
    assert chi_square_drop(0.99) == pytest.approx(stats.norm.ppf(0.995) ** 2 / 2)
    with pytest.raises(ValueError, match="prob is 1"):
        chi_square_drop(1.0)


def test_the_profile_of_a_normal_posterior_is_its_marginal(profiles):
    for k, name in enumerate(("A_0", "B_0")):
        own = known(profiles, name)
        z = (own.value.values - MEAN[k]) / SD[k]
        np.testing.assert_allclose(own.log_density - float(own.log_density.max()), -(z**2) / 2, atol=1e-3)
        other = MEAN[1 - k] + CORRELATION * SD[1 - k] * z
        np.testing.assert_allclose(own.position[:, 1 - k], other, atol=0.02 * SD[1 - k])
        assert own.converged.all()
        assert np.abs(np.diff(z)).max() < 0.5, "points lie close"
        assert z[0] < -stats.norm.ppf(0.995) < stats.norm.ppf(0.995) < z[-1]


def test_intervals_of_a_normal_posterior_are_exact(profiles):
    for prob in (0.5, 0.95, 0.99):
        found = profile_intervals(profiles, prob)
        half = stats.norm.ppf((1 + prob) / 2) * SD
        np.testing.assert_allclose(found[["lower", "upper"]], np.stack([MEAN - half, MEAN + half], axis=1), atol=2e-3)
        assert (found[["below", "above"]] == "data").all(axis=None)
    np.testing.assert_allclose(profiles.profile.lower, MEAN - stats.norm.ppf(0.975) * SD, atol=2e-3)
    assert not profiles.profile.open_below.any()
    with pytest.raises(ValueError, match=r"made for a drop of 3\.32"):
        profile_intervals(profiles, 0.999)


def test_a_curved_profile_ends_where_its_density_does():
    problem = made([kb.Parameter("k", kb.LogUniform(0.01, 100.0))], ["sqrt(k)"], [1.0], [0.3])
    found = kb.profile(problem, mode_at(problem, k=1.0))
    drop = chi_square_drop(0.95)
    ends = [(1 - 0.3 * np.sqrt(2 * drop)) ** 2, (1 + 0.3 * np.sqrt(2 * drop)) ** 2]
    np.testing.assert_allclose([found.profile.lower[0], found.profile.upper[0]], ends, rtol=5e-3)


def test_flat_directions_end_at_walls_soon():
    parameters = [kb.Parameter(name, kb.LogUniform(1e-3, 1e3)) for name in ("k1", "k2")]
    problem = made(parameters, ["k1 * k2"], [1.0], [0.1])
    found = kb.profile(problem, mode_at(problem, k1=1.0, k2=1.0))
    for name in ("k1", "k2"):
        own = known(found, name)
        assert own.value.size <= 17
        assert (float(own.value[0]), float(own.value[-1])) == pytest.approx((1e-3, 1e3))
        np.testing.assert_allclose(own.log_density, float(own.log_density.max()), atol=1e-3)
        np.testing.assert_allclose(own.position[:, 0] * own.position[:, 1], 1.0, atol=0.01)
        assert (str(own.below.values), str(own.above.values)) == ("wall", "wall")
        assert (bool(own.open_below), bool(own.open_above)) == (True, True)
        assert np.isnan([own.lower, own.upper]).all()


def test_a_plateau_is_open_on_its_side():
    problem = made([kb.Parameter("k", kb.LogUniform(1e-3, 1e3))], ["k / (1 + k)"], [1.0], [0.1])
    found = known(kb.profile(problem, mode_at(problem, k=999.9)), "k")
    fraction = 1 - 0.1 * np.sqrt(2 * chi_square_drop(0.95))
    assert float(found.lower) == pytest.approx(fraction / (1 - fraction), rel=0.01)
    assert (str(found.below.values), str(found.above.values)) == ("data", "wall")


def test_what_only_a_prior_ends_is_said_so():
    parameters = [kb.Parameter(name, kb.Normal(0.0, 1.0)) for name in ("k", "h")]
    found = kb.profile(
        made(parameters, ["k"], [0.0], [0.1]), mode_at(made(parameters, ["k"], [0.0], [0.1]), k=0.0, h=0.0)
    )
    assert found.profile.below.values.tolist() == ["data", "prior"]
    assert float(found.profile.upper[1]) == pytest.approx(1.96, abs=1e-3)


def test_a_better_mode_is_told_of():
    problem = made([kb.Parameter("k", kb.Normal(0.5, 1.0), lower=-3.0, upper=3.0)], ["k^2"], [1.0], [0.5])
    lower, higher = (
        optimize.minimize_scalar(lambda k: (k**2 - 1) ** 2 / 0.5 + (k - 0.5) ** 2 / 2, bounds=ends, method="bounded").x
        for ends in ((-3, 0), (0, 3))
    )
    found = kb.profile(problem, mode_at(problem, k=lower))
    better = attributes(found)["better_mode"]
    assert better["log_density"] == pytest.approx(float(problem.log_density(np.array([higher]))), abs=0.05)
    assert better["estimates"]["k"] == pytest.approx(higher, abs=0.1)
    assert "better_mode" not in attributes(kb.profile(problem, mode_at(problem, k=higher)))


def test_nothing_is_compiled_again(conversion, profiles):
    before = search._cache_size()
    kb.profile(conversion, mode_at(conversion, A_0=MEAN[0] + 0.01, B_0=MEAN[1]))
    assert search._cache_size() == before


def test_parameters_may_be_chosen(conversion):
    found = kb.profile(conversion, mode_at(conversion, A_0=MEAN[0], B_0=MEAN[1]), parameters=["B_0"], num_points=5)
    assert found.profile.parameter.values.tolist() == ["B_0"]
    assert found.profile.position.shape[2] == 2


def test_it_can_be_stored(profiles, tmp_path):
    again = kb.load(save(profiles, tmp_path / "profile.nc"))
    assert profile_intervals(again).equals(profile_intervals(profiles))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parameters": ["C_0"]}, r"unknown parameters \['C_0'\]"),
        ({"num_points": 1}, "at least 2"),
        ({"drop": 1.0}, "drop is 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(conversion, settings, message):
    with pytest.raises(ValueError, match=message):
        kb.profile(conversion, mode_at(conversion, A_0=MEAN[0], B_0=MEAN[1]), **settings)
