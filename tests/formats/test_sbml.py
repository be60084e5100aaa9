import csv
import math
from collections import Counter
from pathlib import Path

import libsbml
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import kinbayes as kb
from kinbayes.formats.sbml import SBMLError, UnsupportedSBMLError, read_sbml
from kinbayes.model.codegen import program
from kinbayes.model.expressions import OPERATIONS, evaluate, symbol

PROJECT = Path(__file__).parents[2]
SUITE = PROJECT.parent / "shared" / "data" / "sbml_test_suite"
needs_suite = pytest.mark.skipif(not SUITE.is_dir(), reason="the SBML test suite is not beside the project")

TIMES = np.linspace(0.0, 3.0, 7)

# ---- Writing small models


def math_ml(content):
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML">{content}</math>'


def apply(operator, *arguments):
    return f"<apply><{operator}/>{''.join(arguments)}</apply>"


def call(function, *arguments):
    return f"<apply>{ci(function)}{''.join(arguments)}</apply>"


def ci(name):
    return f"<ci>{name}</ci>"


def cn(value):
    return f"<cn>{value}</cn>"


TIME = '<csymbol encoding="text" definitionURL="http://www.sbml.org/sbml/symbols/time">t</csymbol>'
DELAY = '<csymbol encoding="text" definitionURL="http://www.sbml.org/sbml/symbols/delay">delay</csymbol>'
RATE_OF = '<csymbol encoding="text" definitionURL="http://www.sbml.org/sbml/symbols/rateOf">rateOf</csymbol>'
BOX = '<compartment id="box" spatialDimensions="3" size="2" constant="false"/>'


def species(name, start='initialConcentration="3"', *, amounts="false", boundary="false", constant="false"):
    return (
        f'<species id="{name}" compartment="box" {start} hasOnlySubstanceUnits="{amounts}" '
        f'boundaryCondition="{boundary}" constant="{constant}"/>'
    )


def parameter(name, value="0.5"):
    return f'<parameter id="{name}" value="{value}" constant="false"/>'


def rule(kind, variable, content):
    return f'<{kind}Rule variable="{variable}">{math_ml(content)}</{kind}Rule>'


def assignment(variable, content):
    return f'<initialAssignment symbol="{variable}">{math_ml(content)}</initialAssignment>'


def function(name, arguments, content):
    bound = "".join(f"<bvar>{ci(a)}</bvar>" for a in arguments)
    body = math_ml(f"<lambda>{bound}{content}</lambda>")
    return f'<functionDefinition id="{name}">{body}</functionDefinition>'


def reaction(name, law, reactants=(), products=(), local=(), attributes=""):
    def side(kind, references):
        return f"<listOf{kind}>{''.join(references)}</listOf{kind}>" if references else ""

    inner = "".join(f'<localParameter id="{p}" value="{v}"/>' for p, v in local)
    inner = f"<listOfLocalParameters>{inner}</listOfLocalParameters>" if local else ""
    kinetics = f"<kineticLaw>{math_ml(law)}{inner}</kineticLaw>" if law else ""
    head = f'<reaction id="{name}" reversible="false" {attributes}>'
    return f"{head}{side('Reactants', reactants)}{side('Products', products)}{kinetics}</reaction>"


def reference(name, stoichiometry="1", extra=""):
    return f'<speciesReference species="{name}" stoichiometry="{stoichiometry}" constant="true" {extra}/>'


def document(*, level="3", version="2", model="", root="", **lists):
    order = "FunctionDefinitions Compartments Species Parameters InitialAssignments Rules Constraints Reactions"
    given = [name for name in (*order.split(), "Events") if name in lists]
    parts = [f"<listOf{name}>\n{lists[name]}\n</listOf{name}>\n" for name in given]
    namespace = f"level{level}/version{version}" + ("/core" if level == "3" else "")
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<sbml xmlns="http://www.sbml.org/sbml/{namespace}" level="{level}" version="{version}" {root}>\n'
        f'<model id="m" {model}>\n{"".join(parts)}</model>\n</sbml>\n'
    )


@pytest.fixture
def read(tmp_path):
    def read_text(**parts):
        path = tmp_path / "model.xml"
        path.write_text(document(**parts), encoding="utf-8")
        return read_sbml(path)

    return read_text


