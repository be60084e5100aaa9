"""The command line, from a model file and a table to a prediction."""

import re

import pandas as pd
import pytest
from typer.testing import CliRunner

import kinbayes as kb
from kinbayes.cli import app
from kinbayes.results.attributes import attributes

EXAMPLE = kb.example("conversion_reaction")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command in an empty folder; return its exit code and all it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def command(*args):
        result = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)
        return result.exit_code, " ".join(result.output.split())  # lines break where the terminal ends

    return command


def written(output):
    """The path that a command says it wrote."""
    return re.search(r"wrote (\S+)", output).group(1)


def test_a_problem_is_checked(run):
    code, output = run("check", EXAMPLE)
    assert code == 0
    assert "2 parameters, 2 states, 2 observables, 1 experiments, 16 measurements" in output
    assert "Normal(mean=8, sd=4)" in output
    assert "the gradient agrees with finite differences" in output


def test_a_model_is_checked(run, tmp_path):
    code, output = run("check", EXAMPLE.parent / "model.xml")
    assert code == 0
    assert "SBML Level 3" in output
    assert re.search(r"species +2", output)
    assert output.endswith("can be simulated")
    bad = tmp_path / "bad.xml"
    bad.write_text((EXAMPLE.parent / "model.xml").read_text().replace('id="k1" value=', 'id="k1" name='))
    code, output = run("check", bad)
    assert code == 1
    assert "['k1'] have no finite value" in output
    assert output.endswith("cannot be simulated")  # and no error besides
    code, output = run("check", "nowhere.xml")
    assert code == 1
    assert "error: no such SBML file: nowhere.xml" in output


@pytest.mark.slow
def test_a_proposal_is_learned_and_told_of(run, tmp_path):
    code, output = run("amortize", EXAMPLE, "--max-evaluations", 2000, "--epochs", 20, "--starts", 2, "--search", 2)
    assert code == 0
    assert "feasible share at condition 0" in output
    assert kb.load_proposal(tmp_path / "proposal.npz").network_name == "cvae"
    page = (tmp_path / "proposal.html").read_text()
    assert page.count("<img") == 8
    assert "<h2>Search</h2>" in page
    assert "search_runs" not in page


def test_from_a_problem_to_a_prediction(run, tmp_path):
    code, output = run(
        "sample",
        EXAMPLE,
        "--sampler",
        "random_walk",
        "--draws",
        50,
        "--warmup",
        200,
        "--set",
        "step_size=0.3",
    )
    assert code == 0
    assert "NOT CONVERGED" in output
    assert written(output) == "run.nc"
    assert kb.load(tmp_path / "run.nc").posterior.sizes["draw"] == 50

    code, output = run("predict", "run.nc", EXAMPLE, "--times", "0,2,4")
    assert code == 0
    assert "A_measured" in output
    assert kb.load(tmp_path / written(output)).predictions["A_measured"].shape == (1, 200, 3)


def test_a_mode_is_found_and_sampled_from(run, tmp_path):
    code, output = run("optimize", EXAMPLE, "--starts", 3)
    assert code == 0
    assert "9.976" in output  # the closed form of the example's README
    assert written(output) == "map.nc"
    code, output = run(
        "sample", EXAMPLE, "--sampler", "random_walk", "--draws", 20, "--warmup", 20, "--initial", "map.nc"
    )
    assert code == 0
    assert (tmp_path / "run.nc").is_file()


def test_tempering_takes_settings_of_both_samplers_and_tells_the_evidence(run, tmp_path):
    given = ("rungs=4", "inner=adaptive_metropolis", "inner.pool=false", "inner.step_size=0.5")
    settings = [part for text in given for part in ("--set", text)]
    code, output = run("sample", EXAMPLE, "--sampler", "parallel_tempering", "--draws", 50, "--warmup", 50, *settings)
    assert code == 0
    found = attributes(kb.load(tmp_path / "run.nc"))
    assert found["settings"]["rungs"] == 4
    assert found["settings"]["inner_settings"]["pool"] is False
    assert found["settings"]["inner_settings"]["step_size"] == 0.5
    assert f"log evidence {found['log_evidence']:.2f}" in output
    assert "NOT CONVERGED" in output
    for reason in found["not_converged_because"]:
        assert reason in output
    code, output = run("sample", EXAMPLE, "--sampler", "parallel_tempering", "--set", "inner.leaps=2")
    assert code == 1
    assert "unknown settings ['leaps'] of 'adaptive_metropolis'" in output


