"""Affinity matrices of one layer, for a few images at once: dense, low-rank, recomputed in tiles, or walked.

All are symmetric and non-negative, and have the same four members: ``matmul``, ``degree``, ``dense``, ``n_bytes``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .._compute.devices import has_double, working_dtype

Rows = Callable[[int, int], Tensor]
"""Rows ``start:stop`` of an affinity before symmetrising, shape (images, stop - start, n)."""

TILE_ELEMENTS = 2**24
"""Elements of the largest intermediate tile (64 MiB in float32)."""
FACTOR_ELEMENTS = 2**19
"""Elements of factors that are multiplied at a time on a CPU: a few MiB, which stay in its cache. Larger blocks are
requested from the operating system for every product, and filling their pages takes longer than the product."""


@runtime_checkable
class Operator(Protocol):
    """What a solver may use of a layer's affinity W, shape (images, n, n)."""

    degree: Float[Tensor, "images n"]
    n_bytes: int

    def matmul(self, x: Float[Tensor, "images k n"], *, exact: bool = True) -> Float[Tensor, "images k n"]:
        """Return W x. With ``exact=False`` the product may be computed in the precision of W, else in that of x."""
        ...

    def dense(self) -> Float[Tensor, "images n n"]:
        """Return W as a matrix in float64."""
        ...


class AddingOperator(ABC):
    """An operator that adds its product to a sum, without a second block of vectors of that size."""

    @abstractmethod
    def add_to(
        self, total: Float[Tensor, "images k n"], x: Float[Tensor, "images k n"], factor: Tensor | float, *, exact: bool
    ) -> None:
        """Add factor W x to ``total``, in place."""

    def matmul(self, x: Float[Tensor, "images k n"], *, exact: bool = True) -> Float[Tensor, "images k n"]:
        product = torch.zeros_like(x)
        self.add_to(product, x, 1.0, exact=exact)
        return product


def accumulate(total: Tensor, x: Tensor, factor: Tensor | float, operator: Operator, *, exact: bool) -> None:
    """Add factor W x to ``total``, in place, without forming W x where the operator can avoid it."""
    if isinstance(operator, AddingOperator):
        operator.add_to(total, x, factor, exact=exact)
    else:
        total += factor * operator.matmul(x, exact=exact)


class DenseOperator:
    """W held as a matrix."""

    def __init__(
        self,
        matrix: Float[Tensor, "images n n"],
        degree: Float[Tensor, "images n"] | None = None,
        *,
        rounded: bool = False,
    ) -> None:
        self.matrix = matrix
        self.degree = _row_sums(matrix) if degree is None else degree
        self._rounded = rounded
        self.n_bytes = matrix.numel() * matrix.element_size()

    @classmethod
    def from_rows(cls, rows: Rows, n: int, images: int, *, symmetric: bool) -> DenseOperator:
        matrix = dense_from_rows(rows, n, images)
        if not symmetric:
            symmetrise_(matrix)
        return cls(matrix, rounded=symmetric)

    def settle(self) -> DenseOperator:
        """Remove the asymmetry that rounding leaves in a product of a matrix with its own transpose.

        It is far below single precision, so this is done only when more precision is asked for.
        """
        if self._rounded:
            symmetrise_(self.matrix)
            self.degree = _row_sums(self.matrix)
            self._rounded = False
        return self

    def matmul(self, x: Float[Tensor, "images k n"], *, exact: bool = True) -> Float[Tensor, "images k n"]:
        if self.matrix.dtype == x.dtype or not exact:
            return (x.to(self.matrix.dtype) @ self.matrix.transpose(-1, -2)).to(x.dtype)
        self.settle()
        n = x.shape[2]
        step = _tile_rows(len(x), n)
        tiles = (self.matrix[:, i : i + step].to(x.dtype) for i in range(0, n, step))
        return torch.cat([x @ tile.transpose(-1, -2) for tile in tiles], dim=2)

    def dense(self) -> Float[Tensor, "images n n"]:
        return _exact(self.settle().matrix)


