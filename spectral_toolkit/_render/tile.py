"""One image with colours over it, as data: what the explorer lays side by side, whoever draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Tile:
    """One picture with colours over it.

    Attributes
    ----------
    colours
        uint8 (y, x, 4): what lies over the picture, opacity included.
    values
        (y, x) or (y, x, 3): what the cursor reads, one per patch.
    picture
        uint8 (height, width, 3), or None where nothing lies below.
    caption
        Above the tile.
    framed
        Patches (row, column) to draw a frame around.
    chosen
        Whether the whole tile is framed.
    lines
        (n, 4): straight lines to draw, as `outline.boundary` gives them.
    """

    colours: np.ndarray
    values: np.ndarray
    picture: np.ndarray | None = None
    caption: str = ""
    framed: Sequence[tuple[int, int]] = ()
    chosen: bool = False
    lines: np.ndarray = field(default_factory=lambda: np.empty((0, 4)))
