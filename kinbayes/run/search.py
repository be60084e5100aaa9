"""Searching a problem's mode from given points."""

from collections.abc import Callable

import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from kinbayes.optimizers.base import Bounds, Evaluation, OptimizerFactory
from kinbayes.problem.problem import Problem
from kinbayes.run.driver import run_optimizer
from kinbayes.run.pieces import Settings
from kinbayes.run.runs import OptimizerProgress, OptimizerRun
from kinbayes.run.trace import Trace


def search(
    problem: Problem,
    factory: OptimizerFactory,
    settings: Settings = (),
    *,
    initial: Float[np.ndarray, "starts dim"] | OptimizerRun,
    max_evaluations: int,
    seed: int,
    trace: Trace | None = None,
    on_chunk: Callable[[OptimizerProgress], str | None] | None = None,
) -> OptimizerRun:
    """Run an optimizer on the negative log posterior density with respect to du, between the problem's walls.

    Parameters and returns are those of `run_optimizer`.
    """
    return run_optimizer(
        Partial(_loss, problem.batched.value_and_grad),
        factory,
        settings,
        bounds=Bounds(problem.lower, problem.upper),
        initial=initial,
        max_evaluations=max_evaluations,
        seed=seed,
        trace=trace,
        on_chunk=on_chunk,
    )


def _loss(value_and_grad: Partial, U: Float[Array, "n dim"]) -> Evaluation:
    log_prior, log_likelihood, prior_grad, likelihood_grad = value_and_grad(U)
    return Evaluation(-(log_prior + log_likelihood), -(prior_grad + likelihood_grad))
