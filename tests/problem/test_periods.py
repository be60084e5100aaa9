"""Experiments that begin at another time than 0, set values by formulas, and change later: against closed forms."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import kinbayes as kb
from kinbayes.model.expressions import ZERO, const, symbol
from kinbayes.model.formula import parse
from kinbayes.model.model import Event, Model, ModelError
from kinbayes.ode import native
from kinbayes.ode.status import Status
from kinbayes.problem import noise
from kinbayes.problem.inputs import Input
from kinbayes.problem.observables import DataError, Experiment, Observable, Period
from kinbayes.problem.parameters import Parameter
from kinbayes.problem.problem import Problem
from kinbayes.problem.structure import functions
from kinbayes.run.starts.chain_starts import best_estimate

# A' = s t - k A and B' = -follows B, where `follows` is 2 k at the start; `late` is a rule with the time in it.
MODEL = Model(
    "driven",
    {"A": parse("s * time - k * A"), "B": parse("-follows * B")},
    {"A": const(3.0), "B": const(2.0), "s": const(0.5), "k": const(0.7), "follows": parse("2 * k")},
    {"late": parse("A * time"), "part": parse("A / k")},
)
PARAMETERS = [
    Parameter("k", scale="ln", lower=1e-2, upper=10.0),
    Parameter("dose", lower=-10.0, upper=10.0),
    Parameter("c", scale="log10", lower=1e-2, upper=100.0),
    Parameter("fixed", nominal=1.25, estimate=False),
]
THETA = {"k": 0.8, "dose": 1.5, "c": 0.4}
OBSERVABLES = ("A", "B", "late + time", "part")


def problem(experiments, rows, *, model=MODEL, parameters=PARAMETERS, observables=OBSERVABLES, **settings):
    """Return a problem with a row for every observable under (experiment, time), or (…, pre-equilibration)."""
    cells = [
        (f"y{o}", *row[:2], row[2] if len(row) > 2 else None, 0.0) for o in range(len(observables)) for row in rows
    ]
    columns = ["observableId", "simulationConditionId", "time", "preequilibrationConditionId", "measurement"]
    settings = {"rtol": 1e-10, "atol": 1e-12, **settings}
    named = [Observable(f"y{o}", formula, noise.normal("1")) for o, formula in enumerate(observables)]
    return Problem(model, parameters, named, pd.DataFrame(cells, columns=columns), experiments=experiments, **settings)


def moved(a, k, s, start, end):
    """Return A at a time, from A at another one."""
    at = lambda t: s * t / k - s / k**2  # noqa: E731
    return at(end) + (a - at(start)) * jnp.exp(-k * (end - start))


def assert_is(of, exact, tolerance=1e-8):
    """Assert that predictions and their derivatives are those of `exact`, a function of k, dose and c in JAX."""
    u = of.to_scaled({name: THETA[name] for name in of.parameter_names})
    from_u = {"lin": lambda v: v, "ln": jnp.exp, "log10": lambda v: 10.0**v}

    def predictions(u):
        return jnp.stack(exact(*(from_u[scale](v) for v, scale in zip(u, of.scale, strict=True))))

    rows, slopes = of.rows(np.asarray(u)[None]), of.row_derivatives(np.asarray(u)[None])
    assert np.all(rows.status == Status.OK)
    np.testing.assert_allclose(rows.simulated[0], predictions(u), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(
        slopes.simulated[0], jax.jacfwd(predictions)(u), rtol=10 * tolerance, atol=10 * tolerance
    )
    _, gradient = of.value_and_grad(u)
    total = jax.grad(lambda u: -0.5 * jnp.sum(predictions(u) ** 2))(u)
    prior = jax.grad(of.log_prior)(u)
    np.testing.assert_allclose(gradient - prior, total, rtol=10 * tolerance, atol=10 * tolerance)


# ---- values by formulas


def test_values_by_formulas():
    """They see the model's own values, each other's changes not, and the time."""
    experiments = [
        Experiment("plain", {"A": "dose"}),
        Experiment("formula", {"A": "2 * A + dose * k", "s": "s + c", "B": 5.0}),
        Experiment("chain", {"B": "A + B", "A": "B"}),
        Experiment("own", {"follows": "follows + 1", "B": "fixed * 4"}),
        Experiment("timed", {"A": "dose * time"}, start=2.0),
    ]
    of = problem(experiments, [(e.name, e.start + 1.0) for e in experiments], observables=("A", "B"))

    def exact(k, dose, c):
        return [
            moved(dose, k, 0.5, 0, 1),
            moved(6 + dose * k, k, 0.5 + c, 0, 1),
            moved(2.0, k, 0.5, 0, 1),
            moved(3.0, k, 0.5, 0, 1),
            moved(2 * dose, k, 0.5, 2, 3),
            2 * jnp.exp(-2 * k),
            5 * jnp.exp(-2 * k),
            5 * jnp.exp(-2 * k),
            5 * jnp.exp(-(2 * k + 1)),
            2 * jnp.exp(-2 * k),
        ]

    assert_is(of, exact)


def test_formulas_may_differ_between_experiments_that_set_the_same():
    formulas = {"one": "A + 1", "two": "A * dose", "three": 7.0, "four": "dose", "five": "A + 1", "six": None}
    experiments = [Experiment(name, {} if f is None else {"A": f}) for name, f in formulas.items()]
    of = problem(experiments, [(name, 0.0) for name in formulas], observables=("A",))
    assert_is(of, lambda k, dose, c: [4.0 + 0 * k, 3 * dose, 7.0 + 0 * k, dose, 4.0 + 0 * k, 3.0 + 0 * k])


# ---- other starts


@pytest.mark.parametrize("start", [-2.0, 0.0, 1e-3, 5.0])
def test_time_counts_from_the_start(start):
    """In rates, rules and observables; another experiment beside it begins at 0."""
    experiments = [Experiment("e", start=start), Experiment("zero")]
    of = problem(experiments, [("e", start), ("e", start + 1.5), ("zero", 0.5)])

    def exact(k, dose, c):
        times = jnp.array([start, start + 1.5, 0.5])
        a = jnp.stack([3.0 + 0 * k, moved(3.0, k, 0.5, start, start + 1.5), moved(3.0, k, 0.5, 0, 0.5)])
        b = 2 * jnp.exp(-2 * k * jnp.array([0, 1.5, 0.5]))
        return [*a, *b, *(a * times + times), *(a / k)]

    assert_is(of, exact)


def test_triggers_and_switches_see_the_time_of_the_experiment():
    model = Model(
        "timed",
        {"A": parse("piecewise(k, time > 4, 0)"), "n": parse("0 * k")},
        {"A": const(0.0), "n": parse("time"), "k": const(1.0)},
        events=(Event("at", parse("time >= 5"), (("n", parse("n + time")),)),),
    )
    experiments = [Experiment("early", start=-1.0), Experiment("zero"), Experiment("between", start=4.5)]
    late = Experiment("late", start=6.0)  # what is true before fires not
    rows = [(e.name, t) for e in (*experiments, late) for t in (4.75, 7.0) if t >= e.start]
    of = problem([*experiments, late], rows, model=model, observables=("A", "n"))

    def exact(k, dose, c):
        a = [0.75, 3.0, 0.75, 3.0, 0.25, 2.5, 1.0]
        n = [-1.0, 4.0, 0.0, 5.0, 4.5, 9.5, 6.0]
        return [*(k * v for v in a), *(v + 0 * k for v in n)]

    assert_is(of, exact)


def test_a_table_over_time_is_read_at_the_time_of_the_experiment():
    table = pd.DataFrame({"time": [0.0, 2.0, 6.0], "value": [1.0, 3.0, 0.0]})
    model = Model("fed", {"A": parse("feed")}, {"A": const(0.0), "feed": const(0.0), "k": const(1.0)})
    experiments = [Experiment("e", start=1.0), Experiment("zero"), Experiment("before", start=-1.0)]
    inputs = [Input("feed", table, "linear")]
    rows = [("e", 2.0), ("e", 6.0), ("zero", 6.0), ("before", 6.0)]
    of = problem(experiments, rows, model=model, observables=("A",), inputs=inputs)
    found = of.simulated(np.asarray(of.to_scaled(THETA)))
    np.testing.assert_allclose(found, [2.5, 8.5, 10.0, 11.0], rtol=1e-9)


# ---- later changes


def periods_exact(k, dose, c):
    """`one`: at 1 A gets the dose, at 3 k becomes c. `two`: from 2 on, k is doubled twice. `none`: as it is."""
    a1 = moved(3.0, k, 0.5, 0, 1) + dose
    a2 = moved(a1, k, 0.5, 1, 3)
    one = [a1, a2, moved(a2, c, 0.5, 3, 4)]
    b1 = moved(4.0, k, 0.5, 2, 2.5)
    b2 = moved(b1, 2 * k, 0.5, 2.5, 3)
    two = [b1, b2, moved(b2, 4 * k, 0.5, 3, 4)]
    none = moved(3.0, k, 0.5, 0, 4)
    b = jnp.exp(-2 * k * jnp.array([1, 3, 4, 0.5, 1, 2, 4])) * 2
    a = jnp.stack([*one, *two, none])
    times = jnp.array([1, 3, 4, 2.5, 3, 4, 4])
    rates = jnp.stack([k, c, c, 2 * k, 4 * k, 4 * k, k])
    return [*a, *b, *(a * times + times), *(a / rates)]


EXPERIMENTS = [
    Experiment("one", periods=(Period(1.0, {"A": "A + dose"}), Period(3.0, {"k": "c"}))),
    Experiment("two", {"A": 4.0}, 2.0, (Period(2.5, {"k": "2 * k"}), Period(3.0, {"k": "k * 2"}))),
    Experiment("none"),
]
ROWS = [("one", 1.0), ("one", 3.0), ("one", 4.0), ("two", 2.5), ("two", 3.0), ("two", 4.0), ("none", 4.0)]


@pytest.fixture(scope="module")
def of():
    return problem(EXPERIMENTS, ROWS)


def test_experiments_with_different_periods(of):
    """The estimated k is changed as well; what follows from it at the start (`follows`) stays."""
    assert of.num_lanes == 3
    assert_is(of, periods_exact)


def test_without_its_periods_an_experiment_would_be_another(of):
    plain = problem([dataclasses.replace(e, periods=()) for e in EXPERIMENTS], ROWS)
    u = np.asarray(of.to_scaled(THETA))
    assert np.min(np.abs(plain.simulated(u) - of.simulated(u))[[0, 1, 2, 4, 5]]) > 0.01


def test_all_changes_of_a_period_are_made_at_once():
    e = Experiment("e", periods=(Period(1.0, {"A": "B", "B": "A", "s": 0.0, "k": "A / A"}),))
    of = problem([e], [("e", 1.0), ("e", 2.0)], observables=("A", "B"))

    def exact(k, dose, c):
        a, b = 2 * jnp.exp(-2 * k), moved(3.0, k, 0.5, 0, 1)
        return [a, a * jnp.exp(-1), b, b * jnp.exp(-2 * k)]

    assert_is(of, exact)


def test_what_changes_does_not_move_what_is_computed_from_it_backwards():
    """`part` is A / k: with another k it is another number, and A stays."""
    e = Experiment("e", periods=(Period(1.0, {"k": 2.0}),))
    of = problem([e], [("e", 1.0)], observables=("A", "part"))
    a = lambda k: moved(3.0, k, 0.5, 0, 1)  # noqa: E731
    assert_is(of, lambda k, dose, c: [a(k), a(k) / 2])


def test_times_of_periods_and_measurements_need_not_meet():
    """A period at the start, one between measurements, one after the last; and many times of measurements."""
    changes = (Period(0.0, {"A": 1.0}), Period(0.55, {"A": "A + dose"}), Period(9.0, {"A": 100.0}))
    times = np.linspace(0.0, 1.0, 11)
    of = problem([Experiment("e", periods=changes)], [("e", t) for t in times], observables=("A",))

    def exact(k, dose, c):
        middle = moved(1.0, k, 0.5, 0, 0.55) + dose
        return [moved(1.0, k, 0.5, 0, t) if t < 0.55 else moved(middle, k, 0.5, 0.55, t) for t in times]

    assert_is(of, exact)


def test_a_state_may_be_left_as_it_is():
    of = problem([Experiment("e", periods=(Period(1.0, {"A": math.nan, "B": 1.0}), Period(2.0)))], [("e", 3.0)])
    u = np.asarray(of.to_scaled(THETA))
    np.testing.assert_allclose(of.simulated(u)[:2], [moved(3.0, 0.8, 0.5, 0, 3), math.exp(-1.6 * 2)], rtol=1e-8)


# ---- after a pre-equilibration

TURNOVER = Model(
    "turnover", {"A": parse("s - k * A")}, {"A": const(3.0), "s": const(2.0), "k": const(0.5), "whole": parse("A + s")}
)


def test_periods_after_a_preequilibration():
    rest = Experiment("rest", {"s": 4.0})
    e = Experiment("e", {"s": 4.0}, 10.0, (Period(10.0, {"A": "A + dose"}), Period(11.0, {"s": "c"})))
    of = problem([rest, e], [("e", t, "rest") for t in (10.0, 11.0, 12.0)], model=TURNOVER, observables=("A",))

    def exact(k, dose, c):
        relaxed = lambda a, s, t: s / k + (a - s / k) * jnp.exp(-k * t)  # noqa: E731
        start = 4 / k + dose
        return [start, relaxed(start, 4.0, 1), relaxed(relaxed(start, 4.0, 1), c, 1)]

    assert_is(of, exact)


def test_a_parameter_that_others_change_later_is_set_anew_after_a_preequilibration():
    """What one experiment does later is nothing to another: the model's own s holds in it after the rest at 4."""
    rest, e = Experiment("rest", {"s": 4.0, "k": 2.0}), Experiment("e")
    dosed = Experiment("dosed", periods=(Period(1.0, {"s": 9.0, "k": "c"}),))
    rows = [("e", 0.0, "rest"), ("e", 1.0, "rest")]
    for experiments in ([rest, e], [rest, e, dosed]):
        of = problem(experiments, rows, model=TURNOVER, observables=("A",))
        assert_is(of, lambda k, dose, c: [2.0 + 0 * k, 2 / k + (2.0 - 2 / k) * jnp.exp(-k)])


