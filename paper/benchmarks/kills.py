"""Kill runs at random moments, thirty times for each algorithm, and go on with them; fill their disk.

A run is begun in a process of its own, killed (SIGKILL), continued, killed again, five times, and brought to its end:
its result must be that of a run that was left alone, to the last bit. After every kill the checkpoint must be readable.
The first kill is among the first files, two come at random times of the run, one in the middle of a random one of the
files that it writes (half of the file is there, and not yet in its place), and one in the middle of a file of the
result. nutpie's chains cannot go on: of these the draws that are kept must be those of a run that was left alone, and
going on must be refused with the way out.

For the full disk a file system of a few MiB is mounted (which takes root) and filled by another file in the middle of a
run; once there is room again the run goes on.

python paper/benchmarks/kills.py
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from arviz import InferenceData
from collection import arguments

import kinbayes as kb
from kinbayes.results.checkpoint import CheckpointError
from kinbayes.results.store import StoreError
from kinbayes.run import posterior_result, saving

RUNS = 7  # of each algorithm: some kills come when all is done
KINDS = ("first", "time", "write", "time", "result")  # of the kills of each run
LENGTHS = {
    "random_walk": {"draws": 3000, "warmup": 300},
    "parallel_tempering": {"draws": 1000, "warmup": 300},
    "nuts": {"draws": 1500, "warmup": 300, "settings": {"backend": "numpyro"}},
    "nutpie": {"draws": 20_000, "warmup": 300, "settings": {"backend": "nutpie"}},
    "quasi_newton": {"starts": 200, "max_evaluations": 100_000},
}
SMALL = 24  # MiB of the disk that is filled


def run(algorithm: str, path: Path) -> InferenceData:
    """Run an algorithm, or go on with it."""
    problem = kb.read_petab(kb.example("lynx_hare" if algorithm == "quasi_newton" else "conversion_reaction"))
    saved = {"checkpoint": path, "resume": True, "progress": False}
    if algorithm == "quasi_newton":
        return kb.optimize(problem, "quasi_newton", **LENGTHS[algorithm], **saved)
    sampler = "nuts" if algorithm == "nutpie" else algorithm
    return kb.sample(problem, sampler, chains=2, **LENGTHS[algorithm], **saved)


# ---- the process that is killed


def killed(algorithm: str, path: Path, kind: str, moment: float) -> None:
    """Run an algorithm and end this process: so many seconds after the first piece, or within a certain file."""
    saving.PAUSE, saving.SHARE = 0.0, np.inf  # a commit after every piece: as many moments as there can be
    posterior_result.AT_ONCE = 8000  # and as many files of the result
    if kind == "time":
        _kill_by_clock(moment)
    elif kind != "never":
        _kill_in_file(int(moment), after="result" if kind == "result" else "")
    print(_written(run(algorithm, path), path), flush=True)


def _kill_by_clock(seconds: float) -> None:
    update = saving.Saving.update

    def beginning(self, progress):
        saving.Saving.update = update
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
        return update(self, progress)

    saving.Saving.update = beginning


def _kill_in_file(number: int, after: str) -> None:
    import zarr.storage._local as local

    put, count = local._put, [0]

    def counting(path, value, exclusive=False):
        if after in str(path):
            count[0] += 1
            if count[0] == number:
                half = bytes(value.as_buffer_like())[: len(value) // 2]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_suffix(".half.partial").write_bytes(half)
                os.kill(os.getpid(), signal.SIGKILL)
        return put(path, value, exclusive=exclusive)

    local._put = counting


def _written(idata: InferenceData, path: Path) -> int:
    return sum(1 for file in path.rglob("*") if file.is_file())


def process(algorithm: str, path: Path, kind: str, moment: float) -> tuple[int, str]:
    """Return how a process ended, and what it printed."""
    command = [sys.executable, __file__, "--process", algorithm, str(path), kind, str(moment)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return found.returncode, found.stdout + found.stderr


# ---- what is looked at


def same(found: InferenceData, expected: InferenceData, draws: int | None = None) -> bool:
    """Return whether two results are the same to the last bit, times and surroundings left out."""
    groups = expected.groups() if draws is None else ["sample_stats"]
    return set(groups) <= set(found.groups()) and all(
        np.array_equal(
            found[group][name].values,
            values.values if draws is None else values.values[:, :draws],
            equal_nan=values.dtype.kind == "f",
        )
        for group in groups
        for name, values in expected[group].data_vars.items()
    )


def readable(path: Path) -> str:
    """Return what a checkpoint can tell; anything but an error that was not meant to be."""
    if not path.exists():
        return "not begun"
    try:
        found = kb.load(path)
    except StoreError as error:
        return "no draws yet" if "no draws yet" in str(error) or "a search has no result" in str(error) else repr(error)
    return f"{found.posterior.sizes['draw']} draws" if "posterior" in found.groups() else "result"


def kills(algorithm: str, folder: Path, rng: np.random.Generator, num_runs: int) -> Iterator[dict[str, object]]:
    """Kill runs of an algorithm; give a row for each kill, and whether its run ended as one that was left alone."""
    alone = folder / "alone.zarr"
    code, output = process(algorithm, alone, "never", 0)
    if code:
        raise RuntimeError(output)
    files, expected = int(output.split()[-1]), kb.load(alone)
    seconds = expected.attrs.get("seconds_draws", 0.15)  # about what a search takes
    for k in range(num_runs):
        path, rows = folder / f"{k}.zarr", []
        for kind in KINDS:
            most = {"first": 30, "time": 0.7 * seconds, "write": files, "result": 60}[kind]
            moment = rng.uniform(0, most) if kind == "time" else rng.integers(1, most)
            code, output = process(algorithm, path, kind, moment)
            if code not in (0, -signal.SIGKILL):
                is_refused = "cannot go on bit for bit" in output
                rows.append({"kind": kind, "killed": False, "found": "refused" if is_refused else output[-300:]})
                break
            # A run that has ended before its moment is no kill.
            rows.append({"kind": kind, "killed": code != 0, "found": readable(path)})
            shutil.rmtree(path / "result", ignore_errors=True)  # so that there is more to do
        if algorithm == "nutpie":
            kept = kb.load(path)
            is_same = same(kept, expected, kept.posterior.sizes["draw"])
        else:
            code, output = process(algorithm, path, "never", 0)
            is_same = code == 0 and same(kb.load(path), expected)
        yield from ({"algorithm": algorithm, "run": k, **row, "same": is_same} for row in rows)
        shutil.rmtree(path)


# ---- a full disk


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a small file system."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def full_disk(folder: Path) -> dict[str, object]:
    """Fill the disk of a run in its middle; return what it said, what was left, and how it went on."""
    problem = kb.read_petab(kb.example("conversion_reaction"))
    asked = {"draws": 10_000, "warmup": 300, "chains": 2, "thin": 1, "progress": False}
    expected = kb.sample(problem, "random_walk", **asked)
    saving.PAUSE, saving.SHARE = 0.0, np.inf
    with small_disk(folder) as disk:
        path, ballast, update = disk / "run.zarr", disk / "ballast", saving.Saving.update

        def filling(self, progress):
            if progress.phase == "draws" and progress.done > 5000 and not ballast.exists():
                with ballast.open("wb") as file:
                    free = shutil.disk_usage(disk).free
                    file.write(b"\0" * (free - free % 4096))
            return update(self, progress)

        saving.Saving.update = filling
        said = "nothing"
        try:
            kb.sample(problem, "random_walk", checkpoint=path, **asked)
        except CheckpointError as error:
            said = str(error)
        left = kb.load(path)
        drawn = left.posterior.sizes["draw"]
        is_same = same(left, expected, drawn)
        ballast.unlink()
        saving.Saving.update = update
        found = kb.sample(problem, "random_walk", checkpoint=path, resume=True, **asked)
        return {"said": said, "draws": drawn, "readable": is_same, "same": same(found, expected)}


def main() -> None:
    """Write kills.csv and tell of the disk."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", default=list(LENGTHS), choices=list(LENGTHS))
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for algorithm in given.only:
            own = Path(folder) / algorithm
            own.mkdir()
            for row in kills(algorithm, own, rng, 1 if given.quick else RUNS):
                print(row, flush=True)
                rows.append(row)
        disk = full_disk(Path(folder) / "disk") if os.geteuid() == 0 else "not tried: it takes root to mount one"
    found, table = pd.DataFrame(rows), given.out / "kills.csv"
    if table.exists():  # of algorithms that were not asked for
        kept = pd.read_csv(table)
        found = pd.concat([kept[~kept.algorithm.isin(given.only)], found])
    found.to_csv(table, index=False)
    print(found.groupby("algorithm")[["killed", "same"]].agg(["sum", "size"]).to_string())
    print("full disk:", disk)


if __name__ == "__main__":
    if "--process" in sys.argv:
        name, folder, how, when = sys.argv[2:]
        killed(name, Path(folder), how, float(when))
    else:
        main()
