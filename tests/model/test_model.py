import itertools

import pytest

from kinbayes.model.expressions import TIME, const, evaluate, symbol
from kinbayes.model.model import Model, ModelError, resolve

A, B, K, SIZE = map(symbol, ("a", "b", "k", "size"))


def model(**changes):
    parts = {
        "name": "decay",
        "derivatives": {"a": -symbol("rate") / SIZE},
        "initial": {"a": symbol("dose") / SIZE, "dose": const(6), "k": const(0.5), "size": const(2), "b": 2 * A},
        "expressions": {"rate": symbol("speed") * A, "speed": K * SIZE + TIME},
    }
    return Model(**{**parts, **changes})


def values(made, given=(), sometimes=(), **numbers):
    expressions = made.initial_values(given, sometimes)
    return dict(zip(expressions, evaluate(list(expressions.values()), numbers), strict=True))


def test_states_parameters_and_expressions():
    made = model()
    assert made.states == ("a",)
    assert made.parameters == ("dose", "k", "size", "b")
    assert made.expressions["rate"] is (K * SIZE + TIME) * A
    assert made.derivatives["a"] is -((K * SIZE + TIME) * A) / SIZE
    assert repr(made) == "Model('decay': 1 states, 4 parameters, 2 expressions)"


def test_what_is_given_moves_what_depends_on_it():
    assert values(model()) == {"a": 3, "dose": 6, "k": 0.5, "size": 2, "b": 6}
    assert values(model(), ["size"], size=3.0)["b"] == 4
    assert values(model(), ["a", "size"], a=10.0, size=3.0) == {"a": 10, "dose": 6, "k": 0.5, "size": 3, "b": 20}


def test_what_is_sometimes_given_is_a_choice():
    flag, given = Model.given_names("a")
    assert values(model(), (), ["a"], **{flag: 1.0, given: 5.0})["b"] == 10
    assert values(model(), (), ["a"], **{flag: 0.0, given: 5.0})["b"] == 6


def test_starts_follow_expressions():
    made = model(initial={**model().initial, "k2": symbol("speed") + 1})
    assert values(made, ["k"], k=4.0, time=0.0)["k2"] == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"derivatives": {"x": K}}, "state 'x' has no initial value"),
        ({"derivatives": {"a": symbol("nobody")}}, r"'a' uses \['nobody'\]"),
        ({"expressions": {"k": K, "rate": A, "speed": K}}, r"\['k'\] are defined both"),
        ({"expressions": {"rate": symbol("speed"), "speed": symbol("rate")}}, r"\['rate', 'speed'\] form a circle"),
    ],
)
def test_contradictions_are_named(changes, message):
    with pytest.raises(ModelError, match=message):
        model(**changes)


@pytest.mark.parametrize(
    ("name", "message"),
    [("rate", "'rate' is computed by the model"), ("nobody", "'nobody' is no state or parameter")],
)
def test_what_cannot_be_given_is_named(name, message):
    for arguments in (([name],), ([], [name])):
        with pytest.raises(ModelError, match=message):
            model().initial_values(*arguments)


def test_circles_between_starts_are_named():
    made = model(initial={**model().initial, "dose": B})
    with pytest.raises(ModelError, match="form a circle"):
        made.initial_values(())
    assert values(made, ["dose"], dose=8.0)["b"] == 8


def test_a_shared_definition_is_no_circle():
    # Every order of the four definitions; d is used by all, c by two.
    definitions = {"a": B + symbol("c") + symbol("d"), "b": symbol("c") * 2, "c": symbol("d") * 3, "d": K + 1}
    for order in itertools.permutations(definitions):
        found = resolve({name: definitions[name] for name in order})
        assert list(found) == list(order)
        assert found["a"] is (K + 1) * 3 * 2 + (K + 1) * 3 + (K + 1)


def test_a_definition_of_itself_is_a_circle():
    with pytest.raises(ModelError, match=r"\['a'\] form a circle"):
        resolve({"a": A + 1})


def test_a_chain_of_definitions_is_no_recursion():
    chain = {f"x{i}": symbol(f"x{i + 1}") + 1 for i in range(3000)}
    assert resolve(chain)["x0"].symbols == {"x3000"}


def test_formulas_at_the_start():
    model = Model(
        "m", {"A": -symbol("A")}, {"A": symbol("k") + symbol("time"), "k": const(2.0)}, {"twice": 2 * symbol("A")}
    )
    formula = symbol("twice") + symbol("k") + symbol("elsewhere")
    (given,) = model.at_start([formula], ["k", "elsewhere"])
    assert evaluate([given], {"k": 5.0, "elsewhere": 7.0, "time": 1.0}) == [2 * (5 + 1) + 5 + 7]
    (own,) = model.at_start([formula], [])
    assert evaluate([own], {"elsewhere": 7.0, "time": 1.0}) == [2 * (2 + 1) + 2 + 7]
