"""Stoichiometries that are not numbers, and conversion factors."""

import numpy as np
import pytest

from kinbayes.formats.sbml.reader import SBMLError
from kinbayes.model.expressions import symbol
from tests.formats.sbml.text import (
    BOX,
    TIME,
    TIMES,
    apply,
    assignment,
    ci,
    close,
    cn,
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

A = species("A", amounts="true")
N = reference("A", "2", 'id="n"').replace('constant="true"', 'constant="false"')
OPEN = N.replace('stoichiometry="2"', "")


def test_a_stoichiometry_by_rule():
    model = read(
        Compartments=BOX,
        Species=A,
        Rules=rule("assignment", "n", apply("times", cn(2), TIME)),
        Reactions=reaction("r", cn(3), [], [OPEN]),
    )
    assert "n" in model.expressions
    close(solve(model)["A"], 6 + 3 * TIMES**2)


def test_a_stoichiometry_with_a_rate():
    model = read(
        Compartments=BOX,
        Species=A,
        Parameters=parameter("x"),
        Rules=rule("rate", "n", cn(4)) + rule("assignment", "x", ci("n")),
        Reactions=reaction("r", cn(3), [N], []),
    )
    assert set(model.states) == {"A", "n"}
    run = solve(model)
    close(run["x"], 2 + 4 * TIMES)
    close(run["A"], 6 - 3 * (2 * TIMES + 2 * TIMES**2))


def test_an_initial_stoichiometry_is_a_parameter():
    model = read(
        Compartments=BOX,
        Species=A,
        Parameters=parameter("k"),
        InitialAssignments=assignment("n", apply("times", cn(10), ci("k"))),
        Reactions=reaction("r", cn(3), [], [OPEN]),
    )
    assert "n" in model.parameters
    close(solve(model)["A"], 6 + 15 * TIMES)
    close(solve(model, given={"k": 1.0})["A"], 6 + 30 * TIMES)
    close(solve(model, given={"n": 1.0})["A"], 6 + 3 * TIMES)


def test_a_stoichiometry_of_an_algebraic_rule():
    model = read(
        Compartments=BOX,
        Species=A,
        Parameters='<parameter id="k" value="4" constant="true"/>',
        Rules=f"<algebraicRule>{math_ml(apply('minus', ci('n'), ci('k')))}</algebraicRule>",
        Reactions=reaction("r", cn(3), [], [OPEN]),
    )
    assert model.expressions["n"] is symbol("k")
    close(solve(model)["A"], 6 + 12 * TIMES)


def test_a_rule_without_a_formula_leaves_a_number():
    model = read(
        Compartments=BOX,
        Species=A,
        Rules='<assignmentRule variable="n"/>',
        Reactions=reaction("r", ci("n"), [], [N]),
    )
    assert "n" not in {*model.initial, *model.expressions}
    close(solve(model)["A"], 6 + 4 * TIMES)


def test_a_local_parameter_hides_a_stoichiometry():
    model = read(
        Compartments=BOX,
        Species=A,
        Rules=rule("assignment", "n", cn(5)),
        Reactions=reaction("r", ci("n"), [], [OPEN], [("n", 3)]),
    )
    close(solve(model)["A"], 6 + 15 * TIMES)


def test_formulas_as_stoichiometries_of_level_2():
    formula = f"<stoichiometryMath>{math_ml(apply('plus', TIME, ci('k')))}</stoichiometryMath>"
    law = f"<kineticLaw>{math_ml(cn(2))}</kineticLaw>"
    model = read(
        level="2",
        version="4",
        Compartments='<compartment id="box" size="2"/>',
        Species='<species id="A" compartment="box" initialAmount="6"/>',
        Parameters='<parameter id="k" value="1"/>',
        Reactions='<reaction id="r"><listOfReactants>'
        f'<speciesReference species="A">{formula}</speciesReference></listOfReactants>{law}</reaction>',
    )
    close(solve(model)["A"], 3 - (TIMES**2 / 2 + TIMES))


FACTORS = "".join(f'<parameter id="{n}" value="{v}" constant="true"/>' for n, v in (("f", 10), ("g", 100)))


def test_conversion_factors_of_a_species_and_of_the_model():
    model = read(
        model='conversionFactor="f"',
        Compartments=BOX,
        Species=A + species("B").replace("constant", 'conversionFactor="g" constant') + species("C", amounts="true"),
        Parameters=FACTORS,
        Rules=rule("rate", "C", cn(1)),
        Reactions=reaction("r", cn(3), [reference("A", "2")], [reference("B")]),
    )
    run = solve(model)
    close(run["A"], 6 - 2 * 3 * 10 * TIMES)
    close(run["B"], 3 + 3 * 100 * TIMES / 2)
    close(run["C"], 6 + TIMES)  # a rule is in the species' own units
    close(run["r"], np.full(TIMES.shape, 3.0))


@pytest.mark.parametrize("name", ["A", "nobody"])
def test_a_conversion_factor_is_a_parameter(name):
    kind, message = refusal(
        model=f'conversionFactor="{name}"',
        Compartments=BOX,
        Species=A,
        Reactions=reaction("r", cn(3), [], [reference("A")]),
    )
    assert kind is SBMLError
    assert f"species 'A': its conversion factor '{name}' is no parameter of the model" in message


def test_a_species_that_is_not_there_is_refused():
    kind, message = refusal(Compartments=BOX, Reactions=reaction("r", cn(3), [], [reference("A")]))
    assert kind is SBMLError
    assert "reaction 'r': species 'A' is not defined" in message
