"""Sampling from files to results, against a posterior that is known in closed form."""

import functools

import arviz as az
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import kinbayes as kb
from kinbayes.problem.parameters import ParameterError
from kinbayes.results.attributes import attributes
from kinbayes.run.loop.background import run_chains
from kinbayes.run.loop.driver import run_sampler
from kinbayes.run.starts.chain_starts import StartError, chain_starts
from kinbayes.samplers import SAMPLERS

RATE_FORWARD, RATE_BACKWARD, SIGMA = 0.3, 0.1, 0.5
PRIOR_MEAN, PRIOR_SD = np.array([8.0, 3.0]), 4.0
NAMES = ("A_0", "B_0")
ALONE = sorted(SAMPLERS.keys() - {"amortized"})  # which need no proposal


@pytest.fixture(scope="module")
def problem():
    return kb.read_petab(kb.example("conversion_reaction"))


@pytest.fixture(scope="module")
def exact(problem):
    """The closed-form posterior of `models/conversion_reaction`: mean and covariance of (A_0, B_0)."""
    total = RATE_FORWARD + RATE_BACKWARD
    rows, values = [], []
    for m in problem.measurements:
        decay = np.exp(-total * m.time)
        a = np.array([RATE_BACKWARD + RATE_FORWARD * decay, RATE_BACKWARD * (1 - decay)]) / total
        rows.append(a if m.observable == "A_measured" else 1 - a)
        values.append(m.value)
    design = np.array(rows)
    covariance = np.linalg.inv(np.eye(2) / PRIOR_SD**2 + design.T @ design / SIGMA**2)
    return covariance @ (PRIOR_MEAN / PRIOR_SD**2 + design.T @ np.array(values) / SIGMA**2), covariance


def worst_deviation(idata, mean, covariance):
    """The largest deviation from a normal posterior, in standard errors from the effective sample size.

    Means, variances and the 5 % and 95 % quantiles of every parameter are compared.
    """
    found = []
    for k, name in enumerate(NAMES):
        draws, sd = idata.posterior[name].values, np.sqrt(covariance[k, k])
        for values, expected in ((draws, mean[k]), ((draws - mean[k]) ** 2, sd**2)):
            found.append((values.mean() - expected) / (values.std() / np.sqrt(az.ess(values, method="mean"))))
        for prob in (0.05, 0.95):
            exact = stats.norm(mean[k], sd)
            quantile, num = exact.ppf(prob), az.ess(draws, method="quantile", prob=prob)
            error = np.sqrt(prob * (1 - prob) / num) / exact.pdf(quantile)
            found.append((np.quantile(draws, prob) - quantile) / error)
    return np.max(np.abs(found))


@pytest.fixture(scope="module")
def nuts_run(problem):
    return kb.sample(problem, "nuts", draws=1500, warmup=500, seed=1, progress=False)


@pytest.fixture(scope="module")
def numpyro_run(problem):
    return kb.sample(problem, "nuts", draws=1500, warmup=500, seed=1, settings={"backend": "numpyro"}, progress=False)


@pytest.fixture(scope="module")
def every_run(problem):
    """One run of every sampler, made when it is first asked for."""

    @functools.cache
    def of(name):
        return kb.sample(problem, name, draws=2000, warmup=500, seed=2, progress=False)

    return of


def deviates_as_it_should(idata, mean, covariance):
    assert worst_deviation(idata, mean, covariance) < 5
    assert attributes(idata)["converged"] == 1
    # Negative controls: a mean a fifth of a standard deviation off, and a spread 15 % too wide.
    sd = np.sqrt(np.diag(covariance))
    assert worst_deviation(idata, mean + 0.2 * sd, covariance) > 5
    assert worst_deviation(idata, mean, 1.15**2 * covariance) > 5


@pytest.mark.parametrize("run", ["nuts_run", "numpyro_run"])
def test_posterior_agrees_with_the_closed_form(run, exact, request):
    deviates_as_it_should(request.getfixturevalue(run), *exact)


@pytest.mark.parametrize("name", ALONE)
def test_posterior_of_every_sampler_agrees_with_the_closed_form(name, every_run, exact):
    deviates_as_it_should(every_run(name), *exact)


def test_the_evidence_agrees_with_the_closed_form(problem, every_run):
    total = RATE_FORWARD + RATE_BACKWARD
    rows = []
    for m in problem.measurements:
        decay = np.exp(-total * m.time)
        a = np.array([RATE_BACKWARD + RATE_FORWARD * decay, RATE_BACKWARD * (1 - decay)]) / total
        rows.append(a if m.observable == "A_measured" else 1 - a)
    X, y = np.array(rows), [m.value for m in problem.measurements]
    exact = stats.multivariate_normal(X @ PRIOR_MEAN, PRIOR_SD**2 * X @ X.T + SIGMA**2 * np.eye(len(y))).logpdf(y)
    found = attributes(every_run("parallel_tempering"))
    assert found["log_evidence_error"] < 0.2
    assert abs(found["log_evidence"] - exact) < 5 * found["log_evidence_error"]
    assert kb.log_evidence(every_run("parallel_tempering")) == (found["log_evidence"], found["log_evidence_error"])


