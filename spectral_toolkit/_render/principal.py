"""Many eigenvectors as three colours: their leading principal components over the patches."""

from __future__ import annotations

import numpy as np

_ENDS = (2, 98)
"""Percentiles of a principal component that become no colour and full colour."""


def principal_colours(fields: np.ndarray) -> tuple[np.ndarray, float]:
    """The three leading principal components as red, green and blue.

    Parameters
    ----------
    fields
        Floats, shape (image, y, x, component), at least three components. All images share the axes and the scale, so
        that one colour means the same in each of them. Patches with NaN are left out and get NaN.

    Returns
    -------
    (numpy.ndarray, float)
        Fractions from 0 to 1, shape (image, y, x, 3), and the share of the variance that the three hold, 0 to 1. The
        sign of each is that in which its largest loading is positive. A principal component without variance is 0.5.

    Examples
    --------
    >>> fields = np.zeros((1, 1, 3, 3)); fields[0, 0, :, 1] = [-2.0, 0.0, 2.0]
    >>> colours, share = principal_colours(fields)
    >>> colours[0, 0].round(2).tolist(), share
    ([[0.0, 0.5, 0.5], [0.5, 0.5, 0.5], [1.0, 0.5, 0.5]], 1.0)
    """
    rows = fields.reshape(-1, fields.shape[-1]).astype(np.float64)
    known = np.isfinite(rows).all(1)
    centred = rows[known] - rows[known].mean(0) if known.any() else rows[known]
    # The covariance is small where the patches are many.
    variance, axes = np.linalg.eigh(centred.T @ centred)
    variance, axes = variance[::-1].clip(min=0), axes[:, ::-1]
    three = axes[:, :3] * np.sign(axes[np.abs(axes[:, :3]).argmax(0), range(3)])
    colours = np.full((len(rows), 3), np.nan)
    if known.any():
        scores = centred @ three
        low, high = np.percentile(scores, _ENDS, axis=0)
        # What rounding leaves of a component without variance is no colour.
        flat = variance[:3] <= variance[0] * 1e-12
        colours[known] = np.where(flat, 0.5, ((scores - low) / np.where(flat, 1.0, high - low)).clip(0, 1))
    total = float(variance.sum())
    share = float(variance[:3].sum()) / total if total > 0 else 0.0
    return colours.reshape(*fields.shape[:-1], 3), share
