"""A run and its checkpoint: what is written and how often, and what may be continued."""

import json
import shutil
import time
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import PyTree

from kinbayes.problem.problem import Problem
from kinbayes.results.attributes import environment
from kinbayes.results.checkpoint import Checkpoint, CheckpointError, Stored, check_absent, check_room, create
from kinbayes.run.loop.runs import Diagnostics, OptimizerProgress, OptimizerRun, SamplerProgress, SamplerRun
from kinbayes.run.loop.state import Leaves, leaves
from kinbayes.run.loop.trace import Draws

PAUSE = 2.0  # seconds between commits, or more:
SHARE = 0.02  # of the time, which they may take
_NO_STATE = Leaves((), b"\0")  # of a run that cannot be continued
_COUNTS = {
    "sample": {"iterations": 0, "num_steps": 0, "seconds_warmup": 0.0, "seconds_draws": 0.0},
    "optimize": {"evaluations": 0, "seconds": 0.0},
}


def opened(
    checkpoint: str | Path | None, *, resume: bool, kind: str, problem: Problem, asked: Mapping[str, object]
) -> "Saving | None":
    """Return a run's side of its checkpoint, once it is clear that it can be made, or continued.

    Parameters
    ----------
    checkpoint
        The folder; None for a run without one.
    resume
        Whether to continue a run that is there; if there is none, it begins.
    kind
        `sample` or `optimize`.
    problem
        The problem.
    asked
        What is asked of the run, by name, its length left out; JSON.

    Raises
    ------
    CheckpointError
        If the folder cannot be made, or holds another run: of another problem, or asked for something else.
    ValueError
        If `resume` is asked of a run without a checkpoint.
    """
    if checkpoint is None:
        if resume:
            raise ValueError("resume is True, but there is no checkpoint to go on with: give its path")
        return None
    path = Path(checkpoint)
    if not resume:
        check_absent(path)
    if not path.exists():
        check_room(path, 0)
        plan = {
            "kind": kind,
            "problem": problem.name,
            "problem_hash": problem.hash,
            "engine": problem.engine,
            "rtol": problem.rtol,
            "atol": problem.atol,
            "asked": _plain(asked),
            "environment": environment(),
        }
        return Saving(path, None, plan)
    found = Checkpoint(path, is_writable=True)
    try:
        _refuse_another(found, kind, problem, _plain(asked))
    except CheckpointError:
        found.close()
        raise
    if found.plan["state"] is None and not found.num_rows:  # chains that cannot go on, and have nothing yet
        found.close()
        shutil.rmtree(path)
        return opened(path, resume=False, kind=kind, problem=problem, asked=asked)
    return Saving(path, found, found.plan)


def _refuse_another(found: Checkpoint, kind: str, problem: Problem, asked: Mapping[str, object]) -> None:
    """Refuse a checkpoint that is another run's, and say where its surroundings were others."""
    plan, path = found.plan, found.path
    if plan["kind"] != kind:
        raise CheckpointError(f"{path} is the checkpoint of kinbayes.{plan['kind']}, not of kinbayes.{kind}")
    if plan["problem_hash"] != problem.hash:
        tolerances = f"rtol {plan['rtol']:g}, atol {plan['atol']:g}, engine {plan['engine']!r}"
        raise CheckpointError(
            f"{path} was begun with another problem: {plan['problem']!r} ({tolerances}), whose hash is "
            f"{plan['problem_hash'][:12]}, not {problem.hash[:12]}. Give that problem, with the same data, priors and "
            "tolerances, or another checkpoint"
        )
    for name, value in plan["asked"].items():
        if asked[name] != value:
            raise CheckpointError(
                f"{path} was begun with {name} {value!r}, not {asked[name]!r}: ask for the same, or give another "
                "checkpoint"
            )
    was, now = plan["environment"], environment()
    before = was["versions"]
    others = [f"{name} {before.get(name)}, now {v}" for name, v in now["versions"].items() if before.get(name) != v]
    if was["devices"] != now["devices"]:
        others.append(f"devices {was['devices']}, now {now['devices']}")
    if others:
        warnings.warn(
            f"{path} was begun in other surroundings ({'; '.join(others)}): draws stay draws of the same posterior, "
            "but are not bit for bit those of a run that was never interrupted",
            stacklevel=4,
        )


def _plain(value: object) -> object:
    """Return a value as JSON gives it back."""
    return json.loads(json.dumps(value, default=lambda number: number.item()))


