import math
from pathlib import Path

import numpy as np
import pytest

import kinbayes as kb
from kinbayes.formats.sbml.reader import SBMLError, UnsupportedSBMLError, read_sbml, read_sbml_text
from kinbayes.model.expressions import evaluate, symbol
from tests.formats.sbml.text import (
    BOX,
    DELAY,
    TIME,
    TIMES,
    apply,
    assignment,
    call,
    ci,
    close,
    cn,
    document,
    function,
    math_ml,
    parameter,
    reaction,
    reference,
    rule,
    solve,
    species,
)

PROJECT = Path(__file__).parents[3]


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


@pytest.mark.parametrize("attributes", ['spatialDimensions="0"', 'spatialDimensions="0" size="5"'])
def test_in_a_compartment_without_dimensions_a_species_is_an_amount(read, attributes):
    model = read(
        Compartments=f'<compartment id="box" {attributes} constant="true"/>',
        Species=species("A", 'initialAmount="3"'),
        Parameters=parameter("k"),
        Reactions=reaction("decay", apply("times", ci("k"), ci("A")), [reference("A")]),
    )
    assert ("box" in model.parameters) == ("size" in attributes)
    close(solve(model)["A"], 3 * np.exp(-0.5 * TIMES))


@pytest.mark.parametrize(("version", "kind"), [("1", "specie"), ("2", "species")])
def test_level_1_is_read_with_its_defaults(version, kind):
    lists = f"""
        <listOfCompartments><compartment name="c" volume="2"/><compartment name="d"/></listOfCompartments>
        <listOf{kind.title()}>
          <{kind} name="A" compartment="c" initialAmount="6"/>
          <{kind} name="X" compartment="d" initialAmount="4" boundaryCondition="true"/>
        </listOf{kind.title()}>
        <listOfParameters>
          <parameter name="k" value="0.5"/><parameter name="q" value="1"/><parameter name="w" value="1"/>
        </listOfParameters>
        <listOfRules>
          <parameterRule name="q" formula="log(X)+pow(k,3)"/><parameterRule name="w" type="rate" formula="X"/>
        </listOfRules>
        <listOfReactions><reaction name="r">
          <listOfReactants>
            <{kind}Reference {kind}="A" stoichiometry="3" denominator="2"/><{kind}Reference {kind}="X"/>
          </listOfReactants>
          <kineticLaw formula="k*A*c*z">
            <listOfParameters><parameter name="z" value="2"/></listOfParameters>
          </kineticLaw>
        </reaction></listOfReactions>"""
    head = f'<sbml xmlns="http://www.sbml.org/sbml/level1" level="1" version="{version}"><model name="old">'
    model = read_sbml_text(f"{head}{lists}</model></sbml>", "text")
    assert model.name == "old"
    assert set(model.states) == {"A", "w"}
    run = solve(model)
    close(run["A"], 3 * np.exp(-1.5 * TIMES))
    close(run["q"], np.full(TIMES.shape, math.log(4) + 0.125))
    close(run["w"], 1 + 4 * TIMES)


def test_text_is_read_as_a_file_is():
    text = document(Parameters=parameter("p"))
    assert read_sbml_text(text, "here").parameters == ("p",)
    twice = document(Parameters=parameter("p") + parameter("p"))
    with pytest.raises(SBMLError, match=r"^the translation, line 5: "):
        read_sbml_text(twice, "the translation")
    with pytest.raises(SBMLError, match=r"^here, line 1: this is not well-formed XML"):
        read_sbml_text("model", "here")


