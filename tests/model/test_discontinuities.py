import numpy as np
import pytest

from kinbayes.model.discontinuities import equalities, is_wave, modes, time_switches
from kinbayes.model.expressions import ONE, TIME, ZERO, Expr, apply, evaluate, symbol, where

A, B, C = symbol("a"), symbol("b"), symbol("c")


def value(expression: Expr, **values: float) -> float:
    return float(evaluate([expression], values)[0])


# ---- Switches in time

SWITCHING = {  # condition -> the time at which it changes, for b = 2 and c = 3
    "before": (apply("lt", TIME, B), 2.0),
    "before or at": (apply("le", TIME, B), 2.0),
    "after": (apply("gt", TIME, B), 2.0),
    "the other way round": (apply("ge", B, TIME), 2.0),
    "a multiple": (apply("lt", 4 * TIME, B + C), 1.25),
    "a part": (apply("gt", TIME / C, B), 6.0),
    "a difference": (apply("gt", B - TIME, C), -1.0),
    "two times": (apply("lt", 3 * TIME - 1, TIME + C), 2.0),
    "a negative one": (apply("lt", -TIME, -C), 3.0),
}


@pytest.mark.parametrize("name", SWITCHING)
def test_a_comparison_with_time_is_a_switch(name):
    condition, changes = SWITCHING[name]
    (root,), switches = time_switches([where(condition, A, 5.0)], ["a"], "switch ")
    ((symbol_, switch),) = switches.items()
    assert not root.depends_on("time")
    assert value(switch.time, b=2.0, c=3.0) == changes
    for time in (changes - 0.1, changes + 0.1):
        point = {"a": 7.0, "b": 2.0, "c": 3.0, "time": time}
        at = point | {symbol_: value(switch.condition, **point)}
        assert value(root, **at) == value(where(condition, A, 5.0), **point)
    values = [value(switch.condition, b=2.0, c=3.0, time=changes + side) for side in (-0.1, 0.1)]
    assert sorted(values) == [0.0, 1.0]  # or it would be no switch


def test_equal_comparisons_are_one_switch():
    before = apply("lt", TIME, B)
    roots, switches = time_switches([where(before, A, 1), where(apply("not", before), A, 2), A], ["a"], "switch ")
    assert len(switches) == 1
    assert roots[2] is A


NO_SWITCHES = {
    "a state in the time": apply("lt", TIME, A),
    "a state that counts for nothing yet": apply("lt", TIME + 1e-30 * A, B),
    "a curve": apply("lt", TIME * TIME, B),
    "a wave": apply("gt", apply("sin", TIME), 0),
    "a stair": apply("lt", apply("floor", TIME), B),
    "the other stair": apply("lt", apply("ceil", TIME), B),
    "a saw": apply("lt", TIME - B * apply("floor", TIME / B), 1),
    "a comparison inside": apply("gt", where(apply("lt", TIME, B), 1, 0) + TIME, 0.5),
    "a corner": apply("lt", apply("abs", TIME - C), 1),
    "the smaller": apply("lt", apply("min", TIME, 2), 1),
    "equality": apply("eq", TIME, B),
}


@pytest.mark.parametrize("name", NO_SWITCHES)
def test_what_changes_otherwise_is_no_switch(name):
    condition = NO_SWITCHES[name]
    (root,), switches = time_switches([where(condition, A, 5.0)], ["a"], "switch ")
    assert root.depends_on("time")
    point = {"a": 7.0, "b": 2.0, "c": 3.0}
    for time in np.arange(0.05, 8, 0.1):
        at = point | {"time": time}
        values = {s: value(switch.condition, **at) for s, switch in switches.items()}
        assert value(root, **at, **values) == value(where(condition, A, 5.0), **at)


def test_a_comparison_without_time_is_no_switch():
    rate = where(apply("lt", A, B), 1, 2) + TIME
    assert time_switches([rate], ["a"], "switch ") == ([rate], {})


# ---- Modes


def test_what_jumps_in_a_trigger_holds_still_between_jumps():
    saw = TIME - B * apply("floor", TIME / B)
    (trigger,), _, found = modes([where(apply("and", apply("lt", saw, 1), apply("gt", A, C)), 1, 0)], [], ["a"], "m")
    assert trigger.symbols == {"m1", "m2"}  # m0 is inside of m1
    assert [m.root for m in found.values()] == [TIME / B, TIME - B * symbol("m0") - 1, A - C]
    for time in np.arange(0.05, 6, 0.1):
        point = {"a": 3.0, "b": 2.0, "c": 1.0, "time": time}
        for name, mode in found.items():  # the inner ones come first
            point[name] = value(mode.value, **point)
        assert value(trigger, **point) == (time % 2.0 < 1.0)


def test_of_rates_only_what_no_state_enters_holds_still():
    rates = [where(apply("gt", A, 1), 1, 2), where(apply("gt", apply("sin", TIME), 0), A, B), apply("floor", TIME) * A]
    _, held, found = modes([], rates, ["a"], "m")
    assert held[0] is rates[0]
    assert [m.root for m in found.values()] == [apply("sin", TIME), TIME]
    assert held[2] is symbol("m1") * A


def test_equal_conditions_are_one_mode():
    condition = apply("gt", A, 1)
    triggers, _, found = modes([where(condition, 1, 0), where(apply("not", condition), 1, 0)], [], ["a"], "m")
    assert len(found) == 1
    assert all(trigger.symbols == {"m0"} for trigger in triggers)


def test_what_only_events_change_needs_no_mode():
    trigger = where(apply("eq", A, 1), ONE, ZERO)
    assert modes([trigger], [], [], "m") == ([trigger], [], {})


@pytest.mark.parametrize("condition", [apply("eq", A, 1), apply("eq", TIME, B), apply("eq", A + TIME, C)])
def test_equality_of_what_varies_is_a_pulse(condition):
    other = apply("ne", *condition.args)
    (trigger, opposite), sides = equalities([where(condition, 1, 0), where(other, 1, 0)], ["a"], "p")
    assert list(sides) == ["p0"]
    for pulse in (0.0, 1.0):
        assert (value(trigger, p0=pulse), value(opposite, p0=pulse)) == (pulse, 1 - pulse)
    assert sides["p0"] == (apply("ge", *condition.args), apply("le", *condition.args))


def test_equality_with_a_stair_is_none_of_what_varies():
    trigger = where(apply("eq", apply("floor", TIME), 3), 1, 0)
    assert equalities([trigger], [], "p") == ([trigger], {})
    (trigger,), _, found = modes([trigger], [], [], "m")
    assert trigger.symbols == set(found) == {"m0"}


def test_a_wave_may_turn_back():
    assert is_wave(apply("sin", TIME), ["a"])
    assert not is_wave(2 * TIME - B, ["a"])
    assert not is_wave(apply("sin", TIME) + A, ["a"])
