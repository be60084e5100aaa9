"""The samplers as step methods of PyMC: right, alone or beside other steppers, and safe over chains and processes."""

import os
import pickle
import subprocess
import sys
from functools import partial

import arviz as az
import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree
from pymc.step_methods.compound import Competence

import kinbayes as kb
from kinbayes.hosts import pymc_target
from kinbayes.hosts.pymc import to_pymc
from kinbayes.hosts.pymc_steps import AdaptiveMetropolis, Dream, Metropolis, ParallelTempering
from kinbayes.samplers.nuts import nuts

pytestmark = pytest.mark.filterwarnings("ignore:PyTensor could not link to a BLAS")

STEPS = {
    "Metropolis": Metropolis,
    "AdaptiveMetropolis": AdaptiveMetropolis,
    "Dream": partial(Dream, num_warmup=300),
    "ParallelTempering": partial(ParallelTempering, num_warmup=300, rungs=4),
}
every_step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)


def sampled(model, step, *, draws=800, tune=300, chains=2, seed=1, **settings):
    """Sample a model with the steps that a function makes of it."""
    with model:
        return pm.sample(
            draws=draws,
            tune=tune,
            chains=chains,
            cores=1,
            step=step(),
            random_seed=seed,
            progressbar=False,
            compute_convergence_checks=False,
            **settings,
        )


def errors(draws, truth):
    """Return how many standard errors the mean over chains and draws is off."""
    draws = np.asarray(draws, float)
    return abs(draws.mean() - truth) / (draws.std() / np.sqrt(az.ess(draws)))


def assert_moments(draws, mean, sd):
    assert errors(draws, mean) < 5
    assert errors((draws - mean) ** 2, sd**2) < 5


# ---- closed forms


def normal_model(correlation=0.8, observed=1.5):
    """A correlated normal whose first entry is measured, its means and its standard deviations."""
    covariance = correlation + (1 - correlation) * np.eye(3)
    with pm.Model() as model:
        x = pm.MvNormal("x", np.zeros(3), covariance)
        pm.Normal("y", x[0], 0.5, observed=observed)
    gain = covariance[0] / (1.0 + 0.25)
    return model, gain * observed, np.sqrt(np.diag(covariance - np.outer(gain, covariance[0])))


@pytest.mark.parametrize("name", STEPS)
def test_a_correlated_normal(name):
    model, mean, sd = normal_model()
    idata = sampled(model, STEPS[name])
    x = idata.posterior["x"].values
    for k in range(3):
        assert_moments(x[..., k], mean[k], sd[k])
    assert errors(x[..., 0], 0.0) > 5  # the prior's mean would not pass
    stats = idata.sample_stats
    assert 0.1 < stats["acceptance_rate"].mean() < 0.6
    assert stats["n_steps"].dtype == np.int64
    assert (stats["n_steps"] == (12 if name == "ParallelTempering" else 15)).all()


def test_two_modes():
    """x² is measured, so x is near -3 or 3; which of them is more likely the prior tells."""
    prior, noise = scipy.stats.norm(0.5, 2.0), 0.5
    with pm.Model() as model:
        x = pm.Normal("x", 0.5, 2.0)
        pm.Normal("y", x**2, noise, observed=9.0)
    grid = np.linspace(-5.0, 5.0, 20_001)
    weights = prior.pdf(grid) * scipy.stats.norm.pdf(9.0, grid**2, noise)
    truth = weights[grid > 0].sum() / weights.sum()
    tempered = sampled(model, partial(ParallelTempering, num_warmup=300, steps=2), draws=2000)
    assert errors(tempered.posterior["x"] > 0, truth) < 5
    assert errors(tempered.posterior["x"] > 0, 0.5) > 5
    without = sampled(model, AdaptiveMetropolis, initvals={"x": 3.0}, draws=300)
    assert (without.posterior["x"] > 0).all()


def test_bounded_variables_by_two_of_these_steps():
    """A Poisson rate with an exponential prior, and a part of successes with a uniform one."""
    with pm.Model() as model:
        rate, part = pm.Exponential("rate", 1.0), pm.Uniform("part", 0.0, 1.0)
        pm.Poisson("counts", rate, observed=[0, 2, 1])
        pm.Binomial("successes", 10, part, observed=8)
    idata = sampled(model, lambda: [Metropolis([rate]), Dream(part, num_warmup=300)], draws=1500)
    for name, exact in (("rate", scipy.stats.gamma(4, scale=0.25)), ("part", scipy.stats.beta(9, 3))):
        assert_moments(idata.posterior[name].values, exact.mean(), exact.std())


