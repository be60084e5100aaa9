"""Novelty, against samples whose distances are known."""

import numpy as np
import pytest

from kinbayes.amortized.evaluation.novelty import active_units, novelty, two_sample_test

RNG = np.random.default_rng(0)
TRAINING = RNG.uniform(size=(2000, 3))


def test_the_same_distribution_cannot_be_told_apart_and_another_can():
    rng = np.random.default_rng(1)
    same, p_same = two_sample_test(rng.normal(size=(300, 3)), rng.normal(size=(300, 3)), rng)
    # The standard deviation of the share of 600 coins is 0.02; neighbours make it somewhat larger.
    assert abs(same - 0.5) < 0.1
    assert p_same > 0.001
    other, p_other = two_sample_test(rng.normal(size=(300, 3)), rng.normal(1.5, 1.0, size=(300, 3)), rng)
    assert other > 0.75
    assert p_other == 0.001


def test_p_values_of_equal_distributions_are_uniform():
    rng = np.random.default_rng(2)
    p = [two_sample_test(*rng.normal(size=(2, 20, 2)), rng)[1] for _ in range(100)]
    # Binomial(100, 1/2) and (100, 0.1) within five standard deviations.
    assert abs(np.mean(np.array(p) <= 0.5) - 0.5) < 0.25
    assert np.mean(np.array(p) <= 0.1) < 0.1 + 5 * 0.03


def test_a_network_that_repeats_its_training_points_is_seen():
    found = novelty(TRAINING[:400], TRAINING, TRAINING[:500])
    assert found.duplicates == 1.0
    assert (found.nearest_training == 0).all()
    assert (found.nearest_within_training > 0).all()


def test_a_collapsed_network_is_seen_where_distances_to_others_look_well():
    point = np.full((300, 3), 0.5)
    found = novelty(point, TRAINING, TRAINING[:500])
    assert found.generated_training.mean() == pytest.approx(0.48, abs=0.02)  # of a cube's centre: as if all were well
    assert found.duplicates == 1.0
    assert found.within_generated.max() == 0.0
    assert found.p_value == 0.001


def test_distances_are_those_of_pairs():
    generated, training = np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 3.0], [0.0, 2.0]])
    found = novelty(generated, training, training)
    np.testing.assert_allclose(np.sort(found.within_best), [1, 1, 2])
    np.testing.assert_allclose(found.within_generated, [1])
    np.testing.assert_allclose(np.sort(found.nearest_training), [1, np.sqrt(2)])
    np.testing.assert_allclose(found.nearest_within_training, [1, 1, 1])
    np.testing.assert_allclose(np.sort(found.generated_training), np.sqrt([1, 2, 4, 5, 9, 10]))
    assert found.duplicates == 0


def test_units_that_do_not_depend_on_the_points_are_not_active():
    latents = np.stack([RNG.normal(size=500), 0.05 * RNG.normal(size=500), np.ones(500)], axis=1)
    assert active_units(latents) == 1
