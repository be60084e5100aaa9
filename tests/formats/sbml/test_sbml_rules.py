"""Algebraic rules, and the rates of change that formulas refer to."""

import numpy as np
import pytest

from kinbayes.formats.sbml.reader import SBMLError, UnsupportedSBMLError
from kinbayes.model.expressions import symbol
from tests.formats.sbml.text import (
    BOX,
    RATE_OF,
    TIME,
    TIMES,
    apply,
    assignment,
    call,
    ci,
    close,
    cn,
    event,
    function,
    math_ml,
    parameter,
    reaction,
    read,
    reference,
    refusal,
    rule,
    solve,
    species,
)


def zero(content):
    return f"<algebraicRule>{math_ml(content)}</algebraicRule>"


def constant(name, value):
    return f'<parameter id="{name}" value="{value}" constant="true"/>'


def rate_of(name):
    return f"<apply>{RATE_OF}{ci(name)}</apply>"


# ---- Algebraic rules


def test_an_algebraic_rule_determines_what_nothing_else_does():
    model = read(
        Compartments=BOX,
        Species=species("A") + species("B"),
        Parameters=constant("total", 4),
        Rules=zero(apply("minus", apply("plus", ci("A"), ci("B")), ci("total"))),
        Reactions=reaction("r", apply("times", ci("B"), ci("box")), [], [reference("A")]),
    )
    assert model.states == ("A",)
    run = solve(model)
    close(run["A"], 4 - np.exp(-TIMES))  # A' = 4 - A, from 3
    close(run["B"], np.exp(-TIMES))
    close(solve(model, given={"total": 5.0})["B"], 2 * np.exp(-TIMES))


def test_a_rapid_equilibrium_of_three():
    # 0 = A + B - total, 0 = B - 2 A: A = total / 3; the total follows a rate rule.
    rules = zero(apply("minus", apply("plus", ci("A"), ci("B")), ci("total"))) + zero(
        apply("minus", ci("B"), apply("times", cn(2), ci("A")))
    )
    model = read(
        Parameters=parameter("A") + parameter("B") + parameter("total", "3"),
        Rules=rules + rule("rate", "total", cn(1)),
    )
    run = solve(model)
    close(run["A"], 1 + TIMES / 3)
    close(run["B"], 2 + 2 * TIMES / 3)


def test_an_unknown_may_be_hidden_in_an_assignment_rule():
    # x + y = 6 with y = 2 x
    model = read(
        Parameters=parameter("x") + parameter("y"),
        Rules=zero(apply("minus", apply("plus", ci("x"), ci("y")), cn(6)))
        + rule("assignment", "y", apply("times", cn(2), ci("x"))),
    )
    run = solve(model)
    close(run["x"], np.full(TIMES.shape, 2.0))
    close(run["y"], np.full(TIMES.shape, 4.0))


def test_an_algebraic_rule_determines_a_size_and_so_concentrations():
    model = read(
        Compartments=BOX.replace('constant="true"', 'constant="false"'),
        Species=species("A"),
        Rules=zero(apply("minus", ci("box"), apply("plus", cn(2), TIME))),
    )
    close(solve(model)["A"], 6 / (2 + TIMES))


def test_what_an_event_assigns_is_not_determined_by_a_rule():
    model = read(
        Parameters=parameter("x") + parameter("y"),
        Rules=zero(apply("minus", ci("x"), ci("y"))),
        Events=event("e", apply("gt", TIME, cn(1)), [("x", cn(1))]),
    )
    assert model.states == ("x",)
    assert model.expressions["y"] is symbol("x")


def test_a_rule_without_a_formula_has_no_effect():
    model = read(Parameters=parameter("x"), Rules="<algebraicRule/>")
    assert model.parameters == ("x",)


@pytest.mark.parametrize(
    ("parameters", "content", "kind", "message"),
    [
        (
            parameter("x") + parameter("y"),
            apply("minus", ci("x"), ci("y")),
            UnsupportedSBMLError,
            "1 algebraic rule(s) cannot determine ['x', 'y']; declare constant what does not change",
        ),
        (constant("x", 1), ci("x"), SBMLError, "cannot determine anything: everything else in their formulas"),
        (
            parameter("x"),
            apply("minus", apply("power", ci("x"), cn(2)), cn(4)),
            UnsupportedSBMLError,
            "algebraicRule: it is not linear in any of ['x'], so that there is not exactly one solution",
        ),
    ],
)
def test_rules_that_do_not_determine_one_solution_are_refused(parameters, content, kind, message):
    found, actual = refusal(Parameters=parameters, Rules=zero(content))
    assert found is kind
    assert message in actual


