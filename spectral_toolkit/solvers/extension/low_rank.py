"""Affinities by a kernel of low rank: W Y from the factors of both sides, without a matrix between them."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr
from jaxtyping import Float
from torch import Tensor

from ..._affinity.dataset_graph import DatasetGraph
from ..._affinity.features import read_features
from ..._affinity.layer_graph import Member
from .edges import Ties


def ties(
    graph: DatasetGraph,
    member: Member,
    activations: xr.DataTree,
    places: Sequence[int],
    columns: Float[Tensor, "nodes k"],
) -> list[Ties]:
    """Return the affinities to all fitted patches, and none within the image itself.

    Here every patch has an affinity to every other, so that those within an image are a small part of all; without
    them, a fitted image gets exactly its own eigenvectors.
    """
    through_left = through_right = columns.new_zeros(())
    for nodes, left, right in graph.factors(member)():
        through_left = through_left + left.to(columns.dtype).T @ columns[nodes]
        through_right = through_right + right.to(columns.dtype).T @ columns[nodes]
    factors_of = graph.kernel.factors
    assert factors_of is not None
    found: list[Ties] = []
    for place in places:
        features = read_features(activations, member.layer, graph.recipe.kind, slice(place, place + 1), graph.device)
        left, right = (side[0].to(columns.dtype) for side in factors_of(features.pick(member.heads)))
        known = (left @ through_right + right @ through_left) / 2
        found.append(Ties(known, known.new_zeros(len(left), len(left))))
    return found
