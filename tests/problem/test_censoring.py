"""Measurements that lie below or above a limit: densities, gradients, and what they are good for."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import kinbayes as kb
from kinbayes.model.expressions import const, symbol
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.problem.observables import DataError
from kinbayes.problem.structure import functions

TIMES = np.array([0.5, 1.0, 2.0, 4.0, 6.0, 9.0])
MEASURED = np.array([1.2, 1.0, 0.8, 0.5, 0.2, 0.2])
CENSORING = ["", "above", None, "below", "below", "below"]
U = np.array([np.log10(0.3), np.log10(1.5), np.log10(0.2)])
NOISES = {
    "normal": kb.noise.normal("s"),
    "log": kb.noise.log_normal("s"),
    "log10": kb.noise.normal("s", "log10"),
    "laplace": kb.noise.laplace("s"),
    "laplace log": kb.noise.laplace("s", "log"),
    "relative": kb.noise.normal("0.1 + s * relative"),
}
DISTRIBUTIONS = {
    "normal": lambda m, s: stats.norm(m, s),
    "log": lambda m, s: stats.lognorm(s, scale=m),
    "log10": lambda m, s: stats.lognorm(s * np.log(10), scale=m),
    "laplace": lambda m, s: stats.laplace(m, s),
    "laplace log": lambda m, s: stats.loglaplace(1 / s, scale=m),
    "relative": lambda m, s: stats.norm(m, 0.1 + s * m),
}


def table(measured=MEASURED, censoring=CENSORING, times=TIMES):
    columns = {"observableId": "y", "time": times, "measurement": measured}
    return pd.DataFrame(columns | ({} if censoring is None else {"censoring": censoring}))


def problem(noise, data=None):
    model = Model("decay", {"A": parse("-k * A")}, {"A": symbol("A0"), "k": const(0.3), "A0": const(1.5)})
    parameters = [kb.Parameter(name, kb.LogUniform(1e-3, 1e3)) for name in ("k", "A0", "s")]
    observables = [kb.Observable("y", "A", noise)]
    data = table() if data is None else data
    return kb.Problem(model, parameters, observables, data, rtol=1e-10, atol=1e-12)


def log_likelihoods(kind, u=U, measured=MEASURED, censoring=CENSORING):
    k, a0, s = 10.0**u
    frozen = DISTRIBUTIONS[kind](a0 * np.exp(-k * TIMES), s)
    by_word = {"below": frozen.logcdf(measured), "above": frozen.logsf(measured)}
    return np.array([by_word.get(w, frozen.logpdf(measured))[r] for r, w in enumerate(censoring)])


def every_kind(engine):
    """Return a problem with one observable a kind of noise, each with the same measurements."""
    model = Model("decay", {"A": parse("-k * A")}, {"A": symbol("A0"), "k": const(0.3), "A0": const(1.5)})
    parameters = [kb.Parameter(name, kb.LogUniform(1e-3, 1e3)) for name in ("k", "A0", "s")]
    names = [kind.replace(" ", "_") for kind in NOISES]
    observables = [kb.Observable(n, "A", noise) for n, noise in zip(names, NOISES.values(), strict=True)]
    data = pd.concat([table().assign(observableId=name) for name in names], ignore_index=True)
    return kb.Problem(model, parameters, observables, data, rtol=1e-10, atol=1e-12, engine=engine)


@pytest.mark.parametrize("engine", ["native", pytest.param("jax", marks=pytest.mark.slow)])
def test_densities_and_gradients(engine):
    found = every_kind(engine)

    def expected(u):
        return np.concatenate([log_likelihoods(kind, u) for kind in NOISES])

    np.testing.assert_allclose(found.pointwise_log_likelihood(U), expected(U), rtol=1e-7, atol=1e-9)
    assert found.evaluate(U[None]).log_likelihood[0] == pytest.approx(expected(U).sum(), rel=1e-8)
    h = 1e-5
    slopes = np.stack([(expected(U + h * e) - expected(U - h * e)) / (2 * h) for e in np.eye(3)], axis=-1)
    np.testing.assert_allclose(found.row_derivatives(U[None]).log_density[0], slopes, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.value_and_grad(U)[1], slopes.sum(axis=0), rtol=1e-6)


def test_a_limit_far_from_the_prediction_still_has_a_slope():
    # 300 and 2000 standard deviations off, where the distribution function itself is 0.
    times, side = np.array([0.5, 2.0, 9.0]), np.array([1, 1, -1])
    limits = np.array([0.2, 0.2, 4.4])
    found = problem(kb.noise.normal("0.004"), table(limits, ["below", "below", "above"], times))
    a = 1.5 * np.exp(-0.3 * times)
    z = side * (limits - a) / 0.004
    assert found.log_likelihood(U) == pytest.approx(stats.norm.logcdf(z).sum(), rel=1e-9)
    tail = -z
    for n in range(100, 0, -1):  # the inverse Mills ratio
        tail = -z + n / tail
    slope = np.log(10) * np.sum(tail * side * 0.3 * times * a / 0.004)
    assert found.value_and_grad(U)[1][0] == pytest.approx(slope, rel=1e-8)


@pytest.mark.parametrize("kind", ["normal", "log"])
def test_residuals_are_roots_of_the_loss(kind):
    found = problem(NOISES[kind])
    residuals, is_limit = found.residuals(U), np.array([w in ("below", "above") for w in CENSORING])
    assert 0.5 * np.sum(residuals[is_limit] ** 2) == pytest.approx(-log_likelihoods(kind)[is_limit].sum(), rel=1e-7)
    np.testing.assert_array_equal(np.sign(residuals[is_limit]), [1, -1, -1, -1])
    plain = problem(NOISES[kind], table(censoring=None)).residuals(U)
    np.testing.assert_array_equal(residuals[~is_limit], plain[~is_limit])
    h = 1e-5
    differences = [(found.residuals(U + h * e) - found.residuals(U - h * e)) / (2 * h) for e in np.eye(3)]
    np.testing.assert_allclose(found.residual_jacobian(U), np.stack(differences, axis=1), rtol=1e-6, atol=1e-8)
    # A limit that is met for certain pulls at nothing.
    certain = problem(kb.noise.normal("0.004"), table(np.full(6, 1e3), ["below"] * 6))
    assert not certain.residuals(U).any()
    assert not certain.residual_jacobian(U).any()


def test_information_of_limits_is_refused():
    with pytest.raises(ValueError, match="data row 1 is censored"):
        problem(NOISES["normal"]).fisher(U)


def test_which_rows_are_censored_is_data():
    found = problem(NOISES["normal"])
    misses = functions.cache_info().misses
    other = found.with_data(table(MEASURED + 0.1, ["below", "", "above", "", "", ""]))
    expected = log_likelihoods("normal", U, MEASURED + 0.1, ["below", "", "above", "", "", ""])
    np.testing.assert_allclose(other.pointwise_log_likelihood(U), expected, rtol=1e-7)
    assert functions.cache_info().misses == misses
    assert other.hash != found.with_data(table(MEASURED + 0.1)).hash


def test_without_limits_nothing_is_compiled_for_them():
    found = problem(NOISES["normal"], table(censoring=["", None, np.nan, " ", "", ""]))
    same = problem(NOISES["normal"], table(censoring=None))
    assert found._functions is same._functions
    (row,) = found._functions.likelihood.rows
    assert row.log_density.symbols == {"the measurement", "A", "s"}
    assert found.hash == same.hash


@pytest.mark.parametrize(
    ("noise", "word", "message"),
    [
        (kb.noise.normal("s"), "under", r"data row 3, column 'censoring': unknown 'under'; choose from \['below'"),
        (
            kb.noise.student_t("s", 4),
            "below",
            "data row 3, column 'censoring': observable 'y' has student_t noise; .* normal, log-normal or laplace",
        ),
        (kb.noise.negative_binomial("s"), "above", "row 3, column 'censoring': observable 'y' has negative_binomial"),
    ],
)
def test_what_cannot_be_censored_is_refused(noise, word, message):
    with pytest.raises(DataError, match=message):
        problem(noise, table(censoring=["", "", "", word, "", ""]))


def test_a_limit_tells_more_than_a_number_in_its_place():
    """With 30 percent of the points below the limit of detection, the rate is found where it is only with the column.

    The rate's standard error from all points, none of them censored, is 1.4 percent; the limit in place of measurements
    bends the curve upward, which costs some 20 percent.
    """
    k, a0, sd, limit = 0.3, 1.5, 0.1, 0.18
    times = np.tile(np.linspace(0.0, 10.0, 20), 3)
    errors = {"column": [], "number": []}
    for seed in range(4):
        drawn = a0 * np.exp(-k * times) * np.exp(np.random.default_rng(seed).normal(0, sd, times.size))
        is_below = drawn < limit
        assert 0.25 < is_below.mean() < 0.35
        measured = np.maximum(drawn, limit)
        words = np.where(is_below, "below", "")
        tables = {
            "column": table(measured, words, times),
            "number": table(measured, None, times),
        }
        for name, data in tables.items():
            mode = kb.optimize(problem(kb.noise.log_normal("s"), data), starts=2, seed=0, progress=False)
            assert bool(mode.map_estimate["converged"][0])
            errors[name].append(float(mode.map_estimate["k"][0]) / k - 1)
    assert np.max(np.abs(errors["column"])) < 5 * 0.014
    assert np.max(errors["number"]) < -10 * 0.014
    assert 5 * np.max(np.abs(errors["column"])) < np.min(np.abs(errors["number"]))


def test_samples_and_predictions():
    found = problem(kb.noise.normal("0.1"))
    idata = kb.sample(found, "nuts", draws=200, warmup=200, chains=2, seed=1, progress=False)
    assert np.isfinite(idata.log_likelihood["y"].values).all()
    predicted = kb.predict(idata, found, times=TIMES, draws=400)
    noise = (predicted["predictions"]["y"] - predicted["observables"]["y"]).values
    # What is predicted is not cut at the limits: normal noise of sd 0.1, whose variance has relative error sqrt(2/n).
    assert np.var(noise) == pytest.approx(0.01, rel=5 * np.sqrt(2 / noise.size))
    assert (predicted["predictions"]["y"].values[..., -1] < 0.2).mean() > 0.1


CASE = Path(__file__).parents[2] / "models" / "conversion_reaction"


def test_the_column_in_a_table_of_petab(tmp_path):
    folder = tmp_path / "problem"
    shutil.copytree(CASE, folder)
    (path,) = folder.glob("*measurements*.tsv")
    lines = path.read_text().splitlines()
    words = ["censoring", *["" for _ in lines[2:]], "below"]
    path.write_text("\n".join(f"{line}\t{word}" for line, word in zip(lines, words, strict=True)) + "\n")
    (yaml,) = folder.glob("*.yaml")
    censored, plain = kb.read_petab(yaml), kb.read_petab(kb.example("conversion_reaction"))
    assert [m.censoring for m in censored.measurements] == ["", *["" for _ in lines[3:]], "below"]
    u = plain.draw_prior(np.random.default_rng(0), 1)[0]
    rows = plain.rows(u[None])
    last = plain.measurements[-1].value
    expected = np.array(plain.pointwise_log_likelihood(u))
    expected[-1] = stats.norm.logcdf(last, rows.simulated[0, -1], rows.noise[0, -1, 0])
    np.testing.assert_allclose(censored.pointwise_log_likelihood(u), expected, rtol=1e-9)
    path.write_text(path.read_text().replace("below", "lower"))
    with pytest.raises(ValueError, match=r"measurements.*line \d+.*column 'censoring': unknown 'lower'"):
        kb.read_petab(yaml)
