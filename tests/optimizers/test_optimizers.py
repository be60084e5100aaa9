"""The contract that every optimizer in the registry keeps."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.tree_util import Partial
from jaxtyping import Float

from kinbayes.optimizers import OPTIMIZERS
from kinbayes.optimizers.base import Bounds, Evaluation, Optimizer, OptimizerState
from kinbayes.optimizers.initial import latin_hypercube
from kinbayes.run.loop.driver import run_optimizer

DIM = 4
OUTSIDE = -1e9  # the loss of candidates beyond the walls: an optimizer that has one ever ends there
TRACES = []


class Numbers(NamedTuple):
    """What is in the problems: they share one program, so that each optimizer is compiled once for all of them."""

    lower: Float[np.ndarray, " dim"]
    upper: Float[np.ndarray, " dim"]
    centre: Float[np.ndarray, " dim"]
    straight: Float[np.ndarray, " dim"]  # weights of (u - centre)²
    wavy: Float[np.ndarray, " dim"]  # of 20 sin²(πu)
    curved: Float[np.ndarray, ""]  # of 100 (uᵢ₊₁ - uᵢ²)²
    failing: Float[np.ndarray, ""]  # the share of all points where it cannot be evaluated


def numbers(lower, upper, *, centre=0.0, straight=1.0, wavy=0.0, curved=0.0, failing=0.0) -> Numbers:
    vectors = (np.broadcast_to(np.asarray(x, float), DIM) for x in (lower, upper, centre, straight, wavy))
    return Numbers(*vectors, np.asarray(curved, float), np.asarray(failing, float))


SPHERE = numbers(-2.0, 2.0, centre=0.3)
ROSENBROCK = numbers(-2.0, 2.0, centre=1.0, straight=[1.0, 1.0, 1.0, 0.0], curved=1.0)
# Of two parameters: the others are fixed.
RASTRIGIN = numbers([-2.5, -2.5, 0.0, 0.0], [1.5, 1.5, 0.0, 0.0], wavy=1.0)
WALL = ROSENBROCK._replace(upper=np.full(DIM, 0.8))
PROBLEMS = {"sphere": SPHERE, "rosenbrock": ROSENBROCK, "rastrigin": RASTRIGIN, "wall": WALL}


class Effort(NamedTuple):
    """How many starts an optimizer gets, and after how many evaluations in all it is how close to the lowest loss."""

    num_starts: int
    sphere: tuple[int, float]
    rosenbrock: tuple[int, float]
    rastrigin: tuple[int, float]
    wall: tuple[int, float]


EFFORTS = {
    "bayesian": Effort(1, (300, 0.1), (300, 20.0), (300, 2.0), (300, 2.0)),
    "differential_evolution": Effort(2, (10_000, 1e-6), (60_000, 2.0), (6000, 1e-6), (40_000, 1.0)),
    "genetic": Effort(1, (300, 0.5), (300, 30.0), (300, 3.0), (300, 30.0)),
    "multistart": Effort(16, (100, 1e-6), (500, 1e-6), (200, 1e-6), (400, 1e-6)),
    "particle_swarm": Effort(2, (10_000, 1e-6), (60_000, 2e-2), (12_000, 1e-6), (15_000, 1e-4)),
    "quasi_newton": Effort(16, (200, 1e-6), (1500, 1e-6), (500, 1e-6), (1500, 1e-6)),
    "scatter_search": Effort(2, (4000, 1e-6), (60_000, 1e-2), (6000, 1e-6), (20_000, 1e-4)),
    "simplex": Effort(16, (6000, 1e-6), (25_000, 1e-6), (10_000, 1e-6), (20_000, 1e-6)),
    "simulated_annealing": Effort(2, (40_000, 1e-5), (60_000, 0.5), (20_000, 5e-3), (40_000, 1e-2)),
}
TRACEABLE = sorted(name for name in OPTIMIZERS if OPTIMIZERS[name](Bounds(np.zeros(DIM), np.ones(DIM))).is_traceable)


def _residuals(problem: Numbers, u):
    return jnp.concatenate(
        [
            jnp.sqrt(2.0 * problem.straight) * (u - problem.centre),
            jnp.sqrt(40.0 * problem.wavy) * jnp.sin(jnp.pi * u),
            jnp.sqrt(200.0 * problem.curved) * (u[1:] - u[:-1] ** 2),
        ]
    )


def _evaluated(problem: Numbers, U) -> Evaluation:
    """Half the sum of squared residuals, its gradient and Gauss and Newton's information."""
    TRACES.append(U.shape)
    r = jax.vmap(functools.partial(_residuals, problem))(U)
    J = jax.vmap(jax.jacfwd(functools.partial(_residuals, problem)))(U)
    loss, gradient = 0.5 * jnp.sum(r**2, axis=1), jnp.einsum("nri,nr->ni", J, r)
    is_outside = ((problem.lower > U) | (problem.upper < U)).any(axis=1)
    loss = jnp.where(is_outside, OUTSIDE, loss)
    # By chance, but always the same at the same point.
    chance = jnp.mod(43758.5453 * jnp.sin(U @ jnp.array([12.9898, 78.233, 37.719, 55.131])), 1.0)
    failure = jnp.where(chance < 0.5 * problem.failing, jnp.nan, jnp.inf)
    fails = chance < problem.failing
    return Evaluation(
        jnp.where(fails, failure, loss),
        jnp.where(fails[:, None], jnp.nan, gradient),
        jnp.where(fails[:, None, None], jnp.nan, jnp.einsum("nri,nrj->nij", J, J)),
    )