@pytest.fixture
def refusal(tmp_path):
    """The error that a text gives, as a pair of its class and its message without the folder."""

    def read_text(text):
        path = tmp_path / "model.xml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(SBMLError) as error:
            read_sbml(path)
        assert str(path) in str(error.value)
        return error.type, str(error.value).replace(str(path), "model.xml")

    return read_text


def numeric(expressions, names):
    """A function from an array of values by name to an array of results, interpreted with NumPy."""
    code = program(list(expressions))
    position = {name: k for k, name in enumerate(names)}

    def run(values):
        registers = []
        for op, args, value in code.instructions:
            if op == "const":
                registers.append(np.float64(value))
            elif op == "symbol":
                registers.append(values[position[value]])
            else:
                registers.append(OPERATIONS[op].numpy(*(registers[a] for a in args)))
        return [registers[k] for k in code.outputs]

    return run


def solve(model, times=TIMES, given=None, rtol=1e-9, atol=1e-11):
    """Every quantity of the model by name, over time, integrated with SciPy."""
    given = given or {}
    names = (*model.states, *model.parameters, "time")
    initial = evaluate(list(model.initial_values(given).values()), {**given, "time": times[0]})
    start = dict(zip(model.initial, initial, strict=True))
    parameters = [start[name] for name in model.parameters]
    slopes, rest = numeric(model.derivatives.values(), names), numeric(model.expressions.values(), names)
    states = np.empty((0, times.size))
    if model.states:
        run = solve_ivp(
            lambda t, y: slopes([*y, *parameters, t]),
            times[[0, -1]],
            [start[name] for name in model.states],
            method="RK45",
            t_eval=times,
            rtol=rtol,
            atol=atol,
            max_step=2 * np.diff(times).max(),  # finds the steps of piecewise formulas
        )
        assert run.success, run.message
        states = run.y
    known = [*states, *parameters, times]
    values = zip((*names, *model.expressions), (*known, *rest(known)), strict=True)
    return {name: np.broadcast_to(value, times.shape) for name, value in values}


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)


# ---- Species, compartments, parameters

DECAY = {
    "Compartments": BOX,
    "Parameters": parameter("k"),
    "Reactions": reaction("decay", apply("times", ci("k"), ci("A"), ci("box")), [reference("A")]),
}


def test_a_concentration_decays(read):
    model = read(Species=species("A"), **DECAY)
    assert model.states == ("A",)
    assert model.parameters == ("k", "box")
    assert model.name == "m"
    close(solve(model)["A"], 3 * np.exp(-0.5 * TIMES))
    close(solve(model)["decay"], 0.5 * 2 * 3 * np.exp(-0.5 * TIMES))


def test_an_initial_amount_follows_the_size_that_is_given(read):
    model = read(Species=species("A", 'initialAmount="8"'), **DECAY)
    close(solve(model)["A"], 4 * np.exp(-0.5 * TIMES))
    close(solve(model, given={"box": 16.0})["A"], 0.5 * np.exp(-0.5 * TIMES))
    close(solve(model, given={"box": 16.0, "A": 7.0})["A"], 7 * np.exp(-0.5 * TIMES))


def test_an_amount_counts_as_amount_in_formulas(read):
    model = read(Species=species("A", amounts="true"), **DECAY)  # dA/dt = -k A box, from 3 box
    close(solve(model)["A"], 6 * np.exp(-0.5 * 2 * TIMES))


def test_a_concentration_is_diluted_by_growth(read):
    model = read(
        Compartments=BOX,
        Parameters=parameter("k") + parameter("growth", "0.2"),
        Species=species("A") + species("B", 'initialAmount="1"'),
        Rules=rule("rate", "box", apply("times", ci("growth"), ci("box"))),
        Reactions=DECAY["Reactions"],
    )
    assert set(model.states) == {"amount of A", "box"}
    assert "amount of B" in model.parameters
    run = solve(model)
    close(run["box"], 2 * np.exp(0.2 * TIMES))
    close(run["A"], 3 * np.exp(-0.7 * TIMES))
    close(run["B"], 0.5 * np.exp(-0.2 * TIMES))


def test_dilution_by_an_assigned_size_starts_at_the_assigned_concentration(read):
    model = read(
        Compartments=BOX,
        Species=species("A"),
        InitialAssignments=assignment("A", cn(5)),
        Rules=rule("assignment", "box", apply("plus", cn(4), TIME)),
    )
    close(solve(model)["A"], 5 * 4 / (4 + TIMES))
    assert model.initial["amount of A"] is 5.0 * symbol("box")


