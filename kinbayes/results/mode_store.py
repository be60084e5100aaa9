"""Results about a mode, from plain arrays: what searches found, Laplace approximations there, profiles, bootstraps."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Shaped

from kinbayes.results.store import (
    InferenceData,
    MeasurementTable,
    ParameterTable,
    check_names,
    counts,
    draw_groups,
    measurement_groups,
    parameter_group,
    root_attrs,
)


class Profiles(NamedTuple):
    """Hold the profiles of some parameters, one row a parameter, padded by NaN behind its last point.

    Attributes
    ----------
    names, scales, units
        Of the parameters.
    value
        Natural values of the parameter, rising, the mode's among them.
    log_density, log_prior
        Log densities of the best point with this value, with respect to the scaled parameters.
    converged
        Whether the search for that point met its test for an optimum.
    position
        That point: natural values of all parameters of the problem.
    stopped
        Why the walks to lower and to higher values ended: `drop`, `wall`, `points` or `failed`.
    """

    names: tuple[str, ...]
    scales: tuple[str, ...]
    units: tuple[str, ...]
    value: Float[np.ndarray, "parameters points"]
    log_density: Float[np.ndarray, "parameters points"]
    log_prior: Float[np.ndarray, "parameters points"]
    converged: Bool[np.ndarray, "parameters points"]
    position: Float[np.ndarray, "parameters points dim"]
    stopped: Shaped[np.ndarray, "parameters 2"]


def map_data(
    parameters: ParameterTable,
    measurements: MeasurementTable,
    *,
    estimates: Float[np.ndarray, "starts dim"],
    statistics: Mapping[str, Shaped[np.ndarray, " starts"]],
    history: Mapping[str, Shaped[np.ndarray, " iterations"]],
    gradient: Float[np.ndarray, " dim"],
    hessian: Float[np.ndarray, "dim dim"],
    attrs: Mapping[str, object],
) -> InferenceData:
    """Build the result of an optimizer's run.

    Parameters
    ----------
    parameters, measurements
        What the columns of the arrays mean.
    estimates
        Where every start ended, natural units, the best first.
    statistics
        What is known of these points: `log_density`, `log_likelihood` and `log_prior` with respect to the scaled
        parameters, `loss`, `converged` (whether the optimizer's test for an optimum was met), `is_refined`.
    history
        Statistics of every iteration: `loss`, the lowest so far, and the number of `evaluations` it took.
    gradient, hessian
        Derivatives of the log density at the best point, with respect to the scaled parameters.
    attrs
        What is to be known of the run; see `encode` for what values may be.

    Returns
    -------
    InferenceData with the groups `map_estimate` (dimension `start`), `optimization_history` (dimension `iteration`),
    `curvature` (dimensions `parameter` and `parameter_other`), `observed_data` and `constant_data`.

    Raises
    ------
    StoreError
        If a name cannot be stored.
    """
    check_names(parameters.names, measurements.observables)
    iterations = {name: ("iteration", np.asarray(values)) for name, values in history.items()}
    both = ("parameter", "parameter_other")
    groups = {
        "map_estimate": parameter_group(parameters, estimates, ("start",)).assign(
            {name: ("start", values) for name, values in statistics.items()}
        ),
        "optimization_history": xr.Dataset(iterations, counts(("iteration",), history["loss"])),
        "curvature": xr.Dataset(
            {"gradient": ("parameter", gradient), "hessian": (both, hessian)},
            {dim: _texts(parameters.names) for dim in both} | {"scale": ("parameter", _texts(parameters.scales))},
        ),
    }
    return InferenceData(attrs=root_attrs(attrs), **groups, **measurement_groups(measurements))


def laplace_data(
    parameters: ParameterTable,
    measurements: MeasurementTable,
    *,
    draws: Float[np.ndarray, "chains draws dim"],
    sample_stats: Mapping[str, Shaped[np.ndarray, "chains draws"]],
    mode: Float[np.ndarray, " dim"],
    hessian: Float[np.ndarray, "dim dim"],
    covariance: Float[np.ndarray, "dim dim"],
    attrs: Mapping[str, object],
) -> InferenceData:
    """Build the result of a Laplace approximation.

    Parameters
    ----------
    parameters, measurements
        What the columns of the arrays mean.
    draws
        Draws of the approximation, natural units.
    sample_stats
        Statistics of every draw.
    mode, hessian, covariance
        The approximation in scaled parameters: its mean, the Hessian of the log density there, its covariance.
    attrs
        What is to be known of it; see `encode` for what values may be.

    Returns
    -------
    InferenceData with the groups `posterior`, `sample_stats`, `laplace` (dimensions `parameter` and
    `parameter_other`), `observed_data` and `constant_data`.

    Raises
    ------
    StoreError
        If a name cannot be stored.
    """
    check_names(parameters.names, measurements.observables)
    both = ("parameter", "parameter_other")
    group = xr.Dataset(
        {
            "mode": ("parameter", mode),
            "standard_deviation": ("parameter", np.sqrt(np.diag(covariance))),
            "covariance": (both, covariance),
            "hessian": (both, hessian),
        },
        {dim: _texts(parameters.names) for dim in both} | {"scale": ("parameter", _texts(parameters.scales))},
    )
    groups = draw_groups(parameters, draws, sample_stats) | {"laplace": group}
    return InferenceData(attrs=root_attrs(attrs), **groups, **measurement_groups(measurements))


def profile_data(
    parameters: ParameterTable,
    measurements: MeasurementTable,
    profiles: Profiles,
    *,
    intervals: Mapping[str, Shaped[np.ndarray, " parameters"]],
    attrs: Mapping[str, object],
) -> InferenceData:
    """Build the result of profiles.

    Parameters
    ----------
    parameters, measurements
        Those of the problem.
    profiles
        What was found.
    intervals
        What was read off them, one value a parameter.
    attrs
        What is to be known of the run; see `encode` for what values may be.

    Returns
    -------
    InferenceData with the groups `profile` (dimensions `parameter`, `point` and `parameter_other`), `observed_data`
    and `constant_data`.

    Raises
    ------
    StoreError
        If a name cannot be stored.
    """
    check_names(parameters.names, measurements.observables)
    points = {
        name: (("parameter", "point"), getattr(profiles, name))
        for name in ("value", "log_density", "log_prior", "converged")
    }
    sides = {f"stopped_{side}": ("parameter", _texts(profiles.stopped[:, k])) for k, side in enumerate(SIDES)}
    group = xr.Dataset(
        {
            **points,
            "position": (("parameter", "point", "parameter_other"), profiles.position),
            **sides,
            **{name: ("parameter", values) for name, values in intervals.items()},
        },
        {
            "parameter": _texts(profiles.names),
            "parameter_other": _texts(parameters.names),
            "point": np.arange(profiles.value.shape[1]),
            "scale": ("parameter", _texts(profiles.scales)),
            "unit": ("parameter", _texts(profiles.units)),
        },
    )
    return InferenceData(attrs=root_attrs(attrs), profile=group, **measurement_groups(measurements))


def bootstrap_data(
    parameters: ParameterTable,
    measurements: MeasurementTable,
    *,
    estimates: Float[np.ndarray, "replicates dim"],
    statistics: Mapping[str, Shaped[np.ndarray, " replicates"]],
    by_parameter: Mapping[str, Shaped[np.ndarray, "replicates dim"]],
    attrs: Mapping[str, object],
) -> InferenceData:
    """Build the result of a bootstrap.

    Parameters
    ----------
    parameters, measurements
        Those of the problem.
    estimates
        The mode of every replicate, natural units.
    statistics
        What is known of every replicate: `loss`, `converged`.
    by_parameter
        What is known of every parameter of it: `at_wall`, `without_data`.
    attrs
        What is to be known of the run; see `encode` for what values may be.

    Returns
    -------
    InferenceData with the groups `bootstrap` (dimensions `replicate` and `parameter`), `observed_data` and
    `constant_data`.

    Raises
    ------
    StoreError
        If a name cannot be stored.
    """
    check_names(parameters.names, measurements.observables)
    variables = {name: ("replicate", found) for name, found in statistics.items()}
    variables |= {name: (("replicate", "parameter"), found) for name, found in by_parameter.items()}
    group = parameter_group(parameters, estimates, ("replicate",)).assign(variables)
    group = group.assign_coords(parameter=_texts(parameters.names))
    return InferenceData(attrs=root_attrs(attrs), bootstrap=group, **measurement_groups(measurements))


SIDES = ("below", "above")
BOOTSTRAP_NAMES = frozenset({"replicate", "parameter", "at_wall", "without_data"})  # that no parameter may have


def _texts(values) -> np.ndarray:
    return np.asarray(list(values), dtype=str)
