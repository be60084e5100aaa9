"""The posterior: densities, gradients, failures, and what does not compile again."""

import dataclasses
import logging
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.model.model import Event, Model
from kinbayes.ode.status import Status
from kinbayes.problem import noise
from kinbayes.problem.observables import Experiment, Observable
from kinbayes.problem.parameters import Parameter, ParameterError
from kinbayes.problem.priors import LogNormal, Normal, Uniform
from kinbayes.problem.problem import Problem

MODELS = Path(__file__).parents[2] / "models"
TIMES = np.array([0.0, 0.5, 1.0, 2.0, 4.0, 8.0])
MEASURED = np.array([2.1, 1.6, 1.5, 1.0, 0.4, 0.2])
DECAY = Model("decay", {"A": parse("-k * A")}, {"A": parse("A_0"), "k": const(0.3), "A_0": const(2.0)})
PARAMETERS = [
    Parameter("k", LogNormal(-1.0, 1.0), lower=1e-3, upper=50.0),
    Parameter("A_0", Normal(2.0, 1.0)),
    Parameter("sd", Uniform(0.01, 2.0), scale="ln"),
]


def table(measured=MEASURED, times=TIMES):
    return pd.DataFrame({"observableId": "y", "time": times, "measurement": measured})


def decay(parameters=tuple(PARAMETERS), max_steps=10_000, events=()):
    return Problem(
        dataclasses.replace(DECAY, events=events),
        parameters,
        [Observable("y", "A", noise.normal("sd"))],
        table(),
        rtol=1e-10,
        atol=1e-12,
        max_steps=max_steps,
    )


@pytest.fixture(scope="module")
def problem():
    return decay()


def closed_form(u, measured=MEASURED):
    """Log prior and log likelihood, written for autodiff and for nothing else."""
    ln10 = math.log(10)
    k, a_0, sd = 10 ** u[0], u[1], jnp.exp(u[2])
    z = ln10 * u[0] + 1
    mass = stats.norm.cdf(math.log(50), -1) - stats.norm.cdf(math.log(1e-3), -1)
    prior = (
        -0.5 * z**2 - 0.5 * math.log(2 * math.pi) + math.log(ln10 / mass)
        - 0.5 * (a_0 - 2) ** 2 - 0.5 * math.log(2 * math.pi)
        + u[2] - math.log(1.99)
    )  # fmt: skip
    residual = (jnp.asarray(measured) - a_0 * jnp.exp(-k * TIMES)) / sd
    return prior, jnp.sum(-0.5 * residual**2 - jnp.log(sd) - 0.5 * math.log(2 * math.pi))


def draws(problem, size, seed=0):
    return problem.draw_prior(np.random.default_rng(seed), size)


# ---- densities and gradients


def test_densities_agree_with_the_closed_form(problem):
    for u in draws(problem, 10):
        prior, likelihood = closed_form(u)
        assert float(problem.log_prior(u)) == pytest.approx(float(prior), rel=1e-10)
        assert float(problem.log_likelihood(u)) == pytest.approx(float(likelihood), rel=1e-7)
        assert float(problem.log_density(u)) == pytest.approx(float(prior + likelihood), rel=1e-7)


def test_gradients_agree_with_the_closed_form_in_every_mode(problem):
    U = draws(problem, 4, seed=1)
    expected = np.stack([jax.grad(lambda v: sum(closed_form(v)))(jnp.asarray(u)) for u in U])
    tolerance = {"rtol": 1e-6, "atol": 1e-6}
    reverse = jax.jit(jax.vmap(jax.grad(problem.log_density)))
    np.testing.assert_allclose(reverse(U), expected, **tolerance)
    np.testing.assert_allclose(jax.jacfwd(problem.log_density)(U[0]), expected[0], **tolerance)
    value, gradient = problem.value_and_grad(U[1])
    np.testing.assert_allclose(value, sum(closed_form(U[1])), **tolerance)
    np.testing.assert_allclose(gradient, expected[1], **tolerance)


def test_a_gradient_agrees_with_finite_differences(problem):
    u, step = np.array(problem.to_scaled({"k": 0.4, "A_0": 2.2, "sd": 0.3})), 1e-4
    _, gradient = problem.value_and_grad(u)
    ends = problem.evaluate(np.concatenate([u + step * np.eye(3), u - step * np.eye(3)]))
    total = ends.log_likelihood + ends.log_prior
    np.testing.assert_allclose(gradient, (total[:3] - total[3:]) / (2 * step), rtol=1e-5)


