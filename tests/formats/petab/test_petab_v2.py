"""PEtab version 2: its test suite, experiments against closed forms, and what is refused."""

import contextlib
import functools
import itertools
import math
from pathlib import Path

import libsbml
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kinbayes.formats.petab.reader import read_petab
from kinbayes.formats.petab.table import PEtabError, UnsupportedPEtabError
from kinbayes.model.expressions import evaluate
from kinbayes.model.formula import parse
from kinbayes.problem import noise, priors, truncation
from kinbayes.problem.observables import Observable
from tests.formats.sbml.text import assignment, document, event, parameter, reaction, reference, rule
from tests.problem.test_native_gradient import by_differences

SUITE = Path(__file__).parents[3].parent / "shared" / "data" / "petab" / "test_suite" / "v2.0.0"
here = pytest.mark.skipif(not SUITE.is_dir(), reason="the PEtab test suite is not here")

# ---- PEtab's test suite

# Conditions that add to states, pre-equilibration from a time that is not 0, sizes, events at rest, priors, periods.
IN_EVERY_RUN = ("0010", "0016", "0018", "0022", "0023", "0024", "0025", "0030", "0031")
CASES = [f"{k:04}" for k in range(1, 33) if k != 19]  # there is no case 19


@functools.cache
def case_of(name):
    """Return a case of the test suite: the problem, and what it says of it."""
    folder = SUITE / "sbml" / name
    problem = read_petab(folder / f"_{name}.yaml", rtol=1e-10, atol=1e-12)
    simulated = pd.read_csv(folder / "_simulations.tsv", sep="\t")["simulation"].to_numpy()
    return problem, yaml.safe_load((folder / f"_{name}_solution.yaml").read_text()), simulated


@here
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in IN_EVERY_RUN else pytest.mark.slow) for name in CASES]
)
def test_the_test_suite_agrees(name):
    problem, solution, simulated = case_of(name)
    u = np.asarray(problem.nominal)
    chi2 = float(np.sum(problem.residuals(u) ** 2))
    assert chi2 == pytest.approx(solution["chi2"], abs=solution["tol_chi2"])
    assert float(problem.log_likelihood(u)) == pytest.approx(solution["llh"], abs=solution["tol_llh"])
    np.testing.assert_allclose(problem.simulated(u), simulated, rtol=0, atol=solution["tol_simulations"])


@here
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in IN_EVERY_RUN else pytest.mark.slow) for name in CASES]
)
def test_gradients_of_the_test_suite_are_differences(name):
    problem, *_ = case_of(name)
    u = np.asarray(problem.nominal)
    gradient = np.asarray(problem.batched.value_and_grad(u[None])[3][0])
    size = max(np.max(np.abs(gradient)), 1.0)
    np.testing.assert_allclose(gradient, by_differences(problem, u), rtol=0, atol=1e-8 * size)
    assert np.any(gradient) or name in ("0023", "0024", "0025")  # of which no likelihood depends on a parameter


@here
@pytest.mark.parametrize("name", ["0024", "0025"])
def test_priors_of_the_test_suite(name):
    """Its densities are by the natural value, and truncated."""
    problem, solution, _ = case_of(name)
    u = np.asarray(problem.nominal)
    by_scale = 0.0
    for p in problem.estimated:
        prior = p.effective_prior
        found = float(prior.distribution().logpdf(p.nominal)) - truncation.log_mass(prior, *p.prior_bounds)
        assert found == pytest.approx(solution["log_prior"][p.name], rel=1e-14, abs=1e-14)
        by_scale += {"lin": 0.0, "log10": math.log(p.nominal * math.log(10)), "ln": math.log(p.nominal)}[p.scale]
    posterior = float(problem.log_density(u)) - by_scale
    assert posterior == pytest.approx(solution["unnorm_log_posterior"], abs=1e-12)


@here
def test_formulas_of_the_test_suite():
    cases = yaml.safe_load((SUITE / "math" / "math_tests.yaml").read_text())["cases"]
    assert len(cases) > 90
    for case in cases:
        values, expected = {"a": 3.0, "b": 7.0}, case["expected"]
        expected = 21.0 if expected == "a * b" else float(expected)
        (found,) = evaluate([parse(case["expression"])], values)
        np.testing.assert_allclose(float(found), expected, rtol=1e-14, err_msg=case["expression"])


# ---- a problem of our own


def f(text):
    """Return the content of MathML of a formula."""
    content = libsbml.writeMathMLToString(libsbml.parseL3Formula(text))
    return content[content.index("<math") :].split(">", 1)[1].rsplit("</math>", 1)[0]


def species(name, start, size="box"):
    return (
        f'<species id="{name}" compartment="{size}" initialConcentration="{start}" hasOnlySubstanceUnits="false" '
        'boundaryCondition="false" constant="false"/>'
    )


def conversion(name, law, made=(), lost=(), local=()):
    return reaction(name, f(law), [reference(n) for n in lost], [reference(n) for n in made], local)


