"""Recursive two-way normalised cuts: each part is solved again, and cut where that is best (Shi & Malik 2000)."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.linalg import eigh
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from ...errors import RegionsError
from .joint import Matrix

DENSE_CELLS = 500
"""Parts up to this size are solved densely."""
TOLERANCE = 1e-6
"""The tolerance of the iteration for larger parts: only the order of the entries matters."""


@dataclass
class Tree:
    """All parts that arose, beginning with the whole. Children come after their parents, two at a time.

    Attributes
    ----------
    parent
        The parent of every node; -1 for the root.
    cut
        The lowest normalised cut found for the node, whether or not it was made; NaN for a single patch.
    cells
        The patches of every node.
    """

    parent: list[int] = field(default_factory=list)
    cut: list[float] = field(default_factory=list)
    cells: list[Int[np.ndarray, " cells"]] = field(default_factory=list)

    def leaves(self) -> list[int]:
        """Return the nodes that were not cut."""
        return sorted(set(range(len(self.parent))) - set(self.parent))


def cut_recursively(
    affinity: Matrix, free: Bool[np.ndarray, " cells"], threshold: float, most: int | None, seed: int = 0
) -> Tree:
    """Cut, lowest cut value first, until none is below ``threshold`` or there are ``most`` parts.

    Parameters
    ----------
    affinity
        Symmetric, non-negative (patches, patches), a full or a sparse matrix.
    free
        Patches that take part.
    threshold
        The threshold of the normalised cut, in [0, 2]; a random cut has about 1, the best cut of noise 0.75 to 0.9.
    most
        The largest number of parts; None for as many as the threshold makes.
    seed
        The seed of the iteration's start on large parts.

    References
    ----------
    Shi & Malik, IEEE Trans. Pattern Anal. Mach. Intell. 22 (2000) 888, section 3.
    """
    tree = Tree()
    waiting: list[tuple[float, int, Bool[np.ndarray, " cells"]]] = []

    def add(cells: Int[np.ndarray, " cells"], parent: int) -> None:
        side, cost = best_cut(affinity[cells][:, cells], seed)
        tree.parent.append(parent)
        tree.cut.append(cost)
        tree.cells.append(cells)
        if cost < threshold:  # never true for NaN
            heapq.heappush(waiting, (cost, len(tree.cut) - 1, side))

    if free.any():
        add(np.flatnonzero(free), -1)
    while waiting and (most is None or len(tree.leaves()) < most):
        _, node, side = heapq.heappop(waiting)
        cells = tree.cells[node]
        add(cells[~side], node)
        add(cells[side], node)
    return tree


def best_cut(affinity: Matrix, seed: int = 0) -> tuple[Bool[np.ndarray, " cells"], float]:
    """Find the two-way split along the second eigenvector with the lowest normalised cut, and return both.

    The patches are put in the order of the eigenvector, and all n - 1 places to split are tried. A graph that is not
    connected is split between its pieces, with cut value 0: the largest on one side, all others on the other.

    Returns
    -------
    side
        True for the patches of one side. The first patch is on the False side.
    cost
        In [0, 2]; NaN if there is only one patch.
    """
    n = affinity.diagonal().size
    if n < 2:
        return np.zeros(n, dtype=bool), np.nan
    n_pieces, piece = connected_components(sparse.csr_array(affinity), directed=False)
    if n_pieces > 1:
        side = piece != np.bincount(piece).argmax()
        return (~side if side[0] else side), 0.0
    side, cost = sweep(affinity, second_eigenvector(affinity, seed))
    return (~side if side[0] else side), cost


def second_eigenvector(affinity: Matrix, seed: int = 0) -> Float[np.ndarray, " cells"]:
    """Solve (D - W) x = lambda D x on a connected graph for the smallest eigenvalue besides that of the constant."""
    degree = np.asarray(affinity.sum(axis=1)).ravel()
    inverse_root = 1 / np.sqrt(degree)
    trivial = np.sqrt(degree / degree.sum())
    n = len(degree)
    if n <= DENSE_CELLS:
        dense = affinity.toarray() if isinstance(affinity, sparse.csr_array) else affinity
        # The trivial vector (1) is moved to -1, where no other can be confused with it: they lie within [-1, 1].
        normalised = inverse_root[:, None] * dense * inverse_root - 2 * np.outer(trivial, trivial)
        vectors = eigh((normalised + normalised.T) / 2, subset_by_index=(n - 1, n - 1))[1]
        return inverse_root * vectors[:, 0]

    def product(x: np.ndarray) -> np.ndarray:
        x = x.ravel()
        return inverse_root * (affinity @ (inverse_root * x)) - 2 * trivial * (trivial @ x)

    operator = LinearOperator((n, n), matvec=product, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    start = np.random.default_rng(seed).normal(size=n)
    try:
        vectors = eigsh(
            operator,
            1,
            which="LA",
            v0=start,
            tol=TOLERANCE,  # pyright: ignore[reportArgumentType]
            ncv=min(n, 40),
            maxiter=1000,
        )[1]
    except ArpackNoConvergence as error:
        raise RegionsError(
            f"The second eigenvector of a part of {n:,} patches did not converge: use fewer images, another kernel or "
            "method='kmeans'."
        ) from error
    return inverse_root * vectors[:, 0]


def split_costs(
    affinity: Matrix, vector: Float[np.ndarray, " cells"]
) -> tuple[Int[np.ndarray, " cells"], Float[np.ndarray, " places"]]:
    """Return the patches in the order of ``vector``, and the normalised cut of the first t of them against the others.

    The normalised cut of A and B is cut(A, B) / assoc(A, V) + cut(A, B) / assoc(B, V), with self-affinities in the
    associations; t runs from 1 to n - 1.
    """
    order = np.argsort(vector, kind="stable")
    ordered = affinity[order][:, order]
    degree = np.asarray(ordered.sum(axis=1)).ravel()
    below = sparse.tril(ordered, -1) if isinstance(ordered, sparse.csr_array) else np.tril(ordered, -1)
    # A patch that changes sides adds its degree to the cut, minus its self-affinity and twice its affinities to those
    # before it.
    grown = degree - ordered.diagonal() - 2 * np.asarray(below.sum(axis=1)).ravel()
    cut = np.maximum(np.cumsum(grown)[:-1], 0.0)
    inside = np.cumsum(degree)[:-1]
    outside = np.cumsum(degree[::-1])[::-1][1:]
    return order, cut / inside + cut / outside


def sweep(affinity: Matrix, vector: Float[np.ndarray, " cells"]) -> tuple[Bool[np.ndarray, " cells"], float]:
    """Return the split along ``vector`` with the lowest normalised cut: its lower side, and the cut."""
    order, cost = split_costs(affinity, vector)
    best = int(cost.argmin())
    side = np.zeros(len(order), dtype=bool)
    side[order[: best + 1]] = True
    return side, float(cost[best])
