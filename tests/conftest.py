"""The surroundings of every test: no display, the CPU unless the environment names another device, haste, and room."""

import gc
import os
from pathlib import Path

import pytest

import tests.typechecking  # noqa: F401 - the type checker must be imported before what it checks

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
# Most of a test's time is XLA's for what runs for milliseconds. `XLA_FLAGS= pytest` is as users run it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

MAPPINGS = Path("/proc/self/maps")
MOST_MAPPINGS = 35_000  # Linux allows a process 65,530, each compiled program takes some, and XLA crashes beyond


@pytest.fixture(scope="module", autouse=True)
def room():
    """Forget what the tests of a file have compiled, once that is a lot."""
    yield
    if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > MOST_MAPPINGS:
        import jax  # after the environment is set, which it reads

        jax.clear_caches()
        gc.collect()
