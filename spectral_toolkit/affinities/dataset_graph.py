"""DatasetGraph: one affinity per layer over the patches of all images, and the layers' weights."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..collectives import rank, share_of, world_size
from ..errors import AffinityError
from .dataset_operators import Factors, SparseOperator, StoredFactorOperator, StoredSparseOperator
from .dataset_shards import ShardedFactorOperator, ShardedSparseOperator
from .features import read_features
from .kernels.cosine import unit_vectors
from .kernels.shifted_cosine import factors as factors_of
from .layer_graph import LayerGraph, Member
from .neighbours import Neighbours, nearest
from .operators import LowRankOperator, Operator

IMAGES_PER_READ = 16
"""Images whose vectors are read in one go."""
MOST_DENSE_NODES = 20_000
"""Whole matrices are written out up to this size: 3.2 GB in float64."""


class DatasetGraph(LayerGraph):
    """Affinities of all layers of one capture, between the patches of all its images.

    Made by :func:`spectral_toolkit.affinity` with ``scope="dataset"``; what a `LayerGraph` offers, it offers. Vectors
    are read from the activations one layer and head at a time, so that they may lie in a store larger than memory.
    Tables of neighbours are kept while all layers' fit in ``cache_bytes``; beyond that they lie in files of a temporary
    folder, which goes when the graph does, and every product reads them from there. With a folder as ``keep_in``, what
    was found is kept there, and a later graph of the same vectors reads it instead of searching again.

    Among several processes each finds and holds the rows of its own images.
    """

    def __init__(self, *arguments: Any, remark: str = "", **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._remark = remark
        # Shared by all reweighted copies, like the operators.
        self._tables: dict[tuple[str, int], Neighbours] = {}
        self._folders: list[tempfile.TemporaryDirectory[str]] = []
        self.keep_in: Path | None = None

    def operators(self, member: Member, images: slice = slice(None)) -> Operator:
        """The affinity of one member, over all images."""
        start, stop, _ = images.indices(len(self.images))
        if (start, stop) != (0, len(self.images)):
            raise AffinityError(
                f"images={images!r} is a part of a dataset solved as one: use all, or affinity(..., scope='image')."
            )
        return super().operators(member, images)

    def to_dense(self, image: int | str | None = None) -> dict[str, np.ndarray]:
        """Every layer's affinity W over all patches, or those among the patches of one image.

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
        dense = {}
        for member in self.members:
            cells = member.n_cells
            n = cells * len(self.images)
            if n > MOST_DENSE_NODES:
                raise AffinityError(
                    f"Layer {member.name!r} has {n:,} patches in all, whose matrix would take {8 * n * n:,} bytes: "
                    "take fewer images."
                )
            matrix = self.operators(member).dense()[0].cpu().numpy()
            own = slice(None) if place is None else slice(place * cells, (place + 1) * cells)
            dense[member.name] = matrix[own, own]
        return dense

    def neighbours(self, layer: str, head: int = 0) -> Neighbours:
        """Directed edges of one layer and head: see `spectral_toolkit.affinities.neighbours.Neighbours`.

        Raises
        ------
        AffinityError
            If the graph's kernel is not "knn", or there is no such layer or head.
        """
        if self.recipe.kernel != "knn":
            raise AffinityError(f"kernel={self.recipe.kernel!r} has no neighbours: use kernel='knn'.")
        member = next((member for member in self.members if member.layer == layer), None)
        if member is None or not 0 <= head < member.n_heads:
            raise AffinityError(
                f"There is no head {head!r} of layer {layer!r}: use layers among "
                f"{', '.join(dict.fromkeys(member.layer for member in self.members))} and their heads from 0."
            )
        if (layer, head) not in self._tables:
            found = self._search(member, head, slice(0, len(self.images)))
            self._tables[layer, head] = self._kept(found, f"{len(self._tables)}")
        return self._tables[layer, head]

    def _search(self, member: Member, head: int, images: slice) -> Neighbours:
        """Neighbours of the patches of some images among all; read from ``keep_in`` if they have been found before."""
        options = dict(self.recipe.options)
        cells = member.n_cells
        left, right = self._unit_vectors(member, head)
        arguments: dict[str, Any] = {
            "within": int(options.get("within", 50)),
            "across": int(options.get("across", 50)),
            "threshold": options.get("threshold", 0.1),
            "first": images.start * cells,
        }
        rows = left[images.start * cells : images.stop * cells]
        if self.keep_in is None:
            return nearest(rows, right, cells, **arguments)
        digest = hashlib.sha256(repr((cells, rows.shape, arguments)).encode())
        for side in (rows, right):
            digest.update(side.cpu().numpy().data)
        path = self.keep_in / f"{digest.hexdigest()}.npz"
        if not path.exists():
            found = nearest(rows, right, cells, **arguments)
            self.keep_in.mkdir(parents=True, exist_ok=True)
            half = path.with_name(f"{path.name}.{rank()}.part")
            with half.open("wb") as file:
                np.savez(file, indices=found.indices.cpu().numpy(), similarity=found.similarity.cpu().numpy())
            half.replace(path)
        with np.load(path) as kept:
            indices, similarity = (torch.as_tensor(kept[name]).to(self.device) for name in ("indices", "similarity"))
            return Neighbours(indices, similarity, min(arguments["within"], cells))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the answer should know of how it was made."""
        remarks = [self._remark] if self._remark else []
        if self._folders:
            remarks.append("Edges lie on disk, as they would not fit in memory, and are read at every product.")
        if self.recipe.kernel == "shifted_cosine" and self._factor_bytes > self.cache_bytes:
            remarks.append(
                "Factors are made again from the activations at every product, as they would not fit in memory."
            )
        return tuple(remarks)

    @property
    def _edge_bytes(self) -> int:
        """Upper bound of what all tables of neighbours take."""
        options = dict(self.recipe.options)
        per_node = 8 * (options.get("within", 50) + options.get("across", 50))
        tables = {member.layer: member for member in self.members}.values()
        return int(sum(per_node * m.n_heads * m.n_cells * len(self.images) for m in tables))

    @property
    def _factor_bytes(self) -> int:
        """What the factors of all layers take in single precision."""
        return sum(4 * m.rank * m.n_cells * len(self.images) for m in self.members)

    def _kept(self, found: Neighbours, name: str) -> Neighbours:
        found = Neighbours(found.indices.cpu(), found.similarity.cpu(), found.within)
        if self._edge_bytes <= self.cache_bytes // 4:  # the matrices made of them take up to three times as much
            return found
        if not self._folders:
            self._folders.append(tempfile.TemporaryDirectory(prefix="spectral-toolkit-edges-"))
        stored = []
        for part, values in (("indices", found.indices), ("similarity", found.similarity)):
            path = Path(self._folders[0].name) / f"{name}-{part}.npy"
            np.save(path, values.numpy())
            # Mapped for copying on write, as torch wants to be able to write; nobody does.
            stored.append(torch.as_tensor(np.load(path, mmap_mode="c")))
        return Neighbours(stored[0], stored[1], found.within)

    def _blocks(self, within: slice | None = None) -> Iterator[slice]:
        first, last = (0, len(self.images)) if within is None else (within.start, within.stop)
        for start in range(first, last, IMAGES_PER_READ):
            yield slice(start, min(start + IMAGES_PER_READ, last))

    def _unit_vectors(self, member: Member, head: int) -> tuple[Tensor, Tensor]:
        """Both sides (nodes, channels) of one head, of all images; one tensor twice for a symmetric kind."""
        left, right = [], []
        for images in self._blocks():
            features = read_features(self.activations, member.layer, self.recipe.kind, images, self.device).head(head)
            left.append(unit_vectors(features.left).flatten(0, 2))
            if not features.is_symmetric:
                right.append(unit_vectors(features.right).flatten(0, 2))
        both = torch.cat(left)
        return both, torch.cat(right) if right else both

    def _factors(self, member: Member, within: slice | None = None) -> Factors:
        cells = member.n_cells

        def blocks() -> Iterator[tuple[slice, Tensor, Tensor]]:
            for images in self._blocks(within):
                features = read_features(self.activations, member.layer, self.recipe.kind, images, self.device)
                if member.head is not None:
                    features = features.head(member.head)
                left, right = factors_of(features)
                nodes = slice(images.start * cells, images.stop * cells)
                own = left.flatten(0, 1)
                yield nodes, own, own if left is right else right.flatten(0, 1)

        return blocks

    def _build_share(self, member: Member) -> Operator:
        """The operator whose rows are divided among processes: edges or factors of own images only."""
        own = share_of(len(self.images))
        if world_size() > len(self.images):
            raise AffinityError(
                f"{len(self.images)} images cannot be divided among {world_size()} processes: start at most as many "
                "processes as there are images."
            )
        cells = member.n_cells
        nodes, n = slice(own.start * cells, own.stop * cells), cells * len(self.images)
        if self.recipe.kernel == "knn":
            tables = [self._search(member, head, own) for head in member.heads]
            return ShardedSparseOperator(tables, nodes, n, self.device)
        return ShardedFactorOperator(*_joined(self._factors(member, own)), nodes, n)

    def _build(self, member: Member, images: slice) -> Operator:
        if world_size() > 1:
            return self._build_share(member)
        if self.recipe.kernel == "knn":
            tables = [self.neighbours(member.layer, head) for head in member.heads]
            if self._edge_bytes <= self.cache_bytes // 4:
                return SparseOperator.from_heads(tables, self.device)
            return StoredSparseOperator(tables, self.device)
        n = member.n_cells * len(self.images)
        factors = self._factors(member)
        if self._factor_bytes > self.cache_bytes:
            return StoredFactorOperator(factors, n, self.device)
        left, right = _joined(factors)
        whole = left[None]
        return LowRankOperator(whole, whole if left is right else right[None])


def _joined(factors: Factors) -> tuple[Tensor, Tensor]:
    """All rows of L and of R; one tensor twice where every block has one for both."""
    sides = [(left, right) for _, left, right in factors()]
    whole = torch.cat([left for left, _ in sides])
    symmetric = all(left is right for left, right in sides)
    return whole, whole if symmetric else torch.cat([right for _, right in sides])
