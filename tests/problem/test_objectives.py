"""Objective functions against calculations by hand, on one table with zeros, gaps and unequal errors."""

import pickle

import jax
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import kinbayes as kb
from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.problem.families import FAMILIES
from kinbayes.problem.objectives import OBJECTIVES
from kinbayes.problem.observables import DataError

# A decays into B.
MODEL = Model(
    "decay",
    {"A": parse("-k * A"), "B": parse("k * A")},
    {"A": parse("A_0"), "B": const(0.0), "k": const(0.3), "A_0": const(2.0)},
)
WIDE = pd.DataFrame(
    {
        "time": [0.5, 1.0, 1.0, 2.0, 4.0],
        "A": [4.0, 5.0, np.nan, 2.0, 0.0],
        "A_SD": [0.5, 0.25, 0.3, 0.125, 1.0],
        "B": [np.nan, 1.0, 3.0, np.nan, 2.0],
        "B_SD": [0.2, 0.5, 0.4, 0.3, 2.0],
    }
)
U = np.array([np.log10(0.4), np.log10(5.0), np.log10(0.7)])
ENGINES = ["native", "jax"]
FIT_ONLY = ["sos", "sod", "norm_sos", "ave_norm_sos"]


def melted(wide=WIDE, observables=("A", "B")):
    """A table as users melt theirs: what is missing is dropped."""
    parts = [
        wide[["time"]].assign(observableId=f"y_{o}", measurement=wide[o], noiseParameters=wide[f"{o}_SD"])
        for o in observables
    ]
    return pd.concat(parts, ignore_index=True).dropna(subset="measurement").reset_index(drop=True)


def problem(noises, data=None, engine="native", **settings):
    """A problem whose observables `y_A` and `y_B` have these noises."""
    data = melted(observables=[*noises]) if data is None else data
    if not any("noiseParameter" in formula for noise in noises.values() for formula in noise.formulas):
        data = data.drop(columns="noiseParameters")
    return kb.Problem(
        MODEL,
        [kb.Parameter(name, kb.LogUniform(1e-3, 1e3)) for name in ("k", "A_0", "s")],
        [kb.Observable(f"y_{o}", o, noise) for o, noise in noises.items()],
        data,
        engine=engine,
        rtol=1e-10,
        atol=1e-12,
        **settings,
    )


def predicted(data):
    a = 5.0 * np.exp(-0.4 * data["time"].to_numpy())
    return np.where(data["observableId"] == "y_A", a, 5.0 - a)


def means(data):
    return data.groupby("observableId")["measurement"].transform("mean").to_numpy()


# Objective -> the arguments for an observable of some name, and the loss of every row by hand: (y, a, sd, mean).
HAND = {
    "chi_sq": (
        lambda o: (f"noiseParameter1_y_{o}",),
        lambda y, a, sd, mean: (y - a) ** 2 / (2 * sd**2) + np.log(sd) + np.log(2 * np.pi) / 2,
    ),
    "chi_sq_dynamic": (
        lambda o: ("s",),
        lambda y, a, sd, mean: (y - a) ** 2 / (2 * 0.7**2) + np.log(0.7) + np.log(2 * np.pi) / 2,
    ),
    "sos": (lambda o: (), lambda y, a, sd, mean: (y - a) ** 2),
    "sod": (lambda o: (), lambda y, a, sd, mean: np.abs(y - a)),
    "norm_sos": (lambda o: (), lambda y, a, sd, mean: ((y - a) / y) ** 2),
    "ave_norm_sos": (lambda o: (), lambda y, a, sd, mean: ((y - a) / mean) ** 2),
    "neg_bin": (lambda o: (3.5,), lambda y, a, sd, mean: -stats.nbinom.logpmf(y, 3.5, 3.5 / (3.5 + a))),
    "neg_bin_dynamic": (lambda o: ("s",), lambda y, a, sd, mean: -stats.nbinom.logpmf(y, 0.7, 0.7 / (0.7 + a))),
    "lognormal": (lambda o: (0.4,), lambda y, a, sd, mean: -stats.lognorm.logpdf(y, 0.4, scale=a)),
    "laplace": (lambda o: ("s",), lambda y, a, sd, mean: np.abs(y - a) / 0.7 + np.log(2 * 0.7)),
    "student_t": (lambda o: ("s", 4), lambda y, a, sd, mean: -stats.t.logpdf(y, 4, a, 0.7)),
}
WITHOUT_ZEROS = ("norm_sos", "lognormal")


