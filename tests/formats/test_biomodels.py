"""The curated BioModels against libroadrunner and COPASI; and what is known of those that do not agree."""

import json

import pytest

biomodels = pytest.importorskip("paper.benchmarks.biomodels")

if not (biomodels.DATA / "biomodels.zip").is_file():
    pytest.skip(f"the BioModels are not here: {biomodels.DATA}", allow_module_level=True)

# Models with a reference.
DIFFER = {
    # 3.160776e-11 at all tolerances, and by SciPy's Radau; the reference's absolute tolerance is 1e-12
    "BIOMD0000000227": "s114 at 50: 3.160775",
}

# Models without one.
OUT_OF_SCOPE = {
    "BIOMD0000000025": "delay is not supported",
    "BIOMD0000000034": "delay is not supported",
    "BIOMD0000000137": "fast reactions are not supported",
    "BIOMD0000000154": "delay is not supported",
    "BIOMD0000000155": "delay is not supported",
    "BIOMD0000000196": "delay is not supported",
    "BIOMD0000000424": "fast reactions are not supported",
    "BIOMD0000000490": "fast reactions are not supported",
    "BIOMD0000000512": "fast reactions are not supported",
    "BIOMD0000000527": "failed at time 10",  # its piecewise rate is defined up to 10
    "BIOMD0000000562": "the package 'qual'",
    "BIOMD0000000592": "the package 'qual'",
    "BIOMD0000000593": "the package 'qual'",
}


@pytest.fixture(scope="module")
def reference():
    return json.loads((biomodels.DATA / "reference" / "biomodels.json").read_text())["models"]


def unexpected(found, expected):
    """Return the outcomes that are not those expected, by model."""
    return {row.model: row.reason for row in found if expected.get(row.model, "\0") not in row.reason}


@pytest.mark.parametrize("name", ["BIOMD0000000010", "BIOMD0000000040", "BIOMD0000000113"])
def test_a_model_agrees(name):
    (row,) = biomodels.outcomes(biomodels.DATA, [name])
    print(row)
    assert row.outcome == "agree"
    assert row.difference < biomodels.AGREES


def test_a_wrong_value_does_not_agree(reference):
    name = "BIOMD0000000010"
    right = {"MKKK": reference[name]["t50"]["MKKK"]}
    for value, is_near in ((right["MKKK"], True), (right["MKKK"] * (1 + 2e-4), False), (float("nan"), False)):
        found = {"MKKK": biomodels.np.full(101, value)}
        difference, _ = biomodels.difference(found, {"t50": right, "t100": right})
        assert (difference <= biomodels.AGREES) == is_near


@pytest.mark.slow
def test_all_models_agree_but_those_explained(reference):
    rows = list(biomodels.outcomes(biomodels.DATA))
    assert len(rows) == 553
    known = [row for row in rows if row.model in reference]
    others = [row for row in rows if row.model not in reference]
    assert len(known) == 480
    assert unexpected([row for row in known if row.outcome != "agree"], DIFFER) == {}
    assert unexpected([row for row in others if row.outcome != "simulated"], OUT_OF_SCOPE) == {}
    print(f"{sum(row.outcome == 'agree' for row in known)} of {len(known)} agree, {len(others)} have no reference")
