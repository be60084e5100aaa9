"""Whether generated points are new, and still of the kind that they were learned from.

Distances between pairs alone cannot tell novelty from a network that has collapsed to a point: they stand beside
distances to the nearest neighbour, duplicates, the variety of the generated points themselves, and a test whether a
classifier can tell generated from training points.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

SAME = 1e-6  # of the unit box: nearer points count as one
NEIGHBOURS = 5  # of the classifier
PERMUTATIONS = 999


class Novelty(NamedTuple):
    """Hold distances in the unit box, Euclidean, and what follows from them.

    Attributes
    ----------
    generated_training, generated_best, within_best, within_generated
        Distances of pairs.
    nearest_training
        Of every generated point to the nearest training point.
    nearest_within_training
        Of as many training points to the nearest other one.
    duplicates
        Share of the generated points that lie on a training point or on another generated one.
    accuracy
        Share of points that a nearest-neighbour classifier tells right, of as many generated as training ones of the
        same kind: 0.5 where they cannot be told apart.
    p_value
        Of so high an accuracy where they are the same, by permutation of the labels.
    """

    generated_training: Float[np.ndarray, " pairs"]
    generated_best: Float[np.ndarray, " pairs"]
    within_best: Float[np.ndarray, " pairs"]
    within_generated: Float[np.ndarray, " pairs"]
    nearest_training: Float[np.ndarray, " n"]
    nearest_within_training: Float[np.ndarray, " n"]
    duplicates: float
    accuracy: float
    p_value: float


def novelty(
    generated: Float[np.ndarray, "n dim"],
    training: Float[np.ndarray, "m dim"],
    best: Float[np.ndarray, "quarter dim"],
    *,
    most: int = 500,
    seed: int = 0,
) -> Novelty:
    """Compare generated points with those of training.

    Parameters
    ----------
    generated
        Generated points, in the unit box.
    training
        All points of training, there.
    best
        The best quarter of them, with which the classifier compares points that were asked to be good.
    most
        Number of points of each kind that are looked at, drawn from all.
    seed
        Seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    g, t, b = (_some(points, most, rng) for points in (generated, training, best))
    to_training = cKDTree(training).query(g)[0]
    to_others = cKDTree(g).query(g, k=min(2, len(g)))[0].reshape(len(g), -1)[:, -1] if len(g) > 1 else np.inf
    within_training = cKDTree(training).query(t, k=min(2, len(training)))[0].reshape(len(t), -1)[:, -1]
    accuracy, p_value = two_sample_test(g, b, rng)
    return Novelty(
        generated_training=cdist(g, t).ravel(),
        generated_best=cdist(g, b).ravel(),
        within_best=_pairs(b),
        within_generated=_pairs(g),
        nearest_training=to_training,
        nearest_within_training=within_training,
        duplicates=float(np.mean((to_training < SAME) | (to_others < SAME))),
        accuracy=accuracy,
        p_value=p_value,
    )


def two_sample_test(
    a: Float[np.ndarray, "n dim"], b: Float[np.ndarray, "m dim"], rng: np.random.Generator
) -> tuple[float, float]:
    """Return the accuracy of a classifier of two samples, each point by its nearest others, and its p-value.

    The neighbours do not depend on the labels, so the labels may be permuted over them: an exact test (up to the
    number of permutations).
    """
    size = min(len(a), len(b))
    points = np.concatenate([_some(a, size, rng), _some(b, size, rng)])
    is_first = np.arange(2 * size) < size
    count = min(NEIGHBOURS, 2 * size - 1)
    neighbours = cKDTree(points).query(points, k=count + 1)[1]
    others = np.array([row[row != k][:count] for k, row in enumerate(neighbours)])

    by_chance = _accuracy(rng.permuted(np.tile(is_first, (PERMUTATIONS, 1)), axis=1), others)
    found = _accuracy(is_first[None], others)[0]
    return float(found), float((1 + np.sum(by_chance >= found)) / (1 + PERMUTATIONS))


def _accuracy(
    labels: Bool[np.ndarray, "permutations n"], others: Int[np.ndarray, "n neighbours"]
) -> Float[np.ndarray, " permutations"]:
    """Return the share of points whose neighbours' majority has their own label; half where they are tied."""
    votes = labels[:, others].mean(axis=2)
    right = np.where(labels, votes, 1.0 - votes)
    return np.mean((right > 0.5) + 0.5 * (right == 0.5), axis=1)


def active_units(latents: Float[np.ndarray, "n latent"], threshold: float = 0.01) -> int:
    """Return how many latents depend on what is encoded: those whose mean varies by more than a threshold.

    References
    ----------
    Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519: the measure and its
    threshold.
    """
    return int(np.sum(np.var(latents, axis=0) > threshold))


def _some(points: Float[np.ndarray, "n dim"], most: int, rng: np.random.Generator) -> Float[np.ndarray, "some dim"]:
    return points if len(points) <= most else points[rng.choice(len(points), size=most, replace=False)]


def _pairs(points: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, " pairs"]:
    return cdist(points, points)[np.triu_indices(len(points), k=1)]
