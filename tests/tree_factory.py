"""Trees of activations built by hand, as a user would build them."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr


def tree_of(**layers: np.ndarray) -> xr.DataTree:
    """Layers of nothing but values, each (image, head, y, x, channel)."""
    dims = ("image", "head", "y", "x", "channel")
    return xr.DataTree.from_dict({name: xr.Dataset({"value": (dims, value)}) for name, value in layers.items()})


def make_tree(
    grids: list[tuple[int, int]],
    *,
    heads: int = 2,
    channels: int = 4,
    images: int = 1,
    special: int = 0,
    bias: bool = False,
    smooth: float = 1.0,
    dtype: str = "float64",
    seed: int = 0,
) -> xr.DataTree:
    """Random vectors plus a smooth field (``smooth`` times), so that the graphs have something to find."""
    rng = np.random.default_rng(seed)
    layers = {}
    for depth, (rows, columns) in enumerate(grids):
        y, x = (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns
        field = np.stack([np.sin(3 * y)[:, None] + 0 * x, np.cos(4 * x)[None, :] + 0 * y[:, None]], axis=-1)

        def vectors(field=field, shape=(images, heads, rows, columns, channels)) -> np.ndarray:
            return (rng.normal(size=shape) + smooth * field @ rng.normal(size=(images, heads, 1, 2, channels))).astype(
                dtype
            )

        dims = ("image", "head", "y", "x", "channel")
        variables: dict[str, Any] = {name: (dims, vectors()) for name in ("query", "key", "value")}
        variables["token"] = (
            ("image", "y", "x", "feature"),
            vectors().transpose(0, 2, 3, 1, 4).reshape(images, rows, columns, heads * channels),
        )
        coords = {}
        if special:
            special_shape = (images, heads, special, channels)
            for name in ("query", "key", "value"):
                variables[f"special_{name}"] = (
                    ("image", "head", "special", "channel"),
                    rng.normal(size=special_shape).astype(dtype),
                )
            coords["special"] = ["cls", *(f"register_{i}" for i in range(special - 1))]
        if bias:
            n = special + rows * columns
            variables["attention_bias"] = (
                ("head", "query_token", "key_token"),
                rng.normal(size=(heads, n, n)).astype(dtype),
            )
        for name in ("query_unrotated", "key_unrotated"):
            variables[name] = (dims, vectors())
        layers[f"block.{depth}"] = xr.Dataset(variables, coords, {"depth": depth, "scale": 0.5})
    return xr.DataTree.from_dict(layers)


def values_of(tree: xr.DataTree, layer: str, name: str) -> np.ndarray:
    """The array itself of one variable of a layer, to be written to."""
    return tree.children[layer].dataset[name].values
