"""Settings of an algorithm by name, checked against its factory's signature."""

import inspect
from collections.abc import Mapping


def checked_settings(
    name: str, factory: object, settings: Mapping[str, object], fixed: tuple[str, ...]
) -> tuple[tuple[str, object], ...]:
    """Return all settings of a factory as pairs, its defaults where none were given.

    Raises
    ------
    ValueError
        If a setting is unknown.
    """
    defaults = {p.name: p.default for p in inspect.signature(factory).parameters.values() if p.name not in fixed}
    unknown = sorted(set(settings) - set(defaults))
    if unknown:
        raise ValueError(f"unknown settings {unknown} of {name!r}; choose from {list(defaults)}")
    return tuple({**defaults, **settings}.items())
