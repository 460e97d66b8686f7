"""What is written to a bundle, and the checks of what is read from one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from ...errors import ActivationsError, SpectralToolkitError
from ..activations import DRAWS, QUANTITIES, UNROTATED, check_tree, image_names, layer_names
from ..pairing import image_hashes, refuse_other_images
from .arrays import ORIGINAL

_WINDOWS = ("window", "window_place", "special_window", "special_place", "key_window", "key_place")
_VIEW = (*QUANTITIES, *UNROTATED, "special_key", "attention_bias", *_WINDOWS)
"""What the explorer reads from a layer: special tokens take part in the softmax as keys only."""

_ROUNDED = "rounded_to"
_DIMS: dict[str, tuple[set[str], ...]] = {
    **dict.fromkeys(("query", "query_unrotated", "key_unrotated"), ({"image", "head", "y", "x", "channel"},)),
    "key": tuple({"image", "head", *grid, "channel"} for grid in (("y", "x"), ("key_y", "key_x"))),
    "value": tuple(
        {"image", "head", *grid, width}
        for grid in (("y", "x"), ("key_y", "key_x"))
        for width in ("channel", "value_channel")
    ),
    **dict.fromkeys(("window", "window_place"), ({"y", "x"},)),
    **dict.fromkeys(("key_window", "key_place"), ({"key_y", "key_x"},)),
    **dict.fromkeys(("special_window", "special_place"), ({"special"},)),
    "token": ({"image", "y", "x", "feature"},),
    **dict.fromkeys(("special_query", "special_key"), ({"image", "head", "special", "channel"},)),
    "special_value": ({"image", "head", "special", "channel"}, {"image", "head", "special", "value_channel"}),
    "special_token": ({"image", "special", "feature"},),
    "attention_bias": (
        {"head", "query_token", "key_token"},
        {"image", "head", "query_token", "key_token"},
        {"head", "window_number", "query_place", "key_place"},
        {"image", "head", "window_number", "query_place", "key_place"},
    ),
    "pixels": ({"image", "y_px", "x_px", "rgb"},),
}
_DRAWS = set(DRAWS)
_MAX_NAME = 255  # bytes of a file name that every system accepts
_PER_COMPONENT = ("eigenvalue", "residual", "converged", "eigengap", "degenerate_group")


def layer_dataset(tree: xr.DataTree, layer: str, *, only: str, float16: bool) -> xr.Dataset:
    """Convert one layer for storage."""
    node = tree.children[layer].to_dataset(inherit=False)
    node = node.drop_vars([str(name) for name in node.variables if name == "image"])
    if only == "view":
        node = node[[name for name in node.data_vars if name in _VIEW]]
    if float16:
        node = node.assign({name: _rounded(node[name]) for name in node.data_vars})
    return node


def _rounded(variable: xr.DataArray) -> xr.DataArray:
    """Convert to half precision, and record the original type; numbers beyond half precision stay as they are."""
    if variable.dtype not in (np.float32, np.float64):
        return variable
    with np.errstate(over="ignore"):
        half = variable.astype(np.float16)
    if not bool((np.isfinite(half) == np.isfinite(variable)).all()):
        return variable
    return half.assign_attrs({**variable.attrs, ORIGINAL: str(variable.dtype)})


def restored(dataset: xr.Dataset) -> tuple[xr.Dataset, bool]:
    """The layer in its original types, and whether anything was rounded."""
    rounded = False
    for name in list(dataset.data_vars):
        attrs = dict(dataset[name].attrs)
        original = attrs.pop(ORIGINAL, None)
        if original is None:
            continue
        if original not in ("float32", "float64") or dataset[name].dtype != np.float16:
            raise ValueError(f"{name} declares the original type {str(original)[:40]!r}")
        dataset[name] = dataset[name].astype(original)
        dataset[name].attrs = attrs
        rounded = True
    return dataset, rounded


def build_tree(root: xr.Dataset, layers: Mapping[str, xr.Dataset]) -> xr.DataTree:
    """Make a tree of activations from its parts, with an attribute where they were rounded."""
    children, rounded = {}, False
    for name, layer in layers.items():
        whole, was_rounded = restored(layer)
        children[name] = xr.DataTree(whole)
        rounded = rounded or was_rounded
    tree = xr.DataTree(root, children=children)
    if rounded:
        tree.attrs[_ROUNDED] = "float16"
    return tree


def check_layer_names(names: Sequence[str]) -> None:
    """Refuse names that would lead outside when groups of a tree become folders; the ValueError names them."""
    for name in names:
        parts = name.replace("\\", "/").split("/")
        if not name or "/" in name or "\0" in name or {".", ".."} & set(parts) or len(name.encode()) > _MAX_NAME:
            raise ValueError(
                f"layers cannot be called {name[:60]!r}: a name has 1 to {_MAX_NAME} bytes without '/', and no part "
                "of it is '.' or '..'"
            )


def check_activations(tree: xr.DataTree) -> None:
    """Refuse activations that no capture could return; the ValueError or ActivationsError says why."""
    check_tree(tree)
    names = image_names(tree)
    if len(set(names)) != len(names):
        raise ValueError("two images have the same name")
    if "pixels" in tree.data_vars:
        pixels = tree["pixels"]
        if pixels.dtype != np.uint8 or set(pixels.dims) != {"image", "y_px", "x_px", "rgb"} or pixels.sizes["rgb"] != 3:
            raise ValueError(f"pixels are {pixels.dtype} {dict(pixels.sizes)}, expected uint8 (image, y_px, x_px, rgb)")
    for layer in layer_names(tree):
        node = tree.children[layer].dataset
        for name, variable in node.data_vars.items():
            if variable.dtype.kind not in "biuf":
                raise ValueError(f"{name} of layer {layer!r} is {variable.dtype}, expected numbers")
            expected = _DIMS.get(str(name))
            if expected is not None and not any(set(map(str, variable.dims)) - _DRAWS == dims for dims in expected):
                raise ValueError(f"{name} of layer {layer!r} has dimensions {variable.dims}")
            if variable.dtype.kind == "f" and _is_broken(variable.values, may_mask=name == "attention_bias"):
                raise ValueError(f"{name} of layer {layer!r} holds NaN or infinity")
        for name in ("depth", "scale"):
            value = node.attrs.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
                raise ValueError(f"{name} of layer {layer!r} is {str(value)[:40]!r}, expected a number")


def _is_broken(values: np.ndarray, *, may_mask: bool) -> bool:
    if may_mask:  # a mask holds minus infinity
        return bool(np.isnan(values).any() or (values == np.inf).any())
    return not bool(np.isfinite(values).all())


def check_eigenvectors(key: str, eig: xr.Dataset, tree: xr.DataTree) -> None:
    """Refuse anything but a result of ``st.solve`` for the images of a tree; the ValueError says why."""
    images = image_names(tree)
    if missing := [name for name in ("eigenvector", *_PER_COMPONENT, "isolated") if name not in eig.data_vars]:
        raise ValueError(f"the result {key!r} lacks {', '.join(missing)}")
    vectors = eig["eigenvector"]
    if set(vectors.dims) != {"image", "y", "x", "component"} or vectors.dtype.kind != "f":
        raise ValueError(f"the result {key!r} has eigenvectors {vectors.dtype} {dict(vectors.sizes)}")
    if set(eig["isolated"].dims) != {"image", "y", "x"}:
        raise ValueError(f"isolated in the result {key!r} has dimensions {eig['isolated'].dims}")
    if vectors.sizes["image"] != len(images) or ("image" in eig.coords and _texts(eig["image"]) != list(images)):
        raise ValueError(f"the result {key!r} is for other images than the activations")
    hashes = image_hashes(eig, images), image_hashes(tree, images)
    refuse_other_images(images, *hashes, (f"the result {key!r}", "the activations"))
    numbers = eig.coords["component"].values if "component" in eig.coords else np.array([])
    if numbers.dtype.kind != "i" or len(set(numbers.tolist())) != vectors.sizes["component"]:
        raise ValueError(f"the components of the result {key!r} are not numbered")
    for name in _PER_COMPONENT:
        if not {"component"} <= set(eig[name].dims) <= {"image", "component"}:
            raise ValueError(f"{name} in the result {key!r} has dimensions {eig[name].dims}")
    if eig["eigenvalue"].dtype.kind != "f" or eig["eigenvalue"].dims != eig["residual"].dims:
        raise ValueError(f"the eigenvalues of the result {key!r} do not fit its residuals")
    for name, variable in eig.data_vars.items():
        if variable.dtype.kind not in "biufU":
            raise ValueError(f"{name} in the result {key!r} is {variable.dtype}")
        # The gap after the last existing eigenvalue is not known.
        if variable.dtype.kind == "f" and name != "eigengap" and not np.isfinite(variable.values).all():
            raise ValueError(f"{name} in the result {key!r} holds NaN or infinity")
    for name in ("layers", "weights"):
        if not isinstance(_parsed(eig.attrs.get(name, "[]")), list):
            raise ValueError(f"the attribute {name} of the result {key!r} is not a list")


def _texts(coordinate: xr.DataArray) -> list[str]:
    return [str(name) for name in coordinate.values]


def _parsed(text: object) -> object:
    try:
        return json.loads(text) if isinstance(text, str | bytes | bytearray) else None
    except ValueError:
        return None


def as_answers(eigenvectors: xr.Dataset | Mapping[str, xr.Dataset] | None) -> dict[str, xr.Dataset]:
    """Results by name, whether one, several or none were given."""
    if eigenvectors is None:
        return {}
    if isinstance(eigenvectors, xr.Dataset):
        return {str(eigenvectors.attrs.get("affinity", "eigenvectors")): eigenvectors}
    if isinstance(eigenvectors, Mapping) and all(
        isinstance(key, str) and isinstance(eig, xr.Dataset) for key, eig in eigenvectors.items()
    ):
        return dict(eigenvectors)
    raise SpectralToolkitError(
        f"eigenvectors is a {type(eigenvectors).__name__}: give the Dataset that st.solve returned, or several by name "
        "such as {'qk': where, 'vv': what}."
    )


def check_given(tree: xr.DataTree, answers: Mapping[str, xr.Dataset]) -> None:
    """Make the same checks before writing, so that every bundle written can be read."""
    check_tree(tree)
    try:
        check_layer_names(layer_names(tree))
        check_activations(tree)
        for key, eig in answers.items():
            check_eigenvectors(key, eig, tree)
    except SpectralToolkitError:
        raise
    except ValueError as error:
        raise ActivationsError(f"A bundle cannot be made from these: {error}.") from error