def test_a_run_says_what_it_has_checked(every_run):
    found = attributes(every_run("adaptive_metropolis"))
    assert found["thin"] == 10
    assert found["cautions"] == []
    assert found["failed_near_bulk"] == {"tried": 400, "failed": 0, "by_reason": {}}
    assert found["solver_check"]["effective_share"] > 0.999


def test_posterior_does_not_depend_on_the_scale_of_moving(problem, exact):
    scales = ("log10", "ln")
    parameters = [
        kb.Parameter(name, kb.Normal(m, PRIOR_SD), scale=scale, lower=1e-9, upper=100)
        for name, m, scale in zip(NAMES, PRIOR_MEAN, scales, strict=True)
    ]
    data = pd.DataFrame(
        [(m.observable, m.time, m.value) for m in problem.measurements],
        columns=["observableId", "time", "measurement"],
    )
    moved = kb.Problem(problem.model, parameters, problem.observables, data)
    assert moved.scale == scales
    idata = kb.sample(moved, "nuts", draws=1500, warmup=500, seed=3, progress=False)
    # Both starts are positive on these scales; the normal posterior has 0.07 % of its mass below B_0 = 0.
    assert worst_deviation(idata, *exact) < 5


@pytest.mark.parametrize("sampler", ALONE)
def test_same_seed_same_draws(problem, sampler):
    runs = [kb.sample(problem, sampler, draws=20, warmup=20, seed=s, progress=False) for s in (5, 5, 6)]
    first, again, other = (run.posterior["A_0"].values for run in runs)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_auto_says_what_it_chose_and_why(problem):
    idata = kb.sample(problem, "auto", draws=20, warmup=20, seed=1, progress=False)
    found = attributes(idata)
    assert found["algorithm"] == "dream"
    assert "2 parameters are few" in found["chosen_because"]
    with pytest.raises(ValueError, match=r"settings \['step_size'\] belong to one sampler"):
        kb.sample(problem, "auto", settings={"step_size": 1.0})


def test_a_short_run_says_that_it_has_not_converged(problem):
    idata = kb.sample(problem, "random_walk", draws=20, warmup=20, thin=1, seed=5, progress=False)
    found = attributes(idata)
    assert found["converged"] == 0
    assert any("independent draws" in reason for reason in found["not_converged_because"])


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")  # eight measurements, each of weight
def test_result_holds_what_the_store_promises(problem, nuts_run, tmp_path):
    path = tmp_path / "run.nc"
    nuts_run.to_netcdf(str(path), engine="h5netcdf")
    idata = kb.load(path)
    assert {"posterior", "sample_stats", "log_likelihood", "posterior_predictive"} <= set(idata.groups())
    assert {"prior", "prior_predictive", "observed_data", "constant_data"} <= set(idata.groups())
    found = attributes(idata)
    assert found["problem_hash"] == problem.hash
    assert found["settings"]["backend"] == "nutpie"
    assert found["settings"]["max_tree_depth"] == 10
    assert found["simulations"] > 4 * 2000
    assert {"jax", "kinbayes"} <= set(found["versions"])

    u = problem.to_scaled({n: float(idata.posterior[n][0, 0]) for n in NAMES})
    total = sum(float(idata.log_likelihood[o][0, 0].sum()) for o in ("A_measured", "B_measured"))
    assert total == pytest.approx(float(problem.log_likelihood(u)), abs=1e-9)
    # Steps that derivatives go along with are a little shorter, so the run's values differ by the solver's error.
    assert float(idata.sample_stats["lp"][0, 0]) == pytest.approx(float(problem.log_density(u)), abs=1e-4)
    assert np.isfinite(az.loo(idata, var_name="A_measured").elpd_loo)


def test_backends_give_results_of_one_form(nuts_run, numpyro_run):
    assert attributes(numpyro_run)["settings"]["backend"] == "numpyro"
    assert set(nuts_run.groups()) == set(numpyro_run.groups())
    for group in nuts_run.groups():
        ours, theirs = nuts_run[group], numpyro_run[group]
        assert dict(ours.sizes) == dict(theirs.sizes)
        assert {n: v.dtype for n, v in ours.items()} == {n: v.dtype for n, v in theirs.items()}
    assert set(nuts_run.attrs) == set(numpyro_run.attrs)


