"""Compares segments with labels: matched and over-clustered mIoU, adjusted Rand index; and k-means over a dataset."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from ..regions.splitting import fitted

OVERCLUSTERED = 40
MOST_FITTED = 10_000
"""Number of rows, drawn once and seeded, from which centres are computed."""


def contingency(
    segments: Int[np.ndarray, "images cells"], labels: Int[np.ndarray, "images cells"], n_segments: int, n_labels: int
) -> Float[np.ndarray, "images segments labels"]:
    """Count the patches of every segment and category per image, without those of label -1."""
    n_images, n_cells = segments.shape
    image = np.repeat(np.arange(n_images), n_cells).reshape(labels.shape)
    flat = (image * n_segments + segments) * n_labels + labels
    counts = np.bincount(flat[labels >= 0], minlength=n_images * n_segments * n_labels)
    return counts.reshape(n_images, n_segments, n_labels).astype(float)


def matched_miou(table: Float[np.ndarray, "segments labels"]) -> float:
    """Return the mean, over the categories that occur, of the IoU with their partner in the best one-to-one pairing."""
    table = table[:, table.sum(0) > 0]
    union = table.sum(1, keepdims=True) + table.sum(0) - table
    iou = table / np.maximum(union, 1)
    rows, columns = linear_sum_assignment(iou, maximize=True)
    return float(iou[rows, columns].sum() / max(table.shape[1], 1))


def assigned(table: Float[np.ndarray, "segments labels"]) -> Float[np.ndarray, "labels labels"]:
    """Return the confusion matrix after segments and categories are paired one to one.

    The pairing is the one in which the most patches or pixels have the category of their segment (Kuhn 1955), as in
    PiCIE and STEGO. Rows are the categories of segments, columns the true ones; what lies in segments without a
    category is left out of the rows, and has to be counted by the caller.
    """
    confusion = np.zeros((table.shape[1], table.shape[1]))
    rows, columns = linear_sum_assignment(table, maximize=True)
    confusion[columns] = table[rows]
    return confusion


def merged(table: Float[np.ndarray, "segments labels"]) -> Float[np.ndarray, "labels labels"]:
    """Return the confusion matrix after each segment took its most frequent category (the smaller if equal)."""
    confusion = np.zeros((table.shape[1], table.shape[1]))
    np.add.at(confusion, table.argmax(1), table)
    return confusion


def category_iou(
    confusion: Float[np.ndarray, "labels labels"], occurring: Float[np.ndarray, " labels"] | None = None
) -> Float[np.ndarray, " labels"]:
    """Return the IoU of every category; NaN for one that does not occur.

    ``occurring`` are the true numbers of each category, where some are not in the matrix.
    """
    true = confusion.sum(0) if occurring is None else occurring
    inside = np.diag(confusion)
    union = confusion.sum(1) + true - inside
    return np.where(true > 0, inside / np.maximum(union, 1), np.nan)


def overclustered_iou(table: Float[np.ndarray, "segments labels"]) -> Float[np.ndarray, " labels"]:
    """Return the IoU of every category after each segment took its most frequent one (the smaller if equal)."""
    return category_iou(merged(table))


def overclustered_miou(table: Float[np.ndarray, "segments labels"]) -> float:
    """Return the mean of `overclustered_iou` over the categories that occur."""
    return float(np.nanmean(overclustered_iou(table)))


def accuracies(
    table: Float[np.ndarray, "segments labels"], oracle: Float[np.ndarray, "labels labels"]
) -> dict[str, float]:
    """Return what papers report of segments, besides the scores that are rows of the table.

    Parameters
    ----------
    table
        Patches or pixels of every segment and category, over all images.
    oracle
        The sum over the images of what `merged` returns for each alone.
    """
    paired, total = assigned(table), table.sum()
    return {
        "matched_accuracy": float(np.trace(paired) / total),
        "assigned_miou": float(np.nanmean(category_iou(paired, table.sum(0)))),
        "overclustered_accuracy": float(table.max(1).sum() / total),
        "oracle_miou": float(np.nanmean(category_iou(oracle))),
        "oracle_accuracy": float(np.trace(oracle) / total),
    }


def adjusted_rand(table: Float[np.ndarray, "segments labels"]) -> float:
    """Return the adjusted Rand index of a contingency table."""
    pairs = [(x * (x - 1) / 2).sum() for x in (table, table.sum(0), table.sum(1))]
    n = table.sum()
    expected = pairs[1] * pairs[2] / max(n * (n - 1) / 2, 1)
    highest = (pairs[1] + pairs[2]) / 2
    return 1.0 if highest == expected else float((pairs[0] - expected) / (highest - expected))


def partitions(
    values: Float[np.ndarray, "rows components"], n: int, starts: int, seed: int
) -> Int[np.ndarray, "starts rows"]:
    """Run k-means over a dataset from several starts, keeping all; fewer clusters if there are fewer different rows.

    Where the eigenvectors do not form clusters, k-means ends in one of many optima of nearly the same inertia, and the
    rounding of a processor decides which of them is the lowest. The results of all starts together are stable. Centres
    are computed from at most 10,000 rows, drawn once; all rows then take the nearest.
    """
    generator = np.random.default_rng(seed)
    rows = values
    if len(values) > MOST_FITTED:
        rows = values[np.sort(generator.choice(len(values), MOST_FITTED, replace=False))]
    n = min(n, len(np.unique(rows, axis=0)))
    seeds = generator.integers(2**31, size=starts if n > 1 else 1)
    return np.stack([fitted(rows, n, of=values, random_state=int(one)) for one in seeds])


def partition_scores(
    found: Int[np.ndarray, "starts images cells"],
    labels: Int[np.ndarray, "images cells"],
    weights: Float[np.ndarray, "samples images"],
    measure: Callable[[np.ndarray], float],
) -> Float[np.ndarray, " samples"]:
    """Score given partitions: first the mean over all of them, then every resample of the images by one of them.

    The interval thus reflects both the choice of images and the choice of the start. It is NaN for a resample in which
    no patch has a label.
    """
    n_labels = int(labels.max(initial=0)) + 1
    each = np.stack([contingency(one, labels, int(found.max()) + 1, n_labels) for one in found])

    def measured(tables: np.ndarray, row: np.ndarray) -> float:
        table = np.tensordot(row, tables, 1)
        return measure(table) if table.any() else math.nan

    samples = [measured(each[number % len(each)], row) for number, row in enumerate(weights[1:])]
    return np.array([np.mean([measured(one, weights[0]) for one in each]), *samples])
