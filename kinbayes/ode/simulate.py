"""One simulation of a model, as a labelled dataset."""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, ArrayLike, Float

from kinbayes.model.codegen import to_jax
from kinbayes.model.model import Model
from kinbayes.ode.diffrax_engine import integrator
from kinbayes.ode.status import Status


class SimulationError(RuntimeError):
    """A simulation that did not reach its last time."""


def simulate(
    model: Model,
    times: Sequence[float] | Float[np.ndarray, " times"],
    parameters: Mapping[str, float] | None = None,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    solver: str = "rodas5p",
    max_steps: int = 10_000,
) -> xr.Dataset:
    """Simulate a model from time 0.

    Parameters
    ----------
    model
        The model.
    times
        Output times, ascending, none before 0, in the model's unit of time.
    parameters
        Values that replace the model's own: of parameters, or of states at time 0. What is defined through them
        follows.
    rtol, atol
        Relative and absolute tolerance.
    solver
        `rodas5p`, `kvaerno5` (both implicit) or `tsit5` (explicit).
    max_steps
        Steps after which the simulation is given up.

    Returns
    -------
    xarray.Dataset
        One variable (time,) a state and expression of the model, with attr `unit` where known.

    Raises
    ------
    ValueError
        If times are not ascending from 0 on, or a parameter is no finite number.
    ModelError
        If a name in `parameters` cannot be given.
    SimulationError
        If the solver fails; the message says why and what to try.
    """
    times = np.asarray(times, dtype=float)
    if (
        times.ndim != 1
        or times.size == 0
        or not np.all(np.isfinite(times))
        or np.any(np.diff(times) < 0)
        or times[0] < 0
    ):
        raise ValueError(f"times must be finite, ascending and not before 0; they are {times}")
    plain = {n: float(e.value) for n, e in model.initial.items() if e.op == "const"}
    given = {**plain, **{name: float(value) for name, value in (parameters or {}).items()}}
    lost = sorted(name for name, value in given.items() if not np.isfinite(value))
    if lost:
        raise ValueError(f"{lost} have no finite value; give them in parameters=")
    run = _compiled(model, tuple(given), solver, max_steps)
    values, status = run(jnp.asarray(list(given.values())), jnp.asarray(times), rtol, atol)
    if status != Status.OK:
        raise SimulationError(f"the simulation of {model.name!r} failed: {Status(int(status)).advice}")
    names = (*model.states, *model.expressions)
    variables = {
        name: ("time", np.asarray(column), {"unit": model.units[name]} if name in model.units else {})
        for name, column in zip(names, values, strict=True)
    }
    return xr.Dataset(variables, coords={"time": times}, attrs={"model": model.name, "rtol": rtol, "atol": atol})


@functools.lru_cache(maxsize=64)
def _compiled(model: Model, given: tuple[str, ...], solver: str, max_steps: int) -> Callable:
    start = model.initial_values(given)
    start_fn = to_jax([start[n] for n in (*model.states, *model.parameters)], (*given, "time"))
    outputs_fn = to_jax(list(model.expressions.values()), ("time", *model.states, *model.parameters))
    integrate = integrator(model, solver=solver, max_steps=max_steps)
    num_states = len(model.states)

    @jax.jit
    def run(values: Array, times: Array, rtol: ArrayLike, atol: ArrayLike) -> tuple[list[Array], Array]:
        start_values = start_fn(*values, 0.0)
        constants = start_values[num_states:]
        initial = jnp.stack(start_values[:num_states]) if num_states else jnp.zeros(0)
        solution = integrate(
            initial,
            jnp.stack(constants) if constants else jnp.zeros(0),
            times,
            jnp.asarray(rtol),
            jnp.asarray(atol),
        )
        outputs = outputs_fn(times, *solution.states.T, *constants)
        return [*solution.states.T, *(jnp.broadcast_to(o, times.shape) for o in outputs)], solution.status

    return run
