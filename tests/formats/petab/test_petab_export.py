"""Writing PEtab: PEtab's own checks pass, and what is read back is the same posterior."""

import csv
import dataclasses
import logging
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import kinbayes as kb
from kinbayes.cli import app
from kinbayes.formats.petab.export import writer as petab_export
from kinbayes.formats.petab.formula import InexpressibleError, petab_formula
from kinbayes.formats.petab.table import UnsupportedPEtabError
from kinbayes.model.expressions import const, evaluate, symbol
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.problem import noise
from kinbayes.problem.observables import Experiment, Observable, Period
from kinbayes.problem.parameters import Parameter
from kinbayes.problem.problem import Problem

petab_v1 = pytest.importorskip("petab.v1")
petab_v2 = pytest.importorskip("petab.v2")
lint_v2 = pytest.importorskip("petab.v2.lint")
calculate_v2 = pytest.importorskip("petab.v2.calculate")

ROOT = Path(__file__).parents[3]
EXAMPLES = ("conversion_reaction", "enzyme_progress", "influenza", "lynx_hare")
BENCHMARK = ROOT.parent / "shared" / "data" / "petab" / "benchmark"
SMALL = ("Boehm_JProteomeRes2014", "Brannmark_JBC2010", "Fiedler_BMCSystBiol2016")
A, B = symbol("A"), symbol("B")


def a_model():
    """Names of all kinds: an id and none, a parameter that follows another one, an expression."""
    flux = symbol("k1") * A
    return Model(
        "a model",
        {"A": symbol("r1.k") * B - symbol("flux"), "B": symbol("flux") - symbol("r1.k") * B},
        {
            **{"A": const(1), "B": symbol("B0"), "B0": const(0.1), "k1": const(0.7), "r1.k": const(1 / 3)},
            **{"double": 2 * symbol("dose"), "dose": const(0.25), "size": const(1)},
        },
        {"flux": flux + symbol("double") * 0.1, "total": (A + B) * symbol("size")},
        {"k1": "1/s"},
    )


def a_table(rows):
    columns = ["observableId", "simulationConditionId", "time", "measurement"]
    more = ["observableParameters", "noiseParameters", "preequilibrationConditionId"]
    return pd.DataFrame([dict(zip([*columns, *more], row, strict=False)) for row in rows])


def a_problem(**changes):
    """A problem with what version 1 has."""
    parts = {
        "model": a_model(),
        "parameters": [
            Parameter("k1", kb.Normal(0.5, 0.25), scale="log10", lower=1e-3, upper=10, nominal=0.1 + 0.2),
            Parameter("A", kb.LogNormal(0.1, 0.5), nominal=1.1),
            Parameter("r1.k", kb.Uniform(-2.0, 1.0, on="scaled"), scale="log10", nominal=0.4, unit="1/s"),
            Parameter("scale factor", kb.LogUniform(0.1, 10), nominal=2.0),
            Parameter("offset", kb.Laplace(0, 0.1), nominal=0.05),
            Parameter("sd", None, scale="ln", lower=1e-3, upper=1, nominal=0.1),
            Parameter("sd_log", kb.Normal(-1, 0.5, on="scaled"), scale="log10", nominal=0.2),
            Parameter("spread", kb.Laplace(-1, 0.5, on="scaled"), scale="ln", nominal=0.3),
            Parameter("only_here", kb.LogLaplace(0, 0.5), lower=1e-2, upper=100, nominal=1.0),
            Parameter("dose_of_c", nominal=0.75, estimate=False),
        ],
        "observables": [
            Observable("A", "A + offset", noise.normal("sd"), label="first \t one\n"),
            Observable("flux", "observableParameter1_flux * k1 * A", noise.normal("noiseParameter1_flux * flux")),
            Observable("share", "B / total", noise.log_normal("sd_log")),
            Observable("in decades", "total", noise.normal("sd_log", "log10")),
            Observable("heavy", "acos(0) * total", noise.laplace("spread + 0 * pi")),
            Observable("heavy_log", "log(exp(total))", noise.laplace("spread", "log")),
        ],
        "experiments": [
            Experiment("control"),
            Experiment("low dose", {"dose": 0.5, "k1": 0.2}),
            Experiment("c", {"dose": "dose_of_c", "A": "scale factor"}),
        ],
        "data": a_table(
            [
                ("A", "control", 0.0, 0.9),
                ("A", "control", 1 / 3, 0.1 + 0.2),
                ("flux", "low dose", 0.5, 0.4, "scale factor", "0.1"),
                ("flux", "low dose", 0.5, 0.35, "2.5", "sd"),
                ("share", "c", 2.0, 0.25, "", "", "control"),
                ("share", "low dose", 2.0, 0.3, "", "", "c"),
                ("in decades", "c", 3.0, 1.25),
                ("heavy", "control", 4.0, 1.5),
                ("heavy_log", "low dose", 4.0, 1e-7, "", "", "control"),
            ]
        ),
    }
    return Problem(**{**parts, **changes})


