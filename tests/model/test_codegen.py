import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kinbayes.model.codegen import program, to_jax
from kinbayes.model.expressions import OPERATIONS, apply, const, derivatives, evaluate, postorder, symbol, where

A, B, C = symbol("a"), symbol("b"), symbol("c")
RICH = [
    A * apply("exp", -B) + apply("sqrt", A * A + C),
    where(apply("lt", A, B), apply("sin", C), A**C),
    apply("max", A, B) / (1 + apply("abs", C)),
]
POINT = {"a": 0.4, "b": 0.7, "c": 1.9}


@pytest.mark.parametrize("op", OPERATIONS)
def test_every_operation_is_that_of_numpy(op):
    arguments = {1: (A,), 2: (A, B), 3: (apply("lt", A, B), A, B)}
    count = 3 if op == "where" else getattr(OPERATIONS[op].numpy, "nin", 1)
    expression = apply(op, *arguments[count])
    grid = {"a": np.array([0.3, 0.5, 1.7]), "b": np.array([0.5, 0.5, 0.2])}
    wanted = np.asarray(evaluate([expression], grid)[0], dtype=float)
    got = to_jax([expression], ["a", "b"])(grid["a"], grid["b"])[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_shared_parts_are_computed_once():
    shared = apply("exp", A * B)
    code = program([shared + 1, shared * A, shared])
    assert sum(op == "exp" for op, _, _ in code.instructions) == 1
    assert len(code.instructions) == len(postorder([shared + 1, shared * A]))
    for k, (_, args, _) in enumerate(code.instructions):
        assert all(a < k for a in args)
    assert code.instructions[code.outputs[2]][0] == "exp"


def test_batches_broadcast_and_compile_once():
    traces = []

    def traced(*values):
        traces.append(1)
        return to_jax(RICH, ["a", "b", "c"])(*values)

    compiled = jax.jit(traced)
    for shift in (0.0, 0.5, 1.0):
        a = np.linspace(0.1, 1.5, 7)[:, None] + shift
        b = np.linspace(0.2, 2.0, 5)
        got = compiled(a, b, 0.3 + shift)
        wanted = evaluate(RICH, {"a": a, "b": b, "c": 0.3 + shift})
        for g, w in zip(got, wanted, strict=True):
            np.testing.assert_allclose(g, np.asarray(w, dtype=float), rtol=1e-12)
    assert len(traces) == 1


def test_constants_and_truth_values_are_doubles():
    got = to_jax([const(2), apply("lt", A, B), A], ["a", "b"])(jnp.int32(1), 2.0)
    assert [g.dtype for g in got] == [jnp.float64] * 3
    assert [float(g) for g in got] == [2.0, 1.0, 1.0]


@pytest.mark.parametrize("name", POINT)
def test_derivatives_agree_with_automatic_ones(name):
    exact = evaluate(derivatives(RICH, name), POINT)
    compiled = to_jax(RICH, list(POINT))
    automatic = jax.jacfwd(lambda *p: jnp.stack(compiled(*p)), list(POINT).index(name))(
        *map(jnp.float64, POINT.values())
    )
    np.testing.assert_allclose(automatic, np.array(exact, dtype=float), rtol=1e-12)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"use \['c'\], but the function's arguments are \['a', 'b'\]"):
        to_jax(RICH, ["a", "b"])
