"""Forward sensitivities against closed forms: along steps, over switches, through steady states, and where they fail.

Closed forms are written with JAX, whose derivatives of them are the reference.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.ode import native
from kinbayes.ode.numbers import DerivativeSizes, Numbers, section
from kinbayes.ode.status import Status
from kinbayes.problem import noise, structure
from kinbayes.problem.observables import Experiment, Observable
from kinbayes.problem.parameters import LOG_FACTORS, Parameter
from kinbayes.problem.problem import Problem

MEASURED = 0.3


def problem(rates, start, estimated, times, *, observed=None, scales=(), experiments=None, rtol=1e-9, **settings):
    """Return a problem with normal noise of sd 1 on one formula, or on every state.

    `start` holds numbers and formulas, `estimated` names; `scales` are theirs, or "lin". `experiments` are pairs of
    values before time 0 and after, or values alone.
    """
    initial = {name: parse(value) if isinstance(value, str) else const(value) for name, value in start.items()}
    formulas = {"y": observed} if observed else {f"y_{state}": state for state in rates}
    named, rows = [], []
    for k, experiment in enumerate(experiments or [{}]):
        before, after = experiment if isinstance(experiment, tuple) else (None, experiment)
        named.append(Experiment(f"after{k}", after))
        named += [] if before is None else [Experiment(f"before{k}", before)]
        rows += [
            {"observableId": y, "simulationConditionId": f"after{k}", "time": t, "measurement": MEASURED}
            | ({} if before is None else {"preequilibrationConditionId": f"before{k}"})
            for t in times
            for y in formulas
        ]
    return Problem(
        Model("model", {name: parse(rate) for name, rate in rates.items()}, initial),
        [
            Parameter(name, scale=scale)
            for name, scale in zip(estimated, scales or ["lin"] * len(estimated), strict=True)
        ],
        [Observable(name, formula, noise.normal("1")) for name, formula in formulas.items()],
        pd.DataFrame(rows),
        experiments=named,
        rtol=rtol,
        **{"atol": 1e-3 * rtol, **settings},
    )


def numbers_of(of):
    return Numbers(*map(np.asarray, of._smooth_data.native))


class Found(NamedTuple):
    """What the kernel says of one vector: predictions and their derivatives, the gradient, status and steps."""

    predicted: np.ndarray
    slopes: np.ndarray
    gradient: np.ndarray
    status: np.ndarray
    steps: np.ndarray


def at(of, u):
    found = native.simulated(
        numbers_of(of), np.array([u], dtype=float), with_rows=True, with_gradients=True, with_slopes=True
    )
    gradient = found.gradients[0].sum(axis=0)
    return Found(found.rows[0, :, 1], found.slopes[0, :, 1], gradient, found.lanes.status[0], found.lanes.steps[0])


def by_differences(of, u, h=1e-5):
    """Return the derivatives of the predictions, by central differences of the simulation without derivatives."""
    u = np.array(u, dtype=float)
    steps = h * np.maximum(np.abs(u), 0.1)
    ends = of.rows(np.concatenate([u + np.diag(steps), u - np.diag(steps)])).simulated
    return ((ends[: u.size] - ends[u.size :]) / (2 * steps[:, None])).T


def error(ours, theirs):
    """Return the largest error of a derivative, every parameter's in units of its largest."""
    size = np.max(np.abs(theirs), axis=0)
    return np.max(np.abs(ours - theirs) / np.where(size > 0, size, 1.0))


def assert_derivatives(found, of, predicted, slopes, largest):
    assert np.all(found.status == Status.OK)
    np.testing.assert_allclose(found.predicted, predicted, rtol=largest, atol=largest)
    print(f"error {error(found.slopes, slopes):.1e}, {found.steps} steps")
    assert error(found.slopes, slopes) < largest
    gradient = (MEASURED - predicted) @ slopes
    size = np.abs(MEASURED - predicted) @ np.abs(slopes)
    np.testing.assert_array_less(np.abs(found.gradient - gradient), 10 * largest * size + 1e-14)


# ---- closed forms

T = np.array([0.0, 0.3, 1.0, 1.0000001, 2.5, 4.0])


class Case(NamedTuple):
    """Rates, start, estimated parameters and their values, and the states as a function of them and of times."""

    rates: dict
    start: dict
    values: dict
    solution: object


def two_compartments(p, t):
    matrix = jnp.array([[-p["q"] / p["v"], p["q"] / p["w"]], [p["q"] / p["v"], -p["q"] / p["w"] - p["c"] / p["w"]]])
    return jax.vmap(lambda s: jax.scipy.linalg.expm(matrix * s) @ jnp.array([p["A"], 0.5]))(t).T


def chain(p, t):
    n = 6
    rates = jnp.array([p[f"k{i}"] for i in range(n)])
    matrix = jnp.diag(-rates) + jnp.diag(rates[:-1], -1)
    start = jnp.zeros(n).at[0].set(p["s0"])
    return jax.vmap(lambda s: jax.scipy.linalg.expm(matrix * s) @ start)(t).T


def stiff_chain(p, t):
    """Bateman's formula, which cancels little where rates lie far apart."""
    k, states = [p[f"k{i}"] for i in range(6)], []
    for i in range(6):
        shares = [jnp.exp(-k[j] * t) / math.prod(k[m] - k[j] for m in range(i + 1) if m != j) for j in range(i + 1)]
        states.append(p["s0"] * math.prod(k[:i]) * sum(shares))
    return states


def forced(p, t):
    k, w, a = p["k"], p["w"], p["a"]
    swing = (k * jnp.sin(w * t) - w * jnp.cos(w * t) + w * jnp.exp(-k * t)) / (k**2 + w**2)
    return (p["x"] * jnp.exp(-k * t) + a * swing)[None]


