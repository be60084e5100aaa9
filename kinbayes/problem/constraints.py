"""Qualitative data: statements that one quantity is below another, at a time, once, or throughout.

A statement has a *gap*, what lies left of `<` less what lies right of it, which is negative where it holds. What it
adds to the loss is a static penalty, the weighted gap where it is violated, which is no likelihood; or with a
confidence and a tolerance minus the log of a probability, which may be sampled: ln(c̄ + c Φ(-gap/s)), c̄ = (1-c)/2.
"""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from kinbayes.model.formula import FormulaError, parse
from kinbayes.model.model import Model
from kinbayes.problem.layout import Groups, LikelihoodData
from kinbayes.problem.likelihood import placeholders
from kinbayes.problem.noise import Noise
from kinbayes.problem.observables import Experiment, Measurement, Observable

RELATIONS = ("<", "<=", ">", ">=")
_HOLDS = 1.0  # what is measured of a statement
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_GRAMMAR = re.compile(
    rf"""(?P<left>[^<>=]+)(?P<relation><=|>=|<|>)(?P<right>[^<>=]+?)
    \s+(?P<when>always|once|at\s+(?P<time>{_NUMBER})|between\s+(?P<first>{_NUMBER})\s*,\s*(?P<last>{_NUMBER}))
    (?:
        \s+weight\s+(?P<weight>{_NUMBER})
        (?:\s+altpenalty\s+(?P<other_left>[^<>=]+)(?P<other_relation><=|>=|<|>)(?P<other_right>[^<>=]+?))?
        (?:\s+min\s+(?P<minimum>{_NUMBER}))?
    |
        \s+confidence\s+(?P<confidence>{_NUMBER})\s+tolerance\s+(?P<tolerance>{_NUMBER})
    )?""",
    re.IGNORECASE | re.VERBOSE,
)


class ConstraintError(ValueError):
    """A statement that cannot be used; the message names it."""


