"""The derivatives of the likelihood on the native engine: their machine code, and their numbers for the kernel."""

import numpy as np
from jaxtyping import Float, Int

from kinbayes.ode import native
from kinbayes.ode.memory import laid_out
from kinbayes.ode.numbers import NO_EVENT_SIZES, NO_EVENTS, WIDTH, DerivativeInts, DerivativeSizes, Numbers, pack
from kinbayes.ode.sensitivity_equations import INPUT
from kinbayes.ode.status import Status
from kinbayes.problem.groups import counting, counting_derivatives
from kinbayes.problem.layout import Groups, LikelihoodData
from kinbayes.problem.likelihood import Likelihood, RowDerivatives, Rows
from kinbayes.problem.native_likelihood import observers, rows_of, sections


def wanted(data: LikelihoodData) -> tuple[int, ...]:
    """Return the inputs that take an estimated parameter in some lane."""
    indices = (np.asarray(data.inputs.index), np.asarray(data.equilibration.inputs.index))
    return tuple(np.flatnonzero(np.any(np.concatenate(indices, axis=1) >= 0, axis=1)).tolist())


def differentiated(code: native.Compiled, likelihood: Likelihood, inputs: tuple[int, ...]) -> native.Differentiated:
    """Compile the derivatives of a likelihood with respect to some inputs of its lanes."""
    return native.differentiated(code, likelihood.start, likelihood.start_inputs, observers(likelihood), inputs)


