"""Reads the vectors of one layer from a tree of activations, checks them, and returns them as torch tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from .._compute.devices import has_double
from .._io.activations import DRAWS, UNROTATED, image_names
from ..errors import ActivationsError, StoreError, first_line
from .resampling import Grid

KINDS: dict[str, tuple[str, str]] = {
    "qk": ("query", "key"),
    "vv": ("value", "value"),
    "kk": ("key", "key"),
    "qq": ("query", "query"),
    "token": ("token", "token"),
    "qk_unrotated": ("query_unrotated", "key_unrotated"),
}
"""Which two quantities each kind of affinity compares: rows against columns."""

_DAMAGE = (ValueError, OSError, RuntimeError, KeyError)
"""What zarr and its codecs raise where a store is damaged."""
_ROTARY_ONLY = " (of a model with rotary positions)"


@dataclass(frozen=True)
class LayerFeatures:
    """Two sets of vectors to compare, for a few images at once.

    ``left`` and ``right`` have shape (images, heads, n, channels), with the patches row by row; for a symmetric kind
    they are the same tensor. ``special_right`` (images, heads, special, channels) and ``bias`` (heads, special + n,
    special + n) are what the model's own attention needs in addition.

    For a denoiser, the heads of all noise samples follow each other: ``heads`` is the number of noise samples times
    that of heads. The bias is the same for all noise samples, so it may have fewer.

    A bias that differs from image to image has them in front; inside windows it is (images or 1, biases, windows,
    places, places). Where keys are pooled, ``right`` is on ``key_grid``, and ``spread`` says, where it is given, how
    much of each key falls to each patch.

    ``remarks`` collects what a kernel has to say about these vectors, in whole sentences; all that is made of the same
    layer shares it.
    """

    layer: str
    grid: Grid
    left: Float[Tensor, "images heads n channels"]
    right: Float[Tensor, "images heads n_keys channels"]
    special_right: Float[Tensor, "images heads special channels"] | None = None
    scale: float | None = None
    bias: Float[Tensor, "*images biases tokens keys"] | None = None
    key_grid: Grid | None = None
    spread: Float[Tensor, "*images n_keys n"] | None = None
    remarks: set[str] = field(default_factory=set[str])

    @property
    def is_symmetric(self) -> bool:
        return self.left is self.right

    @property
    def n(self) -> int:
        return self.grid[0] * self.grid[1]

    def doubled(self) -> LayerFeatures:
        """Return the same in double precision, where the device has it."""
        if not has_double(self.left.device):
            return self
        left = self.left.double()
        return replace(
            self,
            left=left,
            right=left if self.is_symmetric else self.right.double(),
            special_right=None if self.special_right is None else self.special_right.double(),
            bias=None if self.bias is None else self.bias.double(),
        )

    def pick(self, heads: Sequence[int]) -> LayerFeatures:
        """Return the same layer with some of its heads only."""
        keep = list(heads)
        left = self.left[:, keep]
        return replace(
            self,
            left=left,
            right=left if self.is_symmetric else self.right[:, keep],
            special_right=None if self.special_right is None else self.special_right[:, keep],
            bias=None if self.bias is None else _picked(self.bias, keep),
        )


def _picked(bias: Tensor, heads: Sequence[int]) -> Tensor:
    axis = 0 if bias.ndim == 3 else 1  # behind images, where the bias has them
    index = torch.as_tensor([head % bias.shape[axis] for head in heads], device=bias.device)
    return bias.index_select(axis, index)


def layer_shape(node: xr.DataTree, layer: str, kind: str) -> tuple[Grid, int, int, int]:
    """Return the grid of a layer and its numbers of heads, noise samples and channels, without reading its values."""
    quantity = _variable(node, layer, KINDS[kind][0], kind)
    grid = _grid_of(quantity)
    draws = math.prod(quantity.sizes.get(name, 1) for name in DRAWS)
    return grid, quantity.sizes.get("head", 1), draws, quantity.sizes["feature" if kind == "token" else "channel"]


def read_features(
    activations: xr.DataTree, layer: str, kind: str, images: slice, device: torch.device, *, for_softmax: bool = False
) -> LayerFeatures:
    """Read the vectors of one layer for a slice of the images.

    Half precision is read as float32; float64 stays float64, so affinities are as exact as their input.

    Raises
    ------
    ActivationsError
        If a quantity is missing, has dimensions other than those of the data model, or holds NaN or infinity.
    StoreError
        If it lies in a store and cannot be read from there.
    """
    node = activations.children[layer]
    left_name, right_name = KINDS[kind]
    left_values = _variable(node, layer, left_name, kind)
    left = _patches(activations, left_values, layer, images, device)
    right = None
    if right_name != left_name:
        right_values = _variable(node, layer, right_name, kind)
        pooled = {"key_y", "key_x"} <= set(right_values.dims) and for_softmax
        if right_values.sizes != left_values.sizes and not pooled:
            raise ActivationsError(
                f"Layer {layer!r}: {left_name} has sizes {dict(left_values.sizes)} but {right_name} has "
                f"{dict(right_values.sizes)}; they can only be compared if they agree."
            )
        right = _patches(activations, right_values, layer, images, device)
    left, right = _placed(left, right, device)
    grid = _grid_of(left_values)
    if not for_softmax:
        return LayerFeatures(layer, grid, left, right)
    key_grid = _grid_of(node.dataset[right_name])
    scale = _scale(node, layer)
    special = None
    n_special = node.sizes.get("special", 0)
    if n_special and f"special_{right_name}" not in node.data_vars:
        raise ActivationsError(
            f"Layer {layer!r} has {n_special} special tokens but no 'special_{right_name}', which softmax needs: "
            f"capture {right_name!r} again, drop the dimension 'special', or use kernel='cosine'."
        )
    if f"special_{right_name}" in node.data_vars and node.sizes.get("special", 0) > 0:
        values = node.dataset[f"special_{right_name}"]
        draws = [dim for dim in DRAWS if dim in values.dims]
        values = values.transpose("image", *draws, "head", "special", "channel")
        special = _tensor(activations, values, layer, images, device).to(device).flatten(1, -3)
    bias = None
    if "attention_bias" in node.data_vars:
        n_keys = 0 if special is None else special.shape[2]
        n_queries = node.dataset["special_query"].sizes["special"] if "special_query" in node.data_vars else n_keys
        shape = (left_values.sizes["head"], n_queries + left.shape[2], n_keys + right.shape[2])
        bias = _bias(node, layer, shape, left, images)
    return LayerFeatures(layer, grid, left, right, special, scale, bias, None if key_grid == grid else key_grid)


def _grid_of(variable: xr.DataArray) -> Grid:
    """The grid of a quantity: keys and values that are pooled have one of their own."""
    y, x = ("key_y", "key_x") if "key_y" in variable.dims else ("y", "x")
    return (variable.sizes[y], variable.sizes[x])


def refuse_linear(node: xr.DataTree, layer: str) -> None:
    """Raise ``ActivationsError`` if a layer has no softmax of its own."""
    if node.attrs.get("attention") == "linear":
        raise ActivationsError(
            f"Layer {layer!r} attends linearly: it multiplies keys with values first and takes no softmax, so there is "
            "none to compare queries with keys by: use kernel='cosine', or another kind, such as 'vv'."
        )


def _scale(node: xr.DataTree, layer: str) -> float:
    refuse_linear(node, layer)
    if "scale" not in node.attrs:
        raise ActivationsError(
            f"Layer {layer!r} has no attribute 'scale', the factor of q k' that softmax needs: set "
            "node.attrs['scale'], or use kernel='cosine'."
        )
    try:
        scale = float(node.attrs["scale"])
    except (TypeError, ValueError):
        scale = math.nan
    if not (math.isfinite(scale) and scale > 0):
        raise ActivationsError(
            f"Layer {layer!r} has scale={node.attrs['scale']!r}: set the factor of q k' before the softmax, a finite "
            "number above 0."
        )
    return scale


def _bias(node: xr.DataTree, layer: str, expected: tuple[int, int, int], like: Tensor, images: slice) -> Tensor:
    variable = node.dataset["attention_bias"]
    inside = "window" in node.data_vars
    dims = ("head", "window_number", "query_place", "key_place") if inside else ("head", "query_token", "key_token")
    if not set(dims) <= set(variable.dims):
        raise ActivationsError(
            f"'attention_bias' of layer {layer!r} has dimensions {tuple(map(str, variable.dims))}; expected {dims}: "
            "capture the layer again, or use kernel='cosine'."
        )
    own = ("image",) if "image" in variable.dims else ()
    if own:
        variable = variable.isel(image=images)
    try:
        values = np.asarray(variable.transpose(*own, ..., *dims).values, dtype=np.float64)
    except _DAMAGE as error:
        raise _damaged("attention_bias", repr(layer), error) from error
    # Further dimensions, such as those of noise samples, must not matter.
    shape = values.shape[-len(dims) :]
    values = values.reshape(len(values) if own else 1, -1, *shape)
    if not all(np.array_equal(values[:, n], values[:, 0], equal_nan=True) for n in range(1, values.shape[1])):
        further = " and ".join(str(dim) for dim in variable.dims if dim not in (*dims, *own))
        raise ActivationsError(
            f"'attention_bias' of layer {layer!r} is not the same for every {further}, but a graph has one for all: "
            "solve captures with different biases one by one, or use kernel='cosine'."
        )
    values = values[:, 0]
    if all(np.array_equal(one, values[0], equal_nan=True) for one in values[1:]):  # NaN is refused below
        values = values[:1] if inside else values[0]
    if not inside and values.shape[-3:] != expected:
        raise ActivationsError(
            f"'attention_bias' of layer {layer!r} has shape {values.shape[-3:]}; expected {expected}: heads, special "
            "tokens and patches of the queries, and those of the keys."
        )
    if np.isnan(values).any() or np.isposinf(values).any():
        raise ActivationsError(f"'attention_bias' of layer {layer!r} holds NaN or +infinity: capture the layer again.")
    # Minus infinity hides a token; the lowest number does the same, and keeps a row that hides all tokens defined.
    lowest = torch.finfo(like.dtype).min
    return torch.as_tensor(np.maximum(values, lowest)).to(device=like.device, dtype=like.dtype)


def _variable(node: xr.DataTree, layer: str, name: str, kind: str) -> xr.DataArray:
    expected = ("image", "y", "x", "feature") if name == "token" else ("image", "head", "y", "x", "channel")
    if name not in node.data_vars:
        present = ", ".join(str(variable) for variable in node.data_vars) or "nothing"
        raise ActivationsError(
            f"The affinity {kind!r} needs {name!r} of layer {layer!r}, which holds {present}: capture it with "
            f"quantities=(..., {name!r}){_ROTARY_ONLY if name in UNROTATED else ''} or choose another kind."
        )
    variable = node.dataset[name]
    if "value_channel" in variable.dims:  # values whose width differs from that of queries and keys
        variable = variable.rename(value_channel="channel")
    draws = tuple(dim for dim in DRAWS if dim in variable.dims)
    if "key_y" in variable.dims:  # keys and values that are pooled
        expected = tuple({"y": "key_y", "x": "key_x"}.get(dim, dim) for dim in expected)
    if set(variable.dims) != {*expected, *draws}:
        raise ActivationsError(
            f"{name!r} of layer {layer!r} has dimensions {tuple(map(str, variable.dims))}; expected {expected}."
        )
    return variable.transpose(expected[0], *draws, *expected[1:])


def _patches(
    activations: xr.DataTree, variable: xr.DataArray, layer: str, images: slice, device: torch.device
) -> Tensor:
    """The vectors of all patches, on the host."""
    values = _tensor(activations, variable, layer, images, device)
    if variable.name == "token":
        values = values.unsqueeze(-4)
    # The heads of all noise samples follow each other.
    return values.flatten(1, -4).flatten(2, 3)


def _placed(left: Tensor, right: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Both sides on the device, which no right side means are the same, in one transfer where they are of one type."""
    if right is None:
        left = left.to(device)
        return left, left
    if device.type == "cpu" or left.dtype != right.dtype:
        return left.to(device), right.to(device)
    both = torch.cat([left.flatten(), right.flatten()]).to(device)
    return both[: left.numel()].view(left.shape), both[left.numel() :].view(right.shape)


