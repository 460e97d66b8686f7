"""The data model of activations: the names in a tree, and how to read them.

A tree built by hand with these names works as well as a captured one::

    /                pixels (image, y_px, x_px, rgb) uint8, coordinate ``image``; provenance in attrs
    /<layer>         query, key, value (image, head, y, x, channel); token (image, y, x, feature)
                     query_unrotated, key_unrotated for models with rotary positions, as query and key
                     special_query ... (image, head, special, channel); special_token (image, special, feature)
                     attention_bias (head, query_token, key_token), special tokens first, then patches row by row;
                     with ``image`` in front where it differs from image to image
                     window, window_place (y, x) where attention is inside windows: the number of the window and the
                     place in it; special_window, special_place (special) alike; attention_bias is then (head,
                     window_number, query_place, key_place)
                     key, value (image, head, key_y, key_x, channel) where they are pooled; key_window, key_place alike
                     attrs: depth (order of the layers), scale (the factor of q k' before the softmax)

Activations of a denoiser have one or both of the dimensions ``timestep`` and ``noise`` after ``image``, in every
variable except ``attention_bias``. Affinities are averaged over them, as over heads. Select one with
``tree.sel(timestep=...)``.

Layers are the children of the root, in depth order. Coordinates ``y`` and ``x`` are patch centres as
fractions of the image, so that every resolution shares one frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import ActivationsError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

QUANTITIES = ("query", "key", "value", "token")
"""The quantities of a layer that ``capture`` can record."""

UNROTATED = ("query_unrotated", "key_unrotated")
"""Further quantities of models with rotary positions: queries and keys before the rotation."""


DRAWS = ("timestep", "noise")
"""Further dimensions of a denoiser's activations: the timesteps and the noise samples."""


def layer_names(activations: xr.DataTree) -> list[str]:
    """Names of the layers in depth order (by the attribute ``depth`` where every layer has one)."""
    nodes = {
        name: node
        for name, node in activations.children.items()
        if any(quantity in node.data_vars for quantity in (*QUANTITIES, *UNROTATED))
    }
    if not nodes:
        raise ActivationsError(
            "The tree of activations has no layer: expected children of the root that hold at least one of "
            f"{', '.join(QUANTITIES)}, found {sorted(activations.children) or 'no children'}."
        )
    names = list(nodes)
    if all("depth" in node.attrs for node in nodes.values()):
        names.sort(key=lambda name: nodes[name].attrs["depth"])
    return names


def image_names(activations: xr.DataTree) -> list[str]:
    """Names of the images; numbers as text where the tree has no ``image`` coordinate."""
    node = activations if "image" in activations.dims else activations[layer_names(activations)[0]]
    if "image" not in node.dims:
        raise ActivationsError(
            "The tree of activations has no dimension 'image': choose one image as a stack of one, with "
            ".isel(image=[0]) instead of .isel(image=0)."
        )
    if "image" in node.coords:
        return [str(name) for name in node.coords["image"].values]
    return [str(index) for index in range(node.sizes["image"])]


def names_array(names: Sequence[str]) -> np.ndarray:
    """Names as objects, because NumPy's fixed-width text is not in the zarr 3 standard."""
    import numpy as np

    array = np.empty(len(names), dtype=object)
    array[:] = list(names)
    return array


def patch_centres(n: int) -> np.ndarray:
    """Centres of ``n`` equal patches on the unit interval, shape (n,).

    Examples
    --------
    >>> patch_centres(4).tolist()
    [0.125, 0.375, 0.625, 0.875]
    """
    import numpy as np

    return (np.arange(n) + 0.5) / n


def image_coordinates(activations: xr.DataTree) -> dict[str, xr.Variable]:
    """Coordinates of a tree's images besides the names: original sizes and boxes."""
    return {
        str(name): coordinate.variable
        for name, coordinate in activations.coords.items()
        if name != "image" and coordinate.dims == ("image",)
    }


def as_stack(array: xr.DataArray) -> xr.DataArray:
    """An array of one image, such as ``segments.isel(image=0)``, as a stack of one; coordinates of the image stay.

    Examples
    --------
    >>> import xarray as xr
    >>> as_stack(xr.DataArray([[1, 2]], {"image": "a.png"}, ("y", "x"))).image.values.tolist()
    ['a.png']
    """
    import xarray as xr

    return array if "image" in array.dims else xr.concat([array], "image", coords="all")


def check_tree(activations: xr.DataTree) -> None:
    """Refuse a tree whose layers do not fit together.

    Raises
    ------
    ActivationsError
        If it is not a tree, holds no images, or a layer has different images from the others, or patch centres that are
        not those of a grid over the whole image.
    """
    import numpy as np
    import xarray as xr

    if not isinstance(activations, xr.DataTree):
        raise ActivationsError(
            f"Activations are a {type(activations).__name__}; expected an xarray.DataTree, as st.capture returns it."
        )
    layers = layer_names(activations)
    expected = image_names(activations)
    if not expected:
        raise ActivationsError("The tree of activations holds no images: capture at least one.")
    if repeated := [name for name, times in Counter(expected).items() if times > 1]:
        raise ActivationsError(
            f"The tree of activations has several images of the name {repeated[0]!r}, which cannot be told apart: "
            f"give each of the {len(expected)} its own, as in `activations = "
            "activations.map_over_datasets(lambda node: node.assign_coords(image=names))` with a list of names."
        )
    for layer in layers:
        node = activations.children[layer].dataset
        if node.sizes.get("image") != len(expected):
            raise ActivationsError(
                f"Layer {layer!r} has {node.sizes.get('image', 'no')} images, the others {len(expected)}: all layers "
                "must be of the same images."
            )
        if "image" in node.coords and [str(name) for name in node.coords["image"].values] != expected:
            raise ActivationsError(
                f"Layer {layer!r} names other images, or in another order, than the rest of the tree: reorder it with "
                ".sel(image=...)."
            )
        for axis in ("y", "x"):
            if axis in node.coords and not np.allclose(node.coords[axis].values, patch_centres(node.sizes[axis])):
                raise ActivationsError(
                    f"The {axis} coordinate of layer {layer!r} is not that of {node.sizes[axis]} equal patches: "
                    "layers must cover the whole image, in order; crop the images before the capture instead."
                )
