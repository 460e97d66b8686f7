"""The joint pencil as full matrices, solved by a dense eigensolver: for small grids, and as a last resort."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .._affinity.pencil import JointPencil
from .._compute.devices import eigh
from ..errors import SolverError
from .davidson import RitzPairs


def dense_pairs(pencil: JointPencil, k: int) -> RitzPairs:
    """Compute all pairs of the pencil by Cholesky and a symmetric eigensolver; return the ``k`` largest mu.

    The constant is left out. An image with fewer than ``k`` pairs has NaN for the others.

    Raises
    ------
    SolverError
        If B is singular beyond the isolated patches.
    """
    affinity, mass = pencil.dense()
    if pencil.interpolation.is_identity:
        mu, vectors = _solve(affinity, mass, k)
    else:
        mu = affinity.new_full((pencil.n_images, k), math.nan)
        vectors = affinity.new_zeros(pencil.n_images, k, pencil.n)
        for image, free in enumerate(pencil.free):
            cells = free.nonzero()[:, 0]
            block = (cells[:, None], cells[None, :])
            found = _solve(affinity[image][block][None], mass[image][block][None], min(k, len(cells) - 1))
            count = found[0].shape[1]
            mu[image, :count] = found[0][0]
            vectors[image, :count, cells] = found[1][0]
    mass_vectors = vectors @ mass
    residual = (vectors @ affinity - mu[..., None] * mass_vectors).norm(dim=2) / mass_vectors.norm(dim=2)
    return RitzPairs(pencil.agreed(mu).cpu(), pencil.agreed(vectors), pencil.agreed(residual).cpu(), 0)


def _solve(affinity: Float[Tensor, "images n n"], mass: Float[Tensor, "images n n"], k: int) -> tuple[Tensor, Tensor]:
    factor, failed = torch.linalg.cholesky_ex(mass)
    if bool(failed.any()):
        raise SolverError(
            "The joint degree matrix is singular, so some patches cannot be told apart: solve on a coarser grid "
            "(grid=...) or give a finer layer a positive weight."
        )
    # The constant (mu = 1) is moved to mu = -2, below every other, so that it never mixes with other zero
    # eigenvalues.
    mass_one = mass.sum(dim=2, keepdim=True)
    total = mass_one.sum(dim=1, keepdim=True)
    affinity = affinity - 3.0 * mass_one @ mass_one.transpose(-1, -2) / total
    half = torch.linalg.solve_triangular(factor, affinity, upper=False)
    standard = torch.linalg.solve_triangular(factor, half.transpose(-1, -2), upper=False)
    mu, rotated = eigh((standard + standard.transpose(-1, -2)) / 2)
    vectors = torch.linalg.solve_triangular(factor.transpose(-1, -2), rotated.flip(-1)[..., :k], upper=True)
    return mu.flip(-1)[:, :k], vectors.transpose(-1, -2)