def cells(path, table):
    with (path.parent / f"{table}.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def by_id(path, table, column):
    return {line[column]: line for line in cells(path, table)}


def complaints(path, caplog):
    """What PEtab's own checks say of a problem."""
    caplog.clear()
    if path.read_text().startswith("format_version: 1"):
        with caplog.at_level(logging.ERROR):
            is_bad = petab_v1.lint_problem(petab_v1.Problem.from_yaml(str(path)))
        return [record.getMessage() for record in caplog.records] or [is_bad] * is_bad
    found = lint_v2.lint_problem(petab_v2.Problem.from_yaml(str(path)))
    return [str(issue) for issue in found if issue.level >= lint_v2.ValidationIssueSeverity.ERROR]


def per_natural(problem, u):
    """The log posterior density with respect to natural values, which is the same on all scales."""
    factors = {"lin": (0.0, 1.0), "ln": (1.0, 1.0), "log10": (math.log(10), math.log(10))}
    logs = [factors[scale][0] * x + math.log(factors[scale][1]) for scale, x in zip(problem.scale, u, strict=True)]
    return float(problem.log_density(u)) - sum(logs)


def agree(problem, other, *, rtol=1e-9):
    """Assert that two problems have one posterior, whatever the scales; return the largest difference."""
    drawn = problem.draw_prior(np.random.default_rng(5), 5)
    wanted, got = [per_natural(problem, u) for u in drawn], []
    for u in drawn:
        values = dict(zip(other.parameter_names, problem.to_natural(u).values(), strict=True))
        got.append(per_natural(other, np.clip(np.asarray(other.to_scaled(values)), other.lower, other.upper)))
    assert np.isfinite(wanted).any()
    np.testing.assert_allclose(got, wanted, rtol=rtol)
    return max(abs(a - b) for a, b in zip(got, wanted, strict=True) if np.isfinite(b))


def same(problem, other):
    """Assert that two problems have the same parts, to the last bit."""
    assert other.parameters == problem.parameters
    assert other.model == problem.model
    assert [dataclasses.replace(o, label="") for o in other.observables] == list(problem.observables)
    assert other.measurements == problem.measurements
    assert {e.name for e in other.experiments} == {e.name for e in problem.experiments}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_reads_back_equal(name, tmp_path, caplog):
    problem = kb.read_petab(kb.example(name))
    path = kb.export_petab(problem, tmp_path / "new")
    assert path == tmp_path / "new" / "problem.yaml"
    assert complaints(path, caplog) == []
    same(problem, kb.read_petab(path))
    path = kb.export_petab(problem, tmp_path / "newer", version=2)
    assert complaints(path, caplog) == []
    agree(problem, kb.read_petab(path))


def read_benchmark(name):
    if not (BENCHMARK / name).is_dir():
        pytest.skip(f"the benchmark problems are not here: {BENCHMARK}")
    try:
        return kb.read_petab(BENCHMARK / name / f"{name}.yaml", rtol=1e-8, atol=1e-12)
    except UnsupportedPEtabError as error:
        pytest.skip(f"it is not read yet: {error}")


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_problem_reads_back_with_the_same_density(name, tmp_path, caplog):
    problem = read_benchmark(name)
    path = kb.export_petab(problem, tmp_path / "1", version=1)
    assert complaints(path, caplog) == []
    other = kb.read_petab(path, rtol=1e-8, atol=1e-12)
    assert other.parameters == problem.parameters
    assert other.measurements == problem.measurements
    agree(problem, other)
    path = kb.export_petab(problem, tmp_path / "2", version=2)
    assert complaints(path, caplog) == []
    agree(problem, kb.read_petab(path, rtol=1e-8, atol=1e-12))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(p.name for p in BENCHMARK.glob("*_*")) if BENCHMARK.is_dir() else [])
