"""The line between two sides of a picture, along the edges of its cells."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

INK, CASING = "#1a1a1a", "#ffffff"
"""Of the line, and of the wider one below it: one of the two is seen on any picture."""
INK_WIDTH, CASING_WIDTH = 1.5, 4.0
"""Screen pixels."""


def boundary(side: Bool[np.ndarray, "y x"]) -> Float[np.ndarray, "lines 4"]:
    """Straight lines wherever two neighbouring cells are on different sides; the picture's own edge is none.

    Parameters
    ----------
    side
        True on one side, row 0 at the top.

    Returns
    -------
    numpy.ndarray
        x and y of the beginning and of the end of every line, as parts of the picture from its left and its top: first
        the upright lines, from left to right, then the level ones, from the top down. A line is as long as it can be.

    Examples
    --------
    >>> boundary(np.array([[True, False], [True, False]])).tolist()
    [[0.5, 0.0, 0.5, 1.0]]
    """
    height, width = side.shape
    x, top, bottom = _runs((side[:, 1:] != side[:, :-1]).T)
    y, left, right = _runs(side[1:] != side[:-1])
    upright = np.stack([(x + 1) / width, top / height, (x + 1) / width, bottom / height], axis=1)
    level = np.stack([left / width, (y + 1) / height, right / width, (y + 1) / height], axis=1)
    return np.concatenate([upright, level])


def _runs(marked: Bool[np.ndarray, "rows columns"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every row of neighbouring marked cells: which row, where it begins, and where it has ended."""
    change = np.diff(np.pad(marked, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, begin = np.nonzero(change == 1)
    return row, begin, np.nonzero(change == -1)[1]
