"""Gaussian of the distance between vectors, with a bandwidth that follows the layer's own spread."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..._compute.devices import has_double
from ..features import LayerFeatures
from ..operators import Rows
from .heads import sum_over_heads
from .precision import DOUBLE_ROUNDING, careful_images, doubled

EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class _Centred:
    """Vectors (images, heads, n, channels) around the centre of the right ones, of size one, with derived values."""

    left: torch.Tensor
    right: torch.Tensor
    left_square: torch.Tensor
    right_square: torch.Tensor
    rate: torch.Tensor

    @property
    def size(self) -> torch.Tensor:
        """Size of the terms whose sum is a distance times the rate, (images, heads)."""
        return (self.left_square.amax(-1) + self.right_square.amax(-1)) * self.rate


def prepare(features: LayerFeatures, *, bandwidth: float = 0.5) -> Rows:
    """Return rows of mean_h exp(-|l - r|^2 / (2 (bandwidth s_h)^2)), s_h the root mean square distance in head h.

    Where vectors are so large, in units of the bandwidth, that rounding would show in their distances, they are
    compared in double precision, image by image.
    """
    all_heads = _centred(features.left, features.right, bandwidth)
    n_heads = features.left.shape[1]
    careful = [
        {
            image: _centred(
                doubled(features.left[image, head])[None, None],
                doubled(features.right[image, head])[None, None],
                bandwidth,
            )
            for image in images
        }
        for head, images in enumerate(careful_images(all_heads.size, features.left.dtype))
    ]

    def rows(start: int, stop: int) -> torch.Tensor:
        def of_head(head: int) -> torch.Tensor:
            weights = _weights(all_heads, head, slice(start, stop))
            for image, alone in careful[head].items():
                weights[image] = _weights(alone, 0, slice(start, stop))[0]
            return weights

        return sum_over_heads(n_heads, of_head).div_(n_heads)

    return rows


def _centred(left: torch.Tensor, right: torch.Tensor, bandwidth: float) -> _Centred:
    """Shift and scale the vectors, which changes no affinity, and compute the rate 1 / (2 (bandwidth s_h)^2).

    s_h is exact and costs O(n): mean |l - r|^2 = mean |l|^2 + mean |r|^2 - 2 mean(l) . mean(r).
    """
    # A power of two rounds nothing, and keeps the centre from overflowing; what is left around the centre is then
    # scaled to 1, so that no square vanishes.
    largest = torch.maximum(_largest(left), _largest(right))
    exponent = torch.frexp(largest if has_double(left.device) else largest.cpu()).exponent.to(left.device)
    is_symmetric = left is right
    right = torch.ldexp(right, -exponent)
    centre = right.mean(dim=2, keepdim=True)
    right = right - centre
    left = right if is_symmetric else torch.ldexp(left, -exponent) - centre
    spread = torch.maximum(_largest(left), _largest(right)).clamp_min(torch.finfo(left.dtype).tiny)
    left, right = left / spread, right / spread
    left_square, right_square = left.square().sum(-1), right.square().sum(-1)
    mean_square = (left_square.mean(-1) + right_square.mean(-1) - 2 * (left.mean(2) * right.mean(2)).sum(-1)).clamp_min(
        0.0
    )
    rate = torch.where(mean_square > 0, 0.5 / (bandwidth**2 * mean_square), 0.0)
    return _Centred(left, right, left_square, right_square, rate)


def _largest(x: torch.Tensor) -> torch.Tensor:
    return x.abs().amax(dim=(2, 3), keepdim=True)


def _weights(vectors: _Centred, head: int, rows: slice) -> torch.Tensor:
    left, right = vectors.left[:, head, rows], vectors.right[:, head]
    if left.dtype == torch.float64 and float(vectors.size[:, head].max()) * EPS > DOUBLE_ROUNDING:
        # Far from the centre, squares cancel even in double precision; differences do not, but take longer.
        distance = torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist").square_()
    else:
        distance = left @ right.transpose(-1, -2)
        distance *= -2
        distance += vectors.left_square[:, head, rows, None]
        distance += vectors.right_square[:, head, None, :]
    return distance.clamp_min_(0.0).mul_(-vectors.rate[:, head, None, None]).exp_()
