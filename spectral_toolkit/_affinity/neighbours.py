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
"""Size of the tile of similarities examined at once, 64 MiB per thread: narrower tiles mean more merging, and taller
ones make threads wait for each other."""
LARGEST_GROUP = 64
"""This many columns are first examined through their maximum, where there are enough columns."""
GROUPS_PER_PLACE = 4
"""The number of groups for every neighbour searched for: with fewer, too many of the groups hold one."""
SPARE = 4
"""The search in single precision finds a quarter more neighbours than are wanted, so that the exact order of the last
ones can be decided."""
NONE = -1
"""Marks that there is no further neighbour."""


@dataclass(frozen=True)
class Neighbours:
    """Directed edges of one layer and one head, from every node to the most similar others.

    A node is a patch of an image: its number is ``image * cells + cell``, where ``cells`` is the number of patches of
    an image and ``cell`` counts them row by row. The first ``within`` columns are neighbours in the same image (for a
    symmetric kind the patch itself is one of them), the others are neighbours in other images; each part is in the
    order of descending similarity, with -1 and 0 where there are no further neighbours.
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
    """Find the most similar nodes of every node, in its own image and in the others.

    Every pair is compared; of equally similar nodes, the one with the lower number comes first. The order is that of
    double precision. Heads whose queries or keys hardly differ are common (a large bias decides them); their cosines
    lie within 1e-6 of each other, and single precision would rank them by its rounding, differently on every processor.
    A first search in single precision finds a few more neighbours than are wanted, and these are compared again in
    double precision. A row is searched again in double precision where a bound of the rounding errors leaves open
    whether others belong among its best.

    A tile of similarities is reduced to the maxima of groups of a few columns: the k best of a row lie in the k groups
    with the largest maxima, and only those are examined. On a CPU, torch's threads share the rows.

    Parameters
    ----------
    left, right
        Vectors (nodes, channels) of the rows and of the columns, of length 1 up to rounding; zero vectors are similar
        to no other.
    cells
        The number of nodes of one image; images follow each other.
    within, across
        How many neighbours to find inside the image and in other images, at least 0.
    threshold
        Similarities at or below it do not count, in [0, 1).
    first
        The node of the first row, which is the first of an image: rows may be those of a few images, columns are always
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
    """Run the blocks on as many workers as torch has threads, each on one thread, so that none waits for others."""
    workers = min(torch.get_num_threads(), len(blocks))
    with one_thread(), ThreadPoolExecutor(max(workers, 1)) as pool:
        try:
            for _ in pool.map(look, blocks):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # otherwise Ctrl-C would wait for all of them
            raise


