"""From fields to pixels: arrays of floats in, uint8 out, at patch resolution unless an image lies below.

Everything here has the orientation of arrays: row 0 is the top of the image. Bokeh counts from the bottom; only
`overlay` converts between the two.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from .._compute.arguments import number
from ..errors import SpectralToolkitError
from .colour import DIVERGING, ISOLATED, SEQUENTIAL, categorical


def symmetric_limit(fields: np.ndarray) -> float:
    """The largest magnitude of the finite values, as the end of a colour map centred on zero; 1 where all are zero.

    Examples
    --------
    >>> symmetric_limit(np.array([[-3.0, 2.0]]))
    3.0
    """
    finite = np.abs(fields[np.isfinite(fields)])
    largest = float(finite.max()) if finite.size else 0.0
    return largest if largest > 0 else 1.0


def robust_limit(fields: np.ndarray, percentile: float = 99.0) -> float:
    """The magnitude at ``percentile`` per cent of the finite values; as `symmetric_limit` where that is 0.

    A single outlying patch then cannot turn the rest of the image grey.
    """
    finite = np.abs(fields[np.isfinite(fields)])
    limit = float(np.percentile(finite, percentile)) if finite.size else 0.0
    return limit if limit > 0 else symmetric_limit(fields)


def colour_field(field: np.ndarray, limit: float, colour_map: np.ndarray = DIVERGING) -> np.ndarray:
    """Colours of a field on a map centred on zero.

    Parameters
    ----------
    field
        Values of any shape; values beyond the limit take the colour of the limit, and NaN takes that of zero.
    limit
        The value of the last colour, above 0; its negative has the first colour.
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
    """Which patches of a field are above ``threshold`` times its ``limit``, shape as ``field``; NaN is not above.

    Examples
    --------
    >>> is_above(np.array([-2.0, 1.0, 2.0]), 0.5, 2.0).tolist()
    [False, False, True]
    """
    return field > threshold * limit


def check_threshold(threshold: object) -> float | None:
    """Check a threshold, a fraction of the largest magnitude from -1 to 1; None stays None.

    Raises
    ------
    SpectralToolkitError
    """
    if threshold is None:
        return None
    why = ", as a fraction of the eigenvector's largest magnitude, or None"
    return number("threshold", threshold, least=-1, most=1, why=why)


def colour_three(fields: np.ndarray, limit: float) -> np.ndarray:
    """Three fields as red, green and blue, with one scale for all three and middle grey where all are zero.

    Parameters
    ----------
    fields
        Shape (y, x, 3).
    limit
        The value of full intensity, above 0; its negative has no intensity.

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


def label_colours(labels: np.ndarray, opacity: float, *, unlabelled: bool = True) -> np.ndarray:
    """Labels, each in a colour of its own; a number below zero is no label.

    Parameters
    ----------
    labels
        Integers, shape (y, x).
    opacity
        Opacity of the colours, 0 to 1.
    unlabelled
        Whether patches without a label are grey and nearly opaque; otherwise they are clear.

    Returns
    -------
    numpy.ndarray
        uint8, shape (y, x, 4).

    Examples
    --------
    >>> label_colours(np.array([[0, -1]]), 1.0).tolist()
    [[[0, 114, 178, 255], [118, 118, 118, 230]]]
    """
    colours = categorical(max(int(labels.max(initial=-1)) + 1, 1))[np.clip(labels, 0, None)]
    if unlabelled:
        return with_opacity(colours, opacity, labels < 0)
    alpha = np.where(labels < 0, 0, round(255 * opacity)).astype(np.uint8)
    return np.concatenate([colours, alpha[..., None]], axis=-1)


def stacked_masks(masks: np.ndarray) -> np.ndarray:
    """Masks that may overlap as one label map: the smaller mask lies above the larger, and -1 is where there is none.

    Parameters
    ----------
    masks
        Booleans, shape (instance, y, x).

    Returns
    -------
    numpy.ndarray
        Integers, shape (y, x): the index of the visible mask.

    Examples
    --------
    >>> stacked_masks(np.array([[[True, False, False]], [[True, True, False]]])).tolist()
    [[0, 1, -1]]
    """
    labels = np.full(masks.shape[1:], -1)
    for place in np.argsort(-masks.reshape(len(masks), -1).sum(axis=1), kind="stable"):
        labels[masks[place]] = place
    return labels


def magnitude_colours(values: np.ndarray, highest: float, opacity: float) -> np.ndarray:
    """Numbers from zero (black) to ``highest`` (white), shape (y, x), as uint8 colours (y, x, 4)."""
    fraction = np.clip(values / highest, 0.0, 1.0) if highest > 0 else np.zeros_like(values)
    colours = SEQUENTIAL[np.rint(np.nan_to_num(fraction) * (len(SEQUENTIAL) - 1)).astype(np.intp)]
    return np.concatenate([colours, np.full((*values.shape, 1), round(255 * opacity), np.uint8)], axis=-1)


def highest_other(row: np.ndarray, patch: tuple[int, int] | None) -> float:
    """The end of the colours of a patch's affinities, without its own, beside which all others would often be black.

    Examples
    --------
    >>> highest_other(np.array([[9.0, 2.0]]), (0, 0))
    2.0
    """
    others = row.copy()
    if patch is not None:
        others[patch] = 0.0
    return float(others.max()) or float(row.max())


def with_opacity(colours: np.ndarray, opacity: float, grey: np.ndarray) -> np.ndarray:
    """RGBA of one opacity; grey is nearly opaque, so that nobody takes it for a value."""
    alpha = np.where(grey, 230, round(255 * opacity)).astype(np.uint8)
    solid = np.where(grey[..., None], np.array(ISOLATED, dtype=np.uint8), colours)
    return np.concatenate([solid, alpha[..., None]], axis=-1)


def resize_field(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Interpolate between patch centres, bilinearly, for smooth images.

    Parameters
    ----------
    field
        Shape (y, x).
    shape
        Height and width of the result.

    Returns
    -------
    numpy.ndarray
        float32, of the given shape; both grids cover the same image.
    """
    height, width = shape
    picture = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def enlarge(colours: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Enlarge by nearest neighbour, so that every patch keeps its edges: (y, x, ...) to (height, width, ...)."""
    rows, columns = (
        np.minimum((np.arange(size) + 0.5) * n_cells / size, n_cells - 1).astype(np.intp)
        for size, n_cells in zip(shape, colours.shape[:2], strict=True)
    )
    return colours[rows[:, None], columns]


def blend(picture: np.ndarray, colours: np.ndarray, opacity: float | np.ndarray) -> np.ndarray:
    """Blend colours with an image: ``opacity`` is the part of the colours, and the rest is the image.

    Parameters
    ----------
    picture
        uint8, shape (height, width, 3).
    colours
        uint8, shape (y, x, 3): they are enlarged to the image, and every patch keeps its edges.
    opacity
        From 0 (the image) to 1 (the colours): one number, or one per patch, shape (y, x).

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
    """Opacity as an array; values outside 0 to 1 are refused."""
    try:
        array = np.asarray(opacity, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.asarray(np.nan)
    if not ((array >= 0) & (array <= 1)).all():
        raise SpectralToolkitError(
            f"opacity={opacity!r} is out of range: 0 shows the image alone, 1 the colours alone."
        )
    return array


def shrink(picture: np.ndarray, max_side: int) -> np.ndarray:
    """Shrink an image until no side exceeds ``max_side`` pixels; an image that is small enough is returned as it is."""
    height, width = picture.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
