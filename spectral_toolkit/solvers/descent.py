"""What the paper's method does alike for single images and for a dataset."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._affinity.pencil import JointPencil
from .davidson import RitzPairs

Progress = bool | Callable[[int, int, float], object]
"""True for a bar, or a function called as (steps done, steps at most, objective)."""


def overlap(z: Tensor) -> Tensor:
    """Mean square of the entries of z'z off its diagonal, for z (n, K)."""
    gram = z.T @ z
    pairs = max(1, gram.shape[0] * (gram.shape[0] - 1))
    return (gram - torch.diag(gram.diagonal())).square().sum() / pairs


def singular_pairs(pencil: JointPencil, features: Tensor, k: int) -> RitzPairs:
    """The ``k`` leading left singular vectors of features (images, K, n), without the constant, as pairs of the pencil.

    Ordered by their Rayleigh quotients, the largest affinity (the smallest cut) first.
    """
    one = pencil.constant()
    mass_one = pencil.mass_matmul(one)

    def without_constant(x: Tensor) -> Tensor:
        return x - (x @ mass_one.transpose(-1, -2)) / (one * mass_one).sum(dim=2, keepdim=True) * one

    centred = without_constant(features * one)
    leading = torch.linalg.svd(centred.transpose(-1, -2), full_matrices=False)[0][..., :k]
    vectors = pencil.agreed(leading.transpose(-1, -2))
    vectors = without_constant(vectors * one)
    mass, image = pencil.mass_matmul(vectors), pencil.affinity_matmul(vectors)
    length = (vectors * mass).sum(dim=2, keepdim=True).clamp_min(torch.finfo(pencil.dtype).tiny).rsqrt()
    vectors, mass, image = vectors * length, mass * length, image * length
    mu = pencil.agreed((vectors * image).sum(dim=2))
    residual = (image - mu[..., None] * mass).norm(dim=2) / mass.norm(dim=2)
    order = mu.argsort(dim=1, descending=True)
    return RitzPairs(
        mu.gather(1, order),
        torch.take_along_dim(vectors, order[..., None], dim=1),
        residual.gather(1, order),
        0,
    )


def average(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """``adaptive_avg_pool2d`` of the last two dimensions, as products with matrices.

    Its own gradient adds up in whatever order a GPU's threads come; that of a product does not.
    """
    rows, columns = (_means(size, wanted, x) for size, wanted in zip(x.shape[-2:], grid, strict=True))
    return rows @ x @ columns.T


def _means(size: int, wanted: int, like: Tensor) -> Tensor:
    """One row a cell: the mean over all cells that it touches."""
    table = like.new_zeros(wanted, size)
    for cell in range(wanted):
        first, last = cell * size // wanted, -(-(cell + 1) * size // wanted)
        table[cell, first:last] = 1 / (last - first)
    return table
