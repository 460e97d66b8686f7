"""The affinity maps of every head of every layer as one image: a column for each layer, a row for each head."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass

import numpy as np
import xarray as xr
from PIL import Image

from ..errors import SpectralToolkitError
from .composite import highest_other, magnitude_colours

SORTS = ("depth", "entropy")
"""How the heads of a layer follow each other: by their number, or the most concentrated map first."""
MOST_PIXELS = 2**21
"""Pixels of the whole image; maps of more patches are averaged down to fit."""
GAP = 12
"""Between two maps lies this fraction of their width, and at least a pixel."""
_LETTERS = 12
"""Pixels for a letter of what stands in place of maps."""


@dataclass(frozen=True)
class HeadMap:
    """One map, and its place in the image in pixels from the top left."""

    kind: str
    layer: str
    head: int
    entropy: float
    left: int
    top: int
    right: int
    bottom: int

    @property
    def key(self) -> tuple[str, str, int]:
        """What it is of."""
        return self.kind, self.layer, self.head


@dataclass(frozen=True)
class HeadMatrix:
    """The image, uint8 (y, x, 4), clear where there is no map; its maps; and its parts.

    Attributes
    ----------
    columns
        By layer: the middle of its column.
    blocks
        By kind: the middle of its rows.
    words
        Why a kind has no maps: places and texts.
    """

    colours: np.ndarray
    cells: list[HeadMap]
    columns: dict[str, float]
    blocks: dict[str, float]
    words: list[tuple[float, float, str]]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.colours.shape[1], self.colours.shape[0]

    def hit(self, x: float, y: float) -> tuple[HeadMap, tuple[float, float]] | None:
        """The map at a place of the image, and the place in it as fractions (down, across)."""
        for cell in self.cells:
            if cell.left <= x < cell.right and cell.top <= y < cell.bottom:
                down, across = (y - cell.top) / (cell.bottom - cell.top), (x - cell.left) / (cell.right - cell.left)
                return cell, (down, across)
        return None


def head_matrix(maps: xr.Dataset, sort: str = "depth") -> HeadMatrix:
    """Arrange the maps of ``st.head_maps``: kinds one above the other, aligned by layer.

    Every map has colours of its own, from zero to its strongest affinity to another patch.
    """
    if sort not in SORTS:
        raise SpectralToolkitError(f"sort={sort!r} is not offered: use one of {', '.join(map(repr, SORTS))}.")
    kinds, layers = ([str(name) for name in maps[axis].values] for axis in ("kind", "layer"))
    values, entropy = maps["affinity"].values, maps["entropy"].values
    grid = values.shape[3], values.shape[4]
    n_heads = values.shape[2]
    high, wide = _small(grid, len(kinds) * len(layers) * n_heads)
    gap, between = max(1, wide // GAP), max(3, high // 2)
    block = n_heads * (high + gap) + between  # from one kind to the next
    size = (len(kinds) * block - gap - between, len(layers) * (wide + gap) - gap)
    colours = np.zeros((*size, 4), np.uint8)
    cells, words = [], []
    row, column = maps.attrs["patch"]
    for k, kind in enumerate(kinds):
        first = k * block
        for j, layer in enumerate(layers):
            # NaN comes last in any case: there is no map.
            order = np.argsort(entropy[k, j], kind="stable") if sort == "entropy" else range(n_heads)
            own = int(maps["grid_y"].values[k, j]), int(maps["grid_x"].values[k, j])
            for place, head in enumerate(int(one) for one in order):
                one = values[k, j, head]
                if not np.isfinite(one).all():
                    continue
                # A coarser patch also holds others than the chosen one, so that it counts like them.
                highest = highest_other(one, (int(row), int(column)) if own == grid else None)
                left, top = j * (wide + gap), first + place * (high + gap)
                colours[top : top + high, left : left + wide] = magnitude_colours(
                    _averaged(one, (high, wide)), highest, 1.0
                )
                shown = float(entropy[k, j, head])
                cells.append(HeadMap(kind, layer, head, shown, left, top, left + wide, top + high))
        if not any(cell.kind == kind for cell in cells):
            why = next((one for one in maps.attrs.get("left_out", ())), "It cannot be compared in this way.")
            text = "\n".join(textwrap.wrap(f"{kind.upper()}: {why}", max(20, size[1] // _LETTERS)))
            words.append((0.0, first + n_heads * (high + gap) / 2, text))
    blocks = {kind: k * block + n_heads * (high + gap) / 2 for k, kind in enumerate(kinds)}
    columns = {layer: j * (wide + gap) + wide / 2 for j, layer in enumerate(layers)}
    return HeadMatrix(colours, cells, columns, blocks, words)


def _small(grid: tuple[int, int], n_maps: int) -> tuple[int, int]:
    """Height and width of a map in pixels."""
    scale = min(1.0, math.sqrt(MOST_PIXELS / (n_maps * grid[0] * grid[1])))
    return max(1, int(grid[0] * scale)), max(1, int(grid[1] * scale))


def _averaged(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if values.shape == shape:
        return values
    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BOX))
