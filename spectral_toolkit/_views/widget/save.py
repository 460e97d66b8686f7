"""Saves the figure that is shown as a file: the same tiles, arranged by Python."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..._io.outputs import local_path, write_whole
from ..._render.composite import enlarge
from ..._render.outline import CASING, CASING_WIDTH, INK, INK_WIDTH
from ..._render.tile import Tile
from ...errors import SpectralToolkitError
from ..still_picture import plain
from .tiles import TilePlace, line_columns

_SCALE = 2  # pixels of the file for each pixel of the screen
_HEAD = 24  # screen pixels for the title
_SPACE = 16
_INK = "#1a1a1a"
_STROKES = ((CASING, CASING_WIDTH), (INK, INK_WIDTH))


class SavedPanel:
    """What one figure shows: tiles with their places, and a title."""

    def __init__(
        self, tiles: Sequence[Tile], places: Sequence[TilePlace], size: tuple[float, float], title: str
    ) -> None:
        self.tiles, self.places, self.size, self.title = tiles, places, size, title

    @property
    def width(self) -> float:
        """Width of the tiles, or of a longer title; a browser's fonts may be a little wider than ours."""
        return max(self.size[0], 1.1 * ImageFont.load_default(13).getlength(plain(self.title)))


def sheet(panels: Sequence[SavedPanel]) -> Image.Image:
    """Draw panels side by side, at twice the size on the screen."""
    width, height = _whole(panels)
    drawn = Image.new("RGB", (round(width * _SCALE), round(height * _SCALE)), "white")
    draw = ImageDraw.Draw(drawn)
    large, small = (ImageFont.load_default(size * _SCALE) for size in (13, 11))
    left = 0.0
    for panel in panels:
        draw.text((left * _SCALE, 2 * _SCALE), plain(panel.title), fill=_INK, font=large)
        for tile, place in zip(panel.tiles, panel.places, strict=True):
            at = (round((left + place.left) * _SCALE), round((_HEAD + place.top) * _SCALE))
            size = (round(place.height * _SCALE), round(place.width * _SCALE))
            drawn.paste(Image.fromarray(_composed(tile, size)), at)
            for colour, wide in _STROKES:
                for x0, y0, x1, y1 in _ends(tile, place, left):
                    half = wide / 2  # lines have square ends, so that corners are closed
                    corners = [(min(x0, x1) - half), (min(y0, y1) - half), (max(x0, x1) + half), (max(y0, y1) + half)]
                    draw.rectangle([round(corner * _SCALE) for corner in corners], fill=colour)
            if tile.caption:
                draw.text((at[0], at[1] - 15 * _SCALE), plain(tile.caption), fill=_INK, font=small)
            for box in _boxes(tile, place):
                corners = [(left + box[0]) * _SCALE, (_HEAD + box[1]) * _SCALE]
                corners += [(left + box[2]) * _SCALE, (_HEAD + box[3]) * _SCALE]
                draw.rectangle(corners, outline=box[4], width=2 * _SCALE)
        left += panel.width + _SPACE
    return drawn


def save_png(panels: Sequence[SavedPanel], path: Path) -> Path:
    """Draw the same panels as a PNG."""
    buffer = io.BytesIO()
    sheet(panels).save(buffer, "PNG")
    write_whole(path, buffer.getvalue())
    return path


def free_path(text: str, ending: str) -> Path:
    """Where to save: the given path with its ending, or the next free number. Nothing is overwritten.

    Raises
    ------
    SpectralToolkitError
        If the folder does not exist, or no name was given.
    """
    if not text.strip():
        raise SpectralToolkitError(
            "No name was given: write a name, such as 'explorer', into the field beside the buttons."
        )
    path = local_path(text.strip())
    if path.suffix.lower() != ending:
        path = path.with_name(path.name + ending)
    if not path.parent.is_dir():
        raise SpectralToolkitError(
            f"The folder {str(path.parent)!r} does not exist: create it, or choose another folder."
        )
    candidate, number = path, 2
    while candidate.exists() or candidate.is_symlink():
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return candidate


def saved(path: str | os.PathLike[str]) -> str:
    """What is said of a file that was written."""
    return f"Saved {in_full(path)}."


def in_full(path: str | os.PathLike[str]) -> str:
    """The full path of a file: readers of the page or of the code do not know the kernel's folder."""
    return str(Path(path).expanduser().resolve())


def _whole(panels: Sequence[SavedPanel]) -> tuple[float, float]:
    width = sum(panel.width for panel in panels) + _SPACE * (len(panels) - 1)
    return width, _HEAD + max(panel.size[1] for panel in panels) + 2


def _composed(tile: Tile, size: tuple[int, int]) -> np.ndarray:
    above = enlarge(tile.colours, size).astype(np.float64)
    below = np.full((*size, 3), 255, np.uint8)
    if tile.picture is not None:
        below = np.asarray(Image.fromarray(tile.picture).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    opacity = above[..., 3:] / 255 if above.shape[-1] == 4 else 1.0
    return np.rint(below * (1 - opacity) + above[..., :3] * opacity).astype(np.uint8)


def _boxes(tile: Tile, place: TilePlace) -> list[tuple[float, float, float, float, str]]:
    boxes = []
    high, wide = place.height / place.grid[0], place.width / place.grid[1]
    for row, column in tile.framed:
        left, top = place.left + column * wide, place.top + row * high
        boxes.append((left, top, left + wide, top + high, "#d55e00"))
    return boxes


def _ends(tile: Tile, place: TilePlace, left: float) -> np.ndarray:
    """Both ends (n, 4) of the tile's lines, in screen pixels of the sheet."""
    return np.stack(list(line_columns([tile], [place]).values()), axis=1) + [left, _HEAD] * 2
