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

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .._affinity.pencil import JointPencil
from .._compute.devices import DEVICE_KINDS, eigh
from ..errors import SolverError

N_GUARD = 4
"""Extra vectors: they speed up the convergence of the last wanted ones, and catch what a warm start would miss."""
WIDTH = 8
"""The subspace is reduced when it would exceed this many blocks..."""
KEPT = 3
"""...to this many."""
KEPT_LENGTH = 0.5
"""A vector that keeps this part of its length when it is projected has lost hardly any digits."""
NEARLY_ORTHONORMAL = 0.1
"""A Gram matrix this near to one is that of vectors that a further round makes orthonormal to the last digits."""
WELL_CONDITIONED = 1e-3
"""A Gram matrix conditioned better than this is inverted without a second round."""
MAX_ROUNDS = 20
"""Rounds of orthogonalisation before giving up: three are rare."""
DEPTH = 2
"""Products by which the subspace grows in a step of a problem that takes a device longer to start than to compute: one
more than there must be, with half the steps. Larger problems take one."""
REMEMBERED = 2
"""Blocks of Ritz vectors that are returned, for a warm start that begins with more than the result."""
MIN_PRODUCTS = 2
"""Products before a warm start is trusted: its vectors can be eigenvectors, and yet not the lowest."""

Report = Callable[[int, int, float], object]
"""Called after every expansion with the number done, the largest number, and the worst residual; may raise."""


@dataclass
class RitzPairs:
    """Approximate eigenpairs of several images: affinity values mu and residuals on the CPU, vectors, work done."""

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
    basis = _Basis(pencil, WIDTH * block)
    columns = pencil.agreed(_random(pencil, block, generator))
    n_given = 0 if start is None else min(start.shape[1], REMEMBERED * block)
    columns = columns[:, : max(N_GUARD, block - n_given)]
    if n_given < block:
        # One product smooths the random vectors, which takes less time than a step of the iteration.
        columns = pencil.precondition(pencil.affinity_matmul(columns, exact=exact))
    if start is not None:
        given = start.to(columns)[:, :n_given] * pencil.free[:, None]
        given = given / given.abs().amax(dim=2, keepdim=True).clamp_min(torch.finfo(given.dtype).tiny)
        columns = torch.cat([given, columns], dim=1)
    _add(pencil, basis, columns, generator, exact=exact)

    sizes = _Sizes(pencil.n_images, block, k, tolerance)
    deepest = DEPTH if pencil.n <= DEVICE_KINDS[pencil.graph.device.type].started_longer else 1
    iteration = products = 0
    needed = MIN_PRODUCTS if start is not None else 0
    while True:
        mu, rotation = (pencil.agreed(found) for found in basis.ritz())
        # Whether the pairs have converged is known one step late, unless that is asked before the step: a GPU would
        # stand still meanwhile, so it is asked there only where the answer may be yes.
        last = iteration >= max_iterations
        asks = last or pencil.graph.device.type == "cpu" or sizes.may_be_small(warm=start is not None)
        guard = products < needed
        # Those chosen come first, unless it is only now asked which of them that are.
        order, count = sizes.unsorted() if asks else sizes.chosen_first(guard=guard)
        restarts = basis.width + deepest * block > WIDTH * block
        residuals, size = basis.residuals(mu, rotation, order, kept=KEPT * block if restarts else 0)
        if asks:
            sizes.know(order, *_read(pencil, *size))
        if report is not None:
            report(iteration, max_iterations, sizes.worst)
        if asks and (last or (products >= needed and not sizes.any_open)):
            kept = pencil.agreed(basis.rotated(rotation[:, : REMEMBERED * block]))
            found = torch.from_numpy(sizes.latest[:, :k])
            return RitzPairs(mu[:, :k], kept[:, :k], found, iteration, kept)
        if asks:
            chosen, count = sizes.chosen_first(guard=guard)
            places = torch.from_numpy(chosen[:, :count]).to(residuals.device)
            residuals = torch.take_along_dim(residuals, places[..., None], dim=1)
        # Close to the end, one product may be enough.
        depth = 1 if sizes.may_be_small(warm=start is not None) else deepest
        iteration, products = iteration + 1, products + depth
        if restarts:
            basis.restart(mu)
        new = pencil.precondition(residuals[:, :count])
        if depth > 1:
            new = torch.cat([new, pencil.precondition(pencil.affinity_matmul(new, exact=exact))], dim=1)
        told = _add(pencil, basis, new, generator, *([] if asks else size), exact=exact)
        if not asks:
            sizes.know(order, *told)


