import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.tree_util import Partial

from kinbayes.optimizers.base import Bounds, Evaluation
from kinbayes.optimizers.initial import latin_hypercube
from kinbayes.optimizers.multistart import multistart
from kinbayes.run.loop.driver import run_optimizer

TIMES = np.linspace(0.0, 4.0, 12)


def minimise(objective, bounds, starts, *, max_evaluations=100_000, settings=()):
    points = np.asarray(starts)[:, None]
    return run_optimizer(
        objective, multistart, settings, bounds=bounds, initial=points, max_evaluations=max_evaluations, seed=0
    )


def _quadratic(matrix, centre, U):
    loss = 0.5 * jnp.einsum("ni,ij,nj->n", U - centre, matrix, U - centre)
    return Evaluation(loss, (U - centre) @ matrix, jnp.broadcast_to(matrix, (len(U), *matrix.shape)))


def ill_conditioned(dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """A quadratic with condition number 1e4 whose free minimum lies outside the unit box."""
    rng = np.random.default_rng(7)
    basis, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    return (basis * np.logspace(0, 4, dim)) @ basis.T, rng.uniform(-0.5, 1.5, size=dim)


def _squares(residuals, U):
    """Half the sum of squared residuals, and Gauss and Newton's Hessian."""
    r, jacobian = jax.vmap(residuals)(U), jax.vmap(jax.jacfwd(residuals))(U)
    return Evaluation(
        0.5 * jnp.sum(r**2, axis=1),
        jnp.einsum("nr,nrd->nd", r, jacobian),
        jnp.einsum("nrd,nre->nde", jacobian, jacobian),
    )


def _decays(u):
    """Two exponentials against data of (0.7, 0.3) with rates (1.3, 0.2), all on logarithms."""
    data = 0.7 * jnp.exp(-1.3 * TIMES) + 0.3 * jnp.exp(-0.2 * TIMES) + 0.01 * jnp.sin(37.0 * TIMES)
    a, b, k, q = jnp.exp(u)
    return (a * jnp.exp(-k * TIMES) + b * jnp.exp(-q * TIMES) - data) / 0.01


def test_every_start_of_a_convex_problem_ends_at_its_bounded_minimum():
    matrix, centre = ill_conditioned()
    bounds = Bounds(np.zeros(6), np.ones(6))
    run = minimise(Partial(_quadratic, matrix, centre), bounds, latin_hypercube(0, 8, *bounds))
    factor = np.linalg.cholesky(matrix).T
    exact = scipy.optimize.lsq_linear(factor, factor @ centre, (0.0, 1.0), tol=1e-14)
    assert (exact.active_mask != 0).any()
    assert run.converged.all()
    np.testing.assert_allclose(run.loss, exact.cost, rtol=2e-6)
    np.testing.assert_allclose(run.position, np.tile(exact.x, (8, 1)), atol=2e-2)


def test_open_bounds_are_open():
    matrix, centre = ill_conditioned()
    bounds = Bounds(np.full(6, -np.inf), np.array([np.inf] * 5 + [0.0]))
    run = minimise(Partial(_quadratic, matrix, 10.0 * centre), bounds, -np.ones((4, 6)))
    factor = np.linalg.cholesky(matrix).T
    exact = scipy.optimize.lsq_linear(factor, factor @ (10.0 * centre), (bounds.lower, bounds.upper), tol=1e-14)
    np.testing.assert_allclose(run.loss, exact.cost, rtol=2e-6, atol=1e-5)


def test_a_fixed_parameter_stays_and_the_others_are_the_best_beside_it():
    matrix, centre = ill_conditioned()
    lower, upper = np.full(6, -5.0), np.full(6, 5.0)
    lower[2] = upper[2] = 0.25
    starts = latin_hypercube(0, 4, lower, upper)
    run = minimise(Partial(_quadratic, matrix, centre), Bounds(lower, upper), starts)
    free = np.delete(np.arange(6), 2)
    shift = np.linalg.solve(matrix[np.ix_(free, free)], -matrix[free, 2] * (0.25 - centre[2]))
    np.testing.assert_array_equal(run.position[:, 2], 0.25)
    np.testing.assert_allclose(run.position[:, free], np.tile(centre[free] + shift, (4, 1)), atol=2e-2)


def test_evaluations_are_no_more_than_scipys():
    bounds = Bounds(np.full(4, -4.0), np.full(4, 3.0))
    starts = latin_hypercube(3, 30, *bounds)
    run = minimise(Partial(_squares, Partial(_decays)), bounds, starts)
    residuals, jacobian = jax.jit(_decays), jax.jit(jax.jacfwd(_decays))
    exact = [
        scipy.optimize.least_squares(
            lambda u: np.asarray(residuals(u)),
            u,
            lambda u: np.asarray(jacobian(u)),
            tuple(bounds),
            xtol=1e-7,
            ftol=1e-7,
        )
        for u in starts
    ]
    cost = np.array([result.cost for result in exact])
    best = min(cost.min(), run.loss.min())
    ours, theirs = run.loss < best + 0.1, cost < best + 0.1
    assert ours.sum() >= theirs.sum()
    assert run.converged[ours].all()
    assert run.evaluations / ours.sum() < sum(result.nfev for result in exact) / theirs.sum()
    np.testing.assert_allclose(run.loss.min(), cost.min(), rtol=1e-4)


def _fails_on_the_left(U):
    """A parabola with its minimum at -0.5, which cannot be evaluated below 0."""
    fails = ~(U >= 0.0)
    loss, gradient = jnp.where(fails, jnp.nan, (U + 0.5) ** 2), jnp.where(fails, jnp.nan, 2.0 * (U + 0.5))
    return Evaluation(loss[:, 0], gradient, jnp.full((len(U), 1, 1), 2.0))


def test_a_search_ends_where_the_objective_begins_to_fail():
    run = minimise(Partial(_fails_on_the_left), Bounds(-np.ones(1), np.ones(1)), np.array([[0.9], [-0.5], [0.1]]))
    assert run.stopped == "finished"
    assert not run.converged.any()
    np.testing.assert_allclose(run.position[[0, 2]], 0.0, atol=1e-3)
    assert run.loss[1] == np.inf


def test_a_search_without_progress_has_not_converged():
    def wrong(U):
        loss, gradient, information, *_ = _quadratic(jnp.eye(2), jnp.zeros(2), U)
        return Evaluation(loss, -gradient, information)

    bounds = Bounds(np.full(2, -3.0), np.full(2, 3.0))
    run = minimise(Partial(wrong), bounds, np.ones((2, 2)))
    assert run.finished.all()
    assert not run.converged.any()


def test_a_start_does_not_depend_on_the_others():
    bounds = Bounds(np.full(4, -4.0), np.full(4, 3.0))
    starts = latin_hypercube(3, 4, *bounds)
    objective = Partial(_squares, Partial(_decays))
    together, apart = minimise(objective, bounds, starts), minimise(objective, bounds, starts[[2, 2, 2, 2]])
    np.testing.assert_allclose(together.position[2], apart.position[0], rtol=1e-9)


def test_an_objective_without_information_is_refused():
    def plain(U):
        return Evaluation(jnp.sum(U**2, axis=1), 2.0 * U)

    with pytest.raises(ValueError, match="needs gradients and information"):
        minimise(Partial(plain), Bounds(-np.ones(2), np.ones(2)), np.zeros((1, 2)))
