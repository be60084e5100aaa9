import numpy as np
import pytest

import kinbayes as kb
from kinbayes.formats.sbml.reader import SBMLError, UnsupportedSBMLError
from kinbayes.model.expressions import TIME, ZERO, apply, const, symbol
from tests.formats.sbml import text as sbml
from tests.formats.sbml.text import (
    BOX,
    RATE_OF,
    ci,
    close,
    cn,
    event,
    parameter,
    read,
    reference,
    refusal,
    rule,
    species,
)

TIMES = np.linspace(0.0, 3.0, 13)
AT_1 = sbml.apply("geq", sbml.TIME, cn(1))  # nothing is compared at 1 itself
NOT_1 = TIMES != 1.0
K = parameter("k")


def run(model, given=None):
    found = kb.simulate(model, TIMES, given, rtol=1e-10, atol=1e-13)
    return {name: column.values for name, column in found.items()}


def after(before, then):
    return np.where(TIMES < 1, before, then)


# ---- What the file says


def test_an_event_has_the_settings_of_the_file():
    model = read(
        Parameters=K + parameter("x"),
        Events=event(
            "dose",
            AT_1,
            [("k", sbml.apply("plus", ci("k"), ci("x")))],
            delay=cn(2),
            priority=ci("x"),
            attributes='useValuesFromTriggerTime="false"',
            of_trigger='initialValue="false" persistent="false"',
        ),
    )
    (dose,) = model.events
    assert dose.name == "dose"
    assert dose.trigger is apply("ge", TIME, 1)
    assert dose.assignments == (("k", symbol("k") + symbol("x")),)
    assert (dose.delay, dose.priority) == (const(2), symbol("x"))
    assert (dose.is_true_before, dose.is_persistent, dose.keeps_values) == (False, False, False)
    assert model.derivatives == {"k": ZERO}  # only what is assigned is a state
    assert model.parameters == ("x",)


def test_events_of_level_2_have_defaults():
    made = "<event><trigger>{}</trigger><listOfEventAssignments>{}</listOfEventAssignments></event>"
    assignment = f'<eventAssignment variable="k">{sbml.math_ml(cn(7))}</eventAssignment>'
    model = read(
        level="2",
        version="4",
        Parameters='<parameter id="k" value="1" constant="false"/>',
        Events=made.format(sbml.math_ml(AT_1), assignment),
    )
    (only,) = model.events
    assert only.name == "event 1"
    assert (only.delay, only.priority) == (ZERO, None)
    assert (only.is_true_before, only.is_persistent, only.keeps_values) == (True, True, True)


def test_what_has_no_formula_has_no_effect():
    events = [
        event("no_trigger", None, [("k", cn(1))]),
        event("empty_trigger", AT_1, [("k", cn(1))]).replace(sbml.math_ml(AT_1), ""),
        event("no_assignment", AT_1, []),
        event("", AT_1, [("k", cn(1)), ("x", cn(2))], delay=cn(3), priority=cn(4)),
    ]
    for number in (2, 3, 4):
        events[-1] = events[-1].replace(sbml.math_ml(cn(number)), "")
    model = read(Parameters=K + parameter("x"), Events="".join(events))
    (only,) = model.events
    assert only.name == "event 4"
    assert only.delay is ZERO
    assert only.priority is None
    assert [target for target, _ in only.assignments] == ["k"]
    assert model.parameters == ("x",)


def test_truth_values_are_numbers_where_one_is_expected():
    model = read(Parameters=K, Events=event("e", ci("k"), [("k", sbml.apply("gt", ci("k"), cn(0)))]))
    (only,) = model.events
    assert only.trigger is symbol("k")
    assert only.assignments[0][1] is apply("gt", symbol("k"), 0)


