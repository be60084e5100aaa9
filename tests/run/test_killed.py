"""Runs that are killed at random moments, in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["random_walk", "nutpie", "quasi_newton"])
def test_a_killed_run_ends_as_one_that_was_left_alone(tmp_path, algorithm):
    script = ROOT / "paper" / "benchmarks" / "kills.py"
    command = [sys.executable, script, "--quick", "--only", algorithm, "--out", tmp_path]
    subprocess.run(command, check=True, timeout=600, stdout=subprocess.DEVNULL)
    found = pd.read_csv(tmp_path / "kills.csv")
    assert found.killed.sum() >= 2
    assert found.same.all()
