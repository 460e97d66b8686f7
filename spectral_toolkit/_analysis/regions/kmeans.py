"""k-means on the eigenvectors, with a number of segments that is given, or chosen by silhouette or by the eigengap."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from sklearn.metrics import adjusted_rand_score, pairwise_distances, silhouette_score

from .embedding import MOST, Embedding, listed, most_tried, titles
from .label_maps import by_size, filled
from .splitting import fitted, partitions_by_splits

CANDIDATES = range(2, MOST + 1)
"""Numbers of segments that are tried."""
SAMPLE = 2000
"""Number of patches, drawn once and seeded, over which silhouettes are computed where there are more."""
EQUALLY_GOOD = 1e-6
"""Silhouettes that differ by less are equal up to rounding."""
STARTS = 4
"""Random starts of k-means that the segments are compared with."""
UNSURE = 0.8
"""Agreement below which a note says that other segments would do as well."""


def segment_by_kmeans(points: Embedding, n_segments: int | str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels (images, patches), and the silhouette and `agreement` of every image's segments.

    Both are NaN where there are fewer than two segments. Images solved separately are grouped separately; images solved
    as one are grouped as one.
    """
    n_images, n_cells, _ = points.rows.shape
    if points.joint:
        problems = [slice(0, n_images)]
    else:
        problems = [slice(index, index + 1) for index in range(n_images)]
    labels = np.zeros((n_images, n_cells), dtype=np.int64)
    scores, agreed = np.full((2, n_images), np.nan)
    fewer: list[str] = []
    most: list[str] = []
    unsure: list[str] = []
    n_sampled = 0
    for title, images in zip(titles(points.joint, points.names), problems, strict=True):
        free = points.free[images]
        rows = points.rows[images][free]
        if not len(rows):
            labels[images] = -1
            continue
        wanted = n_segments
        if wanted == "eigengap":
            assert points.gaps is not None
            wanted = eigengap_choice(points.gaps[images.start])
        found, score = cluster(rows, wanted, seed)
        own = np.zeros(free.shape, dtype=np.int64)
        own[free] = found
        n_sampled = max(n_sampled, len(rows) if len(rows) > SAMPLE else 0)
        if isinstance(wanted, int) and found.max() + 1 < wanted:
            fewer.append(title)
        if not isinstance(n_segments, int) and found.max() + 1 == MOST:
            most.append(title)
        labels[images] = [filled(one, reached, points.grid) for one, reached in zip(own, free, strict=True)]
        labels[images] = by_size(labels[images])
        scores[images] = score
        agreed[images] = agreement(rows, found, seed)
        if agreed[images.start] < UNSURE:
            unsure.append(title)
    if fewer:
        points.notes.append(f"There are too few different patches for that many segments in {listed(fewer)}.")
    if most:
        points.notes.append(most_tried(most))
    if n_sampled:
        points.notes.append(f"Silhouettes are over a seeded sample of {SAMPLE:,} of {n_sampled:,} patches.")
    if unsure:
        points.notes.append(
            f"Other segments would do about as well ('agreement' is below {UNSURE}), so that their scores describe one "
            f"partition among several, in {listed(unsure)}."
        )
    return labels, scores, agreed


def cluster(
    rows: Float[np.ndarray, "cells components"], n_segments: int | str, seed: int
) -> tuple[Int[np.ndarray, " cells"], float]:
    """Run k-means for a given number, or for the number of `CANDIDATES` with the largest mean silhouette.

    Silhouettes need two segments and a segment of two patches; where no number offers that, every different patch is a
    segment of its own. Of equally good numbers, the smallest is taken.

    Returns
    -------
    labels
        Labels from 0, all of them used.
    silhouette
        Mean over a seeded sample of at most 2,000 patches; NaN where there are fewer than two segments.

    References
    ----------
    Rousseeuw, J. Comput. Appl. Math. 20 (1987) 53: silhouettes.
    """
    n_different = len(np.unique(_rounded(rows), axis=0))
    sample = np.arange(len(rows))
    if len(rows) > SAMPLE:
        sample = np.sort(np.random.default_rng(seed).choice(len(rows), SAMPLE, replace=False))
    distances = pairwise_distances(rows[sample])
    if isinstance(n_segments, int):
        labels = kmeans(rows, min(n_segments, n_different))
        return labels, _silhouette(distances, labels[sample])
    best: tuple[np.ndarray, float] | None = None
    tried = partitions_by_splits(rows, min(CANDIDATES.stop - 1, n_different, len(rows) - 1))
    for labels in map(_numbered, tried):
        score = _silhouette(distances, labels[sample])
        if np.isfinite(score) and (best is None or score > best[1] + EQUALLY_GOOD):
            best = labels, score
    if best is None:
        return kmeans(rows, min(n_different, len(rows))), np.nan
    return best


def kmeans(rows: Float[np.ndarray, "cells components"], k: int) -> Int[np.ndarray, " cells"]:
    """Run k-means from the start that the rows determine; labels from 0, all of them used."""
    *_, found = partitions_by_splits(rows, k)
    return _numbered(found)


def agreement(rows: Float[np.ndarray, "cells components"], labels: Int[np.ndarray, " cells"], seed: int) -> float:
    """Return the mean adjusted Rand index with k-means from random starts; 1 if equal, NaN for one segment."""
    k = int(labels.max(initial=0)) + 1
    if k < 2:
        return np.nan
    seeds = np.random.default_rng(seed).integers(2**31, size=STARTS)
    others = [fitted(rows, k, random_state=int(one)) for one in seeds]
    return float(np.mean([adjusted_rand_score(labels, other) for other in others]))


def _numbered(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def eigengap_choice(gaps: Float[np.ndarray, " components"]) -> int:
    """Return one segment more than there are components before the widest gap, among 2 to 10.

    Examples
    --------
    >>> eigengap_choice(np.array([0.1, 0.3, 0.2]))
    3
    """
    usable = gaps[: CANDIDATES.stop - 2]
    if not np.isfinite(usable).any():
        return CANDIDATES.start
    return int(np.nanargmax(usable)) + 2


def _silhouette(distances: np.ndarray, labels: np.ndarray) -> float:
    n_labels = len(np.unique(labels))
    if not 2 <= n_labels < len(labels):
        return np.nan
    return float(silhouette_score(distances, labels, metric="precomputed"))


def _rounded(rows: np.ndarray) -> np.ndarray:
    """Round rows to twelve digits, so that patches that differ only by rounding errors count as equal."""
    scale = np.abs(rows).max(initial=0.0)
    return np.round(rows / scale, 12) + 0.0 if scale > 0 else np.zeros_like(rows)
