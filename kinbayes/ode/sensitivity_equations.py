"""The functions that forward sensitivities take, as expressions: derivatives of the equations and of the observers.

A tangent is the derivative of the states with respect to one number. With it, a stage W k = f(u) + r of the method
becomes

    W k' = J(u) u' + f_p(u) + r' + D y' + d_p,

where D is the derivative of J in the direction k, and d_p that of f_p, both at the start of the step. So per stage only
numbers are needed that all tangents share, and then a tangent is products with them: not with J itself, but with the
derivatives of the terms of f, the rates of reactions, since several equations share each.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from kinbayes.model.discontinuities import conditions
from kinbayes.model.expressions import (
    ONE,
    ZERO,
    Expr,
    SparseJacobian,
    apply,
    directional_derivatives,
    jacobian,
    lift_constants,
    postorder,
    substitute,
    symbol,
    where,
)
from kinbayes.model.llvm import WIDTH, Function
from kinbayes.ode.equations import Equations
from kinbayes.ode.sparse_lu import SparseLU

STATE, INPUT, ARGUMENT = range(3)  # what an observer's output is differentiated by
_LARGEST = 1e300
# Sums and products of what is finite are finite as well, unless they are absurdly large.
_TAME = frozenset(("const", "symbol", "add", "sub", "mul", "neg", "where", "min", "max"))


class Observer(NamedTuple):
    """What is computed at a time of the data.

    Attributes
    ----------
    outputs
        The log density of a measurement, its prediction, and what else goes into the table of rows; in the model's
        names and those of `arguments`.
    arguments
        The names that every row fills in.
    constant
        How many of them, the first, never depend on a parameter.
    """

    outputs: tuple[Expr, ...]
    arguments: tuple[str, ...]
    constant: int = 0


class Sparse(NamedTuple):
    """Where a matrix has entries."""

    rows: Int[np.ndarray, " entries"]
    columns: Int[np.ndarray, " entries"]


class Partials(NamedTuple):
    """The partial derivatives of an observer's outputs, those of its log density first.

    `kind` is one of `STATE`, `INPUT` and `ARGUMENT`, and `index` which.
    """

    column: Int[np.ndarray, " partials"]
    kind: Int[np.ndarray, " partials"]
    index: Int[np.ndarray, " partials"]

    @property
    def num_densities(self) -> int:
        """How many are of the log density."""
        return int(np.sum(self.column == 0))


class SensitivityEquations(NamedTuple):
    """The functions, and where their outputs belong.

    Attributes
    ----------
    functions
        Those of `kinbayes.ode.numbers.Code` that derivatives take, and `partials0` and so on, one an observer.
    sources, start, switches
        Where the derivatives of terms, of the start and of the switches' times with respect to inputs have entries.
    source_rows
        The terms in which inputs are.
    partials
        Of every observer.
    moments
        Of the functions whose passing changes modes, of the delays of events, of what they assign, and of the functions
        whose passing changes conditions.
    num_conditions
        Of comparisons and roundings in the derivatives that states enter.
    num_varying, num_bent, num_more
        Numbers of entries of the terms' Jacobian that depend on states, of those with a derivative, and of constants.
    """

    functions: tuple[Function, ...]
    sources: Sparse
    start: Sparse
    switches: Sparse
    source_rows: tuple[int, ...]
    partials: tuple[Partials, ...]
    moments: Partials
    num_conditions: int
    num_varying: int
    num_bent: int
    num_more: int


def sensitivity_equations(
    found: Equations,
    start: Mapping[str, Expr],
    inputs: Sequence[str],
    observers: Sequence[Observer],
    wanted: Sequence[int],
    lu: SparseLU | None,
) -> SensitivityEquations:
    """Return what forward sensitivities take.

    Parameters
    ----------
    found
        The model's equations.
    start
        The start of every state and the value of every parameter, in the names of `inputs`.
    inputs
        What a lane is given.
    observers
        What is computed at the times of the data.
    wanted
        The inputs with respect to which derivatives are wanted.
    lu
        The linear solver, where it is straight-line code.
    """
    # An input may have the name of a state: its start. So inputs get names of their own.
    own = [f"input {name}" for name in inputs]
    renamed = dict(zip(inputs, map(symbol, own), strict=True))
    constants = dict(zip(found.constants, substitute(list(found.constants.values()), renamed), strict=True))
    start = dict(zip(start, substitute(list(start.values()), {**renamed, "time": ZERO}), strict=True))
    parameters = {name: e for name, e in start.items() if name not in found.states}
    names = [own[k] for k in wanted]
    varying = found.varying
    more: dict[str, Expr] = {}

    def lifted(roots: Sequence[Expr], besides: Iterable[str] = ()) -> list[Expr]:
        roots, parts = lift_constants(roots, {*varying, *besides}, f"slope constant {len(more)} ")
        more.update(parts)
        more.update({s: symbol(s) for root in roots for s in root.symbols if s in own_names})
        return roots

    own_names = frozenset(own)
    known = {n: e for n, e in constants.items() if n not in found.varying}
    steady = {n for n, e in known.items() if not any(e.depends_on(name) for name in names)}
    terms = _terms(found.rhs, varying, steady)
    sources = jacobian(substitute(terms.terms, known), names)
    slopes = _slopes(terms, found.states, lifted(sources.entries))
    at_start = jacobian(substitute(found.start, renamed), names)
    times = [e for name, e in constants.items() if name.startswith("time of switch ")]
    at_switches = jacobian(times, names)
    functions, partials = [], []
    for k, observer in enumerate(observers):
        roots, which = _partials(observer, found, parameters, names, wanted)
        functions.append((f"partials{k}", lifted(roots, observer.arguments), observer.arguments))
        partials.append(which)
    happening = found.moments
    rates, conditional = conditions(found.plain, found.states, "condition ")
    roots, passed = ([mode.root for mode in table.values()] for table in (happening.modes, conditional))
    moments = Observer((*roots, *happening.delays, *happening.values, *passed), ())
    roots, of_moments = _partials(moments, found, parameters, names, wanted)
    moment_partials = lifted(roots)
    held, extra = tuple(found.constants), tuple(more)
    tamed = [[_tamed(e) for e in pattern.entries] for pattern in (at_start, at_switches)]
    seed = Function("seed", [own], [*tamed, tuple(more.values())])
    source_terms = tuple(sorted(set(sources.rows)))
    return SensitivityEquations(
        (
            seed,
            slopes.function._replace(inputs=[*slopes.function.inputs, held, extra]),
            _tangent(found, terms, slopes, source_terms, lu),
            *(Function(name, [found.states, held, extra, args], [roots]) for name, roots, args in functions),
            Function("moment_partials", [found.states, held, extra], [moment_partials]),
            Function("conditions", [found.states, held], [[mode.value for mode in conditional.values()]]),
            Function("conditional", [found.states, held, tuple(conditional)], [rates if conditional else []]),
        ),
        _sparse(sources.rows, [wanted[c] for c in sources.columns]),
        _sparse(at_start.rows, [wanted[c] for c in at_start.columns]),
        _sparse(at_switches.rows, [wanted[c] for c in at_switches.columns]),
        source_terms,
        tuple(partials),
        of_moments,
        len(conditional),
        len(slopes.varying),
        len(slopes.bent),
        len(more),
    )


class _Terms(NamedTuple):
    """Equations as linear combinations of terms: rates of reactions, mostly, which several equations share.

    Attributes
    ----------
    terms
        The terms.
    rows
        For every equation its terms, by number, and their coefficients, which no wanted input enters.
    """

    terms: tuple[Expr, ...]
    rows: tuple[dict[int, Expr], ...]


def _terms(rhs: Sequence[Expr], varying: Iterable[str], steady: Iterable[str]) -> _Terms:
    """Return equations as combinations of terms; a sum that is used more than once is a term."""
    nodes = postorder(rhs)
    uses = Counter(a for node in nodes for a in node.args) + Counter(rhs)
    moving, steady = frozenset(varying), frozenset(steady)
    is_coefficient = {node: node.symbols <= steady and not node.symbols & moving for node in nodes}
    numbers: dict[Expr, int] = {}
    rows = []
    for root in rhs:
        row: dict[int, Expr] = {}
        open_ = [(root, ONE, False)]
        while open_:
            node, factor, is_shared = open_.pop()
            # A shared multiple of a sum shares the sum: taken apart, what one equation loses to another by way of it
            # would no longer be the same number in both.
            is_shared = is_shared or uses[node] > 1
            left, right = (*node.args, node, node)[:2]
            if node.op == "neg":
                open_.append((left, -factor, is_shared))
            elif node.op == "mul" and is_coefficient[left]:
                open_.append((right, factor * left, is_shared))
            elif node.op == "mul" and is_coefficient[right]:
                open_.append((left, factor * right, is_shared))
            elif node.op in ("add", "sub") and not is_shared:
                open_ += [(left, factor, False), (right, -factor if node.op == "sub" else factor, False)]
            elif not is_coefficient[node]:
                number = numbers.setdefault(node, len(numbers))
                row[number] = row.get(number, ZERO) + factor
        rows.append({number: factor for number, factor in row.items() if factor is not ZERO})
    return _Terms(tuple(numbers), tuple(rows))


def _sparse(rows: Sequence[int], columns: Sequence[int]) -> Sparse:
    return Sparse(np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64))


def _tamed(entry: Expr) -> Expr:
    """Return an entry that is 0 where it is not finite, as in the Jacobian of the states."""
    if all(node.op in _TAME for node in postorder([entry])):
        return entry
    return where(apply("le", apply("abs", entry), _LARGEST), entry, ZERO)


class _Slopes(NamedTuple):
    """What varies within a step.

    Attributes
    ----------
    function
        Of it, but for its constants.
    pattern
        The Jacobian of the terms.
    varying, bent
        Those of its entries that depend on states, and those whose derivative along a stage is not 0.
    """

    function: Function
    pattern: SparseJacobian
    varying: list[int]
    bent: list[int]


def _slopes(terms: _Terms, states: Sequence[str], sources: Sequence[Expr]) -> _Slopes:
    along = {name: symbol(f"k {i}") for i, name in enumerate(states)}
    at = {name: symbol(f"u {i}") for i, name in enumerate(states)}
    pattern = jacobian(terms.terms, states)
    varying = [q for q, e in enumerate(pattern.entries) if any(e.depends_on(s) for s in states)]
    derivatives = [_tamed(e) for e in directional_derivatives(pattern.entries, along)]
    bent = [q for q, e in enumerate(derivatives) if e is not ZERO]
    at_stages = [_tamed(e) for e in substitute([pattern.entries[q] for q in varying], at)]
    here, there = substitute(sources, at), directional_derivatives(sources, along)
    of_sources = [_tamed(e) + _tamed(d) for e, d in zip(here, there, strict=True)]
    vectors = [[e.value for e in at.values()], [e.value for e in along.values()]]
    outputs = [at_stages, [derivatives[q] for q in bent], of_sources]
    return _Slopes(Function("slopes", [*vectors, states], outputs, frozenset([0, 1])), pattern, varying, bent)


def _every(names: Sequence[str]) -> list[str]:
    """Return names of numbers that lie `WIDTH` apart."""
    return [n for name in names for n in (name, *[""] * (WIDTH - 1))]


def _tangent(
    found: Equations, terms: _Terms, slopes: _Slopes, source_terms: Sequence[int], lu: SparseLU | None
) -> Function:
    """Return the function of one stage of `WIDTH` tangents."""
    size = len(found.states)
    kinds = [[f"{kind} {k}" for k in range(size)] for kind in ("base", "rhs", "newest", "y")]
    base, total, newest, before = (list(map(symbol, names)) for names in kinds)
    a, c = symbol("a newest"), symbol("c newest / h")
    u = [b + a * k for b, k in zip(base, newest, strict=True)]
    entries = dict(enumerate(slopes.pattern.entries))
    entries |= {q: symbol(f"J {k}") for k, q in enumerate(slopes.varying)}
    curved = {q: symbol(f"D {k}") for k, q in enumerate(slopes.bent)}
    moves = [ZERO] * len(terms.terms)
    sources = [f"P {k}" for k in range(len(source_terms))]
    for name, term in zip(sources, source_terms, strict=True):
        moves[term] = symbol(name)
    for q, (term, state) in enumerate(zip(slopes.pattern.rows, slopes.pattern.columns, strict=True)):
        moves[term] = moves[term] + entries[q] * u[state]
        if q in curved:
            moves[term] = moves[term] + curved[q] * before[state]
    rhs = [r + c * k for r, k in zip(total, newest, strict=True)]
    for i, row in enumerate(terms.rows):
        for term, factor in row.items():
            rhs[i] = rhs[i] + factor * moves[term]
    if lu is None:
        solved, factors = rhs, ()
    else:
        solved, factors = substitute(lu.solution, dict(zip(lu.rhs_names, rhs, strict=True))), lu.factor_names
    inputs = [
        *kinds,
        sources,
        ["a newest", "c newest / h"],
        tuple(found.constants),
        _every([f"J {k}" for k in range(len(slopes.varying))]),
        _every([f"D {k}" for k in range(len(slopes.bent))]),
        factors,
    ]
    return Function("tangent", inputs, [solved], frozenset(range(5)))


def _partials(
    observer: Observer, found: Equations, parameters: Mapping[str, Expr], names: Sequence[str], wanted: Sequence[int]
) -> tuple[list[Expr], Partials]:
    """Return the partial derivatives of an observer's outputs that are not identically zero."""
    filled = set(observer.arguments)
    outputs = substitute(observer.outputs, {n: e for n, e in parameters.items() if n not in filled})
    places = [
        *((name, STATE, k) for k, name in enumerate(found.states) if name not in filled),
        *((name, INPUT, k) for name, k in zip(names, wanted, strict=True)),
        *((name, ARGUMENT, k) for k, name in enumerate(observer.arguments) if k >= observer.constant),
    ]
    found_partials = jacobian(outputs, [name for name, _, _ in places])
    which = [
        (row, *places[column][1:]) for row, column in zip(found_partials.rows, found_partials.columns, strict=True)
    ]
    table = np.array(which, dtype=np.int64).reshape(-1, 3)
    return list(found_partials.entries), Partials(table[:, 0], table[:, 1], table[:, 2])
