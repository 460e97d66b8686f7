"""Block Davidson iteration for the joint pencil, several images at once.

The subspace grows by the preconditioned residuals of the pairs not yet found, is kept orthonormal in B, and is reduced
to the best Ritz vectors when it has grown too wide. With an exact preconditioner this is a thick-restart block Lanczos
method; with an inexact one it needs a few more products, and is as exact. Only products of matrices with blocks of
vectors are used, which suit a GPU, and the caches of a CPU, best.

Several processes may share a problem, and then each iterates by itself. The values that decide how they continue, and
every new block of vectors, are those of the first process (``pencil.agreed``); the rest may differ by rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .._affinity.pencil import JointPencil
from .._compute.devices import eigh
from ..errors import SolverError

N_GUARD = 4
"""Extra vectors: they speed up the convergence of the last wanted ones, and catch what a warm start would miss."""
WIDTH = 8
"""The subspace is reduced when it would exceed this many blocks..."""
KEPT = 3
"""...to this many."""
KEPT_LENGTH = 0.5
"""A vector that keeps this part of its length when it is projected has lost hardly any digits."""
WELL_CONDITIONED = 1e-3
"""A Gram matrix conditioned better than this is inverted without a second round."""
MAX_ROUNDS = 20
"""Rounds of orthogonalisation before giving up: three are rare."""
REMEMBERED = 2
"""Blocks of Ritz vectors that are returned, for a warm start that begins with more than the result."""
MIN_ITERATIONS = 2
"""Expansions before a warm start is trusted: its vectors can be eigenvectors, and yet not the lowest."""

Report = Callable[[int, int, float], object]
"""Called after every expansion with the number done, the largest number, and the worst residual; may raise."""


@dataclass
class RitzPairs:
    """Approximate eigenpairs of several images: affinity values mu, vectors, residuals, work done."""

    mu: Float[Tensor, "images k"]
    vectors: Float[Tensor, "images k n"]
    residual: Float[Tensor, "images k"]
    iterations: int
    subspace: Float[Tensor, "images m n"] | None = None


def smallest_block(k: int) -> int:
    """Return the width of the block that finds ``k`` pairs."""
    return k + N_GUARD


def block_davidson(
    pencil: JointPencil,
    k: int,
    *,
    start: Float[Tensor, "images columns n"] | None,
    tolerance: float,
    generator: torch.Generator,
    exact: bool,
    max_iterations: int = 300,
    report: Report | None = None,
) -> RitzPairs:
    """Find the ``k`` largest mu of W x = mu B x besides the constant, for every image of the pencil.

    Parameters
    ----------
    pencil
        The problem; it needs ``WIDTH * smallest_block(k) < n_free`` for this to be worth while.
    start
        Vectors to start from, (images, any number, n); random ones are added.
    tolerance
        The largest residual |W x - mu B x| / |B x| allowed.
    generator
        Source of the random columns, on the CPU, so that every device starts alike.
    exact
        Whether products are computed in float64; if not, in the precision of the affinities.
    report
        A function called once per iteration; if it raises, the iteration ends.

    Returns
    -------
    RitzPairs
        Its residuals tell whether the pairs converged: nothing is raised here.
    """
    block = smallest_block(k)
    constant = _Subspace.empty(pencil, 1)
    one = pencil.constant()
    mass_one = pencil.mass_matmul(one)
    norm = (one * mass_one).sum(dim=2, keepdim=True).rsqrt()
    constant.append(one * norm, mass_one * norm, mass_one * norm)

    columns = pencil.agreed(_random(pencil, block, generator))
    if start is None:
        # One product smooths the random start, which takes less time than a step of the iteration.
        columns = pencil.precondition(pencil.affinity_matmul(columns, exact=exact))
    else:
        given = start.to(columns)[:, : REMEMBERED * block] * pencil.free[:, None]
        given = given / given.abs().amax(dim=2, keepdim=True).clamp_min(torch.finfo(given.dtype).tiny)
        columns = torch.cat([given, columns[:, : max(N_GUARD, block - given.shape[1])]], dim=1)
    subspace = _Subspace.empty(pencil, WIDTH * block)
    new, mass_new = _orthonormalise(pencil, columns, (constant,), generator)
    subspace.append(new, mass_new, pencil.affinity_matmul(new, exact=exact))

    # The last pair only gives the eigengap: the error of its eigenvalue is about the square of its residual.
    limits = torch.full((k,), tolerance, dtype=pencil.dtype, device=one.device)
    limits[-1] = max(tolerance, min(1e-3, tolerance**0.5))
    iteration = 0
    needed = MIN_ITERATIONS if start is not None else 0
    while True:
        mu, rotation = (pencil.agreed(found) for found in subspace.ritz())
        best = rotation[:, :block]
        ritz_mass = best @ subspace.mass
        residuals = best @ subspace.image - mu[:, :block, None] * ritz_mass
        size = pencil.agreed(residuals.norm(dim=2) / ritz_mass.norm(dim=2))
        open_pairs = size[:, :k] > limits
        if report is not None:
            report(iteration, max_iterations, float(size[:, :k].max()))
        if (not open_pairs.any() and iteration >= needed) or iteration >= max_iterations:
            kept = pencil.agreed(rotation[:, : REMEMBERED * block] @ subspace.vectors)
            return RitzPairs(mu[:, :k], kept[:, :k], size[:, :k], iteration, kept)
        iteration += 1
        if subspace.width + block > WIDTH * block:
            subspace.restart(mu, rotation, KEPT * block)
        chosen = _columns_to_expand(size, open_pairs, guard=iteration <= needed)
        new = torch.take_along_dim(
            residuals / size.clamp_min(torch.finfo(size.dtype).tiny)[..., None], chosen[..., None], dim=1
        )
        new = pencil.precondition(new)
        new, mass_new = _orthonormalise(pencil, new, (constant, subspace), generator)
        subspace.append(new, mass_new, pencil.affinity_matmul(new, exact=exact))


class _Subspace:
    """A B-orthonormal basis V with B V, W V and V' W V, growing in place inside buffers of fixed width."""

    def __init__(self, buffers: Tensor, projected: Tensor) -> None:
        self._buffers = buffers
        self._projected = projected
        self.width = 0

    @classmethod
    def empty(cls, pencil: JointPencil, width: int) -> _Subspace:
        where = {"dtype": pencil.dtype, "device": pencil.graph.device}
        return cls(
            torch.empty(3, pencil.n_images, width, pencil.n, **where),
            torch.empty(pencil.n_images, width, width, **where),
        )

    @property
    def vectors(self) -> Float[Tensor, "images m n"]:
        return self._buffers[0, :, : self.width]

    @property
    def mass(self) -> Float[Tensor, "images m n"]:
        return self._buffers[1, :, : self.width]

    @property
    def image(self) -> Float[Tensor, "images m n"]:
        return self._buffers[2, :, : self.width]

    def append(
        self,
        vectors: Float[Tensor, "images k n"],
        mass: Float[Tensor, "images k n"],
        image: Float[Tensor, "images k n"],
    ) -> None:
        begin, end = self.width, self.width + vectors.shape[1]
        for buffer, values in zip(self._buffers, (vectors, mass, image), strict=True):
            buffer[:, begin:end] = values
        self.width = end
        self._projected[:, :end, begin:end] = self.vectors @ image.transpose(-1, -2)
        self._projected[:, begin:end, :begin] = self._projected[:, :begin, begin:end].transpose(-1, -2)

    def ritz(self) -> tuple[Float[Tensor, "images m"], Float[Tensor, "images m m"]]:
        """Return the Ritz values, descending, and the rotation whose rows give their vectors."""
        projected = self._projected[:, : self.width, : self.width]
        mu, rotation = eigh((projected + projected.transpose(-1, -2)) / 2)
        return mu.flip(-1), rotation.flip(-1).transpose(-1, -2)

    def restart(self, mu: Tensor, rotation: Tensor, width: int) -> None:
        """Keep only the best ``width`` Ritz vectors."""
        for buffer in self._buffers:
            buffer[:, :width] = rotation[:, :width] @ buffer[:, : self.width]
        self._projected[:, :width, :width] = torch.diag_embed(mu[:, :width])
        self.width = width