# A' = supply - k A; B' = -twice B where twice is 2 k at the start; C' = -q C with a local q = 0.25.
LISTS = {
    "Compartments": '<compartment id="box" spatialDimensions="3" size="2" constant="true"/>',
    "Species": species("A", 3) + species("B", 1) + species("C", 2),
    "Parameters": "".join(
        parameter(name, value)
        for name, value in (("k", 0.5), ("supply", 0), ("twice", 9), ("scale", 4), ("part", 0), ("first", 0))
    ),
    "InitialAssignments": assignment("twice", f("2 * k")) + assignment("first", f("A + 1")),
    "Rules": rule("assignment", "part", f("A / scale")),
    "Reactions": conversion("feed", "box * supply", ["A"])
    + conversion("loss", "box * k * A", lost=["A"])
    + conversion("decay", "box * twice * B", lost=["B"])
    + conversion("out", "box * q * C", lost=["C"], local=[("q", "0.25")]),
}
YAML = """\
format_version: 2.0.0
parameter_files: [parameters.tsv]
model_files:
  m:
    location: model.xml
    language: sbml
condition_files: [conditions.tsv]
experiment_files: [experiments.tsv]
observable_files: [observables.tsv]
measurement_files: [measurements.tsv]
mapping_files: [mapping.tsv]
"""
TABLES = {
    "problem.yaml": YAML,
    "parameters.tsv": """\
parameterId lowerBound upperBound nominalValue estimate priorDistribution priorParameters
sd 0.01 10 0.5 true
gain -3 3 1.5 true normal 1;2
level 0.1 10 4 false
""",
    "conditions.tsv": """\
conditionId targetId targetValue
slow k 0.1
more supply level
dose A A+gain
""",
    "experiments.tsv": """\
experimentId time conditionId
e 0 slow
e 2 more
e 2 dose
""",
    "observables.tsv": """\
observableId observableName observableFormula noiseFormula noiseDistribution observablePlaceholders noisePlaceholders
a first A sd
b second B sd
c third C sd
""",
    "measurements.tsv": """\
observableId experimentId time measurement observableParameters noiseParameters
a e 0 1
a e 3 2
""",
    "mapping.tsv": """\
petabEntityId modelEntityId
""",
}


def tabbed(text):
    """Return a table whose cells a space separates, and of which - is an empty one, as PEtab has it."""
    return "\n".join("\t".join("" if c == "-" else c for c in line.split(" ")) for line in text.split("\n"))


def write(folder, changed=(), lists=LISTS, **tables):
    """Write the problem with tables given anew, or lines of its files replaced: {("parameters.tsv", 2): "…"}."""
    folder.mkdir(exist_ok=True)
    (folder / "model.xml").write_text(document(**lists), encoding="utf-8")
    for name, text in TABLES.items():
        stem, kind = name.split(".")
        if stem in tables:
            text = TABLES[name].split("\n")[0] + "\n" + tables[stem]
        text = tabbed(text) if kind == "tsv" else text
        lines = text.split("\n")
        for (other, line), new in dict(changed).items():
            if other == name:
                lines[line - 1] = new
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return folder / "problem.yaml"


def simulated(folder, lists=LISTS, u=None, **tables):
    """Return the predictions of a problem with some tables, at fine tolerances."""
    problem = read_petab(write(folder, lists=lists, **tables), rtol=1e-10, atol=1e-12)
    return np.asarray(problem.simulated(np.asarray(problem.nominal) if u is None else u))


def rows(observable, times, experiment="e"):
    return "".join(f"{observable} {experiment} {time} 0\n" for time in times)


def relaxed(start, supply, k, t):
    return supply / k + (start - supply / k) * np.exp(-k * np.asarray(t))


def test_tables_become_a_problem(tmp_path):
    problem = read_petab(write(tmp_path))
    assert problem.parameter_names == ("sd", "gain")
    assert problem.parameters[0].bounds == (0.01, 10.0)
    assert problem.parameters[1].prior == priors.Normal(1.0, 2.0)
    assert problem.parameters[2].nominal == 4.0
    assert problem.observables[0] == Observable("a", "A", noise.normal("sd"), label="first")
    (own,) = problem.experiments
    assert (own.name, own.start, own.values) == ("e", 0.0, {"k": 0.1})
    assert [(p.start, p.values) for p in own.periods] == [(2.0, {"supply": "level", "A": "A+gain"})]


def test_periods_of_an_experiment(tmp_path):
    """The two conditions of time 2 are one change; that of `slow` at the start reaches initial assignments too."""
    found = simulated(tmp_path, measurements=rows("a", [0, 1, 2, 5]) + rows("b", [2]))
    at_2 = 3 * math.exp(-0.2) + 1.5
    expected = [3, 3 * math.exp(-0.1), at_2, relaxed(at_2, 4, 0.1, 3), math.exp(-0.2 * 2)]
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_what_experiments_leave_out(tmp_path):
    """Rows in no order, a period without a condition, one without measurements, one after the last of them, and rows
    of no experiment beside the others.
    """
    experiments = "e 9 dose\ne 1 more\nother 0 -\ne 0 -\ne 2 slow\nother 1 slow\n"
    measurements = rows("a", [2.5, 0, 0.5]) + rows("a", [1.0, 3.0], "-") + rows("a", [3.0], "other")
    found = simulated(tmp_path, experiments=experiments, measurements=measurements)
    fed = relaxed(3 * math.exp(-0.5), 4, 0.5, 1)
    free = 3 * np.exp(-0.5 * np.array([0, 0.5, 1, 3]))
    alone = [3 * math.exp(-0.5 - 0.1 * 2)]
    np.testing.assert_allclose(found, [relaxed(fed, 4, 0.1, 0.5), *free, *alone], rtol=1e-8)


