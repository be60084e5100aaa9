"""nutpie's chains, on posteriors that are known in closed form and need no model."""

import arviz as az
import numpy as np
import pytest
from scipy import stats

import kinbayes as kb
from kinbayes.problem import native_posterior as module
from kinbayes.problem.native_posterior import native_posterior
from kinbayes.run.loop.background import native_target
from kinbayes.samplers.nutpie import BESIDE, _climbed, _starts, start_chain
from tests.fake_kernel import numbers

LENGTHS = {"num_warmup": 500, "num_draws": 1000}
COVARIANCE = np.array([[1.0, 0.95, 0.5], [0.95, 1.0, 0.4], [0.5, 0.4, 4.0]])
MEAN = np.array([1.0, -2.0, 0.5])
WIDE = 100.0  # sd of a prior that adds 1e-4 to a precision

# A normal likelihood beside priors with two walls, one wall, and none.
BOUNDED = [
    kb.Parameter("two", kb.Uniform(-1.0, 2.0)),
    kb.Parameter("lower", kb.Normal(0.0, 2.0), lower=0.5),
    kb.Parameter("upper", kb.Normal(0.0, 2.0), upper=1.0),
    kb.Parameter("none", kb.Normal(0.0, 2.0)),
]
CENTRE, SD = np.array([1.5, -0.5, 1.5, 1.0]), np.array([1.0, 1.5, 1.0, 0.5])


def run(target, starts, **settings):
    """Draws of u after warmup, (chains, draws, dim)."""
    chains = [start_chain(target, x, seed=k, **LENGTHS, **settings) for k, x in enumerate(starts)]
    assert all(chain.wait(60.0) for chain in chains)
    return np.stack([chain.draws().position[LENGTHS["num_warmup"] :] for chain in chains])


def worst_deviation(draws, mean, variance):
    """The largest deviation of means and variances, in standard errors from the effective sample size."""
    found = []
    for k in range(draws.shape[-1]):
        for values, expected in ((draws[..., k], mean[k]), ((draws[..., k] - mean[k]) ** 2, variance[k])):
            found.append((values.mean() - expected) / (values.std() / np.sqrt(az.ess(values, method="mean"))))
    return np.max(np.abs(found))


@pytest.fixture(scope="module")
def correlated():
    parameters = [kb.Parameter(f"p{k}", kb.Normal(0.0, WIDE)) for k in range(3)]
    return native_target(native_posterior(parameters, numbers(MEAN, np.linalg.inv(COVARIANCE))))


@pytest.fixture(scope="module")
def starts():
    return MEAN + np.random.default_rng(0).normal(size=(4, 3))


@pytest.mark.parametrize("mass_matrix", ["low_rank", "diagonal"])
def test_moments_of_a_correlated_normal(correlated, starts, mass_matrix):
    draws = run(correlated, starts, mass_matrix=mass_matrix)
    covariance = np.linalg.inv(np.linalg.inv(COVARIANCE) + np.eye(3) / WIDE**2)
    assert worst_deviation(draws, MEAN, np.diag(covariance)) < 5
    # Negative controls: a mean a quarter of a standard deviation off, and a spread a quarter too wide.
    sd = np.sqrt(np.diag(covariance))
    assert worst_deviation(draws, MEAN + 0.25 * sd, np.diag(covariance)) > 5
    assert worst_deviation(draws, MEAN, 1.25**2 * np.diag(covariance)) > 5


def truncated():
    """The closed form of BOUNDED: product normals, cut at the walls."""
    spread = np.array([np.inf, 2.0, 2.0, 2.0])
    sd = 1 / np.sqrt(1 / SD**2 + 1 / spread**2)
    mean = sd**2 * CENTRE / SD**2
    low, high = np.array([-1.0, 0.5, -np.inf, -np.inf]), np.array([2.0, np.inf, 1.0, np.inf])
    return stats.truncnorm((low - mean) / sd, (high - mean) / sd, mean, sd)


def bounded_draws():
    return run(native_target(native_posterior(BOUNDED, numbers(CENTRE, np.diag(1 / SD**2)))), np.zeros((4, 4)) + 0.1)


def test_moments_beside_walls():
    exact = truncated()
    assert worst_deviation(bounded_draws(), exact.mean(), exact.var()) < 5


def test_moments_are_wrong_with_another_volume(monkeypatch):
    # Negative control of the test above: the volume counts twice. (Without it there is no posterior in x.)
    wall, exact = module._wall, truncated()

    def twice(*args):
        found = wall(*args)
        return found._replace(log_slope=2 * found.log_slope, curvature=2 * found.curvature)

    monkeypatch.setattr(module, "_wall", twice)
    module._prior_code.cache_clear()
    draws = bounded_draws()
    module._prior_code.cache_clear()
    assert worst_deviation(draws, exact.mean(), exact.var()) > 10


