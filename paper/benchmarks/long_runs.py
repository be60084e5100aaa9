"""A run of a million draws: what its checkpoint costs, and whether its memory grows.

The conversion reaction is sampled with and without a checkpoint, in turn, in one process a run. Every fifth of a second
a thread notes how much memory the process has and how far the run is. The cost is the time of the draws with a
checkpoint, commits and judging included, over the time without, of each pair; and the same of the whole call, with its
result. With one step a draw, and with the sampler's default of ten.

python paper/benchmarks/long_runs.py
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
from collection import arguments

import kinbayes as kb
from kinbayes.run.loop import driver

CHAINS, DRAWS, WARMUP = 4, 250_000, 1000  # draws of each chain
PAIRS = 3
SAMPLER = "adaptive_metropolis"


def memory() -> float:
    """Return the memory of this process, MiB."""
    with Path("/proc/self/status").open() as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))


def run(folder: str, thin: int, draws: int) -> dict[str, float]:
    """Return times of a run, s, and its memory, MiB: at the first and the last tenth of the draws, and at the end."""
    problem = kb.read_petab(kb.example("conversion_reaction"))
    seen, drawn, times, over = [], [0], [], threading.Event()
    judged = driver.judged

    def watched(run, growth):  # after every chunk
        drawn[0] = run.position.shape[1]
        times.append(time.perf_counter())
        return judged(run, growth)

    def watch():
        while not over.wait(0.2):
            seen.append((drawn[0], memory()))

    driver.judged = watched
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.perf_counter()
    path = Path(folder) / "run.zarr" if folder else None
    lengths = {"draws": draws, "warmup": WARMUP, "chains": CHAINS, "thin": thin}
    kb.sample(problem, SAMPLER, checkpoint=path, progress=False, **lengths)
    seconds = time.perf_counter() - began
    over.set()
    at = np.array(seen)
    parts = {name: at[(low * draws <= at[:, 0]) & (at[:, 0] < high * draws), 1] for name, low, high in _PARTS}
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path else 0
    return {
        "seconds_draws": times[-1] - times[0],
        "seconds": seconds,
        **{name: float(np.median(values)) if len(values) else np.nan for name, values in parts.items()},
        "memory_most": float(at[:, 1].max()),
        "memory_draws_most": float(at[at[:, 0] < 0.99 * draws, 1].max()),
        "size": size / 2**20,
    }


_PARTS = (("memory_first", 0.02, 0.12), ("memory_last", 0.88, 0.98))


def main() -> None:
    """Write long_runs.csv."""
    given = arguments(__doc__).parse_args()
    rows = []
    draws = DRAWS // 20 if given.quick else DRAWS
    for thin in (1, 10):
        for pair in range(1 if given.quick else PAIRS):
            for kept in (False, True) if pair % 2 else (True, False):
                with tempfile.TemporaryDirectory() as folder:
                    command = [sys.executable, __file__, "--process", folder if kept else "", str(thin), str(draws)]
                    found = subprocess.run(command, capture_output=True, text=True, check=True)
                rows.append({"thin": thin, "pair": pair, "checkpoint": kept, **json.loads(found.stdout)})
                print(rows[-1], flush=True)
    found = pd.DataFrame(rows)
    found.to_csv(given.out / "long_runs.csv", index=False, float_format="%.4g")
    for what in ("seconds_draws", "seconds"):
        times = found.pivot(index=["thin", "pair"], columns="checkpoint", values=what)
        print(f"cost of the checkpoint, {what}:", (times[True] / times[False] - 1).groupby("thin").median().to_dict())


if __name__ == "__main__":
    if "--process" in sys.argv:
        print(json.dumps(run(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
