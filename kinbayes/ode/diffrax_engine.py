"""The JAX engine: diffrax over one lane, to be batched by vmap. The only user of diffrax."""

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int

from kinbayes.model.codegen import to_jax
from kinbayes.model.expressions import ZERO, derivatives, jacobian
from kinbayes.model.model import Model, ModelError
from kinbayes.ode import tableau
from kinbayes.ode.sparse_lu import sparse_lu
from kinbayes.ode.status import Status


class _StageInterpolation(diffrax.AbstractLocalInterpolation):
    """Dense output of order 4 from the stages of one step."""

    t0: Array
    t1: Array
    y0: Array
    y1: Array
    stages: Array

    def evaluate(self, t0: ArrayLike, t1: ArrayLike | None = None, left: bool = True) -> Array:
        """Return the state at `t0`, or its change from `t0` to `t1`."""
        if t1 is not None:
            return self.evaluate(t1) - self.evaluate(t0)
        theta = (t0 - self.t0) / (self.t1 - self.t0)
        weights = jnp.asarray(tableau.H[0]) + theta * (jnp.asarray(tableau.H[1]) + theta * jnp.asarray(tableau.H[2]))
        return (1 - theta) * self.y0 + theta * (self.y1 + (1 - theta) * (weights @ self.stages))


class Rodas5P(diffrax.AbstractAdaptiveSolver):
    """Rodas5P with the exact sparse Jacobian of one model and its elimination as straight-line code.

    References
    ----------
    See `kinbayes.ode.tableau`.
    """

    jacobian: Callable = eqx.field(static=True)  # (t, y, p) -> entries
    time_derivative: Callable | None = eqx.field(static=True)  # (t, y, p) -> df/dt, None for autonomous models
    factor: Callable = eqx.field(static=True)
    solve: Callable = eqx.field(static=True)

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = _StageInterpolation

    def order(self, terms: diffrax.AbstractTerm) -> int:
        """Return the order of the method."""
        return 5

    def init(self, terms: diffrax.AbstractTerm, t0: ArrayLike, t1: ArrayLike, y0: Array, args: Array) -> None:
        """Return the solver's state: it has none."""

    def func(self, terms: diffrax.AbstractTerm, t0: ArrayLike, y0: Array, args: Array) -> Array:
        """Return the vector field."""
        return terms.vf(t0, y0, args)

    def step(
        self,
        terms: diffrax.AbstractTerm,
        t0: ArrayLike,
        t1: ArrayLike,
        y0: Array,
        args: Array,
        solver_state: None,
        made_jump: ArrayLike,
    ) -> tuple[Array, Array, dict, None, diffrax.RESULTS]:
        """Make one step."""
        h = t1 - t0
        # Barriers keep XLA from fusing stages, which would compute their common parts again and again.
        factors = lax.optimization_barrier(self.factor(1 / (tableau.GAMMA * h), *self.jacobian(t0, y0, args)))
        slope = None if self.time_derivative is None else h * self.time_derivative(t0, y0, args)
        stages: list[Array] = []
        for i in range(tableau.NUM_STAGES):
            u, extra = y0, jnp.zeros_like(y0)
            for j, k in enumerate(stages):
                if tableau.A[i, j] != 0:
                    u = u + tableau.A[i, j] * k
                extra = extra + tableau.C[i, j] / h * k
            rhs = terms.vf(t0 + tableau.NODES[i] * h, u, args) + extra
            if slope is not None and tableau.D[i] != 0:
                rhs = rhs + tableau.D[i] * slope
            rhs = lax.optimization_barrier(rhs)
            stages.append(lax.optimization_barrier(jnp.stack(self.solve(*factors, *rhs))))
        error = stages[-1]
        y1 = u + error
        dense_info = {"y0": y0, "y1": y1, "stages": jnp.stack(stages)}
        return y1, error, dense_info, None, diffrax.RESULTS.successful


def _rodas5p(model: Model, names: Sequence[str]) -> Rodas5P:
    rhs = list(model.derivatives.values())
    pattern = jacobian(rhs, model.states)
    lu = sparse_lu(len(model.states), pattern.rows, pattern.columns)
    entries = to_jax(pattern.entries, names)
    slopes = derivatives(rhs, "time")
    time_derivative = None
    if any(slope is not ZERO for slope in slopes):
        slopes_fn = to_jax(slopes, names)
        time_derivative = lambda t, y, p: jnp.stack(slopes_fn(t, *y, *p))  # noqa: E731
    return Rodas5P(
        jacobian=lambda t, y, p: entries(t, *y, *p),
        time_derivative=time_derivative,
        factor=to_jax(lu.factors, lu.inputs),
        solve=to_jax(lu.solution, (*lu.factor_names, *lu.rhs_names)),
    )


class Solution(NamedTuple):
    """States at the requested times, and how the simulation ended."""

    states: Float[Array, "times states"]
    status: Int[Array, ""]


def integrator(model: Model, *, max_steps: int = 10_000) -> Callable[..., Solution]:
    """Return `integrate(initial, parameters, times, rtol, atol)` for one lane, from time 0.

    Parameters
    ----------
    model
        The model.
    max_steps
        Steps after which a simulation is given up.

    Returns
    -------
    integrate
        JAX function: start (states,), parameters (parameters,), ascending times (times,), tolerances -> Solution.
        Forward-mode differentiable, also under vmap; times may repeat.

    Raises
    ------
    ModelError
        If the model has events.
    """
    if model.events:
        named = [event.name for event in model.events]
        raise ModelError(f"the JAX engine cannot simulate the events {named} of {model.name!r}; use engine='native'")
    names = ("time", *model.states, *model.parameters)
    rhs = to_jax(list(model.derivatives.values()), names)
    num_states = len(model.states)

    def vector_field(t: Array, y: Array, p: Array) -> Array:
        return jnp.stack(rhs(t, *y, *p))

    method = _rodas5p(model, names)

    def integrate(
        initial: Float[Array, " states"],
        parameters: Float[Array, " parameters"],
        times: Float[Array, " times"],
        rtol: Float[Array, ""],
        atol: Float[Array, ""],
    ) -> Solution:
        if num_states == 0:
            return Solution(jnp.zeros((times.shape[0], 0)), jnp.asarray(int(Status.OK)))
        end = times[-1]
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(vector_field),
            method,
            t0=0.0,
            # A lane measured at time 0 alone still needs an interval; nothing of it is saved.
            t1=jnp.where(end > 0, end, 1e-6),
            dt0=None,
            y0=initial,
            args=parameters,
            saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
            adjoint=diffrax.ForwardMode(),
            max_steps=max_steps,
            throw=False,
        )
        return Solution(solution.ys, _status(solution))

    return integrate


def _status(solution: diffrax.Solution) -> Int[Array, ""]:
    result = solution.result
    status = jnp.where(jnp.all(jnp.isfinite(solution.ys)), int(Status.OK), int(Status.NOT_FINITE))
    status = jnp.where(result == diffrax.RESULTS.successful, status, int(Status.SOLVER_FAILED))
    status = jnp.where(result == diffrax.RESULTS.dt_min_reached, int(Status.STEP_TOO_SMALL), status)
    return jnp.where(result == diffrax.RESULTS.max_steps_reached, int(Status.MAX_STEPS), status)
