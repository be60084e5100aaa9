"""Laplace approximations, against posteriors that are normal, and modes that have none."""

import numpy as np
import pytest
from scipy import stats

import kinbayes as kb
from kinbayes.results.attributes import attributes
from kinbayes.results.store import save
from kinbayes.run import laplace as module
from kinbayes.run.curvature import Curvature
from kinbayes.run.laplace import LaplaceError
from tests.run.modes import made, mode_at

# The closed form of models/conversion_reaction.
MEAN, SD, CORRELATION = np.array([9.976119, 0.912122]), np.array([0.305150, 0.284928]), -0.687575
EVIDENCE = -20.973131  # log density of the measurements under their normal prior predictive distribution


@pytest.fixture(scope="module")
def conversion():
    return kb.read_petab(kb.example("conversion_reaction"))


@pytest.fixture(scope="module")
def mode(conversion):
    return mode_at(conversion, A_0=MEAN[0], B_0=MEAN[1])


@pytest.fixture(scope="module")
def approximation(conversion, mode):
    return kb.laplace(conversion, mode, draws=2000, chains=2, seed=3)


def test_a_normal_posterior_is_its_own_approximation(approximation):
    found = approximation.laplace
    np.testing.assert_allclose(found["mode"], MEAN, atol=1e-6)
    np.testing.assert_allclose(found.standard_deviation, SD, rtol=1e-3)
    np.testing.assert_allclose(found.covariance[0, 1], CORRELATION * SD[0] * SD[1], rtol=1e-3)
    np.testing.assert_allclose(found.covariance.values @ found.hessian.values, -np.eye(2), atol=1e-8)


def test_draws_are_of_it(approximation):
    draws = np.stack([approximation.posterior[name].values.ravel() for name in ("A_0", "B_0")], axis=-1)
    size = len(draws)
    assert size == 4000
    assert np.all(np.abs(draws.mean(axis=0) - MEAN) < 5 * SD / np.sqrt(size))
    assert np.all(np.abs(draws.var(axis=0) / SD**2 - 1) < 5 * np.sqrt(2 / size))
    assert np.corrcoef(draws.T)[0, 1] == pytest.approx(CORRELATION, abs=5 * (1 - CORRELATION**2) / np.sqrt(size))


def test_densities_and_evidence_are_those_of_the_posterior(approximation):
    known = attributes(approximation)
    assert known["log_evidence"] == pytest.approx(EVIDENCE, abs=1e-3)
    np.testing.assert_allclose(
        approximation.sample_stats.lp - approximation.sample_stats.log_approximation, EVIDENCE, atol=1e-3
    )
    assert known["effective_share"] == pytest.approx(1.0, abs=1e-3)
    assert known["share_outside"] == 0.0


def test_it_is_no_sampling_run(approximation):
    assert attributes(approximation)["approximation"] == "laplace"
    is_converged, reasons = kb.converged(approximation)
    assert not is_converged
    assert "an approximation (laplace)" in reasons[0]


def test_it_can_be_stored(approximation, tmp_path):
    again = kb.load(save(approximation, tmp_path / "laplace.nc"))
    np.testing.assert_array_equal(again.laplace.covariance, approximation.laplace.covariance)
    assert list(again.laplace.parameter.values) == ["A_0", "B_0"]


def test_seeds_tell_draws_apart(conversion, mode, approximation):
    once = kb.laplace(conversion, mode, draws=2000, chains=2, seed=3)
    other = kb.laplace(conversion, mode, draws=2000, chains=2, seed=4)
    np.testing.assert_array_equal(once.posterior.A_0, approximation.posterior.A_0)
    assert not np.any(other.posterior.A_0.values == approximation.posterior.A_0.values)


def test_draws_end_at_walls_and_the_rest_is_counted():
    problem = made([kb.Parameter("k", kb.Uniform(0.0, 10.0))], ["k"], [0.5], [0.5])
    found = kb.laplace(problem, mode_at(problem, k=0.5), draws=2000, chains=2)
    beyond = stats.norm.cdf(-1)  # one standard deviation to the wall
    assert attributes(found)["share_outside"] == pytest.approx(beyond, abs=5 * np.sqrt(beyond / 4000))
    assert float(found.posterior.k.min()) > 0
    assert float(found.laplace.standard_deviation[0]) == pytest.approx(0.5, rel=1e-6), "the normal itself is not cut"


# ---- refusals


def test_a_mode_on_a_wall_is_refused():
    problem = made(
        [kb.Parameter("k", kb.LogUniform(0.1, 10.0)), kb.Parameter("h")], ["k", "h"], [20.0, 1.0], [1.0, 1.0]
    )
    with pytest.raises(LaplaceError, match=r"k on its upper bound, 10\)"):
        kb.laplace(problem, mode_at(problem, k=10.0, h=1.0))


def product(prior):
    parameters = [kb.Parameter(name, prior, scale="ln", lower=1e-4, upper=1e4) for name in ("k1", "k2", "k3")]
    return made(parameters, ["k1 * k2", "k3"], [1.0, 1.0], [0.1, 0.1])


def test_a_product_is_refused_by_name_of_its_direction():
    problem = product(kb.LogUniform(1e-4, 1e4))
    with pytest.raises(LaplaceError, match=r"0\.71 k[12] - 0\.71 k[12] ") as refusal:
        kb.laplace(problem, mode_at(problem, k1=1.0, k2=1.0, k3=1.0))
    assert "k3" not in str(refusal.value)


def test_what_a_normal_prior_determines_is_not_refused():
    problem = product(kb.Normal(0.0, 1.0, on="scaled"))
    found = kb.laplace(problem, mode_at(problem, k1=1.0, k2=1.0, k3=1.0)).laplace
    sd = np.sqrt((1 + 1 / 201) / 2)  # of k1: along the difference 1, along the sum 1/sqrt(1 + 2/0.1²)
    np.testing.assert_allclose(found.standard_deviation[:2], sd, rtol=1e-3)


def test_a_point_between_two_modes_curves_upwards():
    problem = made([kb.Parameter("k", kb.Uniform(-3.0, 3.0))], ["k^2"], [1.0], [0.1])
    with pytest.raises(LaplaceError, match=r"curves upwards along 1\.00 k "):
        kb.laplace(problem, mode_at(problem, k=0.0))
    kb.laplace(problem, mode_at(problem, k=1.0))


def test_a_point_beside_the_mode_is_refused(conversion):
    with pytest.raises(LaplaceError, match=r"a Newton step promises .* and moves A_0 by 1"):
        kb.laplace(conversion, mode_at(conversion, A_0=MEAN[0] - SD[0], B_0=MEAN[1] - CORRELATION * SD[1]))


def test_a_curvature_smaller_than_its_error_is_refused(conversion):
    hessian = -np.array([[100.0, 99.9], [99.9, 100.0]])  # eigenvalues 0.001 and 2 with unit diagonal
    width, apart = np.ones(2) * 10, np.array([[0.0, 1.0], [-1.0, 0.0]])
    module._refuse_directions(conversion, Curvature(np.zeros(2), hessian, 0.01 * apart), width)
    with pytest.raises(LaplaceError, match=r"numerically singular along 0\.71 (A_0 - 0\.71 B_0|B_0 - 0\.71 A_0)"):
        module._refuse_directions(conversion, Curvature(np.zeros(2), hessian, 0.1 * apart), width)


def test_results_of_another_kind_are_refused(conversion, approximation):
    with pytest.raises(ValueError, match="no group map_estimate"):
        kb.laplace(conversion, approximation)
