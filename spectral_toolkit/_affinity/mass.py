"""The joint degree matrix B = sum_l c_l G_l' D_l G_l: its products, and its inverse where that is small enough.

All coarser or finer grids are resampled together: their weights along each axis stand below each other, so that a
product with B is a few operations however many grids there are. On a GPU every operation costs the same some
microseconds, which is more than the arithmetic of most grids.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .resampling import Grid, axis_weights

INVERTED = 2**19
"""Entries of the largest factor that the exact inverse is made of: 1,024 patches with 512 coarser ones."""


class Mass:
    """B for a few problems, each of one or several images with the same grids.

    Parameters
    ----------
    base
        The grid of the vectors.
    grids, degrees
        The grids of the layers, none of them twice, and the weighted degrees there, (problems, images * patches).
    """

    def __init__(self, base: Grid, grids: Sequence[Grid], degrees: Sequence[Float[Tensor, "problems _"]]) -> None:
        self.base = base
        self.own = next((degree for grid, degree in zip(grids, degrees, strict=True) if grid == base), None)
        others = [(grid, degree) for grid, degree in zip(grids, degrees, strict=True) if grid != base]
        self._grids = [grid for grid, _ in others]
        self._degrees = [degree for _, degree in others]
        if others:
            like = degrees[0]
            rows, columns = (torch.cat([axis_weights(base[i], grid[i]) for grid in self._grids]) for i in (0, 1))
            both = torch.cat([rows.flatten(), columns.flatten()]).to(like)  # one transfer
            self._rows, self._columns = both[: rows.numel()].view(rows.shape), both[rows.numel() :].view(columns.shape)
            n_parts = self._degrees[0].shape[1] // (self._grids[0][0] * self._grids[0][1])
            self._table = like.new_zeros(len(like), 1, n_parts, len(rows), len(columns))
            top = left = 0
            for grid, degree in others:  # elsewhere, rows of one grid meet columns of another, which mean nothing
                block = self._table[:, 0, :, top : top + grid[0], left : left + grid[1]]
                block.copy_(degree.view(len(like), n_parts, *grid))
                top, left = top + grid[0], left + grid[1]

    def __matmul__(self, x: Float[Tensor, "problems k n"]) -> Float[Tensor, "problems k n"]:
        """Return B x."""
        total = torch.zeros_like(x) if self.own is None else self.own[:, None] * x
        if self._grids:
            width = self.base[1]
            coarse = self._coarse(x) * self._table
            images, _, parts = self._table.shape[:3]
            batch = images * x.shape[1] * parts
            lifted = torch.bmm(self._rows.T.expand(batch, -1, -1), coarse.view(batch, *coarse.shape[-2:]))
            total.view(-1, width).addmm_(lifted.view(-1, lifted.shape[2]), self._columns)
        return total

    def _coarse(self, x: Tensor) -> Float[Tensor, "problems k parts rows columns"]:
        """Resample to all grids at once."""
        images, _, parts, n_rows, n_columns = self._table.shape
        batch = images * x.shape[1] * parts
        along = x.reshape(-1, self.base[1]) @ self._columns.T
        coarse = torch.bmm(self._rows.expand(batch, -1, -1), along.view(batch, self.base[0], n_columns))
        return coarse.view(images, x.shape[1], parts, n_rows, n_columns)

    def inverse(self, diagonal: Float[Tensor, "problems n"]) -> Inverse | None:
        """About the inverse of B, by the formula of Woodbury; None where it would take too long to make.

        Parameters
        ----------
        diagonal
            The diagonal of B. Patches of the base grid whose own degree is a tiny part of it are given a little more,
            so that what they cancel in the formula is not lost in rounding: the inverse is then of a slightly larger B.
            It is held in single precision, which is enough for what a search goes along.
        """
        if self.own is None:
            return None
        least = torch.finfo(torch.float32).eps ** 0.5 * diagonal
        inverse = torch.where(diagonal > 0, 1 / torch.maximum(self.own, least), 0.0)
        if not self._grids:
            return Inverse(inverse, None)
        n_coarse = sum(rows * columns for rows, columns in self._grids)
        if self._table.shape[2] != 1 or n_coarse * self.own.shape[1] > INVERTED:
            return None
        # B = D + U U' with U' the roots of the degrees times the resampling: B^-1 = D^-1 - F' S^-1 F, F = U' D^-1 and
        # S = 1 + F U.
        root = torch.cat(self._degrees, dim=1).clamp_min(0.0).sqrt()
        factor = root[:, :, None] * self._resampling() * inverse[:, None]
        inner = self._picked(self._coarse(factor)) * root[:, None]
        inner.diagonal(dim1=1, dim2=2).add_(1.0)
        small = torch.cholesky_inverse(torch.linalg.cholesky_ex(inner)[0])
        return Inverse(inverse, (factor.float(), small.float()))

    def _resampling(self) -> Float[Tensor, "coarse n"]:
        """The resampling to one grid after the other, as a matrix."""
        blocks: list[Tensor] = []
        top = left = 0
        for rows, columns in self._grids:
            sides = self._rows[top : top + rows], self._columns[left : left + columns]
            blocks.append((sides[0][:, None, :, None] * sides[1][None, :, None, :]).view(rows * columns, -1))
            top, left = top + rows, left + columns
        return torch.cat(blocks)

    def _picked(self, coarse: Tensor) -> Float[Tensor, "problems k coarse"]:
        """The grids one after the other, without what means nothing."""
        blocks: list[Tensor] = []
        top = left = 0
        for rows, columns in self._grids:
            blocks.append(coarse[:, :, 0, top : top + rows, left : left + columns].flatten(2))
            top, left = top + rows, left + columns
        return torch.cat(blocks, dim=2)


class Inverse:
    """B^-1 = D^-1 - F' S^-1 F."""

    def __init__(
        self,
        diagonal: Float[Tensor, "problems n"],
        factors: tuple[Float[Tensor, "problems coarse n"], Float[Tensor, "problems coarse coarse"]] | None,
    ) -> None:
        self._diagonal = diagonal[:, None]
        self._factors = factors

    def __matmul__(self, r: Float[Tensor, "problems k n"]) -> Float[Tensor, "problems k n"]:
        scaled = self._diagonal * r
        if self._factors is None:
            return scaled
        factor, small = self._factors
        return scaled.sub_((r.to(factor.dtype) @ factor.transpose(-1, -2)) @ small @ factor)


KeptInverse = tuple[dict[str, float], Inverse | None]
"""About the inverse of B, and the weights that it was made for."""