def test_posterior_predictive_has_the_measurement_noise(problem, nuts_run, exact):
    mean, covariance = exact
    replicated = nuts_run.posterior_predictive["A_measured"].values[..., 0]
    # A at time 0 is A_0 itself. Of independent draws the variance has relative error sqrt(2/n).
    expected = covariance[0, 0] + SIGMA**2
    error = expected * np.sqrt(2 / az.ess(replicated))
    assert abs(np.var(replicated) - expected) < 5 * error
    assert abs(covariance[0, 0] - np.var(replicated)) > 5 * error  # negative control: without noise
    assert np.mean(replicated) == pytest.approx(mean[0], abs=5 * np.sqrt(expected / az.ess(replicated)))


def test_starts_are_redrawn_and_said(problem, monkeypatch):
    evaluate = problem.evaluate

    def failing_below_8(points):
        found, fails = evaluate(points), points[:, 0] < 8
        return found._replace(
            log_likelihood=np.where(fails, -np.inf, found.log_likelihood), status=np.where(fails, 1, found.status)
        )

    monkeypatch.setattr(problem, "evaluate", failing_below_8)
    points, said = chain_starts(problem, "prior", 4, np.random.default_rng(0))
    assert (points[:, 0] >= 8).all()
    assert said["starts_redrawn"] >= 1
    assert said["starts_failed_by_reason"] == {"max_steps": said["starts_redrawn"]}


def test_wrong_requests_are_refused(problem):
    with pytest.raises(ValueError, match=r"unknown sampler 'gibbs'; choose from .*'nuts'"):
        kb.sample(problem, "gibbs")
    with pytest.raises(ValueError, match=r"unknown settings \['depth'\] of 'nuts'; choose from .*max_tree_depth"):
        kb.sample(problem, "nuts", settings={"depth": 3})
    with pytest.raises(ValueError, match=r"unknown backend 'stan' of 'nuts'; choose from \['nutpie', 'numpyro'\]"):
        kb.sample(problem, "nuts", settings={"backend": "stan"})
    with pytest.raises(ValueError, match=r"unknown settings \['mass_matrix'\] of 'nuts'; choose from .*dense_mass"):
        kb.sample(problem, "nuts", settings={"backend": "numpyro", "mass_matrix": "diagonal"})
    with pytest.raises(ValueError, match=r"unknown settings \['backend'\] of 'random_walk'"):
        kb.sample(problem, "random_walk", settings={"backend": "nutpie"})
    with pytest.raises(ValueError, match="chains is 0; it must be at least 1"):
        kb.sample(problem, chains=0)
    with pytest.raises(ValueError, match=r"initial has shape \(2, 2\); 4 chains need \(4, 2\)"):
        kb.sample(problem, initial=np.zeros((2, 2)))
    with pytest.raises(StartError, match="the start of chain 0 has no density"):
        kb.sample(problem, initial=np.full((4, 2), np.nan))


def test_nutpie_needs_the_native_engine():
    on_jax = kb.read_petab(kb.example("conversion_reaction"), engine="jax")
    with pytest.raises(ValueError, match="nutpie calls the native engine, and this problem's is 'jax': use 'numpyro'"):
        kb.sample(on_jax, "nuts", settings={"backend": "nutpie"})


def test_improper_posterior_is_refused(problem):
    open_ended = [kb.Parameter("A_0"), kb.Parameter("B_0", kb.Normal(3, 4))]
    data = pd.DataFrame({"observableId": ["A_measured"], "time": [1.0], "measurement": [7.0]})
    improper = kb.Problem(problem.model, open_ended, problem.observables, data)
    with pytest.raises(ParameterError, match=r"the prior of \['A_0'\] is improper .* or optimize instead"):
        kb.sample(improper)


def test_a_run_interrupted_in_its_warmup_says_so(problem, monkeypatch):
    def interrupted(*args, **kwargs):
        run = run_sampler(*args, **{**kwargs, "num_warmup": 0, "num_draws": 0})
        return run._replace(stopped="interrupted")

    monkeypatch.setattr("kinbayes.run.choice.run_sampler", interrupted)
    with pytest.raises(RuntimeError, match=r"stopped in its warmup \(interrupted\), so there are no draws"):
        kb.sample(problem, "random_walk", progress=False)


def test_an_interrupted_run_keeps_its_draws_and_says_so(problem, monkeypatch):
    def interrupted(*args, **kwargs):
        return run_chains(*args, **kwargs)._replace(stopped="interrupted")

    monkeypatch.setattr("kinbayes.run.loop.background.run_chains", interrupted)
    idata = kb.sample(problem, draws=20, warmup=20, progress=False)
    found = attributes(idata)
    assert found["stopped"] == "interrupted"
    assert found["converged"] == 0
    assert found["not_converged_because"][0] == "the run was interrupted."
