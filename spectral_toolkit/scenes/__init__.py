"""The default inputs of the package: images with full ground truth, and the small transformer trained on them.

``sample`` generates scenes; ``python -m training.scenes`` trains the bundled model, whose weights lie in
``weights/scenes`` and are loaded by ``spectral_toolkit.load_model("scenes")``.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from .._compute.arguments import whole
from .._compute.settings import computing
from ..errors import SpectralToolkitError
from .generating import generate

if TYPE_CHECKING:
    import xarray

__all__ = ["generate", "sample"]

PATCH = 8


@computing
def sample(n: int, *, seed: int, size: int | tuple[int, int] = 96) -> xarray.Dataset:
    """Generate ``n`` scenes with their ground truth.

    A scene has a sky, a ground, or both, and two to five objects per 96 x 96 pixels. Each category of object has its
    own shape and texture and random colours, so that colour never tells the category. Objects overlap in the order of
    depth and cast soft shadows; the light is uneven, and there is a little grain.

    Parameters
    ----------
    n
        Number of scenes.
    seed
        The number of the series. Scene ``i`` of a series is the same whatever ``n`` is.
    size
        Height and width in pixels, multiples of 8; one number for square images. A larger image shows more of the world
        at the same scale.

    Returns
    -------
    xarray.Dataset
        ``pixels (image, y_px, x_px, rgb)`` uint8; ``label (image, y_px, x_px)`` int16, an index into
        ``attrs["categories"]``; ``instance (image, y_px, x_px)`` int16, 0 for sky, 1 for ground, 2 and up for the
        objects from back to front. ``image`` holds the names, ``scene_0000`` and so on, and ``image_sha256`` the hashes
        of the pixels, which distinguish the scenes of different series; ``y_px`` and ``x_px`` hold the centres of the
        pixels, in pixels.

    Raises
    ------
    SpectralToolkitError
        If ``n`` or ``seed`` is negative or not an integer, or ``size`` is not a positive multiple of 8.

    Examples
    --------
    >>> from spectral_toolkit import scenes
    >>> drawn = scenes.sample(2, seed=0)
    >>> drawn.pixels.shape
    (2, 96, 96, 3)
    >>> drawn.attrs["categories"][:4]
    ['sky', 'ground', 'ring', 'star']
    """
    import numpy as np
    import xarray

    from .._io.images import IMAGE_HASH, pixels_sha256
    from .compose import CATEGORIES, render

    n, seed = whole("n", n), whole("seed", seed, 0, 2**64 - 1)
    height, width = _sides(size)
    scenes = [render(seed, index, height, width) for index in range(n)]
    shape = (n, height, width)
    return xarray.Dataset(
        {
            "pixels": (
                ("image", "y_px", "x_px", "rgb"),
                np.array([scene.pixels for scene in scenes], np.uint8).reshape(*shape, 3),
                {"scenes_seed": seed},  # images taken from this dataset can say where they came from
            ),
            "label": (
                ("image", "y_px", "x_px"),
                np.array([scene.label for scene in scenes], np.int16).reshape(shape),
            ),
            "instance": (
                ("image", "y_px", "x_px"),
                np.array([scene.instance for scene in scenes], np.int16).reshape(shape),
            ),
        },
        coords={
            "image": np.array([f"scene_{index:04d}" for index in range(n)], dtype=str),
            IMAGE_HASH: ("image", np.array([pixels_sha256(scene.pixels) for scene in scenes], dtype=str)),
            "y_px": np.arange(height) + 0.5,
            "x_px": np.arange(width) + 0.5,
            "rgb": ["red", "green", "blue"],
        },
        attrs={"categories": list(CATEGORIES), "seed": seed, "patch": PATCH},
    )


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    message = f"size={size!r} is neither a positive multiple of {PATCH} nor a (height, width) of two: try size=96."
    try:
        sides = tuple(operator.index(side) for side in (size if isinstance(size, (tuple, list)) else (size, size)))
    except TypeError as error:
        raise SpectralToolkitError(message) from error
    if len(sides) != 2 or any(side <= 0 or side % PATCH for side in sides):
        raise SpectralToolkitError(message)
    return sides
