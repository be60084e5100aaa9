"""The surroundings of every test: no display, and the CPU unless the environment names another device."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
