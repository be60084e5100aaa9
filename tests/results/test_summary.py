import arviz as az
import numpy as np
import pytest
from scipy import optimize, stats

from kinbayes.results import store, summary
from tests.results.runs import CHAINS, EVEN, run, shuffled


def shortest(quantile, prob):
    """Return the shortest interval of a distribution from its quantile function."""
    best = optimize.minimize_scalar(
        lambda p: quantile(p + prob) - quantile(p), bounds=(1e-9, 1 - prob - 1e-9), method="bounded"
    )
    return quantile(best.x), quantile(best.x + prob)


@pytest.mark.parametrize("kind", ["eti", "hdi"])
def test_interval_of_a_normal(kind):
    found = summary.credible_intervals(run({"k": shuffled(stats.norm(3, 2).ppf(EVEN))}), 0.9, kind).loc["k"]
    expected = [3, *stats.norm(3, 2).interval(0.9)]
    np.testing.assert_allclose(found[["median", "lower", "upper"]].astype(float), expected, atol=0.02)


@pytest.mark.parametrize(("on", "transform"), [("natural", lambda x: x), ("scaled", np.log10)])
def test_highest_density_of_a_gamma_depends_on_the_scale(on, transform):
    gamma = stats.gamma(2.0)
    found = summary.credible_intervals(run({"k": shuffled(gamma.ppf(EVEN))}, ("log10",)), 0.9, "hdi", on).loc["k"]
    low, high = shortest(lambda p: transform(gamma.ppf(p)), 0.9)
    assert found["interval_on"] == ("lin" if on == "natural" else "log10")
    width = transform(found["upper"]) - transform(found["lower"])
    assert width == pytest.approx(high - low, rel=2e-3)
    # The end of the other scale is far off, so that this can fail.
    assert transform(found["lower"]) == pytest.approx(low, abs=0.03)
    other = shortest((lambda p: np.log10(gamma.ppf(p))) if on == "natural" else gamma.ppf, 0.9)[0]
    assert abs(transform(found["lower"]) - transform(10**other if on == "natural" else other)) > 0.1


@pytest.mark.parametrize("scale", ["ln", "log10"])
def test_equal_tails_are_the_same_on_both_scales(scale):
    idata = run({"k": shuffled(stats.lognorm(1.0).ppf(EVEN))}, (scale,))
    scaled, natural = (summary.credible_intervals(idata, on=on).loc["k"] for on in ("scaled", "natural"))
    for column in ("median", "lower", "upper"):
        assert scaled[column] == pytest.approx(natural[column], rel=1e-4)
    assert scaled["upper"] == pytest.approx(stats.lognorm(1.0).ppf(0.975), rel=0.01)
    assert (scaled["interval_on"], natural["interval_on"]) == (scale, "lin")


def test_intervals_say_what_they_are():
    found = summary.credible_intervals(run({"k": shuffled(EVEN)}), 0.8, "hdi", "natural")
    assert found.attrs == {"prob": 0.8, "kind": "hdi", "on": "natural"}
    assert found.loc["k", "unit"] == "1/s"


def test_diagnostics_are_those_of_arviz_on_the_scale():
    draws = np.exp(np.cumsum(np.random.default_rng(1).normal(size=(CHAINS, 200)), axis=1) / 10)
    found = summary.diagnostics(run({"k": draws}, ("log10",))).loc["k"]
    assert found["r_hat"] == pytest.approx(float(az.rhat(np.log10(draws), method="rank")), rel=1e-12)
    assert found["ess_bulk"] == pytest.approx(float(az.ess(np.log10(draws), method="bulk")), rel=1e-9)
    assert found["ess_tail"] == pytest.approx(float(az.ess(np.log10(draws), method="tail")), rel=1e-9)
    assert found["r_hat"] > 1.1  # such a walk has not converged


