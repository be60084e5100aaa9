"""A checkpoint must be whole at any moment: these tests stop it at every one."""

import errno
import os
import shutil
import signal

import numpy as np
import pytest
import xarray as xr
import zarr

from kinbayes.results import checkpoint as module
from kinbayes.results.checkpoint import Checkpoint, CheckpointError, Stored, create

ARRAYS = {"position": ((2, 3), np.dtype(float)), "n_steps": ((2,), np.dtype(int))}
DATA = {"observed_data": xr.Dataset({"y": ("row", [1.0, 2.0]), "name": ("row", ["a", "bb"])})}
ROWS = {"position": np.arange(300.0).reshape(50, 2, 3), "n_steps": np.arange(100).reshape(50, 2)}
FIRST, SECOND = b"\x01" * 40, b"\x02" * 40


def made(path, *, capacity=60, result_size=0):
    lengths = {"capacity": capacity, "state": FIRST, "record": {"iterations": 0}, "result_size": result_size}
    return create(path, {"kind": "sample"}, ARRAYS, data=DATA, **lengths)


def rows(start, stop):
    return {name: values[start:stop] for name, values in ROWS.items()}


def assert_rows(found, stop):
    for name, values in ROWS.items():
        np.testing.assert_array_equal(Stored(found, name, 0, stop), np.moveaxis(values[:stop], 0, 1))


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(module, "_MOST_ROWS", 7)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.zarr"


@pytest.mark.parametrize("length", [1, 5, 7, 20, 50])
def test_rows_come_back_however_they_are_cut(path, length):
    checkpoint = made(path)
    for start in range(0, 50, length):
        checkpoint.write(rows(start, start + length))
        if start % 3 == 0:
            checkpoint.commit(SECOND, {"iterations": start})
        if start % 4 == 0:  # another process goes on
            checkpoint.commit(SECOND, {"iterations": start})
            checkpoint.close()
            checkpoint = Checkpoint(path, is_writable=True)
    checkpoint.commit(SECOND, {"iterations": 50})
    found = Checkpoint(path, is_writable=False)
    assert found.num_rows == 50
    assert found.state == SECOND
    assert found.record["iterations"] == 50
    assert_rows(found, 50)
    np.testing.assert_array_equal(
        Stored(found, "position", 10, 40)[:, 2:20:3], np.moveaxis(ROWS["position"][12:30:3], 0, 1)
    )
    assert Stored(found, "position", 10, 40).shape == (2, 30, 3)
    np.testing.assert_array_equal(Stored(found, "n_steps", 0, 50)[1], ROWS["n_steps"][:, 1])


def test_what_is_not_committed_does_not_count(path):
    checkpoint = made(path)
    checkpoint.write(rows(0, 10))
    checkpoint.commit(SECOND, {"iterations": 10})
    checkpoint.write(rows(10, 33))
    checkpoint.flush()
    checkpoint.close()
    found = Checkpoint(path, is_writable=True)
    assert found.num_rows == 10
    found.write(rows(10, 50))
    found.commit(FIRST, {"iterations": 50})
    assert_rows(found, 50)
    assert found.state == FIRST


def commit_in_tens(checkpoint):
    for start in range(checkpoint.num_rows, 50, 10):
        checkpoint.write(rows(start, start + 10))
        checkpoint.commit(FIRST if start % 20 else SECOND, {"iterations": start + 10})


@pytest.mark.parametrize("fails", range(12))
def test_any_write_that_fails_leaves_the_last_commit(path, fails, monkeypatch):
    checkpoint = made(path)
    checkpoint.write(rows(0, 10))
    checkpoint.commit(SECOND, {"iterations": 10})
    calls = []
    put = zarr.storage._local._put

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) > fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return put(*args, **kwargs)

    monkeypatch.setattr(zarr.storage._local, "_put", failing)
    with pytest.raises(CheckpointError, match=r"No space left on device.*rows, is safe there.*resume=True"):
        commit_in_tens(checkpoint)
    monkeypatch.undo()
    found = Checkpoint(path, is_writable=False)
    assert found.num_rows == found.record["iterations"]
    assert found.state == (SECOND if found.num_rows % 20 else FIRST)
    assert_rows(found, found.num_rows)


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_rows_are_read_before_they_are_written(path, step):
    checkpoint, whole = made(path), np.moveaxis(ROWS["position"], 0, 1)
    for start in range(50):
        checkpoint.write(rows(start, start + 1))
        for first in (0, min(5, start), start):
            found = Stored(checkpoint, "position", first, start + 1)[:, ::step]
            np.testing.assert_array_equal(found, whole[:, first : start + 1 : step])
    assert Checkpoint(path, is_writable=False).num_rows == 0


