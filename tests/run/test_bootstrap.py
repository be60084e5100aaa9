"""Bootstraps of a mode, against weighted least squares."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

import kinbayes as kb
from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.results.attributes import attributes
from kinbayes.results.bootstrap_interval import bootstrap_intervals
from kinbayes.results.store import StoreError, save
from kinbayes.run.bootstrap import resampled
from kinbayes.run.loop.pieces import search
from tests.run.modes import made, mode_at

BOEHM = Path(__file__).parents[2].parent / "shared" / "data" / "petab" / "benchmark" / "Boehm_JProteomeRes2014"
WIDE = {"lower": -100.0, "upper": 100.0}
REPLICATES = 400
NOISE, STATED = 0.5, 1.5  # the sd of the measurements of two lines, and the one that their problem states
PRIOR_MEAN, PRIOR_SD = np.array([0.0, 0.0, 0.0]), 20.0


def weights_of(problem, found):
    """The counts that a bootstrap has drawn."""
    rng = np.random.default_rng(attributes(found)["seed"])
    return resampled(problem, found.bootstrap.sizes["replicate"], rng)


def modes_of(problem, found):
    return np.stack([found.bootstrap[name].values for name in problem.parameter_names], axis=1)


def two_lines(num=30, seed=0):
    """Two experiments whose measurements lie on lines of one slope b that begin at a1 and a2."""
    names = ("a1", "a2", "b")
    model = Model("lines", {"x": parse("b")}, {"x": const(0.0), "a": const(0.0), "b": const(1.0)})
    rng, times = np.random.default_rng(seed), np.linspace(0.0, 10.0, num)
    rows = [
        ("y", f"from_{a}", t, start + 0.7 * t + NOISE * rng.normal())
        for a, start in (("a1", 2.0), ("a2", -1.0))
        for t in times
    ]
    columns = ["observableId", "simulationConditionId", "time", "measurement"]
    return kb.Problem(
        model,
        [kb.Parameter(name, kb.Normal(0.0, PRIOR_SD), **WIDE) for name in names],
        [kb.Observable("y", "a + x", kb.noise.normal(STATED))],
        pd.DataFrame(rows, columns=columns),
        experiments=[kb.Experiment(f"from_{a}", {"a": a}) for a in names[:2]],
    )


def design(problem):
    """The predictions of two lines as a matrix, and the measurements."""
    rows = problem.measurements
    columns = [[m.experiment == f"from_{a}" for m in rows] for a in ("a1", "a2")]
    return np.array([*columns, [m.time for m in rows]], float).T, np.array([m.value for m in rows])


def exact(problem, weights):
    """The mode for counts of the measurements: weighted least squares, and the normal prior as a ridge."""
    X, y = design(problem)
    ridge = np.eye(3) / PRIOR_SD**2
    matrix = ridge + (X.T * weights) @ X / STATED**2
    return np.linalg.solve(matrix, ridge @ PRIOR_MEAN + X.T @ (weights * y) / STATED**2)


@pytest.fixture(scope="module")
def lines():
    return two_lines()


@pytest.fixture(scope="module")
def lines_mode(lines):
    return mode_at(lines, **dict(zip(lines.parameter_names, exact(lines, np.ones(60)), strict=True)))


@pytest.fixture(scope="module")
def found(lines, lines_mode):
    return kb.bootstrap(lines, lines_mode, replicates=REPLICATES, seed=3)


def test_measurements_are_drawn_within_their_experiment(lines):
    weights = resampled(lines, 1000, np.random.default_rng(0))
    assert weights.shape == (1000, 60)
    assert (weights[:, :30].sum(axis=1) == 30).all()
    assert (weights[:, 30:].sum(axis=1) == 30).all()
    # Each count is binomial(30, 1/30); the error of the share of zeros is that of 60 000 counts.
    share = (1 - 1 / 30) ** 30
    assert np.mean(weights == 0) == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / weights.size))


def test_every_replicate_is_weighted_least_squares(lines, found):
    weights = weights_of(lines, found)
    expected = np.array([exact(lines, w) for w in weights])
    np.testing.assert_allclose(modes_of(lines, found), expected, atol=1e-4)
    X, y = design(lines)
    assert found.bootstrap.converged.all()
    assert attributes(found)["converged_share"] == 1.0
    # Losses are those of the measurements as often as they count, and of the prior once.
    residuals = (y - expected @ X.T) / STATED
    of_data = np.sum(weights * (residuals**2 / 2 + np.log(STATED * np.sqrt(2 * np.pi))), axis=1)
    of_prior = np.sum((expected - PRIOR_MEAN) ** 2, axis=1) / (2 * PRIOR_SD**2) + 3 * np.log(
        PRIOR_SD * np.sqrt(2 * np.pi)
    )
    np.testing.assert_allclose(found.bootstrap.loss, of_data + of_prior, atol=1e-3)


def test_a_normal_prior_counts_once(conversion):
    """The closed form of models/conversion_reaction, in which the prior has a say of some percent."""
    problem = conversion
    found = kb.bootstrap(problem, mode_at(problem, A_0=9.976119, B_0=0.912122), replicates=20, seed=1)
    time, y = (np.array([getattr(m, name) for m in problem.measurements]) for name in ("time", "value"))
    decay = np.exp(-0.4 * time)
    is_a = np.array([m.observable == "A_measured" for m in problem.measurements])[:, None]
    of_a = np.stack([0.1 + 0.3 * decay, 0.1 * (1 - decay)], axis=1) / 0.4
    of_b = np.stack([0.3 * (1 - decay), 0.3 + 0.1 * decay], axis=1) / 0.4
    X, ridge = np.where(is_a, of_a, of_b), np.eye(2) / 4**2
    expected = [
        np.linalg.solve(ridge + (X.T * w) @ X / 0.25, ridge @ [8, 3] + X.T @ (w * y) / 0.25)
        for w in weights_of(problem, found)
    ]
    np.testing.assert_allclose(modes_of(problem, found), expected, atol=1e-4)
    flat = [np.linalg.solve((X.T * w) @ X, X.T @ (w * y)) for w in weights_of(problem, found)]
    assert np.abs(np.array(expected) - flat).max() > 0.01, "without the prior it would be elsewhere"


@pytest.fixture(scope="module")
def conversion():
    return kb.read_petab(kb.example("conversion_reaction"))


def test_deviations_are_those_that_the_measurements_show(lines, found):
    """They follow the scatter of the measurements, as the sandwich does, and not the noise that is stated."""
    X, y = design(lines)
    residuals = y - X @ np.linalg.lstsq(X, y)[0]
    inverse = np.linalg.inv(X.T @ X)
    sandwich = np.sqrt(np.diag(inverse @ (X.T * residuals**2) @ X @ inverse))
    sd = bootstrap_intervals(found).sd.to_numpy()
    error = sd / np.sqrt(2 * (REPLICATES - 1))
    assert (np.abs(sd - sandwich) < 5 * error).all()
    as_stated = STATED * np.sqrt(np.diag(inverse))
    assert (np.abs(sd - as_stated) > 5 * error).all(), "the stated noise is three times too large"


def test_a_seed_gives_the_same_replicates(lines, lines_mode):
    first, again, other = (
        modes_of(lines, kb.bootstrap(lines, lines_mode, replicates=20, seed=seed)) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_experiments_are_not_mixed(lines, lines_mode):
    """What is measured in an experiment has no say in that part of a replicate that the other determines."""
    shift = {"from_a1": 0.0, "from_a2": 50.0}
    rows = [(m.observable, m.experiment, m.time, m.value + shift[m.experiment]) for m in lines.measurements]
    table = pd.DataFrame(rows, columns=["observableId", "simulationConditionId", "time", "measurement"])
    moved = kb.bootstrap(lines.with_data(table), lines_mode, replicates=20, seed=5)
    before = modes_of(lines, kb.bootstrap(lines, lines_mode, replicates=20, seed=5))
    after = modes_of(lines, moved)
    # The prior pulls all of them a little; one measurement in the wrong experiment moves its line by more than 1.
    np.testing.assert_allclose(after[:, 1] - before[:, 1], 50.0, atol=0.2)
    np.testing.assert_allclose(after[:, [0, 2]], before[:, [0, 2]], atol=0.2)


def test_nothing_is_compiled_again(lines, lines_mode):
    kb.bootstrap(lines, lines_mode, replicates=20, seed=5)
    before, others = search._cache_size(), two_lines(seed=1)
    kb.bootstrap(lines, lines_mode, replicates=20, seed=7)
    kb.bootstrap(others, lines_mode, replicates=20, seed=5)
    assert search._cache_size() == before
    kb.bootstrap(lines, lines_mode, replicates=21)
    assert search._cache_size() == before + 1


def test_statements_are_not_drawn():
    model = Model("decay", {"A": parse("-k*A")}, {"A": const(1.0), "k": const(1.0)})
    rows = [("y", t, np.exp(-t) + 0.01 * (-1) ** k) for k, t in enumerate((0.5, 1.0, 1.5, 2.0))]
    problem = kb.Problem(
        model,
        [kb.Parameter("k", kb.LogUniform(0.01, 100.0))],
        [kb.Observable("y", "A", kb.noise.normal(0.02))],
        pd.DataFrame(rows, columns=["observableId", "time", "measurement"]),
        constraints=[kb.Constraint("A", "<", 0.5, ("at", 1.0)), kb.Constraint("A", ">", 0.1, "always")],
    )
    weights = resampled(problem, 50, np.random.default_rng(0))
    assert (weights[:, 4:] == 1).all()
    assert (weights[:, :4].sum(axis=1) == 4).all()
    found = kb.bootstrap(problem, mode_at(problem, k=1.0), replicates=10)
    assert found.bootstrap.converged.all()


def test_what_has_lost_its_measurements_is_told():
    """Two measurements of k, of which one may be drawn twice, and one of h: either may be lost."""
    parameters = [kb.Parameter(name, kb.Uniform(-10.0, 10.0)) for name in ("k", "h")]
    problem = made(parameters, ["k", "k", "h"], [1.0, 3.0, 2.0], [0.1, 0.1, 0.1])
    found = kb.bootstrap(problem, mode_at(problem, k=2.0, h=2.5), replicates=60, seed=2)
    weights = weights_of(problem, found)
    lost = np.stack([weights[:, :2].sum(axis=1) == 0, weights[:, 2] == 0], axis=1)
    assert lost.any(axis=0).all()
    np.testing.assert_array_equal(found.bootstrap.without_data, lost)
    assert attributes(found)["without_data"] == dict(zip(("k", "h"), lost.sum(axis=0).tolist(), strict=True))
    np.testing.assert_allclose(found.bootstrap.h, np.where(lost[:, 1], 2.5, 2.0), atol=1e-3)
    table = bootstrap_intervals(found)
    np.testing.assert_allclose(table.without_data, lost.mean(axis=0))


def noisy(measured=(1.0, 3.0)):
    """A line whose noise is estimated from few measurements."""
    model = Model("made", {"A": parse("-A")}, {"A": const(1.0), "k": const(1.0), "sd": const(1.0)})
    return kb.Problem(
        model,
        [kb.Parameter("k", kb.Uniform(-10.0, 10.0)), kb.Parameter("sd", kb.LogUniform(1e-3, 1e3))],
        [kb.Observable("y", "k", kb.noise.normal("sd"))],
        pd.DataFrame([("y", 1.0, v) for v in measured], columns=["observableId", "time", "measurement"]),
    )


def test_noise_without_residuals_ends_on_its_wall():
    problem = noisy()
    found = kb.bootstrap(problem, mode_at(problem, k=2.0, sd=1.0), replicates=40, seed=2)
    is_one = (weights_of(problem, found) == 2).any(axis=1)
    assert 0 < is_one.sum() < 40
    np.testing.assert_array_equal(found.bootstrap.at_wall.values[:, 1], -is_one.astype(int))
    assert attributes(found)["on_wall"] == {"sd": is_one.sum()}
    np.testing.assert_allclose(found.bootstrap.sd[is_one], 1e-3)
    np.testing.assert_allclose(found.bootstrap.sd[~is_one], 1.0, rtol=1e-3)
    converged = found.bootstrap.converged.values
    table = bootstrap_intervals(found)
    assert table.at_lower_wall["sd"] == pytest.approx(is_one[converged].mean())
    assert (table.at_upper_wall == 0).all()


def test_the_only_measurement_of_an_experiment_stays(lines):
    rows = [("y", "from_a1", 1.0, 2.0), ("y", "from_a1", 3.0, 4.0), ("y", "from_a2", 2.0, 0.0)]
    columns = ["observableId", "simulationConditionId", "time", "measurement"]
    problem = lines.with_data(pd.DataFrame(rows, columns=columns))
    found = kb.bootstrap(problem, mode_at(problem, a1=1.0, a2=-2.0, b=1.0), replicates=10)
    assert attributes(found)["alone"] == 1
    assert (weights_of(problem, found)[:, 2] == 1).all()


@pytest.mark.slow
def test_the_other_optima_of_a_mode_may_be_begun_at():
    """A number known by its square, and by two values of opposite signs: which sign wins is up to the draw."""
    values = np.array([1.0, 0.9, -0.8])
    problem = made([kb.Parameter("k", kb.Uniform(-3.0, 3.0))], ["k^2", "k", "k"], values, [0.2, 0.5, 0.5])

    def loss(k, w):
        return w @ (((np.array([k**2, k, k]) - values) / [0.2, 0.5, 0.5]) ** 2) / 2

    mode = kb.optimize(problem, initial=np.array([[1.0], [-1.0]]), starts=2, progress=False)
    near, far = (kb.bootstrap(problem, mode, replicates=40, seed=2, starts_near=n) for n in (1, 2))
    assert (attributes(near)["optima"], attributes(far)["optima"]) == (1, 2)
    ends = [(-3.0, 0.0), (0.0, 3.0)]
    best = []
    for w in weights_of(problem, far):
        sides = [optimize.minimize_scalar(loss, bounds=side, args=(w,), method="bounded") for side in ends]
        best.append(min(side.fun for side in sides))
    constant = np.log(6.0) + weights_of(problem, far) @ np.log(np.array([0.2, 0.5, 0.5]) * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(far.bootstrap.loss - constant, best, atol=1e-3)
    assert (near.bootstrap.loss > far.bootstrap.loss + 0.1).any(), "from one optimum not all are found"
    assert attributes(kb.bootstrap(problem, mode, replicates=2, starts_near=9))["optima"] == 2


def test_searches_that_were_cut_off_are_kept_and_marked(lines, lines_mode):
    found = kb.bootstrap(lines, lines_mode, replicates=20, seed=5, max_evaluations=20)
    assert found.bootstrap.sizes["replicate"] == 20
    assert not found.bootstrap.converged.any()
    assert attributes(found)["stopped"] == "max_evaluations"
    assert attributes(found)["converged_share"] == 0.0
    with pytest.raises(ValueError, match="0 of 20 replicates converged"):
        bootstrap_intervals(found)


def test_intervals_are_quantiles_of_what_has_converged():
    problem = noisy((1.0, 1.5, 2.0, 2.5, 3.5))
    found = kb.bootstrap(problem, mode_at(problem, k=2.1, sd=0.9), replicates=60, seed=4)
    found.bootstrap["converged"][:10] = False
    table, own = bootstrap_intervals(found, 0.8), found.bootstrap.isel(replicate=slice(10, None))
    own = own.isel(replicate=own.converged.values)
    u = np.log10(own.sd.values)
    np.testing.assert_allclose(table.loc["sd", ["lower", "upper"]], 10 ** np.quantile(u, [0.1, 0.9]))
    assert table.sd["sd"] == pytest.approx(np.std(u, ddof=1))
    assert (table.replicates == len(u)).all()
    assert len(u) <= 50
    few = bootstrap_intervals(found, 0.99)
    assert few[["lower", "upper"]].isna().all(axis=None)
    assert few.sd.equals(table.sd)
    with pytest.raises(ValueError, match="prob is 1"):
        bootstrap_intervals(found, 1.0)


def test_it_can_be_stored(found, tmp_path):
    again = kb.load(save(found, tmp_path / "bootstrap.nc"))
    assert bootstrap_intervals(again).equals(bootstrap_intervals(found))
    assert again.bootstrap.a1.attrs["scale"] == "lin"
    assert attributes(again)["replicates"] == REPLICATES


@pytest.mark.parametrize("name", ["replicates", "starts_near", "max_evaluations"])
def test_settings_out_of_range_are_refused(lines, lines_mode, name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        kb.bootstrap(lines, lines_mode, **{name: 0})


def test_names_of_the_result_are_refused():
    problem = made([kb.Parameter("replicate", kb.Uniform(-1.0, 1.0))], ["replicate"], [0.0], [0.1])
    with pytest.raises(StoreError, match=r"\['replicate'\]"):
        kb.bootstrap(problem, mode_at(problem, replicate=0.0))


@pytest.mark.slow
@pytest.mark.skipif(not BOEHM.is_dir(), reason="the benchmark collection is not here")
def test_replicates_are_what_a_search_of_their_data_finds():
    problem = kb.read_petab(BOEHM / f"{BOEHM.name}.yaml")
    nominal = np.clip(problem.nominal, problem.lower, problem.upper)[None]
    mode = kb.optimize(problem, starts=1, initial=nominal, progress=False)
    found = kb.bootstrap(problem, mode, replicates=20, seed=4)
    assert attributes(found)["converged_share"] > 0.9
    table = pd.read_csv(BOEHM / f"measurementData_{BOEHM.name}.tsv", sep="\t")
    for k, weights in enumerate(weights_of(problem, found)[:3]):
        own = problem.with_data(table.loc[np.repeat(np.arange(len(table)), weights)])
        alone = kb.optimize(own, starts=1, initial=nominal, progress=False)
        assert float(found.bootstrap.loss[k]) == pytest.approx(float(alone.map_estimate.loss[0]), abs=0.01)