@dataclass(frozen=True)
class Constraint:
    """A statement about the model: `left` is below (or above) `right`.

    It stands among a problem's measurements as one with the value 1, which says that it holds, after those of the data,
    at the last of its times; what is simulated of it is its gap, by which it misses to hold (negative where it does).

    Parameters
    ----------
    left, right
        Formulas in names of the model, of observables without placeholders and of parameters, or numbers.
    relation
        `<`, `<=`, `>` or `>=`.
    when
        `always`, `once`, `("at", time)`, or `("between", first time, last time)`, which is throughout. Of many times
        the worst counts; for `once` the best.
    experiment
        The experiment that it is about; needed where there are several. It is pre-equilibrated as for the first of its
        measurements.
    weight
        Of a static penalty, weight * max(minimum, gap), which a violated statement costs.
    minimum
        The least gap that is counted where it is violated.
    alternative
        Another inequality (left, relation, right), whose gap is what a violated statement costs; 0 if it holds.
    confidence
        With a tolerance in place of a penalty: the probability that the statement is seen is at least (1 - c)/2, and
        at most (1 + c)/2.
    tolerance
        The gap at which it falls: a number, a parameter, or a formula.
    name
        Its id among the observables; by default `constraint_` and its number.
    num_times
        The times that are looked at: the experiment's measured ones, and so many, evenly spread from its start to the
        last that was measured; or between the given times.

    Raises
    ------
    ConstraintError
        If its parts contradict each other, or a formula cannot be read.
    """

    left: str | float
    relation: str
    right: str | float
    when: str | tuple[str, float] | tuple[str, float, float] = "always"
    experiment: str | None = None
    weight: float = 1.0
    minimum: float = 0.0
    alternative: tuple[str | float, str, str | float] | None = None
    confidence: float | None = None
    tolerance: str | float | None = None
    name: str = ""
    num_times: int = 101

    def __post_init__(self) -> None:
        word, *times = (self.when,) if isinstance(self.when, str) else self.when
        if {"always": 0, "once": 0, "at": 1, "between": 2}.get(word) != len(times):
            raise ConstraintError(
                f"{self}: unknown {self.when!r}; choose 'always', 'once', ('at', time) or ('between', time, time)"
            )
        if any(math.isnan(time) for time in times) or (word == "between" and not times[0] < times[1] < math.inf):
            raise ConstraintError(f"{self}: its times must be numbers, and ascending")
        for relation in (self.relation, *(self.alternative or ())[1:2]):
            if relation not in RELATIONS:
                raise ConstraintError(f"{self}: unknown relation {relation!r}; choose from {list(RELATIONS)}")
        if (self.confidence is None) != (self.tolerance is None):
            raise ConstraintError(f"{self}: confidence and tolerance come together")
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise ConstraintError(f"{self}: the confidence is {self.confidence}; it must lie between 0 and 1")
        if not self.is_penalty and (self.weight, self.minimum, self.alternative) != (1.0, 0.0, None):
            raise ConstraintError(
                f"{self}: weight, minimum and alternative are of a static penalty, which a confidence and a tolerance "
                "replace; leave out the ones or the others"
            )
        if not (0 < self.weight < math.inf and 0 <= self.minimum < math.inf):
            raise ConstraintError(f"{self}: the weight must be positive, the minimum not negative, and both finite")
        if self.num_times < 2:
            raise ConstraintError(f"{self}: num_times is {self.num_times}; it must be at least 2")
        for text in self._formulas:
            try:
                parse(text)
            except FormulaError as error:
                raise ConstraintError(f"{self}: {error}") from error

    def __str__(self) -> str:
        word, *times = (self.when,) if isinstance(self.when, str) else self.when
        return f"{self.left} {self.relation} {self.right} {word} {', '.join(map(str, times))}".rstrip()

    @property
    def is_penalty(self) -> bool:
        """Whether it has a static penalty, which is no likelihood."""
        return self.tolerance is None

    @property
    def _formulas(self) -> list[str | float]:
        other = self.alternative or ()
        tolerance = () if self.tolerance is None else (self.tolerance,)
        return [self.left, self.right, *other[::2], *tolerance]

    @classmethod
    def parse(cls, text: str, *, experiment: str | None = None) -> "Constraint":
        """Read a statement such as `A < 2 * B between 1, 5 weight 3`.

        It is `q1 < q2 WHEN [weight w [altpenalty q3 < q4] [min m]]`, or `q1 < q2 WHEN confidence c tolerance s`. WHEN
        is `always`, `once`, `at t`, or `between t1, t2`; the relation may be `<=`, `>` or `>=`, too.

        Raises
        ------
        ConstraintError
            If the text is none.
        """
        found = _GRAMMAR.fullmatch(text.strip())
        if found is None:
            raise ConstraintError(
                f"{text!r} is no statement; write q1 < q2, then always, once, 'at t' or 'between t1, t2', then "
                "nothing, 'weight w' ('altpenalty q3 < q4') ('min m'), or 'confidence c tolerance s'"
            )
        part = found.groupdict()
        word = part["when"].split()[0].lower()
        times = [float(part[key]) for key in ("time", "first", "last") if part[key] is not None]
        other = (part["other_left"], part["other_relation"], part["other_right"])
        return cls(
            part["left"].strip(),
            part["relation"],
            part["right"].strip(),
            (word, *times) if times else word,
            experiment,
            weight=float(part["weight"] or 1.0),
            minimum=float(part["minimum"] or 0.0),
            alternative=None if other[0] is None else (other[0].strip(), other[1], other[2].strip()),
            confidence=None if part["confidence"] is None else float(part["confidence"]),
            tolerance=None if part["tolerance"] is None else float(part["tolerance"]),
        )


def named(constraints: Sequence[Constraint], taken: Collection[str]) -> tuple[Constraint, ...]:
    """Return the statements with names, none of which is taken.

    Raises
    ------
    ConstraintError
        If a name is used twice, or is one of the model, of a parameter or of an observable.
    """
    found = [replace(c, name=c.name or f"constraint_{k}") for k, c in enumerate(constraints, start=1)]
    names = [c.name for c in found]
    for constraint in found:
        if constraint.name in taken or names.count(constraint.name) > 1:
            raise ConstraintError(
                f"{constraint}: the name {constraint.name!r} is used already; give the constraint another `name`"
            )
    return tuple(found)


