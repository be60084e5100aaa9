"""Statements about a model against calculations by hand: A decays into B, both known in closed form."""

import dataclasses
import pickle

import arviz as az
import jax
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.integrate import quad

import kinbayes as kb
from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.problem.constraints import ConstraintError

MODEL = Model(
    "decay",
    {"A": parse("-k * A"), "B": parse("k * A")},
    {"A": parse("A_0"), "B": const(0.0), "k": const(0.3), "A_0": const(2.0)},
    {"total": parse("A + B")},
)
TIMES = np.array([0.5, 1.0, 2.0, 4.25])
K, A_0, S = 0.4, 2.5, 0.3
U = np.log10([K, A_0, S])
GRID = np.unique(np.concatenate([np.linspace(0, 4.25, 101), TIMES]))
AT, BETWEEN = ("at", 0.75), ("between", 0.4, 2.0)


def table(factor=1.0):
    return pd.DataFrame({"observableId": "y", "time": TIMES, "measurement": factor * 2.4 * np.exp(-0.5 * TIMES)})


def problem(*constraints, engine="native", noise=None, data=None, model=MODEL, observables=(), **settings):
    return kb.Problem(
        model,
        [kb.Parameter(name, kb.LogUniform(1e-2, 1e2)) for name in ("k", "A_0", "s")],
        [kb.Observable("y", "2 * A", noise or kb.noise.normal("s")), *observables],
        table() if data is None else data,
        constraints=constraints,
        engine=engine,
        rtol=1e-10,
        atol=1e-12,
        **settings,
    )


def a(t, k=K, a_0=A_0):
    return a_0 * np.exp(-k * np.asarray(t))


def b(t, k=K, a_0=A_0):
    return a_0 - a(t, k, a_0)


def log_probability(gap, confidence, tolerance):
    return np.log((1 - confidence) / 2 + confidence * stats.norm.cdf(-gap / tolerance))


PROBIT = {"confidence": 0.9, "tolerance": 0.5}
BETWEEN_TIMES = np.unique(np.concatenate([np.linspace(0.4, 2.0, 101), TIMES[:3]]))

# Statement, its gap, its term of the log likelihood: by hand.
CASES = {
    "at": (kb.Constraint("A", "<", "B", AT, weight=3.0), a(0.75) - b(0.75), -3 * (a(0.75) - b(0.75))),
    "at, satisfied": (kb.Constraint("A", ">", "B", AT, weight=3.0, minimum=1.0), b(0.75) - a(0.75), 0.0),
    "at, least penalty": (
        kb.Constraint("A", "<=", "B", AT, weight=3.0, minimum=4.0),
        a(0.75) - b(0.75),
        -12.0,
    ),
    "at, alternative": (
        kb.Constraint("A", "<", "B", AT, weight=3.0, minimum=0.1, alternative=("B", ">", "y / 4")),
        a(0.75) - b(0.75),
        -3 * max(0.1, a(0.75) / 2 - b(0.75)),
    ),
    "at, alternative holds": (
        kb.Constraint("A", "<", "B", AT, weight=3.0, minimum=0.1, alternative=("A", "<", 100)),
        a(0.75) - b(0.75),
        -0.3,
    ),
    "at, probit": (
        kb.Constraint("A", "<", "B", AT, **PROBIT),
        a(0.75) - b(0.75),
        log_probability(a(0.75) - b(0.75), 0.9, 0.5),
    ),
    "at, tolerance estimated": (
        kb.Constraint("A", "<", "B", AT, confidence=0.9, tolerance="2 * s"),
        a(0.75) - b(0.75),
        log_probability(a(0.75) - b(0.75), 0.9, 0.6),
    ),
    "always": (kb.Constraint("B - A / 5", "<", "A_0 / 4", weight=2.0), *[None] * 2),
    "always, satisfied": (kb.Constraint("B", "<=", "total"), *[None] * 2),
    "always, alternative": (
        kb.Constraint("B", "<", "A_0 / 4", weight=2.0, minimum=0.2, alternative=("A", "<", "1.5 + time")),
        (b(GRID) - A_0 / 4).max(),
        -2 * max(0.2, (a(GRID) - 1.5 - GRID).max()),
    ),
    "always, probit": (
        kb.Constraint("B", ">", 0.4, **PROBIT),
        0.4 - b(0),
        log_probability(0.4 - b(0), 0.9, 0.5),
    ),
    "once": (kb.Constraint("abs(A - B)", "<", "-0.1", "once", weight=5.0), *[None] * 2),
    "once, satisfied": (kb.Constraint("A", "<", "B", "once", weight=5.0), *[None] * 2),
    "once, alternative": (
        kb.Constraint("A", "<", "0.1", "once", weight=5.0, alternative=("B", ">=", 2.4)),
        (a(GRID) - 0.1).min(),
        -5 * (2.4 - b(GRID)).min(),
    ),
    "once, probit": (kb.Constraint("A", "<", "B", "once", **PROBIT), *[None] * 2),
    "between": (
        kb.Constraint("A", ">", "B", BETWEEN, weight=2.0),
        b(2.0) - a(2.0),
        -2 * (b(2.0) - a(2.0)),
    ),
    "between, probit": (
        kb.Constraint("y", ">", "3 * B", BETWEEN, **PROBIT),
        (3 * b(2.0) - 2 * a(2.0)),
        log_probability(3 * b(2.0) - 2 * a(2.0), 0.9, 0.5),
    ),
}
by_grid = {
    "always": ((b(GRID) - a(GRID) / 5 - A_0 / 4).max(), 2.0),
    "always, satisfied": ((b(GRID) - A_0).max(), 0.0),
    "once": ((np.abs(a(GRID) - b(GRID)) + 0.1).min(), 5.0),
    "once, satisfied": ((a(GRID) - b(GRID)).min(), 0.0),
}
for _name, (_gap, _weight) in by_grid.items():
    CASES[_name] = (CASES[_name][0], _gap, -_weight * _gap)
