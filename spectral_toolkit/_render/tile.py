"""One image with colours over it, as data: the explorer shows these side by side, whatever draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Tile:
    """One image with colours over it.

    Attributes
    ----------
    colours
        uint8 (y, x, 4): what lies over the image, with its opacity.
    values
        (y, x) or (y, x, 3): what the cursor reads at every patch.
    picture
        The image, uint8 (height, width, 3), or None where nothing lies below.
    caption
        Text above the tile.
    framed
        Patches (row, column) with a frame around them.
    chosen
        Whether the whole tile is framed.
    lines
        Straight lines to draw, (n, 4), as `outline.boundary` returns them.
    """

    colours: np.ndarray
    values: np.ndarray
    picture: np.ndarray | None = None
    caption: str = ""
    framed: Sequence[tuple[int, int]] = ()
    chosen: bool = False
    lines: np.ndarray = field(default_factory=lambda: np.empty((0, 4)))
