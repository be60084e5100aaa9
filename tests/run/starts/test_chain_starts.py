"""What `initial` may be, and what results say of it."""

import numpy as np
import pandas as pd
import pytest

import kinbayes as kb
from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.results.attributes import attributes
from kinbayes.run.starts import chain_starts as starts
from kinbayes.run.starts.chain_starts import StartError, chain_starts

MEAN, SD = np.array([9.976119, 0.912122]), np.array([0.305150, 0.284928])  # of models/conversion_reaction
DECAY = Model("decay", {"A": parse("-k * A")}, {"A": parse("A_0"), "k": const(0.3), "A_0": const(2.0)})


def decay(parameters, *, max_steps=10_000):
    data = pd.DataFrame({"observableId": "y", "time": [0.0, 1.0, 2.0], "measurement": [2.0, 1.5, 1.1]})
    return kb.Problem(DECAY, parameters, [kb.Observable("y", "A", kb.noise.normal(0.1))], data, max_steps=max_steps)


def positive(*names, nominal=None):
    return [kb.Parameter(n, kb.LogUniform(1e-2, 1e2), nominal=nominal) for n in names]


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def problem():
    return kb.read_petab(kb.example("conversion_reaction"))


@pytest.fixture(scope="module")
def run():
    return kb.sample(decay(positive("k", "A_0")), draws=30, warmup=300, chains=3, progress=False)


@pytest.mark.parametrize("initial", ["multistart", "optimize"])
def test_chains_start_around_the_optimum(problem, initial):
    given = kb.optimize(problem, starts=4, progress=False) if initial == "optimize" else initial
    points, said = chain_starts(problem, given, 8, rng())
    assert points.shape == (8, 2)
    assert np.all(np.abs(points - MEAN) < 6 * np.sqrt(2) * SD)
    origin = (
        "the 4 searches of a result" if initial == "optimize" else "20 searches from the nominal point and the best of"
    )
    assert origin in said["initial"]
    assert "1 of 1 distinct optima" in said["initial"]
    assert "-20.05 (1; 8)" in said["initial"]
    assert "R-hat is blind to modes that no start has seen" in said["initial"]
    assert said["starts_redrawn"] == 0
    assert said["starts_failed_by_reason"] == {}
    assert said["starts_pulled_back"] == 0


def test_a_run_says_how_many_optima_its_chains_start_at():
    # Of k only the square is measured: two modes of equal mass.
    model = Model("still", {"A": parse("-A")}, {"A": const(1.0), "k": const(1.0)})
    data = pd.DataFrame({"observableId": ["y"], "time": [1.0], "measurement": [1.0]})
    squared = kb.Problem(
        model, [kb.Parameter("k", lower=-3.0, upper=3.0)], [kb.Observable("y", "k^2", kb.noise.normal(0.05))], data
    )
    idata = kb.sample(squared, initial="multistart", draws=50, warmup=50, progress=False)
    found = attributes(idata)
    assert "2 of 2 distinct optima" in found["initial"]
    assert (
        "20 searches from the best of 10 draws of the prior, 20 times" in found["initial"]
    )  # no nominal point is stated
    assert found["starts_pulled_back"] == 0
    assert sorted(np.sign(idata.posterior["k"].mean("draw"))) == [-1, -1, 1, 1]
    assert found["converged"] == 0  # R-hat sees both modes


def test_a_nominal_point_that_cannot_be_used_is_left_out():
    for nominal in (None, 1e3):
        _, said = chain_starts(decay(positive("k", "A_0", nominal=nominal)), "multistart", 2, rng())
        assert "20 searches from the best of 10 draws of the prior, 20 times" in said["initial"]


