"""SBML's `rateOf`: the time derivatives that formulas refer to."""

from collections.abc import Iterable, Mapping

from kinbayes.model.expressions import ONE, ZERO, Expr, directional_derivatives
from kinbayes.model.formula import RATE_OF
from kinbayes.model.model import ModelError, resolve

_MOST_LEVELS = 20  # the derivative of a derivative, and so on: every level takes longer than the one before


def rates_of(
    roots: Iterable[Expr], derivatives: Mapping[str, Expr], expressions: Mapping[str, Expr]
) -> dict[str, Expr]:
    """Return the time derivatives that formulas refer to, by their symbols, in states, parameters and time.

    Between events a state's derivative is its rate of change, an expression's is the one along these, and
    everything else is constant.

    Parameters
    ----------
    roots
        The formulas.
    derivatives, expressions
        Those of the model, which may refer to time derivatives too.

    Raises
    ------
    ModelError
        If definitions form a circle: a derivative that depends on itself, too.
    """
    formulas = [*roots, *derivatives.values(), *expressions.values()]
    wanted = {name for root in formulas for name in root.symbols if name.startswith(RATE_OF)}
    if not wanted:
        return {}
    waiting = {name for name in wanted if name.removeprefix(RATE_OF) in expressions}
    definitions = {
        **expressions,
        **dict.fromkeys(wanted - waiting, ZERO),
        **{RATE_OF + state: derivative for state, derivative in derivatives.items()},
    }
    levels = 0
    while waiting:
        levels += 1
        if levels > _MOST_LEVELS:
            raise ModelError(f"rateOf of what depends on rateOf, and so on, more than {_MOST_LEVELS} times")
        resolved = resolve(definitions)
        ready = [n for n in waiting if not resolved[n.removeprefix(RATE_OF)].symbols & waiting]
        if not ready:
            names = sorted(name.removeprefix(RATE_OF) for name in waiting)
            raise ModelError(f"rateOf: the derivatives of {names} form a circle")
        along = {state: resolved[RATE_OF + state] for state in derivatives} | {"time": ONE}
        for name in ready:
            (definitions[name],) = directional_derivatives([resolved[name.removeprefix(RATE_OF)]], along)
        waiting.difference_update(ready)
    resolved = resolve(definitions)
    return {name: resolved[name] for name in wanted}
