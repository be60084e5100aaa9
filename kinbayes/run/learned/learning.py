"""Training the network of a proposal: with the settings that were given, or with the best that a search finds."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float

from kinbayes.amortized.building import Plain, shapes
from kinbayes.amortized.hyperparameters import LOSSES, Search, search, training_defaults
from kinbayes.amortized.networks import NETWORKS
from kinbayes.amortized.search_record import MOST_RUNS, RUNS, record
from kinbayes.amortized.search_spaces import Space, default_space
from kinbayes.amortized.training import Trained, TrainingState, train
from kinbayes.run.progress import ProgressDisplay
from kinbayes.run.settings import checked_settings

# A run of a search has this share of the epochs that follow, and where these are few at least so many: the losses of
# the first epochs tell how fast a network learns to begin with, and not how far it gets.
SEARCH_SHARE, LEAST_SEARCHED = 0.2, 20


class Plan(NamedTuple):
    """Hold what is going to be trained.

    Attributes
    ----------
    network
        Name of the network.
    given
        Settings of the network and of its training that are not searched, where they are not the defaults.
    epochs
        Of the training.
    space
        What a search tries; empty where there is none.
    num_runs, search_epochs
        Runs of the search, and epochs of each.
    seed
        Of everything random.
    """

    network: str
    given: dict[str, Plain]
    epochs: int
    space: Space
    num_runs: int
    search_epochs: int
    seed: int


class Learned(NamedTuple):
    """Hold a trained network.

    Attributes
    ----------
    trained
        What training came to.
    network_settings
        All settings that the network was built with.
    facts
        Of the training, as a proposal keeps them: its settings and, where there was one, the runs of the search.
    """

    trained: Trained
    network_settings: dict[str, Plain]
    facts: dict[str, Plain]


def planned(
    network: str,
    dim: int,
    *,
    settings: Mapping[str, object],
    training_settings: Mapping[str, float | None],
    epochs: int,
    search_runs: int,
    search_epochs: int | None,
    seed: int,
) -> Plan:
    """Return what is going to be trained, checked before any time is spent on simulations.

    Parameters
    ----------
    network, dim
        Name of the network, and number of parameters.
    settings
        Settings of the network by name; see its docstring.
    training_settings
        Of `learning_rate`, `weight_decay` and `batch_size` those that are given; None where they are not.
    epochs
        Of the training.
    search_runs, search_epochs
        Runs of a search, and epochs of each, by default `SEARCH_SHARE` of `epochs`.
    seed
        Of everything random.

    Raises
    ------
    ValueError
        If a name or a setting is unknown or out of range, or there is nothing to search.
    """
    if network not in NETWORKS:
        raise ValueError(f"unknown network {network!r}; choose from {sorted(NETWORKS)}")
    shapes(network, dict(checked_settings(network, NETWORKS[network], settings, fixed=("key", "dim"))), dim)
    if not 0 <= search_runs <= MOST_RUNS:
        raise ValueError(f"search_runs is {search_runs}; it must lie between 0, for no search, and {MOST_RUNS}: try 30")
    if search_epochs is None:
        search_epochs = max(round(SEARCH_SHARE * epochs), min(LEAST_SEARCHED, epochs))
    if search_runs and not 1 <= search_epochs <= epochs:
        raise ValueError(
            f"search_epochs is {search_epochs}; it must lie between 1 and epochs = {epochs}, since the best run goes on"
        )
    given = {**settings, **{name: value for name, value in training_settings.items() if value is not None}}
    space = default_space(network, given) if search_runs else {}
    return Plan(network, given, epochs, space, search_runs, search_epochs, seed)


def learn(plan: Plan, y: Float[np.ndarray, "n dim"], c: Float[np.ndarray, " n"], *, progress: bool = True) -> Learned:
    """Train a network; where a search is planned, the best of its runs goes on to the end of the training.

    Training that goes on is training that was never interrupted, so the network is the one that the settings of the
    best run would have come to without a search.

    Parameters
    ----------
    plan
        What to train.
    y, c
        Points of the unit box and their conditions.
    progress
        Whether to show a progress bar.

    Raises
    ------
    KeyboardInterrupt
        If Ctrl-C ended the search or the training.
    ValueError
        If no run of the search, or no epoch of the training, came to a finite loss.
    """
    with ProgressDisplay() if progress else nullcontext() as display:
        found = _search(plan, y, c, display) if plan.num_runs else None
        if found is None:
            settings = {**training_defaults(), **plan.given}
            of_training = {name: settings.pop(name) for name in training_defaults()}
            own = dict(checked_settings(plan.network, NETWORKS[plan.network], settings, fixed=("key", "dim")))
        else:
            own, of_training = found.network_settings, found.training_settings
        of_training = {**of_training, "epochs": plan.epochs}
        trained = _train(plan, own, of_training, y, c, None if found is None else found.trained.state, display)
    facts = {**of_training, "epochs": trained.state.num_epochs, "best_epoch": int(trained.state.best_epoch)}
    if found is not None:
        facts |= {"search_epochs": plan.search_epochs, RUNS: record(found.runs)}
    return Learned(trained, own, {**facts, "seed": plan.seed})


def _search(
    plan: Plan, y: Float[np.ndarray, "n dim"], c: Float[np.ndarray, " n"], display: ProgressDisplay | None
) -> Search:
    def show(runs: pd.DataFrame) -> None:
        if display:
            display.show("search", len(runs), plan.num_runs, f"least validation loss {runs[LOSSES[1]].min():.4g}")

    if display:
        display.show("search", 0, plan.num_runs, "")
    fixed = {**plan.given, "epochs": plan.search_epochs}
    found = search(plan.network, y, c, plan.space, num_runs=plan.num_runs, fixed=fixed, seed=plan.seed, on_run=show)
    if found.is_interrupted:
        raise KeyboardInterrupt
    return found


def _train(
    plan: Plan,
    own: Mapping[str, Plain],
    of_training: Mapping[str, Plain],
    y: Float[np.ndarray, "n dim"],
    c: Float[np.ndarray, " n"],
    state: TrainingState | None,
    display: ProgressDisplay | None,
) -> Trained:
    def show(state: TrainingState) -> None:
        if display:
            losses = state.history.train.loss[-1], state.history.validation.loss[-1]
            display.show("train", state.num_epochs, plan.epochs, "loss {:.4g}, validation {:.4g}".format(*losses))

    network = NETWORKS[plan.network](jax.random.key(plan.seed), y.shape[1], **own)
    trained = train(network, y, c, seed=plan.seed, on_epoch=show, state=state, **of_training)
    if trained.is_interrupted:
        raise KeyboardInterrupt
    return trained
