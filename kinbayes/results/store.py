"""The store: one `InferenceData` a run, built from plain arrays, and its file.

Parameters are stored in natural units, with their scale in the variable's attributes. Measurements are
grouped by observable: `y` has the dimension `y_measurement`, whose coordinate is the row of the data.
Attributes hold what NetCDF can, so that ArviZ's own writers work too: see `encode`.
"""

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import xarray as xr
from arviz import InferenceData
from jaxtyping import Float, Shaped

from kinbayes.results.attributes import encode

LAYOUT = 1  # of the file; a change that older readers would misread raises it
LAYOUT_ATTR = "kinbayes_layout"
_OWN_NAMES = frozenset(
    {
        "chain",
        "draw",
        "start",
        "iteration",
        "log_density",
        "log_likelihood",
        "log_prior",
        "loss",
        "converged",
        "is_refined",
    }
)

# The statistics of tempering, which have a trailing axis: a ladder of rungs, one a chain. Rung 0 is the prior (beta 0),
# the last rung the posterior (beta 1); pair k is that of the rungs k and k + 1.
#   beta                 (chain, draw, rung)  the power of the likelihood
#   rung_log_likelihood  (chain, draw, rung)  log likelihood of the rung's position, -inf where its simulation fails
#   swap_rate            (chain, draw, pair)  probability that the pair swaps in this step, tried or not
_TRAILING_DIM = {"beta": "rung", "rung_log_likelihood": "rung", "swap_rate": "pair"}


class StoreError(ValueError):
    """A file that is no stored run, or a result that cannot be stored."""


class ParameterTable(NamedTuple):
    """What is known of the estimated parameters, in the order of the parameter vector.

    Attributes
    ----------
    names
        Their names.
    scales
        `lin`, `ln` or `log10`: where intervals and diagnostics are computed.
    units
        Units, empty where unknown.
    priors
        The priors, as text.
    """

    names: Sequence[str]
    scales: Sequence[str]
    units: Sequence[str]
    priors: Sequence[str]


class MeasurementTable(NamedTuple):
    """The measurements, row by row in the order of the data.

    Attributes
    ----------
    observables, experiments
        Names, one a row.
    times, values
        When and what was measured, (measurements,).
    labels
        Observable -> what an axis says (name and unit); its own name where absent.
    time_unit
        Unit of time, empty where unknown.
    censoring
        `below` or `above` where the value is a limit that the true one lies below or above, else empty; no entries
        where none is.
    """

    observables: Sequence[str]
    experiments: Sequence[str]
    times: Float[np.ndarray, " measurements"]
    values: Float[np.ndarray, " measurements"]
    labels: Mapping[str, str] = MappingProxyType({})
    time_unit: str = ""
    censoring: Sequence[str] = ()


def check_names(parameters: Sequence[str], observables: Sequence[str]) -> None:
    """Refuse names that the store cannot hold, before a run spends hours on them.

    Raises
    ------
    StoreError
        If a parameter is named as the store's own variables, an observable as another's dimension, or a name
        has a slash.
    """
    own = sorted(_OWN_NAMES & set(parameters))
    if own:
        raise StoreError(f"parameters {own} are named as variables of the store itself; rename them")
    dims = sorted(set(observables) & {f"{o}_measurement" for o in observables})
    if dims:
        raise StoreError(f"observables {dims} are named as the measurements of another observable; rename them")
    slashed = [name for name in (*parameters, *observables) if "/" in name]
    if slashed:
        raise StoreError(f"names {slashed} contain '/', which separates groups in NetCDF; rename them")


