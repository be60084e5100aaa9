"""The contract that every optimizer in the registry keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.tree_util import Partial

from kinbayes.optimizers import OPTIMIZERS
from kinbayes.optimizers.base import Bounds, Evaluation
from kinbayes.optimizers.initial import latin_hypercube
from kinbayes.run.driver import run_optimizer

DIM = 4
LOWER = np.full(DIM, -2.0)
TRACES = []


def _rosenbrock(scale, U):
    """Rosenbrock's valley, which fails where the first entry is below -1.5."""
    TRACES.append(U.shape)

    def loss(u):
        return scale * jnp.sum(100.0 * (u[1:] - u[:-1] ** 2) ** 2 + (1.0 - u[:-1]) ** 2)

    value, gradient = jax.vmap(jax.value_and_grad(loss))(U)
    fails = U[:, 0] < -1.5
    failure = jnp.where(U[:, 1] > 0.0, jnp.inf, jnp.nan)
    return Evaluation(jnp.where(fails, failure, value), jnp.where(fails[:, None], jnp.nan, gradient))


_compiled = jax.jit(_rosenbrock)


def minimise(name: str, upper: float, *, scale: float = 1.0, max_evaluations: int = 100_000):
    bounds = Bounds(LOWER, np.full(DIM, upper))
    starts = latin_hypercube(1, 20, *bounds)
    return run_optimizer(
        Partial(_rosenbrock, jnp.asarray(scale)),
        OPTIMIZERS[name],
        bounds=bounds,
        initial=starts[starts[:, 0] > -1.5][:16],
        max_evaluations=max_evaluations,
        seed=0,
    )


def oracle(upper: float, scale: float = 1.0) -> scipy.optimize.OptimizeResult:
    """SciPy's L-BFGS-B from a point near the optimum."""

    def loss(u):
        evaluation = _compiled(scale, u[None])
        return float(evaluation.loss[0]), np.asarray(evaluation.gradient[0])

    bounds = [(-2.0, upper)] * DIM
    settings = {"ftol": 1e-15, "gtol": 1e-9}
    return scipy.optimize.minimize(
        loss, np.full(DIM, 0.5), jac=True, method="L-BFGS-B", bounds=bounds, options=settings
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("upper", [2.0, 0.8], ids=["inside", "on_a_wall"])
def test_the_best_start_reaches_scipys_optimum(name, upper):
    run, exact = minimise(name, upper), oracle(upper)
    best = run.loss.argmin()
    assert run.stopped == "finished"
    assert run.converged[best]
    np.testing.assert_allclose(run.loss[best], exact.fun, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(run.position[best], exact.x, atol=1e-3)
    if upper == 0.8:
        assert (exact.x == 0.8).any()
        np.testing.assert_array_equal(run.position[best] == 0.8, exact.x == 0.8)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_comparison_notices_another_optimum(name):
    assert minimise(name, 0.8).loss.min() - oracle(0.79).fun < -1e-3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_result_is_inside_the_bounds_and_finite(name):
    run = minimise(name, 0.8)
    assert np.all((run.position >= -2.0) & (run.position <= 0.8))
    assert np.isfinite(run.loss).all()
    assert np.all(run.position[:, 0] >= -1.5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_best_loss_never_rises(name):
    run = minimise(name, 2.0)
    assert np.all(np.diff(run.history) <= 0.0)
    assert run.history[-1] == run.loss.min()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_seed_decides_the_result(name):
    first, again = minimise(name, 2.0), minimise(name, 2.0)
    np.testing.assert_array_equal(first.position, again.position)
    np.testing.assert_array_equal(first.history, again.history)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_budget_is_kept(name):
    run = minimise(name, 2.0, max_evaluations=100)
    assert run.stopped == "max_evaluations"
    assert 0 < run.evaluations <= 100


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_new_numbers_trace_nothing(name):
    minimise(name, 2.0)
    before = len(TRACES)
    run = minimise(name, 0.9, scale=3.0)
    assert len(TRACES) == before
    np.testing.assert_allclose(run.loss.min(), oracle(0.9, 3.0).fun, rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_candidates_are_inside_the_bounds(name):
    upper = np.full(DIM, 0.8)
    starts = jnp.asarray(latin_hypercube(2, 16, LOWER, upper))
    bounds = Bounds(jnp.asarray(LOWER), jnp.asarray(upper))
    optimizer = OPTIMIZERS[name](bounds)
    ask, tell = jax.jit(optimizer.ask), jax.jit(optimizer.tell)
    state = optimizer.init(jax.random.key(0), starts)
    np.testing.assert_array_equal(ask(jax.random.key(1), state), starts)
    for i in range(30):
        candidates = ask(jax.random.key(i), state)
        assert np.all((candidates >= bounds.lower) & (candidates <= bounds.upper))
        state = tell(state, candidates, _rosenbrock(1.0, candidates))
