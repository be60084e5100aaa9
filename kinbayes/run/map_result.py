"""The result of an optimizer's run: where every start ended, how it came there, and the curvature at the best point."""

from collections.abc import Mapping, Sequence

import numpy as np

from kinbayes.problem.parameters import natural
from kinbayes.problem.problem import Problem
from kinbayes.results import mode_store
from kinbayes.results.store import InferenceData
from kinbayes.run import record
from kinbayes.run.curvature import curvature
from kinbayes.run.loop.runs import OptimizerRun
from kinbayes.run.starts.spread import MOST_OPTIMA, depth, distinct, inside, prior_width

NEAR = 0.1  # of log density: how near to the best a start has found the same optimum


def map_result(
    problem: Problem, run: OptimizerRun, heats: Sequence[OptimizerRun], attrs: Mapping[str, object]
) -> InferenceData:
    """Return the result of a run, and of the heats of local searches that refined it.

    Raises
    ------
    RuntimeError
        If no start has found a point with a density.
    """
    parts = [*heats, run]
    position, loss, converged = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("position", "loss", "converged")
    )
    is_refined = np.arange(len(loss)) < len(loss) - len(run.loss)
    order = np.argsort(loss, kind="stable")
    position, loss, converged, is_refined = (part[order] for part in (position, loss, converged, is_refined))
    if not np.isfinite(loss[0]):
        raise RuntimeError(
            f"no point with a density was found in {sum(part.evaluations for part in parts)} evaluations; give the "
            "search more, or another seed"
        )
    # The losses came with gradients, in whose steps the errors of the sensitivities have a say: they differ a little.
    found = problem.evaluate(position)
    log_density = found.log_likelihood + found.log_prior
    rng = np.random.default_rng(0)
    at_best = curvature(problem, inside(problem, position[:1])[0], prior_width(problem, rng))
    in_turn = [run, *heats]
    before = np.cumsum([0, *(part.evaluations for part in in_turn)])
    losses = np.concatenate([part.history for part in in_turn])
    return mode_store.map_data(
        record.parameter_table(problem),
        record.measurement_table(problem),
        estimates=natural(position, problem.scale),
        statistics={
            "log_density": log_density,
            "log_likelihood": found.log_likelihood,
            "log_prior": found.log_prior,
            "loss": loss,
            "converged": converged,
            "is_refined": is_refined,
        },
        history={
            "loss": np.minimum.accumulate(losses),
            "evaluations": np.concatenate([part.counts + n for part, n in zip(in_turn, before[:-1], strict=True)]),
        },
        gradient=at_best.gradient,
        hessian=at_best.hessian,
        attrs=dict(attrs)
        | {
            "stopped": in_turn[-1].stopped,
            "converged": bool(converged[0]),
            "starts_near_best": int(np.sum(loss <= loss[0] + NEAR)),
            "distinct_optima": _num_optima(problem, position, log_density),
        },
    )


def _num_optima(problem: Problem, position: np.ndarray, log_density: np.ndarray) -> int:
    """Return how many optima there are among the ends that are not too low, a valley between any two of them."""
    kept = np.flatnonzero(log_density >= log_density[0] - depth(problem.dim))
    kept = kept[np.argsort(-log_density[kept], kind="stable")][:MOST_OPTIMA]
    return len(distinct(problem, position[kept], log_density[kept]))