def test_an_experiment_may_be_its_own_preequilibration():
    """Its periods come afterwards."""
    e = Experiment("e", {"s": "k + 1"}, periods=(Period(1.0, {"s": 0.0}),))
    of = problem([e], [("e", t, "e") for t in (0.0, 2.0)], model=TURNOVER, observables=("A",))
    assert_is(of, lambda k, dose, c: [(k + 1) / k, (k + 1) / k * jnp.exp(-k)])


def test_a_steady_state_comes_after_all_periods():
    e = Experiment("e", periods=(Period(1.0, {"s": 4.0}), Period(500.0, {"s": "c"})))
    of = problem([e], [("e", np.inf), ("e", 499.0)], model=TURNOVER, observables=("A",))
    assert_is(of, lambda k, dose, c: [c / k, 4 / k])


# ---- numbers


def test_other_numbers_compile_nothing(of, monkeypatch):
    """Starts, times of periods, values, and which parameter a value is."""
    monkeypatch.setattr(native, "compiled", lambda *_: pytest.fail("compiled"))
    before = functions.cache_info().misses
    others = [
        Experiment("one", start=-1.0, periods=(Period(0.5, {"A": "A + dose"}), Period(0.75, {"k": "dose"}))),
        Experiment("two", {"A": "fixed"}, 1.0, (Period(1.5, {"k": "2 * k"}), Period(2.75, {"k": "k * 2"}))),
        Experiment("none", start=0.5),
    ]
    other = problem(others, ROWS)
    assert functions.cache_info().misses == before
    u = np.asarray(of.to_scaled(THETA))
    a = moved(moved(3.0, 0.8, 0.5, -1.0, 0.5) + 1.5, 0.8, 0.5, 0.5, 0.75)
    np.testing.assert_allclose(other.simulated(u)[0], moved(a, 1.5, 0.5, 0.75, 1), rtol=1e-8)
    with pytest.raises(pytest.fail.Exception):  # the control: another formula is another structure
        problem([dataclasses.replace(EXPERIMENTS[0], values={"A": "k + 3 * c"}), *EXPERIMENTS[1:]], ROWS)