class LowRankOperator(AddingOperator):
    """W = (L R' + R L') / 2, never formed."""

    def __init__(self, left: Float[Tensor, "images n rank"], right: Float[Tensor, "images n rank"]) -> None:
        self.left = left
        self.right = right
        self.n_bytes = left.numel() * left.element_size() * (1 if left is right else 2)
        self.degree = self.matmul(_ones(len(left), left.shape[1], left))[:, 0].clamp_min(0.0)

    def add_to(
        self, total: Float[Tensor, "images k n"], x: Float[Tensor, "images k n"], factor: Tensor | float, *, exact: bool
    ) -> None:
        dtype = x.dtype if exact else self.left.dtype
        most = FACTOR_ELEMENTS if x.device.type == "cpu" else TILE_ELEMENTS
        step = max(1, most // (len(x) * self.left.shape[2]))
        tiles = [slice(i, i + step) for i in range(0, x.shape[2], step)]
        pairs = [(self.left, self.right)]
        if self.left is not self.right:
            pairs.append((self.right, self.left))
            factor = factor / 2
        for left, right in pairs:
            inner = torch.zeros(len(x), x.shape[1], left.shape[2], dtype=dtype, device=x.device)
            for tile in tiles:
                inner += x[:, :, tile].to(dtype) @ right[:, tile].to(dtype)
            inner = factor * inner
            for tile in tiles:
                total[:, :, tile] += inner.to(dtype) @ left[:, tile].to(dtype).transpose(-1, -2)

    def dense(self) -> Float[Tensor, "images n n"]:
        left, right = _exact(self.left), _exact(self.right)
        product = left @ right.transpose(-1, -2)
        return (product + product.transpose(-1, -2)) / 2


class TiledOperator:
    """W recomputed tile by tile for every product: this is slow, but memory stays bounded at any size."""

    def __init__(self, rows: Rows, n: int, images: int, like: Tensor, *, symmetric: bool) -> None:
        self.rows = rows
        self.n = n
        self.images = images
        self.symmetric = symmetric
        self.n_bytes = 0
        self.degree = self.matmul(_ones(images, n, like))[:, 0].clamp_min(0.0)

    def matmul(self, x: Float[Tensor, "images k n"], *, exact: bool = True) -> Float[Tensor, "images k n"]:
        step = _tile_rows(self.images, self.n)
        forward: list[Tensor] = []
        backward = torch.zeros_like(x)
        for start in range(0, self.n, step):
            tile = self.rows(start, min(start + step, self.n))
            dtype = x.dtype if exact else tile.dtype
            tile = tile.to(dtype)
            forward.append((x.to(dtype) @ tile.transpose(-1, -2)).to(x.dtype))
            if not self.symmetric:
                backward += (x[:, :, start : start + step].to(dtype) @ tile).to(x.dtype)
        product = torch.cat(forward, dim=2)
        return product if self.symmetric else (product + backward) / 2

    def dense(self) -> Float[Tensor, "images n n"]:
        return _exact(DenseOperator.from_rows(self.rows, self.n, self.images, symmetric=self.symmetric).matrix)


class WalkOperator:
    """W = (T^k + T'^k) / 2 with T the row-normalised affinity: k steps of a random walk, as repeated products.

    Ivanova et al., 'Unsupervised Segmentation by Diffusing, Walking and Cutting', arXiv 2412.04678. The power
    is never formed. A row without any affinity stays empty.
    """

    def __init__(self, matrix: Float[Tensor, "images n n"], steps: int) -> None:
        total = _row_sums(matrix)
        inverse = torch.where(total > 0, 1 / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)
        self.transition = matrix * inverse[..., None].to(matrix.dtype)
        self.steps = steps
        self.n_bytes = self.transition.numel() * self.transition.element_size()
        self._dense = DenseOperator(self.transition, total)
        self._transposed = DenseOperator(self.transition.transpose(-1, -2), total)
        self.degree = self.matmul(_ones(len(matrix), matrix.shape[1], matrix))[:, 0].clamp_min(0.0)

    def matmul(self, x: Float[Tensor, "images k n"], *, exact: bool = True) -> Float[Tensor, "images k n"]:
        forward, backward = x, x
        for _ in range(self.steps):
            forward = self._dense.matmul(forward, exact=exact)
            backward = self._transposed.matmul(backward, exact=exact)
        return (forward + backward) / 2

    def dense(self) -> Float[Tensor, "images n n"]:
        images, n, _ = self.transition.shape
        eye = torch.eye(n, dtype=working_dtype(self.transition.device), device=self.transition.device)
        return self.matmul(eye.expand(images, n, n))


def dense_from_rows(rows: Rows, n: int, images: int) -> Float[Tensor, "images n n"]:
    """All rows, not yet symmetrised; tile by tile where one tile would be too large."""
    step = _tile_rows(images, n)
    if step >= n:
        return rows(0, n)
    tile = rows(0, step)
    matrix = tile.new_empty(images, n, n)
    matrix[:, :step] = tile
    for start in range(step, n, step):
        matrix[:, start : start + step] = rows(start, min(start + step, n))
    return matrix


def symmetrise_(matrix: Float[Tensor, "images n n"], block: int = 256) -> Float[Tensor, "images n n"]:
    """Compute (W + W') / 2 in place, block by block: no second matrix is needed, and blocks fit in a CPU's caches."""
    n = matrix.shape[-1]
    block = n if matrix.device.type != "cpu" and n <= 8192 else block
    for i in range(0, n, block):
        for j in range(i, n, block):
            above = matrix[:, i : i + block, j : j + block]
            below = matrix[:, j : j + block, i : i + block]
            mean = (above + below.transpose(-1, -2)).mul_(0.5)
            above.copy_(mean)
            below.copy_(mean.transpose(-1, -2))
    return matrix


def _tile_rows(images: int, n: int) -> int:
    return max(1, TILE_ELEMENTS // (images * n))


def _ones(images: int, n: int, like: Tensor) -> Tensor:
    return torch.ones(images, 1, n, dtype=working_dtype(like.device), device=like.device)


def _exact(x: Tensor) -> Tensor:
    return x.to(working_dtype(x.device))


def _row_sums(matrix: Tensor) -> Tensor:
    """Degrees in float64, exact to the last bits: they must agree with the products, or constants drift."""
    if not has_double(matrix.device):
        return matrix.sum(dim=-1)
    if matrix.device.type == "cpu":  # NumPy adds without a matrix of doubles in between
        return torch.as_tensor(matrix.numpy().sum(axis=-1, dtype=np.float64))
    step = max(1, TILE_ELEMENTS // matrix[:, 0].numel())
    tiles = (matrix[:, i : i + step].double().sum(dim=-1) for i in range(0, matrix.shape[-2], step))
    return torch.cat(list(tiles), dim=-1)