CASES = {
    "decay": Case(
        {"A": "-k * A"}, {"k": 1.0, "A": 1.0}, {"k": 0.7, "A": 1.5}, lambda p, t: [p["A"] * jnp.exp(-p["k"] * t)]
    ),
    "a parameter in rate and start": Case(
        {"A": "-k * A"}, {"k": 1.0, "A": "2 * k"}, {"k": 0.7}, lambda p, t: [2 * p["k"] * jnp.exp(-p["k"] * t)]
    ),
    "a chain of definitions": Case(
        {"A": "-c * A"},
        {"k": 1.0, "b": 0.1, "c": "k^2 + b", "A": "c / (1 + b)"},
        {"b": 0.2, "k": 0.7},
        lambda p, t: [(p["k"] ** 2 + p["b"]) / (1 + p["b"]) * jnp.exp(-(p["k"] ** 2 + p["b"]) * t)],
    ),
    "a start that is a rate too": Case(
        {"A": "-A0 * A"}, {"A0": 1.0, "A": "A0"}, {"A0": 0.8}, lambda p, t: [p["A0"] * jnp.exp(-p["A0"] * t)]
    ),
    "reversible conversion": Case(
        {"A": "-f * A + r * B", "B": "f * A - r * B"},
        {"A": 1.0, "B": 0.0, "f": 1.0, "r": 1.0},
        {"f": 0.9, "r": 0.4, "A": 2.0, "B": 0.1},
        lambda p, t: [
            (e := p["r"] * (p["A"] + p["B"]) / (p["f"] + p["r"]))
            + (p["A"] - e) * (x := jnp.exp(-(p["f"] + p["r"]) * t)),
            p["A"] + p["B"] - e - (p["A"] - e) * x,
        ],
    ),
    "logistic growth": Case(
        {"N": "r * N * (1 - N / K)"},
        {"N": 0.1, "r": 1.0, "K": 1.0},
        {"r": 1.3, "K": 2.0, "N": 0.05},
        lambda p, t: [p["K"] / (1 + (p["K"] / p["N"] - 1) * jnp.exp(-p["r"] * t))],
    ),
    "decay of second order": Case(
        {"A": "-k * A^2"}, {"A": 1.0, "k": 1.0}, {"k": 1.7, "A": 1.2}, lambda p, t: [p["A"] / (1 + p["k"] * p["A"] * t)]
    ),
    "a power": Case(
        {"A": "-k * A^n"},
        {"A": 1.0, "k": 1.0, "n": 2.0},
        {"n": 1.6, "k": 0.8, "A": 1.9},
        lambda p, t: [(p["A"] ** (1 - p["n"]) - (1 - p["n"]) * p["k"] * t) ** (1 / (1 - p["n"]))],
    ),
    "Gompertz": Case(
        {"N": "a * N * log(K / N)"},
        {"N": 0.1, "a": 1.0, "K": 1.0},
        {"a": 0.6, "K": 3.0, "N": 0.2},
        lambda p, t: [p["K"] * jnp.exp(jnp.log(p["N"] / p["K"]) * jnp.exp(-p["a"] * t))],
    ),
    "a force": Case(
        {"x": "a * sin(w * time) - k * x"}, {"x": 1.0, "a": 1.0, "w": 1.0, "k": 1.0},
        {"a": 1.4, "w": 2.2, "k": 0.6, "x": 0.8}, forced,
    ),
    "a power of time": Case(
        {"x": "k * (time + 1)^n"},
        {"x": 0.0, "k": 1.0, "n": 1.0},
        {"k": 0.5, "n": 1.3},
        lambda p, t: [p["k"] * ((t + 1) ** (p["n"] + 1) - 1) / (p["n"] + 1)],
    ),
    "a fading source": Case(
        {"x": "b * exp(-a * time)", "z": "x / b"},
        {"x": 0.0, "z": 0.0, "a": 1.0, "b": 1.0},
        {"a": 0.8, "b": 2.0},
        lambda p, t: [
            p["b"] * (1 - jnp.exp(-p["a"] * t)) / p["a"],
            (t - (1 - jnp.exp(-p["a"] * t)) / p["a"]) / p["a"],
        ],
    ),
    "compartments": Case(
        {"A": "-q * (A / v - B / w)", "B": "q * (A / v - B / w) - c * B / w"},
        {"A": 1.0, "B": 0.5, "q": 1.0, "v": 1.0, "w": 1.0, "c": 1.0},
        {"q": 0.9, "v": 2.0, "w": 0.7, "c": 0.3, "A": 3.0},
        two_compartments,
    ),
    "a chain": Case(
        {f"s{i}": (f"k{i - 1} * s{i - 1} " if i else "") + f"- k{i} * s{i}" for i in range(6)},
        {**{f"s{i}": 0.0 for i in range(6)}, **{f"k{i}": 1.0 for i in range(6)}},
        {**{f"k{i}": 0.5 + 0.35 * i for i in range(6)}, "s0": 1.7},
        chain,
    ),
    "a stiff chain": Case(
        {f"s{i}": (f"k{i - 1} * s{i - 1} " if i else "") + f"- k{i} * s{i}" for i in range(6)},
        {**{f"s{i}": 0.0 for i in range(6)}, **{f"k{i}": 1.0 for i in range(6)}},
        {**{f"k{i}": 0.3 * 20.0**i for i in range(6)}, "s0": 1.7},
        stiff_chain,
    ),
}  # fmt: skip
SCALES = ("lin", "ln", "log10")


def natural(u, names, scales):
    factors = [LOG_FACTORS.get(scale) for scale in scales]
    return {n: v if f is None else jnp.exp(f * v) for n, f, v in zip(names, factors, u, strict=True)}


def scaled(values, scales):
    return np.array([v if s == "lin" else math.log(v) / LOG_FACTORS[s] for v, s in zip(values, scales, strict=True)])


@pytest.mark.parametrize("name", CASES)
def test_derivatives_of_predictions_are_those_of_the_closed_form(name):
    rates, start, values, solution = CASES[name]
    first = list(CASES).index(name)
    scales = [SCALES[(first + k) % 3] for k in range(len(values))]
    of = problem(rates, start, values, T, scales=scales)
    u = scaled(values.values(), scales)

    def predicted(u):
        return jnp.stack(list(solution(natural(u, values, scales), jnp.asarray(T))), axis=-1).ravel()

    expected = np.asarray(jax.jacfwd(predicted)(jnp.asarray(u)))
    found = at(of, u)
    assert_derivatives(found, of, np.asarray(predicted(u)), expected, 1e-6 if "stiff" in name else 2e-7)
    # And by differences, which know nothing of the closed form.
    assert error(found.slopes, by_differences(of, u)) < 1e-4