class Keys:
    """Neighbours as integers that sort in their order: by similarity and, where that is equal, the earlier first.

    The similarity, rounded to about 1e-12, stands above the column counted backwards: similarities that differ only by
    the rounding of a sum count as equal. 0 means no neighbour.
    """

    def __init__(self, n_columns: int) -> None:
        self._bits = max(n_columns, 2).bit_length()
        self._one = 2.0 ** min(62 - self._bits, 40)
        self._last = 2**self._bits - 1

    def of(self, values: Float[Tensor, "*shape"], columns: Tensor) -> Int64[Tensor, "*shape"]:
        """Return the keys of similarities above 0."""
        # In single precision, which is all that MPS has, the product with a power of two is exact, too.
        keys = (values.to(working_dtype(values.device)) * self._one).round_().long()
        keys <<= self._bits
        keys |= self._last - columns
        return keys

    def columns(self, keys: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
        """Return the columns, -1 where there is none."""
        return torch.where(keys > 0, self._last - (keys & self._last), NONE)

    def values(self, keys: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the similarities, rounded; 0 where there is none."""
        return (keys >> self._bits).to(working_dtype(keys.device)) / self._one


class _Ranking:
    """The best columns of every row in the order of double precision, mostly found in single precision."""

    def __init__(
        self, left: Tensor, right: Tensor, cells: int, own: int, others: int, threshold: float, first: int
    ) -> None:
        self.left, self.right = as_exact(left), as_exact(right)
        self.dtype, self.device = left.dtype, left.device
        self.cells, self.own, self.others, self.first = cells, own, others, first
        self.keys = Keys(len(right))
        self.lowest = threshold + AT_THRESHOLD
        # The rounding error of a sum of so many products in single precision is no larger than this.
        self.error = (left.shape[1] + 4) * 2.0**-24
        spare = min(others // SPARE + 1, len(right) - cells - others) if others else 0
        floor = max(self.lowest - self.error, float(np.finfo(np.float32).tiny))
        self.quick = _Search(self.right.float().to(right.device), self.keys, cells, others + spare, floor)
        self._lock = threading.Lock()

    @cached_property
    def _slow(self) -> _Search:
        return _Search(self.right, self.keys, self.cells, self.others, self.lowest)

    def best(self, rows: slice) -> tuple[Int[Tensor, "rows k"], Float[Tensor, "rows k"]]:
        """Columns and similarities, in the own image and then in others, each part by descending similarity."""
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
        # Whatever was not found is no better than the last one found, up to rounding.
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
    """All columns, arranged for the search in other images, in the precision that they have."""

    def __init__(self, right: Float[Tensor, "nodes channels"], keys: Keys, cells: int, others: int, lowest: float):
        self.keys, self.cells, self.others, self.lowest = keys, cells, others, lowest
        n = len(right)
        self.n_others = n - cells
        widest = n / (GROUPS_PER_PLACE * max(others, 1))
        self.group = min(LARGEST_GROUP, 2 ** max(3, int(math.log2(max(widest, 1)))))
        n_panels = math.ceil(n / COLUMNS)
        self.step = math.ceil(n / (n_panels * self.group))
        # The members of a group are this many columns apart: patches at different positions in different images.
        # Neighbouring patches are alike, and groups full of the best columns of one row would be examined needlessly.
        while math.gcd(self.step, cells) > 1:
            self.step += 1
        self.width = self.step * self.group
        # Columns of zeros fill the last panel; with similarity 0 they never count.
        padded = torch.nn.functional.pad(right, (0, 0, 0, n_panels * self.width - n))
        self.panels = padded.view(n_panels, self.group, self.step, -1).transpose(1, 2).reshape(n_panels, self.width, -1)
        self._buffers: list[Tensor] = []

    def keys_of(self, queries: Float[Tensor, "rows channels"], start: int) -> Int64[Tensor, "rows k"]:
        """Keys of the best of consecutive rows, or of all rows of the image that begins at ``start``, descending."""
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
            # A later column must be better than the last so far: an equal one does not replace it.
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
        """Rows and keys of what reaches its row's floor, row by row, and the floors, raised where possible."""
        groups = similarity.view(-1, self.group)
        highest = groups.amax(dim=1).view(-1, self.step)
        hits = None if fresh else _reaching(highest, floors)
        if (hits is None or len(hits) > len(highest) * self.others) and self.step >= self.others:
            # As many groups as there are places reach this value, and therefore as many columns do.
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
    """Iterate over the images that the rows lie in, with the rows of each."""
    for image in range(start // cells, (start + n_rows - 1) // cells + 1):
        begin = image * cells - start
        yield slice(max(begin, 0), min(begin + cells, n_rows)), image


def as_exact(vectors: Float[Tensor, "nodes channels"]) -> Float64[Tensor, "nodes channels"]:
    """Convert to double precision (on the CPU, where the device has none), with length 1 in that precision."""
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
    """The ``k`` best of every row among those found so far, if any, and new ones, which are sorted by row."""
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
    """Tell whether NumPy should select: its vector instructions are several times as fast as torch on a CPU."""
    return tensor.device.type == "cpu"


def _reaching(values: Float[Tensor, "rows columns"], floors: Float[Tensor, " rows"]) -> Int64[Tensor, " found"]:
    """Flat positions of the values that are not below the floor of their row."""
    if _by_numpy(values):
        return torch.from_numpy(np.flatnonzero(values.numpy() >= floors.numpy()[:, None]))
    return (values >= floors[:, None]).flatten().nonzero()[:, 0]


def _kth_largest(values: Float[Tensor, "rows columns"], k: int) -> Float[Tensor, " rows"]:
    place = values.shape[1] - k
    if _by_numpy(values):
        return torch.from_numpy(np.partition(values.numpy(), place, axis=1)[:, place].copy())
    return values.topk(k, dim=1).values[:, -1]


def largest(table: Int64[Tensor, "rows columns"], k: int) -> Int64[Tensor, "rows k"]:
    """The ``k`` largest of each row, descending."""
    if not _by_numpy(table):
        return table.sort(dim=1, descending=True).values[:, :k]
    values = table.numpy()
    if k < table.shape[1]:
        values = np.partition(values, table.shape[1] - k - 1, axis=1)[:, table.shape[1] - k :]
    return torch.from_numpy(np.sort(values, axis=1)).flip(1)
