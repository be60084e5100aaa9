"""The arrays of a likelihood: measurements, times, experiments and constants, laid out lane by lane and row by row.

A *lane* is one simulation: a parameter vector under one experiment, after one pre-equilibration or none. The *inputs*
of a lane are the names that something outside the model may set. All of this is numbers: changing them compiles
nothing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from kinbayes.model.model import Model, ModelError
from kinbayes.problem.families import MEAN
from kinbayes.problem.inputs import at_rest
from kinbayes.problem.noise import CENSORING
from kinbayes.problem.observables import DataError, Experiment, Measurement, means
from kinbayes.problem.periods import START, chosen, without_periods


class Source(NamedTuple):
    """Where values come from: entry `index` of the natural parameter vector, or a constant where it is −1."""

    index: Int[Array | np.ndarray, "*shape"]
    constant: Float[Array | np.ndarray, "*shape"]

    def values(self, theta: Float[Array, " dim"]) -> Float[Array | np.ndarray, "*shape"]:
        """Return the values under a natural parameter vector."""
        padded = jnp.concatenate([theta, jnp.zeros(1)])
        return jnp.where(self.index >= 0, padded[self.index], self.constant)


class RowData(NamedTuple):
    """The numbers of one observable's measurements."""

    lane: Int[Array | np.ndarray, " rows"]
    time_index: Int[Array | np.ndarray, " rows"]
    time: Float[Array | np.ndarray, " rows"]
    placeholders: Source  # (placeholders, rows)
    measurement: Float[Array | np.ndarray, " rows"]
    censoring: Float[Array | np.ndarray, " rows"]  # -1: the true value lies below the measurement, 1: above, else 0


class EquilibrationData(NamedTuple):
    """The numbers of what comes before time 0: the model is brought to its steady state, then its experiment begins.

    Attributes
    ----------
    is_used
        Whether a lane has a pre-equilibration.
    inputs, is_given
        Those of the pre-equilibration, laid out like those of the experiment; where there is none, the experiment's.
    is_reset
        Whether the experiment sets a state anew at time 0; after a pre-equilibration the other states go on from the
        steady state.
    """

    is_used: Bool[Array | np.ndarray, " lanes"]
    inputs: Source  # (inputs, lanes)
    is_given: Float[Array | np.ndarray, "sometimes lanes"]
    is_reset: Bool[Array | np.ndarray, "lanes states"]


class Groups(NamedTuple):
    """Rows of which some count by an extreme among them: statements about more than one time.

    First come the rows that count by themselves, then one a group.

    Attributes
    ----------
    alone
        The rows that count by themselves.
    members
        The rows of every group, padded by its first.
    sign
        1 where the largest gap counts, -1 where the smallest.
    is_penalty
        Whether what is violated costs the extreme of the row's first setting; else the extreme row's term counts.
    is_strict
        Whether equality violates.
    """

    alone: Int[Array | np.ndarray, " measurements"]
    members: Int[Array | np.ndarray, "groups longest"]
    sign: Float[Array | np.ndarray, " groups"]
    is_penalty: Bool[Array | np.ndarray, " groups"]
    is_strict: Bool[Array | np.ndarray, " groups"]


class LikelihoodData(NamedTuple):
    """The numbers of a likelihood, a pytree.

    Every lane starts at time 0, after its pre-equilibration if it has one; its times count from there.
    """

    inputs: Source  # (inputs, lanes)
    is_given: Float[Array | np.ndarray, "sometimes lanes"]
    equilibration: EquilibrationData
    times: Float[Array | np.ndarray, "lanes times"]
    rows: tuple[RowData, ...]  # one an observable
    order: Int[Array | np.ndarray, " measurements"]  # from rows by observable to rows of the data
    rtol: Float[Array | np.ndarray, ""]
    atol: Float[Array | np.ndarray, ""]
    groups: Groups | None = None  # None: every row counts


