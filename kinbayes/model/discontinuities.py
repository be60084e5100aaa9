"""Where expressions jump: comparisons and roundings replaced by symbols that hold still between the jumps."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from kinbayes.model.expressions import (
    ONE,
    ZERO,
    Expr,
    apply,
    derivatives,
    is_boolean,
    postorder,
    substitute,
    symbol,
    where,
)

_LINEAR = frozenset(("symbol", "add", "sub", "neg", "mul", "div"))
_ORDERED = ("lt", "le", "gt", "ge")
_JUMPS = frozenset((*_ORDERED, "floor", "ceil", "sign"))
_JUMPING = symbol("what jumps")


class Switch(NamedTuple):
    """A comparison that changes at one time alone, and that time."""

    condition: Expr
    time: Expr


def time_switches(roots: Sequence[Expr], states: Collection[str], prefix: str) -> tuple[list[Expr], dict[str, Switch]]:
    """Return `roots` with every comparison of time with a constant replaced by a symbol that is 1 or 0.

    A comparison counts if its two sides differ by a linear function of time that no state enters. Between the times
    of the switches, the roots are smooth where they were only piecewise so.
    """
    switches: dict[str, Switch] = {}
    done: dict[Expr, Expr] = {}
    for node in postorder(roots):
        if not node.depends_on("time") or not node.args:
            done[node] = node
            continue
        if node.op in _ORDERED and not _depends(node, states):
            difference = node.args[0] - node.args[1]
            (slope,) = derivatives([difference], "time")
            # Floors and comparisons have no slope either, but they jump.
            if _is_linear_in_time(difference) and not slope.depends_on("time"):
                (at_zero,) = substitute([difference], {"time": ZERO})
                name = f"{prefix}{len(switches)}"
                switches[name] = Switch(where(node, ONE, ZERO), -at_zero / slope)
                done[node] = apply("ne", symbol(name), ZERO)
                continue
        done[node] = apply(node.op, *(done[a] for a in node.args))
    return [done[root] for root in roots], switches


def equalities(
    triggers: Sequence[Expr], states: Collection[str], prefix: str
) -> tuple[list[Expr], dict[str, tuple[Expr, Expr]]]:
    """Return `triggers` with whether numbers that vary are equal replaced by symbols that are 1 at such moments.

    Parameters
    ----------
    triggers
        The expressions.
    states
        The states that vary between events; time does too.
    prefix
        Of the new symbols, before a number.

    Returns
    -------
    triggers
        The expressions in the old symbols and the new ones.
    sides
        New symbol -> whether its left side is at least the right one, and at most.
    """
    names: dict[Expr, str] = {}
    sides: dict[str, tuple[Expr, Expr]] = {}
    done: dict[Expr, Expr] = {}
    smooth: dict[Expr, Expr] = {}  # what jumps stands still here: whether it equals a number is no matter of moments
    for node in postorder(triggers):
        is_jump = node.op in _JUMPS or node.op in ("eq", "ne")
        smooth[node] = _JUMPING if is_jump else apply(node.op, *(smooth[a] for a in node.args)) if node.args else node
        done[node] = apply(node.op, *(done[a] for a in node.args)) if node.args else node
        if node.op not in ("eq", "ne") or not any(_varies(smooth[a], states) for a in node.args):
            continue
        left, right = done[node].args
        number = names.setdefault(left - right, f"{prefix}{len(names)}")
        sides[number] = (apply("ge", left, right), apply("le", left, right))
        done[node] = apply("ne" if node.op == "eq" else "eq", symbol(number), ZERO)
    return [done[trigger] for trigger in triggers], sides


class Mode(NamedTuple):
    """A comparison or rounding that changes when it will, and the function whose passing of a value changes it.

    Both are in the names of the model and of other modes.
    """

    value: Expr
    root: Expr


def modes(
    triggers: Sequence[Expr], rates: Sequence[Expr], states: Collection[str], prefix: str
) -> tuple[list[Expr], list[Expr], dict[str, Mode]]:
    """Return `triggers` and `rates` with what jumps replaced by symbols that hold still between the jumps.

    Of triggers that is every comparison and rounding of what varies; of rates only those that no state enters: where
    states do, a rate may turn back at once what it has just changed.

    Parameters
    ----------
    triggers, rates
        The expressions.
    states
        The states that vary between events; time does too.
    prefix
        Of the new symbols, before a number.
    """
    names: dict[Expr, str] = {}
    found: dict[str, Mode] = {}

    def held(roots: Sequence[Expr], is_trigger: bool) -> list[Expr]:
        done: dict[Expr, Expr] = {}
        for node in postorder(roots):
            done[node] = new = apply(node.op, *(done[a] for a in node.args)) if node.args else node
            if new.op in _JUMPS and _is_held(new, states, is_trigger):
                if new not in names:
                    names[new] = f"{prefix}{len(names)}"
                    found[names[new]] = _mode(new)
                done[node] = _symbol(names[new], new)
        return [done[root] for root in roots]

    return held(triggers, True), held(rates, False), found


def conditions(rates: Sequence[Expr], states: Collection[str], prefix: str) -> tuple[list[Expr], dict[str, Mode]]:
    """Return `rates` with the comparisons and roundings that states enter replaced by symbols."""
    found: dict[str, Mode] = {}
    done: dict[Expr, Expr] = {}
    for node in postorder(rates):
        done[node] = apply(node.op, *(done[a] for a in node.args)) if node.args else node
        if node.op in _JUMPS and _depends(node, states):
            name = f"{prefix}{len(found)}"
            found[name] = _mode(node)
            done[node] = _symbol(name, node)
    return [done[rate] for rate in rates], found


def _is_held(node: Expr, states: Collection[str], is_trigger: bool) -> bool:
    return _varies(node, states) if is_trigger else node.depends_on("time") and not _depends(node, states)


def _mode(node: Expr) -> Mode:
    if is_boolean(node):
        return Mode(where(node, ONE, ZERO), node.args[0] - node.args[1])
    return Mode(node, node.args[0])


def _symbol(name: str, node: Expr) -> Expr:
    return apply("ne", symbol(name), ZERO) if is_boolean(node) else symbol(name)


def is_wave(root: Expr, states: Collection[str]) -> bool:
    """Return whether a function is one of time alone that may turn back, so that a long step could miss it."""
    return not _depends(root, states) and not _is_linear_in_time(root)


def _varies(node: Expr, states: Collection[str]) -> bool:
    return node.depends_on("time") or _depends(node, states)


def _depends(node: Expr, names: Collection[str]) -> bool:
    return any(node.depends_on(name) for name in names)


def _is_linear_in_time(root: Expr) -> bool:
    return all(n.op in _LINEAR for n in postorder([root]) if n.depends_on("time"))
