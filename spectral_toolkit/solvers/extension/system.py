"""The rows of the joint problem that belong to one new image, and their solution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import linalg

from ..._affinity.isolated import Interpolation
from ..._affinity.pencil import SMALLEST_DEGREE_RATIO
from ..._affinity.resampling import Grid, Resampling
from ..._compute.devices import SERIAL_CELLS
from ..._compute.threads import serial
from .edges import Ties

SMALLEST_HOLD = 0.05
"""The part of 1 - eigenvalue that must be left after the strongest affinity within the image."""


@dataclass(frozen=True)
class Solution:
    """The result for the n patches of one image and k eigenvectors."""

    vectors: Float[np.ndarray, "n k"]
    determined: Bool[np.ndarray, " k"]
    isolated: Bool[np.ndarray, " n"]
    tie: Float[np.ndarray, " n"]


class PictureSystem:
    """(1 - lambda) B x = W_own x + W_fitted x_fitted for the n patches of an image on its base grid.

    W_own, W_fitted and B (the degrees of both) are sums over layers, as in `spectral_toolkit._affinity.pencil`; the
    fitted vectors are given, and x is unknown.
    """

    def __init__(self, grid: Grid) -> None:
        n = grid[0] * grid[1]
        self.grid = grid
        self._mass, self._own = np.zeros((n, n)), np.zeros((n, n))
        self._degree = np.zeros(n)
        self._known: np.ndarray | None = None

    def add(self, ties: Ties, grid: Grid, coefficient: float) -> None:
        """Add a layer on its own grid; the last of the columns that its affinities were applied to is constant.

        If the base grid has as many patches as the layer's, degrees stay as they are; otherwise they are scaled.
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
        """Return every eigenvector on the image's patches, zero where the image has no affinity to any fitted patch."""
        assert self._known is not None
        tie, free = self._known[:, -1], self._degree > SMALLEST_DEGREE_RATIO
        if not free.any():
            return Solution(np.zeros((len(free), len(eigenvalue))), np.zeros(len(eigenvalue), dtype=bool), ~free, tie)
        fill = Interpolation(torch.as_tensor(free)[None], self.grid).matrix().toarray()[:, free]
        own, mass = (fill.T @ matrix @ fill for matrix in (self._own, self._mass))
        known = fill.T @ self._known[:, :-1]
        # W_own v = mu B v: every eigenvalue then only shifts a diagonal. Small matrices do not need threads.
        with serial(len(free) <= SERIAL_CELLS):
            strength, basis = linalg.eigh(own, mass)
        hold = (1 - eigenvalue)[None] - strength[:, None]
        determined = hold.min(axis=0) > SMALLEST_HOLD * np.abs(1 - eigenvalue)
        tiny = np.finfo(float).eps
        hold = np.where(np.abs(hold) < tiny, tiny, hold)
        return Solution(fill @ (basis @ ((basis.T @ known) / hold)), determined, ~free, tie)
