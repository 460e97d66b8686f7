"""Segments by recursive cuts of the joint graph: from the grid of the eigenvectors to that of the graph and back."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from ..._affinity.layer_graph import LayerGraph
from ..._affinity.resampling import Grid
from ..._io.grids import on_grid
from ..._io.pairing import refuse_other_images
from ...errors import RegionsError
from .cutting import Tree, cut_recursively
from .embedding import Embedding
from .joint import cutting_grid, joint_affinities
from .label_maps import NO_SEGMENT, by_size, filled

THRESHOLD = 0.85
"""On 48 scenes (seed 5), value graphs are cut into parts closest to the objects (adjusted Rand index) at about 0.85,
whatever the training step of the weights of `scenes`; query-key graphs are always cut up to the limit below."""


def segment_by_cuts(
    points: Embedding, graph: LayerGraph, threshold: float, most: int, seed: int
) -> tuple[Int[np.ndarray, "images cells"], list[Tree], list[list[int]]]:
    """Return labels, and the hierarchy of every image (or of all, if solved as one) with the labels of its leaves."""
    images = positions(points, graph)
    grid = cutting_grid(graph, points.grid)
    n_images = len(points.names)
    if grid != points.grid:
        points.notes.append(
            f"Cut on {grid[0]}x{grid[1]}, the finest grid of a layer of positive weight; every patch of "
            f"{points.grid[0]}x{points.grid[1]} has the label of the patch that its centre lies in."
        )
    cut: dict[int, tuple[np.ndarray, Tree]] = {}
    for image, affinity, free in joint_affinities(graph, images, grid):
        tree = cut_recursively(affinity, free, threshold, most, seed)
        labels = np.full(len(free), NO_SEGMENT, dtype=np.int64)
        for number, node in enumerate(tree.leaves()):
            labels[tree.cells[node]] = number
        whole = [filled(*both, grid) for both in zip(*_each(labels, free, grid), strict=True)]
        cut[image] = np.stack([_shown(one, grid, points.grid) for one in whole]), tree
    trees: list[Tree] = []
    numbers: list[list[int]] = []
    labels = np.empty(points.free.shape, dtype=np.int64)
    for place, image in enumerate([0] if points.joint else images):
        own, tree = cut[image]
        numbered = by_size(own)
        # A leaf of which nothing is shown, on a grid coarser than the one that was cut, has no number.
        known = {int(a): int(b) for a, b in zip(own.ravel(), numbered.ravel(), strict=True)}
        numbers.append([known.get(number, NO_SEGMENT) for number in range(len(tree.leaves()))])
        trees.append(tree)
        labels[slice(0, n_images) if points.joint else slice(place, place + 1)] = numbered
    return labels, trees, numbers


def parts_by_cuts(points: Embedding, graph: LayerGraph, n_parts: int, seed: int) -> Int[np.ndarray, "images cells"]:
    """Cut every image separately into ``n_parts`` parts, whatever the cut values; edges between images are left out."""
    images = positions(points, graph)
    grid = cutting_grid(graph, points.grid)
    n_cells = grid[0] * grid[1]
    labels = np.empty(points.free.shape, dtype=np.int64)
    for image, affinity, free in joint_affinities(graph, images, grid):
        for place in range(len(images)) if points.joint else [images.index(image)]:
            own = slice(place * n_cells, (place + 1) * n_cells) if points.joint else slice(0, n_cells)
            tree = cut_recursively(affinity[own, own], free[own], np.inf, n_parts, seed)
            parts = np.full(n_cells, NO_SEGMENT, dtype=np.int64)
            for number, node in enumerate(tree.leaves()):
                parts[tree.cells[node]] = number
            labels[place] = _shown(filled(parts, free[own], grid), grid, points.grid)
    return labels


def positions(points: Embedding, graph: LayerGraph) -> list[int]:
    """Return the positions in the graph of the images of the eigenvectors.

    Raises
    ------
    RegionsError
        If the eigenvectors were not solved from the graph.
    """
    told = {**graph.attrs, **graph.content}
    if tuple(points.names) != graph.images:  # a part of the images may have been captured again
        told.pop("activations_pictures_sha256", None)
    for name, own in told.items():
        if name != "scope" and points.attrs.get(name, own) != own:
            raise RegionsError(
                f"The eigenvectors have {name} {points.attrs[name]!r} and the graph {own!r}: give the graph that they "
                "were solved from."
            )
    if points.joint != (graph.recipe.scope == "dataset"):
        raise RegionsError(
            f"The eigenvectors were solved for {'all images as one' if points.joint else 'each image alone'}, but the "
            f"graph has scope {graph.recipe.scope!r}: give the graph that they were solved from."
        )
    missing = [name for name in points.names if name not in graph.images]
    if missing or (points.joint and tuple(points.names) != graph.images):
        raise RegionsError(
            f"The eigenvectors are of {len(points.names)} images, but the graph is of {len(graph.images)} others, or "
            "in another order: give the graph that the eigenvectors were solved from."
        )
    places = [graph.images.index(name) for name in points.names]
    hashes = points.hashes, [graph.hashes[place] for place in places]
    refuse_other_images(points.names, *hashes, ("the eigenvectors", "the graph"), RegionsError)
    return places


def _each(labels: np.ndarray, free: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    n_cells = grid[0] * grid[1]
    return labels.reshape(-1, n_cells), free.reshape(-1, n_cells)


def _shown(labels: Int[np.ndarray, " cells"], grid: Grid, shown: Grid) -> Int[np.ndarray, " others"]:
    """Return, for every shown patch, the label of the patch in which its centre lies."""
    return on_grid(labels.reshape(grid), shown).ravel()
