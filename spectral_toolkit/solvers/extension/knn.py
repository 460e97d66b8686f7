"""Affinities by nearest neighbours: the row that an image would have if it alone were added to the graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import xarray as xr
from jaxtyping import Float, Float64
from torch import Tensor

from ..._affinity.dataset_graph import DatasetGraph
from ..._affinity.features import read_features
from ..._affinity.kernels.cosine import unit_vectors
from ..._affinity.kernels.precision import AT_THRESHOLD
from ..._affinity.layer_graph import Member
from ..._affinity.neighbours import Keys, as_exact, largest, nearest
from .edges import Ties

BLOCK_ELEMENTS = 2**22
"""Similarities between new and fitted patches that are examined at once."""


def ties(
    graph: DatasetGraph,
    member: Member,
    activations: xr.DataTree,
    places: Sequence[int],
    columns: Float[Tensor, "nodes k"],
) -> list[Ties]:
    """Find the edges from the image's patches to each other and to fitted patches, and from fitted patches to them.

    A fitted patch has an edge to a new one that is nearer than its last neighbour so far. That this neighbour then
    drops out changes the row of the fitted patch, not that of the image.
    """
    new = [read_features(activations, member.layer, graph.recipe.kind, slice(i, i + 1), graph.device) for i in places]
    m, n_heads = new[0].n, len(member.heads)
    sums = [Ties(columns.new_zeros(m, columns.shape[1]), columns.new_zeros(m, m)) for _ in new]
    wanted = graph.wanted_neighbours
    within, across, threshold = wanted["within"], wanted["across"], wanted["threshold"]
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
                known = _outward(as_exact(rows), right, columns, across, threshold)
                known += _inward(left, as_exact(patches), last, columns, across, threshold)
                total.known += known / (2 * n_heads)
    return sums


def _own(left: Tensor, right: Tensor, within: int, threshold: float) -> Float[Tensor, "m m"]:
    found = nearest(left, right, len(left), within=within, across=0, threshold=threshold)
    directed = left.new_zeros(len(left), len(left))
    directed.scatter_add_(1, found.indices.long().clamp_min(0), found.similarity.to(left.dtype))
    return (directed + directed.T) / 2


def _outward(
    rows: Float64[Tensor, "m channels"], fitted: Tensor, columns: Tensor, across: int, threshold: float
) -> Float[Tensor, "m k"]:
    """Apply the edges from new patches to their nearest fitted ones to the columns."""
    keys, best = Keys(len(fitted)), torch.zeros(len(rows), 0, dtype=torch.int64, device=rows.device)
    for block in _blocks(len(fitted), len(rows)):
        similarity = rows @ as_exact(fitted[block]).T
        here = torch.arange(block.start, block.stop, device=rows.device)
        found = torch.where(similarity >= threshold + AT_THRESHOLD, keys.of(similarity, here), 0)
        best = torch.cat([best, found], dim=1)
        best = largest(best, min(across, best.shape[1]))
    value = keys.values(best).to(columns.dtype).to(columns.device)
    index = keys.columns(best).clamp_min(0).to(columns.device)
    return (value[:, None] @ columns[index])[:, 0]


def _inward(
    fitted: Tensor,
    patches: Float64[Tensor, "m channels"],
    last: Float[Tensor, "nodes k"],
    columns: Tensor,
    across: int,
    threshold: float,
) -> Float[Tensor, "m k"]:
    """Apply the edges from fitted patches to new ones that are nearer than some of their neighbours so far."""
    total = columns.new_zeros(len(patches), columns.shape[1])
    for block in _blocks(len(fitted), len(patches)):
        similarity = as_exact(fitted[block]) @ patches.T
        # Known similarities are as precise as the table that holds them: new ones must be, too, to be comparable.
        so_far = last[block].to(similarity.device)
        near = similarity >= threshold + AT_THRESHOLD
        similarity = similarity.to(so_far.dtype)
        if so_far.shape[1] == across:
            near &= similarity > so_far[:, -1:]
        some = near.any(dim=1).nonzero()[:, 0]
        candidates = torch.where(near[some], similarity[some], 0.0)
        # New patches also displace each other. Of equal ones the earlier stays, as in the search.
        order = torch.cat([so_far[some], candidates], dim=1).sort(dim=1, descending=True, stable=True).indices
        kept = torch.zeros(len(some), so_far.shape[1] + len(patches), dtype=torch.bool, device=similarity.device)
        kept.scatter_(1, order[:, :across], True)
        edges = torch.where(kept[:, so_far.shape[1] :], candidates, 0.0).to(columns.dtype).to(columns.device)
        total += edges.T @ columns[block][some.to(columns.device)]
    return total


def _blocks(n_fitted: int, n_new: int) -> Iterator[slice]:
    size = max(BLOCK_ELEMENTS // n_new, 1)
    for start in range(0, n_fitted, size):
        yield slice(start, min(start + size, n_fitted))
