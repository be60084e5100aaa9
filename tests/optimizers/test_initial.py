import itertools

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


def _cells(points, a, b):
    """How many of the unit square's points each cell of an a by b grid has."""
    return np.histogram2d(*points.T, bins=(np.linspace(0.0, 1.0, a + 1), np.linspace(0.0, 1.0, b + 1)))[0]


@pytest.mark.parametrize(("p", "dim"), [(5, 3), (5, 6), (2, 3), (7, 1)])
def test_multi_jittered_points_are_stratified_in_pairs(p, dim):
    points = DESIGNS["multi_jittered"](3, p**2, np.zeros(dim), np.ones(dim))
    for j in range(dim):
        np.testing.assert_array_equal(np.bincount(np.floor(p**2 * points[:, j]).astype(int), minlength=p**2), 1)
    for i, j in itertools.combinations(range(dim), 2):
        np.testing.assert_array_equal(_cells(points[:, [i, j]], p, p), 1)


def test_a_latin_hypercube_is_not_stratified_in_pairs():
    points = DESIGNS["latin_hypercube"](3, 25, np.zeros(2), np.ones(2))
    assert _cells(points, 5, 5).max() > 1


@pytest.mark.parametrize(("n", "dim", "p"), [(20, 3, 5), (20, 9, 11), (26, 6, 7), (1, 4, 3)])
def test_multi_jittered_points_of_any_number_never_share_a_cell(n, dim, p):
    points = DESIGNS["multi_jittered"](3, n, np.zeros(dim), np.ones(dim))
    assert points.shape == (n, dim)
    for i, j in itertools.combinations(range(dim), 2):
        assert _cells(points[:, [i, j]], p, p).max() == 1


@pytest.mark.parametrize(("n", "a", "b"), [(20, 4, 5), (25, 5, 5), (22, 2, 11), (7, 1, 7), (1, 1, 1)])
def test_multi_jittered_squares_are_stratified_for_any_number(n, a, b):
    points = DESIGNS["multi_jittered"](3, n, np.zeros(2), np.ones(2))
    np.testing.assert_array_equal(_cells(points, a, b), 1)
    for j in range(2):
        np.testing.assert_array_equal(np.bincount(np.floor(n * points[:, j]).astype(int), minlength=n), 1)


def test_random_points_are_not_stratified():
    assert _counts("random", 20).max() > 1


@pytest.mark.parametrize("name", DESIGNS)
def test_an_open_box_is_refused(name):
    with pytest.raises(ValueError, match=r"entries \[1\] are open"):
        DESIGNS[name](0, 4, LOWER, np.array([3.0, np.inf, 2.5]))