def test_every_benchmark_problem_reads_back_with_the_same_density(name, tmp_path, caplog):
    problem = read_benchmark(name)
    for version in (2, 1):
        path = kb.export_petab(problem, tmp_path / str(version), version=version)
        assert complaints(path, caplog) == []
        other = kb.read_petab(path, rtol=1e-8, atol=1e-12)
        print(name, version, agree(problem, other))
    assert other.parameters == problem.parameters


# ---- problems from Python


def test_a_problem_from_python_reads_back_with_the_same_density(tmp_path, caplog):
    problem = a_problem(rtol=1e-10, atol=1e-13)
    path = kb.export_petab(problem, tmp_path / "new")
    assert "format_version: 1" in path.read_text()
    assert complaints(path, caplog) == []
    other = kb.read_petab(path, rtol=1e-10, atol=1e-13)
    agree(problem, other)
    names = ("k1_default", "A_start", "r1_k", "scale_factor", "offset", "sd", "sd_log", "spread", "only_here")
    assert other.parameter_names == names
    np.testing.assert_array_equal(other.nominal, problem.nominal)
    np.testing.assert_array_equal(other.upper, problem.upper)
    is_open = np.isneginf(problem.lower)  # version 1 wants a number there
    np.testing.assert_array_equal(other.lower[~is_open], problem.lower[~is_open])
    assert (np.asarray(other.lower)[is_open] < -300).all()


def test_a_changed_number_does_not_agree(tmp_path):
    problem = a_problem()
    path = kb.export_petab(problem, tmp_path / "new")
    for table, old, new in (("measurements", "0.35\t", "0.36\t"), ("parameters", "0.5;0.25", "0.5;0.26")):
        file = tmp_path / "new" / f"{table}.tsv"
        text = file.read_text()
        assert text.count(old) == 1
        file.write_text(text.replace(old, new))
        with pytest.raises(AssertionError):
            agree(problem, kb.read_petab(path))
        file.write_text(text)
    agree(problem, kb.read_petab(path), rtol=1e-4)


def test_what_it_is_called_is_noted(tmp_path):
    path = kb.export_petab(a_problem(), tmp_path / "new")
    parameters = by_id(path, "parameters", "parameterId")
    assert parameters["A_start"]["parameterName"] == "A"
    assert parameters["r1_k"]["parameterName"] == "r1.k"
    assert parameters["sd"]["parameterName"] == ""
    observables = by_id(path, "observables", "observableId")
    assert list(observables) == ["obs_A", "obs_flux", "share", "obs_in_decades", "heavy", "heavy_log"]
    assert observables["obs_A"]["observableName"] == "first one"
    conditions = by_id(path, "conditions", "conditionId")
    assert conditions["control"] == {"conditionId": "control", "dose": "0.25", "k1": "k1_default", "A": ""}
    assert conditions["c"] == {"conditionId": "c", "dose": "dose_of_c", "k1": "k1_default", "A": "scale_factor"}


def test_formulas_change_only_where_they_must(tmp_path):
    path = kb.export_petab(a_problem(), tmp_path / "new")
    found = by_id(path, "observables", "observableId")
    assert found["share"]["observableFormula"] == "B / total"
    assert found["heavy_log"]["observableFormula"] == "log(exp(total))"
    assert found["obs_flux"]["observableFormula"] == "observableParameter1_obs_flux * k1 * A"
    # Version 1 does not know the observable there.
    noise_formula = "noiseParameter1_obs_flux * (observableParameter1_obs_flux * k1 * A)"
    assert found["obs_flux"]["noiseFormula"] == noise_formula
    assert found["heavy"]["observableFormula"] == f"({math.pi / 2!r} * total)"


