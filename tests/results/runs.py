"""Stored runs made of plain arrays, for tests of what is read off them."""

from collections.abc import Mapping, Sequence

import arviz as az
import numpy as np

from kinbayes.results import store

CHAINS, DRAWS = 4, 1000
EVEN = (np.arange(CHAINS * DRAWS) + 0.5) / (CHAINS * DRAWS)  # probabilities: a sample without chance
REPLICATES = store.MeasurementTable(("y", "y", "y"), ("a",) * 3, np.array([2.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0]))


def run(
    draws: Mapping[str, np.ndarray],
    scales: Sequence[str] | None = None,
    *,
    statistics: Mapping[str, np.ndarray] | None = None,
    measurements: store.MeasurementTable = REPLICATES,
    log_likelihood: np.ndarray | None = None,
    predictive: np.ndarray | None = None,
    attrs: Mapping[str, object] | None = None,
) -> az.InferenceData:
    """Store draws (name -> (chains, draws)), by default with three measurements of which two are replicates."""
    names = tuple(draws)
    shape = draws[names[0]].shape
    nothing = np.zeros((*shape, len(measurements.values)))
    return store.posterior_data(
        store.ParameterTable(names, scales or ("lin",) * len(names), ("1/s",) * len(names), ("",) * len(names)),
        measurements,
        draws=np.stack(list(draws.values()), axis=-1),
        sample_stats={"lp": np.zeros(shape), "acceptance_rate": np.ones(shape)} | dict(statistics or {}),
        log_likelihood=nothing if log_likelihood is None else log_likelihood,
        posterior_predictive=nothing if predictive is None else predictive,
        attrs=attrs or {},
    )


def shuffled(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return values in random order, over four chains."""
    return np.random.default_rng(seed).permutation(values).reshape(CHAINS, -1)