def of(key, engine="native"):
    data = melted()
    if key in WITHOUT_ZEROS:
        data = data[data["measurement"] != 0].reset_index(drop=True)
    arguments, _ = HAND[key]
    return problem({o: OBJECTIVES[key](*arguments(o)) for o in ("A", "B")}, data, engine), data


def test_every_objective_has_a_calculation_by_hand():
    assert set(HAND) == set(OBJECTIVES)
    assert {key for key in OBJECTIVES if not FAMILIES[OBJECTIVES[key](*HAND[key][0]("A")).family].is_likelihood} == set(
        FIT_ONLY
    )


@pytest.mark.parametrize(
    ("key", "engine"),
    [
        *((key, "native") for key in HAND),
        *(pytest.param(key, "jax", marks=pytest.mark.slow) for key in FIT_ONLY[1:]),
        (FIT_ONLY[0], "jax"),
    ],
)
def test_terms_agree_with_the_calculation_by_hand(key, engine):
    found, data = of(key, engine)
    y, sd = data["measurement"].to_numpy(), data["noiseParameters"].to_numpy()
    loss = HAND[key][1](y, predicted(data), sd, means(data))
    np.testing.assert_allclose(found.pointwise_log_likelihood(U), -loss, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(found.evaluate(U[None]).log_likelihood, -loss.sum(), rtol=1e-7)
    np.testing.assert_allclose(found.batched.log_likelihood(U[None]), -loss.sum(), rtol=1e-7)


@pytest.mark.parametrize(
    ("key", "engine"),
    [*((key, "native") for key in FIT_ONLY), pytest.param("ave_norm_sos", "jax", marks=pytest.mark.slow)],
)
def test_gradients_agree_with_differences(key, engine):
    found, _ = of(key, engine)
    h, steps = 1e-5, np.eye(3)
    ends = found.evaluate(np.concatenate([U + h * steps, U - h * steps])).log_likelihood
    _, value, _, gradient = found.batched.value_and_grad(U[None])
    np.testing.assert_allclose(value, found.log_likelihood(U), rtol=1e-8)
    np.testing.assert_allclose(gradient[0], (ends[:3] - ends[3:]) / (2 * h), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.grad(found.log_likelihood)(U), gradient[0], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("key", ["sos", "norm_sos", "ave_norm_sos"])
def test_half_the_squares_of_the_residuals_are_the_loss(key):
    found, _ = of(key)
    assert np.sum(found.residuals(U) ** 2) / 2 == pytest.approx(-float(found.log_likelihood(U)), rel=1e-9)
    jacobian = found.residual_jacobian(U)
    np.testing.assert_allclose(found.fisher(U), jacobian.T @ jacobian, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        -jacobian.T @ found.residuals(U), found.batched.value_and_grad(U[None])[3][0], rtol=1e-7, atol=1e-9
    )
    np.testing.assert_allclose(
        found.batched.curvature(U[None], None)[4][0] - np.diag(np.diag(found.batched.curvature(U[None], None)[4][0])),
        found.fisher(U) - np.diag(np.diag(found.fisher(U))),
        rtol=1e-7,
        atol=1e-9,
    )


def test_absolute_differences_have_no_closed_information():
    found, data = of("sod")
    np.testing.assert_allclose(found.residuals(U), data["measurement"] - predicted(data), rtol=1e-7, atol=1e-8)
    with pytest.raises(ValueError, match="sod noise has no closed form"):
        found.fisher(U)


# ---- means


@pytest.mark.parametrize("engine", ENGINES)
def test_other_data_bring_their_own_mean_and_compile_nothing(engine):
    found, data = of("ave_norm_sos", engine)
    other = data.drop(columns="noiseParameters").assign(measurement=data["measurement"] * np.arange(1, len(data) + 1))
    moved = found.with_data(other)
    assert moved._functions is found._functions
    loss = HAND["ave_norm_sos"][1](other["measurement"].to_numpy(), predicted(other), None, means(other))
    np.testing.assert_allclose(moved.pointwise_log_likelihood(U), -loss, rtol=1e-7)
    stale = HAND["ave_norm_sos"][1](other["measurement"].to_numpy(), predicted(other), None, means(data))
    assert np.abs(stale - loss).max() > 0.01


def test_a_mean_is_one_of_the_experiment():
    data = melted(observables=["A"])
    both = pd.concat([data.assign(simulationConditionId="one"), data.assign(simulationConditionId="two")])
    both = both.assign(measurement=both["measurement"] * np.where(both["simulationConditionId"] == "two", 10, 1))
    found = problem({"A": kb.objectives.ave_norm_sos()}, both, experiments=[kb.Experiment("one"), kb.Experiment("two")])
    a, y = predicted(data), data["measurement"].to_numpy()
    expected = [((y - a) / y.mean()) ** 2, ((10 * y - a) / (10 * y.mean())) ** 2]
    np.testing.assert_allclose(found.pointwise_log_likelihood(U), -np.concatenate(expected), rtol=1e-7)


# ---- refusals


def test_a_zero_is_refused_where_terms_are_divided_by_measurements():
    table = melted()
    place = table.index[table["measurement"] == 0].item()
    with pytest.raises(DataError, match=rf"data row {place}, column 'measurement'.*'y_A'.*norm_sos.*is 0"):
        problem({"A": kb.objectives.norm_sos(), "B": kb.objectives.sos()}, table)
    placed = table.set_axis([f"my.csv, line {k + 2}" for k in range(len(table))]).rename_axis("place")
    with pytest.raises(DataError, match=rf"my.csv, line {place + 2}, column 'measurement'"):
        problem({"A": kb.objectives.norm_sos(), "B": kb.objectives.sos()}, placed)


def test_a_zero_mean_is_refused():
    wide = WIDE.assign(A=[1.0, -1.0, np.nan, 2.0, -2.0])
    with pytest.raises(DataError, match=r"'y_A' in experiment 'experiment' have the mean 0.*ave_norm_sos"):
        problem({"A": kb.objectives.ave_norm_sos()}, melted(wide, ["A"]))


@pytest.mark.parametrize("key", FIT_ONLY)
def test_samplers_and_draws_refuse_what_is_no_likelihood(key):
    found, _ = of(key)
    reason = f"observable 'y_A' has the objective {key}, which is no likelihood.*chi_sq_dynamic"
    assert not found.is_likelihood
    with pytest.raises(ValueError, match=reason):
        kb.to_numpyro(found)
    with pytest.raises(ValueError, match=reason):
        kb.to_pymc(found)
    with pytest.raises(ValueError, match=reason):
        found.draw_measurements(np.random.default_rng(0), *(part[0] for part in found.rows(U[None])[:2]))
    with pytest.raises(ValueError, match=reason):
        kb.sample(found, progress=False)
    with pytest.raises(ValueError, match=reason):
        kb.sample(found, sampler="random_walk", progress=False)


def test_a_likelihood_is_one():
    found, _ = of("chi_sq_dynamic")
    assert found.is_likelihood
    assert found.no_likelihood_because == ""


def test_a_censored_row_is_refused():
    table = melted().assign(censoring=["below", *[""] * 6])
    with pytest.raises(DataError, match="'y_A' has sos noise"):
        problem({"A": kb.objectives.sos(), "B": kb.objectives.sos()}, table)


# ---- as other problems


def test_a_problem_with_objectives_can_be_pickled():
    found, _ = of("ave_norm_sos")
    copy = pickle.loads(pickle.dumps(found))
    assert copy.hash == found.hash
    assert float(copy.log_likelihood(U)) == float(found.log_likelihood(U))


def test_every_objective_has_its_own_hash():
    data = melted()[lambda table: table["measurement"] != 0]
    hashes = {problem({o: OBJECTIVES[key]() for o in ("A", "B")}, data).hash for key in FIT_ONLY}
    assert len(hashes) == len(FIT_ONLY)


def test_a_grid_predicts_without_measurements():
    found, _ = of("ave_norm_sos")
    grid = found.on_grid(found.experiments[0], [1.0, 2.0])
    np.testing.assert_allclose(grid.simulated(U)[:2], 5.0 * np.exp([-0.4, -0.8]), rtol=1e-7)