def test_a_rate_rule_is_the_slope_of_the_symbol_itself(read):
    model = read(
        Compartments=BOX,
        Species=species("A", boundary="true") + species("B", amounts="true"),
        Parameters=parameter("x", "1"),
        Rules=rule("rate", "A", cn(1))
        + rule("rate", "box", cn(1))
        + rule("rate", "x", TIME)
        + rule("rate", "B", apply("minus", ci("B"))),
        Reactions=reaction("r", ci("A"), [reference("A")]),
    )
    run = solve(model)
    assert set(model.states) == {"A", "B", "x", "box"}
    close(run["A"], 3 + TIMES)
    close(run["x"], 1 + TIMES**2 / 2)
    close(run["B"], 6 * np.exp(-TIMES))


def test_what_nothing_changes_is_a_parameter(read):
    model = read(
        Compartments=BOX,
        Species=species("A", constant="true", boundary="true")
        + species("B", boundary="true")
        + species("C")
        + species("E"),
        Parameters=parameter("k"),
        Reactions=reaction("r", ci("k"), [reference("B"), reference("E")], [reference("A"), reference("E")]),
    )
    assert model.states == ()
    assert model.parameters == ("A", "B", "C", "E", "k", "box")


def test_assignments_follow_what_is_given(read):
    model = read(
        Compartments=BOX,
        Species=species("A"),
        Parameters=parameter("k") + parameter("twice") + parameter("total"),
        InitialAssignments=assignment("twice", apply("times", cn(2), ci("A")))
        + assignment("A", apply("plus", ci("k"), cn(1))),
        Rules=rule("assignment", "total", apply("plus", ci("A"), ci("twice"), TIME)),
        Reactions=reaction("grow", cn(2), [], [reference("A")]),
    )
    assert "total" in model.expressions
    run = solve(model, given={"k": 4.0})
    close(run["A"], 5 + TIMES)
    close(run["twice"], np.full(TIMES.shape, 10.0))
    close(run["total"], 15 + 2 * TIMES)


def test_open_values_are_nan(read):
    model = read(
        Compartments='<compartment id="box" constant="true"/>',
        Species=species("A", ""),
        Parameters='<parameter id="k" constant="true"/>',
    )
    assert all(math.isnan(model.initial[name].value) for name in ("A", "k", "box"))


def test_units_are_called_as_in_the_file(read):
    model = read(
        model='substanceUnits="mole"',
        Compartments=BOX.replace("size", 'units="litre" size'),
        Species=species("A") + species("B", amounts="true"),
        Parameters='<parameter id="k" units="second" constant="true"/>' + parameter("x"),
    )
    assert model.units == {"k": "second", "box": "litre", "A": "mole/litre", "B": "mole"}


# ---- Reactions and functions


def test_stoichiometry_is_any_number_and_adds_up(read):
    model = read(
        Compartments=BOX,
        Species=species("A") + species("B", "initialConcentration='0'", amounts="true"),
        Reactions=reaction(
            "r",
            apply("times", cn(2), ci("box")),
            [reference("A", "0.25"), reference("A", "1"), reference("B", "0.5")],
            [reference("A", "0.75"), reference("B", "2")],
        ),
    )
    run = solve(model)
    close(run["A"], 3 - 0.5 * 2 * TIMES)
    close(run["B"], 1.5 * 4 * TIMES)


def test_rational_stoichiometry_of_level_2(read):
    ratio = math_ml('<cn type="rational"> 3 <sep/> 2 </cn>')
    half = (
        f'<speciesReference species="A"><stoichiometryMath>{ratio}</stoichiometryMath></speciesReference>'
        '<speciesReference species="B"/>'
    )
    law = f"{math_ml(ci('k'))}<listOfParameters><parameter id='k' value='0.5'/></listOfParameters>"
    model = read(
        level="2",
        version="4",
        Compartments='<compartment id="box" size="2"/>',
        Species='<species id="A" compartment="box" initialAmount="4"/>'
        '<species id="B" compartment="box" initialConcentration="1"/>',
        Reactions=f'<reaction id="r"><listOfProducts>{half}</listOfProducts><kineticLaw>{law}</kineticLaw></reaction>',
    )
    assert model.parameters == ("r.k", "box")
    close(solve(model)["A"], 2 + 1.5 * 0.5 / 2 * TIMES)
    close(solve(model)["B"], 1 + 0.5 / 2 * TIMES)