def _tensor(
    activations: xr.DataTree, variable: xr.DataArray, layer: str, images: slice, device: torch.device
) -> Tensor:
    """Values on the host, in the precision in which the device computes with them."""
    try:
        values = np.ascontiguousarray(variable.isel(image=images).values)
    except _DAMAGE:
        _find_damage(activations, variable, layer, images)
        raise
    if not np.issubdtype(values.dtype, np.floating):
        raise ActivationsError(
            f"{variable.name!r} of layer {layer!r} has dtype {values.dtype}; expected a floating-point type."
        )
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        index = range(*images.indices(variable.sizes["image"]))[int(np.argmin(finite))]
        raise ActivationsError(
            f"{variable.name!r} of layer {layer!r} holds NaN or infinity in image {image_names(activations)[index]!r}: "
            "leave the image or the layer out, or capture again in float32."
        )
    dtype = torch.float64 if values.dtype == np.float64 and has_double(device) else torch.float32
    if not values.flags.writeable:
        values = values.copy()
    return torch.as_tensor(values).to(dtype=dtype)


def _find_damage(activations: xr.DataTree, variable: xr.DataArray, layer: str, images: slice) -> None:
    """Report which of the images cannot be read."""
    for index in range(*images.indices(variable.sizes["image"])):
        try:
            variable.isel(image=index).load()
        except _DAMAGE as error:
            raise _damaged(
                str(variable.name), f"{layer!r} in image {image_names(activations)[index]!r}", error
            ) from error


def _damaged(name: str, where: str, error: Exception) -> StoreError:
    return StoreError(
        f"{name!r} of layer {where} cannot be read from its store ({first_line(error)}): capture again to another "
        "folder, or leave the image or the layer out."
    )
