"""Measure log likelihoods a second of the JAX engine in large batches, on JAX's default device.

The native engine on the same machine's cores is measured beside it, in batches of 1000.

python paper/benchmarks/gpu.py
"""

import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from collection import arguments, around_nominal, numbers, read, short
from rounds import clock, fastest, tell, write

from kinbayes.ode import native

PROBLEMS = ("Boehm_JProteomeRes2014", "Bachmann_MSB2011")
SIZES, QUICK_SIZES = (1000, 10_000, 100_000), (10, 100)
NATIVE_BATCH = 1000


def rows_of(data: Path, name: str, sizes: Sequence[int], *, rounds: int) -> list[dict[str, object]]:
    """Return one row a size of batch."""
    problem, native_problem = read(data, name, engine="jax"), read(data, name)
    function, device = problem.batched.log_likelihood, jax.devices()[0]
    packed, some = numbers(native_problem), around_nominal(native_problem, min(NATIVE_BATCH, max(sizes)))
    cores = clock("native", lambda: native.simulated(packed, some), units=len(some))
    rows = []
    for size in sizes:
        batch = jax.numpy.asarray(around_nominal(problem, size))
        started = time.perf_counter()
        try:
            values = np.asarray(function(batch))
        except jax.errors.JaxRuntimeError as error:  # the device's memory has an end
            print(f"{name}, {size} vectors: {str(error).splitlines()[0]}", flush=True)
            break
        first = time.perf_counter() - started
        on_device = clock("jax", lambda b=batch: function(b).block_until_ready(), units=size)
        seconds = fastest([on_device, cores], rounds=rounds)
        row = {
            "problem": short(name),
            "device": device.device_kind,
            "platform": device.platform,
            "vectors": size,
            "finite": float(np.isfinite(values).mean()),
            "first_call_seconds": first,
            "us": 1e6 * seconds["jax"],
            "per_second": 1 / seconds["jax"],
            "native_per_second": 1 / seconds["native"],
            "jax_over_native": seconds["native"] / seconds["jax"],
        }
        tell(row)
        rows.append(row)
    return rows


def main() -> None:
    """Measure both problems, and write the table."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--problems", nargs="*", default=PROBLEMS)
    parser.add_argument("--sizes", nargs="*", type=int, help="vectors in a batch")
    given = parser.parse_args()
    sizes = given.sizes or (QUICK_SIZES if given.quick else SIZES)
    rows = [row for name in given.problems for row in rows_of(given.data, name, sizes, rounds=given.rounds)]
    write(rows, given.out / "gpu.csv")


if __name__ == "__main__":
    main()
