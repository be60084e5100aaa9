"""Tell what the first log likelihood of a process costs, part by part, as one line of JSON; or the first gradient.

A script of its own, for fresh processes: nothing else may be imported before the clock starts.

python paper/benchmarks/first_call.py problem.yaml log_likelihood
python paper/benchmarks/first_call.py problem.yaml value_and_grad
"""

import itertools
import json
import sys
import time

marks = [("", time.perf_counter())]


def mark(part: str) -> None:
    """Note that a part is done."""
    marks.append((part, time.perf_counter()))


import jax  # noqa: E402

import kinbayes as kb  # noqa: E402

mark("import_kinbayes")
import kinbayes.formats.petab.reader  # noqa: E402

mark("load_formats")
from kinbayes.ode import bridges  # noqa: E402, F401
from kinbayes.problem import native_likelihood  # noqa: E402

mark("load_engine")
compile_model, compiling = native_likelihood.compiled, []


def timed(*terms: object) -> object:
    """Compile, and note how long it takes."""
    started = time.perf_counter()
    code = compile_model(*terms)
    compiling.append(time.perf_counter() - started)
    return code


native_likelihood.compiled = timed
problem = kb.read_petab(sys.argv[1])
mark("read")
call = getattr(problem, sys.argv[2])
found = jax.block_until_ready(call(problem.nominal))
mark("first_call")
jax.block_until_ready(call(problem.nominal))
mark("second_call")

seconds = {part: after - before for (_, before), (part, after) in itertools.pairwise(marks)}
compile_seconds = sum(compiling)
seconds |= {"read": seconds["read"] - compile_seconds, "compile": compile_seconds}
value = found[0] if isinstance(found, tuple) else found
print(json.dumps({"value": float(value), **seconds}))