_gap = (a(GRID) - b(GRID)).min()
CASES["once, probit"] = (CASES["once, probit"][0], _gap, log_probability(_gap, 0.9, 0.5))
ALL = tuple(constraint for constraint, _, _ in CASES.values())
TERMS = np.array([term for _, _, term in CASES.values()])
GAPS = np.array([gap for _, gap, _ in CASES.values()])


def measured():
    return stats.norm.logpdf(2.4 * np.exp(-0.5 * TIMES), 2 * a(TIMES), S)


def test_cases_are_what_they_are_called():
    for name, (_, gap, term) in CASES.items():
        assert ("satisfied" in name) == (term == 0 and gap < 0), name


@pytest.mark.parametrize("name", CASES)
def test_a_term_agrees_with_the_calculation_by_hand(name):
    constraint, gap, term = CASES[name]
    found = problem(constraint)
    np.testing.assert_allclose(found.simulated(U)[-1], gap, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(found.pointwise_log_likelihood(U), [*measured(), term], rtol=1e-7, atol=1e-8)
    total = measured().sum() + term
    np.testing.assert_allclose(found.log_likelihood(U), total, rtol=1e-8)
    np.testing.assert_allclose(found.evaluate(np.stack([U, U])).log_likelihood, [total] * 2, rtol=1e-8)
    np.testing.assert_allclose(found.batched.log_likelihood(np.stack([U, U])), [total] * 2, rtol=1e-8)
    assert found.is_likelihood == ("probit" in name or "tolerance" in name)


@pytest.fixture(scope="module", params=["native", pytest.param("jax", marks=pytest.mark.slow)])
def everything(request):
    """A problem with statements of all kinds, and the numbers of their cases; the JAX engine compiles for seconds."""
    some = ["at, alternative", "always, alternative", "once, probit", "between"]
    chosen = [k for k, name in enumerate(CASES) if request.param == "native" or name in some]
    return problem(*(ALL[k] for k in chosen), engine=request.param), np.array(chosen)


def test_terms_add_up_on_both_engines(everything):
    everything, chosen = everything
    terms = TERMS[chosen]
    np.testing.assert_allclose(everything.pointwise_log_likelihood(U), [*measured(), *terms], rtol=1e-7, atol=1e-8)
    rows = everything.rows(U[None])
    np.testing.assert_allclose(rows.log_density[0], [*measured(), *terms], rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(rows.simulated[0], [*2 * a(TIMES), *GAPS[chosen]], rtol=1e-7, atol=1e-8)
    total = measured().sum() + terms.sum()
    np.testing.assert_allclose(everything.log_likelihood(U), total, rtol=1e-8)
    np.testing.assert_allclose(everything.evaluate(U[None]).log_likelihood, [total], rtol=1e-8)
    np.testing.assert_allclose(jax.vmap(everything.log_likelihood)(np.stack([U, U])), [total] * 2, rtol=1e-8)
    assert len(everything.measurements) == len(TIMES) + len(chosen)
    assert [m.value for m in everything.measurements[len(TIMES) :]] == [1.0] * len(chosen)


def test_derivatives_agree_with_differences(everything):
    everything, _ = everything
    h, steps = 1e-5, np.eye(3)
    ends = everything.rows(np.concatenate([U + h * steps, U - h * steps])).log_density
    by_rows = ((ends[:3] - ends[3:]) / (2 * h)).T
    close = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(everything.row_derivatives(U[None]).log_density[0], by_rows, **close)
    np.testing.assert_allclose(jax.jacfwd(everything.pointwise_log_likelihood)(U), by_rows, **close)
    gradient = by_rows.sum(axis=0)
    value, found = everything.value_and_grad(U)
    np.testing.assert_allclose(found - jax.grad(everything.log_prior)(U), gradient, **close)
    np.testing.assert_allclose(value, everything.log_density(U), rtol=1e-8)
    np.testing.assert_allclose(jax.grad(everything.log_likelihood)(U), gradient, **close)
    if everything.engine == "jax":
        return
    batched = everything.batched
    _, value, _, found, _ = batched.curvature(U[None], None)
    np.testing.assert_allclose(found[0], gradient, **close)
    np.testing.assert_allclose(value[0], everything.log_likelihood(U), rtol=1e-8)
    weights = np.ones((1, len(everything.measurements)))
    weights[0, len(TIMES) :] = 0.0
    np.testing.assert_allclose(batched.curvature(U[None], weights)[1], [measured().sum()], rtol=1e-8)


def test_where_nothing_is_a_tie_the_first_counts():
    """B is 0 at the start alone; A + B is the same at all times, so the gap is, too."""
    found = problem(kb.Constraint("total", "<", "time * 0 + 1"), engine="native")
    derivatives = found.row_derivatives(U[None])
    np.testing.assert_allclose(derivatives.log_density[0, -1], [0.0, -A_0 * np.log(10), 0.0], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("when", ["always", ("at", 0.0)])
def test_equality_violates_a_strict_statement_only(when):
    # B is exactly 0 at the start.
    for relation, term in (("<", -2.0), ("<=", 0.0)):
        found = problem(kb.Constraint("0 * B", relation, 0, when, minimum=2.0))
        assert float(found.pointwise_log_likelihood(U)[-1]) == term


def test_a_gap_that_is_no_number_is_no_density():
    for when in (AT, "always"):
        for settings in ({}, PROBIT):
            found = problem(kb.Constraint("log(B - 100)", "<", 1, when, **settings))
            assert float(found.log_likelihood(U)) == -np.inf
            assert found.evaluate(U[None]).log_likelihood[0] == -np.inf
            assert not np.any(found.batched.value_and_grad(U[None])[3])


def test_a_failed_simulation_has_no_density():
    found = problem(kb.Constraint("A", "<", "B"), max_steps=3)
    _, value, _, gradient = found.batched.value_and_grad(U[None])
    assert value[0] == found.evaluate(U[None]).log_likelihood[0] == -np.inf
    assert not np.any(gradient)


def test_information_of_a_probability_is_that_of_its_two_outcomes():
    constraint, gap, _ = CASES["at, tolerance estimated"]
    found, without = problem(constraint), problem()
    slopes = found.row_derivatives(U[None])
    p = np.exp(log_probability(gap, 0.9, 0.6))
    z, density = gap / 0.6, stats.norm.pdf(gap / 0.6) * 0.9
    slope = -density * (slopes.simulated[0, -1] / 0.6 - z / 0.6 * slopes.noise[0, -1, 1])
    expected = np.outer(slope, slope) / (p * (1 - p))
    np.testing.assert_allclose(found.fisher(U) - without.fisher(U), expected, rtol=1e-6, atol=1e-8)


def test_half_the_squares_of_the_residuals_are_the_loss():
    found = problem(*ALL, noise=kb.objectives.sos())
    assert np.sum(found.residuals(U) ** 2) / 2 == pytest.approx(-float(found.log_likelihood(U)), rel=1e-8)
    h = 1e-5
    differences = [(found.residuals(U + h * e) - found.residuals(U - h * e)) / (2 * h) for e in np.eye(3)]
    np.testing.assert_allclose(found.residual_jacobian(U), np.stack(differences, axis=1), rtol=1e-5, atol=1e-6)


# ---- experiments, data, other problems


def test_a_statement_is_about_its_experiment():
    data = pd.concat([table().assign(simulationConditionId=e) for e in ("one", "two")])
    experiments = [kb.Experiment("one"), kb.Experiment("two", {"A_0": 10.0}, start=0.25)]
    constraint = kb.Constraint("A", "<", 2, experiment="two")
    found = problem(constraint, data=data, experiments=experiments)
    np.testing.assert_allclose(found.simulated(U)[-1], 8.0, rtol=1e-7)
    assert found.measurements[-1].experiment == "two"
    with pytest.raises(ConstraintError, match="name its experiment; known are"):
        problem(kb.Constraint("A", "<", 2), data=data, experiments=experiments)
    with pytest.raises(ConstraintError, match="unknown experiment 'three'"):
        problem(kb.Constraint("A", "<", 2, experiment="three"), data=data, experiments=experiments)
    with pytest.raises(ConstraintError, match=r"time 0\.1 lies before the start of 'two' at time 0.25"):
        problem(kb.Constraint("A", "<", 2, ("at", 0.1), "two"), data=data, experiments=experiments)
    with pytest.raises(ConstraintError, match="nothing tells how long 'always' is"):
        problem(constraint, data=data[data["simulationConditionId"] == "one"], experiments=experiments)
    between = kb.Constraint("A", "<", 2, ("between", 1, 2), "two")
    found = problem(between, data=data[data["simulationConditionId"] == "one"], experiments=experiments)
    np.testing.assert_allclose(found.simulated(U)[-1], 10 * np.exp(-K * 0.75) - 2, rtol=1e-7)


def test_a_statement_comes_after_the_pre_equilibration_of_its_experiment():
    model = dataclasses.replace(MODEL, derivatives={"A": parse("1 - k * A"), "B": parse("-B")})
    data = table().assign(simulationConditionId="later", preequilibrationConditionId="before")
    experiments = [kb.Experiment("before"), kb.Experiment("later", {"k": 1.0})]
    found = problem(kb.Constraint("A", "<", 1, "always", "later"), data=data, model=model, experiments=experiments)
    np.testing.assert_allclose(found.simulated(U)[-1], 1 / K - 1, rtol=1e-6)


def test_other_data_keep_the_statements():
    found = problem(*ALL)
    moved = found.with_data(table(2.0))
    assert moved.constraints == found.constraints
    assert moved._functions is found._functions
    np.testing.assert_allclose(moved.pointwise_log_likelihood(U)[len(TIMES) :], TERMS, rtol=1e-7, atol=1e-8)
    longer = problem(kb.Constraint("B", "<", 1)).with_data(table().assign(time=2 * TIMES))
    np.testing.assert_allclose(longer.simulated(U)[-1], b(8.5) - 1, rtol=1e-7)
    assert longer.measurements[-1].time == 8.5


def test_a_grid_of_predictions_has_no_statements():
    found = problem(*ALL)
    grid = found.on_grid(found.experiments[0], [1.0, 3.0])
    assert grid.constraints == ()
    np.testing.assert_allclose(grid.simulated(U), 2 * a([1.0, 3.0]), rtol=1e-7)


def test_tolerances_can_be_changed():
    found = problem(*ALL).with_tolerances(1e-9, 1e-11)
    np.testing.assert_allclose(found.pointwise_log_likelihood(U)[len(TIMES) :], TERMS, rtol=1e-6, atol=1e-7)


def test_a_problem_with_statements_can_be_pickled():
    found = problem(*ALL)
    copy = pickle.loads(pickle.dumps(found))
    assert copy.hash == found.hash
    assert copy.measurements == found.measurements
    assert float(copy.log_likelihood(U)) == float(found.log_likelihood(U))


def test_the_hash_knows_all_of_a_statement():
    base = kb.Constraint("A", "<", "B", weight=2.0)
    others = [
        {"left": "2 * A"},
        {"relation": "<="},
        {"right": "3"},
        {"when": "once"},
        {"when": AT},
        {"weight": 3.0},
        {"minimum": 0.1},
        {"alternative": ("A", "<", "2 * B")},
        {"num_times": 11},
        {"weight": 1.0, "confidence": 0.9, "tolerance": 1.0},
    ]
    hashes = {problem(dataclasses.replace(base, **other)).hash for other in ({}, *others)}
    assert len(hashes | {problem().hash}) == len(others) + 2


def test_statements_are_drawn_with_their_probability():
    found = problem(kb.Constraint("A", "<", "B", AT, **PROBIT), CASES["once, probit"][0])
    rows = found.rows(U[None])
    size = 20_000
    drawn = found.draw_measurements(
        np.random.default_rng(0),
        np.broadcast_to(rows.simulated, (size, len(found.measurements))),
        np.broadcast_to(rows.noise, (size, *rows.noise.shape[1:])),
    )[:, len(TIMES) :]
    assert set(np.unique(drawn)) == {0.0, 1.0}
    for column, log_p in zip(drawn.T, rows.log_density[0, len(TIMES) :], strict=True):
        p = np.exp(log_p)
        assert abs(column.mean() - p) < 5 * np.sqrt(p * (1 - p) / size)


# ---- text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A < B always", kb.Constraint("A", "<", "B")),
        ("A<=1e-3 once weight 2", kb.Constraint("A", "<=", "1e-3", "once", weight=2.0)),
        ("2 * A > B at 3.5", kb.Constraint("2 * A", ">", "B", ("at", 3.5))),
        ("A>=B BETWEEN 1, 4 weight 2 min .5", kb.Constraint("A", ">=", "B", ("between", 1, 4), weight=2, minimum=0.5)),
        (
            "A < B at 6 weight 2 altpenalty A + 1 > 3 min 1e-1",
            kb.Constraint("A", "<", "B", ("at", 6), weight=2.0, minimum=0.1, alternative=("A + 1", ">", "3")),
        ),
        (
            "A < B at 6 confidence .95 tolerance 2",
            kb.Constraint("A", "<", "B", ("at", 6), confidence=0.95, tolerance=2),
        ),
    ],
)
def test_text_is_read(text, expected):
    assert kb.Constraint.parse(text) == expected
    assert kb.Constraint.parse(text, experiment="one").experiment == "one"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A < B",
        "A always",
        "A = B always",
        "A < B < C always",
        "A < B at",
        "A < B at x",
        "A < B between 1 2",
        "A < B always weight",
        "A < B always min 2",
        "A < B always confidence 0.9",
        "A < B always weight 1 confidence 0.9 tolerance 1",
    ],
)
def test_text_that_is_no_statement_is_refused(text):
    with pytest.raises(ConstraintError, match="is no statement; write q1 < q2"):
        kb.Constraint.parse(text)


