"""``match_segments``: the segments of one result, numbered as those of another that they overlap most."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ..._compute.settings import computing
from ...errors import RegionsError
from .label_maps import NO_SEGMENT, matched


@computing
def match_segments(segments: xr.DataArray, like: xr.DataArray) -> xr.DataArray:
    """Number segments as those of another result that they overlap most, so that figures of both share their colours.

    Segments are paired one to one so that the patches in which partners overlap are as many as possible (Kuhn 1955).
    Numbers are names only: nothing else changes.

    Parameters
    ----------
    segments
        Integers (image, y, x), as :func:`spectral_toolkit.segment` returns them.
    like
        Segments of the same images, on any grid; a finer or coarser one is read at the centres of the patches.

    Returns
    -------
    xarray.DataArray
        ``segments`` with other numbers. Segments without a partner get numbers that ``like`` does not have; -1, no
        segment, stays. Where every image was divided by itself, numbers are matched image by image.

    Raises
    ------
    RegionsError
        If the two are not segments of the same images.

    Examples
    --------
    >>> one, other = (xr.DataArray([[row]], dims=("image", "y", "x")) for row in ([0, 0, 1, 2], [1, 1, 0, 0]))
    >>> match_segments(one, other).values.tolist()
    [[[1, 1, 0, 2]]]
    """
    mine, theirs = _checked(segments, "segments"), _checked(like, "like")
    names = [one["image"].values.tolist() if "image" in one.coords else None for one in (mine, theirs)]
    if mine.sizes["image"] != theirs.sizes["image"] or (None not in names and names[0] != names[1]):
        raise RegionsError(
            "segments and like are of other images, or in another order: give segments of the same images."
        )
    labels, others = mine.to_numpy(), theirs.to_numpy()
    together = segments.attrs.get("scope") == "dataset" and like.attrs.get("scope") == "dataset"
    groups = [slice(None)] if together else [slice(i, i + 1) for i in range(len(labels))]
    found = [renumbered(labels[one], others[one]) for one in groups]
    return mine.copy(data=np.concatenate(found) if found else labels)


def renumbered(labels: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The same for arrays (image, y, x) whose numbers mean the same in all images."""
    return np.where(labels < 0, NO_SEGMENT, matched(labels, like)[labels]) if labels.max(initial=-1) >= 0 else labels


def _checked(segments: object, name: str) -> xr.DataArray:
    if not isinstance(segments, xr.DataArray) or set(segments.dims) != {"image", "y", "x"}:
        raise RegionsError(f"{name} is no label map (image, y, x): give what st.segment returned.")
    if segments.dtype.kind not in "iu":
        raise RegionsError(f"{name} holds {segments.dtype} and no integers: give what st.segment returned.")
    return segments.transpose("image", "y", "x")
