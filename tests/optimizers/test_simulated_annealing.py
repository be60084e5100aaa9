from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kinbayes.optimizers.base import Bounds, Evaluation
from kinbayes.optimizers.simulated_annealing import ACCEPTANCE_RATE, GAIN, WIDE_PROBABILITY, simulated_annealing
from tests.landscapes import beyond_a_wall, box, failing, minimised, points, rastrigin, rosenbrock, sphere

minimise = partial(minimised, simulated_annealing)

# The loss that every start has reached after so many evaluations.
BUDGETS = {
    "sphere": (sphere, box(4), 20_000, 1e-6),
    "rosenbrock": (rosenbrock, box(4), 50_000, 0.5),
    "rastrigin": (rastrigin, box(2, 5.12), 15_000, 1e-4),
    "wall": (beyond_a_wall, box(4), 20_000, 1e-4),
    "failures": (failing, box(4), 20_000, 1e-4),
}


@pytest.mark.parametrize("name", BUDGETS)
def test_budgets_are_kept(name):
    loss, bounds, evaluations, goal = BUDGETS[name]
    state, history = minimise(loss, bounds, rounds=evaluations // 10)
    assert np.all(history[:, -1] <= goal)
    assert np.all(np.diff(history) <= 0.0)
    # Compiled anew the loss differs in its last digits.
    np.testing.assert_allclose(jax.vmap(loss)(state.best_position), state.best_loss, rtol=1e-6, atol=1e-12)
    assert np.all((state.chains.candidate >= bounds.lower) & (state.chains.candidate <= bounds.upper))


def compiled(optimizer):
    return optimizer._replace(tell=jax.jit(optimizer.tell))


def begun(losses, *, bounds=None, **settings):
    """Return chains of which the first points are told, one for each loss."""
    bounds = box(3) if bounds is None else bounds
    optimizer = compiled(simulated_annealing(bounds, num_chains=len(losses), **settings))
    U = points(0, len(losses), bounds)
    state = optimizer.init(jax.random.key(0), U)
    np.testing.assert_array_equal(optimizer.ask(state), U)
    return optimizer, optimizer.tell(jax.random.key(1), state, Evaluation(jnp.asarray(losses)))


@pytest.mark.parametrize(("rise", "temperature"), [(0.5, 1.0), (3.0, 2.0), (1.0, 4.0)])
def test_uphill_moves_are_accepted_with_metropolis_probability(rise, temperature):
    num = 20_000
    optimizer, before = begun(np.zeros(num), initial_inverse_temperature=1.0 / temperature, cooling=0.25)
    after = optimizer.tell(jax.random.key(2), before, Evaluation(jnp.full(num, rise)))
    is_moved = np.asarray(after.chains.loss == rise)
    probability = np.exp(-rise / temperature)
    error = np.sqrt(probability * (1.0 - probability) / num)
    assert abs(is_moved.mean() - probability) < 5.0 * error
    # The frequency is not that of a temperature 10 % higher.
    assert abs(is_moved.mean() - np.exp(-rise / (1.1 * temperature))) > 5.0 * error
    position = np.where(is_moved[:, None], before.chains.candidate, before.chains.position)
    np.testing.assert_array_equal(after.chains.position, position)
    np.testing.assert_allclose(after.chains.inverse_temperature, np.where(is_moved, 1.25, 1.0) / temperature)
    step = before.chains.log_step_size + GAIN * (is_moved - ACCEPTANCE_RATE)
    np.testing.assert_allclose(after.chains.log_step_size, np.minimum(step, 0.0))
    assert after.best_loss == 0.0


def test_moves_that_are_not_uphill_are_accepted_and_do_not_cool():
    optimizer, before = begun(np.zeros(4))
    losses = jnp.array([-1.0, 0.0, jnp.inf, jnp.nan])
    after = optimizer.tell(jax.random.key(2), before, Evaluation(losses))
    np.testing.assert_array_equal(after.chains.loss, [-1.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(after.chains.inverse_temperature, before.chains.inverse_temperature)
    np.testing.assert_array_equal(after.chains.best_loss, [-1.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(after.best_position, before.chains.candidate[0])
    positions, losses = optimizer.members(after)
    np.testing.assert_array_equal(losses, [-1.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(positions[0], after.best_position)


def test_moves_have_the_step_size_and_one_in_five_the_first():
    num, first, narrow = 20_000, 0.01, 1e-4
    bounds = Bounds(jnp.array([-4.0, 3.0, -jnp.inf, -jnp.inf]), jnp.array([6.0, 3.0, jnp.inf, 9.0]))
    optimizer = compiled(simulated_annealing(bounds, num_chains=num, step_size=first))
    U = jnp.tile(jnp.array([1.0, 3.0, 0.0, 0.0]), (num, 1))
    state = optimizer.tell(jax.random.key(1), optimizer.init(jax.random.key(0), U), Evaluation(jnp.zeros(num)))
    chains = state.chains._replace(log_step_size=jnp.full(num, jnp.log(narrow)))
    # Failures, so that every chain stays; their steps become shorter by the rate's part.
    state = optimizer.tell(jax.random.key(2), state._replace(chains=chains), Evaluation(jnp.full(num, jnp.inf)))
    steps = np.asarray(optimizer.ask(state) - U) / np.array([10.0, 1.0, 1.0, 1.0]) * np.sqrt(4.0)
    assert np.all(steps[:, 1] == 0.0)
    squares = (steps[:, [0, 2, 3]] ** 2).mean(axis=0)
    lengths = np.array([first, narrow * np.exp(-GAIN * ACCEPTANCE_RATE)])
    weights = np.array([WIDE_PROBABILITY, 1.0 - WIDE_PROBABILITY])
    expected = weights @ lengths**2
    error = np.sqrt((3.0 * weights @ lengths**4 - expected**2) / num)
    assert np.all(np.abs(squares - expected) < 5.0 * error)
    assert np.all(np.abs(squares - 1.25 * expected) > 5.0 * error)
    # Narrow moves are by far the most.
    assert abs(np.mean(np.abs(steps[:, 0]) < 5.0 * lengths[1]) - weights[1]) < 0.05


def test_a_cooled_chain_wanders_at_its_temperature():
    """At a fixed temperature the mean height above a bowl's minimum is dim / (2 β)."""
    dim, beta, num = 3, 50.0, 200
    optimizer = simulated_annealing(
        Bounds(jnp.full(dim, -jnp.inf), jnp.full(dim, jnp.inf)),
        num_chains=num,
        initial_inverse_temperature=beta,
        cooling=1e-12,
    )

    def step(state, i):
        told = Evaluation(jax.vmap(sphere)(optimizer.ask(state)))
        state = optimizer.tell(jax.random.fold_in(jax.random.key(1), i), state, told)
        return state, state.chains.loss

    state = optimizer.init(jax.random.key(0), points(0, num, box(dim)))
    _, losses = jax.jit(lambda state: jax.lax.scan(step, state, jnp.arange(1000)))(state)
    means = np.asarray(losses[200:]).mean(axis=0)  # of independent chains
    error = means.std() / np.sqrt(num)
    expected = dim / (2.0 * beta)
    # An adapted step size follows acceptance, and so the place: a few per cent, which annealing does not mind.
    assert abs(means.mean() - expected) < 5.0 * error + 0.05 * expected
    assert abs(means.mean() - 1.2 * expected) > 5.0 * error + 0.05 * expected


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


def test_chains_may_be_told_in_parts_in_any_order():
    optimizer = simulated_annealing(box(4))
    whole, halves, singles = (told_in_parts(optimizer, rosenbrock, rounds=30, parts=parts) for parts in (1, 2, 10))
    jax.tree.map(np.testing.assert_array_equal, halves, whole)
    jax.tree.map(np.testing.assert_array_equal, singles, whole)


def test_a_chain_that_is_told_moves_at_once_and_alone():
    optimizer, before = begun(np.arange(10.0))
    part = Evaluation(jnp.array([-1.0]), index=jnp.array([7]))
    after = optimizer.tell(jax.random.key(2), before, part)
    assert np.flatnonzero(np.any(after.chains.candidate != before.chains.candidate, axis=1)).tolist() == [7]
    assert after.best_loss == -1.0
    np.testing.assert_array_equal(after.best_position, before.chains.candidate[7])


def test_chains_do_not_depend_on_others():
    optimizer, state = begun(np.arange(10.0))
    losses = jnp.linspace(-1.0, 1.0, 10)
    one, other = (
        optimizer.tell(jax.random.key(2), state, Evaluation(each)).chains for each in (losses, losses.at[3].set(-9.0))
    )
    is_same = np.all(one.candidate == other.candidate, axis=1)
    assert np.flatnonzero(~is_same).tolist() in ([], [3])
    np.testing.assert_array_equal(np.delete(one.loss, 3), np.delete(other.loss, 3))


def test_fixed_and_open_parameters():
    lower = jnp.array([0.5, -jnp.inf, -jnp.inf, 0.6])
    upper = jnp.array([0.5, jnp.inf, 0.1, jnp.inf])
    design = Bounds(jnp.array([0.5, -9.0, -9.0, 0.6]), jnp.array([0.5, 9.0, 0.1, 9.0]))
    state, history = minimise(sphere, Bounds(lower, upper), rounds=2000, design=design)
    np.testing.assert_allclose(history[:, -1], 0.2**2 + 0.2**2 + 0.3**2, atol=1e-4)
    assert np.all(state.chains.candidate[..., 0] == 0.5)
    assert np.all((state.chains.candidate >= lower) & (state.chains.candidate <= upper))


def test_steps_on_an_open_plateau_stay_finite():
    bounds = Bounds(jnp.full(2, -jnp.inf), jnp.full(2, jnp.inf))
    state, _ = minimise(lambda u: 0.0 * u.sum(), bounds, rounds=900, num_starts=2, design=box(2))
    assert np.all(np.abs(state.chains.candidate) < 1000.0)


def test_it_has_converged_when_all_chains_are_cold():
    state, _ = minimise(sphere, box(4), rounds=2500, num_starts=3)
    assert np.all(state.finished & state.converged)
    assert np.all(state.chains.inverse_temperature >= 1e6)
    state, _ = minimise(sphere, box(4), rounds=1000, num_starts=3)
    assert not np.any(state.finished | state.converged)


def test_a_finished_search_does_not_change():
    optimizer, state = begun(np.zeros(4), initial_inverse_temperature=0.5, final_inverse_temperature=1.0, cooling=1.0)
    for i in range(9):
        state = optimizer.tell(jax.random.key(i + 2), state, Evaluation(state.chains.loss + 1e-9))
    assert state.finished
    assert state.converged
    later = optimizer.tell(jax.random.key(99), state, Evaluation(jnp.full(4, -9.0)))
    jax.tree.map(np.testing.assert_array_equal, later, state)


@pytest.mark.parametrize("loss", [0.0, np.inf, np.nan])
def test_it_gives_up_where_all_is_flat_or_fails(loss):
    optimizer, state = begun(np.full(3, loss), max_idle=5)
    finished = []
    for i in range(6):
        state = optimizer.tell(jax.random.key(i + 2), state, Evaluation(jnp.full(3, loss)))
        finished.append(bool(state.finished))
    assert finished.index(True) == (4 if loss == 0.0 else 3)
    assert not state.converged
    assert state.best_loss == (0.0 if loss == 0.0 else np.inf)


def test_starts_are_mapped_with_bounds_of_their_own():
    def run(key, U, bounds):
        optimizer = simulated_annealing(bounds)

        def step(state, i):
            evaluation = Evaluation(jax.vmap(sphere)(optimizer.ask(state)))
            return optimizer.tell(jax.random.fold_in(key, i), state, evaluation), None

        return jax.lax.scan(step, optimizer.init(key, U), jnp.arange(5))[0]

    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    bounds = Bounds(jnp.array([[-2.0, -2.0], [1.0, 1.0]]), jnp.array([[2.0, 2.0], [3.0, 1.0]]))
    U = jnp.stack([points(k, 10, Bounds(bounds.lower[k], bounds.upper[k])) for k in range(2)])
    mapped = jax.jit(jax.vmap(run))(keys, U, bounds).chains.candidate
    assert np.all((mapped >= bounds.lower[:, None]) & (mapped <= bounds.upper[:, None]))
    single = jax.jit(run)(keys[1], U[1], Bounds(bounds.lower[1], bounds.upper[1])).chains.candidate
    np.testing.assert_allclose(mapped[1], single, rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"step_size": 0.0}, "step_size = 0.0"),
        ({"cooling": -1.0}, "cooling = -1.0"),
        ({"num_chains": 0}, "num_chains = 0"),
        ({"max_idle": 0}, "max_idle = 0"),
        ({"initial_inverse_temperature": 2.0, "final_inverse_temperature": 1.0}, "choose it above"),
    ],
)
def test_impossible_settings_are_named(settings, said):
    with pytest.raises(ValueError, match=said):
        simulated_annealing(box(4), **settings)
