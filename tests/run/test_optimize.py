"""Modes from optimizers, against closed forms."""

import jax.numpy as jnp
import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import kinbayes as kb
from kinbayes.optimizers import OPTIMIZERS
from kinbayes.results.attributes import attributes
from kinbayes.run.loop.search import objective


@pytest.fixture(scope="module")
def problem():
    return kb.read_petab(kb.example("conversion_reaction"))


@pytest.fixture(scope="module")
def mode(problem):
    return kb.optimize(problem, starts=4, seed=0, progress=False)


def test_mode_of_a_normal_posterior_is_its_mean(mode):
    # The closed form of the example's README.
    assert float(mode.map_estimate["A_0"][0]) == pytest.approx(9.976119, abs=1e-4)
    assert float(mode.map_estimate["B_0"][0]) == pytest.approx(0.912122, abs=1e-4)
    assert bool(mode.map_estimate["converged"].all())


def test_result_says_how_it_was_made(problem, mode):
    found = attributes(mode)
    assert found["algorithm"] == "multistart"
    assert found["problem_hash"] == problem.hash
    assert found["simulations"] > 0
    assert np.all(np.diff(mode.map_estimate["log_density"].values) <= 0), "best first"
    history = mode.optimization_history
    assert np.all(np.diff(history["loss"].values) <= 0)
    assert int(history["evaluations"][-1]) == found["evaluations"] == found["simulations"]


def test_chains_may_start_around_the_mode(problem, mode):
    idata = kb.sample(problem, "random_walk", draws=10, warmup=10, initial=mode, progress=False)
    assert "R-hat is blind" in attributes(idata)["initial"]


def test_an_improper_posterior_can_be_optimized(problem):
    parameters = [kb.Parameter("A_0", nominal=5.0), kb.Parameter("B_0")]
    data = pd.DataFrame({"observableId": ["A_measured", "B_measured"], "time": [0.0, 0.0], "measurement": [7.0, 2.0]})
    flat = kb.Problem(problem.model, parameters, problem.observables, data)
    mode = kb.optimize(flat, starts=3, progress=False)
    assert float(mode.map_estimate["A_0"][0]) == pytest.approx(7.0, abs=1e-4)
    assert float(mode.map_estimate["B_0"][0]) == pytest.approx(2.0, abs=1e-4)


def test_unknown_optimizer_is_refused(problem):
    with pytest.raises(ValueError, match=r"unknown optimizer 'hill'; choose from \['bayesian', .*'multistart'"):
        kb.optimize(problem, "hill")


