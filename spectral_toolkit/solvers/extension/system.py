"""The rows of the joint problem that belong to one new picture, and their solution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import linalg
from threadpoolctl import threadpool_limits

from ..._affinity.isolated import Interpolation
from ..._affinity.pencil import SMALLEST_DEGREE_RATIO
from ..._affinity.resampling import Grid, Resampling
from ..._compute.devices import SERIAL_CELLS
from .edges import Ties

SMALLEST_HOLD = 0.05
"""What must be left of 1 - eigenvalue after the strongest tie of the picture to itself, as a part of it."""


@dataclass(frozen=True)
class Solution:
    """What is found for the n cells of one picture and k eigenvectors."""

    vectors: Float[np.ndarray, "n k"]
    determined: Bool[np.ndarray, " k"]
    isolated: Bool[np.ndarray, " n"]
    tie: Float[np.ndarray, " n"]


class PictureSystem:
    """(1 - lambda) B x = W_own x + W_fitted x_fitted for the n cells of a picture on its base grid.

    W_own, W_fitted and B (the degrees of both) are sums over layers, as in `spectral_toolkit._affinity.pencil`; the
    fitted vectors are given, x is not.
    """

    def __init__(self, grid: Grid) -> None:
        n = grid[0] * grid[1]
        self.grid = grid
        self._mass, self._own = np.zeros((n, n)), np.zeros((n, n))
        self._degree = np.zeros(n)
        self._known: np.ndarray | None = None

    def add(self, ties: Ties, grid: Grid, coefficient: float) -> None:
        """Add a layer, given on its own grid; the last column that it was tied to is constant.

        As many cells on the base grid as on the layer's would leave degrees as they are; else they count the more.
        """
        own, known = (values.cpu().numpy().astype(np.float64) for values in (ties.own, ties.known))
        degree = own.sum(axis=1) + known[:, -1]
        down = Resampling(self.grid, grid).dense().numpy()
        scale = coefficient * len(self._degree) / len(degree)
        self._own += scale * down.T @ own @ down
        self._mass += scale * (down.T * degree) @ down
        lifted = scale * down.T @ known
        self._known = lifted if self._known is None else self._known + lifted
        if grid == self.grid:
            self._degree += scale * degree

    def solve(self, eigenvalue: Float[np.ndarray, " k"]) -> Solution:
        """The picture's cells of every eigenvector, zero where nothing ties the picture to anything."""
        assert self._known is not None
        tie, free = self._known[:, -1], self._degree > SMALLEST_DEGREE_RATIO
        if not free.any():
            return Solution(np.zeros((len(free), len(eigenvalue))), np.zeros(len(eigenvalue), dtype=bool), ~free, tie)
        fill = Interpolation(torch.as_tensor(free)[None], self.grid).matrix().toarray()[:, free]
        own, mass = (fill.T @ matrix @ fill for matrix in (self._own, self._mass))
        known = fill.T @ self._known[:, :-1]
        # W_own v = mu B v: every eigenvalue then only shifts a diagonal. Small matrices want no threads.
        with threadpool_limits(1 if len(free) <= SERIAL_CELLS else None):
            strength, basis = linalg.eigh(own, mass)
        hold = (1 - eigenvalue)[None] - strength[:, None]
        determined = hold.min(axis=0) > SMALLEST_HOLD * np.abs(1 - eigenvalue)
        tiny = np.finfo(float).eps
        hold = np.where(np.abs(hold) < tiny, tiny, hold)
        return Solution(fill @ (basis @ ((basis.T @ known) / hold)), determined, ~free, tie)
