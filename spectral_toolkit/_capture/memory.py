"""A capture kept in memory: every array is allocated once, and every batch is copied into its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import xarray as xr

from .._io.activations import names_array
from .plan import Plan


class Sink(Protocol):
    """A place that receives a capture."""

    @property
    def waiting(self) -> Sequence[slice]:
        """Return the batches that are still to be recorded."""
        ...

    def begin(self, batch: slice, pixels: np.ndarray, hashes: Sequence[str]) -> None:
        """Start a batch; ``hashes`` are those of the images before they were resized to ``pixels``."""
        ...

    def target(self, layer: str, name: str) -> np.ndarray:
        """Return the array (image, ...) to which a layer's part of the current batch is written."""
        ...

    def describe(self, layer: str, scale: float, bias: np.ndarray | None) -> None:
        """Keep what a layer has besides its arrays; this is called once, during the first batch."""
        ...

    def commit(self) -> None:
        """End the batch: all of it has been written."""
        ...

    def tree(self) -> xr.DataTree:
        """Return the finished capture."""
        ...


class MemorySink:
    """Arrays in memory."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._batch = slice(0, 0)
        n = len(plan.pictures)
        self.waiting: Sequence[slice] = plan.batches
        self._pixels = np.empty((n, *plan.pixels.shape), plan.pixels.dtype)
        self._hashes = names_array([""] * n)
        self._arrays = {
            (layer, name): np.empty((n, *spec.shape), spec.dtype)
            for layer in plan.layers
            for name, spec in plan.arrays(layer).items()
        }
        self._about: dict[str, tuple[float, np.ndarray | None]] = {}

    def begin(self, batch: slice, pixels: np.ndarray, hashes: Sequence[str]) -> None:
        self._batch = batch
        self._pixels[batch] = pixels
        self._hashes[batch] = names_array(hashes)

    def target(self, layer: str, name: str) -> np.ndarray:
        return self._arrays[layer, name][self._batch]

    def describe(self, layer: str, scale: float, bias: np.ndarray | None) -> None:
        self._about[layer] = (scale, bias)

    def commit(self) -> None:
        return

    def tree(self) -> xr.DataTree:
        plan = self._plan
        root = plan.root({"pixels": (("image", *plan.pixels.dims), self._pixels)}, self._hashes)
        children: dict[str, xr.DataTree] = {}
        for layer in plan.layers:
            specs = plan.arrays(layer)
            data: dict[str, object] = {
                name: xr.Variable(("image", *spec.dims), self._arrays[layer, name]) for name, spec in specs.items()
            }
            scale, bias = self._about[layer]
            if bias is not None:
                data["attention_bias"] = (plan.bias(layer).dims, bias)
            children[layer] = xr.DataTree(plan.node(layer, data, scale=scale))
        return xr.DataTree(root, children=children)
