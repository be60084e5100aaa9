import importlib

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from kinbayes.run.loop.driver import run_sampler
from kinbayes.samplers.base import metropolis
from kinbayes.samplers.dream import MODE_JUMP, SNOOKER, crossover_probabilities, dream
from kinbayes.samplers.random_walk import random_walk
from tests import targets


def draw(known, factory=dream, settings=(), *, num_warmup=1000, num_draws=20_000, seed=0):
    return run_sampler(
        known.target,
        factory,
        settings,
        initial=known.initial,
        num_warmup=num_warmup,
        num_draws=num_draws,
        seed=seed,
        chunk=20_000,
    )


def warm(target, U, *, steps, seed=0, **settings):
    """Tune for some steps; return the sampler, its state, and all positions (steps, chains, dim)."""
    sampler = dream(target, num_warmup=steps, **settings)

    def step(state, key):
        state = sampler.tune(*sampler.step(key, state))
        return state, state.position

    @jax.jit
    def tuned(key):
        init_key, step_key = jax.random.split(key)
        return jax.lax.scan(step, sampler.init(init_key, jnp.asarray(U)), jax.random.split(step_key, steps))

    return sampler, *tuned(jax.random.key(seed))


def placed(target, state, U):
    """Put chains, of any number, elsewhere."""
    U = jnp.asarray(U)
    return state._replace(position=U, log_prior=target.log_prior(U), log_likelihood=target.log_likelihood(U))


def first_steps(U, tuning, **settings):
    """Take the first step of many chains where all is flat, with some of the tuning replaced."""
    sampler = dream(flat(U.shape[1]), num_warmup=0, **settings)

    @jax.jit
    def step(U):
        state = sampler.init(jax.random.key(0), U)
        state = state._replace(tuning=state.tuning._replace(**tuning))
        return sampler.step(jax.random.key(1), state)

    moved, info = step(U)
    return np.asarray(moved.position), info


def flat(dim):
    walls = np.full(dim, np.inf)
    return targets.build_target(_flat, _flat, {}, -walls, walls)


def _flat(data, u):
    return 0.0 * u.sum()


# What the sampler draws from.


@pytest.fixture(scope="module")
def correlated_run():
    return draw(targets.correlated_normal(dim=9))


def test_correlated_draws_have_the_known_moments_and_quantiles(correlated_run):
    assert correlated_run.diagnostics[-1].max_rhat < 1.02
    assert targets.worst_error(correlated_run.position, targets.correlated_normal(dim=9)) < 5


@pytest.mark.parametrize(
    "known",
    [targets.log_gamma(), targets.against_walls(), targets.correlated_normal(dim=1)],
    ids=["skewed", "walls", "one parameter"],
)
def test_draws_have_the_known_moments_and_quantiles(known):
    run = draw(known)
    assert np.all((run.position >= np.asarray(known.target.lower)) & (run.position <= np.asarray(known.target.upper)))
    assert targets.worst_error(run.position, known) < 5


def test_an_evaluation_is_worth_more_than_one_of_a_random_walk(correlated_run):
    walk = draw(targets.correlated_normal(dim=9), random_walk)
    # 0.016 and 0.005 effective draws an evaluation.
    assert correlated_run.diagnostics[-1].min_ess_bulk > 2 * walk.diagnostics[-1].min_ess_bulk


# What one step leaves invariant, the archive being frozen.


def changes(target, exact, settings, seed=1):
    """Take two steps from exact draws; return the changes of mean functions of them, in standard errors."""
    sampler, state, _ = warm(target, exact[:4], steps=30, **settings)
    begun = placed(target, state, exact[4:])

    @jax.jit
    def stepped(state):
        first_key, second_key = jax.random.split(jax.random.key(seed))
        return sampler.step(second_key, sampler.step(first_key, state)[0])[0]

    centre = np.asarray(state.tuning.mean)

    def functions(u):
        distance = np.linalg.norm(u - centre, axis=1)
        return np.column_stack([u, u**2, u.prod(axis=1), np.exp(u[:, 0]), distance, distance < 1.0])

    change = functions(np.asarray(stepped(begun).position)) - functions(exact[4:])
    return np.abs(change.mean(axis=0)) / (change.std(axis=0) / np.sqrt(len(change)))


