import jax
import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import NSGAIISampler, nsgaii

from kinbayes.optimizers.base import Bounds, Evaluation
from kinbayes.optimizers.genetic import CROSSOVERS, genetic
from kinbayes.optimizers.initial import latin_hypercube
from kinbayes.optimizers.trials import quiet

KEY = jax.random.key(0)  # of what is told, which is not used


def sphere(U):
    return ((U - 0.3) ** 2).sum(axis=1)


def rosenbrock(U):
    return (100.0 * (U[:, 1:] - U[:, :-1] ** 2) ** 2 + (1.0 - U[:, :-1]) ** 2).sum(axis=1)


def rastrigin(U):
    return (10.0 + U**2 - 10.0 * np.cos(2.0 * np.pi * U)).sum(axis=1)


def on_a_wall(U):
    """Lowest at (2, 0.3, …), which is 1, in a box that ends at 2."""
    return (U[:, 0] - 3.0) ** 2 + sphere(U[:, 1:])


def cube(half_width: float, dim: int) -> Bounds:
    return Bounds(np.full(dim, -half_width), np.full(dim, half_width))


def begun(optimizer, bounds: Bounds, seed: int = 0):
    return optimizer.init(jax.random.key(seed), latin_hypercube(seed, optimizer.num_points, *bounds))


def minimise(loss_fn, optimizer, state):
    history = []
    while not state.finished:
        state = optimizer.tell(KEY, state, Evaluation(loss_fn(optimizer.ask(state))))
        history.append(float(state.best_loss))
    assert history == sorted(history, reverse=True)
    return state


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


BUDGETS = [
    (sphere, 4, 2.0, 1000, 0.01),
    (rosenbrock, 4, 2.0, 1000, 3.0),
    (rastrigin, 2, 5.12, 2000, 0.1),
    (on_a_wall, 4, 2.0, 1000, 1.1),
]


@pytest.mark.parametrize(("loss_fn", "dim", "half_width", "num_trials", "reached"), BUDGETS)
def test_the_optimum_is_reached_within_the_stated_budget(loss_fn, dim, half_width, num_trials, reached):
    bounds = cube(half_width, dim)
    optimizer = genetic(bounds, max_trials=num_trials)
    state = minimise(loss_fn, optimizer, begun(optimizer, bounds))
    assert state.best_loss <= reached
    assert state.best_loss == loss_fn(state.best_position[None])[0]
    assert not state.converged
    assert np.all(np.abs(state.positions) <= half_width)


@pytest.mark.parametrize("crossover", CROSSOVERS)
def test_every_crossover_beats_random_search(crossover):
    bounds = cube(2.0, 4)
    optimizer = genetic(bounds, population_size=20, crossover=crossover, max_trials=400)
    drawn = np.random.default_rng(0).uniform(-2.0, 2.0, size=(10, 400, 4))
    assert minimise(sphere, optimizer, begun(optimizer, bounds)).best_loss < min(sphere(U).min() for U in drawn)


def test_failures_are_survived_and_have_no_children():
    rng, bounds = np.random.default_rng(0), cube(2.0, 4)
    optimizer = genetic(bounds, population_size=20, max_trials=600)

    def fails_at_random(U):
        return np.where(rng.random(len(U)) < 0.3, rng.choice([np.nan, np.inf], len(U)), sphere(U))

    state = minimise(fails_at_random, optimizer, begun(optimizer, bounds))
    assert state.best_loss < 0.1
    assert state.best_loss == sphere(state.best_position[None])[0]


def test_where_all_fails_points_are_drawn_at_random():
    bounds = cube(2.0, 3)
    optimizer = genetic(bounds, population_size=10, max_trials=300)
    state = minimise(lambda U: np.full(len(U), np.nan), optimizer, begun(optimizer, bounds))
    assert state.best_loss == np.inf
    drawn = state.positions
    assert len(np.unique(drawn, axis=0)) == 300
    # Five standard errors of the mean of uniform draws.
    np.testing.assert_allclose(drawn.mean(axis=0), 0.0, atol=5.0 * 4.0 / np.sqrt(12.0 * 300))


