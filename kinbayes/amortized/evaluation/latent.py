"""What the latent space knows of the loss."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree

NEIGHBOURS = 10


class Latent(NamedTuple):
    """Hold validation points as the network encodes them.

    Attributes
    ----------
    embedding
        In two dimensions, (n, 2).
    method
        `umap` where it is installed, else `pca`.
    condition
        The loss of every point, as a condition, (n,).
    r_squared
        Of the condition, predicted by the mean of the nearest other points in the whole latent space: 0 or less where
        that tells nothing.
    """

    embedding: Float[np.ndarray, "n 2"]
    method: str
    condition: Float[np.ndarray, " n"]
    r_squared: float


def latent(
    latents: Float[np.ndarray, "n latent"], condition: Float[np.ndarray, " n"], *, most: int = 2000, seed: int = 0
) -> Latent:
    """Embed latents, and tell how much of the loss their neighbourhoods know.

    Parameters
    ----------
    latents
        The most plausible latent of every point of the validation.
    condition
        Their losses, as conditions.
    most
        Number of points that are looked at, drawn from all.
    seed
        Seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    if len(latents) > most:
        chosen = rng.choice(len(latents), size=most, replace=False)
        latents, condition = latents[chosen], condition[chosen]
    embedding, method = _embedded(latents, seed)
    return Latent(embedding, method, condition, nearest_r_squared(latents, condition))


def nearest_r_squared(points: Float[np.ndarray, "n dim"], values: Float[np.ndarray, " n"]) -> float:
    """Return the R² of values, each predicted by the mean over the nearest other points."""
    if len(points) < 3 or np.ptp(values) == 0:
        return np.nan
    count = min(NEIGHBOURS, len(points) - 1)
    neighbours = cKDTree(points).query(points, k=count + 1)[1]
    others = np.array([row[row != k][:count] for k, row in enumerate(neighbours)])
    residual = values - values[others].mean(axis=1)
    return float(1.0 - np.mean(residual**2) / np.var(values))


def _embedded(latents: Float[np.ndarray, "n latent"], seed: int) -> tuple[Float[np.ndarray, "n 2"], str]:
    if latents.shape[1] > 2 and len(latents) > 15:
        try:
            import umap  # a large package, which few have
        except ImportError:
            pass
        else:
            return np.asarray(umap.UMAP(random_state=seed).fit_transform(latents), float), "umap"
    centred = latents - latents.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ axes[:2].T
    return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1]))), "pca"