evaluate = jax.jit(_evaluated)


def starting_points(problem: Numbers, num_starts: int, num_points: int, seed: int = 1) -> np.ndarray:
    if num_points == 1:
        return latin_hypercube(seed, num_starts, problem.lower, problem.upper)[:, None]
    return np.stack([latin_hypercube(seed + k, num_points, problem.lower, problem.upper) for k in range(num_starts)])


def bounds_of(problem: Numbers) -> Bounds:
    return Bounds(*map(jnp.asarray, problem[:2]))


def bound(name: str, problem: Numbers) -> Optimizer:
    return OPTIMIZERS[name](bounds_of(problem))


def minimise(name: str, problem: Numbers, max_evaluations: int, *, seed: int = 0, **settings):
    return run_optimizer(
        Partial(_evaluated, problem),
        OPTIMIZERS[name],
        bounds=bounds_of(problem),
        initial=starting_points(problem, EFFORTS[name].num_starts, bound(name, problem).num_points),
        max_evaluations=max_evaluations,
        seed=seed,
        **settings,
    )


@functools.cache
def run_of(name: str, problem: str):
    return minimise(name, PROBLEMS[problem], getattr(EFFORTS[name], problem)[0])


@functools.cache
def lowest(problem: str) -> scipy.optimize.OptimizeResult:
    """SciPy's L-BFGS-B from a point near the optimum."""
    return oracle(PROBLEMS[problem])


def oracle(problem: Numbers) -> scipy.optimize.OptimizeResult:
    def loss(u):
        evaluation = evaluate(problem, jnp.asarray(u)[None])
        return float(evaluation.loss[0]), np.asarray(evaluation.gradient[0])

    near, walls = np.clip(problem.centre - 0.1, *problem[:2]), list(zip(*problem[:2], strict=True))
    settings = {"ftol": 1e-15, "gtol": 1e-9}
    return scipy.optimize.minimize(loss, near, jac=True, method="L-BFGS-B", bounds=walls, options=settings)


def test_the_oracle_finds_what_is_known():
    for problem in ("sphere", "rosenbrock", "rastrigin"):
        np.testing.assert_allclose(lowest(problem).fun, 0.0, atol=1e-12)
    assert (lowest("wall").x == 0.8).any()
    assert (lowest("wall").x < 0.8).any()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_optimum_is_reached_inside_the_bounds(name, problem):
    run, exact = run_of(name, problem), lowest(problem)
    _, tolerance = getattr(EFFORTS[name], problem)
    assert exact.fun - 1e-9 <= run.loss.min() <= exact.fun + tolerance
    for position, loss in zip(run.position, run.loss, strict=True):
        np.testing.assert_allclose(evaluate(PROBLEMS[problem], position[None]).loss[0], loss, rtol=1e-9, atol=1e-12)


