"""What a latent space knows, against functions of it."""

import numpy as np
import pytest

from kinbayes.amortized.evaluation.latent import latent, nearest_r_squared

Z = np.random.default_rng(0).normal(size=(1500, 2))


def test_a_function_of_the_latents_is_known_and_noise_is_not():
    rng = np.random.default_rng(1)
    assert nearest_r_squared(Z, Z[:, 0]) > 0.95
    # Of pure noise each prediction is a mean of ten: R² is about 1 - (1 + 1/10).
    assert nearest_r_squared(Z, rng.normal(size=1500)) == pytest.approx(-0.1, abs=0.1)
    # Half signal, half noise of the same variance: what is left is the noise, and a tenth of it again.
    mixed = Z[:, 0] + rng.normal(size=1500)
    assert nearest_r_squared(Z, mixed) == pytest.approx(0.45, abs=0.1)


def test_what_does_not_vary_has_no_share():
    assert np.isnan(nearest_r_squared(Z, np.ones(1500)))


def test_the_embedding_keeps_what_varies_most():
    rotated = np.linalg.qr(np.random.default_rng(2).normal(size=(2, 2)))[0]
    wide = Z * [3.0, 1.0] @ rotated
    found = latent(wide, Z[:, 0])
    assert found.method == "pca"
    np.testing.assert_allclose(
        np.abs(np.linalg.norm(found.embedding, axis=1)), np.linalg.norm(wide - wide.mean(axis=0), axis=1)
    )
    assert np.var(found.embedding[:, 0]) > 4 * np.var(found.embedding[:, 1])
    assert found.r_squared > 0.9


def test_one_latent_is_a_line():
    found = latent(Z[:50, :1], Z[:50, 0])
    assert found.embedding.shape == (50, 2)
    assert (found.embedding[:, 1] == 0).all()


def test_of_many_points_some_are_looked_at():
    assert len(latent(Z, Z[:, 0], most=100).condition) == 100
