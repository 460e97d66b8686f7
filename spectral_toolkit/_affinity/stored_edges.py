"""Edges of one layer on disk: symmetric, heads averaged, in square blocks that fit in the caches of a processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from .._compute.devices import working_dtype
from ..errors import StoreError
from .neighbour_tables import table_folder
from .neighbours import Neighbours
from .sparse_rows import SparseRows

SIDE = 2**14
"""Rows and columns of a block: 25 vectors over this many nodes are 1.6 MB. With whole rows, whose columns lie anywhere
among 256,000 nodes, a product takes seven times as long (single numbers are fetched from memory)."""
ROWS_PER_READ = 2**16
"""Rows of a table of neighbours that are read at once."""


class StoredSparseOperator:
    """W = the mean over heads of (K + K') / 2, where the directed edges K are read from disk for every product.

    A folder holds, by rows of blocks and then block by block: how many edges every row has in the block (``counts``),
    their columns inside the block (``columns``), and their values; ``starts`` says where each block begins, and
    ``degree`` holds the row sums.
    """

    n_bytes = 0

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder = folder
        self.device = device
        self._starts, degree = _checked(folder)
        self.n = len(degree)
        self.degree = torch.as_tensor(degree)[None].to(device=device, dtype=working_dtype(device))

    @classmethod
    def from_heads(
        cls, folder: Path, heads: Callable[[], Sequence[Neighbours]], device: torch.device
    ) -> StoredSparseOperator:
        """Return what the folder holds; if it is empty, write it first. Only then are the heads asked for."""
        if not folder.exists():
            with table_folder(folder) as half:
                _write(half, heads())
        return cls(folder, device)

    def matmul(self, x: Float[Tensor, "1 k n"], *, exact: bool = True) -> Float[Tensor, "1 k n"]:
        columns = x[0].T.to(device="cpu", dtype=x.dtype if exact else torch.float32).contiguous()
        total = torch.zeros_like(columns)
        for rows, own, block in self._blocks(columns.dtype):
            total[rows] += block @ columns[own]
        return total.T[None].to(x).contiguous()

    def dense(self) -> Float[Tensor, "1 n n"]:
        matrix = torch.zeros(self.n, self.n, dtype=torch.float64)
        for rows, own, block in self._blocks(torch.float64):
            matrix[rows, own] = block.to_dense()
        return matrix[None].to(self.degree)

    def _blocks(self, dtype: torch.dtype) -> Iterator[tuple[slice, slice, SparseRows]]:
        panels = _panels(self.n)
        for number, rows in enumerate(panels):
            starts, height = self._starts[number], rows.stop - rows.start
            first, n_edges = int(starts[0]), int(starts[-1] - starts[0])
            counts = self._read("counts", np.uint16, len(panels) * rows.start, len(panels) * height)
            columns = self._read("columns", np.uint16, first, n_edges).astype(np.int32)
            values = torch.from_numpy(self._read("values", np.float32, first, n_edges)).to(dtype)
            for place, own in enumerate(panels):
                part = slice(int(starts[place]) - first, int(starts[place + 1]) - first)
                if part.start == part.stop:
                    continue
                per_row = counts[place * height : (place + 1) * height]
                ends = np.concatenate([[0], np.cumsum(per_row, dtype=np.int32)]).astype(np.int32)
                places = torch.from_numpy(ends), torch.from_numpy(columns[part])
                yield rows, own, SparseRows(*places, values[part], own.stop - own.start)

    def _read(self, name: str, dtype: type, first: int, count: int) -> np.ndarray:
        # The files are read and not mapped: mapped pages count as memory of the process until another one needs it.
        size = np.dtype(dtype).itemsize
        return np.fromfile(self.folder / f"{name}.bin", dtype, count, offset=first * size)


def _checked(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return where blocks begin, and the degrees; the files of the edges must be as long as these say."""
    try:
        starts, degree = np.load(folder / "starts.npy"), np.load(folder / "degree.npy")
        n_panels, n_edges = len(_panels(len(degree))), int(starts[-1, -1])
        if starts.shape != (n_panels, n_panels + 1):
            raise ValueError(f"'starts' has shape {starts.shape}")
        for name, size in (("counts", 2 * len(degree) * n_panels), ("columns", 2 * n_edges), ("values", 4 * n_edges)):
            if (found := (folder / f"{name}.bin").stat().st_size) != size:
                raise ValueError(f"'{name}' has {found:,} bytes and not {size:,}")
    except (OSError, ValueError, IndexError, EOFError) as error:
        raise StoreError(
            f"{str(folder)!r} holds no edges that can be read ({error}): delete it, and they will be made again."
        ) from error
    return starts, degree


def _panels(n: int) -> list[slice]:
    return [slice(start, min(start + SIDE, n)) for start in range(0, n, SIDE)]


def _write(folder: Path, heads: Sequence[Neighbours]) -> None:
    n = len(heads[0].indices)
    panels = _panels(n)
    starts, degree, begin = np.zeros((len(panels), len(panels) + 1), np.int64), np.zeros(n), 0
    with (
        (folder / "counts.bin").open("wb") as counts,
        (folder / "columns.bin").open("wb") as columns,
        (folder / "values.bin").open("wb") as values,
    ):
        for number, rows in enumerate(panels):
            found = [part for head in heads for part in (_outgoing(head, rows), _incoming(head, rows))]
            row, column, value = (np.concatenate(parts) for parts in zip(*found, strict=True))
            total = sparse.coo_array((value, (row, column)), shape=(rows.stop - rows.start, n)).tocsr()
            total.data *= np.float32(0.5 / len(heads))
            degree[rows] = total.astype(np.float64).sum(axis=1)
            # The edges are sorted from rows to blocks: by block, and inside a block row by row as before.
            block = (total.indices // SIDE).astype(np.uint16)
            height = rows.stop - rows.start
            own = np.repeat(np.arange(height), np.diff(total.indptr))
            per_row = np.bincount(block.astype(np.int64) * height + own, minlength=len(panels) * height)
            order = np.argsort(block, kind="stable")
            starts[number] = begin + np.concatenate([[0], per_row.reshape(len(panels), height).sum(axis=1).cumsum()])
            begin = int(starts[number, -1])
            per_row.astype(np.uint16).tofile(counts)
            (total.indices[order] % SIDE).astype(np.uint16).tofile(columns)
            total.data[order].astype(np.float32).tofile(values)
    np.save(folder / "starts.npy", starts)
    np.save(folder / "degree.npy", degree)


Triples = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows, counted from the first one, columns and values of edges."""


def _outgoing(head: Neighbours, rows: slice) -> Triples:
    """Directed edges of one head from some nodes."""
    indices = head.indices[rows].numpy()
    row, place = np.nonzero(indices >= 0)
    return row.astype(np.int32), indices[row, place], head.similarity[rows].numpy()[row, place].astype(np.float32)


def _incoming(head: Neighbours, rows: slice) -> Triples:
    """Directed edges of one head from anywhere to some nodes, reversed."""
    k = max(head.indices.shape[1], 1)
    found: list[Triples] = []
    for start in range(0, len(head.indices), ROWS_PER_READ):
        part = slice(start, start + ROWS_PER_READ)
        # One comparison serves both ends: what lies below the rows, including -1, becomes a huge number.
        target = (head.indices[part].numpy() - np.int32(rows.start)).view(np.uint32).ravel()
        at = np.flatnonzero(target < rows.stop - rows.start)
        value = head.similarity[part].numpy().ravel()[at].astype(np.float32)
        found.append((target[at].astype(np.int32), (start + at // k).astype(np.int32), value))
    rows_, columns, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return rows_, columns, values
