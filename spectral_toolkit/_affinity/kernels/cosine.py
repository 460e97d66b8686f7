"""Cosine similarity per head, small ones dropped (the dataset protocol of the source paper)."""

from __future__ import annotations

import torch
import torch.nn.functional as functional

from ..features import LayerFeatures
from ..operators import Rows
from .heads import sum_over_heads


def unit_vectors(x: torch.Tensor) -> torch.Tensor:
    """Vectors of length one; a zero vector stays zero, so that it is similar to nothing.

    Dividing by the largest entry first keeps squares from overflowing or vanishing.
    """
    tiny = torch.finfo(x.dtype).tiny
    x = x / x.abs().amax(dim=-1, keepdim=True).clamp_min(tiny)
    return x / x.norm(dim=-1, keepdim=True).clamp_min(tiny)


def prepare(features: LayerFeatures, *, threshold: float = 0.1) -> Rows:
    """Rows of the head-averaged cosine, where a head's similarities at or below ``threshold`` count as zero."""
    left = unit_vectors(features.left)
    right = left if features.is_symmetric else unit_vectors(features.right)
    n_heads = left.shape[1]

    def rows(start: int, stop: int) -> torch.Tensor:
        def of_head(head: int) -> torch.Tensor:
            similarity = left[:, head, start:stop] @ right[:, head].transpose(-1, -2)
            return functional.threshold(similarity, threshold, 0.0, inplace=True)

        return sum_over_heads(n_heads, of_head).div_(n_heads)

    return rows