def posterior_data(
    parameters: ParameterTable,
    measurements: MeasurementTable,
    *,
    draws: Float[np.ndarray, "chains draws dim"],
    sample_stats: Mapping[str, Shaped[np.ndarray, "chains draws ..."]],
    attrs: Mapping[str, object],
    log_likelihood: Float[np.ndarray, "chains draws measurements"] | None = None,
    posterior_predictive: Float[np.ndarray, "chains draws measurements"] | None = None,
    warmup: Float[np.ndarray, "chains warmup dim"] | None = None,
    warmup_stats: Mapping[str, Shaped[np.ndarray, "chains warmup ..."]] | None = None,
    prior: Float[np.ndarray, "prior_draws dim"] | None = None,
    prior_predictive: Float[np.ndarray, "prior_draws measurements"] | None = None,
    first_draw: int = 0,
) -> InferenceData:
    """Build the result of a sampling run.

    Parameters
    ----------
    parameters, measurements
        What the columns of the arrays mean.
    draws
        Draws of the posterior, natural units, warmup left out.
    sample_stats
        Statistics of every draw, (chains, draws), named as in ArviZ; `lp` and `acceptance_rate` at least. Those of
        tempering have one axis more: `beta` and `rung_log_likelihood` the dimension `rung`, `swap_rate`
        the dimension `pair`.
    attrs
        What is to be known of the run; see `encode` for what values may be.
    log_likelihood
        Log density of every measurement.
    posterior_predictive, prior_predictive
        Replicated measurements, noise included.
    warmup, warmup_stats
        What warmup drew, natural units, and its statistics.
    prior
        Draws of the prior, natural units.
    first_draw
        Number of the first draw, where these are a part of all.

    Returns
    -------
    InferenceData with the groups `posterior`, `sample_stats`, `observed_data` and `constant_data`; and, where given,
    `log_likelihood`, `posterior_predictive`, `warmup_posterior`, `warmup_sample_stats`, `prior`, `prior_predictive`.

    Raises
    ------
    StoreError
        If a name cannot be stored, `lp` or `acceptance_rate` is missing, or a statistic has other axes.
    """
    check_names(parameters.names, measurements.observables)
    missing = sorted({"lp", "acceptance_rate"} - set(sample_stats))
    if missing:
        raise StoreError(f"sample_stats lacks {missing}; it has {sorted(sample_stats)}")
    dims = ("chain", "draw")
    groups = draw_groups(parameters, draws, sample_stats)
    for name, values in (("log_likelihood", log_likelihood), ("posterior_predictive", posterior_predictive)):
        if values is not None:
            groups[name] = _measurement_group(measurements, values, dims)
    groups = {name: group.assign_coords(draw=group.draw + first_draw) for name, group in groups.items()}
    if warmup is not None:
        of_warmup = draw_groups(parameters, warmup, warmup_stats or {})
        groups |= {f"warmup_{name}": group for name, group in of_warmup.items()}
    if prior is not None:
        groups["prior"] = parameter_group(parameters, prior[None], dims)
    if prior_predictive is not None:
        groups["prior_predictive"] = _measurement_group(measurements, prior_predictive[None], dims)
    return InferenceData(attrs=root_attrs(attrs), **groups, **measurement_groups(measurements))


def joined(parts: Sequence[InferenceData]) -> InferenceData:
    """Return one result of parts that follow each other; what is no matter of draws is the first part's."""
    first, last = parts[0], parts[-1]
    groups = {name: first[name] for name in first.groups()}
    for name in last.groups():
        if "draw" in last[name].dims:
            groups[name] = xr.concat([part[name] for part in parts], "draw")
    return InferenceData(attrs=first.attrs, **groups)


def draw_groups(
    parameters: ParameterTable,
    draws: Float[np.ndarray, "chains draws dim"],
    sample_stats: Mapping[str, Shaped[np.ndarray, "chains draws ..."]],
) -> dict[str, xr.Dataset]:
    """Return the groups that hold what a sampler drew: `posterior` (natural units) and `sample_stats`."""
    dims = ("chain", "draw")
    return {
        "posterior": parameter_group(parameters, draws, dims),
        "sample_stats": _statistics_group(sample_stats, counts(dims, draws)),
    }


def prediction_data(
    times: Float[np.ndarray, " times"],
    *,
    states: Mapping[str, Float[np.ndarray, "draws times"]],
    observables: Mapping[str, Float[np.ndarray, "draws times"]],
    predictions: Mapping[str, Float[np.ndarray, "draws times"]],
    time_unit: str,
    attrs: Mapping[str, object],
) -> InferenceData:
    """Build the result of a prediction.

    Parameters
    ----------
    times
        When was predicted.
    states, observables
        What the model says, without noise; NaN where a simulation failed.
    predictions
        New measurements of the observables, noise included.
    time_unit
        Unit of time, empty where unknown.
    attrs
        What is to be known of the prediction; see `encode` for what values may be.

    Returns
    -------
    InferenceData with the groups `states`, `observables` and `predictions`, of dimensions (chain, draw,
    time): the draws of all chains stand in one.
    """
    coords = {"time": ("time", times, {"unit": time_unit})}
    groups = {
        group: xr.Dataset(
            {name: (("chain", "draw", "time"), values[None]) for name, values in variables.items()}, coords
        )
        for group, variables in (
            ("states", states),
            ("observables", observables),
            ("predictions", predictions),
        )
    }
    return InferenceData(attrs=root_attrs(attrs), **groups)