def test_the_comparison_notices_another_optimum_and_candidates_outside():
    other = oracle(WALL._replace(upper=np.full(DIM, 0.79)))
    assert other.fun - lowest("wall").fun > 1e-2
    assert evaluate(WALL, jnp.array([[0.0, 0.0, 0.0, 0.8 + 1e-12]])).loss[0] == OUTSIDE


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_best_loss_never_rises_and_is_that_of_the_best_member(name):
    run = run_of(name, "rosenbrock")
    assert np.all(np.diff(run.history) <= 0.0)
    assert run.history[-1] == run.loss.min()
    assert run.evaluations == run.counts[-1] <= EFFORTS[name].rosenbrock[0]
    has_member = np.isfinite(run.member_losses[:, 0])
    assert has_member.any()
    for members, losses in zip(run.members, run.member_losses, strict=True):
        losses = losses[: np.isfinite(losses).sum()]  # +inf where there is none, which is last
        assert np.all(np.diff(losses) >= 0.0)
        again = evaluate(ROSENBROCK, jnp.asarray(members)).loss[: len(losses)]
        np.testing.assert_allclose(again, losses, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_random_failures_are_survived(name):
    max_evaluations, tolerance = EFFORTS[name].sphere
    run = minimise(name, SPHERE._replace(failing=np.array(0.3)), max_evaluations)
    assert -1e-9 <= run.loss.min() <= max(100.0 * tolerance, 1e-2)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nothing_but_failures_is_survived(name):
    run = minimise(name, SPHERE._replace(failing=np.array(1.0)), 300)
    assert run.stopped in ("finished", "max_evaluations")
    assert np.all(run.loss == np.inf)
    assert not run.converged.any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_seed_decides_the_path(name):
    first, again = (minimise(name, ROSENBROCK, 300) for _ in range(2))
    np.testing.assert_array_equal(first.history, again.history)
    np.testing.assert_array_equal(first.position, again.position)


@pytest.mark.parametrize("name", TRACEABLE)
def test_new_numbers_trace_nothing(name):
    minimise(name, ROSENBROCK, 1000)
    before = len(TRACES)
    run = minimise(name, SPHERE._replace(upper=np.full(DIM, 1.9)), 1000)
    assert len(TRACES) == before
    assert run.evaluations > 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loss_that_is_good_enough_stops_it(name):
    reached = run_of(name, "sphere")
    target = float(np.median(reached.history))
    run = minimise(name, SPHERE, EFFORTS[name].sphere[0], target_loss=target)
    assert run.stopped == "target_loss"
    assert run.loss.min() <= target
    assert len(run.history) == 1 + np.argmax(reached.history <= target)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_evaluations_are_limited(name):
    optimizer, num_starts = bound(name, ROSENBROCK), EFFORTS[name].num_starts
    start = starting_points(ROSENBROCK, 1, optimizer.num_points)[0]
    batch = num_starts * len(optimizer.ask(optimizer.init(jax.random.key(0), jnp.asarray(start))))
    run = minimise(name, ROSENBROCK, 3 * batch - 1)
    assert run.stopped == "max_evaluations"
    assert run.evaluations == 2 * batch
    assert len(run.history) == 2


@functools.cache
def compiled_tell(name: str):
    """`tell` with the bounds before its arguments."""

    def tell(bounds, key, state, evaluation):
        return OPTIMIZERS[name](bounds).tell(key, state, evaluation)

    return jax.jit(tell) if name in TRACEABLE else tell


class Start:
    """One start of an optimizer, told by hand."""

    def __init__(self, name: str, problem: Numbers):
        self.problem, self.optimizer = problem, bound(name, problem)
        self.tell = functools.partial(compiled_tell(name), bounds_of(problem))
        self.points = starting_points(problem, 1, self.optimizer.num_points)[0]
        state = self.optimizer.init(jax.random.key(0), jnp.asarray(self.points))
        # As the driver has it: JAX compiles anew for arrays whose type is weak.
        self.state = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype) if name in TRACEABLE else leaf, state)

    def evaluation(self) -> Evaluation:
        candidates = np.asarray(self.optimizer.ask(self.state))
        assert np.all((candidates >= self.problem.lower) & (candidates <= self.problem.upper))
        return jax.tree.map(np.asarray, evaluate(self.problem, candidates))


def assert_same(first: OptimizerState, second: OptimizerState) -> None:
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_first_candidates_include_the_points(name):
    start = Start(name, SPHERE)
    candidates = np.asarray(start.optimizer.ask(start.state))
    for point in start.points:
        assert (candidates == point).all(axis=1).any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_told_in_parts_and_in_any_order_makes_no_difference(name):
    whole, parts = Start(name, SPHERE), Start(name, SPHERE)
    n, rng = len(whole.optimizer.ask(whole.state)), np.random.default_rng(0)
    num_parts = next((k for k in range(2, n + 1) if n % k == 0), 1)
    for i in range(20):
        key = jax.random.fold_in(jax.random.key(1), i)
        evaluation = whole.evaluation()
        whole.state = whole.tell(key, whole.state, evaluation)
        for index in rng.permutation(n).reshape(num_parts, -1):
            part = jax.tree.map(lambda leaf, index=index: leaf[index], evaluation)
            parts.state = parts.tell(key, parts.state, part._replace(index=index))
        assert_same(parts.state, whole.state)
    assert np.isfinite(whole.state.best_loss)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_start_that_has_finished_does_not_change(name):
    start = Start(name, SPHERE)
    start.state = start.tell(jax.random.key(1), start.state, start.evaluation())
    finished = start.state._replace(finished=np.ones_like(start.state.finished))
    assert_same(start.tell(jax.random.key(2), finished, start.evaluation()), finished)
    with pytest.raises(AssertionError):
        assert_same(start.tell(jax.random.key(2), start.state, start.evaluation()), start.state)
