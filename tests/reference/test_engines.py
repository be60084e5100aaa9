"""Both engines on every benchmark problem that both can do: rows, states, and log likelihoods."""

from pathlib import Path

import numpy as np
import pytest

from kinbayes.formats.petab.reader import read_petab
from kinbayes.ode.status import Status

BENCHMARK = Path(__file__).parents[2].parent / "shared" / "data" / "petab" / "benchmark"
QUICK = ("Perelson_Science1996",)
SLOW = (
    "Bachmann_MSB2011",
    "Boehm_JProteomeRes2014",
    "Bruno_JExpBot2016",
    "Crauste_CellSystems2017",
    "Elowitz_Nature2000",
    "Fiedler_BMCSystBiol2016",
    "Fujita_SciSignal2010",
    "Schwen_PONE2014",
    "Sneyd_PNAS2002",
)


@pytest.mark.skipif(not BENCHMARK.is_dir(), reason="the benchmark collection is not here")
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_both_engines_agree(name):
    native, jax = (
        read_petab(BENCHMARK / name / f"{name}.yaml", rtol=1e-10, atol=1e-12, engine=engine, max_steps=100_000)
        for engine in ("native", "jax")
    )
    nominal = np.asarray(native.nominal)
    U = nominal + np.random.RandomState(0).normal(0, [[0.0], [0.05], [0.05]], (3, native.dim))
    U = np.clip(U, native.lower, native.upper)
    ours, theirs = native.rows(U), jax.rows(U)
    is_good = np.all((ours.status == Status.OK) & (theirs.status == Status.OK), axis=1)
    assert is_good[0]
    np.testing.assert_array_equal(ours.status == Status.OK, theirs.status == Status.OK)
    sizes = np.max(np.abs(theirs.simulated[is_good]), axis=1, keepdims=True)
    row_error = np.max(np.abs(ours.simulated[is_good] - theirs.simulated[is_good]) / sizes)
    states = [problem.states(U)[is_good] for problem in (native, jax)]
    state_sizes = np.max(np.abs(states[1]), axis=(1, 2), keepdims=True)
    least = 1e-12 * np.max(state_sizes, axis=-1, keepdims=True)  # of states that have died out nothing is known
    state_error = np.max(np.abs(states[0] - states[1]) / np.maximum(state_sizes, least))
    likelihoods = [ours.log_density[is_good].sum(axis=1), theirs.log_density[is_good].sum(axis=1)]
    error = np.max(np.abs(likelihoods[0] - likelihoods[1]))
    print(f"{name}: errors of rows {row_error:.1e}, states {state_error:.1e}, log likelihoods {error:.1e}")
    assert row_error < 1e-6
    assert state_error < 1e-6
    np.testing.assert_allclose(ours.noise[is_good], theirs.noise[is_good], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(likelihoods[0], likelihoods[1], rtol=1e-6, atol=1e-4)
