"""From fields to pixels: arrays of floats in, uint8 out, at patch resolution unless a picture lies below.

Everything here is orientation-free in the sense of arrays: row 0 is the top of the picture. Where Bokeh, which
counts from the bottom, has to be told so is said once, in `overlay`.
"""

from __future__ import annotations

import numbers

import numpy as np
from PIL import Image

from ..errors import SpectralToolkitError
from .colour import DIVERGING


def symmetric_limit(fields: np.ndarray) -> float:
    """Largest magnitude of the finite values, the end of a colour map that is centred on zero; 1 where all are zero.

    Examples
    --------
    >>> symmetric_limit(np.array([[-3.0, 2.0]]))
    3.0
    """
    finite = np.abs(fields[np.isfinite(fields)])
    largest = float(finite.max()) if finite.size else 0.0
    return largest if largest > 0 else 1.0


def robust_limit(fields: np.ndarray, percentile: float = 99.0) -> float:
    """The magnitude that ``percentile`` per cent of the finite values stay below; as `symmetric_limit` where that is 0.

    One outlying cell then cannot turn the rest of the picture grey.
    """
    finite = np.abs(fields[np.isfinite(fields)])
    limit = float(np.percentile(finite, percentile)) if finite.size else 0.0
    return limit if limit > 0 else symmetric_limit(fields)


def colour_field(field: np.ndarray, limit: float, colour_map: np.ndarray = DIVERGING) -> np.ndarray:
    """Colours of a field on a map centred on zero.

    Parameters
    ----------
    field
        Values, any shape; what lies beyond the limit takes the colour of the limit, and NaN that of zero.
    limit
        The value that takes the last colour, above 0; its negative takes the first.
    colour_map
        uint8, shape (n, 3).

    Returns
    -------
    numpy.ndarray
        uint8, shape ``field.shape + (3,)``.

    Examples
    --------
    >>> colour_field(np.array([[-1.0, 0.0, 1.0]]), limit=1.0)[0].tolist()
    [[58, 144, 254], [237, 236, 236], [167, 143, 8]]
    """
    if not limit > 0:
        raise SpectralToolkitError(f"limit={limit} cannot end a colour map centred on zero: it must be above 0.")
    fraction = np.nan_to_num(np.clip(field / limit, -1.0, 1.0)) * 0.5 + 0.5
    return colour_map[np.rint(fraction * (len(colour_map) - 1)).astype(np.intp)]


def is_above(field: np.ndarray, threshold: float, limit: float) -> np.ndarray:
    """Which cells of a field are above ``threshold`` times its ``limit``, shape as ``field``; what is no number is not.

    Examples
    --------
    >>> is_above(np.array([-2.0, 1.0, 2.0]), 0.5, 2.0).tolist()
    [False, False, True]
    """
    return field > threshold * limit


def check_threshold(threshold: object) -> float | None:
    """A part of the largest magnitude, from -1 to 1; None stays None.

    Raises
    ------
    SpectralToolkitError
    """
    if threshold is None:
        return None
    if not isinstance(threshold, numbers.Real) or isinstance(threshold, bool) or not -1 <= float(threshold) <= 1:
        raise SpectralToolkitError(
            f"threshold={threshold!r} is out of range: expected a number from -1 to 1, the part of the eigenvector's "
            "largest magnitude, or None."
        )
    return float(threshold)


def colour_three(fields: np.ndarray, limit: float) -> np.ndarray:
    """Three fields as red, green and blue, one scale for all three and middle grey where all are zero.

    Parameters
    ----------
    fields
        Shape (y, x, 3).
    limit
        The value that is full intensity, above 0; its negative is none.

    Returns
    -------
    numpy.ndarray
        uint8, shape (y, x, 3).

    Examples
    --------
    >>> colour_three(np.array([[[1.0, 0.0, -1.0]]]), limit=1.0).tolist()
    [[[255, 128, 0]]]
    """
    if fields.shape[-1] != 3:
        raise SpectralToolkitError(
            f"Fields of shape {fields.shape} are not three components: the last axis must be 3 long."
        )
    levels = np.arange(256, dtype=np.uint8)[:, None]
    return colour_field(fields, limit, levels)[..., 0]


def resize_field(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bilinear interpolation between patch centres, for those who ask for smooth pictures.

    Parameters
    ----------
    field
        Shape (y, x).
    shape
        Height and width of the result.

    Returns
    -------
    numpy.ndarray
        float32, of the given shape; both grids cover the same picture.
    """
    height, width = shape
    picture = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def enlarge(colours: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Nearest neighbour, so that every patch keeps its edges: (y, x, ...) to (height, width, ...)."""
    rows, columns = (
        np.minimum((np.arange(size) + 0.5) * n_cells / size, n_cells - 1).astype(np.intp)
        for size, n_cells in zip(shape, colours.shape[:2], strict=True)
    )
    return colours[rows[:, None], columns]


def blend(picture: np.ndarray, colours: np.ndarray, opacity: float | np.ndarray) -> np.ndarray:
    """Colours over a picture: ``opacity`` of the colours, the rest of the picture.

    Parameters
    ----------
    picture
        uint8, shape (height, width, 3).
    colours
        uint8, shape (y, x, 3): enlarged to the picture, every patch with its edges.
    opacity
        From 0 (the picture) to 1 (the colours), one number or one per cell, shape (y, x).

    Returns
    -------
    numpy.ndarray
        uint8, shape (height, width, 3).

    Examples
    --------
    >>> black, white = np.zeros((2, 2, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8)
    >>> blend(black, white, 0.2)[0, 0].tolist()
    [51, 51, 51]
    """
    opacity = check_opacity(opacity)
    shape = (picture.shape[0], picture.shape[1])
    if opacity.ndim:
        opacity = enlarge(opacity, shape)[..., None]
    above = enlarge(colours, shape)
    return np.rint(picture * (1.0 - opacity) + above * opacity).astype(np.uint8)


def check_opacity(opacity: float | np.ndarray) -> np.ndarray:
    """Opacity as an array, refused outside 0 to 1."""
    try:
        array = np.asarray(opacity, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.asarray(np.nan)
    if not ((array >= 0) & (array <= 1)).all():
        raise SpectralToolkitError(
            f"opacity={opacity!r} is out of range: 0 shows the picture alone, 1 the colours alone."
        )
    return array


def shrink(picture: np.ndarray, max_side: int) -> np.ndarray:
    """A picture no side of which exceeds ``max_side`` pixels; the picture itself where none does."""
    height, width = picture.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
