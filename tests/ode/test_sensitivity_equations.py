"""The functions that forward sensitivities take: what they compute, against the equations that they come from."""

import random

import numpy as np
import pytest

from kinbayes.model.expressions import (
    ONE,
    ZERO,
    apply,
    const,
    directional_derivatives,
    evaluate,
    jacobian,
    postorder,
    symbol,
    where,
)
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.ode.equations import equations
from kinbayes.ode.sensitivity_equations import ARGUMENT, INPUT, STATE, Observer, _terms, sensitivity_equations
from kinbayes.ode.sparse_lu import sparse_lu
from tests.ode.systems import model

X, Y, Z = symbol("x"), symbol("y"), symbol("z")
C, D, K = (
    symbol("c"),
    symbol("d"),
    symbol("k"),
)  # two that never matter, and one with respect to which is differentiated
STATES, STEADY = ("x", "y", "z"), ("c", "d")
FLUX, OTHER = K * X * Y / (1 + X), K * Z

# ---- terms


def combined(found):
    """Return the equations that terms and their coefficients stand for, but for what is added as a constant."""
    return [sum((factor * found.terms[t] for t, factor in row.items()), start=ZERO) for row in found.rows]


def points(names, num=20, seed=0):
    stream = np.random.default_rng(seed)
    return [dict(zip(names, stream.uniform(0.2, 3.0, len(names)), strict=True)) for _ in range(num)]


def assert_combines(rhs, found):
    """Assert that the combination is that of the equations: their changes from point to point are its own."""
    names = sorted({s for e in rhs for s in e.symbols} | {"c", "d"})
    steady = {"c": 0.7, "d": -1.9}
    differences = []
    for roots in (rhs, combined(found)):
        at = np.array([np.array(evaluate(roots, {**p, **steady}), dtype=float) for p in points(names)])
        differences.append(at - at[0])
    np.testing.assert_allclose(differences[1], differences[0], rtol=1e-12, atol=1e-12)


