"""What the numbers of a picture mean: from any array to uint8 RGB."""

from __future__ import annotations

import numpy as np

from ..errors import SpectralToolkitError

HALF_LEVEL = 0.5 / 255
"""How far floats may leave [0, 1] by rounding: so little that the nearest of the 256 levels is 0 or 255 all the same.

Far more than float32 and float16 lose when a normalisation is undone or an image is resized, and far less than the
overshoot of a bicubic filter, an affine range such as [-1, 1] or a normalised image.
"""


def to_uint8(array: np.ndarray, slack: float = HALF_LEVEL) -> np.ndarray:
    """Integers from 0 to 255 as they are, truth values and floats from 0 to 1 scaled to that.

    Parameters
    ----------
    slack
        How far floats may leave [0, 1], and are clipped.

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
        if not (low >= -slack and high <= 1 + slack):
            raise SpectralToolkitError(
                f"A picture of floats holds values from {low:.9g} to {high:.9g}; expected 0 to 1 (or the type uint8, "
                "with 0 to 255): undo a normalisation, divide by 255, or clip what a filter overshot."
            )
        return (array.clip(0, 1) * 255).round().astype(np.uint8)
    if np.issubdtype(array.dtype, np.integer):
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        if low >= 0 and high <= 255:
            return array.astype(np.uint8)
        raise SpectralToolkitError(f"A picture of integers holds values from {low} to {high}; expected 0 to 255.")
    raise SpectralToolkitError(f"An array of type {array.dtype} is not a picture; expected uint8 or floats.")


def to_rgb(array: np.ndarray) -> np.ndarray:
    """Three channels: grey three times, transparency laid on white."""
    if array.ndim == 2:
        array = array[..., None]
    if array.shape[-1] == 1:
        return np.repeat(array, 3, axis=-1)
    if array.shape[-1] == 4:
        alpha = array[..., 3:].astype(np.float64) / 255
        return (array[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    return array
