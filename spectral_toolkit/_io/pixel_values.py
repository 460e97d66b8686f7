"""The meaning of an image's numbers: from any array to uint8 RGB."""

from __future__ import annotations

import numpy as np

from ..errors import SpectralToolkitError

HALF_LEVEL = 0.5 / 255
"""How far floats may leave [0, 1] by rounding: so little that the nearest of the 256 levels is still 0 or 255.

This is far more than float32 and float16 lose when a normalisation is undone or an image is resized, and far less than
the overshoot of a bicubic filter, an affine range such as [-1, 1] or a normalised image.
"""


DARK = 255 / 8
"""Floats whose largest value is above 1 but not above this are in neither of the ranges 0 to 1 and 0 to 255."""


def is_of_levels(array: np.ndarray, slack: float = HALF_LEVEL) -> bool:
    """Whether floats are clearly in the range 0 to 255: one is above an eighth of it, and all within it up to rounding.

    Floats that reach 1 or hardly more are in the range 0 to 1. Between the two the range is unclear, as in the light of
    a rendering, and the floats are refused.

    Examples
    --------
    >>> is_of_levels(np.array([-1e-5, 255.00002])), is_of_levels(np.array([0, 1.5])), is_of_levels(np.array([0, 300.0]))
    (True, False, False)
    """
    if not np.issubdtype(array.dtype, np.floating) or not array.size:
        return False
    low, high = float(array.min()), float(array.max())
    return DARK < high <= 255 * (1 + slack) and low >= -255 * slack


def to_uint8(array: np.ndarray, slack: float = HALF_LEVEL, *, levels: bool | None = None) -> np.ndarray:
    """Integers from 0 to 255 unchanged, floats of that range rounded, and booleans and floats from 0 to 1 scaled.

    Parameters
    ----------
    slack
        How far floats may leave [0, 1] and are clipped; floats of [0, 255] may leave it 255 times as far.
    levels
        Whether floats are in the range 0 to 255; None asks `is_of_levels`.

    Examples
    --------
    >>> to_uint8(np.array([0, 0.5, np.nextafter(1, 2)]))
    array([  0, 128, 255], dtype=uint8)
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if np.issubdtype(array.dtype, np.floating):
        low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 1.0)
        if is_of_levels(array, slack) if levels is None else levels:
            return np.asarray(array, np.float64).clip(0, 255).round().astype(np.uint8)
        if not (low >= -slack and high <= 1 + slack):
            raise SpectralToolkitError(
                f"An image of floats holds values from {low:.9g} to {high:.9g}; expected 0 to 1, or 0 to 255 "
                "with a value above 32: undo a normalisation, divide by 255, or clip the overshoot of a filter."
            )
        return (array.clip(0, 1) * 255).round().astype(np.uint8)
    if np.issubdtype(array.dtype, np.integer):
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        if low >= 0 and high <= 255:
            return array.astype(np.uint8)
        raise SpectralToolkitError(f"An image of integers holds values from {low} to {high}; expected 0 to 255.")
    raise SpectralToolkitError(f"An array of type {array.dtype} is not an image; expected uint8 or floats.")


def to_rgb(array: np.ndarray) -> np.ndarray:
    """Three channels: grey is repeated, and transparency becomes white."""
    if array.ndim == 2:
        array = array[..., None]
    if array.shape[-1] == 1:
        return np.repeat(array, 3, axis=-1)
    if array.shape[-1] == 4:
        alpha = array[..., 3:].astype(np.float64) / 255
        return (array[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    return array
