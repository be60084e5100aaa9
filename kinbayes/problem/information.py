"""Curvature of a likelihood without second derivatives: models of it for batches, in JAX."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from kinbayes.model.codegen import to_jax
from kinbayes.model.expressions import symbol
from kinbayes.problem.layout import LikelihoodData
from kinbayes.problem.likelihood import RowDerivatives, Rows
from kinbayes.problem.observables import Observable


def information(
    observables: Sequence[Observable],
    layout: LikelihoodData,
    rows: Rows,
    slopes: RowDerivatives,
    weights: Float[Array, "n measurements"] | None,
    *,
    is_censored: bool,
) -> Float[Array, "n dim dim"]:
    """Return positive semidefinite models of minus the Hessian of the log likelihood.

    About a vector that fits the measurements it is their Fisher information on average, and far from it what
    `Noise.curvature` says. A measurement whose noise has an estimated setting without closed form brings the outer
    product of its score: an estimate of the same, from one measurement. One that is censored brings it over minus its
    log probability: at most twice the curvature of a normal tail, and at least as much.

    Parameters
    ----------
    observables
        The observables.
    layout
        The measurements.
    rows, slopes
        Of n vectors; slopes are zero where a simulation fails.
    weights
        How often every measurement counts; once if None.
    is_censored
        Whether a measurement may be censored.
    """
    # From the order of the data to rows by observable.
    place, first = jnp.argsort(layout.order), 0
    total = jnp.zeros((*slopes.simulated.shape[:1], *2 * slopes.simulated.shape[-1:]))
    for observable, own in zip(observables, layout.rows, strict=True):
        members = place[first : first + len(own.time)]
        first += len(own.time)
        weight = 1.0 if weights is None else weights[:, members]
        num = len(observable.noise.formulas)
        measurement = jnp.broadcast_to(own.measurement, rows.simulated[:, members].shape)
        values = [measurement, rows.simulated[:, members], *jnp.moveaxis(rows.noise[:, members, :num], -1, 0)]
        parts = [slopes.simulated[:, members], *jnp.moveaxis(slopes.noise[:, members, :num], 2, 0)]
        names = ["measurement", "prediction", *(f"setting {k}" for k in range(num))]
        entries = observable.noise.curvature(*map(symbol, names))
        known = {place: entry for place, entry in entries.items() if entry is not None}
        found = to_jax(list(known.values()), names)(*values) if known else []
        is_limit = own.censoring != 0.0
        is_unknown = jnp.zeros(values[0].shape, bool)
        for (p, q), entry in entries.items():
            if entry is None:
                is_unknown |= jnp.any((parts[p] != 0.0) | (parts[q] != 0.0), axis=-1)
        for (p, q), entry in zip(known, found, strict=True):
            scale = weight * jnp.where(is_unknown | is_limit | ~jnp.isfinite(entry), 0.0, entry)
            part = _outer(scale, parts[p], parts[q])
            total += part if p == q else part + jnp.swapaxes(part, 1, 2)
        if is_censored or len(known) < len(entries):
            score, surprise = slopes.log_density[:, members], -rows.log_density[:, members]
            of_limit = jnp.where(is_limit & (surprise > 0.0), 1.0 / jnp.where(surprise > 0.0, surprise, 1.0), 0.0)
            total += _outer(weight * jnp.where(is_limit, of_limit, is_unknown), score, score)
    return total


def _outer(
    weight: Float[Array, "n rows"], left: Float[Array, "n rows dim"], right: Float[Array, "n rows dim"]
) -> Float[Array, "n dim dim"]:
    return jnp.einsum("nrd,nre->nde", weight[..., None] * left, right)
