"""Decides when gradient descent has stopped making progress."""

from __future__ import annotations

import math

SMALLEST_IMPROVEMENT = 1e-4
"""An objective must fall by this part of itself to count as an improvement."""


class Plateau:
    """Tells whether the objective has not improved for ``patience`` steps; with patience 0 it never does.

    Examples
    --------
    >>> plateau = Plateau(2)
    >>> [plateau(value) for value in (1.0, 0.5, 0.5, 0.5)]
    [False, False, False, True]
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best = math.inf
        self.waited = 0

    def __call__(self, objective: float) -> bool:
        if objective < self.best * (1 - SMALLEST_IMPROVEMENT):
            self.best, self.waited = objective, 0
        else:
            self.waited += 1
        return 0 < self.patience <= self.waited
