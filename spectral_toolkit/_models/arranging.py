"""Between the tensors of calls of attention and one layer's tokens: special ones first, then patches row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .probing import CallPart, Layer
from .token_maps import TokenMap


def _axes(tensor: Tensor, part: CallPart, n: int) -> tuple[list[int], list[int], int]:
    """How axes split and are permuted to (image, head..., window..., token, channel), and the number of head axes."""
    axes = part.axes
    first = tensor.shape[0] // n
    split = [n, first // axes.folded, axes.folded, *tensor.shape[1:]]
    heads = [2, *(axis + 2 for axis in axes.heads)]
    rest = [axis for axis in range(1, len(split) - 2) if axis not in heads]
    return split, [0, *heads, *rest, len(split) - 2, len(split) - 1], len(heads)


def by_image(tensor: Tensor, part: CallPart, n: int) -> Tensor:
    """``(..., token, channel)`` as (image, head, window, token, channel)."""
    split, order, n_heads = _axes(tensor, part, n)
    heads = math.prod(split[axis] for axis in order[1 : 1 + n_heads])
    return tensor.reshape(split).permute(order).reshape(n, heads, -1, *tensor.shape[-2:])


def _as_called(tokens: Tensor, like: Tensor, part: CallPart, n: int) -> Tensor:
    """The opposite of `by_image`, for a call whose tensor was ``like``."""
    split, order, _ = _axes(like, part, n)
    back = [order.index(axis) for axis in range(len(order))]
    return tokens.reshape([split[axis] for axis in order]).permute(back).reshape(like.shape)


def arranged(tensors: Sequence[Tensor], layer: Layer, quantity: str, n: int) -> Tensor:
    """One quantity of all calls of a layer as (image, head, token, channel): special tokens, then patches by rows."""
    found = layer.maps[quantity]
    tokens = _joined(tensors, layer, quantity, n)
    if found.in_order and tokens.shape[2] == len(found.special) + len(found.order):
        return tokens
    return tokens[:, :, torch.as_tensor(places_of(found), device=tokens.device)]


def put_back(edited: Tensor, tensors: Sequence[Tensor], layer: Layer, quantity: str, n: int) -> list[Tensor]:
    """The opposite of `arranged`: what the calls are given in place of ``tensors``; tokens of no place stay."""
    places = torch.as_tensor(places_of(layer.maps[quantity]), device=edited.device)
    tokens = _joined(tensors, layer, quantity, n).index_copy(2, places, edited.to(tensors[0]))
    parts = layer.parts[quantity]
    lengths = [one.numel() * tokens.shape[2] // sum(t.numel() for t in tensors) for one in tensors]
    pieces = tokens.split(lengths, 2)
    return [_as_called(*one, n) for one in zip(pieces, tensors, parts, strict=True)]


def _joined(tensors: Sequence[Tensor], layer: Layer, quantity: str, n: int) -> Tensor:
    flat = [by_image(one, part, n).flatten(2, 3) for one, part in zip(tensors, layer.parts[quantity], strict=True)]
    return flat[0] if len(flat) == 1 else torch.cat(flat, 2)


def places_of(found: TokenMap) -> np.ndarray:
    return np.concatenate([found.special, found.order])
