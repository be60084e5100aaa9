import warnings

import arviz as az
import numpy as np
import pytest
from scipy import stats

from kinbayes.results import store
from kinbayes.results.attributes import encode
from kinbayes.results.comparison import compare_models
from kinbayes.results.prediction_score import loo
from tests.results.runs import CHAINS, run

DRAWS = 500
VALUES = np.random.default_rng(8).normal(size=12)
OBSERVABLES, EXPERIMENTS = ("y", "z") * 6, ("a", "a", "b") * 4
BETA = np.array([0.0, 0.3, 1.0])


def stored(noise, *, seed=1, order=None, values=VALUES, tempered=False, times=None, observables=OBSERVABLES):
    """Store a run of a model in which all measurements have one mean and the noise given."""
    order = np.arange(len(values)) if order is None else order
    times = np.arange(12.0) if times is None else times
    measurements = store.MeasurementTable(
        [observables[k] for k in order], [EXPERIMENTS[k] for k in order], times[order], values[order]
    )
    rng = np.random.default_rng(seed)
    mean = values.mean() + noise * rng.normal(size=(CHAINS, DRAWS)) / np.sqrt(12)
    log_likelihood = stats.norm(mean[..., None], noise).logpdf(values[order])
    statistics = {}
    if tempered:
        likelihoods = log_likelihood.sum(axis=-1)[..., None] + rng.normal(size=(CHAINS, DRAWS, 3))
        statistics = {"beta": np.broadcast_to(BETA, likelihoods.shape), "rung_log_likelihood": likelihoods}
    return run({"mean": mean}, statistics=statistics, measurements=measurements, log_likelihood=log_likelihood)


def test_the_better_model_stands_first():
    found = compare_models({"wide": stored(3.0), "right": stored(1.0), "narrow": stored(0.5)})
    assert found.index[0] == "right"
    assert found["elpd_loo"].is_monotonic_decreasing
    assert found["weight"].sum() == pytest.approx(1.0, abs=1e-6)
    assert found["converged"].all()
    assert found["log_bayes_factor"].isna().all()
    assert "one at a time" in found.attrs["caveats"][0]


def test_numbers_are_those_of_arviz_where_there_is_one_observable():
    idatas = {"a": stored(1.0, observables=("y",) * 12), "b": stored(2.0, seed=2, observables=("y",) * 12)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what pandas says of ArviZ
        expected = az.compare(idatas, ic="loo", method="stacking")
    found = compare_models(idatas)
    assert found.index.tolist() == expected.index.tolist()
    for ours, theirs in {
        "se": "se",
        "elpd_loo": "elpd_loo",
        "p_loo": "p_loo",
        "se_diff": "dse",
        "elpd_diff": "elpd_diff",
    }.items():
        np.testing.assert_allclose(found[ours], expected[theirs], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found["weight"], expected["weight"], atol=1e-4)  # found by an optimizer


def test_the_difference_pairs_measurements():
    idatas = {"a": stored(1.0), "b": stored(2.0, seed=2)}
    found = compare_models(idatas)
    first, second = (loo(idata).pointwise["elpd"].to_numpy() for idata in idatas.values())
    assert found.loc["b", "elpd_diff"] == pytest.approx((first - second).sum(), rel=1e-9)
    assert found.loc["b", "se_diff"] == pytest.approx(np.sqrt(12) * (first - second).std(), rel=1e-9)
    assert found.loc["a", "elpd_diff"] == found.loc["a", "se_diff"] == 0.0


def test_the_order_of_the_measurements_does_not_matter():
    order = np.random.default_rng(0).permutation(12)
    there, again = (compare_models({"a": stored(1.0), "b": stored(2.0, order=o)}) for o in (None, order))
    np.testing.assert_allclose(there.drop(columns="converged"), again.drop(columns="converged"), rtol=1e-6)
    assert there.loc["b", "se_diff"] > 0


def test_measurements_that_no_model_explains_do_not_spoil_the_weights():
    values = np.where(np.arange(12) == 3, 60.0, VALUES)  # densities of exp(-1800), which is 0 in floating point
    idatas = {"a": stored(1.0, values=values), "b": stored(1.0, seed=2, values=values)}
    found = compare_models(idatas)
    assert found["weight"].sum() == pytest.approx(1.0, abs=1e-6)
    assert (found["num_high_k"] >= 1).all()
    assert any(caveat.startswith("a: k-hat is above 0.7") for caveat in found.attrs["caveats"])


def test_evidence_stands_beside_predictions_where_runs_are_tempered():
    idatas = {"a": stored(1.0, tempered=True), "b": stored(3.0, tempered=True)}
    idatas["b"].attrs |= encode({"assumed_priors": ["mean"], "converged": False})
    found = compare_models(idatas)
    assert found.loc["a", "log_bayes_factor"] == 0.0
    factor = found.loc["b", "log_evidence"] - found.loc["a", "log_evidence"]
    assert found.loc["b", "log_bayes_factor"] == pytest.approx(factor)
    assert (found["log_evidence_error"] > 0).all()
    assert found["num_assumed_priors"].tolist() == [0, 1]
    assert found["converged"].tolist() == [True, False]
    caveats = found.attrs["caveats"]
    assert any("b: the run has not converged" in caveat for caveat in caveats)
    assert any("priors were assumed in b" in caveat for caveat in caveats)
    mixed = compare_models({"a": idatas["a"], "b": stored(3.0)})
    assert mixed["log_bayes_factor"].isna().all()
    assert mixed["log_evidence"].notna().tolist() == [True, False]


def test_models_that_predict_alike_are_said_to():
    found = compare_models({"a": stored(1.0), "b": stored(1.0, seed=2)})
    assert any("cannot be told from" in caveat for caveat in found.attrs["caveats"])
    found = compare_models({"a": stored(1.0), "b": stored(20.0)})
    assert not any("cannot be told from" in caveat for caveat in found.attrs["caveats"])


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"values": np.where(np.arange(12) == 5, 9.0, VALUES)}, "measurement differs in"),
        ({"times": np.arange(12.0) + 0.5}, "time differs in 12 rows"),
        ({"observables": ("y", "x") * 6}, r"observables \['x', 'z'\]"),
        ({"order": np.arange(11)}, "there are 12 and 11"),
        ({"order": np.arange(2)}, r"experiments \['b'\]"),
    ],
)
def test_models_of_different_measurements_are_refused(other, words):
    with pytest.raises(ValueError, match=f"'a' and 'b' are models of different measurements: .*{words}"):
        compare_models({"a": stored(1.0), "b": stored(1.0, **other)})


def test_one_model_is_no_comparison():
    with pytest.raises(ValueError, match="1 models"):
        compare_models({"a": stored(1.0)})
