"""The attributes of a stored run: what NetCDF can hold, and the surroundings in which a run was made."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping

import jax
import numpy as np
from arviz import InferenceData

_DEPENDENCIES = ("jax", "diffrax", "numba", "llvmlite", "numpyro", "arviz", "numpy")
_INT64 = np.iinfo(np.int64)
_JSON_STARTS = ("{", "[", '"')


class AttributeValueError(ValueError):
    """A value that cannot be stored as an attribute."""


def encode(attrs: Mapping[str, object]) -> dict[str, str | int | float]:
    """Return attributes as NetCDF can hold them.

    Texts and numbers stay. A truth value becomes 0 or 1, since NetCDF has none. None is left out. Mappings
    and sequences become JSON text, in which both keep their meaning; `attributes` reads it back.

    Raises
    ------
    AttributeValueError
        If a value is none of these.
    """
    found: dict[str, str | int | float] = {}
    for name, value in attrs.items():
        plain = value.item() if isinstance(value, np.generic) else value
        if plain is None:
            continue
        if isinstance(plain, int):
            # Beyond 64 bits NetCDF has no integers; seeds may be longer.
            found[name] = int(plain) if _INT64.min <= plain <= _INT64.max else str(plain)
        else:
            # A text that looks like JSON is written as JSON, so that reading is unambiguous.
            is_plain = isinstance(plain, float) or (isinstance(plain, str) and not plain.startswith(_JSON_STARTS))
            found[name] = plain if is_plain else _json(name, plain)
    return found


def _json(name: str, value: object) -> str:
    def plain(part: object) -> object:
        if isinstance(part, np.generic | np.ndarray):
            return part.tolist()
        raise AttributeValueError(
            f"attribute {name!r} holds {part!r} of type {type(part).__name__}; "
            "give text, numbers, truth values, None, or lists and dicts of these"
        )

    return json.dumps(value, default=plain, ensure_ascii=False)


def attributes(idata: InferenceData) -> dict[str, object]:
    """Return what is known of a run, its nested settings as dicts and lists again."""
    return {
        name: json.loads(value) if isinstance(value, str) and value.startswith(_JSON_STARTS) else value
        for name, value in idata.attrs.items()
    }


def environment() -> dict[str, object]:
    """Return what a run depends on: `versions` by name, and `devices`."""
    versions = {"python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in ("kinbayes", *_DEPENDENCIES)}
    return {"versions": versions, "devices": [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()]}
