"""What is said of parameters whose posteriors have known shapes."""

import arviz as az
import numpy as np
import pytest
import xarray as xr
from scipy import stats

import kinbayes as kb
from kinbayes.results import mode_store, store
from kinbayes.results.map_comparison import MIN_CONTRACTION, OPEN, compare, is_open

CHAINS, DRAWS = 4, 1000
EVEN = (np.arange(CHAINS * DRAWS) + 0.5) / (CHAINS * DRAWS)
MEASURED = store.MeasurementTable(("y",), ("a",), np.array([1.0]), np.array([1.0]))
SEED = 7

# Between walls at 0 and 1, by quantiles: the marginal likelihood is the posterior density.
SHAPES = {
    "uniform": EVEN,
    "piled_below": stats.truncnorm(0, 10, 0, 0.1).ppf(EVEN),
    "piled_above": 1 - stats.truncnorm(0, 10, 0, 0.1).ppf(EVEN),
    "normal": stats.norm(0.4, 0.05).ppf(EVEN),
    "near_wall": stats.norm(0.02, 0.004).ppf(EVEN),  # five standard deviations from it, in the outermost twentieth
    "cut": stats.truncnorm(-1, 10, 0.05, 0.05).ppf(EVEN),  # one standard deviation from the wall
}
GRID = np.linspace(0, 1, 10_001)
PLATEAU = stats.norm.cdf((GRID - 0.3) / 0.03)  # of a sigmoid curve, the data give a limit and no more
SHAPES["plateau"] = np.interp(EVEN, np.cumsum(PLATEAU) / PLATEAU.sum(), GRID)
VERDICTS = {
    "uniform": ("open", "open", "not identified"),
    "piled_below": ("open", "closed", "one-sided"),
    "piled_above": ("closed", "open", "one-sided"),
    "normal": ("closed", "closed", "identified"),
    "near_wall": ("closed", "closed", "identified"),
    "cut": ("open", "closed", "one-sided"),
    "plateau": ("closed", "open", "one-sided"),
}


def table_of(names, scales=None):
    return store.ParameterTable(names, scales or ("lin",) * len(names), ("1/s",) * len(names), ("",) * len(names))


def sampled(draws, prior=None, *, scales=None, attrs=None, lp=0.0):
    """A sampling run with draws in random order, between walls at 0 and 1 unless another prior is given."""
    rng = np.random.default_rng(SEED)
    prior = {name: rng.permutation(EVEN) for name in draws} if prior is None else prior
    shape = (CHAINS, DRAWS)
    return store.posterior_data(
        table_of(tuple(draws), scales),
        MEASURED,
        draws=np.stack([rng.permutation(values).reshape(shape) for values in draws.values()], axis=-1),
        sample_stats={"lp": np.full(shape, lp), "acceptance_rate": np.ones(shape)},
        prior=np.stack(list(prior.values()), axis=-1) if prior else None,
        attrs={"problem_hash": "abc", "problem": "p", "converged": True} | dict(attrs or {}),
    )


def found(values, *, log_density=(0.0, -1.0), converged=True, problem_hash="abc"):
    """A search's result, the given point the best."""
    group = {name: ("start", [value, value / 2]) for name, value in values.items()}
    group |= {"log_density": ("start", list(log_density)), "converged": ("start", [converged, True])}
    return az.InferenceData(attrs={"problem_hash": problem_hash, "problem": "p"}, map_estimate=xr.Dataset(group))


def profiled(name, values, log_density, log_prior, stopped, **attrs):
    profiles = mode_store.Profiles(
        (name,), ("lin",), ("",), values[None], log_density[None], log_prior[None], np.ones((1, len(values)), bool),
        values[None, :, None], np.array([stopped]),
    )  # fmt: skip
    known = {"drop": 3.32, "problem_hash": "abc"} | attrs
    return mode_store.profile_data(table_of((name,)), MEASURED, profiles, intervals={}, attrs=known)


@pytest.fixture(scope="module")
def posterior():
    return sampled(SHAPES)


@pytest.fixture(scope="module")
def table(posterior):
    return compare(found(dict.fromkeys(SHAPES, 0.5)), posterior)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_told_apart(table, name):
    assert tuple(table.loc[name, ["below", "above", "verdict"]]) == VERDICTS[name]