@every_step
def test_beside_a_discrete_variable(step):
    """Two components, as likely a priori, of which one measurement tells more or less."""
    gap, noise, observed = 1.2, 0.7, 0.5
    with pm.Model() as model:
        z = pm.Bernoulli("z", 0.5)
        x = pm.Normal("x", gap * (2 * z - 1), 1.0)
        pm.Normal("y", x, noise, observed=observed)
    first, second = scipy.stats.norm.pdf(observed, [-gap, gap], np.hypot(1.0, noise))
    truth = second / (first + second)
    idata = sampled(model, lambda: [step([x]), pm.BinaryGibbsMetropolis([z])], draws=2000)
    means = np.array([-gap, gap]) + (observed - np.array([-gap, gap])) / (1 + noise**2)
    assert errors(idata.posterior["z"], truth) < 5
    assert errors(idata.posterior["x"], means @ [1 - truth, truth]) < 5
    assert errors(idata.posterior["z"], 0.5) > 5
    if "exchange_rate" in idata.sample_stats:
        assert 0.1 < idata.sample_stats["exchange_rate"].mean() < 0.95


def test_beside_nuts():
    with pm.Model() as model:
        a = pm.Normal("a", 0.0, 1.0)
        b = pm.Normal("b", a, 1.0)
        pm.Normal("y", b, 1.0, observed=3.0)
    idata = sampled(model, lambda: [AdaptiveMetropolis([a])], draws=1500)
    assert {"step_size", "diverging"} <= {*idata.sample_stats}
    assert_moments(idata.posterior["a"].values, 1.0, np.sqrt(2 / 3))
    assert_moments(idata.posterior["b"].values, 2.0, np.sqrt(2 / 3))
    assert b.name == "b"


def test_the_posterior_of_a_kinetic_model():
    model = to_pymc(kb.read_petab(kb.example("conversion_reaction")))
    idata = sampled(model, partial(Dream, num_warmup=300), draws=1000)
    # The figures of models/conversion_reaction/README.md; the priors' means are 8 and 3.
    for name, mean, sd, prior in (("A_0", 9.976119, 0.305150, 8.0), ("B_0", 0.912122, 0.284928, 3.0)):
        draws = idata.posterior[name].values
        assert_moments(draws, mean, sd)
        assert errors(draws, prior) > 5


def test_each_ladder_tells_the_evidence():
    model, *_ = normal_model()
    idata = sampled(model, STEPS["ParallelTempering"], draws=1000)
    for chain in (0, 1):
        found = kb.log_evidence(idata.sel(chain=[chain]))
        assert found.error < 0.1
        assert abs(found.value - scipy.stats.norm.logpdf(1.5, 0.0, np.sqrt(1.25))) < 5 * found.error


# ---- tuning, chains, seeds


@pytest.fixture
def traces(monkeypatch):
    """The shapes with which the log density has been traced."""
    called, shapes = pymc_target._called, []

    def counted(in_jax, sizes, u, others, data):
        shapes.append(u.shape)
        return called(in_jax, sizes, u, others, data)

    monkeypatch.setattr(pymc_target, "_called", counted)
    return shapes


def begun(step, seed=1):
    step.set_rng(np.random.default_rng(seed))
    return step


def advanced(step, point, num_draws):
    for _ in range(num_draws):
        point, _ = step.step(point)
    return point


@pytest.mark.parametrize("step", [Metropolis, STEPS["ParallelTempering"]])
def test_other_values_compile_nothing_again(step, traces):
    with pm.Model() as model:
        data = pm.Data("data", np.zeros(3))
        x, z = pm.Normal("x", 0.0, 1.0, shape=2), pm.Bernoulli("z", 0.5)
        pm.Normal("y", x.sum() + z, 1.0, observed=data)
        one = begun(step([x]))
    point = one.step(model.initial_point())[0]
    before = len(traces)
    point = one.step(point | {"z": 1 - point["z"]})[0]
    model.set_data("data", np.ones(3))
    one.stop_tuning()
    one.step(point)
    assert len(traces) == before > 0


@every_step
def test_tuning_ends_when_pymc_says(step):
    model, *_ = normal_model()
    with model:
        one = begun(step())
    point = advanced(one, model.initial_point(), 1)
    tuning = _tuning(one)
    point = advanced(one, point, 20)
    tuned = _tuning(one)
    assert not np.array_equal(tuned, tuning)
    one.stop_tuning()
    point, stats = one.step(point)
    assert stats[0]["tune"] is False
    point = advanced(one, point, 20)
    np.testing.assert_array_equal(_tuning(one), tuned)


def _tuning(step):
    """Return the tuning, which is the last part of every state."""
    density, *_ = step._program
    kernel = step._make_program.keywords["kernels"][0](300, *[density.target(3, [], [])] * 2)
    state = kernel.init(jax.random.key(0), jnp.zeros((1, 3)))
    return step.chain.memory[-ravel_pytree(state.tuning)[0].size :]