def test_an_experiment_may_be_called_like_that_of_no_experiment(tmp_path):
    experiments = "model_as_it_is 0 slow\n"
    found = simulated(tmp_path, experiments=experiments, measurements="a model_as_it_is 1 0\na - 1 0\n")
    np.testing.assert_allclose(found, [3 * math.exp(-0.1), 3 * math.exp(-0.5)], rtol=1e-8)


def test_many_doses_and_a_rate_that_changes_back_and_forth(tmp_path):
    num, gain = 50, 1.5
    conditions = "on k 1.25\noff k 0.5\ndose A A+gain\n"
    experiments = "".join(f"e {t} dose\ne {t} {'on' if t % 2 else 'off'}\n" for t in range(1, num + 1)) + "e 0 -\n"
    times = np.arange(0.5, num + 2)
    found = simulated(tmp_path, conditions=conditions, experiments=experiments, measurements=rows("a", times))
    a, k, expected = 3.0, 0.5, []
    for t in range(num + 2):
        if 1 <= t <= num:
            a, k = a + gain, 1.25 if t % 2 else 0.5
        expected.append(a * math.exp(-k / 2))
        a *= math.exp(-k)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_rules_follow_and_initial_assignments_do_not(tmp_path):
    """At 1 k and scale change: `part` follows scale without moving A, but `twice` stays what it was at the start."""
    conditions = "later k 1.5\nlater scale 8\n"
    observables = "a - A sd\nb - B sd\npart - part sd\n"
    tables = {"conditions": conditions, "experiments": "e 0 -\ne 1 later\n", "observables": observables}
    found = simulated(tmp_path, **tables, measurements=rows("a", [1, 2]) + rows("b", [2]) + rows("part", [0, 1, 2]))
    a = np.array([3, 3 * math.exp(-0.5), 3 * math.exp(-2)])
    np.testing.assert_allclose(found, [a[1], a[2], math.exp(-2), a[0] / 4, a[1] / 8, a[2] / 8], rtol=1e-8)


def test_initial_assignments_are_made_once_before_a_preequilibration(tmp_path):
    """k is 2 in the pre-equilibration, where `twice` becomes 4 and A comes to 3; afterwards k alone is changed."""
    conditions = "rest k 2\nrest supply 6\nfirst k 1\nfirst B 1\n"
    tables = {"conditions": conditions, "experiments": "e -inf rest\ne 5 first\n"}
    found = simulated(tmp_path, **tables, measurements=rows("a", [5, 6]) + rows("b", [5, 6]))
    np.testing.assert_allclose(found, [3, relaxed(3, 6, 1, 1), 1, math.exp(-4)], rtol=1e-8)


@pytest.mark.parametrize(("value", "start"), [("7", 7.0), ("level", 4.0), ("2*level+A", 11.0)])
def test_what_follows_from_a_state_is_kept_after_a_preequilibration(tmp_path, value, start):
    """`first` is A + 1 at the very beginning, where the pre-equilibration has set A."""
    conditions = f"rest A {value}\nrest supply 2\nfirst k 1\n"
    tables = {"conditions": conditions, "experiments": "e -inf rest\ne 0 first\n"}
    found = simulated(
        tmp_path,
        **tables,
        observables="first - first sd\na - A sd\n",
        measurements=rows("first", [0, 2]) + rows("a", [0]),
    )
    np.testing.assert_allclose(found, [start + 1, start + 1, 4.0], rtol=1e-9)


def test_steady_states_are_measured(tmp_path):
    """Also after later changes, and in an experiment that begins at rest."""
    experiments = "e 0 -\ne 1 more\nr -inf more\nr 0 slow\n"
    found = simulated(
        tmp_path, experiments=experiments, measurements=rows("a", ["inf", 0.5]) + rows("a", [0, "inf"], "r")
    )
    np.testing.assert_allclose(found, [8, 3 * math.exp(-0.25), 8, 40], rtol=1e-8)


def test_experiments_share_a_preequilibration(tmp_path):
    experiments = "e -inf more\ne 0 slow\nf -inf more\nf 1 -\ng -inf slow\ng 0 more\n"
    path = write(tmp_path, experiments=experiments, measurements=rows("a", [1]) + rows("a", [2], "f"))
    problem = read_petab(path)
    assert [e.name for e in problem.experiments] == ["e_preequilibration", "e", "f", "g_preequilibration", "g"]
    assert {m.preequilibration for m in problem.measurements} == {"e_preequilibration"}


# ---- sizes

BOX = '<compartment id="box" spatialDimensions="3" size="2" constant="false"/>'
SWELLING = {
    **LISTS,
    "Compartments": BOX,
    "Events": event("never", f("A < -1"), [("box", f("1"))]),
}


