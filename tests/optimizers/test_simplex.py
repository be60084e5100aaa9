import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from kinbayes.optimizers.base import Bounds, Evaluation
from kinbayes.optimizers.initial import latin_hypercube
from kinbayes.optimizers.simplex import simplex

KEY = jax.random.key(0)


def bowl(U):
    """A tilted parabola with its minimum at 0.3 in every entry."""
    U = U - 0.3
    return jnp.sum(jnp.arange(1, U.shape[1] + 1) * U**2, axis=1) + jnp.prod(U, axis=1)


def rosenbrock(U):
    return jnp.sum(100.0 * (U[:, 1:] - U[:, :-1] ** 2) ** 2 + (1.0 - U[:, :-1]) ** 2, axis=1)


def box(low, high, dim):
    return Bounds(np.full(dim, float(low)), np.full(dim, float(high)))


@functools.cache
def compiled_tell(settings):
    """A compiled `tell` of losses, which all tests of the same settings share."""
    return jax.jit(lambda bounds, state, loss: simplex(bounds, **dict(settings)).tell(KEY, state, Evaluation(loss)))


def searched(loss_fn, bounds, start, num_rounds=2000, state=None, **settings):
    """The states after each round, until the search has finished."""
    bounds = Bounds(*map(jnp.asarray, bounds))
    tell = compiled_tell(tuple(settings.items()))
    loss_fn = jax.jit(loss_fn)
    states = [simplex(bounds, **settings).init(KEY, jnp.asarray(start)[None]) if state is None else state]
    while len(states) <= num_rounds and not states[-1].finished:
        states.append(tell(bounds, states[-1], loss_fn(states[-1].candidates)))
    return states


def test_the_first_simplex_has_the_step_or_a_tenth_of_the_range_and_is_inside():
    bounds = Bounds(np.array([-np.inf, -5.0, 0.0, 1.0]), np.array([np.inf, 5.0, 2.0, 1.0]))
    (state,) = searched(bowl, bounds, np.array([0.0, 0.0, 1.9, 1.0]), 0)
    edges = state.vertices[1:] - state.vertices[0]
    np.testing.assert_allclose(edges, np.diag([1.0, 1.0, -0.2, 0.0]), atol=1e-15)
    (state,) = searched(bowl, bounds, np.array([0.0, 0.0, 1.9, 1.0]), 0, initial_step=0.1)
    np.testing.assert_allclose(state.vertices[1:] - state.vertices[0], np.diag([0.1, 0.1, 0.1, 0.0]), atol=1e-15)


