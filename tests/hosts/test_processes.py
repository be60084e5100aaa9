"""Chains of PyMC in processes of their own, forked or spawned, must be those of one process; none may hang or crash."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kinbayes as kb
from kinbayes.model.expressions import symbol
from kinbayes.model.formula import parse

ROOT = Path(__file__).parents[2]
SECONDS = 240  # a hang is a failure

# In a child, whatever asks JAX for anything ends with an error.
CHAINS = """
import os
import sys
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pymc as pm
from jax.extend.core import Primitive
import kinbayes as kb
from kinbayes.hosts.pymc import likelihood


def refuse(*_, **__):
    raise AssertionError("a worker called JAX")


def without_jax():
    Primitive.bind = jnp.asarray = jax.device_put = refuse


def several():
    base = kb.read_petab(kb.example("conversion_reaction"))
    rows = [(m.observable, m.experiment, m.time) for m in base.measurements]
    data = pd.DataFrame(rows, columns=["observableId", "simulationConditionId", "time"])
    with pm.Model() as model:
        mu = pm.Normal("mu", 8.0, 4.0)
        a = pm.Normal("A_0", mu, 1.0, shape=2)
        for k in range(2):
            other = base.with_data(data.assign(measurement=[m.value + k for m in base.measurements]))
            likelihood(other, {"A_0": a[k], "B_0": pm.math.exp(0.1 * k)}, name=f"vessel_{k}")
    return model


if __name__ == "__main__":
    model = several() if sys.argv[1] == "several" else kb.to_pymc(kb.read_petab(kb.example(sys.argv[1])))
    if sys.argv[2] == "fork":
        os.register_at_fork(after_in_child=without_jax)
        child = os.fork()
        if child == 0:
            try:
                jnp.ones(3) + 1
            except AssertionError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7, "the children are not kept from JAX"
    found = []
    for cores, context in ((1, None), (2, sys.argv[2])):
        with model:
            step = getattr(kb.hosts.pymc, sys.argv[3])() if len(sys.argv) > 3 else None
            idata = pm.sample(
                step=step, draws=40, tune=60, chains=2, cores=cores, mp_ctx=context, random_seed=1, progressbar=False,
                compute_convergence_checks=False,
            )
        found.append(idata.posterior)
    assert found[0].equals(found[1])
    assert found[0].sizes["chain"] == 2
    assert float(found[0].to_array().std()) > 0
    print("equal")
"""


@pytest.mark.parametrize(
    "asked",
    [
        ("several", "fork"),
        pytest.param(("several", "spawn"), marks=pytest.mark.slow),
        pytest.param(("several", "spawn", "AdaptiveMetropolis"), marks=pytest.mark.slow),
        pytest.param(("enzyme_progress", "fork"), marks=pytest.mark.slow),
        pytest.param(("lynx_hare", "forkserver"), marks=pytest.mark.slow),
    ],
    ids="-".join,
)
def test_chains_in_processes_are_those_of_one_process(tmp_path, asked):
    script = tmp_path / "chains.py"
    script.write_text(CHAINS)
    run = subprocess.run(
        [sys.executable, str(script), *asked], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("equal\n")


KEEP = """
import cloudpickle
import sys
from tests.hosts.test_pytensor_op import PROBLEM, U, function, pointwise
parts = (PROBLEM, function(PROBLEM), pointwise(PROBLEM))
with open(sys.argv[1], "wb") as file:
    cloudpickle.dump((parts, U[0]), file)
"""
TAKE = """
import pickle
import sys
import numpy as np
with open(sys.argv[1], "rb") as file:
    (problem, f, pointwise), u = pickle.load(file)
value, gradient = f(u)
numbers = problem.gradient_numbers
from kinbayes.ode import native
values, gradients = native.log_likelihoods_and_gradients(numbers, u[None])
assert value == values[0] and np.array_equal(gradient, gradients[0])
each, total, slope, _ = pointwise(u, np.ones(12))
np.testing.assert_allclose(each, problem.pointwise_log_likelihood(u), rtol=1e-12)
assert total == value and np.array_equal(slope, gradient)
"""


@pytest.mark.slow
def test_what_is_pickled_works_in_another_process(tmp_path):
    for code in (KEEP, TAKE):
        command = [sys.executable, "-c", code, str(tmp_path / "kept")]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
        assert run.returncode == 0, run.stderr


def test_models_are_pickled_as_they_are():
    deep = symbol("x")
    for k in range(20_000):
        deep = deep * symbol("k") + k  # far deeper than Python may call itself
    events = (
        kb.Event(
            "first", parse("x > k"), (("x", parse("k / 2")), ("y", parse("x + 1"))), parse("0.1"), parse("k"), False
        ),
        kb.Event("second", parse("time > 2"), (("y", deep),), is_persistent=False, keeps_values=False),
    )
    model = kb.Model(
        "m", {"x": parse("-k * x"), "y": deep}, {n: parse("1") for n in "xyk"}, {"z": deep}, {"x": "mol"}, events
    )
    again = pickle.loads(pickle.dumps(model))
    assert again == model
    assert again.events == events
    assert again.derivatives["y"] is deep
    assert (again.name, again.units) == ("m", {"x": "mol"})
    with pytest.raises(TypeError, match="pickle the model"):
        pickle.dumps(deep)


@pytest.mark.parametrize("name", ["lynx_hare", "influenza"])
def test_problems_are_pickled_as_they_are(name):
    problem = kb.read_petab(kb.example(name))
    u = np.asarray(problem.nominal)
    for again in (pickle.loads(pickle.dumps(problem)), copy.deepcopy(problem)):
        assert again.hash == problem.hash
        assert again.parameters == problem.parameters
        for a, b in zip(again.value_and_grad(u), problem.value_and_grad(u), strict=True):
            np.testing.assert_array_equal(a, b)
    looser = pickle.loads(pickle.dumps(problem.with_tolerances(1e-4, 1e-6)))
    assert looser.hash != problem.hash
    assert float(looser.log_likelihood(u)) != float(problem.log_likelihood(u))
