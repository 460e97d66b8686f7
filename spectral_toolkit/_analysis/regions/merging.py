"""Candidates for instances: connected parts merged bottom-up, scored by binary silhouette, near-duplicates removed."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from .adjacency import connected_parts, touching, unique_pairs

ROWS_AT_ONCE = 512
"""Rows of the matrix of distances between patches that are held at a time."""


def candidates(
    labels: Int[np.ndarray, "y x"],
    rows: Float[np.ndarray, "cells components"],
    free: Bool[np.ndarray, " cells"],
) -> Bool[np.ndarray, "candidates cells"]:
    """Return every connected part of the segments, and every part that arises while the closest neighbours are merged.

    The closest neighbours are the two touching parts whose means in eigenvector space have the smallest distance; of
    equally close ones, those with the smallest numbers. Patches that are not free belong to parts, but do not enter the
    means. The whole image, which arises last, is left out.

    Returns
    -------
    masks
        First the parts in the order in which they occur row by row, then the merged ones as they arise.
    """
    parts = connected_parts(labels)
    n_parts = int(parts.max()) + 1
    n_regions = 2 * n_parts - 1
    masks = np.zeros((n_regions, parts.size), dtype=bool)
    masks[:n_parts] = parts.ravel() == np.arange(n_parts)[:, None]
    counts, sums = np.zeros(n_regions), np.zeros((n_regions, rows.shape[1]))
    counts[:n_parts] = masks[:n_parts] @ free.astype(float)
    sums[:n_parts] = masks[:n_parts] @ np.where(free[:, None], rows, 0.0)
    pairs = touching(parts)
    for new in range(n_parts, n_regions):
        means = sums / np.maximum(counts, 1)[:, None]
        # A part without a single free patch has no mean: it joins its first neighbour at once.
        known = (counts[pairs] > 0).all(axis=1)
        distance = np.where(known, np.square(means[pairs[:, 0]] - means[pairs[:, 1]]).sum(axis=1), -1.0)
        first, second = pairs[int(distance.argmin())]
        masks[new] = masks[first] | masks[second]
        counts[new], sums[new] = counts[first] + counts[second], sums[first] + sums[second]
        pairs = unique_pairs(np.where((pairs == first) | (pairs == second), new, pairs))
    return masks[:-1] if n_parts > 1 else masks[:0]


def binary_silhouettes(
    rows: Float[np.ndarray, "cells components"], masks: Bool[np.ndarray, "candidates cells"]
) -> Float[np.ndarray, " candidates"]:
    """Return the mean silhouette over all patches of the groups 'inside the mask' and 'outside it'; 0 if one is empty.

    A patch's silhouette is (b - a) / max(a, b), where a is its mean distance to the others of its group and b that to
    the other group; 0 for a patch that is alone in its group, and where a = b = 0.

    References
    ----------
    Rousseeuw, J. Comput. Appl. Math. 20 (1987) 53.
    """
    n_cells = rows.shape[0]
    inside = masks.T
    n_inside = masks.sum(axis=1).astype(float)
    n_outside = n_cells - n_inside
    total = np.zeros(len(masks))
    square = np.square(rows).sum(axis=1)
    weights = inside.astype(float)
    for start in range(0, n_cells, ROWS_AT_ONCE):
        block = slice(start, start + ROWS_AT_ONCE)
        squared = square[block, None] + square - 2 * rows[block] @ rows.T
        # What is left of two equal rows is a rounding error, which the square root would magnify.
        squared[squared < 1e-14 * max(float(square.max(initial=0.0)), 1e-300)] = 0.0
        distance = np.sqrt(squared)
        to_inside = distance @ weights
        to_outside = distance.sum(axis=1, keepdims=True) - to_inside
        is_in = inside[block]
        alone = np.where(is_in, n_inside, n_outside) <= 1
        own = np.where(is_in, to_inside / np.maximum(n_inside - 1, 1), to_outside / np.maximum(n_outside - 1, 1))
        other = np.where(is_in, to_outside / np.maximum(n_outside, 1), to_inside / np.maximum(n_inside, 1))
        largest = np.maximum(own, other)
        silhouette = np.where(largest > 0, (other - own) / np.where(largest > 0, largest, 1), 0.0)
        total += np.where(alone, 0.0, silhouette).sum(axis=0)
    return np.where((n_inside > 0) & (n_outside > 0), total / max(n_cells, 1), 0.0)


def suppress(
    masks: Bool[np.ndarray, "candidates cells"], scores: Float[np.ndarray, " candidates"], overlap: float
) -> Int[np.ndarray, " kept"]:
    """Sort candidates by descending score, without those whose IoU with a better one that is kept is above ``overlap``.

    Of equal scores the larger mask comes first, then the one that arose first.
    """
    size = masks.sum(axis=1).astype(float)
    order = np.lexsort((np.arange(len(masks)), -size, -scores))
    weights = masks.astype(np.float32)
    kept: list[int] = []
    for index in order:
        if kept:
            shared = weights[kept] @ weights[index]
            if (shared / np.maximum(size[kept] + size[index] - shared, 1) > overlap).any():
                continue
        kept.append(int(index))
    return np.array(kept, dtype=np.int64)