def test_version_2_has_the_same_likelihood_for_petab(tmp_path, caplog):
    problem = a_problem(
        parameters=[p for p in a_problem().parameters if p.name != "spread"]
        + [Parameter("spread", kb.Gamma(2, 0.2), nominal=0.3)]
    )
    path = kb.export_petab(problem, tmp_path / "new")
    assert "format_version: 2" in path.read_text()
    assert complaints(path, caplog) == []
    u = problem.nominal
    read = petab_v2.Problem.from_yaml(str(path))
    simulated = read.measurement_df.assign(simulation=np.asarray(problem.simulated(u))).drop(columns="measurement")
    found = calculate_v2.calculate_llh(read.measurement_df, simulated, read.observable_df, read.parameter_df)
    assert found == pytest.approx(float(problem.log_likelihood(u)), rel=1e-12)
    tight = problem.with_tolerances(1e-10, 1e-13)
    agree(tight, kb.read_petab(path, rtol=1e-10, atol=1e-13))


def test_version_2_resets_after_a_pre_equilibration_what_was_set_for_it(tmp_path, caplog):
    path = kb.export_petab(a_problem(), tmp_path / "new", version=2)
    assert complaints(path, caplog) == []
    experiments = [(e["experimentId"], e["time"], e["conditionId"]) for e in cells(path, "experiments")]
    assert ("low_dose_after_c", "-inf", "condition_c") in experiments
    (after,) = [condition for name, time, condition in experiments if name == "c_after_control" and time == "0.0"]
    changes = {c["targetId"]: c["targetValue"] for c in cells(path, "conditions") if c["conditionId"] == after}
    # `double` follows `dose`, which the experiment changes.
    assert changes == {"dose": "dose_of_c", "A": "scale_factor", "double": "(2.0 * dose_of_c)"}  # k1 holds on
    (after,) = [condition for name, time, condition in experiments if name == "low_dose_after_c" and time == "0.0"]
    changes = {c["targetId"]: c["targetValue"] for c in cells(path, "conditions") if c["conditionId"] == after}
    assert changes == {"dose": "0.5", "k1": "0.2", "double": "1.0"}


def test_periods_are_those_of_version_2(tmp_path, caplog):
    later = (Period(5.0, {"A": "A + scale_up", "k1": 0.0}), Period(6.5, {"k1": "k1 * 2"}))
    experiments = [Experiment("long", {"B": "2 * size", "dose": "scale_up / 2"}, start=-1.5, periods=later)]
    parameters = [
        Parameter("k1", kb.LogUniform(1e-3, 10), nominal=1.0),
        Parameter("scale_up", kb.Uniform(1, 2), nominal=1.5),
    ]
    data = a_table([("y", "long", 7.0, 1.0)])
    try:
        problem = Problem(
            a_model(), parameters, [Observable("y", "A", noise.normal(0.1))], data, experiments=experiments
        )
    except (ValueError, NotImplementedError) as error:
        pytest.skip(f"problems have no periods yet: {error}")
    path = kb.export_petab(problem, tmp_path / "new")
    assert complaints(path, caplog) == []
    assert [(e["time"], e["conditionId"]) for e in cells(path, "experiments")] == [
        ("-1.5", "condition_long"),
        ("5.0", "condition_long_1"),
        ("6.5", "condition_long_2"),
    ]
    found = {(c["conditionId"], c["targetId"]): c["targetValue"] for c in cells(path, "conditions")}
    assert found == {
        ("condition_long", "B"): "2.0",
        ("condition_long", "dose"): "scale_up / 2",
        ("condition_long", "k1"): "k1_default",
        ("condition_long_1", "A"): "A + scale_up",
        ("condition_long_1", "k1"): "0.0",
        ("condition_long_2", "k1"): "k1 * 2",
    }
    agree(problem, kb.read_petab(path))


