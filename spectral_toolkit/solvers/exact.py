"""The exact solver: dense for small grids, block Davidson iteration for larger ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._affinity.dataset_pencil import make_pencil
from .._affinity.layer_graph import LayerGraph
from .._affinity.pencil import JointPencil, n_nodes
from .._affinity.resampling import Grid
from ..errors import SolverError
from .davidson import N_GUARD, WIDTH, Report, RitzPairs, block_davidson, smallest_block
from .dense import dense_pairs
from .spectrum import Spectrum, WarmStart

DENSE_CELLS = 400
"""Grids up to this size are solved densely: below it, LAPACK beats any iteration (benchmarks/)."""
FALLBACK_CELLS = 4096
"""Up to this size a dense solve can rescue an iteration that did not converge."""
ALIKE = 1e-5
"""Affinity values closer to each other than this may be one multiple value."""
SINGLE_TOLERANCE = 1e-6
"""Tightest residual that products in float32 reach."""


def solve_images(
    graph: LayerGraph,
    images: slice,
    n_eigenvectors: int,
    *,
    grid: Grid,
    start: WarmStart | None,
    tolerance: float,
    seed: int,
    progress: bool | Report = False,
) -> Spectrum:
    """Solve the joint problem of a few images; see :func:`spectral_toolkit.solve`.

    One more pair than asked for is computed, so that the eigengap after the last one is known.
    """
    n = n_nodes(graph, grid)
    # With fewer patches than the subspace of the iteration is wide, there is nothing to iterate on.
    too_few = (WIDTH + 1) * smallest_block(n_eigenvectors + 1)
    small = n <= max(DENSE_CELLS, too_few)
    exact = small or tolerance < SINGLE_TOLERANCE
    report = progress if callable(progress) else None
    if report is not None:
        report(0, 1, math.inf)
    pencil = make_pencil(graph, images, grid, exact=exact)
    n_pairs = _n_pairs(pencil, n_eigenvectors)
    notes: list[str] = []
    began_from = "nothing"
    if small or int(pencil.n_free.min()) <= too_few:
        pairs, solver = dense_pairs(pencil, n_pairs), "dense"
    else:
        solver = "davidson"
        columns, began_from = _beginning(pencil, start)
        pencil, pairs = _iterate(pencil, n_pairs, columns, tolerance, seed, notes, report)
        if columns is not None and _many_alike(pairs.mu):
            began_from, wasted = "nothing", pairs.iterations
            pencil, pairs = _iterate(pencil, n_pairs, None, tolerance, seed, notes, report)
            pairs.iterations += wasted
        if bool((pairs.residual[:, :n_eigenvectors] > tolerance).any()) and n <= FALLBACK_CELLS:
            notes.append(
                f"The iteration stopped at residual {float(pairs.residual[:, :n_eigenvectors].max()):.1e} after "
                f"{pairs.iterations} steps, so the problem was solved densely instead."
            )
            pencil = pencil if pencil.exact else make_pencil(graph, images, grid, exact=True)
            pairs, solver = dense_pairs(pencil, n_pairs), "dense"
    spectrum = spectrum_of(pencil, pairs, n_eigenvectors, solver, notes)
    spectrum.began_from = began_from
    if pairs.subspace is not None:
        graph.subspaces[_place(pencil)] = (_fingerprint(spectrum.vectors), pairs.subspace, pencil.inverse)
    return spectrum


def _place(pencil: JointPencil) -> tuple[int, int, Grid]:
    first, last, _ = pencil.images.indices(len(pencil.graph.images))
    return first, last, pencil.grid


def _beginning(pencil: JointPencil, start: WarmStart | None) -> tuple[Tensor | None, str]:
    """Return the start vectors and their description: the whole subspace of ``start``, if this graph found it."""
    if start is None:
        return None, "nothing"
    remembered = pencil.graph.subspaces.get(_place(pencil))
    given = _fingerprint(start.columns)
    if remembered is not None and remembered[0].shape == given.shape and torch.allclose(remembered[0], given):
        pencil.use_inverse(remembered[2])
        return remembered[1], "the subspace of start"
    return start.columns, "start"


def _fingerprint(vectors: Tensor) -> Tensor:
    """Return values that identify a result whatever its signs: sums of magnitudes."""
    return vectors.abs().sum(dim=2)


def _many_alike(mu: Tensor) -> bool:
    """Tell whether as many eigenvalues are equal as a warm start adds random vectors.

    If its own vectors are eigenvectors here, too, but not the lowest, only the random ones search for lower ones, and
    of an eigenvalue whose multiplicity exceeds their number they may not find every copy.
    """
    return bool((mu[:, : -(N_GUARD - 1)] - mu[:, N_GUARD - 1 :] <= ALIKE).any())


def _iterate(
    pencil: JointPencil,
    n_pairs: int,
    start: Tensor | None,
    tolerance: float,
    seed: int,
    notes: list[str],
    report: Report | None,
) -> tuple[JointPencil, RitzPairs]:
    """Iterate with single-precision products as far as they reach, then in double precision if more is needed."""
    generator = torch.Generator().manual_seed(seed)
    fast = max(tolerance, 2 * SINGLE_TOLERANCE if pencil.exact else SINGLE_TOLERANCE)
    pairs = block_davidson(
        pencil,
        n_pairs,
        start=start,
        tolerance=fast,
        generator=generator,
        exact=False,
        max_iterations=300 if fast == tolerance else 40,
        report=report,
    )
    if fast == tolerance and bool((pairs.residual[:, :-1] <= tolerance).all()):
        return pencil, pairs
    if fast == tolerance:
        notes.append(
            "Products in single precision did not reach the tolerance, so the solve continued in double precision."
        )
    if not pencil.exact:
        pencil = make_pencil(pencil.graph, pencil.images, pencil.grid, exact=True)
    exact = block_davidson(
        pencil, n_pairs, start=pairs.subspace, tolerance=tolerance, generator=generator, exact=True, report=report
    )
    exact.iterations += pairs.iterations
    return pencil, exact


def check_number(pencil: JointPencil, n_eigenvectors: int) -> None:
    """Refuse to search for more eigenvectors than every image has.

    Raises
    ------
    SolverError
    """
    fewest = int(pencil.n_free.min())
    if n_eigenvectors > fewest - 1:
        raise SolverError(
            f"n_eigenvectors={n_eigenvectors} is too many: {pencil.describe(int(pencil.n_free.argmin()))} has {fewest} "
            f"patches with any affinity, which carry at most {max(fewest - 1, 0)} eigenvectors besides the constant."
        )


def _n_pairs(pencil: JointPencil, n_eigenvectors: int) -> int:
    check_number(pencil, n_eigenvectors)
    return min(n_eigenvectors + 1, int(pencil.n_free.max()) - 1)


def spectrum_of(pencil: JointPencil, pairs: RitzPairs, k: int, solver: str, notes: list[str]) -> Spectrum:
    """Make a spectrum of pairs: degrees are scaled to sum to one, eigenvalues are split into the layers' shares."""
    vectors = pairs.vectors[:, :k]
    if not bool(torch.isfinite(vectors).all()):
        raise SolverError("The solve broke down (its vectors are not finite): check the activations for huge values.")
    cut, mass = pencil.layer_terms(vectors, exact=pencil.exact)
    # Degrees are scaled to sum to one exactly, and eigenvalues are what the shares sum to; no cut is negative.
    total = mass.sum(dim=2, keepdim=True)
    vectors = vectors / total.sqrt() / pencil.largest_weight**0.5
    cut, mass = (torch.stack([cut.clamp_min(0.0), mass]) / total).cpu()  # one transfer
    following = 1 - pairs.mu[:, k] if pairs.mu.shape[1] > k else torch.full_like(pairs.mu[:, 0], math.nan)
    return Spectrum(
        vectors=pencil.interpolation(vectors),
        eigenvalue=cut.sum(dim=2),
        following=following,
        residual=pairs.residual[:, :k],
        layer_share=cut,
        layer_mass=mass,
        isolated=~pencil.free,
        iterations=pairs.iterations,
        solver=solver,
        notes=tuple(notes),
    )
