"""Gradients of the likelihood on the native engine: through observables, noise, experiments and placeholders."""

import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jax.scipy.special import gammaln

from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.ode import native
from kinbayes.ode.numbers import section
from kinbayes.ode.status import Status
from kinbayes.problem import noise
from kinbayes.problem.observables import Experiment, Observable
from kinbayes.problem.parameters import Parameter
from kinbayes.problem.problem import Problem

DECAY = Model("decay", {"A": parse("-k * A"), "B": parse("k * A")},
              {"A": const(2.0), "B": const(0.0), "k": const(1.0)})  # fmt: skip
T = np.array([0.0, 0.5, 1.0, 2.0, 4.0])


def by_differences(of, u, h=1e-4):
    """Return the gradient of the log likelihood by extrapolated central differences, at fine tolerances.

    Without derivatives: nothing of what is tested is in it.
    """
    fine, num, step = of.with_tolerances(1e-12, 1e-15), len(u), np.eye(len(u))
    ends = fine.evaluate(np.concatenate([u + k * h * step for k in (1, -1, 2, -2)])).log_likelihood.reshape(4, num)
    return (4 * (ends[0] - ends[1]) / (2 * h) - (ends[2] - ends[3]) / (4 * h)) / 3


def assert_gives(of, u, rows, *, rtol=1e-6):
    """Assert that every derivative is that of `rows`, a function of u in JAX: predictions, settings, log densities."""
    u = jnp.asarray(u, dtype=float)
    found, (predicted, settings, density) = of.rows(np.asarray(u)[None]), rows(u)
    np.testing.assert_allclose(found.simulated[0], predicted, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(found.log_density[0], density, rtol=rtol, atol=rtol)
    slopes = [np.asarray(part) for part in jax.jacfwd(rows)(u)]
    ours = of.row_derivatives(np.asarray(u)[None])
    num = slopes[1].shape[1]
    np.testing.assert_allclose(found.noise[0, :, :num], settings, rtol=rtol)
    for part, expected in zip((ours.simulated, ours.noise[:, :, :num], ours.log_density), slopes, strict=True):
        np.testing.assert_allclose(part[0], expected, rtol=rtol, atol=rtol * np.max(np.abs(expected)) + 1e-12)
    np.testing.assert_array_equal(ours.noise[:, :, num:], 0.0)
    _, value, _, grad = of.batched.value_and_grad(u[None])
    assert float(value[0]) == pytest.approx(float(density.sum()), rel=10 * rtol)
    size = np.abs(slopes[2]).sum(axis=0).max()
    np.testing.assert_allclose(grad[0], slopes[2].sum(axis=0), rtol=rtol, atol=rtol * size)
    np.testing.assert_allclose(by_differences(of, np.asarray(u)), grad[0], rtol=1e-5, atol=1e-4)


def normal(y, m, sd):
    return -0.5 * ((y - m) / sd) ** 2 - jnp.log(sd) - 0.5 * math.log(2 * math.pi)


# ---- observables and their placeholders

MEASURED = np.array([1.9, 1.1, 0.9, 0.4, 0.2])


def test_scales_offsets_and_sigmas_as_parameters():
    of = Problem(
        DECAY,
        [
            Parameter("k", scale="log10"),
            Parameter("scale", scale="ln"),
            Parameter("offset"),
            Parameter("sd", scale="ln"),
        ],
        [Observable("y", "scale * A + offset * B + time * offset", noise.normal("sd + 0.1 * y"))],
        pd.DataFrame({"observableId": "y", "time": T, "measurement": MEASURED}),
        rtol=1e-9,
        atol=1e-12,
    )

    def rows(u):
        k, s, o, sd = 10 ** u[0], jnp.exp(u[1]), u[2], jnp.exp(u[3])
        a = 2 * jnp.exp(-k * T)
        m = s * a + o * (2 - a) + T * o
        sds = sd + 0.1 * m
        return m, sds[:, None], normal(MEASURED, m, sds)

    assert_gives(of, [-0.2, 0.3, 0.15, -1.1], rows)


def test_scales_offsets_and_sigmas_as_placeholders():
    """Each row fills them with parameters or numbers of its own, in another order than that of the parameters."""
    cells = [
        ("early", "s1;o1", "sd1"), ("early", "s2;0.1", "0.3"), ("late", "1.5;o1", "sd2"), ("late", "s1;s1", "s1"),
        ("late", "k1;o2", "sd1"),
    ]  # fmt: skip
    data = pd.DataFrame(
        {
            "observableId": "y",
            "simulationConditionId": [c[0] for c in cells],
            "time": T,
            "measurement": MEASURED,
            "observableParameters": [c[1] for c in cells],
            "noiseParameters": [c[2] for c in cells],
        }
    )
    names = ["sd2", "o2", "k2", "s2", "sd1", "s1", "k1", "o1", "unused"]
    of = Problem(
        DECAY,
        [Parameter(name, scale="ln" if name[0] in "sk" else "lin") for name in names],
        [
            Observable(
                "y", "observableParameter1_y * A + observableParameter2_y", noise.normal("noiseParameter1_y * (1 + B)")
            )
        ],
        data,
        experiments=[Experiment("early", {"k": "k1"}), Experiment("late", {"k": "k2", "A": "s2"})],
        rtol=1e-9,
        atol=1e-12,
    )

    def rows(u):
        p = {n: jnp.exp(v) if n[0] in "sk" else v for n, v in zip(names, u, strict=True)}
        predicted, sds = [], []
        for (experiment, given, sd), t in zip(cells, T, strict=True):
            k, start = (p["k1"], 2.0) if experiment == "early" else (p["k2"], p["s2"])
            scale, offset = (p[g] if g in p else float(g) for g in given.split(";"))
            a = start * jnp.exp(-k * t)
            predicted.append(scale * a + offset)
            sds.append((p[sd] if sd in p else float(sd)) * (1 + start - a))
        m, sd = jnp.stack(predicted), jnp.stack(sds)
        return m, sd[:, None], normal(MEASURED, m, sd)

    u = [0.1, 0.3, -0.4, 0.2, -0.6, 0.15, 0.4, -0.2, 0.7]
    assert_gives(of, u, rows)
    np.testing.assert_array_equal(of.value_and_grad(np.array(u))[1][-1], 0.0)


def test_a_formula_may_use_parameters_of_the_model_and_starts():
    """`A_0` is a state's start, `c` follows from it, and an experiment replaces both."""
    of = Problem(
        Model("m", {"A": parse("-c * A")},
              {"A_0": const(1.0), "A": parse("A_0^2"), "k": const(1.0), "c": parse("k * A_0")}),
        [Parameter("A_0"), Parameter("k", scale="ln")],
        [Observable("y", "A * c + A_0 * time", noise.normal("k"))],
        pd.DataFrame(
            {
                "observableId": "y",
                "simulationConditionId": ["one", "two", "two", "three", "three"],
                "time": T,
                "measurement": MEASURED,
            }
        ),
        experiments=[Experiment("one"), Experiment("two", {"c": "k", "A_0": 0.7}), Experiment("three", {"A": "k"})],
        rtol=1e-9,
        atol=1e-12,
    )  # fmt: skip

    def rows(u):
        a_0, k = u[0], jnp.exp(u[1])
        lanes = [(a_0, a_0**2, k * a_0), (0.7, 0.49, k), (0.7, 0.49, k), (a_0, k, k * a_0), (a_0, k, k * a_0)]
        m = jnp.stack([a * jnp.exp(-c * t) * c + z * t for (z, a, c), t in zip(lanes, T, strict=True)])
        return m, jnp.full((5, 1), k), normal(MEASURED, m, k)

    assert_gives(of, [1.3, -0.2], rows)


def test_one_parameter_may_be_two_inputs_of_a_term():
    """Both constants of a rate are one parameter in one experiment, two in another, numbers in the third."""
    of = Problem(
        Model(
            "m", {"A": parse("a * (1 + b * A) - (a + b)^2 * A")}, {"A": const(0.5), "a": const(1.0), "b": const(1.0)}
        ),
        [Parameter("p"), Parameter("q")],
        [Observable("y", "A", noise.normal("1"))],
        pd.DataFrame(
            {"observableId": "y", "simulationConditionId": [f"e{i}" for i in range(5)], "time": 1.5, "measurement": 0.3}
        ),
        experiments=[
            Experiment("e0", {"a": "p", "b": "p"}),
            Experiment("e1", {"a": "q", "b": "p"}),
            Experiment("e2", {"a": 1.1, "b": 0.4}),
            Experiment("e3", {"a": "q", "b": 0.2, "A": "q"}),
            Experiment("e4", {"a": "q", "b": "q", "A": "p"}),
        ],
        rtol=1e-9,
        atol=1e-12,
    )

    def rows(u):
        p, q = u
        m = []
        for a, b, start in ((p, p, 0.5), (q, p, 0.5), (1.1, 0.4, 0.5), (q, 0.2, q), (q, q, p)):
            loss = (a + b) ** 2 - a * b
            m.append(a / loss + (start - a / loss) * jnp.exp(-loss * 1.5))
        m = jnp.stack(m)
        return m, jnp.ones((5, 1)), normal(0.3, m, 1.0)

    assert_gives(of, [0.8, 1.3], rows)
    lanes = np.diff(section(np.asarray(of._smooth_data.native.ints), "lane_tangents"))
    assert sorted(lanes.tolist()) == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("num", [3, 9, 17])
def test_lanes_have_tangents_of_their_own(num):
    """One parameter a lane, one for all, and one lane with all of them: lanes of few tangents beside one of many."""
    names = [f"k{i}" for i in range(num)]
    rate = " + ".join(f"c{i}" for i in range(num))
    model = Model(
        "m",
        {"A": parse(f"-s * ({rate}) * A")},
        {"A": const(1.5), "s": const(1.0), **{f"c{i}": const(0.01) for i in range(num)}},
    )
    single = [Experiment(f"e{i}", {f"c{i}": f"k{i}"}) for i in range(num)]
    whole = Experiment("whole", {f"c{i}": f"k{num - 1 - i}" for i in range(num)})
    experiments = [*single, whole, Experiment("none", {"s": 0.4})]
    named = [e.name for e in experiments]
    of = Problem(
        model,
        [Parameter("s"), *(Parameter(name, scale="ln") for name in names)],
        [Observable("y", "A", noise.normal("1"))],
        pd.DataFrame({"observableId": "y", "simulationConditionId": named, "time": 1.2, "measurement": 0.1}),
        experiments=experiments,
        rtol=1e-9,
        atol=1e-12,
    )  # fmt: skip

    def rows(u):
        s, k = u[0], jnp.exp(u[1:])
        rates = jnp.concatenate([s * (k + 0.01 * (num - 1)), s * k.sum()[None], jnp.array([0.4 * 0.01 * num])])
        m = 1.5 * jnp.exp(-1.2 * rates)
        return m, jnp.ones((num + 2, 1)), normal(0.1, m, 1.0)

    assert_gives(of, [0.7, *np.linspace(-2.5, -1.5, num)], rows)


def test_a_model_without_states_has_a_gradient():
    of = Problem(
        Model("line", {}, {"k": const(1.0), "b": const(2.0), "c": parse("k * b")}),
        [Parameter("k", scale="ln"), Parameter("sd")],
        [Observable("y", "c * time + k^2", noise.normal("sd"))],
        pd.DataFrame({"observableId": "y", "time": T, "measurement": MEASURED}),
    )

    def rows(u):
        k, sd = jnp.exp(u[0]), u[1]
        m = 2 * k * T + k**2
        return m, jnp.full((5, 1), sd), normal(MEASURED, m, sd)

    assert_gives(of, [-0.3, 0.8], rows)


def test_a_simulation_without_parameters_has_the_gradient_of_the_noise():
    of = Problem(
        DECAY,
        [Parameter("sd", scale="log10")],
        [Observable("y", "A", noise.normal("sd"))],
        pd.DataFrame({"observableId": "y", "time": T, "measurement": MEASURED}),
        rtol=1e-9,
        atol=1e-12,
    )

    def rows(u):
        m, sd = 2 * jnp.exp(-T), 10 ** u[0]
        return m, jnp.full((5, 1), sd), normal(MEASURED, m, sd)

    assert_gives(of, [-0.6], rows)


def test_a_time_of_the_data_switches_an_observable():
    """A formula may know the time: no state jumps, so only what it multiplies has a slope."""
    of = Problem(
        DECAY,
        [Parameter("k"), Parameter("late"), Parameter("t0")],
        [Observable("y", "A * piecewise(1, time < t0, late)", noise.normal("1"))],
        pd.DataFrame({"observableId": "y", "time": T, "measurement": MEASURED}),
        rtol=1e-9,
        atol=1e-12,
    )

    def rows(u):
        m = 2 * jnp.exp(-u[0] * T) * jnp.where(u[2] > T, 1.0, u[1])
        return m, jnp.ones((5, 1)), normal(MEASURED, m, 1.0)

    assert_gives(of, [0.7, 1.6, 1.2], rows)


def test_new_data_and_tolerances_bring_their_own_numbers():
    """The same code serves them; a fixed parameter that is estimated elsewhere takes code of its own."""

    def decay(data, estimate=True):
        return Problem(
            DECAY,
            [Parameter("a"), Parameter("b", nominal=0.4, estimate=estimate)],
            [Observable("y", "A", noise.normal("1"))],
            data,
            experiments=[Experiment("one", {"k": "a"}), Experiment("two", {"k": "b"})],
            rtol=1e-9,
            atol=1e-12,
        )

    rows = pd.DataFrame({"observableId": "y", "simulationConditionId": ["one", "two", "one"], "time": [1.0, 2.0, 3.0],
                         "measurement": 0.3})  # fmt: skip

    def gradient(data, u):
        k = np.where(data["simulationConditionId"] == "one", u[0], u[1])
        t = data["time"].to_numpy()
        m = 2 * np.exp(-k * t)
        parts = (data["measurement"] - m) * -t * m
        return [parts[data["simulationConditionId"] == e].sum() for e in ("one", "two")]

    of, u = decay(rows), np.array([0.6, 0.9])
    other = pd.concat([rows, rows.assign(time=rows["time"] + 0.5, measurement=0.7)], ignore_index=True)
    for data in (rows, other, rows.iloc[:1], rows.iloc[1:2]):
        problem = of.with_data(data)
        np.testing.assert_allclose(problem.batched.value_and_grad(u[None])[3][0], gradient(data, u), rtol=1e-7)
        loose = problem.with_tolerances(1e-4, 1e-7).batched.value_and_grad(u[None])[3][0]
        np.testing.assert_allclose(loose, gradient(data, u), rtol=1e-2)
        assert np.max(np.abs(np.subtract(loose, gradient(data, u)))) > 1e-9
    fixed = decay(rows, estimate=False)
    expected = gradient(rows, [0.6, 0.4])[:1]
    np.testing.assert_allclose(fixed.batched.value_and_grad(u[:1][None])[3][0], expected, rtol=1e-7)


# ---- noise


def laplace(y, m, b):
    return -jnp.abs(y - m) / b - jnp.log(2 * b)


def student_t(y, m, s, nu):
    z = (y - m) / s
    constant = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * jnp.log(nu * math.pi) - jnp.log(s)
    return constant - (nu + 1) / 2 * jnp.log1p(z * z / nu)


def negative_binomial(y, m, r):
    choose = gammaln(y + r) - gammaln(y + 1) - gammaln(r)
    return choose + r * jnp.log(r / (r + m)) + y * jnp.log(m / (r + m))


def on_log(density, base=math.e):
    """Return a density of what is distributed so on a logarithmic scale."""
    c = math.log(base)
    return lambda y, m, *settings: density(jnp.log(y) / c, jnp.log(m) / c, *settings) - jnp.log(y) - math.log(c)


NOISES = {
    "normal": (noise.normal("sd"), normal),
    "normal, log": (noise.normal("sd", "log"), on_log(normal)),
    "normal, log10": (noise.normal("sd", "log10"), on_log(normal, 10)),
    "log-normal": (noise.log_normal("sd"), on_log(normal)),
    "laplace": (noise.laplace("sd"), laplace),
    "laplace, log": (noise.laplace("sd", "log"), on_log(laplace)),
    "laplace, log10": (noise.laplace("sd", "log10"), on_log(laplace, 10)),
    "student_t": (noise.student_t("sd", "nu"), student_t),
    "negative_binomial": (noise.negative_binomial("sd"), negative_binomial),
}


@pytest.mark.parametrize("name", NOISES)
def test_every_noise(name):
    of_noise, density = NOISES[name]
    measured = np.array([2.0, 3.0, 1.0, 1.0, 4.0])
    of = Problem(
        DECAY,
        [Parameter("k"), Parameter("A", scale="ln"), Parameter("sd", scale="log10"), Parameter("nu")],
        [Observable("y", "A + 0.3", of_noise)],
        pd.DataFrame({"observableId": "y", "time": T, "measurement": measured}),
        rtol=1e-9,
        atol=1e-12,
    )

    def rows(u):
        settings = (10 ** u[2], u[3])[: len(of_noise.formulas)]
        m = jnp.exp(u[1]) * jnp.exp(-u[0] * T) + 0.3
        return m, jnp.stack([jnp.full(5, s) for s in settings], axis=-1), density(measured, m, *settings)

    assert_gives(of, [0.4, 0.9, -0.1, 3.7], rows)


def test_the_gradient_sees_the_noise():
    """The control: a density that is wrong by a factor near 1 is told from the right one."""
    of_noise, density = NOISES["student_t"]
    y, m = 1.0, 1.4
    right, wrong = (jax.grad(lambda s, f=f: f(y, m, s, 3.7))(0.8) for f in (density, lambda *a: 1.001 * density(*a)))
    assert abs(right / wrong - 1) > 1e-4
    assert of_noise.family == "student_t"


# ---- JAX


@pytest.fixture(scope="module")
def decay():
    """Return a problem whose parameters enter rates, starts and noise, on three scales."""
    return Problem(
        DECAY,
        [Parameter("k", scale="log10"), Parameter("A"), Parameter("sd", scale="ln")],
        [Observable("a", "A", noise.normal("sd")), Observable("b", "B * A", noise.normal("2 * sd"))],
        pd.DataFrame({"observableId": ["a", "b"] * 5, "time": np.repeat(T, 2), "measurement": 0.3}),
    )


def test_transformations_of_jax_compose(decay):
    stream = np.random.default_rng(0)
    U = jnp.asarray(stream.normal(0, 0.2, (7, 3)) + np.array([-0.3, 2.0, -1.0]))
    _, totals, _, gradients = decay.batched.value_and_grad(U)
    for transform in (jax.grad, jax.jacfwd, jax.jacrev):
        np.testing.assert_array_equal(jax.jit(jax.vmap(transform(decay.log_likelihood)))(U), gradients)
        np.testing.assert_array_equal([transform(decay.log_likelihood)(u) for u in U], gradients)
    values, slopes = jax.vmap(jax.value_and_grad(decay.log_likelihood))(U)
    np.testing.assert_array_equal(values, totals)
    np.testing.assert_array_equal(slopes, gradients)
    chained = jax.grad(lambda x: jnp.sum(jax.vmap(decay.log_likelihood)(U * x)))(1.0)
    np.testing.assert_allclose(chained, jnp.sum(gradients * U), rtol=1e-10)
    jacobians = jax.vmap(jax.jacfwd(decay.simulated))(U)
    np.testing.assert_array_equal(jax.jit(jax.vmap(jax.jacrev(decay.simulated)))(U), jacobians)
    np.testing.assert_array_equal(decay.row_derivatives(U).simulated, jacobians)
    pointwise = jax.vmap(jax.jacrev(decay.pointwise_log_likelihood))(U)
    np.testing.assert_array_equal(decay.row_derivatives(U).log_density, pointwise)
    np.testing.assert_allclose(pointwise.sum(axis=1), gradients, rtol=1e-10)
    _, moved = jax.jvp(decay.simulated, (U[0],), (U[1],))
    np.testing.assert_allclose(moved, jacobians[0] @ U[1], rtol=1e-10)


def test_the_whole_gradient_is_that_of_prior_and_likelihood(decay):
    u = np.array([-0.3, 2.0, -1.0])
    prior, likelihood, prior_grad, likelihood_grad = decay.batched.value_and_grad(u[None])
    value, grad = decay.value_and_grad(u)
    assert float(value) == float(prior[0] + likelihood[0])
    np.testing.assert_array_equal(grad, (prior_grad + likelihood_grad)[0])


@pytest.mark.slow
def test_both_engines_have_the_same_gradient(decay):
    """Here the JAX engine differentiates its own steps: nothing of the native engine is in it."""
    theirs = Problem(decay.model, decay.parameters, decay.observables,
                     pd.DataFrame({"observableId": ["a", "b"] * 5, "time": np.repeat(T, 2), "measurement": 0.3}),
                     engine="jax", rtol=1e-9, atol=1e-12)  # fmt: skip
    ours, u = decay.with_tolerances(1e-9, 1e-12), np.array([-0.3, 2.0, -1.0])
    np.testing.assert_allclose(ours.value_and_grad(u)[1], theirs.value_and_grad(u)[1], rtol=1e-6)
    for a, b in zip(ours.row_derivatives(u[None]), theirs.row_derivatives(u[None]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


# ---- random models


def flux(stream, states, new_rate):
    """Return a formula of a rate, with parameters of its own."""
    a, b = stream.sample(states, 2)
    k = new_rate("k", 0.2, 1.5)
    kinds = {
        "mass action": lambda: f"{k} * {a} * {b}",
        "first order": lambda: f"{k} * {a}",
        "Michaelis": lambda: f"{k} * {a} / ({new_rate('m', 0.3, 2)} + {a})",
        "Hill": lambda: f"{k} * {a}^{(h := new_rate('h', 1.2, 3))} / ({new_rate('m', 0.3, 2)}^{h} + {a}^{h})",
        "inhibition": lambda: f"{k} * {a} / (1 + ({b} / {new_rate('m', 0.3, 2)})^2)",
        "power": lambda: f"{k} * {a} ^ {new_rate('n', 0.6, 1.8)}",
        "Arrhenius": lambda: f"{k} * {a} * exp(-{new_rate('e', 0.1, 1)} * {b})",
        "force": lambda: f"{k} * {a} * (1 + 0.5 * sin({new_rate('w', 0.5, 3)} * time))",
        "pulse": lambda: f"{k} * {a} * piecewise(2, time < {new_rate('t', 0.4, 2.4)}, 0.5)",
        "window": lambda: f"{k} * piecewise({a}, {b} > -1, {b})",
    }
    return kinds[stream.choice(list(kinds))](), a, b


def random_problem(seed):
    """Return a problem of a few states, and a vector."""
    stream, values = random.Random(seed), {}

    def new_rate(kind, low, high):
        name = f"{kind}{sum(n.startswith(kind) for n in values)}"
        values[name] = stream.uniform(low, high)
        return name

    states = [f"x{i}" for i in range(stream.randint(2, 5))]
    rates = {s: f"{new_rate('s', 0.1, 0.5)} - {new_rate('d', 0.3, 1.0)} * {s}" for s in states}
    for _ in range(stream.randint(2, 5)):
        rate, source, target = flux(stream, states, new_rate)
        rates[source] += f" - ({rate})"
        rates[target] += f" + {stream.choice(['', '0.9 * ', '0.5 * '])}({rate})"
    start = {
        s: stream.choice([f"{new_rate('i', 0.3, 1.5)} + 0.1", f"{new_rate('i', 0.5, 1.2)}^2", "0.7"]) for s in states
    }
    initial = {**{s: parse(f) for s, f in start.items()}, **{n: const(1.0) for n in values}}
    model_names = list(values)
    scale, sd = new_rate("scale", 0.5, 2.0), new_rate("sd", 0.2, 1.0)
    observables = [
        Observable("y", f"{scale} * ({' + '.join(states)})", stream.choice([noise.normal(sd), noise.laplace(sd)])),
        Observable("z", f"{states[0]} * {stream.choice(model_names)} + observableParameter1_z",
                   stream.choice([noise.log_normal("noiseParameter1_z"), noise.student_t(sd, 4)])),
    ]  # fmt: skip
    shared = stream.sample(model_names, 2)
    other = {shared[0]: shared[1], stream.choice(states): 0.9}
    is_forced = any("sin(" in rate for rate in rates.values())
    is_equilibrated = not is_forced and seed % 3 == 0
    data = [
        {
            "observableId": o.name,
            "simulationConditionId": e,
            "time": t,
            "measurement": stream.uniform(0.5, 3.0),
            "observableParameters": stream.choice([scale, "0.4"]) if o.name == "z" else "",
            "noiseParameters": sd if "noiseParameter1" in str(o.noise.formulas) else "",
            **({"preequilibrationConditionId": "other" if e == "one" else ""} if is_equilibrated else {}),
        }
        for o in observables
        for e in ("one", "other")
        for t in (0.0, 0.8, 2.0)
    ]
    scales = [stream.choice(["lin", "ln", "log10"]) for _ in values]
    of = Problem(
        Model(f"random {seed}", {s: parse(r) for s, r in rates.items()}, initial),
        [Parameter(n, scale=s) for n, s in zip(values, scales, strict=True)],
        observables,
        pd.DataFrame(data),
        experiments=[Experiment("one"), Experiment("other", other)],
        rtol=1e-9,
        atol=1e-12,
    )
    return of, np.array(of.to_scaled(values)), is_equilibrated


@pytest.mark.parametrize("seed", [*range(24), *(pytest.param(k, marks=pytest.mark.slow) for k in range(24, 150))])
def test_gradients_of_random_models_are_differences(seed):
    """Differences of likelihoods at a tolerance of 1e-12, with steps of 1e-4, are good to some 1e-7 of the largest."""
    of, u, is_equilibrated = random_problem(seed)
    _, totals, _, gradients = of.batched.value_and_grad(np.stack([u, u]))
    gradient = np.asarray(gradients[0])
    assert np.isfinite(totals[0])
    np.testing.assert_array_equal(gradients[1], gradient)
    expected = by_differences(of, u)
    error = np.max(np.abs(gradient - expected)) / np.max(np.abs(expected))
    print(f"{len(of.model.states)} states, {of.dim} parameters, equilibrated: {is_equilibrated}, error {error:.1e}")
    assert error < 1e-7
    assert np.sum(np.abs(expected) > 1e-6) > of.dim / 3
    np.testing.assert_allclose(of.row_derivatives(u[None]).log_density[0].sum(axis=0), gradient, rtol=1e-9, atol=1e-9)
    found = native.simulated(of.gradient_numbers, u[None], with_gradients=True)
    assert np.all(found.lanes.status == Status.OK)
