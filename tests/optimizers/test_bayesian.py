import math

import cmaes
import jax
import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution

from kinbayes.optimizers.base import Bounds, Evaluation
from kinbayes.optimizers.bayesian import bayesian
from kinbayes.optimizers.initial import latin_hypercube
from kinbayes.optimizers.trials import quiet

METHODS = ["tpe", "cma_es"]
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


def minimise(loss_fn, optimizer, state, *, rounds: int = 10_000):
    """Go on until the start has finished; return its state and the best losses on the way."""
    history = []
    for i in range(rounds):
        if state.finished:
            break
        candidates = optimizer.ask(state)
        assert candidates.shape == (optimizer.num_points, len(state.best_position))
        state = optimizer.tell(jax.random.key(i), state, Evaluation(loss_fn(candidates)))
        history.append(float(state.best_loss))
    assert history == sorted(history, reverse=True)
    return state


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


BUDGETS = [
    ("tpe", sphere, 4, 2.0, 200, 0.03),
    ("tpe", rosenbrock, 4, 2.0, 200, 10.0),
    ("tpe", rastrigin, 2, 5.12, 200, 2.0),
    ("tpe", on_a_wall, 4, 2.0, 200, 1.1),
    ("cma_es", sphere, 4, 2.0, 1200, 1e-8),
    ("cma_es", rosenbrock, 4, 2.0, 2500, 1e-8),
    ("cma_es", rastrigin, 2, 5.12, 1000, 7.0),
    ("cma_es", on_a_wall, 4, 2.0, 2000, 1.0 + 1e-6),
]


@pytest.mark.parametrize(("method", "loss_fn", "dim", "half_width", "num_trials", "reached"), BUDGETS)
def test_the_optimum_is_reached_within_the_stated_budget(method, loss_fn, dim, half_width, num_trials, reached):
    bounds = cube(half_width, dim)
    optimizer = bayesian(bounds, method=method, max_trials=num_trials)
    state = minimise(loss_fn, optimizer, begun(optimizer, bounds))
    assert state.best_loss <= reached
    assert state.best_loss == loss_fn(state.best_position[None])[0]
    assert state.finished
    assert state.converged == (method == "cma_es")
    assert np.all(np.abs(state.positions) <= half_width)


@pytest.mark.parametrize("method", METHODS)
def test_tpe_and_cma_es_beat_random_search(method):
    bounds = cube(2.0, 4)
    optimizer = bayesian(bounds, method=method, max_trials=160)
    drawn = np.random.default_rng(0).uniform(-2.0, 2.0, size=(20, 160, 4))
    assert minimise(sphere, optimizer, begun(optimizer, bounds)).best_loss < 0.5 * min(sphere(U).min() for U in drawn)


@pytest.mark.parametrize("method", METHODS)
def test_failures_are_survived(method):
    rng, bounds = np.random.default_rng(0), cube(2.0, 4)
    optimizer = bayesian(bounds, method=method, max_trials=200)

    def fails_at_random(U):
        return np.where(rng.random(len(U)) < 0.3, rng.choice([np.nan, np.inf], len(U)), sphere(U))

    state = minimise(fails_at_random, optimizer, begun(optimizer, bounds))
    assert state.best_loss < 0.2
    assert state.best_loss == sphere(state.best_position[None])[0]


@pytest.mark.parametrize("method", METHODS)
def test_where_all_fails_the_search_goes_on_until_it_is_finished(method):
    bounds = cube(2.0, 3)
    optimizer = bayesian(bounds, method=method, max_trials=400 if method == "cma_es" else 40)
    state = minimise(lambda U: np.full(len(U), np.nan), optimizer, begun(optimizer, bounds))
    assert state.finished
    assert not state.converged
    assert state.best_loss == np.inf
    assert np.all(optimizer.members(state)[1] == np.inf)
    assert len(np.unique(state.positions[: state.num_trials], axis=0)) == state.num_trials


@pytest.mark.parametrize("method", METHODS)
def test_a_region_that_fails_is_left(method):
    """Nine tenths of the box fail; draws at random would fail as often."""
    bounds = cube(1.0, 3)
    optimizer = bayesian(bounds, method=method, max_trials=160)

    def fails_mostly(U):
        return np.where(U[:, 0] < 0.8, np.nan, sphere(U))

    state = minimise(fails_mostly, optimizer, begun(optimizer, bounds))
    failed = state.losses[: state.num_trials] == np.inf
    assert failed[:16].mean() > 0.7
    assert failed[-40:].mean() < 0.5
    assert state.best_position[0] < 0.85


