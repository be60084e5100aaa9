import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.tree_util import Partial

from kinbayes.optimizers.base import Bounds, Evaluation
from kinbayes.optimizers.initial import latin_hypercube
from kinbayes.optimizers.quasi_newton import quasi_newton
from kinbayes.run.loop.driver import run_optimizer


def minimise(objective, bounds, starts, *, max_evaluations=100_000):
    points = np.asarray(starts)[:, None]
    return run_optimizer(
        objective, quasi_newton, bounds=bounds, initial=points, max_evaluations=max_evaluations, seed=0
    )


def _quadratic(matrix, centre, U):
    return Evaluation(0.5 * jnp.einsum("ni,ij,nj->n", U - centre, matrix, U - centre), (U - centre) @ matrix)


def ill_conditioned(dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """A quadratic with condition number 1e4 whose free minimum lies outside the unit box."""
    rng = np.random.default_rng(7)
    basis, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    return (basis * np.logspace(0, 4, dim)) @ basis.T, rng.uniform(-0.5, 1.5, size=dim)


def test_every_start_of_a_convex_problem_ends_at_its_bounded_minimum():
    matrix, centre = ill_conditioned()
    bounds = Bounds(np.zeros(6), np.ones(6))
    run = minimise(Partial(_quadratic, matrix, centre), bounds, latin_hypercube(0, 4, *bounds))
    factor = np.linalg.cholesky(matrix).T
    exact = scipy.optimize.lsq_linear(factor, factor @ centre, (0.0, 1.0), tol=1e-14)
    assert (exact.active_mask != 0).any()
    assert run.converged.all()
    np.testing.assert_allclose(run.loss, exact.cost, rtol=1e-6)
    np.testing.assert_allclose(run.position, np.tile(exact.x, (4, 1)), atol=1e-3)


def test_open_bounds_are_open():
    matrix, centre = ill_conditioned()
    bounds = Bounds(np.full(6, -np.inf), np.array([np.inf] * 5 + [0.0]))
    run = minimise(Partial(_quadratic, matrix, 100.0 * centre), bounds, -np.ones((4, 6)))
    factor = np.linalg.cholesky(matrix).T
    exact = scipy.optimize.lsq_linear(factor, factor @ (100.0 * centre), (bounds.lower, bounds.upper), tol=1e-14)
    np.testing.assert_allclose(run.loss, exact.cost, rtol=1e-6, atol=1e-6)


def test_evaluations_are_no_more_than_twice_scipys():
    def loss(u):
        return jnp.sum(100.0 * (u[1:] - u[:-1] ** 2) ** 2 + (1.0 - u[:-1]) ** 2)

    both = jax.jit(jax.vmap(jax.value_and_grad(loss)))
    bounds = Bounds(np.full(5, -2.0), np.full(5, 3.0))
    starts = latin_hypercube(0, 6, *bounds)
    run = minimise(Partial(_evaluated(both)), bounds, starts)

    def single(u):
        value, gradient = both(u[None])
        return float(value[0]), np.asarray(gradient[0])

    exact = [
        scipy.optimize.minimize(single, start, jac=True, method="L-BFGS-B", bounds=[(-2.0, 3.0)] * 5)
        for start in starts
    ]
    assert run.evaluations < 2 * sum(result.nfev for result in exact)
    np.testing.assert_allclose(run.loss.min(), 0.0, atol=1e-8)


def _evaluated(both):
    return lambda U: Evaluation(*both(U))


def _fails_on_the_left(U):
    """A parabola with its minimum at -0.5, which cannot be evaluated below 0."""
    fails = ~(U >= 0.0)
    return Evaluation(jnp.where(fails, jnp.nan, (U + 0.5) ** 2)[:, 0], jnp.where(fails, jnp.nan, 2.0 * (U + 0.5)))


def test_a_search_ends_where_the_objective_begins_to_fail():
    run = minimise(Partial(_fails_on_the_left), Bounds(-np.ones(1), np.ones(1)), np.array([[0.9], [-0.5], [0.1]]))
    assert run.stopped == "finished"
    assert not run.converged.any()
    np.testing.assert_allclose(run.position[[0, 2]], 0.0, atol=1e-8)
    assert run.loss[1] == np.inf


def _imprecise(matrix, centre, U):
    """A loss whose gradient is a little wrong, as a simulation's is: it vanishes beside the minimum."""
    loss, gradient, *_ = _quadratic(matrix, centre, U)
    return Evaluation(20.0 + loss, gradient + 2e-4)


def test_an_imprecise_gradient_does_not_hide_the_optimum():
    matrix, _ = ill_conditioned()
    centre, bounds = np.full(6, 0.5), Bounds(np.zeros(6), np.ones(6))
    run = minimise(Partial(_imprecise, matrix, centre), bounds, latin_hypercube(0, 20, *bounds))
    assert run.converged.all()
    np.testing.assert_allclose(run.loss, 20.0, rtol=1e-5)


def test_a_start_does_not_depend_on_the_others():
    matrix, centre = ill_conditioned()
    bounds = Bounds(np.zeros(6), np.ones(6))
    starts = latin_hypercube(3, 4, *bounds)
    objective = Partial(_quadratic, matrix, centre)
    together, apart = minimise(objective, bounds, starts), minimise(objective, bounds, starts[[2, 2, 2, 2]])
    np.testing.assert_allclose(together.position[2], apart.position[0], rtol=1e-12)


def _without_gradient(U):
    return Evaluation(jnp.sum(U**2, axis=1))


def test_an_objective_without_gradient_is_refused():
    with pytest.raises(ValueError, match="needs gradients"):
        minimise(Partial(_without_gradient), Bounds(-np.ones(2), np.ones(2)), np.zeros((1, 2)))
