"""Affinity of one layer over all patches of a dataset: sparse edges in memory, or factors.

They offer what `operators.Operator` asks for, with one entry along ``images`` and n the nodes of the whole dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from .._compute.devices import working_dtype
from .neighbours import Neighbours
from .operators import AddingOperator
from .sparse_rows import SparseRows


def edges(neighbours: Neighbours, rows: slice, n: int) -> sparse.csr_array:
    """Directed edges of one head from some rows of a table to all ``n`` nodes, as a sparse matrix (rows, nodes)."""
    indices, values = neighbours.indices[rows].cpu().numpy(), neighbours.similarity[rows].cpu().numpy()
    present = indices >= 0
    starts = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
    return sparse.csr_array((values[present], indices[present], starts), shape=(len(indices), n))


class SparseOperator:
    """W = the mean over heads of (K + K') / 2, where K are the directed edges of a head, held as one sparse matrix."""

    def __init__(self, matrix: sparse.csr_array, device: torch.device) -> None:
        matrix.sort_indices()
        parts = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data
        ends, columns, values = (torch.as_tensor(part).to(device) for part in parts)
        self._matrix = SparseRows(ends, columns, values, len(ends) - 1)
        self.n_bytes = sum(x.numel() * x.element_size() for x in (ends, columns, values))
        total = np.asarray(matrix.astype(np.float64).sum(axis=1)).reshape(1, -1)
        self.degree = torch.as_tensor(total).to(device=device, dtype=working_dtype(device))

    @classmethod
    def from_heads(cls, heads: Sequence[Neighbours], device: torch.device) -> SparseOperator:
        """Sum the heads' edges and make the sum symmetric; a value is exact to the rounding of float32."""
        total: sparse.csr_array | None = None
        for head in heads:
            own = edges(head, slice(None), len(head.indices))
            total = own if total is None else total + own
        assert total is not None
        matrix = sparse.csr_array(total + total.T)
        matrix.data *= np.float32(0.5 / len(heads))
        return cls(matrix, device)

    def matmul(self, x: Float[Tensor, "1 k n"], *, exact: bool = True) -> Float[Tensor, "1 k n"]:
        matrix = self._matrix.to(x.dtype) if exact else self._matrix
        return (matrix @ x[0].T.to(matrix.values.dtype)).T[None].to(x.dtype).contiguous()

    def dense(self) -> Float[Tensor, "1 n n"]:
        return self._matrix.to_dense().to(self.degree.dtype)[None]


Factors = Callable[[], Iterator[tuple[slice, Tensor, Tensor]]]
"""Iterates over the images, a few at a time: their nodes, and their rows of L and R, each (nodes, rank)."""


class StoredFactorOperator(AddingOperator):
    """W = (L R' + R L') / 2 with factors that are recomputed from the stored activations for every product."""

    def __init__(self, factors: Factors, n: int, device: torch.device) -> None:
        self.factors = factors
        self.n = n
        self.n_bytes = 0
        self.degree = self.matmul(torch.ones(1, 1, n, dtype=working_dtype(device), device=device))[:, 0].clamp_min(0.0)

    def add_to(
        self, total: Float[Tensor, "1 k n"], x: Float[Tensor, "1 k n"], factor: Tensor | float, *, exact: bool
    ) -> None:
        through_left = through_right = x.new_zeros(())
        for nodes, left, right in self.factors():
            dtype = x.dtype if exact else left.dtype
            own = x[0, :, nodes].to(dtype)
            through_right = through_right.to(dtype) + own @ right.to(dtype)
            through_left = through_right if left is right else through_left.to(dtype) + own @ left.to(dtype)
        for nodes, left, right in self.factors():
            dtype = x.dtype if exact else left.dtype
            own = through_right @ left.to(dtype).T
            if left is not right:
                own = (own + through_left @ right.to(dtype).T) / 2
            total[:, :, nodes] += factor * own.to(x.dtype)

    def dense(self) -> Float[Tensor, "1 n n"]:
        sides = [(left, right) for _, left, right in self.factors()]
        left, right = (torch.cat(parts).to(self.degree.dtype) for parts in zip(*sides, strict=True))
        product = left @ right.T
        return ((product + product.T) / 2)[None]
