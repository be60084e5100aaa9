"""An archive gives back what it was given, whatever ends the process that writes it."""

import json

import numpy as np
import pandas as pd
import pytest

import kinbayes as kb
from kinbayes.amortized import archive as module
from kinbayes.amortized.archive import Archive, ArchiveError, Rows, open_archive, read_archive
from kinbayes.ode.status import Status

RUN = {"kind": "optimize", "algorithm": "simplex", "settings": {"size": np.float64(0.5)}, "seed": 3, "kept": "all"}


@pytest.fixture(scope="module")
def problem():
    return kb.read_petab(kb.example("conversion_reaction"))


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST_ROWS", 7)  # several files
    return tmp_path / "points.zarr"


def rows_of(problem, num, *, seed=0, run=0):
    rng = np.random.default_rng(seed)
    status = rng.integers(0, 3, num).astype(np.int8)
    return Rows(
        rng.uniform(problem.lower, problem.upper, (num, problem.dim)),
        np.where(status == 0, rng.normal(size=num), -np.inf),
        rng.normal(size=num),
        np.where(rng.random(num) < 0.5, np.nan, 1.0),
        status,
        np.full(num, run, np.int32),
        np.arange(num, dtype=np.int32) % 4,
        np.arange(num, dtype=np.int32),
    )