@pytest.mark.parametrize("lists", [LISTS, SWELLING])  # with concentrations as states, and with amounts
def test_concentrations_stay_where_only_the_size_changes(tmp_path, lists):
    conditions = "swell box 8\nboth box 2*box\nboth A A+1\n"
    tables = {"conditions": conditions, "observables": "a - A sd\nn - A*box sd\n"}
    tables["experiments"] = "e 0 -\ne 1 swell\ne 2 both\n"
    found = simulated(tmp_path, lists, **tables, measurements=rows("a", [1, 2, 3]) + rows("n", [0.5, 1, 2, 3]))
    a = [3 * math.exp(-0.5), 3 * math.exp(-1) + 1, (3 * math.exp(-1) + 1) * math.exp(-0.5)]
    np.testing.assert_allclose(found, [*a, 6 * math.exp(-0.25), 8 * a[0], 16 * a[1], 16 * a[2]], rtol=1e-8)


@pytest.mark.parametrize("lists", [LISTS, SWELLING])
def test_a_concentration_that_a_preequilibration_sets_goes_on_from_its_rest(tmp_path, lists):
    conditions = "rest A 9\nrest supply 2\nfirst supply 1\nfirst box 5\n"
    tables = {"conditions": conditions, "experiments": "e -inf rest\ne 0 first\n"}
    found = simulated(tmp_path, lists, **tables, measurements=rows("a", [0, 1]))
    np.testing.assert_allclose(found, [4, relaxed(4, 1, 0.5, 1)], rtol=1e-8)


@pytest.mark.parametrize("lists", [LISTS, SWELLING])
def test_a_concentration_and_its_size_at_the_start(tmp_path, lists):
    tables = {"conditions": "set A gain\nset box 5\n", "experiments": "e 0 set\n"}
    tables |= {"observables": "a - A sd\nn - A*box sd\n", "measurements": rows("a", [0, 1]) + rows("n", [1])}
    found = simulated(tmp_path, lists, **tables)
    e = math.exp(-0.5)
    np.testing.assert_allclose(found, [1.5, 1.5 * e, 7.5 * e], rtol=1e-8)


# ---- experiments by lot

TARGETS = {
    "A": ("5", "A+1", "level", "B+k", "2*A", "gain*k"),
    "B": ("1", "A", "B+gain", "part"),
    "k": ("0.8", "2*k", "0.1*level", "k+0.1*scale"),
    "supply": ("0", "3", "level", "supply+1"),
    "scale": ("2", "scale+A", "box*2"),
    "box": ("6", "2*box", "level", "box+A"),
    "twice": ("1.5", "twice+k"),
}
FROM_TABLE = {"gain": 1.5, "level": 4.0}


def changed(now, condition):
    """Return the values after a condition whose formulas are all computed from those before."""
    known = {**now, **FROM_TABLE, "part": now["A"] / now["scale"]}
    return {**now, **{t: float(evaluate([parse(v)], known)[0]) for t, v in condition.items()}}


def passed(now, duration):
    """Return the values some time later, or at rest."""
    is_rest = math.isinf(duration)
    a = now["supply"] / now["k"] if is_rest else float(relaxed(now["A"], now["supply"], now["k"], duration))
    return {**now, "A": a, "B": 0.0 if is_rest else now["B"] * math.exp(-now["twice"] * duration)}


def of_meaning(condition_at, times):
    """Return A, its amount, B, part and first at some times, by what PEtab says of periods: [(time, condition)]."""
    own = {"A": 3.0, "B": 1.0, "k": 0.5, "supply": 0.0, "scale": 4.0, "box": 2.0, "twice": 1.0}
    (at, first), *later = condition_at
    now = changed(own, first)
    now["twice"] = now["twice"] if "twice" in first else 2 * now["k"]
    now["first"] = now["A"] + 1
    found = []
    for end, condition in [*later, (math.inf, {})]:
        for t in (t for t in times if at <= t < end):
            then = passed(now, t - at)
            found.append([then["A"], then["A"] * then["box"], then["B"], then["A"] / then["scale"], then["first"]])
        if condition or end < math.inf:
            now, at = changed(passed(now, math.inf if at == -math.inf else end - at), condition), end
    return np.array(found).T.ravel()


def drawn_experiment(rng):
    def condition():
        targets = rng.choice(sorted(TARGETS), rng.integers(0, 4), replace=False)
        return {str(target): str(rng.choice(TARGETS[target])) for target in targets}

    start = float(rng.choice([-1.0, 0.0, 2.0]))
    times = [start, *sorted(start + rng.choice(np.arange(1, 12), rng.integers(0, 4), replace=False) / 2)]
    if rng.uniform() < 0.5:
        times = [-math.inf, *times]
    return [(float(time), condition()) for time in times]