def as_observable(
    constraint: Constraint, model: Model, parameters: Collection[str], observables: Sequence[Observable]
) -> Observable:
    """Return a statement as an observable: it predicts the gap, and its noise is the penalty or the probability.

    Raises
    ------
    ConstraintError
        If a formula uses what is not known, or an observable that measurements have to fill in.
    """
    known = {*model.initial, *model.expressions, *parameters, "time"}
    formulas = {o.name: o for o in observables if o.name not in known}

    def filled(text: str | float) -> str:
        """Return a formula in which those of observables stand for their names."""
        names = parse(text).symbols - known
        unknown = sorted(names - set(formulas))
        if unknown:
            raise ConstraintError(
                f"{constraint}: unknown {unknown}; formulas may use names of the model, of observables and parameters"
            )
        for name in sorted(names):
            if placeholders(name, [parse(formulas[name].formula)]):
                raise ConstraintError(
                    f"{constraint}: the formula of observable {name!r} is filled in by measurements, which a statement "
                    "is not; write the formula out"
                )
        return re.sub(r"[A-Za-z_]\w*", lambda m: f"({formulas[m[0]].formula})" if m[0] in names else m[0], str(text))

    def gap(left: str | float, relation: str, right: str | float) -> str:
        below, above = (left, right) if relation.startswith("<") else (right, left)
        return f"({filled(below)}) - ({filled(above)})"

    own = gap(constraint.left, constraint.relation, constraint.right)
    if constraint.is_penalty:
        counted, least = own if constraint.alternative is None else gap(*constraint.alternative), constraint.minimum
        penalty = f"{constraint.weight!r} * piecewise({least!r}, ({counted}) <= {least!r}, {counted})"
        noise = Noise("static_penalty", (penalty, str(int(_is_strict(constraint)))))
    else:
        noise = Noise("probit", (str(constraint.confidence), filled(constraint.tolerance)))
    return Observable(constraint.name, own, noise, str(constraint))


def _is_strict(constraint: Constraint) -> bool:
    return "=" not in constraint.relation


def rows_of(
    constraint: Constraint, measurements: Sequence[Measurement], experiments: Sequence[Experiment]
) -> list[Measurement]:
    """Return a row for every time that a statement looks at.

    Raises
    ------
    ConstraintError
        If its experiment is unknown or not named, a time lies before that experiment's start, or nothing tells its end.
    """
    known = {e.name: e for e in experiments}
    if constraint.experiment is None and len(known) > 1:
        raise ConstraintError(f"{constraint}: name its experiment; known are {list(known)}")
    name = next(iter(known)) if constraint.experiment is None else constraint.experiment
    if name not in known:
        raise ConstraintError(f"{constraint}: unknown experiment {name!r}; known are {list(known)}")
    own = [m for m in measurements if m.experiment == name]
    before = own[0].preequilibration if own else ""
    times = _times(constraint, known[name], np.array([m.time for m in own if math.isfinite(m.time)]))
    if times[0] < known[name].start:
        raise ConstraintError(
            f"{constraint}: time {times[0]:g} lies before the start of {name!r} at time {known[name].start:g}"
        )
    return [Measurement(constraint.name, name, time, _HOLDS, (), (), before) for time in times.tolist()]


def _times(
    constraint: Constraint, experiment: Experiment, measured: Float[np.ndarray, " measured"]
) -> Float[np.ndarray, " times"]:
    word, *times = (constraint.when,) if isinstance(constraint.when, str) else constraint.when
    if word == "at":
        return np.array(times, dtype=float)
    if word != "between" and not np.any(measured > experiment.start):
        raise ConstraintError(
            f"{constraint}: nothing is measured in {experiment.name!r} after its start, so nothing tells how long "
            f"{word!r} is; use ('between', first time, last time)"
        )
    first, last = times if word == "between" else (experiment.start, measured.max())
    inside = measured[(measured >= first) & (measured <= last)]
    return np.unique(np.concatenate([np.linspace(first, last, constraint.num_times), inside]))


def grouped(data: LikelihoodData, constraints: Sequence[Constraint], counts: Sequence[int]) -> LikelihoodData:
    """Return the numbers of a likelihood that knows which rows count; the same where all do.

    Parameters
    ----------
    data
        Laid out for the rows of the measurements, and then of every statement; its observables are the last.
    constraints
        The statements.
    counts
        How many rows each has.
    """
    if all(count == 1 for count in counts):
        return data
    num_alone = len(data.order) - sum(counts)
    firsts = num_alone + np.cumsum([0, *counts[:-1]])
    offsets = np.arange(max(counts))
    return data._replace(
        groups=Groups(
            np.arange(num_alone),
            firsts[:, None] + np.where(offsets < np.array(counts)[:, None], offsets, 0),
            np.array([-1.0 if c.when == "once" else 1.0 for c in constraints]),
            np.array([c.is_penalty for c in constraints]),
            np.array([_is_strict(c) for c in constraints]),
        )
    )
