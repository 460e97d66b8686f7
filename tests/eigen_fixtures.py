"""Activations and eigenvectors that keep the data model to the letter, made without a model or a solver.

Component 1 is +1 in the top left quarter of every picture and -1/3 elsewhere, so that a test can tell any flip.
"""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from spectral_toolkit._io.activations import patch_centres

LAYERS = ("encoder.layer.0.attention", "encoder.layer.1.attention", "encoder.layer.2.attention")


def pictures(n_images: int = 2, height: int = 40, width: int = 80) -> np.ndarray:
    """uint8 (image, height, width, 3): red top left, green top right, blue bottom left, dark bottom right."""
    picture = np.full((height, width, 3), 30, dtype=np.uint8)
    top, left = slice(None, height // 2), slice(None, width // 2)
    bottom, right = slice(height // 2, None), slice(width // 2, None)
    picture[top, left] = (220, 40, 40)
    picture[top, right] = (40, 200, 40)
    picture[bottom, left] = (40, 40, 220)
    return np.stack([picture] * n_images)


def activations(
    n_images: int = 2,
    height: int = 40,
    width: int = 80,
    names: tuple[str, ...] | None = None,
    grid: tuple[int, int] = (4, 8),
    original: tuple[int, int] | None = None,
    attrs: dict | None = None,
) -> xr.DataTree:
    """A tree with pixels and small random queries, keys and values."""
    names = names or tuple(f"picture-{index}" for index in range(n_images))
    original_height, original_width = original or (height, width)
    random = np.random.default_rng(0)
    root = xr.Dataset(
        {"pixels": (("image", "y_px", "x_px", "rgb"), pictures(n_images, height, width))},
        coords=_image_coords(names, original_height, original_width),
        attrs={
            "model": "tiny-vit",
            "family": "vit",
            "revision": "",
            "weights_sha256": "0" * 64,
            "processor": json.dumps({"size": {"height": height, "width": width}}),
            "dtype": "float32",
            "seed": 0,
            "versions": json.dumps({"torch": "2.13.0", "transformers": "5.23.0"}),
            "device": "cpu",
            **(attrs or {}),
        },
    )
    tree = xr.DataTree(root)
    for depth, layer in enumerate(LAYERS):
        shape = (n_images, 2, *grid, 4)
        tree[layer] = xr.DataTree(
            xr.Dataset(
                {
                    name: (("image", "head", "y", "x", "channel"), random.normal(size=shape).astype(np.float32))
                    for name in ("query", "key", "value")
                },
                coords={"y": patch_centres(grid[0]), "x": patch_centres(grid[1])},
                attrs={"depth": depth, "scale": 0.5},
            )
        )
    return tree


def eigenvectors(
    affinity: str = "qk",
    n_images: int = 2,
    grid: tuple[int, int] = (4, 8),
    n_components: int = 4,
    scope: str = "image",
    names: tuple[str, ...] | None = None,
    original: tuple[int, int] = (40, 80),
    isolated: tuple[tuple[int, int, int], ...] = (),
    layers: tuple[str, ...] = LAYERS,
    attrs: dict | None = None,
) -> xr.Dataset:
    """A Dataset as ``st.solve`` returns it: shares that add up, gaps that fit, one degenerate pair at the end."""
    names = names or tuple(f"picture-{index}" for index in range(n_images))
    random = np.random.default_rng(len(affinity) + (affinity == "vv"))
    rows, columns = grid
    y, x = patch_centres(rows), patch_centres(columns)
    fields = np.empty((n_images, rows, columns, n_components))
    quarter = np.where((y[:, None] < 0.5) & (x[None] < 0.5), 1.0, -1 / 3)
    for component in range(n_components):
        waves = np.cos(np.pi * component * y)[:, None] * np.cos(np.pi * (component // 2 + 1) * x)[None]
        fields[..., component] = quarter if component == 0 else waves
    # Pictures differ in scale, so that a test sees whether colours are shared.
    fields *= np.arange(1, n_images + 1)[:, None, None, None]

    stacked = (n_images,) if scope == "image" else ()
    image = ("image",) if scope == "image" else ()
    eigenvalue = np.broadcast_to(np.linspace(0.05, 0.6, n_components) ** 2 + 0.01, (*stacked, n_components)).copy()
    if n_components >= 2:
        eigenvalue[..., -1] = eigenvalue[..., -2] + 1e-9
    gap = np.diff(eigenvalue, axis=-1, append=eigenvalue[..., -1:] + 0.05)
    group = np.arange(n_components)
    group[-1] = group[max(n_components - 2, 0)]
    mass = random.dirichlet(np.ones(len(layers)) * 3, size=(*stacked, n_components))
    share = mass * random.uniform(0.3, 1.7, size=mass.shape)
    share *= eigenvalue[..., None] / share.sum(-1, keepdims=True)
    mask = np.zeros((n_images, rows, columns), dtype=bool)
    for cell in isolated:
        mask[cell] = True
    return xr.Dataset(
        {
            "eigenvector": (("image", "y", "x", "component"), fields),
            "eigenvalue": ((*image, "component"), eigenvalue),
            "residual": ((*image, "component"), np.full((*stacked, n_components), 3e-9)),
            "converged": ((*image, "component"), np.ones((*stacked, n_components), dtype=bool)),
            "eigengap": ((*image, "component"), gap),
            "degenerate_group": ((*image, "component"), np.broadcast_to(group, (*stacked, n_components)).copy()),
            "layer_share": ((*image, "component", "layer"), share),
            "layer_mass": ((*image, "component", "layer"), mass),
            "layer_weight": (("layer",), np.full(len(layers), 1 / len(layers))),
            "isolated": (("image", "y", "x"), mask),
        },
        coords={
            **_image_coords(names, *original),
            "y": y,
            "x": x,
            "component": np.arange(1, n_components + 1),
            "layer": list(layers),
        },
        attrs={
            "affinity": affinity,
            "kernel": "softmax" if affinity == "qk" else "cosine",
            "heads": "mean",
            "scope": scope,
            "method": "exact",
            "solver": "dense",
            "tolerance": 1e-6,
            "iterations": 0,
            "seconds": 0.25,
            "seed": 0,
            "device": "cpu",
            "dtype": "float64",
            "grid": list(grid),
            "notes": "",
            "activations_model": "tiny-vit",
            **(attrs or {}),
        },
    )


def _image_coords(names: tuple[str, ...], height: int, width: int) -> dict:
    n_images = len(names)
    return {
        "image": list(names),
        "original_height": ("image", np.full(n_images, height)),
        "original_width": ("image", np.full(n_images, width)),
        "box_top": ("image", np.zeros(n_images, dtype=int)),
        "box_left": ("image", np.zeros(n_images, dtype=int)),
        "box_bottom": ("image", np.full(n_images, height)),
        "box_right": ("image", np.full(n_images, width)),
    }
