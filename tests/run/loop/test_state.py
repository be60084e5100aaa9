from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kinbayes.run.loop.state import Leaves, leaves, restored


class State(NamedTuple):
    position: jax.Array
    count: jax.Array
    inner: dict
    nothing: None


STATE = State(
    jnp.array([[0.1, np.nan], [-0.0, 5e-324]]), jnp.array(3), {"b": jnp.array([True]), "a": jnp.ones((0, 2))}, None
)


def test_a_state_comes_back_to_the_last_bit():
    found = restored(leaves(STATE), jax.eval_shape(lambda: STATE))
    assert jax.tree.structure(found) == jax.tree.structure(STATE)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(STATE), strict=True):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, np.asarray(b).tobytes())


def test_a_state_of_another_algorithm_is_refused():
    with pytest.raises(ValueError, match=r"\['.position'\] differ; it was saved by another version"):
        restored(leaves(STATE), STATE._replace(position=jnp.ones((3, 2))))
    layout, data = leaves(STATE)
    with pytest.raises(ValueError, match=r"\['.count'\] differ"):
        restored(Leaves(tuple(row for row in layout if row[0] != ".count"), data), STATE)