@pytest.mark.parametrize("method", METHODS)
def test_the_key_decides_the_path(method):
    bounds = cube(2.0, 2)
    optimizer = bayesian(bounds, method=method, max_trials=60)
    U = latin_hypercube(0, optimizer.num_points, *bounds)
    first, again, other = (
        minimise(rosenbrock, optimizer, optimizer.init(jax.random.key(seed), U)) for seed in (3, 3, 4)
    )
    assert_equal(first, again)
    assert not np.array_equal(first.positions, other.positions)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_told_part_by_part_in_any_order_is_told(method):
    bounds = cube(2.0, 3)
    optimizer = bayesian(bounds, method=method, max_trials=40)
    whole = parts = begun(optimizer, bounds)
    rng, n, keys = np.random.default_rng(0), optimizer.num_points, iter(jax.random.split(jax.random.key(9), 1000))
    for _ in range(4):
        losses = np.round(sphere(optimizer.ask(whole)))  # has ties
        whole = optimizer.tell(jax.random.key(0), whole, Evaluation(losses))
        candidates = optimizer.ask(parts)
        for index in np.array_split(rng.permutation(n), 3):
            np.testing.assert_array_equal(optimizer.ask(parts), candidates)
            parts = optimizer.tell(next(keys), parts, Evaluation(losses[index], index=index))
        assert_equal(whole, parts)


@pytest.mark.parametrize("method", METHODS)
def test_a_search_that_goes_on_from_its_arrays_is_the_one_that_was_not_interrupted(method):
    bounds = cube(2.0, 3)
    optimizer = bayesian(bounds, method=method, max_trials=64)
    state = begun(optimizer, bounds)
    whole = minimise(rosenbrock, optimizer, state)
    while not state.finished:
        fresh = bayesian(bounds, method=method, max_trials=64)
        saved = jax.tree.map(lambda leaf: np.frombuffer(leaf.tobytes(), leaf.dtype).reshape(leaf.shape), state)
        state = fresh.tell(KEY, saved, Evaluation(rosenbrock(fresh.ask(saved))))
    assert_equal(state, whole)


def test_a_state_can_be_told_twice():
    bounds = cube(2.0, 3)
    optimizer = bayesian(bounds, method="cma_es")
    state = minimise(sphere, optimizer, begun(optimizer, bounds), rounds=5)
    evaluation = Evaluation(sphere(optimizer.ask(state)))
    first = optimizer.tell(KEY, state, evaluation)
    optimizer.tell(KEY, first, evaluation)
    assert_equal(optimizer.tell(KEY, state, evaluation), first)


@pytest.mark.parametrize("method", METHODS)
def test_a_finished_search_stays_as_it_is(method):
    bounds = cube(2.0, 2)
    optimizer = bayesian(bounds, method=method, max_trials=30)
    state = minimise(sphere, optimizer, begun(optimizer, bounds))
    assert state.num_trials == 30 // optimizer.num_points * optimizer.num_points
    assert_equal(optimizer.tell(KEY, state, Evaluation(np.full(optimizer.num_points, -1.0))), state)


@pytest.mark.parametrize("method", METHODS)
def test_members_are_the_best_trials(method):
    bounds = cube(2.0, 2)
    optimizer = bayesian(bounds, method=method, max_trials=60)
    state = minimise(sphere, optimizer, begun(optimizer, bounds))
    positions, losses = optimizer.members(state)
    np.testing.assert_array_equal(losses, np.sort(sphere(state.positions[: state.num_trials]))[: len(losses)])
    np.testing.assert_array_equal(sphere(positions), losses)
    np.testing.assert_array_equal(positions[0], state.best_position)


