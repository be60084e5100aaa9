"""What README.md shows runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import kinbayes as kb

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_two_commands_stand_first():
    first = re.findall(r"^    (.*)$", README, re.MULTILINE)[:2]
    assert first == ["pip install . && kinbayes demo", "pip install -e '.[test]' && pytest"]


def test_every_public_name_in_the_python_blocks_exists():
    for block in BLOCKS:
        names = set(re.findall(r"kb\.(\w+)", block))
        assert names
        assert names <= set(kb.__all__)


PRELUDE = """
import numpy as np, pandas as pd, kinbayes as kb
from kinbayes.model.formula import parse
rates = {"drug": "k_in - light * drug"}
model = kb.Model("m", {n: parse(e) for n, e in rates.items()}, {n: parse("1") for n in ("drug", "k_in", "light")})
parameters = [kb.Parameter("bolus", kb.LogNormal(0, 1))]
observables = [kb.Observable("y", "drug", kb.noise.normal("0.1"))]
table = pd.DataFrame({"time": [0.0, 15.0, 30.0], "value": [0.1, 0.3, 0.2]})
rows = [("y", "dose", 12.0, 3.0), ("y", "dose", 25.0, 0.5), ("y", "washout", 30.0, 5.0)]
data = pd.DataFrame(rows, columns=["observableId", "simulationConditionId", "time", "measurement"])
"""


def test_the_block_of_experiments_makes_a_problem():
    (block,) = (block for block in BLOCKS if "kb.Period" in block)
    code = f"{PRELUDE}\n{block}\nassert problem.evaluate([[0.3]]).status == [0]\nassert problem.num_lanes == 2"
    subprocess.run([sys.executable, "-c", code], check=True)


HIERARCHY = """
import numpy as np, pandas as pd, pymc as pm, kinbayes as kb
example = kb.read_petab(kb.example("conversion_reaction"))
parameters = [kb.Parameter("A_0", kb.Normal(8, 4)), kb.Parameter("k1", kb.LogNormal(-1, 1), scale="log10")]
rows = [("A_measured", 1.0, 6.0), ("A_measured", 4.0, 3.0)]
data = pd.DataFrame(rows, columns=["observableId", "time", "measurement"])
problem = kb.Problem(example.model, parameters, example.observables[:1], data)
problems = {"one": problem, "two": problem.with_data(data.assign(measurement=[5.0, 4.0]))}
"""


@pytest.mark.slow
def test_the_block_of_a_larger_model_samples_it():
    (block,) = (block for block in BLOCKS if "pm.Model()" in block)
    short = block.replace("pm.sample(", "pm.sample(draws=4, tune=4, chains=1, progressbar=False, ")
    assert short != block
    code = f"{HIERARCHY}\n{short}\nassert set(idata.posterior) >= {{'mu', 'sigma', 'rate_one', 'rate_two'}}"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_python_blocks_find_the_published_answer(tmp_path, monkeypatch):
    (tmp_path / "models").symlink_to(Path(__file__).parents[1] / "models")
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-c", f"{BLOCKS[0]}\n{BLOCKS[1]}"], check=True)
    idata = kb.load("run.nc")
    # Carpenter (2018), "Predator-Prey Population Dynamics: the Lotka-Volterra model in Stan": posterior means, rounded.
    published = {"alpha": (0.55, 0.01), "beta": (0.028, 0.001), "gamma_": (0.80, 0.01), "delta": (0.024, 0.001)}
    for name, (mean, last_digit) in published.items():
        assert float(idata.posterior[name].mean()) == pytest.approx(mean, abs=last_digit)
    assert idata.attrs["converged"] == 1
