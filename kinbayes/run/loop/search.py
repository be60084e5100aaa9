"""Searching a problem's mode from given points."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from kinbayes.optimizers.base import Bounds, Evaluation, OptimizerFactory
from kinbayes.problem import truncation
from kinbayes.problem.parameters import LOG_FACTORS
from kinbayes.problem.problem import Problem
from kinbayes.run.loop.driver import run_optimizer
from kinbayes.run.loop.pieces import Evaluated, Settings
from kinbayes.run.loop.runs import OptimizerProgress, OptimizerRun
from kinbayes.run.loop.trace import Trace

LOSSES = ("posterior", "petab")


def search(
    problem: Problem,
    factory: OptimizerFactory,
    settings: Settings = (),
    *,
    loss: str = "posterior",
    initial: Float[np.ndarray, "starts points dim"] | OptimizerRun,
    max_evaluations: int,
    seed: int,
    bounds: Bounds | None = None,
    target_loss: float = -np.inf,
    keeps_evaluated: bool = False,
    trace: Trace | None = None,
    on_chunk: Callable[[OptimizerProgress], str | None] | None = None,
) -> OptimizerRun:
    """Run an optimizer on a problem, between its walls.

    Parameters and returns are those of `run_optimizer`; `loss` is one of `LOSSES`, and the bounds may be narrower than
    the walls.
    """
    walls = Bounds(problem.lower, problem.upper)
    wants = factory(walls, **dict(settings)).wants
    return run_optimizer(
        objective(problem, wants, loss),
        factory,
        settings,
        bounds=walls if bounds is None else bounds,
        initial=initial,
        max_evaluations=max_evaluations,
        seed=seed,
        target_loss=target_loss,
        keeps_evaluated=keeps_evaluated,
        trace=trace,
        on_chunk=on_chunk,
    )


def objective(problem: Problem, wants: str, loss: str = "posterior") -> Partial:
    """Return the loss of candidates (n, dim), and what an optimizer wants beside it."""
    batched, shift = problem.batched, _petab_shift(problem) if loss == "petab" else None
    if wants == "loss":
        return Partial(_loss, shift, batched.log_prior, batched.log_likelihood)
    if wants == "gradient":
        return Partial(_with_gradient, shift, batched.value_and_grad)
    return Partial(_with_information, shift, batched.curvature)


def of_density(problem: Problem, loss: str, found: Evaluated) -> Evaluated:
    """Return what a search has found of a loss as the negative log density with respect to du, and its gradient."""
    if loss != "petab":
        return found
    constant, slope = map(np.asarray, _petab_shift(problem))
    gradient = None if found.gradient is None else found.gradient - slope
    return Evaluated(found.position, found.loss - constant - found.position @ slope, gradient)


class _Shift(NamedTuple):
    """A linear function of u that is added to a loss."""

    constant: Float[Array, ""]
    slope: Float[Array, " dim"]


def _petab_shift(problem: Problem) -> _Shift:
    """Return PEtab's objective minus the negative log density with respect to du.

    PEtab leaves out log|dθ/du| of priors stated on natural values, the mass that bounds cut off, and priors that nobody
    stated.
    """
    constant, slope = 0.0, np.zeros(problem.dim)
    for k, parameter in enumerate(problem.estimated):
        prior = parameter.effective_prior
        if prior is None:
            continue
        if parameter.is_assumed:
            constant += float(prior.distribution().logpdf(np.mean(parameter.prior_bounds)))
            continue
        constant -= truncation.log_mass(prior, *parameter.prior_bounds)
        if prior.on == "natural" and parameter.scale in LOG_FACTORS:
            slope[k] = LOG_FACTORS[parameter.scale]
            constant += math.log(slope[k])
    return _Shift(jnp.asarray(constant), jnp.asarray(slope))


def _loss(shift: _Shift | None, log_prior: Partial, log_likelihood: Partial, U: Float[Array, "n dim"]) -> Evaluation:
    return _shifted(shift, U, Evaluation(-(log_prior(U) + log_likelihood(U))))


def _with_gradient(shift: _Shift | None, value_and_grad: Partial, U: Float[Array, "n dim"]) -> Evaluation:
    log_prior, log_likelihood, prior_grad, likelihood_grad = value_and_grad(U)
    return _shifted(shift, U, Evaluation(-(log_prior + log_likelihood), -(prior_grad + likelihood_grad)))


def _with_information(shift: _Shift | None, curvature: Partial, U: Float[Array, "n dim"]) -> Evaluation:
    log_prior, log_likelihood, prior_grad, likelihood_grad, information = curvature(U, None)
    loss, gradient = -(log_prior + log_likelihood), -(prior_grad + likelihood_grad)
    return _shifted(shift, U, Evaluation(loss, gradient, information))


def _shifted(shift: _Shift | None, U: Float[Array, "n dim"], evaluation: Evaluation) -> Evaluation:
    if shift is None:
        return evaluation
    gradient = None if evaluation.gradient is None else evaluation.gradient + shift.slope
    return evaluation._replace(loss=evaluation.loss + shift.constant + U @ shift.slope, gradient=gradient)