@pytest.mark.parametrize("method", METHODS)
def test_open_sides_and_fixed_parameters(method):
    bounds = Bounds(np.array([-np.inf, 0.0, 0.5, -np.inf]), np.array([np.inf, np.inf, 0.5, 1.0]))
    optimizer = bayesian(bounds, method=method, max_trials=1200 if method == "cma_es" else 80)
    U = np.random.default_rng(0).uniform(0.0, 1.0, size=(optimizer.num_points, 4))
    U[:, 2] = 0.5
    far = np.array([20.0, 30.0, 0.5, -10.0])
    state = minimise(lambda U: ((U - far) ** 2).sum(axis=1), optimizer, optimizer.init(jax.random.key(0), U))
    tried = state.positions[: state.num_trials]
    assert np.all((tried >= bounds.lower) & (tried <= bounds.upper))
    np.testing.assert_array_equal(tried[:, 2], 0.5)
    if method == "cma_es":
        np.testing.assert_allclose(state.best_position, far, atol=1e-3)
    else:
        least, most = U.min(axis=0), U.max(axis=0)
        assert np.all(tried[:, :2] <= (2.0 * most - least)[:2])
        assert np.all(tried[:, 3] >= (2.0 * least - most)[3])
        assert np.any(tried[:, :2] > most[:2])


@pytest.mark.parametrize("method", METHODS)
def test_a_single_parameter(method):
    bounds = cube(2.0, 1)
    optimizer = bayesian(bounds, method=method, max_trials=100)
    assert minimise(sphere, optimizer, begun(optimizer, bounds)).best_loss < 1e-3


def test_the_path_of_cma_es_is_that_of_its_package():
    dim, bounds = 4, Bounds(np.zeros(4), np.ones(4))

    def loss_fn(U):
        return rosenbrock(4.0 * U - 2.0)

    optimizer = bayesian(bounds, method="cma_es", max_trials=1000)
    state = begun(optimizer, bounds)
    seed, design = int(state.seed), state.candidates
    state = minimise(loss_fn, optimizer, state)
    cma = cmaes.CMA(
        design[loss_fn(design).argmin()], 0.25, np.stack(bounds, axis=1), seed=seed,
        population_size=4 + math.floor(3 * math.log(dim)),
    )  # fmt: skip
    path = [design]
    for _ in range(int(state.num_trials) // cma.population_size - 1):
        path.append(np.array([cma.ask() for _ in range(cma.population_size)]))
        cma.tell(list(zip(path[-1], loss_fn(path[-1]), strict=True)))
    assert len(path) > 100
    np.testing.assert_array_equal(state.positions[: state.num_trials], np.concatenate(path))


def test_the_path_of_tpe_is_that_of_optuna():
    bounds = cube(2.0, 3)
    optimizer = bayesian(bounds, batch_size=5, max_trials=60)
    state = begun(optimizer, bounds)
    seed, design = int(state.seed), state.candidates
    state = minimise(rosenbrock, optimizer, state)
    names, space = "abc", {name: FloatDistribution(-2.0, 2.0) for name in "abc"}
    with quiet():
        study = optuna.create_study()
        for point in design:
            study.enqueue_trial(dict(zip(names, point, strict=True)))
        for first in range(0, 60, 5):
            round_seed = int(np.random.SeedSequence((seed, first)).generate_state(1)[0])
            study.sampler = optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=round_seed)
            trials = [study.ask(space) for _ in range(5)]
            points = np.array([[trial.params[name] for name in names] for trial in trials])
            for trial, loss in zip(trials, rosenbrock(points), strict=True):
                study.tell(trial, loss)
    path = [[trial.params[name] for name in names] for trial in study.trials]
    np.testing.assert_array_equal(state.positions, path)


def test_optuna_stays_silent_and_as_it_was(capfd):
    verbosity = optuna.logging.get_verbosity()
    bounds = cube(2.0, 2)
    optimizer = bayesian(bounds, max_trials=40)
    minimise(sphere, optimizer, begun(optimizer, bounds))
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == verbosity


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "gp"}, "unknown method 'gp'"),
        ({"max_trials": 5}, "max_trials is 5"),
        ({"batch_size": 0}, "a round has 0"),
        ({"method": "cma_es", "batch_size": 3}, "at least 4"),
        ({"method": "cma_es", "initial_step": 0.0}, "must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        bayesian(cube(1.0, 2), **settings)


def test_a_search_for_nothing_is_refused():
    with pytest.raises(ValueError, match="every parameter is fixed"):
        bayesian(Bounds(np.ones(2), np.ones(2)))
