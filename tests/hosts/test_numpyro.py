"""NumPyro must get the same posterior, and our samplers as its kernels must be exact."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.stats
from numpyro.handlers import seed, substitute, trace, uncondition
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, init_to_value
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from numpyro.infer.util import log_density, potential_energy

import kinbayes as kb
from kinbayes.hosts.numpyro import AdaptiveMetropolis, Dream, Metropolis, ParallelTempering, likelihood, to_numpyro
from kinbayes.hosts.numpyro_priors import site_distribution, site_name
from kinbayes.model.formula import parse
from kinbayes.problem import truncation
from kinbayes.problem.log_prior import forms, prior_data, prior_function
from kinbayes.problem.parameters import Box, ParameterError, constrain, scaled
from kinbayes.samplers.nuts import nuts
from tests.targets import KnownTarget, worst_error

MODELS = ("conversion_reaction", "enzyme_progress", "influenza", "lynx_hare")


@functools.cache
def example(name: str) -> kb.Problem:
    return kb.read_petab(kb.example(name))


def decay(engine: str = "native", **changes: object) -> kb.Problem:
    """A' = -k A from a known start, with an unknown rate and an unknown noise."""
    model = kb.Model("decay", {"A": parse("-k * A")}, {n: parse(v) for n, v in (("A", "10"), ("k", "1"))})
    k = kb.Parameter("k", **{"prior": kb.LogNormal(-1.0, 0.5), **changes})
    parameters = [k, kb.Parameter("sd", kb.Normal(0.5, 0.2), lower=0.05, upper=2.0)]
    rows = [("y", t, 10 * np.exp(-0.4 * t) + e) for t, e in ((0.0, 0.3), (1.0, -0.2), (2.0, 0.1), (4.0, -0.4))]
    data = pd.DataFrame(rows, columns=["observableId", "time", "measurement"])
    return kb.Problem(model, parameters, [kb.Observable("y", "A", kb.noise.normal("sd"))], data, engine=engine)


def sites(problem: kb.Problem, u: np.ndarray) -> dict[str, jax.Array]:
    return {site_name(p): jnp.asarray(value) for p, value in zip(problem.estimated, u, strict=True)}


# ---- priors

NATURAL = [
    kb.Cauchy(1.0, 0.5),
    kb.ChiSquare(3.0),
    kb.Exponential(2.0),
    kb.Gamma(2.5, 0.7),
    kb.Laplace(1.0, 0.5),
    kb.LogLaplace(0.2, 0.6),
    kb.LogNormal(0.2, 0.6),
    kb.LogUniform(0.05, 20.0),
    kb.Normal(1.0, 0.8),
    kb.Rayleigh(1.5),
    kb.Uniform(0.05, 20.0),
]
SCALED = [
    kb.Cauchy(0.1, 0.3, on="scaled"),
    kb.Laplace(0.1, 0.3, on="scaled"),
    kb.Normal(0.1, 0.3, on="scaled"),
    kb.Uniform(-1.0, 1.5, on="scaled"),
    None,
]
PARAMETERS = [
    *(kb.Parameter("p", prior, scale, low, high) for prior in NATURAL for scale in ("lin", "log10")
      for low, high in ((None, None), (0.3, 4.0))),
    *(kb.Parameter("p", prior, "ln", 0.3, 4.0) for prior in NATURAL),
    *(kb.Parameter("p", prior, "lin", *bounds) for prior in NATURAL for bounds in ((0.3, None), (None, 4.0))),
    *(kb.Parameter("p", prior, scale, low, high) for prior in SCALED for scale in ("lin", "ln", "log10")
      for low, high in ((None, None), (0.3, 1.2)) if prior or low),
]  # fmt: skip
FAR_OUT = [
    kb.Parameter("p", kb.Normal(0.0, 1.0), lower=9.0, upper=12.0),
    kb.Parameter("p", kb.Normal(0.0, 1.0), lower=-12.0, upper=-9.0),
    kb.Parameter("p", kb.Gamma(2.0, 1.0), lower=30.0, upper=40.0),
    kb.Parameter("p", kb.Laplace(0.0, 1.0), "log10", 40.0, 50.0),
]


