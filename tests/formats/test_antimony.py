"""Antimony models, against closed forms and against the same models in SBML."""

import sys
from pathlib import Path

import numpy as np
import pytest

import kinbayes as kb
from kinbayes.formats.antimony import AntimonyError
from kinbayes.formats.sbml.reader import SBMLError, UnsupportedSBMLError

pytest.importorskip("antimony")

MODELS = Path(__file__).parents[2] / "models"
DECAY = "A -> B; k * A; A = 10; B = 0; k = 0.3"
TIMES = np.linspace(0.0, 10.0, 11)
INNER = "model inner\n  A -> ; k * A; A = {start}; k = 0.5\nend\n"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_text_is_simulated_as_its_closed_form_says():
    model = kb.read_antimony(DECAY)
    assert model.name == "model"
    found = kb.simulate(model, TIMES, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found["A"], 10 * np.exp(-0.3 * TIMES), rtol=1e-8)
    np.testing.assert_allclose(found["B"], 10 - 10 * np.exp(-0.3 * TIMES), rtol=1e-8, atol=1e-10)
    found = kb.simulate(model, TIMES, {"k": 0.0})
    np.testing.assert_allclose(found["A"], 10.0, rtol=1e-14)


def test_rules_functions_and_events_mean_what_they_say():
    text = """
    function half(x)
      x / 2
    end
    model dosed
      A' = -k * A
      A = 4; k = 0.25
      B := half(A)
      at (time >= 2): A = A + 3
    end
    """
    model = kb.read_antimony(text)
    assert model.name == "dosed"
    found = kb.simulate(model, [0.0, 1.0, 4.0], rtol=1e-10, atol=1e-12)
    after = (4 * np.exp(-0.5) + 3) * np.exp(-0.5)
    np.testing.assert_allclose(found["B"], np.array([4, 4 * np.exp(-0.25), after]) / 2, rtol=1e-7)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in MODELS.glob("*/model.ant")))
def test_the_example_models_are_their_sbml(name):
    from_antimony = kb.read_antimony(MODELS / name / "model.ant")
    from_sbml = kb.read_sbml(MODELS / name / "model.xml")
    assert from_antimony == from_sbml
    assert from_antimony.name == from_sbml.name


def test_a_file_without_a_model_statement_takes_the_file_s_name(tmp_path):
    assert kb.read_antimony(write(tmp_path / "decay.ant", DECAY)).name == "decay"


def test_of_several_models_the_marked_or_else_the_last_is_read():
    first, second = "first()\n  A = 1; A' = -A\nend\n", "second()\n  B = 1; B' = -B\nend\n"
    assert kb.read_antimony(f"model {first}model {second}").name == "second"
    assert kb.read_antimony(f"model *{first}model {second}").name == "first"


def test_a_path_is_told_from_a_text_by_its_characters_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "k=1" / "decay.ant", DECAY)
    write(tmp_path / "plain", DECAY)
    write(tmp_path / "A = 1", DECAY)
    for path in ("k=1/decay.ant", "plain", Path("A = 1"), tmp_path / "plain"):
        assert kb.read_antimony(path) == kb.read_antimony(DECAY)
    assert kb.read_antimony("A = 1") != kb.read_antimony(DECAY)
    for path in ("nowhere.ant", "k=2/decay.ant", "nowhere", Path("B = 1"), "models"):
        with pytest.raises(FileNotFoundError, match="no such Antimony file"):
            kb.read_antimony(path)


def test_files_are_imported_from_the_model_s_folder_and_from_no_other(tmp_path, monkeypatch):
    write(tmp_path / "elsewhere" / "parts" / "inner.ant", INNER.format(start=111))
    write(tmp_path / "mine" / "parts" / "inner.ant", INNER.format(start=7))
    write(tmp_path / "mine" / "middle.ant", 'import "parts/inner.ant"\nmodel middle\n  m: inner()\nend\n')
    text = '// import "none.ant"\n/* import "none.ant" */ import "middle.ant"\nmodel outer\n  x: middle()\nend\n'
    main = write(tmp_path / "mine" / "outer.ant", text)
    monkeypatch.chdir(tmp_path / "elsewhere")  # Antimony alone would take the file that lies here
    model = kb.read_antimony(main)
    found = kb.simulate(model, [0.0, 2.0], rtol=1e-10, atol=1e-12)
    (name,) = model.states
    np.testing.assert_allclose(found[name], [7, 7 * np.exp(-1)], rtol=1e-8)


