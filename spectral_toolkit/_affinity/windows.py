"""Layers whose attention is inside windows: every window is a small graph of its own, and no whole matrix is formed.

The windows of all images are handed to a kernel as if they were images, so every kernel works unchanged; the matrices
that it gives are the blocks of one block-diagonal affinity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import ActivationsError
from .features import LayerFeatures
from .operators import DenseOperator, Rows
from .resampling import shares


@dataclass(frozen=True)
class WindowPlaces:
    """Which patches each window holds.

    ``cells`` (window, slot) are numbers of patches, row by row, padded with 0 where ``held`` is False; ``places`` are
    their places among all tokens of the window. ``special`` and ``keys`` have the same of special tokens and of keys,
    which may have a grid of their own.
    """

    cells: Int[Tensor, "windows slots"]
    held: Bool[Tensor, "windows slots"]
    places: Int[Tensor, "windows slots"]
    special: Int[Tensor, "windows specials"]
    special_held: Bool[Tensor, "windows specials"]
    special_places: Int[Tensor, "windows specials"]
    keys: Int[Tensor, "windows keys"]
    keys_held: Bool[Tensor, "windows keys"]
    key_places: Int[Tensor, "windows keys"]


def window_length(node: xr.DataTree) -> int | None:
    """Patches in the largest window of a layer; None where attention is not inside windows."""
    if "window" not in node.data_vars:
        return None
    return int(np.bincount(_numbers(node, "window").ravel()).max())


def window_places(node: xr.DataTree, device: torch.device) -> WindowPlaces:
    """Read which patches are in which window."""
    window = _numbers(node, "window").ravel()
    place = _numbers(node, "window_place").ravel() if "window_place" in node.data_vars else np.arange(len(window))
    count = int(window.max()) + 1
    special = _numbers(node, "special_window").ravel() if "special_window" in node.data_vars else np.zeros(0, int)
    special_place = _numbers(node, "special_place").ravel() if "special_place" in node.data_vars else special
    pairs = [(window, place), (special, special_place), (window, place)]
    if "key_window" in node.data_vars:
        pairs[2] = (_numbers(node, "key_window").ravel(), _numbers(node, "key_place").ravel())
    tables = (_table(one, at, count) for one, at in pairs)
    return WindowPlaces(*(torch.as_tensor(one, device=device) for table in tables for one in table))


def _numbers(node: xr.DataTree, name: str) -> np.ndarray:
    values = np.asarray(node.dataset[name].values)
    if not np.issubdtype(values.dtype, np.integer) or (values.size and values.min() < 0):
        raise ActivationsError(f"{name!r} of layer {node.name!r} must hold whole numbers from 0: capture it again.")
    return values.astype(np.int64)


def _table(window: np.ndarray, place: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Members of each window (window, slot) in the order of their places, which slots are held, and those places."""
    order = np.lexsort((place, window))
    sizes = np.bincount(window, minlength=count)
    slot = np.arange(len(window)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    members, held, places = (np.zeros((count, int(sizes.max(initial=0))), kind) for kind in (np.int64, bool, np.int64))
    members[window[order], slot], held[window[order], slot], places[window[order], slot] = order, True, place[order]
    return members, held, places


def by_window(features: LayerFeatures, windows: WindowPlaces) -> LayerFeatures:
    """The same vectors with a window in the place of an image: (images x windows, heads, slots, channels).

    What is not held is zero, and hidden from a softmax by the bias.
    """

    def gathered(values: Tensor, members: Tensor, held: Tensor) -> Tensor:
        images, heads, _, channels = values.shape
        picked = values[:, :, members.flatten()].reshape(images, heads, *members.shape, channels)
        picked = picked * held[:, :, None].to(values.dtype)
        return picked.transpose(1, 2).flatten(0, 1)

    left = gathered(features.left, windows.cells, windows.held)
    right = left if features.is_symmetric else gathered(features.right, windows.keys, windows.keys_held)
    special = features.special_right
    if special is not None and windows.special.shape[1]:
        special = gathered(special, windows.special, windows.special_held)
    else:
        special = None
    bias = None
    if features.scale is not None:
        bias = _bias(features, windows, n_special=0 if special is None else special.shape[2])
    spread = None
    if features.key_grid is not None:
        whole = shares(features.key_grid, features.grid).to(left)
        inside = whole[windows.keys[:, :, None], windows.cells[:, None, :]] * windows.held[:, None, :].to(left)
        inside = inside / inside.sum(2, keepdim=True).clamp_min(torch.finfo(left.dtype).tiny)
        spread = inside.repeat(len(features.left), 1, 1)
    return replace(features, left=left, right=right, special_right=special, bias=bias, key_grid=None, spread=spread)


def _bias(features: LayerFeatures, windows: WindowPlaces, n_special: int) -> Tensor | None:
    """The bias of each window (images x windows, heads, slots, special + keys)."""
    held = torch.cat([windows.special_held[:, :n_special], windows.keys_held], dim=1)
    if features.bias is None and bool(held.all()):
        return None
    hidden = torch.zeros(held.shape, dtype=features.left.dtype, device=held.device)
    hidden = hidden.masked_fill(~held, torch.finfo(hidden.dtype).min)[None, :, None, None, :]
    if features.bias is None:
        bias = hidden.expand(1, -1, 1, windows.held.shape[1], -1)
    else:
        places = torch.cat([windows.special_places[:, :n_special], windows.key_places], dim=1)
        index = torch.arange(len(places), device=places.device)[:, None, None]
        picked = features.bias[:, :, index, windows.places[:, :, None], places[:, None, :]].transpose(1, 2)
        bias = (picked + hidden).clamp_min(torch.finfo(hidden.dtype).min)
    n_images = len(features.left)
    return bias.expand(n_images, *bias.shape[1:]).flatten(0, 1)


def whole_matrix(
    blocks: Float[Tensor, "images_windows slots slots"], windows: WindowPlaces, n: int
) -> Float[Tensor, "images n n"]:
    """The matrix whose blocks are given; zero between windows."""
    inside = blocks.unflatten(0, (-1, len(windows.cells)))
    matrix = inside.new_zeros(len(inside), n, n)
    held = windows.held[:, :, None] & windows.held[:, None, :]
    rows = windows.cells[:, :, None].expand(held.shape)[held]
    columns = windows.cells[:, None, :].expand(held.shape)[held]
    matrix[:, rows, columns] = inside[:, held]
    return matrix


def rows_of_windows(
    prepare: Callable[..., Rows], features: LayerFeatures, windows: WindowPlaces, options: Mapping[str, object]
) -> Rows:
    """Rows of a kernel over the whole grid, as `prepare` gives them where attention is not inside windows."""
    blocks = prepare(by_window(features, windows), **options)(0, windows.cells.shape[1])
    whole = whole_matrix(blocks, windows, features.n)
    return lambda start, stop: whole[:, start:stop]


class BlockOperator:
    """W that is zero between windows: one matrix for each."""

    def __init__(self, blocks: Float[Tensor, "images windows slots slots"], windows: WindowPlaces, n: int) -> None:
        self.blocks, self.windows, self.n = blocks, windows, n
        self.n_bytes = blocks.numel() * blocks.element_size()
        self._cells = windows.cells[windows.held]
        self.degree = self._scattered(blocks.sum(-1)[:, None])[:, 0].clamp_min(0.0)

    @classmethod
    def from_dense(cls, made: DenseOperator, windows: WindowPlaces, n: int, images: int) -> BlockOperator:
        """Take the matrices of all windows, zero where no patch is held; they follow each other image by image."""
        return cls(made.settle().matrix.unflatten(0, (images, -1)), windows, n)

    def matmul(self, x: Float[Tensor, "images k n"], *, exact: bool = True) -> Float[Tensor, "images k n"]:
        blocks = self.blocks.to(x.dtype) if exact else self.blocks
        inside = x.to(blocks.dtype)[:, :, self.windows.cells].transpose(1, 2)  # (images, windows, k, slots)
        return self._scattered((inside @ blocks).transpose(1, 2)).to(x.dtype)

    def _scattered(self, values: Float[Tensor, "images k windows slots"]) -> Float[Tensor, "images k n"]:
        out = values.new_zeros(*values.shape[:2], self.n)
        out[:, :, self._cells] = values[:, :, self.windows.held]
        return out

    def dense(self) -> Float[Tensor, "images n n"]:
        return DenseOperator(whole_matrix(self.blocks.flatten(0, 1), self.windows, self.n)).dense()
