from pathlib import Path

import numpy as np
import pandas as pd
import petab.v1
import pytest
from scipy.special import lambertw

MODELS = Path(__file__).parents[1] / "models"
NAMES = sorted(folder.name for folder in MODELS.iterdir())

RATE_FORWARD, RATE_BACKWARD = 0.3, 0.1
CONVERSION_NOISE = 0.5


def measurements(name: str, observable: str) -> tuple[np.ndarray, np.ndarray]:
    """Times and measured values of one observable, as the table has them."""
    table = pd.read_csv(MODELS / name / "measurements.tsv", sep="\t")
    rows = table[table["observableId"] == observable]
    return rows["time"].to_numpy(float), rows["measurement"].to_numpy()


def conversion_design(times: np.ndarray) -> np.ndarray:
    """(A, B) by time and initial amount: shape (2, times, 2), since the solution is linear in (A_0, B_0)."""
    total = RATE_FORWARD + RATE_BACKWARD
    decay = np.exp(-total * times)
    a = np.stack([RATE_BACKWARD + RATE_FORWARD * decay, RATE_BACKWARD * (1 - decay)], axis=-1) / total
    return np.stack([a, 1 - a])


def test_the_four_models_are_here():
    assert NAMES == ["conversion_reaction", "enzyme_progress", "influenza", "lynx_hare"]


@pytest.mark.parametrize("name", NAMES)
def test_petab_finds_no_error(name):
    problem = petab.v1.Problem.from_yaml(MODELS / name / "problem.yaml")
    assert not petab.v1.lint_problem(problem)


@pytest.mark.parametrize("name", NAMES)
def test_every_estimated_parameter_has_a_prior(name):
    parameters = petab.v1.Problem.from_yaml(MODELS / name / "problem.yaml").parameter_df
    assert (parameters["estimate"] == 1).all()
    assert parameters["objectivePriorType"].notna().all()


@pytest.mark.parametrize("name", NAMES)
def test_readme_names_every_parameter(name):
    text = (MODELS / name / "README.md").read_text(encoding="utf-8")
    parameters = pd.read_csv(MODELS / name / "parameters.tsv", sep="\t")
    assert [p for p in parameters["parameterId"] if f"`{p}`" not in text] == []


@pytest.mark.parametrize("name", NAMES)
def test_sbml_is_made_from_antimony(name):
    antimony = pytest.importorskip("antimony")
    antimony.clearPreviousLoads()
    assert antimony.loadAntimonyFile(str(MODELS / name / "model.ant")) > 0, antimony.getLastError()
    made = antimony.getSBMLString(name).splitlines()
    stored = (MODELS / name / "model.xml").read_text(encoding="utf-8").splitlines()
    assert made[2:] == stored[2:], "line 2 names the version of Antimony; the rest must agree"


def test_conversion_reaction_data_come_from_their_truth():
    times, a_measured = measurements("conversion_reaction", "A_measured")
    _, b_measured = measurements("conversion_reaction", "B_measured")
    noise = CONVERSION_NOISE * np.random.RandomState(1).standard_normal((2, times.size))
    made = conversion_design(times) @ np.array([10.0, 1.0]) + noise
    np.testing.assert_array_equal(np.stack([a_measured, b_measured]), made.round(4))


def test_conversion_reaction_readme_states_the_closed_form_posterior():
    times, a_measured = measurements("conversion_reaction", "A_measured")
    _, b_measured = measurements("conversion_reaction", "B_measured")
    design = conversion_design(times).reshape(-1, 2)
    prior_mean, prior_sd = np.array([8.0, 3.0]), 4.0
    covariance = np.linalg.inv(np.eye(2) / prior_sd**2 + design.T @ design / CONVERSION_NOISE**2)
    data = np.concatenate([a_measured, b_measured])
    mean = covariance @ (prior_mean / prior_sd**2 + design.T @ data / CONVERSION_NOISE**2)
    sd = np.sqrt(np.diag(covariance))
    correlation = covariance[0, 1] / sd.prod()

    text = (MODELS / "conversion_reaction" / "README.md").read_text(encoding="utf-8")
    assert f"| `A_0` | {mean[0]:.6f} | {sd[0]:.6f} | {correlation:.6f} |".replace("-", "−") in text
    assert f"| `B_0` | {mean[1]:.6f} | {sd[1]:.6f} | |" in text


def test_enzyme_progress_data_come_from_their_truth():
    times, measured = measurements("enzyme_progress", "product_measured")
    substrate_0, v_max, k_m, sigma = 5.0, 0.5, 2.0, 0.05
    substrate = k_m * lambertw(substrate_0 / k_m * np.exp((substrate_0 - v_max * times) / k_m)).real
    made = substrate_0 - substrate + sigma * np.random.RandomState(2).standard_normal(times.size)
    np.testing.assert_array_equal(measured, made.round(4))
