"""Scores segments by labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from ..._compute.settings import computing
from ..._io.pairing import image_hashes, refuse_other_images
from ...errors import SpectralToolkitError
from ..regions.kmeans import UNSURE
from .labels import EVERY_CELL_IGNORED, checked_ignore, warn_of_no_label, without
from .segments import contingency, overclustered_iou
from .table import SCORES

_ALONE = (
    "The images were cut one by one, so the same number has another meaning in each, and these scores mean little: "
    "use segments of scope='dataset', or evaluate every image separately."
)
_UNSURE = (
    "k-means from other starts finds other segments of about equal quality (adjusted Rand index {:.2f}): these scores "
    "describe one partition among several; st.pathways gives the mean over many, with an interval."
)


@computing
def evaluate(segments: Any, labels: Any, *, n_categories: int | None = None, ignore: Any = None) -> xr.Dataset:
    """Score segments by labels, over all images jointly.

    Parameters
    ----------
    segments
        Integers (image, y, x): the same number means the same segment in every image; otherwise ``attrs["notes"]`` of
        the scores says that it does not. -1, no segment, counts as a segment of its own.
    labels
        Integers of the same shape, as :func:`spectral_toolkit.prepare_labels` returns them; -1 is left out.
    n_categories
        The number of categories, which must be larger than every label; None counts up to the largest label. Means are
        over the categories that occur.
    ignore
        One or several labels that are left out like -1; see :func:`spectral_toolkit.prepare_labels`.

    Returns
    -------
    xarray.Dataset
        ``matched_miou`` in [0, 1]: segments and categories are paired one to one so that the sum of their intersections
        over unions is largest (Kuhn 1955); categories without a partner count 0. ``overclustered_miou`` in [0, 1]:
        every segment takes the category that is most frequent in it. ``ari`` in [-1, 1]: the adjusted Rand index
        (Hubert & Arabie 1985). Scores of segments that were registered (``st.scores.register``) follow.
        ``iou (category)`` is that of the over-clustered segments, NaN where a category does not occur.
        ``attrs["agreement"]``, where segments have it, is the mean over the images; below 0.8, ``attrs["notes"]`` says
        that other segments would do as well.

    Raises
    ------
    SpectralToolkitError
        If shapes differ, values are not integers, a label is not below ``n_categories``, or all labels are ignored.

    Examples
    --------
    >>> float(evaluate([[[3, 3, 7, 7]]], [[[0, 0, 1, -1]]]).matched_miou)
    1.0
    """
    found, wanted = (_integers(name, value) for name, value in (("segments", segments), ("labels", labels)))
    wanted = without(wanted, checked_ignore(ignore))
    if found.shape != wanted.shape:
        raise SpectralToolkitError(
            f"segments have shape {found.shape} and labels {wanted.shape}: bring the labels to the segments' grid with "
            "st.prepare_labels(activations, labels, grid=...)."
        )
    named = [x["image"].values.astype(str) for x in (segments, labels) if "image" in getattr(x, "coords", ())]
    if len(named) == 2 and not np.array_equal(*named):
        raise SpectralToolkitError(
            "segments and labels name other images, or in another order: reorder one with .sel(image=...)."
        )
    names = list(map(str, named[0] if named else range(len(found))))
    refuse_other_images(names, image_hashes(segments, names), image_hashes(labels, names), ("segments", "labels"))
    if not (wanted >= 0).any():
        raise SpectralToolkitError(EVERY_CELL_IGNORED)
    least = int(wanted.max()) + 1
    if n_categories is None:
        n_categories = least
    if isinstance(n_categories, bool) or not isinstance(n_categories, (int, np.integer)) or n_categories < least:
        raise SpectralToolkitError(
            f"n_categories={n_categories!r} does not include label {least - 1}: give a whole number of at least "
            f"{least}."
        )
    warn_of_no_label(wanted)
    notes = [_ALONE] if len(found) > 1 and getattr(segments, "attrs", {}).get("scope") == "image" else []
    agreed = float(segments["agreement"].mean()) if "agreement" in getattr(segments, "coords", ()) else None
    if agreed is not None and agreed < UNSURE:  # it is NaN for single segments
        notes.append(_UNSURE.format(agreed))
    _, codes = np.unique(found, return_inverse=True)
    table = contingency(codes.reshape(1, -1), wanted.reshape(1, -1), int(codes.max()) + 1, int(n_categories))[0]
    scores = {name: score.segments(table) for name, score in SCORES.items() if score.segments is not None}
    return xr.Dataset(
        {**scores, "iou": ("category", overclustered_iou(table))},
        coords={"category": np.arange(n_categories)},
        attrs={
            "n_cells": int((wanted >= 0).sum()),
            "n_segments": int(codes.max()) + 1,
            **({} if agreed is None else {"agreement": agreed}),
            "notes": " ".join(notes),
        },
    )


def _integers(name: str, value: Any) -> np.ndarray:
    if isinstance(value, xr.DataArray) and {"image", "y", "x"} == set(value.dims):
        value = value.transpose("image", "y", "x")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:  # a Dataset, or maps of several sizes
        raise SpectralToolkitError(
            f"{name} are a {type(value).__name__}, which is not an array: give integers (image, y, x), as st.segment "
            "and st.prepare_labels return them."
        ) from error
    if array.dtype.kind not in "iub" or array.ndim != 3 or not array.size:
        raise SpectralToolkitError(
            f"{name} have shape {array.shape} and type {array.dtype}; expected integers (image, y, x)."
        )
    return array.astype(np.int64)
