"""Cells that no affinity reaches: left out of the solve, interpolated from their neighbours for display."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree
from torch import Tensor

from .resampling import Grid

N_NEIGHBOURS = 4


class Interpolation:
    """The map P from vectors on the free cells to vectors on all cells, and its transpose.

    Free cells keep their value; an isolated cell gets the inverse-distance mean of its four nearest free cells.
    Rows sum to one, so constants stay constant. Vectors keep their full length: isolated entries are ignored on
    the way in, and zero on the way out of the transpose.
    """

    def __init__(self, free: Bool[Tensor, "images n"], grid: Grid) -> None:
        self.free = free
        self.is_identity = bool(free.all())
        self._stencils: list[tuple[int, Tensor, Tensor, Tensor]] = []
        for image in (~free).any(dim=1).nonzero()[:, 0].tolist():
            self._stencils.append((image, *_stencil(free[image], grid)))

    def __call__(self, x: Float[Tensor, "images n k"]) -> Float[Tensor, "images n k"]:
        if self.is_identity:
            return x
        x = x.clone()
        for image, cells, neighbours, weights in self._stencils:
            x[image, cells] = (x[image, neighbours] * weights.to(x.dtype)[..., None]).sum(dim=1)
        return x

    def transpose(self, x: Float[Tensor, "images n k"]) -> Float[Tensor, "images n k"]:
        if self.is_identity:
            return x
        x = x.clone()
        for image, cells, neighbours, weights in self._stencils:
            spread = x[image, cells][:, None, :] * weights.to(x.dtype)[..., None]
            x[image, cells] = 0.0
            x[image].index_add_(0, neighbours.flatten(), spread.flatten(0, 1))
        return x


def _stencil(free: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    index = torch.arange(grid[0] * grid[1])
    centres = torch.stack([(index // grid[1] + 0.5) / grid[0], (index % grid[1] + 0.5) / grid[1]], dim=1)
    on_cpu = free.cpu()
    cells, sources = index[~on_cpu], index[on_cpu]
    k = min(N_NEIGHBOURS, len(sources))
    distance, nearest = cKDTree(centres[on_cpu].numpy()).query(centres[~on_cpu].numpy(), k=list(range(1, k + 1)))
    weights = 1.0 / torch.as_tensor(distance, dtype=torch.float64)
    weights /= weights.sum(dim=1, keepdim=True)
    where = free.device
    dtype = torch.float32 if where.type == "mps" else torch.float64
    return cells.to(where), sources[torch.as_tensor(nearest)].to(where), weights.to(device=where, dtype=dtype)