def test_a_concentration_is_set_through_its_amount(tmp_path, caplog):
    amount, size = symbol("amount of S"), symbol("C")
    model = Model(
        "variable",
        {"amount of S": -symbol("k") * amount},
        {"amount of S": const(3), "C": const(2), "k": const(0.5)},
        {"S": amount / size},
    )
    later = (Period(1.0, {"C": 8.0}), Period(2.0, {"S": "S + C", "C": "k * C"}))
    problem = Problem(
        model,
        [Parameter("k", kb.Uniform(0.1, 1.0), nominal=0.5)],
        [Observable("y", "S", noise.normal(0.1))],
        a_table([("y", name, time, 1.0) for name in ("one", "two") for time in (0.5, 1.0, 1.5, 2.0, 3.0)]),
        experiments=[Experiment("one", {"S": "k", "C": 4.0}), Experiment("two", {"S": 2.0}, periods=later)],
    )
    path = kb.export_petab(problem, tmp_path / "new")
    assert complaints(path, caplog) == []
    found = {(c["conditionId"], c["targetId"]): c["targetValue"] for c in cells(path, "conditions")}
    assert found == {
        ("condition_one", "C"): "4.0",
        ("condition_one", "amount_of_S"): "(k * 4.0)",
        ("condition_two", "amount_of_S"): "4.0",
        ("condition_two_1", "C"): "8.0",
        ("condition_two_1", "amount_of_S"): "(S * 8.0)",
        ("condition_two_2", "C"): "k * C",
        ("condition_two_2", "amount_of_S"): "((S + C) * (k * C))",
    }
    agree(problem, kb.read_petab(path))


SUITE = ROOT.parent / "shared" / "data" / "petab" / "test_suite"
CASES = sorted(p for p in SUITE.glob("v*/sbml/*/_*.yaml") if "solution" not in p.name) if SUITE.is_dir() else []


@pytest.mark.skipif(not CASES, reason="the test suites of PEtab are not here")
@pytest.mark.parametrize("case", CASES, ids=lambda p: f"{p.parts[-4]}-{p.parts[-2]}")
def test_the_cases_of_the_test_suites_keep_their_likelihoods(case, tmp_path, caplog):
    problem = kb.read_petab(case)
    wanted = float(problem.log_likelihood(problem.nominal))
    for version in (1, 2):
        try:
            path = kb.export_petab(problem, tmp_path / str(version), version=version)
        except InexpressibleError:
            assert version < problem_version(case)  # what is said in version 2 may have no words in version 1
            continue
        assert complaints(path, caplog) == []
        read = kb.read_petab(path)
        nominal = dict(zip(read.parameter_names, problem.to_natural(problem.nominal).values(), strict=True))
        assert float(read.log_likelihood(read.to_scaled(nominal))) == pytest.approx(wanted, rel=1e-9)


def problem_version(path):
    return int(path.parts[-4][1])


@pytest.mark.parametrize("interpolation", ["step", "linear", "monotone"])
def test_inputs_become_part_of_the_model(interpolation, tmp_path, caplog):
    knots = [("one", 0.0, 0.1), ("one", 2.0, 0.5), ("two", 0.5, 0.3), ("two", 1.5, 0.2), ("two", 3.0, 0.9)]
    table = pd.DataFrame(knots, columns=["simulationConditionId", "time", "value"])
    times = [(name, time) for name in ("one", "two", "three") for time in (0.5, 1.75, 4.0)]
    rows = [("y", name, time, 0.8, "", "", "two" if name != "two" else "one") for name, time in times]
    rows += [("y", "two", 4.0, 0.9)]
    problem = Problem(
        a_model(),
        [Parameter("k1", kb.LogUniform(0.1, 1), nominal=0.5)],
        [Observable("y", "A + dose", noise.normal(0.1))],
        a_table(rows),
        experiments=[Experiment("one"), Experiment("two"), Experiment("three", {"dose": 0.4})],
        inputs=[kb.Input("dose", table, interpolation)],
        rtol=1e-10,
        atol=1e-13,
    )
    for version in (1, 2):
        path = kb.export_petab(problem, tmp_path / str(version), version=version)
        assert complaints(path, caplog) == []
        agree(problem, kb.read_petab(path, rtol=1e-10, atol=1e-13))
    assert "condition_one_at_rest" in {c["conditionId"] for c in cells(path, "conditions")}