@pytest.mark.parametrize("num", [1, 8, 9, 17, 40])
def test_any_number_of_tangents(num):
    """Decays with two rates each, which they share with their neighbours; more tangents than one vector holds."""
    names = [f"k{i}" for i in range(num)]
    rates = {f"x{i}": f"-(k{i} + 0.1 * k{(i + 1) % num}) * x{i}" for i in range(num)}
    times = np.array([0.5, 1.5])
    of = problem(rates, {**{f"x{i}": 1.0 for i in range(num)}, **dict.fromkeys(names, 1.0)}, names, times)
    u = np.linspace(0.4, 1.9, num)
    matrix = np.eye(num) + 0.1 * np.roll(np.eye(num), 1, axis=1)
    exact = np.exp(-times[:, None] * (matrix @ u))
    slopes = -times[:, None, None] * exact[..., None] * matrix
    assert_derivatives(at(of, u), of, exact.ravel(), slopes.reshape(-1, num), 1e-7)


# ---- a parameter at 0


@pytest.mark.parametrize("k", [0.0, -0.0, 1e-300, 1e-12, -1e-9, 1e-3])
def test_a_parameter_at_0_has_a_gradient_with_an_error_control(k):
    """At k = 0 nothing moves, and steps would be as long as the states allow, over many swings of the force."""
    of = problem({"A": "k * sin(10 * time)"}, {"A": 1.0, "k": 1.0}, ["k"], [1.0, 5.0, 10.0])
    t = np.array([1.0, 5.0, 10.0])
    np.testing.assert_allclose(at(of, [k]).slopes[:, 0], (1 - np.cos(10 * t)) / 10, atol=1e-6)


# ---- switches

PULSE = {"A": "piecewise(a, time < t0, b) - k * A"}


def pulse(p, t):
    a, b, k, t0 = p["a"], p["b"], p["k"], p["t0"]
    early = a / k + (1.0 - a / k) * jnp.exp(-k * t)
    at_switch = a / k + (1.0 - a / k) * jnp.exp(-k * t0)
    return [jnp.where(t < t0, early, b / k + (at_switch - b / k) * jnp.exp(-k * (t - t0)))]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("t0", [0.7, 1.00000005, 2.5000001])
def test_the_gradient_by_a_switch_time(t0, scale):
    values = {"t0": t0, "a": 2.0, "b": 0.3, "k": 0.6}
    of = problem(PULSE, {"A": 1.0, **values}, values, T, scales=[scale] * 4)
    u = scaled(values.values(), [scale] * 4)
    expected = lambda u: jnp.stack(pulse(natural(u, values, [scale] * 4), jnp.asarray(T)), axis=-1).ravel()  # noqa: E731
    slopes = np.asarray(jax.jacfwd(expected)(u))
    found = at(of, u)
    assert_derivatives(found, of, np.asarray(expected(u)), slopes, 2e-7)
    assert np.max(np.abs(slopes[:, 0])) > 0.1  # or there would be no jump to forget
    before = np.repeat(T, 1) <= t0
    np.testing.assert_array_equal(found.slopes[before, 0], 0.0)


def test_at_the_time_of_the_switch_itself_the_slope_is_one_of_both_sides():
    of = problem(PULSE, {"A": 1.0, "t0": 1.0, "a": 2.0, "b": 0.3, "k": 0.6}, ["t0"], [1.0, 2.0])
    found = at(of, [1.0])
    assert min(abs(found.slopes[0, 0]), abs(found.slopes[0, 0] - 1.7)) < 1e-9
    assert found.slopes[1, 0] == pytest.approx(1.7 * math.exp(-0.6), rel=1e-7)


@pytest.mark.parametrize("condition", ["time < t0", "time*time < t0^2", "clock < t0"])
def test_the_derivative_by_the_time_of_a_jump(condition):
    rates = {"A": f"piecewise(1, {condition}, 0)", "clock": "1"}
    of = problem(rates, {"A": 0.0, "clock": 0.0, "t0": 1.0}, ["t0"], [3.0], observed="A")
    assert at(of, [1.3]).slopes[0, 0] == pytest.approx(1.0, rel=1e-12)


def test_without_the_jump_the_gradient_would_be_zero():
    """The control: tables that say nothing of conditions."""
    rates = {"A": "piecewise(1, clock < t0, 0)", "clock": "1"}
    of = problem(rates, {"A": 0.0, "clock": 0.0, "t0": 1.0}, ["t0"], [3.0], observed="A")
    numbers = numbers_of(of)
    numbers = numbers._replace(ints=numbers.ints.copy())
    section(numbers.ints, "derivative_sizes")[DerivativeSizes._fields.index("conditions")] = 0
    assert native.simulated(numbers, np.array([[1.3]]), with_rows=True, with_slopes=True).slopes[0, 0, 1, 0] == 0.0


SWITCHED = {  # rate, estimated, values, dA/dp at 4 for A(0) = 0
    "two switches": (
        "piecewise(1, time < t0, 0) + piecewise(2, time < t1, 5)", ["t0", "t1"], [1.3, 2.1], [1.0, -3.0],
    ),
    "two in the other order": (
        "piecewise(1, time < t0, 0) + piecewise(2, time < t1, 5)", ["t0", "t1"], [2.9, 0.4], [1.0, -3.0],
    ),
    "a window": ("piecewise(h, t0 < time && time < t0 + d, 0)", ["t0", "d", "h"], [1.0, 1.5, 2.0], [0.0, 2.0, 1.5]),
    "a window cut by the end": ("piecewise(2, t0 < time && time < t0 + d, 0)", ["t0", "d"], [1.0, 7.0], [-2.0, 0.0]),
    "an inverse time": ("piecewise(1, k * time < 1, 0)", ["k"], [0.5], [-4.0]),
    "a sum of parameters": ("piecewise(3, time - a > b, 0)", ["a", "b"], [0.5, 1.0], [-3.0, -3.0]),
    "both sides of one time": (
        "piecewise(1, time < t0, 0) + piecewise(0, time <= t0, 4)", ["t0"], [1.7], [-3.0],
    ),
    "a constant switch beside": (
        "piecewise(1, time < t0, 0) + piecewise(7, time < 2, 5)", ["t0"], [1.7], [1.0],
    ),
    "two at one time": (
        "piecewise(1, time < t0, 0) + piecewise(2, time < t1, 5)", ["t0", "t1"], [1.5, 1.5], [1.0, -3.0],
    ),
    "a constant switch at the same time": (
        "piecewise(1, time < t0, 0) + piecewise(7, time < 2, 5) + piecewise(4, time > 2, 3)", ["t0"], [2.0], [1.0],
    ),
    "three at one time": (
        "piecewise(1, time < t0, 0) + piecewise(2, 2 * time <= t1, 5) + piecewise(0, time < t0 + d, 4)",
        ["t0", "t1", "d"], [1.5, 3.0, 0.0], [1.0 - 4.0, -1.5, -4.0],
    ),
    "beyond the end": ("piecewise(1, time < t0, 0)", ["t0"], [9.0], [0.0]),
    "before the start": ("piecewise(1, time < t0, 3)", ["t0"], [-1.0], [0.0]),
    "in a force": ("sin(time) + piecewise(1, time < t0, 0)", ["t0"], [1.3], [1.0]),
    "from a curve to a curve": ("piecewise(time, time < t0, exp(-time))", ["t0"], [1.3], [1.3 - math.exp(-1.3)]),
}  # fmt: skip