def _columns_to_expand(
    size: Float[Tensor, "images block"], open_pairs: Bool[Tensor, "images k"], *, guard: bool
) -> Tensor:
    """Choose the columns whose residuals enter the subspace: as many for every image as the slowest one needs."""
    images, k = open_pairs.shape
    count = int(open_pairs.sum(dim=1).max())
    chosen = size[:, :k].topk(count, dim=1).indices
    if guard:
        guards = torch.arange(k, size.shape[1], device=size.device).expand(images, -1)
        chosen = torch.cat([chosen, guards], dim=1)
    return chosen


def _random(pencil: JointPencil, columns: int, generator: torch.Generator) -> Tensor:
    values = torch.randn(pencil.n_images, columns, pencil.n, generator=generator, dtype=torch.float64)
    return values.to(device=pencil.graph.device, dtype=pencil.dtype) * pencil.free[:, None]


def _orthonormalise(
    pencil: JointPencil,
    new: Float[Tensor, "images k n"],
    against: tuple[_Subspace, ...],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Make ``new`` B-orthonormal and B-orthogonal to the subspaces; vectors that vanish become random ones.

    A second round is made only where the first one cancelled digits (Daniel et al. 1976); a vector that vanishes
    altogether is replaced by a random one.
    """
    limits = torch.finfo(new.dtype)
    for _ in range(MAX_ROUNDS):
        before = new.norm(dim=2)
        for subspace in against:
            new = torch.baddbmm(new, new @ subspace.mass.transpose(-1, -2), subspace.vectors, alpha=-1)
        cancelled = new.norm(dim=2) < KEPT_LENGTH * before
        mass_new = pencil.mass_matmul(new)
        gram = new @ mass_new.transpose(-1, -2)
        gram = (gram + gram.transpose(-1, -2)) / 2
        length = gram.diagonal(dim1=1, dim2=2)
        scale = torch.where(length > 0, length.clamp_min(limits.tiny).rsqrt(), 0.0)
        theta, rotation = eigh(scale[:, :, None] * gram * scale[:, None, :])
        largest = theta[:, -1:].clamp_min(limits.tiny)
        lost = theta <= 100 * limits.eps * largest
        inverse_root = theta.clamp_min(limits.tiny).rsqrt().masked_fill(lost, 0.0)
        turn = (scale[:, :, None] * rotation * inverse_root[:, None, :]).transpose(-1, -2)
        new, mass_new = turn @ new, turn @ mass_new
        if bool(lost.any()):
            new = torch.where(lost[..., None], _random(pencil, new.shape[1], generator), new)
        elif not bool((cancelled | (theta < WELL_CONDITIONED * largest)).any()):
            return pencil.agreed(new), pencil.agreed(mass_new)
    raise SolverError(
        "No further independent vectors were found, so the joint degree matrix is singular: solve on a coarser grid "
        "(grid=...), or ask for fewer eigenvectors."
    )