def test_concentrations_are_numbers_too(monkeypatch):
    """A state that is an amount, and an experiment that sets the concentration."""
    amount = Model(
        "amount",
        {"amount of S": ZERO, "size": ZERO},
        {"amount of S": parse("3 * size"), "size": const(2.0), "k": const(1.0)},
        {"S": symbol("amount of S") / symbol("size")},
    )

    def numbered(start, later, size):
        e = Experiment("e", {"S": start}, periods=(Period(1.0, {"S": later, "size": size}),))
        return problem([e], [("e", 0.0), ("e", 1.0)], model=amount, observables=("S", "size"))

    found = numbered(5.0, 7.0, 4.0)
    assert_is(found, lambda k, dose, c: [5.0 + 0 * k, 7.0 + 0 * k, 2.0 + 0 * k, 4.0 + 0 * k])
    monkeypatch.setattr(native, "compiled", lambda *_: pytest.fail("compiled"))
    other = numbered("dose", "c", 8.0)
    np.testing.assert_allclose(other.simulated(other.to_scaled(THETA)), [1.5, 0.4, 2.0, 8.0], rtol=1e-12)


def test_vectors_alone_are_vectors_in_a_batch(of):
    rng = np.random.default_rng(2)
    U = np.asarray(of.to_scaled(THETA)) + rng.uniform(-0.3, 0.3, (9, 3))
    together, slopes = of.rows(U), of.row_derivatives(U)
    for k, u in enumerate(U):
        np.testing.assert_array_equal(together.simulated[k], of.rows(u[None]).simulated[0])
        np.testing.assert_array_equal(slopes.simulated[k], of.row_derivatives(u[None]).simulated[0])


