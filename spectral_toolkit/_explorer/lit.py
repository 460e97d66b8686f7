"""Chosen patches and labels in the images: what is not chosen is dimmed, and labels have outlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .._render.composite import enlarge
from .._render.outline import boundary
from .._render.tile import Tile
from .selection import chosen_mask

if TYPE_CHECKING:
    from .session import ShownState, Side

MOST = 12
"""How many images with chosen patches are shown side by side."""
_DARK, _COVER = 0.25, 190


def dimmed(tile: Tile, mask: np.ndarray) -> Tile:
    """A tile in which only the patches of a mask (y, x) keep their colours."""
    colours = tile.colours.copy()
    away = ~enlarge(mask, (colours.shape[0], colours.shape[1]))
    colours[away, :3] = np.rint(colours[away, :3] * _DARK).astype(np.uint8)
    colours[away, 3] = np.maximum(colours[away, 3], _COVER)
    return replace(tile, colours=colours)


def with_marks(tiles: Sequence[Tile], shown: ShownState, side: Side) -> list[Tile]:
    """The tiles of a side, with chosen patches lit and labels outlined where the state asks for it."""
    state, found = shown.state, list(tiles)
    chosen = bool(state.selection) and any(image == state.image for image, _, _ in state.selection)
    if chosen:
        grid = shown.sides[0].eig["eigenvector"].shape[1:3]
        found = [dimmed(one, chosen_mask(state.selection, state.image, grid, one.values.shape[:2])) for one in found]
    if state.outlined and side.labels is not None:
        lines = boundary(side.labels)
        found = [replace(one, lines=np.concatenate([one.lines, lines])) for one in found]
    return found


def lit_images(
    shown: ShownState, picture: Sequence[np.ndarray], images: Sequence[int], counts: Sequence[int]
) -> list[Tile]:
    """The images with the most chosen patches, these lit and the rest dimmed."""
    grid, rows = shown.sides[0].eig["eigenvector"].shape[1:3], np.asarray(shown.state.selection)
    tiles = []
    for pixels, image, count in zip(picture, images, counts, strict=True):
        mask = chosen_mask(rows, image, grid, grid)
        clear = Tile(np.zeros((*grid, 4), np.uint8), mask.astype(float), pixels, f"{shown.names[image]}  {count}")
        tiles.append(replace(dimmed(clear, mask), lines=boundary(mask)))
    return tiles


def most_chosen(selection: Sequence[tuple[int, int, int]], most: int = MOST) -> tuple[list[int], list[int]]:
    """The images with the most chosen patches, and how many each has.

    Examples
    --------
    >>> most_chosen([(0, 1, 1), (2, 0, 0), (2, 0, 1)])
    ([2, 0], [2, 1])
    """
    images, counts = np.unique(np.asarray(selection, dtype=int).reshape(-1, 3)[:, 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return images[order].tolist(), counts[order].tolist()
