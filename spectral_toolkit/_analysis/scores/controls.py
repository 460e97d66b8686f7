"""The controls that eigenvectors are compared with: raw pixels, the untrained model, labels of other images."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping
from typing import cast

import numpy as np
import xarray as xr

from ..._capture import capture
from ..._compute.arguments import whole
from ..._compute.settings import computing
from ..._io.activations import image_coordinates, image_names, layer_names
from ..._io.images import load_images
from ..._models import load_model
from ..._models.model import Model
from ..._models.untyped import untyped
from ...errors import SpectralToolkitError, UnsupportedModelError


@computing
def pixel_tree(activations: xr.DataTree, grid: tuple[int, int]) -> xr.DataTree:
    """Return a tree of one layer whose tokens are the flattened pixels of each patch, -1 to 1."""
    pixels = activations["pixels"].transpose("image", "y_px", "x_px", "rgb").to_numpy()
    n, height, width, _ = pixels.shape
    rows, columns = grid
    if height % rows or width % columns:
        raise SpectralToolkitError(
            f"Images of {height}x{width} pixels cannot be divided into {rows}x{columns} patches, which the control "
            "'raw pixels' needs: set controls=False."
        )
    patches = pixels.reshape(n, rows, height // rows, columns, width // columns, 3).transpose(0, 1, 3, 2, 4, 5)
    token = patches.reshape(n, rows, columns, -1).astype(np.float32) / 127.5 - 1
    found = xr.Dataset({"token": (("image", "y", "x", "feature"), token)})
    # Names, original sizes and boxes say where the patches lie in the label maps.
    root = xr.Dataset(coords={"image": image_names(activations), **image_coordinates(activations)})
    return xr.DataTree.from_dict({"/": root, "pixels": found})


def shuffled(cells: np.ndarray, seed: int) -> np.ndarray:
    """Return for each image the labels (image, ...) of another: a cycle through all images in random order."""
    order = np.random.default_rng(seed).permutation(len(cells))
    mixed = np.empty_like(cells)
    mixed[order] = cells[np.roll(order, 1)]
    return mixed


@computing
def shuffle_labels(labels: xr.DataArray, *, seed: int = 0) -> xr.DataArray:
    """Give every image the labels of another, as a control: a score of labels should fall.

    Parameters
    ----------
    labels
        Integers (image, y, x), as :func:`spectral_toolkit.prepare_labels` returns them.
    seed
        The seed of the order: a cycle through all images.

    Returns
    -------
    xarray.DataArray
        The same coordinates with the labels of other images.

    Examples
    --------
    >>> labels = xr.DataArray([[[0]], [[1]]], dims=("image", "y", "x"))
    >>> shuffle_labels(labels).values.ravel().tolist()
    [1, 0]
    """
    if not isinstance(labels, xr.DataArray) or "image" not in labels.dims or labels.sizes["image"] < 2:
        raise SpectralToolkitError(
            "Labels of other images need 2 images or more: give what st.prepare_labels returned."
        )
    seed = whole("seed", seed, 0, 2**32 - 1)
    ordered = labels.transpose("image", ...)
    return ordered.copy(data=shuffled(ordered.to_numpy(), seed))


def _as_noised(denoiser: Model, attrs: Mapping[str, object], draws: Mapping[Hashable, xr.DataArray]) -> Model:
    """Set a denoiser to the timesteps, noise samples and prompt of a capture, some of which may have been selected."""
    told: dict[str, object] = {"timesteps": [int(step) for step in np.atleast_1d(draws["timestep"].values)]}
    if "noise" in draws:
        told["n_draws"] = int(draws["noise"].values.max()) + 1
    if "noise_seed" in attrs:
        told["seed"] = int(cast("int", attrs["noise_seed"]))
    prompt = untyped(denoiser).prompt
    if attrs.get("prompt", prompt) != prompt:
        told["prompt"] = attrs["prompt"]
    return untyped(denoiser).at(**told)


def untrained_tree(
    activations: xr.DataTree,
    model: object,
    seed: int,
    store: str | os.PathLike[str] | None = None,
    batch_size: int = 8,
) -> tuple[xr.DataTree | None, str]:
    """Return the same capture by the same architecture with new random weights, and a note about it.

    ``store`` and ``batch_size`` are those of ``st.capture``.
    """
    if model is None:
        return None, "The untrained model was not scored, because model= was not given."
    trained = model if isinstance(model, Model) else load_model(model)
    layers = layer_names(activations)
    missing = [layer for layer in layers if layer not in trained.layers]
    if missing:
        raise SpectralToolkitError(
            f"{trained.name} has no layer {missing[0]!r}, which the activations have: give model= the model of the "
            "activations."
        )
    try:
        fresh, kept = trained.untrained(seed)
    except UnsupportedModelError as error:
        return None, f"The untrained model was not scored. {error}"
    quantities = list(json.loads(activations.attrs["quantities"])) if "quantities" in activations.attrs else None
    if quantities is None:
        quantities = [str(name) for name in activations.children[layers[0]].data_vars if trained.has(str(name))]
    size = (activations.sizes["y_px"], activations.sizes["x_px"])
    draws = activations.children[layers[0]].coords
    if "timestep" in draws:
        fresh = _as_noised(fresh, {str(name): value for name, value in activations.attrs.items()}, draws)
    tree = capture(
        fresh,
        load_images(activations),
        layers=layers,
        quantities=quantities,
        size=size,
        seed=seed,
        progress=False,
        store=store,
        batch_size=batch_size,
    )
    # It was shown the captured pixels, but its patches lie where those of the model do in the original images.
    root = tree.to_dataset(inherit=False).assign_coords(image_coordinates(activations))
    tree = xr.DataTree(root, children=dict(tree.children))
    if "noise" in draws:
        tree = tree.sel(noise=np.atleast_1d(draws["noise"].values))
    note = f"The untrained model is {type(fresh.module).__name__} with weights drawn from seed {seed}"
    return tree, f"{note}; it keeps the fixed tables {', '.join(kept)}." if kept else f"{note}."
