"""Models of the likelihood's curvature, against Fisher information, differences, and repeated measurements."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import kinbayes as kb
from kinbayes.problem.noise import Noise

MODEL = "A' = -k*A; A = 1; k = 1; s = 1; sd = 1"
TIMES = np.linspace(0.0, 3.0, 7)
U = np.array([[-0.2, 0.3, -1.0], [0.4, -0.5, 0.2]])


def problem(data: pd.DataFrame, noise: Noise, prior=None, engine="native") -> kb.Problem:
    parameters = [kb.Parameter(name, prior, scale="log10", lower=1e-3, upper=1e3) for name in ("k", "s", "sd")]
    model = kb.read_antimony(MODEL)
    return kb.Problem(
        model, parameters, [kb.Observable("y", "s * A", noise)], data, engine=engine, rtol=1e-9, atol=1e-12
    )


def table(values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"observableId": "y", "time": TIMES, "measurement": values})


def at(found: kb.Problem, points: np.ndarray, weights=None) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(part) for part in found.batched.curvature(jnp.asarray(points), weights))


DATA = table(1.7 * np.exp(-0.8 * TIMES) + 0.1 * np.cos(9.0 * TIMES))


@pytest.mark.parametrize("engine", ["native", pytest.param("jax", marks=pytest.mark.slow)])
def test_values_and_gradients_are_the_posteriors(engine):
    found = problem(DATA, kb.noise.normal("sd"), engine=engine)
    values = at(found, U)
    expected = [np.asarray(part) for part in found.batched.value_and_grad(jnp.asarray(U))]
    for part, other in zip(values[:4], expected, strict=True):
        np.testing.assert_allclose(part, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("noise", [kb.noise.normal("sd"), kb.noise.log_normal("sd"), kb.noise.laplace("sd")])
def test_on_average_over_fitting_measurements_it_is_fishers(noise):
    rng, u = np.random.default_rng(0), U[:1]
    found = problem(DATA, noise)
    rows = found.rows(u)
    drawn = noise.draw(rng, np.tile(rows.simulated[0], (4000, 1)), np.tile(rows.noise[0, :, 0], (4000, 1)))
    mean = np.mean([at(found.with_data(table(np.abs(y))), u)[4][0] for y in drawn[:300]], axis=0)
    expected = found.fisher(u[0])
    sd = np.sqrt(np.diag(expected))
    # Entries scatter by their own size over the root of 300 draws of 7 measurements.
    np.testing.assert_allclose(mean / np.outer(sd, sd), expected / np.outer(sd, sd), atol=5 * 2 / np.sqrt(300 * 7))
    assert np.abs(1.3 * mean / np.outer(sd, sd) - expected / np.outer(sd, sd)).max() > 5 * 2 / np.sqrt(300 * 7)


def test_far_from_the_measurements_it_knows_what_a_larger_sd_would_gain():
    found = problem(table(np.full(7, 500.0)), kb.noise.normal("sd"))
    u = np.array([[0.0, 0.0, -1.0]])
    information = at(found, u)[4][0]
    step = 1e-4 * np.eye(3)[2]
    ends = [-float(found.log_likelihood(u[0] + k * step)) for k in (-1, 0, 1)]
    exact = (ends[0] - 2 * ends[1] + ends[2]) / 1e-8
    assert 0.3 * exact < information[2, 2] < 1.1 * exact
    assert found.fisher(u[0])[2, 2] < 1e-4 * exact
    assert np.linalg.eigvalsh(information).min() > -1e-9 * np.linalg.eigvalsh(information).max()


def test_weights_are_repeated_measurements():
    noise, counts = kb.noise.normal("sd"), np.array([0, 2, 1, 0, 3, 1, 1])
    weighted = at(problem(DATA, noise), U, jnp.asarray(np.tile(counts, (2, 1)), float))
    repeated = at(problem(DATA.loc[np.repeat(np.arange(7), counts)].reset_index(drop=True), noise), U)
    for part, other in zip(weighted, repeated, strict=True):
        np.testing.assert_allclose(part, other, rtol=1e-6, atol=1e-6)


def test_a_prior_that_is_concave_adds_its_curvature():
    flat, normal = (problem(DATA, kb.noise.normal("sd"), prior) for prior in (None, kb.Normal(0.0, 0.5, on="scaled")))
    np.testing.assert_allclose(
        at(normal, U)[4] - at(flat, U)[4], np.tile(4.0 * np.eye(3), (2, 1, 1)), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("limit", [0.2, 1.0, 1.7, 2.5, 6.0])
def test_of_a_limit_it_is_between_once_and_twice_the_curvature(limit):
    data = table(np.full(7, limit)).iloc[:1].assign(censoring="below")
    found = problem(data, kb.noise.normal(0.4))
    u = np.array([[0.0, 0.2, 0.0]])
    prediction = 10**0.2
    z = (limit - prediction) / 0.4
    hazard = np.exp(stats.norm.logpdf(z) - stats.norm.logcdf(z))
    slope = np.log(10) * prediction / 0.4
    curvature = hazard * (hazard + z) * slope**2
    assert curvature * (1 - 1e-6) <= at(found, u)[4][0, 1, 1] <= 2 * curvature


def test_a_vector_that_is_no_number_fails_and_leaves_the_others_alone():
    found = problem(DATA, kb.noise.normal("sd"))
    together = at(found, np.array([U[0], np.full(3, np.nan), U[1]]))
    alone = at(found, U)
    assert together[1][1] == -np.inf
    for part, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(part[[0, 2]], other)
