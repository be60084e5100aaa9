"""Networks by name and settings, as shapes: what is checked before a network's numbers are believed."""

import inspect
from collections.abc import Mapping

import equinox as eqx
import jax

from kinbayes.amortized.networks import NETWORKS
from kinbayes.amortized.networks.base import Network

LARGEST_SETTING = 2**16  # widths and the like
LARGEST_COUNT = 2**8  # of layers and the like, which are built one by one

Plain = bool | int | float | str | None | tuple


def defaults(name: str) -> dict[str, Plain]:
    """Return the settings of a network with their defaults.

    Raises
    ------
    ValueError
        If there is no such network.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; choose from {sorted(NETWORKS)}")
    parameters = inspect.signature(NETWORKS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def shapes(name: str, settings: Mapping[str, Plain], dim: int) -> Network:
    """Return a network as shapes and types, nothing allocated.

    Raises
    ------
    ValueError
        If there is no such network, or it has no such settings.
    """
    unknown, missing = sorted(set(settings) - set(defaults(name))), sorted(set(defaults(name)) - set(settings))
    if unknown or missing:
        raise ValueError(f"settings {unknown} of the network {name!r} are unknown, and {missing} are missing")
    for setting, value in settings.items():
        is_count = any(word in setting for word in ("num_", "layers", "depth"))
        most = LARGEST_COUNT if is_count else LARGEST_SETTING
        if isinstance(value, int | float) and not abs(value) <= most:
            raise ValueError(f"the setting {setting!r} of the network is {value}, and more than {most} is not read")
    return eqx.filter_eval_shape(NETWORKS[name], jax.random.key(0), dim, **settings)


def check_built(network: Network, name: str, settings: Mapping[str, Plain], dim: int) -> None:
    """Refuse a network that is not what its name and settings build.

    Raises
    ------
    ValueError
        If it is another.
    """
    built = shapes(name, settings, dim)
    is_same = jax.tree.structure(network) == jax.tree.structure(built) and all(
        (own.shape, own.dtype) == (other.shape, other.dtype)
        for own, other in zip(jax.tree.leaves(network), jax.tree.leaves(built), strict=True)
    )
    if not is_same:
        raise ValueError(
            f"the network is not what {name!r} builds for {dim} parameters with the settings {dict(settings)}; give "
            "the name and the settings that it was built with"
        )
