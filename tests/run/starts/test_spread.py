"""Starts around optima, against posteriors that are known in closed form."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import kinbayes as kb
from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.run.starts import spread as spreading

# The closed form of models/conversion_reaction.
MEAN, SD, CORRELATION = np.array([9.976119, 0.912122]), np.array([0.305150, 0.284928]), -0.687575
RATE_FORWARD, RATE_BACKWARD, SIGMA, PRIOR_MEAN, PRIOR_SD = 0.3, 0.1, 0.5, np.array([8.0, 3.0]), 4.0


def made(parameters, observed, measured, sd, *, derivative="-A", times=(1.0,)):
    """A problem of one state; `observed` are formulas, each with one measured value and one standard deviation."""
    given = {p.name: const(1.0) for p in parameters}
    model = Model("made", {"A": parse(derivative)}, {"A": const(1.0), **given})
    pairs = enumerate(zip(observed, sd, strict=True))
    observables = [kb.Observable(f"y{k}", formula, kb.noise.normal(own)) for k, (formula, own) in pairs]
    rows = [(f"y{k}", t, m) for k, m in enumerate(measured) for t in times]
    data = pd.DataFrame(rows, columns=["observableId", "time", "measurement"])
    return kb.Problem(model, parameters, observables, data)


def squared(prior):
    """Of k only the square is measured, as 1 with an error of 0.1: two modes with a standard deviation of 1/20 each."""
    return made([kb.Parameter("k", prior, lower=-3.0, upper=3.0)], ["k^2"], [1.0], [0.1])


def spread(problem, ends, chains, seed=0):
    ends = spreading.inside(problem, np.atleast_2d(np.asarray(ends, dtype=float)))
    found = problem.evaluate(ends)
    log_density = found.log_likelihood + found.log_prior
    return spreading.spread(problem, ends, log_density, chains, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def conversion():
    return kb.read_petab(kb.example("conversion_reaction"))


@pytest.fixture(scope="module")
def normal(conversion):
    return spread(conversion, MEAN, 2000)


def test_a_normal_posterior_is_its_own_approximation(normal):
    (optimum,) = normal.optima
    covariance = optimum.factor @ optimum.factor.T
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), SD, rtol=1e-3)
    assert covariance[0, 1] / np.prod(SD) == pytest.approx(CORRELATION, rel=1e-3)


def test_the_mass_of_a_normal_posterior_is_its_evidence(conversion, normal):
    total = RATE_FORWARD + RATE_BACKWARD
    rows = []
    for m in conversion.measurements:
        decay = np.exp(-total * m.time)
        a = np.array([RATE_BACKWARD + RATE_FORWARD * decay, RATE_BACKWARD * (1 - decay)]) / total
        rows.append(a if m.observable == "A_measured" else 1 - a)
    design, measured = np.array(rows), np.array([m.value for m in conversion.measurements])
    covariance = SIGMA**2 * np.eye(len(design)) + PRIOR_SD**2 * design @ design.T
    evidence = stats.multivariate_normal(design @ PRIOR_MEAN, covariance).logpdf(measured)
    assert normal.optima[0].log_mass == pytest.approx(evidence, abs=1e-3)


def test_starts_are_spread_twice_as_wide_as_the_posterior(normal):
    deviations = (normal.points - MEAN) / SD
    error = 2 * np.sqrt(2 / len(deviations))  # of a variance of 2, independent normal draws
    np.testing.assert_allclose(np.var(deviations, axis=0), 2.0, atol=5 * error)
    assert np.all(np.abs(np.var(deviations, axis=0) - 1.0) > 5 * error)  # negative control: as wide as the posterior
    assert normal.num_pulled <= 1  # log density 20 below: of 2000 starts exp(-10) * 2000 = 0.09 are expected


@pytest.mark.parametrize(
    ("prior", "chains"),
    [
        (kb.Uniform(-3.0, 3.0), (2, 2)),
        (kb.Normal(1.0, 1.0), (3, 1)),  # exp(-2) of the mass at -1
        (kb.Normal(4.25, 1.0), (4,)),  # exp(-8.5)
    ],
)
def test_modes_have_chains_by_mass(prior, chains):
    found = spread(squared(prior), [[-1.0], [1.0], [1.0], [1.01]], 4)
    assert found.num_distinct == 2
    assert found.chains == chains
    starts = np.array([o.position[0] for o, count in zip(found.optima, chains, strict=True) for _ in range(count)])
    assert np.all(np.sign(found.points[:, 0]) == np.sign(starts))
    assert len(chains) == 2 or found.points.min() > 0


def test_every_mode_that_has_a_chain_is_one_of_the_largest():
    found = spread(squared(kb.Normal(1.0, 1.0)), [[-1.0], [1.0]], 1)
    assert found.chains == (1, 0)
    assert found.points[0, 0] > 0


def test_chains_are_dealt():
    assert spreading.dealt(np.zeros(3), 7) == [3, 2, 2]
    assert spreading.dealt(np.log([0.9, 0.1]), 8) == [7, 1]
    assert spreading.dealt(np.zeros(3), 2) == [1, 1, 0]


def test_ends_along_a_flat_line_are_one_optimum():
    parameters = [kb.Parameter(n, lower=-1.0, upper=1.0) for n in ("a", "b")]
    ridge = made(parameters, ["a + b"], [0.0], [0.01])
    found = spread(ridge, [[-0.9, 0.9], [0.0, 0.0], [0.7, -0.7]], 200)
    assert found.num_distinct == 1
    (optimum,) = found.optima
    sd = np.linalg.svd(optimum.factor, compute_uv=False)
    width = 0.95 * 2.0 / 4  # a quarter of the uniform prior's 95 %, known from 1000 draws
    np.testing.assert_allclose(sd, [width, 0.01 / math.sqrt(2)], rtol=0.02)
    assert np.abs(found.points).max() < 1.0


def test_a_mode_on_a_wall_falls_exponentially():
    # A slope of (0 + 10) / 0.5² = 40 at the wall, where k = 0; the other parameter is free.
    parameters = [kb.Parameter("k", lower=0.0, upper=1.0), kb.Parameter("b", kb.Normal(0.0, 2.0))]
    walled = made(parameters, ["k"], [-10.0], [0.5])
    found = spread(walled, [0.0, 0.0], 2000)
    (optimum,) = found.optima
    np.testing.assert_allclose(optimum.decay, [1 / 40, 0.0], rtol=1e-3)
    measured = stats.norm(-10.0, 0.5)
    evidence = measured.logsf(0.0)  # times the uniform prior's density of 1; the upper wall is 400 below
    # The exponential law leaves out the curvature: a part of 0.5² / 10² of the mass.
    assert optimum.log_mass == pytest.approx(evidence, abs=0.0125)
    assert np.all((found.points[:, 0] > 0.0) & (found.points[:, 0] < 1.0))
    scale = math.sqrt(2) / 40
    assert found.points[:, 0].mean() == pytest.approx(scale, abs=5 * scale / math.sqrt(2000))
    assert abs(found.points[:, 0].mean() - 1 / 40) > 5 * scale / math.sqrt(2000)  # negative control: not spread wider


def test_upper_walls_hold_too():
    walled = made([kb.Parameter("k", lower=0.0, upper=1.0)], ["k"], [11.0], [0.5])
    found = spread(walled, [1.0], 20)
    assert found.optima[0].decay[0] == pytest.approx(-1 / 40, rel=1e-3)
    assert np.all((found.points > 0.0) & (found.points < 1.0))


def test_starts_that_lie_too_low_are_pulled_back():
    # Along the curve b = exp(a) the posterior is 100 times as wide as across; the normal approximation is straight.
    parameters = [kb.Parameter("a", kb.Normal(0.0, 1.0)), kb.Parameter("b", kb.Normal(1.0, 4.0))]
    bent = made(parameters, ["b - exp(a)"], [0.0], [0.01])
    found = spread(bent, [0.0, 1.0], 50)
    densities = bent.evaluate(found.points)
    assert found.num_pulled > 25
    assert np.all(densities.log_likelihood + densities.log_prior >= found.optima[0].log_density - 10 * bent.dim)
    assert len(np.unique(found.points, axis=0)) == 50


def test_starts_that_cannot_be_simulated_are_drawn_anew():
    # A' = k A² from 1 is infinite at 1/k, before the last measurement where k > 1.
    parameters = [kb.Parameter("k", lower=0.0, upper=2.0)]
    exploding = made(parameters, ["A"], [5.0], [10.0], derivative="k * A^2", times=(0.5, 1.0))
    found = spread(exploding, [0.9], 30)
    assert np.isfinite(exploding.evaluate(found.points).log_likelihood).all()
    assert found.points.max() < 1.0
    assert sum(found.failures.values()) > 0
    assert set(found.failures) <= {"step_too_small", "not_finite", "max_steps", "solver_failed"}


def test_the_same_random_numbers_give_the_same_starts(conversion):
    np.testing.assert_array_equal(spread(conversion, MEAN, 3).points, spread(conversion, MEAN, 3).points)
    assert not np.array_equal(spread(conversion, MEAN, 3).points, spread(conversion, MEAN, 3, seed=1).points)