def numbers(
    code: native.Compiled,
    derivatives: native.Differentiated,
    likelihood: Likelihood,
    data: LikelihoodData,
    *,
    max_steps: int,
) -> Numbers:
    """Return the numbers of a likelihood and its derivatives as the kernel wants them."""
    sizes, ints, floats = sections(code, likelihood, data, max_steps=max_steps)
    found = derivatives.equations
    index, before = (np.asarray(part.index).T for part in (data.inputs, data.equilibration.inputs))
    used = np.zeros(index.shape[1], dtype=bool)
    at_moments = found.moments.index[found.moments.kind == INPUT]
    used[np.concatenate([found.sources.columns, found.start.columns, found.switches.columns, at_moments])] = True
    lanes = [np.unique(lane[:, used][lane[:, used] >= 0]) for lane in np.stack([index, before], axis=1)]
    tangent, tangent_before = (_tangents(table, used, lanes) for table in (index, before))
    most = max(map(len, lanes))
    own = DerivativeSizes(
        blocks=-(-most // WIDTH),
        varying=found.num_varying,
        bent=found.num_bent,
        sources=len(found.sources.rows),
        source_rows=len(found.source_rows),
        start_entries=len(found.start.rows),
        switch_entries=len(found.switches.rows),
        more=found.num_more,
        partials=max((len(p.kind) for p in found.partials), default=0),
        conditions=found.num_conditions,
    )
    event_sizes = None
    if code.event_sizes is not None or found.num_conditions > 0:
        event_sizes = (code.event_sizes or NO_EVENT_SIZES)._replace(
            partials=len(found.moments.kind), blocks=own.blocks, conditions=found.num_conditions
        )
    layout = laid_out(sizes, own, event_sizes)
    lines = [len(p.kind) for p in found.partials]
    starts = np.cumsum([0, *lines])
    columns, kinds, indices = (np.concatenate(part) for part in zip(*found.partials, strict=True))
    more = DerivativeInts(
        derivative_sizes=np.array(own),
        derivative_parts=layout.derivative_parts,
        lane_tangents=np.cumsum([0, *map(len, lanes)]),
        tangent_parameter=np.concatenate(lanes),
        input_tangent=tangent,
        equilibration_tangent=tangent_before,
        source_place=_places(found, tangent),
        equilibration_place=_places(found, tangent_before),
        start_rows=found.start.rows,
        start_inputs=found.start.columns,
        switch_numbers=found.switches.rows,
        switch_inputs=found.switches.columns,
        partial_start=starts,
        partial_densities=starts[:-1] + [p.num_densities for p in found.partials],
        partial_column=columns,
        partial_kind=kinds,
        partial_index=indices,
    )
    ints = ints._replace(sizes=np.array(layout.sizes), parts=layout.parts)
    events = NO_EVENTS
    if event_sizes is not None:
        rows = event_sizes.modes + event_sizes.events + event_sizes.assignments + event_sizes.conditions
        events = native.event_numbers(code, event_sizes, layout.event_parts)._replace(
            moment_start=np.searchsorted(found.moments.column, np.arange(rows + 1)),
            moment_kind=found.moments.kind,
            moment_index=found.moments.index,
        )
    return Numbers(derivatives.addresses, *pack(ints, floats, more, events))


def _tangents(
    index: Int[np.ndarray, "lanes inputs"], used: np.ndarray, lanes: list[np.ndarray]
) -> Int[np.ndarray, "lanes inputs"]:
    """Return the tangent of the lane that every input takes, or -1."""
    rows = [
        np.where(used & np.isin(row, own), np.searchsorted(own, row), -1) for row, own in zip(index, lanes, strict=True)
    ]
    return np.array(rows, dtype=np.int64).reshape(index.shape)


def _places(
    found: native.SensitivityEquations, tangent: Int[np.ndarray, "lanes inputs"]
) -> Int[np.ndarray, "lanes sources"]:
    """Return where every entry of df/dp goes: to its tangent's block, its row, and its place in the block."""
    num_rows, stages = len(found.source_rows), WIDTH
    rows = np.searchsorted(np.array(found.source_rows, dtype=np.int64), found.sources.rows)
    own = tangent[:, found.sources.columns]
    places = (own // WIDTH * stages * num_rows + rows) * WIDTH + own % WIDTH
    for lane, line in zip(own, places, strict=True):
        seen = set()
        for q, place in enumerate(line.tolist()):
            if lane[q] < 0:
                line[q] = -1
            elif place in seen:
                line[q] = -2 - place
            seen.add(place)
    return places


def row_derivatives(numbers: Numbers, U: Float[np.ndarray, "n dim"], groups: Groups | None = None) -> RowDerivatives:
    """Return the derivatives of predictions, noise settings and log densities, over all threads.

    Where rows are in groups they are of those that count.
    """
    found = native.simulated(numbers, U, with_rows=groups is not None, with_slopes=True)
    slopes = _derivatives(found)
    return slopes if groups is None else counting_derivatives(groups, rows_of(found), slopes)


def rows_and_slopes(
    numbers: Numbers, U: Float[np.ndarray, "n dim"], groups: Groups | None = None
) -> tuple[Rows, RowDerivatives]:
    """Return what vectors predict and its derivatives, of one simulation, over all threads.

    A vector that is no number is not simulated: it fails. Where rows are in groups they are those that count.
    """
    is_wanted = ~np.isnan(U).any(axis=1)
    found = native.simulated(numbers, U[is_wanted], with_rows=True, with_slopes=True)
    rows, slopes = rows_of(found), _derivatives(found)
    if groups is not None:
        rows, slopes = counting(groups, rows, np), counting_derivatives(groups, rows, slopes)
    if is_wanted.all():
        return rows, slopes
    nothing = Rows(np.nan, np.nan, np.nan, int(Status.NOT_FINITE))
    return (
        Rows(*(_among(part, is_wanted, other) for part, other in zip(rows, nothing, strict=True))),
        RowDerivatives(*(_among(part, is_wanted, 0.0) for part in slopes)),
    )


def _among(part: np.ndarray, is_wanted: np.ndarray, other: float) -> np.ndarray:
    """Return the parts of the wanted vectors in their places, and something else in the others."""
    whole = np.full((len(is_wanted), *part.shape[1:]), other, part.dtype)
    whole[is_wanted] = part
    return whole


def _derivatives(found: native.Simulated) -> RowDerivatives:
    is_good = np.all(found.lanes.status == Status.OK, axis=-1)[:, None, None, None]
    slopes = np.where(is_good & np.isfinite(found.slopes), found.slopes, 0.0)
    return RowDerivatives(slopes[:, :, 1], slopes[:, :, 2:], slopes[:, :, 0])
