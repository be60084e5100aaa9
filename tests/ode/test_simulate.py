"""One simulation as a dataset: its values, what may be given, and what is refused."""

import math

import numpy as np
import pytest

from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.model.model import Model, ModelError
from kinbayes.ode import simulate as module
from kinbayes.ode.simulate import SimulationError, simulate
from tests.ode.systems import model

TIMES = np.array([0.0, 0.5, 1.0, 4.0])
DECAY = Model(
    "decay",
    {"A": parse("-k * A"), "B": parse("flux - 2 * k * B")},
    {"A": parse("2 * A_0"), "B": const(0.0), "k": const(0.3), "A_0": const(1.5), "twice": parse("2 * k")},
    {"flux": parse("k * A"), "total": parse("A + B"), "clock": parse("2 * time"), "rate": parse("twice + 1")},
    {"A": "mM", "total": "mM"},
)


def test_the_dataset_holds_states_and_expressions():
    found = simulate(DECAY, TIMES, rtol=1e-9, atol=1e-12)
    assert list(found.data_vars) == ["A", "B", "flux", "total", "clock", "rate"]
    assert all(found[name].dims == ("time",) for name in found.data_vars)
    np.testing.assert_array_equal(found["time"], TIMES)
    a = 3 * np.exp(-0.3 * TIMES)
    b = 3 * (np.exp(-0.3 * TIMES) - np.exp(-0.6 * TIMES))
    np.testing.assert_allclose(found["A"], a, rtol=1e-8)
    np.testing.assert_allclose(found["B"], b, atol=1e-8)
    np.testing.assert_allclose(found["flux"], 0.3 * a, rtol=1e-8)
    np.testing.assert_allclose(found["total"], a + b, rtol=1e-8)
    np.testing.assert_array_equal(found["clock"], 2 * TIMES)
    np.testing.assert_allclose(found["rate"], 1.6)
    assert found["A"].attrs == {"unit": "mM"}
    assert found["B"].attrs == {}
    assert found.attrs == {"model": "decay", "rtol": 1e-9, "atol": 1e-12}


def test_what_is_given_is_followed():
    tight = {"rtol": 1e-9, "atol": 1e-12}
    by_parameter = simulate(DECAY, TIMES, {"k": 0.5, "A_0": 1.0}, **tight)
    np.testing.assert_allclose(by_parameter["A"], 2 * np.exp(-0.5 * TIMES), rtol=1e-8)
    np.testing.assert_allclose(by_parameter["rate"], 2.0)
    by_start = simulate(DECAY, TIMES, {"A": 7.0, "A_0": 1.0}, **tight)
    np.testing.assert_allclose(by_start["A"], 7 * np.exp(-0.3 * TIMES), rtol=1e-8)
    by_definition = simulate(DECAY, TIMES, {"twice": 9.0}, **tight)
    np.testing.assert_allclose(by_definition["rate"], 10.0)


def test_new_values_compile_nothing():
    simulate(DECAY, TIMES)
    before = module._compiled.cache_info().misses
    simulate(DECAY, TIMES[:2], {"k": 0.7, "A_0": 3.0}, rtol=1e-4)
    simulate(DECAY, [9.0], {"B": 1.0})
    assert module._compiled.cache_info().misses == before
    simulate(DECAY, TIMES, {"A": 1.0, "twice": 1.0})
    assert module._compiled.cache_info().misses == before + 1


def test_tighter_tolerances_are_more_exact():
    exact = 3 * np.exp(-0.3 * TIMES)
    errors = [np.max(np.abs(simulate(DECAY, TIMES, rtol=tol, atol=tol)["A"] - exact)) for tol in (1e-3, 1e-6, 1e-9)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert errors[2] < 1e-9


@pytest.mark.parametrize("times", [[0.0], [0.0, 0.0], [2.0, 2.0, 2.0, 5.0], [1e-9]])
def test_times_may_repeat_and_begin_anywhere(times):
    found = simulate(DECAY, times, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found["A"], 3 * np.exp(-0.3 * np.array(times)), rtol=1e-8)


def test_a_model_without_states():
    line = Model("line", {}, {"k": const(2.0)}, {"y": parse("k * time"), "k2": parse("2 * k")})
    found = simulate(line, TIMES)
    np.testing.assert_array_equal(found["y"], 2 * TIMES)
    np.testing.assert_array_equal(found["k2"], [4.0] * 4)


@pytest.mark.parametrize("times", [[], [1.0, 0.5], [-1.0, 1.0], [0.0, np.nan], [0.0, np.inf]])
def test_times_that_are_no_grid_are_refused(times):
    with pytest.raises(ValueError, match="times must be finite, ascending and not before 0"):
        simulate(DECAY, times)


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize("value", [0.0, -1e-6, math.nan, math.inf])
def test_impossible_tolerances_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be a finite positive number"):
        simulate(DECAY, TIMES, **{name: value})


def test_values_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match=r"\['k'\] have no finite value"):
        simulate(DECAY, TIMES, {"k": math.nan})
    unset = model("unset", {"A": "-k * A"}, A=1.0, k=math.nan)
    with pytest.raises(ValueError, match=r"\['k'\] have no finite value; give them in parameters="):
        simulate(unset, TIMES)
    np.testing.assert_allclose(simulate(unset, TIMES, {"k": 1.0})["A"], np.exp(-TIMES), rtol=1e-5)


@pytest.mark.parametrize(("name", "why"), [("flux", "is computed by the model"), ("q", "is no state or parameter")])
def test_names_that_cannot_be_given_are_refused(name, why):
    with pytest.raises(ModelError, match=f"'{name}' {why}"):
        simulate(DECAY, TIMES, {name: 1.0})


def test_a_failure_says_when_and_what_to_try():
    explosion = model("explosion", {"x": "x^2"}, x=1.0)
    with pytest.raises(SimulationError, match=r"'explosion' failed at time 1(\.0+\d*)?: the step size shrank"):
        simulate(explosion, [0.0, 2.0])
    with pytest.raises(SimulationError, match=r"failed at time 0\.\d+: the solver used all its steps.*raise max_steps"):
        simulate(explosion, [0.0, 0.9], max_steps=5)
    with pytest.raises(SimulationError, match="failed at time 0: the solution or an observable became infinite or NaN"):
        simulate(model("log", {"x": "log(-x)"}, x=1.0), [0.0, 2.0])
    np.testing.assert_allclose(simulate(explosion, [0.0, 0.5])["x"], [1, 2], rtol=1e-5)
