"""PEtab version 1: what the tables mean, against PEtab's own library and test suite, and what is refused."""

import contextlib
import shutil
from pathlib import Path
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kinbayes.examples import example
from kinbayes.formats.petab.reader import read_petab
from kinbayes.formats.petab.table import PEtabError, UnsupportedPEtabError, read_rows
from kinbayes.problem import noise
from kinbayes.problem.log_prior import forms, prior_data, prior_function
from kinbayes.problem.observables import Experiment, Measurement, Observable
from kinbayes.problem.parameters import Parameter
from kinbayes.problem.priors import LogNormal, Normal, Uniform
from tests.problem.test_native_gradient import by_differences

MODELS = Path(__file__).parents[3] / "models"
PETAB = Path(__file__).parents[3].parent / "shared" / "data" / "petab"
SUITE, BENCHMARK = PETAB / "test_suite" / "v1.0.0" / "sbml", PETAB / "benchmark"

YAML = """\
format_version: 1
parameter_file: parameters.tsv
problems:
  - sbml_files: [model.xml]
    condition_files: [conditions.tsv]
    observable_files: [observables.tsv]
    measurement_files: [measurements.tsv, more.tsv]
"""
# The model is A <=> B with the constants k1, k2 and the starts A_0, B_0.
TABLES = {
    "problem.yaml": YAML,
    "parameters.tsv": """\
parameterId\tparameterScale\tlowerBound\tupperBound\tnominalValue\testimate\tobjectivePriorType\tobjectivePriorParameters
A_0\tlog10\t0.01\t100\t10\t1\tlogNormal\t0;2
B_0\tlog\t0.01\t100\t\t1
k1\tlin\t\t\t0.3\t0
scale\tlin\t-3\t3\t1\t1\tparameterScaleNormal\t1;0.5
sd\tlog10\t1e-3\t10\t0.5\t1\tparameterScaleUniform
""",
    "conditions.tsv": """\
conditionId\tconditionName\tA\tk2
low\tfirst\t\t0.2
high\tsecond\tscale\tk1
""",
    "observables.tsv": """\
observableId\tobservableName\tobservableFormula\tobservableTransformation\tnoiseFormula\tnoiseDistribution
y\tfirst\tobservableParameter1_y * A + observableParameter2_y\t\tnoiseParameter1_y\t
z\tsecond\tB\tlog10\tsd * z\tlaplace
""",
    "measurements.tsv": """\
observableId\tsimulationConditionId\ttime\tmeasurement\tobservableParameters\tnoiseParameters
y\tlow\t0\t1.5\tscale;0\tsd
y\thigh\t2.5\t2.5\t2;B_0\t0.25
""",
    "more.tsv": """\
measurement\ttime\tobservableId\tsimulationConditionId\treplicateId
3.5\t1\tz\tlow\t1
""",
}


