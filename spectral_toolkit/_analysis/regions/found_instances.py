"""Instances of every image: which masks are candidates, which of them are kept, and how they are returned."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from .embedding import Embedding
from .kmeans import kmeans
from .label_maps import filled
from .merging import binary_silhouettes, candidates, suppress


def parts_by_kmeans(points: Embedding, n_parts: int) -> Int[np.ndarray, "images cells"]:
    """Divide every image into many small segments by k-means, whatever its scope."""
    labels = np.full(points.free.shape, -1, dtype=np.int64)
    for image, free in enumerate(points.free):
        rows = points.rows[image][free]
        if len(rows):
            n_different = len(np.unique(rows, axis=0))
            own = np.zeros(len(free), dtype=np.int64)
            own[free] = kmeans(rows, min(n_parts, n_different))
            labels[image] = filled(own, free, points.grid)
    return labels


def instances_of(
    rows: Float[np.ndarray, "cells components"],
    free: Bool[np.ndarray, " cells"],
    labels: Int[np.ndarray, " cells"],
    grid: tuple[int, int],
    *,
    overlap: float,
    min_score: float,
    smallest: int,
) -> tuple[Bool[np.ndarray, "kept cells"], Float[np.ndarray, " kept"]]:
    """Return masks and scores of one image, best first."""
    masks = candidates(labels.reshape(grid), rows, free)
    inside = masks[:, free].sum(axis=1)
    masks = masks[(inside >= smallest) & (inside < free.sum())]
    scores = binary_silhouettes(rows[free], masks[:, free])
    masks, scores = masks[scores > min_score], scores[scores > min_score]
    kept = suppress(masks, scores, overlap)
    return masks[kept], scores[kept]
