"""What a patch is connected to in every image that was solved with its own: the strongest patch of each, cut out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .._render.tile import Tile
from .._render.underlay import ShownPicture

MOST = 32
"""How many images are shown, those with the strongest affinities."""
_WIDE = 5  # patches along each side of what is cut out


@dataclass(frozen=True)
class Connected:
    """The patch of one image to which a chosen patch has its strongest affinity.

    Attributes
    ----------
    image, patch
        Position of the image, and the row and column of the patch.
    strength
        The affinity, as a fraction of the strongest one to any other patch.
    tile
        The patch with those around it, as a small image.
    """

    image: int
    patch: tuple[int, int]
    strength: float
    tile: Tile


def most_connected(
    rows: np.ndarray,
    image: int,
    patch: tuple[int, int],
    names: Sequence[str],
    picture_of: Callable[[int], ShownPicture],
    most: int = MOST,
) -> list[Connected]:
    """Return the patch of every image with the strongest affinity, in order of strength.

    Parameters
    ----------
    rows
        Affinities of the chosen patch, (image, y, x).
    image, patch
        The image of the chosen patch, and its row and column; its affinity to itself does not count.
    names
        Names of the images.
    picture_of
        The image at a position.
    most
        The number of images to return.

    Examples
    --------
    >>> gray = ShownPicture("gray", 0, np.zeros((2, 4, 3), np.uint8), 0.5)
    >>> rows = np.array([[[9.0, 1.0]], [[0.0, 4.0]]])
    >>> connected = most_connected(rows, 0, (0, 0), ["a", "b"], lambda place: gray)
    >>> [(found.image, found.patch, found.strength, found.tile.caption) for found in connected]
    [(1, (0, 1), 1.0, 'b  1.00'), (0, (0, 1), 0.25, 'a  0.25')]
    """
    others = rows.copy()
    others[(image, *patch)] = -np.inf
    best = others.reshape(len(others), -1).argmax(axis=1)
    values = np.take_along_axis(others.reshape(len(others), -1), best[:, None], axis=1)[:, 0]
    highest = float(values.max())
    connected = []
    for place in np.argsort(-values, kind="stable")[:most].tolist():
        row, column = divmod(int(best[place]), rows.shape[2])
        strength = float(values[place]) / highest if highest > 0 else 0.0
        caption = f"{_short(str(names[place]))}  {strength:.2f}"
        connected.append(
            Connected(place, (row, column), strength, _cut_out(picture_of(place), rows.shape[1:], row, column, caption))
        )
    return connected


def _cut_out(picture: ShownPicture, grid: Sequence[int], row: int, column: int, caption: str) -> Tile:
    """The patch and its surroundings, about as high as wide in the original, moved to lie inside the image."""
    pixels = picture.pixels
    taller = picture.aspect * grid[1] / grid[0]  # height of a patch divided by its width
    wanted = (_WIDE, round(_WIDE * taller)) if taller < 1 else (round(_WIDE / taller), _WIDE)
    starts, sizes = [], []
    for place, n, size in zip((row, column), grid, wanted, strict=True):
        sizes.append(min(max(1, size), n))
        starts.append(min(max(0, place - sizes[-1] // 2), n - sizes[-1]))
    edges = [
        [round(at * pixels.shape[axis] / grid[axis]) for at in (starts[axis], starts[axis] + sizes[axis])]
        for axis in (0, 1)
    ]
    crop = pixels[edges[0][0] : edges[0][1], edges[1][0] : edges[1][1]]
    clear = np.zeros((*sizes, 4), dtype=np.uint8)
    return Tile(clear, np.zeros(sizes), crop, caption, framed=[(row - starts[0], column - starts[1])])


def _short(name: str, most: int = 7) -> str:
    """The end of a name, in which names of many images differ."""
    return name if len(name) <= most else f"…{name[1 - most :]}"
