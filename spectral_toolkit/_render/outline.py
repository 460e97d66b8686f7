"""The line between two sides of an image, along the edges of its patches."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

INK, CASING = "#1a1a1a", "#ffffff"
"""Colours of the line and of the wider line below it: one of the two is visible on any image."""
INK_WIDTH, CASING_WIDTH = 1.5, 4.0
"""Their widths in screen pixels."""


def boundary(side: Bool[np.ndarray, "y x"] | Int[np.ndarray, "y x"]) -> Float[np.ndarray, "lines 4"]:
    """Straight lines wherever two neighbouring patches are on different sides; the image's own edge has no line.

    Parameters
    ----------
    side
        True on one side, or a label for each patch; row 0 is at the top.

    Returns
    -------
    numpy.ndarray
        x and y of the beginning and of the end of every line, as fractions of the image from its left and its top:
        first the vertical lines, from left to right, then the horizontal ones, from the top down. A line is as long as
        possible.

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
    """Runs of neighbouring marked patches: the row of each, its beginning and its end."""
    change = np.diff(np.pad(marked, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, begin = np.nonzero(change == 1)
    return row, begin, np.nonzero(change == -1)[1]