class Saving:
    """Keep a run in its checkpoint: a `Trace` for the driver, which `update` commits between pieces.

    Parameters
    ----------
    path
        The folder.
    checkpoint
        The checkpoint there, if it is to be continued; None to make one as the run begins.
    plan
        What is run.
    """

    def __init__(self, path: Path, checkpoint: Checkpoint | None, plan: Mapping[str, object]) -> None:
        self.path = path
        self.plan = plan
        self._checkpoint = checkpoint
        self._data: Mapping[str, xr.Dataset] = {}
        self._result_size = 0
        self._last, self._pause = time.perf_counter(), PAUSE

    def prepare(self, said: Mapping[str, object], data: Mapping[str, xr.Dataset], result_size: int) -> None:
        """Tell what a new checkpoint is to say and hold, and how many bytes its result will take."""
        self.plan = {**self.plan, **_plain(said)}
        self._data, self._result_size = data, result_size

    @property
    def is_begun(self) -> bool:
        """Whether there is something to continue."""
        return self._checkpoint is not None

    @property
    def has_result(self) -> bool:
        """Whether the result of the run, as far as it has gone, is there."""
        return (self.path / "result").is_dir()

    # ---- the trace

    @property
    def length(self) -> int:
        """The number of iterations that are kept."""
        return 0 if self._checkpoint is None else self._checkpoint.num_rows

    def begin(self, shapes: PyTree, capacity: int, state: PyTree) -> None:
        """Make the checkpoint, or room in it."""
        if self._checkpoint is not None:
            self._checkpoint.discard_result()
            self._checkpoint.resize(capacity)
            return
        saved = _NO_STATE if state is None else leaves(state)
        self._checkpoint = create(
            self.path,
            {**self.plan, "state": None if state is None else saved.layout},
            {name: (leaf.shape[1:], np.dtype(leaf.dtype)) for name, leaf in _flat(shapes).items()},
            capacity=capacity,
            state=saved.data,
            record={**_COUNTS[self.plan["kind"]], "stopped": "", "diagnostics": []},
            data=self._data,
            result_size=self._result_size,
        )

    def write(self, rows: PyTree) -> None:
        """Keep the next iterations."""
        self._checkpoint.write(_flat(rows))

    def read(self, start: int, stop: int) -> Draws:
        """Return iterations, whose arrays are read when they are asked for."""
        found = {name: Stored(self._checkpoint, name, start, stop) for name in self._checkpoint.arrays}
        *fields, _ = Draws._fields
        return Draws(*(found.pop(name) for name in fields), found)

    # ---- commits

    def update(self, progress: SamplerProgress | OptimizerProgress) -> None:
        """Commit a run, unless that was done just now; the driver's `on_chunk`."""
        now = time.perf_counter()
        if now - self._last >= self._pause:
            self.commit(progress.run)
            self._last = time.perf_counter()
            self._pause = max(PAUSE, (self._last - now) / SHARE)

    def commit(self, run: SamplerRun | OptimizerRun) -> None:
        """Commit a run as it is."""
        record = {name: getattr(run, name) for name in (*_COUNTS[self.plan["kind"]], "stopped")}
        if isinstance(run, SamplerRun):
            record["diagnostics"] = run.diagnostics
        state = _NO_STATE if run.state is None else leaves(run.state)
        kept = _num_kept(run)
        if self.length > kept:  # Ctrl-C came between the draws and the state
            self._checkpoint.truncate(kept)
        self._checkpoint.commit(state.data, record)

    def close(self) -> None:
        """Let other processes continue it."""
        if self._checkpoint is not None:
            self._checkpoint.close()

    def writing_result(self) -> AbstractContextManager[Path]:
        """Give a folder for the groups of the result; see `Checkpoint.writing_result`."""
        return self._checkpoint.writing_result()

    # ---- what is continued

    def sampler_run(self, num_draws: int) -> SamplerRun:
        """Return the sampler's run as it was committed last.

        Parameters
        ----------
        num_draws
            How many draws it is to have.

        Raises
        ------
        CheckpointError
            If it has another number, and its chains cannot go on.
        """
        record, asked = self._checkpoint.record, self.plan["asked"]
        is_weighted = self.plan.get("said", {}).get("rung") == "importance"  # which has no warmup
        split = min(asked["warmup"], self.length) if asked["keep_warmup"] and not is_weighted else 0
        drawn = self.length - split
        if is_weighted and drawn < num_draws:
            raise CheckpointError(
                f"{self.path} has {drawn} of {num_draws} draws that were resampled by weight, all at once: no chain "
                "can go on with them. Give another checkpoint"
            )
        if self.plan["state"] is None and drawn < num_draws:
            raise CheckpointError(
                f"{self.path} has {drawn} of {num_draws} draws of nutpie's chains, which cannot go on bit for bit. "
                "Read them by kinbayes.load, and begin another run where they end by giving that to initial; or choose "
                "the backend 'numpyro', whose chains can go on"
            )
        if self.plan["state"] is None and drawn > num_draws:
            raise CheckpointError(
                f"{self.path} has {drawn} draws, more than the {num_draws} asked for: ask for as many"
            )
        return SamplerRun(
            **self.read(split, self.length)._asdict(),
            warmup=self.read(0, split) if split else None,
            state=self._state(),
            diagnostics=tuple(Diagnostics(*each) for each in record["diagnostics"]),
            stopped=record["stopped"],
            **{name: record[name] for name in _COUNTS["sample"]},
        )

    def optimizer_run(self) -> OptimizerRun:
        """Return the optimizer's run as it was committed last; where it is the driver reads from its state."""
        record, nothing = self._checkpoint.record, np.zeros(0)
        return OptimizerRun(
            **dict.fromkeys(("position", "loss", "converged", "finished", "members", "member_losses"), nothing),
            history=np.asarray(Stored(self._checkpoint, "loss", 0, self.length)),
            counts=np.asarray(Stored(self._checkpoint, "evaluations", 0, self.length)),
            state=self._state(),
            num_starts=self.plan["asked"]["starts"],
            stopped=record["stopped"],
            **{name: record[name] for name in _COUNTS["optimize"]},
        )

    def _state(self) -> Leaves | None:
        layout = self.plan["state"]
        if layout is None:
            return None
        return Leaves(tuple((name, kind, tuple(shape)) for name, kind, shape in layout), self._checkpoint.state)


def _num_kept(run: SamplerRun | OptimizerRun) -> int:
    if isinstance(run, OptimizerRun):
        return len(run.history)
    return run.position.shape[1] + (0 if run.warmup is None else run.warmup.position.shape[1])


def _flat(rows: PyTree) -> dict[str, object]:
    """Return the arrays of a piece by name."""
    if isinstance(rows, Draws):
        *fields, info = rows._asdict().items()
        return {**dict(fields), **info[1]}
    return dict(rows)