def named(parameter: kb.Parameter) -> str:
    return f"{parameter.prior}-{parameter.scale}-{parameter.lower}-{parameter.upper}"


@pytest.mark.parametrize("parameter", [*PARAMETERS, *FAR_OUT], ids=named)
def test_a_site_has_the_density_of_its_prior(parameter):
    site = site_distribution(parameter)
    u = truncation_draws(parameter, 20)
    low, high = parameter.scaled_bounds
    exact, data = prior_function(forms([parameter])), prior_data([parameter])
    expected, slopes = jax.vmap(jax.value_and_grad(lambda u: exact(u[None], data)))(u)
    found, gradients = jax.vmap(jax.value_and_grad(site.log_prob))(u)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(gradients, slopes, rtol=1e-7, atol=1e-7)
    assert site.shape() == ()
    # The transform to unconstrained space is that of the problem's own box.
    x = jnp.array([-1.3, 0.4, 2.0])
    transform = dist.biject_to(site.support)
    own, volume = jax.vmap(lambda x: constrain(Box(jnp.array([low]), jnp.array([high])), x[None]))(x)
    np.testing.assert_allclose(transform(x), own[:, 0], rtol=1e-12)
    np.testing.assert_allclose(transform.log_abs_det_jacobian(x, transform(x)), volume, rtol=1e-9, atol=1e-9)


def truncation_draws(parameter: kb.Parameter, size: int) -> jax.Array:
    rng, prior = np.random.default_rng(0), parameter.effective_prior
    drawn = truncation.draw(prior, *parameter.prior_bounds, rng, size)
    return jnp.asarray(drawn if prior.on == "scaled" else scaled(drawn[:, None], (parameter.scale,))[:, 0])


@pytest.mark.parametrize("parameter", [PARAMETERS[k] for k in range(0, len(PARAMETERS), 5)] + FAR_OUT, ids=named)
def test_a_site_draws_from_its_prior(parameter):
    drawn = site_distribution(parameter).sample(jax.random.key(1), (2000,))
    exact = truncation_draws(parameter, 2000)
    assert scipy.stats.ks_2samp(drawn, exact).pvalue > 1e-4
    assert scipy.stats.ks_2samp(drawn, exact + 0.3 * exact.std()).pvalue < 1e-4
    low, high = parameter.scaled_bounds
    assert low <= drawn.min()
    assert drawn.max() <= high


def test_beyond_its_bounds_a_site_has_no_density_and_no_gradient():
    site = site_distribution(kb.Parameter("p", kb.Gamma(2.5, 0.7), lower=0.3, upper=4.0))
    for value in (-1.0, 0.2, 5.0):
        assert jax.value_and_grad(site.log_prob)(value) == (-np.inf, 0.0)


def test_sites_are_named_after_scales_and_numpyro_knows_their_distributions():
    def drawn(*parameters: kb.Parameter) -> dict[str, type]:
        return {site_name(p): type(site_distribution(p)) for p in parameters}

    assert drawn(
        kb.Parameter("a", kb.Normal(1.0, 0.8)),
        kb.Parameter("b", kb.LogNormal(0.2, 0.6)),
        kb.Parameter("c", kb.LogNormal(0.2, 0.6), "lin"),
        kb.Parameter("d", kb.Gamma(2.0, 1.0), "lin"),
        kb.Parameter("e", scale="ln", lower=0.1, upper=10.0),
        kb.Parameter("f", kb.LogUniform(0.1, 10.0), "lin", lower=1.0),
    ) == {
        "a": dist.Normal,
        "log10_b": dist.Normal,
        "c": dist.LogNormal,
        "d": dist.Gamma,
        "ln_e": dist.Uniform,
        "f": dist.LogUniform,
    }
    bounded = site_distribution(kb.Parameter("g", kb.Normal(1.0, 0.8), lower=0.0))
    assert repr(bounded) == "Bounded(Normal(mean=1.0, sd=0.8, on='natural'), low=0, high=inf)"


