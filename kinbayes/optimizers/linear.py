"""Positive definite systems in plain JAX.

On a CPU, XLA splits a batch of LAPACK's calls over the threads of which one already waits for it: two such batches in
one program may wait for each other for good. For matrices as small as an optimizer's this is as fast.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def solve_positive(matrix: Float[Array, "dim dim"], right: Float[Array, " dim"]) -> Float[Array, " dim"]:
    """Solve a system by Gauss-Jordan elimination, which needs no pivoting where the matrix is positive definite.

    Where a pivot is not positive the solution is NaN: the matrix is not positive definite, to rounding.
    """

    def eliminated(k, carry):
        system, is_positive = carry
        row = system[k] / system[k, k]
        rest = system - system[:, k, None] * row
        return rest.at[k].set(row), is_positive & (system[k, k] > 0.0)

    begun = jnp.concatenate([matrix, right[:, None]], axis=1), jnp.array(True)
    system, is_positive = jax.lax.fori_loop(0, len(right), eliminated, begun)
    return jnp.where(is_positive, system[:, -1], jnp.nan)