def test_numbers_are_those_of_map_and_posterior(table):
    row = table.loc["normal"]
    assert (row["map"], row["unit"], row["scale"]) == (0.5, "1/s", "lin")
    half = 0.05 * stats.norm.ppf(0.975)
    assert tuple(row[["mean", "median", "lower", "upper"]]) == pytest.approx(
        (0.4, 0.4, 0.4 - half, 0.4 + half), abs=5e-4
    )
    assert row["contraction"] == pytest.approx(1 - 0.05**2 * 12, abs=1e-3)
    assert table.loc["uniform", "contraction"] == pytest.approx(0.0, abs=1e-6)
    assert table[["laplace_lower", "profile_upper"]].isna().all(axis=None)
    assert table.attrs["prob"] == 0.95
    assert f"{OPEN:.3f}" in table.attrs["rule"]
    assert f"{MIN_CONTRACTION:g}" in table.attrs["rule"]


def test_what_only_a_normal_prior_ends_is_open():
    draws = {"prior_alone": stats.norm.ppf(EVEN), "limit": stats.halfnorm.ppf(EVEN), "data": 0.2 * stats.norm.ppf(EVEN)}
    prior = {name: np.random.default_rng(1).normal(size=CHAINS * DRAWS) for name in draws}
    table = compare(found(dict.fromkeys(draws, 0.1)), sampled(draws, prior))
    assert table["verdict"].tolist() == ["not identified", "one-sided", "identified"]
    assert table.loc["limit", ["below", "above"]].tolist() == ["closed", "open"]


def test_two_far_modes_are_not_one_value():
    ends = np.concatenate([0.1 + 0.01 * stats.norm.ppf(EVEN[::2]), 0.9 + 0.01 * stats.norm.ppf(EVEN[1::2])])
    table = compare(found({"k": 0.1}), sampled({"k": ends}))
    assert table.loc["k", ["below", "above", "verdict"]].tolist() == ["closed", "closed", "not identified"]


@pytest.mark.parametrize(("distance", "expected"), [(1.5, True), (2.6, False)])
def test_a_wall_is_open_where_it_cuts_the_interval(distance, expected):
    """Of a normal likelihood the limit lies at 1.96 standard deviations, less the width of the end looked at."""
    draws = stats.truncnorm(-distance, 20, distance * 0.03, 0.03).ppf(EVEN)
    assert is_open(draws, EVEN, "below") is expected


def test_what_is_not_finite_is_not_identified():
    draws = np.where(EVEN < 0.001, np.nan, SHAPES["normal"])
    assert compare(found({"k": 0.4}), sampled({"k": draws})).loc["k", "verdict"] == "not identified"


def test_scales_do_not_matter():
    u = {"k": 4 * SHAPES["plateau"]}
    scaled = sampled({"k": 10 ** u["k"]}, {"k": 10 ** (4 * EVEN)}, scales=("log10",))
    plain = sampled(u, {"k": 4 * EVEN})
    a, b = compare(found({"k": 10.0}), scaled), compare(found({"k": 1.0}), plain)
    assert a["verdict"].tolist() == b["verdict"].tolist() == ["one-sided"]
    assert a["contraction"].iloc[0] == pytest.approx(b["contraction"].iloc[0])
    assert np.log10(a["mean"].iloc[0]) == pytest.approx(b["mean"].iloc[0])


# ---- profiles and Laplace approximations


X = np.linspace(-3, 3, 41)


@pytest.mark.parametrize(
    ("log_prior_part", "stopped", "expected"),
    [
        (0.0, ("drop", "drop"), ("closed", "closed")),
        (0.9, ("drop", "drop"), ("open", "open")),  # the prior brings the drop about
    ],
)
def test_the_profile_decides_where_there_is_one(log_prior_part, stopped, expected):
    fall = -(X**2) / 2
    profile = profiled("k", X, fall, log_prior_part * fall, stopped)
    prior = {"k": 20 * (EVEN - 0.5)}
    table = compare(found({"k": 0.0}), sampled({"k": stats.norm.ppf(EVEN)}, prior), profile)
    assert tuple(table.loc["k", ["below", "above"]]) == expected
    assert tuple(table.loc["k", ["profile_lower", "profile_upper"]]) == pytest.approx((-1.95996, 1.95996), abs=1e-4)