def test_the_jacobian_of_the_predictions_is_that_of_the_solution(problem):
    u = np.array(problem.to_scaled({"k": 0.4, "A_0": 2.2, "sd": 0.3}))
    decayed = np.exp(-0.4 * TIMES)
    by_k = -2.2 * TIMES * decayed * 0.4 * math.log(10)
    expected = np.stack([by_k, decayed, 0 * TIMES], axis=-1)
    np.testing.assert_allclose(jax.jacrev(problem.simulated)(u), expected, atol=1e-7)


def test_a_batch_is_its_vectors_one_by_one(problem):
    U = draws(problem, 70, seed=2)  # more than are simulated at once
    found = problem.evaluate(U)
    assert np.all(found.status == Status.OK)
    np.testing.assert_allclose(found.log_likelihood, [problem.log_likelihood(u) for u in U], rtol=1e-9)
    np.testing.assert_allclose(found.log_prior, [problem.log_prior(u) for u in U], rtol=1e-12)
    np.testing.assert_allclose(found.log_likelihood, problem.batched.log_likelihood(U), rtol=1e-9)
    np.testing.assert_allclose(found.log_prior, problem.batched.log_prior(U), rtol=1e-12)


def test_outside_the_bounds_the_posterior_is_zero(problem):
    u = np.array(problem.to_scaled({"k": 60.0, "A_0": 2.0, "sd": 0.3}))
    assert float(problem.log_density(u)) == -math.inf


# ---- failures


@pytest.fixture(scope="module")
def explosion():
    """dA/dt = r A² from A = 1 is 1/(1 − r t), and has no value from t = 1/r on."""
    return Problem(
        Model("explosion", {"A": parse("r * A^2")}, {"A": const(1.0), "r": const(0.1)}),
        [Parameter("r", lower=0.0, upper=2.0), Parameter("sd", lower=-1.0, upper=1.0)],
        [Observable("y", "A", noise.normal("sd"))],
        table([1.0, 1.2], [0.0, 2.0]),
        rtol=1e-8,
        max_steps=300,
    )


def test_a_failed_simulation_is_a_status(explosion):
    found = explosion.evaluate(np.array([[0.1, 0.5], [0.9, 0.5], [0.2, -0.5]]))
    assert found.status[0] == Status.OK
    assert found.status[1] not in (Status.OK, Status.NOT_FINITE)
    assert found.status[2] == Status.NOT_FINITE  # no density has a negative standard deviation
    assert all(Status(int(status)).advice for status in found.status)
    np.testing.assert_array_equal(found.log_likelihood[1:], -math.inf)
    assert np.all(np.isfinite(found.log_prior))


def test_a_failed_simulation_has_no_slope(explosion):
    np.testing.assert_array_equal(jax.grad(explosion.log_likelihood)(np.array([0.9, 0.5])), 0.0)


def test_a_failed_simulation_spoils_no_other(explosion):
    rates, sd = np.array([0.1, 0.9, 0.2, 1.9, 0.1]), np.array([0.5, 0.5, 0.5, 0.5, -0.5])
    U = jnp.asarray(np.stack([rates, sd], axis=-1))
    _, values, _, slopes = explosion.batched.value_and_grad(U)
    failed = [1, 3, 4]
    np.testing.assert_array_equal(values[np.array(failed)], -math.inf)
    np.testing.assert_array_equal(slopes[np.array(failed)], 0.0)
    for k in (0, 2):
        end = 1 / (1 - 2 * rates[k])
        expected = stats.norm.logpdf([1.0, 1.2], [1.0, end], 0.5).sum()
        assert float(values[k]) == pytest.approx(expected, rel=1e-6)
        assert float(slopes[k, 0]) == pytest.approx((1.2 - end) / 0.25 * 2 * end**2, rel=1e-5)


def test_too_few_steps_are_a_status():
    hasty = decay(max_steps=5)
    found = hasty.evaluate(draws(hasty, 2))
    np.testing.assert_array_equal(found.status, Status.MAX_STEPS)
    np.testing.assert_array_equal(found.log_likelihood, -math.inf)


# ---- nothing compiles again


