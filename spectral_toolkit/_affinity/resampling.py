"""Resampling between patch grids: area averages to coarser, bilinear to finer grids; every row sums to one."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

Grid = tuple[int, int]
"""Rows and columns of a patch grid."""


@lru_cache(maxsize=256)
def axis_weights(n_from: int, n_to: int) -> Float[Tensor, "n_to n_from"]:
    """Resample one axis: by area averages if ``n_to <= n_from``, else by bilinear interpolation.

    Both axes cover the same unit interval with equal patches; every row sums to one, so constants stay constant. Values
    are interpolated between patch centres; outside them, the border value is held.

    Examples
    --------
    >>> axis_weights(4, 2).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    if n_to <= n_from:
        edges_to = torch.arange(n_to + 1, dtype=torch.float64) / n_to
        edges_from = torch.arange(n_from + 1, dtype=torch.float64) / n_from
        upper = torch.minimum(edges_to[1:, None], edges_from[None, 1:])
        lower = torch.maximum(edges_to[:-1, None], edges_from[None, :-1])
        overlap = (upper - lower).clamp_min(0.0)
        overlap[overlap < 1e-12] = 0.0
        return overlap / overlap.sum(dim=1, keepdim=True)
    position = ((torch.arange(n_to, dtype=torch.float64) + 0.5) / n_to * n_from - 0.5).clamp(0.0, n_from - 1.0)
    left = position.floor().long().clamp_max(max(n_from - 2, 0))
    fraction = position - left
    weights = torch.zeros(n_to, n_from, dtype=torch.float64)
    rows = torch.arange(n_to)
    weights[rows, left] += 1.0 - fraction
    weights[rows, (left + 1).clamp_max(n_from - 1)] += fraction
    return weights


def shares(pooled: Grid, grid: Grid) -> Float[Tensor, "n_pooled n"]:
    """How much of each patch of ``pooled`` falls to each patch of ``grid``; rows sum to one.

    Examples
    --------
    >>> shares((1, 1), (2, 2)).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    sides: list[Tensor] = []
    for n_from, n_to in zip(pooled, grid, strict=True):
        # Where the grid is finer, a patch falls to those inside it; where it is coarser, to the one that holds it.
        overlap = axis_weights(n_to, n_from) if n_from <= n_to else axis_weights(n_from, n_to).T
        sides.append(overlap / overlap.sum(dim=1, keepdim=True))
    return torch.kron(sides[0].contiguous(), sides[1].contiguous())


class Resampling:
    """The linear map G from vectors on a base grid to vectors on a layer's grid, and its transpose.

    Here and in all that follows, blocks of vectors have shape (images, k, n): each vector is contiguous, which makes
    products with large matrices fast on a CPU.

    Parameters
    ----------
    base, layer
        Grids (rows, columns). The two axes are independent: each is averaged or interpolated.

    Examples
    --------
    >>> import torch
    >>> coarse = Resampling((4, 4), (2, 2))
    >>> coarse(torch.ones(1, 1, 16)).flatten().tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, base: Grid, layer: Grid) -> None:
        self.base = base
        self.layer = layer
        self.is_identity = base == layer
        self._placed: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def _axes(self, like: Tensor) -> tuple[Tensor, Tensor]:
        where = (like.device, like.dtype)
        if where not in self._placed:
            rows, columns = (axis_weights(a, b) for a, b in zip(self.base, self.layer, strict=True))
            both = torch.cat([rows.flatten(), columns.flatten()]).to(*where)  # one transfer
            self._placed[where] = (both[: rows.numel()].view(rows.shape), both[rows.numel() :].view(columns.shape))
        return self._placed[where]

    def __call__(self, x: Float[Tensor, "images k n"]) -> Float[Tensor, "images k m"]:
        """Return G x: from the base grid to the layer's."""
        if self.is_identity:
            return x
        rows, columns = self._axes(x)
        return _apply_axes(x, rows, columns, self.base)

    def transpose(self, x: Float[Tensor, "images k m"]) -> Float[Tensor, "images k n"]:
        """Return G' x: from the layer's grid back to the base grid."""
        if self.is_identity:
            return x
        rows, columns = self._axes(x)
        return _apply_axes(x, rows.T, columns.T, self.layer)

    def squared_transpose(self, x: Float[Tensor, "images k m"]) -> Float[Tensor, "images k n"]:
        """Return (G * G)' x: the diagonal of G' diag(x) G, one vector at a time."""
        if self.is_identity:
            return x
        rows, columns = self._axes(x)
        return _apply_axes(x, rows.T.square(), columns.T.square(), self.layer)

    def dense(self) -> Float[Tensor, "m n"]:
        """Return G as a matrix, float64 on the CPU."""
        rows, columns = (axis_weights(a, b) for a, b in zip(self.base, self.layer, strict=True))
        return torch.kron(rows, columns)


def _apply_axes(x: Tensor, rows: Tensor, columns: Tensor, grid: Grid) -> Tensor:
    images, k, _ = x.shape
    return (rows @ x.reshape(images, k, *grid) @ columns.T).flatten(2)
