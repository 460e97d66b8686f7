"""Nearest neighbours by cosine, exactly: the edges of the source paper's dataset graph, for one layer and one head."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from .._compute.devices import one_thread, working_dtype
from .kernels.precision import AT_THRESHOLD

ROWS, COLUMNS = 512, 2**15
"""Tile of similarities looked at in one go, 64 MiB a thread: with narrower ones there is more to merge, with taller
ones threads wait for each other."""
LARGEST_GROUP = 64
"""So many columns are first looked at through their maximum, where there are enough of them."""
GROUPS_PER_PLACE = 4
"""Groups there should be for every neighbour looked for: with fewer, too many of them hold one."""
SPARE = 4
"""The search in single precision finds a quarter more neighbours than are wanted, so that the exact order of those at
the end can be told from the others."""
NONE = -1
"""Stands where there is no further neighbour."""


@dataclass(frozen=True)
class Neighbours:
    """Directed edges of one layer and one head, from every node to the most similar others.

    A node is a patch of an image: its number is ``image * cells + cell``, cells row by row. The first ``within``
    columns are neighbours in the same image (for a symmetric kind the cell itself is one of them), the others
    neighbours in other images; each part by falling similarity, with -1 and 0 where there are no more.
    """

    indices: Int[Tensor, "nodes k"]
    similarity: Float[Tensor, "nodes k"]
    within: int


def nearest(
    left: Float[Tensor, "rows channels"],
    right: Float[Tensor, "nodes channels"],
    cells: int,
    *,
    within: int = 50,
    across: int = 50,
    threshold: float = 0.1,
    first: int = 0,
) -> Neighbours:
    """The most similar nodes of every node, in its own image and in the others.

    Every pair is compared; of equally similar nodes the one with the lower number comes first. The order is that of
    double precision. Heads whose queries or keys hardly differ are common (a large bias decides them), their cosines
    lie within 1e-6 of each other, and single precision would rank them by its rounding, otherwise on every processor.
    A first search in single precision finds a few more than are wanted; these are compared anew. A row is searched
    again in double precision where a bound of the rounding errors leaves open that others belong among its best.

    A tile of similarities is reduced to the maxima of small groups of columns: the k best of a row lie in the k groups
    with the largest maxima, and only those are looked at. On a CPU torch's threads share the rows.

    Parameters
    ----------
    left, right
        Vectors (nodes, channels) of the rows and of the columns, of length 1 but for rounding; zero vectors are similar
        to nothing.
    cells
        Nodes of one image; images follow each other.
    within, across
        How many neighbours to look for inside the image and in other images, at least 0.
    threshold
        Similarities at or below it do not count, in [0, 1).
    first
        Node that the first row is, the first of an image: rows may be those of a few images only, columns are always
        all nodes.

    References
    ----------
    Zhang, Yunis & Maire, CVPR 2024, arXiv 2312.06716, section 4: 50 within, 50 across, similarities above 0.1.

    Examples
    --------
    >>> vectors = torch.tensor([[1.0, 0.0], [0.8, 0.6], [1.0, 0.0], [0.0, 1.0]])
    >>> nearest(vectors, vectors, 2, within=1, across=1).indices.tolist()
    [[0, 2], [1, 2], [2, 0], [3, 1]]
    """
    own, others = min(within, cells), max(min(across, len(right) - cells), 0)
    search = _Ranking(left, right, cells, own, others, threshold, first)
    indices = torch.empty(len(left), own + others, dtype=torch.int32, device=left.device)
    similarity = left.new_empty(len(left), own + others)

    def look(rows: slice) -> None:
        indices[rows], similarity[rows] = search.best(rows)

    blocks = [slice(start, min(start + ROWS, len(left))) for start in range(0, len(left), ROWS)]
    if _by_numpy(left):
        share_among_threads(look, blocks)
    else:
        for rows in blocks:
            look(rows)
    return Neighbours(indices, similarity, own)


Block = TypeVar("Block")


def share_among_threads(look: Callable[[Block], None], blocks: list[Block]) -> None:
    """Blocks by as many workers as torch has threads, each on one: nobody waits for the others after every step."""
    workers = min(torch.get_num_threads(), len(blocks))
    with one_thread(), ThreadPoolExecutor(max(workers, 1)) as pool:
        try:
            for _ in pool.map(look, blocks):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # or Ctrl-C would wait for all of them
            raise


class Keys:
    """Neighbours as whole numbers that sort as they do: by similarity and, where that is equal, the earlier first.

    The similarity, rounded to about 1e-12, stands above the column counted backwards: what differs by the rounding of
    a sum alone counts as equal. 0 is no neighbour.
    """

    def __init__(self, n_columns: int) -> None:
        self._bits = max(n_columns, 2).bit_length()
        self._one = 2.0 ** min(62 - self._bits, 40)
        self._last = 2**self._bits - 1

    def of(self, values: Float[Tensor, "*shape"], columns: Tensor) -> Int64[Tensor, "*shape"]:
        """Keys of similarities above 0."""
        keys = (values.double() * self._one).round_().long()
        keys <<= self._bits
        keys |= self._last - columns
        return keys

    def columns(self, keys: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
        """The columns, -1 where there is none."""
        return torch.where(keys > 0, self._last - (keys & self._last), NONE)

    def values(self, keys: Int64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """The similarities, rounded; 0 where there is none."""
        return (keys >> self._bits).double() / self._one


class _Ranking:
    """The best of every row in the order of double precision, mostly found in single precision."""

    def __init__(
        self, left: Tensor, right: Tensor, cells: int, own: int, others: int, threshold: float, first: int
    ) -> None:
        self.left, self.right = as_exact(left), as_exact(right)
        self.dtype, self.device = left.dtype, left.device
        self.cells, self.own, self.others, self.first = cells, own, others, first
        self.keys = Keys(len(right))
        self.lowest = threshold + AT_THRESHOLD
        # A sum of so many products of single precision is wrong by no more than this.
        self.error = (left.shape[1] + 4) * 2.0**-24
        spare = min(others // SPARE + 1, len(right) - cells - others) if others else 0
        floor = max(self.lowest - self.error, float(np.finfo(np.float32).tiny))
        self.quick = _Search(self.right.float().to(right.device), self.keys, cells, others + spare, floor)
        self._lock = threading.Lock()

    @cached_property
    def _slow(self) -> _Search:
        return _Search(self.right, self.keys, self.cells, self.others, self.lowest)

    def best(self, rows: slice) -> tuple[Int[Tensor, "rows k"], Float[Tensor, "rows k"]]:
        """Columns and similarities, in the own image and then in others, each part by falling similarity."""
        queries, start = self.left[rows], self.first + rows.start
        keys = torch.cat([self._within(queries, start), self._across(queries, start)], dim=1)
        columns, values = self.keys.columns(keys), self.keys.values(keys)
        return columns.to(self.device, torch.int32), values.to(self.device, self.dtype)

    def _within(self, queries: Tensor, start: int) -> Int64[Tensor, "rows k"]:
        table = torch.zeros(len(queries), self.cells, dtype=torch.int64, device=queries.device)
        for rows, image in own_images(self.cells, start, len(queries)):
            columns = torch.arange(image * self.cells, (image + 1) * self.cells, device=queries.device)
            similarity = queries[rows] @ self.right[columns[0] : columns[-1] + 1].T
            table[rows] = torch.where(similarity >= self.lowest, self.keys.of(similarity, columns), 0)
        return largest(table, self.own)

    def _across(self, queries: Tensor, start: int) -> Int64[Tensor, "rows k"]:
        if not self.others:
            return torch.zeros(len(queries), 0, dtype=torch.int64, device=queries.device)
        found = self.quick.keys_of(queries.to(self.device, torch.float32), start).to(queries.device)
        best = largest(exact_keys(self.keys, found, queries, self.right, self.lowest), self.others)
        # What was not found is no better than the last that was, but for rounding.
        most = self.keys.values(found[:, -1]) + self.error
        least = self.keys.values(best[:, -1]).clamp_min(self.lowest)
        unsure = ((found[:, -1] > 0) & (found.shape[1] < self.quick.n_others) & (most >= least)).nonzero()[:, 0]
        if len(unsure):
            with self._lock:
                slow = self._slow
            for image in ((start + unsure) // self.cells).unique().tolist():
                of_image = unsure[(start + unsure) // self.cells == image]
                best[of_image] = slow.keys_of(queries[of_image], image * self.cells)
        return best


class _Search:
    """All columns, laid out for the search in other images, in the precision that they have."""

    def __init__(self, right: Float[Tensor, "nodes channels"], keys: Keys, cells: int, others: int, lowest: float):
        self.keys, self.cells, self.others, self.lowest = keys, cells, others, lowest
        n = len(right)
        self.n_others = n - cells
        widest = n / (GROUPS_PER_PLACE * max(others, 1))
        self.group = min(LARGEST_GROUP, 2 ** max(3, int(math.log2(max(widest, 1)))))
        n_panels = math.ceil(n / COLUMNS)
        self.step = math.ceil(n / (n_panels * self.group))
        # Members of a group are so many columns apart: patches of different places in different images, as neighbours
        # are alike, and groups full of one row's best would have to be looked at without need.
        while math.gcd(self.step, cells) > 1:
            self.step += 1
        self.width = self.step * self.group
        # Columns of zeros fill the last panel; at similarity 0 they never count.
        padded = torch.nn.functional.pad(right, (0, 0, 0, n_panels * self.width - n))
        self.panels = padded.view(n_panels, self.group, self.step, -1).transpose(1, 2).reshape(n_panels, self.width, -1)
        self._buffers: list[Tensor] = []

    def keys_of(self, queries: Float[Tensor, "rows channels"], start: int) -> Int64[Tensor, "rows k"]:
        """The best of rows that follow each other, or are all of the image that begins at ``start``; falling."""
        best = torch.zeros(len(queries), 0, dtype=torch.int64, device=queries.device)
        floors = queries.new_full((len(queries),), self.lowest)
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = queries.new_empty(ROWS, self.width)
        for number, panel in enumerate(self.panels):
            similarity = torch.mm(queries, panel.T, out=buffer[: len(queries)])
            self._hide_own(similarity, start, number * self.width)
            rows, keys, floors = self._candidates(similarity, number * self.width, floors, fresh=number == 0)
            best = _merged(best, rows, keys, self.others)
            # A later column must be better than the last so far: as good would not do.
            last = self.keys.values(best[:, -1]).to(floors)
            floors = torch.nextafter(last, queries.new_tensor(2.0)).maximum(floors)
        self._buffers.append(buffer)
        return best

    def _hide_own(self, similarity: Tensor, start: int, first: int) -> None:
        grouped = similarity.unflatten(1, (self.step, self.group))
        for rows, image in own_images(self.cells, start, len(similarity)):
            begin, end = (min(max(edge * self.cells - first, 0), self.width) for edge in (image, image + 1))
            for member in range(begin // self.step, math.ceil(end / self.step)):
                before = member * self.step
                grouped[rows, max(begin - before, 0) : end - before, member] = -1.0

    def _candidates(
        self, similarity: Tensor, first: int, floors: Tensor, *, fresh: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows and keys of what reaches its row's floor, row by row, and the floors, raised where that is possible."""
        groups = similarity.view(-1, self.group)
        highest = groups.amax(dim=1).view(-1, self.step)
        hits = None if fresh else _reaching(highest, floors)
        if (hits is None or len(hits) > len(highest) * self.others) and self.step >= self.others:
            # As many groups as there are places reach this high, so as many columns do.
            floors = _kth_largest(highest, self.others).maximum(floors)
            hits = None
        if hits is None:
            hits = _reaching(highest, floors)
        rows = hits // self.step
        members = groups.index_select(0, hits)
        found = _reaching(members, floors[rows])
        place = found // self.group
        rows = rows[place]
        columns = first + (found - place * self.group) * self.step + hits[place] - rows * self.step
        return rows, self.keys.of(members.flatten()[found], columns), floors


