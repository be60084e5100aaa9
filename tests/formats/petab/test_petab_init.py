"""The first version of a problem: what it holds, that it can be read, and what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kinbayes.formats.petab.init import init_petab
from kinbayes.formats.petab.reader import read_petab
from kinbayes.formats.petab.table import PEtabError
from kinbayes.problem import noise
from kinbayes.problem.observables import Measurement, Observable
from kinbayes.problem.parameters import Parameter

LYNX_HARE = Path(__file__).parents[3] / "models" / "lynx_hare" / "model.xml"
WIDE = "Time,hare,lynx\n0,30,4\n1,47.2,\n,,\n2,,9.8\n"
# A parameter of every kind: positive, zero, negative, without a value, and one that an assignment computes.
MODEL = """\
<?xml version="1.0" encoding="UTF-8"?>
<sbml xmlns="http://www.sbml.org/sbml/level3/version1/core" level="3" version="1">
  <model id="kinds" timeUnits="dimensionless">
    <listOfCompartments><compartment id="cell" size="2" spatialDimensions="3" constant="true"/></listOfCompartments>
    <listOfSpecies>
      <species id="A" compartment="cell" initialConcentration="1" hasOnlySubstanceUnits="false"
               boundaryCondition="false" constant="false"/>
      <species id="fixed" compartment="cell" initialConcentration="3" hasOnlySubstanceUnits="false"
               boundaryCondition="true" constant="true"/>
    </listOfSpecies>
    <listOfParameters>
      <parameter id="k" value="0.3" constant="true"/>
      <parameter id="zero" value="0" constant="true"/>
      <parameter id="negative" value="-2" constant="true"/>
      <parameter id="open" constant="true"/>
      <parameter id="computed" value="1" constant="true"/>
      <parameter id="ruled" constant="false"/>
    </listOfParameters>
    <listOfInitialAssignments>
      <initialAssignment symbol="computed"><math xmlns="http://www.w3.org/1998/Math/MathML">
        <apply><times/><cn>2</cn><ci>k</ci></apply></math></initialAssignment>
    </listOfInitialAssignments>
    <listOfRules>
      <assignmentRule variable="ruled"><math xmlns="http://www.w3.org/1998/Math/MathML">
        <apply><plus/><ci>A</ci><ci>zero</ci></apply></math></assignmentRule>
    </listOfRules>
    <listOfReactions>
      <reaction id="decay" reversible="false" fast="false">
        <listOfReactants><speciesReference species="A" stoichiometry="1" constant="true"/></listOfReactants>
        <kineticLaw><math xmlns="http://www.w3.org/1998/Math/MathML">
          <apply><times/><ci>cell</ci><ci>k</ci><ci>local</ci><ci>A</ci></apply></math>
          <listOfLocalParameters><localParameter id="local" value="1"/></listOfLocalParameters>
        </kineticLaw>
      </reaction>
    </listOfReactions>
  </model>
