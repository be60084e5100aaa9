"""PyMC must have the problem's posterior: its priors, its likelihood with gradients, and its predictions."""

import math
import re
import runpy
from pathlib import Path

import arviz as az
import jax
import matplotlib.pyplot as plt
import numpy as np
import nutpie
import pandas as pd
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
import xarray as xr
from pymc.model.transform.conditioning import remove_value_transforms
from pytensor.compile.mode import Mode

import kinbayes as kb
from kinbayes.hosts import pymc_priors
from kinbayes.hosts.pymc import likelihood, to_pymc
from kinbayes.problem import parameters as maps
from kinbayes.problem.log_prior import forms, prior_data, prior_function
from kinbayes.problem.parameters import LOG_FACTORS, ParameterError
from tests.hosts.test_pytensor_op import PROBLEM, SOME_FAIL, U

pytestmark = [
    pytest.mark.filterwarnings("ignore:PyTensor could not link to a BLAS"),
    pytest.mark.filterwarnings("ignore:The number of samples is too small"),
]

# ---- priors

FAMILIES = [
    kb.Uniform(0.2, 5.0),
    kb.LogUniform(1e-3, 50.0),
    kb.Normal(1.0, 2.0),
    kb.LogNormal(0.3, 0.8),
    kb.Laplace(0.5, 0.7),
    kb.LogLaplace(-0.4, 0.6),
    kb.Cauchy(0.2, 1.1),
    kb.Gamma(0.7, 2.0),
    kb.Gamma(2.5, 0.4),
    kb.ChiSquare(3.0),
    kb.Exponential(1.7),
    kb.Rayleigh(0.9),
]
SCALED = [kb.Uniform(-1.0, 2.0, on="scaled"), kb.Normal(0.1, 0.5, on="scaled")]
SCALED += [kb.Laplace(0.2, 0.4, on="scaled"), kb.Cauchy(-0.1, 0.3, on="scaled")]
BOUNDS = [(None, None), (0.3, None), (None, 4.0), (0.3, 4.0)]


def every_prior() -> list[kb.Parameter]:
    found = []
    for prior in (*FAMILIES, *SCALED):
        for scale in ("lin", "ln", "log10"):
            for low, high in BOUNDS if scale == "lin" else BOUNDS[::3]:
                found.append(kb.Parameter(f"p{len(found)}", prior, scale, low, high))
    for scale in ("lin", "ln", "log10"):  # none stated
        found.append(kb.Parameter(f"p{len(found)}", None, scale, 0.1, 20.0))
    return found


def log_volume(parameter: kb.Parameter, u: np.ndarray) -> np.ndarray:
    """Return log |d(random variable) / du|."""
    scale, own = pymc_priors.stated(parameter).scale, parameter.scale
    log_theta = np.zeros_like(u) if own == "lin" else u * LOG_FACTORS[own]
    from_natural = np.zeros_like(u) if own == "lin" else log_theta + math.log(LOG_FACTORS[own])
    if scale == "lin":
        return from_natural
    return from_natural - np.log(maps.natural(u[:, None], (own,))[:, 0]) - math.log(LOG_FACTORS[scale])


def test_every_prior_has_the_problems_density():
    parameters = every_prior()
    assert len(parameters) == 131
    rng = np.random.default_rng(0)
    with pm.Model() as model:
        for parameter in parameters:
            pymc_priors.random_variable(parameter)
    outputs, points = [], []
    for parameter in parameters:
        u = maps.draw([parameter], rng, 5)
        theta = maps.natural(u, (parameter.scale,))
        scale = pymc_priors.stated(parameter).scale
        value = maps.scaled(theta, (scale,))[:, 0]
        outputs.append(pm.logp(model[pymc_priors.names(parameter)[-1]], pt.constant(value)))
        points.append(u)
    found = pytensor.function([], outputs, mode=Mode("py", None))()
    wrong = 0
    for parameter, u, values in zip(parameters, points, found, strict=True):
        density = prior_function(forms([parameter]))
        data = prior_data([parameter])
        expected = np.asarray(jax.vmap(lambda u, density=density, data=data: density(u, data))(u))
        difference = values + log_volume(parameter, u[:, 0]) - expected
        # PyTensor takes some constants, such as that of the normal density, for numbers of single precision.
        assert np.abs(difference).max() < 2e-8, parameter
        assert np.ptp(difference) < 1e-12 * (1 + np.abs(expected).max()), parameter
        wrong += np.allclose(values, expected, rtol=1e-9)
    assert wrong < len(parameters)  # without the change of variables some would not agree


