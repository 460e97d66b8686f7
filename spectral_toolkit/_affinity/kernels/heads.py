"""What kernels share that work head by head."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..operators import TILE_ELEMENTS


def sum_over_slices(
    n_heads: int, of_heads: Callable[[slice], torch.Tensor], *, elements: int, device: torch.device
) -> torch.Tensor:
    """Sum tensors (images, heads, rows, n) over all heads: one at a time on a CPU, where that stays in its cache.

    On another device as many are asked for as fit, with ``elements`` numbers each.
    """
    at_once = 1 if device.type == "cpu" else max(1, TILE_ELEMENTS // elements)
    total: torch.Tensor | None = None
    for first in range(0, n_heads, at_once):
        own = of_heads(slice(first, min(first + at_once, n_heads)))
        own = own[:, 0] if own.shape[1] == 1 else own.sum(dim=1)
        total = own if total is None else total.add_(own)
    assert total is not None
    return total


def sum_over_heads(n_heads: int, of_head: Callable[[int], torch.Tensor]) -> torch.Tensor:
    """Sum one new tensor per head into the first, so that never more than two are held."""
    total = of_head(0)
    for head in range(1, n_heads):
        total.add_(of_head(head))
    return total