def test_a_stoichiometry_has_a_value_in_formulas(read):
    model = read(
        Compartments=BOX,
        Species=species("A", amounts="true"),
        Parameters=parameter("x"),
        Rules=rule("assignment", "x", apply("times", ci("n"), cn(3))),
        Reactions=reaction("r", ci("n"), [], [reference("A", "2.5", 'id="n"')]),
    )
    run = solve(model)
    close(run["x"], np.full(TIMES.shape, 7.5))
    close(run["A"], 6 + 2.5 * 2.5 * TIMES)


def test_local_parameters_hide_global_names(read):
    model = read(
        Compartments=BOX,
        Species=species("A", amounts="true") + species("B", amounts="true"),
        Parameters=parameter("k", "100"),
        Reactions=reaction("r", apply("times", ci("k"), ci("B")), [], [reference("A")], [("k", 2), ("B", 3)])
        + reaction("s", ci("k"), [], [reference("B")], [("k", 5)]),
    )
    assert {"r.k", "r.B", "s.k", "k"} <= set(model.parameters)
    close(solve(model)["A"], 6 + 6 * TIMES)
    close(solve(model, given={"r.k": 1.0})["A"], 6 + 3 * TIMES)
    close(solve(model)["B"], 6 + 5 * TIMES)


def test_reactions_and_functions_in_formulas(read):
    # f calls g, which is defined after it; x inside g is not the x of f or of the model.
    model = read(
        FunctionDefinitions=function("f", "xy", apply("plus", call("g", ci("y")), ci("x")))
        + function("g", "x", apply("times", cn(2), call("h", ci("x")), ci("x")))
        + function("h", "x", apply("power", ci("x"), cn(2))),
        Compartments=BOX,
        Species=species("A", amounts="true"),
        Parameters=parameter("x", "7") + parameter("z"),
        Rules=rule("assignment", "z", apply("plus", call("f", ci("x"), cn(3)), ci("r"))),
        Reactions=reaction("r", call("f", cn(1), cn(2)), [], [reference("A")]),
    )
    run = solve(model)
    close(run["A"], 6 + 17 * TIMES)
    close(run["z"], np.full(TIMES.shape, 2 * 27 + 7 + 17.0))


def test_elements_without_a_formula_have_no_effect(read):
    model = read(
        FunctionDefinitions='<functionDefinition id="f"/>',
        Parameters=parameter("p") + parameter("q"),
        InitialAssignments='<initialAssignment symbol="p"/>',
        Rules='<assignmentRule variable="q"/>',
        Constraints="<constraint/>",
    )
    assert evaluate(list(model.initial.values()), {}) == [0.5, 0.5]
    assert model.states == ()


def test_packages_that_are_not_required_are_ignored(read):
    package = 'xmlns:fbc="http://www.sbml.org/sbml/level3/version1/fbc/version2" fbc:required="false"'
    assert read(root=package, model='fbc:strict="true"', Parameters=parameter("p")).parameters == ("p",)


@pytest.mark.parametrize("declaration", ["", '<?xml version="1.0"?>', '<?xml version="1.0" encoding="iso-8859-1"?>'])
def test_the_encoding_may_be_unsaid_or_another(tmp_path, declaration):
    path = tmp_path / "model.xml"
    path.write_text(declaration + document(Parameters=parameter("p")).split("\n", 1)[1], encoding="ascii")
    assert read_sbml(path).parameters == ("p",)


def test_the_example_models_are_read_by_the_public_name():
    model = kb.read_sbml(str(PROJECT / "models" / "lynx_hare" / "model.xml"))
    assert len(model.states) == 2


# ---- What is refused

