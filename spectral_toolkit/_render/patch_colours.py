"""One colour for every patch of a cloud: by its image, its label, its place in the image, or its own pixels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from .colour import N_LABEL_COLOURS, categorical
from .composite import label_colours

COLOURINGS = {
    "pixels": "own pixels",
    "position": "position",
    "segment": "segment",
    "image": "image",
    "label": "label",
}
"""By what points may be coloured, and what it is called."""
_CORNERS = np.array([[[230, 70, 60], [240, 200, 40]], [[70, 60, 190], [40, 170, 120]]], np.uint8)
"""Colours of the top left, top right, bottom left and bottom right."""


def position_colours(grid: tuple[int, int]) -> UInt8[np.ndarray, "y x rgb"]:
    """Colours in which left and right, top and bottom differ: between those of the four corners.

    Examples
    --------
    >>> position_colours((2, 2))[0].tolist()
    [[230, 70, 60], [240, 200, 40]]
    """
    y, x = (np.linspace(0, 1, size)[:, None] if size > 1 else np.full((1, 1), 0.5) for size in grid)
    down = np.concatenate([1 - y, y], axis=1)
    across = np.concatenate([1 - x, x], axis=1)
    return np.rint(np.einsum("ya,xb,abc->yxc", down, across, _CORNERS)).astype(np.uint8)


def mean_colours(pixels: UInt8[np.ndarray, "height width rgb"], grid: tuple[int, int]) -> UInt8[np.ndarray, "y x rgb"]:
    """The mean colour of the pixels of every patch.

    Examples
    --------
    >>> mean_colours(np.array([[[0, 0, 0], [100, 0, 0]]], np.uint8), (1, 1)).tolist()
    [[[50, 0, 0]]]
    """
    return np.asarray(Image.fromarray(pixels[..., :3]).resize((grid[1], grid[0]), Image.Resampling.BOX))


def numbered_colours(numbers: Int[np.ndarray, "*any"]) -> UInt8[np.ndarray, "*any rgb"]:
    """The colours of segments and labels on images, again from the first after the last; below zero is grey."""
    flat = numbers.reshape(1, -1)
    return label_colours(np.where(flat < 0, -1, flat % N_LABEL_COLOURS), 1.0)[0, :, :3].reshape(*numbers.shape, 3)


def image_colours(n_images: int) -> UInt8[np.ndarray, "image rgb"]:
    """A colour for every image: of the first few, colours that colour-blind readers can tell apart."""
    table = categorical(min(n_images, N_LABEL_COLOURS))
    return table[np.arange(n_images) % len(table)]


def colours_of_patches(
    by: str,
    shape: tuple[int, int, int],
    *,
    means: UInt8[np.ndarray, "image y x rgb"] | None = None,
    segments: Int[np.ndarray, "image y x"] | None = None,
    labels: Int[np.ndarray, "image y x"] | None = None,
    first: int = 0,
) -> UInt8[np.ndarray, "image y x rgb"]:
    """The colours of all patches.

    Parameters
    ----------
    by
        A key of `COLOURINGS`; those of pixels, segments and labels need what they are named for.
    shape
        Images, rows and columns.
    first
        The number of the first image, where there is only one of many.
    """
    if by == "image":
        return np.broadcast_to(image_colours(first + shape[0])[first:, None, None], (*shape, 3))
    if by == "position":
        return np.broadcast_to(position_colours(shape[1:])[None], (*shape, 3))
    if by == "pixels":
        assert means is not None
        return means
    numbers = segments if by == "segment" else labels
    assert numbers is not None
    return numbered_colours(numbers)
