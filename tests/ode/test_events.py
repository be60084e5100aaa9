"""Events of the native engine against closed forms: when they fire, in which order, and what they assign."""

import math

import numpy as np
import pytest

import kinbayes as kb
from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.model.model import Event, Model, ModelError
from kinbayes.ode.diffrax_engine import integrator
from kinbayes.ode.simulate import SimulationError


def event(name, trigger, assignments, *, delay="0", priority=None, **settings):
    values = tuple((target, parse(value)) for target, value in assignments.items())
    own = None if priority is None else parse(priority)
    return Event(name, parse(trigger), values, parse(delay), own, **settings)


def model(rates, start, *events):
    return Model(
        "model",
        {name: parse(rate) for name, rate in rates.items()},
        {name: const(value) for name, value in start.items()},
        events=events,
    )


def run(rates, start, events, times, **settings):
    return kb.simulate(model(rates, start, *events), times, **settings)


# ---- When


def test_a_ball_that_bounces():
    """The times of all bounces follow from the first, and errors of one go into the next."""
    g, share = 9.81, 0.8
    times = np.linspace(0, 8, 81)
    found = run(
        {"y": "v", "v": "-g"},
        {"y": 10.0, "v": 0.0, "g": g},
        [event("bounce", "y <= 0", {"v": f"-{share}*v", "y": "0"})],
        times,
        rtol=1e-10,
        atol=1e-12,
    )
    first = math.sqrt(20 / g)
    lengths = 2 * share ** np.arange(1, 30) * first
    starts = np.cumsum([first, *lengths])
    for t, y in zip(times, found.y.values, strict=True):
        k = np.searchsorted(starts, t) - 1
        expected = 10 - g * t**2 / 2 if k < 0 else (t - starts[k]) * (lengths[k] - (t - starts[k])) * g / 2
        assert y == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(("sign", "seen"), [(">=", 1.0), (">", 0.0)])
def test_what_is_observed_at_the_time_of_an_event_itself(sign, seen):
    """At the time of a strict comparison it is not yet true; the event belongs to what follows."""
    found = run({"x": "0"}, {"x": 0.0}, [event("e", f"time {sign} 0.3", {"x": "1"})], [0.1, 0.3, 0.4])
    np.testing.assert_array_equal(found.x, [0.0, seen, 1.0])


def test_crossings_within_one_step_come_in_order():
    """Nothing keeps the steps of a straight line short; the events come in another order than they are written."""
    thresholds = [7, 2, 9, 4, 1]
    events = [event(f"over_{c}", f"x > {c}", {"digits": f"10*digits + {c}"}) for c in thresholds]
    found = run({"x": "1", "digits": "0"}, {"x": 0.0, "digits": 0.0}, events, [10.0])
    assert found.digits.values[-1] == 12479


def test_a_condition_that_holds_for_a_part_of_a_step_is_seen():
    events = [event("inside", "x > 3 && x < 5.5", {"n": "n + 1"}), event("or", "x < 1 || x > 2", {"m": "m + 1"})]
    found = run({"x": "1", "n": "0", "m": "0"}, {"x": 0.0, "n": 0.0, "m": 0.0}, events, [10.0])
    assert (found.n.values[-1], found.m.values[-1]) == (1, 1)  # at the start the second is true, and counts as before


def test_a_moment_is_where_the_condition_has_become_true():
    rates, start = {"x": "x", "at": "0", "was": "0"}, {"x": 1.0, "at": 0.0, "was": 0.0}
    crossing = event("e", "x >= 3", {"at": "time", "was": "x", "x": "0"})
    found = run(rates, start, [crossing], [1.0, 1.2], rtol=1e-11, atol=1e-14)
    assert found["at"].values[1] == pytest.approx(math.log(3), abs=1e-9)
    assert 3.0 <= found["was"].values[1] < 3.0 + 1e-14
    assert (found["x"].values[1], found["at"].values[0]) == (0.0, 0.0)