@pytest.mark.parametrize("name", SWITCHED)
def test_switches(name):
    rate, estimated, values, slopes = SWITCHED[name]
    of = problem({"A": rate}, {"A": 0.0, **dict.fromkeys(estimated, 1.0)}, estimated, [4.0])
    np.testing.assert_allclose(at(of, values).slopes[0], slopes, rtol=1e-7, atol=1e-9)


def test_a_jump_goes_on_to_other_states():
    """B' = A, where A stops growing at t0: both tangents jump from there on."""
    of = problem(
        {"A": "piecewise(1, time < t0, 0)", "B": "A * c"}, {"A": 0.0, "B": 0.0, "c": 2.0, "t0": 1.0}, ["t0"], [0.5, 3.0]
    )
    np.testing.assert_allclose(at(of, [1.2]).slopes[:, 0], [0, 0, 1.0, 2 * 1.8], rtol=1e-9, atol=1e-12)


# ---- steady states

EQUILIBRATED = np.array([0.0, 1.0, 2.0])


def test_a_tangent_goes_on_from_the_steady_state():
    """A = s/k before; then A relaxes from there to s/c."""
    of = problem({"A": "s - k * A"}, {"A": 7.0, "s": 1.0, "k": 1.0}, ["s", "k", "c"], EQUILIBRATED,
                 experiments=[({}, {"k": "c"})])  # fmt: skip
    exact = lambda u: u[0] / u[2] + (u[0] / u[1] - u[0] / u[2]) * jnp.exp(-u[2] * EQUILIBRATED)  # noqa: E731
    u = np.array([1.4, 0.5, 1.3])
    assert_derivatives(at(of, u), of, exact(u), np.asarray(jax.jacfwd(exact)(u)), 1e-7)


def test_parameters_of_the_equilibration_leave_nothing_behind():
    """Before time 0 k is one parameter, and afterwards another one, or a number: the first has no more part in it."""
    lanes = [({"k": "a"}, {"k": "b"}), ({"k": "a"}, {"k": 1.1}), ({"k": "b"}, {"k": "a"})]
    start = {"A": 1.0, "s": 2.0, "k": 1.0}
    of = problem({"A": "s - k * A"}, start, ["a", "b"], EQUILIBRATED, experiments=lanes)

    def exact(u):
        ends = [(u[0], u[1]), (u[0], 1.1), (u[1], u[0])]
        return jnp.concatenate([2 / k + (2 / before - 2 / k) * jnp.exp(-k * EQUILIBRATED) for before, k in ends])

    u = np.array([0.5, 1.3])
    assert_derivatives(at(of, u), of, exact(u), np.asarray(jax.jacfwd(exact)(u)), 1e-7)


def conserved(u, t):
    """A <-> B with k before and c afterwards: B from k N/(1+k) to c N/(1+c)."""
    n, k, c = u
    return c * n / (1 + c) + (k * n / (1 + k) - c * n / (1 + c)) * jnp.exp(-(1 + c) * t)


@pytest.mark.parametrize("start", [5.0, 1.0, "rest"])
def test_a_steady_state_with_a_conservation_law(start):
    """It depends on the start through the whole alone; where the start is that state already nothing moves at all."""
    u = np.array([6.0, 2.0, 0.7])
    start = {"A": "n - b", "B": "b", "b": 4.0 if start == "rest" else start, "n": 6.0, "k": 1.0}
    of = problem({"A": "-k * A + B", "B": "k * A - B"}, start, ["n", "k", "c"], EQUILIBRATED, observed="B",
                 experiments=[({}, {"k": "c"})])  # fmt: skip
    slopes = np.asarray(jax.jacfwd(lambda u: conserved(u, EQUILIBRATED))(jnp.asarray(u)))
    assert_derivatives(at(of, u), of, conserved(u, EQUILIBRATED), slopes, 1e-7)