# ---- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"when": "never"}, "unknown 'never'; choose 'always'"),
        ({"when": ("at", 1.0, 2.0)}, "unknown"),
        ({"when": ("between", 2.0, 1.0)}, "ascending"),
        ({"when": ("at", np.nan)}, "must be numbers"),
        ({"relation": "=="}, "unknown relation '=='"),
        ({"alternative": ("A", "=", "B")}, "unknown relation '='"),
        ({"confidence": 0.9}, "come together"),
        ({"tolerance": 0.9}, "come together"),
        ({"confidence": 1.5, "tolerance": 1.0}, "between 0 and 1"),
        ({"confidence": 0.9, "tolerance": 1.0, "weight": 2.0}, "leave out the ones or the others"),
        ({"weight": -1.0}, "must be positive"),
        ({"minimum": np.inf}, "finite"),
        ({"num_times": 1}, "at least 2"),
        ({"left": "A +"}, "A \\+ < B always: "),
    ],
)
def test_what_contradicts_itself_is_refused(arguments, message):
    with pytest.raises((ConstraintError, TypeError), match=message):
        kb.Constraint(**{"left": "A", "relation": "<", "right": "B"} | arguments)


def test_what_is_not_known_is_refused():
    with pytest.raises(ConstraintError, match=r"C < B always: unknown \['C'\]"):
        problem(kb.Constraint("C", "<", "B"))
    with pytest.raises(ConstraintError, match=r"unknown \['sd'\]"):
        problem(kb.Constraint("A", "<", "B", confidence=0.9, tolerance="sd"))
    with pytest.raises(ConstraintError, match=r"unknown \['C'\]"):
        problem(kb.Constraint("A", "<", "B", alternative=("A", "<", "C")))
    filled = kb.Observable("z", "observableParameter1_z * A", kb.noise.normal("s"))
    with pytest.raises(ConstraintError, match="'z' is filled in by measurements"):
        problem(kb.Constraint("z", "<", "B"), observables=[filled])


