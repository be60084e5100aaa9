"""Predictions of a posterior, or of a mode, at times and in experiments that were measured or not."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from kinbayes.problem.observables import Experiment
from kinbayes.problem.parameters import scaled
from kinbayes.problem.problem import Problem
from kinbayes.results import store
from kinbayes.results.store import InferenceData
from kinbayes.run import record
from kinbayes.run.starts.chain_starts import best_estimate

_GRID = 101  # times, where none are given


def predict(
    idata: InferenceData,
    problem: Problem,
    *,
    times: Sequence[float] | Float[np.ndarray, " times"] | None = None,
    experiment: str | Experiment | None = None,
    draws: int = 500,
    seed: int = 0,
) -> InferenceData:
    """Predict states and observables under a posterior.

    Parameters
    ----------
    idata
        A sampling run of the problem, or a result of `optimize`, of which the best start is taken.
    problem
        The problem that was sampled.
    times
        When to predict, in the model's unit of time, none before the experiment's start; by default a fine grid from
        there to the last finite time that was measured.
    experiment
        An experiment of the problem by name, or one of your own; by default the first.
    draws
        Draws to use, of all chains together, evenly spaced.
    seed
        Seeds the measurement noise.

    Returns
    -------
    InferenceData
        Groups `states` and `observables`, without noise, and `predictions`, new measurements with noise, empty where
        there is no likelihood; variables have dims (chain, draw, time).

    Raises
    ------
    ValueError
        If the result is of another problem, or a name or a time does not fit.
    """
    chosen = _experiment(problem, experiment)
    if times is None:
        times = _grid(problem, chosen)
    times = np.unique(np.asarray(times, dtype=float))
    if times.size == 0 or not np.all(np.isfinite(times)) or times[0] < chosen.start:
        start = f"{chosen.start:g}, the start of {chosen.name!r}"
        raise ValueError(f"times must be finite, not before {start}, and at least one")
    grid = problem.on_grid(chosen, times)
    points = _points(idata, problem, draws)
    rows = grid.rows(points)
    states = grid.states(points)[:, 0]
    is_failed = np.any(rows.status != 0, axis=-1)
    simulated = np.where(is_failed[:, None], np.nan, rows.simulated)
    names = [o.name for o in grid.observables]

    def by_observable(values: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, np.moveaxis(values.reshape(len(points), len(names), times.size), 1, 0), strict=True))

    return store.prediction_data(
        times,
        states={n: np.where(is_failed[:, None], np.nan, states[..., k]) for k, n in enumerate(problem.model.states)},
        observables=by_observable(simulated),
        predictions=by_observable(grid.draw_measurements(np.random.default_rng(seed), simulated, rows.noise))
        if grid.is_likelihood
        else {},
        time_unit=record.measurement_table(problem).time_unit,
        attrs={
            "problem": problem.name,
            "problem_hash": problem.hash,
            "experiment": grid.experiments[0].name,
            "seed": seed,
            "failed": int(is_failed.sum()),
        },
    )


def _grid(problem: Problem, experiment: Experiment) -> Float[np.ndarray, " times"]:
    """Return times from an experiment's start to the last finite time that was measured in any."""
    rows = [m for m in problem.measurements if experiment.start < m.time < np.inf]
    last = max((m.time for m in rows), default=experiment.start)
    return np.linspace(experiment.start, last, _GRID)


def _experiment(problem: Problem, experiment: str | Experiment | None) -> Experiment:
    if isinstance(experiment, Experiment):
        return experiment
    known: Mapping[str, Experiment] = {e.name: e for e in problem.experiments}
    if experiment is None:
        return next(e for e in problem.experiments if e.name in {m.experiment for m in problem.measurements})
    if experiment not in known:
        raise ValueError(f"unknown experiment {experiment!r}; choose from {list(known)}, or give an Experiment")
    return known[experiment]


def _points(idata: InferenceData, problem: Problem, draws: int) -> Float[np.ndarray, "n dim"]:
    if "posterior" not in idata.groups():
        return best_estimate(problem, idata)[None]
    missing = sorted(set(problem.parameter_names) - set(idata.posterior.data_vars))
    if missing:
        raise ValueError(f"the result has no draws of {missing}; it is of another problem")
    theta = np.stack([idata.posterior[n].values.ravel() for n in problem.parameter_names], axis=-1)
    chosen = np.unique(np.linspace(0, len(theta) - 1, min(draws, len(theta))).round().astype(int))
    return scaled(theta[chosen], problem.scale)
