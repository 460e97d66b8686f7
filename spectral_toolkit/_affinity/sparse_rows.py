"""A sparse matrix times dense columns, with sums in an order that no thread decides: every run gives the same bits.

Torch's product of compressed rows does so on a CPU. On a GPU it calls a library that promises the same bits only for
methods that torch does not choose (cuSPARSE, SpMM), and a gradient through it, or through gathered rows, is added up by
atomics. There, rows are gathered and each is summed from its first edge to its last, in both directions.
"""

from __future__ import annotations

import warnings
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._compute.devices import DEVICE_KINDS

GATHERED = 2**26
"""Numbers that are gathered at once where rows are summed by us."""


class SparseRows:
    """A sparse matrix: where rows end, and the columns and values of their entries, row by row, none of them twice.

    Examples
    --------
    >>> matrix = SparseRows(torch.tensor([0, 2, 2, 3]), torch.tensor([0, 1, 1]), torch.tensor([1.0, 2.0, 3.0]), 2)
    >>> (matrix @ torch.eye(2)).tolist()
    [[1.0, 2.0], [0.0, 0.0], [0.0, 3.0]]
    >>> (matrix.transposed @ torch.eye(3)).tolist()
    [[1.0, 0.0, 0.0], [2.0, 0.0, 3.0]]
    """

    def __init__(
        self, ends: Int[Tensor, " rows+1"], columns: Int[Tensor, " entries"], values: Float[Tensor, " entries"], n: int
    ) -> None:
        if not DEVICE_KINDS[values.device.type].sums_segments:  # nor a product of compressed rows
            ends, columns, values = ends.cpu(), columns.cpu(), values.cpu()
        self.ends, self.columns, self.values, self.n = ends, columns, values, n
        self._whole = None if values.device.type != "cpu" else _whole(ends, columns, values, n)

    def __matmul__(self, x: Float[Tensor, "n k"]) -> Float[Tensor, "rows k"]:
        if self._whole is None:
            return summed_rows(self.ends, self.columns, self.values, x)
        return (self._whole @ x.to(self._whole.device)).to(x.device)

    def to(self, dtype: torch.dtype) -> SparseRows:
        """The same in another precision."""
        if dtype == self.values.dtype:
            return self
        return SparseRows(self.ends, self.columns, self.values.to(dtype), self.n)

    @cached_property
    def transposed(self) -> SparseRows:
        """The transpose, with the entries of a row in the order of their columns."""
        rows = self._rows
        order = self.columns.argsort(stable=True)
        ends = torch.zeros(self.n + 1, dtype=self.ends.dtype, device=self.ends.device)
        ends[1:] = torch.bincount(self.columns, minlength=self.n).cumsum(0)
        return SparseRows(ends, rows[order].to(self.columns.dtype), self.values[order], len(self.ends) - 1)

    def to_dense(self) -> Float[Tensor, "rows n"]:
        out = self.values.new_zeros(len(self.ends) - 1, self.n)
        out[self._rows, self.columns.long()] = self.values
        return out

    @property
    def _rows(self) -> Int[Tensor, " entries"]:
        return torch.arange(len(self.ends) - 1, device=self.ends.device).repeat_interleave(self.ends.diff())


def _whole(ends: Tensor, columns: Tensor, values: Tensor, n: int) -> Tensor:
    with warnings.catch_warnings():  # torch calls the format unfinished, but only products are needed here
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(ends, columns, values, (len(ends) - 1, n), check_invariants=False)


def summed_rows(ends: Tensor, columns: Tensor, values: Tensor, x: Float[Tensor, "n k"]) -> Float[Tensor, "rows k"]:
    """Gather the rows of x that each row of the matrix has an entry for, and sum them one after the other."""
    out = x.new_empty(len(ends) - 1, x.shape[1])
    at_once = max(GATHERED // max(x.shape[1], 1), 1)
    first = 0
    while first < len(out):
        begin = int(ends[first])
        # At least one row, and as many as fit.
        last = max(int(torch.searchsorted(ends, begin + at_once, right=True)) - 1, first + 1)
        own = slice(begin, int(ends[last]))
        parts = x[columns[own]] * values[own, None]
        if len(parts):
            out[first:last] = torch.segment_reduce(parts, "sum", offsets=ends[first : last + 1] - begin, axis=0)
        else:
            out[first:last] = 0
        first = last
    return out


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, matrix: SparseRows) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.matrix = matrix
        return matrix @ x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.matrix.transposed @ gradient, None


def product(matrix: SparseRows, x: Float[Tensor, "n k"]) -> Float[Tensor, "rows k"]:
    """Multiply, with a gradient in x that is summed in a fixed order, too."""
    return _Product.apply(x, matrix)  # pyright: ignore[reportReturnType]
