"""The joint graph as a matrix: the layers' affinities, scaled and weighted as in the solver, summed on one grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool
from scipy import sparse

from ..._affinity.dataset_graph import DatasetGraph
from ..._affinity.dataset_operators import edges
from ..._affinity.dataset_pencil import make_pencil
from ..._affinity.layer_graph import LayerGraph, Member
from ..._affinity.pencil import base_grid, n_nodes, positive_members
from ..._affinity.resampling import Grid, Resampling
from ...errors import RegionsError
from ...solvers import batches

MOST_DENSE = 4096
"""Number of patches up to which the joint graph is a full matrix: 134 MB, and a few times that while it is summed."""

Matrix = np.ndarray | sparse.csr_array


def joint_affinities(
    graph: LayerGraph, images: Sequence[int], grid: Grid
) -> Iterator[tuple[int, Matrix, Bool[np.ndarray, " cells"]]]:
    """Add up sum_l w_l s_l G_l' W_l G_l over the patches of one image after another, or of all if they are one problem.

    This is B - A of :mod:`spectral_toolkit._affinity.pencil`, and its rows sum to those of B. Where all layers are on
    one grid, B is the diagonal matrix of these sums, and cutting this graph is what the solver solves.

    Parameters
    ----------
    graph, grid
        The graph to sum, and the grid of the sum.
    images
        Positions of the images; ignored if all are one problem.

    Yields
    ------
    image
        The position; 0 for the one problem of all images.
    matrix
        Symmetric, non-negative; rows of isolated patches are zero. Sparse if there are more than 4,096 patches.
    free
        Patches that are not isolated.

    Raises
    ------
    RegionsError
        If a matrix would be too large.
    """
    n = n_nodes(graph, grid)
    if n > MOST_DENSE:
        if not isinstance(graph, DatasetGraph) or not graph.kernel.searches:
            raise RegionsError(
                f"Cutting the joint graph would need a full matrix over {n:,} patches, more than {MOST_DENSE:,}: solve "
                "on a coarser grid (st.solve(..., grid=...)), use fewer images or kernel='knn' for a dataset, or "
                "method='kmeans'."
            )
        yield 0, *_sparse(graph, grid)
        return
    joint = graph.recipe.scope == "dataset"
    for batch in batches(graph):  # the batches of the solver, whose operators the graph may have kept
        wanted = range(1) if joint else [i - batch.start for i in images if batch.start <= i < batch.stop]
        if len(wanted) > 0:
            pencil = make_pencil(graph, batch, grid)
            matrices, free = pencil.dense()[0].cpu().numpy(), pencil.free.cpu().numpy()
            for place in wanted:
                yield (0 if joint else batch.start + place), matrices[place], free[place]


def cutting_grid(graph: LayerGraph, shown: Grid) -> Grid:
    """Return the grid to cut on: the one shown if a layer of positive weight is as fine, else the finest of those."""
    if any(m.grid[0] >= shown[0] and m.grid[1] >= shown[1] for m in positive_members(graph)):
        return shown
    return base_grid(graph)


def _sparse(graph: DatasetGraph, grid: Grid) -> tuple[sparse.csr_array, Bool[np.ndarray, " cells"]]:
    """Return the same from edges."""
    n_images, n = len(graph.images), n_nodes(graph, grid)
    members = positive_members(graph)
    largest = max(graph.weights[member.name] for member in members)
    total = sparse.csr_array((n, n))
    for member in members:
        own = _edges_of(graph, member)
        own = own * (graph.weights[member.name] / largest * n / own.sum())
        resampling = Resampling(grid, member.grid)
        if not resampling.is_identity:
            lift = sparse.csr_array(sparse.kron(sparse.eye_array(n_images), resampling.dense().numpy(), format="csr"))
            own = lift.T @ own @ lift
        total = sparse.csr_array(total + own)
    pencil = make_pencil(graph, slice(None), grid)
    interpolation = pencil.interpolation.matrix()
    return sparse.csr_array(interpolation.T @ total @ interpolation), pencil.free[0].cpu().numpy()


def _edges_of(graph: DatasetGraph, member: Member) -> sparse.csr_array:
    """Return W of one member, symmetric: the mean over its heads of (K + K') / 2."""
    n = member.n_cells * len(graph.images)
    total = sparse.csr_array((n, n))
    for head in member.heads:
        total = total + edges(graph.neighbours(member.layer, head), slice(None), n)
    return sparse.csr_array((total + total.T) * (0.5 / len(member.heads)))
