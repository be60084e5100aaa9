"""Residuals and Fisher information: what a posterior says about its curvature without second derivatives."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from kinbayes.model.expressions import ZERO, Expr, apply, derivatives, evaluate, symbol, where
from kinbayes.ode.status import Status
from kinbayes.problem.likelihood import RowDerivatives, Rows
from kinbayes.problem.noise import CENSORING
from kinbayes.problem.observables import Measurement, Observable


def residuals(
    observables: Sequence[Observable], measurements: Sequence[Measurement], rows: Rows
) -> Float[np.ndarray, " measurements"]:
    """Return how far every measurement is from its prediction, in units of its noise.

    For a censored measurement, which has no such distance, it is the root of -2 log of its probability, negative where
    the true value lies below: with normal noise half the sum of squares is the loss, up to what depends on the noise
    alone, whether measurements are censored or not.
    """
    found = np.empty(len(measurements))
    for observable, members in _members(observables, measurements):
        names, values = _values(observable, members, measurements, rows)
        found[members] = evaluate([_residual(observable, names)], values)[0]
    return found


def residual_jacobian(
    observables: Sequence[Observable], measurements: Sequence[Measurement], rows: Rows, slopes: RowDerivatives
) -> Float[np.ndarray, "measurements dim"]:
    """Return the derivatives of the residuals with respect to the scaled vector; zeros where the simulation failed."""
    found = np.zeros(slopes.simulated.shape)
    if np.any(rows.status != Status.OK):
        return found
    for observable, members in _members(observables, measurements):
        names, values = _values(observable, members, measurements, rows)
        residual = _residual(observable, names)
        partials = [derivatives([residual], name)[0] for name in names[2:]]
        by_part = [np.broadcast_to(p, len(members)) for p in evaluate(partials, values)]
        found[members] = np.einsum("pm,mpd->md", np.stack(by_part), _slopes(observable, members, slopes))
    return found


def fisher(
    observables: Sequence[Observable], measurements: Sequence[Measurement], rows: Rows, slopes: RowDerivatives
) -> Float[np.ndarray, "dim dim"]:
    """Return the Fisher information of the scaled vector; zeros where the simulation failed.

    Raises
    ------
    ValueError
        If a noise setting is estimated whose information has no closed form, or a measurement is censored.
    """
    censored = next((r for r, m in enumerate(measurements) if m.censoring), None)
    if censored is not None:
        raise ValueError(
            f"data row {censored} is censored, so its expected information depends on what would have been measured "
            "had it not been; take the curvature from gradients, or leave such rows out"
        )
    dim = slopes.simulated.shape[-1]
    total = np.zeros((dim, dim))
    if np.any(rows.status != Status.OK):
        return total
    for observable, members in _members(observables, measurements):
        names, values = _values(observable, members, measurements, rows)
        own = _slopes(observable, members, slopes)
        for (p, q), entry in observable.noise.information(*map(symbol, names[2:])).items():
            if entry is None:
                if np.any(own[:, p] != 0.0):
                    raise ValueError(
                        f"observable {observable.name!r}: the Fisher information about setting {p} of "
                        f"{observable.noise.family} noise has no closed form; give it a value, or take the curvature "
                        "from gradients"
                    )
                continue
            weight = np.broadcast_to(evaluate([entry], values)[0], len(members))
            part = np.einsum("m,md,me->de", weight, own[:, p], own[:, q])
            total += part if p == q else part + part.T
    return total


def _members(observables: Sequence[Observable], measurements: Sequence[Measurement]) -> list:
    """Return every observable with the numbers of its measurements."""
    return [(o, [r for r, m in enumerate(measurements) if m.observable == o.name]) for o in observables]


def _values(
    observable: Observable, members: Sequence[int], measurements: Sequence[Measurement], rows: Rows
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return names for censoring, measurement, prediction and settings, and their values."""
    settings = [f"setting {k}" for k in range(len(observable.noise.formulas))]
    values = {
        "censoring": np.array([CENSORING[measurements[r].censoring] for r in members]),
        "measurement": np.array([measurements[r].value for r in members]),
        "prediction": rows.simulated[members],
    }
    values |= {name: rows.noise[members, k] for k, name in enumerate(settings)}
    return list(values), values


def _residual(observable: Observable, names: Sequence[str]) -> Expr:
    side, *others = map(symbol, names)
    plain = observable.noise.residual(*others)
    if not observable.noise.is_censorable:
        return plain
    return where(apply("eq", side, ZERO), plain, observable.noise.censored_residual(side, *others))


def _slopes(
    observable: Observable, members: Sequence[int], slopes: RowDerivatives
) -> Float[np.ndarray, "members parts dim"]:
    """Return the derivatives of prediction and settings."""
    num = len(observable.noise.formulas)
    return np.concatenate([slopes.simulated[members, None], slopes.noise[members, :num]], axis=1)
