"""Patches that no affinity reaches: the solve leaves them out, and their values are interpolated for display."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import sparse
from scipy.spatial import KDTree
from torch import Tensor

from .._compute.devices import working_dtype
from .resampling import Grid


class Interpolation:
    """The map P from vectors on the free patches to vectors on all patches, and its transpose.

    Free patches keep their value; an isolated patch gets the mean of the free patches that are nearest to it (of all
    that are equally near). Rows sum to one, so constants stay constant. Vectors keep their full length: isolated
    entries are ignored in the input, and are zero in the output of the transpose.
    """

    def __init__(self, free: Bool[Tensor, "images n"], grid: Grid) -> None:
        self.free = free
        on_host = free.cpu()
        self.is_identity = bool(on_host.all())
        # An image without any free patch has nothing to interpolate from; solvers refuse it.
        damaged = (~on_host).any(dim=1) & on_host.any(dim=1)
        self._stencils = [(image, *_stencil(free[image], grid)) for image in damaged.nonzero()[:, 0].tolist()]

    def __call__(self, x: Float[Tensor, "images k n"]) -> Float[Tensor, "images k n"]:
        if self.is_identity:
            return x
        x = torch.where(self.free[:, None], x, 0.0)
        for image, cells, neighbours, weights in self._stencils:
            _add_at(x[image], cells, x[image][:, neighbours] * weights.to(x.dtype))
        return x

    def transpose(self, x: Float[Tensor, "images k n"]) -> Float[Tensor, "images k n"]:
        if self.is_identity:
            return x
        x = x.clone()
        for image, cells, neighbours, weights in self._stencils:
            _add_at(x[image], neighbours, x[image][:, cells] * weights.to(x.dtype))
        return torch.where(self.free[:, None], x, 0.0)

    def matrix(self) -> sparse.csr_array:
        """P over the patches of all images, image by image, as a matrix; the columns of isolated patches are zero."""
        n_images, n = self.free.shape
        own = np.flatnonzero(self.free.cpu().numpy().ravel())
        rows, columns, weights = [own], [own], [np.ones(len(own))]
        for image, *stencil in self._stencils:
            cells, neighbours, parts = (values.cpu().numpy() for values in stencil)
            rows.append(image * n + cells)
            columns.append(image * n + neighbours)
            weights.append(parts.astype(float))
        entries = (np.concatenate(rows), np.concatenate(columns))
        return sparse.csr_array((np.concatenate(weights), entries), shape=(n_images * n,) * 2)


def _add_at(x: Tensor, columns: Tensor, values: Tensor) -> None:
    """Add to columns of x (k, n), to some of them several times, always in the same order."""
    if x.device.type == "cpu":
        x.index_add_(1, columns, values)
    else:  # where `index_add_` adds in any order of threads, this sorts first
        x.index_put_((torch.arange(len(x), device=x.device)[:, None], columns[None]), values, accumulate=True)


def _stencil(free: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Isolated patches, their nearest free patches and the weights of those, as three lists of equal length."""
    on_cpu = free.cpu().numpy()
    index = np.arange(grid[0] * grid[1])
    centres = np.stack([index // grid[1], index % grid[1]], axis=1)  # in patches, which are as high as they are wide
    isolated, sources = index[~on_cpu], index[on_cpu]
    tree = KDTree(centres[sources])
    distance = np.asarray(tree.query(centres[isolated])[0])
    nearest = tree.query_ball_point(centres[isolated], distance * (1 + 1e-9))
    counts = np.array([len(found) for found in nearest])
    cells = torch.as_tensor(np.repeat(isolated, counts))
    neighbours = torch.as_tensor(sources[np.concatenate(list(nearest)).astype(np.int64)])
    weights = torch.as_tensor(np.repeat(1.0 / counts, counts), dtype=working_dtype(free.device))
    return cells.to(free.device), neighbours.to(free.device), weights.to(free.device)