def by_lot(folder, seed):
    """Return the predictions of an experiment drawn by lot, and what they ought to be."""
    rng = np.random.default_rng(seed)
    drawn = drawn_experiment(rng)
    start = next(time for time, _ in drawn if math.isfinite(time))
    times = sorted({start, start + 0.75, start + 2.0, start + 6.5})
    conditions = "".join(f"c{k} {t} {v}\n" for k, (_, c) in enumerate(drawn) for t, v in c.items())
    experiments = "".join(f"e {time} {f'c{k}' if c else '-'}\n" for k, (time, c) in enumerate(drawn))
    observables = "a - A sd\nn - A*box sd\nb - B sd\npart - part sd\nfirst - first sd\n"
    tables = {"conditions": conditions, "experiments": experiments, "observables": observables}
    tables["measurements"] = "".join(rows(o, times) for o in ("a", "n", "b", "part", "first"))
    found = simulated(folder, SWELLING if rng.uniform() < 0.5 else LISTS, **tables)
    return drawn, found, of_meaning(drawn, times)


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(k, marks=pytest.mark.slow) for k in range(8, 80))])
def test_experiments_by_lot_are_what_petab_says(tmp_path, seed):
    drawn, found, expected = by_lot(tmp_path, seed)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8, err_msg=repr(drawn))


# ---- events of the model


def test_a_change_comes_before_an_event_of_its_time(tmp_path):
    """Also where the event takes the values of the moment at which it fires: that is after the change."""
    dose = event("dose", f("time >= 1"), [("B", f("A"))])
    lists = {**LISTS, "Events": dose}
    tables = {"conditions": "set A 10\n", "experiments": "e 0 -\ne 1 set\n"}
    found = simulated(tmp_path, lists, **tables, measurements=rows("b", [0.5, 1, 2]))
    np.testing.assert_allclose(found, [math.exp(-0.5), 10, 10 * math.exp(-1)], rtol=1e-8)


@pytest.mark.parametrize(("value", "b"), [("5", 7.0), ("3.9", math.exp(-1))])
def test_a_change_may_make_an_event_fire(tmp_path, value, b):
    lists = {**LISTS, "Events": event("high", f("A > 4"), [("B", f("7"))])}
    tables = {"conditions": f"set A {value}\n", "experiments": "e 0 -\ne 1 set\n"}
    np.testing.assert_allclose(simulated(tmp_path, lists, **tables, measurements=rows("b", [1])), [b], rtol=1e-8)


def test_a_change_at_the_end_of_a_preequilibration_may_make_an_event_fire(tmp_path):
    """Both as a state that is set anew, and as a change that is computed; what was true before does not fire again."""
    lists = {**LISTS, "Events": event("high", f("A > 4"), [("B", f("B + 7"))])}
    for value, b in (("5", 7.0), ("A+1", 7.0), ("3.9", 0.0)):
        tables = {"conditions": f"rest supply 2\nrest k 0.51\nset A {value}\n", "experiments": "e -inf rest\ne 0 set\n"}
        found = simulated(tmp_path, lists, **tables, measurements=rows("b", [0]))
        np.testing.assert_allclose(found, [b], atol=1e-9)


# ---- names


def test_local_parameters_have_other_names(tmp_path):
    tables = {"mapping": "rate out.q\nother -\n", "conditions": "fast rate 1.5\n", "experiments": "e 0 -\ne 1 fast\n"}
    found = simulated(tmp_path, **tables, observables="c - C*rate sd\n", measurements=rows("c", [0.5, 2]))
    np.testing.assert_allclose(found, [0.5 * math.exp(-0.125), 3 * math.exp(-0.25 - 1.5)], rtol=1e-8)


def test_a_local_parameter_may_be_estimated(tmp_path):
    parameters = "sd 0.01 10 0.5 true\nrate 0 10 0.75 true\n"
    tables = {"mapping": "rate out.q\n", "parameters": parameters, "conditions": "x k 1\n", "experiments": "e 0 x\n"}
    path = write(tmp_path, **tables, measurements=rows("c", [2]))
    problem = read_petab(path, rtol=1e-10, atol=1e-12)
    assert problem.parameter_names == ("sd", "rate")
    assert float(problem.simulated(problem.nominal)[0]) == pytest.approx(2 * math.exp(-1.5), rel=1e-8)


def test_placeholders_may_have_any_name(tmp_path):
    """They stand for values in their order, used or not."""
    observables = "a - A*factor+shift*k sd normal unused;factor;shift -\nb - B slope*b+noise normal - noise;slope\n"
    measurements = "a e 0 1 9;gain;2 -\na e 1 1 0;2;gain -\nb e 0 1.5 - sd;0.25\n"
    experiments = "e 0 -\n"
    path = write(tmp_path, observables=observables, measurements=measurements, experiments=experiments)
    problem = read_petab(path, rtol=1e-10, atol=1e-12)
    u = problem.to_scaled({"sd": 0.3, "gain": 1.7})
    expected = [3 * 1.7 + 1, 2 * 3 * math.exp(-0.5) + 1.7 * 0.5, 1.0]
    np.testing.assert_allclose(problem.simulated(u), expected, rtol=1e-8)
    densities = stats.norm.logpdf([1, 1, 1.5], expected, [0.3, 0.3, 0.25 + 0.3])
    np.testing.assert_allclose(problem.pointwise_log_likelihood(u), densities, rtol=1e-8)


