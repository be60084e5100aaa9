"""Optimizers that model where good points lie: tree-structured Parzen estimators, or one normal distribution.

References
----------
J. Bergstra, R. Bardenet, Y. Bengio, B. Kégl (2011), Algorithms for hyper-parameter optimization, NeurIPS 24.
N. Hansen (2016), The CMA evolution strategy: a tutorial, arXiv:1604.00772.
"""

import math
from collections.abc import Callable

import numpy as np
import optuna
from jaxtyping import Float
from optuna.samplers import TPESampler
from optuna.trial import create_trial

from kinbayes.optimizers.base import Bounds, Optimizer
from kinbayes.optimizers.trials import Proposal, State, box, free, optimizer, proposed, quiet


def bayesian(
    bounds: Bounds,
    *,
    method: str = "tpe",
    batch_size: int | None = None,
    max_trials: int = 1000,
    num_startup: int | None = None,
    initial_step: float = 0.25,
    loss_tolerance: float = 1e-8,
) -> Optimizer:
    """Build a search for few and dear evaluations, by a model of where the good ones were.

    The points that it begins at are its first round. Both methods see the order of losses alone, so one that failed is
    the worst, and the region is left.

    ``tpe`` is Optuna's: a density of the best tenth of all trials, one of the others, and candidates where their
    quotient is large. A round is asked with those before it in mind (a constant liar). It needs a box: on an open side
    this is that of the first round, widened by its own width. Every round costs time in proportion to the trials so
    far. It does not converge, but ends when `max_trials` are used up.

    ``cma_es`` is that of the package cmaes: a normal distribution that adapts to the losses' shape. It starts at the
    best point of the first round. Open sides are open. For a thousand evaluations and more, of up to some hundred
    parameters.

    Parameters
    ----------
    bounds
        Walls of the search.
    method
        ``tpe`` or ``cma_es``.
    batch_size
        Candidates of a round, which are evaluated together. By default 8 for ``tpe``, and for ``cma_es`` the
        population size 4 + floor(3 log dim) (Hansen, eq. 48).
    max_trials
        Largest number of evaluations of a start.
    num_startup
        ``tpe``: number of trials that have to be there before it models any; until then it draws at random. By
        default twice the number of parameters, and 10 at least.
    initial_step
        ``cma_es``: standard deviation at first, as a part of every parameter's range (where it is open: of that of
        the first round). A quarter, as the optimum is expected within a few of them.
    loss_tolerance
        ``cma_es``: it has converged when the losses of 10 + ceil(30 dim / batch_size) rounds differ by less than this
        part of max(abs(loss), 1), or by one of the package's own tests.

    Raises
    ------
    ValueError
        If a setting is out of its range.
    """
    dim = len(bounds.lower)
    if method == "tpe":
        n = 8 if batch_size is None else batch_size
        propose = _tpe(bounds, n, max(10, 2 * dim) if num_startup is None else num_startup)
    elif method == "cma_es":
        n = 4 + math.floor(3 * math.log(dim)) if batch_size is None else batch_size
        if n < 4:
            raise ValueError(f"batch_size is {n}; CMA-ES needs a population of at least 4")
        if not initial_step > 0.0:
            raise ValueError(f"initial_step is {initial_step}, which must be positive")
        propose = _cma_es(bounds, n, initial_step, loss_tolerance)
    else:
        raise ValueError(f"unknown method {method!r}; choose 'tpe' or 'cma_es'")
    return optimizer(bounds, batch_size=n, max_trials=max_trials, propose=propose)