# ---- the model


@pytest.mark.parametrize("name", MODELS)
def test_the_joint_density_is_the_problems(name):
    problem = example(name)
    model = to_numpyro(problem)
    U = problem.draw_prior(np.random.default_rng(0), 6)
    U[0] = np.where(np.isnan(problem.nominal), U[0], problem.nominal)
    found = [log_density(model, (), {}, sites(problem, u))[0] for u in U]
    expected = [problem.log_density(u) for u in U]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert np.isfinite(expected).sum() > 1
    box = Box(problem.lower, problem.upper)
    x = problem.unconstrain(U[0])
    energy = potential_energy(model, (), {}, sites(problem, x))
    np.testing.assert_allclose(-energy, expected[0] + constrain(box, x)[1], rtol=1e-9)
    deterministic = trace(substitute(seed(model, 0), data=sites(problem, U[0]))).get_trace()
    for parameter, value in problem.to_natural(U[0]).items():
        np.testing.assert_allclose(deterministic[parameter]["value"], value, rtol=1e-12)


@pytest.mark.parametrize("engine", ["native", "jax"])
def test_gradients_are_those_of_the_density(engine):
    problem = decay(engine)
    model, U = to_numpyro(problem), problem.draw_prior(np.random.default_rng(1), 2)

    def density(u: jax.Array) -> jax.Array:
        return log_density(model, (), {}, dict(zip(("log10_k", "sd"), u, strict=True)))[0]

    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(density)))(jnp.asarray(U))
    for value, gradient, u in zip(values, gradients, U, strict=True):
        expected, slope = problem.value_and_grad(u)
        np.testing.assert_allclose(value, expected, rtol=1e-9)
        np.testing.assert_allclose(gradient, slope, rtol=1e-7, atol=1e-7)
        steps = 1e-4 * np.eye(2)
        differences = [(problem.log_density(u + d) - problem.log_density(u - d)) / 2e-4 for d in steps]
        np.testing.assert_allclose(gradient, differences, rtol=2e-3, atol=2e-3)
    if engine == "native":
        forward = jax.jit(jax.vmap(jax.jacfwd(density)))(jnp.asarray(U))
        np.testing.assert_allclose(forward, gradients, rtol=1e-7, atol=1e-7)


def kinetics(k: jax.Array, sd: jax.Array, problem: kb.Problem) -> jax.Array:
    def model() -> None:
        likelihood(problem, {"k": k, "sd": sd})

    return log_density(model, (), {}, {})[0]


def test_values_without_a_logarithm_have_no_likelihood_and_no_gradient():
    problem = decay()
    both = jax.jit(jax.value_and_grad(functools.partial(kinetics, problem=problem), argnums=(0, 1)))
    value, gradient = both(0.4, 0.5)
    np.testing.assert_allclose(value, problem.log_likelihood(problem.to_scaled({"k": 0.4, "sd": 0.5})), rtol=1e-6)
    assert np.abs(gradient).min() > 1e-3
    for k in (0.0, -0.4):
        assert both(k, 0.5) == (-np.inf, (0.0, 0.0))


@pytest.mark.parametrize("engine", ["native", "jax"])
def test_where_a_simulation_fails_there_is_no_likelihood_and_no_gradient(engine):
    problem = decay(engine, scale="lin", prior=kb.Normal(0.0, 1.0))
    value, gradient = jax.value_and_grad(functools.partial(kinetics, problem=problem))(-1e6, 0.5)
    assert (value, gradient) == (-np.inf, 0.0)