def test_draws_of_every_prior_are_those_of_the_problem():
    parameters = [p for p in every_prior() if p.scale == "log10" and p.lower is not None and p.upper is not None]
    with pm.Model() as model:
        for parameter in parameters:
            pymc_priors.random_variable(parameter)
    names = [p.name for p in parameters]
    drawn = pm.draw([model[name] for name in names], draws=400, random_seed=1)
    for parameter, values in zip(parameters, drawn, strict=True):
        prior, (low, high) = parameter.effective_prior, parameter.prior_bounds
        stated = values if prior.on == "natural" else maps.scaled(values[:, None], (parameter.scale,))[:, 0]
        frozen = prior.distribution()
        ranks = (frozen.cdf(stated) - frozen.cdf(low)) / (frozen.cdf(high) - frozen.cdf(low))
        assert abs(ranks.mean() - 0.5) < 5 / math.sqrt(12 * len(ranks))
        assert abs(np.var(ranks) - 1 / 12) < 5 / math.sqrt(180 * len(ranks))


def test_a_model_reads_like_the_problem():
    lines = to_pymc(kb.read_petab(kb.example("enzyme_progress"))).str_repr().splitlines()
    found = [re.sub(r"\s+", " ", line.strip()) for line in lines]
    assert found[0] == "V_max ~ TruncatedLogNormal(<constant>, 0, 2, 0.001, 1e+03)"
    assert found[-1] == "measurements ~ Kinetics(V_max, K_m, sigma_product)"
    lines = to_pymc(PROBLEM).str_repr().splitlines()
    found = [re.sub(r"\s+", " ", line.strip()) for line in lines]
    assert found == [
        "log10_k ~ Uniform(-3, 3)",
        "start ~ Uniform(-10, 10)",
        "k ~ Deterministic(f(log10_k))",
        "measurements ~ Kinetics(k, start)",
    ]


# ---- the density

LYNX_HARE = kb.read_petab(kb.example("lynx_hare"))


def test_the_density_and_its_gradient_are_the_problems():
    model = remove_value_transforms(to_pymc(LYNX_HARE))
    logp, dlogp = model.compile_logp(), model.compile_dlogp()
    rng = np.random.default_rng(2)
    nominal = np.asarray(LYNX_HARE.nominal)
    order = [LYNX_HARE.parameter_names.index(v.name) for v in model.value_vars]
    factors = np.array([LOG_FACTORS.get(scale, 0.0) for scale in LYNX_HARE.scale])
    is_lin = factors == 0
    for _ in range(5):
        u = nominal + 0.02 * rng.standard_normal(LYNX_HARE.dim)
        point = {name: np.array(value) for name, value in LYNX_HARE.to_natural(u).items()}
        theta = np.array([*map(float, point.values())])
        slope = np.where(is_lin, 1.0, theta * factors)  # dtheta/du
        value, gradient = LYNX_HARE.value_and_grad(u)
        # Without a gradient the steps are others, within the tolerances.
        plain = float(LYNX_HARE.log_density(u))
        assert float(logp(point)) == pytest.approx(plain - np.sum(np.log(slope)), rel=1e-10)
        assert plain == pytest.approx(float(value), rel=1e-5)
        expected = np.asarray(gradient) / slope - np.where(is_lin, 0.0, 1 / theta)
        np.testing.assert_allclose(dlogp(point), expected[order], rtol=1e-8)


