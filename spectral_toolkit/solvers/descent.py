"""The parts of the paper's method that are the same for single images and for a dataset."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._affinity.pencil import JointPencil
from .davidson import RitzPairs

Progress = bool | Callable[[int, int, float], object]
"""True for a progress bar, or a function called as (steps done, largest number of steps, objective)."""


def overlap(z: Tensor) -> Tensor:
    """Return the mean square of the off-diagonal entries of z'z, for z (n, K)."""
    gram = z.T @ z
    pairs = max(1, gram.shape[0] * (gram.shape[0] - 1))
    return (gram - torch.diag(gram.diagonal())).square().sum() / pairs


def singular_pairs(pencil: JointPencil, features: Tensor, k: int) -> RitzPairs:
    """Return the ``k`` leading left singular vectors of features (images, K, n) as pairs of the pencil.

    The constant is left out. They are ordered by their Rayleigh quotients, the largest affinity (the smallest cut)
    first.
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
    """Compute ``adaptive_avg_pool2d`` of the last two dimensions, as products with matrices.

    The gradient of torch's own function adds up in any order of a GPU's threads; that of a product does not.
    """
    rows, columns = (_means(size, wanted, x) for size, wanted in zip(x.shape[-2:], grid, strict=True))
    return rows @ x @ columns.T


def _means(size: int, wanted: int, like: Tensor) -> Tensor:
    """Return one row per patch: the mean over all patches that it overlaps."""
    table = like.new_zeros(wanted, size)
    for cell in range(wanted):
        first, last = cell * size // wanted, -(-(cell + 1) * size // wanted)
        table[cell, first:last] = 1 / (last - first)
    return table
