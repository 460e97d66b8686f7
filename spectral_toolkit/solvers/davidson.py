"""Block Davidson iteration for the joint pencil, several images at once.

The subspace grows by the preconditioned residuals of the pairs not yet found, is kept orthonormal in B, and is
cut back to the best Ritz vectors when it has grown too wide. With an exact preconditioner this is a thick-restart
block Lanczos method; with an inexact one it needs a few more products, and is as exact. Only matrix products with
blocks of vectors are used, which is what a GPU, and a CPU's caches, do best.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..affinities.pencil import JointPencil

N_GUARD = 4
"""Vectors carried beside the wanted ones: they speed up the last of those, and catch what a warm start would miss."""
WIDTH = 8
"""The subspace is cut back when it would pass this many blocks..."""
KEPT = 3
"""...to this many."""
MIN_ITERATIONS = 2
"""Expansions before a warm start may be believed: its vectors can be eigenvectors, and yet not the lowest."""


@dataclass
class RitzPairs:
    """Approximate eigenpairs of several images: affinity values mu, vectors, residuals, work done."""

    mu: Float[Tensor, "images k"]
    vectors: Float[Tensor, "images n k"]
    residual: Float[Tensor, "images k"]
    iterations: int


def smallest_block(k: int) -> int:
    """Width of the block that looks for ``k`` pairs."""
    return k + N_GUARD


def block_davidson(
    pencil: JointPencil,
    k: int,
    *,
    start: Float[Tensor, "images n columns"] | None,
    tolerance: float,
    generator: torch.Generator,
    exact: bool,
    max_iterations: int = 300,
) -> RitzPairs:
    """The ``k`` largest mu of W x = mu B x beside the constant, for every image of the pencil.

    Parameters
    ----------
    pencil
        The problem; needs ``WIDTH * smallest_block(k) < n_free`` to be worth while.
    start
        Columns to begin with, (images, n, any number); random ones are added.
    tolerance
        On the residual |W x - mu B x| / |B x|.
    generator
        Source of the random columns, on the CPU, so that every device begins alike.
    exact
        Whether products are made in float64; else in the precision of the affinities.

    Returns
    -------
    RitzPairs
        Residuals tell whether they converged: nothing is raised here.
    """
    block = smallest_block(k)
    free = pencil.free[..., None]
    one = pencil.constant()
    mass_one = pencil.mass_matmul(one)
    norm = (one * mass_one).sum(dim=1, keepdim=True).rsqrt()
    basis, mass_basis = one * norm, mass_one * norm

    columns = _random(pencil, block, generator)
    if start is None:
        # One product smooths the random start, which is cheaper than a step of the iteration.
        columns = pencil.precondition(pencil.affinity_matmul(columns, exact=exact))
    else:
        given = start.to(columns)[..., : block - N_GUARD] * free
        columns[..., : given.shape[2]] = given
    vectors, mass = _orthonormalise(pencil, columns, basis, mass_basis, generator)
    images = pencil.affinity_matmul(vectors, exact=exact)

    iteration = 0
    needed = MIN_ITERATIONS if start is not None else 0
    while True:
        small = vectors.transpose(-1, -2) @ images
        mu, rotation = torch.linalg.eigh((small + small.transpose(-1, -2)) / 2)
        mu, rotation = mu.flip(-1), rotation.flip(-1)
        best = rotation[..., :block]
        ritz_mass, ritz_image = mass @ best, images @ best
        residuals = ritz_image - mu[:, None, :block] * ritz_mass
        size = residuals.norm(dim=1) / ritz_mass.norm(dim=1)
        open_pairs = size[:, :k] > tolerance
        if (not open_pairs.any() and iteration >= needed) or iteration >= max_iterations:
            return RitzPairs(mu[:, :k], vectors @ best[..., :k], size[:, :k], iteration)
        iteration += 1
        if vectors.shape[2] + block > WIDTH * block:
            kept = rotation[..., : KEPT * block]
            vectors, mass, images = vectors @ kept, mass @ kept, images @ kept
        chosen = _columns_to_expand(size, open_pairs, guard=iteration <= needed)
        new = torch.take_along_dim(residuals / size.clamp_min(1e-300)[:, None, :], chosen[:, None, :], dim=2)
        new = pencil.precondition(new) * free
        new, mass_new = _orthonormalise(
            pencil,
            new,
            torch.cat([basis, vectors], dim=2),
            torch.cat([mass_basis, mass], dim=2),
            generator,
        )
        vectors = torch.cat([vectors, new], dim=2)
        mass = torch.cat([mass, mass_new], dim=2)
        images = torch.cat([images, pencil.affinity_matmul(new, exact=exact)], dim=2)


def _columns_to_expand(
    size: Float[Tensor, "images block"], open_pairs: Bool[Tensor, "images k"], *, guard: bool
) -> Tensor:
    """Columns whose residuals enter the subspace: as many for every image as the slowest one needs."""
    images, k = open_pairs.shape
    count = int(open_pairs.sum(dim=1).max())
    chosen = size[:, :k].topk(count, dim=1).indices
    if guard:
        guards = torch.arange(k, size.shape[1], device=size.device).expand(images, -1)
        chosen = torch.cat([chosen, guards], dim=1)
    return chosen


def _random(pencil: JointPencil, columns: int, generator: torch.Generator) -> Tensor:
    values = torch.randn(pencil.n_images, pencil.n, columns, generator=generator, dtype=torch.float64)
    return values.to(device=pencil.graph.device, dtype=pencil.dtype) * pencil.free[..., None]


def _orthonormalise(
    pencil: JointPencil,
    new: Float[Tensor, "images n k"],
    basis: Float[Tensor, "images n m"],
    mass_basis: Float[Tensor, "images n m"],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Make ``new`` B-orthonormal and B-orthogonal to ``basis``; columns that vanish become random ones.

    Twice is enough where nothing vanishes (Giraud et al. 2005); what vanishes gets another round.
    """
    rounds = 2
    while rounds:
        rounds -= 1
        new = new - basis @ (mass_basis.transpose(-1, -2) @ new)
        mass_new = pencil.mass_matmul(new)
        gram = new.transpose(-1, -2) @ mass_new
        gram = (gram + gram.transpose(-1, -2)) / 2
        length = gram.diagonal(dim1=1, dim2=2)
        scale = torch.where(length > 0, length.clamp_min(1e-300).rsqrt(), 0.0)
        theta, rotation = torch.linalg.eigh(scale[:, :, None] * gram * scale[:, None, :])
        floor = 1e-14 * theta[:, -1:].clamp_min(1e-300)
        lost = theta <= floor
        turn = scale[:, :, None] * rotation * theta.clamp_min(1e-300).rsqrt().masked_fill(lost, 0.0)[:, None, :]
        new, mass_new = new @ turn, mass_new @ turn
        if bool(lost.any()):
            new = torch.where(lost[:, None, :], _random(pencil, new.shape[2], generator), new)
            rounds = 2
    return new, mass_new