def test_a_result_has_the_curvature_at_the_best_point(problem, mode):
    assert set(mode.groups()) == {
        "map_estimate", "optimization_history", "curvature", "observed_data", "constant_data",
    }  # fmt: skip
    u = np.array([[float(mode.map_estimate[name][0]) for name in problem.parameter_names]])
    rows, slopes = problem.rows(u), problem.row_derivatives(u)
    # A linear model with a given sd: J^T J / sd^2, and the priors' normal(0 or so) curvature is what remains.
    jacobian = slopes.simulated[0] / rows.noise[0, :, :1]
    rest = -mode.curvature["hessian"].values - jacobian.T @ jacobian
    sds = [p.effective_prior.settings[1] for p in problem.estimated]
    np.testing.assert_allclose(rest, np.diag(np.square(sds) ** -1.0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mode.curvature["gradient"].values, 0.0, atol=0.05)


@pytest.mark.parametrize("optimizer", ["scatter_search", "particle_swarm", "bayesian"])
def test_refined_ends_are_the_mode(problem, optimizer):
    found = kb.optimize(problem, optimizer, refine="multistart", max_evaluations=600, progress=False)
    best = found.map_estimate.isel(start=0)
    assert bool(best["is_refined"])
    assert bool(best["converged"])
    assert float(best["A_0"]) == pytest.approx(9.976119, abs=2e-3)
    assert not found.map_estimate["is_refined"].values.all()
    history = found.optimization_history
    assert np.all(np.diff(history["evaluations"].values) > 0)
    assert int(history["evaluations"][-1]) == attributes(found)["evaluations"] <= 600


@pytest.mark.slow
def test_every_optimizer_takes_a_problem(problem):
    for name in OPTIMIZERS:
        found = kb.optimize(problem, name, starts=2, max_evaluations=200, initial="nominal", progress=False)
        assert found.map_estimate.sizes["start"] == 2
        assert 0 < attributes(found)["evaluations"] <= 200
        nominal = float(problem.log_density(problem.nominal))
        assert float(found.map_estimate["log_density"][0]) >= nominal - 1e-6, name


def test_the_target_ends_a_search(problem, mode):
    aim = float(mode.map_estimate["loss"][0]) + 1.0
    found = kb.optimize(problem, "scatter_search", target_loss=aim, refine="multistart", progress=False)
    assert attributes(found)["stopped"] == "target_loss"
    assert float(found.map_estimate["loss"][0]) <= aim
    assert not found.map_estimate["is_refined"].values.any()


def test_a_search_goes_on_from_an_earlier_result(problem, mode):
    found = kb.optimize(problem, starts=3, initial=mode, max_evaluations=3, progress=False)
    for name in problem.parameter_names:
        np.testing.assert_allclose(np.sort(found.map_estimate[name]), np.sort(mode.map_estimate[name][:3]), rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"initial": "nowhere"}, r"unknown initial 'nowhere'; choose from \['generative', 'latin_hypercube', "),
        ({"initial": np.zeros((2, 5))}, r"initial has shape \(2, 5\); 3 starts need \(3, 2\)"),
        ({"initial": np.full((3, 2), 1e4)}, r"start 0 has 'A_0' at 10000 \(scaled\), outside its bounds"),
        (
            {"max_evaluations": 2},
            r"max_evaluations is 2, of which 'multistart' has 2, but its first round takes 3, 1 of ",
        ),
        (
            {"refine": "hill"},
            r"unknown refine 'hill'; choose from \['multistart', 'quasi_newton', 'simplex'\], or None",
        ),
        ({"loss": "hill"}, r"unknown loss 'hill'; choose from \['posterior', 'petab'\]"),
        ({"settings": {"patient": 3}}, r"unknown settings \['patient'\] of 'multistart'"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    model = kb.read_antimony("A' = -k1*A; A = 1; k1 = 1; C = 1")
    data = pd.DataFrame({"observableId": "y", "time": [0.0, 1.0], "measurement": [1.0, 0.5]})
    parameters = [kb.Parameter("A_0", kb.Uniform(0.1, 5.0)), kb.Parameter("k1", kb.LogUniform(0.01, 100.0))]
    bounded = kb.Problem(model, parameters, [kb.Observable("y", "A_0 * A", kb.noise.normal(0.1))], data)
    with pytest.raises(ValueError, match=message):
        kb.optimize(bounded, starts=3, progress=False, **settings)


def _mixed_priors():
    """Priors on both scales, with and without bounds, and none."""
    model = kb.read_antimony("A' = -k*A; A = 1; k = 1")
    data = pd.DataFrame({"observableId": "y", "time": [0.0, 1.0, 2.0], "measurement": [1.9, 1.1, 0.6]})
    parameters = [
        kb.Parameter("k", kb.Normal(0.7, 0.5), scale="log10", lower=0.01, upper=1.2),
        kb.Parameter("scale", kb.LogNormal(0.0, 0.5), scale="ln"),
        kb.Parameter("sd", scale="log10", lower=0.3, upper=1.0),
    ]
    return kb.Problem(model, parameters, [kb.Observable("y", "scale * A", kb.noise.normal("sd"))], data)


@pytest.mark.parametrize("wants", ["loss", "gradient", "information"])
def test_petabs_objective_is_minimised(wants):
    problem = _mixed_priors()
    U = problem.draw_starts(np.random.default_rng(0), 4)
    found = objective(problem, wants, "petab")(jnp.asarray(U))
    expected = [problem.petab_objective(u) for u in U]
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
    if wants != "loss":
        step = 1e-5
        for k in range(3):
            ends = [problem.petab_objective(U[0] + sign * step * np.eye(3)[k]) for sign in (1, -1)]
            assert float(found.gradient[0, k]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3, abs=1e-3)


def test_petabs_objective_has_another_minimum_than_the_posterior():
    problem = _mixed_priors()
    ends = {}
    for loss in ("posterior", "petab"):
        found = kb.optimize(problem, loss=loss, starts=5, progress=False).map_estimate.isel(start=0)
        ends[loss] = problem.to_scaled({name: float(found[name]) for name in problem.parameter_names})
    assert problem.petab_objective(ends["petab"]) < problem.petab_objective(ends["posterior"]) - 1e-3
    assert float(problem.log_density(ends["posterior"])) > float(problem.log_density(ends["petab"])) + 1e-3


def test_a_whole_design_that_fails_is_told_of():
    model = kb.read_antimony("A' = A^2; A = 1; k = 1")  # it is infinite at time 1
    data = pd.DataFrame({"observableId": "y", "time": [5.0], "measurement": [1.0]})
    observables = [kb.Observable("y", "k * A", kb.noise.normal(1.0))]
    problem = kb.Problem(model, [kb.Parameter("k", kb.Uniform(0.0, 1.0))], observables, data)
    with pytest.raises(RuntimeError, match=r"none of \d+ points could be simulated .*k=0\.\d+: "):
        kb.optimize(problem, "differential_evolution", progress=False)


def test_searches_of_optuna_are_kept_with_a_study_and_go_on(problem, tmp_path):
    settings = {"starts": 1, "settings": {"max_trials": 64}, "seed": 3, "progress": False}
    whole = kb.optimize(problem, "bayesian", max_evaluations=64, **settings)
    path = tmp_path / "run.zarr"
    kb.optimize(problem, "bayesian", max_evaluations=32, checkpoint=path, **settings)
    study = path / "study.log"
    assert study.is_file()
    again = kb.optimize(problem, "bayesian", max_evaluations=64, checkpoint=path, resume=True, **settings)
    for name in problem.parameter_names:
        np.testing.assert_array_equal(again.map_estimate[name], whole.map_estimate[name])
    np.testing.assert_array_equal(again.optimization_history["loss"], whole.optimization_history["loss"])
    (name,) = optuna.get_all_study_names(JournalStorage(JournalFileBackend(str(study))))
    kept = optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(study))))
    assert len(kept.trials) == 64
    assert kept.best_value == pytest.approx(float(whole.map_estimate["loss"][0]), rel=1e-9)
