import numpy as np
import pytest

from kinbayes.results.tempering import round_trips, swap_rates
from tests.results.runs import run

IDATA = run(
    {"k": np.zeros((2, 5))},
    statistics={
        "round_trips": np.array([[4, 4, 5, 7, 7], [2, 2, 2, 2, 2]]),  # since the start, warmup included
        "swap_rate": np.linspace(0.2, 0.8, 30).reshape(2, 5, 3),
        "rung_log_likelihood": np.where(np.arange(4) < [[[1], [0], [1], [0], [0]]] * 2, -np.inf, -1.0),
    },
)


def test_round_trips_are_those_between_the_first_draw_and_the_last():
    assert round_trips(IDATA).tolist() == [3, 0]


def test_swap_rates_are_means_over_the_draws_that_could_swap():
    rates = IDATA.sample_stats["swap_rate"].values
    expected = [rates[:, [1, 3, 4], 0].mean(), rates[..., 1].mean(), rates[..., 2].mean()]
    np.testing.assert_allclose(swap_rates(IDATA), expected)


def test_a_run_without_tempering_is_refused():
    with pytest.raises(ValueError, match="parallel_tempering"):
        swap_rates(run({"k": np.zeros((2, 5))}))
