"""What numba compiles ahead: a number that changes with it.

numba's cache looks at one file only. A function that is cached takes `SOURCES` into its closure, so that the
cache notices a change in any file whose content is compiled into it.
"""

import hashlib
from pathlib import Path

_FILES = (
    "dense_output.py",
    "event_sensitivities.py",
    "events.py",
    "integrator.py",
    "intrinsics.py",
    "kernel.py",
    "lu_loops.py",
    "memory.py",
    "numbers.py",
    "segments.py",
    "sensitivities.py",
    "status.py",
    "steady_state.py",
    "steps.py",
    "tableau.py",
)
SOURCES = int.from_bytes(
    hashlib.sha256(b"".join((Path(__file__).parent / name).read_bytes() for name in _FILES)).digest()[:7]
)