@pytest.mark.parametrize("s", [0.0, 1e-12, 1e-6, 1.0])
def test_states_at_rest_from_the_beginning_bring_their_tangents_to_rest(s):
    """Without a movement of the states nothing tells how long the way of the tangents is: dA/ds is 2 at s = 0 too."""
    of = problem({"A": "s - d * A"}, {"A": "s / d", "s": 2.0, "d": 0.5}, ["s", "d"], EQUILIBRATED,
                 experiments=[({"A": s / 0.5}, {})])  # fmt: skip
    found = at(of, [s, 0.5])
    assert np.all(found.status == Status.OK)
    np.testing.assert_allclose(found.slopes[:, 0], 2.0, rtol=1e-7)
    np.testing.assert_allclose(found.slopes[:, 1], -4 * s, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("fast", [1.0, 1e4, 1e8])
def test_stiff_states_at_rest_bring_their_tangents_to_rest(fast):
    """Fast exchange, slow conversion, and an amount that is conserved: long steps must not spoil the sum."""
    rates = {"A": "-f * (A - B)", "B": "f * (A - B) - k * B + C", "C": "k * B - C"}
    of = problem(rates, {"A": 1.0, "B": 1.0, "C": 1.0, "f": fast, "k": 1.0}, ["k"], [0.0], experiments=[({}, {})])
    found = at(of, [1.0])
    np.testing.assert_allclose(found.predicted, 1.0, rtol=1e-9)
    np.testing.assert_allclose(found.slopes[:, 0], [-1 / 3, -1 / 3, 2 / 3], rtol=1e-7)


@pytest.mark.parametrize("rtol", [1e-6, 1e-8])
@pytest.mark.parametrize("fast", [1e3, 1e6])
def test_fast_exchange_does_not_keep_tangents_from_their_rest(fast, rtol):
    """Rounding in what A and B exchange once kept steps short: where states took 200, their tangents took 10000."""
    rates = {"A": f"s - {fast} * (A - k * B^2)", "B": f"{fast} * (A - k * B^2) - 0.001 * B"}
    of = problem(rates, {"A": 1.0, "B": 1.0, "s": 1.0, "k": 1.0}, ["k", "s"], [0.0], experiments=[({}, {})], rtol=rtol)
    found, plain = (
        at(of, [0.7, 1.3]),
        native.simulated(Numbers(*map(np.asarray, of._data.native)), np.array([[0.7, 1.3]])),
    )
    # B = 1000 s and A = k B^2 + s / fast.
    slopes = [[1.3e3**2, 2 * 0.7 * 1e6 * 1.3 + 1 / fast], [0.0, 1e3]]
    print(f"error {error(found.slopes, slopes):.1e}, {found.steps} steps, {plain.lanes.steps[0]} without derivatives")
    assert np.all(found.status == Status.OK)
    assert error(found.slopes, slopes) < 10 * rtol
    assert found.steps[0] < 1.5 * plain.lanes.steps[0, 0]


def test_states_that_are_set_anew_lose_their_past():
    """B is set to a parameter after the equilibration, A goes on; both depended on others before."""
    of = problem({"A": "s - k * A", "B": "A - B"}, {"A": 0.0, "B": 0.0, "k": 1.0, "s": 1.0}, ["k", "b"], EQUILIBRATED,
                 experiments=[({"s": "b", "B": "k"}, {"B": "b"}), ({"s": 2.0}, {"A": 1.5, "s": "b"})])  # fmt: skip

    def exact(u):
        k, b = u
        (p, q), t = (jnp.exp(-k * EQUILIBRATED), jnp.exp(-EQUILIBRATED)), EQUILIBRATED
        lanes = []
        for a0, b0, s in ((b / k, b, 1.0), (1.5, 2 / k, b)):
            a = s / k + (a0 - s / k) * p
            lanes.append(jnp.stack([a, s / k + (a0 - s / k) / (1 - k) * (p - q) + (b0 - s / k) * q], axis=-1))
        assert t[0] == 0
        return jnp.stack(lanes).ravel()

    u = np.array([2.0, 3.0])
    assert_derivatives(at(of, u), of, np.asarray(exact(u)), np.asarray(jax.jacfwd(exact)(u)), 1e-7)


def test_a_nonlinear_steady_state_by_its_implicit_derivative():
    """0 = f(y, p) gives dy/dp = -J^-1 f_p."""
    rates = {"A": "s - v * A / (w + A) - q * A * B", "B": "v * A / (w + A) - q * B^2"}
    values = {"s": 0.8, "v": 1.1, "w": 0.7, "q": 0.9}
    of = problem(rates, {"A": 1.0, "B": 1.0, **values}, values, [0.0], experiments=[({}, {})])
    u = np.array(list(values.values()))
    found = at(of, u)

    def f(y, u):
        (a, b), (s, v, w, q) = y, u
        return jnp.array([s - v * a / (w + a) - q * a * b, v * a / (w + a) - q * b**2])

    y = found.predicted
    np.testing.assert_allclose(f(y, u), 0.0, atol=1e-8)
    slopes = -np.linalg.solve(jax.jacfwd(f)(y, u), jax.jacfwd(f, 1)(y, u))
    np.testing.assert_allclose(found.slopes, slopes, rtol=1e-6)


def test_switches_count_from_0_again_after_the_equilibration():
    """t0 switches before the steady state, where it is forgotten, and once more afterwards."""
    of = problem({"A": "piecewise(1, time < t0, s) - k * A"}, {"A": 0.0, "k": 1.0, "t0": 50.0, "s": 3.0},
                 ["t0", "k", "s"], [0.0, 1.0, 5.0], experiments=[({}, {})])  # fmt: skip

    def exact(u):
        t0, k, s = u
        relaxed = lambda t: 1 / k + (s / k - 1 / k) * jnp.exp(-k * t)  # noqa: E731
        late = s / k + (relaxed(t0) - s / k) * jnp.exp(-k * (5.0 - t0))
        return jnp.stack([s / k, relaxed(1.0), late])

    u = np.array([2.0, 1.2, 3.0])
    assert_derivatives(at(of, u), of, np.asarray(exact(u)), np.asarray(jax.jacfwd(exact)(u)), 1e-7)


def test_a_force_that_fades():
    of = problem({"A": "1 + exp(-c * time) - k * A"}, {"A": 0.0, "k": 1.0, "c": 1.0}, ["c", "k"], EQUILIBRATED,
                 experiments=[({}, {})])  # fmt: skip

    def exact(u):
        c, k = u
        return 1 / k + (jnp.exp(-c * EQUILIBRATED) - jnp.exp(-k * EQUILIBRATED)) / (k - c)

    u = np.array([0.8, 1.5])
    assert_derivatives(at(of, u), of, exact(u), np.asarray(jax.jacfwd(exact)(u)), 1e-7)


# ---- linear solvers

NETWORK = {
    "A": "-k1 * A * B + k2 * C",
    "B": "-k1 * A * B + k2 * C - k3 * B^2 + k4 * D",
    "C": "k1 * A * B - k2 * C - k5 * C / (1 + C)",
    "D": "k3 * B^2 - k4 * D + k5 * C / (1 + C)",
    "E": "piecewise(k1, time < k2, k3) * D - k4 * E * A",
    "F": "sin(k5 * time) * E - F",
}
RATE_CONSTANTS = {"k1": 1.3, "k2": 0.8, "k3": 0.6, "k4": 0.9, "k5": 1.7}


@pytest.fixture
def solver(monkeypatch):
    """Return a function that has every model compiled with one linear solver, and let none survive."""
    chosen = []

    def choose(kind):
        structure.functions.cache_clear()
        monkeypatch.setattr(native, "method", lambda *sizes: chosen.append(kind) or kind)

    yield choose
    structure.functions.cache_clear()
    assert chosen


@pytest.mark.parametrize("kind", ["indexed", "dense"])
def test_the_linear_solvers_agree(solver, kind):
    def found(kind):
        solver(kind)
        start = {**dict(zip(NETWORK, (1.0, 0.7, 0.1, 0.2, 0.5, 0.0), strict=True)), **RATE_CONSTANTS}
        # More than one block of tangents, and one that is not full.
        of = problem(
            NETWORK, start, [*RATE_CONSTANTS, *"ABCDEF"], [0.0, 0.5, 3.0], experiments=[{}, ({"k4": "k3"}, {})]
        )
        assert at(of, [*RATE_CONSTANTS.values(), 1.0, 0.7, 0.1, 0.2, 0.5, 0.0]).slopes.shape == (36, 11)
        return at(of, [*RATE_CONSTANTS.values(), 1.0, 0.7, 0.1, 0.2, 0.5, 0.0]), of

    (ours, of), (straight, _) = found(kind), found("straight")
    assert np.all(straight.status[:1] == Status.OK)
    np.testing.assert_array_equal(ours.status, straight.status)
    np.testing.assert_array_equal(ours.steps[:1], straight.steps[:1])
    np.testing.assert_allclose(ours.slopes[:18], straight.slopes[:18], rtol=1e-7, atol=1e-9)
    assert (
        error(straight.slopes[:18], by_differences(of, [*RATE_CONSTANTS.values(), 1.0, 0.7, 0.1, 0.2, 0.5, 0.0])[:18])
        < 1e-4
    )


# ---- errors and their control


def log_slope(steps, errors):
    return np.polyfit(np.log(steps), np.log(errors), 1)[0]


@pytest.mark.parametrize("name", ["logistic growth", "a force", "compartments", "a power"])
def test_errors_fall_with_the_power_of_the_steps(name):
    """As those of the states do: with the fifth of their number at the end, the fourth of all times."""
    rates, start, values, solution = CASES[name]
    u = np.array(list(values.values()))
    exact = lambda u: jnp.stack(list(solution(dict(zip(values, u, strict=True)), jnp.asarray(T))), axis=-1)  # noqa: E731
    slopes = np.asarray(jax.jacfwd(exact)(u))
    of, errors, at_end, steps = problem(rates, start, values, T), [], [], []
    for rtol in 10.0 ** -np.arange(4, 10.5, 0.5):
        found = at(of.with_tolerances(rtol, rtol), u)
        ours = found.slopes.reshape(slopes.shape)
        scale = np.max(np.abs(slopes), axis=(0, 1))
        errors.append(np.max(np.abs(ours - slopes) / scale))
        at_end.append(np.max(np.abs(ours - slopes)[-1] / scale))
        steps.append(found.steps[0])
        assert errors[-1] < 30 * rtol
    print(f"{name}: slopes {log_slope(steps, at_end):.2f} at the end, {log_slope(steps, errors):.2f} of all times")
    assert log_slope(steps, at_end) < -4.3
    assert log_slope(steps, errors) < -3.9


GROWING = {
    "a tiny start": ({"N": "r * N * (1 - N)"}, {"N": 1e-6, "r": 1.0}, ["N", "r"], [1e-6, 1.0], 20.0),
    "growth and loss": ({"x": "r * x"}, {"x": 1.0, "r": 1.0}, ["r", "x"], [2.0, 1e-3], 8.0),
    "Lorenz": (
        {"x": "s * (y - x)", "y": "x * (r - z) - y", "z": "x * y - b * z"},
        {"x": 1.0, "y": 1.0, "z": 20.0, "s": 10.0, "r": 28.0, "b": 8 / 3},
        ["s", "r", "b", "x"],
        [10.0, 28.0, 8 / 3, 1.0],
        4.0,
    ),
    "Van der Pol": (
        {"x": "v", "v": "m * (1 - x^2) * v - x"},
        {"x": 2.0, "v": 0.0, "m": 1.0},
        ["m", "x"],
        [30.0, 2.0],
        50.0,
    ),
    "Robertson": (
        {"a": "-k * a + q * b * c", "b": "k * a - q * b * c - r * b^2", "c": "r * b^2"},
        {"a": 1.0, "b": 0.0, "c": 0.0, "k": 0.04, "q": 1e4, "r": 3e7},
        ["k", "q", "r"],
        [0.04, 1e4, 3e7],
        4e4,
    ),
}


@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("scale", ["lin", "ln"])
def test_errors_of_gradients_are_controlled(name, scale):
    """Where the states allow long steps or errors grow, every gradient keeps its own precision."""
    rates, start, estimated, values, end = GROWING[name]
    times, scales = end * np.array([0.3, 0.7, 1.0]), [scale] * len(values)
    of = problem(rates, start, estimated, times, scales=scales, max_steps=100_000, atol=1e-20)
    u = scaled(values, scales)
    best = at(of.with_tolerances(1e-12, 1e-20), u)
    # The errors of the states at an end are what those of their slopes are measured by.
    for rtol in (1e-4, 1e-6, 1e-8):
        loose = of.with_tolerances(rtol, 1e-3 * rtol)
        found, plain = at(loose, u), loose.rows(u[None]).simulated[0]
        size = np.max(np.abs(best.predicted.reshape(3, -1)), axis=0)
        of_states = np.max(np.abs(plain.reshape(3, -1) - best.predicted.reshape(3, -1)) / size)
        print(f"{name}, {scale}, {rtol:.0e}: error {error(found.slopes, best.slopes) / rtol:.1f} rtol, "
              f"of the states {of_states / rtol:.1f} rtol, {found.steps[0]} steps")  # fmt: skip
        assert error(found.slopes, best.slopes) < 300 * rtol


@pytest.mark.parametrize("name", CASES)
def test_gradients_cost_steps_and_save_none(name):
    rates, start, values, _ = CASES[name]
    of = problem(rates, start, values, T, rtol=1e-7)
    u = np.array([list(values.values())])
    plain = native.simulated(Numbers(*map(np.asarray, of._data.native)), u).lanes.steps[0, 0]
    ours = at(of, u[0]).steps[0]
    print(f"{name}: {ours} steps, {plain} without derivatives")
    assert ours >= plain


# ---- failures


@pytest.fixture(scope="module")
def fragile():
    """Lanes that fail each in its own way, beside one that does not."""
    lanes = [{"e": 0.0}, {"e": "e"}, {"A": "start", "e": 0.0}]
    rates = {"A": "-k * A + e * A^2", "B": "sqrt(A) - B"}
    return problem(rates, {"A": 1.0, "B": 0.0, "k": 1.0, "e": 0.0}, ["k", "e", "start"], [1.0, 3.0], experiments=lanes,
                   rtol=1e-6, max_steps=400)  # fmt: skip


GOOD = [0.7, 0.1, 0.5]
BAD = {
    "blow-up": [0.1, 5.0, 1.0],
    "a start without a root": [0.7, 0.1, -1.0],
    "NaN": [np.nan, 0.1, 1.0],
    "infinity": [0.7, np.inf, 1.0],
    "too many steps": [-1e5, 0.1, 1.0],
    "only the last lane": [0.7, 0.1, np.nan],
}


@pytest.mark.parametrize("name", BAD)
def test_where_a_lane_fails_the_gradient_is_zero(fragile, name):
    numbers = numbers_of(fragile)
    U = np.array([GOOD, BAD[name], GOOD])
    totals, gradients = native.log_likelihoods_and_gradients(numbers, U)
    assert totals[1] == -np.inf
    np.testing.assert_array_equal(gradients[1], 0.0)
    np.testing.assert_array_equal(gradients[2], gradients[0])
    np.testing.assert_array_equal(totals[2], totals[0])
    assert np.all(np.isfinite(gradients[0]) & (gradients[0] != 0))
    found = native.simulated(numbers, U, with_gradients=True, with_slopes=True)
    failed = found.lanes.status[1] != Status.OK
    assert failed.any()
    np.testing.assert_array_equal(found.gradients[1, failed], 0.0)
    np.testing.assert_array_equal(fragile.batched.value_and_grad(U)[3][1], 0.0)
    np.testing.assert_array_equal(jax.grad(fragile.log_likelihood)(U[1]), 0.0)
    np.testing.assert_array_equal(fragile.row_derivatives(U).simulated[1], 0.0)


def test_too_few_steps_leave_no_gradient():
    of = problem({"A": "-k * A"}, {"A": 1.0, "k": 1.0}, ["k"], [1.0], max_steps=3)
    totals, gradients = native.log_likelihoods_and_gradients(numbers_of(of), np.array([[1.0], [0.0]]))
    assert totals[0] == -np.inf
    assert gradients[0, 0] == 0.0
    assert np.isfinite(totals[1]) or gradients[1, 0] == 0.0


def test_a_density_of_minus_infinity_has_no_slope():
    of = Problem(
        Model("decay", {"A": parse("-k * A")}, {"A": const(1.0), "k": const(1.0)}),
        [Parameter("k"), Parameter("sd")],
        [Observable("y", "A", noise.normal("sd"))],
        pd.DataFrame({"observableId": "y", "time": [1.0, 2.0], "measurement": [0.4, 0.1]}),
    )
    U = np.array([[1.0, 0.1], [1.0, -0.1], [1.0, 0.0], [1.0, 1e-200]])
    totals, gradients = native.log_likelihoods_and_gradients(numbers_of(of), U)
    np.testing.assert_array_equal(totals[1:], -np.inf)
    np.testing.assert_array_equal(gradients[1:], 0.0)
    assert np.all(gradients[0] != 0)
    np.testing.assert_array_equal(of.batched.value_and_grad(np.tile(U, (4, 1)))[3], np.tile(gradients, (4, 1)))


INFINITE = {  # rates, start, parameters, their values, slopes at 2 by hand or None for differences
    "a root at 0": ({"A": "1 - k * sqrt(A)"}, {"A": 0.0, "k": 1.0}, ["k"], [1.0], None),
    "a power below 1 at 0": ({"A": "1 - A^n"}, {"A": 0.0, "n": 0.5}, ["n"], [0.4], None),
    "a root that stays at 0": ({"A": "k * sqrt(A) - A"}, {"A": 0.0, "k": 1.0}, ["k"], [1.0], [[0.0]]),
    "a root of the start": ({"A": "-A"}, {"A": "sqrt(p)", "p": 1.0, "k": 0.0}, ["p", "k"], [0.0, 1.0], None),
    "a logarithm in a branch": (
        {"A": "-k * piecewise(A * log(A), A > 0, 0)"}, {"A": 0.0, "k": 1.0}, ["k", "A"], [1.0, 0.0], None
    ),
    "a quotient that is 0 / 0": ({"A": "-k * A^2 / sqrt(A^2)"}, {"A": 1e-200, "k": 1.0}, ["k", "A"], [1.0, 1.0], None),
}  # fmt: skip


@pytest.mark.parametrize("name", INFINITE)
def test_infinite_slopes_leave_finite_gradients(name):
    rates, start, estimated, values, slopes = INFINITE[name]
    of = problem(rates, start, estimated, [0.0, 0.01, 2.0])
    total, gradient = native.log_likelihoods_and_gradients(numbers_of(of), np.array([values]))
    assert np.all(np.isfinite(gradient))
    derivatives = of.row_derivatives(np.array([values]))
    assert all(np.all(np.isfinite(part)) for part in derivatives)
    assert np.isfinite(total[0])
    if "1 -" in rates["A"]:
        assert error(derivatives.simulated[0], by_differences(of, values)) < 1e-4
    elif slopes:
        np.testing.assert_array_equal(derivatives.simulated[0], np.repeat(slopes, 3, axis=0))


@pytest.mark.parametrize("place", [0, 3, 7, 8])
def test_an_infinite_tangent_spoils_no_other(place):
    """One of nine parameters has no finite derivative at the start; the others keep theirs, wherever it lies."""
    names = [f"p{i}" for i in range(9)]
    start = {f"x{i}": f"sqrt(p{i})" if i == place else f"p{i}" for i in range(9)}
    of = problem({f"x{i}": f"-x{i}" for i in range(9)}, {**start, **dict.fromkeys(names, 1.0)}, names, [1.0],
                 observed=" + ".join(start))  # fmt: skip
    u = np.ones(9)
    u[place] = 0.0
    total, gradient = native.log_likelihoods_and_gradients(numbers_of(of), u[None])
    expected = np.where(np.arange(9) == place, 0.0, (MEASURED - 8 * math.exp(-1)) * math.exp(-1))
    np.testing.assert_allclose(gradient[0], expected, rtol=1e-7)
    assert np.isfinite(total[0])


# ---- the same bits


@pytest.fixture(scope="module")
def vectors():
    stream = np.random.default_rng(5)
    U = np.stack([stream.uniform(0.1, 2, 24), stream.uniform(-0.5, 1.2, 24), stream.uniform(-0.3, 2, 24)], axis=-1)
    U[3] = U[0]
    U[5], U[11] = BAD["NaN"], BAD["blow-up"]
    return U


NUM = len(native.Lanes._fields)  # what is told of every lane; rows, states, gradients, slopes follow


def everything(numbers, U, num_threads=None):
    found = native.simulated(
        numbers, U, with_rows=True, with_gradients=True, with_slopes=True, with_states=True, num_threads=num_threads
    )
    return [*found.lanes, found.rows, found.states, found.gradients, found.slopes]


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_gradients_depend_on_their_own_numbers_alone(fragile, vectors):
    numbers = numbers_of(fragile)
    expected = everything(numbers, vectors, 1)
    status = expected[1]
    assert np.sum(np.all(status == 0, axis=1)) > 5
    assert np.sum(np.any(status > 0, axis=1)) > 5
    for num_threads in (1, 2, 4, None):
        assert_same(everything(numbers, vectors, num_threads), expected)
    order = np.random.default_rng(6).permutation(len(vectors))
    assert_same(everything(numbers, vectors[order], 2), [part[order] for part in expected])
    for k, u in enumerate(vectors):
        assert_same(everything(numbers, u[None], 1), [part[k : k + 1] for part in expected])
    assert_same([part[3] for part in expected], [part[0] for part in expected])


def test_gradients_of_totals_are_those_of_the_lanes(fragile, vectors):
    numbers = numbers_of(fragile)
    found = native.simulated(numbers, vectors, with_gradients=True)
    totals, gradients = native.log_likelihoods_and_gradients(numbers, vectors)
    expected = np.where(np.isfinite(totals)[:, None], found.gradients.sum(axis=1), 0.0)
    np.testing.assert_array_equal(totals, native.totals(found.lanes))
    np.testing.assert_array_equal(gradients, expected)
    for k, u in enumerate(vectors):
        one = native.log_likelihoods_and_gradients(numbers, u[None])
        np.testing.assert_array_equal(one[0], totals[k : k + 1])
        np.testing.assert_array_equal(one[1], gradients[k : k + 1])
    values, grads = fragile.batched.value_and_grad(vectors)[1::2]
    np.testing.assert_array_equal(values, totals)
    np.testing.assert_array_equal(grads, gradients)


def test_a_failed_lane_leaves_nothing_behind(fragile, vectors):
    numbers = numbers_of(fragile)
    expected = everything(numbers, vectors, 1)
    is_good = np.all(expected[1] == 0, axis=1)
    failed, good = np.concatenate([vectors[~is_good], list(BAD.values())]), np.flatnonzero(is_good)
    for k in good[:3]:
        mixed = np.insert(failed, range(len(failed) + 1), vectors[k], axis=0)
        found = everything(numbers, mixed, 1)
        totals, gradients = native.log_likelihoods_and_gradients(numbers, mixed)
        for place in range(0, len(mixed), 2):
            assert_same([part[place] for part in found], [part[k] for part in expected])
            np.testing.assert_array_equal(gradients[place], gradients[0])
            assert totals[place] == totals[0]


def test_rows_do_not_change_the_gradient(fragile, vectors):
    numbers = numbers_of(fragile)
    alone = native.simulated(numbers, vectors, with_gradients=True)
    assert_same(alone.lanes, everything(numbers, vectors)[:NUM])
    np.testing.assert_array_equal(alone.gradients, everything(numbers, vectors)[NUM + 2])
    only_slopes = native.simulated(numbers, vectors, with_slopes=True)
    np.testing.assert_array_equal(only_slopes.slopes, everything(numbers, vectors)[NUM + 3])
    assert only_slopes.gradients is None


def test_lanes_after_an_equilibration_depend_on_their_own_numbers_alone():
    """A lane with a pre-equilibration leaves tangents, stages and sources behind; the next has others."""
    lanes = [({"k": "a"}, {"k": "b"}), {"k": "c"}, ({"k": 1.0}, {}), ({"k": "c", "A": "a"}, {"A": "b"}), {}]
    of = problem({"A": "s - k * A^2", "B": "A - B"}, {"A": 1.0, "B": 0.3, "s": 1.0, "k": 0.5}, ["a", "b", "c"],
                 [0.0, 1.0], experiments=lanes, rtol=1e-6)  # fmt: skip
    numbers, U = numbers_of(of), np.random.default_rng(8).uniform(0.2, 2.0, (12, 3))
    U[4] = np.nan
    expected = everything(numbers, U, 1)
    assert np.sum(expected[1] == 0) > 40
    for num_threads in (2, 4):
        assert_same(everything(numbers, U, num_threads), expected)
    for k, u in enumerate(U):
        assert_same(everything(numbers, u[None], 1), [part[k : k + 1] for part in expected])
    # The last lane sees no parameter at all, and so has no slope.
    rows = np.array([m.experiment == "after4" for m in of.measurements])
    np.testing.assert_array_equal(expected[NUM + 3][:, rows], 0.0)
    good = expected[NUM + 3][np.arange(12) != 4]
    np.testing.assert_allclose(good[:3], [_differences_of_rows(of, u) for u in U[:3]], atol=1e-4)


def _differences_of_rows(of, u):
    """Return differences of the table of rows: of log densities, predictions and settings."""
    h, numbers = 1e-5, Numbers(*map(np.asarray, of.with_tolerances(1e-11, 1e-14)._data.native))
    U = np.concatenate([u + h * np.eye(3), u - h * np.eye(3)])
    ends = native.simulated(numbers, U, with_rows=True).rows
    return np.moveaxis((ends[:3] - ends[3:]) / (2 * h), 0, -1)


def test_numbers_without_derivatives_are_refused():
    of = problem({"A": "-k * A"}, {"A": 1.0, "k": 1.0}, ["k"], [1.0])
    plain = Numbers(*map(np.asarray, of._data.native))
    with pytest.raises(ValueError, match="these numbers have no derivatives"):
        native.log_likelihoods_and_gradients(plain, np.ones((1, 1)))
    with pytest.raises(ValueError, match="these numbers have no derivatives"):
        native.simulated(plain, np.ones((1, 1)), with_slopes=True)
