"""A checkpoint: a Zarr folder that holds a run while it goes on, whole and readable whatever ends the process.

    run.zarr/              attributes: `plan`, what is run, which never changes, and `commit`, how far it is
      iterations/<name>    arrays (iterations, …) with room for all; the commit says how many rows count
      state                (2, bytes): what the algorithm goes on from; the commit says which row
      data/<group>         what is known before the run: the measurements
      result/<group>       the groups of the result of a run that has ended, moved here at once

A commit writes the rows first, then the state, into the row that does not count, and the attributes last. Zarr replaces
files whole, so at any moment the attributes tell of rows and a state that are complete.
"""

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from jaxtyping import Shaped
from zarr.errors import GroupNotFoundError

from kinbayes.results.disk import InUseError, locked, sync, uninterrupted
from kinbayes.results.folder import append

LAYOUT = 1  # of the folder
_LARGEST = 2**20  # bytes of a file of rows; those that fill none yet are in memory as well
_MOST_ROWS = 10_000  # of a file


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read, or continued."""


class Stored:
    """An array of a run, (chains, draws, …) or (iterations,), of which parts are read when they are asked for.

    Parameters
    ----------
    checkpoint
        Where it is.
    name
        Its name.
    start, stop
        The rows that it has.
    """

    def __init__(self, checkpoint: "Checkpoint", name: str, start: int, stop: int) -> None:
        self._checkpoint, self._name, self._start, self._stop = checkpoint, name, start, stop

    @property
    def shape(self) -> tuple[int, ...]:
        length, others = self._stop - self._start, self._checkpoint.arrays[self._name].shape[1:]
        return (others[0], length, *others[1:]) if others else (length,)

    def __getitem__(self, key: object) -> Shaped[np.ndarray, "..."]:
        """Read a part: of `[:, a:b:c]` that alone, for any other key everything first."""
        if isinstance(key, tuple) and len(key) == 2 and key[0] == slice(None) and isinstance(key[1], slice):
            start, stop, step = key[1].indices(self._stop - self._start)
            return self._read(slice(self._start + start, self._start + max(start, stop), step))
        return np.asarray(self)[key]

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        """Read everything."""
        found = self._read(slice(self._start, self._stop))
        return found if dtype is None else found.astype(dtype)

    def _read(self, rows: slice) -> np.ndarray:
        found = self._checkpoint.read(self._name, rows)
        return np.moveaxis(found, 0, 1) if found.ndim > 1 else found


class Checkpoint:
    """An open checkpoint.

    Parameters
    ----------
    path
        The folder.
    is_writable
        Whether it is to be written, by this process alone.

    Attributes
    ----------
    plan
        What is run.
    record
        The last commit: `rows` and what else was said of the run.
    arrays
        The arrays of `iterations`, by name.
    num_rows
        How many rows there are, committed or not.

    Raises
    ------
    CheckpointError
        If there is none, another process writes it, or it is one of a newer kinbayes.
    """

    def __init__(self, path: Path, *, is_writable: bool) -> None:
        if not path.is_dir():
            raise CheckpointError(f"there is no checkpoint {path}")
        self.path = path
        if is_writable and not os.access(path, os.W_OK):
            raise CheckpointError(
                f"the checkpoint {path} may not be written, so it cannot go on; kinbayes.load reads it"
            )
        try:
            self._lock = locked(path) if is_writable else None
        except InUseError as error:
            raise CheckpointError(f"another process is writing the checkpoint {path}; wait for its end") from error
        try:
            self._root = zarr.open_group(path, mode="r+" if is_writable else "r", zarr_format=3)
            attributes = self._root.attrs.asdict()
            self.plan, self.record = attributes["plan"], attributes["commit"]
        except (GroupNotFoundError, FileNotFoundError, KeyError, ValueError) as error:
            self.close()
            raise CheckpointError(f"{path} is no checkpoint of kinbayes: it has no plan and no commit") from error
        if self.plan["layout"] > LAYOUT:
            self.close()
            raise CheckpointError(f"{path} has layout {self.plan['layout']}, this kinbayes knows {LAYOUT}; update it")
        self.arrays: dict[str, zarr.Array] = {name: self._root[f"iterations/{name}"] for name in self.plan["arrays"]}
        self.num_rows = self._flushed = int(self.record["rows"])
        self._tail: dict[str, np.ndarray] = {}  # the rows of the file that is not full
        if is_writable:
            for leftover in path.rglob("*.partial"):  # of a file that Zarr had not finished
                leftover.unlink()
            self._tail = {name: np.empty((self._size, *a.shape[1:]), a.dtype) for name, a in self.arrays.items()}
            self.truncate(self.num_rows)

    def close(self) -> None:
        """Let other processes write it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def capacity(self) -> int:
        """How many rows there is room for."""
        return next(iter(self.arrays.values())).shape[0]

    @property
    def state(self) -> bytes:
        """The state of the last commit."""
        return self._root["state"][int(self.record["slot"])].tobytes()

    def resize(self, capacity: int) -> None:
        """Make room for as many rows in all, and at least for those there are."""
        with self._told(), uninterrupted():
            for array in self.arrays.values():
                array.resize((max(capacity, self.num_rows), *array.shape[1:]))

    def truncate(self, num_rows: int) -> None:
        """Forget the rows from some index on."""
        self.flush()
        self.num_rows = self._flushed = num_rows
        first = self._first(num_rows)
        for name, tail in self._tail.items():
            tail[: num_rows - first] = self.arrays[name][first:num_rows]

    def write(self, rows: Mapping[str, Shaped[np.ndarray, "rows ..."]]) -> None:
        """Write the next rows; they count once they are committed.

        Raises
        ------
        CheckpointError
            If they cannot be written.
        """
        length, done = len(next(iter(rows.values()))), 0
        while done < length:
            at = self.num_rows % self._size
            count = min(length - done, self._size - at)
            for name, values in rows.items():
                self._tail[name][at : at + count] = values[done : done + count]
            self.num_rows, done = self.num_rows + count, done + count
            if self.num_rows % self._size == 0:
                self.flush()

    def read(self, name: str, rows: slice) -> Shaped[np.ndarray, "rows ..."]:
        """Return rows of an array, those that are not on the disk yet among them."""
        array, start, stop, step = self.arrays[name], rows.start, rows.stop, rows.step or 1
        first = self._first(self.num_rows) if self._tail else stop  # of the tail, which is in memory
        if stop <= first:
            return array[start:stop:step]
        if start >= first:
            return self._tail[name][start - first : stop - first : step].copy()
        beyond = start + -(-(first - start) // step) * step
        return np.concatenate([array[start:first:step], self._tail[name][beyond - first : stop - first : step]])

    def flush(self) -> None:
        """Write what is only in memory."""
        if self._flushed == self.num_rows:
            return
        first = self._first(self.num_rows - 1)
        with self._told(), uninterrupted():
            for name, array in self.arrays.items():
                array[first : self.num_rows] = self._tail[name][: self.num_rows - first]
                self._sync(array, first // self._size)
            self._flushed = self.num_rows

    def commit(self, state: bytes, record: Mapping[str, object]) -> None:
        """Make all rows count, together with the state that follows from them.

        Parameters
        ----------
        state
            The algorithm's state, as long as the first one.
        record
            What else is to be known of the run so far; JSON.

        Raises
        ------
        CheckpointError
            If it cannot be written. The commit before stays.
        """
        self.flush()
        slot = 1 - int(self.record["slot"])
        said = {**record, "rows": self.num_rows, "slot": slot}
        with self._told(), uninterrupted():
            self._root["state"][slot] = np.frombuffer(state, np.uint8)
            self._sync(self._root["state"], slot)
            self._root.attrs.update({"commit": said})
            self.record = said  # at once: the next commit must leave this one's state alone, whatever happens now
            sync(self.path / "zarr.json")

    def discard_result(self) -> None:
        """Remove the result of a run that goes on."""
        result = self.path / "result"
        if result.is_dir():
            part = self.path / f"result.{uuid.uuid4().hex}.part"
            result.rename(part)
            shutil.rmtree(part)

    @contextmanager
    def writing_result(self) -> Iterator[Path]:
        """Give a folder for the groups of the result, which becomes `result` at the end, at once.

        Raises
        ------
        CheckpointError
            If it cannot be written.
        """
        part = self.path / f"result.{uuid.uuid4().hex}.part"
        with self._told():
            self.discard_result()
            for old in self.path.glob("result.*.part"):
                shutil.rmtree(old)
            try:
                zarr.open_group(part, mode="w-", zarr_format=3)
                yield part
                part.rename(self.path / "result")
            finally:
                shutil.rmtree(part, ignore_errors=True)

    @property
    def _size(self) -> int:
        return next(iter(self.arrays.values())).chunks[0]

    def _first(self, row: int) -> int:
        """Return the first row of the file in which a row is."""
        return row - row % self._size

    def _sync(self, array: zarr.Array, index: int) -> None:
        key = array.metadata.encode_chunk_key((index, *[0] * (array.ndim - 1)))
        sync(self.path / array.path / key)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what the disk refuses into an error that says what is safe."""
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"cannot write the checkpoint {self.path}: {error.strerror or error}. What was committed, "
                f"{self.record['rows']} rows, is safe there: free some space or choose another folder, and go on with "
                "resume=True"
            ) from error


def create(
    path: Path,
    plan: Mapping[str, object],
    arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    *,
    capacity: int,
    state: bytes,
    record: Mapping[str, object],
    data: Mapping[str, xr.Dataset],
    result_size: int,
) -> Checkpoint:
    """Make a checkpoint, whole or not at all, and open it.

    Parameters
    ----------
    path
        The folder to make.
    plan
        What is run; JSON.
    arrays
        Shapes (of one row) and types of what every iteration writes.
    capacity
        Number of rows to make room for.
    state, record
        The first commit.
    data
        Groups known before the run.
    result_size
        Bytes that the result will take.

    Raises
    ------
    CheckpointError
        If there is one already, it cannot be written, or the disk has no room for all of it.
    """
    row_sizes = [prod(shape) * np.dtype(kind).itemsize for shape, kind in arrays.values()]
    size = max(1, min(_LARGEST // max(*row_sizes, 1), _MOST_ROWS, capacity))
    check_room(path, capacity * sum(row_sizes) + 2 * len(state) + result_size)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        root = zarr.open_group(part, mode="w-", zarr_format=3)
        for name, (shape, kind) in arrays.items():
            sizes = {"shape": (capacity, *shape), "chunks": (size, *shape), "dtype": kind}
            root.create_array(f"iterations/{name}", **sizes, fill_value=0, compressors=None)
        slots = root.create_array(
            "state", shape=(2, len(state)), chunks=(1, len(state)), dtype=np.uint8, fill_value=0, compressors=None
        )
        slots[0] = np.frombuffer(state, np.uint8)
        for group, dataset in data.items():
            append(part / "data", group, dataset)
        said = {"layout": LAYOUT, **plan, "arrays": list(arrays)}
        root.attrs.put({"plan": said, "commit": {**record, "rows": 0, "slot": 0}})
        check_absent(path)
        part.rename(path)
    except OSError as error:
        raise CheckpointError(f"cannot make the checkpoint {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Checkpoint(path, is_writable=True)


def check_absent(path: Path) -> None:
    """Refuse to write over what is there.

    Raises
    ------
    CheckpointError
        If there is a file or folder of this name.
    """
    if path.exists():
        raise CheckpointError(f"{path} exists: go on with it by resume=True, or give another name")


def check_room(path: Path, size: int) -> None:
    """Refuse a folder that cannot be written, or has no room, before a run has taken its time.

    Parameters
    ----------
    path
        The folder to make.
    size
        Bytes that it will take.

    Raises
    ------
    CheckpointError
        If the folder above it does not exist or may not be written, or its disk has less room.
    """
    parent = path.resolve().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise CheckpointError(f"cannot make the checkpoint {path}: {parent} is no folder that may be written")
    free = shutil.disk_usage(parent).free
    if free < size:
        raise CheckpointError(
            f"the checkpoint {path} will take {size / 1e6:.0f} MB, and its disk has {free / 1e6:.0f} MB free: free "
            "some space, choose another folder, keep fewer draws, or thin them"
        )