@pytest.mark.parametrize(
    ("imported", "message"),
    [
        ("../secret.ant", "leaves the folder of the model"),
        ("/etc/hostname", "leaves the folder of the model"),
        ("link.ant", "leaves the folder of the model"),
        ("a\\\\b.ant", "leaves the folder of the model"),
        ("none.ant", "there is no file 'none.ant'"),
        ("model.xml", "it is no Antimony"),
        ("outer.ant", "import each other in a circle"),
    ],
)
def test_an_import_that_may_not_be_is_refused(tmp_path, imported, message):
    secret = write(tmp_path / "secret.ant", INNER.format(start=1))
    main = write(tmp_path / "mine" / "outer.ant", f'\nimport "{imported}"\nmodel outer\n  x: inner()\nend\n')
    write(tmp_path / "mine" / "model.xml", "<sbml/>")
    (tmp_path / "mine" / "link.ant").symlink_to(secret)
    with pytest.raises(AntimonyError, match=message):
        kb.read_antimony(main)


def test_an_import_cannot_hide_behind_an_open_quotation_mark(tmp_path):
    main = write(tmp_path / "outer.ant", 'A = 1; A is "x\n"; import "../secret.ant"')
    with pytest.raises(AntimonyError, match="line 1: a quoted text does not end on its line"):
        kb.read_antimony(main)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A -> B; k * A\nA = 1\nk *", "Antimony text, line 3: syntax error"),
        ("model x\n  A -> B; f(A)\nend", "Antimony text, line 3: 'f' was used as a function"),
        ("A = 1; A := 2; A' = 3", "line 1: .* assignment rule"),
        ('\nimport "inner.ant"', "Antimony text, line 2: only a file can import 'inner.ant'"),
        ("ä = 1", "not in ASCII"),
        ("A = 1;\0 B = 2", "holds a zero byte"),
        ("", "it is empty"),
        ("\n \n", "it is empty"),
    ],
)
def test_an_error_names_the_line(text, message):
    with pytest.raises(AntimonyError, match=message):
        kb.read_antimony(text)


def test_an_error_in_a_file_names_that_file(tmp_path):
    bad = write(tmp_path / "inner.ant", "model inner\n  A = 1 + * 2\nend\n")
    main = write(tmp_path / "outer.ant", 'import "inner.ant"\nmodel outer\n  x: inner()\nend\n')
    with pytest.raises(AntimonyError, match=rf"^{bad}, line 2: .*1 \+ \*2"):
        kb.read_antimony(main)
    # After an error in a file Antimony reads the next text as empty.
    assert kb.read_antimony(DECAY).states == ("A", "B")
    assert kb.read_antimony(MODELS / "lynx_hare" / "model.ant").states == ("hare", "lynx")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "model.ant"
    path.write_bytes(b"A = 1 // \xff\n")
    with pytest.raises(AntimonyError, match="no text in UTF-8"):
        kb.read_antimony(path)


def test_comments_and_display_names_may_be_in_any_language():
    assert kb.read_antimony('A = 10; B = 0; k = 0.3 // Größe\nA -> B; k * A; A is "Größe"') == kb.read_antimony(DECAY)


def test_what_cannot_be_simulated_is_refused_as_in_sbml():
    with pytest.raises(UnsupportedSBMLError, match="Antimony text, as SBML"):
        kb.read_antimony("A = 1; B := delay(A, 1); A' = -A")
    assert issubclass(UnsupportedSBMLError, SBMLError)


def test_without_the_package_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "antimony", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'kinbayes\[antimony\]'"):
        kb.read_antimony(DECAY)