# ---- Rates of change


def test_the_rate_of_a_state_a_parameter_and_an_amount():
    model = read(
        Compartments=BOX,
        Species=species("A") + species("B", amounts="true"),
        Parameters=constant("k", 1) + parameter("x", "1") + "".join(parameter(n) for n in "abcd"),
        Rules=rule("rate", "x", apply("times", cn(3), ci("x")))
        + "".join(rule("assignment", n, rate_of(of)) for n, of in zip("abcd", "ABxk", strict=True)),
        Reactions=reaction("r", cn(4), [], [reference("A"), reference("B", "2")]),
    )
    run = solve(model)
    close(run["a"], np.full(TIMES.shape, 2.0))  # per volume
    close(run["b"], np.full(TIMES.shape, 8.0))
    close(run["c"] / run["x"], np.full(TIMES.shape, 3.0))
    close(run["d"], np.zeros(TIMES.shape))


def test_the_rate_of_a_concentration_in_a_growing_size():
    model = read(
        Compartments=BOX,
        Species=species("A"),
        Parameters=parameter("a"),
        Rules=rule("rate", "box", cn(1)) + rule("assignment", "a", rate_of("A")),
    )
    close(solve(model)["a"], -6 / (2 + TIMES) ** 2)


def test_the_rate_of_what_a_rule_determines():
    model = read(
        Parameters=parameter("x", "0") + parameter("y") + parameter("z") + parameter("w"),
        Rules=rule("rate", "x", cn(2))
        + rule("assignment", "y", apply("times", ci("x"), ci("x"), TIME))
        + rule("assignment", "z", rate_of("y"))
        + rule("assignment", "w", rate_of("z")),
    )
    run = solve(model)  # y = 4 t^3
    close(run["z"], 12 * TIMES**2)
    close(run["w"], 24 * TIMES)


def test_a_rate_in_a_rate_a_start_and_a_function():
    model = read(
        FunctionDefinitions=function("f", "x", apply("times", cn(2), f"<apply>{RATE_OF}{ci('x')}</apply>")),
        Parameters=parameter("x", "1") + parameter("y", "0") + parameter("start"),
        InitialAssignments=assignment("start", apply("plus", cn(1), rate_of("x"))),
        Rules=rule("rate", "x", apply("times", cn(3), ci("x"))) + rule("rate", "y", call("f", ci("x"))),
    )
    run = solve(model)
    close(run["y"], 2 * (run["x"] - 1))
    close(run["start"], np.full(TIMES.shape, 4.0))
    close(solve(model, given={"x": 2.0})["start"], np.full(TIMES.shape, 7.0))


def test_the_rate_of_a_constant_stoichiometry_and_a_local_parameter_is_zero():
    model = read(
        Compartments=BOX,
        Species=species("A", amounts="true"),
        Parameters=parameter("x", "1"),
        Rules=rule("rate", "x", cn(5)),
        Reactions=reaction(
            "r", apply("plus", rate_of("x"), rate_of("n"), cn(1)), [], [reference("A", "2", 'id="n"')], [("x", 3)]
        ),
    )
    close(solve(model)["A"], 6 + 2 * TIMES)


@pytest.mark.parametrize(
    "rules",
    [
        rule("rate", "x", rate_of("x")),
        rule("rate", "x", rate_of("y")) + rule("rate", "y", rate_of("x")),
        rule("assignment", "x", rate_of("y")) + rule("assignment", "y", rate_of("x")),
        rule("rate", "x", rate_of("y")) + rule("assignment", "y", apply("times", cn(2), ci("x"))),
    ],
)
def test_rates_that_are_defined_by_themselves_are_refused(rules):
    kind, message = refusal(Parameters=parameter("x") + parameter("y"), Rules=rules)
    assert kind is SBMLError
    assert message.startswith("model.xml: ")
    assert "form a circle" in message


def test_only_names_have_a_rate():
    call_f = call("f", apply("plus", ci("x"), ci("y")))
    kind, message = refusal(
        FunctionDefinitions=function("f", "x", f"<apply>{RATE_OF}{ci('x')}</apply>"),
        Parameters=parameter("x") + parameter("y"),
        Rules=rule("rate", "x", call_f),
    )
    assert kind is UnsupportedSBMLError
    assert "rateRule 'x': rateOf of (x + y) is not supported" in message
