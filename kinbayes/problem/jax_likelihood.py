"""The likelihood on the JAX engine: functions of a scaled parameter vector, differentiable in forward mode.

The numbers (measurements, times, experiments, constants, tolerances) are arrays that are passed in, so that other
numbers compile nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kinbayes.model.codegen import to_jax
from kinbayes.ode.status import Status
from kinbayes.problem.groups import counting
from kinbayes.problem.layout import LikelihoodData
from kinbayes.problem.likelihood import CENSORING, MEASUREMENT, MOST_SETTINGS, Likelihood, Rows
from kinbayes.problem.parameters import jax_natural


class JaxLikelihood(NamedTuple):
    """Functions of a scaled parameter vector (dim,) and `LikelihoodData`."""

    rows: Callable  # -> Rows
    states: Callable  # -> (lanes, times, states), padded by the last time
    pointwise: Callable  # -> (measurements,), -inf wherever a simulation fails


def jax_likelihood(likelihood: Likelihood, *, max_steps: int) -> JaxLikelihood:
    """Return the functions of a likelihood."""
    from kinbayes.ode.diffrax_engine import integrator  # heavy, and needed only by those who differentiate

    model, slots = likelihood.model, likelihood.slots
    start_fn = to_jax(
        [likelihood.start[n] for n in (*model.states, *model.parameters)], (*likelihood.start_inputs, "time")
    )
    names = ("time", *model.states, *model.parameters, *likelihood.extra, MEASUREMENT, CENSORING)
    row_fns = [
        to_jax([row.prediction, row.log_density, *row.settings], (*names, *own))
        for row, own in zip(likelihood.rows, slots.placeholders.values(), strict=True)
    ]
    integrate = integrator(model, max_steps=max_steps)
    num_states = len(model.states)
    extra_rows = np.array([slots.inputs.index(n) for n in likelihood.extra], dtype=int)

    def lanes(u: Float[Array, " dim"], data: LikelihoodData) -> tuple[Array, Array, Array, Array, Array]:
        theta = jax_natural(u, likelihood.scales)
        inputs = data.inputs.values(theta)
        values = start_fn(*inputs, *data.is_given, jnp.zeros(()))
        num_lanes = data.times.shape[0]
        columns = [jnp.broadcast_to(v, num_lanes) for v in values]
        table = jnp.stack(columns, axis=-1) if columns else jnp.zeros((num_lanes, 0))
        initial, constants = table[:, :num_states], table[:, num_states:]
        solution = jax.vmap(integrate, in_axes=(0, 0, 0, None, None))(
            initial, constants, data.times, data.rtol, data.atol
        )
        return theta, solution.states, constants, inputs[extra_rows], solution.status

    def rows(u: Float[Array, " dim"], data: LikelihoodData) -> Rows:
        theta, states, constants, extra, status = lanes(u, data)
        parts = []
        for row_fn, row in zip(row_fns, data.rows, strict=True):
            at_rows = (*states[row.lane, row.time_index].T, *constants[row.lane].T, *extra[:, row.lane])
            found = row_fn(row.time, *at_rows, row.measurement, row.censoring, *row.placeholders.values(theta))
            columns = [*found, *[0.0] * (2 + MOST_SETTINGS - len(found))]
            parts.append(jnp.stack([jnp.broadcast_to(c, row.time.shape) for c in columns], axis=-1))
        table = jnp.concatenate(parts)[data.order]
        found = Rows(table[:, 0], table[:, 2:], table[:, 1], status)
        return found if data.groups is None else counting(data.groups, found, jnp)

    def pointwise(u: Float[Array, " dim"], data: LikelihoodData) -> Float[Array, " measurements"]:
        found = rows(u, data)
        is_good = jnp.all(found.status == int(Status.OK)) & ~jnp.isnan(found.log_density)
        return jnp.where(is_good, found.log_density, -jnp.inf)

    return JaxLikelihood(rows, lambda u, data: lanes(u, data)[1], pointwise)


def value_and_jacobian(function: Callable, u: Float[Array, " dim"], data: tuple) -> tuple[Array, Array]:
    """Return the value and the Jacobian (…, dim) with respect to u, in forward mode; zeros at values not finite."""
    basis = jnp.eye(u.shape[0])
    value, columns = jax.vmap(lambda v: jax.jvp(lambda w: function(w, data), (u,), (v,)), out_axes=(None, -1))(basis)
    return value, jnp.where(jnp.isfinite(value)[..., None], columns, 0.0)