def test_what_cannot_be_is_refused():
    problem = decay()
    with pytest.raises(ParameterError, match="'k'"):
        to_numpyro(decay(prior=None, scale="lin"))
    with pytest.raises(ValueError, match=r"missing parameters: \['sd'\], unknown ones: \['SD'\]"):
        kinetics_of({"k": 1.0, "SD": 1.0})
    with pytest.raises(ValueError, match=r"shapes \{'k': \(2,\)\}"):
        kinetics_of({"k": jnp.ones(2), "sd": 1.0})
    named = kb.Parameter("measurements", kb.Normal(1.0, 0.1))
    table = pd.DataFrame({"observableId": ["y"], "time": [1.0], "measurement": [7.0]})
    clash = kb.Problem(problem.model, [named], [kb.Observable("y", "A * measurements", kb.noise.normal("1"))], table)
    with pytest.raises(ValueError, match=r"\['measurements'\] would exist twice"):
        to_numpyro(clash)
    assert {"measurements", "y"} <= set(trace(seed(to_numpyro(clash, name="y"), 0)).get_trace())
    model = to_numpyro(problem)
    site = trace(substitute(seed(model, 0), data={"log10_k": -0.4, "sd": 0.5})).get_trace()["measurements"]["fn"]
    assert np.isfinite(site.log_prob(site.measured))
    with pytest.raises(ValueError, match="own measurements"):
        site.log_prob(site.measured + 1)
    assert np.isnan(jax.jit(site.log_prob)(site.measured + 1))


def kinetics_of(parameters: dict) -> None:
    with trace():
        likelihood(decay(), parameters)


def shifted(problem: kb.Problem, by: float) -> kb.Problem:
    columns = ("observableId", "simulationConditionId", "time", "measurement")
    rows = [(m.observable, m.experiment, m.time, m.value + by) for m in problem.measurements]
    return problem.with_data(pd.DataFrame(rows, columns=columns))


def test_numbers_may_be_arguments_of_what_is_compiled():
    problem, traces = example("conversion_reaction"), []
    model, other = to_numpyro(problem), shifted(problem, 0.3)

    @jax.jit
    def density(u: jax.Array, densities: object) -> jax.Array:
        traces.append(u)
        return log_density(model, (densities,), {}, sites(problem, u))[0]

    u = problem.nominal
    for one in (problem, other):
        np.testing.assert_allclose(density(u, one.batched), one.log_density(u), rtol=1e-9)
    assert len(traces) == 1
    assert abs(problem.log_density(u) - other.log_density(u)) > 1


# ---- NumPyro's own inference

CONVERSION = {"mean": [9.976119, 0.912122], "sd": [0.305150, 0.284928], "correlation": -0.687575}  # its README


def normal(mean: list[float], sd: list[float]) -> KnownTarget:
    mean, sd = np.array(mean), np.array(sd)
    return KnownTarget(None, mean, sd, mean - 1.6448536 * sd, mean + 1.6448536 * sd, None)


def run(kernel, *args: object, draws: int = 1000, warmup: int = 500, chains: int = 4, **kwargs: object) -> MCMC:
    method = kwargs.pop("chain_method", "vectorized")
    mcmc = MCMC(
        kernel, num_warmup=warmup, num_samples=draws, num_chains=chains, chain_method=method, progress_bar=False
    )
    mcmc.run(jax.random.key(kwargs.pop("key", 0)), *args, **kwargs)
    return mcmc


def stacked(samples: dict[str, jax.Array], names: list[str]) -> np.ndarray:
    return np.stack([np.asarray(samples[name]) for name in names], axis=-1)


def test_nuts_finds_the_closed_form():
    found = run(NUTS(to_numpyro(example("conversion_reaction")), dense_mass=True), draws=500, warmup=300).get_samples(
        group_by_chain=True
    )
    draws = stacked(found, ["A_0", "B_0"])
    assert worst_error(draws, normal(CONVERSION["mean"], CONVERSION["sd"])) < 5
    assert worst_error(draws, normal([9.7, 0.912122], CONVERSION["sd"])) > 5


