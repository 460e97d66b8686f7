"""Affinity rows of the patches of a coarse grid, many at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .._affinity.layer_graph import LayerGraph
from .._affinity.pencil import base_grid
from .._affinity.resampling import Grid, Resampling
from .._affinity.rows import joint_rows, member_rows

MAX_LAYER_SIDE = 16
"""Rows of single layers are shown small: finer rows are averaged to at most this many patches per side."""


@dataclass(frozen=True)
class Sources:
    """A coarse grid of patches, spread evenly over the image."""

    rows: int
    columns: int

    def cells(self, grid: Grid) -> list[tuple[int, int]]:
        """Row and column of each on a finer grid: the patch in the middle of each coarse patch, row by row.

        Examples
        --------
        >>> Sources(1, 2).cells((3, 8))
        [(1, 2), (1, 6)]
        """
        ys = [int((place + 0.5) * grid[0] / self.rows) for place in range(self.rows)]
        xs = [int((place + 0.5) * grid[1] / self.columns) for place in range(self.columns)]
        return [(y, x) for y in ys for x in xs]


def choose_sources(
    grids: Sequence[Grid], n_images: int, n_kinds: int, n_presets: int, n_bytes: int, across: bool = False
) -> Sources | None:
    """The finest coarse grid whose rows fit into this many bytes; None where not even a single row fits.

    Joint rows ``across`` images go to the patches of all of them.
    """
    finest = max(grids, key=math.prod)
    layers = sum(math.prod(min(side, MAX_LAYER_SIDE) for side in grid) for grid in grids)
    joint = n_presets * math.prod(finest) * (n_images if across else 1)
    per_source = n_images * n_kinds * (joint + layers)
    for longer in range(max(finest), 0, -1):
        scale = longer / max(finest)
        sources = Sources(max(1, round(finest[0] * scale)), max(1, round(finest[1] * scale)))
        if sources.rows * sources.columns * per_source <= n_bytes:
            return sources
    return None


def all_joint_rows(graph: LayerGraph, sources: Sources) -> np.ndarray:
    """Rows of the joint affinity as the solver sees it, float32 (image, source, y, x).

    Of images that were solved as one, rows go to the patches of all: (image, source, image, y, x).
    """
    grid = base_grid(graph)
    cells = sources.cells(grid)
    n = len(graph.images)
    rows = np.stack([_field(joint_rows(graph, image, cells, grid)[None], grid) for image in range(n)])
    return rows.reshape(n, len(cells), n, *grid) if graph.recipe.scope == "dataset" else rows


def all_layer_rows(graph: LayerGraph, sources: Sources) -> dict[str, np.ndarray]:
    """Rows of every layer's own affinity on its own grid, averaged to at most 16 patches per side.

    Where the layer's grid is coarser or finer than the finest grid, a patch is resampled as in the solver: by an area
    average or an interpolation.
    """
    finest = max((member.grid for member in graph.members), key=math.prod)
    cells = sources.cells(finest)
    found = {}
    for member in graph.members:
        small = (min(member.grid[0], MAX_LAYER_SIDE), min(member.grid[1], MAX_LAYER_SIDE))
        average = Resampling(member.grid, small)
        rows = [member_rows(graph, member, image, cells, finest)[None] for image in range(len(graph.images))]
        if graph.recipe.scope == "dataset":  # those to patches of the same image
            rows = [one.unflatten(2, (len(graph.images), -1))[:, :, image] for image, one in enumerate(rows)]
        found[member.name] = np.stack([_field(average(one), small) for one in rows])
    return found


def _field(rows: torch.Tensor, grid: Grid) -> np.ndarray:
    return rows[0].reshape(-1, *grid).to(torch.float32).cpu().numpy()
