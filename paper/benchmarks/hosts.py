"""Measure what hosts add to the native engine's calls: the log density, and the log density with its gradient.

They are called at the nominal point: the engine from Python, as part of the sampler's own density, and through the
functions that PyTensor, PyMC and nutpie compile. Ratios are to the first of them, of the same run.

python paper/benchmarks/hosts.py
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import nutpie
import pymc as pm
import pytensor
import pytensor.tensor as pt
from collection import arguments, read
from rounds import clock, fastest, tell, write

import kinbayes as kb
from kinbayes.hosts.pytensor_op import log_likelihood
from kinbayes.ode import bridges
from kinbayes.problem.native_posterior import native_posterior, value_and_grad
from kinbayes.problem.parameters import scaled

BOEHM = "Boehm_JProteomeRes2014"
Call = Callable[[], object]


def native_calls(problem: kb.Problem) -> dict[tuple[str, str], Call]:
    """Return calls of the engine from Python; `native` is the log likelihood alone."""
    u, numbers = np.asarray(problem.nominal), problem.gradient_numbers
    value, gradient = bridges.host_log_likelihood(numbers), bridges.host_value_and_gradient(numbers)
    posterior, x = native_posterior(problem.estimated, numbers), np.asarray(problem.unconstrain(u))
    return {
        ("value", "native"): lambda: value(u),
        ("gradient", "native"): lambda: gradient(u),
        ("gradient", "native with priors"): lambda: value_and_grad(posterior, x),
    }


def pytensor_calls(problem: kb.Problem) -> dict[tuple[str, str], Call]:
    """Return calls of PyTensor's functions of the log likelihood."""
    at, u = np.asarray(problem.nominal), pt.dvector("u")
    value = log_likelihood(problem, u)
    functions = {"value": value, "gradient": [value, pytensor.grad(value, u)]}
    found = {}
    for what, outputs in functions.items():
        function = pytensor.function([u], outputs)
        function.trust_input = True
        found[what, "PyTensor"] = lambda function=function: function(at)
    return found


def pymc_calls(problem: kb.Problem) -> dict[tuple[str, str], Call]:
    """Return calls of the functions that samplers of PyMC, and nutpie, call; priors are with them."""
    model = kb.to_pymc(problem)
    point = nominal_point(problem, model)
    x = np.array([point[v.name] for v in model.value_vars])
    value = model.compile_logp()
    value.f.trust_input = True
    gradient = model.logp_dlogp_function(ravel_inputs=True)
    gradient.set_extra_values({})
    gradient._pytensor_function.trust_input = True  # as PyMC's samplers set it
    compiled = nutpie.compile_pymc_model(model)
    pointer = ctypes.c_void_p
    density = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, *[pointer] * 4)(compiled.compiled_logp_func.address)
    arrays = (x, np.zeros(len(x)), np.zeros(1), compiled.user_data)
    data = [array.ctypes.data for array in arrays]

    def by_nutpie(kept: tuple = (arrays, compiled)) -> None:
        density(len(x), *data)

    return {
        ("value", "PyMC"): lambda: value(point),
        ("gradient", "PyMC"): lambda: gradient(x),
        ("gradient", "nutpie"): by_nutpie,
    }


def nominal_point(problem: kb.Problem, model: pm.Model) -> dict[str, np.ndarray]:
    """Return the nominal point in PyMC's transformed space."""
    theta = problem.to_natural(np.asarray(problem.nominal))
    point = {}
    for variable, value in model.rvs_to_values.items():
        if variable in model.observed_RVs:
            continue
        name, own = variable.name, theta.get(variable.name)
        if own is None:  # the logarithm of a parameter
            scale, name = name.split("_", 1)
            own = float(scaled(np.array([theta[name]]), (scale,))[0])
        transform = model.rvs_to_transforms[variable]
        forward = pt.constant(own) if transform is None else transform.forward(pt.constant(own), *variable.owner.inputs)
        point[value.name] = np.asarray(forward.eval(), dtype=float)
    return point


def calls(problem: kb.Problem, *, rounds: int) -> list[dict[str, object]]:
    """Return the times of all calls, one a row."""
    found = native_calls(problem) | pytensor_calls(problem) | pymc_calls(problem)
    times = fastest([clock("/".join(key), call) for key, call in found.items()], rounds=rounds)
    rows = []
    for what, host in found:
        seconds, reference = times[f"{what}/{host}"], times[f"{what}/native"]
        rows.append(
            {
                "problem": problem.name,
                "what": what,
                "host": host,
                "microseconds": 1e6 * seconds,
                "ratio": seconds / reference,
                "more_microseconds": 1e6 * (seconds - reference),
            }
        )
        tell(rows[-1])
    return rows


def main() -> None:
    """Write hosts.csv."""
    chosen = arguments(__doc__).parse_args()
    problems = [kb.read_petab(kb.example("lynx_hare")), read(chosen.data, BOEHM)]
    rows = [row for problem in problems for row in calls(problem, rounds=3 if chosen.quick else 40)]
    write(rows, Path(chosen.out) / "hosts.csv")


if __name__ == "__main__":
    main()