class Slots(NamedTuple):
    """Where a structure wants numbers.

    Attributes
    ----------
    model
        The model.
    parameter_names
        The estimated parameters, in the order of the parameter vector.
    inputs
        The inputs of a lane.
    sometimes
        Those of them that only some experiments give.
    placeholders
        Observable -> the names in its formulas that each measurement fills in, or brings itself (`MEAN`).
    """

    model: Model
    parameter_names: tuple[str, ...]
    inputs: tuple[str, ...]
    sometimes: tuple[str, ...]
    placeholders: Mapping[str, tuple[str, ...]]


def layout(
    slots: Slots,
    measurements: Sequence[Measurement],
    experiments: Sequence[Experiment],
    constants: Mapping[str, float],
    *,
    rtol: float,
    atol: float,
) -> LikelihoodData:
    """Return the arrays for these measurements.

    Parameters
    ----------
    slots
        Where the structure wants numbers.
    measurements, experiments
        What was measured, and under what conditions.
    constants
        Parameters that are not estimated, and their values.
    rtol, atol
        Tolerances of the simulation.

    Raises
    ------
    ModelError
        If an experiment sets what the model does not have, or to what is no number or parameter; NaN is allowed only
        for a state, in an experiment that always comes after a pre-equilibration.
    DataError
        If a row gives too few or too many values for the placeholders of its observable, or unknown names.
    """
    values = _Values(slots.parameter_names, constants)
    lanes = lanes_of(measurements, experiments)
    for experiment in experiments:
        _check_experiment(slots.model, values, experiment, lanes)
    place = {lane: k for k, lane in enumerate(lanes)}
    named = {e.name: e for e in experiments}
    start = {lane: float(named[lane.experiment].values.get(START, 0.0)) for lane in lanes}
    lane_times = [sorted({m.time - start[lane] for m in measurements if lane_of(m) == lane}) for lane in lanes]
    most = max(len(t) for t in lane_times)
    times = np.array([t + [t[-1]] * (most - len(t)) for t in lane_times])
    time_index = [{t: k for k, t in enumerate(ts)} for ts in lane_times]
    groups = [[r for r, m in enumerate(measurements) if m.observable == o] for o in slots.placeholders]
    mean = means(measurements)
    row_data = []
    for (observable, own), group in zip(slots.placeholders.items(), groups, strict=True):
        members = [measurements[r] for r in group]
        own_lanes = [place[lane_of(m)] for m in members]
        own_times = [m.time - start[lane_of(m)] for m in members]
        cells = [values.cells(observable, own, r, measurements[r]) for r in group]
        if MEAN in own:
            cells = [[*row, mean[m.observable, m.experiment]] for row, m in zip(cells, members, strict=True)]
        row_data.append(
            RowData(
                _whole(own_lanes),
                _whole([time_index[k][t] for k, t in zip(own_lanes, own_times, strict=True)]),
                _real(own_times),
                values.source([[row[k] for row in cells] for k in range(len(own))], len(group)),
                _real([m.value for m in members]),
                _real([CENSORING[m.censoring] for m in members]),
            )
        )
    order = np.argsort(np.array([r for group in groups for r in group]), kind="stable")
    simulated = [named[lane.experiment] for lane in lanes]
    before = [named[lane.preequilibration or lane.experiment] for lane in lanes]
    equilibrated = [at_rest(without_periods(experiment)) for experiment in before]
    is_reset = [[not e.given.isdisjoint((n, chosen(n))) for n in slots.model.states] for e in simulated]
    return LikelihoodData(
        *_conditions(slots, values, simulated),
        EquilibrationData(
            np.array([lane.preequilibration != "" for lane in lanes]),
            *_conditions(slots, values, equilibrated),
            np.array(is_reset, dtype=bool).reshape(len(lanes), -1),
        ),
        times,
        tuple(row_data),
        order,
        _real(rtol),
        _real(atol),
    )


def _whole(values: Sequence[int]) -> Int[np.ndarray, "..."]:
    return np.array(values, dtype=np.int64)


def _real(values: Sequence[float] | float) -> Float[np.ndarray, "..."]:
    return np.array(values, dtype=np.float64)


class Lane(NamedTuple):
    """The names of a lane's experiment and of its pre-equilibration, empty where there is none."""

    experiment: str
    preequilibration: str


