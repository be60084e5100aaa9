"""Checking a problem before it is run: can it be simulated, is the gradient right, are the tolerances tight enough."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from kinbayes.ode.status import Status
from kinbayes.problem.problem import Problem

_TIGHTER = 1e-3  # of both tolerances, for the comparison; never below what float64 resolves
_FINEST = 1e-12
_STEP = 1e-4  # of a scaled parameter; with differences of order 4 the error is that of the solver
_AGREES = 1e-3  # of the largest component
_MOST_SHOWN = 10  # simulations that fail


class Check(NamedTuple):
    """What was found, line by line, and whether the problem can be used."""

    is_good: bool
    lines: list[str]


def check(problem: Problem) -> Check:
    """Simulate the nominal point, test the gradient against finite differences, and the tolerances.

    Where parameters have no nominal value, a draw of the prior stands in.

    Returns
    -------
    Check
        `is_good` is False where the point cannot be simulated or the gradient is wrong.
    """
    lines = []
    u = np.asarray(problem.nominal)
    if np.any(np.isnan(u)):
        u = np.where(np.isnan(u), problem.draw_starts(np.random.default_rng(0), 1)[0], u)
        lines.append("some parameters have no nominal value: a draw of the prior stands in for them")
    if not problem.is_proper:
        lines.append("the prior is improper (see the table): this problem can be optimized, not sampled")
    if not problem.is_likelihood:
        lines.append(problem.no_likelihood_because)
    assumed = [p.name for p in problem.estimated if p.is_assumed and p.is_proper]
    if assumed:
        lines.append(
            f"no prior stated for {len(assumed)} parameters: taken as uniform on their scale, within the bounds"
        )
    found = problem.evaluate(u[None])
    status = Status(int(found.status[0]))
    if status != Status.OK:
        return Check(False, [*lines, *_reasons(problem, u, status)])
    lines.append(f"log likelihood {found.log_likelihood[0]:.6f}, log prior {found.log_prior[0]:.6f}")
    if not np.isfinite(found.log_prior[0]):
        lines.append("the nominal point lies outside the bounds")
    tight = problem.with_tolerances(max(_TIGHTER * problem.rtol, _FINEST), max(_TIGHTER * problem.atol, _FINEST))
    exact = tight.evaluate(u[None])
    if exact.status[0] == Status.OK:
        change = exact.log_likelihood[0] - found.log_likelihood[0]
        lines.append(f"at tolerances {tight.rtol:.0e} and {tight.atol:.0e} the log likelihood changes by {change:.2e}")
    error = _gradient_error(tight, u)
    is_right = error <= _AGREES
    lines.append(
        f"the gradient {'agrees' if is_right else 'DISAGREES'} with finite differences: "
        f"largest difference {error:.1e} of the largest component"
    )
    return Check(bool(is_right), lines)


def _reasons(problem: Problem, u: np.ndarray, status: Status) -> list[str]:
    """Return why a point cannot be simulated, experiment by experiment."""
    failures = problem.failures(u) if problem.engine == "native" else ()
    if not failures:
        return [f"the nominal point cannot be simulated: {status.advice}"]
    shown = [f"  {failure}" for failure in failures[:_MOST_SHOWN]]
    return [f"the nominal point cannot be simulated; {len(failures)} of {problem.num_lanes} simulations fail:", *shown]


def _gradient_error(problem: Problem, u: np.ndarray) -> float:
    steps = _STEP * np.eye(problem.dim)
    stencil = {1: 8 / 12, -1: -8 / 12, 2: -1 / 12, -2: 1 / 12}
    values = problem.evaluate(np.concatenate([u + k * steps for k in stencil])).log_likelihood
    differences = np.array(list(stencil.values())) @ values.reshape(len(stencil), -1) / _STEP
    gradient = np.asarray(problem.batched.value_and_grad(jnp.asarray(u)[None])[3][0])
    return float(np.max(np.abs(gradient - differences)) / max(np.max(np.abs(gradient)), 1.0))