def test_a_wave_of_time_is_not_stepped_over():
    """Nothing but the wave keeps steps short: its hundred tops all count."""
    found = run({"n": "0"}, {"n": 0.0}, [event("top", "sin(time) > 0.99", {"n": "n + 1"})], [200 * math.pi])
    assert found.n.values[-1] == 100


def test_a_saw_of_time_in_a_rate():
    """An infusion for a tenth of every period; a step could pass over many."""
    found = run({"x": "piecewise(1, time - 24*floor(time/24) < 2.4, 0)"}, {"x": 0.0}, [], [24.0, 240.0, 2400.0])
    np.testing.assert_allclose(found.x, [2.4, 24.0, 240.0], rtol=1e-9)


START = [(True, 0.0), (False, 1.0)]


@pytest.mark.parametrize(("is_true_before", "fired"), START)
def test_what_is_true_at_the_start_fires_if_it_was_false_before(is_true_before, fired):
    found = run({"x": "0"}, {"x": 0.0}, [event("e", "x < 1", {"x": "1"}, is_true_before=is_true_before)], [0.0, 1.0])
    np.testing.assert_array_equal(found.x, [fired, fired])


def test_a_trigger_fires_again_only_after_it_was_false():
    rates, start = {"x": "1", "n": "0"}, {"x": 0.0, "n": 0.0}
    fall = event("fall", "x >= 1", {"x": "0", "n": "n + 1"})
    stay = event("stay", "x >= 1", {"n": "n + 1"})
    assert run(rates, start, [fall], [4.5]).n.values[-1] == 4
    assert run(rates, start, [stay], [4.5]).n.values[-1] == 1


def test_what_is_no_number_never_fires():
    found = run({"x": "-1"}, {"x": 1.0}, [event("e", "log(x) > 1e9", {"x": "5"})], [0.5, 3.0])
    np.testing.assert_allclose(found.x, [0.5, -2.0])


# ---- Equality


@pytest.mark.parametrize("trigger", ["time == 2", "2 - time == 0", "x == 2", "2 == x", "x - time/2 == 1"])
def test_numbers_are_equal_where_one_passes_the_other(trigger):
    rates, start = {"x": "1", "n": "0", "at": "0"}, {"x": 0.0, "n": 0.0, "at": 0.0}
    found = run(rates, start, [event("e", trigger, {"n": "n + 1", "at": "time"})], [1.9, 2.0, 2.1, 9.0])
    np.testing.assert_array_equal(found.n[[0, 2, 3]], [0, 1, 1])
    assert found["at"].values[-1] == pytest.approx(2.0, abs=1e-12)
    if "time" in trigger and "x" not in trigger:
        assert found.n.values[1] == 1


def test_passing_in_either_direction_counts():
    found = run({"n": "0"}, {"n": 0.0}, [event("e", "sin(time) == 0.5", {"n": "n + 1"})], [20 * math.pi])
    assert found.n.values[-1] == 20


@pytest.mark.parametrize(("is_true_before", "fired"), START)
def test_numbers_that_are_equal_at_the_start(is_true_before, fired):
    of = event("e", "time == 0", {"x": "1"}, is_true_before=is_true_before)
    np.testing.assert_array_equal(run({"x": "0"}, {"x": 0.0}, [of], [0.0, 1.0]).x, [fired, fired])


def test_doses_at_times_that_events_count_up():
    dose = event("dose", "time == due", {"x": "x + 1", "due": "due + 24"})
    found = run({"x": "0", "due": "0"}, {"x": 0.0, "due": 24.0}, [dose], [23.9, 24.1, 48.1, 2401.0])
    np.testing.assert_array_equal(found.x, [0, 1, 2, 100])


def test_what_is_assigned_can_be_equal_too():
    set_ = event("set", "time >= 1", {"x": "5"})
    found = run({"x": "-0.1", "y": "0"}, {"x": 0.0, "y": 0.0}, [event("e", "x == 5", {"y": "1"}), set_], [1.0])
    assert found.y.values[0] == 1
    jumped_over = event("e", "x == 4", {"y": "1"})
    assert run({"x": "0*x", "y": "0"}, {"x": 0.0, "y": 0.0}, [jumped_over, set_], [1.0]).y.values[0] == 0