def test_the_hash_knows_starts_and_periods(of):
    def changed(**parts):
        return problem([dataclasses.replace(EXPERIMENTS[1], **parts), EXPERIMENTS[0], EXPERIMENTS[2]], ROWS).hash

    first, second = EXPERIMENTS[1].periods
    hashes = [
        changed(),
        changed(start=2.25),
        changed(values={"A": "4 + k"}),
        changed(periods=(first,)),
        changed(periods=(Period(2.25, first.values), second)),
        changed(periods=(Period(2.5, {"k": "3 * k"}), second)),
        changed(periods=(Period(2.5, {"A": 1.0}), second)),
    ]
    assert len(set(hashes)) == len(hashes)
    ordered = [Experiment("e", periods=(Period(1.0, dict(items)),)) for items in
               ((("A", 1.0), ("B", 2.0)), (("B", 2.0), ("A", 1.0)))]  # fmt: skip
    assert len({problem([e], [("e", 1.0)]).hash for e in ordered}) == 1


# ---- what is refused


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        (Experiment("e", {"A": "A + nothing"}), "experiment 'e', 'A': 'nothing' is defined neither in the model nor"),
        (Experiment("e", {"A": "A +"}), "experiment 'e', 'A': cannot read the formula"),
        (Experiment("e", {"late": "1 + k"}), "experiment 'e' sets 'late', which the model computes by a rule; set"),
        (Experiment("e", {"none": "1 + k"}), "experiment 'e' sets 'none', which is no state or parameter of it"),
        (Experiment("e", {"none": 1.0}), "experiment 'e' sets 'none', which is no state or parameter of the model"),
        (Experiment("e", {"k": "2 * c"}), r"sets 'k', a parameter of the problem, by the formula '2 \* c'"),
        (Experiment("e", start=math.nan), r"its times \[nan\] must be finite"),
        (Experiment("e", start=-math.inf), r"its times \[-inf\] must be finite"),
        (Experiment("e", periods=(Period(math.inf),)), r"its times \[0.0, inf\] must be finite"),
        (Experiment("e", periods=(Period(2.0), Period(1.0))), "period 1 must come after 2"),
        (Experiment("e", periods=(Period(1.0), Period(1.0))), "period 1 must come after 1"),
        (Experiment("e", start=3.0, periods=(Period(2.0),)), "period 2 begins before the start at 3"),
        (Experiment("e", periods=(Period(1.0, {"late": 1.0}),)), "experiment 'e', period 1 sets 'late', which"),
        (Experiment("e", periods=(Period(1.0, {"dose": 1.0}),)), "experiment 'e', period 1 sets 'dose', which"),
        (Experiment("e", periods=(Period(1.0, {"A": "q"}),)), "experiment 'e', period 1, 'A': 'q' is defined neither"),
    ],
)
def test_what_cannot_be_done_is_refused(experiment, message):
    with pytest.raises(ModelError, match=message):
        problem([experiment], [("e", 5.0)])