def test_a_run_is_stopped_and_gone_on_with(run, tmp_path):
    lengths = ("--warmup", 60, "--chains", 2, "--thin", 1, "--seed", 1)
    asked = ("sample", EXAMPLE, "--sampler", "random_walk", *lengths)
    code, output = run(*asked, "--draws", 150, "--out", "whole.nc", "--keep-warmup")
    assert code == 0
    kept = (*asked, "--checkpoint", "run.zarr", "--out", "part.nc", "--keep-warmup")
    code, output = run(*kept, "--draws", 150, "--max-simulations", 300)
    assert code == 0
    assert f"go on with it: kinbayes resume run.zarr {EXAMPLE}" in output
    code, output = run(*kept, "--draws", 100)
    assert code == 1
    assert "run.zarr exists: go on with it by resume=True" in output
    code, output = run("resume", "run.zarr", EXAMPLE, "--out", "resumed.nc")
    assert code == 0
    assert "posterior median and 95 % credible interval" in output
    whole, resumed = kb.load("whole.nc"), kb.load("resumed.nc")
    assert whole.posterior.equals(resumed.posterior)
    assert whole.warmup_posterior.equals(resumed.warmup_posterior)
    assert whole.log_likelihood.equals(resumed.log_likelihood)
    code, output = run("resume", "run.zarr", EXAMPLE)  # which is as long as it was asked to be
    assert (code, written(output)) == (0, "run.zarr")
    code, output = run("resume", "run.zarr", kb.example("lynx_hare"))
    assert code == 1
    assert "run.zarr was begun with another problem: 'conversion_reaction'" in output
    code, output = run("resume", "nowhere.zarr", EXAMPLE)
    assert (code, output) == (1, "error: there is no checkpoint nowhere.zarr")


def test_a_search_is_gone_on_with(run, tmp_path):
    kept = ("--archive", "points.zarr")
    code, output = run("optimize", EXAMPLE, "--starts", 3, "--max-evaluations", 9, "--checkpoint", "run.zarr", *kept)
    assert code == 0
    code, output = run("resume", "run.zarr", EXAMPLE, "--length", 1000, *kept)
    assert code == 0
    assert "the best ends, best first" in output
    found = attributes(kb.load("run.zarr"))
    assert found["stopped"] == "finished"
    assert len(kb.read_archive("points.zarr")) == found["evaluations"]


def test_a_model_is_simulated(run, tmp_path):
    code, output = run("simulate", EXAMPLE.parent / "model.xml", "--times", "0:10:11", "--set", "k2=0")
    assert code == 0
    table = pd.read_csv(tmp_path / written(output))
    assert table["A"].iloc[-1] == pytest.approx(10 * 2.718281828459045**-3, rel=1e-5)


def test_an_antimony_model_is_checked_and_simulated(run, tmp_path):
    pytest.importorskip("antimony")
    code, output = run("check", EXAMPLE.parent / "model.ant")
    assert code == 0
    assert output.endswith("can be simulated")
    code, output = run("simulate", EXAMPLE.parent / "model.ant", "--times", "0:10:11", "--set", "k2=0")
    assert code == 0
    table = pd.read_csv(tmp_path / written(output))
    assert table["A"].iloc[-1] == pytest.approx(10 * 2.718281828459045**-3, rel=1e-5)


def test_a_starting_problem_is_written_and_can_be_checked(run, tmp_path):
    (tmp_path / "data.csv").write_text("time,A,B\n0,10,1\n1,7.5,3.3\n5,3.9,7.2\n")
    code, output = run("init", EXAMPLE.parent / "model.xml", "data.csv", "--folder", "mine")
    assert code == 0
    assert "k1" in output
    code, output = run("check", written(output))
    assert code == 0


def test_an_error_is_one_message_and_writes_nothing(run, tmp_path):
    code, output = run("sample", "nowhere.yaml")
    assert code == 1
    assert "nowhere.yaml" in output
    assert "Traceback" not in output
    code, output = run("sample", EXAMPLE, "--sampler", "gibbs")
    assert code == 1
    assert "unknown sampler 'gibbs'" in output
    code, output = run("sample", EXAMPLE, "--out", "nowhere/run.nc")
    assert code == 1
    assert "choose another --out" in output
    for setting, message in (("step_size", "write it as name=value"), ("step_size=big", "must be a number")):
        code, output = run("sample", EXAMPLE, "--set", setting)
        assert code == 1
        assert message in output
    code, output = run("simulate", EXAMPLE.parent / "model.xml", "--times", "0:10")
    assert code == 1
    assert "write start:stop:count" in output
    assert list(tmp_path.iterdir()) == []
