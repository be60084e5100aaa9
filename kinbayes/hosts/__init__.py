"""The same posterior inside other probabilistic languages: `pymc` and `numpyro`, each loaded on first use."""

import importlib
from types import ModuleType

_HOSTS = ("numpyro", "pymc")


def __getattr__(name: str) -> ModuleType:
    """Load a host on first use (PEP 562)."""
    if name not in _HOSTS:
        raise AttributeError(f"module 'kinbayes.hosts' has no attribute {name!r}; choose from {list(_HOSTS)}")
    return importlib.import_module(f"kinbayes.hosts.{name}")