def test_an_input_that_all_experiments_share_is_in_the_model_alone(tmp_path):
    table = pd.DataFrame({"time": [0.0, 1.0], "value": [0.1, 1 / 3]})
    problem = Problem(
        a_model(),
        [Parameter("k1", kb.LogUniform(0.1, 1), nominal=0.5)],
        [Observable("y", "A", noise.normal(0.1))],
        a_table([("y", "one", 1.0, 0.5), ("y", "two", 1.0, 0.5)]),
        experiments=[Experiment("one"), Experiment("two", {"size": 2.0})],
        inputs=[kb.Input("dose", table)],
    )
    path = kb.export_petab(problem, tmp_path / "new")
    assert set(cells(path, "conditions")[0]) == {"conditionId", "size"}
    agree(problem, kb.read_petab(path))


# ---- priors

FAMILIES = {
    "uniform": kb.Uniform,
    "log-uniform": kb.LogUniform,
    "normal": kb.Normal,
    "log-normal": kb.LogNormal,
    "laplace": kb.Laplace,
    "log-laplace": kb.LogLaplace,
    "cauchy": kb.Cauchy,
    "gamma": kb.Gamma,
    "chisquare": kb.ChiSquare,
    "exponential": kb.Exponential,
    "rayleigh": kb.Rayleigh,
}
PRIORS = [
    kb.Uniform(0.2, 3),
    kb.Normal(1, 0.5),
    kb.Laplace(1, 0.5),
    kb.LogUniform(0.2, 3),
    kb.LogNormal(0.1, 0.5),
    kb.LogLaplace(0.1, 0.5),
    kb.Cauchy(1, 0.5),
    kb.Gamma(2.5, 0.5),
    kb.ChiSquare(3),
    kb.Exponential(1.5),
    kb.Rayleigh(0.7),
    kb.Uniform(-1.0, 1.0, on="scaled"),
    kb.Normal(-0.5, 0.25, on="scaled"),
    kb.Laplace(-0.5, 0.25, on="scaled"),
    None,
]


def one_parameter(parameter):
    model = Model("decay", {"A": -symbol("k") * A}, {"A": const(1), "k": const(1)})
    data = a_table([("y", "one", 1.0, 0.5)])
    observables = [Observable("y", "A", noise.normal(0.1))]
    return Problem(model, [parameter], observables, data, experiments=[Experiment("one")])


@pytest.mark.parametrize("scale", ["lin", "ln", "log10"])
@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_a_prior_is_the_same_density_in_either_version(prior, scale, tmp_path, caplog):
    parameter = Parameter("k", prior, scale=scale, lower=0.25, upper=2.5, nominal=1.0)
    problem, u = one_parameter(parameter), None
    u = problem.draw_prior(np.random.default_rng(1), 20)
    wanted = np.array([float(problem.log_prior(row)) for row in u])

    path = kb.export_petab(problem, tmp_path / "2", version=2)
    assert complaints(path, caplog) == []
    (line,) = cells(path, "parameters")
    assert (line["lowerBound"], line["upperBound"]) == tuple(map(repr, parameter.bounds))
    settings = [float(part) for part in line.get("priorParameters", "").split(";") if part]
    stated = FAMILIES[line["priorDistribution"]](*settings) if line.get("priorDistribution") else None
    read = one_parameter(Parameter("k", stated, scale="lin", lower=parameter.bounds[0], upper=parameter.bounds[1]))
    theta = np.array([problem.to_natural(row)["k"] for row in u])
    factor = {"lin": 1.0, "ln": theta, "log10": theta * math.log(10)}[scale]  # dθ/du
    got = [float(read.log_prior(row)) for row in np.clip(theta, *parameter.bounds)[:, None]]
    np.testing.assert_allclose(got + np.log(factor), wanted, rtol=1e-12, atol=1e-12)

    is_only_in_2 = isinstance(prior, kb.Cauchy | kb.Gamma | kb.ChiSquare | kb.Exponential | kb.Rayleigh)
    if is_only_in_2 or (isinstance(prior, kb.LogUniform) and scale == "lin"):
        with pytest.raises(InexpressibleError, match=f"'k' has a prior that is {type(prior).__name__}"):
            kb.export_petab(problem, tmp_path / "1", version=1)
        return
    path = kb.export_petab(problem, tmp_path / "1", version=1)
    assert complaints(path, caplog) == []
    read = kb.read_petab(path)
    assert read.estimated[0].is_assumed == (prior is None)
    np.testing.assert_array_equal([read.lower, read.upper], [problem.lower, problem.upper])
    np.testing.assert_allclose([float(read.log_prior(row)) for row in u], wanted, rtol=1e-12, atol=1e-12)


