"""What a model uses, counted by hand, and what stands against its simulation."""

from pathlib import Path

import pytest

from kinbayes.formats.sbml.survey import survey

MODELS = Path(__file__).parents[3] / "models"

# One of each; what is refused is added by the tests.
TEXT = """<?xml version="1.0" encoding="UTF-8"?>
<sbml xmlns="http://www.sbml.org/sbml/level3/version2/core" level="3" version="2">
<model id="all_of_it">
<listOfFunctionDefinitions>
  <functionDefinition id="twice"><math xmlns="http://www.w3.org/1998/Math/MathML">
    <lambda><bvar><ci>x</ci></bvar><apply><times/><cn>2</cn><ci>x</ci></apply></lambda></math></functionDefinition>
</listOfFunctionDefinitions>
<listOfCompartments><compartment id="cell" size="2" constant="true"/></listOfCompartments>
<listOfSpecies>
  <species id="A" compartment="cell" initialAmount="1" hasOnlySubstanceUnits="true" boundaryCondition="false"
    constant="false" conversionFactor="factor"/>
  <species id="B" compartment="cell" initialConcentration="1" hasOnlySubstanceUnits="false" boundaryCondition="true"
    constant="false"/>
</listOfSpecies>
<listOfParameters>
  <parameter id="factor" value="2" constant="true"/>
  <parameter id="assigned" constant="false"/>
  <parameter id="rated" value="1" constant="false"/>
  <parameter id="dosed" value="1" constant="false"/>
  <parameter id="started" constant="true"/>
{parameters}</listOfParameters>
<listOfInitialAssignments>
  <initialAssignment symbol="started"><math xmlns="http://www.w3.org/1998/Math/MathML">
    <apply><ci>twice</ci><ci>factor</ci></apply></math></initialAssignment>
  <initialAssignment symbol="number"><math xmlns="http://www.w3.org/1998/Math/MathML">
    <cn>3</cn></math></initialAssignment>
</listOfInitialAssignments>
<listOfRules>
  <assignmentRule variable="assigned"><math xmlns="http://www.w3.org/1998/Math/MathML"><piecewise>
    <piece><cn>1</cn><apply><lt/>
      <csymbol encoding="text" definitionURL="http://www.sbml.org/sbml/symbols/time">t</csymbol><cn>3</cn></apply>
    </piece><otherwise><apply><floor/><ci>dosed</ci></apply></otherwise></piecewise></math></assignmentRule>
  <rateRule variable="rated"><math xmlns="http://www.w3.org/1998/Math/MathML"><cn>-1</cn></math></rateRule>
</listOfRules>
<listOfReactions>
  <reaction id="r" reversible="false"><listOfReactants>
    <speciesReference id="number" species="A" constant="true"/></listOfReactants>
    <kineticLaw><math xmlns="http://www.w3.org/1998/Math/MathML"><apply><times/><ci>k</ci><ci>A</ci></apply></math>
      <listOfLocalParameters><localParameter id="k" value="1"/></listOfLocalParameters></kineticLaw></reaction>
{reactions}</listOfReactions>
<listOfEvents>
  <event id="dose" useValuesFromTriggerTime="true">
    <trigger initialValue="false" persistent="false"><math xmlns="http://www.w3.org/1998/Math/MathML">
      <apply><gt/><ci>A</ci><cn>5</cn></apply></math></trigger>
    <priority><math xmlns="http://www.w3.org/1998/Math/MathML"><cn>1</cn></math></priority>
    <delay><math xmlns="http://www.w3.org/1998/Math/MathML"><cn>1</cn></math></delay>
    <listOfEventAssignments><eventAssignment variable="dosed">
      <math xmlns="http://www.w3.org/1998/Math/MathML"><cn>2</cn></math></eventAssignment></listOfEventAssignments>
  </event>
</listOfEvents>
</model>
</sbml>
"""


