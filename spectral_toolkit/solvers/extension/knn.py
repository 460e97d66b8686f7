"""Ties by nearest neighbours: the row a picture would have in the graph with it, and no picture else, added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from ..._affinity.dataset_graph import DatasetGraph
from ..._affinity.features import read_features
from ..._affinity.kernels.cosine import unit_vectors
from ..._affinity.layer_graph import Member
from ..._affinity.neighbours import nearest
from .edges import Ties

BLOCK_ELEMENTS = 2**22
"""Similarities between new and fitted patches that are looked at in one go."""


def ties(
    graph: DatasetGraph,
    member: Member,
    activations: xr.DataTree,
    places: Sequence[int],
    columns: Float[Tensor, "nodes k"],
) -> list[Ties]:
    """Edges from the picture's patches, to each other and to fitted ones, and those of fitted patches to them.

    A fitted patch has an edge to a new one that is nearer than its last neighbour so far. That this one then drops out
    changes the fitted patch's own row, not the picture's.
    """
    new = [read_features(activations, member.layer, graph.recipe.kind, slice(i, i + 1), graph.device) for i in places]
    m, n_heads = new[0].n, len(member.heads)
    sums = [Ties(columns.new_zeros(m, columns.shape[1]), columns.new_zeros(m, m)) for _ in new]
    within, across, threshold = (graph.wanted_neighbours[name] for name in ("within", "across", "threshold"))
    for head in member.heads:
        left, right = graph.unit_vectors_of(member, head)
        table = graph.neighbours(member.layer, head)
        last = table.similarity[:, table.within :].to(graph.device)
        for features, total in zip(new, sums, strict=True):
            one = features.pick((head,))
            rows = unit_vectors(one.left)[0, 0]
            patches = rows if one.is_symmetric else unit_vectors(one.right)[0, 0]
            total.own += _own(rows, patches, within, threshold).to(columns.dtype) / n_heads
            if across:
                known = _outward(rows, right, columns, across, threshold)
                known += _inward(left, patches, last, columns, across, threshold)
                total.known += known / (2 * n_heads)
    return sums


def _own(left: Tensor, right: Tensor, within: int, threshold: float) -> Float[Tensor, "m m"]:
    found = nearest(left, right, len(left), within=within, across=0, threshold=threshold)
    directed = left.new_zeros(len(left), len(left))
    directed.scatter_add_(1, found.indices.long().clamp_min(0), found.similarity.to(left.dtype))
    return (directed + directed.T) / 2


def _outward(rows: Tensor, fitted: Tensor, columns: Tensor, across: int, threshold: float) -> Float[Tensor, "m k"]:
    """Edges from new patches to their nearest fitted ones, applied to the columns."""
    value, index = rows.new_zeros(len(rows), 0), torch.zeros(len(rows), 0, dtype=torch.long, device=rows.device)
    for block in _blocks(len(fitted), len(rows)):
        similarity = rows @ fitted[block].T
        here = torch.arange(block.start, block.stop, device=rows.device).expand(len(rows), -1)
        value, index = torch.cat([value, similarity], dim=1), torch.cat([index, here], dim=1)
        value, places = value.topk(min(across, value.shape[1]), dim=1)
        index = index.gather(1, places)
    value = torch.where(value > threshold, value, 0.0).to(columns.dtype)
    return (value[:, None] @ columns[index])[:, 0]


def _inward(
    fitted: Tensor, patches: Tensor, last: Float[Tensor, "nodes k"], columns: Tensor, across: int, threshold: float
) -> Float[Tensor, "m k"]:
    """Edges from fitted patches to new ones that are nearer than some of their neighbours so far, applied likewise."""
    total = columns.new_zeros(len(patches), columns.shape[1])
    for block in _blocks(len(fitted), len(patches)):
        similarity = fitted[block] @ patches.T
        so_far = last[block].to(similarity.dtype)
        if so_far.shape[1] == across:
            floor = so_far[:, -1:].clamp_min(threshold)
        else:  # fewer fitted patches than neighbours wanted
            floor = similarity.new_full((len(similarity), 1), threshold)
        near = similarity > floor
        some = near.any(dim=1).nonzero()[:, 0]
        candidates = torch.where(near[some], similarity[some], 0.0)
        # New patches also crowd out each other. Of equal ones the earlier stays, as in the search.
        order = torch.cat([so_far[some], candidates], dim=1).sort(dim=1, descending=True, stable=True).indices
        kept = torch.zeros(len(some), so_far.shape[1] + len(patches), dtype=torch.bool, device=similarity.device)
        kept.scatter_(1, order[:, :across], True)
        edges = torch.where(kept[:, so_far.shape[1] :], candidates, 0.0).to(columns.dtype)
        total += edges.T @ columns[block][some]
    return total


def _blocks(n_fitted: int, n_new: int) -> Iterator[slice]:
    size = max(BLOCK_ELEMENTS // n_new, 1)
    for start in range(0, n_fitted, size):
        yield slice(start, min(start + size, n_fitted))