def test_walls_are_open_and_disagreement_is_told():
    kept = X > -1
    profile = profiled("k", X[kept], -(X[kept] ** 2) / 2, np.zeros(kept.sum()), ("wall", "drop"))
    table = compare(found({"k": 0.0}), sampled({"k": stats.norm.ppf(EVEN)}, {"k": 20 * (EVEN - 0.5)}), profile)
    assert tuple(table.loc["k", ["below", "above", "verdict"]]) == ("open", "closed", "one-sided")
    assert np.isnan(table.loc["k", "profile_lower"])
    assert any("disagree" in text and "k below" in text for text in table.attrs["caveats"])


def test_a_profile_that_ends_early_leaves_the_say_to_the_posterior():
    kept = np.abs(X) < 1
    profile = profiled("k", X[kept], -(X[kept] ** 2) / 2, np.zeros(kept.sum()), ("points", "failed"))
    table = compare(found({"k": 0.0}), sampled({"k": stats.norm.ppf(EVEN)}, {"k": 20 * (EVEN - 0.5)}), profile)
    assert table.loc["k", "verdict"] == "identified"
    assert any("k below, k above" in text for text in table.attrs["caveats"])


def test_laplace_intervals_are_normal_in_u():
    attrs = {"problem_hash": "abc", "k_hat": 0.9, "share_outside": 0.0}
    laplace = mode_store.laplace_data(
        table_of(("k",), ("log10",)), MEASURED, draws=np.ones((1, 5, 1)), sample_stats={"lp": np.zeros((1, 5))},
        mode=np.array([1.0]), hessian=np.array([[-4.0]]), covariance=np.array([[0.25]]), attrs=attrs,
    )  # fmt: skip
    run = sampled({"k": 10 ** SHAPES["normal"]}, {"k": 10**EVEN}, scales=("log10",))
    table = compare(found({"k": 10.0}), run, laplace=laplace, prob=0.9)
    half = 0.5 * stats.norm.ppf(0.95)
    assert np.log10(table.loc["k", ["laplace_lower", "laplace_upper"]].to_numpy(float)) == pytest.approx(
        [1 - half, 1 + half]
    )
    assert any("k-hat is 0.9" in text for text in table.attrs["caveats"])


# ---- caveats and refusals


def test_a_good_pair_has_no_other_caveat_than_what_is_missing(table):
    assert len(table.attrs["caveats"]) == 1
    assert "no Laplace approximation" in table.attrs["caveats"][0]


@pytest.mark.parametrize(
    ("mode", "run", "text"),
    [
        ({"converged": False}, {}, "search for the mode has not converged"),
        ({}, {"attrs": {"converged": False}}, "sampling run has not converged"),
        ({}, {"lp": 0.5}, "The mode was missed"),
        ({}, {"attrs": {"assumed_priors": ["k"]}}, "The prior of k is uniform"),
        ({}, {"attrs": {"approximation": "laplace"}}, "no sampling run but an approximation"),
        ({}, {"prior": {}}, "no draws of the prior"),
    ],
)
def test_caveats(mode, run, text):
    table = compare(found({"k": 0.4}, **mode), sampled({"k": SHAPES["normal"]}, **run))
    assert any(text in caveat for caveat in table.attrs["caveats"])


def test_a_draw_that_is_only_just_better_is_no_missed_mode():
    table = compare(found({"k": 0.4}), sampled({"k": SHAPES["normal"]}, lp=0.005))
    assert not any("missed" in caveat for caveat in table.attrs["caveats"])


def test_results_of_different_problems_are_refused():
    with pytest.raises(ValueError, match=r"the map is of the problem 'p' \(other\) and the posterior of 'p' \(abc\)"):
        compare(found({"k": 0.4}, problem_hash="other"), sampled({"k": SHAPES["normal"]}))
    with pytest.raises(ValueError, match="no group 'map_estimate'"):
        compare(sampled({"k": SHAPES["normal"]}), sampled({"k": SHAPES["normal"]}))
    with pytest.raises(ValueError, match=r"no estimates of \['k'\]"):
        compare(found({"h": 0.4}), sampled({"k": SHAPES["normal"]}))


def test_it_is_public():
    assert kb.compare is compare