def test_the_log_likelihood_is_pointwise():
    model = to_pymc(PROBLEM)
    theta = maps.natural(U, PROBLEM.scale)[None]
    posterior = {"log10_k": U[None, :, 0], "k": theta[..., 0], "start": theta[..., 1]}
    idata = az.from_dict(posterior)
    with model:
        pm.compute_log_likelihood(idata, progressbar=False)
    found = idata.log_likelihood["measurements"].values[0]
    np.testing.assert_allclose(found, [PROBLEM.pointwise_log_likelihood(u) for u in U], rtol=1e-9)


def test_what_has_no_density_is_minus_infinity():
    with pm.Model() as model:
        k, start = pm.Normal("k"), pm.Normal("start")
        likelihood(PROBLEM, {"k": k, "start": start})
    logp, dlogp = model.compile_logp(), model.compile_dlogp()
    at = {"k": np.array(0.3), "start": np.array(1.5)}
    rest = 2 * -0.5 * math.log(2 * math.pi) - 0.5 * (0.3**2 + 1.5**2)
    assert float(logp(at)) == pytest.approx(float(PROBLEM.log_likelihood(U[0])) + rest, rel=1e-12)
    for k in (0.0, -0.3, np.inf):
        outside = at | {"k": np.array(k)}
        assert float(logp(outside)) == -np.inf
    np.testing.assert_allclose(dlogp(at | {"k": np.array(-0.3)}), [0.3, -1.5])  # the prior's alone
    failing = remove_value_transforms(to_pymc(SOME_FAIL))
    at = {"log10_k": np.array(0.5), "start": np.array(0.7)}
    assert np.isneginf(SOME_FAIL.log_likelihood(U[3]))
    assert float(failing.compile_logp()(at)) == -np.inf
    assert np.isfinite(failing.compile_dlogp()(at)).all()


def test_gradients_reach_hyperparameters():
    with pm.Model() as model:
        mu, scale = pm.Flat("mu"), pm.Flat("scale")
        likelihood(PROBLEM, {"k": pt.exp(mu), "start": scale**2}, name="first")
        likelihood(PROBLEM.with_tolerances(1e-9, 1e-9), {"k": 2.0 * pt.exp(mu), "start": 1.5}, name="second")
    logp, dlogp = model.compile_logp(), model.compile_dlogp()

    def value(x: np.ndarray) -> float:
        return float(logp({"mu": x[0], "scale": x[1]}))

    x = np.array([-1.0, 1.2])
    steps = 1e-4 * np.eye(2)
    differences = [(value(x + step) - value(x - step)) / 2e-4 for step in steps]
    np.testing.assert_allclose(dlogp({"mu": x[0], "scale": x[1]}), differences, rtol=1e-5)
    assert min(map(abs, differences)) > 1.0


# ---- what is refused


def test_parameters_must_be_those_of_the_problem():
    with pm.Model():
        k = pm.Normal("k", shape=2)
        with pytest.raises(ValueError, match=r"missing parameters: \['start'\], unknown names: \['begin'\]"):
            likelihood(PROBLEM, {"k": 0.3, "begin": 1.0})
        with pytest.raises(ValueError, match=r"\{'k': 1\}; index them"):
            likelihood(PROBLEM, {"k": k, "start": 1.0})


def test_names_may_not_collide():
    with pytest.raises(ValueError, match=r"\['start'\]; give the measurements another"):
        to_pymc(PROBLEM, name="start")
    model = kb.Model("decay", {"A": parse("-k * log10_k * A")}, {n: parse("1") for n in ("A", "k", "log10_k")})
    both = [kb.Parameter(n, kb.LogUniform(0.1, 10)) for n in ("k", "log10_k")]
    data = pd.DataFrame({"observableId": "y", "time": [1.0], "measurement": [1.0]})
    problem = kb.Problem(model, both, [kb.Observable("y", "A", kb.noise.normal("1"))], data)
    with pytest.raises(ValueError, match=r"\['log10_k'\]"):
        to_pymc(problem)


