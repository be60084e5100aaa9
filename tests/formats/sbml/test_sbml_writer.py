"""Writing SBML: what is read back means the same, to the last bit of every number."""

import math
import zipfile
from pathlib import Path

import libsbml
import numpy as np
import pytest

import kinbayes as kb
from kinbayes.formats.sbml.mathml import UnwritableError
from kinbayes.formats.sbml.reader import SBMLError, read_sbml_text
from kinbayes.formats.sbml.writer import model_ids, valid_ids, write_sbml
from kinbayes.model.expressions import OPERATIONS, TIME, ZERO, apply, const, evaluate, symbol, where
from kinbayes.model.model import Event, Model

ROOT = Path(__file__).parents[3]
BIOMODELS = ROOT.parent / "shared" / "data" / "biomodels.zip"
NOT_IN_SBML = {"digamma", "erfcx", "log_normal_cdf"}  # they come of likelihoods, no model has them
A, B, K = symbol("A"), symbol("B"), symbol("k")


def a_model(expressions=(), events=(), **parts):
    defaults = {
        "name": "a_model",
        "derivatives": {"A": -K * A, "B": K * A - B},
        "initial": {"A": const(1), "B": const(0), "k": const(0.3)},
        "units": {"k": "1/s", "A": "mole"},
    }
    return Model(**{**defaults, "expressions": dict(expressions), "events": tuple(events), **parts})


def again(model):
    return read_sbml_text(write_sbml(model), "the text")


def errors(text):
    """What libsbml finds wrong."""
    document = libsbml.readSBMLFromString(text)
    document.setConsistencyChecks(libsbml.LIBSBML_CAT_UNITS_CONSISTENCY, False)
    document.checkConsistency()
    found = [document.getError(i) for i in range(document.getNumErrors())]
    return [e.getMessage() for e in found if e.getSeverity() >= libsbml.LIBSBML_SEV_ERROR]


@pytest.mark.parametrize("op", sorted(OPERATIONS.keys() - NOT_IN_SBML))
def test_every_operation_has_the_same_values_after_a_round_trip(op):
    count = {"where": 3, "log_gamma": 1}.get(op) or OPERATIONS[op].numpy.nin
    node = where(apply("gt", A, B), B, K) if op == "where" else apply(op, *(A, B)[:count])
    model = a_model({"y": node, "z": node * 2 + apply("neg", node)})
    values = {name: np.random.default_rng(3).uniform(0.1, 0.9, (3, 50))[k] for k, name in enumerate(("A", "B", "k"))}
    if op == "acosh":
        values["A"] += 1
    text = write_sbml(model)
    assert errors(text) == []
    read = read_sbml_text(text, "the text")
    wanted, got = (np.array(evaluate([*m.expressions.values()], values), dtype=float) for m in (model, read))
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, wanted, rtol=1e-14 if op != "log_gamma" else 1e-13)


def test_factorials_read_back_equal():
    model = a_model({"y": apply("exp", apply("log_gamma", A + 1))})
    assert "<factorial/>" in write_sbml(model)
    assert again(model) == model


def test_signs_of_all_numbers_survive():
    read = again(a_model({"y": apply("sign", A)}))
    (got,) = evaluate([read.expressions["y"]], {"A": np.array([-2.0, -0.0, 0.0, 3.0, np.nan])})
    np.testing.assert_array_equal(got, [-1, 0, 0, 1, np.nan])


NUMBERS = [
    0.1 + 0.2,
    1 / 3,
    -2 / 3,
    1e-300,
    5e-324,
    1.7976931348623157e308,
    6.02214179e23,
    1e22,
    123456789.123456789,
    3.0,
]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_read_back_bit_for_bit(number):
    initial = {"A": const(number), "B": const(number) + K, "k": const(0.3), "p": const(number)}
    read = again(a_model({"y": A * number}, initial=initial))
    assert read.initial["A"].value == number
    assert read.initial["B"] is const(number) + K
    assert read.expressions["y"] is A * number


def test_numbers_that_are_infinite_or_open():
    initial = {"A": const(math.inf), "B": const(-math.inf), "k": const(math.nan)}
    model = a_model({"y": where(apply("gt", A, 1), math.inf, math.nan)}, initial=initial)
    assert again(model) == model


def test_a_model_reads_back_equal():
    chain = where(apply("lt", TIME, 1), A, where(apply("and", apply("ge", A, B), apply("ne", K, 2)), B, K * K))
    events = [
        Event("jump", apply("gt", TIME, 2), (("A", A + 1), ("B", ZERO)), delay=K, priority=A, is_true_before=False),
        Event("fall", apply("lt", A, B), (("A", B - 2 * K),), is_persistent=False, keeps_values=False),
    ]
    initial = {"A": symbol("B") * 2, "B": symbol("total") / 2, "k": const(0.3)}
    expressions = {"total": 3 * K, "flux": K * A * B, "chain": chain - (A + B + 1 - K) / (A * A * B)}
    derivatives = {"A": -symbol("flux"), "B": symbol("flux") - symbol("chain")}
    model = a_model(expressions, events, initial=initial, derivatives=derivatives)
    text = write_sbml(model)
    read = read_sbml_text(text, "the text")
    assert read == model
    assert read.name == "a_model"
    assert read.units == model.units
    assert errors(text) == []
    assert text.count("<ci> flux </ci>") == 2  # once a rate: it is written as its name where it is used


