"""Optimizers that JAX cannot compile: the same loop on the host, with arrays of NumPy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from kinbayes.optimizers.base import Bounds, Evaluation, Optimizer, OptimizerFactory, OptimizerState
from kinbayes.run.loop.pieces import Evaluated, Rounds, Settings, each_start


def start_on_host(
    bounds: Bounds,
    key: Key[Array, ""],
    U: Float[np.ndarray | Array, "starts points dim"],
    *,
    factory: OptimizerFactory,
    settings: Settings,
) -> OptimizerState:
    """Make the first states of independent starts, stacked, as `pieces.start_optimizer`."""
    optimizers, keys = _bound(bounds, factory, settings), each_start(key, len(U))
    return _stacked([o.init(k, np.asarray(points)) for o, k, points in zip(optimizers, keys, U, strict=True)])


def search_on_host(
    objective: Callable,
    bounds: Bounds,
    key: Key[Array, ""],
    state: OptimizerState,
    start: int,
    length: int,
    allowed: int,
    target_loss: float,
    *,
    factory: OptimizerFactory,
    settings: Settings,
    capacity: int,
    keeps_evaluated: bool = False,
) -> tuple[OptimizerState, Rounds]:
    """Ask, evaluate and tell; parameters and returns are those of `pieces.search`."""
    optimizers = _bound(bounds, factory, settings)
    keys, states = each_start(key, len(optimizers)), _apart(state)
    losses, counts, kept, spent = [], [], [], 0
    while len(losses) < length and min(float(s.best_loss) for s in states) > target_loss:
        active = [k for k, s in enumerate(states) if not s.finished]
        candidates = [np.asarray(optimizers[k].ask(states[k])) for k in active]
        if not active or spent + sum(map(len, candidates)) > allowed:
            break
        evaluation = jax.tree.map(np.asarray, _evaluated(objective, jnp.asarray(np.concatenate(candidates))))
        told = _parts(evaluation, len(active))
        if keeps_evaluated:
            kept.append(_placed(active, candidates, told, len(states)))
        for k, own in zip(active, told, strict=True):
            states[k] = optimizers[k].tell(jax.random.fold_in(keys[k], start + len(losses)), states[k], own)
        spent += sum(map(len, candidates))
        losses.append(min(float(s.best_loss) for s in states))
        counts.append(spent)
    evaluated = jax.tree.map(lambda *rows: np.stack(rows), *kept) if kept else None
    return _stacked(states), Rounds(
        np.array(losses, float), np.array(counts, int), np.array(len(losses)), np.array(spent), evaluated
    )


@jax.jit
def _evaluated(objective: Callable, U: Float[Array, "n dim"]) -> Evaluation:
    return objective(U)


def _parts(evaluation: Evaluation, num: int) -> list[Evaluation]:
    """Return what is said of the candidates of each start, as many as there are of any other."""
    split = [None if part is None else np.split(part, num) for part in evaluation]
    return [Evaluation(*(None if part is None else part[k] for part in split)) for k in range(num)]


def _placed(active: list[int], candidates: list[np.ndarray], told: list[Evaluation], num_starts: int) -> Evaluated:
    """Return what the starts that go on have evaluated, in their places among all starts; NaN of the others."""
    parts = zip(active, candidates, told, strict=True)
    found = {k: Evaluated(U, own.loss, own.gradient) for k, U, own in parts}
    nothing = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), next(iter(found.values())))
    return jax.tree.map(lambda *rows: np.stack(rows), *(found.get(k, nothing) for k in range(num_starts)))


def _bound(bounds: Bounds, factory: OptimizerFactory, settings: Settings) -> list[Optimizer]:
    walls = zip(*map(np.asarray, bounds), strict=True)
    return [factory(Bounds(*own), **dict(settings)) for own in walls]


def _stacked(states: list[OptimizerState]) -> OptimizerState:
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *states)


def _apart(state: OptimizerState) -> list[OptimizerState]:
    num_starts = len(state.finished)
    return [jax.tree.map(lambda leaf, k=k: np.asarray(leaf)[k], state) for k in range(num_starts)]
