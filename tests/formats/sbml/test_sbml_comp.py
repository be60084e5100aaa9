"""Models made of submodels."""

import numpy as np
import pytest

from kinbayes.formats.sbml.reader import SBMLError, UnsupportedSBMLError, read_sbml, read_sbml_text
from tests.formats.sbml.text import DELAY, ci, close, cn, parameter, rule, solve

TIMES = np.linspace(0.0, 3.0, 7)
GROWING = (
    f"<listOfParameters>{parameter('x', '1')}{parameter('slope', '2')}</listOfParameters>"
    f"<listOfRules>{rule('rate', 'x', '<ci>slope</ci>')}</listOfRules>"
)


def submodels(*names, of="inner"):
    inside = "".join(f'<comp:submodel comp:id="{name}" comp:modelRef="{of}"/>' for name in names)
    return f"<comp:listOfSubmodels>{inside}</comp:listOfSubmodels>"


def definition(content, name="inner"):
    inside = f'<comp:modelDefinition id="{name}">{content}</comp:modelDefinition>'
    return f"<comp:listOfModelDefinitions>{inside}</comp:listOfModelDefinitions>"


def external(source):
    inside = f'<comp:externalModelDefinition comp:id="inner" comp:source="{source}"/>'
    return f"<comp:listOfExternalModelDefinitions>{inside}</comp:listOfExternalModelDefinitions>"


def composed(model, definitions=""):
    core = "http://www.sbml.org/sbml/level3/version2/core"
    comp = "http://www.sbml.org/sbml/level3/version1/comp/version1"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<sbml xmlns="{core}" level="3" version="2" xmlns:comp="{comp}" comp:required="true">\n'
        f'<model id="outer">{model}</model>\n{definitions}\n</sbml>\n'
    )


OUTER = composed(submodels("sub"), external("{}"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "inner.xml").write_text(composed(GROWING), encoding="utf-8")
    (tmp_path / "outside.xml").write_text(composed(GROWING), encoding="utf-8")
    return tmp_path / "model"


def write(folder, text, name="outer.xml"):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_submodels_become_parts_of_one_model():
    model = read_sbml_text(composed(submodels("a", "b"), definition(GROWING)), "text")
    assert set(model.states) == {"a__x", "b__x"}
    run = solve(model, given={"a__slope": 5.0})
    close(run["a__x"], 1 + 5 * TIMES)
    close(run["b__x"], 1 + 2 * TIMES)


def test_an_element_replaces_one_of_a_submodel():
    replaced = (
        '<parameter id="shared" value="7" constant="true"><comp:listOfReplacedElements>'
        '<comp:replacedElement comp:submodelRef="a" comp:idRef="slope"/></comp:listOfReplacedElements></parameter>'
    )
    text = composed(f"<listOfParameters>{replaced}</listOfParameters>{submodels('a')}", definition(GROWING))
    model = read_sbml_text(text, "text")
    assert "a__slope" not in model.parameters
    close(solve(model)["a__x"], 1 + 7 * TIMES)


def test_a_model_without_submodels_may_declare_the_package():
    assert read_sbml_text(composed(GROWING), "text").states == ("x",)


@pytest.mark.parametrize("source", ["inner.xml", "./inner.xml", "parts/inner.xml"])
def test_models_of_other_files_in_the_folder_are_read(folder, source, monkeypatch):
    monkeypatch.chdir("/")
    if "parts" in source:
        write(folder, composed(submodels("deep"), external("deepest.xml")), "parts/inner.xml")
        write(folder, composed(GROWING), "parts/deepest.xml")
    model = read_sbml(write(folder, OUTER.format(source)))
    assert model.states == ("sub__deep__x" if "parts" in source else "sub__x",)


@pytest.mark.parametrize(
    "source", ["../outside.xml", "parts/../inner.xml", "{folder}/inner.xml", "http://x.org/inner.xml", "link.xml"]
)
def test_files_elsewhere_are_refused_by_name(folder, source):
    (folder / "link.xml").symlink_to(folder.parent / "outside.xml")
    source = source.format(folder=folder)
    with pytest.raises(UnsupportedSBMLError) as error:
        read_sbml(write(folder, OUTER.format(source)))
    assert str(error.value).endswith(
        f"line 4: externalModelDefinition 'inner': it is the file {source!r}, not one in the model's folder"
    )


def test_a_file_elsewhere_is_refused_in_a_file_of_the_folder_too(folder):
    write(folder, composed(submodels("deep"), external("../../outside.xml")), "parts/inner.xml")
    with pytest.raises(UnsupportedSBMLError, match=r"parts/inner.xml, line 4: .*'../../outside.xml'"):
        read_sbml(write(folder, OUTER.format("parts/inner.xml")))


def test_text_has_no_folder():
    with pytest.raises(UnsupportedSBMLError, match=r"text, line 4: .*cannot use the file 'inner.xml'"):
        read_sbml_text(OUTER.format("inner.xml"), "text")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no file 'other.xml' in the model's folder"),
        (composed("<listOfParameters><parametre/></listOfParameters>"), "other.xml, line 3: Apart from the general"),
        ("<sbml>", "other.xml, line 1: this is not well-formed XML"),
        (OUTER.format("outer.xml"), "the file 'other.xml' uses itself"),
        (OUTER.format("other.xml"), "the file 'other.xml' uses itself"),
    ],
)
def test_files_that_are_missing_or_wrong_are_refused(folder, text, message):
    if text is not None:
        write(folder, text, "other.xml")
    with pytest.raises(SBMLError) as error:
        read_sbml(write(folder, OUTER.format("other.xml")))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        composed(submodels("a"), definition(submodels("a"))),  # of itself
        composed(submodels("a", of="nobody"), definition(GROWING)),
    ],
)
def test_submodels_that_cannot_be_flattened_are_refused(text):
    with pytest.raises(SBMLError, match=r"^text, line 2: sbml: its submodels cannot be made one model: .*modelRef"):
        read_sbml_text(text, "text")


def test_what_is_not_supported_in_a_submodel_is_refused():
    late = rule("assignment", "slope", f"<apply>{DELAY}{ci('x')}{cn(1)}</apply>")
    text = composed(submodels("a"), definition(GROWING.replace("<listOfRules>", f"<listOfRules>{late}", 1)))
    with pytest.raises(UnsupportedSBMLError, match="assignmentRule 'a__slope': delay is not supported"):
        read_sbml_text(text, "text")
