"""DatasetGraph: one affinity per layer over the patches of all images, and the layers' weights."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import torch
from torch import Tensor

from .._compute.processes import share_of, world_size
from .._compute.settings import computing
from ..errors import AffinityError
from .approximate_neighbours import nearest_by_index
from .dataset_operators import Factors, SparseOperator, StoredFactorOperator
from .dataset_shards import ShardedFactorOperator, ShardedSparseOperator
from .features import read_features
from .kernels.cosine import unit_vectors
from .layer_graph import LayerGraph, Member, own_array
from .neighbour_tables import Table, check_room, find_table, name_of
from .neighbours import Neighbours, nearest
from .operators import LowRankOperator, Operator
from .stored_edges import StoredSparseOperator

IMAGES_PER_READ = 16
"""Images whose vectors are read at once."""
EDGES_TO_TABLES = 2.5
"""Size of tables and of their edges (up to twice as many, in three quarters of the space), relative to the tables."""
MOST_CELLS = 32 * 32
"""Layers of more patches are left out of a dataset by default, as in the source paper: they alone would decide how long
the search for neighbours takes."""
MOST_DENSE_NODES = 20_000
"""Whole matrices are written out up to this size: 3.2 GB in float64."""


def too_fine(cells: Mapping[str, int]) -> tuple[str, ...]:
    """Return the layers that a dataset leaves out, given the numbers of patches of all; none if all are too fine.

    Examples
    --------
    >>> too_fine({"down": 4096, "middle": 64}), too_fine({"block.0": 1369, "block.1": 1369})
    (('down',), ())
    """
    fine = tuple(layer for layer, n in cells.items() if n > MOST_CELLS)
    return () if len(fine) == len(cells) else fine


class WantedNeighbours(TypedDict):
    """The settings that decide which neighbours are searched for."""

    within: int
    across: int
    threshold: float


class DatasetGraph(LayerGraph):
    """Affinities of all layers of one capture, between the patches of all its images.

    It is made by :func:`spectral_toolkit.affinity` with ``scope="dataset"`` and offers what a `LayerGraph` offers.
    Vectors are read from the activations one layer and head at a time, so that they may lie in a store larger than
    memory. Tables of neighbours are kept in memory while those of all layers fit in ``cache_bytes``; beyond that they
    are kept in files, as are the edges made of them, which are read for every product. The files are in ``folder``,
    where a later graph of the same vectors finds them, or in a temporary folder, which is removed with the graph.

    If there are several processes, each finds and holds the rows of its own images.
    """

    def __init__(self, *arguments: Any, folder: Path | None = None, remark: str = "", **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.folder = folder
        self._remark = remark
        # All reweighted copies share these, like the operators.
        self._tables: dict[tuple[str, int], Table] = {}
        self._recall: dict[tuple[str, int], float] = {}
        self._temporary: list[tempfile.TemporaryDirectory[str]] = []

    @computing
    def all_operators(self, members: Sequence[Member], images: slice = slice(None)) -> dict[str, Operator]:
        """Return the affinities of several members, over all images."""
        start, stop, _ = images.indices(len(self.images))
        if (start, stop) != (0, len(self.images)):
            raise AffinityError(
                f"images={images!r} is a part of a dataset that is solved as one: use all, or affinity(..., "
                "scope='image')."
            )
        return super().all_operators(members, images)

    @computing
    def to_dense(self, image: int | str | None = None) -> dict[str, np.ndarray]:
        """Return every layer's affinity W over all patches, or over those of one image, without layers left out.

        Returns
        -------
        dict
            Layer name to float64 array (n, n), patches image by image and row by row.

        Raises
        ------
        AffinityError
            If the dataset has more than 20,000 patches.
        """
        place = None if image is None else self.image_index(image)
        dense: dict[str, np.ndarray] = {}
        for member in self.members:
            if member.layer in self.left_out and not self.weights[member.name]:
                continue
            cells = member.n_cells
            n = cells * len(self.images)
            if n > MOST_DENSE_NODES:
                raise AffinityError(
                    f"Layer {member.name!r} has {n:,} patches in all, whose matrix would take {8 * n * n:,} bytes: "
                    "take fewer images."
                )
            own = slice(None) if place is None else slice(place * cells, (place + 1) * cells)
            dense[member.name] = own_array(self.operators(member).dense()[0, own, own])
        return dense

    @computing
    def neighbours(self, layer: str, head: int = 0) -> Neighbours:
        """Return the directed edges of one layer and head: see `spectral_toolkit._affinity.neighbours.Neighbours`.

        For a denoiser the heads of all noise samples are numbered consecutively: head ``h`` of sample ``d`` is
        ``d * n_heads + h``.

        Raises
        ------
        AffinityError
            If the graph's kernel is not "knn", or there is no such layer or head.
        """
        if not self.kernel.searches:
            raise AffinityError(f"kernel={self.recipe.kernel!r} has no neighbours: use affinity(..., kernel='knn').")
        member = next((member for member in self.members if member.layer == layer), None)
        if member is None or not 0 <= head < member.n_heads:
            raise AffinityError(
                f"There is no head {head!r} of layer {layer!r}: use layers among "
                f"{', '.join(dict.fromkeys(member.layer for member in self.members))} and their heads from 0."
            )
        return self._table(member, head).open()

    def _table(self, member: Member, head: int) -> Table:
        place = (member.layer, head)
        if place not in self._tables:
            self._tables[place] = self._search(member, head, slice(0, len(self.images)))
        return self._tables[place]

    def _search(self, member: Member, head: int, images: slice) -> Table:
        """Find the neighbours of the patches of some images among all, or read them if they have been found before."""
        left, right = self.unit_vectors_of(member, head)
        settings = self.wanted_neighbours

        def search() -> tuple[Neighbours, float | None]:
            if ("search", "faiss") in self.recipe.options:
                return nearest_by_index(left, right, member.n_cells, images=images, **settings)
            nodes = slice(images.start * member.n_cells, images.stop * member.n_cells)
            return nearest(left[nodes], right, member.n_cells, first=nodes.start, **settings), None

        held = self._edges_fit
        if self.folder is None and held:
            found, recall = search()
            table = Table(recall, Neighbours(found.indices.cpu(), found.similarity.cpu(), found.within))
        else:
            if not held and not self._tables:
                check_room(self._place, EDGES_TO_TABLES * self._edge_bytes)
            sides = (left,) if left is right else (left, right)
            name = name_of(sides, (member.n_cells, images, self.recipe.options))
            table = find_table(self._place, name, search, held=held)
        if table.recall is not None and not math.isnan(table.recall):
            self._recall[member.layer, head] = table.recall
        return table

    @property
    def wanted_neighbours(self) -> WantedNeighbours:
        """The settings that decide which neighbours are searched for."""
        options = dict(self.recipe.options)
        within, across = (int(options.get(name, 50)) for name in ("within", "across"))
        return {"within": within, "across": across, "threshold": cast("float", options.get("threshold", 0.1))}

    @property
    def _place(self) -> Path:
        """The folder of everything that is kept on disk."""
        if self.folder is not None:
            return self.folder
        if not self._temporary:
            self._temporary.append(tempfile.TemporaryDirectory(prefix="spectral-toolkit-edges-"))
        return Path(self._temporary[0].name)

    @property
    def _edges_fit(self) -> bool:
        return self._edge_bytes <= self.cache_bytes // 4  # the matrices made from them take up to three times as much

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the result should know about how it was made."""
        remarks = [self._remark] if self._remark else []
        used = {member.layer for member in self.members if self.weights[member.name] > 0}
        if absent := [layer for layer in self.left_out if layer not in used]:
            remarks.append(
                f"Layers of more than {MOST_CELLS:,} patches are left out of the dataset, as in the source paper; a "
                f"weight above 0 includes them: {', '.join(absent)}."
            )
        if windowed := [member.name for member in self.members if member.window is not None]:
            remarks.append(
                f"Attention is inside windows in {', '.join(windowed)}; in a dataset, patches are compared whatever "
                "their windows."
            )
        if self.kernel.searches and not self._edges_fit and world_size() == 1:
            remarks.append("Edges do not fit in memory, so they are kept on disk and read for every product.")
        if self._recall:
            (layer, head), worst = min(self._recall.items(), key=lambda item: item[1])
            mean = float(np.mean(list(self._recall.values())))
            remarks.append(
                f"Neighbours in other images come from an index (faiss): on a sample of patches it found {mean:.1%} of "
                f"those that the exact search finds; the lowest share, {worst:.1%}, is that of head {head} of layer "
                f"{layer}."
            )
        if self.kernel.factors is not None and self._factor_bytes > self.cache_bytes:
            remarks.append(
                "Factors do not fit in memory, so they are recomputed from the activations for every product."
            )
        return tuple(remarks)

    @property
    def _edge_bytes(self) -> int:
        """Upper bound of the bytes that all tables of neighbours take."""
        per_node = 8 * (self.wanted_neighbours["within"] + self.wanted_neighbours["across"])
        wanted = [member for member in self.members if self._default_weights[member.name] or self.weights[member.name]]
        tables = {member.layer: member for member in wanted}.values()
        return int(sum(per_node * m.n_heads * m.n_cells * len(self.images) for m in tables))

    @property
    def _factor_bytes(self) -> int:
        """Bytes that the factors of all layers take in single precision."""
        return sum(4 * m.rank * m.n_cells * len(self.images) for m in self.members)

    def _blocks(self, within: slice | None = None) -> Iterator[slice]:
        first, last = (0, len(self.images)) if within is None else (within.start, within.stop)
        for start in range(first, last, IMAGES_PER_READ):
            yield slice(start, min(start + IMAGES_PER_READ, last))

    def unit_vectors_of(self, member: Member, head: int) -> tuple[Tensor, Tensor]:
        """Both sides (nodes, channels) of one head, for all images; the same tensor twice for a symmetric kind."""
        left: list[Tensor] = []
        right: list[Tensor] = []
        for images in self._blocks():
            features = read_features(self.activations, member.layer, self.recipe.kind, images, self.device).pick(
                (head,)
            )
            left.append(unit_vectors(features.left).flatten(0, 2))
            if not features.is_symmetric:
                right.append(unit_vectors(features.right).flatten(0, 2))
        both = torch.cat(left)
        return both, torch.cat(right) if right else both

    def factors(self, member: Member, within: slice | None = None) -> Factors:
        """Iterate over rows of L and R of one member, a few images at a time.

        For kernels of low rank, where W = (L R' + R L') / 2.
        """
        cells = member.n_cells

        def blocks() -> Iterator[tuple[slice, Tensor, Tensor]]:
            for images in self._blocks(within):
                features = read_features(self.activations, member.layer, self.recipe.kind, images, self.device)
                if member.head is not None:
                    features = features.pick(member.heads)
                assert self.kernel.factors is not None
                left, right = self.kernel.factors(features)
                nodes = slice(images.start * cells, images.stop * cells)
                own = left.flatten(0, 1)
                yield nodes, own, own if left is right else right.flatten(0, 1)

        return blocks

    def _build_share(self, member: Member) -> Operator:
        """Build the operator whose rows are divided among processes: edges or factors of this process's images only."""
        own = share_of(len(self.images))
        if world_size() > len(self.images):
            raise AffinityError(
                f"{len(self.images)} images cannot be divided among {world_size()} processes: start at most as many "
                "processes as there are images."
            )
        cells = member.n_cells
        nodes, n = slice(own.start * cells, own.stop * cells), cells * len(self.images)
        if self.kernel.searches:
            tables = [self._search(member, head, own).open() for head in member.heads]
            return ShardedSparseOperator(tables, nodes, n, self.device)
        return ShardedFactorOperator(*_joined(self.factors(member, own), nodes), nodes, n)

    def _build(self, member: Member, images: slice, *, doubled: bool = False) -> Operator:
        del doubled  # no kernel of a dataset divides rows by their sums, which is what vanishes in single precision
        if world_size() > 1:
            return self._build_share(member)
        if self.kernel.searches:
            tables = [self._table(member, head) for head in member.heads]
            if self._edges_fit:
                return SparseOperator.from_heads([table.open() for table in tables], self.device)
            # A table that was held in memory before they no longer all fitted has no file name.
            names = [table.path.name if table.path else f"{member.name}, held" for table in tables]
            name = name_of((), ("edges", names))
            return StoredSparseOperator.from_heads(
                self._place / name, lambda: [table.open() for table in tables], self.device
            )
        n = member.n_cells * len(self.images)
        factors = self.factors(member)
        if self._factor_bytes > self.cache_bytes:
            return StoredFactorOperator(factors, n, self.device)
        left, right = _joined(factors, slice(0, n))
        whole = left[None]
        return LowRankOperator(whole, whole if left is right else right[None])


def _joined(factors: Factors, nodes: slice) -> tuple[Tensor, Tensor]:
    """All rows of L and of R for these nodes; the same tensor twice where every block has one for both."""
    sides: list[Tensor] = []
    for own, *both in factors():
        blocks = both[:1] if both[0] is both[1] else both
        if not sides:
            sides = [block.new_empty(nodes.stop - nodes.start, block.shape[1]) for block in blocks]
        for side, block in zip(sides, blocks, strict=True):
            side[own.start - nodes.start : own.stop - nodes.start] = block
    return sides[0], sides[-1]