def test_names_are_used_once():
    found = problem(kb.Constraint("A", "<", "B"), kb.Constraint("A", "<", "B", name="early"))
    assert [o.name for o in found.observables] == ["y", "constraint_1", "early"]
    assert found.observables[1].label == "A < B always"
    for name in ("y", "k", "A", "total"):
        with pytest.raises(ConstraintError, match=f"the name '{name}' is used already"):
            problem(kb.Constraint("A", "<", "B", name=name))
    with pytest.raises(ConstraintError, match="the name 'constraint_2' is used already"):
        problem(kb.Constraint("A", "<", "B", name="constraint_2"), kb.Constraint("A", "<", "B"))


def test_an_observable_of_the_name_of_a_state_is_the_state():
    shadow = kb.Observable("A", "100 * A", kb.noise.normal("s"))
    found = problem(kb.Constraint("A", "<", 1, AT), observables=[shadow])
    np.testing.assert_allclose(found.simulated(U)[-1], a(0.75) - 1, rtol=1e-7)


# ---- samplers and hosts


def test_samplers_refuse_penalties():
    found = problem(CASES["always, probit"][0], kb.Constraint("A", "<", "B"))
    reason = "constraint 'A < B always' has a static penalty, which is no likelihood.*confidence and a tolerance"
    for call in (lambda: kb.sample(found, progress=False), lambda: kb.to_pymc(found), lambda: kb.to_numpyro(found)):
        with pytest.raises(ValueError, match=reason):
            call()


