"""Optimizers outside of JAX that learn from a list of trials: the list as arrays, and Optuna's studies of it."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np
import optuna
from jaxtyping import Array, Bool, Float, Int, Key, UInt
from optuna.distributions import FloatDistribution

from kinbayes.optimizers.base import Bounds, Evaluation, Optimizer, Told


class State(NamedTuple):
    """Hold all trials there were and the round that is being evaluated.

    It is all there is: what an algorithm proposes next is a function of these arrays, so a search that goes on from
    them is the search that was never interrupted.

    `positions` and `losses` are the trials in their order, of which there are `num_trials`; the rows behind them mean
    nothing. The first round of `candidates` is the design. `told` is what is known of the present round, and `seed`
    the source of all random numbers.
    """

    best_position: Float[np.ndarray, " dim"]
    best_loss: Float[np.ndarray, ""]
    converged: Bool[np.ndarray, ""]
    finished: Bool[np.ndarray, ""]
    positions: Float[np.ndarray, "trials dim"]
    losses: Float[np.ndarray, " trials"]
    num_trials: Int[np.ndarray, ""]
    candidates: Float[np.ndarray, "n dim"]
    told: Told
    seed: UInt[np.ndarray, ""]


class Proposal(NamedTuple):
    """Hold the candidates of the next round, or say that none are needed as the search has converged."""

    candidates: Float[np.ndarray, "n dim"]
    converged: bool = False


def optimizer(
    bounds: Bounds, *, batch_size: int, max_trials: int, propose: Callable[[State, int], Proposal]
) -> Optimizer:
    """Build an optimizer of a function from past trials to the next round.

    A round begins when all of the one before is told, so that the order and the grouping of what is told make no
    difference; nor do the keys of `tell`, which are not used.

    Parameters
    ----------
    bounds
        Walls of the search.
    batch_size
        Number of candidates of a round, and of points in the design.
    max_trials
        Number of trials after which a start is finished; a round that would pass it is not begun.
    propose
        (state, seed) -> the next round, from the trials of a state and a seed that belongs to the round.

    Raises
    ------
    ValueError
        If there is no room for the design, or every parameter is fixed.
    """
    lower, upper = (np.asarray(wall, float) for wall in bounds)
    if not 1 <= batch_size <= max_trials:
        raise ValueError(
            f"max_trials is {max_trials}, and a round has {batch_size}: there must be room for one of at least one"
        )
    if not (lower < upper).any():
        raise ValueError("every parameter is fixed, lower == upper: free one to have something to search for")

    def init(key: Key[Array, ""], U: Float[Array | np.ndarray, "n dim"]) -> State:
        U = np.array(U, float)
        return State(
            best_position=U[0],
            best_loss=np.array(np.inf),
            converged=np.array(False),
            finished=np.array(False),
            positions=np.tile(U[0], (max_trials, 1)),
            losses=np.full(max_trials, np.inf),
            num_trials=np.array(0),
            candidates=U,
            told=_untold(batch_size),
            seed=np.asarray(jax.random.bits(key, dtype=np.uint32)),
        )

    def ask(state: State) -> Float[np.ndarray, "n dim"]:
        return np.asarray(state.candidates)

    def tell(key: Key[Array, ""], state: State, evaluation: Evaluation) -> State:
        if state.finished:
            return state
        told = _told(state.told, evaluation)
        # The first of equals, whatever was told first.
        losses = np.append(state.losses, told.loss)
        best = losses.argmin()
        state = state._replace(
            told=told,
            best_loss=np.array(losses[best]),
            best_position=np.append(state.positions, state.candidates, axis=0)[best],
        )
        return _next_round(state) if told.is_told.all() else state

    def _next_round(state: State) -> State:
        start, end = int(state.num_trials), int(state.num_trials) + batch_size
        positions, losses = state.positions.copy(), state.losses.copy()
        positions[start:end], losses[start:end] = state.candidates, state.told.loss
        state = state._replace(positions=positions, losses=losses, num_trials=np.array(end), told=_untold(batch_size))
        if end + batch_size > max_trials:
            return state._replace(finished=np.array(True))
        seed = int(np.random.SeedSequence((int(state.seed), end)).generate_state(1)[0])
        candidates, converged = propose(state, seed)
        return state._replace(
            candidates=np.clip(candidates, lower, upper), converged=np.array(converged), finished=np.array(converged)
        )

    def members(state: State) -> tuple[Float[np.ndarray, "n dim"], Float[np.ndarray, " n"]]:
        best = np.asarray(state.losses).argsort(kind="stable")[:batch_size]
        return state.positions[best], state.losses[best]

    return Optimizer(batch_size, init, ask, tell, members, is_traceable=False)


def _untold(n: int) -> Told:
    return Told(np.full(n, np.inf), np.zeros(n, bool))


def _told(so_far: Told, evaluation: Evaluation) -> Told:
    loss = np.asarray(evaluation.loss, float)
    index = slice(None) if evaluation.index is None else np.asarray(evaluation.index)
    told = Told(np.array(so_far.loss), np.array(so_far.is_told))
    told.loss[index], told.is_told[index] = np.where(np.isnan(loss), np.inf, loss), True
    return told


# ---- Optuna


def box(bounds: Bounds, design: Float[np.ndarray, "n dim"]) -> Bounds:
    """Return finite walls, as Optuna needs them.

    On a side that is open it is the design that is widened there by its own width, or by 1 where it has none.
    """
    lower, upper = (np.asarray(wall, float) for wall in bounds)
    least, most = design.min(axis=0), design.max(axis=0)
    width = np.where(most > least, most - least, 1.0)
    return Bounds(np.where(np.isfinite(lower), lower, least - width), np.where(np.isfinite(upper), upper, most + width))


def distributions(names: list[str], walls: Bounds) -> dict[str, FloatDistribution]:
    """Return Optuna's description of parameters between finite walls."""
    return {name: FloatDistribution(float(low), float(high)) for name, low, high in zip(names, *walls, strict=True)}


def free(walls: Bounds) -> dict[str, FloatDistribution]:
    """Return Optuna's description of the parameters that are not fixed, by their place."""
    is_free = walls.lower < walls.upper
    names = [f"{j:06d}" for j in np.flatnonzero(is_free)]  # Optuna sorts them
    return distributions(names, Bounds(walls.lower[is_free], walls.upper[is_free]))


def proposed(study: optuna.Study, space: dict[str, FloatDistribution], walls: Bounds, n: int) -> Proposal:
    """Ask a study for n trials in a space that `free` gave; fixed parameters stay where they are."""
    candidates = np.tile(walls.lower, (n, 1))
    for row in candidates:
        trial = study.ask(space)
        row[[int(name) for name in space]] = [trial.params[name] for name in space]
    return Proposal(candidates)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from telling of new studies, and of parts of it that are called experimental."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