A = species("A", amounts="true")
EMPTY_EVENT = '<event id="dose" useValuesFromTriggerTime="true"/>'
UNSUPPORTED = {
    "events": (EMPTY_EVENT, "Events", "event 'dose': events"),
    "algebraic": (
        f"<algebraicRule>{math_ml(ci('k'))}</algebraicRule>",
        "Rules",
        "algebraicRule: algebraic rules",
    ),
    "delay": (
        rule("assignment", "k", f"<apply>{DELAY}{ci('x')}{cn(1)}</apply>"),
        "Rules",
        "assignmentRule 'k': delay is not",
    ),
    "rateOf": (
        rule("rate", "k", f"<apply>{RATE_OF}{ci('x')}</apply>"),
        "Rules",
        "rateRule 'k': rateOf is not",
    ),
    "delay in a function": (
        function("late", "x", f"<apply>{DELAY}{ci('x')}{cn(1)}</apply>"),
        "FunctionDefinitions",
        "functionDefinition 'late': delay is not",
    ),
    "conversion factor": (
        A.replace("constant", 'conversionFactor="k" constant'),
        "Species",
        "species 'A': conversion factors",
    ),
    "no dimensions": (
        species("A").replace('compartment="box"', 'compartment="point"'),
        "Species",
        "species 'A': in compartment 'point', of no dimensions",
    ),
    "time": (parameter("time"), "Parameters", "parameter 'time': the name 'time'"),
    "time as argument": (function("f", ["time"], cn(1)), "FunctionDefinitions", "'f': the name 'time'"),
    "time as local": (
        reaction("r", ci("time"), local=[("time", 1)]),
        "Reactions",
        "Parameter 'time': the name",
    ),
    "no stoichiometry": (
        reaction("r", cn(1), [reference("x").replace('stoichiometry="1"', "")]),
        "Reactions",
        "speciesReference: the stoichiometry of 'x' is no number",
    ),
}


def parts(list_name, content, **others):
    """A model with `content` in one list, in a line of its own."""
    lists = {
        "Compartments": BOX + '<compartment id="point" spatialDimensions="0" constant="true"/>',
        "Species": species("x", amounts="true"),
        "Parameters": parameter("k"),
    } | others
    return {**lists, list_name: f"{lists.get(list_name, '')}\n{content}"}


def line_of(text, content):
    return text[: text.index(content)].count("\n") + 1


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_constructs_are_named_with_id_and_line(refusal, name):
    content, list_name, message = UNSUPPORTED[name]
    text = document(**parts(list_name, content))
    kind, actual = refusal(text)
    assert kind is UnsupportedSBMLError
    assert f"line {line_of(text, content)}: " in actual
    assert message in actual


@pytest.mark.parametrize(
    ("list_name", "content"),
    [
        ("InitialAssignments", assignment("n", cn(2))),
        ("Rules", rule("assignment", "n", cn(2))),
        ("Rules", rule("rate", "n", cn(2))),
    ],
)
def test_variable_stoichiometry_is_refused(refusal, list_name, content):
    text = document(**parts(list_name, content, Reactions=reaction("r", cn(1), [reference("x", extra='id="n"')])))
    kind, message = refusal(text)
    assert kind is UnsupportedSBMLError
    assert "'n': variable stoichiometry is not supported" in message


def test_stoichiometry_formulas_and_fast_reactions_of_level_2_are_refused(refusal):
    double = f"<stoichiometryMath>{math_ml(apply('times', cn(2), cn(1)))}</stoichiometryMath>"
    lists = {"Compartments": '<compartment id="box"/>', "Species": '<species id="A" compartment="box"/>'}
    product = '<listOfProducts><speciesReference species="A">{}</speciesReference></listOfProducts>'
    law = f"<kineticLaw>{math_ml(cn(1))}</kineticLaw>"
    for attribute, inside, message in (
        ("", double, "the stoichiometry of 'A' is no number"),
        ('fast="true"', "", "reaction 'r': fast reactions are not supported"),
    ):
        content = f'<reaction id="r" {attribute}>{product.format(inside)}{law}</reaction>'
        kind, actual = refusal(document(level="2", version="4", Reactions=content, **lists))
        assert kind is UnsupportedSBMLError
        assert message in actual


@pytest.mark.parametrize("package", ["comp/version1", "spatial/version1", "unheard/version1"])
def test_required_packages_are_refused(refusal, package):
    name = package.split("/")[0]
    root = f'xmlns:{name}="http://www.sbml.org/sbml/level3/version1/{package}" {name}:required="true"'
    kind, message = refusal(document(root=root, Parameters=parameter("p")))
    assert kind is UnsupportedSBMLError
    assert name in message


def test_level_1_is_refused(refusal):
    text = (
        '<sbml xmlns="http://www.sbml.org/sbml/level1" level="1" version="2"><model>'
        "<listOfParameters><parameter name='k' value='1'/></listOfParameters></model></sbml>"
    )
    kind, message = refusal(text)
    assert kind is UnsupportedSBMLError
    assert "Level 1" in message