def own_images(cells: int, start: int, n_rows: int) -> Iterator[tuple[slice, int]]:
    """Which of the rows lie in which image."""
    for image in range(start // cells, (start + n_rows - 1) // cells + 1):
        begin = image * cells - start
        yield slice(max(begin, 0), min(begin + cells, n_rows)), image


def as_exact(vectors: Float[Tensor, "nodes channels"]) -> Float64[Tensor, "nodes channels"]:
    """Double precision (on the CPU, where the device has none), of length 1 in it."""
    if vectors.dtype == torch.float64:
        return vectors
    vectors = (vectors.cpu() if working_dtype(vectors.device) != torch.float64 else vectors).double()
    length = vectors.norm(dim=1, keepdim=True)
    return vectors / torch.where(length > 0, length, 1.0)


def exact_keys(
    keys: Keys,
    found: Int64[Tensor, "rows k"],
    queries: Float64[Tensor, "rows channels"],
    right: Float64[Tensor, "nodes channels"],
    lowest: float,
) -> Int64[Tensor, "rows k"]:
    """Keys of the same columns by their similarity in double precision; 0 for those below the lowest."""
    columns = keys.columns(found)
    values = torch.bmm(right[columns.clamp_min(0)], queries[:, :, None])[:, :, 0]
    return torch.where((columns >= 0) & (values >= lowest), keys.of(values, columns), 0)


def _merged(
    best: Int64[Tensor, "rows so_far"], rows: Int64[Tensor, " found"], keys: Int64[Tensor, " found"], k: int
) -> Int64[Tensor, "rows k"]:
    """The ``k`` best of every row among those so far, if any, and new ones, which come row by row."""
    n_old = best.shape[1]
    if not len(rows) and n_old == k:
        return best
    per_row = torch.bincount(rows, minlength=len(best))
    place = torch.arange(n_old, n_old + len(rows), device=rows.device)
    place -= (per_row.cumsum(0) - per_row)[rows]
    table = best.new_zeros(len(best), max(n_old + int(per_row.max()), k))
    table[:, :n_old] = best
    table[rows, place] = keys
    return largest(table, k)


def _by_numpy(tensor: Tensor) -> bool:
    """NumPy selects with the processor's vector instructions, several times as fast as torch does on a CPU."""
    return tensor.device.type == "cpu"


def _reaching(values: Float[Tensor, "rows columns"], floors: Float[Tensor, " rows"]) -> Int64[Tensor, " found"]:
    """Flat positions of the values that are not below their row's floor."""
    if _by_numpy(values):
        return torch.from_numpy(np.flatnonzero(values.numpy() >= floors.numpy()[:, None]))
    return (values >= floors[:, None]).flatten().nonzero()[:, 0]


def _kth_largest(values: Float[Tensor, "rows columns"], k: int) -> Float[Tensor, " rows"]:
    place = values.shape[1] - k
    if _by_numpy(values):
        return torch.from_numpy(np.partition(values.numpy(), place, axis=1)[:, place].copy())
    return values.topk(k, dim=1).values[:, -1]


def largest(table: Int64[Tensor, "rows columns"], k: int) -> Int64[Tensor, "rows k"]:
    """The ``k`` largest of each row, falling."""
    if not _by_numpy(table):
        return table.sort(dim=1, descending=True).values[:, :k]
    values = table.numpy()
    if k < table.shape[1]:
        values = np.partition(values, table.shape[1] - k - 1, axis=1)[:, table.shape[1] - k :]
    return torch.from_numpy(np.sort(values, axis=1)).flip(1)