def test_the_path_is_that_of_optuna():
    """With a crossover that makes no copies: where losses are equal, Optuna takes another of the equals."""
    bounds = cube(2.0, 3)
    optimizer = genetic(bounds, population_size=10, crossover_probability=1.0, max_trials=150)
    state = begun(optimizer, bounds)
    seed = int(state.seed)
    names, space = "abc", {name: FloatDistribution(-2.0, 2.0) for name in "abc"}
    with quiet():
        study = optuna.create_study()
        for first in range(0, 150, 10):
            round_seed = int(np.random.SeedSequence((seed, first)).generate_state(1)[0])
            study.sampler = NSGAIISampler(
                population_size=10, crossover=nsgaii.BLXAlphaCrossover(), crossover_prob=1.0, seed=round_seed
            )
            trials = [study.ask(space) for _ in range(10)]
            points = np.array([[trial.params[name] for name in names] for trial in trials])
            for trial, loss in zip(trials, rosenbrock(points), strict=True):
                study.tell(trial, loss)
    path = np.array([[trial.params[name] for name in names] for trial in study.trials])
    state = minimise(rosenbrock, optimizer, state._replace(candidates=path[:10]))
    np.testing.assert_array_equal(state.positions, path)


def test_the_key_decides_the_path():
    bounds = cube(2.0, 2)
    optimizer = genetic(bounds, population_size=10, max_trials=60)
    U = latin_hypercube(0, 10, *bounds)
    first, again, other = (
        minimise(rosenbrock, optimizer, optimizer.init(jax.random.key(seed), U)) for seed in (3, 3, 4)
    )
    assert_equal(first, again)
    assert not np.array_equal(first.positions, other.positions)


def test_what_is_told_part_by_part_in_any_order_is_told():
    bounds = cube(2.0, 3)
    optimizer = genetic(bounds, population_size=10, max_trials=60)
    whole = parts = begun(optimizer, bounds)
    rng = np.random.default_rng(0)
    for _ in range(4):
        losses = np.round(sphere(optimizer.ask(whole)))  # has ties
        whole = optimizer.tell(KEY, whole, Evaluation(losses))
        for index in np.array_split(rng.permutation(10), 3):
            parts = optimizer.tell(KEY, parts, Evaluation(losses[index], index=index))
        assert_equal(whole, parts)


def test_a_search_that_goes_on_from_its_arrays_is_the_one_that_was_not_interrupted():
    bounds = cube(2.0, 3)
    state = begun(genetic(bounds, population_size=10, max_trials=60), bounds)
    whole = minimise(rosenbrock, genetic(bounds, population_size=10, max_trials=60), state)
    while not state.finished:
        fresh = genetic(bounds, population_size=10, max_trials=60)
        saved = jax.tree.map(lambda leaf: np.frombuffer(leaf.tobytes(), leaf.dtype).reshape(leaf.shape), state)
        state = fresh.tell(KEY, saved, Evaluation(rosenbrock(fresh.ask(saved))))
    assert_equal(state, whole)


def test_open_sides_and_fixed_parameters():
    bounds = Bounds(np.array([-np.inf, 0.0, 0.5]), np.array([np.inf, np.inf, 0.5]))
    optimizer = genetic(bounds, population_size=20, max_trials=400)
    U = np.random.default_rng(0).uniform(0.0, 1.0, size=(20, 3))
    U[:, 2] = 0.5
    state = minimise(lambda U: ((U - 3.0) ** 2).sum(axis=1), optimizer, optimizer.init(jax.random.key(0), U))
    np.testing.assert_array_equal(state.positions[:, 2], 0.5)
    widened = 2.0 * U.max(axis=0) - U.min(axis=0)
    assert np.all(state.positions[:, :2] <= widened[:2])
    np.testing.assert_allclose(state.best_position[:2], widened[:2], atol=0.1)


def test_a_finished_search_stays_as_it_is():
    bounds = cube(2.0, 2)
    optimizer = genetic(bounds, population_size=8, max_trials=30)
    state = minimise(sphere, optimizer, begun(optimizer, bounds))
    assert state.num_trials == 24
    assert_equal(optimizer.tell(KEY, state, Evaluation(np.full(8, -1.0))), state)
    positions, losses = optimizer.members(state)
    np.testing.assert_array_equal(losses, np.sort(sphere(state.positions[:24]))[:8])
    np.testing.assert_array_equal(sphere(positions), losses)


def test_optuna_stays_silent_and_as_it_was(capfd):
    verbosity = optuna.logging.get_verbosity()
    bounds = cube(2.0, 2)
    optimizer = genetic(bounds, max_trials=120)
    minimise(sphere, optimizer, begun(optimizer, bounds))
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == verbosity


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crossover": "none"}, "unknown crossover 'none'"),
        ({"crossover": "spx", "population_size": 2}, "needs 3 parents"),
        ({"crossover_probability": 1.5}, "crossover_probability is 1.5"),
        ({"mutation_probability": -0.1}, "mutation_probability is -0.1"),
        ({"max_trials": 39}, "max_trials is 39"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        genetic(cube(1.0, 2), **settings)