BROKEN = {
    "unknown name": (rule("assignment", "k", ci("nobody")), "Rules", "'k': its formula uses ['nobody']"),
    "name in a function": (function("f", "x", ci("k")), "FunctionDefinitions", "'f': its formula uses ['k']"),
    "unknown function": (rule("rate", "k", call("f", cn(1))), "Rules", "'k': function 'f' is not defined"),
    "arguments": (rule("rate", "k", apply("divide", cn(1))), "Rules", "'k': divide cannot take 1"),
    "too many arguments": (
        rule("rate", "k", apply("minus", cn(1), cn(1), cn(1))),
        "Rules",
        "minus cannot take 3",
    ),
    "recursion": (
        function("f", "x", call("f", ci("x"))),
        "FunctionDefinitions",
        "'f': the functions ['f'] call",
    ),
    "target": (rule("rate", "nobody", cn(1)), "Rules", "rateRule 'nobody': there is no"),
    "two rules": (rule("rate", "k", cn(1)) + rule("assignment", "k", cn(1)), "Rules", "'k': another rule"),
    "same id": (parameter("x"), "Parameters", "parameter 'x': line 8 has the same id"),
    "compartment": (A.replace("box", "bag"), "Species", "species 'A': compartment 'bag' is not defined"),
    "species": (
        reaction("r", cn(1), [reference("nobody")]),
        "Reactions",
        "'r': species 'nobody' is not defined",
    ),
    "no law": (reaction("r", "", [reference("x")]), "Reactions", "reaction 'r': it has no kinetic law"),
    "attribute": (parameter("p", "much"), "Parameters", "Data type mismatch"),
    "formula": (rule("rate", "k", "<apply><sum/><cn>1</cn></apply>"), "Rules", "MathML"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_errors_are_named_with_id_and_line(refusal, name):
    content, list_name, message = BROKEN[name]
    text = document(**parts(list_name, content))
    kind, actual = refusal(text)
    assert kind is SBMLError
    assert f"line {line_of(text, content)}: " in actual
    assert message in actual


@pytest.mark.parametrize("attributes", [{"constant": "true"}, {}])
def test_a_reaction_cannot_change_what_is_constant_or_ruled(refusal, attributes):
    rules = {} if attributes else {"Rules": rule("rate", "A", cn(1))}
    text = document(
        Compartments=BOX,
        Species=species("A", **attributes),
        Reactions=reaction("r", cn(1), [reference("A")]),
        **rules,
    )
    kind, message = refusal(text)
    assert kind is SBMLError
    assert "reaction 'r': species 'A' is constant or the target of a rule" in message


@pytest.mark.parametrize("kind", ["assignment", "initial"])
def test_circles_are_found_when_reading(refusal, kind):
    pairs = [("a", ci("b")), ("b", apply("plus", ci("a"), cn(1)))]
    make = assignment if kind == "initial" else lambda v, c: rule("assignment", v, c)
    lists = {"InitialAssignments" if kind == "initial" else "Rules": "".join(make(*p) for p in pairs)}
    error, message = refusal(document(Parameters=parameter("a") + parameter("b"), **lists))
    assert error is SBMLError
    assert "['a', 'b'] form a circle" in message


def test_errors_name_the_file_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "my model %20.xml"
    Path(name).write_text(document(Parameters=parameter("time")), encoding="utf-8")
    with pytest.raises(UnsupportedSBMLError, match=f"^{name}, line 5: parameter 'time'"):
        read_sbml(name)


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "absent.xml", tmp_path):
        with pytest.raises(FileNotFoundError, match=path.name):
            read_sbml(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: this is not well-formed XML: no element found"),
        ("\x00\x01", "not well-formed"),
        ("<html/>", "line 1: An SBML XML document must conform"),
        (document(Parameters="<parametre/>"), "line 4: Apart from the general Notes"),
        (document(Parameters=parameter("p"))[:-20], "not well-formed XML"),
        (document().replace('<model id="m" >', "").replace("</model>", ""), "no model"),
        ("\n" + document(), "line 2: this is not well-formed XML: XML or text declaration not at start"),
    ],
)
def test_what_is_no_sbml_is_refused(refusal, text, message):
    kind, actual = refusal(text)
    assert kind is SBMLError
    assert message in actual