class _Sizes:
    """The sizes of the residuals, as far as the host knows them, and which of them are to become smaller."""

    def __init__(self, images: int, block: int, k: int, tolerance: float) -> None:
        self.latest = np.full((images, block), np.inf)
        self._before = self.latest
        # The last pair only gives the eigengap: the error of its eigenvalue is about the square of its residual.
        self._limits = np.full(k, tolerance)
        self._limits[-1] = max(tolerance, min(1e-3, tolerance**0.5))

    def know(self, order: np.ndarray, residual: Tensor, mass: Tensor) -> None:
        """Take in the norms of the residuals and of B x, in an order."""
        self._before, self.latest = self.latest, np.empty_like(self.latest)
        np.put_along_axis(self.latest, order, (residual / mass).numpy(), axis=1)

    @property
    def worst(self) -> float:
        return float(self.latest[:, : len(self._limits)].max())

    @property
    def _open(self) -> np.ndarray:
        return ~(self.latest[:, : len(self._limits)] <= self._limits)

    @property
    def any_open(self) -> bool:
        return bool(self._open.any())

    def may_be_small(self, *, warm: bool) -> bool:
        """Guess whether all pairs have converged by now, from how much the last step gained."""
        if np.isinf(self._before).any():
            return warm
        gained = np.minimum(self.latest / np.maximum(self._before, np.finfo(float).tiny), 1.0)
        return bool(((self.latest * gained)[:, : len(self._limits)] <= self._limits).all())

    def unsorted(self) -> tuple[np.ndarray, int]:
        """Order the pairs as they are."""
        images, block = self.latest.shape
        return np.arange(block)[None].repeat(images, axis=0), block

    def chosen_first(self, *, guard: bool) -> tuple[np.ndarray, int]:
        """Order the pairs: first those whose residuals enter the subspace, as many in every image as the slowest needs.

        The pairs not yet found are those, with ``guard`` also the vectors beyond the wanted ones.
        """
        images, block = self.latest.shape
        k = len(self._limits)
        count = int(self._open.sum(axis=1).max())
        wanted = np.argsort(-self.latest[:, :k], axis=1, kind="stable")
        guards = np.arange(k, block)[None].repeat(images, axis=0)
        if guard:
            return np.concatenate([wanted[:, :count], guards, wanted[:, count:]], axis=1), count + block - k
        return np.concatenate([wanted, guards], axis=1), count


class _Basis:
    """A B-orthonormal basis V with B V and W V, growing inside buffers of fixed width, and V' W V on the host.

    The constant, which is the first vector, takes part in nothing but orthogonalisation.
    """

    def __init__(self, pencil: JointPencil, width: int) -> None:
        one = pencil.constant()
        mass_one = pencil.mass_matmul(one)
        norm = (one * mass_one).sum(dim=2, keepdim=True).rsqrt()
        self._vectors = one.new_empty(len(one), 1 + width, pencil.n)
        self._products = one.new_empty(len(one), 1 + width, 2, pencil.n)
        self._vectors[:, :1] = one * norm
        self._products[:, :1, 0] = mass_one * norm
        self._projected = torch.zeros(len(one), width, width, dtype=torch.float64)
        self._turn = one
        self.width = 0

    @property
    def vectors(self) -> Float[Tensor, "images rows n"]:
        """The constant and V."""
        return self._vectors[:, : 1 + self.width]

    @property
    def mass(self) -> Float[Tensor, "images rows n"]:
        """B times the constant and V."""
        return self._products[:, : 1 + self.width, 0]

    def append(
        self,
        vectors: Float[Tensor, "images k n"],
        mass: Float[Tensor, "images k n"],
        image: Float[Tensor, "images k n"],
    ) -> Float[Tensor, "images m k"]:
        """Add vectors; return their columns of V' W V, for `take`."""
        begin, end = 1 + self.width, 1 + self.width + vectors.shape[1]
        self._vectors[:, begin:end] = vectors
        self._products[:, begin:end, 0] = mass
        self._products[:, begin:end, 1] = image
        self.width = end - 1
        return self._vectors[:, 1:end] @ image.transpose(-1, -2)

    def take(self, columns: Float[Tensor, "images m k"]) -> None:
        """Take in the last columns of V' W V."""
        begin = self.width - columns.shape[2]
        self._projected[:, : self.width, begin : self.width] = columns
        self._projected[:, begin : self.width, :begin] = columns[:, :begin].transpose(-1, -2)

    def drop(self, k: int) -> None:
        """Forget the last vectors."""
        self.width -= k

    def ritz(self) -> tuple[Float[Tensor, "images m"], Float[Tensor, "images m m"]]:
        """Return the Ritz values, descending, and the rotation whose rows give their vectors, on the host."""
        projected = self._projected[:, : self.width, : self.width]
        mu, rotation = eigh((projected + projected.transpose(-1, -2)) / 2)
        return mu.flip(-1), rotation.flip(-1).transpose(-1, -2)

    def residuals(
        self, mu: Tensor, rotation: Tensor, order: np.ndarray, *, kept: int
    ) -> tuple[Float[Tensor, "images block n"], tuple[Tensor, Tensor]]:
        """Return W x - mu B x of the Ritz pairs in an order, with its norms and those of B x.

        What `restart` needs to keep the best ``kept`` Ritz vectors travels to the device together with it.
        """
        places = torch.from_numpy(order)
        best = torch.take_along_dim(rotation, places[..., None], dim=1)
        factors = torch.cat([best, rotation[:, :kept]], dim=1)
        minus_mu = torch.cat([-torch.take_along_dim(mu, places, dim=1), mu[:, :kept]], dim=1)
        sent = torch.cat([factors, minus_mu[..., None]], dim=2).to(self._vectors)
        block = order.shape[1]
        self._turn = sent[:, block:, :-1]
        products = self._products[:, 1 : 1 + self.width]
        mass = sent[:, :block, :-1] @ products[:, :, 0]
        found = torch.baddbmm(sent[:, :block, -1:] * mass, sent[:, :block, :-1], products[:, :, 1])
        return found, (found.norm(dim=2), mass.norm(dim=2))

    def rotated(self, rotation: Float[Tensor, "images k m"]) -> Float[Tensor, "images k n"]:
        return rotation.to(self._vectors) @ self._vectors[:, 1 : 1 + self.width]

    def restart(self, mu: Tensor) -> None:
        """Keep only the best Ritz vectors, as many as `residuals` was told."""
        width = self._turn.shape[1]
        for buffer in (self._vectors, self._products.flatten(2)):
            buffer[:, 1 : 1 + width] = self._turn @ buffer[:, 1 : 1 + self.width]
        self._projected[:, :width, :width] = torch.diag_embed(mu[:, :width])
        self.width = width


