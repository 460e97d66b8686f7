"""Compares segments with labels: matched and over-clustered mIoU, adjusted Rand index; and k-means over a dataset."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from ..._compute.arguments import whole
from ..._compute.settings import computing
from ..._io.pairing import image_hashes, refuse_other_images
from ...errors import SpectralToolkitError
from ..regions.kmeans import UNSURE
from ..regions.splitting import fitted
from .labels import EVERY_CELL_IGNORED, checked_ignore, warn_of_no_label, without

OVERCLUSTERED = 40
STARTS, STARTS_OVERCLUSTERED = 32, 16
"""Starts of k-means whose scores are averaged. On 20 scenes, a perturbation of the activations by rounding then changes
no score by 0.01, whereas the best of 4 starts changed by 0.05."""
MOST_FITTED = 10_000
"""Number of rows, drawn once and seeded, from which centres are computed."""
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
        (Hubert & Arabie 1985). ``iou (category)`` is that of the over-clustered segments, NaN where a category does not
        occur. ``attrs["agreement"]``, where segments have it, is the mean over the images; below 0.8,
        ``attrs["notes"]`` says that other segments would do as well.

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
    n_categories = whole("n_categories", n_categories, least, why=f", because there is a label {least - 1}")
    warn_of_no_label(wanted)
    notes = [_ALONE] if len(found) > 1 and getattr(segments, "attrs", {}).get("scope") == "image" else []
    agreed = float(segments["agreement"].mean()) if "agreement" in getattr(segments, "coords", ()) else None
    if agreed is not None and agreed < UNSURE:  # it is NaN for single segments
        notes.append(_UNSURE.format(agreed))
    _, codes = np.unique(found, return_inverse=True)
    table = contingency(codes.reshape(1, -1), wanted.reshape(1, -1), int(codes.max()) + 1, n_categories)[0]
    iou = overclustered_iou(table)
    return xr.Dataset(
        {
            "matched_miou": matched_miou(table),
            "overclustered_miou": float(np.nanmean(iou)),
            "ari": adjusted_rand(table),
            "iou": ("category", iou),
        },
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


def contingency(
    segments: Int[np.ndarray, "images cells"], labels: Int[np.ndarray, "images cells"], n_segments: int, n_labels: int
) -> Float[np.ndarray, "images segments labels"]:
    """Count the patches of every segment and category per image, without those of label -1."""
    n_images, n_cells = segments.shape
    image = np.repeat(np.arange(n_images), n_cells).reshape(labels.shape)
    flat = (image * n_segments + segments) * n_labels + labels
    counts = np.bincount(flat[labels >= 0], minlength=n_images * n_segments * n_labels)
    return counts.reshape(n_images, n_segments, n_labels).astype(float)


def matched_miou(table: Float[np.ndarray, "segments labels"]) -> float:
    """Return the mean, over the categories that occur, of the IoU with their partner in the best one-to-one pairing."""
    table = table[:, table.sum(0) > 0]
    union = table.sum(1, keepdims=True) + table.sum(0) - table
    iou = table / np.maximum(union, 1)
    rows, columns = linear_sum_assignment(iou, maximize=True)
    return float(iou[rows, columns].sum() / max(table.shape[1], 1))


def overclustered_iou(table: Float[np.ndarray, "segments labels"]) -> Float[np.ndarray, " labels"]:
    """Return the IoU of every category after each segment took its most frequent one (the smaller if equal)."""
    merged = np.zeros((table.shape[1], table.shape[1]))
    np.add.at(merged, table.argmax(1), table)
    inside = np.diag(merged)
    union = merged.sum(1) + merged.sum(0) - inside
    return np.where(merged.sum(0) > 0, inside / np.maximum(union, 1), np.nan)


def adjusted_rand(table: Float[np.ndarray, "segments labels"]) -> float:
    """Return the adjusted Rand index of a contingency table."""
    pairs = [(x * (x - 1) / 2).sum() for x in (table, table.sum(0), table.sum(1))]
    n = table.sum()
    expected = pairs[1] * pairs[2] / max(n * (n - 1) / 2, 1)
    highest = (pairs[1] + pairs[2]) / 2
    return 1.0 if highest == expected else float((pairs[0] - expected) / (highest - expected))


def partitions(
    values: Float[np.ndarray, "rows components"], n: int, starts: int, seed: int
) -> Int[np.ndarray, "starts rows"]:
    """Run k-means over a dataset from several starts, keeping all; fewer clusters if there are fewer different rows.

    Where the eigenvectors do not form clusters, k-means ends in one of many optima of nearly the same inertia, and the
    rounding of a processor decides which of them is the lowest. The results of all starts together are stable. Centres
    are computed from at most 10,000 rows, drawn once; all rows then take the nearest.
    """
    generator = np.random.default_rng(seed)
    rows = values
    if len(values) > MOST_FITTED:
        rows = values[np.sort(generator.choice(len(values), MOST_FITTED, replace=False))]
    n = min(n, len(np.unique(rows, axis=0)))
    seeds = generator.integers(2**31, size=starts if n > 1 else 1)
    return np.stack([fitted(rows, n, of=values, random_state=int(one)) for one in seeds])


def segment_scores(
    matched: Int[np.ndarray, "starts images cells"],
    over: Int[np.ndarray, "more_starts images cells"],
    labels: Int[np.ndarray, "images cells"],
    weights: Float[np.ndarray, "samples images"],
) -> dict[str, Float[np.ndarray, " samples"]]:
    """Score given partitions: first the mean over all of them, then every resample of the images by one of them.

    The interval thus reflects both the choice of images and the choice of the start. It is NaN for a resample in which
    no patch has a label.
    """
    n_labels = int(labels.max(initial=0)) + 1

    def of_all(partitions: np.ndarray, measure: Callable[[np.ndarray], float]) -> np.ndarray:
        def measured(tables: np.ndarray, row: np.ndarray) -> float:
            table = np.tensordot(row, tables, 1)
            return measure(table) if table.any() else math.nan

        each = np.stack([contingency(one, labels, int(partitions.max()) + 1, n_labels) for one in partitions])
        found = [measured(each[number % len(each)], row) for number, row in enumerate(weights[1:])]
        return np.array([np.mean([measured(one, weights[0]) for one in each]), *found])

    return {
        "matched_miou": of_all(matched, matched_miou),
        "overclustered_miou": of_all(over, lambda table: float(np.nanmean(overclustered_iou(table)))),
        "ari": of_all(matched, adjusted_rand),
    }
