"""Which rows count, where only an extreme of a group does: the same for arrays of NumPy and of JAX.

A statement about many times holds throughout if it holds where its gap is largest, and once if it holds where its gap
is smallest. Its term is monotone in the gap, so that the row of this extreme is all that matters, for derivatives too.
Of equals the first counts.
"""

from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from kinbayes.problem.layout import Groups, LikelihoodData
from kinbayes.problem.likelihood import RowDerivatives, Rows


class _Counting(NamedTuple):
    """The rows whose gap counts and those whose term does, and which terms are penalties, 0 where satisfied."""

    gap: Int[Array | np.ndarray, "*batch counted"]
    term: Int[Array | np.ndarray, "*batch counted"]
    is_penalty: Bool[Array | np.ndarray, " counted"]
    is_satisfied: Bool[Array | np.ndarray, "*batch counted"]


def num_counted(data: LikelihoodData) -> int:
    """Return how many rows count."""
    return len(data.order) if data.groups is None else len(data.groups.alone) + len(data.groups.members)


def counted(data: LikelihoodData) -> LikelihoodData:
    """Return the numbers of what counts, in place of those of all rows: of every group its last."""
    if data.groups is None:
        return data
    num_alone, num_groups = len(data.groups.alone), len(data.groups.members)
    # What is known while a program is traced stays known: a slice of JAX's would not be.
    xp = jnp if isinstance(data.order, jax.core.Tracer) else np
    rows, known = jax.tree.map(xp.asarray, (data.rows, data.order))
    lasts = jax.tree.map(lambda part: part[..., -1:], rows[-num_groups:])
    order = xp.concatenate([known[:num_alone], num_alone + np.arange(num_groups)])
    return data._replace(rows=(*rows[:-num_groups], *lasts), order=order)


def counting(groups: Groups, rows: Rows, xp: ModuleType) -> Rows:
    """Return the rows that count, once those of all are known.

    Parameters
    ----------
    groups
        Which rows belong together.
    rows
        All rows, of one vector or of a batch.
    xp
        `numpy` or `jax.numpy`, whichever the arrays are of.
    """
    found = _counting(groups, rows, xp)
    noise = xp.take_along_axis(rows.noise, found.term[..., None], axis=-2)
    density = xp.take_along_axis(rows.log_density, found.term, axis=-1)
    penalised = xp.where(found.is_satisfied, 0.0, -noise[..., 0])
    return Rows(
        xp.take_along_axis(rows.simulated, found.gap, axis=-1),
        noise,
        xp.where(found.is_penalty, penalised, density),
        rows.status,
    )


def counting_derivatives(groups: Groups, rows: Rows, slopes: RowDerivatives) -> RowDerivatives:
    """Return the derivatives of the rows that count, of a batch of vectors, in NumPy."""
    found = _counting(groups, rows, np)
    at_term = found.term[..., None]
    noise = np.take_along_axis(slopes.noise, at_term[..., None], axis=-3)
    density = np.take_along_axis(slopes.log_density, at_term, axis=-2)
    penalised = np.where(found.is_satisfied[..., None], 0.0, -noise[..., 0, :])
    return RowDerivatives(
        np.take_along_axis(slopes.simulated, found.gap[..., None], axis=-2),
        noise,
        np.where(found.is_penalty[:, None], penalised, density),
    )


def on_host(groups: Groups | None) -> Groups | None:
    """Return the numbers as arrays of NumPy."""
    return jax.tree.map(np.asarray, groups)


def _counting(groups: Groups, rows: Rows, xp: ModuleType) -> _Counting:
    num_groups, batch = len(groups.members), rows.simulated.shape[:-1]
    alone = xp.broadcast_to(groups.alone, (*batch, len(groups.alone)))

    def extremes(values: Float[Array | np.ndarray, "*batch rows"]) -> Int[Array | np.ndarray, "*batch groups"]:
        place = (values[..., groups.members] * groups.sign[:, None]).argmax(axis=-1)
        return groups.members[xp.arange(num_groups), place]

    by_gap = extremes(rows.simulated)
    by_penalty = xp.where(groups.is_penalty, extremes(rows.noise[..., 0]), by_gap)
    gap = xp.take_along_axis(rows.simulated, by_gap, axis=-1)
    none = xp.zeros(len(groups.alone), bool)
    return _Counting(
        xp.concatenate([alone, by_gap], axis=-1),
        xp.concatenate([alone, by_penalty], axis=-1),
        xp.concatenate([none, groups.is_penalty]),
        xp.concatenate(
            [xp.broadcast_to(none, alone.shape), (gap < 0) | ((gap == 0) & ~groups.is_strict)],
            axis=-1,
        ),
    )
