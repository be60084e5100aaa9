from functools import partial
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from kinbayes.optimizers.base import Bounds, Evaluation
from kinbayes.optimizers.differential_evolution import STRATEGIES, differential_evolution
from tests.landscapes import beyond_a_wall, box, failing, minimised, points, rastrigin, rosenbrock, sphere

VALLEY = {"mutation_rate": 0.9, "mutation_factor": 0.8}

minimise = partial(minimised, differential_evolution)

# The loss that every start has reached after so many evaluations.
BUDGETS = {
    "sphere": (sphere, box(4), {}, 4000, 1e-6),
    "rosenbrock": (rosenbrock, box(4), VALLEY, 10_000, 1e-6),
    "rosenbrock_by_default": (rosenbrock, box(4), {}, 2000, 3.0),
    "rastrigin": (rastrigin, box(2, 5.12), {"population_size": 80}, 10_000, 1e-6),
    "rastrigin_on_islands": (rastrigin, box(2, 5.12), {**VALLEY, "population_size": 80, "islands": 4}, 6400, 1e-6),
    "wall": (beyond_a_wall, box(4), VALLEY, 8000, 1e-6),
    "failures": (failing, box(4), {}, 6000, 1e-6),
}


@pytest.mark.parametrize("name", BUDGETS)
def test_budgets_are_kept(name):
    loss, bounds, settings, evaluations, goal = BUDGETS[name]
    size = settings.get("population_size", 10 * len(bounds.lower))
    state, history = minimise(loss, bounds, rounds=evaluations // size, **settings)
    assert np.all(history[:, -1] <= goal)
    assert np.all(np.diff(history) <= 0.0)
    # Compiled anew the loss differs in its last digits.
    np.testing.assert_allclose(jax.vmap(loss)(state.best_position), state.best_loss, rtol=1e-6, atol=1e-12)
    assert np.all((state.candidates >= bounds.lower) & (state.candidates <= bounds.upper))


class Reached(Exception):
    """The goal is reached."""


@pytest.mark.slow
def test_evaluations_on_rosenbrock_are_no_more_than_three_times_scipys():
    goal, num_starts, size = 1e-6, 8, 40
    _, history = minimise(rosenbrock, box(4), rounds=400, num_starts=num_starts, **VALLEY)
    assert np.all(history[:, -1] <= goal)
    ours = np.median(size * (1 + np.argmax(history <= goal, axis=1)))

    def scipys(seed):
        count = 0

        def loss(u):
            nonlocal count
            count += 1
            value = np.sum(100.0 * (u[1:] - u[:-1] ** 2) ** 2 + (1.0 - u[:-1]) ** 2)
            if value <= goal:
                raise Reached
            return value

        settings = {"rng": seed, "polish": False, "tol": 0.0, "atol": 0.0, "maxiter": 500}
        try:
            scipy.optimize.differential_evolution(loss, [(-2.0, 2.0)] * 4, **settings)
        except Reached:
            return count
        return np.inf

    theirs = np.median([scipys(seed) for seed in range(num_starts)])
    assert theirs < 10_000
    assert ours <= 3.0 * theirs, (ours, theirs)


def compiled(optimizer):
    return optimizer._replace(tell=jax.jit(optimizer.tell))


def first_generation(members=8, dim=3, seed=0, **settings):
    """Return an open-walled population of known losses, its optimizer and its state once these are told."""
    rng = np.random.default_rng(seed)
    U, loss = jnp.asarray(rng.normal(size=(members, dim))), jnp.asarray(rng.normal(size=members))
    bounds = Bounds(jnp.full(dim, -jnp.inf), jnp.full(dim, jnp.inf))
    optimizer = compiled(differential_evolution(bounds, population_size=members, **settings))
    state = optimizer.init(jax.random.key(seed), U)
    np.testing.assert_array_equal(optimizer.ask(state), U)
    return optimizer, optimizer.tell(jax.random.key(seed + 1), state, Evaluation(loss)), np.asarray(U), np.asarray(loss)


def is_trial(child, target, U, loss, strategy, factor):
    """Whether a child has the strategy's form for any choice of different members."""
    kind, num_differences = STRATEGIES[strategy]
    fixed = {"random": (), "best": (int(loss.argmin()),), "target": (target,)}[kind]
    others = [k for k in range(len(U)) if k != target and k not in fixed]
    chosen = np.array(list(permutations(others, 2 * num_differences + (kind == "random"))))
    base = U[chosen[:, 0]] if kind == "random" else np.broadcast_to(U[fixed[0]], (len(chosen), U.shape[1]))
    ends = chosen[:, -2 * num_differences :]
    moved = base + factor * sum(U[ends[:, k]] - U[ends[:, k + 1]] for k in range(0, 2 * num_differences, 2))
    is_moved = np.isclose(child, moved, rtol=0.0, atol=1e-12)
    return np.any((is_moved | (child == U[target])).all(axis=1) & is_moved.any(axis=1))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_trials_have_the_strategys_form(strategy):
    for seed in range(3):
        optimizer, state, U, loss = first_generation(seed=seed, strategy=strategy, mutation_factor=0.7)
        children = np.asarray(optimizer.ask(state))
        assert all(is_trial(child, k, U, loss, strategy, 0.7) for k, child in enumerate(children))
        # The check notices another factor, and a child that is a copy.
        assert not any(is_trial(child, k, U, loss, strategy, 0.71) for k, child in enumerate(children))
        assert not any(is_trial(U[k], k, U, loss, strategy, 0.7) for k in range(len(U)))


def test_one_free_parameter_is_changed_in_any_case():
    dim, members = 5, 50
    lower = jnp.array([-1.0, 0.5, -1.0, 0.5, -1.0])
    bounds = Bounds(lower, jnp.where(lower == 0.5, 0.5, 1.0))
    settings = {"strategy": "all1", "mutation_rate": 0.0, "population_size": members}
    optimizer = compiled(differential_evolution(bounds, **settings))
    U = jnp.where(lower == 0.5, 0.5, jax.random.uniform(jax.random.key(0), (members, dim), minval=-1.0))
    state = optimizer.tell(jax.random.key(2), optimizer.init(jax.random.key(1), U), Evaluation(jnp.arange(50.0)))
    is_changed = optimizer.ask(state) != U
    np.testing.assert_array_equal(is_changed.sum(axis=1), 1)
    np.testing.assert_array_equal(is_changed.any(axis=0), lower != 0.5)


def test_parameters_change_at_the_mutation_rate():
    members, dim, rate = 400, 20, 0.3
    optimizer, state, U, _ = first_generation(members, dim, strategy="all1", mutation_rate=rate)
    changed = np.mean(np.asarray(optimizer.ask(state)) != U)
    # 0.3 and, where none would change (0.7^20), one.
    expected = rate + 0.7**dim / dim
    assert abs(changed - expected) < 5 * np.sqrt(rate * (1 - rate) / (members * dim))
    assert abs(changed - 0.35) > 5 * np.sqrt(rate * (1 - rate) / (members * dim))


def test_a_trial_replaces_its_target_if_it_is_not_worse():
    optimizer, state, U, loss = first_generation()
    children = np.asarray(optimizer.ask(state))
    told = loss + np.array([-1.0, 0.0, 1.0, np.inf, np.nan, -0.1, 0.1, 0.0])
    is_replaced = np.array([True, True, False, False, False, True, False, True])
    state = optimizer.tell(jax.random.key(3), state, Evaluation(jnp.asarray(told)))
    np.testing.assert_array_equal(state.position, np.where(is_replaced[:, None], children, U))
    np.testing.assert_array_equal(state.loss, np.where(is_replaced, told, loss))
    positions, losses = optimizer.members(state)
    np.testing.assert_array_equal(losses, np.sort(state.loss))
    np.testing.assert_array_equal(positions[0], state.best_position)


def on_islands(**settings):
    """Return islands 1000 apart, of ten members each."""
    bounds = Bounds(jnp.full(2, -jnp.inf), jnp.full(2, jnp.inf))
    optimizer = compiled(differential_evolution(bounds, population_size=38, islands=4, **settings))
    assert optimizer.num_points == 40
    U = 1000.0 * (jnp.arange(40) // 10)[:, None] + jax.random.uniform(jax.random.key(0), (40, 2))
    state = optimizer.init(jax.random.key(1), U)
    return optimizer, optimizer.tell(jax.random.key(2), state, Evaluation(jnp.arange(40.0)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_islands_breed_by_themselves(strategy):
    optimizer, state = on_islands(strategy=strategy)
    home = 1000.0 * (np.arange(40) // 10)[:, None]
    assert np.all(np.abs(np.asarray(optimizer.ask(state)) - home) < 10.0)


def test_members_move_to_the_next_island_of_a_circle():
    optimizer, before = on_islands(migrate_every=3)
    worse = Evaluation(jnp.full(40, jnp.inf))
    same = optimizer.tell(jax.random.key(3), before, worse)
    np.testing.assert_array_equal(same.position, before.position)
    after = optimizer.tell(jax.random.key(4), same, worse)
    np.testing.assert_array_equal(np.sort(after.loss), np.sort(before.loss))
    np.testing.assert_array_equal(after.position, before.position[after.loss.astype(int)])
    origin = np.asarray(after.position[:, 0] // 1000.0).astype(int).reshape(4, 10)
    is_foreign = origin != np.arange(4)[:, None]
    np.testing.assert_array_equal(is_foreign.sum(axis=1), 3)
    sources = [set(row[foreign]) for row, foreign in zip(origin, is_foreign, strict=True)]
    assert all(len(source) == 1 for source in sources)
    island, seen = 0, []
    for _ in range(4):
        (island,) = sources[island]
        seen.append(int(island))
    assert sorted(seen) == [0, 1, 2, 3]


def told_in_parts(optimizer, loss_fn, *, rounds, parts):
    state = optimizer.init(jax.random.key(0), points(0, optimizer.num_points, box(4)))
    tell, losses = compiled(optimizer).tell, jax.jit(jax.vmap(loss_fn))
    for i in range(rounds):
        order = np.random.default_rng(i).permutation(optimizer.num_points)
        for index in np.split(order, parts):
            index = jnp.asarray(index)
            evaluation = Evaluation(losses(optimizer.ask(state)[index]), index=index)
            state = tell(jax.random.key(i + 1), state, evaluation)
    return state


def test_a_generation_may_be_told_in_parts_in_any_order():
    optimizer = differential_evolution(box(4), islands=2, migrate_every=3)
    whole, halves, singles = (told_in_parts(optimizer, rosenbrock, rounds=7, parts=parts) for parts in (1, 2, 40))
    jax.tree.map(np.testing.assert_array_equal, halves, whole)
    jax.tree.map(np.testing.assert_array_equal, singles, whole)


def test_the_best_point_is_known_before_its_generation_is_complete():
    optimizer, state, _, _ = first_generation()
    part = Evaluation(jnp.array([jnp.nan, -9.0]), index=jnp.array([6, 2]))
    told = optimizer.tell(jax.random.key(3), state, part)
    assert told.best_loss == -9.0
    np.testing.assert_array_equal(told.best_position, optimizer.ask(state)[2])
    np.testing.assert_array_equal(optimizer.ask(told), optimizer.ask(state))


def test_an_asynchronous_population_told_as_a_whole_is_a_generation():
    settings = {"islands": 2, "migrate_every": 3}
    synchronous, asynchronous = (
        differential_evolution(box(4), asynchronous=is_asynchronous, **settings) for is_asynchronous in (False, True)
    )
    expected = told_in_parts(synchronous, rosenbrock, rounds=7, parts=1)
    same = told_in_parts(asynchronous, rosenbrock, rounds=7, parts=1)
    jax.tree.map(np.testing.assert_array_equal, same, expected)
    singles = told_in_parts(asynchronous, rosenbrock, rounds=7, parts=40)
    assert np.any(singles.position != expected.position)


def test_asynchronous_single_tells_change_one_slot_and_converge():
    optimizer = compiled(differential_evolution(box(4), asynchronous=True, islands=2))
    state = optimizer.init(jax.random.key(0), points(0, 40, box(4)))
    one = optimizer.tell(jax.random.key(1), state, Evaluation(jnp.array([1.0]), index=jnp.array([7])))
    assert np.flatnonzero(np.any(one.candidates != state.candidates, axis=1)).tolist() == [7]
    assert (one.best_loss, one.num_told, bool(one.converged)) == (1.0, 1, False)
    state = told_in_parts(optimizer, sphere, rounds=40, parts=40)
    assert state.best_loss < 1e-3


def test_fixed_and_open_parameters():
    lower = jnp.array([0.5, -jnp.inf, -jnp.inf, 0.6])
    upper = jnp.array([0.5, jnp.inf, 0.1, jnp.inf])
    state, history = minimise(
        sphere,
        Bounds(lower, upper),
        rounds=200,
        design=Bounds(jnp.array([0.5, -9.0, -9.0, 0.6]), jnp.array([0.5, 9.0, 0.1, 9.0])),
    )
    np.testing.assert_allclose(history[:, -1], 0.2**2 + 0.2**2 + 0.3**2, atol=1e-4)
    assert np.all(state.candidates[..., 0] == 0.5)
    assert np.all((state.candidates >= lower) & (state.candidates <= upper))


def test_it_converges_once_all_losses_are_finite_and_close():
    optimizer = compiled(differential_evolution(box(2), population_size=10, tolerance=0.1))
    state = optimizer.init(jax.random.key(0), points(0, 10, box(2)))
    for losses in (jnp.full(10, jnp.inf), jnp.full(10, -3.0).at[4].set(jnp.nan), jnp.full(10, -3.0).at[4].set(-2.8)):
        state = optimizer.tell(jax.random.key(1), state, Evaluation(losses))
        assert not state.converged
        assert not state.finished
    state = optimizer.tell(jax.random.key(1), state, Evaluation(jnp.full(10, -2.95)))
    assert state.converged
    assert state.finished
    later = optimizer.tell(jax.random.key(2), state, Evaluation(jnp.full(10, -9.0)))
    jax.tree.map(np.testing.assert_array_equal, later, state)


def test_starts_are_mapped_with_bounds_of_their_own():
    def run(key, U, bounds):
        optimizer = differential_evolution(bounds)

        def step(state, i):
            evaluation = Evaluation(jax.vmap(sphere)(optimizer.ask(state)))
            return optimizer.tell(jax.random.fold_in(key, i), state, evaluation), None

        return jax.lax.scan(step, optimizer.init(key, U), jnp.arange(5))[0]

    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    bounds = Bounds(jnp.array([[-2.0, -2.0], [1.0, 1.0]]), jnp.array([[2.0, 2.0], [3.0, 1.0]]))
    U = jnp.stack([points(k, 20, Bounds(bounds.lower[k], bounds.upper[k])) for k in range(2)])
    mapped = jax.jit(jax.vmap(run))(keys, U, bounds)
    assert np.all((mapped.candidates >= bounds.lower[:, None]) & (mapped.candidates <= bounds.upper[:, None]))
    single = jax.jit(run)(keys[1], U[1], Bounds(bounds.lower[1], bounds.upper[1]))
    np.testing.assert_allclose(mapped.position[1], single.position, rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"strategy": "best3"}, "choose from"),
        ({"mutation_rate": 1.5}, "mutation_rate = 1.5"),
        ({"mutation_factor": 0.0}, "mutation_factor = 0.0"),
        ({"tolerance": -1.0}, "tolerance = -1.0"),
        ({"islands": 0}, "islands = 0"),
        ({"strategy": "rand2", "population_size": 5}, "needs 6"),
        ({"population_size": 20, "islands": 4, "num_to_migrate": 6}, "no fewer than 6"),
    ],
)
def test_impossible_settings_are_named(settings, said):
    with pytest.raises(ValueError, match=said):
        differential_evolution(box(4), **settings)
