"""An archive: all points that runs on one problem have evaluated, as a Zarr folder that is only ever appended to.

    archive.zarr/     attributes: `archive`, the problem, which never changes; `commit`, the runs and how far it is
      rows/<name>     arrays (rows, …) of the fields of `Rows`, with room behind what counts

An append writes the rows first and the attributes last. Zarr replaces files whole, so at any moment the attributes tell
of rows that are complete; what a process that ended too soon has left behind them is written over by the next one.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import zarr
from jaxtyping import Array, Bool, Float, Int
from zarr.errors import GroupNotFoundError

from kinbayes import __version__
from kinbayes.ode.status import Status
from kinbayes.problem.problem import Problem
from kinbayes.results.disk import InUseError, locked, sync, uninterrupted

LAYOUT = 1  # of the folder
KINDS = ("sample", "optimize")
_LARGEST = 2**20  # bytes of a file of rows, which every append that ends in it writes anew
_MOST_ROWS = 10_000  # of a file
_TYPES = {"status": np.int8, "run": np.int32, "start": np.int32, "iteration": np.int32}  # others are float64


class ArchiveError(ValueError):
    """An archive that cannot be written or read, or is one of another problem."""


class Rows(NamedTuple):
    """Hold evaluated points, in the order of their evaluation.

    Attributes
    ----------
    u
        Scaled vectors.
    log_likelihood, log_prior
        Log densities there, with respect to du; of a failure NaN or -inf.
    gradient_norm
        Euclidean norm of the gradient of the log density with respect to u; NaN where it is not known.
    status
        How the simulation ended, as in `kinbayes.ode.status.Status`; 0 if well.
    run
        Index of the run in `Archive.runs`.
    start, iteration
        Which chain or start of the run evaluated the point, and in which of its iterations.
    """

    u: Float[np.ndarray, "rows dim"]
    log_likelihood: Float[np.ndarray, " rows"]
    log_prior: Float[np.ndarray, " rows"]
    gradient_norm: Float[np.ndarray, " rows"]
    status: Int[np.ndarray, " rows"]
    run: Int[np.ndarray, " rows"]
    start: Int[np.ndarray, " rows"]
    iteration: Int[np.ndarray, " rows"]

    @property
    def loss(self) -> Float[np.ndarray, " rows"]:
        """The negative log density with respect to du, up to the evidence; +inf of failures."""
        with np.errstate(invalid="ignore"):
            total = -(self.log_likelihood + self.log_prior)
        return np.where((self.status == Status.OK) & np.isfinite(total), total, np.inf)


class Run(NamedTuple):
    """Say where rows come from.

    Attributes
    ----------
    kind
        One of `KINDS`.
    algorithm, settings, seed
        What ran.
    kept
        Which of the points that it evaluated are here, in words.
    """

    kind: str
    algorithm: str
    settings: dict[str, object]
    seed: int
    kept: str


class Archive:
    """An open archive; `with` closes it.

    Parameters
    ----------
    path
        The folder.
    is_writable
        Whether it is to be written, by this run alone.

    Attributes
    ----------
    path
        The folder.
    problem_name, problem_hash
        The problem, and the digest of all that defines its posterior.
    parameter_names, scale
        Names and scales of the entries of u.
    lower, upper
        Bounds of u; -inf and +inf where it is open.
    version
        The kinbayes that made it.

    Raises
    ------
    ArchiveError
        If there is none, another run writes it, or it is one of a newer kinbayes.
    """

    def __init__(self, path: Path, *, is_writable: bool) -> None:
        if not path.is_dir():
            raise ArchiveError(f"there is no archive {path}")
        if is_writable and not os.access(path, os.W_OK):
            raise ArchiveError(f"the archive {path} may not be written; read_archive reads it")
        try:
            self._lock = locked(path) if is_writable else None
        except InUseError as error:
            raise ArchiveError(
                f"another run is writing the archive {path}: wait for its end, or give another folder"
            ) from error
        try:
            self._root = zarr.open_group(path, mode="r+" if is_writable else "r", zarr_format=3)
            attributes = self._root.attrs.asdict()
            header, self._commit = attributes["archive"], attributes["commit"]
        except (GroupNotFoundError, FileNotFoundError, KeyError, ValueError) as error:
            self._unlock()
            raise ArchiveError(f"{path} is no archive of kinbayes: give another folder, or a new name") from error
        if header["layout"] > LAYOUT:
            self._unlock()
            raise ArchiveError(f"{path} has layout {header['layout']}, this kinbayes knows {LAYOUT}; update it")
        self.path, self.version = path, header["kinbayes"]
        self.problem_name, self.problem_hash = header["problem"], header["problem_hash"]
        self.parameter_names, self.scale = tuple(header["parameters"]), tuple(header["scale"])
        self.lower = np.array([-np.inf if wall is None else wall for wall in header["lower"]], float)
        self.upper = np.array([np.inf if wall is None else wall for wall in header["upper"]], float)
        self._is_writable = is_writable
        self._arrays: dict[str, zarr.Array] = {name: self._root[f"rows/{name}"] for name in Rows._fields}
        if is_writable:
            for leftover in path.rglob("*.partial"):  # of a file that Zarr had not finished
                leftover.unlink()

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._commit["rows"])

    def __repr__(self) -> str:
        return f"Archive({str(self.path)!r}: {len(self)} points of {len(self.runs)} runs on {self.problem_name!r})"

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs, in the order in which they began."""
        return tuple(Run(**run) for run in self._commit["runs"])

    def close(self) -> None:
        """Let other runs write it; what has been read stays."""
        self._is_writable = False
        self._unlock()

    def read(self, start: int = 0, stop: int | None = None) -> Rows:
        """Return the rows from one index to another, by default all."""
        rows = slice(*slice(start, stop).indices(len(self))[:2])
        return Rows(**{name: array[rows] for name, array in self._arrays.items()})

    def summary(self) -> pd.DataFrame:
        """Return how many points ended how: a row for every kind of run and algorithm, a column for every status."""
        status, run = (self._arrays[name][: len(self)] for name in ("status", "run"))
        found = {(own.kind, own.algorithm): np.zeros(len(Status), int) for own in self.runs}
        for k, own in enumerate(self.runs):
            found[own.kind, own.algorithm] += np.bincount(status[run == k], minlength=len(Status))
        index = pd.MultiIndex.from_tuples(list(found), names=["kind", "algorithm"])
        table = pd.DataFrame(list(found.values()), index=index, columns=[s.name.lower() for s in Status], dtype=int)
        return table.assign(all=table.sum(axis=1))

    def begin_run(self, *, kind: str, algorithm: str, settings: Mapping[str, object], seed: int, kept: str) -> int:
        """Enter a run, and return its index for the rows that it appends; see `Run`.

        Raises
        ------
        ArchiveError
            If the archive is not open for writing, or cannot be written.
        ValueError
            If the kind is unknown.
        """
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r} of a run; choose from {list(KINDS)}")
        run = Run(kind, algorithm, _plain(settings), int(seed), kept)
        with self._writing():
            self._tell({**self._commit, "runs": [*self._commit["runs"], run._asdict()]})
        return len(self._commit["runs"]) - 1

    def append(self, rows: Rows) -> int:
        """Append the rows that lie inside the bounds or on them, failures too; return how many these are.

        All of them are safe once this returns. A process that ends before leaves none.

        Raises
        ------
        ArchiveError
            If the archive is not open for writing, or cannot be written. What it held before is safe.
        ValueError
            If the vectors have another length, or a run was not begun.
        """
        if rows.u.shape[1:] != self.lower.shape:
            raise ValueError(f"rows of vectors of {rows.u.shape[1:]} entries, the archive's have {len(self.lower)}")
        chosen = Rows(*(np.asarray(values)[self._is_inside(rows.u)] for values in rows))
        num_runs = len(self._commit["runs"])
        if not ((chosen.run >= 0) & (chosen.run < num_runs)).all():
            raise ValueError(f"rows of runs {np.unique(chosen.run).tolist()}, but only {num_runs} runs were begun")
        count, first = len(chosen.u), len(self)
        if count:
            with self._writing():
                self._write(chosen, first)
                self._tell({**self._commit, "rows": first + count})
        return count

    def _write(self, rows: Rows, first: int) -> None:
        """Write rows from some index on, which do not count yet."""
        last = first + len(rows.u)
        for name, array in self._arrays.items():
            size = array.chunks[0]
            if last > array.shape[0]:
                array.resize((size * -(-last // size), *array.shape[1:]))
            array[first:last] = getattr(rows, name)
            for k in range(first // size, -(-last // size)):
                sync(self.path / array.path / array.metadata.encode_chunk_key((k, *[0] * (array.ndim - 1))))

    def _tell(self, commit: Mapping[str, object]) -> None:
        """Replace what the attributes say."""
        self._root.attrs.update({"commit": commit})
        self._commit = commit
        sync(self.path / "zarr.json")

    def _is_inside(self, U: Float[np.ndarray, "rows dim"]) -> Bool[np.ndarray, " rows"]:
        return ((self.lower <= U) & (self.upper >= U) & np.isfinite(U)).all(axis=1)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold Ctrl-C back, and turn what the disk refuses into an error that says what is safe."""
        if not self._is_writable:
            raise ArchiveError(f"the archive {self.path} is open for reading alone; open it by open_archive")
        try:
            with uninterrupted():
                yield
        except OSError as error:
            raise ArchiveError(
                f"cannot write the archive {self.path}: {error.strerror or error}. Its {len(self)} points are safe: "
                "free some space, or choose another folder"
            ) from error


def open_archive(path: str | os.PathLike[str], problem: Problem, create: bool = True) -> Archive:
    """Open an archive of a problem for writing.

    Parameters
    ----------
    path
        The folder.
    problem
        The problem, whose hash must be that of the archive: the same model, data, priors, tolerances and engine.
    create
        Whether to make the folder if there is none.

    Raises
    ------
    ArchiveError
        If the folder holds something else, or points of another problem, or another run is writing it; if it cannot be
        made, or there is none.
    """
    path = Path(path)
    if create and not path.exists():
        _make(path, problem)
    archive = Archive(path, is_writable=True)
    if archive.problem_hash != problem.hash:
        archive.close()
        raise ArchiveError(
            f"{path} has points of another problem: {archive.problem_name!r}, whose hash is "
            f"{archive.problem_hash[:12]}, not {problem.name!r} with {problem.hash[:12]}. Give that problem, with the "
            "same data, priors, tolerances and engine, or another folder"
        )
    return archive


def read_archive(path: str | os.PathLike[str]) -> Archive:
    """Open an archive for reading, as it is now; a run may write it meanwhile.

    Raises
    ------
    ArchiveError
        If there is none.
    """
    return Archive(Path(path), is_writable=False)


def _make(path: Path, problem: Problem) -> None:
    """Make an archive without rows, whole or not at all."""
    parent = path.resolve().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ArchiveError(f"cannot make the archive {path}: {parent} is no folder that may be written")
    size = max(1, min(_LARGEST // (8 * max(problem.dim, 1)), _MOST_ROWS))
    header = {
        "layout": LAYOUT,
        "kinbayes": __version__,
        "problem": problem.name,
        "problem_hash": problem.hash,
        "parameters": list(problem.parameter_names),
        "scale": list(problem.scale),
        "lower": _walls(problem.lower),
        "upper": _walls(problem.upper),
    }
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        root = zarr.open_group(part, mode="w-", zarr_format=3)
        for name in Rows._fields:
            width = (problem.dim,) if name == "u" else ()
            root.create_array(
                f"rows/{name}",
                shape=(0, *width),
                chunks=(size, *width),
                dtype=_TYPES.get(name, np.float64),
                fill_value=0,
                compressors=None,
            )
        root.attrs.put({"archive": header, "commit": {"rows": 0, "runs": []}})
        part.rename(path)
    except OSError as error:
        raise ArchiveError(f"cannot make the archive {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _walls(bounds: Float[Array, " dim"]) -> list[float | None]:
    """Return bounds as JSON: None where it is open."""
    return [float(wall) if np.isfinite(wall) else None for wall in np.asarray(bounds)]


def _plain(settings: Mapping[str, object]) -> dict[str, object]:
    """Return settings as JSON gives them back."""
    return json.loads(json.dumps(dict(settings), default=lambda number: number.item()))
