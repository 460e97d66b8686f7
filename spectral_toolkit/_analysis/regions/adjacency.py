"""Connected parts of a label map, and which of them touch. Patches touch along a side, not at a corner."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from scipy import ndimage


def connected_parts(labels: Int[np.ndarray, "y x"]) -> Int[np.ndarray, "y x"]:
    """Number the connected parts of all segments from 0, in the order in which they occur row by row.

    Examples
    --------
    >>> connected_parts(np.array([[5, 5, 2], [2, 5, 2]])).tolist()
    [[0, 0, 1], [2, 0, 1]]
    """
    parts = np.zeros(labels.shape, dtype=np.int64)
    n_parts = 0
    for label in np.unique(labels):
        own, count = ndimage.label(labels == label)  # pyright: ignore[reportGeneralTypeIssues]
        parts += np.where(own > 0, own + n_parts, 0)
        n_parts += count
    _, first, inverse = np.unique(parts, return_index=True, return_inverse=True)
    rank = np.empty(n_parts, dtype=np.int64)
    rank[np.argsort(first)] = np.arange(n_parts)
    return rank[inverse].reshape(labels.shape)


def touching(parts: Int[np.ndarray, "y x"]) -> Int[np.ndarray, "pairs 2"]:
    """Return the pairs of parts that share a side, each once, the smaller number first, in order.

    Examples
    --------
    >>> touching(np.array([[0, 0, 1], [2, 0, 1]])).tolist()
    [[0, 1], [0, 2]]
    """
    pairs = np.concatenate(
        [
            np.stack([parts[:, :-1].ravel(), parts[:, 1:].ravel()], axis=1),
            np.stack([parts[:-1].ravel(), parts[1:].ravel()], axis=1),
        ]
    )
    return unique_pairs(pairs)


def unique_pairs(pairs: Int[np.ndarray, "pairs 2"]) -> Int[np.ndarray, "fewer 2"]:
    """Return pairs of different numbers, each once, the smaller first, in order."""
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    return np.unique(pairs, axis=0)
