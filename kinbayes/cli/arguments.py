"""What is typed, as the values that it stands for."""

from pathlib import Path

from kinbayes.cli.files import is_result


def pairs(texts: list[str] | None) -> list[tuple[str, str]]:
    """Return texts of the form name=value as pairs."""
    for text in texts or []:
        if "=" not in text:
            raise ValueError(f"--set {text}: write it as name=value")
    return [tuple(text.split("=", 1)) for text in texts or []]


def number(name: str, text: str) -> float:
    """Return a number that a setting is to be."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--set {name}={text}: {text!r} is no number") from None


def settings_of(texts: list[str] | None) -> dict[str, object]:
    """Return settings by name; those of tempering's inner sampler, as inner.name=value, in a mapping of their own."""
    found: dict[str, object] = {}
    for name, text in pairs(texts):
        prefix, _, own = name.partition(".")
        where = found.setdefault(f"{prefix}_settings", {}) if own else found
        where[own or name] = _value(text)
    return found


def _value(text: str) -> object:
    words = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        return text


def times_of(text: str) -> list[float]:
    """Return times of the form start:stop:count, or of a list t1,t2,… as numbers."""
    import numpy as np

    try:
        if ":" in text:
            start, stop, count = text.split(":")
            return np.linspace(float(start), float(stop), int(count)).tolist()
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--times {text}: write start:stop:count, as 0:100:101, or a list, as 0,1,2.5") from None


def initial_of(text: str | None) -> object:
    """Return where a run starts: the result that a file holds, else the word itself."""
    import kinbayes as kb

    return kb.load(text) if text is not None and is_result(Path(text)) else text
