"""Residuals and Fisher information against closed forms, quadrature and differences."""

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.stats import nbinom

import kinbayes as kb
from kinbayes.model.expressions import const, derivatives, evaluate, symbol
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.problem.families import FAMILIES
from kinbayes.problem.noise import Noise

TIMES = np.array([0.5, 1.0, 2.0, 4.0])
U = np.array([np.log10(0.3), np.log10(1.5), np.log10(0.2)])
CASES = [
    Noise("normal", ("0.3",)),
    Noise("normal", ("0.3",), "log"),
    Noise("normal", ("0.3",), "log10"),
    Noise("laplace", ("0.3",)),
    Noise("student_t", ("0.3", "5")),
]


def problem(noise: Noise, measured: np.ndarray | None = None) -> kb.Problem:
    model = Model("decay", {"A": parse("-k * A")}, {"A": symbol("A0"), "k": const(0.3), "A0": const(1.5)})
    measured = 1.6 * np.exp(-0.25 * TIMES) if measured is None else measured
    data = pd.DataFrame({"observableId": "y", "time": TIMES, "measurement": measured})
    parameters = [kb.Parameter(name, kb.LogUniform(1e-3, 1e3)) for name in ("k", "A0", "s")]
    return kb.Problem(model, parameters, [kb.Observable("y", "A", noise)], data, rtol=1e-10, atol=1e-12)


def test_normal_residuals_are_the_closed_form():
    found = problem(kb.noise.normal("s"))
    prediction = 1.5 * np.exp(-0.3 * TIMES)
    residuals = (1.6 * np.exp(-0.25 * TIMES) - prediction) / 0.2
    np.testing.assert_allclose(found.residuals(U), residuals, rtol=1e-8)
    slopes = np.stack([0.3 * TIMES * prediction / 0.2, -prediction / 0.2, -residuals], axis=1) * np.log(10)
    np.testing.assert_allclose(found.residual_jacobian(U), slopes, rtol=1e-7)
    own = slopes[:, :2]
    fisher = found.fisher(U)
    np.testing.assert_allclose(fisher[:2, :2], own.T @ own, rtol=1e-7)
    np.testing.assert_allclose(fisher[2, 2], 2 * len(TIMES) * np.log(10) ** 2, rtol=1e-7)
    np.testing.assert_allclose(fisher[2, :2], 0.0, atol=1e-12)


@pytest.mark.parametrize("noise", CASES, ids=lambda n: f"{n.family} {n.transformation}")
def test_information_is_the_mean_square_of_the_score(noise):
    names = ["m", *(f"s{k}" for k in range(len(noise.formulas)))]
    values = dict(zip(names, [1.3, *map(float, noise.formulas)], strict=True))
    density = noise.log_density(symbol("y"), *map(symbol, names))
    scores = [derivatives([density], name)[0] for name in names]

    def product(y: float, i: int, j: int) -> float:
        a, b, log_density = evaluate([scores[i], scores[j], density], values | {"y": y})
        return a * b * np.exp(log_density)

    lower, upper = (0.0, 1e3) if noise.transformation != "lin" else (-np.inf, np.inf)
    stated = noise.information(*map(symbol, names))
    for i in range(len(names)):
        for j in range(i, len(names)):
            parts = [quad(product, a, b, args=(i, j), limit=400)[0] for a, b in ((lower, 1.3), (1.3, upper))]
            if stated.get((i, j), 0.0) is not None:
                expected = evaluate([stated[i, j]], values)[0] if (i, j) in stated else 0.0
                assert sum(parts) == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_information_about_a_negative_binomial_mean():
    noise, mean, r = kb.noise.negative_binomial(4.0), 3.0, 4.0
    y = np.arange(400)
    (score,) = derivatives([noise.log_density(symbol("y"), symbol("m"), symbol("r"))], "m")
    (found,) = evaluate([score], {"y": y, "m": mean, "r": r})
    (stated,) = evaluate([noise.information(symbol("m"), symbol("r"))[0, 0]], {"m": mean, "r": r})
    assert np.sum(nbinom.pmf(y, r, r / (r + mean)) * found**2) == pytest.approx(stated, rel=1e-10)


@pytest.mark.parametrize(
    "noise",
    [
        *(Noise(n.family, ("s", *n.formulas[1:]), n.transformation) for n in CASES),
        kb.noise.negative_binomial("s"),
    ],
    ids=lambda n: f"{n.family} {n.transformation}",
)
def test_the_jacobian_agrees_with_differences(noise):
    found, h = problem(noise), 1e-5
    differences = [(found.residuals(U + h * e) - found.residuals(U - h * e)) / (2 * h) for e in np.eye(3)]
    np.testing.assert_allclose(found.residual_jacobian(U), np.stack(differences, axis=1), rtol=1e-6, atol=1e-7)


def test_the_information_is_the_mean_curvature():
    """With measurements at their predictions the curvature in k and A0 is the information, about s not."""
    found = problem(kb.noise.normal("s"), 1.5 * np.exp(-0.3 * TIMES))
    h = 1e-4
    gradients = [found.value_and_grad(U + sign * h * e)[1] for sign in (1, -1) for e in np.eye(3)]
    curvature = (np.array(gradients[:3]) - np.array(gradients[3:])) / (2 * h)
    np.testing.assert_allclose(-curvature[:2, :2], found.fisher(U)[:2, :2], rtol=1e-6)
    assert abs(curvature[2, 2]) < 1e-3 * found.fisher(U)[2, 2]


def test_what_has_no_closed_form_is_refused():
    with pytest.raises(ValueError, match="negative_binomial noise has no closed form"):
        problem(kb.noise.negative_binomial("s")).fisher(U)
    assert problem(kb.noise.negative_binomial("4")).fisher(U)[0, 0] > 0


def test_every_family_is_covered():
    densities = {name for name, family in FAMILIES.items() if family.is_likelihood}
    assert {n.family for n in CASES} | {"negative_binomial", "probit"} == densities  # the last: test_constraints.py


def test_where_a_simulation_fails_the_jacobian_is_zero():
    model = Model("explosion", {"A": parse("k * A * A")}, {"A": const(1.0), "k": const(1.0)})
    data = pd.DataFrame({"observableId": ["y"], "time": [2.0], "measurement": [1.0]})
    found = kb.Problem(
        model, [kb.Parameter("k", kb.LogUniform(1e-3, 1e3))], [kb.Observable("y", "A", kb.noise.normal("1"))], data
    )
    assert not found.residual_jacobian(np.zeros(1)).any()
    assert not found.fisher(np.zeros(1)).any()
    assert found.residual_jacobian(np.array([-1.0])).all()