def written(tmp_path, *, parameters="", reactions="", name="model.xml"):
    path = tmp_path / name
    path.write_text(TEXT.format(parameters=parameters, reactions=reactions))
    return path


def test_everything_is_counted_once(tmp_path):
    found = survey(written(tmp_path))
    assert found.refusals == []
    assert found.format == "SBML Level 3 Version 2"
    assert found.features == {
        "species": 2,
        "compartments": 1,
        "parameters": 5,
        "reactions": 1,
        "function definitions": 1,
        "species as amounts": 1,
        "boundary species": 1,
        "conversion factors": 1,
        "initial assignments": 2,
        "assignment rules": 1,
        "rate rules": 1,
        "local parameters": 1,
        "variable stoichiometries": 1,
        "events": 1,
        "events with delay": 1,
        "events with priority": 1,
        "events that are not persistent": 1,
        "events that may fire at the start": 1,
        "formulas with piecewise": 1,
        "formulas with time": 1,
        "formulas with roundings": 1,
    }


@pytest.mark.parametrize("name", sorted(path.parent.name for path in MODELS.glob("*/model.xml")))
def test_the_example_models_can_be_simulated(name):
    assert survey(MODELS / name / "model.xml").refusals == []


def test_an_antimony_model_is_told_of_as_sbml():
    pytest.importorskip("antimony")
    assert survey(MODELS / "lynx_hare" / "model.ant") == survey(MODELS / "lynx_hare" / "model.xml")


def test_every_refusal_of_the_importer_is_told(tmp_path):
    delayed = """<reaction id="{}" reversible="false"><listOfReactants>
    <speciesReference species="A" stoichiometry="1" constant="true"/></listOfReactants>
    <kineticLaw><math xmlns="http://www.w3.org/1998/Math/MathML"><apply>
      <csymbol encoding="text" definitionURL="http://www.sbml.org/sbml/symbols/delay">delay</csymbol>
      <ci>A</ci><cn>1</cn></apply></math></kineticLaw></reaction>"""
    path = written(tmp_path, reactions=delayed.format("late") + delayed.format("later"))
    found = survey(path)
    assert found.features["formulas with delay"] == 2
    assert len(found.refusals) == 2
    assert all(f"{path}, line" in text and "delay is not supported" in text for text in found.refusals)


def test_a_value_that_is_open_is_told_where_the_states_depend_on_it(tmp_path):
    path = written(tmp_path, parameters='<parameter id="p" constant="true"/>')
    assert survey(path).refusals == []
    path.write_text(path.read_text().replace("<cn>-1</cn>", "<ci>p</ci>"))
    assert survey(path).refusals == ["['p'] have no finite value; give them in parameters="]


def test_a_start_without_derivatives_is_told(tmp_path):
    pytest.importorskip("antimony")
    path = tmp_path / "model.ant"
    path.write_text("A = 1; z = 0; A' = -A / z\n")
    (found,) = survey(path).refusals
    assert "failed at time 0: the solution or an observable became infinite or NaN" in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "not well-formed XML"),
        ("<html></html>", "must conform to the XML Schema"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><sbml/>", "entity 'a' is declared"),
    ],
)
def test_a_file_that_is_no_model_is_told(tmp_path, text, message):
    path = tmp_path / "model.xml"
    path.write_text(text)
    found = survey(path)
    assert found.features == {}
    assert found.format == ""
    assert message in found.refusals[0]


def test_a_bad_antimony_file_is_told(tmp_path):
    pytest.importorskip("antimony")
    path = tmp_path / "model.ant"
    path.write_text("A -> B; k *\n")
    found = survey(path)
    assert found.features == {}
    assert found.refusals[0].startswith(f"{path}, line 1: ")


@pytest.mark.parametrize("name", ["nowhere.xml", "nowhere.ant"])
def test_a_file_that_is_not_there_is_an_error(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        survey(tmp_path / name)