def test_an_inequality_fires_where_it_ends_to_be_an_equality():
    found = run({"n": "0"}, {"n": 0.0}, [event("e", "time != 2", {"n": "n + 1"})], [1.0, 2.0, 2.1, 9.0])
    np.testing.assert_array_equal(found.n, [0, 0, 1, 1])


# ---- Delays


def test_a_delay_and_values_of_either_time():
    rates, start = {"x": "1", "y": "0", "z": "0"}, {"x": 0.0, "y": 0.0, "z": 0.0}
    early = event("early", "x >= 1", {"y": "x"}, delay="1.5")
    late = event("late", "x >= 1", {"z": "x"}, delay="1.5", keeps_values=False)
    found = run(rates, start, [early, late], [2.49, 2.5])
    np.testing.assert_allclose(found.y, [0.0, 1.0])
    np.testing.assert_allclose(found.z, [0.0, 2.5])


def test_one_event_waits_several_times():
    found = run(
        {"x": "1", "last": "0"},
        {"x": 0.0, "last": 0.0},
        [
            event("tick", "x >= 1", {"x": "0"}),
            event("echo", "x >= 1", {"last": "last + 1"}, delay="2.5", keeps_values=False),
        ],
        [3.4, 3.6, 4.6, 5.6],
    )
    np.testing.assert_array_equal(found["last"], [0, 1, 2, 3])


@pytest.mark.parametrize(("is_persistent", "made"), [(True, 1.0), (False, 0.0)])
def test_a_trigger_that_becomes_false_while_its_event_waits(is_persistent, made):
    rates, start = {"x": "cos(time)", "y": "0"}, {"x": 0.0, "y": 0.0}
    above = event("above", "x > 0.5", {"y": "1"}, delay="2.5", is_persistent=is_persistent)  # true for 2 pi / 3
    assert run(rates, start, [above], [4.0]).y.values[-1] == made
    short = event("above", "x > 0.5", {"y": "1"}, delay="2", is_persistent=is_persistent)
    assert run(rates, start, [short], [4.0]).y.values[-1] == 1.0


# ---- Order

SWAP = {"a": "b", "b": "a"}


def test_all_values_are_computed_before_any_is_assigned():
    found = run({"a": "0", "b": "0"}, {"a": 1.0, "b": 2.0}, [event("swap", "time >= 1", SWAP)], [1.0])
    assert (found.a.values[0], found.b.values[0]) == (2.0, 1.0)


def test_events_that_fire_at_once_see_the_same_values_or_not():
    rates, start = {"a": "0", "b": "0"}, {"a": 1.0, "b": 0.0}
    first = event("first", "time >= 1", {"a": "10"}, priority="2")
    kept, late = (
        event("second", "time >= 1", {"b": "a"}, priority="1", keeps_values=keeps_values)
        for keeps_values in (True, False)
    )
    assert run(rates, start, [kept, first], [1.0]).b.values[0] == 1.0
    assert run(rates, start, [late, first], [1.0]).b.values[0] == 10.0


def test_priorities_are_computed_anew_after_each():
    """Each event lifts another: the order is that of no numbers that were known at first."""
    events = [
        event("a", "time >= 1", {"log": "10*log + 1", "pc": "9"}, priority="5", keeps_values=False),
        event("b", "time >= 1", {"log": "10*log + 2"}, priority="4", keeps_values=False),
        event("c", "time >= 1", {"log": "10*log + 3"}, priority="pc", keeps_values=False),
        event("none", "time >= 1", {"log": "10*log + 4"}, keeps_values=False),
    ]
    found = run({"log": "0", "pc": "0"}, {"log": 0.0, "pc": 0.0}, events, [1.0])
    assert found["log"].values[0] == 1324


def test_events_without_priority_go_in_their_order():
    events = [event(f"e{k}", "time >= 1", {"log": f"10*log + {k}"}, keeps_values=False) for k in (3, 1, 2)]
    assert run({"log": "0"}, {"log": 0.0}, events, [1.0])["log"].values[0] == 312