def compilations(caplog, function):
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.DEBUG, logger="jax"):
        jax.block_until_ready(function())
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling")]


def test_new_numbers_compile_nothing(problem, caplog):
    U = jnp.asarray(draws(problem, 3))
    u = U[0]

    def everything(which):
        return (
            which.log_likelihood(u),
            which.value_and_grad(u),
            which.simulated(u),
            which.evaluate(U),
            which.rows(U).noise,
        )

    everything(problem)
    everything(problem.with_data(table(MEASURED + 1)))
    assert compilations(caplog, lambda: everything(problem.with_data(table(MEASURED + 2, TIMES + 1)))) == []
    assert compilations(caplog, lambda: everything(problem.with_tolerances(1e-5, 1e-7))) == []
    longer = problem.with_data(table([*MEASURED, 1.0], [*TIMES, 9.0]))
    assert compilations(caplog, lambda: longer.log_likelihood(u))  # or nothing was counted


@pytest.mark.parametrize("data", [lambda values: table(values), lambda values: values], ids=["table", "values"])
def test_new_data_change_the_likelihood_and_nothing_else(problem, data):
    u = draws(problem, 1)[0]
    moved = problem.with_data(data(MEASURED + 0.5))
    assert float(moved.log_likelihood(u)) == pytest.approx(float(closed_form(u, MEASURED + 0.5)[1]), rel=1e-7)
    assert float(problem.log_likelihood(u)) == pytest.approx(float(closed_form(u)[1]), rel=1e-7)
    assert float(moved.log_prior(u)) == float(problem.log_prior(u))


def test_as_many_new_values_are_needed_as_there_are_measurements(problem):
    with pytest.raises(
        ValueError, match=rf"has {len(MEASURED)} measurements; got values of shape \({len(MEASURED) - 1},\)"
    ):
        problem.with_data(MEASURED[1:])


def test_looser_tolerances_are_less_exact(problem):
    u = np.array(problem.to_scaled({"k": 0.4, "A_0": 2.2, "sd": 0.3}))
    exact = float(closed_form(u)[1])
    loose, tight = (abs(float(problem.with_tolerances(r, r).log_likelihood(u)) - exact) for r in (1e-3, 1e-9))
    assert tight < 1e-6
    assert loose > 10 * tight


# ---- names, scales, hash


def test_names_and_scales_are_those_of_the_estimated_parameters():
    fixed = decay([PARAMETERS[0], Parameter("A_0", nominal=2.0, estimate=False), PARAMETERS[2]])
    assert fixed.parameter_names == ("k", "sd")
    assert fixed.dim == 2
    assert fixed.scale == ("log10", "ln")
    np.testing.assert_allclose(fixed.lower, [-3, math.log(0.01)])
    np.testing.assert_allclose(fixed.upper, [math.log10(50), math.log(2)])


def test_natural_values_by_name(problem):
    values = {"k": 0.4, "A_0": -1.5, "sd": 0.3}
    assert problem.to_natural(problem.to_scaled(values)) == pytest.approx(values)
    with pytest.raises(ValueError, match=r"missing values: \['sd'\], unknown names: \['sigma'\]"):
        problem.to_scaled({"k": 0.4, "A_0": -1.5, "sigma": 0.3})


def test_unconstrained_space_covers_the_bounds(problem):
    for u in draws(problem, 5):
        np.testing.assert_allclose(problem.constrain(problem.unconstrain(u)), u, rtol=1e-10)
    far = problem.constrain(np.array([50.0, 50.0, -50.0]))
    np.testing.assert_allclose(far, [math.log10(50), 50, math.log(0.01)])


def test_nominal_values_are_scaled():
    parameters = [Parameter("k", scale="log10", lower=0.1, upper=10.0, nominal=1.0), *PARAMETERS[1:]]
    np.testing.assert_array_equal(decay(parameters).nominal, [0, np.nan, np.nan])


def test_an_improper_prior_has_a_density_and_no_draws():
    improper = decay([Parameter("k", scale="log10"), *PARAMETERS[1:]])
    assert not improper.is_proper
    assert decay().is_proper
    u = np.array([-0.3, 2.0, -1.0])
    assert math.isfinite(float(improper.log_prior(u)))
    with pytest.raises(ParameterError, match="'k' has no proper prior to draw from"):
        draws(improper, 3)