def test_open_bounds_stay_open(tmp_path, caplog):
    parameter = Parameter("k", None, scale="lin", lower=0.1, nominal=1.0)
    for version in (1, 2):
        path = kb.export_petab(one_parameter(parameter), tmp_path / str(version), version=version)
        assert complaints(path, caplog) == []
        assert cells(path, "parameters")[0]["upperBound"] == "inf"
    read = kb.read_petab(tmp_path / "1" / "problem.yaml")
    assert not read.is_proper
    assert read.estimated[0].bounds == (0.1, math.inf)


# ---- what cannot be said


def refused(problem, folder, **settings):
    with pytest.raises(InexpressibleError) as error:
        kb.export_petab(problem, folder, **settings)
    assert not folder.exists()
    assert list(folder.parent.iterdir()) == []
    return str(error.value)


def test_what_no_version_can_say_is_refused_by_name(tmp_path):
    observables = [
        Observable("share", "B / total", noise.student_t("sd", 4)),
        Observable("A", "A", noise.negative_binomial("sd")),
        Observable("steps", "floor(B)", noise.normal("sd")),
    ]
    data = a_table([(o.name, "control", 1.0, 1.0) for o in observables])
    text = refused(a_problem(observables=observables, data=data), tmp_path / "new")
    for version in (1, 2):
        assert f"version {version}: observable 'share' has student_t noise" in text
        assert f"version {version}: observable 'A' has negative_binomial noise" in text
        assert f"version {version}: formula 'floor(B)': PEtab has no word for 'floor'" in text


@pytest.mark.parametrize(
    ("parameter", "version", "reason"),
    [
        (Parameter("k", None, scale="log10"), 1, "moves on the scale 'log10' without a lower bound or a prior"),
        (Parameter("k", None, scale="ln"), 2, "uniform on an unbounded logarithm"),
        (Parameter("k", kb.Cauchy(0, 1, on="scaled"), scale="log10"), None, "Cauchy on the scale 'log10'"),
        (Parameter("k", kb.ChiSquare(2.5)), None, "2.5 degrees of freedom, which is no whole number"),
    ],
)
def test_a_parameter_that_cannot_be_said(parameter, version, reason, tmp_path):
    assert reason in refused(one_parameter(parameter), tmp_path / "new", version=version)


def test_version_1_cannot_leave_a_formula_after_a_pre_equilibration_that_sets_it(tmp_path):
    experiments = [Experiment("before", {"double": 0.1}), Experiment("after")]
    data = a_table([("y", "after", 1.0, 1.0, "", "", "before")])
    parameters = [Parameter("k1", kb.LogUniform(0.1, 1), nominal=0.5)]
    problem = Problem(a_model(), parameters, [Observable("y", "A", noise.normal(0.1))], data, experiments=experiments)
    assert "leaves 'double' to a formula" in refused(problem, tmp_path / "new", version=1)
    path = kb.export_petab(problem, tmp_path / "new")
    assert cells(path, "conditions")[-1] == {
        "conditionId": "condition_after",
        "targetId": "double",
        "targetValue": "0.5",
    }


