"""What a final token says: the category and the position of its nearest among tokens of other images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr

from ...errors import ActivationsError
from ..scores.labels import prepare_labels

_CELLS = ("final_y", "final_x", "final_feature")
_ROWS = 4096
"""Tokens whose nearest are sought together."""


@dataclass(frozen=True)
class GivenOut:
    """What a model gave out: tokens (image, draw, y, x, feature), labels (image, y, x), logits and denoised images."""

    tokens: np.ndarray
    labels: np.ndarray | None
    logits: np.ndarray | None
    denoised: np.ndarray | None

    @property
    def grid(self) -> tuple[int, int]:
        return self.tokens.shape[2], self.tokens.shape[3]

    def of_others(self, order: np.ndarray) -> GivenOut:
        """The same, image by image of another one."""
        parts = {name: getattr(self, name) for name in ("tokens", "labels", "logits", "denoised")}
        return replace(self, **{name: None if part is None else part[order] for name, part in parts.items()})


@dataclass(frozen=True)
class Decoded:
    """By patch (image, draw, y, x): its category, -1 where it has none, and its position in patches."""

    category: np.ndarray | None
    position: np.ndarray
    circular: bool


def seen_in(tree: object, name: str, labels: object) -> GivenOut:
    """What a tree of ``st.intervene`` holds."""
    if not isinstance(tree, xr.DataTree) or "final_token" not in tree.data_vars:
        raise ActivationsError(
            f"{name} holds no 'final_token': give what st.intervene returned, without edits if need be."
        )
    tokens = tree["final_token"]
    draws = [dim for dim in tokens.dims if dim not in ("image", *_CELLS)]
    values = tokens.transpose("image", *draws, *_CELLS).to_numpy().astype(np.float32)
    values = values.reshape(len(values), -1, *values.shape[-3:])
    cells = None
    if labels is not None:
        rows, columns = values.shape[2:4]
        cells = prepare_labels(tree, labels, grid=(rows, columns)).to_numpy()
    logits, denoised = (tree[one].to_numpy() if one in tree.data_vars else None for one in ("logits", "denoised"))
    return GivenOut(values, cells, logits, denoised)


def voted(seen: GivenOut, reference: GivenOut, *, k: int, circular: bool) -> Decoded:
    """Decode every patch by its ``k`` nearest tokens of the reference images, of the same noise sample."""
    if seen.grid != reference.grid or seen.tokens.shape[1] != reference.tokens.shape[1]:
        raise ActivationsError(
            f"The reference has {reference.grid[0]} x {reference.grid[1]} final tokens and the images {seen.grid[0]} x "
            f"{seen.grid[1]}, or they were seen at other timesteps: give trees of the same model at the same size."
        )
    n_draws, cells = seen.tokens.shape[1], math.prod(seen.grid)
    position = np.empty((*seen.tokens.shape[:-1], 2))
    category = None if reference.labels is None else np.empty(seen.tokens.shape[:-1], np.int64)
    places = np.moveaxis(np.indices(seen.grid), 0, -1).reshape(cells, 2)
    for draw in range(n_draws):
        ours, theirs = (
            torch.from_numpy(one.tokens[:, draw].reshape(-1, one.tokens.shape[-1])) for one in (seen, reference)
        )
        nearest = _nearest(ours, theirs, min(k, len(theirs)))
        position[:, draw] = _mean(places[nearest % cells], seen.grid, circular).reshape(len(seen.tokens), *seen.grid, 2)
        if category is not None and reference.labels is not None:
            told = reference.labels.reshape(-1)[nearest]
            category[:, draw] = _most(told).reshape(len(seen.tokens), *seen.grid)
    return Decoded(category, position, circular)


def _nearest(ours: torch.Tensor, theirs: torch.Tensor, k: int) -> np.ndarray:
    """The numbers of the ``k`` nearest by cosine, (token, k)."""
    ours, theirs = (torch.nn.functional.normalize(one, dim=-1) for one in (ours, theirs))
    return np.concatenate([(rows @ theirs.T).topk(k, -1).indices.numpy() for rows in ours.split(_ROWS)])


def _most(labels: np.ndarray) -> np.ndarray:
    """The label that most of each row (token, k) have, the smallest of several; -1 only where there is no other."""
    known = np.unique(labels[labels >= 0])
    if not len(known):
        return np.full(len(labels), -1)
    counts = np.stack([(labels == one).sum(-1) for one in known], -1)
    return np.where(counts.any(-1), known[counts.argmax(-1)], -1)


def _mean(places: np.ndarray, grid: tuple[int, int], circular: bool) -> np.ndarray:
    """The mean of positions (token, k, 2) in patches."""
    if not circular:
        return places.mean(1)
    turn = 2 * np.pi / np.array(grid)
    angles = np.arctan2(np.sin(places * turn).mean(1), np.cos(places * turn).mean(1))
    return np.mod(angles / turn, np.array(grid))
