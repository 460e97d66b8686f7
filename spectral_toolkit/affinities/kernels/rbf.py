"""Gaussian of the distance between vectors, with a bandwidth that follows the layer's own spread."""

from __future__ import annotations

import torch

from ..features import LayerFeatures
from ..operators import Rows
from .heads import sum_over_heads


def _largest(x: torch.Tensor) -> torch.Tensor:
    return x.abs().amax(dim=(2, 3), keepdim=True)


def prepare(features: LayerFeatures, *, bandwidth: float = 0.5) -> Rows:
    """Rows of mean_h exp(-|l - r|^2 / (2 (bandwidth s_h)^2)), s_h the root mean square distance in head h.

    s_h is exact and costs O(n): mean |l - r|^2 = mean |l|^2 + mean |r|^2 - 2 mean(l) . mean(r).
    """
    # Neither a shift of both sides nor a common factor changes the kernel. A power of two rounds nothing, and keeps the
    # centre from overflowing; what is left around the centre is then brought to 1, so that no square vanishes.
    exponent = torch.frexp(torch.maximum(_largest(features.left), _largest(features.right))).exponent
    right = torch.ldexp(features.right, -exponent)
    centre = right.mean(dim=2, keepdim=True)
    right = right - centre
    left = right if features.is_symmetric else torch.ldexp(features.left, -exponent) - centre
    spread = torch.maximum(_largest(left), _largest(right)).clamp_min(torch.finfo(left.dtype).tiny)
    left, right = left / spread, right / spread
    left_square, right_square = left.square().sum(-1), right.square().sum(-1)
    mean_square = (left_square.mean(-1) + right_square.mean(-1) - 2 * (left.mean(2) * right.mean(2)).sum(-1)).clamp_min(
        0.0
    )
    rate = torch.where(mean_square > 0, 0.5 / (bandwidth**2 * mean_square), 0.0)
    n_heads = left.shape[1]

    def rows(start: int, stop: int) -> torch.Tensor:
        def of_head(head: int) -> torch.Tensor:
            distance = left[:, head, start:stop] @ right[:, head].transpose(-1, -2)
            distance *= -2
            distance += left_square[:, head, start:stop, None]
            distance += right_square[:, head, None, :]
            return distance.clamp_min_(0.0).mul_(-rate[:, head, None, None]).exp_()

        return sum_over_heads(n_heads, of_head).div_(n_heads)

    return rows