def test_what_calls_the_kernel_itself_refuses_statements_about_many_times():
    found = problem(CASES["always, probit"][0])
    with pytest.raises(ValueError, match="use 'numpyro'"):
        kb.sample(found, "nuts", settings={"backend": "nutpie"}, progress=False)
    with pytest.raises(ValueError, match=r"kb\.to_numpyro"):
        kb.to_pymc(found)
    with pytest.raises(ValueError, match="outside the native kernel"):
        found.gradient_numbers  # noqa: B018


def test_hosts_have_the_terms():
    from numpyro.infer.util import log_density

    one = problem(CASES["at, probit"][0])
    model = kb.to_pymc(one)
    point = {f"log10_{n}": value for n, value in zip(("k", "A_0", "s"), U, strict=True)}
    with model:
        logp = model.compile_logp(vars=[model["measurements"]])
        initial = model.initial_point()
    transformed = {name: np.log((point[name.split("_interval")[0]] + 2) / (2 - point[name.split("_interval")[0]]))
                   for name in initial}  # fmt: skip
    assert float(logp(transformed)) == pytest.approx(float(one.log_likelihood(U)), rel=1e-9)
    many = problem(*(c for c in ALL if not c.is_penalty))
    value, _ = log_density(kb.to_numpyro(many), (), {}, point)
    assert float(value) == pytest.approx(float(many.log_density(U)), rel=1e-8)


