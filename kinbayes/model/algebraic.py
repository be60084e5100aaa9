"""Equations 0 = F that can be solved for their unknowns once and for all, as expressions."""

import math
from collections.abc import Mapping, Sequence

from kinbayes.model.expressions import ONE, ZERO, Expr, const, derivatives, evaluate, postorder, substitute

# Operations that are looked at for an unknown in them, over the whole elimination; as many take about 3 s.
_MOST_WORK = 50_000


class AlgebraicError(ValueError):
    """Equations that are not solved here; `equation` is the place of one of them."""

    def __init__(self, equation: int, text: str) -> None:
        super().__init__(text)
        self.equation = equation


def solve(equations: Sequence[Expr], unknowns: Sequence[str]) -> dict[str, Expr]:
    """Return the unknowns that make equations 0, as expressions of their other symbols.

    Unknowns are eliminated one after the other from equations in which they are linear, as ratios of polynomials
    too, once the denominators are multiplied out. So there is exactly one solution; where equations have more, or
    one that is not found this way, they are refused.

    Parameters
    ----------
    equations
        What has to be 0.
    unknowns
        As many symbols.

    Raises
    ------
    AlgebraicError
        If the equations are not solved this way.
    """
    waiting, open_ = list(unknowns), dict(enumerate(equations))
    found: dict[str, Expr] = {}
    work = 0
    while waiting:
        work += sum(len(postorder([e])) * sum(map(e.depends_on, waiting)) for e in open_.values())
        if work > _MOST_WORK:
            text = f"the equations for {len(unknowns)} unknowns become too long when these are eliminated one by one"
            raise AlgebraicError(next(iter(open_)), text)
        ratios = {place: _ratio(equation, waiting) for place, equation in open_.items()}
        place, name, slope = _pivot({place: top for place, (top, _) in ratios.items()}, waiting)
        top, bottom = ratios[place]
        (rest,) = substitute([top], {name: ZERO})
        value = {name: rest if slope is const(-1.0) else (0 - rest) / slope}
        if _vanishes(substitute([bottom], value)[0]):
            raise AlgebraicError(place, f"no value of {name!r} solves it")
        del open_[place]
        waiting.remove(name)
        open_ = dict(zip(open_, substitute(list(open_.values()), value), strict=True))
        found = dict(zip(found, substitute(list(found.values()), value), strict=True)) | value
    return found


def _pivot(equations: Mapping[int, Expr], names: Sequence[str]) -> tuple[int, str, Expr]:
    """Return an equation that is linear in a name, the name and the slope; the simpler the slope the better."""
    best = None
    for place, equation in equations.items():
        for name in names:
            slope = _slope(equation, name)
            if slope is None:
                continue
            rank = 0 if slope.op == "const" else 1 + sum(slope.depends_on(other) for other in names)
            if best is None or rank < best[0]:
                best = (rank, (place, name, slope))
    if best is None:
        place = next(iter(equations))
        text = f"it is not linear in any of {list(names)}, so that there is not exactly one solution in closed form"
        raise AlgebraicError(place, text)
    return best[1]


def _slope(equation: Expr, name: str) -> Expr | None:
    """Return the slope of an equation in a name, None where it does not depend on it linearly."""
    if not equation.depends_on(name):
        return None
    for node in postorder([equation]):
        # The derivative of what jumps, such as floor(x), would not tell that it is not linear.
        is_condition = node.op == "where" and node.args[0].depends_on(name)
        if node.depends_on(name) and (node.op not in _LINEAR or is_condition):
            return None
    (slope,) = derivatives([equation], name)
    return None if slope is ZERO or slope.depends_on(name) else slope


def _vanishes(expression: Expr) -> bool:
    """Return whether an expression is 0 for whatever values of its symbols, as far as some values tell."""
    names = sorted(expression.symbols)
    probe = {name: 0.5 + math.modf(math.pi * place)[0] for place, name in enumerate(names, start=1)}
    return abs(float(evaluate([expression], probe)[0])) < 1e-12


_LINEAR = frozenset(("symbol", "add", "sub", "neg", "mul", "div", "where"))


def _ratio(root: Expr, names: Sequence[str]) -> tuple[Expr, Expr]:
    """Return the numerator and the denominator of an expression, the latter only of what depends on the names."""
    done: dict[Expr, tuple[Expr, Expr]] = {}
    for node in postorder([root]):
        parts = [done[a] for a in node.args]
        if not any(node.depends_on(name) for name in names):
            done[node] = (node, ONE)
        elif node.op == "neg":
            done[node] = (-parts[0][0], parts[0][1])
        elif node.op == "mul":
            (a, b), (c, d) = parts
            done[node] = (a * c, b * d)
        elif node.op == "div":
            (a, b), (c, d) = parts
            done[node] = (a * d, b * c) if any(c.depends_on(name) for name in names) else (a * d / c, b)
        elif node.op in ("add", "sub"):
            (a, b), (c, d) = parts
            left, right, bottom = (a, c, b) if b is d else (a * d, c * b, b * d)
            done[node] = (left + right if node.op == "add" else left - right, bottom)
        else:
            done[node] = (node, ONE)
    return done[root]