def test_an_event_that_takes_away_the_reason_of_another():
    off = event("off", "time >= 1", {"on": "0"}, priority="2")
    rates, start = {"on": "0", "x": "0"}, {"on": 1.0, "x": 0.0}
    for is_persistent in (True, False):
        other = event("other", "time >= 1 && on > 0", {"x": "1"}, priority="1", is_persistent=is_persistent)
        assert run(rates, start, [off, other], [1.0]).x.values[0] == is_persistent


def test_a_cascade_at_one_moment():
    events = [event(f"e{k}", f"x{k - 1} > 0", {f"x{k}": f"x{k - 1} + time"}) for k in range(5, 0, -1)]
    states = [f"x{k}" for k in range(6)]
    start = event("start", "time >= 2", {"x0": "1"})
    found = run(dict.fromkeys(states, "0"), dict.fromkeys(states, 0.0), [*events, start], [1.9, 2.0])
    assert [found[s].values[1] for s in states] == [1, 3, 5, 7, 9, 11]
    assert found["x5"].values[0] == 0


def test_equal_priorities_are_drawn_by_lot_the_same_in_every_run():
    events = [
        event("tick", "clock >= 1", {"clock": "0", "due": "1"}),
        event("a", "due > 0", {"a": "a + 1", "due": "0"}, priority="1", is_persistent=False),
        event("b", "due > 0", {"b": "b + 1", "due": "0"}, priority="1", is_persistent=False),
    ]
    rates = {"clock": "1", "due": "0", "a": "0", "b": "0"}
    found = run(rates, dict.fromkeys(rates, 0.0), events, [400.5], max_steps=100_000)
    a, b = found.a.values[0], found.b.values[0]
    assert a + b == 400
    assert abs(a - b) < 5 * math.sqrt(400)  # 5 standard deviations of a - b
    assert min(a, b) > 0
    again = run(rates, dict.fromkeys(rates, 0.0), events, [400.5], max_steps=100_000)
    assert again.a.values[0] == a


# ---- What cannot be


def test_events_without_end_are_told():
    events = [event("up", "x < 1", {"x": "2"}), event("down", "x > 1", {"x": "0"})]
    with pytest.raises(SimulationError, match="events fire without end"):
        run({"x": "0", "y": "1"}, {"x": 1.0, "y": 0.0}, [event("go", "y > 1", {"x": "2"}), *events], [2.0])


def test_a_negative_delay_is_told():
    with pytest.raises(SimulationError, match="delay is negative"):
        run({"x": "1"}, {"x": 0.0}, [event("e", "x > 1", {"x": "0"}, delay="x - 5")], [2.0])


def test_a_ball_that_comes_to_rest_takes_all_steps():
    """Bounces that come ever faster have an end that no step reaches."""
    with pytest.raises(SimulationError, match=r"failed at time 4\.28"):
        run({"y": "v", "v": "-9.81"}, {"y": 10.0, "v": 0.0}, [event("e", "y <= 0", {"v": "-0.5*v", "y": "0"})], [9.0])


def test_only_states_can_be_assigned():
    with pytest.raises(ModelError, match="only states"):
        model({"x": "1"}, {"x": 0.0, "k": 1.0}, event("e", "x > 1", {"k": "0"}))


def test_the_jax_engine_refuses_events_by_name():
    of = model({"x": "1"}, {"x": 0.0}, event("reset", "x > 1", {"x": "0"}))
    with pytest.raises(ModelError, match=r"JAX engine .* \['reset'\].*engine='native'"):
        integrator(of, max_steps=100)


# ---- Without


def test_events_that_never_fire_change_no_number():
    rates, start, times = {"x": "-k*x*x"}, {"x": 1.0, "k": 3.0}, np.linspace(0, 5, 7)
    plain = run(rates, start, [], times)
    np.testing.assert_array_equal(run(rates, start, [event("e", "x > 2", {"x": "7"})], times).x, plain.x)
