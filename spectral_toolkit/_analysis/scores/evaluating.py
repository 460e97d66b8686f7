"""Scores segments by labels."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ..._compute.arguments import whole
from ..._compute.settings import computing
from ..._io.pairing import image_hashes, refuse_other_images
from ...errors import SpectralToolkitError
from ..regions.kmeans import UNSURE
from ..regions.pixels import enlarge
from .labels import EVERY_CELL_IGNORED, analysed_map, as_maps, checked_ignore, checked_map, warn_of_no_label
from .segments import accuracies, contingency, merged, overclustered_iou
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
def evaluate(segments: object, labels: object, *, n_categories: int | None = None, ignore: object = None) -> xr.Dataset:
    """Score segments by labels, over all images jointly: at the patches, or at the pixels of label maps.

    Label maps are read one at a time, and only counts are kept, so that thousands of images fit.

    Parameters
    ----------
    segments
        Integers (image, y, x): the same number means the same segment in every image; otherwise ``attrs["notes"]`` of
        the scores says that it does not. -1, no segment, counts as a segment of its own.
    labels
        Integers, -1 where there is none: for every image a map, in the order of the segments. On the grid of the
        segments, as :func:`spectral_toolkit.prepare_labels` returns them, patches are counted. Maps of the images' own
        sizes, such as ``labels`` of :func:`spectral_toolkit.datasets.load`, are counted pixel by pixel: every pixel of
        the part that was analysed has the segment of the patch in which its centre lies.
    n_categories
        The number of categories, which must be larger than every label; None counts up to the largest label. Means are
        over the categories that occur.
    ignore
        One or several labels that are left out like -1; see :func:`spectral_toolkit.prepare_labels`.

    Returns
    -------
    xarray.Dataset
        ``matched_miou`` in [0, 1]: segments and categories are paired one to one so that the sum of their intersections
        over unions is largest (Kuhn 1955); categories without a partner count 0. ``matched_accuracy``: the share of
        patches or pixels whose segment is paired with their category, in the pairing where it is largest, and
        ``assigned_miou``, the mean IoU in that pairing, as PiCIE and STEGO report them. ``overclustered_miou`` and
        ``overclustered_accuracy``: every segment takes the category that is most frequent in it. ``oracle_miou`` and
        ``oracle_accuracy``: every segment of *every image* takes the category that is most frequent in it there, which
        is how the source paper scores segments of single images; intersections and unions are summed over the images.
        ``ari`` in [-1, 1]: the adjusted Rand index (Hubert & Arabie 1985). Scores of segments that were registered
        (``st.scores.register``) follow. ``iou (category)`` is that of the over-clustered segments, NaN where a category
        does not occur. ``attrs["resolution"]`` is ``"patches"`` or ``"pixels"``. ``attrs["agreement"]``, where segments
        have it, is the mean over the images; below 0.8, ``attrs["notes"]`` says that other segments would do as well.

    Raises
    ------
    SpectralToolkitError
        If shapes differ, values are not integers, a label is not below ``n_categories``, or all labels are ignored.

    References
    ----------
    Zhang, Yunis & Maire, CVPR 2024, arXiv 2312.06716; Cho et al. (PiCIE), CVPR 2021; Hamilton et al. (STEGO), ICLR
    2022.

    Examples
    --------
    >>> scores = evaluate([[[3, 3, 7, 7]]], [[[0, 0, 1, -1]]])
    >>> float(scores.matched_miou), scores.attrs["resolution"]
    (1.0, 'patches')
    >>> scores = evaluate([[[3, 7]]], [np.array([[0, 0, 0, 1], [0, 1, 1, 1]])])
    >>> float(scores.oracle_accuracy), scores.attrs["resolution"]
    (0.75, 'pixels')
    """
    found, left_out = _integers(segments), checked_ignore(ignore)
    coords = [getattr(one, "coords", {}) for one in (segments, labels)]
    named = [one["image"].values.astype(str) for one in coords if "image" in one]
    if len(named) == 2 and not np.array_equal(*named):
        raise SpectralToolkitError(
            "segments and labels name other images, or in another order: reorder one with .sel(image=...)."
        )
    names = list(map(str, named[0] if named else range(len(found))))
    refuse_other_images(names, image_hashes(segments, names), image_hashes(labels, names), ("segments", "labels"))
    _, codes = np.unique(found, return_inverse=True)
    codes = codes.reshape(found.shape)
    table = np.zeros((int(codes.max()) + 1, 0))
    oracle = np.zeros((0, 0))
    at_pixels = False
    for index, given in enumerate(as_maps(labels, len(found))):
        one = checked_map(np.asarray(given), names[index], left_out)
        own = codes[index]
        if one.shape != own.shape:
            at_pixels = True
            one = _analysed(one, segments, index, names[index], own.shape)
            own = enlarge(own, one.shape)
        n_labels = max(table.shape[1], int(one.max()) + 1)
        if not n_labels:
            continue  # no label has been seen yet
        counts = contingency(own.reshape(1, -1), one.reshape(1, -1), len(table), n_labels)[0]
        table, oracle = _grown(table, counts.shape) + counts, _grown(oracle, (n_labels, n_labels)) + merged(counts)
    if not table.any():
        raise SpectralToolkitError(EVERY_CELL_IGNORED)
    least = int(np.flatnonzero(table.any(0)).max()) + 1
    if n_categories is None:
        n_categories = least
    n_categories = whole("n_categories", n_categories, least, why=f", because there is a label {least - 1}")
    warn_of_no_label(np.flatnonzero(table.any(0)))
    table, oracle = _grown(table, (len(table), n_categories)), _grown(oracle, (n_categories, n_categories))
    notes = [_ALONE] if len(found) > 1 and getattr(segments, "attrs", {}).get("scope") == "image" else []
    agreed = float(coords[0]["agreement"].mean()) if "agreement" in coords[0] else None
    if agreed is not None and agreed < UNSURE:  # it is NaN for single segments
        notes.append(_UNSURE.format(agreed))
    scores = {name: score.segments(table) for name, score in SCORES.items() if score.segments is not None}
    return xr.Dataset(
        {**scores, **accuracies(table, oracle), "iou": ("category", overclustered_iou(table))},
        coords={"category": np.arange(n_categories)},
        attrs={
            "n_cells": int(table.sum()),
            "resolution": "pixels" if at_pixels else "patches",
            "n_segments": len(table),
            **({} if agreed is None else {"agreement": agreed}),
            "notes": " ".join(notes),
        },
    )


def _grown(table: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a table of counts with zeros for categories that were not seen before."""
    return np.pad(table, [(0, max(0, new - old)) for new, old in zip(shape, table.shape, strict=True)])


def _analysed(one: np.ndarray, segments: object, index: int, name: str, grid: tuple[int, ...]) -> np.ndarray:
    """Return the part of a label map that the segments cover."""
    one = analysed_map(one, getattr(segments, "coords", {}), index, name)
    if one.shape[0] < grid[0] or one.shape[1] < grid[1]:
        raise SpectralToolkitError(
            f"The label map of image {name!r} has {one.shape[0]}x{one.shape[1]} pixels, fewer than the segments' "
            f"{grid[0]}x{grid[1]} patches: give maps of the images, or what st.prepare_labels returns for this grid."
        )
    return one


def _integers(value: object) -> np.ndarray:
    if isinstance(value, xr.DataArray) and {"image", "y", "x"} == set(value.dims):
        value = value.transpose("image", "y", "x")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:  # a Dataset, or maps of several sizes
        raise SpectralToolkitError(
            f"segments are a {type(value).__name__}, which is not an array: give integers (image, y, x), as st.segment "
            "returns them."
        ) from error
    if array.dtype.kind not in "iub" or array.ndim != 3 or not array.size:
        raise SpectralToolkitError(
            f"segments have shape {array.shape} and type {array.dtype}; expected integers (image, y, x)."
        )
    return array.astype(np.int64)