@pytest.mark.slow
def test_nuts_agrees_with_kinbayes_on_the_lynx_and_the_hare():
    problem = example("lynx_hare")
    ours = kb.sample(problem, draws=1000, warmup=1000, chains=4, seed=1, progress=False).posterior
    theirs = run(NUTS(to_numpyro(problem)), draws=1000, warmup=1000).get_samples(group_by_chain=True)
    for name in problem.parameter_names:
        a, b = np.asarray(ours[name]), np.asarray(theirs[name])
        assert abs(difference(a, b)) < 5
        assert abs(difference(a, b + 0.5 * b.std())) > 5


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """The difference of two means in combined standard errors."""
    import arviz

    errors = [x.std() / np.sqrt(arviz.ess(x, method="mean")) for x in (a, b)]
    return (a.mean() - b.mean()) / np.hypot(*errors)


@pytest.mark.parametrize("guide", [AutoNormal, pytest.param(AutoMultivariateNormal, marks=pytest.mark.slow)])
def test_variational_inference_finds_the_closed_form(guide):
    # The posterior is normal and the map to unconstrained space straight to 1 % over it, so that the best guides are
    # known: the posterior itself, and for independent normals its means and conditional standard deviations. What is
    # left is the noise of the last gradients: with step sizes that fall to 1e-4 of a width 0.006 (unconstrained), some
    # per cent of a standard deviation.
    model = to_numpyro(example("conversion_reaction"))
    start = init_to_value(values={"A_0": 8.0, "B_0": 3.0})
    fitted = guide(model, init_loc_fn=start, init_scale=0.01)
    svi = SVI(model, fitted, numpyro.optim.Adam(lambda i: 0.02 * 0.995**i + 1e-4), Trace_ELBO(num_particles=4))
    result = svi.run(jax.random.key(0), 1500, progress_bar=False)
    drawn = fitted.sample_posterior(jax.random.key(1), result.params, sample_shape=(20_000,))
    full = guide is AutoMultivariateNormal
    narrowing = 1.0 if full else np.sqrt(1 - CONVERSION["correlation"] ** 2)
    for name, mean, sd in zip(("A_0", "B_0"), CONVERSION["mean"], CONVERSION["sd"], strict=True):
        assert abs(drawn[name].mean() - mean) < 0.15 * sd
        assert drawn[name].std() == pytest.approx(narrowing * sd, rel=0.1)
    correlation = np.corrcoef(drawn["A_0"], drawn["B_0"])[0, 1]
    assert correlation == pytest.approx(CONVERSION["correlation"] if full else 0.0, abs=0.1)


@pytest.mark.parametrize("engine", ["native", "jax"])
def test_predictions_are_simulated_with_noise(engine):
    problem = decay(engine)
    model = uncondition(to_numpyro(problem))
    one = {"log10_k": np.full(1000, np.log10(0.4)), "sd": np.full(1000, 0.5)}
    found = Predictive(model, one, parallel=True)(jax.random.key(0))
    replicated = np.asarray(found["measurements"])
    assert replicated.shape == (1000, 4)
    np.testing.assert_allclose(found["k"], 0.4, rtol=1e-12)
    expected = 10 * np.exp(-0.4 * np.array([0.0, 1.0, 2.0, 4.0]))
    error = 0.5 / np.sqrt(1000)
    assert np.abs(replicated.mean(axis=0) - expected).max() < 5 * error
    assert np.abs(replicated.std(axis=0) - 0.5).max() < 5 * error / np.sqrt(2)
    assert np.abs(np.corrcoef(replicated.T) - np.eye(4)).max() < 5 / np.sqrt(1000)
    if engine == "native":
        few = {name: values[:20] for name, values in one.items()}
        again = [Predictive(model, few, parallel=way)(jax.random.key(0))["measurements"] for way in (True, False)]
        np.testing.assert_array_equal(*again)
        assert len(np.unique(again[0])) == again[0].size


def test_prior_predictions_fail_where_simulations_do():
    problem = decay(scale="lin", prior=kb.Uniform(-1e6, 1.0))
    found = Predictive(uncondition(to_numpyro(problem)), num_samples=40, parallel=True)(jax.random.key(0))
    is_failed = np.isnan(found["measurements"]).all(axis=1)
    np.testing.assert_array_equal(is_failed, problem.evaluate(stacked(found, ["k", "sd"])).status != 0)
    assert is_failed.sum() > 30
    assert not np.isnan(found["measurements"][~is_failed]).any()


