"""The optimizer protocol: ask for candidates, tell their losses.

An optimizer sees bounds and losses and nothing else of the package. It is a factory ``name(bounds, *, ...)``
that returns an `Optimizer`: three pure functions over a state. The points it starts from are chosen outside
and handed to `init`, so that any design serves any optimizer and a start that cannot be simulated is replaced
before the run.

Every state is a NamedTuple with at least the fields of `OptimizerState`.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float


class Bounds(NamedTuple):
    """Hold the walls of the search, (dim,) each; -inf and +inf where it is open."""

    lower: Float[Array, " dim"]
    upper: Float[Array, " dim"]


class Evaluation(NamedTuple):
    """Hold what the objective says of n candidates.

    Attributes
    ----------
    loss
        (n,), to be minimised; +inf or NaN where the objective failed.
    gradient
        Gradient of the loss, (n, dim), for optimizers that use one.
    residuals
        Residuals whose squares the loss sums up, (n, m), for optimizers that use them.
    """

    loss: Float[Array, " n"]
    gradient: Float[Array, "n dim"] | None = None
    residuals: Float[Array, "n m"] | None = None


@runtime_checkable
class OptimizerState(Protocol):
    """Name the fields that every optimizer's state has.

    A start is whatever has a best point of its own: a local search, or a whole population. A `finished` start
    will not improve any more; it is `converged` if that is because it met the optimizer's test for an
    optimum.
    """

    best_position: Float[Array, "starts dim"]
    best_loss: Float[Array, " starts"]
    converged: Bool[Array, " starts"]
    finished: Bool[Array, " starts"]


class Optimizer(NamedTuple):
    """Hold one optimizer bound to its bounds.

    Attributes
    ----------
    init
        (key, U (n, dim)) -> state, from points inside the bounds. Nothing is evaluated: the first candidates
        are U.
    ask
        (key, state) -> candidates (n, dim) inside the bounds, n the same every time.
    tell
        (state, candidates, evaluation) -> state, for the candidates of the last `ask`.
    """

    init: Callable
    ask: Callable
    tell: Callable


@runtime_checkable
class OptimizerFactory(Protocol):
    """Describe an optimizer's factory; its settings are keyword-only, hashable and have defaults."""

    def __call__(self, bounds: Bounds) -> Optimizer:
        """Bind the optimizer to its bounds."""
        ...