A = species("A")
DOUBLED = ("A", sbml.apply("times", cn(2), ci("A")))
MISTAKES = {
    "rule": (
        {"Rules": rule("assignment", "k", cn(1))},
        "k",
        "an assignment rule determines it, so no event can change it",
    ),
    "constant": ({"Parameters": '<parameter id="k" constant="true"/>'}, "k", "it is constant, so no event"),
    "constant species": ({"Species": species("A", constant="true")}, "A", "it is constant, so no event"),
    "unknown": ({}, "nobody", "there is no species, parameter, compartment or species reference of this id"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_no_event_can_assign_is_refused(name):
    lists, target, message = MISTAKES[name]
    lists = {"Compartments": BOX, "Parameters": K} | lists
    kind, actual = refusal(**lists, Events=event("e", AT_1, [(target, cn(1))]))
    assert kind is SBMLError
    assert f"eventAssignment '{target}': {message}" in actual


def test_the_same_assignment_twice_and_names_twice_are_refused():
    kind, actual = refusal(Parameters=K, Events=event("e", AT_1, [("k", cn(1)), ("k", cn(2))]))
    assert kind is SBMLError
    assert "the same event has another assignment of it" in actual
    kind, actual = refusal(Parameters=K, Events=event("e", AT_1, [("k", cn(1))]) * 2)
    assert kind is SBMLError
    assert "two events have the same name" in actual


# ---- What events do


def test_a_parameter_an_amount_and_a_concentration_are_assigned():
    model = read(
        Compartments=BOX,
        Species=A + species("B", amounts="true"),
        Parameters=K + parameter("x", "1"),
        Rules=rule("rate", "x", cn(1)),
        Events=event(
            "e", AT_1, [("k", ci("x")), ("A", sbml.apply("times", cn(2), ci("A"))), ("B", ci("A")), ("x", cn(0))]
        ),
    )
    found = run(model)
    close(found["k"][NOT_1], after(0.5, 2.0)[NOT_1])
    close(found["A"][NOT_1], after(3.0, 6.0)[NOT_1])
    close(found["B"][NOT_1], after(6.0, 3.0)[NOT_1])
    close(found["x"][NOT_1], after(1 + TIMES, TIMES - 1)[NOT_1])


def test_an_amount_stays_when_the_size_jumps():
    law = sbml.apply("times", cn("0.3"), ci("A"), ci("box"))
    model = read(
        Compartments=BOX,
        Species=A + species("C", boundary="true"),
        Events=event("e", AT_1, [("box", cn(4))]),
        Reactions=sbml.reaction("r", law, [reference("A"), reference("C")]),
    )
    assert set(model.states) == {"amount of A", "box"}
    found = run(model)
    decay = np.exp(-0.3 * TIMES)
    close(found["A"][NOT_1], (decay * after(3.0, 1.5))[NOT_1])
    close(found["C"][NOT_1], after(3.0, 1.5)[NOT_1])
    close(found["amount of A"], 6 * decay)


@pytest.mark.parametrize("order", [1, -1])
def test_a_new_concentration_is_one_in_the_old_size(order):
    assignments = [("box", cn(4)), ("A", cn(5))][::order]
    found = run(read(Compartments=BOX, Species=A, Events=event("e", AT_1, assignments)))
    close(found["amount of A"][NOT_1], after(6.0, 10.0)[NOT_1])
    close(found["A"][NOT_1], after(3.0, 2.5)[NOT_1])


def test_a_new_concentration_in_a_size_by_rule():
    model = read(
        Compartments=BOX,
        Species=A,
        Parameters=K,
        Rules=rule("assignment", "box", sbml.apply("times", cn(4), ci("k"))),
        Events=event("e", AT_1, [("k", cn(1)), ("A", cn(5))]),
    )
    found = run(model)
    close(found["box"][NOT_1], after(2.0, 4.0)[NOT_1])
    close(found["A"][NOT_1], after(3.0, 2.5)[NOT_1])


def test_a_size_that_jumps_leaves_the_slope_of_a_ruled_concentration():
    model = read(
        Compartments=BOX,
        Species=species("A", boundary="true"),
        Rules=rule("rate", "A", cn("0.5")) + rule("rate", "box", cn(1)),
        Events=event("e", AT_1, [("box", cn(9))]),
    )
    found = run(model)
    jump = 3.5 * 3 / 9  # the amount stays
    close(found["A"][NOT_1], after(3 + 0.5 * TIMES, jump + 0.5 * (TIMES - 1))[NOT_1])
    close(found["box"][NOT_1], after(2 + TIMES, 8 + TIMES)[NOT_1])


GROWTH = {"Compartments": BOX, "Species": A, "Rules": rule("rate", "box", cn(1))}


def test_an_early_concentration_meets_no_later_size():
    # At once: the size is that of the trigger.
    found = run(read(**GROWTH, Events=event("e", AT_1, [DOUBLED])))
    close(found["A"][NOT_1], (after(6.0, 12.0) / (2 + TIMES))[NOT_1])
    # Later, but with a value that is always the same.
    found = run(read(**GROWTH, Events=event("e", AT_1, [("A", cn(5))], delay=cn("0.4"))))
    close(found["A"], np.where(TIMES < 1.4, 6.0, 5 * 3.4) / (2 + TIMES))
    # Later, with the value of then.
    now = 'useValuesFromTriggerTime="false"'
    found = run(read(**GROWTH, Events=event("e", AT_1, [DOUBLED], delay=cn("0.4"), attributes=now)))
    close(found["A"], np.where(TIMES < 1.4, 6.0, 12.0) / (2 + TIMES))


@pytest.mark.parametrize(
    "events",
    [
        event("e", AT_1, [DOUBLED], delay=cn("0.4")),
        event("e", AT_1, [DOUBLED]) + event("f", AT_1, [("box", cn(7))]),
    ],
)
def test_an_early_concentration_in_a_later_size_is_refused(events):
    kind, actual = refusal(**GROWTH, Events=events)
    assert kind is UnsupportedSBMLError
    assert (
        "species 'A': event 'e' assigns a concentration computed earlier while the size of 'box' may change" in actual
    )


def test_an_event_changes_a_stoichiometry():
    model = read(
        Compartments=BOX,
        Species=species("A", amounts="true"),
        Events=event("e", AT_1, [("n", cn(5))]),
        Reactions=sbml.reaction("r", cn(1), [], [reference("A", "2", 'id="n"').replace('"true"', '"false"')]),
    )
    assert set(model.states) == {"A", "n"}
    found = run(model)
    close(found["A"], after(6 + 2 * TIMES, 8 + 5 * (TIMES - 1)))


def test_rates_of_change_in_an_event():
    slope = f"<apply>{RATE_OF}{ci('x')}</apply>"
    model = read(
        Parameters=K + parameter("x", "0"),
        Rules=rule("rate", "x", sbml.apply("times", cn(2), sbml.TIME)),
        Events=event("e", sbml.apply("gt", slope, cn(3)), [("k", sbml.apply("plus", slope, cn(10)))]),
    )
    found = run(model)
    close(found["k"][TIMES != 1.5], np.where(TIMES < 1.5, 0.5, 13.0)[TIMES != 1.5])
