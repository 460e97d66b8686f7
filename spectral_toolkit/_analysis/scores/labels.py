"""Label maps brought to the cells of a capture: the pictures' box applied, then the majority in every cell."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..._compute.settings import computing
from ..._compute.warned import outside
from ..._io.activations import check_tree, image_coordinates, image_names, layer_names, patch_centres
from ..._io.pairing import image_hashes, refuse_other_images
from ...errors import ActivationsError, SpectralToolkitError

IGNORE = -1
"""The label of what has none; the only one that is left out unasked."""
EVERY_CELL_IGNORED = (
    "labels ignore every cell (-1, and what ignore= names): there is nothing to score against; give labels that hold a "
    "category."
)
NO_LABEL = (255, 65_535)
"""The largest numbers of 8 and 16 bits, which many data sets (VOC, Cityscapes, COCO-Stuff) write for no label."""
_BOX = ("box_top", "box_left", "box_bottom", "box_right")


def finest_grid(activations: xr.DataTree) -> tuple[int, int]:
    """Rows and columns of the layer with most cells."""
    sizes = [activations.children[layer].sizes for layer in layer_names(activations)]
    return max(((size["y"], size["x"]) for size in sizes), key=lambda grid: grid[0] * grid[1])


@computing
def prepare_labels(
    activations: xr.DataTree,
    labels: Any,
    *,
    grid: tuple[int, int] | None = None,
    ignore: Any = None,
) -> xr.DataArray:
    """Bring label maps to the cells of a capture.

    The part of each map that was analysed (the capture's box) is laid over the grid and every cell takes the label of
    the largest area in it, exactly, also where cells cut through pixels; ties go to the smaller label, and -1 loses
    them.

    Parameters
    ----------
    activations
        Activations, as ``st.capture`` returns them.
    labels
        Integers, one map per image in the order of the capture: an array (image, height, width), a DataArray with a
        dimension ``image`` such as the scenes' ``label``, or a list of arrays of different sizes. A map has the size of
        the original picture or of the captured one. -1 is ignored: a cell that is mostly -1 stays -1. Labels that this
        function returned for the same grid are returned as they are.
    grid
        Rows and columns; None takes the finest layer's.
    ignore
        One or several labels that mean 'no label', and become -1: 255 in VOC, Cityscapes or ADE20K, 0 in COCO. By
        default only -1 is ignored. Where 255 or 65,535 stands far above all other labels and is not ignored, a
        UserWarning says so.

    Returns
    -------
    xarray.DataArray
        int64 ``(image, y, x)`` with the coordinates of the activations; -1 where there is no label.

    Raises
    ------
    SpectralToolkitError
        If number, names, sizes or type of the maps do not fit the capture.

    Examples
    --------
    >>> value = xr.DataArray(np.ones((1, 1, 1, 2, 4)), dims=("image", "head", "y", "x", "channel"))
    >>> activations = xr.DataTree.from_dict({"/": xr.Dataset({"pixels": (("image", "y_px", "x_px", "rgb"),
    ...     np.zeros((1, 2, 4, 3), np.uint8))}), "block": xr.Dataset({"value": value})})
    >>> prepare_labels(activations, [[[0, 1, 5, -1], [1, 0, 5, -1]]]).values.tolist()
    [[[0, 5]]]
    >>> prepare_labels(activations, [[[0, 0, 255, 255], [1, 0, 5, 255]]], ignore=255).values.tolist()
    [[[0, -1]]]
    """
    check_tree(activations)
    left_out = checked_ignore(ignore)
    names = image_names(activations)
    rows, columns = _checked_grid(grid, activations)
    maps = _maps(labels, activations, names, left_out)
    if isinstance(labels, xr.DataArray) and {"y", "x"} <= set(labels.dims):
        if any(one.shape != (rows, columns) for one in maps):
            raise SpectralToolkitError(
                f"labels are on a grid of {maps[0].shape[0]}x{maps[0].shape[1]} cells, expected {rows}x{columns}: give "
                "label maps of picture size, or st.prepare_labels(activations, labels) for this grid."
            )
        cells = np.stack(maps)
    else:
        cells = np.stack([_majority(_crop(activations, one, index), rows, columns) for index, one in enumerate(maps)])
    warn_of_no_label(cells)
    coords = {"image": names, **image_coordinates(activations), "y": patch_centres(rows), "x": patch_centres(columns)}
    attrs = {"ignore": IGNORE, "grid": f"{rows}x{columns}"}
    return xr.DataArray(cells, coords, ("image", "y", "x"), name="label", attrs=attrs)


def _checked_grid(grid: Any, activations: xr.DataTree) -> tuple[int, int]:
    if grid is None:
        return finest_grid(activations)
    values = tuple(grid) if isinstance(grid, (tuple, list)) else ()
    if len(values) != 2 or any(isinstance(v, bool) or not isinstance(v, (int, np.integer)) or v < 1 for v in values):
        raise SpectralToolkitError(f"grid={grid!r} is not understood: expected two whole numbers, rows and columns.")
    return int(values[0]), int(values[1])


def checked_ignore(ignore: Any) -> tuple[int, ...]:
    """Labels to leave out besides -1, as whole numbers.

    Raises
    ------
    SpectralToolkitError
        If they are none.
    """
    if ignore is None:
        return ()
    values: list[Any] = list(ignore) if isinstance(ignore, Iterable) and not isinstance(ignore, str) else [ignore]
    if any(isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral) for value in values):
        raise SpectralToolkitError(
            f"ignore={ignore!r} is not understood: give the label that means 'no label', such as 255, or several as in "
            "(0, 255)."
        )
    return tuple(dict.fromkeys(int(value) for value in values))


def without(labels: np.ndarray, left_out: Sequence[int]) -> np.ndarray:
    """Integers with -1 in the place of every label that is left out."""
    return np.where(np.isin(labels, left_out), IGNORE, labels.astype(np.int64)) if left_out else labels


def warn_of_no_label(labels: np.ndarray) -> None:
    """Warn the user where the largest label is one that usually stands for none, and far above all others.

    Far is a quarter of it. With a single other label, as of masks of 0 and 255, it is a category.
    """
    known = np.unique(labels[labels >= 0]).tolist()
    if len(known) > 2 and known[-1] in NO_LABEL and known[-2] <= 0.75 * known[-1]:
        warnings.warn(
            f"The label {known[-1]} stands far above all others, of which the largest is {known[-2]}, and counts as a "
            f"category: if it marks pixels without a label, as in many data sets, give ignore={known[-1]}.",
            stacklevel=outside(),
        )


def _maps(labels: Any, activations: xr.DataTree, names: list[str], left_out: Sequence[int]) -> list[np.ndarray]:
    if isinstance(labels, xr.DataArray):
        if labels.ndim != 3 or "image" not in labels.dims:
            raise SpectralToolkitError(
                f"labels have dimensions {tuple(map(str, labels.dims))}; expected image and two of space."
            )
        order = ("image", "y", "x") if {"y", "x"} <= set(labels.dims) else ("image", "y_px", "x_px")
        labels = labels.transpose(*order) if set(order) == set(labels.dims) else labels.transpose("image", ...)
        given = [str(name) for name in labels["image"].values] if "image" in labels.coords else names
        # Of wholly other names, or none, it is the order that counts.
        if given != names and set(given) & set(names):
            raise SpectralToolkitError(
                "labels name other images than the capture, or the same in another order: choose them with "
                ".sel(image=activations['image']), or drop their names with .drop_vars('image')."
            )
        hashes = image_hashes(labels, names), image_hashes(activations, names)
        refuse_other_images(names, *hashes, ("labels", "the capture"))
        labels = labels.to_numpy()
    try:
        maps = [np.asarray(one) for one in labels]
    except TypeError as error:
        raise SpectralToolkitError(
            f"labels are a {type(labels).__name__}; expected an array (image, height, width) or a list of maps."
        ) from error
    if len(maps) != len(names):
        raise SpectralToolkitError(f"{len(maps)} label maps were given for {len(names)} images: give one per image.")
    for index, one in enumerate(maps):
        if one.ndim != 2 or not one.size or one.dtype.kind not in "iub":
            raise SpectralToolkitError(
                f"The label map of image {names[index]!r} has shape {one.shape} and type {one.dtype}; expected "
                "integers (height, width)."
            )
        maps[index] = without(one.astype(np.int64), left_out)
        if (least := int(maps[index].min())) < IGNORE:
            raise SpectralToolkitError(
                f"The label map of image {names[index]!r} holds {least}: labels are 0 and up, and -1 where there is "
                f"none; give ignore={least} if it means that."
            )
    return maps


def _crop(activations: xr.DataTree, one: np.ndarray, index: int) -> np.ndarray:
    """The part of a map that was analysed."""
    captured = (activations.sizes["y_px"], activations.sizes["x_px"]) if "pixels" in activations.data_vars else None
    original = None
    root = activations.dataset.coords
    if "original_height" in root and "original_width" in root:
        original = (int(root["original_height"].values[index]), int(root["original_width"].values[index]))
    if one.shape == original:
        if not all(name in root for name in _BOX):
            return one
        top, left, bottom, right = (int(root[name].values[index]) for name in _BOX)
        if not (0 <= top < bottom <= one.shape[0] and 0 <= left < right <= one.shape[1]):
            raise ActivationsError(
                f"The box of image {image_names(activations)[index]!r} is ({top}, {left}, {bottom}, {right}), outside "
                f"its {one.shape[0]}x{one.shape[1]} pixels: capture it again."
            )
        return one[top:bottom, left:right]
    if one.shape == captured or (captured is None and original is None):
        return one
    sizes = " or ".join(f"{size[0]}x{size[1]}" for size in dict.fromkeys((original, captured)) if size)
    raise SpectralToolkitError(
        f"The label map of image {image_names(activations)[index]!r} has {one.shape[0]}x{one.shape[1]} pixels, "
        f"expected {sizes} as its picture has: give the map of the picture that was captured."
    )


def _majority(one: np.ndarray, rows: int, columns: int) -> np.ndarray:
    known, codes = np.unique(one, return_inverse=True)
    codes = codes.reshape(one.shape)
    down, across = _overlaps(one.shape[0], rows), _overlaps(one.shape[1], columns)
    area = np.stack([down @ (codes == code) @ across.T for code in range(len(known))])
    # The smallest label comes first and argmax takes the first; -1, no label, loses every tie.
    if known[0] == IGNORE and len(known) > 1:
        known, area = np.roll(known, -1), np.roll(area, -1, axis=0)
    return known[area.argmax(axis=0)]


def _overlaps(n_pixels: int, n_cells: int) -> np.ndarray:
    """Shared length of every cell and pixel, (cell, pixel), in whole units so that ties are exact."""
    pixel, cell = np.arange(n_pixels) * n_cells, np.arange(n_cells)[:, None] * n_pixels
    return np.clip(np.minimum(pixel + n_cells, cell + n_pixels) - np.maximum(pixel, cell), 0, None)