def test_forgotten_rows_are_written_anew(path):
    checkpoint = made(path)
    checkpoint.write(rows(0, 30))
    checkpoint.truncate(17)
    checkpoint.write(rows(17, 50))
    checkpoint.commit(SECOND, {})
    assert_rows(Checkpoint(path, is_writable=False), 50)


def test_there_is_room_for_more_once_it_is_made(path):
    checkpoint = made(path, capacity=20)
    checkpoint.write(rows(0, 20))
    checkpoint.commit(SECOND, {})
    checkpoint.resize(50)
    checkpoint.write(rows(20, 50))
    checkpoint.commit(SECOND, {})
    checkpoint.resize(5)
    assert checkpoint.capacity == 50
    assert_rows(checkpoint, 50)


def test_one_process_writes(path):
    checkpoint = made(path)
    with pytest.raises(CheckpointError, match="another process is writing"):
        Checkpoint(path, is_writable=True)
    Checkpoint(path, is_writable=False)
    checkpoint.close()
    Checkpoint(path, is_writable=True).close()


def test_what_is_there_is_not_written_over(path):
    made(path).close()
    with pytest.raises(CheckpointError, match=r"run\.zarr exists: go on with it by resume=True, or give another name"):
        made(path)
    assert [p.name for p in path.parent.iterdir()] == ["run.zarr"]


def test_a_folder_that_will_not_do_is_refused(path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"will take 10\d\d\d\d\d\d MB, and its disk has \d+ MB free"):
        made(path, result_size=10**13)
    with pytest.raises(CheckpointError, match="absent is no folder that may be written"):
        made(path.parent / "absent" / "run.zarr")
    monkeypatch.setattr(module.os, "access", lambda folder, mode: False)
    with pytest.raises(CheckpointError, match="no folder that may be written"):
        made(path)
    assert not list(path.parent.iterdir())


def test_one_that_may_not_be_written_cannot_go_on(path, monkeypatch):
    made(path).close()
    monkeypatch.setattr(module.os, "access", lambda folder, mode: False)
    with pytest.raises(CheckpointError, match="may not be written, so it cannot go on"):
        Checkpoint(path, is_writable=True)
    Checkpoint(path, is_writable=False)


def test_what_is_no_checkpoint_is_refused(path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        Checkpoint(path, is_writable=True)
    path.mkdir()
    with pytest.raises(CheckpointError, match="is no checkpoint of kinbayes"):
        Checkpoint(path, is_writable=True)
    shutil.rmtree(path)
    checkpoint = made(path)
    checkpoint.close()
    root = zarr.open_group(path, mode="r+")
    root.attrs.put({**root.attrs.asdict(), "plan": {**checkpoint.plan, "layout": 2}})
    with pytest.raises(CheckpointError, match="has layout 2, this kinbayes knows 1; update it"):
        Checkpoint(path, is_writable=True)


def test_ctrl_c_waits_for_the_end_of_a_commit(path, monkeypatch):
    checkpoint = made(path)
    checkpoint.write(rows(0, 10))
    sync = module.sync

    def pressed(file):
        signal.raise_signal(signal.SIGINT)
        sync(file)

    monkeypatch.setattr(module, "sync", pressed)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            checkpoint.flush()
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    checkpoint.commit(SECOND, {"iterations": 10})
    assert_rows(Checkpoint(path, is_writable=False), 10)


def killed(*args):
    raise SystemExit


def test_after_ctrl_c_in_a_commit_the_next_one_leaves_its_state_alone(path, monkeypatch):
    checkpoint = made(path)
    checkpoint.write(rows(0, 10))
    sync = module.sync

    def pressed(file):
        sync(file)
        if file.name == "zarr.json":
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "sync", pressed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.commit(SECOND, {"iterations": 10})
    monkeypatch.setattr(module, "sync", sync)
    checkpoint.write(rows(10, 20))
    monkeypatch.setattr(type(checkpoint._root.attrs), "update", killed)  # after the state is written
    with pytest.raises(SystemExit):
        checkpoint.commit(FIRST, {"iterations": 20})
    monkeypatch.undo()
    found = Checkpoint(path, is_writable=False)
    assert (found.num_rows, found.state) == (10, SECOND)


def interrupted_in(folder):
    (folder / "posterior").mkdir()
    raise KeyboardInterrupt


def test_a_result_is_there_whole_or_not_at_all(path):
    checkpoint = made(path)
    with pytest.raises(KeyboardInterrupt), checkpoint.writing_result() as folder:
        interrupted_in(folder)
    assert sorted(p.name for p in path.iterdir()) == ["data", "iterations", "state", "zarr.json"]
    (path / "result.0.part").mkdir()  # of a process that was killed
    with checkpoint.writing_result() as folder:
        (folder / "posterior").mkdir()
    assert sorted(p.name for p in path.iterdir()) == ["data", "iterations", "result", "state", "zarr.json"]
    checkpoint.discard_result()
    assert not (path / "result").exists()
