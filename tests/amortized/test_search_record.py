"""The runs of a search among the facts of a training."""

import json
import math

import pandas as pd
import pytest

from kinbayes.amortized.search_record import RUNS, chosen, record, recorded

TABLE = pd.DataFrame(
    {
        "width": [16, 64, 32],
        "rate": [1e-3, 0.02, 1e-4],
        "kind": ["a", "b", "a"],
        "best_epoch": [2, 0, 1],
        "train_loss": [1.5, math.nan, -0.5],
        "validation_loss": [2.5, math.nan, -0.25],
    }
)
NAMES = ("rate", "train_loss", "validation_loss")


def test_a_table_is_words_and_finite_numbers_and_comes_back_as_it_was():
    rows = record(TABLE)
    assert rows[2] == (64, 0.02, "b", 0, None, None)
    assert all(type(cell) in (int, float, str, type(None)) for row in rows for cell in row)
    json.dumps(rows, allow_nan=False)
    pd.testing.assert_frame_equal(recorded({RUNS: rows}), TABLE)


def test_the_chosen_run_has_the_least_validation_loss():
    assert chosen(TABLE) == 2


def test_without_a_search_there_is_no_table():
    assert recorded({"epochs": 3}) is None


@pytest.mark.parametrize(
    "rows",
    [
        3,
        (NAMES,),
        (NAMES, 3),
        (NAMES, (0.1, 2.0)),
        (NAMES[:2], (0.1, 2.0)),
        (("rate", "rate", *NAMES[1:]), (0.1, 0.1, 2.0, 3.0)),
        (({}, *NAMES[1:]), (0.1, 2.0, 3.0)),
        (NAMES, ({}, 2.0, 3.0)),
        (NAMES, (0.1, 2.0, "low")),
        (NAMES, (0.1, None, None)),
        (NAMES, *[(0.1, 2.0, 3.0)] * 1001),
    ],
)
def test_what_a_stranger_wrote_in_its_place_is_refused(rows):
    with pytest.raises(ValueError, match="'search_runs'"):
        recorded({RUNS: rows})
