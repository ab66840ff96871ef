"""Distances between instructions in embedding space, and their map by t-SNE.

Figure 4 of Differentiable Instruction Optimization (arXiv 2306.10098) maps instructions by t-SNE and concludes that
learned ones are more diverse than human-written ones; the distances measure this. Functions import scikit-learn, which
takes seconds.
"""

# n points (instructions) of W dimensions, m test points

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def category_distances(points: Points, categories: Sequence[str]) -> dict[str, float]:
    """Return mean cosine distances of pairs within and between categories; a kind without pairs is left out.

    >>> distances = category_distances(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), ["a", "a", "b"])
    >>> distances["within"], distances["between"]
    (0.0, 1.0)
    """
    from sklearn.metrics.pairwise import cosine_distances

    distances, labels = cosine_distances(points), np.array(categories)
    same = labels[:, None] == labels
    pairs = ~np.eye(len(points), dtype=bool)
    kinds = {"within": distances[same & pairs], "between": distances[~same & pairs]}
    return {name: float(values.mean()) for name, values in kinds.items() if values.size}


def distance_to_nearest(tests: Points, points: Points) -> float:
    """Return the mean cosine distance from each test point [m, W] to the nearest of the points [n, W]."""
    from sklearn.metrics.pairwise import cosine_distances

    return float(cosine_distances(tests, points).min(axis=1).mean())


def paired_distance(first: Points, second: Points) -> float:
    """Return the mean cosine distance between points in the same row of two arrays [n, W].

    >>> paired_distance(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 0.0], [3.0, 0.0]]))
    0.5
    """
    from sklearn.metrics.pairwise import paired_cosine_distances

    return float(paired_cosine_distances(first, second).mean())


def t_sne(points: Points, *, perplexity: float = 15.0, seed: int = 0) -> Points:
    """Return the t-SNE embedding of points in the plane, [n, 2].

    Fewer than four points keep their first two coordinates.

    Args:
        points: Points [n, W].
        perplexity: Effective number of neighbors of a point; reduced to a third of the other points if it is larger.
        seed: Seed of the initialization.
    """
    from sklearn.manifold import TSNE

    n, width = points.shape
    if n < 4:
        return np.pad(points[:, :2].astype(float), ((0, 0), (0, max(0, 2 - width))))
    embedding = TSNE(
        perplexity=min(perplexity, (n - 1) / 3), init="pca" if width > 1 else "random", random_state=seed, n_jobs=1
    )
    return embedding.fit_transform(points).astype(np.float64)