def _tpe(bounds: Bounds, batch_size: int, num_startup: int) -> Callable[[State, int], Proposal]:
    def propose(state: State, seed: int) -> Proposal:
        """Tell a new study of all trials, and ask it for a round."""
        walls = box(bounds, state.positions[:batch_size])
        space = free(walls)
        columns = [int(name) for name in space]
        # Values are only sorted, so +inf will do for a failure. (Trials in Optuna's state FAIL are ignored, and their
        # region tried again.) While there is nothing else, none is better than another: nothing is told.
        num_known = int(state.num_trials) if np.isfinite(state.best_loss) else 0
        rows, values = state.positions[:num_known, columns].tolist(), state.losses[:num_known].tolist()
        trials = [
            create_trial(params=dict(zip(space, row, strict=True)), distributions=space, value=value)
            for row, value in zip(rows, values, strict=True)
        ]
        with quiet():
            sampler = TPESampler(n_startup_trials=num_startup, multivariate=True, constant_liar=True, seed=seed)
            study = optuna.create_study(sampler=sampler)
            study.add_trials(trials)
            return proposed(study, space, walls, batch_size)

    return propose


def _cma_es(
    bounds: Bounds, batch_size: int, initial_step: float, loss_tolerance: float
) -> Callable[[State, int], Proposal]:
    """Return CMA-ES as a function of past trials: it starts again from its seed and goes through all its rounds.

    The walls of a box are at 0 and 1 in its coordinates.
    """
    lower, upper = (np.asarray(wall, float) for wall in bounds)
    is_free, is_box = lower < upper, np.isfinite(upper - lower)
    # Where going through the rounds of the last call has led: it saves time, and nothing else depends on it.
    latest: dict[bytes, tuple] = {}

    def propose(state: State, seed: int) -> Proposal:
        n = int(state.num_trials)
        losses = state.losses[:n].reshape(-1, batch_size)
        design = state.positions[:batch_size]
        spread = np.ptp(design, axis=0)
        origin = np.where(is_box, lower, design.min(axis=0))[is_free]
        width = np.where(is_box, upper - lower, np.where(spread > 0.0, spread, 1.0))[is_free]

        def begun() -> tuple[object, list[np.ndarray], int]:
            walls = (np.stack([lower[is_free], upper[is_free]], axis=1) - origin[:, None]) / width[:, None]
            mean = np.clip((design[losses[0].argmin(), is_free] - origin) / width, *walls.T)
            from cmaes import CMA  # half a second of SciPy, which the others do without

            cma = CMA(mean, initial_step, walls, seed=int(state.seed), population_size=batch_size)
            return cma, _asked(cma), 1

        cma, points, num_done = latest.pop(_digest(state, n - batch_size), None) or begun()
        has_converged = False
        for told in losses[num_done:]:
            _tell(cma, points, told)
            has_converged = cma.should_stop()
            points = _asked(cma)
        latest.clear()
        latest[_digest(state, n)] = cma, points, len(losses)
        candidates = np.tile(lower, (batch_size, 1))
        candidates[:, is_free] = origin + width * np.array(points)
        return Proposal(candidates, has_converged or is_flat(losses))

    def is_flat(losses: Float[np.ndarray, "rounds n"]) -> bool:
        num_rounds = 10 + math.ceil(30 * is_free.sum() / batch_size)
        recent = losses[-num_rounds:][losses[-num_rounds:] < np.inf]
        if len(losses) <= num_rounds or not recent.size:
            return False
        return bool(np.ptp(recent) <= loss_tolerance * max(abs(recent.min()), 1.0))

    def _digest(state: State, n: int) -> bytes:
        return b"".join((state.seed.tobytes(), state.positions[:batch_size].tobytes(), state.losses[:n].tobytes()))

    return propose


def _asked(cma: object) -> list[np.ndarray]:
    return [cma.ask() for _ in range(cma.population_size)]


def _tell(cma: object, points: list[np.ndarray], losses: Float[np.ndarray, " n"]) -> None:
    """Tell a round, those that failed last; where all did there is nothing to learn, and the next is drawn alike."""
    order = losses.argsort(kind="stable")
    known = losses[losses < np.inf]
    if known.size:
        # As bad as the worst, behind which the stable sort of CMA leaves them: its tests want finite numbers.
        cma.tell([(points[i], min(losses[i], known.max())) for i in order])