</sbml>
"""  # fmt: skip


def data_file(folder, text, name="data.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def lint(path):
    petab = pytest.importorskip("petab.v1")
    return petab.lint_problem(petab.Problem.from_yaml(path))


def test_a_wide_table_becomes_a_problem(tmp_path):
    path = init_petab(LYNX_HARE, data_file(tmp_path, WIDE), tmp_path / "new" / "problem")
    assert path == tmp_path / "new" / "problem" / "problem.yaml"
    problem = read_petab(path)
    assert problem.parameter_names == (
        *("alpha", "beta", "delta", "gamma_", "hare_0", "lynx_0"),
        *("sd_hare", "sd_lynx"),
    )
    alpha, sd_hare = problem.parameters[0], problem.parameters[6]
    assert alpha == Parameter("alpha", scale="log10", lower=0.00055, upper=550.0, nominal=0.55)
    spread = np.std([30, 47.2], ddof=1)
    np.testing.assert_allclose(sd_hare.bounds, (spread / 1000, spread * 10), rtol=0.05)
    assert problem.is_proper
    assert problem.observables == (
        Observable("obs_hare", "hare", noise.normal("sd_hare")),
        Observable("obs_lynx", "lynx", noise.normal("sd_lynx")),
    )
    assert problem.measurements == (
        Measurement("obs_hare", "experiment", 0.0, 30.0, (), ()),
        Measurement("obs_lynx", "experiment", 0.0, 4.0, (), ()),
        Measurement("obs_hare", "experiment", 1.0, 47.2, (), ()),
        Measurement("obs_lynx", "experiment", 2.0, 9.8, (), ()),
    )
    assert (path.parent / "model.xml").read_bytes() == LYNX_HARE.read_bytes()
    assert not lint(path)


def test_a_long_table_becomes_a_problem(tmp_path):
    text = "time\tobservableId\tsimulationConditionId\tmeasurement\n0\thare\tnorth\t30\n1\tobs_hare\tsouth\t40\n"
    path = init_petab(LYNX_HARE, data_file(tmp_path, text, "data.tsv"), tmp_path / "problem")
    problem = read_petab(path)
    assert [e.name for e in problem.experiments] == ["north", "south"]
    assert [(m.observable, m.experiment) for m in problem.measurements] == [
        ("obs_hare", "north"),
        ("obs_hare", "south"),
    ]
    assert not lint(path)


def test_every_kind_of_parameter_is_treated_as_said(tmp_path):
    model = data_file(tmp_path, MODEL, "kinds.xml")
    path = init_petab(model, data_file(tmp_path, "time,A,ruled\n0,1,1\n1,1,1\n"), tmp_path / "problem")
    problem = read_petab(path)
    assert problem.parameters[:4] == (
        Parameter("k", scale="log10", lower=0.0003, upper=300.0, nominal=0.3),
        Parameter("zero", scale="lin", nominal=0.0, estimate=False),
        Parameter("negative", scale="lin", nominal=-2.0, estimate=False),
        Parameter("open", scale="log10", lower=1e-3, upper=1e3, nominal=1.0),
    )
    assert [p.name for p in problem.parameters[4:]] == ["sd_A", "sd_ruled"]
    np.testing.assert_allclose(problem.parameters[4].bounds, (1e-3, 10))  # data that do not vary: their size
    comments = path.read_text()
    assert "# Not estimated, since their values in the model are not positive: zero, negative." in comments
    assert "# Without a value in the model, so their bounds are a guess: open." in comments
    assert not lint(path)


def test_what_is_written_can_be_edited_by_hand(tmp_path):
    path = init_petab(LYNX_HARE, data_file(tmp_path, WIDE), tmp_path / "problem")
    parameters = pd.read_csv(path.parent / "parameters.tsv", sep="\t").set_index("parameterId")
    parameters.loc["alpha", ["objectivePriorType", "objectivePriorParameters"]] = ["logNormal", "0;1"]
    parameters.to_csv(path.parent / "parameters.tsv", sep="\t")
    assert not read_petab(path).parameters[0].is_assumed


# ---- what is refused


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("time,hares\n0,1\n", "data.csv", r"no quantity 'hares'; did you mean 'hare'\?"),
        ("time,Hare\n0,1\n", "data.csv", r"no quantity 'Hare'; did you mean 'hare'\? Case matters"),
        ("time,xyz\n0,1\n", "data.csv", r"no quantity 'xyz'; it has \['alpha', "),
        ("time;hare\n0;1\n", "data.csv", r"line 1: the columns, separated by ',', are \['time;hare'\]; give"),
        ("t,hare\n0,1\n", "data.csv", r"the columns, separated by ',', are \['t', 'hare'\]; give either"),
        ("time\thare\n0\tfew\n", "data.tsv", "line 2, column 'hare': 'few' is no number"),
        ("time,hare\n0,1\nsoon,2\n", "data.csv", "line 3, column 'time': 'soon' is no number"),
        ("time,hare\n,2\n", "data.csv", "line 2, column 'time': '' is no number"),
        ("time,hare\n-1,2\n", "data.csv", "line 2, column 'time': -1.0 lies before the start"),
        ("time,hare\n1,inf\n", "data.csv", "line 2, column 'hare': inf is not finite"),
        ("time,hare\n0,1,5\n", "data.csv", "line 2: 3 cells, but there are 2 columns"),
        ("time,hare\n0,\n", "data.csv", "there are no measurements"),
        ("time,hare\n", "data.csv", "there are no measurements"),
        ("time,hare\n0,1\n", "data.xlsx", "unknown kind of table '.xlsx'; choose from"),
        ("time,observableId,measurement\n0,hare,\n", "data.csv", "line 2, column 'measurement': '' is no"),
        (
            "time,observableId,measurement,noiseParameters\n0,hare,1,1\n",
            "data.csv",
            "line 2, column 'noiseParameters': it has no place in a first version",
        ),
        (
            "time,observableId,measurement,simulationConditionId\n0,hare,1,2nd\n",
            "data.csv",
            "line 2, column 'simulationConditionId': '2nd' is no id",
        ),
    ],
)
def test_tables_that_cannot_be_used_leave_nothing_behind(tmp_path, text, name, message):
    data = data_file(tmp_path, text, name)
    with pytest.raises(PEtabError, match=f"{data}.*{message}"):
        init_petab(LYNX_HARE, data, tmp_path / "problem")
    assert list(tmp_path.iterdir()) == [data]


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "problem").mkdir()
    with pytest.raises(FileExistsError, match="exists already; choose another folder"):
        init_petab(LYNX_HARE, data_file(tmp_path, WIDE), tmp_path / "problem")
    assert list((tmp_path / "problem").iterdir()) == []


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        init_petab(LYNX_HARE, tmp_path / "none.csv", tmp_path / "problem")
    with pytest.raises(FileNotFoundError, match=r"none\.xml"):
        init_petab(tmp_path / "none.xml", data_file(tmp_path, WIDE), tmp_path / "problem")


def test_a_failure_while_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("kinbayes.formats.petab.init.read_petab", fail)
    data = data_file(tmp_path, WIDE)
    with pytest.raises(KeyboardInterrupt):
        init_petab(LYNX_HARE, data, tmp_path / "problem")
    assert list(tmp_path.iterdir()) == [data]