def skewed_pair(number=100_000):
    """Logarithms of gamma variables."""
    exact = scipy.stats.loggamma.rvs([4.0, 1.0], [-np.log(4.0), 0.0], size=(number, 2), random_state=7)
    return targets.log_gamma().target, exact


def half_line(number=100_000):
    """Exponential, against a wall."""
    target = targets.build_target(_flat, _falling, {}, np.zeros(1), np.full(1, np.inf))
    return target, scipy.stats.expon.rvs(size=(number, 1), random_state=8)


def _falling(data, u):
    return -u.sum()


MOVES = {
    "jumps": {"snooker_probability": 0.0, "mode_jump_probability": 0.0},
    "mode jumps": {"snooker_probability": 0.0, "mode_jump_probability": 1.0},
    "snookers": {"snooker_probability": 1.0},
    "all": {},
}


@pytest.mark.parametrize("settings", MOVES.values(), ids=MOVES)
@pytest.mark.parametrize("exact_draws", [half_line, skewed_pair])
def test_a_step_leaves_the_target_invariant(exact_draws, settings):
    assert changes(*exact_draws(), settings).max() < 5


def test_the_comparison_notices_a_snooker_without_its_volume(monkeypatch):
    module = importlib.import_module("kinbayes.samplers.dream")
    monkeypatch.setattr(module, "metropolis", lambda *args: metropolis(*args[:4]))
    assert changes(*skewed_pair(), MOVES["snookers"]).max() > 50


# The moves.


def test_crossover_moves_the_right_number_of_parameters():
    dim = 9
    position, info = first_steps(np.zeros((50_000, dim)), {})
    numbers = (position != 0.0).sum(axis=1)
    # Binomial, but for one where it is none.
    for move, share in enumerate([1 / 3, 2 / 3, 1.0]):
        made = numbers[info.move == move]
        assert made.min() >= 1
        expected = dim * share + (1 - share) ** dim
        assert abs(made.mean() - expected) < 5 * made.std() / np.sqrt(made.size) + 1e-12
    assert np.all(numbers[info.move == MODE_JUMP] == dim)
    # Some snookers are refused, for their volume.
    assert set(numbers[info.move == SNOOKER]) == {0, dim}


def test_moves_are_as_frequent_as_asked():
    tuning = {"jumps": jnp.array([1.0, 2.0, 3.0]), "uses": jnp.array([1.0, 1.0, 0.5])}
    settings = {"snooker_probability": 0.3, "mode_jump_probability": 0.2}
    _, info = first_steps(np.zeros((50_000, 2)), tuning, **settings)
    crossover = 0.9 * np.array([1.0, 2.0, 6.0]) / 9.0 + 0.1 / 3.0
    expected = 50_000 * np.array([*(0.7 * 0.8 * crossover), 0.7 * 0.2, 0.3])
    assert scipy.stats.chisquare(np.bincount(info.move), expected).pvalue > 1e-6


def test_every_pair_of_different_rows_is_as_likely():
    # The usable rows lie around the seam of the ring, and 100 is not one of them.
    ring = jnp.array([[0.0], [1.0], [100.0], [3.0], [7.0]])
    tuning = {"archive": ring, "written": jnp.array(7), "usable": jnp.array(4)}
    settings = {"snooker_probability": 0.0, "mode_jump_probability": 1.0}
    position, _ = first_steps(np.zeros((50_000, 1)), tuning, **settings)
    jumps, counts = np.unique(np.round(position), return_counts=True)
    np.testing.assert_array_equal(jumps, [-7, -6, -4, -3, -2, -1, 1, 2, 3, 4, 6, 7])
    assert scipy.stats.chisquare(counts).pvalue > 1e-6


