"""Patches of one grid on another: what stands at a patch is what its centre lies in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def moved(patch: Sequence[int], here: Sequence[int], there: Sequence[int]) -> tuple[int, int]:
    """The patch of another grid in which the centre of a patch lies.

    Examples
    --------
    >>> moved((1, 1), (8, 8), (2, 2)), moved((1, 1), (2, 2), (8, 8))
    ((0, 0), (6, 6))
    """
    row, column = ((2 * place + 1) * n // (2 * m) for place, m, n in zip(patch, here, there, strict=True))
    return row, column


def on_grid(values: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """Values (..., y, x) on another grid, finer or coarser: each of its patches has that in which its centre lies.

    Examples
    --------
    >>> on_grid(np.array([[1, 2, 3]]), (1, 5)).tolist()
    [[1, 1, 2, 3, 3]]
    """
    rows, columns = ((2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(grid, values.shape[-2:], strict=True))
    return values[..., rows[:, None], columns]
