"""The surroundings of every test: no display, and the CPU unless the environment names another device."""

import os

import tests.typechecking  # noqa: F401 - the type checker must be imported before what it checks

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
