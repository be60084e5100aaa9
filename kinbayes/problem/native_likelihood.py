"""The likelihood on the native engine: its expressions as machine code, its numbers as the kernel wants them."""

import itertools

import numpy as np
from jaxtyping import Float, Int

from kinbayes.model.expressions import ZERO
from kinbayes.ode import native
from kinbayes.ode.memory import laid_out
from kinbayes.ode.numbers import METHOD, NO_DERIVATIVES, NO_EVENTS, Floats, Ints, Numbers, Sizes, pack, section
from kinbayes.ode.sensitivity_equations import Observer
from kinbayes.ode.status import Status
from kinbayes.problem.groups import counting
from kinbayes.problem.layout import Groups, LikelihoodData, Source
from kinbayes.problem.likelihood import MOST_SETTINGS, Likelihood, Rows
from kinbayes.problem.parameters import LOG_FACTORS


def observers(likelihood: Likelihood) -> list[Observer]:
    """Return what is computed of every row of the data."""
    return [
        Observer(
            (row.log_density, row.prediction, *row.settings, *[ZERO] * (MOST_SETTINGS - len(row.settings))),
            (*likelihood.row_constants, *own, *likelihood.extra),
            len(likelihood.row_constants),
        )
        for row, own in zip(likelihood.rows, likelihood.slots.placeholders.values(), strict=True)
    ]


def compiled(likelihood: Likelihood) -> native.Compiled:
    """Compile a likelihood to machine code."""
    return native.compiled(likelihood.model, likelihood.start, likelihood.start_inputs, observers(likelihood))


def numbers(code: native.Compiled, likelihood: Likelihood, data: LikelihoodData, *, max_steps: int) -> Numbers:
    """Return the numbers of a likelihood as the kernel wants them."""
    sizes, ints, floats = sections(code, likelihood, data, max_steps=max_steps)
    layout = laid_out(sizes, None, code.event_sizes)
    events = NO_EVENTS
    if code.event_sizes is not None:
        events = native.event_numbers(code, code.event_sizes, layout.event_parts)
    ints = ints._replace(sizes=np.array(layout.sizes), parts=layout.parts)
    return Numbers(code.addresses, *pack(ints, floats, NO_DERIVATIVES, events))


def sections(
    code: native.Compiled, likelihood: Likelihood, data: LikelihoodData, *, max_steps: int
) -> tuple[Sizes, Ints, Floats]:
    """Return the sections of numbers that say nothing of derivatives, memory yet to be laid out."""
    lane_times = [np.unique(times) for times in np.asarray(data.times)]
    first_times = np.cumsum([0, *map(len, lane_times)])
    rows = _rows(likelihood, data, first_times)
    arguments = [row[3] for row in rows]
    before = data.equilibration
    sizes = Sizes(
        parameters=len(likelihood.scales),
        inputs=len(likelihood.slots.inputs),
        sometimes=len(likelihood.slots.sometimes),
        states=code.num_states,
        has_time=int(code.has_time),
        is_solved=int(code.is_solved),
        constants=code.num_constants,
        switches=code.num_switches,
        observables=len(likelihood.rows),
        entries=len(code.entries[0]),
        factors=code.num_factors,
        lanes=len(lane_times),
        times=int(first_times[-1]),
        rows=len(rows),
        arguments=max(map(len, arguments)),
        columns=2 + MOST_SETTINGS,
        max_steps=max_steps,
        memory=0,
    )
    ints = Ints(
        sizes=np.array(sizes),
        entry_rows=code.entries[0],
        entry_columns=code.entries[1],
        pattern=code.pattern,
        input_index=np.asarray(data.inputs.index).T,
        is_equilibrated=np.asarray(before.is_used),
        equilibration_index=np.asarray(before.inputs.index).T,
        is_reset=np.asarray(before.is_reset),
        lane_times=first_times,
        time_rows=np.searchsorted([row[0] for row in rows], np.arange(sizes.times + 1)),
        row_function=np.array([row[2] for row in rows]),
        row_place=np.array([row[1] for row in rows]),
        row_arguments=np.cumsum([0, *map(len, arguments)]),
        argument_index=np.array([index for index, _ in itertools.chain(*arguments)]),
        parts=np.zeros(0),
    )
    floats = Floats(
        method=METHOD,
        tolerances=np.array([data.rtol, data.atol]),
        scale_factors=np.array([LOG_FACTORS.get(scale, 0.0) for scale in likelihood.scales]),
        input_constant=np.asarray(data.inputs.constant).T,
        is_given=np.asarray(data.is_given).T,
        equilibration_constant=np.asarray(before.inputs.constant).T,
        equilibration_is_given=np.asarray(before.is_given).T,
        times=np.concatenate(lane_times),
        argument_constant=np.array([constant for _, constant in itertools.chain(*arguments)]),
    )
    return sizes, ints, floats


