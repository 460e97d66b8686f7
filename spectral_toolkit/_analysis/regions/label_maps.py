"""Labels that do not depend on chance: numbered by size, isolated patches filled from their neighbours."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from ..._io.grids import on_grid

NO_SEGMENT = -1
"""The label where none can be given: every patch of the image is isolated."""


def by_size(labels: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
    """Number segments from the largest, 0, to the smallest; of equal ones, the one that occurs first. -1 is kept.

    Examples
    --------
    >>> by_size(np.array([7, 3, 3, -1, 9])).tolist()
    [1, 0, 0, -1, 2]
    """
    known = labels != NO_SEGMENT
    _, first, inverse, count = np.unique(labels[known], return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(count), dtype=np.int64)
    rank[np.lexsort((first, -count))] = np.arange(len(count))
    numbered = np.full_like(labels, NO_SEGMENT)
    numbered[known] = rank[inverse]
    return numbered


def matched(labels: Int[np.ndarray, "images y x"], reference: Int[np.ndarray, "images y2 x2"]) -> Int[np.ndarray, " n"]:
    """For each label, the label of the reference that is its partner in the pairing with the most overlap (Kuhn 1955).

    Labels without a partner get numbers that the reference does not have. A finer or coarser reference is read at the
    centres of the patches.

    Examples
    --------
    >>> matched(np.array([[[0, 0, 1, 2]]]), np.array([[[1, 1, 0, 0]]])).tolist()
    [1, 0, 2]
    """
    beside = on_grid(reference, labels.shape[1:])
    n, m = int(labels.max(initial=-1)) + 1, int(reference.max(initial=-1)) + 1
    both = (labels >= 0) & (beside >= 0)
    overlap = np.zeros((n, m))
    np.add.at(overlap, (labels[both], beside[both]), 1)
    names = np.full(n, -1)
    mine, theirs = linear_sum_assignment(overlap, maximize=True)
    shared = overlap[mine, theirs] > 0  # a pair without overlap is none
    names[mine[shared]] = theirs[shared]
    names[names < 0] = m + np.arange(np.count_nonzero(names < 0))
    return names


def filled(
    labels: Int[np.ndarray, " cells"], free: Bool[np.ndarray, " cells"], grid: tuple[int, int]
) -> Int[np.ndarray, " cells"]:
    """Give every isolated patch the label of the nearest free one of its image; -1 where there is none.

    Distances are between the patches' centres as fractions of the image, as everywhere.
    """
    if free.all():
        return labels
    if not free.any():
        return np.full_like(labels, NO_SEGMENT)
    nearest = ndimage.distance_transform_edt(
        ~free.reshape(grid), sampling=(1 / grid[0], 1 / grid[1]), return_distances=False, return_indices=True
    )
    assert isinstance(nearest, np.ndarray)
    return labels.reshape(grid)[tuple(nearest)].ravel()