def test_delays_of_nothing_have_no_effect(read):
    late = f"<apply>{DELAY}{ci('k')}{cn(0)}</apply>"
    model = read(Parameters=parameter("k") + parameter("x"), Rules=rule("assignment", "x", late))
    assert model.expressions["x"] is symbol("k")


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
UNSUPPORTED = {
    "delay": (
        rule("assignment", "k", f"<apply>{DELAY}{ci('x')}{cn(1)}</apply>"),
        "Rules",
        "assignmentRule 'k': delay is not",
    ),
    "delay in a function": (
        function("late", "x", f"<apply>{DELAY}{ci('x')}{cn(1)}</apply>"),
        "FunctionDefinitions",
        "functionDefinition 'late': delay is not",
    ),
    "time as argument": (function("f", ["time"], cn(1)), "FunctionDefinitions", "'f': the name 'time'"),
    "time as local": (
        reaction("r", ci("time"), local=[("time", 1)]),
        "Reactions",
        "Parameter 'time': the name",
    ),
    "no law": (reaction("r", "", [reference("x")]), "Reactions", "reaction 'r': it has no kinetic law"),
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


def test_fast_reactions_are_refused(refusal):
    lists = {"Compartments": '<compartment id="box"/>', "Species": '<species id="A" compartment="box"/>'}
    product = '<listOfProducts><speciesReference species="A"/></listOfProducts>'
    content = f'<reaction id="r" fast="true">{product}<kineticLaw>{math_ml(cn(1))}</kineticLaw></reaction>'
    kind, actual = refusal(document(level="2", version="4", Reactions=content, **lists))
    assert kind is UnsupportedSBMLError
    assert "reaction 'r': fast reactions are not supported" in actual


def test_what_a_file_calls_time_gets_another_name(read):
    both = rule("rate", "time", f"{apply('plus', ci('time'), TIME)}")
    model = read(Parameters=parameter("time") + parameter("time_"), Rules=both)
    assert model.states == ("time__",)
    assert model.parameters == ("time_",)
    assert model.derivatives["time__"] is symbol("time__") + symbol("time")


def test_all_refusals_are_listed(refusal):
    late = f"<apply>{DELAY}{ci('x')}{cn(1)}</apply>"
    kind, actual = refusal(
        document(
            Compartments=BOX,
            Species=A.replace('"A"', '"x"'),
            Parameters=parameter("k"),
            Rules=rule("rate", "k", late),
            Reactions=reaction("r", late, [reference("x")]) + reaction("s", ""),
        )
    )
    assert kind is UnsupportedSBMLError
    places = [line.split(": ", 1)[1] for line in actual.splitlines()]
    assert places == [
        "rateRule 'k': delay is not supported in a formula",
        "reaction 'r': delay is not supported in a formula",
        "reaction 's': it has no kinetic law, so its rate is not defined",
    ]


@pytest.mark.parametrize("package", ["multi/version1", "spatial/version1", "unheard/version1"])
def test_required_packages_are_refused(refusal, package):
    name = package.split("/")[0]
    root = f'xmlns:{name}="http://www.sbml.org/sbml/level3/version1/{package}" {name}:required="true"'
    kind, message = refusal(document(root=root, Parameters=parameter("p")))
    assert kind is UnsupportedSBMLError
    assert name in message


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
    Path(name).write_text(document(Parameters=parameter("p") + parameter("p")), encoding="utf-8")
    with pytest.raises(SBMLError, match=f"^{name}, line 5: "):
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


def test_a_function_that_is_marked_as_a_derivative(read):
    """COPASI writes so what SBML had no symbol for; the function's own body is not a number."""
    mark = '<annotation><symbols xmlns="http://sbml.org/annotations/symbols" definition="{}"/></annotation>'
    plain = function("slope", ["a"], "<notanumber/>")
    marked = plain.replace("<math", mark.format("http://en.wikipedia.org/wiki/Derivative") + "<math", 1)
    other = plain.replace("<math", mark.format("http://en.wikipedia.org/wiki/Integral") + "<math", 1)
    rules = rule("rate", "p", apply("times", cn(2), TIME)) + rule("assignment", "q", call("slope", ci("p")))
    parameters = parameter("p") + parameter("q")
    assert read(FunctionDefinitions=marked, Parameters=parameters, Rules=rules).expressions["q"] is 2 * symbol("time")
    unknown = read(FunctionDefinitions=other, Parameters=parameters, Rules=rules).expressions["q"]
    assert math.isnan(unknown.value)
