"""Patches of one grid on another."""

from __future__ import annotations

from collections.abc import Sequence


def moved(patch: Sequence[int], here: Sequence[int], there: Sequence[int]) -> tuple[int, int]:
    """The patch of another grid in which the centre of a patch lies.

    Examples
    --------
    >>> moved((1, 1), (8, 8), (2, 2)), moved((1, 1), (2, 2), (8, 8))
    ((0, 0), (6, 6))
    """
    row, column = ((2 * place + 1) * n // (2 * m) for place, m, n in zip(patch, here, there, strict=True))
    return row, column
