import jax
import jax.numpy as jnp
import numpy as np

from kinbayes.optimizers.linear import solve_positive


def systems(num: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(num, dim, dim)))
    return (basis * np.logspace(-4, 4, dim)) @ basis.swapaxes(1, 2), rng.normal(size=(num, dim))


def test_solutions_are_numpys():
    matrices, rights = systems(50, 12)
    found = jax.jit(jax.vmap(solve_positive))(matrices, rights)
    exact = np.linalg.solve(matrices, rights[..., None])[..., 0]
    error = np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert np.all(error < 1e-7)  # the condition number is 1e8


def test_what_is_not_positive_definite_has_no_solution():
    assert np.isnan(solve_positive(jnp.diag(jnp.array([1.0, -1.0])), jnp.ones(2))).all()
    assert np.isnan(solve_positive(jnp.zeros((2, 2)), jnp.ones(2))).all()
    assert np.isnan(solve_positive(jnp.array([[1.0, 2.0], [2.0, 1.0]]), jnp.ones(2))).all()


def _two_solutions(matrices, rights):
    """Two systems that do not depend on each other, as in a step of multistart."""

    def body(_, x):
        first = jax.vmap(solve_positive)(matrices, rights + x)
        second = jax.vmap(solve_positive)(matrices.swapaxes(1, 2), rights - x)
        return 1e-9 * (first + second)

    return jax.lax.fori_loop(0, 20, body, jnp.zeros_like(rights))


def test_large_batches_side_by_side_come_to_an_end():
    matrices, rights = systems(1000, 9)
    for _ in range(5):
        assert np.isfinite(np.asarray(jax.jit(_two_solutions)(matrices, rights))).all()