def test_a_hierarchy_of_problems_is_an_ordinary_model():
    problems = [shifted(decay(), by) for by in (-0.2, 0.3)]

    def model() -> None:
        centre = numpyro.sample("centre", dist.Normal(-1.0, 1.0))
        width = numpyro.sample("width", dist.HalfNormal(0.5))
        with numpyro.plate("subjects", 2):
            log_k = numpyro.sample("log_k", dist.Normal(centre, width))
        sd = numpyro.sample("sd", dist.HalfNormal(1.0))
        for j, problem in enumerate(problems):
            likelihood(problem, {"k": jnp.exp(log_k[j]), "sd": sd}, name=f"subject_{j}")

    z = {"centre": -0.9, "width": -1.2, "log_k": jnp.array([-1.1, -0.7]), "sd": -0.6}
    z = {name: jnp.asarray(value) for name, value in z.items()}
    energy = jax.jit(lambda z: potential_energy(model, (), {}, z))
    gradient = jax.jit(jax.grad(lambda z: potential_energy(model, (), {}, z)))(z)
    flat, back = jax.flatten_util.ravel_pytree(z)
    differences = [(energy(back(flat + d)) - energy(back(flat - d))) / 2e-4 for d in 1e-4 * np.eye(len(flat))]
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(gradient)[0], differences, rtol=1e-3, atol=1e-3)
    width, sd = np.exp(-1.2), np.exp(-0.6)
    expected = scipy.stats.norm(-1, 1).logpdf(-0.9) + scipy.stats.halfnorm(scale=0.5).logpdf(width) - 1.2
    expected += scipy.stats.norm(-0.9, width).logpdf([-1.1, -0.7]).sum() + scipy.stats.halfnorm().logpdf(sd) - 0.6
    for problem, log_k in zip(problems, (-1.1, -0.7), strict=True):
        expected += float(problem.log_likelihood(problem.to_scaled({"k": np.exp(log_k), "sd": sd})))
    np.testing.assert_allclose(-energy(z), expected, rtol=1e-9)


# ---- our samplers as kernels

LOADS = np.array([[1.0, 0.9], [0.3, -0.2]])
KERNELS = {"metropolis": Metropolis, "adaptive": AdaptiveMetropolis, "dream": Dream, "tempering": ParallelTempering}


def four_sites(measured: jax.Array, *, counts: tuple[int, ...], heads: int) -> None:
    """A correlated normal, a skewed positive site and a bounded one; all posteriors are known."""
    x = numpyro.sample("x", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(jnp.asarray(LOADS) @ x, 0.4), obs=measured)
    rate = numpyro.sample("rate", dist.Exponential(1.0))
    with numpyro.plate("counts", len(counts)):
        numpyro.sample("n", dist.Poisson(rate), obs=jnp.array(counts))
    share = numpyro.sample("share", dist.Uniform(0.0, 1.0))
    numpyro.factor("heads", heads * jnp.log(share) + (20 - heads) * jnp.log1p(-share))
    numpyro.deterministic("odds", share / (1 - share))


def truth(measured: np.ndarray, counts: tuple[int, ...], heads: int) -> KnownTarget:
    covariance = np.linalg.inv(np.eye(2) / 4 + LOADS.T @ LOADS / 0.16)
    mean = covariance @ LOADS.T @ measured / 0.16
    exact = [scipy.stats.norm(m, s) for m, s in zip(mean, np.sqrt(np.diag(covariance)), strict=True)]
    exact += [scipy.stats.gamma(1 + sum(counts), scale=1 / (1 + len(counts)))]
    exact += [scipy.stats.beta(1 + heads, 21 - heads)]
    numbers = np.array([[d.mean(), d.std(), d.ppf(0.05), d.ppf(0.95)] for d in exact]).T
    return KnownTarget(None, *numbers, None)