def test_observables_may_name_others(tmp_path):
    """In formulas and in noise, also each other's where no circle comes of it."""
    observables = "sum - a+2*b sd\na - A 0.1*sum+sd\nb - B^2 sd*b\n"
    tables = {"observables": observables, "experiments": "e 0 -\n"}
    path = write(tmp_path, **tables, measurements="sum e 1 3\na e 1 2\nb e 1 1\n")
    problem = read_petab(path, rtol=1e-10, atol=1e-12)
    a, b = 3 * math.exp(-0.5), math.exp(-2)
    expected = [a + 2 * b, a, b]
    np.testing.assert_allclose(problem.simulated(problem.nominal), expected, rtol=1e-8)
    densities = stats.norm.logpdf([3, 2, 1], expected, [0.5, 0.1 * expected[0] + 0.5, 0.5 * b])
    np.testing.assert_allclose(problem.pointwise_log_likelihood(problem.nominal), densities, rtol=1e-7)


NOISES = {
    "-": stats.norm.logpdf(2.5, 3, 0.5),
    "normal": stats.norm.logpdf(2.5, 3, 0.5),
    "laplace": stats.laplace.logpdf(2.5, 3, 0.5),
    "log-normal": stats.lognorm.logpdf(2.5, 0.5, scale=3),
    "log-laplace": stats.loglaplace.logpdf(2.5, 2, scale=3),
}


def test_noise_distributions(tmp_path):
    observables = "".join(f"y{k} - A sd {name}\n" for k, name in enumerate(NOISES))
    measurements = "".join(f"y{k} - 0 2.5\n" for k in range(len(NOISES)))
    problem = read_petab(write(tmp_path, observables=observables, measurements=measurements, experiments=""))
    np.testing.assert_allclose(problem.pointwise_log_likelihood(problem.nominal), list(NOISES.values()), rtol=1e-12)


# ---- parameters

PRIORS = {
    "cauchy 1;0.7": stats.cauchy(1, 0.7),
    "chisquare 3": stats.chi2(3),
    "exponential 0.8": stats.expon(scale=0.8),
    "gamma 2;0.6": stats.gamma(2, scale=0.6),
    "laplace 1;0.4": stats.laplace(1, 0.4),
    "log-laplace 0.2;0.4": stats.loglaplace(1 / 0.4, scale=math.exp(0.2)),
    "log-normal 0.2;0.4": stats.lognorm(0.4, scale=math.exp(0.2)),
    "log-uniform 0.5;4": stats.loguniform(0.5, 4),
    "normal 1;0.7": stats.norm(1, 0.7),
    "rayleigh 0.8": stats.rayleigh(scale=0.8),
    "uniform 0.5;4": stats.uniform(0.5, 3.5),
}


@pytest.mark.parametrize(("lower", "upper"), [("-", "-"), ("-1", "-"), ("-", "2"), ("0.75", "2.5"), ("-inf", "inf")])
def test_priors_are_truncated_by_their_bounds(tmp_path, lower, upper):
    lines = "".join(f"p{k} {lower} {upper} 1.25 true {prior}\n" for k, prior in enumerate(PRIORS))
    problem = read_petab(write(tmp_path, parameters=f"sd 0 1 0.5 true\ngain 0 1 0 0\nlevel 0 1 0 0\n{lines}"))
    low, high = (float(b) if b != "-" else end for b, end in ((lower, -np.inf), (upper, np.inf)))
    for p, theirs in zip([p for p in problem.estimated if p.name != "sd"], PRIORS.values(), strict=True):
        mass = theirs.cdf(high) - theirs.cdf(low)
        ours = p.effective_prior
        found = float(ours.distribution().logpdf(1.25)) - truncation.log_mass(ours, *p.prior_bounds)
        assert found == pytest.approx(theirs.logpdf(1.25) - math.log(mass), rel=1e-12), p


def test_bounds_that_leave_nothing_of_a_prior_are_refused(tmp_path):
    for line in ("gain 5 9 6 true uniform 0;1", "gain -3 -1 -2 true exponential 1", "gain -2 -1 - true log-normal 0;1"):
        with pytest.raises(PEtabError, match=r"parameters.tsv, line 3: .*'gain'"):
            read_petab(write(tmp_path, {("parameters.tsv", 3): tabbed(line)}))


@pytest.mark.parametrize("word", ["true", "True", "TRUE", "1", "false", "False", "FALSE", "0"])
def test_spellings_of_truth(tmp_path, word):
    problem = read_petab(write(tmp_path, {("parameters.tsv", 3): f"gain\t-3\t3\t1.5\t{word}"}))
    assert ("gain" in problem.parameter_names) == (word.lower() in ("true", "1"))


# ---- what is refused

