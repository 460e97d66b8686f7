"""(1 + cosine) / 2: never negative, and of low rank, so that no matrix need be formed."""

from __future__ import annotations

import torch

from ..features import LayerFeatures
from ..operators import Rows
from .cosine import unit_vectors


def factors(features: LayerFeatures) -> tuple[torch.Tensor, torch.Tensor]:
    """Return L and R, both (images, n, 1 + heads * channels), with L R' the affinity before symmetrising.

    The average over heads of (1 + cos) / 2 is one half plus an inner product of the heads' unit vectors, placed side by
    side.
    """
    left = _side(features.left)
    return left, left if features.is_symmetric else _side(features.right)


def _side(x: torch.Tensor) -> torch.Tensor:
    images, heads, n, _ = x.shape
    unit = (unit_vectors(x) * (2 * heads) ** -0.5).transpose(1, 2).reshape(images, n, -1)
    return torch.cat([unit.new_full((images, n, 1), 0.5**0.5), unit], dim=2)


def prepare(features: LayerFeatures) -> Rows:
    """Return rows of L R', for grids so small that the matrix takes less time than its factors."""
    left, right = factors(features)
    transposed = right.transpose(-1, -2)
    return lambda start, stop: (left[:, start:stop] @ transposed).clamp_min_(0.0)
