"""The image under each eigenvector: matched by name, cut to the analysed part, in its original shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr

from .._io.pairing import analysed_box, analysed_part, first_names, image_hashes, paired_pictures
from ..errors import SpectralToolkitError
from .composite import shrink


@dataclass(frozen=True)
class ShownPicture:
    """The part of an image that was analysed.

    Attributes
    ----------
    name
        The name in the coordinate ``image``.
    index
        Position along ``image`` of the eigenvectors.
    pixels
        uint8, shape (height, width, 3).
    aspect
        Height over width of that part in the original: models often see an image squashed to a square, but readers
        should not.
    """

    name: str
    index: int
    pixels: np.ndarray
    aspect: float


def eigenvector_names(eig: xr.Dataset) -> list[str]:
    """Names of the images of an eigenvector Dataset; numbers as text where it has no names."""
    if "eigenvector" not in getattr(eig, "data_vars", ()):
        raise SpectralToolkitError(
            f"A {type(eig).__name__} was given as eigenvectors: expected the Dataset that st.solve returns, "
            "with a variable 'eigenvector' (image, y, x, component)."
        )
    if "image" not in eig["eigenvector"].dims or "component" not in eig["eigenvector"].dims:
        raise SpectralToolkitError(
            f"The eigenvectors have dimensions {tuple(map(str, eig['eigenvector'].dims))}, expected image, y, x and "
            "component: choose one as a list, with .isel(image=[0]) or .sel(component=[1]), or with image= and "
            "component= here."
        )
    if "image" in eig.coords:
        return [str(name) for name in eig.coords["image"].values]
    return [str(index) for index in range(eig.sizes["image"])]


def result_names(result: xr.Dataset | xr.DataArray) -> list[str]:
    """Names of the images of eigenvectors, or of an array over ``image``; numbers as text where it has no names."""
    if not isinstance(result, xr.DataArray):
        return eigenvector_names(result)
    if "image" in result.coords:
        return [str(name) for name in result.coords["image"].values]
    return [str(index) for index in range(result.sizes["image"])]


def choose_images(result: xr.Dataset | xr.DataArray, image: object = None) -> list[int]:
    """Positions of the images asked for: None for all, or a name, a position, or several of these."""
    names = result_names(result)
    if image is None:
        return list(range(len(names)))
    if isinstance(image, slice):
        image = range(len(names))[image]
    try:
        wanted = list(image) if isinstance(image, Iterable) and not isinstance(image, str) else [image]
    except TypeError:
        wanted = [image]  # refused below
    positions = []
    for item in wanted:
        if str(item) in names and not isinstance(item, int | np.integer):
            positions.append(names.index(str(item)))
        elif isinstance(item, int | np.integer) and -len(names) <= item < len(names):
            positions.append(int(item) % len(names))
        else:
            raise SpectralToolkitError(
                f"image={item!r} is not one of the {len(names)} images of this result: give a position from 0 to "
                f"{len(names) - 1} or one of the names {first_names(names)}."
            )
    return positions


def shown_pictures(
    images: object, result: xr.Dataset | xr.DataArray, image: object = None, max_side: int | None = None
) -> Iterator[ShownPicture]:
    """Yield the images under a result, one at a time.

    Parameters
    ----------
    images
        Whatever `load_images` takes, or a tree of activations that holds pixels. Images are matched by name where every
        name of ``result`` is among theirs; arrays have no names and are matched by position.
    result
        Eigenvectors as returned by ``st.solve``, or an array over ``image``, such as segments.
    image
        See `choose_images`.
    max_side
        Longer side of the images in pixels; None leaves them as they are.
    """
    chosen = choose_images(result, image)
    names = result_names(result)
    # The pixels of a tree are what the model saw, so they are already cut to the analysed part.
    already_cut = isinstance(images, xr.DataTree)
    pictures = paired_pictures(images, names, image_hashes(result, names), "a result", chosen)
    for index, pixels in zip(chosen, pictures, strict=True):
        box = analysed_box(result.coords, index)
        if box is not None and not already_cut:
            pixels = analysed_part(pixels, box, result.coords, index)
        height, width = pixels.shape[:2] if box is None else (box[2] - box[0], box[3] - box[1])
        if max_side is not None:
            pixels = shrink(pixels, max_side)
        yield ShownPicture(name=names[index], index=index, pixels=pixels, aspect=float(height / width))