REACTION, SUM = K * X * Y, K * X + Y * Z
EQUATIONS = {  # equations -> number of terms
    "reactions": ([-FLUX, FLUX - OTHER, OTHER], 2),
    "stoichiometry": ([-2 * FLUX + 3 * OTHER, FLUX * 0.5, -(OTHER - FLUX) * 4], 2),
    "volumes": ([-FLUX * C, FLUX * D - C * OTHER, D * (OTHER * C)], 2),
    "nested": ([C * (D * (X * Y - 2 * (Z - C * (Y * Z)))), -(C * -(X * Y)), Y * Z], 3),
    "a constant in a sum": ([C + X * Y, (C - X * Y) * D, C * D], 1),
    "a constant to be taken from": ([C - FLUX, -(C - (D - FLUX)), const(3.0) - C], 1),
    "a sum that two share": ([C * SUM, D * SUM - X, SUM], 2),
    "a multiple of a sum that two share": ([X - C * (X - Y * Z), C * (X - Y * Z) - Y, Z], 4),
    "a multiple of a multiple of one": ([-(D * -(C * SUM)), X - D * (C * SUM), (C * SUM) * D], 2),
    "a sum inside a sum that two share": ([X + SUM * C, SUM - C * X, Y + X], 3),
    "what cancels": ([FLUX - FLUX * 1, C * FLUX - FLUX * C, FLUX + (-FLUX)], None),
    "twice the same": ([X * Y + X * Y, X * Y + (C * (X * Y)), X * Y - 3 * (X * Y)], 1),
    "one equation for all": ([FLUX + OTHER, FLUX + OTHER, FLUX + OTHER], 1),
    "an equation inside another": ([FLUX + OTHER, C * (FLUX + OTHER) - X, X], 2),
    "nothing": ([ZERO, ONE, C], 0),
    "the states themselves": ([X, -Y, C * Z], 3),
    "divisions": ([X / C, Y / X - X / C, C / X], 3),
    "wanted factors": ([K * (X - Y), (X - Y) * K, K * X], None),
    "a truth": ([where(apply("lt", X, C), X, Y) * C, where(apply("lt", X, C), X, Y), -X], 2),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_terms_combine_to_the_equations(name):
    rhs, num = EQUATIONS[name]
    found = _terms(rhs, STATES, STEADY)
    assert_combines(rhs, found)
    assert num is None or len(found.terms) == num
    factors = [factor for row in found.rows for factor in row.values()]
    assert all(factor.symbols <= set(STEADY) for factor in factors)
    assert all(factor is not ZERO for factor in factors)
    assert not any(term.op in ("neg", "const") for term in found.terms)


def test_what_is_differentiated_by_is_no_coefficient():
    """The control of the coefficients: K before a sum stays inside the term, for its derivative is not 0."""
    found = _terms([K * (X * Y), C * (X * Y)], STATES, STEADY)
    assert found.terms == (K * (X * Y), X * Y)
    wrong = _terms([K * (X * Y), C * (X * Y)], STATES, (*STEADY, "k"))
    assert wrong.terms == (X * Y,)
    assert jacobian(wrong.terms, ["k"]).entries == ()  # K would have no part in the gradient


def test_what_varies_is_no_coefficient_even_where_it_is_called_steady():
    found = _terms([C * (X * Y)], (*STATES, "c"), STEADY)
    assert found.terms == (C * (X * Y),)


def test_a_rate_that_many_equations_share_is_differentiated_once():
    """A rate with stoichiometries and volumes in eight equations has one row in the Jacobian of the terms."""
    rates = [K * symbol(f"s{i}") * symbol(f"s{(i + 1) % 8}") / (1 + symbol(f"s{i}")) for i in range(8)]
    rhs = [sum(((-1) ** k * (k + 1) * C * rates[(i + k) % 8] for k in range(8)), start=ZERO) for i in range(8)]
    found = _terms(rhs, [f"s{i}" for i in range(8)], STEADY)
    assert set(found.terms) == set(rates)
    assert [len(row) for row in found.rows] == [8] * 8


def test_what_one_state_loses_to_another_is_one_number():
    """Fast exchange keeps the sum of two states to the last bit only if both equations have the same product."""
    exchange = C * (X - Y * Y)
    found = _terms([K - exchange, exchange - D * Y], STATES, STEADY)
    assert set(found.terms) == {K, X - Y * Y, Y}
    number = found.terms.index(X - Y * Y)
    assert [row[number] for row in found.rows] == [-C, C]


def test_long_sums_are_no_recursion():
    rhs = [sum((const(k + 1.0) * (X * apply("exp", Y * k)) for k in range(3000)), start=ZERO)]
    found = _terms(rhs, STATES, STEADY)
    assert len(found.terms) == 3000


def random_rhs(seed):
    stream = random.Random(seed)
    leaves = [X, Y, Z, C, D, K, const(2.0), const(-0.5), X * Y, K * X, C * D]
    nodes = list(leaves)
    for _ in range(60):
        a, b = stream.choice(nodes), stream.choice(nodes[-12:])
        op = stream.choice(["add", "add", "sub", "sub", "mul", "neg", "tanh"])
        nodes.append(
            apply(op, a) if op in ("neg", "tanh") else apply(op, a, b) if op != "mul" else a * apply("tanh", b)
        )
    return nodes[-4:]


@pytest.mark.parametrize("seed", range(40))
def test_random_equations_are_what_their_terms_combine_to(seed):
    rhs = random_rhs(seed)
    assert_combines(rhs, _terms(rhs, STATES, STEADY))


# ---- the functions

RATES = {
    "A": "s - v * A * B / (1 + A / w) + c * (B - A)",
    "B": "2 * v * A * B / (1 + A / w) - B^h * q + u * B * sin(time)",
    "C": "piecewise(q, time < t0, 2 * q) * A - c * exp(-C * w)",
}
START = {"A": 0.4, "B": 1.3, "C": 0.2, "s": 0.5, "v": 1.1, "w": 2.0, "h": 1.7, "q": 0.6, "u": 0.3, "c": 0.9, "t0": 2.0}
OBSERVER = Observer(
    (
        parse("-(m - f * A * w) ^ 2 / (2 * sd^2) - log(sd) + B * time"),
        parse("f * A * w"),
        parse("sd * 2"),
        ZERO,
    ),
    ("time", "m", "f", "sd"),
    2,
)


def differentiated(wanted, rates=RATES, start=START, observers=(OBSERVER,), *, is_straight=False):
    of = model("model", rates, **start)
    inputs = tuple(of.initial)
    definitions = of.initial_values(inputs)
    found = equations(of, definitions)
    solver = None
    if is_straight:
        solver = sparse_lu(len(found.states), found.pattern.rows, found.pattern.columns)
    places = [inputs.index(name) for name in wanted]
    return found, solver, sensitivity_equations(found, definitions, inputs, observers, places, solver), inputs


def run(function, values):
    """Return the outputs of a function under values of its inputs, by name."""
    return [np.array(evaluate(array, values), dtype=float) for array in function.outputs]


def constants_at(found, function, values, time=1.0):
    """Return the constants, switches and more constants, by name."""
    named = {f"input {n}": v for n, v in values.items()}
    own = dict(zip(found.constants, evaluate(list(found.constants.values()), values), strict=True))
    own |= dict(zip(found.switches, evaluate(list(found.switches.values()), {**own, "time": time}), strict=True))
    return own, run(function, named)


WANTED = ["s", "v", "w", "h", "q", "t0", "A"]


@pytest.fixture(scope="module")
def everything():
    return differentiated(WANTED)


def rhs_at(found, values, own, y):
    """Return the derivatives of the states; `values` of the model's parameters, at switches as they stand."""
    names = {
        **values,
        **{n: v for n, v in own.items() if n in found.switches},
        **dict(zip(found.states, y, strict=True)),
    }
    return np.array(evaluate(found.plain, names), dtype=float)


def central(function, x, h=1e-6):
    """Return the derivatives of a function of a vector: (outputs, entries of the vector)."""
    columns = [(function(x + h * e) - function(x - h * e)) / (2 * h) for e in np.eye(len(x))]
    return np.stack(columns, axis=-1)


def test_the_tangents_stage_is_the_derivative_of_a_stage(everything):
    """W k' = J(u) u' + f_p(u) + r' + D y' + d_p, from the machine's functions and from the equations themselves."""
    found, _, equations_, inputs = everything
    seed, slopes, tangent = equations_.functions[:3]
    own, (_, _, more) = constants_at(found, seed, START)
    held = {**own, **dict(zip(slopes.inputs[-1], more, strict=True))}
    n, stream = len(found.states), np.random.default_rng(2)
    y, k = np.array([0.4, 1.3, 0.2, 1.0]), stream.normal(0, 0.3, n)
    u = y + 0.1 * stream.normal(0, 1, n)
    vectors = dict(zip((*slopes.inputs[0], *slopes.inputs[1]), (*u, *k), strict=True))
    at_stage, bent, of_sources = run(slopes, {**vectors, **dict(zip(found.states, y, strict=True)), **held})

    theta = np.array([START[name] for name in WANTED])
    pattern = found.pattern

    def plain(values, at):
        return rhs_at(found, {**START, **dict(zip(WANTED, values, strict=True))}, own, at)

    dense = central(lambda v: plain(theta, v), u)
    by_p = central(lambda v: plain(v, u), theta)

    def bent_along(values, at):
        """Return J(at) k by differences of directional derivatives, which are exact."""
        switches = {name: own[name] for name in found.switches}
        names = {
            **START,
            **dict(zip(WANTED, values, strict=True)),
            **switches,
            **dict(zip(found.states, at, strict=True)),
        }
        direction = dict(zip(found.states, map(const, k.tolist()), strict=True))
        return np.array(evaluate(directional_derivatives(found.plain, direction), names), dtype=float)

    d_by_y, d_by_p = central(lambda v: bent_along(theta, v), y), central(lambda v: bent_along(v, y), theta)

    base, total, newest, before = (stream.normal(0, 1, n) for _ in range(4))
    a, c = 0.37, -2.3
    for column, name in enumerate(WANTED):
        sources = np.zeros(len(equations_.source_rows))
        for q, (row, of) in enumerate(zip(equations_.sources.rows, equations_.sources.columns, strict=True)):
            if inputs[of] == name:
                sources[equations_.source_rows.index(row)] += of_sources[q]
        arrays = (base, total, newest, before, sources, [a, c], list(own.values()))
        values = {}
        for names, numbers in zip(tangent.inputs[:7], arrays, strict=True):
            values |= dict(zip(names, numbers, strict=True))
        values |= {f"J {q}": v for q, v in enumerate(at_stage)} | {f"D {q}": v for q, v in enumerate(bent)}
        (out,) = run(tangent, values)
        moved = base + a * newest
        expected = dense @ moved + by_p[:, column] + total + c * newest + d_by_y @ before + d_by_p[:, column]
        np.testing.assert_allclose(out, expected, rtol=1e-7, atol=1e-7)
        without = dense @ moved + total + c * newest + d_by_y @ before
        if name not in ("t0", "A"):  # the control: its own part is not small
            assert np.max(np.abs(without - out)) > 1e-3
    assert len(pattern.rows) > 0


def test_where_the_linear_solver_is_straight_the_stage_comes_solved():
    _, solver, equations_, _ = differentiated(WANTED, is_straight=True)
    plain = differentiated(WANTED)[2]
    tangent, stream = equations_.functions[2], np.random.default_rng(3)
    values = {s: v for names in tangent.inputs for s, v in zip(names, stream.normal(0, 1, len(names)), strict=True)}
    (solved,), (right,) = run(tangent, values), run(plain.functions[2], values)
    named = {**values, **dict(zip(solver.rhs_names, right, strict=True))}
    np.testing.assert_allclose(solved, evaluate(solver.solution, named), rtol=1e-12)
    assert np.max(np.abs(solved - right)) > 1e-2


def test_numbers_of_slopes_lie_apart(everything):
    """What all stages have at once is read at every eighth number, so that a stage is an offset."""
    tangent, num = everything[2].functions[2], everything[2].num_varying
    names = tangent.inputs[7]
    assert len(names) == 8 * num
    assert [s for s in names if s] == [names[8 * q] for q in range(num)]
    assert tangent.vectors == frozenset(range(5))


def test_the_seed_is_the_derivative_of_the_start():
    plain = model("plain", RATES, **START)
    own = {"A": parse("2 * s^2 / w"), "B": parse("A + v"), "q": parse("v * w")}
    of = Model("model", plain.derivatives, {**plain.initial, **own})
    inputs = ("s", "v", "w", "h", "u", "c", "t0", "C")
    definitions = of.initial_values(inputs)
    found = equations(of, definitions)
    wanted = range(len(inputs))
    equations_ = sensitivity_equations(found, definitions, inputs, [OBSERVER], list(wanted), None)
    values = {n: START[n] for n in inputs}
    at_start, times, _ = run(equations_.functions[0], {f"input {n}": v for n, v in values.items()})
    ours = np.zeros((len(found.states), len(inputs)))
    ours[equations_.start.rows, equations_.start.columns] = at_start
    s, v, w = START["s"], START["v"], START["w"]
    by = dict(zip(inputs, np.eye(len(inputs)), strict=True))
    a = 4 * s / w * by["s"] - 2 * s**2 / w**2 * by["w"]
    states = {"A": a, "B": a + by["v"], "C": by["C"], "time": 0 * a}
    np.testing.assert_allclose(ours, [states[name] for name in found.states], rtol=1e-14)
    assert v != w
    np.testing.assert_array_equal(times, [1.0])
    assert [inputs[c] for c in equations_.switches.columns] == ["t0"]


def test_partials_of_an_observer_are_those_of_its_outputs(everything):
    found, _, equations_, inputs = everything
    (which,) = equations_.partials
    function = equations_.functions[3]
    own, (_, _, more) = constants_at(found, equations_.functions[0], START)
    arguments = {"time": 1.5, "m": 0.8, "f": 1.2, "sd": 0.3}
    y = dict(zip(found.states, (0.4, 1.3, 0.2, 9.0), strict=True))
    held = {**y, **own, **dict(zip(function.inputs[2], more, strict=True)), **arguments}
    (values,) = run(function, held)
    at = {**START, **y, **arguments}

    def outputs(name, value):
        return np.array(evaluate(OBSERVER.outputs, {**at, name: value}), dtype=float)

    kinds = {STATE: found.states, INPUT: inputs, ARGUMENT: OBSERVER.arguments}
    table = {}
    for column, kind, index, value in zip(*which, values, strict=True):
        name, h = kinds[kind][index], 1e-6
        slope = (outputs(name, at[name] + h) - outputs(name, at[name] - h)) / (2 * h)
        assert value == pytest.approx(slope[column], rel=1e-7, abs=1e-8)
        table[(column, name)] = value
    assert set(table) == {
        *((0, name) for name in ("A", "B", "w", "f", "sd")),
        *((1, name) for name in ("A", "w", "f")),
        (2, "sd"),
    }
    assert which.num_densities == 5
    np.testing.assert_array_equal(which.column[:5], 0)


def test_a_measurement_and_a_time_are_no_arguments_to_differentiate_by(everything):
    (which,) = everything[2].partials
    arguments = which.index[which.kind == ARGUMENT]
    assert {OBSERVER.arguments[k] for k in arguments} == {"f", "sd"}


def test_only_what_is_wanted_is_differentiated_by():
    _, _, few, inputs = differentiated(["v"])
    assert {inputs[c] for c in few.sources.columns} == {"v"}
    assert not len(few.start.rows)
    assert not len(few.switches.rows)
    _, _, none, _ = differentiated([])
    assert not len(none.sources.rows)
    assert none.num_bent > 0


def test_an_input_with_the_name_of_a_state_is_its_start():
    """The start A enters a rate through a parameter that follows from it, and is not the state A."""
    start = {"A": const(2.0), "k": const(3.0), "whole": parse("k * A")}
    of = Model("model", {"A": parse("-whole * A")}, start)
    definitions = of.initial_values(["A", "k"])
    found = equations(of, definitions)
    equations_ = sensitivity_equations(
        found, definitions, ("A", "k"), [Observer((symbol("A") * 1.0,), ())], [0, 1], None
    )
    seed, slopes = equations_.functions[:2]
    _, _, more = run(seed, {"input A": 2.0, "input k": 3.0})
    constants = evaluate(list(found.constants.values()), {"A": 2.0, "k": 3.0})
    held = dict(zip((*found.constants, *slopes.inputs[-1]), (*constants, *more), strict=True))
    vectors = dict(zip((*slopes.inputs[0], *slopes.inputs[1]), (0.5, 0.25), strict=True))
    _, _, of_sources = run(slopes, {**vectors, "A": 0.7, **held})
    by_input = dict(zip(equations_.sources.columns.tolist(), of_sources, strict=True))
    # -k A0 A differentiated by A0 is -k A at u, and -k along the stage; by k it is -A0 A.
    assert by_input == pytest.approx({0: -3.0 * (0.5 + 0.25), 1: -2.0 * (0.5 + 0.25)})


def test_infinite_slopes_count_as_nothing():
    found, _, equations_, _ = differentiated(["v"], {"A": "-v * sqrt(A) + A^1.5"}, {"A": 0.0, "v": 1.0}, [])
    seed, slopes = equations_.functions[:2]
    own, (_, _, more) = constants_at(found, seed, {"A": 0.0, "v": 1.0})
    held = {**own, **dict(zip(slopes.inputs[-1], more, strict=True))}
    vectors = dict(zip((*slopes.inputs[0], *slopes.inputs[1]), (0.0, 0.1), strict=True))
    for numbers in run(slopes, {**vectors, "A": 0.0, **held}):
        assert np.all(np.isfinite(numbers))


def test_functions_stay_small_where_equations_share_rates():
    """The tangent of 30 states in 60 reactions takes a few operations a reaction, not a few an equation and state."""
    stream = random.Random(1)
    rates, start = {f"s{i}": ZERO for i in range(30)}, {f"s{i}": 1.0 for i in range(30)}
    for j in range(60):
        flux = symbol(f"k{j}")
        members = stream.sample(range(30), 4)
        for i in members[:2]:
            flux = flux * symbol(f"s{i}")
        start[f"k{j}"] = 1.0
        for sign, i in zip((-1.0, -1.0, 1.0, 2.0), members, strict=True):
            rates[f"s{i}"] = rates[f"s{i}"] + sign * flux
    found, _, equations_, _ = differentiated([f"k{j}" for j in range(60)], rates, start, [])
    (out,) = equations_.functions[2].outputs
    operations = sum(bool(node.args) for node in postorder(out))
    entries = len(found.pattern.rows)
    print(f"{operations} operations a tangent, {entries} entries in the Jacobian")
    assert operations < 60 * (2 * 4 + 1 + 4 * 2) + 30 * 5