def joined(*parts):
    return Rows(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def assert_same(found, expected):
    for name, values in expected._asdict().items():
        np.testing.assert_array_equal(getattr(found, name), values, err_msg=name)
        assert getattr(found, name).dtype == values.dtype


def test_rows_come_back_bit_for_bit(problem, path):
    parts = [rows_of(problem, num, seed=num) for num in (5, 1, 0, 20, 7)]
    with open_archive(path, problem) as kept:
        assert kept.begin_run(**RUN) == 0
        assert [kept.append(part) for part in parts] == [5, 1, 0, 20, 7]
        assert_same(kept.read(), joined(*parts))
    found = read_archive(path)
    assert len(found) == 33
    assert_same(found.read(), joined(*parts))
    assert_same(found.read(4, 9), Rows(*(values[4:9] for values in joined(*parts))))
    assert len(found.read(9, 4).u) == 0


def test_another_run_goes_on_behind_the_first(problem, path):
    for k in range(2):
        with open_archive(path, problem) as kept:
            assert kept.begin_run(**RUN | {"seed": k}) == k
            kept.append(rows_of(problem, 5, seed=k, run=k))
    found = read_archive(path)
    assert_same(found.read(), joined(*(rows_of(problem, 5, seed=k, run=k) for k in range(2))))
    assert [run.seed for run in found.runs] == [0, 1]
    assert found.runs[0].settings == {"size": 0.5}
    assert type(found.runs[0].settings["size"]) is float


def test_it_says_of_which_problem_it_is(problem, path):
    open_archive(path, problem).close()
    found = read_archive(path)
    assert (found.problem_name, found.problem_hash) == (problem.name, problem.hash)
    assert (found.parameter_names, found.scale) == (problem.parameter_names, problem.scale)
    np.testing.assert_array_equal(found.lower, problem.lower)
    np.testing.assert_array_equal(found.upper, problem.upper)
    assert found.version == kb.__version__
    json.loads((path / "zarr.json").read_text(), parse_constant=pytest.fail)  # open bounds are JSON too


def test_open_bounds_stay_open(problem, path):
    parameters = [kb.Parameter(name, prior=kb.Normal(5.0, 1.0)) for name in ("A_0", "B_0")]
    data = pd.DataFrame({"observableId": ["A_measured", "B_measured"], "time": [0.0, 0.0], "measurement": [7.0, 2.0]})
    free = kb.Problem(problem.model, parameters, problem.observables, data)
    with open_archive(path, free) as kept:
        assert (kept.lower == -np.inf).all()
        assert (kept.upper == np.inf).all()
    json.loads((path / "zarr.json").read_text(), parse_constant=pytest.fail)


def test_points_outside_the_bounds_are_not_kept_and_failures_are(problem, path):
    rows = rows_of(problem, 6)
    rows.u[1, 0] = np.nan
    rows.u[3] = np.asarray(problem.upper) + 1e-9
    rows.u[4] = problem.upper
    rows.status[[0, 5]] = Status.MAX_STEPS
    with open_archive(path, problem) as kept:
        kept.begin_run(**RUN)
        assert kept.append(rows) == 4
        found = kept.read()
    assert_same(found, Rows(*(values[[0, 2, 4, 5]] for values in rows)))
    assert np.isinf(found.loss[[0, 3]]).all()


def test_the_loss_is_infinite_where_there_is_no_density(problem):
    rows = rows_of(problem, 5)._replace(
        log_likelihood=np.array([-1.0, np.nan, -np.inf, np.inf, -2.0]),
        log_prior=np.array([-0.5, 0.0, 0.0, -np.inf, 0.0]),
        status=np.array([0, 0, 0, 0, 1], np.int8),
    )
    np.testing.assert_array_equal(rows.loss, [1.5, np.inf, np.inf, np.inf, np.inf])


@pytest.mark.parametrize("written", ["all", "some"])
def test_rows_that_were_not_committed_do_not_count(problem, path, monkeypatch, written):
    first, lost, after = (rows_of(problem, num, seed=num) for num in (10, 9, 6))
    kept = open_archive(path, problem)
    kept.begin_run(**RUN)
    kept.append(first)
    calls = []

    def dies(*args):
        calls.append(args)
        if written == "all" or len(calls) == 4:
            raise SystemExit("killed")

    with monkeypatch.context() as patched:
        patched.setattr(*((Archive, "_tell") if written == "all" else (module, "sync")), dies)
        with pytest.raises(SystemExit):
            kept.append(lost)
    assert_same(read_archive(path).read(), first)
    kept.close()
    with open_archive(path, problem) as again:
        again.append(after)
    assert_same(read_archive(path).read(), joined(first, after))


def test_a_full_disk_is_told_and_loses_nothing(problem, path, monkeypatch):
    with open_archive(path, problem) as kept:
        kept.begin_run(**RUN)
        kept.append(rows_of(problem, 10))

        def full(*args):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(module, "sync", full)
            with pytest.raises(ArchiveError, match=r"No space left on device\. Its 10 points are safe"):
                kept.append(rows_of(problem, 5))
        kept.append(rows_of(problem, 3, seed=1))
        assert_same(kept.read(), joined(rows_of(problem, 10), rows_of(problem, 3, seed=1)))


def test_a_reader_sees_what_was_committed_when_it_came(problem, path):
    with open_archive(path, problem) as kept:
        kept.begin_run(**RUN)
        kept.append(rows_of(problem, 5))
        reader = read_archive(path)
        kept.append(rows_of(problem, 5, seed=1))
        assert_same(reader.read(), rows_of(problem, 5))
        assert len(read_archive(path)) == 10
        with pytest.raises(ArchiveError, match="open for reading alone"):
            reader.append(rows_of(problem, 1))


def test_another_problem_is_refused(problem, path):
    open_archive(path, problem).close()
    other = problem.with_tolerances(1e-5, 1e-8)
    with pytest.raises(
        ArchiveError, match=f"another problem: '{problem.name}', whose hash is {problem.hash[:12]}, not"
    ):
        open_archive(path, other)
    open_archive(path, problem).close()  # the refusal has let go of it


def test_a_second_writer_is_refused(problem, path):
    with open_archive(path, problem), pytest.raises(ArchiveError, match="another run is writing"):
        open_archive(path, problem)
    open_archive(path, problem).close()


def test_what_is_no_archive_is_refused(problem, tmp_path):
    with pytest.raises(ArchiveError, match="there is no archive"):
        read_archive(tmp_path / "points.zarr")
    with pytest.raises(ArchiveError, match="there is no archive"):
        open_archive(tmp_path / "points.zarr", problem, create=False)
    with pytest.raises(ArchiveError, match="is no archive of kinbayes: give another folder"):
        open_archive(tmp_path, problem)
    with pytest.raises(ArchiveError, match="is no folder that may be written"):
        open_archive(tmp_path / "nowhere" / "points.zarr", problem)


def test_rows_must_fit(problem, path):
    with open_archive(path, problem) as kept:
        with pytest.raises(ValueError, match=r"rows of runs \[0\], but only 0 runs were begun"):
            kept.append(rows_of(problem, 3))
        kept.begin_run(**RUN)
        rows = rows_of(problem, 3)
        with pytest.raises(ValueError, match=r"vectors of \(1,\) entries, the archive's have 2"):
            kept.append(rows._replace(u=rows.u[:, :1]))
        with pytest.raises(ValueError, match="unknown kind 'profile' of a run; choose from"):
            kept.begin_run(**RUN | {"kind": "profile"})


def test_the_summary_counts(problem, path):
    with open_archive(path, problem) as kept:
        assert kept.summary().empty
        for k, algorithm in enumerate(("simplex", "dream", "simplex")):
            kept.begin_run(**RUN | {"algorithm": algorithm, "kind": "sample" if algorithm == "dream" else "optimize"})
            kept.append(rows_of(problem, 10, seed=k, run=k))
        table, rows = kept.summary(), kept.read()
        assert repr(kept) == f"Archive({str(path)!r}: 30 points of 3 runs on {problem.name!r})"
    assert list(table.index) == [("optimize", "simplex"), ("sample", "dream")]
    assert table["all"].tolist() == [20, 10]
    assert table.loc[("sample", "dream"), "max_steps"] == (rows.status[10:20] == Status.MAX_STEPS).sum()
    assert table["ok"].sum() == (rows.status == 0).sum()