def test_numpyro_predicts_whether_statements_hold():
    import numpyro
    from numpyro.infer import Predictive

    found = problem(*(c for c in ALL if not c.is_penalty))
    model = numpyro.handlers.uncondition(kb.to_numpyro(found))
    points = {f"log10_{n}": np.full(3, value) for n, value in zip(("k", "A_0", "s"), U, strict=True)}
    drawn = Predictive(model, points)(jax.random.key(0))["measurements"]
    assert drawn.shape == (3, len(found.measurements))
    assert set(np.unique(drawn[:, len(TIMES) :])) <= {0.0, 1.0}


@pytest.mark.slow
def test_a_probability_is_sampled_right():
    """One parameter, k, and what is known of it: B was seen to exceed A once until time 2, and A to exceed 0.5."""
    data = pd.DataFrame({"observableId": ["y"], "time": [2.0], "measurement": [1.0]})
    constraints = [
        kb.Constraint("B", ">", "A", "once", confidence=0.95, tolerance=0.4, num_times=11),
        kb.Constraint("A", ">", 0.5, "always", confidence=0.8, tolerance=0.2, num_times=11),
    ]
    found = kb.Problem(
        MODEL,
        [kb.Parameter("k", kb.LogUniform(1e-2, 1e1))],
        [kb.Observable("y", "A", kb.noise.normal(3.0))],
        data,
        constraints=constraints,
    )

    def density(u, with_constraints=True):
        k = 10**u
        value = stats.norm.logpdf(1.0, a(2.0, k, 2.0), 3.0)
        if with_constraints:
            value += log_probability(a(2.0, k, 2.0) - b(2.0, k, 2.0), 0.95, 0.4)
            value += log_probability(0.5 - a(2.0, k, 2.0), 0.8, 0.2)
        return np.exp(value)

    def moments(**settings):
        def moment(n):
            return quad(lambda u: u**n * density(u, **settings), -2, 1, limit=200)[0]

        total, first, second = map(moment, range(3))
        return first / total, second / total - (first / total) ** 2

    mean, variance = moments()
    idata = kb.sample(found, "random_walk", draws=500, warmup=200, seed=4, initial="prior", progress=False)
    draws = np.log10(idata.posterior["k"].values)
    error = draws.std() / np.sqrt(az.ess(draws))
    assert abs(draws.mean() - mean) < 5 * error
    squares = (draws - mean) ** 2
    assert abs(squares.mean() - variance) < 5 * squares.std() / np.sqrt(az.ess(squares))
    other, _ = moments(with_constraints=False)
    assert abs(draws.mean() - other) > 5 * error  # negative control
    np.testing.assert_array_equal(idata.observed_data["constraint_1"], [1.0])
    assert idata.log_likelihood["constraint_2"].shape[-1] == 1
    replicated = idata.posterior_predictive["constraint_1"].values
    expected = np.exp(idata.log_likelihood["constraint_1"].values)
    assert abs(np.mean(replicated - expected)) < 5 * np.std(replicated) / np.sqrt(replicated.size)


@pytest.mark.parametrize("sampler", [pytest.param("nuts", marks=pytest.mark.slow), "dream"])
def test_other_samplers_take_statements_about_many_times(sampler):
    found = problem(CASES["always, probit"][0])
    idata = kb.sample(found, sampler, draws=20, warmup=20, chains=2, seed=1, initial="prior", progress=False)
    draws = np.log10(np.stack([idata.posterior[n].values[0] for n in ("k", "A_0", "s")], axis=-1))
    expected = found.evaluate(draws)
    np.testing.assert_allclose(
        idata.sample_stats["lp"].values[0], expected.log_likelihood + expected.log_prior, rtol=1e-6, atol=1e-6
    )