LINES = [  # file, line, what it is replaced by, and what is said of it
    ("parameters.tsv", 2, "2k 0 1 1 true", "'parameterId': '2k' is no id"),
    ("parameters.tsv", 2, "time 0 1 1 true", "'parameterId': 'time' means something else"),
    ("parameters.tsv", 3, "sd 0 1 1 true", "'parameterId': 'sd' is defined already, in .*line 2"),
    ("parameters.tsv", 2, "sd 0 1 1 yes", "'estimate': unknown 'yes'; choose from"),
    ("parameters.tsv", 2, "sd 0 - 1 true", "'upperBound': 'sd' is estimated .* needs this bound"),
    ("parameters.tsv", 2, "sd - 1 1 true", "'lowerBound': 'sd' is estimated .* needs this bound"),
    ("parameters.tsv", 2, "sd 2 1 1 true", "2.0 is not below the upper bound 1.0"),
    ("parameters.tsv", 2, "sd x 1 1 true", "'lowerBound': 'x' is no number"),
    ("parameters.tsv", 4, "level 0 1 - false", "'nominalValue': 'level' is not estimated, so it needs a value"),
    ("parameters.tsv", 3, "gain 0 1 1 true beta 1;2", "'priorDistribution': unknown 'beta'; choose from"),
    ("parameters.tsv", 3, "gain 0 1 1 true normal 1", r"'priorParameters': 'normal' takes 2 number\(s\)"),
    ("parameters.tsv", 3, "gain 0 1 1 true rayleigh a", r"'priorParameters': 'rayleigh' takes 1 number\(s\)"),
    ("parameters.tsv", 3, "gain 0 1 1 true normal 1;-2", "'priorParameters': .*-2"),
    ("parameters.tsv", 3, "gain 0 1 1 true - 1;2", "'priorDistribution': it is empty, but priorParameters are given"),
    ("observables.tsv", 3, "a - B sd", "'observableId': 'a' is defined already, in .*line 2"),
    ("observables.tsv", 2, "a - A+ sd", r"'observableFormula': cannot read the formula 'A\+'"),
    ("observables.tsv", 2, "a - A nothing", r"'noiseFormula': \['nothing'\] are defined neither"),
    ("observables.tsv", 2, "a - a+A sd", r"'observableFormula': \['a'\] are defined neither"),
    ("observables.tsv", 2, "a - A sd cauchy", "'noiseDistribution': unknown 'cauchy'; choose from"),
    ("observables.tsv", 2, "a - b+c sd normal x;x", "'observablePlaceholders': 'x' is no id, or stands here twice"),
    ("observables.tsv", 2, "a - A*x sd normal x;2y", "'observablePlaceholders': '2y' is no id"),
    ("observables.tsv", 2, "a - A*x sd normal x;y", "'observablePlaceholders': the last one is in no formula of 'a'"),
    ("observables.tsv", 2, "a - A sd normal - z", "'noisePlaceholders': the last one is in no formula of 'a'"),
    ("conditions.tsv", 3, "slow k 1", "'targetId': the condition sets 'k' already, in .*line 2"),
    ("conditions.tsv", 2, "slow sd 1", "'targetId': 'sd' is in the parameter table, so no condition can set it"),
    ("conditions.tsv", 2, "slow k -", "'targetValue': it is empty; give a number or a formula"),
    ("conditions.tsv", 2, "slow none 1", "'targetId': 'none' is no species, compartment or parameter"),
    ("conditions.tsv", 2, "slow part 1", "'targetId': 'part' is computed by a rule of the model; set what"),
    ("conditions.tsv", 2, "2slow k 1", "'conditionId': '2slow' is no id"),
    ("conditions.tsv", 2, "slow k 1+", r"'targetValue': cannot read the formula '1\+'"),
    ("conditions.tsv", 2, "slow k k+nothing", r"'targetValue': \['nothing'\] are defined neither"),
    ("experiments.tsv", 2, "e 0 fast", "'conditionId': unknown 'fast'; known are"),
    ("experiments.tsv", 2, "e inf slow", "'time': a period cannot begin at inf"),
    ("experiments.tsv", 2, "e soon slow", "'time': 'soon' is no number"),
    ("experiments.tsv", 2, "2e 0 slow", "'experimentId': '2e' is no id"),
    ("experiments.tsv", 4, "e 2 more", "'conditionId': two conditions set 'supply' at time 2"),
    ("measurements.tsv", 2, "x e 0 1", "'observableId': unknown 'x'; known are"),
    ("measurements.tsv", 2, "a x 0 1", "'experimentId': unknown 'x'; known are"),
    ("measurements.tsv", 2, "a e late 1", "'time': 'late' is no finite number"),
    ("measurements.tsv", 2, "a e -inf 1", "'time': '-inf' is no finite number"),
    ("measurements.tsv", 2, "a e 0 inf", "'measurement': 'inf' is no finite number"),
    ("measurements.tsv", 2, "a e -1 1", "'time': -1.0 lies before the start of 'e' at time 0"),
    ("measurements.tsv", 2, "a e 0 1 2", r"'observableParameters': 'a' takes 0 value\(s\) here, not 1"),
    ("mapping.tsv", 2, "rate out.p", "'modelEntityId': the model has no 'out.p'"),
    ("mapping.tsv", 2, "k out.q", "'petabEntityId': 'k' names something else"),
    ("mapping.tsv", 2, "2k out.q", "'petabEntityId': '2k' is no id"),
]


@pytest.mark.parametrize(("name", "line", "text", "message"), LINES)
def test_a_wrong_line_is_refused_by_its_place(tmp_path, name, line, text, message):
    path = write(tmp_path, {(name, line): tabbed(text)})
    with pytest.raises(PEtabError, match=f"{tmp_path / name}, line {line}.*{message}"):
        read_petab(path)


