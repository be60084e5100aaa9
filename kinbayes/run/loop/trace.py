"""Where a sampler's draws go: into memory, or a part at a time to a checkpoint."""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, PyTree


class Draws(NamedTuple):
    """Hold draws of all chains; of a checkpoint the arrays are read when they are asked for.

    Attributes
    ----------
    position
        Draws of u, (chains, draws, dim).
    log_prior, log_likelihood
        Log densities of the draws, (chains, draws).
    info
        The sampler's statistics by name, (chains, draws, …) each.
    """

    position: Float[np.ndarray, "chains draws dim"]
    log_prior: Float[np.ndarray, "chains draws"]
    log_likelihood: Float[np.ndarray, "chains draws"]
    info: dict[str, np.ndarray]


@runtime_checkable
class Trace(Protocol):
    """Keep what a run draws, iteration by iteration.

    Attributes
    ----------
    length
        How many iterations it has.
    """

    length: int

    def begin(self, shapes: Draws, capacity: int, state: PyTree) -> None:
        """Make room.

        Parameters
        ----------
        shapes
            Shapes and types of what iterations write, (iterations, chains, …).
        capacity
            Number of iterations to make room for.
        state
            The sampler's state as the run begins.
        """

    def write(self, rows: Draws) -> None:
        """Keep the next iterations, (iterations, chains, …)."""

    def read(self, start: int, stop: int) -> Draws:
        """Return iterations from one index to another, (chains, iterations, …)."""


class Memory:
    """Keep draws in memory; what is read are views of what is written once and stays."""

    _whole: Draws

    def begin(self, shapes: Draws, capacity: int, state: PyTree) -> None:
        def allocate(shape):
            return np.empty((shape.shape[1], capacity, *shape.shape[2:]), shape.dtype)

        self.length, self._whole = 0, jax.tree.map(allocate, shapes)

    def write(self, rows: Draws) -> None:
        def put(whole, part):
            whole[:, self.length : self.length + len(part)] = np.moveaxis(part, 0, 1)

        jax.tree.map(put, self._whole, rows)
        self.length += len(rows.position)

    def read(self, start: int, stop: int) -> Draws:
        return jax.tree.map(lambda whole: whole[:, start:stop], self._whole)
