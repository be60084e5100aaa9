"""Systems of equations with known solutions, and how tests run one on the native engine or on SciPy's."""

from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

from kinbayes.model.expressions import const, evaluate, jacobian
from kinbayes.model.formula import parse
from kinbayes.model.model import Model
from kinbayes.ode import native, simulate
from kinbayes.ode.status import Status


class Run(NamedTuple):
    """One lane: its states at the times asked for, and what is known of it."""

    states: np.ndarray
    status: Status
    time: float
    steps: int
    rejected: int


def model(name, derivatives, **initial):
    """Return a model of formulas or expressions."""
    rates = {state: parse(rate) if isinstance(rate, str) else rate for state, rate in derivatives.items()}
    return Model(name, rates, {name: const(value) for name, value in initial.items()})


def run(of, times, rtol=1e-8, atol=1e-12, *, max_steps=100_000):
    """Run a model on the native engine."""
    values = [e.value for e in of.initial.values()]
    code = simulate._compiled(of, tuple(of.initial))
    numbers = simulate._numbers(code, values, np.array(times, dtype=float), (rtol, atol), max_steps)
    found = native.simulated(numbers, np.zeros((1, 0)), with_states=True)
    lane = [part[0, 0] for part in found.lanes]
    return Run(found.states[0], Status(lane[1]), float(lane[2]), int(lane[3]), int(lane[4]))


def scipys(of, times, rtol=1e-12, atol=1e-14, *, method="Radau"):
    """Return the states of a model at some times by SciPy, and the number of its steps."""
    values = {name: e.value for name, e in of.initial.items()}
    pattern = jacobian(list(of.derivatives.values()), of.states)

    def at(t, y):
        return {**values, **dict(zip(of.states, y, strict=True)), "time": t}

    def slopes(t, y):
        return evaluate(list(of.derivatives.values()), at(t, y))

    def matrix(t, y):
        dense = np.zeros((len(y), len(y)))
        dense[list(pattern.rows), list(pattern.columns)] = evaluate(pattern.entries, at(t, y))
        return dense

    start = [values[state] for state in of.states]
    implicit = {"jac": matrix} if method in ("Radau", "LSODA") else {}
    dense = {"dense_output": True} if method == "RK23" else {}
    found = solve_ivp(
        slopes, (0, times[-1]), start, method=method, t_eval=times, rtol=rtol, atol=atol, **implicit, **dense
    )
    assert found.success, found.message
    return found.y.T, found.nfev


def relative_error(ours, theirs):
    """Return the largest error, every state's in units of the largest that it becomes."""
    return np.max(np.abs(ours - theirs) / np.max(np.abs(theirs), axis=0))


ROBERTSON = model(
    "Robertson",
    {"a": "-0.04 * a + 1e4 * b * c", "b": "0.04 * a - 1e4 * b * c - 3e7 * b^2", "c": "3e7 * b^2"},
    a=1.0,
    b=0.0,
    c=0.0,
)
HIRES = model(
    "HIRES",
    {
        "y1": "-1.71 * y1 + 0.43 * y2 + 8.32 * y3 + 0.0007",
        "y2": "1.71 * y1 - 8.75 * y2",
        "y3": "-10.03 * y3 + 0.43 * y4 + 0.035 * y5",
        "y4": "8.32 * y2 + 1.71 * y3 - 1.12 * y4",
        "y5": "-1.745 * y5 + 0.43 * y6 + 0.43 * y7",
        "y6": "-280 * y6 * y8 + 0.69 * y4 + 1.71 * y5 - 0.43 * y6 + 0.69 * y7",
        "y7": "280 * y6 * y8 - 1.81 * y7",
        "y8": "-280 * y6 * y8 + 1.81 * y7",
    },
    **{**{f"y{k}": 0.0 for k in range(1, 9)}, "y1": 1.0, "y8": 0.0057},
)
OREGONATOR = model(
    "Oregonator",
    {
        "x": "77.27 * (y + x * (1 - 8.375e-6 * x - y))",
        "y": "(z - (1 + x) * y) / 77.27",
        "z": "0.161 * (x - z)",
    },
    x=1.0,
    y=2.0,
    z=3.0,
)


def van_der_pol(mu):
    return model("Van der Pol", {"x": "v", "v": "mu * (1 - x^2) * v - x"}, x=2.0, v=0.0, mu=mu)


def scaled_van_der_pol(mu):
    """Return it with time in units of mu."""
    return model("scaled Van der Pol", {"x": "v", "v": "mu^2 * ((1 - x^2) * v - x)"}, x=2.0, v=0.0, mu=mu)
