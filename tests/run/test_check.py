"""What `kinbayes check` finds."""

import pandas as pd
import pytest

import kinbayes as kb
from kinbayes.run.check import check


@pytest.fixture(scope="module")
def problem():
    return kb.read_petab(kb.example("conversion_reaction"))


def test_a_good_problem_is_good(problem):
    found = check(problem)
    assert found.is_good
    assert any("the gradient agrees with finite differences" in line for line in found.lines)


def test_a_point_that_cannot_be_simulated_is_said(problem):
    data = pd.DataFrame({"observableId": ["A_measured"], "time": [1e6], "measurement": [7.0]})
    hopeless = kb.Problem(problem.model, problem.parameters, problem.observables, data, max_steps=3)
    found = check(hopeless)
    assert not found.is_good
    assert "1 of 1 simulations fail" in found.lines[-2]
    assert "the solver used all its steps" in found.lines[-1]


def test_a_wrong_gradient_is_said(problem, monkeypatch):
    right = kb.Problem.batched.fget

    def doubled(self):
        def value_and_grad(points):
            *values, gradient = right(self).value_and_grad(points)
            return *values, 2 * gradient

        return right(self)._replace(value_and_grad=value_and_grad)

    monkeypatch.setattr(kb.Problem, "batched", property(doubled))
    found = check(problem)
    assert not found.is_good
    assert "DISAGREES" in found.lines[-1]