def test_names_that_are_no_ids_get_unique_ones():
    assert valid_ids(["a b", "a_b", "2x", "k", "k'", "π"], ["k_"]) == {
        **{"a b": "a_b_2", "a_b": "a_b", "2x": "_2x", "k": "k"},
        **{"k'": "k__2", "π": "_"},
    }
    model = a_model(
        derivatives={"amount of S": -symbol("r1.k") * symbol("amount of S")},
        initial={"amount of S": const(2), "r1.k": const(0.5), "size": const(1)},
        expressions={"S": symbol("amount of S") / symbol("size")},
        name="a model",
    )
    ids = model_ids(model, ["r1_k"])
    assert ids == {"amount of S": "amount_of_S", "r1.k": "r1_k_2", "size": "size", "S": "S"}
    text = write_sbml(model, taken=["r1_k"])
    read = read_sbml_text(text, "the text")
    assert errors(text) == []
    assert read.name == "a model"
    assert read.states == ("amount_of_S",)
    times = [0.0, 1.0, 2.0]
    np.testing.assert_array_equal(kb.simulate(read, times)["S"], kb.simulate(model, times)["S"])


def test_an_event_may_be_called_like_a_quantity():
    events = [Event(name, apply("gt", TIME, 1), (("A", ZERO),)) for name in ("A", "an event", "an_event")]
    text = write_sbml(a_model(events=events))
    assert errors(text) == []
    assert len({e.name for e in read_sbml_text(text, "the text").events}) == 3


def test_common_parts_are_not_written_over_and_over():
    node = A + B
    for _ in range(60):  # as a tree this would have 2**60 leaves
        node = apply("sin", node) * apply("cos", node)
    model = a_model({"y": node})
    text = write_sbml(model, taken=["part_1"])
    assert len(text) < 60_000
    assert 'id="part_1"' not in text
    assert again(model).expressions["y"] is node


def test_short_repetitions_stay_where_they_are():
    flux = K * A / (A + 1)
    assert "part_" not in write_sbml(a_model(derivatives={"A": -flux, "B": flux}))


@pytest.mark.parametrize("op", ["sin", "div", "where", "add", "max"])
def test_nesting_has_no_limit(op):
    node = A
    for k in range(1500):
        if op == "where":
            node = where(apply("lt", B, k), k, node)
        else:
            node = apply(op, node) if op == "sin" else apply(op, node, B + k)
    model = a_model({"y": node})
    assert again(model).expressions["y"] is node


def test_what_sbml_cannot_say_is_refused():
    for op in NOT_IN_SBML:
        with pytest.raises(UnwritableError, match=f"no function for '{op}'"):
            write_sbml(a_model({"y": apply(op, A)}))
    first = Event("dose", apply("gt", TIME, 1), (("A", ZERO),), comes_first=True)
    with pytest.raises(UnwritableError, match=r"events \['dose'\]"):
        write_sbml(a_model(events=[first]))


@pytest.mark.parametrize("name", ["conversion_reaction", "enzyme_progress", "influenza", "lynx_hare"])
def test_the_examples_read_back_equal(name):
    model = kb.read_sbml(ROOT / "models" / name / "model.xml")
    assert again(model) == model


def biomodels():
    if not BIOMODELS.exists():
        return []
    with zipfile.ZipFile(BIOMODELS) as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".xml"))
        # Small ones: these are about what a model uses, and simulating the large ones takes long.
        return [n for n in names if archive.getinfo(n).file_size < 60_000][::14][:20]


@pytest.mark.skipif(not BIOMODELS.exists(), reason="the BioModels are not here")
@pytest.mark.parametrize("name", biomodels())
def test_biomodels_behave_alike_after_a_round_trip(name):
    with zipfile.ZipFile(BIOMODELS) as archive:
        text = archive.read(name).decode()
    try:
        model = read_sbml_text(text, name)
    except SBMLError as error:
        pytest.skip(f"it is refused: {error}")
    written = write_sbml(model)
    assert errors(written) == []
    ids, times = model_ids(model), np.linspace(0, 5, 6)
    wanted, got = (kb.simulate(m, times, rtol=1e-9, atol=1e-12) for m in (model, read_sbml_text(written, name)))
    for variable in (*model.states, *model.expressions):
        np.testing.assert_allclose(got[ids[variable]], wanted[variable], rtol=1e-7, atol=1e-9, err_msg=variable)