def test_definitions_in_a_circle_are_refused():
    circle = Model("circle", {"A": parse("-k * A")}, {"A": parse("b"), "b": parse("A"), "k": const(1.0)})
    with pytest.raises(ModelError, match=r"the definitions of \['A', 'b'\] form a circle"):
        problem([Experiment("e", {"A": "b + 1"})], [("e", 1.0)], model=circle)


def test_measurements_before_the_start_are_refused():
    with pytest.raises(DataError, match=r"1.0 lies before the start of 'e' at time 2"):
        problem([Experiment("e", start=2.0)], [("e", 1.0)])


# ---- predictions


def test_a_grid_sees_starts_and_periods(of):
    u = np.asarray(of.to_scaled(THETA))
    one, two, _ = EXPERIMENTS
    grid = of.on_grid(two, [2.0, 2.5, 3.0, 4.0])
    np.testing.assert_allclose(grid.simulated(u)[1:4], of.simulated(u)[3:6], rtol=1e-8)
    np.testing.assert_allclose(of.on_grid(one, [4.0]).simulated(u)[0], of.simulated(u)[2], rtol=1e-8)
    own = dataclasses.replace(one, name="own", start=1.0, periods=(Period(2.0, {"A": "A + c"}),))
    expected = moved(moved(3.0, 0.8, 0.5, 1, 2) + 0.4, 0.8, 0.5, 2, 3)
    np.testing.assert_allclose(of.on_grid(own, [3.0]).simulated(u)[0], expected, rtol=1e-8)
    with pytest.raises(ValueError, match=r"time 1.5 lies before the start of experiment 'two' at 2"):
        of.on_grid(two, [1.5, 3.0])


