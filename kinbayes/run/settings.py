"""Settings of an algorithm by name, checked against its factory's signature."""

import inspect
import typing
from collections.abc import Mapping

_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", type(None): "nothing"}


def checked_settings(
    name: str, factory: object, settings: Mapping[str, object], fixed: tuple[str, ...]
) -> tuple[tuple[str, object], ...]:
    """Return all settings of a factory as pairs, its defaults where none were given.

    Raises
    ------
    ValueError
        If a setting is unknown, or of a type that the signature does not allow.
    """
    allowed = {p.name: p for p in inspect.signature(factory).parameters.values() if p.name not in fixed}
    unknown = sorted(set(settings) - set(allowed))
    if unknown:
        raise ValueError(f"unknown settings {unknown} of {name!r}; choose from {list(allowed)}")
    for setting, value in settings.items():
        kinds = typing.get_args(allowed[setting].annotation) or (allowed[setting].annotation,)
        if set(kinds) <= set(_PLAIN) and not _fits(value, kinds):
            words = " or ".join(_PLAIN[kind] for kind in kinds)
            raise ValueError(f"setting {setting!r} of {name!r} is {value!r}; it must be {words}")
    return tuple(({setting: p.default for setting, p in allowed.items()} | dict(settings)).items())


def _fits(value: object, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (float in kinds and isinstance(value, int))