def test_the_hash_knows_what_defines_the_posterior(problem):
    assert problem.hash == decay().hash
    others = [
        problem.with_data(table(MEASURED + 1e-9)),
        problem.with_tolerances(1e-9, 1e-12),
        decay(max_steps=9_999),
        decay([PARAMETERS[0], Parameter("A_0", Normal(2.0, 1.1)), PARAMETERS[2]]),
    ]
    dose = Event("dose", parse("time >= 1"), (("A", parse("A + 1")),))
    changes = [
        {},
        {"name": "other"},
        {"trigger": parse("time >= 2")},
        {"assignments": (("A", parse("A + 2")),)},
        {"delay": const(1.0)},
        {"priority": const(0.0)},
        {"is_true_before": False},
        {"is_persistent": False},
        {"keeps_values": False},
    ]
    others += [decay(events=(dose._replace(**change),)) for change in changes]
    assert len({problem.hash, *(other.hash for other in others)}) == 1 + len(others)
    shown = [dataclasses.replace(p, nominal=0.7, unit="mM") for p in PARAMETERS]
    assert decay(shown).hash == problem.hash, "nominal values and units are for tables and plots"


# ---- other questions


def test_a_grid_predicts_between_the_measurements(problem):
    u = np.array(problem.to_scaled({"k": 0.4, "A_0": 2.2, "sd": 0.3}))
    times = np.linspace(0, 10, 7)
    grid = problem.on_grid(Experiment("doubled", {"A_0": 4.4}), times)
    np.testing.assert_allclose(grid.simulated(u), 4.4 * np.exp(-0.4 * times), rtol=1e-6)
    assert float(grid.log_prior(u)) == float(problem.log_prior(u))


def test_measurements_are_drawn_around_predictions(problem):
    u = problem.to_scaled({"k": 0.4, "A_0": 2.2, "sd": 0.3})
    rows = problem.rows(jnp.stack([u, u, u]))
    copies = (1000, 1, 1)
    drawn = problem.draw_measurements(
        np.random.default_rng(7), np.tile(rows.simulated, copies[:2]), np.tile(rows.noise, copies)
    )
    uniform = stats.norm.cdf(drawn, 2.2 * np.exp(-0.4 * TIMES), 0.3)
    assert stats.kstest(uniform.ravel(), "uniform").pvalue > 1e-4
    assert stats.kstest(uniform.ravel() ** 1.1, "uniform").pvalue < 1e-4


def test_the_petab_objective_is_that_of_petab():
    petab = pytest.importorskip("petab.v1")
    from petab.v1.priors import Prior

    from kinbayes.formats.petab.reader import read_petab

    path = MODELS / "lynx_hare" / "problem.yaml"
    ours, theirs = read_petab(path), petab.Problem.from_yaml(path)
    u = np.asarray(ours.nominal) + np.random.default_rng(8).normal(0, 0.02, ours.dim)
    simulated = theirs.measurement_df.rename(columns={"measurement": "simulation"})
    simulated = simulated.assign(simulation=np.asarray(ours.simulated(u)))
    parameters = theirs.parameter_df.assign(nominalValue=list(ours.to_natural(u).values()))
    expected = -petab.calculate_llh(theirs.measurement_df, simulated, theirs.observable_df, parameters)
    for (_, row), value in zip(parameters.iterrows(), parameters["nominalValue"], strict=True):
        expected += Prior.from_par_dict(row, "objective", _bounds_truncate=False).neglogprior(value)
    assert ours.petab_objective(u) == pytest.approx(expected, rel=1e-9)
    assert abs(ours.petab_objective(u) + float(ours.log_density(u))) > 1e-3  # the measure differs


def test_the_petab_objective_states_scaled_priors_on_the_scale():
    line = Model("line", {}, {"level": const(1.0)})
    level = Parameter("level", Normal(-0.5, 0.3, on="scaled"), scale="log10", lower=0.1)
    scaled = Problem(line, [level], [Observable("y", "level", noise.normal("0.5"))], table())
    u = np.array([-0.4])
    expected = stats.norm.logpdf(MEASURED, 10**-0.4, 0.5).sum() + stats.norm.logpdf(-0.4, -0.5, 0.3)
    assert scaled.petab_objective(u) == pytest.approx(-expected, rel=1e-12)