def of_four_sites(mcmc: MCMC) -> np.ndarray:
    found = mcmc.get_samples(group_by_chain=True)
    return np.concatenate([found["x"], *(np.asarray(found[name])[..., None] for name in ("rate", "share"))], axis=-1)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_kernels_are_exact(kernel):
    measured, given = np.array([1.5, 0.4]), {"counts": (0, 2, 1), "heads": 17}
    mcmc = run(kernel(four_sites), measured, draws=800, warmup=400, **given)
    draws = of_four_sites(mcmc)
    assert draws.shape == (4, 800, 4)
    assert np.corrcoef(draws[..., :2].reshape(-1, 2).T)[0, 1] < -0.7
    assert worst_error(draws, truth(measured, **given)) < 5
    assert worst_error(draws, truth(measured + 0.2, **given)) > 5
    assert worst_error(draws, truth(measured, (0, 2, 2), 17)) > 5
    found = mcmc.get_samples()
    np.testing.assert_allclose(found["odds"], found["share"] / (1 - found["share"]), rtol=1e-9)


@pytest.mark.parametrize(
    "way", [pytest.param("sequential", marks=pytest.mark.slow), "alone", pytest.param(jax.vmap, marks=pytest.mark.slow)]
)
def test_chains_may_be_by_themselves(way):
    measured, given = np.array([1.5, 0.4]), {"counts": (0, 2, 1), "heads": 17}
    method, chains = ("sequential", 1) if way == "alone" else (way, 2)
    fields = ("potential_energy", "log_likelihood")
    mcmc = run(
        Dream(four_sites), measured, draws=1000, chains=chains, chain_method=method, extra_fields=fields, **given
    )
    draws = of_four_sites(mcmc)
    assert draws.shape == (chains, 1000, 4)
    assert worst_error(draws, truth(measured, **given)) < 5
    assert {name: x.shape for name, x in mcmc.get_extra_fields(group_by_chain=True).items()} == {
        "potential_energy": (chains, 1000),
        "log_likelihood": (chains, 1000),
    }


def two_modes() -> None:
    x = numpyro.sample("x", dist.Uniform(-10.0, 10.0))
    exponents = -0.5 * ((x - jnp.array([-5.0, 5.0])) / jnp.array([0.6, 0.4])) ** 2
    numpyro.factor("modes", jax.nn.logsumexp(exponents, b=jnp.array([0.25 / 0.6, 0.75 / 0.4])))


@pytest.mark.slow
@pytest.mark.parametrize("inner", ["default", "nuts"])
def test_tempering_goes_from_mode_to_mode(inner):
    start = init_to_value(values={"x": -5.0})
    settings = {} if inner == "default" else {"inner": nuts, "inner_settings": (("max_tree_depth", 4),)}
    tempering = ParallelTempering(two_modes, rungs=8, init_strategy=start, steps=2, **settings)
    fields = ("info.round_trips", "info.swap_rate", "info.beta", "num_steps")
    mcmc = run(tempering, draws=2000 if inner == "default" else 1000, warmup=1000, extra_fields=fields)
    is_second = np.asarray(mcmc.get_samples(group_by_chain=True)["x"] > 0, dtype=float)
    assert abs(in_errors(is_second, 0.75)) < 5
    assert abs(in_errors(is_second, 0.6)) > 5
    told = mcmc.get_extra_fields(group_by_chain=True)
    assert told["info.round_trips"][:, -1].min() > 5
    assert told["info.swap_rate"].shape[2] == 7
    assert (told["info.beta"][..., 0] == 0).all()
    if inner == "default":
        assert (told["num_steps"] == 2 * 8).all()
    alone = run(Metropolis(two_modes, init_strategy=start), draws=500).get_samples(group_by_chain=True)["x"] > 0
    assert (alone == alone[:, :1]).all()


def in_errors(values: np.ndarray, exact: float) -> float:
    import arviz

    return (values.mean() - exact) / (values.std() / np.sqrt(arviz.ess(values, method="mean")))


