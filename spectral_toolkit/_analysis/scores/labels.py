"""Resamples label maps to the patches of a capture: crops the box of each image, then takes the majority."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..._compute.arguments import grid as checked_grid
from ..._compute.settings import computing
from ..._compute.warned import outside
from ..._io.activations import check_tree, image_coordinates, image_names, layer_names, patch_centres
from ..._io.images import FRAMES
from ..._io.pairing import BOX, image_hashes, refuse_other_images
from ...errors import ActivationsError, SpectralToolkitError

IGNORE = -1
"""The label of patches without one; the only label that is left out by default."""
EVERY_CELL_IGNORED = (
    "All labels are ignored (they are -1, or named in ignore=), so there is nothing to score with: give labels that "
    "hold a category."
)
NO_LABEL = (255, 65_535)
"""The largest numbers of 8 and 16 bits, which many data sets (VOC, Cityscapes, COCO-Stuff) write for no label."""
_SIZES = ("original_height", "original_width")


def finest_grid(activations: xr.DataTree) -> tuple[int, int]:
    """Return the rows and columns of the layer with the most patches."""
    sizes = [activations.children[layer].sizes for layer in layer_names(activations)]
    return max(((size["y"], size["x"]) for size in sizes), key=lambda grid: grid[0] * grid[1])


@computing
def prepare_labels(
    activations: xr.DataTree,
    labels: object,
    *,
    grid: tuple[int, int] | None = None,
    ignore: object = None,
) -> xr.DataArray:
    """Resample label maps to the patches of a capture.

    The grid is laid over the part of each map that was analysed (the box of the capture), and every patch takes the
    label that covers most of its area. This is exact, also where borders of patches cut through pixels; of two labels
    with equal area the smaller is taken, and -1 only if no other has that area.

    Parameters
    ----------
    activations
        Activations that ``st.capture`` returned.
    labels
        Integers, one map per image in the order of the capture: an array (image, height, width), a DataArray with a
        dimension ``image`` such as the scenes' ``label``, or a list of arrays of different sizes. A map has the size of
        the original image or of the captured one. -1 is ignored: a patch that is mostly -1 is -1. Labels that this
        function returned for the same grid are returned unchanged.
    grid
        Rows and columns; None takes those of the finest layer.
    ignore
        One or several labels that mean 'no label', and become -1: 255 in VOC, Cityscapes or ADE20K, 0 in COCO. By
        default only -1 is ignored. A UserWarning is given where 255 or 65,535 is far above all other labels and is not
        ignored.

    Returns
    -------
    xarray.DataArray
        int64 ``(image, y, x)`` with the coordinates of the activations; -1 where there is no label.

    Raises
    ------
    SpectralToolkitError
        If the number, names, sizes or type of the maps do not fit the capture.

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
    rows, columns = finest_grid(activations) if grid is None else checked_grid("grid", grid)
    # One map at a time: those of a data set on the disk may be larger than memory.
    on_grid = isinstance(labels, xr.DataArray) and {"y", "x"} <= set(labels.dims)
    cells = np.empty((len(names), rows, columns), np.int64)
    captured = (activations.sizes["y_px"], activations.sizes["x_px"]) if "pixels" in activations.data_vars else None
    for index, one in enumerate(_maps(labels, activations, names, left_out)):
        if not on_grid:
            part = analysed_map(one, activations.dataset.coords, index, names[index], captured)
            cells[index] = _majority(part, rows, columns)
        elif one.shape == (rows, columns):
            cells[index] = one
        else:
            raise SpectralToolkitError(
                f"labels are on a grid of {one.shape[0]}x{one.shape[1]} patches, but {rows}x{columns} are needed: give "
                "label maps of image size, or st.prepare_labels(activations, labels) for this grid."
            )
    warn_of_no_label(cells)
    coords = {"image": names, **image_coordinates(activations), "y": patch_centres(rows), "x": patch_centres(columns)}
    attrs = {"ignore": IGNORE, "grid": f"{rows}x{columns}"}
    return xr.DataArray(cells, coords, ("image", "y", "x"), name="label", attrs=attrs)


def checked_ignore(ignore: object) -> tuple[int, ...]:
    """Return the labels to leave out besides -1, as whole numbers.

    Raises
    ------
    SpectralToolkitError
        If they are not whole numbers.
    """
    if ignore is None:
        return ()
    values = list(ignore) if isinstance(ignore, Iterable) and not isinstance(ignore, str) else [ignore]
    whole = [int(one) for one in values if isinstance(one, numbers.Integral) and not isinstance(one, bool | np.bool_)]
    if len(whole) != len(values):
        raise SpectralToolkitError(
            f"ignore={ignore!r} is not understood: give the label that means 'no label', such as 255, or several, such "
            "as (0, 255)."
        )
    return tuple(dict.fromkeys(whole))


def without(labels: np.ndarray, left_out: Sequence[int]) -> np.ndarray:
    """Return integers with -1 in place of every label that is left out."""
    return np.where(np.isin(labels, left_out), IGNORE, labels.astype(np.int64)) if left_out else labels


def warn_of_no_label(labels: np.ndarray) -> None:
    """Warn the user where the largest label usually means 'no label', and is far above all others.

    Far means by at least a quarter of it. With a single other label, as in masks of 0 and 255, it is a category.
    """
    known = np.unique(labels[labels >= 0]).tolist()
    if len(known) > 2 and known[-1] in NO_LABEL and known[-2] <= 0.75 * known[-1]:
        warnings.warn(
            f"The label {known[-1]} is far above all others, of which the largest is {known[-2]}, and counts as a "
            f"category: if it marks pixels without a label, as in many data sets, give ignore={known[-1]}.",
            stacklevel=outside(),
        )


