"""Power-scaling of a normal mean, whose scaled posteriors are normal too."""

import numpy as np
import pytest
from scipy import integrate, stats

from kinbayes.results import store
from kinbayes.results.sensitivity import prior_sensitivity
from tests.results.runs import CHAINS, DRAWS, EVEN, run, shuffled

DELTA = 0.01  # of ArviZ


def posterior_of(prior_power, likelihood_power, *, prior_mean, measured, noise):
    precision = prior_power + likelihood_power / noise**2
    mean = (prior_power * prior_mean + likelihood_power * measured / noise**2) / precision
    return stats.norm(mean, 1 / np.sqrt(precision))


def stored(*, prior_mean, measured, noise, beside=None):
    """Store a run of a mean with a normal prior of width 1 and one measurement, drawn without chance."""
    draws = shuffled(posterior_of(1, 1, prior_mean=prior_mean, measured=measured, noise=noise).ppf(EVEN))
    return run(
        {"mean": draws, "beside": shuffled(stats.norm.ppf(EVEN), seed=9) if beside is None else beside},
        statistics={"log_prior": stats.norm(prior_mean, 1.0).logpdf(draws)},
        measurements=store.MeasurementTable(("y",), ("a",), np.array([1.0]), np.array([measured])),
        log_likelihood=stats.norm(draws, noise).logpdf(measured)[..., None],
    )


def distance(p, q, low, high):
    """The cumulative Jensen-Shannon distance of Kallioinen et al. (2024), by quadrature between two ends."""

    def part(P, Q):
        divergence = integrate.quad(lambda x: P(x) * np.log2(P(x) / (0.5 * (P(x) + Q(x)))), low, high, limit=200)[0]
        return divergence + 0.5 / np.log(2) * integrate.quad(lambda x: Q(x) - P(x), low, high, limit=200)[0]

    def one_way(P, Q):
        return (part(P, Q) + part(Q, P)) / integrate.quad(lambda x: P(x) + Q(x), low, high, limit=200)[0]

    return np.sqrt(max(one_way(p.cdf, q.cdf), one_way(p.sf, q.sf)))


CASES = {
    "possible conflict of prior and data": {"prior_mean": 0.0, "measured": 6.0, "noise": 1.0},
    "the data decide": {"prior_mean": 0.0, "measured": 0.2, "noise": 0.2},
    "strong prior or weak likelihood": {"prior_mean": 0.0, "measured": 0.2, "noise": 5.0},
}


@pytest.mark.parametrize(("verdict", "model"), CASES.items())
def test_sensitivities_are_those_of_the_scaled_posteriors(verdict, model):
    found = prior_sensitivity(stored(**model)).loc["mean"]
    exact = posterior_of(1, 1, **model)
    ends = exact.ppf(EVEN[0]), exact.ppf(EVEN[-1])
    for which, powers in (("prior", lambda a: (a, 1)), ("likelihood", lambda a: (1, a))):
        scaled = [posterior_of(*powers(power), **model) for power in (1 / (1 + DELTA), 1 + DELTA)]
        expected = sum(distance(exact, q, *ends) for q in scaled) / (2 * np.log2(1 + DELTA))
        assert found[which] == pytest.approx(expected, rel=0.005)
    assert found["verdict"] == verdict


def test_what_chance_makes_of_a_parameter_beside_is_no_sensitivity():
    rng = np.random.default_rng(4)
    seen = []
    for _ in range(20):
        found = prior_sensitivity(stored(**CASES["the data decide"], beside=rng.normal(size=(CHAINS, DRAWS))))
        seen.append(found.loc["beside", "likelihood"])
        assert found.loc["beside", "verdict"] == "neither prior nor data move it: look at its bounds"
    assert 0.6 < np.mean(seen) / found.attrs["chance_likelihood"] < 1.6
    assert found.attrs["threshold"] == 0.05


def test_few_draws_raise_what_counts():
    model, rng = CASES["the data decide"], np.random.default_rng(6)
    log_prior = 30 * rng.normal(size=(CHAINS, 20))  # many parameters, whose log priors scatter by 30
    mean = posterior_of(1, 1, **model).rvs(size=(CHAINS, 20), random_state=rng)
    idata = run({"mean": mean}, statistics={"log_prior": log_prior})
    found = prior_sensitivity(idata)
    assert found.loc["mean", "prior"] > 0.05  # by chance alone
    assert found.attrs["chance_prior"] > 0.5
    assert found.loc["mean", "verdict"] == "neither prior nor data move it: look at its bounds"


def test_flat_priors_are_said_to_have_no_more_than_bounds():
    idata = stored(**CASES["the data decide"])
    idata.sample_stats["log_prior"] = 0.0 * idata.sample_stats["log_prior"] - 3.0
    found = prior_sensitivity(idata)
    assert (found["verdict"] == "flat prior: only its bounds matter").all()
    assert (found["prior"] < 1e-3).all()
    assert found.loc["mean", "likelihood"] > 0.05


def test_parameters_are_taken_on_their_own_scale():
    model = CASES["the data decide"]
    idata = stored(**model)
    plain = prior_sensitivity(idata).loc["mean"]
    idata.posterior["mean"] = (10 ** idata.posterior["mean"]).assign_attrs(idata.posterior["mean"].attrs, scale="log10")
    scaled = prior_sensitivity(idata).loc["mean"]
    assert scaled["likelihood"] == pytest.approx(plain["likelihood"], rel=1e-6)


def test_draws_that_tell_nothing_are_unknown_and_runs_without_a_log_prior_refused():
    model = CASES["the data decide"]
    found = prior_sensitivity(stored(**model, beside=np.ones((CHAINS, DRAWS))))
    assert found.loc["beside", "verdict"].startswith("unknown")
    assert np.isnan(found.loc["beside", "prior"])
    assert found.loc["mean", "verdict"] == "the data decide"
    idata = stored(**model)
    idata.sample_stats["log_prior"][0, 3] = -np.inf
    with pytest.raises(ValueError, match="1 draws is not finite"):
        prior_sensitivity(idata)
    del idata.sample_stats["log_prior"]
    with pytest.raises(ValueError, match="'log_prior'"):
        prior_sensitivity(idata)
    with pytest.raises(ValueError, match="8 or more"):
        prior_sensitivity(run({"k": np.zeros((2, 3))}))
