"""What README.md shows runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import kinbayes as kb

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_two_commands_stand_first():
    first = re.findall(r"^    (.*)$", README, re.MULTILINE)[:2]
    assert first == ["pip install . && kinbayes demo", "pip install -e '.[test]' && pytest"]


def test_every_public_name_in_the_python_block_exists():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = set(re.findall(r"kb\.(\w+)", block))
    assert names
    assert names <= set(kb.__all__)


@pytest.mark.slow
def test_the_python_block_finds_the_published_answer(tmp_path, monkeypatch):
    (tmp_path / "models").symlink_to(Path(__file__).parents[1] / "models")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    subprocess.run([sys.executable, "-c", block], check=True)
    idata = kb.load("run.nc")
    # Carpenter (2018), "Predator-Prey Population Dynamics: the Lotka-Volterra model in Stan": posterior means, rounded.
    published = {"alpha": (0.55, 0.01), "beta": (0.028, 0.001), "gamma_": (0.80, 0.01), "delta": (0.024, 0.001)}
    for name, (mean, last_digit) in published.items():
        assert float(idata.posterior[name].mean()) == pytest.approx(mean, abs=last_digit)
    assert idata.attrs["converged"] == 1