def test_improper_priors_and_other_engines_are_refused():
    model = kb.Model("decay", {"A": parse("-k * A")}, {"A": parse("1"), "k": parse("1")})
    data = pd.DataFrame({"observableId": "y", "time": [1.0], "measurement": [1.0]})
    observables = [kb.Observable("y", "A", kb.noise.normal("1"))]
    improper = kb.Problem(model, [kb.Parameter("k", scale="log10")], observables, data)
    with pytest.raises(ParameterError, match="'k' is improper"):
        to_pymc(improper)
    with pm.Model():
        likelihood(improper, {"k": 1.0})  # the prior plays no role
        with pytest.raises(ValueError, match="NaN, so it predicts"):
            likelihood(improper.on_grid(improper.experiments[0], [1.0]), {"k": 1.0}, name="other")
    by_jax = kb.Problem(model, [kb.Parameter("k", kb.LogNormal(0, 1))], observables, data, engine="jax")
    with pytest.raises(ValueError, match="engine='native'"):
        to_pymc(by_jax)


def test_other_measurements_are_refused():
    with pm.Model() as model:
        variable = likelihood(PROBLEM, {"k": 0.3, "start": 1.5})
    assert np.isfinite(model.compile_logp()({}))
    with pytest.raises(NotImplementedError, match=r"problem\.with_data"):
        pm.logp(variable, np.zeros(12))


# ---- samplers and predictions

CONVERSION = kb.read_petab(kb.example("conversion_reaction"))
NOISE, PRIOR_SD = 0.5, 4.0


def conversion() -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return what is measured of A_0 and B_0, the posterior's mean and covariance, and the log evidence."""
    rows = CONVERSION.measurements
    t = np.array([m.time for m in rows])
    decay, is_a = np.exp(-0.4 * t), np.array([m.observable == "A_measured" for m in rows])
    of_a = np.stack([0.1 + 0.3 * decay, 0.1 * (1 - decay)], axis=1) / 0.4
    of_b = np.stack([0.3 * (1 - decay), 0.3 + 0.1 * decay], axis=1) / 0.4
    X, y, prior_mean = np.where(is_a[:, None], of_a, of_b), np.array([m.value for m in rows]), np.array([8.0, 3.0])
    C = np.linalg.inv(np.eye(2) / PRIOR_SD**2 + X.T @ X / NOISE**2)
    mean = C @ (prior_mean / PRIOR_SD**2 + X.T @ y / NOISE**2)
    S = NOISE**2 * np.eye(len(y)) + PRIOR_SD**2 * X @ X.T
    residual = y - X @ prior_mean
    _, log_determinant = np.linalg.slogdet(2 * np.pi * S)
    return X, mean, C, -0.5 * (log_determinant + residual @ np.linalg.solve(S, residual))


X, MEAN, COVARIANCE, LOG_EVIDENCE = conversion()


@pytest.fixture(scope="module")
def model() -> pm.Model:
    return to_pymc(CONVERSION)


def draws_of(idata: az.InferenceData) -> np.ndarray:
    return np.stack([idata.posterior[name].values.reshape(-1) for name in CONVERSION.parameter_names], axis=1)


def test_sequential_monte_carlo_finds_posterior_and_evidence(model):
    with model:
        idata = pm.sample_smc(
            400, chains=4, cores=1, random_seed=1, progressbar=False, compute_convergence_checks=False
        )
    chains = np.stack([idata.posterior[name].values for name in CONVERSION.parameter_names], axis=-1)
    # Independent runs: their spread tells the error.
    errors = chains.mean(axis=1).std(axis=0, ddof=1) / math.sqrt(len(chains))
    found = chains.mean(axis=(0, 1))
    assert np.all(np.abs(found - MEAN) < 5 * errors)
    assert np.all(np.abs(found - [8.0, 3.0]) > 5 * errors)
    np.testing.assert_allclose(chains.std(axis=(0, 1)), np.sqrt(np.diag(COVARIANCE)), rtol=0.1)
    last = np.array([np.asarray(e, dtype=float)[-1] for e in idata.sample_stats["log_marginal_likelihood"].values])
    error = last.std(ddof=1) / math.sqrt(len(last))
    assert error < 0.2
    assert abs(last.mean() - LOG_EVIDENCE) < 5 * error