def test_predictions_go_from_the_start_to_the_last_finite_time():
    experiments = [Experiment("e", start=-2.0, periods=(Period(1.0, {"s": 1.0}),)), Experiment("late", start=3.0)]
    rows = [("e", 0.0), ("e", 2.0), ("e", np.inf), ("late", 5.0)]
    parameters = [Parameter("k", lower=0.1, upper=2.0, nominal=0.5)]
    of = problem(experiments, rows, model=TURNOVER, parameters=parameters, observables=("A",), rtol=1e-8)
    mode = kb.optimize(of, starts=1, progress=False)
    found = kb.predict(mode, of)
    times = found["states"]["A"].time.values
    assert (times[0], times[-1], len(times)) == (-2.0, 5.0, 101)
    k = of.to_natural(best_estimate(of, mode))["k"]
    a = 2 / k + (3 - 2 / k) * np.exp(-k * (times + 2))
    at_1 = 2 / k + (3 - 2 / k) * np.exp(-k * 3)
    a = np.where(times < 1, a, 1 / k + (at_1 - 1 / k) * np.exp(-k * (times - 1)))
    np.testing.assert_allclose(found["states"]["A"].values[0, 0], a, rtol=1e-6)
    late = kb.predict(mode, of, experiment="late")
    assert (float(late["states"]["A"].time[0]), float(late["states"]["A"].time[-1])) == (3.0, 5.0)
    with pytest.raises(ValueError, match="times must be finite, not before 3, the start of 'late'"):
        kb.predict(mode, of, experiment="late", times=[2.0, 4.0])
    with pytest.raises(ValueError, match="times must be finite, not before -2, the start of 'e'"):
        kb.predict(mode, of, times=[1.0, np.inf])


# ---- the engine in JAX


def test_the_jax_engine_begins_anywhere_and_reads_formulas():
    experiments = [Experiment("e", {"A": "2 * A + dose * time"}, start=2.0), Experiment("zero", {"s": "c + k"})]
    rows = [("e", 2.0), ("e", 3.5), ("zero", 1.0)]
    native_, jax_ = (problem(experiments, rows, engine=engine, rtol=1e-9, atol=1e-12) for engine in ("native", "jax"))
    u = native_.to_scaled(THETA)
    np.testing.assert_allclose(jax_.simulated(u), native_.simulated(u), rtol=1e-7)
    np.testing.assert_allclose(jax_.value_and_grad(u)[1], native_.value_and_grad(u)[1], rtol=1e-6)


def test_the_jax_engine_refuses_what_it_cannot():
    changed = Experiment("e", periods=(Period(1.0, {"A": 1.0}),))
    with pytest.raises(ModelError, match="engine='native'"):
        problem([changed], [("e", 2.0)], engine="jax")
    with pytest.raises(ModelError, match="'y0' was measured under experiment 'e'; use engine='native'"):
        problem([Experiment("e")], [("e", np.inf)], engine="jax")
    with pytest.raises(ModelError, match=r"cannot pre-equilibrate .* use engine='native'"):
        problem([Experiment("e", start=1.0)], [("e", 2.0, "e")], engine="jax")
