from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kinbayes.optimizers.base import Bounds, Evaluation
from kinbayes.optimizers.particle_swarm import particle_swarm
from tests.landscapes import beyond_a_wall, box, failing, minimised, points, rastrigin, rosenbrock, sphere

minimise = partial(minimised, particle_swarm)

# The loss that every start has reached after so many evaluations.
BUDGETS = {
    "sphere": (sphere, box(4), {}, 3000, 1e-6),
    "rosenbrock": (rosenbrock, box(4), {}, 30_000, 1e-2),
    "rastrigin": (rastrigin, box(2, 5.12), {}, 5000, 1e-6),
    "rastrigin_with_friction": (rastrigin, box(2, 5.12), {"final_inertia": 0.4}, 4000, 1e-6),
    "wall": (beyond_a_wall, box(4), {}, 2000, 1e-6),
    "failures": (failing, box(4), {}, 5000, 1e-6),
}


@pytest.mark.parametrize("name", BUDGETS)
def test_budgets_are_kept(name):
    loss, bounds, settings, evaluations, goal = BUDGETS[name]
    state, history = minimise(loss, bounds, rounds=evaluations // 40, **settings)
    assert np.all(history[:, -1] <= goal)
    assert np.all(np.diff(history) <= 0.0)
    # Compiled anew the loss differs in its last digits.
    np.testing.assert_allclose(jax.vmap(loss)(state.best_position), state.best_loss, rtol=1e-6, atol=1e-12)
    assert np.all((state.position >= bounds.lower) & (state.position <= bounds.upper))


def compiled(optimizer):
    return optimizer._replace(tell=jax.jit(optimizer.tell))


def test_a_flight_follows_the_rule_and_is_stopped_at_walls():
    particles, dim = 12, 3
    settings = {"inertia": 0.6, "cognition": 1.1, "social": 1.7}
    walls = np.array([[0.0, -np.inf, -1.0], [1.0, np.inf, 1.0]])
    optimizer = compiled(particle_swarm(Bounds(*jnp.asarray(walls)), num_particles=particles, **settings))
    rng = np.random.default_rng(0)
    U = jnp.asarray(rng.uniform([0, -3, -1], [1, 3, 1], size=(particles, dim)))
    state = optimizer.init(jax.random.key(0), U)
    np.testing.assert_array_equal(optimizer.ask(state), U)
    state = optimizer.tell(jax.random.key(1), state, Evaluation(jnp.asarray(rng.normal(size=particles))))
    # Velocities so large that some particles meet a wall, and losses of which some are better than the last.
    state = state._replace(velocity=jnp.asarray(rng.normal(size=(particles, dim))))
    before = jax.tree.map(np.asarray, state)
    loss, key = rng.normal(size=particles), jax.random.key(2)
    after = optimizer.tell(key, state, Evaluation(jnp.asarray(loss)))

    is_better = loss <= before.personal_loss
    assert 0 < is_better.sum() < particles
    personal = np.where(is_better[:, None], before.position, before.personal_position)
    personal_loss = np.where(is_better, loss, before.personal_loss)
    best = personal[personal_loss.argmin()]
    hits = 0
    for k in range(particles):
        draws = np.asarray(jax.random.uniform(jax.random.fold_in(key, k), (2, dim)))
        position, velocity = before.position[k], before.velocity[k]
        velocity = 0.6 * velocity + 1.1 * draws[0] * (personal[k] - position) + 1.7 * draws[1] * (best - position)
        position = position + velocity
        for j in range(dim):
            while not walls[0, j] <= position[j] <= walls[1, j]:
                wall = walls[0, j] if position[j] < walls[0, j] else walls[1, j]
                position[j], velocity[j], hits = 2.0 * wall - position[j], 0.0, hits + 1
        np.testing.assert_allclose(after.position[k], position, atol=1e-12)
        np.testing.assert_allclose(after.velocity[k], velocity, atol=1e-12)
    assert hits > 3
    np.testing.assert_array_equal(after.personal_position, personal)
    np.testing.assert_array_equal(after.personal_loss, personal_loss)
    positions, losses = optimizer.members(after)
    np.testing.assert_array_equal(losses, np.sort(personal_loss))
    np.testing.assert_array_equal(positions[0], after.best_position)
    np.testing.assert_array_equal(after.best_position, best)


def test_the_first_flight_goes_half_way_to_another_particle():
    optimizer = particle_swarm(box(2), num_particles=7)
    U = points(0, 7, box(2))
    ends = np.asarray(U + 2.0 * optimizer.init(jax.random.key(0), U).velocity)
    distance = np.linalg.norm(ends[:, None] - np.asarray(U), axis=2)
    nearest = distance.argmin(axis=1)
    assert distance.min(axis=1).max() < 1e-12
    assert sorted(nearest) == list(range(7))
    assert np.all(nearest != np.arange(7))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_friction_follows_the_number_of_unproductive_flights(asynchronous):
    particles, first, last = 5, 0.7, 0.3
    bounds = Bounds(jnp.full(2, -jnp.inf), jnp.full(2, jnp.inf))
    settings = {"inertia": first, "final_inertia": last, "cognition": 0.0, "social": 0.0, "absolute_tolerance": 0.01}
    optimizer = compiled(particle_swarm(bounds, num_particles=particles, asynchronous=asynchronous, **settings))
    state = optimizer.init(jax.random.key(0), points(0, particles, box(2)))
    unproductive = 0
    # The first loss, one that is better, the same, better by less and by more than the tolerance, a failure.
    for best, adds in [(5.0, 0), (4.0, 0), (4.0, 1), (3.995, 1), (3.9, 0), (np.inf, 1)]:
        losses, velocity = best + jnp.arange(5.0), state.velocity
        if asynchronous:
            for k in (3, 1, 4, 0, 2):
                assert state.num_unproductive == unproductive
                part = Evaluation(losses[k : k + 1], index=jnp.array([k]))
                state = optimizer.tell(jax.random.key(1), state, part)
        else:
            state = optimizer.tell(jax.random.key(1), state, Evaluation(losses))
        unproductive += adds
        assert state.num_unproductive == unproductive
        inertia = first + (last - first) * unproductive / (unproductive + 30)
        # Of particles told one by one only the last is judged with the whole flight.
        np.testing.assert_allclose(state.velocity[2], inertia * velocity[2], rtol=1e-12)
    assert unproductive == 3


def test_particles_move_though_nothing_could_be_evaluated():
    optimizer = compiled(particle_swarm(box(2)))
    state = optimizer.init(jax.random.key(0), points(0, 40, box(2)))
    moved = optimizer.tell(jax.random.key(1), state, Evaluation(jnp.full(40, jnp.nan)))
    assert np.all(np.any(moved.position != state.position, axis=1))
    assert np.isfinite(moved.position).all()
    assert (float(moved.best_loss), bool(moved.finished)) == (np.inf, False)


def told_in_parts(optimizer, loss_fn, *, rounds, parts):
    state = optimizer.init(jax.random.key(0), points(0, optimizer.num_points, box(4)))
    tell, losses = jax.jit(optimizer.tell), jax.jit(jax.vmap(loss_fn))
    for i in range(rounds):
        order = np.random.default_rng(i).permutation(optimizer.num_points)
        for index in np.split(order, parts):
            index = jnp.asarray(index)
            evaluation = Evaluation(losses(optimizer.ask(state)[index]), index=index)
            state = tell(jax.random.key(i + 1), state, evaluation)
    return state


def test_a_flight_may_be_told_in_parts_in_any_order():
    optimizer = particle_swarm(box(4))
    whole, halves, singles = (told_in_parts(optimizer, rosenbrock, rounds=7, parts=parts) for parts in (1, 2, 40))
    jax.tree.map(np.testing.assert_array_equal, halves, whole)
    jax.tree.map(np.testing.assert_array_equal, singles, whole)


def test_the_best_point_is_known_before_its_flight_is_complete():
    optimizer = compiled(particle_swarm(box(2)))
    state = optimizer.init(jax.random.key(0), points(0, 40, box(2)))
    told = optimizer.tell(jax.random.key(3), state, Evaluation(jnp.array([jnp.nan, -9.0]), index=jnp.array([6, 2])))
    assert told.best_loss == -9.0
    np.testing.assert_array_equal(told.best_position, state.position[2])
    np.testing.assert_array_equal(optimizer.ask(told), optimizer.ask(state))


def test_an_asynchronous_swarm_told_as_a_whole_is_a_flight():
    expected = told_in_parts(particle_swarm(box(4)), rosenbrock, rounds=7, parts=1)
    asynchronous = particle_swarm(box(4), asynchronous=True)
    jax.tree.map(np.testing.assert_array_equal, told_in_parts(asynchronous, rosenbrock, rounds=7, parts=1), expected)
    singles = told_in_parts(asynchronous, rosenbrock, rounds=7, parts=40)
    assert np.any(singles.position != expected.position)


@pytest.mark.slow
def test_asynchronous_single_tells_move_one_particle_and_converge():
    optimizer = particle_swarm(box(4), asynchronous=True)
    state = optimizer.init(jax.random.key(0), points(0, 40, box(4)))
    one = optimizer.tell(jax.random.key(1), state, Evaluation(jnp.array([1.0]), index=jnp.array([7])))
    assert np.flatnonzero(np.any(one.position != state.position, axis=1)).tolist() == [7]
    assert (float(one.best_loss), int(one.num_told), bool(one.converged)) == (1.0, 1, False)
    state = told_in_parts(optimizer, sphere, rounds=40, parts=40)
    assert state.best_loss < 1e-3


def test_fixed_and_open_parameters():
    lower = jnp.array([0.5, -jnp.inf, -jnp.inf, 0.6])
    upper = jnp.array([0.5, jnp.inf, 0.1, jnp.inf])
    design = Bounds(jnp.array([0.5, -9.0, -9.0, 0.6]), jnp.array([0.5, 9.0, 0.1, 9.0]))
    state, history = minimise(sphere, Bounds(lower, upper), rounds=100, design=design)
    np.testing.assert_allclose(history[:, -1], 0.2**2 + 0.2**2 + 0.3**2, atol=1e-4)
    assert np.all(state.position[..., 0] == 0.5)
    assert np.all((state.position >= lower) & (state.position <= upper))


def test_it_converges_once_half_the_swarm_has_gathered():
    optimizer = compiled(particle_swarm(box(2), num_particles=4, absolute_tolerance=0.1))
    state = optimizer.init(jax.random.key(0), points(0, 4, box(2)))
    for losses in (jnp.full(4, jnp.inf), jnp.array([-3.0, jnp.nan, jnp.inf, 5.0]), jnp.array([9.0, -2.8, -2.7, 9.0])):
        state = optimizer.tell(jax.random.key(1), state, Evaluation(losses))
        assert not state.finished
    state = optimizer.tell(jax.random.key(1), state, Evaluation(jnp.array([9.0, -2.98, -2.97, 9.0])))
    assert state.converged
    assert state.finished
    later = optimizer.tell(jax.random.key(2), state, Evaluation(jnp.full(4, -9.0)))
    jax.tree.map(np.testing.assert_array_equal, later, state)


def test_it_gives_up_after_unproductive_flights():
    optimizer = compiled(particle_swarm(box(2), num_particles=4, max_stagnant=3))
    state = optimizer.init(jax.random.key(0), points(0, 4, box(2)))
    finished = []
    for best in (9.0, 8.0, 8.0, 8.0, 7.0, 7.0, 7.0, 7.0):
        state = optimizer.tell(jax.random.key(1), state, Evaluation(best + jnp.arange(4.0)))
        finished.append(bool(state.finished))
    assert finished == [False] * 7 + [True]
    assert not state.converged


def test_starts_are_mapped_with_bounds_of_their_own():
    def run(key, U, bounds):
        optimizer = particle_swarm(bounds)

        def step(state, i):
            evaluation = Evaluation(jax.vmap(sphere)(optimizer.ask(state)))
            return optimizer.tell(jax.random.fold_in(key, i), state, evaluation), None

        return jax.lax.scan(step, optimizer.init(key, U), jnp.arange(5))[0]

    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    bounds = Bounds(jnp.array([[-2.0, -2.0], [1.0, 1.0]]), jnp.array([[2.0, 2.0], [3.0, 1.0]]))
    U = jnp.stack([points(k, 40, Bounds(bounds.lower[k], bounds.upper[k])) for k in range(2)])
    mapped = jax.jit(jax.vmap(run))(keys, U, bounds)
    assert np.all((mapped.position >= bounds.lower[:, None]) & (mapped.position <= bounds.upper[:, None]))
    single = jax.jit(run)(keys[1], U[1], Bounds(bounds.lower[1], bounds.upper[1]))
    np.testing.assert_allclose(mapped.position[1], single.position, rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_particles": 0}, "num_particles = 0"),
        ({"max_stagnant": 0}, "max_stagnant = 0"),
        ({"inertia": 1.0}, "inertia = 1.0"),
        ({"final_inertia": -0.1}, "final_inertia = -0.1"),
        ({"social": -1.0}, "social = -1.0"),
        ({"relative_tolerance": -1.0}, "relative_tolerance = -1.0"),
    ],
)
def test_impossible_settings_are_named(settings, said):
    with pytest.raises(ValueError, match=said):
        particle_swarm(box(4), **settings)