def test_no_u_turn_sampler_and_maximum(model):
    with model:
        idata = pm.sample(
            500, tune=300, chains=2, cores=1, random_seed=1, progressbar=False, compute_convergence_checks=False
        )
        highest = pm.find_MAP(progressbar=False)
    errors = [float(az.mcse(idata)[name]) for name in CONVERSION.parameter_names]
    found = draws_of(idata)
    assert np.all(np.abs(found.mean(axis=0) - MEAN) < 5 * np.array(errors))
    np.testing.assert_allclose(found.std(axis=0), np.sqrt(np.diag(COVARIANCE)), rtol=0.15)
    np.testing.assert_allclose([highest[name] for name in CONVERSION.parameter_names], MEAN, atol=0.02)


def test_predictions_have_shapes_and_moments(model):
    with model:
        prior = pm.sample_prior_predictive(2000, random_seed=1)
    measured = prior.prior_predictive["measurements"].values
    assert measured.shape == (1, 2000, 16)
    variance = PRIOR_SD**2 * np.sum(X**2, axis=1) + NOISE**2
    errors = np.sqrt(variance / 2000)
    assert np.all(np.abs(measured[0].mean(axis=0) - X @ [8.0, 3.0]) < 5 * errors)
    assert np.any(np.abs(measured[0].mean(axis=0) - X @ MEAN) > 5 * errors)
    np.testing.assert_allclose(measured[0].var(axis=0), variance, rtol=5 * math.sqrt(2 / 2000))
    np.testing.assert_array_equal(
        prior.observed_data["measurements"].values, [m.value for m in CONVERSION.measurements]
    )
    rng = np.random.default_rng(1)
    theta = rng.multivariate_normal(MEAN, COVARIANCE, size=(2, 500))
    idata = az.from_dict(dict(zip(CONVERSION.parameter_names, np.moveaxis(theta, -1, 0), strict=True)))
    with model:
        later = pm.sample_posterior_predictive(idata, random_seed=1, progressbar=False)
    measured = later.posterior_predictive["measurements"].values
    assert measured.shape == (2, 500, 16)
    errors = np.sqrt((np.einsum("ri,ij,rj->r", X, COVARIANCE, X) + NOISE**2) / 1000)
    assert np.all(np.abs(measured.mean(axis=(0, 1)) - X @ MEAN) < 5 * errors)


def test_predictions_of_failed_simulations_are_nan():
    with pm.Model():
        likelihood(SOME_FAIL, {"k": 10.0**0.5, "start": 0.7})
        found = pm.sample_prior_predictive(3, random_seed=1)
    assert np.isnan(found.prior_predictive["measurements"].values).all()