def _maps(labels: object, activations: xr.DataTree, names: list[str], left_out: Sequence[int]) -> Iterator[np.ndarray]:
    maps = as_maps(labels, len(names))
    if isinstance(labels, xr.DataArray):
        given = [str(name) for name in labels["image"].values] if "image" in labels.coords else names
        # If the names are entirely different, or missing, the order counts.
        if given != names and set(given) & set(names):
            raise SpectralToolkitError(
                "labels name other images than the capture, or the same in another order: choose them with "
                ".sel(image=activations['image']), or drop their names with .drop_vars('image')."
            )
        hashes = image_hashes(labels, names), image_hashes(activations, names)
        refuse_other_images(names, *hashes, ("labels", "the capture"))
    for name, given in zip(names, maps, strict=True):
        yield checked_map(np.asarray(given), name, left_out)


def as_maps(labels: Any, n_images: int) -> Any:
    """Return label maps as something with a length that yields one map for each image.

    Raises
    ------
    SpectralToolkitError
        If they are no label maps, or not as many as there are images.
    """
    if isinstance(labels, xr.DataArray):
        if labels.ndim != 3 or "image" not in labels.dims:
            raise SpectralToolkitError(
                f"labels have dimensions {tuple(map(str, labels.dims))}; expected image and two of space."
            )
        space = [name for name in ("y", "x", "y_px", "x_px") if name in labels.dims]
        labels = labels.transpose("image", *space, ...).to_numpy()
    if not hasattr(labels, "__len__"):
        try:
            labels = list(labels)
        except TypeError as error:
            raise SpectralToolkitError(
                f"labels are a {type(labels).__name__}; expected an array (image, height, width) or a list of maps."
            ) from error
    if len(labels) != n_images:
        raise SpectralToolkitError(f"{len(labels)} label maps were given for {n_images} images: give one per image.")
    return labels


def checked_map(one: np.ndarray, name: str, left_out: Sequence[int]) -> np.ndarray:
    """Return one label map as int64, -1 where there is no label.

    Raises
    ------
    SpectralToolkitError
        If it holds anything but labels.
    """
    if one.ndim != 2 or not one.size or one.dtype.kind not in "iub":
        raise SpectralToolkitError(
            f"The label map of image {name!r} has shape {one.shape} and type {one.dtype}; expected integers (height, "
            "width)."
        )
    one = without(one.astype(np.int64), left_out)
    if (least := int(one.min())) < IGNORE:
        raise SpectralToolkitError(
            f"The label map of image {name!r} holds {least}, but labels are 0 or more, and -1 where there is none: "
            f"give ignore={least} if it means 'no label'."
        )
    return one


def analysed_map(
    one: np.ndarray,
    coords: Mapping[Hashable, xr.DataArray],
    index: int,
    name: str,
    captured: tuple[int, int] | None = None,
) -> np.ndarray:
    """Return the part of a label map that was analysed; for a model of clips, once for each step of time.

    Parameters
    ----------
    one
        The map, of the size of the original image or of the captured one.
    coords
        The coordinates of activations or of a result: sizes of the original images, and the boxes in them.
    index, name
        The position and the name of the image.
    captured
        Height and width of the captured images, where they are known.

    Raises
    ------
    SpectralToolkitError
        If the map has another size.
    ActivationsError
        If the box is not inside the image.
    """
    original = None
    if all(size in coords for size in _SIZES):
        height, width = (int(coords[size].isel(image=index)) for size in _SIZES)
        original = (height, width)
    if one.shape == original:
        frames = int(coords[FRAMES].isel(image=index)) if FRAMES in coords else 1
        if not all(edge in coords for edge in BOX):
            return np.tile(one, (frames, 1))
        top, left, bottom, right = (int(coords[edge].isel(image=index)) for edge in BOX)
        if not (0 <= top < bottom <= one.shape[0] and 0 <= left < right <= one.shape[1]):
            raise ActivationsError(
                f"The box of image {name!r} is ({top}, {left}, {bottom}, {right}), outside its "
                f"{one.shape[0]}x{one.shape[1]} pixels: capture the image again."
            )
        return np.tile(one[top:bottom, left:right], (frames, 1))
    if one.shape == captured or (captured is None and original is None):
        return one
    sizes = " or ".join(f"{size[0]}x{size[1]}" for size in dict.fromkeys((original, captured)) if size)
    raise SpectralToolkitError(
        f"The label map of image {name!r} has {one.shape[0]}x{one.shape[1]} pixels, but its image has {sizes}: give "
        "the map of the image that was captured."
    )


def _majority(one: np.ndarray, rows: int, columns: int) -> np.ndarray:
    known, codes = np.unique(one, return_inverse=True)
    codes = codes.reshape(one.shape)
    down, across = _overlaps(one.shape[0], rows), _overlaps(one.shape[1], columns)
    area = np.stack([down @ (codes == code) @ across.T for code in range(len(known))])
    # The smallest label comes first and argmax takes the first; -1, no label, is never taken if another is equal.
    if known[0] == IGNORE and len(known) > 1:
        known, area = np.roll(known, -1), np.roll(area, -1, axis=0)
    return known[area.argmax(axis=0)]


def _overlaps(n_pixels: int, n_cells: int) -> np.ndarray:
    """Return the length that every patch and pixel share, (patch, pixel), in whole units so that equality is exact."""
    pixel, cell = np.arange(n_pixels) * n_cells, np.arange(n_cells)[:, None] * n_pixels
    return np.clip(np.minimum(pixel + n_cells, cell + n_pixels) - np.maximum(pixel, cell), 0, None)