def test_constant_and_not_finite_draws_have_clear_results():
    good = shuffled(EVEN)
    draws = {
        "constant": np.full_like(good, 2.0),
        "nan": good * np.nan,
        "zero": np.where(good < 0.5, 0.0, good),
    }
    idata = run(draws, ("log10",) * 3)
    for kind in ("eti", "hdi"):
        found = summary.table(idata, kind=kind)
        values = found[["median", "lower", "upper"]].to_numpy(float)
        np.testing.assert_allclose(values[0], 2.0, rtol=1e-12)
        assert np.isnan(values[1:]).all()  # zero is not finite on a logarithmic scale
        assert found[["r_hat", "ess_bulk", "ess_tail"]].isna().all(axis=None)
    assert [len(part) for name in draws for part in summary.marginal_density(idata, name)] == [0] * 6


def test_table_joins_intervals_and_diagnostics():
    found = summary.table(run({"k": shuffled(EVEN)}), 0.5)
    expected = ["median", "lower", "upper", "unit", "interval_on", "r_hat", "ess_bulk", "ess_tail"]
    assert list(found.columns) == expected
    assert found.attrs["prob"] == 0.5
    assert found.loc["k", "upper"] - found.loc["k", "lower"] == pytest.approx(0.5, abs=1e-3)


def test_replicates_share_a_predictive_interval():
    predictive = np.stack([shuffled(EVEN), shuffled(10 + EVEN), shuffled(1 + EVEN)], axis=-1)
    found = summary.predictive_intervals(run({"k": shuffled(EVEN)}, predictive=predictive), 0.9)
    assert found["time"].tolist() == [1.0, 2.0]
    np.testing.assert_allclose(found[["lower", "median", "upper"]], [[10.05, 10.5, 10.95], [0.1, 1, 1.9]], atol=1e-3)
    table = summary.measurements(run({"k": shuffled(EVEN)}))
    assert table["measurement"].tolist() == [1.0, 2.0, 3.0]


def test_bands_leave_failed_simulations_out_and_say_so():
    values = np.stack([shuffled(EVEN).ravel(), 10 * shuffled(EVEN).ravel()], axis=-1)
    values = np.concatenate([values, np.full((3, 2), np.nan)])
    idata = store.prediction_data(
        np.array([0.0, 5.0]),
        states={},
        observables={"y": values, "z": values * np.nan},
        predictions={"y": values},
        time_unit="",
        attrs={},
    )
    found = summary.bands(idata.observables, 0.9)
    assert found.index.tolist() == ["y", "y", "z", "z"]
    assert found["time"].tolist() == [0.0, 5.0] * 2
    numbers = found.loc["y", ["lower", "median", "upper"]]
    np.testing.assert_allclose(numbers, [[0.05, 0.5, 0.95], [0.5, 5, 9.5]], rtol=3e-3)
    assert found["failed"].tolist() == [3, 3, len(values), len(values)]
    assert found.loc["z", "median"].isna().all()


@pytest.mark.parametrize(("on", "scale"), [("scaled", np.log10), ("natural", np.asarray)])
def test_marginal_density_integrates_to_one_on_its_scale(on, scale):
    idata = run({"k": shuffled(stats.lognorm(0.5).ppf(EVEN))}, ("log10",))
    values, density = summary.marginal_density(idata, "k", on=on)
    assert np.trapezoid(density, scale(values)) == pytest.approx(1, abs=0.01)
    exact = stats.norm(0, 0.5 / np.log(10)).pdf if on == "scaled" else stats.lognorm(0.5).pdf
    expected = exact(scale(values))
    assert np.abs(density - expected).max() < 0.05 * expected.max()


def test_wrong_settings_are_refused():
    idata = run({"k": shuffled(EVEN)})
    with pytest.raises(ValueError, match="between 0 and 1"):
        summary.credible_intervals(idata, 95.0)
    with pytest.raises(ValueError, match="no group 'posterior'"):
        summary.diagnostics(az.InferenceData(map_estimate=idata.posterior))