def moments(posterior: xr.Dataset, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return means and standard deviations (2, names), and their standard errors."""
    x = np.stack([posterior[name].values for name in names])  # (names, chains, draws)
    mean, sd = x.mean(axis=(1, 2)), x.std(axis=(1, 2))
    squares = (x - mean[:, None, None]) ** 2
    of_mean, of_square = (v.std(axis=(1, 2)) / np.sqrt([az.ess(line) for line in v]) for v in (x, squares))
    return np.array([mean, sd]), np.array([of_mean, of_square / (2 * sd)])


@pytest.mark.slow
def test_lynx_and_hare_have_one_posterior():
    with to_pymc(LYNX_HARE):
        theirs = pm.sample(1000, tune=1000, chains=4, cores=1, random_seed=1, progressbar=False)
    ours = kb.sample(LYNX_HARE, draws=1000, warmup=1000, chains=4, seed=1, progress=False)
    names = list(LYNX_HARE.parameter_names)
    assert float(az.rhat(theirs, var_names=names).to_array().max()) < 1.02
    (a, a_errors), (b, b_errors) = (moments(np.log(idata.posterior), names) for idata in (theirs, ours))
    distances = np.abs(a - b) / np.hypot(a_errors, b_errors)
    assert distances.max() < 5
    assert np.abs(a[0, 0] - b[0, 2]) > 5 * a_errors[0, 0]  # of another parameter


def test_nutpie_takes_several_problems_in_one_model():
    shifts = (0.0, 0.1, 0.2)
    problems = [
        CONVERSION.with_data(
            pd.DataFrame(
                [(m.observable, m.experiment, m.time, m.value + shift) for m in CONVERSION.measurements],
                columns=["observableId", "simulationConditionId", "time", "measurement"],
            )
        )
        for shift in shifts
    ]
    with pm.Model() as together:
        b = pm.Normal("B_0", 3.0, PRIOR_SD)
        a = pm.Normal("A_0", 8.0, PRIOR_SD, shape=3)
        for k, problem in enumerate(problems):
            likelihood(problem, {"A_0": a[k], "B_0": b}, name=f"vessel_{k}")
    compiled = nutpie.compile_pymc_model(together)
    idata = nutpie.sample(compiled, draws=1000, tune=300, chains=2, cores=1, seed=1, progress_bar=False)
    # All is normal: of B_0 and the three A_0.
    precision, right = np.eye(4) / PRIOR_SD**2, np.array([3.0, 8.0, 8.0, 8.0]) / PRIOR_SD**2
    for k, shift in enumerate(shifts):
        columns = np.zeros((16, 4))
        columns[:, [1 + k, 0]] = X
        y = np.array([m.value for m in CONVERSION.measurements]) + shift
        precision += columns.T @ columns / NOISE**2
        right += columns.T @ y / NOISE**2
    expected = np.linalg.solve(precision, right)
    found = [float(idata.posterior["B_0"].mean()), *idata.posterior["A_0"].mean(("chain", "draw")).values]
    errors = az.mcse(idata)
    errors = [float(errors["B_0"]), *errors["A_0"].values]
    assert np.all(np.abs(np.array(found) - expected) < 5 * np.array(errors))
    assert abs(found[1] - MEAN[0]) > 5 * errors[1]  # of the first vessel alone


NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "hierarchical.py"


def population(batches: list[kb.Problem]) -> np.ndarray:
    """Return means and standard deviations of the notebook's mean and spread, by quadrature."""
    x = np.linspace(-6.0, 3.0, 601)  # of log k1
    mean, spread = np.linspace(-7.0, 5.0, 241), np.linspace(0.02, 6.0, 300)[:, None]
    log_density = -0.5 * ((mean + 1.0) / 1.5) ** 2 - 0.5 * spread**2
    for batch in batches:
        values = batch.evaluate(x[:, None] / math.log(10)).log_likelihood
        weights = np.exp(values - values.max())
        near = weights > 1e-12
        z = (x[near] - mean[:, None]) / spread[..., None]
        log_density += np.log(np.exp(-0.5 * z**2) @ weights[near] / spread + 1e-300)
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    means = np.array([(density * v).sum() for v in (mean, spread)])
    return np.array(
        [means, [math.sqrt((density * (v - m) ** 2).sum()) for v, m in zip((mean, spread), means, strict=True)]]
    )


@pytest.mark.slow
def test_the_notebook_recovers_the_population(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    found = runpy.run_path(str(NOTEBOOK))
    plt.close("all")  # its figures would be those of other tests
    posterior, truth = found["idata"].posterior, found["TRUTH"]
    names = ["mean_log_k1", "spread"]
    assert list(truth) == names
    values, errors = moments(posterior, names)
    assert np.all(np.abs(values - population(found["batches"])) < 5 * errors)
    assert np.any(np.abs(values - population(found["batches"][1:])) > 5 * errors)  # one batch less is another posterior
    for name in names:
        low, high = posterior[name].quantile([0.005, 0.995]).values
        assert low < truth[name] < high
        assert not low < truth[name] + 3.0 < high


def parse(text: str):
    from kinbayes.model import formula

    return formula.parse(text)