def test_draws_come_with_their_densities(correlated, starts):
    chain = start_chain(correlated, starts[0], seed=0, **LENGTHS)
    assert chain.wait(60.0)
    draws = chain.draws()
    expected = stats.multivariate_normal(MEAN, COVARIANCE)
    constant = expected.logpdf(MEAN)
    np.testing.assert_allclose(draws.log_likelihood, expected.logpdf(draws.position) - constant, atol=1e-10)
    np.testing.assert_allclose(draws.log_prior, stats.norm(0, WIDE).logpdf(draws.position).sum(-1), atol=1e-10)
    assert set(draws.info) == {"acceptance_rate", "diverging", "energy", "tree_depth", "n_steps", "step_size"}
    # An energy is minus the log density and a kinetic energy, which is not negative.
    assert np.all(draws.info["energy"] >= -(draws.log_prior + draws.log_likelihood))
    assert np.all(draws.info["n_steps"] < 2 ** (1 + draws.info["tree_depth"]))


def test_a_chain_starts_where_it_is_told_and_then_beside():
    start = np.array([1.0, -2.0])
    offered = _starts(start)
    np.testing.assert_array_equal(offered(7), start)
    assert 0 < np.abs(offered(8) - start).max() < 10 * BESIDE


def test_a_far_start_climbs_to_the_bulk(correlated):
    far = MEAN + np.array([3.0, -300.0, 200.0])
    highest = correlated.value_and_grad(MEAN)[0]
    assert correlated.value_and_grad(far)[0] < highest - 1e5
    assert correlated.value_and_grad(_climbed(correlated, far))[0] > highest - 10
    first = [
        start_chain(correlated, far, num_warmup=1, num_draws=1, seed=0, max_tree_depth=1, climb=climb)
        for climb in (True, False)
    ]
    assert all(chain.wait(60.0) for chain in first)
    climbed, stayed = (chain.draws().position[0] for chain in first)
    assert np.abs(climbed - MEAN).max() < 20 < np.abs(stayed - MEAN).max()


def test_a_start_in_the_bulk_stays(correlated):
    for start in np.random.default_rng(1).multivariate_normal(MEAN, COVARIANCE, size=20):
        np.testing.assert_array_equal(_climbed(correlated, start), start)


def test_climbing_turns_back_where_simulations_fail():
    parameters = [kb.Parameter(name, kb.Normal(0.0, WIDE)) for name in ("a", "b")]
    failing = native_target(native_posterior(parameters, numbers(np.array([5.0, 0.0]), np.eye(2), fails_above=0.0)))
    start = np.array([-50.0, 30.0])
    top = _climbed(failing, start)
    assert top[0] <= 0.0
    assert failing.value_and_grad(top)[0] > failing.value_and_grad(start)[0] + 100


def test_same_seed_same_draws(correlated, starts):
    first, again, other = (run_one(correlated, starts[0], seed) for seed in (2**63 + 1, 2**63 + 1, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def run_one(target, start, seed):
    chain = start_chain(target, start, num_warmup=50, num_draws=50, seed=seed)
    assert chain.wait(60.0)
    return chain.draws().position


def test_settings_reach_the_sampler(correlated, starts):
    chain = start_chain(correlated, starts[0], seed=0, **LENGTHS, max_tree_depth=2, target_acceptance=0.95)
    assert chain.wait(60.0)
    info = {name: values[500:] for name, values in chain.draws().info.items()}
    assert info["tree_depth"].max() == 2
    assert info["acceptance_rate"].mean() > 0.9


def test_a_start_with_a_gradient_of_zero_is_left():
    # In the middle of its box the second entry has a gradient of exactly 0.
    parameters = [kb.Parameter("a", kb.Normal(0, 1)), kb.Parameter("b", kb.Uniform(-1, 1))]
    target = native_target(native_posterior(parameters, numbers(np.zeros(2), np.diag([1.0, 0.0]))))
    start = np.array([0.5, 0.0])
    assert target.value_and_grad(start)[1][1] == 0.0
    draws = run(target, np.tile(start, (4, 1)))
    assert worst_deviation(draws, [0.0, 0.0], [0.5, 1 / 3]) < 5


def test_a_chain_that_cannot_start_says_so():
    parameters = [kb.Parameter("a", kb.Normal(0, 1))]
    target = native_target(native_posterior(parameters, numbers(np.zeros(1), np.eye(1), fails_above=-10.0)))
    chain = start_chain(target, np.zeros(1), seed=0, **LENGTHS)
    with pytest.raises(RuntimeError, match="could not start a chain"):
        chain.wait(60.0)


def test_a_stopped_chain_keeps_its_draws(correlated, starts):
    chain = start_chain(correlated, starts[0], num_warmup=100, num_draws=10**9, seed=0)
    assert not chain.wait(0.1)
    before = len(chain.draws().position)
    chain.stop()
    assert before <= len(chain.draws().position) < 10**9
    assert chain.wait(0.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_warmup": 0}, "needs 1 iteration at least"),
        ({"step_size": 0.0}, r"step_size is 0\.0; it must be a finite positive number"),
        ({"target_acceptance": 1.0}, r"target_acceptance is 1\.0; it must lie between 0 and 1"),
        ({"max_tree_depth": 0}, "max_tree_depth is 0; it must be at least 1"),
        ({"mass_matrix": "dense"}, "unknown mass_matrix 'dense'; choose 'diagonal' or 'low_rank'"),
    ],
)
def test_wrong_settings_are_refused(correlated, starts, wrong, message):
    with pytest.raises(ValueError, match=message):
        start_chain(correlated, starts[0], **{**LENGTHS, "seed": 0, **wrong})