@pytest.mark.slow
def test_a_state_tells_the_densities_of_its_draws():
    problem = example("conversion_reaction")
    model = to_numpyro(problem)
    fields = ("potential_energy", "log_likelihood", "accept_prob", "num_steps", "info.step_size")
    mcmc = run(AdaptiveMetropolis(model, steps=3), draws=20, extra_fields=fields)
    told, draws = mcmc.get_extra_fields(), stacked(mcmc.get_samples(), ["A_0", "B_0"])
    np.testing.assert_allclose(told["log_likelihood"], problem.evaluate(draws).log_likelihood, rtol=1e-9)
    energies = [potential_energy(model, (), {}, sites(problem, problem.unconstrain(u))) for u in draws[::10]]
    np.testing.assert_allclose(told["potential_energy"][::10], energies, rtol=1e-6)
    assert (told["num_steps"] == 3).all()
    assert told["accept_prob"].mean() == pytest.approx(0.337, abs=0.1)
    per_chain = mcmc.get_extra_fields(group_by_chain=True)["info.step_size"]
    assert (per_chain == per_chain[:, :1]).all()  # nothing is tuned after warmup
    assert mcmc.sampler.get_diagnostics_str(mcmc.last_state).startswith("3 evaluations, acc. prob=0.")


def test_the_same_seed_draws_the_same_and_nothing_is_traced_again():
    problem, traces = example("conversion_reaction"), []
    model = to_numpyro(problem)

    def counted() -> None:
        traces.append(1)
        model()

    mcmc, draws, counts = run(Dream(counted, steps=2), draws=50, warmup=50), [], []
    for key in (0, 0, 1):
        traces.clear()
        mcmc.run(jax.random.key(key))
        draws.append(mcmc.get_samples()["A_0"])
        counts.append(len(traces))
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert counts[0] == counts[1] == counts[2] < 10  # of the start alone
    traces.clear()
    mcmc.post_warmup_state = mcmc.last_state
    mcmc.run(jax.random.key(2))
    assert len(traces) == counts[0]
    assert (mcmc.last_state.i == 2 * 150).all()


def test_model_arguments_are_no_part_of_what_is_compiled():
    problem, traces = example("conversion_reaction"), []
    model, other = to_numpyro(problem), shifted(problem, 0.5)

    def counted(densities: object) -> None:
        traces.append(1)
        model(densities)

    mcmc = MCMC(AdaptiveMetropolis(counted), num_warmup=300, num_samples=600, jit_model_args=True, progress_bar=False)
    counts, means = [], []
    for one in (problem, other):
        traces.clear()
        mcmc.run(jax.random.key(0), one.batched)
        counts.append(len(traces))
        means.append(mcmc.get_samples()["A_0"].mean())
    assert counts[1] == counts[0] - 2
    # All measurements are 0.5 higher, and so, nearly, is half of the total, of which A is a quarter in the end.
    assert means[1] - means[0] > 0.3


def test_kernels_refuse_what_they_cannot_do():
    def mixture() -> None:
        z = numpyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Normal(z, 1.0), obs=0.5)

    with pytest.raises(ValueError, match="steps is 0"):
        Dream(four_sites, steps=0)
    with pytest.raises(ValueError, match=r"sites \['z'\] are discrete"):
        run(Metropolis(mixture))
    with pytest.raises(ValueError, match="rungs is 1"):
        run(ParallelTempering(two_modes, rungs=1))


PARALLEL = """
import jax, numpy as np, kinbayes as kb
from numpyro.infer import MCMC
from kinbayes.hosts.numpyro import Dream
model = kb.to_numpyro(kb.read_petab(kb.example("conversion_reaction")))
def draws(way):
    mcmc = MCMC(Dream(model), num_warmup=50, num_samples=50, num_chains=2, chain_method=way, progress_bar=False)
    mcmc.run(jax.random.key(0))
    return mcmc.get_samples()["A_0"]
assert jax.local_device_count() == 2
np.testing.assert_allclose(draws("parallel"), draws("sequential"), rtol=1e-9)
"""


@pytest.mark.slow
def test_chains_may_have_devices_of_their_own():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    subprocess.run([sys.executable, "-c", PARALLEL], check=True, env=os.environ | flags)