@pytest.mark.parametrize("name", ["Metropolis", "Dream"])
def test_chains_know_nothing_of_each_other(name):
    model, *_ = normal_model()
    with model:
        one = STEPS[name]()

    def chain(seed):
        point = advanced(begun(one, seed), model.initial_point(), 20)
        one.stop_tuning()
        return advanced(one, point, 20)["x"]

    alone = {seed: chain(seed) for seed in (1, 2)}
    assert not np.array_equal(alone[1], alone[2])
    for seed in (2, 1, 1):
        np.testing.assert_array_equal(chain(seed), alone[seed])
    pair, again, first = (
        sampled(model, lambda: one, chains=chains, draws=20, tune=20).posterior["x"].values for chains in (2, 2, 1)
    )
    np.testing.assert_array_equal(pair, again)
    np.testing.assert_array_equal(pair[:1], first)
    assert not np.array_equal(pair[0], pair[1])


@pytest.mark.parametrize("step", [Metropolis, STEPS["ParallelTempering"]])
def test_a_saved_state_goes_on_as_it_would_have(step):
    with pm.Model() as model:
        x, z = pm.Normal("x", 0.0, 1.0, shape=2), pm.Bernoulli("z", 0.5)
        pm.Normal("y", x.sum() + z, 1.0, observed=0.5)
        one = begun(step([x]))
    point = advanced(one, model.initial_point(), 5)
    one.stop_tuning()
    state = pickle.dumps(one.sampling_state)
    copied = cloudpickle.loads(cloudpickle.dumps(one)) if step is Metropolis else one
    expected = advanced(one, point, 3)
    for again in (one, copied):
        again.sampling_state = pickle.loads(state)
        np.testing.assert_array_equal(advanced(again, point, 3)["x"], expected["x"])
    assert not np.array_equal(advanced(one, point, 3)["x"], expected["x"])


def test_another_stepper_may_move_the_same_variable():
    model, mean, sd = normal_model()
    idata = sampled(model, lambda: [STEPS["ParallelTempering"](), Metropolis(step_size=1.0)], draws=1000)
    assert_moments(idata.posterior["x"].values[..., 0], mean[0], sd[0])


# ---- processes

CHAINS = """
import sys
import numpy as np
import pymc as pm
from pymc.sampling.parallel import ParallelSamplingError
from kinbayes.hosts.pymc_steps import Metropolis

def draws(**how):
    with pm.Model():
        pm.Normal("x", 0.0, 1.0)
        settings = dict(draws=20, tune=20, chains=2, random_seed=1, progressbar=False)
        idata = pm.sample(step=Metropolis(), compute_convergence_checks=False, **settings, **how)
    return idata.posterior["x"].values

if __name__ == "__main__":
    in_one = draws(cores=1)
    if sys.argv[1] == "spawn":
        assert np.array_equal(draws(cores=2, mp_ctx="spawn"), in_one)
    else:
        try:
            draws(cores=2, mp_ctx="fork")
        except ParallelSamplingError as error:
            assert isinstance(error.__cause__, RuntimeError) and "spawn" in str(error), error
        else:
            raise AssertionError("a forked chain was not refused")
    print("done")
"""


@pytest.mark.parametrize("start", [pytest.param("spawn", marks=pytest.mark.slow), "fork"])
def test_chains_in_processes(start, tmp_path):
    script = tmp_path / "chains.py"
    script.write_text(CHAINS)
    found = subprocess.run(
        [sys.executable, script, start],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.stdout.endswith("done\n"), found.stderr


# ---- what is refused


@every_step
def test_discrete_variables_are_refused(step):
    with pm.Model() as model:
        z, k = pm.Bernoulli("z", 0.5), pm.Poisson("k", 3.0)
        with pytest.raises(ValueError, match="no continuous variables"):
            step()
        x = pm.Normal("x", z, 1.0)
        with pytest.raises(ValueError, match="'k' is int64"):
            step([x, k])
        assert [v.name for v in step().vars] == ["x"]
    kind = type(step(model=model))
    assert [kind._competence([v], [False]) for v in (x, k)] == [[Competence.COMPATIBLE], [Competence.INCOMPATIBLE]]


def test_settings_that_make_no_sense_are_refused():
    with pm.Model():
        x = pm.Normal("x", 0.0, 1.0)
        for make, words in (
            (lambda: Metropolis(steps=0), "steps is 0"),
            (lambda: Dream(num_warmup=-1), "num_warmup is -1"),
            (lambda: ParallelTempering(rungs=1), "rungs is 1"),
            (lambda: Metropolis([x + 1]), "not random variables"),
        ):
            with pytest.raises(ValueError, match=words):
                make()
        with pytest.raises(ValueError, match="PyMC has its own NUTS"):
            begun(ParallelTempering(inner=nuts)).step({"x": np.array(0.0)})
