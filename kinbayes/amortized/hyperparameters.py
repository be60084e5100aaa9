"""Random search over the settings of a network and of its training (Bergstra and Bengio 2012), by Optuna."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optuna
import pandas as pd
from jaxtyping import Array, Float
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from kinbayes.amortized.building import Plain, defaults
from kinbayes.amortized.networks import NETWORKS
from kinbayes.amortized.training import Trained, TrainingError, train
from kinbayes.optimizers.trials import quiet

_TRAINING = ("epochs", "learning_rate", "weight_decay", "batch_size")
LOSSES = ["train_loss", "validation_loss"]


class Between(NamedTuple):
    """Ask for values between two, both included: whole numbers if both are, on a log scale if `is_log`."""

    low: float
    high: float
    is_log: bool = False


class Search(NamedTuple):
    """Hold what a search found.

    Attributes
    ----------
    runs
        One row a run, in their order: the settings that were searched, the epoch of the best network, and last its
        losses on the rows of training and of validation; NaN where training failed.
    network_settings, training_settings
        Of the best run, those that were not searched included.
    trained
        What the best run trained.
    is_interrupted
        Whether Ctrl-C ended the search before its time.
    """

    runs: pd.DataFrame
    network_settings: dict[str, Plain]
    training_settings: dict[str, Plain]
    trained: Trained
    is_interrupted: bool


def search(
    network_name: str,
    y: Float[Array | np.ndarray, "n dim"],
    c: Float[Array | np.ndarray, " n"],
    space: Mapping[str, Between | Sequence[Plain]],
    *,
    num_runs: int = 30,
    fixed: Mapping[str, Plain] | None = None,
    weight: Float[Array | np.ndarray, " n"] | None = None,
    seed: int = 0,
    on_run: Callable[[pd.DataFrame], None] | None = None,
) -> Search:
    """Train networks of random settings, and tell which does best on the rows that none was trained on.

    Losses are compared, so what is searched must not change what the loss means: neither its head nor its weights.

    Parameters
    ----------
    network_name
        Name of the network.
    y, c, weight
        The rows, as `train` takes them; the split is the same in all runs.
    space
        What to try, by name: settings of the network, and of training `epochs`, `learning_rate`, `weight_decay`,
        `batch_size`. A range, or a list of choices.
    num_runs
        Number of runs.
    fixed
        Settings that are not searched, and differ from their defaults.
    seed
        Of what is tried, and of every training.
    on_run
        Called with the table after every run.

    Returns
    -------
    All runs, and the best of them. Ctrl-C ends a search with what there is.

    Raises
    ------
    ValueError
        If a name is unknown, a range is empty, or no run succeeded.
    KeyboardInterrupt
        If Ctrl-C came before any run had a loss.
    """
    fixed = dict(fixed or {})
    allowed = {**defaults(network_name), **training_defaults()}
    _check(space, fixed, allowed, num_runs)
    distributions = {name: _distribution(name, choices) for name, choices in space.items()}
    rows: list[dict[str, object]] = []
    best: tuple[float, dict[str, Plain], Trained] | None = None
    is_interrupted = False
    with quiet():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    try:
        for _ in range(num_runs):
            with quiet():
                trial = study.ask(distributions)
            settings = {**allowed, **fixed, **trial.params}
            trained = _trained(network_name, settings, y, c, weight, seed)
            losses = _losses(trained)
            is_lost = math.isnan(losses[1])
            with quiet():
                study.tell(trial, None if is_lost else losses[1], state=TrialState.FAIL if is_lost else None)
            epoch = 0 if trained is None else int(trained.state.best_epoch)
            rows.append({**trial.params, "best_epoch": epoch, **dict(zip(LOSSES, losses, strict=True))})
            if not is_lost and (best is None or losses[1] < best[0]):
                best = losses[1], settings, trained
            if on_run is not None:
                on_run(pd.DataFrame(rows))
            if trained is not None and trained.is_interrupted:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        if best is None:
            raise
        is_interrupted = True
    if best is None:
        raise ValueError(f"none of {len(rows)} runs had a finite loss; try lower learning rates")
    _, settings, trained = best
    own = {name: value for name, value in settings.items() if name not in _TRAINING}
    return Search(pd.DataFrame(rows), own, {name: settings[name] for name in _TRAINING}, trained, is_interrupted)


def training_defaults() -> dict[str, Plain]:
    """Return the settings of training that may be searched, with their defaults."""
    parameters = inspect.signature(train).parameters
    return {name: parameters[name].default for name in _TRAINING}


def _check(
    space: Mapping[str, Between | Sequence[Plain]],
    fixed: Mapping[str, Plain],
    allowed: Mapping[str, Plain],
    num_runs: int,
) -> None:
    unknown, twice = sorted({*space, *fixed} - set(allowed)), sorted(set(space) & set(fixed))
    if unknown:
        raise ValueError(f"unknown settings {unknown}; choose from {sorted(allowed)}")
    if twice:
        raise ValueError(f"{twice} are both searched and fixed; do one of them")
    if not space or num_runs < 1:
        raise ValueError(f"there are {len(space)} settings to search, in {num_runs} runs; give at least one of each")


def _distribution(name: str, choices: Between | Sequence[Plain]) -> BaseDistribution:
    if not isinstance(choices, Between):
        if isinstance(choices, str) or not len(choices):
            raise ValueError(f"{name!r} is {choices!r}; it must be a list of choices, or Between(low, high)")
        return CategoricalDistribution(tuple(choices))
    low, high, is_log = choices
    if not low <= high or (is_log and low <= 0):
        raise ValueError(f"{name!r} is searched between {low} and {high}: they must ascend, on a log scale above 0")
    kind = IntDistribution if isinstance(low, int) and isinstance(high, int) else FloatDistribution
    return kind(low, high, log=is_log)


def _trained(
    network_name: str,
    settings: Mapping[str, Plain],
    y: Float[Array | np.ndarray, "n dim"],
    c: Float[Array | np.ndarray, " n"],
    weight: Float[Array | np.ndarray, " n"] | None,
    seed: int,
) -> Trained | None:
    """Return what training came to, None where the loss was no number from the first epoch on."""
    own = {name: value for name, value in settings.items() if name not in _TRAINING}
    network = NETWORKS[network_name](jax.random.key(seed), y.shape[1], **own)
    try:
        return train(network, y, c, weight=weight, seed=seed, **{name: settings[name] for name in _TRAINING})
    except TrainingError:
        return None


def _losses(trained: Trained | None) -> tuple[float, float]:
    if trained is None or not trained.state.best_epoch:  # the second where Ctrl-C came in the first epoch
        return math.nan, math.nan
    at = int(trained.state.best_epoch) - 1
    return float(trained.history.train.loss[at]), float(trained.history.validation.loss[at])
