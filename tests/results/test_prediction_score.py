import arviz as az
import numpy as np
import pytest

from kinbayes.results import store
from kinbayes.results.prediction_score import loo, waic
from tests.results.runs import CHAINS, DRAWS, run

RNG = np.random.default_rng(7)
MEAN = RNG.normal(size=(CHAINS, DRAWS)) / 3  # draws of a mean that nine measurements of noise 1 tell
OBSERVABLES = ("y", "z", "y", "y", "z", "y", "z", "z", "y")
VALUES = np.array([0.1, -0.5, 1.0, -1.2, 0.4, 0.0, 0.9, -0.3, 0.6])


def stored(observables=OBSERVABLES, values=VALUES, *, failed=0, censoring=(), draws=DRAWS):
    measurements = store.MeasurementTable(
        observables, ("a",) * len(values), np.arange(float(len(values))), values, censoring=censoring
    )
    log_likelihood = -0.5 * (values - MEAN[:, :draws, None]) ** 2 - 0.5 * np.log(2 * np.pi)
    log_likelihood[0, :failed, 0] = np.nan
    return run({"mean": MEAN[:, :draws]}, measurements=measurements, log_likelihood=log_likelihood)


def test_the_score_of_one_observable_is_that_of_arviz():
    idata = stored(("y",) * 9)
    for ours, theirs, kind in ((loo, az.loo, "loo"), (waic, az.waic, "waic")):
        expected = theirs(idata, var_name="y", pointwise=True)
        found = ours(idata)
        assert found.elpd == pytest.approx(expected[f"elpd_{kind}"], rel=1e-12)
        assert found.se == pytest.approx(expected["se"], rel=1e-12)
        assert found.effective_parameters == pytest.approx(expected[f"p_{kind}"], rel=1e-9)
        np.testing.assert_allclose(found.pointwise["elpd"], expected[f"{kind}_i"], rtol=1e-12)
    np.testing.assert_allclose(loo(idata).pointwise["k_hat"], az.loo(idata, var_name="y", pointwise=True).pareto_k)


def test_leaving_one_out_is_exact_for_a_normal_mean():
    values = VALUES - VALUES.mean()  # flat prior: the posterior of the mean is N(0, 1/9), as drawn
    others = (values.sum() - values) / 8
    exact = -0.5 * (values - others) ** 2 / (1 + 1 / 8) - 0.5 * np.log(2 * np.pi * (1 + 1 / 8))
    found = loo(stored(values=values))
    shares = found.pointwise.set_index("time")["elpd"].sort_index().to_numpy()
    np.testing.assert_allclose(shares, exact, atol=0.02)
    assert found.elpd == pytest.approx(exact.sum(), abs=0.05)
    in_sample = -0.5 * values**2 / (1 + 1 / 9) - 0.5 * np.log(2 * np.pi * (1 + 1 / 9))
    assert found.elpd < in_sample.sum() - 0.4  # negative control: measurements that are not left out


def test_all_observables_count_and_keep_their_places():
    together, alone = loo(stored()), loo(stored(("y",) * 9))
    assert together.elpd == pytest.approx(alone.elpd, rel=1e-12)
    places = together.pointwise
    assert places["observable"].tolist() == ["y"] * 5 + ["z"] * 4
    assert places["measurement"].tolist() == [VALUES[int(time)] for time in places["time"]]
    by_time = places.set_index("time")["elpd"].sort_index()
    np.testing.assert_allclose(by_time, alone.pointwise["elpd"], rtol=1e-12)


def test_measurements_where_the_estimate_fails_are_named():
    fine = loo(stored())
    assert len(fine.caveats) == 1
    assert "one at a time" in fine.caveats[0]
    outlier = stored(values=np.where(np.arange(9) == 4, 40.0, VALUES))
    _, said = loo(outlier).caveats
    assert "k-hat is above 0.7 for 1 of 9 measurements (z in a at 4)" in said
    assert loo(outlier).pointwise.query("k_hat > 0.7")["time"].tolist() == [4.0]
    _, said = waic(outlier).caveats
    assert "1 of 9 measurements (z in a at 4): WAIC may fail" in said
    assert len(waic(stored()).caveats) == 1


def test_censored_measurements_are_counted():
    censored = stored(censoring=("", "below", *[""] * 7))
    assert any("1 of 9 measurements are censored" in caveat for caveat in loo(censored).caveats)
    assert any("1 of 9 measurements are censored" in caveat for caveat in waic(censored).caveats)


def test_runs_that_cannot_be_scored_are_refused():
    for score in (loo, waic):
        with pytest.raises(ValueError, match="7 of 4000 draws have no finite log density"):
            score(stored(failed=7))
        with pytest.raises(ValueError, match="5 draws"):
            score(stored(draws=5))
    with pytest.raises(ValueError, match="no group 'posterior'"):
        loo(az.InferenceData(log_likelihood=stored().log_likelihood))


def test_a_single_measurement_is_no_warning():
    assert loo(stored(("y",), VALUES[:1])).se == 0.0