def lane_of(measurement: Measurement) -> Lane:
    """Return the lane that a measurement is of."""
    return Lane(measurement.experiment, measurement.preequilibration)


def lanes_of(measurements: Sequence[Measurement], experiments: Sequence[Experiment]) -> list[Lane]:
    """Return the lanes that measurements need, in the order of the experiments; none before any pre-equilibration."""
    rank = {name: k for k, name in enumerate(["", *(e.name for e in experiments)])}
    return sorted(set(map(lane_of, measurements)), key=lambda lane: tuple(rank[name] for name in lane))


def _conditions(
    slots: Slots, values: "_Values", lanes: Sequence[Experiment]
) -> tuple[Source, Float[Array | np.ndarray, "sometimes lanes"]]:
    """Return the inputs of lanes under one experiment each, and which of those that are set sometimes are set."""
    inputs = [[e.values[n] if n in e.given else values.default(slots.model, n) for e in lanes] for n in slots.inputs]
    is_given = np.array([[float(n in e.given) for e in lanes] for n in slots.sometimes])
    return values.source(inputs, len(lanes)), is_given.reshape(-1, len(lanes))


def _check_experiment(model: Model, values: "_Values", experiment: Experiment, lanes: Sequence[Lane]) -> None:
    own = [lane for lane in lanes if experiment.name in lane]
    is_after = bool(own) and all(lane.preequilibration not in ("", experiment.name) for lane in own)
    for name, value in experiment.values.items():
        if name not in model.initial:
            raise ModelError(
                f"experiment {experiment.name!r} sets {name!r}, which is no state or parameter of the model"
            )
        if name not in experiment.given:
            if is_after and name in model.derivatives:
                continue  # it goes on from the steady state
            raise ModelError(
                f"experiment {experiment.name!r} sets {name!r} to nan, which is only for states, and only where every "
                f"measurement of the experiment comes after a pre-equilibration; give a number, or leave {name!r} out"
            )
        if not values.has(value):
            raise ModelError(
                f"experiment {experiment.name!r} sets {name!r} to {value!r}, neither a number nor a parameter"
            )


class _Values(NamedTuple):
    """What a cell may name."""

    estimated: tuple[str, ...]
    constants: Mapping[str, float]

    def has(self, cell: float | str) -> bool:
        """Return whether a cell is a number or names a parameter."""
        if cell in self.estimated or cell in self.constants:
            return True
        try:
            return not math.isnan(float(cell))
        except ValueError:
            return False

    def default(self, model: Model, name: str) -> float | str:
        """Return what a lane takes for a name that its experiment does not set."""
        if name in self.estimated or name in self.constants:
            return name
        definition = model.initial[name]
        return float(definition.value) if definition.op == "const" else 0.0

    def cells(self, observable: str, own: Sequence[str], row: int, m: Measurement) -> list[str]:
        """Return the values that a measurement gives for its observable's placeholders."""
        cells = []
        for column, kind, given in (
            ("observableParameters", "observableParameter", m.observable_parameters),
            ("noiseParameters", "noiseParameter", m.noise_parameters),
        ):
            expected = sum(p.startswith(kind) for p in own)
            if len(given) != expected:
                raise DataError(
                    f"data row {row}, column {column!r}: observable {observable!r} takes {expected} value(s) there, "
                    f"but {list(given)} has {len(given)}"
                )
            cells.extend(given)
        for cell in cells:
            if not self.has(cell):
                raise DataError(f"data row {row}: {cell!r} is neither a number nor a parameter of the problem")
        return cells

    def source(self, table: list[list[float | str]], width: int) -> Source:
        """Return where the values of a table of cells come from."""
        flat = [cell for line in table for cell in line]
        place = {name: k for k, name in enumerate(self.estimated)}
        index = [place.get(c, -1) for c in flat]
        constant = [0.0 if c in place else float(self.constants.get(c, c)) for c in flat]
        shape = (len(table), width)
        return Source(_whole(index).reshape(shape), _real(constant).reshape(shape))
