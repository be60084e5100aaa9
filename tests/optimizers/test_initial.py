import numpy as np
import pytest

from kinbayes.optimizers.initial import DESIGNS

LOWER, UPPER = np.array([-5.0, 0.0, 2.0]), np.array([3.0, 1.0, 2.5])


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("n", [1, 20])
def test_points_are_in_the_box_and_belong_to_the_seed(name, n):
    points, again, other = (DESIGNS[name](seed, n, LOWER, UPPER) for seed in (0, 0, 1))
    assert points.shape == (n, 3)
    assert np.all((points >= LOWER) & (points <= UPPER))
    np.testing.assert_array_equal(points, again)
    assert not np.array_equal(points, other)


def _counts(name, n):
    """How many points each n-th of each range has."""
    cells = np.floor(n * (DESIGNS[name](0, n, LOWER, UPPER) - LOWER) / (UPPER - LOWER)).astype(int)
    return np.array([np.bincount(column, minlength=n) for column in cells.T])


@pytest.mark.parametrize(("name", "n"), [("latin_hypercube", 20), ("sobol", 32)])
def test_every_part_of_every_range_has_one_point(name, n):
    np.testing.assert_array_equal(_counts(name, n), 1)


def test_random_points_are_not_stratified():
    assert _counts("random", 20).max() > 1


@pytest.mark.parametrize("name", DESIGNS)
def test_an_open_box_is_refused(name):
    with pytest.raises(ValueError, match=r"entries \[1\] are open"):
        DESIGNS[name](0, 4, LOWER, np.array([3.0, np.inf, 2.5]))
