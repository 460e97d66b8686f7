"""Affinity of one layer over all patches of a dataset, its rows divided among processes by image.

Each process holds the edges or factors of its own images. Vectors are complete in every process, so that solvers need
not know of this; a product exchanges one block of vectors (edges) or its coefficients and own rows (factors).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from .._compute.devices import working_dtype
from .._compute.processes import all_gather_rows, all_reduce
from .dataset_operators import edges
from .neighbours import Neighbours

ROWS = 2**14
"""Rows multiplied at once: the edges of this many are copied in the precision of the vectors."""


class ShardedSparseOperator:
    """W = the mean over heads of (K + K') / 2, where this process holds the rows ``nodes`` of the directed edges K."""

    def __init__(self, heads: Sequence[Neighbours], nodes: slice, n: int, device: torch.device) -> None:
        self.nodes, self.n, self.device = nodes, n, device
        self._blocks: list[tuple[slice, sparse.csr_array]] = []
        for start in range(0, nodes.stop - nodes.start, ROWS):
            rows = slice(start, min(start + ROWS, nodes.stop - nodes.start))
            total: sparse.csr_array | None = None
            for head in heads:
                own = edges(head, rows, n)
                total = own if total is None else sparse.csr_array(total + own)
            assert total is not None
            total.data *= np.float32(0.5 / len(heads))
            self._blocks.append((slice(nodes.start + rows.start, nodes.start + rows.stop), total))
        own_bytes = sum(m.data.nbytes + m.indices.nbytes + m.indptr.nbytes for _, m in self._blocks)
        self.n_bytes = _of_the_largest(own_bytes, device)
        dtype = working_dtype(device)
        self.degree = self.matmul(torch.ones(1, 1, n, dtype=dtype, device=device))[:, 0]

    def matmul(self, x: Float[Tensor, "1 k n"], *, exact: bool = True) -> Float[Tensor, "1 k n"]:
        columns = np.ascontiguousarray(x[0].T.cpu().numpy())
        columns = columns if exact else columns.astype(np.float32)
        total = np.zeros_like(columns)
        for rows, block in self._blocks:
            total[rows] += block @ columns
            total += block.T @ columns[rows]
        return all_reduce(torch.as_tensor(total).to(self.device)).T[None].to(x.dtype).contiguous()

    def dense(self) -> Float[Tensor, "1 n n"]:
        return self.matmul(torch.eye(self.n, dtype=self.degree.dtype, device=self.device)[None])


class ShardedFactorOperator:
    """W = (L R' + R L') / 2, where this process holds the rows of the factors that belong to its own images."""

    def __init__(self, left: Tensor, right: Tensor, nodes: slice, n: int) -> None:
        self.left, self.right, self.nodes, self.n = left, right, nodes, n
        sides = (left,) if left is right else (left, right)
        own_bytes = sum(side.numel() * side.element_size() for side in sides)
        self.n_bytes = _of_the_largest(own_bytes, left.device)
        dtype = working_dtype(left.device)
        self.degree = self.matmul(torch.ones(1, 1, n, dtype=dtype, device=left.device))[:, 0].clamp_min(0.0)

    def matmul(self, x: Float[Tensor, "1 k n"], *, exact: bool = True) -> Float[Tensor, "1 k n"]:
        symmetric = self.left is self.right
        dtype = x.dtype if exact else self.left.dtype
        own = x[0, :, self.nodes].to(dtype)
        right = self.right.to(dtype)
        left = right if symmetric else self.left.to(dtype)
        if symmetric:
            rows = left @ all_reduce(own @ right).T
        else:
            through = all_reduce(torch.cat([own @ right, own @ left], dim=1))
            rows = torch.cat([left, right], dim=1) @ through.T / 2
        return all_gather_rows(rows).T[None].to(x.dtype).contiguous()

    def dense(self) -> Float[Tensor, "1 n n"]:
        return self.matmul(torch.eye(self.n, dtype=self.degree.dtype, device=self.left.device)[None])


def _of_the_largest(n_bytes: int, device: torch.device) -> int:
    """Bytes of the process with the largest share: all keep an operator or none does, as all take part in making it."""
    return int(all_reduce(torch.tensor(n_bytes, device=device), "max"))
