"""The bootstrap of a mode: how far it would lie elsewhere, had chance given other measurements."""

import math
import time
from contextlib import nullcontext

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from kinbayes.optimizers import OPTIMIZERS
from kinbayes.optimizers.base import Bounds, Evaluation
from kinbayes.problem.parameters import natural
from kinbayes.problem.problem import Problem
from kinbayes.results.mode_store import BOOTSTRAP_NAMES, bootstrap_data
from kinbayes.results.store import InferenceData, StoreError, check_names
from kinbayes.run import record
from kinbayes.run.curvature import walls
from kinbayes.run.loop.driver import run_optimizer
from kinbayes.run.loop.runs import OptimizerRun
from kinbayes.run.progress import ProgressDisplay
from kinbayes.run.starts.chain_starts import estimates, values
from kinbayes.run.starts.spread import distinct

_SETTINGS = (("initial_damping", 1e-6),)  # near an optimum the first step is to be Newton's
_EACH = 200  # evaluations of a search on average: one that begins near its optimum takes ten or twenty


def bootstrap(
    problem: Problem,
    mode: InferenceData,
    *,
    replicates: int = 100,
    starts_near: int = 1,
    max_evaluations: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> InferenceData:
    """Find the mode anew for data sets that are drawn, with replacement, from the measurements.

    Measurements are drawn within each experiment, which keeps their number; one pre-equilibration or another makes
    experiments different ones. The only measurement of an experiment is in every replicate, as often as it was, so that
    where many are alone modes scatter too little: the attribute `alone` counts them. Statements of constraints are
    not drawn: they and the prior count once.

    All replicates are searched side by side, by `multistart`. None is left out: where a search has not converged
    `converged` says so. A parameter may lose all measurements that it has an influence on (`without_data`); where the
    prior is flat it then stays where its search began. A noise parameter may be left with residuals that vanish, and
    ends on a wall (`at_wall`).

    Parameters
    ----------
    problem
        The problem.
    mode
        A result of `optimize`: searches begin at its best point.
    replicates
        Number of data sets.
    starts_near
        Number of optima of the mode at which the searches of every replicate begin, the highest first; of where they
        end the best counts. If the mode has fewer, all of them.
    max_evaluations
        Simulations of the whole problem that may be spent by all searches together; by default 200 a search.
    seed
        Seeds the drawing.
    progress
        Whether to show a progress bar.

    Returns
    -------
    InferenceData
        Groups `bootstrap`, `observed_data`, `constant_data`. The first has for every replicate the mode (natural
        units), its `loss` (the negative log density with respect to du), `converged`, and for every parameter `at_wall`
        (-1 at the lower, 1 at the upper one, else 0) and `without_data`. The attributes `on_wall` and `without_data`
        count replicates by parameter. `bootstrap_intervals` reads intervals off it.

    Raises
    ------
    ValueError
        If a setting is out of its range, the result is of another problem, or its best point has no density.
    StoreError
        If a parameter is named as a variable of the result.

    References
    ----------
    Efron (1979), Bootstrap methods: another look at the jackknife, The Annals of Statistics 7,
    doi:10.1214/aos/1176344552.
    """
    began = time.perf_counter()
    _check(problem, replicates, starts_near, max_evaluations)
    optima, log_density = _optima(problem, mode, starts_near)
    weights = resampled(problem, replicates, np.random.default_rng(seed))
    most = _EACH * replicates * len(optima) if max_evaluations is None else max_evaluations
    with ProgressDisplay() if progress else nullcontext() as display:
        run = run_optimizer(
            Partial(_weighted, problem.batched.curvature, jnp.asarray(np.repeat(weights, len(optima), axis=0), float)),
            OPTIMIZERS["multistart"],
            _SETTINGS,
            bounds=Bounds(problem.lower, problem.upper),
            initial=np.tile(optima, (replicates, 1))[:, None],
            max_evaluations=most,
            seed=seed,
            on_chunk=display and display.update,
        )
    position, loss, converged = _best(run, replicates)
    low, high = walls(problem)
    at_wall = (position >= high).astype(int) - (position <= low).astype(int)
    without_data = weights @ _influence(problem, optima[0]).astype(int) == 0
    attrs = record.attributes(
        problem,
        algorithm="bootstrap",
        settings={"replicates": replicates, "starts_near": starts_near, "max_evaluations": most},
        seed=seed,
        wall_time=time.perf_counter() - began,
        simulations=run.evaluations * problem.num_lanes,
    )
    return bootstrap_data(
        record.parameter_table(problem),
        record.measurement_table(problem),
        estimates=natural(position, problem.scale),
        statistics={"loss": loss, "converged": converged},
        by_parameter={"at_wall": at_wall, "without_data": without_data},
        attrs=attrs
        | {
            "replicates": replicates,
            "converged_share": float(converged.mean()),
            "evaluations": run.evaluations,
            "stopped": run.stopped,
            "mode_log_density": log_density,
            "optima": len(optima),
            "alone": sum(len(rows) == 1 for rows in _experiments(problem)),
            "on_wall": _counts(problem, at_wall != 0),
            "without_data": _counts(problem, without_data),
        },
    )


def resampled(
    problem: Problem, replicates: int, rng: np.random.Generator
) -> Int[np.ndarray, "replicates measurements"]:
    """Return how often every measurement counts in data sets that are drawn within each experiment.

    Parameters
    ----------
    problem
        The problem; statements of its constraints count once.
    replicates
        Number of data sets.
    rng
        Random numbers.
    """
    weights = np.ones((replicates, len(problem.measurements)), dtype=int)
    for rows in _experiments(problem):
        weights[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=replicates)
    return weights


def _check(problem: Problem, replicates: int, starts_near: int, max_evaluations: int | None) -> None:
    asked = {"replicates": replicates, "starts_near": starts_near, "max_evaluations": max_evaluations}
    for name, value in asked.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    check_names(problem.parameter_names, [o.name for o in problem.observables])
    taken = sorted(BOOTSTRAP_NAMES & set(problem.parameter_names))
    if taken:
        raise StoreError(f"parameters {taken} are named as variables of a bootstrap; rename them")


def _experiments(problem: Problem) -> list[list[int]]:
    """Return the rows of the measurements of every experiment."""
    rows: dict[tuple[str, str], list[int]] = {}
    for k, m in enumerate(problem.measurements[: len(problem.measurements) - len(problem.constraints)]):
        rows.setdefault((m.preequilibration, m.experiment), []).append(k)
    return list(rows.values())


def _optima(problem: Problem, mode: InferenceData, most: int) -> tuple[Float[np.ndarray, "optima dim"], float]:
    """Return the highest optima of a mode, and the log density at the first."""
    ends = np.clip(values(problem, estimates(mode)), np.asarray(problem.lower), np.asarray(problem.upper))
    found = problem.evaluate(ends)
    log_density = np.nan_to_num(found.log_likelihood + found.log_prior, nan=-np.inf)
    order = np.argsort(-log_density, kind="stable")
    ends, log_density = ends[order], log_density[order]
    if not math.isfinite(log_density[0]):
        raise ValueError(f"the log density at the mode is {log_density[0]}; give the result of kinbayes.optimize")
    is_good = np.isfinite(log_density)
    kept = [0] if most == 1 else distinct(problem, ends[is_good], log_density[is_good])[:most]
    return ends[kept], float(log_density[0])


def _weighted(curvature: Partial, weights: Float[Array, "n measurements"], U: Float[Array, "n dim"]) -> Evaluation:
    log_prior, log_likelihood, prior_grad, likelihood_grad, information = curvature(U, weights)
    return Evaluation(-(log_prior + log_likelihood), -(prior_grad + likelihood_grad), information)


def _best(
    run: OptimizerRun, replicates: int
) -> tuple[Float[np.ndarray, "replicates dim"], Float[np.ndarray, " replicates"], Bool[np.ndarray, " replicates"]]:
    """Return where the best search of every replicate ended, its loss, and whether it converged."""
    position, loss, converged = (
        part.reshape(replicates, -1, *part.shape[1:]) for part in (run.position, run.loss, run.converged)
    )
    best = np.arange(replicates), np.argmin(loss, axis=1)
    return position[best], loss[best], converged[best]


def _influence(problem: Problem, position: Float[np.ndarray, " dim"]) -> Bool[np.ndarray, "measurements dim"]:
    """Return which parameters the prediction or the noise of every measurement depends on."""
    slopes = problem.row_derivatives(position[None])
    return (slopes.simulated[0] != 0) | np.any(slopes.noise[0] != 0, axis=1)


def _counts(problem: Problem, is_so: Bool[np.ndarray, "replicates dim"]) -> dict[str, int]:
    """Return in how many replicates something is so, of the parameters of which it ever is."""
    counts = is_so.sum(axis=0).tolist()
    return {name: count for name, count in zip(problem.parameter_names, counts, strict=True) if count}