def test_entities_are_refused_before_they_grow(refusal):
    levels = "".join(f'\n<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
    bomb = f'<!DOCTYPE sbml [<!ENTITY a0 "ha">{levels}]>'
    kind, message = refusal(document(Parameters=parameter("&a11;")).replace("<sbml", f"{bomb}<sbml", 1))
    assert kind is SBMLError
    assert "line 2: entity 'a0' is declared" in message


def test_nesting_is_limited(refusal):
    deep = "<apply><sin/>" * 100_000 + cn(1) + "</apply>" * 100_000
    kind, message = refusal(document(Parameters=parameter("k"), Rules=rule("rate", "k", deep)))
    assert kind is SBMLError
    assert "nested more than 1000 deep" in message


# ---- The semantic test suite: |C - U| <= Ta + Tr |C| for the value C of the suite and ours, U


def names(text):
    return [name.strip() for name in text.split(",") if name.strip()]


def wrong_variables(case, given=None):
    """The variables of a case of the suite whose values are outside of the tolerance."""
    folder = SUITE / case
    lines = (folder / "settings.txt").read_text(encoding="utf-8").splitlines()
    settings = dict(line.split(":", 1) for line in lines if ":" in line)
    absolute, relative = float(settings["absolute"]), float(settings["relative"])
    start, duration = float(settings["start"]), float(settings["duration"])
    times = np.linspace(start, start + duration, int(settings["steps"]) + 1)
    with (folder / "results.csv").open(encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    expected = dict(zip(map(str.strip, header), np.array([r for r in rows if r], dtype=float).T, strict=True))
    model = read_sbml(folder / "model.xml")
    with np.errstate(all="ignore"):  # some cases are about infinities
        found = solve(model, times, given, rtol=1e-4 * relative, atol=1e-4 * absolute)
    source = libsbml.readSBMLFromFile(str(folder / "model.xml"))  # keeps what belongs to it alive
    wrong = []
    for name in names(settings["variables"]):
        element = source.getModel().getElementBySId(name)
        if element.getTypeCode() == libsbml.SBML_SPECIES_REFERENCE:
            values = np.full(times.shape, element.getStoichiometry())
        else:
            values = found[name]
        if element.getTypeCode() == libsbml.SBML_SPECIES:
            size = found[element.getCompartment()]
            if element.getHasOnlySubstanceUnits():
                values = values / size if name in names(settings["concentration"]) else values
            else:
                values = values * size if name in names(settings["amount"]) else values
        value = expected[name]
        with np.errstate(invalid="ignore"):
            inside = np.abs(value - values) <= absolute + relative * np.abs(value)
        same = (value == values) | (np.isnan(value) & np.isnan(values))  # infinities and NaN
        if not np.all(inside | same):
            wrong.append(name)
    return wrong


# Between them they have every tag of the suite that a supported case has.
# fmt: off
SAMPLE = [
    "00056", "00598", "01061", "01118", "01199", "01210", "01235", "01247", "01277",
    "01288", "01291", "01310", "01316", "01465", "01478", "01496", "01513", "01553",
    "01640", "01657", "01762", "01765", "01784", "01796", "01805",
]
# fmt: on


@needs_suite
@pytest.mark.parametrize("case", SAMPLE)
def test_a_case_of_the_semantic_test_suite(case):
    assert wrong_variables(case) == []


@needs_suite
def test_the_comparison_with_the_suite_notices_a_wrong_rate():
    assert wrong_variables("00001", {"k1": 1.0}) == []
    assert wrong_variables("00001", {"k1": 1.01}) == ["S1", "S2"]


@needs_suite
@pytest.mark.slow
def test_the_semantic_test_suite_without_events():
    with (SUITE / "cases.tsv").open(encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t")
        cases = [row["case"] for row in rows if row["tier"] == "1"]
    refused, wrong = Counter(), {}
    for case in cases:
        try:
            if found := wrong_variables(case):
                wrong[case] = found
        except UnsupportedSBMLError as error:
            reasons = ("dimensions", "toichiometry", "conversion factors", "rateOf", "'time'")
            refused[next(reason for reason in reasons if reason in str(error))] += 1
    assert wrong == {}
    assert len(cases) == 689
    assert refused == {
        "toichiometry": 87,
        "rateOf": 23,
        "dimensions": 20,
        "conversion factors": 18,
        "'time'": 1,
    }