def test_an_interrupted_search_ends_the_run(problem, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("kinbayes.run.loop.driver.search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        chain_starts(problem, "multistart", 2, rng())


def test_searches_that_all_failed_are_said():
    mode = kb.optimize(decay(positive("k", "A_0")), starts=3, progress=False)
    hopeless = decay(positive("k", "A_0"), max_steps=1)
    with pytest.raises(StartError, match=r"none of the 3 searches of a result ended .* \(\{'max_steps': 3\}\)"):
        chain_starts(hopeless, mode, 2, rng())


def test_a_run_goes_on_from_its_last_draws(run):
    # Another order and other scales: parameters are matched by name.
    other = decay([kb.Parameter("A_0", kb.Uniform(0.0, 50.0)), *positive("k")])
    points, said = chain_starts(other, run, 3, rng())
    expected = [run.posterior["A_0"].values[:, -1], np.log10(run.posterior["k"].values[:, -1])]
    np.testing.assert_allclose(points, np.stack(expected, axis=-1), rtol=1e-12)
    assert said == {"initial": "the last draw of every chain of an earlier run"}


def test_another_number_of_chains_starts_at_draws_of_all(run):
    points, said = chain_starts(decay(positive("k", "A_0")), run, 6, rng())
    assert said == {"initial": "draws of an earlier run, spread over its 3 chains"}
    logarithms = np.log10(run.posterior["k"].values)
    of_chain = [np.argwhere(np.isclose(logarithms, u, rtol=1e-12))[0, 0] for u in points[:, 0]]
    assert of_chain == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="the earlier run has 90 draws, fewer than 91 chains"):
        chain_starts(decay(positive("k", "A_0")), run, 91, rng())


def test_starts_of_another_problem_are_refused(problem, run):
    with pytest.raises(ValueError, match=r"no estimates of \['A_0', 'B_0'\]|no estimates of \['B_0'\]"):
        chain_starts(problem, run, 3, rng())
    mode = kb.optimize(decay(positive("k", "A_0")), starts=2, progress=False)
    with pytest.raises(ValueError, match=r"no estimates of \['B_0'\]"):
        chain_starts(problem, mode, 3, rng())


def test_starts_outside_the_bounds_are_refused(run):
    narrow = decay([kb.Parameter("k", lower=10.0, upper=20.0), *positive("A_0")])
    with pytest.raises(StartError, match=r"the start of chain 0 has 'k' at 0\.\d+ \(scaled\), outside .* \[10, 20\]"):
        chain_starts(narrow, run, 3, rng())


def test_starts_on_a_wall_are_moved_off():
    points, said = chain_starts(decay(positive("k", "A_0")), np.array([[-2.0, 0.0]]), 1, rng())
    np.testing.assert_allclose(points, [[-2.0 + 4e-6, 0.0]], rtol=1e-12)
    assert said == {"initial": "given"}


def test_the_nominal_point_is_every_chain(problem):
    points, said = chain_starts(decay(positive("k", "A_0", nominal=2.0)), "nominal", 2, rng())
    np.testing.assert_allclose(points, np.log10(2.0))
    assert said == {"initial": "the nominal point, every chain"}


def test_what_is_not_understood_is_refused(problem):
    with pytest.raises(ValueError, match="unknown initial 'mode'; choose 'prior', 'nominal', 'multistart'"):
        chain_starts(problem, "mode", 2, rng())


def test_searches_begin_at_the_best_of_ten_draws(problem, monkeypatch):
    begun = []
    search = starts.search
    monkeypatch.setattr(
        starts, "search", lambda *args, **given: begun.append(given["initial"]) or search(*args, **given)
    )
    chain_starts(problem, "multistart", 2, rng())
    (first,) = begun
    assert first.shape == (20, 1, 2)
    first = first[:, 0]
    np.testing.assert_allclose(first[0], problem.nominal)
    # The smallest of ten distances from the mean is 1/10 of the area as far as one: 1/sqrt(10) of the distance.
    drawn = problem.draw_starts(rng(1), 10_000)
    near = np.linalg.norm(first[1:] - MEAN, axis=1).mean() / np.linalg.norm(drawn - MEAN, axis=1).mean()
    assert near < 0.5
