"""The trials of a search as Optuna's studies in a file, for its dashboard and its plots."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import optuna
from jaxtyping import Float
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from kinbayes.optimizers.base import Bounds
from kinbayes.optimizers.trials import distributions, quiet
from kinbayes.results.disk import uninterrupted
from kinbayes.run.loop.runs import OptimizerProgress


class Study:
    """Write the trials of a search into a journal of Optuna: `optuna-dashboard FILE` shows them while it runs.

    Every start is a study, "NAME start 0" and so on, and its trials have the numbers that they have in the
    optimizer's state. Parameters are scaled values; those that failed are trials in the state FAIL.

    The state is what counts, and the file a copy of it: what is missing there is appended, and a file that says
    anything else (the rest of another run, or of a piece of this one whose state was lost) is written anew.

    Parameters
    ----------
    path
        The file. No other process may be writing to it.
    problem_name
        Name of the problem.
    parameter_names
        Names of the parameters.
    lower, upper
        Walls of the search, (dim,) or (starts, dim). Optuna has no open sides: there it is told of a power of two that
        no trial has reached.
    """

    def __init__(
        self,
        path: str | Path,
        problem_name: str,
        parameter_names: Sequence[str],
        lower: Float[np.ndarray, "*starts dim"],
        upper: Float[np.ndarray, "*starts dim"],
    ) -> None:
        self.path = Path(path)
        self.problem_name = problem_name
        self.parameter_names = list(parameter_names)
        self._bounds = Bounds(np.asarray(lower, float), np.asarray(upper, float))
        self._journal: _Journal | None = None
        self._studies: list[optuna.Study] = []
        self._spaces: list[dict[str, optuna.distributions.FloatDistribution]] = []
        self._counts: list[int] = []

    def update(self, progress: OptimizerProgress) -> None:
        """Write the trials that there are by now; the driver's `on_chunk`."""
        state = progress.run.state
        counts = [int(n) for n in np.asarray(state.num_trials)]
        positions = [rows[:n] for rows, n in zip(np.asarray(state.positions), counts, strict=True)]
        losses = [rows[:n] for rows, n in zip(np.asarray(state.losses), counts, strict=True)]
        spaces = [self._space(k, rows) for k, rows in enumerate(positions)]
        with quiet(), uninterrupted():
            if self._journal is None:
                self._open(spaces, positions, losses)
            is_shorter = any(n < written for n, written in zip(counts, self._counts, strict=False))
            if len(self._counts) != len(counts) or spaces != self._spaces or is_shorter:
                self._begin(spaces)
            for k, study in enumerate(self._studies):
                first = self._counts[k]
                study.add_trials(_trials(spaces[k], positions[k][first:], losses[k][first:]))
            self._counts = counts
            self._journal.flush()

    def _open(self, spaces: list[dict], positions: list[np.ndarray], losses: list[np.ndarray]) -> None:
        """Go on with the file that is there, if all it says is so."""
        journal, studies = _read(self.path)
        names = [self._name(k) for k in range(len(spaces))]
        if [study.study_name for study in studies] != names:
            return
        self._journal, self._studies, self._spaces = journal, studies, spaces
        self._counts = [len(study.get_trials(deepcopy=False)) for study in studies]
        for k, study in enumerate(studies):
            written = study.get_trials(deepcopy=False)
            expected = _trials(spaces[k], positions[k][: len(written)], losses[k][: len(written)])
            if [_said(trial) for trial in written] != [_said(trial) for trial in expected]:
                self._counts = []

    def _begin(self, spaces: list[dict]) -> None:
        """Begin a new file, which takes the old one's place when it is written."""
        self._journal = _Journal(self.path, is_new=True)
        storage = JournalStorage(self._journal)
        self._studies = [optuna.create_study(storage=storage, study_name=self._name(k)) for k in range(len(spaces))]
        self._spaces, self._counts = spaces, [0] * len(spaces)

    def _name(self, start: int) -> str:
        return f"{self.problem_name} start {start}"

    def _space(self, start: int, positions: np.ndarray) -> dict[str, optuna.distributions.FloatDistribution]:
        """Return Optuna's description of the parameters, in finite ranges."""
        walls = (wall if wall.ndim == 1 else wall[start] for wall in self._bounds)
        reach = 2.0 ** (np.floor(np.log2(np.abs(positions).max(axis=0, initial=1.0))) + 1.0)
        lower, upper = (np.where(np.isfinite(wall), wall, np.sign(wall) * reach) for wall in walls)
        return distributions(self.parameter_names, Bounds(lower, upper))


class _Journal(BaseJournalBackend):
    """A journal's file to which is written only by `flush`: one wait for the disk, not one a trial.

    A new one appears in its place as a whole, with the first `flush`.
    """

    def __init__(self, path: Path, *, is_new: bool) -> None:
        self._path = path
        self._file = None if is_new else _file(path)
        self._num_written = 0 if is_new else sum(1 for _ in self._file.read_logs(0))
        self._pending: list[dict] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict]:
        if log_number_from < self._num_written:
            yield from self._file.read_logs(log_number_from)
        yield from self._pending[max(log_number_from - self._num_written, 0) :]

    def append_logs(self, logs: list[dict]) -> None:
        self._pending.extend(logs)

    def flush(self) -> None:
        """Write what was appended."""
        if self._file is None:
            draft = self._path.with_name(self._path.name + ".new")
            draft.unlink(missing_ok=True)
            _file(draft).append_logs(self._pending)
            os.replace(draft, self._path)
            self._file = _file(self._path)
        elif self._pending:
            self._file.append_logs(self._pending)
        self._num_written += len(self._pending)
        self._pending = []


def _file(path: Path) -> JournalFileBackend:
    # The lock of a process that was killed is in the way for so many seconds.
    return JournalFileBackend(str(path), JournalFileOpenLock(str(path), grace_period=3))


def _read(path: Path) -> tuple[_Journal | None, list[optuna.Study]]:
    """Return a journal and its studies, in the order of their making; none if the file is not one, or torn."""
    if not path.exists() or not path.read_bytes().endswith(b"\n"):
        return None, []
    try:
        journal = _Journal(path, is_new=False)
        storage = JournalStorage(journal)
    except (ValueError, TypeError, LookupError, AssertionError):  # what Optuna raises on anything else
        return None, []
    found = sorted(storage.get_all_studies(), key=lambda study: study._study_id)
    return journal, [optuna.load_study(study_name=study.study_name, storage=storage) for study in found]


def _trials(space: dict, positions: np.ndarray, losses: np.ndarray) -> list[FrozenTrial]:
    return [
        create_trial(
            params=dict(zip(space, position, strict=True)),
            distributions=space,
            state=TrialState.FAIL if loss == np.inf else TrialState.COMPLETE,
            value=None if loss == np.inf else loss,
        )
        for position, loss in zip(positions.tolist(), losses.tolist(), strict=True)
    ]


def _said(trial: FrozenTrial) -> tuple:
    return trial.params, trial.distributions, trial.state, trial.value