def test_predictions_have_no_measurements_to_write(tmp_path):
    problem = kb.read_petab(kb.example("conversion_reaction"))
    grid = problem.on_grid(problem.experiments[0], [1.0, 2.0])
    assert "is no number" in refused(grid, tmp_path / "new")


# ---- files


def test_the_command_writes_a_problem(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    command = ["export", str(kb.example("lynx_hare")), str(tmp_path / "new"), "--format", "petab"]
    result = CliRunner().invoke(app, [*command, "--version", "2"])
    assert result.exit_code == 0
    assert str(tmp_path / "new" / "problem.yaml") in "".join(result.output.split())
    assert "format_version: 2.0.0" in (tmp_path / "new" / "problem.yaml").read_text()
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 1
    assert "exists already" in again.output
    command[-1] = "pybnf"
    assert "unknown format 'pybnf'" in CliRunner().invoke(app, command).output


def test_nothing_is_overwritten(tmp_path):
    problem = kb.read_petab(kb.example("conversion_reaction"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="full exists already and is not empty"):
        kb.export_petab(problem, tmp_path / "full")
    with pytest.raises(FileExistsError, match="notes"):
        kb.export_petab(problem, tmp_path / "full" / "notes.txt")
    (tmp_path / "empty").mkdir()
    kb.export_petab(problem, tmp_path / "empty")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "full"]
    with pytest.raises(ValueError, match="unknown version 3"):
        kb.export_petab(problem, tmp_path / "new", version=3)


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(petab_export, "write_table", fail)
    with pytest.raises(OSError, match="the disk is full"):
        kb.export_petab(kb.read_petab(kb.example("conversion_reaction")), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_censoring_is_a_column_only_where_it_is_used(tmp_path, caplog):
    problem = kb.read_petab(kb.example("conversion_reaction"))
    assert "censoring" not in cells(kb.export_petab(problem, tmp_path / "1"), "measurements")[0]
    rows = [m._replace(censoring="below" if k == 1 else "") for k, m in enumerate(problem.measurements)]
    table = pd.DataFrame(rows).rename(
        columns={"observable": "observableId", "experiment": "simulationConditionId", "value": "measurement"}
    )[["observableId", "simulationConditionId", "time", "measurement", "censoring"]]
    for version in (1, 2):
        path = kb.export_petab(problem.with_data(table), tmp_path / f"censored_{version}", version=version)
        assert complaints(path, caplog) == []
        assert [line["censoring"] for line in cells(path, "measurements")] == [m.censoring for m in rows]
        assert [m.censoring for m in kb.read_petab(path).measurements] == [m.censoring for m in rows]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("scale * A + log10(B) ^ 2", "scale * A + log10(B) ^ 2"),
        ("piecewise(A, time < 5, min(A, B))", "piecewise(A, time < 5, min(A, B))"),
        ("pi * A", f"({math.pi!r} * A)"),
        ("log(A, 2) + log2(A) * sign(A)", "log(A, 2) + log2(A) * sign(A)"),
        ("max(A, B, 1)", "max(max(A, B), 1.0)"),
        ("acos(A) - root(3, B)", f"(arccos(A) - (B ^ {1 / 3!r}))"),
        ("piecewise(A, B > 1 && !(A == 2), -1)", "piecewise(A, B > 1 && !(A == 2), -1)"),
        ("gt(A, 1) * -2", "(piecewise(1.0, (A > 1.0), 0.0) * (-2.0))"),
    ],
)
def test_a_formula_for_petab(text, written):
    assert petab_formula(text) == written
    values = {"A": 0.3, "B": 2.5, "scale": 2.0, "time": 1.0}
    wanted, got = evaluate([parse(text), parse(written)], values)
    assert got == pytest.approx(wanted, rel=1e-15)
    by_petab = petab_v1.math.sympify_petab(written)
    numbers = {s: values[s.name] for s in by_petab.free_symbols}
    assert float(by_petab.subs(numbers)) == pytest.approx(wanted, rel=1e-14)