def test_a_chain_on_a_row_of_the_archive_has_no_line_to_it():
    ring = jnp.array([[1.0, 1.0], [2.0, 1.0], [0.0, 4.0]])
    tuning = {"archive": ring, "written": jnp.array(3), "usable": jnp.array(3)}
    position, info = first_steps(np.ones((1000, 2)), tuning, snooker_probability=1.0)
    for values in (position, *(getattr(info, name) for name in set(info._fields) - {"proposed"})):
        assert np.isfinite(values).all()
    np.testing.assert_array_equal(np.isnan(info.proposed.position).all(axis=1), info.acceptance_rate == 0.0)
    # A third of the rows is where the chains are.
    assert abs((info.acceptance_rate == 0.0).mean() - 1 / 3) < 5 * np.sqrt(2 / 9 / 1000)


def test_mode_jumps_find_the_weights_of_the_modes():
    known = modes()
    run = draw(known, num_warmup=2000)
    assert targets.worst_error(run.position, known) < 5
    without = draw(known, settings=(("mode_jump_probability", 0.0),), num_warmup=2000)
    # How often a chain changes modes: 2 % of the steps, and hardly ever.
    assert _changes_of_mode(run) > 10 * _changes_of_mode(without)


def modes():
    """Two normal modes, with weights 0.3 and 0.7, twenty standard deviations apart along each axis."""
    walls = np.full(2, np.inf)
    target = targets.build_target(_flat, _two_modes, {}, -walls, walls)
    initial = np.array([[-10.0, -10.0], [10.0, 10.0], [-9.0, -11.0], [9.0, 11.0]])
    mean, sd = 10.0 * 0.4, np.sqrt(1.0 + 100.0 * (1.0 - 0.4**2))
    low, high = scipy.stats.norm.ppf(0.05 / 0.3) - 10.0, scipy.stats.norm.ppf(1.0 - 0.05 / 0.7) + 10.0
    return targets.KnownTarget(target, *(np.full(2, value) for value in (mean, sd, low, high)), initial)


def _two_modes(data, u):
    left, right = -0.5 * ((u + 10.0) ** 2).sum(), -0.5 * ((u - 10.0) ** 2).sum()
    return jnp.logaddexp(jnp.log(0.3) + left, jnp.log(0.7) + right)


def _changes_of_mode(run):
    return np.diff(run.position[:, :, 0] > 0.0, axis=1).sum()


# What warmup learns.


def test_crossover_probabilities_follow_the_correlation():
    def tuned(correlation):
        known = targets.correlated_normal(dim=9, correlation=correlation)
        return crossover_probabilities(draw(known, num_warmup=3000, num_draws=0).state.tuning)

    # Without correlation a jump goes as far in any number of dimensions: 2.38^2 in sum, at similar acceptance.
    np.testing.assert_allclose(tuned(0.0), 1 / 3, atol=0.06)
    _, _, full = tuned(0.95)
    assert full > 0.5


@pytest.mark.parametrize("steps", [300, 3000])
def test_the_archive_spans_the_last_third_of_warmup(steps):
    known = targets.correlated_normal()
    _, state, positions = warm(known.target, known.initial, steps=steps)
    tuning = state.tuning
    usable = np.asarray(tuning.archive)[(int(tuning.written) - 1 - np.arange(tuning.usable)) % len(tuning.archive)]
    last = {row.tobytes(): step for step, rows in enumerate(np.asarray(positions)) for row in rows}
    written = np.array([last[row.tobytes()] for row in usable])
    assert 0.62 * steps < written.min() < 0.7 * steps
    assert written.max() >= steps - 3