def test_the_problem_that_is_spoilt_there_is_none_itself(tmp_path):
    assert read_petab(write(tmp_path)).num_lanes == 1


OBSERVABLES = [
    ("y - z+1 sd\nz - y sd\n", r"line [23], column 'observableFormula': the formulas of \['y', 'z'\] form a circle"),
    ("y - A sd\nz - y*x sd normal x\nw - z sd\n", "line 4, column 'observableFormula': 'z' has placeholders"),
    ("y - A sd\nz - y*x sd normal x\nw - A z\n", "line 4, column 'noiseFormula': 'z' has placeholders"),
    (
        "".join(f"y{k} - y{k + 1} sd\n" for k in range(300)) + "y300 - A sd\n",
        "column 'observableFormula': more than 100 observables name one another",
    ),
    (
        "".join(f"y{k} - y{k + 1}+y{k + 1} sd\n" for k in range(40)) + "y40 - A sd\n",
        "written out it has more than 100,000 characters",
    ),
]


@pytest.mark.parametrize(("observables", "message"), OBSERVABLES)
def test_observables_that_cannot_be_written_out_are_refused(tmp_path, observables, message):
    with pytest.raises(PEtabError, match=f"observables.tsv, {message}" if message.startswith("line") else message):
        read_petab(write(tmp_path, observables=observables))


FILES = [
    ("problem.yaml", 4, "  m: 1\n  n:", "it has 2 models; only one is supported"),
    ("problem.yaml", 6, "    language: pysb", "the model's language is 'pysb', not sbml"),
    ("problem.yaml", 1, "format_version: 2.0.0\nextensions: {sciml: 1}", "extensions are not supported"),
    ("problem.yaml", 2, "", "'parameter_files' is missing"),
    ("problem.yaml", 3, "models:", "'model_files' is missing"),
    ("problem.yaml", 5, "    place: model.xml", "'location' is missing"),
    ("problem.yaml", 7, "condition_files: [../conditions.tsv]", "names '../conditions.tsv', outside"),
    ("conditions.tsv", 1, "conditionId\ttargetId", "the column 'targetValue' is missing"),
    ("experiments.tsv", 1, "experimentId\tconditionId", "the column 'time' is missing"),
    ("measurements.tsv", 1, "observableId\ttime", "the column 'measurement' is missing"),
    ("mapping.tsv", 1, "petabEntityId", "the column 'modelEntityId' is missing"),
]


@pytest.mark.parametrize(("name", "line", "text", "message"), FILES)
def test_a_wrong_file_is_refused_by_its_name(tmp_path, name, line, text, message):
    path = write(tmp_path, {(name, line): text})
    with pytest.raises((PEtabError, UnsupportedPEtabError), match=f"{tmp_path / name}: .*{message}"):
        read_petab(path)


def test_more_is_refused(tmp_path):
    with pytest.raises(PEtabError, match=r"measurements.tsv: there are no measurements"):
        read_petab(write(tmp_path, measurements=""))
    tables = {"experiments": "e -inf slow\ne 0 more\ne_preequilibration 0 -\n"}
    with pytest.raises(PEtabError, match=r"line 4, .*: 'e_preequilibration' is that before 'e'; rename it"):
        read_petab(write(tmp_path, **tables))
    lists = {**LISTS, "InitialAssignments": assignment("first", f("floor(A)"))}
    with pytest.raises(UnsupportedPEtabError, match=r"experiments.tsv, line 2: what follows from 'e' at -inf: .*floor"):
        read_petab(write(tmp_path, lists=lists, conditions="rest A level\n", experiments="e -inf rest\ne 0 -\n"))
    mapped = "rate out.q\nrate k\n"
    with pytest.raises(PEtabError, match=r"mapping.tsv, line 3, column 'petabEntityId': 'rate' names something else"):
        read_petab(write(tmp_path, mapping=mapped))


def test_files_may_be_left_out(tmp_path):
    path = write(tmp_path, measurements=rows("a", [1.0], "-"))
    lines = [line for line in YAML.split("\n") if not line.startswith(("condition", "experiment", "mapping"))]
    path.write_text("\n".join(lines))
    assert float(read_petab(path).simulated(np.array([0.5, 1.5]))[0]) == pytest.approx(3 * math.exp(-0.5), rel=1e-5)


WORDS = ["-inf", "inf", "1e999", "\x00", "[", "1;2", "nan", "time", "A", "e", "-1", "out.q", "true", "a", "k+A", "A/0"]


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(set(TABLES) - {"problem.yaml"})),
    line=st.integers(0, 10),
    column=st.integers(0, 10),
    text=st.one_of(st.text(max_size=10), st.sampled_from(WORDS)),
)
def test_no_cell_is_refused_with_another_error(tmp_path_factory, name, line, column, text):
    lines = tabbed(TABLES[name]).split("\n")[:-1]
    cells = list(itertools.chain(lines[line % len(lines)].split("\t")))
    cells[column % len(cells)] = text.encode("utf-8", "replace").decode()
    path = write(tmp_path_factory.getbasetemp() / "spoilt", {(name, line % len(lines) + 1): "\t".join(cells)})
    with contextlib.suppress(PEtabError, FileNotFoundError):
        read_petab(path)
