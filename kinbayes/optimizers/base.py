"""The optimizer protocol: ask for candidates, tell their losses.

An optimizer sees bounds and losses and nothing else of the package. It is a factory ``name(bounds, *, ...)`` that
returns an `Optimizer` of one start: one local search, or one population. Several starts are independent copies of it,
which the caller puts side by side by `jax.vmap`. The points it starts from are chosen outside and handed to `init`, so
that any design serves any optimizer.

Every state is a NamedTuple of arrays with at least the fields of `OptimizerState`.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Bounds(NamedTuple):
    """Hold the walls of the search, (dim,) each; -inf and +inf where it is open, equal where a parameter is fixed."""

    lower: Float[Array, " dim"]
    upper: Float[Array, " dim"]


class Evaluation(NamedTuple):
    """Hold what the objective says of candidates.

    Attributes
    ----------
    loss
        (n,), to be minimised; +inf or NaN where the objective failed.
    gradient
        Gradient of the loss, (n, dim), for optimizers that want one.
    information
        Positive semidefinite approximation of the loss's Hessian, (n, dim, dim), for optimizers that want one: Fisher's
        information, or Gauss and Newton's.
    index
        Which of the candidates of `ask` these are, (n,), without repetition and in any order; None for all of them in
        their order.
    """

    loss: Float[Array, " n"]
    gradient: Float[Array, "n dim"] | None = None
    information: Float[Array, "n dim dim"] | None = None
    index: Int[Array, " n"] | None = None


@runtime_checkable
class OptimizerState(Protocol):
    """Name the fields that every optimizer's state has.

    `best_loss` is +inf until a candidate could be evaluated. A `finished` start will not improve any more; it has
    `converged` if that is because it met the optimizer's test for an optimum.
    """

    best_position: Float[Array, " dim"]
    best_loss: Float[Array, ""]
    converged: Bool[Array, ""]
    finished: Bool[Array, ""]


class Optimizer(NamedTuple):
    """Hold one optimizer bound to its bounds.

    Attributes
    ----------
    num_points
        Number of points that `init` takes.
    init
        (key, U (num_points, dim)) -> state, from points inside the bounds. Nothing is evaluated: U are the first
        candidates, or among them.
    ask
        (state) -> candidates (n, dim) inside the bounds, n the same every time.
    tell
        (key, state, evaluation) -> state, for all or some of the candidates of the state's `ask`. Candidates that are
        not told yet stay as they are, in their place.
    members
        (state) -> positions (k, dim) and losses (k,) of the points that a local search may begin at, best first; +inf
        where there is none.
    wants
        What evaluations must have beside losses.
    is_traceable
        Whether JAX can compile it; if not it is called on the host, with arrays of NumPy.
    """

    num_points: int
    init: Callable
    ask: Callable
    tell: Callable
    members: Callable
    wants: Literal["loss", "gradient", "information"] = "loss"
    is_traceable: bool = True


@runtime_checkable
class OptimizerFactory(Protocol):
    """Describe an optimizer's factory; its settings are keyword-only, hashable and have defaults."""

    def __call__(self, bounds: Bounds) -> Optimizer:
        """Bind the optimizer to its bounds."""
        ...


class Told(NamedTuple):
    """Hold the losses of a round of candidates that are told part by part.

    `loss` is +inf where an evaluation failed, or is not told yet.
    """

    loss: Float[Array, " n"]
    is_told: Bool[Array, " n"]


def untold(n: int) -> Told:
    """Return a round of which nothing is told."""
    return Told(jnp.full(n, jnp.inf), jnp.zeros(n, bool))


def told(so_far: Told, evaluation: Evaluation) -> Told:
    """Add what is told to a round; a loss that is no number counts as +inf."""
    loss = jnp.where(jnp.isnan(evaluation.loss), jnp.inf, evaluation.loss)
    if evaluation.index is None:
        return Told(loss, jnp.ones_like(so_far.is_told))
    return Told(so_far.loss.at[evaluation.index].set(loss), so_far.is_told.at[evaluation.index].set(True))


def with_best(state: OptimizerState, candidates: Float[Array, "n dim"], so_far: Told) -> OptimizerState:
    """Return a state with the best of its candidates, if that is the best point so far."""
    best = so_far.loss.argmin()
    is_better = so_far.loss[best] <= state.best_loss  # the first of equals, whatever is told first
    return state._replace(
        best_position=jnp.where(is_better, candidates[best], state.best_position),
        best_loss=jnp.where(is_better, so_far.loss[best], state.best_loss),
    )


def where(condition: Bool[Array, ""], chosen, otherwise):
    """Return one of two states of the same form."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), chosen, otherwise)


def reflected(U: Float[Array, "n dim"], bounds: Bounds) -> Float[Array, "n dim"]:
    """Fold points back at the walls until they are inside."""
    lower, upper = bounds
    is_box, width = jnp.isfinite(upper - lower), upper - lower
    folded = jnp.where(is_box, jnp.mod(U - lower, 2.0 * jnp.where(width > 0.0, width, 1.0)), 0.0)
    in_box = lower + jnp.minimum(folded, 2.0 * width - folded)
    one_sided = jnp.where(lower > U, 2.0 * lower - U, jnp.where(upper < U, 2.0 * upper - U, U))
    # Rounding may leave the box; a fixed parameter stays where it is.
    return jnp.clip(jnp.where(is_box, in_box, one_sided), lower, upper)