def test_the_first_archive_lies_between_the_walls():
    known = targets.against_walls()
    state = dream(known.target, num_warmup=1).init(jax.random.key(0), jnp.asarray(known.initial))
    rows = np.asarray(state.tuning.archive)[: int(state.tuning.usable)]
    assert len(np.unique(rows, axis=0)) == len(rows) == 40
    assert np.all((rows > known.target.lower) & (rows < known.target.upper))


def test_a_posterior_a_thousand_times_narrower_than_its_walls_is_found():
    known = narrow()
    run = draw(known, num_warmup=600)
    assert run.diagnostics[-1].max_rhat < 1.02
    assert targets.worst_error(run.position, known) < 5


def narrow():
    """Five parameters with correlation 0.8 and standard deviations of a thousandth of the walls' distance."""
    dim = 5
    lower = np.full(dim, -5.0)
    rng = np.random.default_rng(9)
    mean, covariance = rng.uniform(-4.0, 4.0, size=dim), 1e-4 * (0.8 + 0.2 * np.eye(dim))
    data = {"mean": mean, "precision": np.linalg.inv(covariance)}
    low, high = (mean + 0.01 * scipy.stats.norm.ppf(q) for q in (0.05, 0.95))
    target = targets.build_target(_flat, _normal, data, lower, -lower)
    return targets.KnownTarget(target, mean, np.full(dim, 0.01), low, high, rng.uniform(-5.0, 5.0, size=(4, dim)))


def _normal(data, u):
    return -0.5 * (u - data["mean"]) @ data["precision"] @ (u - data["mean"])


def test_parameters_of_very_different_scales_are_found():
    walls = np.full(3, np.inf)
    sd = np.array([0.01, 1.0, 100.0])
    target = targets.build_target(_flat, _normal, {"mean": np.zeros(3), "precision": np.diag(sd**-2)}, -walls, walls)
    initial = sd * np.random.default_rng(5).normal(size=(4, 3))
    low, high = (sd * scipy.stats.norm.ppf(q) for q in (0.05, 0.95))
    known = targets.KnownTarget(target, np.zeros(3), sd, low, high, initial)
    run = draw(known)
    assert targets.worst_error(run.position, known) < 5
    # Jumps as long as theory has them need no factor, once the archive is the posterior's.
    assert abs(run.state.tuning.log_step_size) < 0.3


def test_rungs_of_different_temperature_are_one_batch():
    # A normal prior, and 1.5 measured with precision 4: the precision at beta is 1 + 4 beta.
    known = targets.correlated_normal(dim=1)
    betas = jnp.array([0.0, 0.25, 1.0])

    def ladder(key, beta):
        sampler = dream(known.target._replace(beta=beta), num_warmup=500)

        def step(state, i):
            state, info = sampler.step(jax.random.fold_in(key, i), state)
            return jax.lax.cond(i < 500, sampler.tune, lambda state, info: state, state, info), state.position

        return jax.lax.scan(step, sampler.init(key, jnp.asarray(known.initial)), jnp.arange(5500))[1]

    positions = jax.jit(jax.vmap(ladder))(jax.random.split(jax.random.key(3), 3), betas)
    for beta, position in zip(betas, np.asarray(positions)[:, 500:, :, 0], strict=True):
        draws = position.T
        mean, variance = 6.0 * beta / (1.0 + 4.0 * beta), 1.0 / (1.0 + 4.0 * beta)
        for values, expected in [(draws, mean), (draws**2, mean**2 + variance)]:
            error = values.std() / np.sqrt(arviz.ess(values, method="mean"))
            assert abs(values.mean() - expected) < 5 * error


@pytest.mark.parametrize(
    ("name", "value"), [("snooker_probability", 1.5), ("mode_jump_probability", -0.1), ("target_acceptance", 23.4)]
)
def test_a_setting_that_is_no_probability_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} = {value} is no probability"):
        dream(flat(1), num_warmup=0, **{name: value})
