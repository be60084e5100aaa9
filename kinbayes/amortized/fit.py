"""How well a network reproduces points, epoch by epoch.

A correlation over all parameters at once is large as soon as the parameters differ from each other, however little the
network knows. So each parameter also has its own, and errors are set against those of always saying the column's mean.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata


class Fit(NamedTuple):
    """Tell how a network does on some rows; in a history every field has a leading axis of epochs.

    Attributes
    ----------
    loss
        The loss, with the network as it is when it is used.
    rmse, pearson, spearman
        Of the reconstruction, all parameters as one column, in units of the box.
    relative_rmse
        The first, over that of predicting the mean of every parameter: 1 is no better.
    parameter_rmse, parameter_pearson, parameter_spearman, parameter_relative_rmse
        The same of every parameter; the error times the width of its box is that on its scale. A correlation with
        what does not vary is NaN.
    """

    loss: Float[np.ndarray, "*epochs"]
    rmse: Float[np.ndarray, "*epochs"]
    pearson: Float[np.ndarray, "*epochs"]
    spearman: Float[np.ndarray, "*epochs"]
    relative_rmse: Float[np.ndarray, "*epochs"]
    parameter_rmse: Float[np.ndarray, "*epochs dim"]
    parameter_pearson: Float[np.ndarray, "*epochs dim"]
    parameter_spearman: Float[np.ndarray, "*epochs dim"]
    parameter_relative_rmse: Float[np.ndarray, "*epochs dim"]


class History(NamedTuple):
    """Hold the fit to the rows of training and of validation, after every epoch."""

    train: Fit
    validation: Fit


def empty_history(num_epochs: int = 0, dim: int = 0) -> History:
    """Return a history without values: of no epoch, or to be filled."""
    fit = Fit(*[np.zeros(num_epochs)] * 5, *[np.zeros((num_epochs, dim))] * 4)
    return History(fit, fit)


def appended(history: History, train: Fit, validation: Fit) -> History:
    """Return a history with one more epoch."""
    return History(*(_appended(fits, fit) for fits, fit in zip(history, (train, validation), strict=True)))


def _appended(fits: Fit, fit: Fit) -> Fit:
    return Fit(*(np.concatenate([old.reshape(-1, *np.shape(new)), [new]]) for old, new in zip(fits, fit, strict=True)))


def fit_of(y: Float[np.ndarray, "n dim"], reconstructed: Float[np.ndarray, "n dim"], loss: float) -> Fit:
    """Return how well some points are reproduced."""
    parameters = _columns(y, reconstructed, y.mean(axis=0))
    together = _columns(y.reshape(-1, 1), reconstructed.reshape(-1, 1), np.tile(y.mean(axis=0), len(y))[:, None])
    return Fit(np.asarray(loss), *(value[0] for value in together), *parameters)


def _columns(
    y: Float[np.ndarray, "n columns"], reconstructed: Float[np.ndarray, "n columns"], plain: Float[np.ndarray, "..."]
) -> tuple[np.ndarray, ...]:
    """Return RMSE, both correlations, and the RMSE over that of a plain prediction, column by column."""
    rmse, plain_rmse = (np.sqrt(((values - y) ** 2).mean(axis=0)) for values in (reconstructed, plain))
    ranks = (rankdata(values, axis=0) for values in (y, reconstructed))
    return rmse, _correlation(y, reconstructed), _correlation(*ranks), _ratio(rmse, plain_rmse)


def _correlation(x: Float[np.ndarray, "n columns"], y: Float[np.ndarray, "n columns"]) -> Float[np.ndarray, " columns"]:
    # A column that does not vary differs from its mean by rounding, which correlates with nothing.
    x, y = (np.where(np.ptp(values, axis=0) > 0, values - values.mean(axis=0), 0.0) for values in (x, y))
    return _ratio((x * y).sum(axis=0), np.sqrt((x * x).sum(axis=0) * (y * y).sum(axis=0)))


def _ratio(above: Float[np.ndarray, "*shape"], below: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return a quotient, NaN where the divisor is 0."""
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)