def _statistics_group(sample_stats: Mapping[str, np.ndarray], coords: Mapping[str, np.ndarray]) -> xr.Dataset:
    variables, found = {}, dict(coords)
    for name, values in sample_stats.items():
        dims = ("chain", "draw", _TRAILING_DIM[name]) if name in _TRAILING_DIM else ("chain", "draw")
        if np.ndim(values) != len(dims):
            raise StoreError(
                f"the statistic {name!r} has the shape {np.shape(values)}, but is to have the dimensions {dims}; "
                f"those with a third are {sorted(_TRAILING_DIM)}"
            )
        variables[name] = (dims, np.asarray(values))
        found |= counts(dims[2:], np.moveaxis(values, -1, 0))
    return xr.Dataset(variables, found)


def counts(dims: Sequence[str], values: np.ndarray) -> dict[str, np.ndarray]:
    """Return the coordinates of an array's first axes: numbers from 0."""
    return {dim: np.arange(size) for dim, size in zip(dims, values.shape[: len(dims)], strict=True)}


def parameter_group(parameters: ParameterTable, values: np.ndarray, dims: Sequence[str]) -> xr.Dataset:
    """Return one variable a parameter, of natural values (…, dim), with its scale, unit and prior."""
    variables = {
        name: (dims, values[..., k], {"scale": scale, "unit": unit, "prior": prior})
        for k, (name, scale, unit, prior) in enumerate(zip(*parameters, strict=True))
    }
    return xr.Dataset(variables, counts(dims, values))


def _measurement_group(measurements: MeasurementTable, values: np.ndarray, dims: Sequence[str]) -> xr.Dataset:
    variables, coords = {}, counts(dims, values)
    for observable, rows in _rows(measurements).items():
        label = measurements.labels.get(observable, observable)
        dim = f"{observable}_measurement"
        variables[observable] = ((*dims, dim), values[..., rows], {"label": label})
        coords[dim] = rows
    return xr.Dataset(variables, coords)


def _rows(measurements: MeasurementTable) -> dict[str, np.ndarray]:
    """Return the rows of every observable, in the order of the data."""
    observables = np.asarray(measurements.observables, dtype=str)
    return {o: np.flatnonzero(observables == o) for o in dict.fromkeys(measurements.observables)}


def root_attrs(attrs: Mapping[str, object]) -> dict[str, object]:
    """Return what the root of every result says: the layout, and the attributes as they are stored."""
    return {LAYOUT_ATTR: LAYOUT, **encode(attrs)}


def measurement_groups(measurements: MeasurementTable) -> dict[str, xr.Dataset]:
    """Return the groups that hold what was measured: `observed_data` and `constant_data`."""
    experiments = np.asarray(measurements.experiments, dtype=str)
    variables, coords = {}, {}
    for observable, rows in _rows(measurements).items():
        dim = f"{observable}_measurement"
        variables[f"{observable}_time"] = (dim, measurements.times[rows], {"unit": measurements.time_unit})
        variables[f"{observable}_experiment"] = (dim, experiments[rows])
        if measurements.censoring:
            variables[f"{observable}_censoring"] = (dim, np.asarray(measurements.censoring, dtype=str)[rows])
        coords[dim] = rows
    return {
        "observed_data": _measurement_group(measurements, measurements.values, ()),
        "constant_data": xr.Dataset(variables, coords),
    }


def read_group(idata: InferenceData, name: str) -> xr.Dataset:
    """Return a group of a result.

    Raises
    ------
    ValueError
        If the result has no such group.
    """
    if name not in idata.groups():
        raise ValueError(f"this result has no group {name!r}, only {idata.groups()}; kinbayes.sample makes one")
    return idata[name]


def save(idata: InferenceData, path: str | os.PathLike[str]) -> Path:
    """Write a result to a NetCDF file, all or nothing: what stands there is replaced at the end, at once.

    Returns
    -------
    The path.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder, so {path.name} cannot be written there; create it first")
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        idata.to_netcdf(str(part), engine="h5netcdf")
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