def _read(pencil: JointPencil, *values: Tensor) -> list[Tensor]:
    """Bring tensors, one row of each for every image, to the host in one transfer, as all processes agree on them."""
    together = torch.cat([value.flatten(1) for value in values], dim=1)
    parts = pencil.agreed(together).cpu().double().split([value[0].numel() for value in values], dim=1)
    return [part.view(value.shape) for part, value in zip(parts, values, strict=True)]


def _add(
    pencil: JointPencil,
    basis: _Basis,
    given: Float[Tensor, "images k n"],
    generator: torch.Generator,
    *size: Tensor,
    exact: bool,
) -> list[Tensor]:
    """Add vectors to the basis; return what is in ``size``, on the host.

    They are made orthonormal by two projections and two Cholesky factorisations (Yamamoto et al. 2015), of which the
    second tells whether the first was accurate, and nothing is asked meanwhile. Where it was not, because the vectors
    hardly differ from each other or from the basis, it is done again, with care.
    """
    new = given
    overlap = new @ basis.mass.transpose(-1, -2)
    new = torch.baddbmm(new, overlap, basis.vectors, alpha=-1)
    mass_new = pencil.mass_matmul(new)
    one = torch.eye(new.shape[1], dtype=new.dtype, device=new.device)
    gram = one
    for again in (False, True):
        if again:
            overlap = new @ basis.mass.transpose(-1, -2)
            new = torch.baddbmm(new, overlap, basis.vectors, alpha=-1)
            mass_new = torch.baddbmm(mass_new, overlap, basis.mass, alpha=-1)
        gram = new @ mass_new.transpose(-1, -2)
        # The inverse of the small factor: to solve for long vectors, torch would copy them.
        turn = torch.linalg.solve_triangular(torch.linalg.cholesky_ex(gram)[0], one, upper=False)
        new, mass_new = turn @ new, turn @ mass_new
    new, mass_new = pencil.agreed(new), pencil.agreed(mass_new)
    columns = basis.append(new, mass_new, pencil.affinity_matmul(new, exact=exact))
    overlap, gram, columns, *size_read = _read(pencil, overlap, gram, columns, *size)
    gram.diagonal(dim1=1, dim2=2).sub_(1.0)
    # Written so that values that are not finite count as inaccurate.
    small = all(bool((value.abs() <= NEARLY_ORTHONORMAL).all()) for value in (overlap, gram))
    if not (small and bool(columns.isfinite().all())):
        basis.drop(new.shape[1])
        new, mass_new = _orthonormalise(pencil, given, basis, generator)
        (columns,) = _read(pencil, basis.append(new, mass_new, pencil.affinity_matmul(new, exact=exact)))
    basis.take(columns)
    return size_read


def _random(pencil: JointPencil, columns: int, generator: torch.Generator) -> Tensor:
    values = torch.randn(pencil.n_images, columns, pencil.n, generator=generator, dtype=torch.float64)
    return values.to(device=pencil.graph.device, dtype=pencil.dtype) * pencil.free[:, None]


def _orthonormalise(
    pencil: JointPencil,
    new: Float[Tensor, "images k n"],
    basis: _Basis,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Make ``new`` B-orthonormal and B-orthogonal to the basis; vectors that vanish become random ones.

    A second round is made only where the first one cancelled digits (Daniel et al. 1976); a vector that vanishes
    altogether is replaced by a random one.
    """
    limits = torch.finfo(new.dtype)
    for _ in range(MAX_ROUNDS):
        before = new.norm(dim=2)
        new = torch.baddbmm(new, new @ basis.mass.transpose(-1, -2), basis.vectors, alpha=-1)
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