def _rows(
    likelihood: Likelihood, data: LikelihoodData, first_times: Int[np.ndarray, " lanes_and_1"]
) -> list[tuple[int, int, int, list[tuple[int, float]]]]:
    """Return (time, place, observable, arguments) of every row, by time; an argument is an index or a constant."""
    place = np.argsort(np.asarray(data.order))  # data.order puts the rows by observable into the order of the data
    extra = [likelihood.slots.inputs.index(name) for name in likelihood.extra]
    inputs = _pairs(data.inputs)
    found = []
    for observable, row in enumerate(data.rows):
        lanes, indices = np.asarray(row.lane).tolist(), np.asarray(row.time_index).tolist()
        own = _pairs(row.placeholders)
        columns = (row.time, row.measurement, row.censoring)[: len(likelihood.row_constants)]
        plain = np.stack(columns, axis=-1).tolist()
        for k, (lane, index, constants) in enumerate(zip(lanes, indices, plain, strict=True)):
            arguments = [(-1, c) for c in constants] + [line[k] for line in own] + [inputs[e][lane] for e in extra]
            found.append((int(first_times[lane]) + index, int(place[len(found)]), observable, arguments))
    return sorted(found, key=lambda row: row[:2])


def _pairs(source: Source) -> list[list[tuple[int, float]]]:
    index, constant = np.asarray(source.index).tolist(), np.asarray(source.constant).tolist()
    return [list(zip(*lines, strict=True)) for lines in zip(index, constant, strict=True)]


def rows(numbers: Numbers, U: Float[np.ndarray, "n dim"], groups: Groups | None = None) -> Rows:
    """Return predictions, noise settings, log densities and statuses of a batch of vectors, over all threads.

    Where rows are in groups they are those that count.
    """
    found = rows_of(native.simulated(numbers, U, with_rows=True))
    return found if groups is None else counting(groups, found, np)


def rows_of(found: native.Simulated) -> Rows:
    """Return all rows of what was simulated."""
    density, prediction, *settings = np.moveaxis(found.rows, -1, 0)
    return Rows(prediction, np.stack(settings, axis=-1), density, found.lanes.status)


def evaluate(
    numbers: Numbers, U: Float[np.ndarray, "n dim"], groups: Groups | None = None
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Return log likelihoods and statuses of a batch of vectors, over all threads."""
    if groups is not None:
        found = rows(numbers, U, groups)
        return found.log_density.sum(axis=-1), found.status.max(axis=-1)
    lanes = native.simulated(numbers, U).lanes
    return native.total(lanes), lanes.status.max(axis=-1)


def states(numbers: Numbers, U: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n lanes times states"]:
    """Return the states of every lane at its own times, padded by the last."""
    sizes = numbers.sizes
    found = native.simulated(numbers, U, with_states=True).states
    first = section(np.asarray(numbers.ints), "lane_times")
    longest = int(np.max(np.diff(first)))
    index = [[min(a + k, b - 1) for k in range(longest)] for a, b in itertools.pairwise(first.tolist())]
    return found.reshape(len(found), sizes.times, -1)[:, np.array(index)]


def pointwise(
    numbers: Numbers, U: Float[np.ndarray, "n dim"], groups: Groups | None = None
) -> Float[np.ndarray, "n measurements"]:
    """Return the log density of every measurement; -inf wherever a simulation fails."""
    found = rows(numbers, U, groups)
    is_good = np.all(found.status == Status.OK, axis=-1)[:, None] & ~np.isnan(found.log_density)
    return np.where(is_good, found.log_density, -np.inf)