def test_one_vertex_at_a_time_moves_as_scipys():
    start = np.array([-1.0, 0.7, 1.5])
    states = searched(bowl, box(-np.inf, np.inf, 3), start, 60, num_parallel=1)
    moves = [state for state in states if state.is_moving]
    for num_iterations in (1, 5, 20, 40):
        exact = scipy.optimize.minimize(
            lambda u: float(bowl(u[None])[0]),
            start,
            method="Nelder-Mead",
            options={"initial_simplex": states[0].vertices, "maxiter": num_iterations + 1, "xatol": 0.0, "fatol": 0.0},
        )
        vertices, losses = exact.final_simplex
        np.testing.assert_allclose(moves[num_iterations].losses, losses, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(moves[num_iterations].vertices, vertices, rtol=1e-9, atol=1e-9)


def test_rosenbrocks_valley_takes_fewer_rounds_than_scipys_iterations():
    bounds = box(-2.0, 2.0, 4)
    rounds, iterations, evaluations, calls = [], [], [], []
    for start in latin_hypercube(0, 6, *bounds):
        states = searched(rosenbrock, bounds, start)
        loss = np.array([state.best_loss for state in states])
        exact = scipy.optimize.minimize(
            lambda u: float(rosenbrock(u[None])[0]),
            start,
            method="Nelder-Mead",
            bounds=list(zip(*bounds, strict=True)),
            options={"xatol": 1e-3, "fatol": 1e-6},
        )
        if exact.fun < 1e-4 and loss[-1] < 1e-4:  # there is another minimum of loss 3.7
            rounds.append(np.argmax(loss < 1e-6))
            evaluations.append(rounds[-1] * len(states[0].candidates))
            iterations.append(exact.nit)
            calls.append(exact.nfev)
    assert len(rounds) >= 4
    assert np.median(rounds) < 0.7 * np.median(iterations)
    assert np.median(evaluations) < 4 * np.median(calls)


@pytest.mark.parametrize("num_parallel", [1, 2, 3])
@pytest.mark.parametrize("upper", [2.0, 0.1])
def test_any_number_of_vertices_may_move_at_once(num_parallel, upper):
    bounds = box(-2.0, upper, 3)
    *_, state = searched(bowl, bounds, np.array([-1.0, 0.05, -1.5]), num_parallel=num_parallel)
    exact = scipy.optimize.minimize(
        lambda u: float(bowl(u[None])[0]), np.zeros(3), method="L-BFGS-B", bounds=[(-2.0, upper)] * 3
    )
    assert state.converged
    np.testing.assert_allclose(state.best_loss, exact.fun, atol=1e-6)
    np.testing.assert_allclose(state.best_position, exact.x, atol=1e-3)
    np.testing.assert_array_equal(state.best_position == upper, exact.x == upper)


@pytest.mark.parametrize("num_parallel", [0, 4])
def test_a_number_of_vertices_that_cannot_be_is_refused(num_parallel):
    with pytest.raises(ValueError, match=f"num_parallel is {num_parallel}; choose from 1 to 3"):
        simplex(box(0.0, 1.0, 3), num_parallel=num_parallel)


def test_a_simplex_that_has_collapsed_onto_a_wall_leaves_it():
    bounds = box(-2.0, 2.0, 3)
    state = searched(bowl, bounds, np.array([0.5, 0.2, -2.0]), 1)[-1]
    # Converged within the wall, as far as it can tell.
    face = scipy.optimize.minimize(lambda u: float(bowl(jnp.array([[*u, -2.0]]))[0]), np.zeros(2), tol=1e-12).x
    vertices = jnp.asarray([*face, -2.0]) + 1e-8 * jnp.eye(4, 3).at[2].set(0.0)
    losses = bowl(vertices)
    state = state._replace(
        vertices=vertices,
        losses=losses,
        best_position=vertices[0],
        best_loss=losses[0],
        candidates=jnp.broadcast_to(vertices[0], state.candidates.shape),
    )
    states = searched(bowl, bounds, None, state=state)
    restarted = next(state for state in states if state.num_restarts == 1)
    assert np.ptp(np.asarray(restarted.vertices), axis=0).min() > 0.3
    assert states[-1].converged
    np.testing.assert_allclose(states[-1].best_position, 0.3, atol=1e-4)


def test_a_search_has_converged_when_a_new_simplex_does_not_lead_lower():
    states = searched(bowl, box(-2.0, 2.0, 3), np.array([-1.0, 0.05, -1.5]))
    contracted = [i for i in range(1, len(states)) if states[i].num_restarts > states[i - 1].num_restarts]
    assert len(contracted) >= 2
    assert not states[contracted[0]].converged
    assert states[-1].converged
    # New simplices point to opposite sides.
    first, second = (states[i].vertices for i in contracted[:2])
    np.testing.assert_allclose(first[1:] - first[0], -(second[1:] - second[0]), atol=1e-12)


def test_a_simplex_shrinks_to_its_best_vertex_when_no_move_helps():
    def fails_but_for_the_first(U):
        return jnp.where((U == 0.0).all(axis=1), -1.0, jnp.nan)

    states = searched(fails_but_for_the_first, box(-9.0, 9.0, 3), np.zeros(3), 3)
    assert not states[2].is_moving
    np.testing.assert_allclose(states[2].vertices, 0.5 * states[1].vertices, atol=1e-15)
    assert states[3].best_loss == -1.0


def test_a_start_of_nothing_but_failures_gives_up():
    *_, state = searched(lambda U: jnp.full(len(U), jnp.nan), box(-2.0, 2.0, 3), np.zeros(3))
    assert state.finished
    assert not state.converged
    assert np.isinf(state.best_loss)


def test_a_cliff_next_to_the_optimum_does_not_stop_it():
    def cliff(U):
        return jnp.where(U[:, 0] < 0.3, jnp.inf, bowl(U))

    *_, state = searched(cliff, box(-2.0, 2.0, 3), np.array([1.0, 0.05, -1.5]))
    assert state.finished
    np.testing.assert_allclose(state.best_position, 0.3, atol=1e-2)


def test_a_fixed_parameter_stays_and_the_others_are_found():
    bounds = Bounds(np.array([-2.0, 0.7, -2.0]), np.array([2.0, 0.7, 2.0]))
    states = searched(bowl, bounds, np.array([-1.0, 0.7, 1.0]))
    for state in states:
        np.testing.assert_array_equal(state.candidates[:, 1], 0.7)
    exact = scipy.optimize.minimize(lambda u: float(bowl(jnp.array([[u[0], 0.7, u[1]]]))[0]), np.zeros(2))
    np.testing.assert_allclose(states[-1].best_loss, exact.fun, atol=1e-8)
