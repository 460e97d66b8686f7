"""The affinities of a new image in one layer, in the form that its row of the joint problem needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import xarray as xr
from jaxtyping import Float
from torch import Tensor

from ..._affinity.dataset_graph import DatasetGraph
from ..._affinity.layer_graph import Member


@dataclass
class Ties:
    """Affinities of the m patches of one new image in one layer, unscaled.

    ``known`` is W_new,fitted Y for columns Y over the fitted patches; ``own`` is W_new,new, symmetric.
    """

    known: Float[Tensor, "m k"]
    own: Float[Tensor, "m m"]


Tying = Callable[[DatasetGraph, Member, xr.DataTree, Sequence[int], Float[Tensor, "nodes k"]], list[Ties]]
"""Takes a graph, one of its members, new activations, positions of new images and columns Y; returns affinities."""
