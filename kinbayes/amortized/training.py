"""Training a network: AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), an epoch a compiled function.

Everything random follows from the seed and the number of the epoch, so that training that goes on from a state is the
training that was never interrupted. The network that is kept is the one with the least validation loss.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree, UInt

from kinbayes.amortized import leaves
from kinbayes.amortized.fit import Fit, History, appended, empty_history, fit_of
from kinbayes.amortized.networks.base import Network

try:
    import optax
except ImportError as error:  # an extra
    raise ImportError("networks are trained by optax: pip install 'kinbayes[amortized]'") from error

VALIDATION_SHARE = 0.1
NUM_SHOWN = 2048  # rows of training that are looked at after every epoch, and of both halves the most in correlations

_SPLIT, _EPOCHS, _VALIDATION = range(3)


class TrainingError(ValueError):
    """Training in which no epoch came to a finite loss."""


class TrainingState(NamedTuple):
    """Hold all that training needs to go on; `arrays` makes a file of it, `restored` a state of the file.

    Attributes
    ----------
    network, optimizer
        The network after the last epoch, and what AdamW remembers.
    best
        The network with the least validation loss so far, as it was after `best_epoch` epochs.
    best_loss, best_epoch
        Its loss, +inf if there is none, and its epoch, from 1.
    digest
        Of data and settings: with others it would be another training.
    history
        What there is to tell of every epoch; the epochs behind are its length.
    """

    network: PyTree
    optimizer: PyTree
    best: PyTree
    best_loss: Float[np.ndarray, ""]
    best_epoch: Int[np.ndarray, ""]
    digest: UInt[np.ndarray, "32"]
    history: History

    @property
    def num_epochs(self) -> int:
        """The epochs that are behind."""
        return len(self.history.train.loss)


class Trained(NamedTuple):
    """Hold what came of training.

    Attributes
    ----------
    network
        The network with the least validation loss.
    state
        What it can go on from.
    stopped
        Why it ended before its time, in words; empty where it did not.
    is_interrupted
        Whether that was Ctrl-C.
    """

    network: Network
    state: TrainingState
    stopped: str
    is_interrupted: bool

    @property
    def history(self) -> History:
        """What there is to tell of every epoch."""
        return self.state.history


class _Data(NamedTuple):
    """Hold rows as they are trained on."""

    y: Float[Array, "n dim"]
    c: Float[Array, " n"]
    weight: Float[Array, " n"]


def train(
    network: Network,
    y: Float[Array | np.ndarray, "n dim"],
    c: Float[Array | np.ndarray, " n"],
    *,
    weight: Float[Array | np.ndarray, " n"] | None = None,
    epochs: int = 300,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    batch_size: int = 256,
    validation_share: float = VALIDATION_SHARE,
    seed: int = 0,
    on_epoch: Callable[[TrainingState], None] | None = None,
    state: TrainingState | None = None,
) -> Trained:
    """Train a network.

    Parameters
    ----------
    network
        Where to start; its leaves are all arrays.
    y, c
        Points of the unit box and their conditions.
    weight
        What rows count; by default all the same. Rows of weight 0 are left out.
    epochs
        Epochs in all, those of `state` included.
    learning_rate, weight_decay
        Of AdamW, the decay on all that is trainable.
    batch_size
        The most rows of a batch. Batches of an epoch differ by at most one row.
    validation_share
        Share of the rows, drawn at random, that only choose the network.
    seed
        Of the split, the order of rows and the network's own draws.
    on_epoch
        Called with the state after every epoch.
    state
        What to go on from, with the same data and settings; `network` then says only what is static.

    Returns
    -------
    The best network, the state and the history. Ctrl-C ends training with what there is, as does a loss that is no
    number.

    Raises
    ------
    ValueError
        If rows are no points and conditions, a setting is out of range, or the state belongs to other data or settings.
    TrainingError
        If the loss was no number from the first epoch on.
    """
    data = _checked(y, c, weight)
    _check_settings(epochs, learning_rate, weight_decay, batch_size, validation_share)
    key = jax.random.key(seed)
    train_rows, validation_rows = split(len(data.y), validation_share, seed)
    digest = _digest(data, (learning_rate, weight_decay, batch_size, validation_share, seed))
    if state is None:
        leaves.arrays(network)
        state = _initial(network, digest)
    elif not np.array_equal(state.digest, digest):
        raise ValueError(
            "the state is one of other data or settings (learning_rate, weight_decay, batch_size, validation_share, "
            "seed); give those, or go on with its network as `network` and no state"
        )
    parts = [jax.tree.map(lambda leaf, rows=rows: leaf[rows], data) for rows in (train_rows, validation_rows)]
    num_batches = math.ceil(len(train_rows) / batch_size)
    shown = [jax.tree.map(lambda leaf: leaf[:NUM_SHOWN], parts[0]), parts[1]]
    batched = [_in_batches(part, min(batch_size, max(map(len, (train_rows, validation_rows))))) for part in shown]
    looked_at = jax.tree.map(lambda *halves: jnp.concatenate(halves), *batched)
    stopped, is_interrupted = "", False
    try:
        while state.num_epochs < epochs and not stopped:
            epoch = state.num_epochs
            moved, optimizer, running = _epoch(
                state.network,
                state.optimizer,
                jax.random.fold_in(jax.random.fold_in(key, _EPOCHS), epoch),
                parts[0],
                learning_rate,
                weight_decay,
                num_batches,
            )
            found = _look(moved, jax.random.fold_in(key, _VALIDATION), looked_at)
            losses, reconstructed = zip(*_halves(*found, batched, shown), strict=True)
            if not all(map(math.isfinite, (float(running), *losses))):
                stopped = _lost(epoch + 1, state, learning_rate)
                break
            fits = [
                fit_of(np.asarray(part.y[:NUM_SHOWN]), points[:NUM_SHOWN], loss)
                for part, points, loss in zip(shown, reconstructed, losses, strict=True)
            ]
            state = _after(state, moved, optimizer, *fits)
            if on_epoch is not None:
                on_epoch(state)
    except KeyboardInterrupt:
        is_interrupted = True
        stopped = f"interrupted after {state.num_epochs} of {epochs} epochs"
    return Trained(state.best, state, stopped, is_interrupted)


def _checked(
    y: Float[Array | np.ndarray, "n dim"],
    c: Float[Array | np.ndarray, " n"],
    weight: Float[Array | np.ndarray, " n"] | None,
) -> _Data:
    y, c = np.asarray(y, float), np.asarray(c, float)
    weight = np.ones(len(y)) if weight is None else np.asarray(weight, float)
    if not (len(y) == len(c) == len(weight)):
        raise ValueError(
            f"there are {len(y)} points, {len(c)} conditions and {len(weight)} weights; a row has one each"
        )
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise ValueError("weights must be finite and not negative")
    rows = weight > 0
    y, c, weight = y[rows], c[rows], weight[rows]
    if not ((y >= 0) & (y <= 1)).all():
        row, column = np.argwhere(~((y >= 0) & (y <= 1)))[0]
        raise ValueError(
            f"y[{np.flatnonzero(rows)[row]}, {column}] is {y[row, column]}; points must lie in the unit box: leave out "
            "those that do not, or fit the box to them"
        )
    if not np.isfinite(c).all():
        row = np.flatnonzero(~np.isfinite(c))[0]
        raise ValueError(
            f"c[{np.flatnonzero(rows)[row]}] is {c[row]}; conditions must be finite: leave failed simulations out"
        )
    if len(y) < 2:
        raise ValueError(f"there are {len(y)} rows with a weight; training needs two, one of them for validation")
    return _Data(jnp.asarray(y), jnp.asarray(c), jnp.asarray(weight))


def _check_settings(
    epochs: int, learning_rate: float, weight_decay: float, batch_size: int, validation_share: float
) -> None:
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs is {epochs} and batch_size {batch_size}; both must be at least 1")
    if not (0 < learning_rate < math.inf and 0 <= weight_decay < math.inf):
        raise ValueError(
            f"learning_rate is {learning_rate} and weight_decay {weight_decay}; the first must be positive, the second "
            "not negative, and both finite"
        )
    if not 0 < validation_share < 1:
        raise ValueError(f"validation_share is {validation_share}; it must lie between 0 and 1")


def split(num: int, share: float, seed: int) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " validation"]]:
    """Return which of so many rows train the network, and which choose it."""
    order = np.asarray(jax.random.permutation(jax.random.fold_in(jax.random.key(seed), _SPLIT), num))
    num_validation = min(max(round(share * num), 1), num - 1)
    return order[num_validation:], order[:num_validation]


def _digest(data: _Data, settings: tuple) -> UInt[np.ndarray, "32"]:
    digest = hashlib.sha256(repr((settings, data.y.shape)).encode())
    for part in data:
        digest.update(np.asarray(part).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def _initial(network: Network, digest: UInt[np.ndarray, "32"]) -> TrainingState:
    params, _ = eqx.partition(network, network.trainable())
    return TrainingState(
        network,
        _optimizer(0.0, 0.0).init(params),
        network,
        np.asarray(np.inf),
        np.asarray(0),
        digest,
        empty_history(),
    )


def _optimizer(learning_rate: Float[Array, ""] | float, weight_decay: Float[Array, ""] | float) -> object:
    return optax.adamw(learning_rate, weight_decay=weight_decay)


def _after(state: TrainingState, network: Network, optimizer: PyTree, train: Fit, validation: Fit) -> TrainingState:
    history = appended(state.history, train, validation)
    state = state._replace(network=network, optimizer=optimizer, history=history)
    if not validation.loss < state.best_loss:
        return state
    return state._replace(best=network, best_loss=np.asarray(validation.loss), best_epoch=np.asarray(state.num_epochs))


def _lost(epoch: int, state: TrainingState, learning_rate: float) -> str:
    advice = f"try a learning_rate below {learning_rate:g}, or larger batches"
    if state.best_epoch == 0:
        raise TrainingError(f"the loss is no finite number after the first epoch: {advice}")
    return (
        f"the loss was no finite number after epoch {epoch}; the network of epoch {state.best_epoch} is kept: {advice}"
    )


def _in_batches(data: _Data, size: int) -> _Data:
    """Return rows with a leading axis of batches, filled up by the first row with weight 0."""
    num = len(data.y)
    num_batches = math.ceil(num / size)
    rows = np.resize(np.arange(num), num_batches * size)
    is_real = jnp.asarray(np.arange(len(rows)) < num)
    filled = jax.tree.map(lambda leaf: leaf[rows], data)
    filled = filled._replace(weight=jnp.where(is_real, filled.weight, 0.0))
    return jax.tree.map(lambda leaf: leaf.reshape(num_batches, size, *leaf.shape[1:]), filled)


@functools.partial(jax.jit, static_argnums=6)
def _epoch(
    network: Network,
    optimizer: PyTree,
    key: Key[Array, ""],
    data: _Data,
    learning_rate: Float[Array, ""] | float,
    weight_decay: Float[Array, ""] | float,
    num_batches: int,
) -> tuple[Network, PyTree, Float[Array, ""]]:
    """Return network and optimizer after one pass over the rows, and the sum of the losses on the way."""
    order, own = jax.random.split(key)
    num = len(data.y)
    size = -(-num // num_batches)
    # Rows are dealt out like cards, so that no batch is short of more than one.
    rows = jnp.resize(jax.random.permutation(order, num), (size, num_batches)).T
    is_real = (jnp.arange(size * num_batches) < num).reshape(size, num_batches).T
    updates = _optimizer(learning_rate, weight_decay)

    def step(carry: tuple[Network, PyTree], batch: tuple[Array, Array, Array]) -> tuple[tuple[Network, PyTree], Array]:
        network, optimizer = carry
        key, rows, is_real = batch
        is_trainable = network.trainable()
        params, rest = eqx.partition(network, is_trainable)

        def objective(params: PyTree) -> tuple[Array, PyTree]:
            weight = jnp.where(is_real, data.weight[rows], 0.0)
            loss, updated = eqx.combine(params, rest).loss(key, data.y[rows], data.c[rows], weight)
            return loss, eqx.partition(updated, is_trainable)[1]

        (loss, rest), slopes = jax.value_and_grad(objective, has_aux=True)(params)
        change, optimizer = updates.update(slopes, optimizer, params)
        return (eqx.combine(optax.apply_updates(params, change), rest), optimizer), loss

    batches = (jax.random.split(own, num_batches), rows, is_real)
    (network, optimizer), losses = jax.lax.scan(step, (network, optimizer), batches)
    return network, optimizer, losses.sum()


@jax.jit
def _look(
    network: Network, key: Key[Array, ""], batches: _Data
) -> tuple[Float[Array, " batches"], Float[Array, "..."]]:
    """Return the sum of the losses of every batch, the network as it is when it is used, and the reconstructions."""

    def one(batch: tuple[Array, _Data]) -> tuple[Array, Array]:
        key, rows = batch
        loss = rows.weight.sum() * network.validation_loss(key, *rows)
        return loss, network.reconstruct(rows.y, rows.c)

    return jax.lax.map(one, (jax.random.split(key, len(batches.y)), batches))


def _halves(
    sums: Float[Array, " batches"],
    reconstructed: Float[Array, "batches size dim"],
    batched: Sequence[_Data],
    rows: Sequence[_Data],
) -> list[tuple[float, Float[np.ndarray, "n dim"]]]:
    """Return mean loss and reconstructions of each half of the batches that were looked at."""
    at = len(batched[0].y)
    losses = [float(part.sum() / half.weight.sum()) for part, half in zip(jnp.split(sums, [at]), batched, strict=True)]
    points = [
        np.asarray(part).reshape(-1, part.shape[-1])[: len(half.y)]
        for part, half in zip(jnp.split(reconstructed, [at]), rows, strict=True)
    ]
    return list(zip(losses, points, strict=True))


def arrays(state: TrainingState) -> dict[str, np.ndarray]:
    """Return a state as arrays by name, as `numpy.savez` takes them."""
    return leaves.arrays(state)


def restored(found: dict[str, np.ndarray], network: Network) -> TrainingState:
    """Return the state that `arrays` made arrays of.

    Parameters
    ----------
    found
        The arrays.
    network
        A network of the same settings, of any weights.

    Raises
    ------
    ValueError
        If they are not those of a state of such a network.
    """
    dim = found.get(".history.train.parameter_rmse", np.empty((0, 0))).shape
    num_epochs, dim = dim if len(dim) == 2 else (0, 0)
    structure = _initial(network, np.zeros(32, np.uint8))._replace(history=empty_history(num_epochs, dim))
    return leaves.filled(structure, found.__getitem__, leaves.layout(found))