def write(folder, changes=MappingProxyType({})):
    """Write the problem with lines of its files replaced: {("parameters.tsv", 2): "…"}."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(MODELS / "conversion_reaction" / "model.xml", folder / "model.xml")
    for name, text in TABLES.items():
        lines = text.split("\n")
        for (changed, line), new in changes.items():
            if changed == name:
                lines[line - 1] = new
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return folder / "problem.yaml"


# ---- what the tables mean


def test_tables_become_a_problem(tmp_path):
    problem = read_petab(write(tmp_path), rtol=1e-5, atol=1e-7, max_steps=500)
    assert problem.parameters == (
        Parameter("A_0", LogNormal(0.0, 2.0), scale="log10", lower=0.01, upper=100.0, nominal=10.0),
        Parameter("B_0", scale="ln", lower=0.01, upper=100.0),
        Parameter("k1", scale="lin", nominal=0.3, estimate=False),
        Parameter("scale", Normal(1.0, 0.5, on="scaled"), scale="lin", lower=-3.0, upper=3.0, nominal=1.0),
        Parameter("sd", scale="log10", lower=1e-3, upper=10.0, nominal=0.5),
    )
    assert problem.observables == (
        Observable("y", "observableParameter1_y * A + observableParameter2_y", noise.normal("noiseParameter1_y")),
        Observable("z", "B", noise.laplace("sd * z", "log10")),
    )
    assert problem.experiments == (
        Experiment("low", {"k2": 0.2}),
        Experiment("high", {"A": "scale", "k2": "k1"}),
    )
    assert problem.measurements == (
        Measurement("y", "low", 0.0, 1.5, ("scale", "0"), ("sd",)),
        Measurement("y", "high", 2.5, 2.5, ("2", "B_0"), ("0.25",)),
        Measurement("z", "low", 1.0, 3.5, (), ()),
    )
    assert (problem.rtol, problem.atol, problem.max_steps) == (1e-5, 1e-7, 500)
    assert problem.parameter_names == ("A_0", "B_0", "scale", "sd")


def test_a_table_may_name_what_only_the_model_knows(tmp_path):
    path = write(tmp_path, {("parameters.tsv", 4): ""})  # without k1, which the conditions name
    problem = read_petab(path)
    assert problem.parameters[-1] == Parameter("k1", nominal=0.3, estimate=False)


def test_tables_may_be_written_by_many_programs(tmp_path):
    expected = read_petab(write(tmp_path / "plain")).hash
    path = write(tmp_path / "other")
    for name, text in TABLES.items():
        if name.endswith(".tsv"):
            quoted = ["\t".join(f'" {cell} "' for cell in line.split("\t")) + "\t" for line in text.split("\n")]
            (path.parent / name).write_bytes("\r\n\r\n".join(quoted).encode("utf-8-sig"))
    assert read_petab(path).hash == expected


def test_several_files_of_one_kind_are_one_table(tmp_path):
    expected = read_petab(write(tmp_path / "one")).hash
    path = write(
        tmp_path / "two",
        {
            ("problem.yaml", 2): "parameter_file: [parameters.tsv, others.tsv]",
            ("problem.yaml", 5): "    condition_files: [conditions.tsv, others_too.tsv]",
            ("parameters.tsv", 6): "",
            ("conditions.tsv", 3): "",
        },
    )
    parameters, conditions = (TABLES[f"{kind}.tsv"].split("\n") for kind in ("parameters", "conditions"))
    (path.parent / "others.tsv").write_text("\n".join([parameters[0], parameters[5]]))
    (path.parent / "others_too.tsv").write_text("\n".join([conditions[0], conditions[2]]))
    assert read_petab(path).hash == expected


FAMILIES = {
    "uniform": "0.2;3",
    "normal": "1;0.7",
    "laplace": "1;0.4",
    "logNormal": "0.3;0.8",
    "logLaplace": "0.3;0.4",
    "parameterScaleUniform": "-0.5;1.4",
    "parameterScaleNormal": "0.3;0.6",
    "parameterScaleLaplace": "0.3;0.5",
}


@pytest.mark.parametrize("scale", ["lin", "log", "log10"])
@pytest.mark.parametrize("family", FAMILIES)
def test_priors_are_those_of_petab(tmp_path, family, scale):
    priors = pytest.importorskip("petab.v1.priors")
    row = ["A_0", scale, "0.4", "2.5", "1", "1", family, FAMILIES[family]]
    (parameter, *_) = read_petab(write(tmp_path, {("parameters.tsv", 2): "\t".join(row)})).parameters
    header = TABLES["parameters.tsv"].split("\n")[0].split("\t")
    theirs = priors.Prior.from_par_dict(
        {**dict(zip(header, row, strict=True)), "lowerBound": 0.4, "upperBound": 2.5}, "objective"
    )
    function, data = prior_function(forms([parameter])), prior_data([parameter])
    low, high = parameter.scaled_bounds
    u = np.linspace(low, high, 9)[1:-1]
    ours = jax.vmap(function, in_axes=(0, None))(jnp.asarray(u)[:, None], data)
    np.testing.assert_allclose(np.exp(ours), theirs.pdf(u, x_scaled=True, rescale=True), rtol=1e-7)


AFTER_HIGH = {
    ("more.tsv", 1): TABLES["more.tsv"].split("\n")[0] + "\tpreequilibrationConditionId",
    ("more.tsv", 2): "3.5\t1\tz\tlow\t1\thigh",
}


def test_a_preequilibration_is_read_where_there_is_one(tmp_path):
    problem = read_petab(write(tmp_path, AFTER_HIGH))
    assert [m.preequilibration for m in problem.measurements] == ["", "", "high"]
    assert problem.num_lanes == 3
    low, _ = problem.experiments
    assert low.given == {"k2"}  # so A goes on from its steady state


def test_nan_is_an_empty_cell(tmp_path):
    expected = read_petab(write(tmp_path / "empty", AFTER_HIGH)).hash
    path = write(tmp_path / "nan", {**AFTER_HIGH, ("conditions.tsv", 2): "low\tfirst\tNaN\t0.2"})
    assert read_petab(path).hash == expected


def test_what_has_no_steady_state_cannot_be_kept(tmp_path):
    path = write(tmp_path, {**AFTER_HIGH, ("conditions.tsv", 2): "low\tfirst\t\t"})
    message = "line 2, column 'k2': it is empty, but 'high', its pre-equilibration, sets 'k2'"
    with pytest.raises(PEtabError, match=f"{path.parent / 'conditions.tsv'}, {message}"):
        read_petab(path)


@pytest.mark.parametrize("name", ["Brannmark_JBC2010", "Isensee_JCB2018", "Weber_BMC2015", "Zheng_PNAS2012"])
def test_lanes_of_a_published_problem_are_those_of_its_tables(name):
    folder = BENCHMARK / name
    if not folder.is_dir():
        pytest.skip("the benchmark problems are not here")
    problem = read_petab(folder / f"{name}.yaml")
    conditions = pd.read_csv(folder / f"experimentalCondition_{name}.tsv", sep="\t", index_col="conditionId")
    pairs = ["simulationConditionId", "preequilibrationConditionId"]
    rows = pd.read_csv(folder / f"measurementData_{name}.tsv", sep="\t")[pairs]
    lanes = rows.drop_duplicates().set_index(pairs[0])[pairs[1]]
    lanes = lanes.loc[[c for c in conditions.index if c in lanes.index]]  # each condition has one pre-equilibration
    assert problem.num_lanes == len(lanes)
    data, names = problem._data.layout, problem._functions.likelihood.slots.inputs
    assert np.all(data.equilibration.is_used)
    assert not np.any(data.equilibration.is_reset)
    assert [m.preequilibration for m in problem.measurements] == list(rows[pairs[1]])
    for column in conditions.columns.drop("conditionName"):
        k = names.index(column)
        np.testing.assert_array_equal(data.inputs.constant[k], conditions.loc[lanes.index, column])
        np.testing.assert_array_equal(data.equilibration.inputs.constant[k], conditions.loc[lanes, column])


def test_a_prior_may_leave_bounds_open(tmp_path):
    path = write(tmp_path, {("parameters.tsv", 2): "A_0\tlog10\t\t\t10\t1\tlogNormal\t0;2"})
    assert read_petab(path).parameters[0].scaled_bounds == (-np.inf, np.inf)


def test_prior_parameters_without_a_type_are_uniform_on_the_scale(tmp_path):
    path = write(tmp_path, {("parameters.tsv", 2): "A_0\tlog10\t0.01\t100\t10\t1\t\t-1;1"})
    assert read_petab(path).parameters[0].prior == Uniform(-1.0, 1.0, on="scaled")


def test_the_conversion_reaction_has_its_closed_form():
    problem = read_petab(MODELS / "conversion_reaction" / "problem.yaml", rtol=1e-10, atol=1e-12)
    a_0, b_0 = 8.5, 2.0
    rows = pd.read_csv(MODELS / "conversion_reaction" / "measurements.tsv", sep="\t")
    rate = 0.3 + 0.1
    a = (0.1 * (a_0 + b_0) + (0.3 * a_0 - 0.1 * b_0) * np.exp(-rate * rows["time"])) / rate
    predicted = np.where(rows["observableId"] == "A_measured", a, a_0 + b_0 - a)
    likelihood = stats.norm.logpdf(rows["measurement"], predicted, 0.5).sum()
    u = problem.to_scaled({"A_0": a_0, "B_0": b_0})
    assert float(problem.log_likelihood(u)) == pytest.approx(likelihood, rel=1e-9)
    assert float(problem.log_prior(u)) == pytest.approx(stats.norm.logpdf([a_0, b_0], [8, 3], 4).sum(), rel=1e-9)


# ---- PEtab's test suite

IN_EVERY_RUN = ("0003", "0009", "0010", "0012", "0017", "0018")  # from 0009 on but 0012: with a pre-equilibration
CASES = [f"{k:04}" for k in range(1, 21)]


EVERY_CASE = pytest.mark.parametrize(
    "case", [pytest.param(name, marks=() if name in IN_EVERY_RUN else pytest.mark.slow) for name in CASES]
)
has_suite = pytest.mark.skipif(not SUITE.is_dir(), reason="the PEtab test suite is not here")


@has_suite
@EVERY_CASE
def test_the_test_suite_agrees(case):
    path = SUITE / case / f"_{case}.yaml"
    solution = yaml.safe_load((SUITE / case / f"_{case}_solution.yaml").read_text())
    problem = read_petab(path, rtol=1e-8, atol=1e-10)
    assert problem.is_equilibrated == (case in ("0009", "0010", "0017", "0018"))
    u = problem.nominal
    assert float(problem.log_likelihood(u)) == pytest.approx(solution["llh"], abs=solution["tol_llh"])
    simulated = pd.read_csv(SUITE / case / "_simulations.tsv", sep="\t")["simulation"]
    np.testing.assert_allclose(problem.simulated(u), simulated, atol=solution["tol_simulations"])


@has_suite
@EVERY_CASE
def test_gradients_of_the_test_suite_are_differences(case):
    problem = read_petab(SUITE / case / f"_{case}.yaml", rtol=1e-10, atol=1e-12)
    u = np.asarray(problem.nominal)
    gradient = np.asarray(problem.batched.value_and_grad(u[None])[3][0])
    size = np.max(np.abs(gradient))
    assert size > 0.01
    np.testing.assert_allclose(gradient, by_differences(problem, u), rtol=0, atol=1e-8 * max(size, 1.0))


# ---- what is refused

PRIOR = "A_0\tlog10\t0.01\t100\t10\t1\t"
LINES = [  # file, line, what it is replaced by, and what is said of it
    ("parameters.tsv", 2, "2k\tlin\t0\t1\t1\t1", "'parameterId': '2k' is no id"),
    ("parameters.tsv", 4, "A_0\tlin\t0\t1\t1\t1", "'A_0' is defined already, in .*line 2"),
    ("parameters.tsv", 3, "B_0\tln\t1\t2\t\t1", "'parameterScale': unknown 'ln'; choose from"),
    ("parameters.tsv", 3, "B_0\t\t1\t2\t\t1", "'parameterScale': unknown ''; choose from"),
    ("parameters.tsv", 3, "B_0\tlin\t1\t2\t\tyes", "'estimate': 'yes' is neither 0 nor 1"),
    ("parameters.tsv", 3, "B_0\tlin\t2\t1\t\t1", "2.0 is not below the upper bound 1.0"),
    ("parameters.tsv", 3, "B_0\tlog\t0\t1\t\t1", "its lower bound is 0.0; give a bound > 0"),
    ("parameters.tsv", 3, "B_0\tlog\t1\t\t\t1", "'upperBound': 'B_0' is estimated .* it needs this bound"),
    ("parameters.tsv", 3, "B_0\tlog\tx\t1\t\t1", "'lowerBound': 'x' is no number"),
    ("parameters.tsv", 4, "k1\tlin\t\t\t\t0", "'nominalValue': 'k1' is not estimated, so it needs a value"),
    ("parameters.tsv", 4, "k1\tlin\t\t\t1_0\t0", "'nominalValue': '1_0' is no number"),
    ("parameters.tsv", 2, f"{PRIOR}gamma\t1;1", "'objectivePriorType': unknown 'gamma'; choose from"),
    ("parameters.tsv", 2, f"{PRIOR}normal\t1", "'normal' takes two numbers, separated by ;, not '1'"),
    ("parameters.tsv", 2, f"{PRIOR}normal\t", "'normal' takes two numbers, separated by ;, not ''"),
    ("parameters.tsv", 2, f"{PRIOR}normal\ta;b", "'normal' takes two numbers, separated by ;, not 'a;b'"),
    ("parameters.tsv", 2, f"{PRIOR}normal\t1;0", "'objectivePriorParameters': .* deviation .* is 0.0"),
    ("parameters.tsv", 2, f"{PRIOR}uniform\t200;300", "is not below .*and the prior's support"),
    ("conditions.tsv", 3, "low\t\t\t1", "'low' is defined already, in .*line 2"),
    ("conditions.tsv", 3, "high\t\tnone\t1", "column 'A': 'none' is no number"),
    ("conditions.tsv", 3, "\t\t1\t1", "'conditionId': '' is no id"),
    ("conditions.tsv", 3, "high\t\t1\t1\t1", "5 cells, but there are 4 columns"),
    ("observables.tsv", 3, "y\t\tB\t\t1\t", "'y' is defined already, in .*line 2"),
    ("observables.tsv", 3, "z\t\tA +\t\t1\t", r"'observableFormula': cannot read the formula 'A \+'"),
    ("observables.tsv", 3, "z\t\t\t\t1\t", "'observableFormula': cannot read the formula ''"),
    ("observables.tsv", 3, "z\t\tB\t\t", "'noiseFormula': cannot read the formula ''"),
    ("observables.tsv", 3, "z\t\tB\t\ts + q\t", r"'noiseFormula': \['q', 's'\] are defined neither"),
    ("observables.tsv", 3, "z\t\tB\tln\t1\t", "'observableTransformation': unknown 'ln'; choose from"),
    ("observables.tsv", 3, "z\t\tB\tlog\t1\tcauchy", "'noiseDistribution': unknown 'cauchy'; choose from"),
    ("more.tsv", 2, "3.5\t1\tx\tlow", "'observableId': unknown 'x'; known are"),
    ("more.tsv", 2, "3.5\t1\tz\tnone", "'simulationConditionId': unknown 'none'; known are"),
    ("more.tsv", 2, "much\t1\tz\tlow", "'measurement': 'much' is no finite number"),
    ("more.tsv", 2, "\t1\tz\tlow", "'measurement': '' is no finite number"),
    ("more.tsv", 2, "1\t-1\tz\tlow", "'time': -1.0 lies before the start"),
    ("measurements.tsv", 3, "y\thigh\tlate\t1\t2;0\t1", "'time': 'late' is no finite number"),
    ("measurements.tsv", 3, "y\thigh\t1\t1\t2;q\t1", "'observableParameters': 'q' is neither a number nor"),
    ("measurements.tsv", 3, "y\thigh\t1\t1\t2\t1", r"'observableParameters': 'y' takes 2 value\(s\).*not 1"),
    ("measurements.tsv", 3, "z\tlow\t1\t1\t\t1", r"'noiseParameters': 'z' takes 0 value\(s\) here, not 1"),
]
FILES = [  # the same for a whole file
    ("conditions.tsv", 1, "conditionId\tconditionName\tC\tk2", "line 2, column 'C': 'C' is no species"),
    ("conditions.tsv", 1, "conditionId\tA\tA\tk2", r"line 1: columns \['A'\] occur twice"),
    (
        "more.tsv",
        1,
        "measurement\ttime\tobservableId\tsimulationConditionId\tpreequilibrationConditionId",
        "line 2, column 'preequilibrationConditionId': unknown '1'; known are",
    ),
    ("more.tsv", 1, "value\ttime\tobservableId", "the column 'simulationConditionId' is missing; there are"),
    ("problem.yaml", 1, "format_version: [1", "this is not YAML"),
    ("problem.yaml", 1, "format_version: 2020-13-45", "format_version 2020-13-45 is not supported"),
    ("problem.yaml", 1, "[" * 5000, "this is not YAML"),
    ("problem.yaml", 6, '    observable_files: ["a\\0b"]', "it must be a list of file names"),
    ("problem.yaml", 1, "", "'format_version' is missing"),
    ("problem.yaml", 3, "problems: []\nothers:", r"'problems' is \[\]; it must be a list"),
    ("problem.yaml", 3, "problems: [1]\nothers:", "the problem must hold `key: value` pairs"),
    ("problem.yaml", 6, "    observable_files: []", r"'observable_files' is \[\]; it must be a list of file"),
    ("problem.yaml", 6, "    observable_files: [1]", r"'observable_files' is \[1\]; it must be a list of file"),
    ("problem.yaml", 6, "    observable_file: [observables.tsv]", "'observable_files' is missing; there are"),
    ("problem.yaml", 6, "    observable_files: [/etc/hostname]", "names '/etc/hostname', outside"),
    ("problem.yaml", 6, "    observable_files: [../outside.tsv]", "names '../outside.tsv', outside"),
    ("problem.yaml", 6, "    observable_files: [linked.tsv]", "names 'linked.tsv', outside"),
    ("problem.yaml", 2, "parameter_file: computed.tsv", r"\['forward'\] are computed by the model's own rules"),
]


@pytest.mark.parametrize(("name", "line", "text", "message"), LINES)
def test_a_wrong_line_is_refused_by_its_place(tmp_path, name, line, text, message):
    path = write(tmp_path, {(name, line): text})
    with pytest.raises(PEtabError, match=f"{tmp_path / name}, line {line}.*{message}"):
        read_petab(path)


@pytest.mark.parametrize(("name", "line", "text", "message"), FILES)
def test_a_wrong_file_is_refused_by_its_name(tmp_path, name, line, text, message):
    folder = tmp_path / "problem"
    path = write(folder, {(name, line): text})
    (tmp_path / "outside.tsv").write_text(TABLES["observables.tsv"])
    (folder / "linked.tsv").symlink_to(tmp_path / "outside.tsv")
    (folder / "computed.tsv").write_text(TABLES["parameters.tsv"] + "forward\tlin\t0\t1\t1\t1\n")
    with pytest.raises(PEtabError, match=f"{folder / name}.*{message}"):
        read_petab(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the column 'observableId' is missing; there are"),
        (b"observableId\tobservableFormula\tnoiseFormula\ny\tA\t\xfc\n", "byte 48 is not UTF-8"),
        (b'observableId\tobservableFormula\tnoiseFormula\ny\tA\t"' + b"1" * 200_000, "line 2: field larger"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, content, message):
    path = write(tmp_path)
    (tmp_path / "observables.tsv").write_bytes(content)
    with pytest.raises(PEtabError, match=f"{tmp_path / 'observables.tsv'}.*{message}"):
        read_petab(path)


def test_a_problem_without_measurements_is_refused(tmp_path):
    changes = {("measurements.tsv", 2): "", ("measurements.tsv", 3): "", ("more.tsv", 2): ""}
    with pytest.raises(PEtabError, match=r"measurements.tsv: there are no measurements"):
        read_petab(write(tmp_path, changes))


@pytest.mark.parametrize(
    ("name", "line", "text", "message"),
    [
        ("problem.yaml", 1, "format_version: 3.0.0", "format_version 3.0.0 is not supported"),
        ("problem.yaml", 1, "format_version: 1\nextensions: {sciml: 1}", "extensions are not supported: {'sciml': 1}"),
        ("problem.yaml", 4, "  - sbml_files: [model.xml, model.xml]", "it has 2 SBML files; only one"),
        ("problem.yaml", 8, "  - sbml_files: [model.xml]", "it holds 2 problems; only one"),
    ],
)
def test_what_is_not_supported_is_said_so(tmp_path, name, line, text, message):
    with pytest.raises(UnsupportedPEtabError, match=f"{tmp_path / name}.*{message}"):
        read_petab(write(tmp_path, {(name, line): text}))


@pytest.mark.parametrize("name", ["model.xml", "parameters.tsv", "more.tsv"])
def test_a_missing_file_is_named(tmp_path, name):
    path = write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        read_petab(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_petab(tmp_path / "nowhere.yaml")


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(sorted(TABLES)),
    line=st.integers(0, 100),
    column=st.integers(0, 100),
    text=st.one_of(st.text(max_size=20), st.sampled_from(["-inf", "1e999", "\x00", "[", "&a", "2020-01-01", "1;2"])),
)
def test_no_cell_is_refused_with_another_error(tmp_path_factory, name, line, column, text):
    lines = TABLES[name].split("\n")[:-1]
    cells = lines[line % len(lines)].split("\t")
    cells[column % len(cells)] = text.encode("utf-8", "replace").decode()
    path = write(tmp_path_factory.getbasetemp() / "fuzzed", {(name, line % len(lines) + 1): "\t".join(cells)})
    with contextlib.suppress(PEtabError, FileNotFoundError):
        read_petab(path)


def test_lines_are_counted_as_an_editor_does(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text('a\tb\n\n1\t"two\nlines"\n3\n')
    rows = list(read_rows(path, ("a",)))
    assert [row.place for row in rows] == [f"{path}, line 4", f"{path}, line 5"]
    assert [row.cells for row in rows] == [{"a": "1", "b": "two\nlines"}, {"a": "3", "b": ""}]


def test_a_folder_stands_for_the_only_problem_in_it(tmp_path):
    file = Path(example("conversion_reaction"))
    assert read_petab(file.parent).hash == read_petab(file).hash
    with pytest.raises(FileNotFoundError, match="is a folder with 0 YAML files; name the problem's own"):
        read_petab(tmp_path)
    for name in ("a.yaml", "b.yml"):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=r"with 2 YAML files \(\['a.yaml', 'b.yml'\]\)"):
        read_petab(tmp_path)
